//! JSON Web Key Sets (RFC 7517): public keys as those who sign tokens publish them.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    key::{TokenKey, Verify},
    public_key::PublicKey,
};
use crate::{config::TokenAlgorithm, limits::JWKS_KEYS};

/// Characters of a name out of the set that a text shows.
const SHOWN: usize = 64;

/// The keys of a set that verify tokens.
#[derive(Debug)]
pub struct KeySet {
    pub(super) keys: Vec<TokenKey>,
    skipped: Vec<String>,
}

/// What was fetched is not a set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JSON object with a list of keys.
    #[error("not a JSON Web Key Set: {0}")]
    Form(String),
    /// More keys than anyone rotates through.
    #[error("a set of {0} keys is over {JWKS_KEYS}")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// One key with the members that matter here; others are passed over, as RFC 7517 asks.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. A key decides by its own type which algorithm it is for: RSA for RS256, P-256 for ES256, Ed25519
    /// for `EdDSA`. Whatever else is in the set is skipped, shared secrets above all: anyone who can read a public
    /// set knows them.
    ///
    /// # Errors
    /// When it is not a set, or too large a one.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set: Set<'_> =
            serde_json::from_slice(text).map_err(|error| KeySetError::Form(error.to_string()))?;
        if set.keys.len() > JWKS_KEYS {
            return Err(KeySetError::TooMany(set.keys.len()));
        }

        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (n, raw) in set.keys.iter().enumerate() {
            match serde_json::from_str::<Jwk>(raw.get()) {
                Ok(jwk) => match read(&jwk) {
                    Ok(key) => keys.push(key),
                    Err(why) => skipped.push(format!("{}: {why}", name(n, jwk.kid.as_deref()))),
                },
                Err(_) => skipped.push(format!("{}: is not a key", name(n, None))),
            }
        }

        Ok(Self { keys, skipped })
    }

    /// Keys that verify tokens.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token can be verified with it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What was skipped, and why; fit for a log.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

fn name(n: usize, kid: Option<&str>) -> String {
    kid.map_or_else(|| format!("key {n}"), |kid| format!("key {}", shown(kid)))
}

/// Someone else's text in quotes, cut, and without anything that a terminal would obey.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN).collect::<String>())
}

fn read(jwk: &Jwk) -> Result<TokenKey, String> {
    // A key that names its use must not be used for anything else (RFC 7517, sections 4.2 and 4.3).
    if let Some(usage) = jwk.usage.as_deref().filter(|usage| *usage != "sig") {
        return Err(format!("is for {}, not for signatures", shown(usage)));
    }

    if jwk
        .key_ops
        .as_ref()
        .is_some_and(|operations| operations.iter().all(|one| one != "verify"))
    {
        return Err("its \"key_ops\" lack \"verify\"".to_owned());
    }

    let (alg, public) = match (&*jwk.kty, jwk.crv.as_deref()) {
        ("RSA", _) => (TokenAlgorithm::RS256, rsa(jwk)),
        ("EC", Some("P-256")) => (TokenAlgorithm::ES256, p256(jwk)),
        ("OKP", Some("Ed25519")) => (TokenAlgorithm::EdDSA, ed25519(jwk)),
        ("oct", _) => return Err("is a shared secret, which a public set cannot keep".to_owned()),
        (kty, None) => return Err(format!("its type {} is not known", shown(kty))),
        (kty, Some(crv)) => {
            return Err(format!(
                "its type {} {} is not known",
                shown(kty),
                shown(crv)
            ));
        }
    };

    // One key is for one algorithm (RFC 8725, section 3.1): a key for PS256 must not verify RS256.
    if let Some(other) = jwk.alg.as_deref().filter(|other| *other != alg.name()) {
        return Err(format!(
            "is for the algorithm {}, and only {} is known for its type",
            shown(other),
            alg.name()
        ));
    }

    let public = public.ok_or_else(|| format!("is not a key for {}", alg.name()))?;
    Ok(TokenKey {
        kid: jwk.kid.as_deref().map(Into::into),
        alg,
        verify: Verify::Public(public),
    })
}

fn rsa(jwk: &Jwk) -> Option<PublicKey> {
    PublicKey::rsa(&bytes(jwk.n.as_deref())?, &bytes(jwk.e.as_deref())?)
}

fn p256(jwk: &Jwk) -> Option<PublicKey> {
    PublicKey::p256(&bytes(jwk.x.as_deref())?, &bytes(jwk.y.as_deref())?)
}

fn ed25519(jwk: &Jwk) -> Option<PublicKey> {
    PublicKey::ed25519(&bytes(jwk.x.as_deref())?)
}

fn bytes(member: Option<&str>) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(member?.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
