//! Keys that verify client tokens, each made ready for its one algorithm.

use aws_lc_rs::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
        VerificationAlgorithm,
    },
};
use jsonwebtoken::DecodingKey;

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
    #[error("the public key{kid} is no PEM of {needs}, which {alg} needs", kid = named(kid.as_deref()))]
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
pub(super) struct Key {
    pub(super) kid: Option<Box<str>>,
    pub(super) alg: TokenAlgorithm,
    pub(super) verify: Verify,
}

/// A key made ready, so that a token costs its hash or its curve operation and nothing else.
#[derive(Debug)]
pub(super) enum Verify {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Key {
    pub(super) fn new(config: &TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let verify = match &config.key {
            KeyMaterial::Secret(secret) if config.alg == TokenAlgorithm::HS256 => {
                let secret = secret.expose().as_bytes();
                if secret.len() < limits::TOKEN_SECRET_BYTES {
                    return Err(TokenKeyError::Short(secret.len()));
                }
                Verify::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
            }
            KeyMaterial::Public(pem) => Verify::Public(public_key(config, pem.as_bytes())?),
            KeyMaterial::Secret(_) | KeyMaterial::PublicFile(_) => {
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
            Verify::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Verify::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

fn public_key(config: &TokenKeyConfig, pem: &[u8]) -> Result<ParsedPublicKey, TokenKeyError> {
    let (key, algorithm): (_, &'static dyn VerificationAlgorithm) = match config.alg {
        TokenAlgorithm::RS256 => (DecodingKey::from_rsa_pem(pem), &RSA_PKCS1_2048_8192_SHA256),
        TokenAlgorithm::ES256 => (DecodingKey::from_ec_pem(pem), &ECDSA_P256_SHA256_FIXED),
        TokenAlgorithm::EdDSA => (DecodingKey::from_ed_pem(pem), &ED25519),
        TokenAlgorithm::HS256 => return Err(no_public_key(config)),
    };
    let key = key.map_err(|_| no_public_key(config))?;
    let bytes = key.try_get_as_bytes().map_err(|_| no_public_key(config))?;
    ParsedPublicKey::new(algorithm, bytes).map_err(|_| no_public_key(config))
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
