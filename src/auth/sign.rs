//! Signing client tokens for functions that hold no secret themselves: `POST /v1/tokens`.

use std::{borrow::Cow, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use serde_json::{json, value::RawValue};

use super::{Rights, RightsError, claims::Members, token};
use crate::{
    config::AppConfig,
    filter::{JsonError, Value},
    limits::{self, Limits},
};

/// Claims that the signer sets itself, or that decide whether the token is good.
const RESERVED: [&str; 7] = ["sub", "exp", "iat", "nbf", "iss", "aud", "can"];

/// Signs client tokens with a shared secret (HS256).
#[derive(Debug)]
pub struct TokenSigner {
    header: String,
    key: hmac::Key,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    claims_bytes: usize,
    longest: Duration,
}

/// A token and when it ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The token. Anyone who holds it is the user.
    pub token: String,
    /// Its `exp`, in seconds since 1970.
    pub expires_at: u64,
    /// Its life in seconds: as asked for, or the longest that is allowed.
    pub ttl: u64,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed")
            .field("token", &"…")
            .field("expires_at", &self.expires_at)
            .field("ttl", &self.ttl)
            .finish()
    }
}

/// Why no token is signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The user's name is empty or too long.
    #[error("\"user\" must be a string of 1 to 256 bytes")]
    User,
    /// `claims` is not an object, or has a name twice.
    #[error("\"claims\" must be an object that has no name twice")]
    Claims,
    /// A claim that only the signer may set; says which.
    #[error("\"claims\" must not hold \"{0}\": {place}", place = belongs(.0))]
    Reserved(&'static str),
    /// `can` is not an object of rights.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The token would be refused when presented.
    #[error("the claims are {0} bytes together, over {1}")]
    TooBig(usize, usize),
    /// Claims that no filter could see; says why.
    #[error("\"claims\": {0}")]
    Value(#[from] JsonError),
    /// A life of no seconds.
    #[error("\"ttl\" must be at least 1 second")]
    Ttl,
}

/// Where a claim that is not one of `claims` comes from.
fn belongs(claim: &str) -> &'static str {
    match claim {
        "can" => {
            "rights are a field of their own; write {\"user\": …, \"claims\": {…}, \"can\": {…}}"
        }
        "sub" => "the user is the field \"user\"",
        "exp" => "the field \"ttl\" says how long the token is good, in seconds",
        "iss" | "aud" => "the server sets it from the app's configuration",
        _ => "the server sets it",
    }
}

impl TokenSigner {
    pub(super) fn new(kid: Option<&str>, key: hmac::Key, app: &AppConfig, limits: &Limits) -> Self {
        let header = match kid {
            Some(kid) => json!({"alg": "HS256", "typ": "JWT", "kid": kid}),
            None => json!({"alg": "HS256", "typ": "JWT"}),
        };
        Self {
            header: BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
            key,
            issuer: app.issuer.as_deref().map(Into::into),
            audience: app.audience.as_deref().map(Into::into),
            claims_bytes: limits.claims_bytes,
            longest: limits.token_ttl,
        }
    }

    /// Signs a token for `user` at `now` (seconds since 1970), with further `claims` and the rights `can`, as
    /// they came.
    ///
    /// It lives for `ttl`, one hour if not given, and at most `limits.token_ttl`.
    ///
    /// # Errors
    /// When the token would be refused, or when `claims` would override what the server sets.
    pub fn sign(
        &self,
        user: &str,
        claims: Option<&RawValue>,
        can: Option<&RawValue>,
        ttl: Option<Duration>,
        now: u64,
    ) -> Result<Signed, SignError> {
        // The check of those who present a token, so that none is signed that would be refused.
        token::user(Some(Cow::Borrowed(user))).map_err(|_| SignError::User)?;
        let seconds = ttl
            .unwrap_or(limits::TOKEN_TTL_DEFAULT)
            .min(self.longest)
            .as_secs();
        if seconds == 0 {
            return Err(SignError::Ttl);
        }

        let expires_at = now.saturating_add(seconds);
        // This is written by hand: `claims` and `can` go in as they came, and a JSON value would
        // not keep that.
        let mut own = format!(r#"{{"sub":{},"iat":{now},"exp":{expires_at}"#, json!(user));
        for (name, value) in [(r#","iss":"#, &self.issuer), (r#","aud":"#, &self.audience)] {
            if let Some(value) = value {
                own.push_str(name);
                own.push_str(&json!(value).to_string());
            }
        }

        let payload = payload(own, claims, can, self.claims_bytes)?;
        let message = format!(
            "{}.{}",
            self.header,
            BASE64URL_NOPAD.encode(payload.as_bytes())
        );

        let signature = BASE64URL_NOPAD.encode(hmac::sign(&self.key, message.as_bytes()).as_ref());
        Ok(Signed {
            token: format!("{message}.{signature}"),
            expires_at,
            ttl: seconds,
        })
    }
}

/// The claims of `user` as a token that is issued at `now` would bring them, with further `claims` and the rights `can`,
/// as they came: a JSON object of at most `most` bytes.
///
/// # Errors
/// As [`TokenSigner::sign`], except for the token's life.
pub(crate) fn claims_of(
    user: &str,
    claims: Option<&RawValue>,
    can: Option<&RawValue>,
    now: u64,
    most: usize,
) -> Result<String, SignError> {
    token::user(Some(Cow::Borrowed(user))).map_err(|_| SignError::User)?;
    let own = format!(r#"{{"sub":{},"iat":{now}"#, json!(user));
    payload(own, claims, can, most)
}

/// Completes an object that is `open`: it has the claims that are the server's own, and is yet to be closed.
fn payload(
    open: String,
    claims: Option<&RawValue>,
    can: Option<&RawValue>,
    most: usize,
) -> Result<String, SignError> {
    let mut payload = open;
    if let Some(can) = can {
        Rights::parse(can.get())?;
        payload.push_str(r#","can":"#);
        payload.push_str(can.get());
    }

    let further = claims.map(members).transpose()?;
    if let Some(members) = further.filter(|members| !members.is_empty()) {
        // They go in as text, so that numbers and escapes stay as they came.
        payload.push(',');
        payload.push_str(members);
    }

    payload.push('}');
    if payload.len() > most {
        return Err(SignError::TooBig(payload.len(), most));
    }

    // A token whose claims do not become values would be refused when a client presents it.
    let memory = limits::json_memory(most);
    Value::from_json_within(memory, &mut payload.clone().into_bytes(), None)?;
    Ok(payload)
}

/// The text between the braces of `claims`, once it is known to be harmless.
fn members(claims: &RawValue) -> Result<&str, SignError> {
    let members = Members::parse(claims.get()).map_err(|_| SignError::Claims)?;
    // These names have no escapes any longer, so `"\u0073ub"` is found as well.
    for name in members.names() {
        if let Some(reserved) = RESERVED.iter().find(|reserved| **reserved == name) {
            return Err(SignError::Reserved(reserved));
        }
    }
    let inner = claims
        .get()
        .trim()
        .strip_prefix('{')
        .and_then(|inner| inner.strip_suffix('}'));
    inner.map(str::trim).ok_or(SignError::Claims)
}
