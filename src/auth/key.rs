//! Keys that verify client tokens, each made ready for its one algorithm.

use ring::hmac;

use super::public_key::PublicKey;
use crate::{
    config::{KeyMaterial, TokenAlgorithm, TokenKeyConfig},
    limits,
};

/// A configured key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// A secret that could be guessed from one token.
    #[error(
        "the token secret has {0} bytes, and HS256 needs at least {min} (make one with: openssl rand -hex 32)",
        min = limits::TOKEN_SECRET_BYTES
    )]
    Short(usize),
    /// Not the public key that the algorithm needs.
    #[error("the public key{kid} is not a PEM of {needs}, which {alg} needs", kid = named(kid.as_deref()))]
    PublicKey {
        /// The key's id, if it has one.
        kid: Option<String>,
        /// The algorithm.
        alg: &'static str,
        /// The kind of key.
        needs: &'static str,
    },
    /// The system has no randomness to give.
    #[error("cannot make a random secret")]
    Random,
}

fn named(kid: Option<&str>) -> String {
    kid.map_or_else(String::new, |kid| format!(" \"{kid}\""))
}

#[derive(Debug)]
pub(super) struct TokenKey {
    pub(super) kid: Option<Box<str>>,
    pub(super) alg: TokenAlgorithm,
    pub(super) verify: Verify,
}

/// A key made ready, so that a token costs its hash or its curve operation and nothing else.
#[derive(Debug)]
pub(super) enum Verify {
    Secret(Box<hmac::Key>),
    Public(PublicKey),
}

impl TokenKey {
    pub(super) fn new(config: &TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let verify = match &config.key {
            KeyMaterial::Secret(secret) if config.alg == TokenAlgorithm::HS256 => {
                let secret = secret.expose().as_bytes();
                if secret.len() < limits::TOKEN_SECRET_BYTES {
                    return Err(TokenKeyError::Short(secret.len()));
                }
                Verify::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
            }
            KeyMaterial::Public(pem) => {
                let key = PublicKey::from_pem(config.alg, pem);
                Verify::Public(key.ok_or_else(|| no_public_key(config))?)
            }
            KeyMaterial::Secret(_) | KeyMaterial::SecretFile(_) | KeyMaterial::PublicFile(_) => {
                return Err(no_public_key(config));
            }
        };

        Ok(Self {
            kid: config.kid.as_deref().map(Into::into),
            alg: config.alg,
            verify,
        })
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verify {
            // The comparison takes constant time, so that the time says nothing about a forged
            // signature.
            Verify::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Verify::Public(key) => key.verifies(message, signature),
        }
    }
}

fn no_public_key(config: &TokenKeyConfig) -> TokenKeyError {
    let needs = match config.alg {
        TokenAlgorithm::HS256 => "a shared secret",
        TokenAlgorithm::RS256 => "an RSA public key of 2,048 to 8,192 bits",
        TokenAlgorithm::ES256 => "a P-256 public key",
        TokenAlgorithm::EdDSA => "an Ed25519 public key",
    };
    TokenKeyError::PublicKey {
        kid: config.kid.clone(),
        alg: config.alg.name(),
        needs,
    }
}
