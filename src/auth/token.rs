//! Client tokens: JSON Web Tokens (RFC 7519), verified by keys that each know their one algorithm.
//!
//! A token never chooses how it is verified: its `alg` only selects among the configured keys, so `none` selects nothing, and a
//! public key is never taken for a shared secret.

use std::{borrow::Cow, sync::Arc};

use aws_lc_rs::{
    hmac, rand,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
    },
};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Rights, RightsError, claims::Members, sign::TokenSigner};
use crate::{
    config::{AppConfig, KeyMaterial, TokenAlgorithm, TokenKeyConfig},
    limits::{self, Limits},
};

/// Longest header and signature of a token together, in base64: RSA with 8,192 bits and a long `kid` fit.
const ENVELOPE_BYTES: usize = 4096;

/// The token keys of one app: verifies what clients present, and signs where it has a shared secret.
#[derive(Debug)]
pub struct Tokens {
    keys: Vec<Key>,
    signer: Option<TokenSigner>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    claims_bytes: usize,
}

/// What a good token says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The user: `sub`.
    pub user: Arc<str>,
    /// The token's payload as it was signed: a JSON object, valid UTF-8, no name twice at its top.
    pub claims: Box<[u8]>,
    /// `exp` in seconds since 1970; the connection ends then.
    pub expires_at: Option<u64>,
    /// The rights of `can`; `None` if the token has no `can`.
    pub rights: Option<Arc<Rights>>,
}

/// Why a token is refused. The texts hold nothing of the token, so they may be logged and sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64, or not JSON objects in them.
    #[error("not a JSON Web Token")]
    Malformed,
    /// Over `limits.claims_bytes`.
    #[error("the token's claims are over {0} bytes")]
    TooBig(usize),
    /// No key for this algorithm, `none` included.
    #[error("no key for the token's algorithm")]
    Algorithm,
    /// No key of this `kid`.
    #[error("no key of the token's \"kid\"")]
    UnknownKey,
    /// The header asks for an extension (RFC 7515, section 4.1.11).
    #[error("the token's header has \"crit\", which is not supported")]
    Critical,
    /// Signed by another key, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `iss` is not the configured one.
    #[error("the token's issuer is not the configured one")]
    Issuer,
    /// `aud` does not hold the configured one.
    #[error("the token is for another audience")]
    Audience,
    /// A claim of the wrong type, or missing; says which.
    #[error("the token's \"{0}\" must be {1}")]
    Claim(&'static str, &'static str),
    /// `can` is no object of rights.
    #[error("the token's {0}")]
    Rights(#[from] RightsError),
}

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
struct Key {
    kid: Option<Box<str>>,
    alg: TokenAlgorithm,
    verify: Verify,
}

/// A key made ready, so that a token costs its hash or its curve operation and nothing else.
#[derive(Debug)]
enum Verify {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    crit: Option<serde::de::IgnoredAny>,
}

impl Tokens {
    /// The keys of one app.
    ///
    /// # Errors
    /// A secret that is too short, or a public key that is none for its algorithm.
    pub fn new(app: &AppConfig, limits: &Limits) -> Result<Self, TokenKeyError> {
        let keys = app.tokens.iter().map(Key::new).collect::<Result<Vec<_>, _>>()?;
        let signer = app.tokens.iter().zip(&keys).find_map(|(config, key)| match &key.verify {
            Verify::Secret(secret) => {
                Some(TokenSigner::new(config.kid.as_deref(), (**secret).clone(), app, limits))
            }
            Verify::Public(_) => None,
        });
        Ok(Self {
            keys,
            signer,
            issuer: app.issuer.as_deref().map(Into::into),
            audience: app.audience.as_deref().map(Into::into),
            claims_bytes: limits.claims_bytes,
        })
    }

    /// A secret made up for this run, for development on loopback: its tokens are worth nothing after a restart.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn ephemeral(app: &AppConfig, limits: &Limits) -> Result<Self, TokenKeyError> {
        let mut secret = [0; limits::TOKEN_SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| TokenKeyError::Random)?;
        let secret = data_encoding::HEXLOWER.encode(&secret);
        let key =
            TokenKeyConfig { kid: None, alg: TokenAlgorithm::HS256, key: KeyMaterial::Secret(secret.into()) };
        Self::new(&AppConfig { tokens: vec![key], ..app.clone() }, limits)
    }

    /// Whether there is no key, and so no token can be good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What signs for `POST /v1/tokens`: the first shared secret, if there is one.
    pub fn signer(&self) -> Option<&TokenSigner> {
        self.signer.as_ref()
    }

    /// Verifies a token at `now` (seconds since 1970): first its size, then its signature, and only then
    /// anything of its payload.
    ///
    /// With a `kid` the token must be signed by the key of that id, or by a key without one; without, by any key of
    /// its algorithm. `exp` and `nbf` are optional and honoured, with [`limits::TOKEN_LEEWAY`]; so
    /// are `iss` and `aud` where configured. For HS256 this costs about 1 µs.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now: u64) -> Result<Verified, TokenError> {
        if token.len() > self.claims_bytes.saturating_mul(4) / 3 + ENVELOPE_BYTES {
            return Err(TokenError::TooBig(self.claims_bytes));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let message = &token[..=header.len() + payload.len()];
        self.check_signature(&decode(header)?, message.as_bytes(), &decode(signature)?)?;
        let payload = decode(payload)?;
        if payload.len() > self.claims_bytes {
            return Err(TokenError::TooBig(self.claims_bytes));
        }
        self.read(payload, now)
    }

    fn check_signature(&self, header: &[u8], message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        // serde would read a struct from an array too.
        if header.first() != Some(&b'{') {
            return Err(TokenError::Malformed);
        }
        let header: Header<'_> = serde_json::from_slice(header).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let mut fitting = self.keys.iter().filter(|key| key.alg.name() == header.alg).peekable();
        fitting.peek().ok_or(TokenError::Algorithm)?;
        let kid = header.kid.as_deref();
        let named = kid.is_some_and(|kid| self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)));
        let mut tried = false;
        for key in fitting {
            let chosen = match kid {
                None => true,
                Some(kid) if named => key.kid.as_deref() == Some(kid),
                Some(_) => key.kid.is_none(),
            };
            tried |= chosen;
            if chosen && key.verifies(message, signature) {
                return Ok(());
            }
        }
        Err(if tried { TokenError::Signature } else { TokenError::UnknownKey })
    }

    fn read(&self, payload: Vec<u8>, now: u64) -> Result<Verified, TokenError> {
        let text = str::from_utf8(&payload).map_err(|_| TokenError::Malformed)?;
        let claims = Members::parse(text).map_err(|_| TokenError::Malformed)?;
        let leeway = limits::TOKEN_LEEWAY.as_secs();
        let expires_at = claims.get("exp").map(|exp| seconds("exp", exp)).transpose()?;
        if expires_at.is_some_and(|exp| exp.saturating_add(leeway) <= now) {
            return Err(TokenError::Expired);
        }
        let not_before = claims.get("nbf").map(|nbf| seconds("nbf", nbf)).transpose()?;
        if not_before.is_some_and(|nbf| nbf > now.saturating_add(leeway)) {
            return Err(TokenError::NotYet);
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(string).as_deref() != Some(issuer)
        {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience
            && !claims.get("aud").is_some_and(|aud| is_for(aud, audience))
        {
            return Err(TokenError::Audience);
        }
        let user = user(claims.get("sub").and_then(string))?;
        let rights = claims.get("can").map(|can| Rights::parse(can.get()).map(Arc::new)).transpose()?;
        Ok(Verified { user, expires_at, rights, claims: payload.into() })
    }
}

impl Key {
    fn new(config: &TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let verify = match &config.key {
            KeyMaterial::Secret(secret) if config.alg == TokenAlgorithm::HS256 => {
                let secret = secret.expose().as_bytes();
                if secret.len() < limits::TOKEN_SECRET_BYTES {
                    return Err(TokenKeyError::Short(secret.len()));
                }
                Verify::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
            }
            KeyMaterial::Public(pem) => Verify::Public(public_key(config, pem.as_bytes())?),
            KeyMaterial::Secret(_) | KeyMaterial::PublicFile(_) => return Err(no_public_key(config)),
        };
        Ok(Self { kid: config.kid.as_deref().map(Into::into), alg: config.alg, verify })
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
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
    TokenKeyError::PublicKey { kid: config.kid.clone(), alg: config.alg.name(), needs }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed)
}

fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok()
}

/// A `NumericDate` (RFC 7519, section 2), which may have a fraction.
fn seconds(claim: &'static str, value: &RawValue) -> Result<u64, TokenError> {
    let seconds: f64 =
        serde_json::from_str(value.get()).map_err(|_| TokenError::Claim(claim, "a number of seconds"))?;
    if seconds < 0.0 { Err(TokenError::Claim(claim, "a number of seconds")) } else { Ok(seconds as u64) }
}

fn is_for(aud: &RawValue, audience: &str) -> bool {
    let several: Option<Vec<Cow<'_, str>>> = serde_json::from_str(aud.get()).ok();
    several.is_some_and(|several| several.iter().any(|one| one == audience))
        || string(aud).as_deref() == Some(audience)
}

/// A name that `sub` may give.
pub(super) fn user(sub: Option<Cow<'_, str>>) -> Result<Arc<str>, TokenError> {
    match sub {
        Some(sub) if (1..=limits::USER_BYTES).contains(&sub.len()) => Ok(sub.into()),
        _ => Err(TokenError::Claim("sub", "a string of 1 to 256 bytes")),
    }
}

#[cfg(test)]
mod tests;
