//! Client tokens: JSON Web Tokens (RFC 7519), verified by keys that each know their one algorithm.
//!
//! A token never chooses how it is verified: its `alg` only selects among the configured keys, so `none` selects nothing, and a
//! public key is never taken for a shared secret.

use std::{borrow::Cow, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::{
    Rights, RightsError,
    claims::Members,
    key::{TokenKey, TokenKeyError, Verify},
    key_source::KeySource,
    sign::TokenSigner,
};
use crate::{
    config::{AppConfig, KeyMaterial, Secret, TokenAlgorithm, TokenKeyConfig},
    limits::{self, Limits, TOKEN_TRIES},
};

/// Longest header and signature of a token together, in base64: RSA with 8,192 bits and a long `kid` fit.
const ENVELOPE_BYTES: usize = 4096;

/// The token keys of one app: verifies what clients present, and signs where it has a shared secret.
#[derive(Debug)]
pub struct Tokens {
    keys: Vec<TokenKey>,
    /// Further keys, where they are fetched.
    source: Option<Arc<KeySource>>,
    signer: Option<TokenSigner>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    require_exp: bool,
    claims_bytes: usize,
}

/// What a good token says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The user: `sub`.
    pub user: SmolStr,
    /// The token's payload as it was signed: a JSON object, valid UTF-8, no name twice at its top.
    pub claims: Box<[u8]>,
    /// `exp` in seconds since 1970; the connection ends then.
    pub expires_at: Option<u64>,
    /// `iat` in whole seconds since 1970: when it was issued.
    pub issued_at: Option<u64>,
    /// The rights of `can`; `None` if the token has no `can`.
    pub rights: Option<Arc<Rights>>,
}

/// Why a token is refused. The texts hold nothing of the token, so they may be logged and sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing was given, such as the value of a variable that is not set.
    #[error("the token is empty")]
    Empty,
    /// Not three parts, such as an API key.
    #[error("not a JSON Web Token: a token has three parts separated by dots")]
    Parts,
    /// The scheme of a header precedes it.
    #[error(
        "not a JSON Web Token: leave out \"Bearer\"; a token has three parts separated by dots"
    )]
    Scheme,
    /// What a program writes where it has no token.
    #[error(
        "not a JSON Web Token: it is the text \"{0}\"; was the token awaited, and is its variable set?"
    )]
    Unset(&'static str),
    /// JSON's quotes are around it.
    #[error("not a JSON Web Token: leave out the quotes around it")]
    Quoted,
    /// The parts are not base64, or not JSON objects.
    #[error("not a JSON Web Token")]
    Malformed,
    /// Over `limits.claims_bytes`.
    #[error("the token's claims are over {0} bytes")]
    TooBig(usize),
    /// No key for this algorithm, `none` included.
    #[error("the token's algorithm is {named}; {takes}")]
    Algorithm {
        /// The algorithm, or that it is not a known one.
        named: &'static str,
        /// Those that the app has keys for.
        takes: String,
    },
    /// No key of this `kid`.
    #[error("no key of the token's \"kid\"")]
    UnknownKey,
    /// No key of this `kid`, and those that might hold it cannot be fetched now: it may be good later.
    #[error("the keys for tokens cannot be fetched now")]
    KeysOutOfReach,
    /// The header asks for an extension (RFC 7515, section 4.1.11).
    #[error("the token's header has \"crit\", which is not supported")]
    Critical,
    /// Signed by another key, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// It names no key, and none of those that are tried for such a token has signed it.
    #[error(
        "the token has no \"kid\", and none of the first {TOKEN_TRIES} public keys of its algorithm has signed it; \
         name the key"
    )]
    Unnamed,
    /// A time that only makes sense in milliseconds; says which claim. Taken for seconds, it would never come.
    #[error("the token's \"{0}\" is in milliseconds; it must be in seconds")]
    Milliseconds(&'static str),
    /// `exp` is over, and nothing else is wrong: the user may well have a newer token.
    #[error("the token has expired")]
    Expired,
    /// It has no `exp`, and the app asks for one.
    #[error("the token has no \"exp\", which this app requires (require_exp)")]
    NoExpiry,
    /// The user's tokens of its time were revoked.
    #[error("the token was revoked")]
    Revoked,
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
    /// `can` is not an object of rights.
    #[error("the token: {0}")]
    Rights(#[from] RightsError),
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
    /// The keys of one app; those that it fetches are in `source`.
    ///
    /// # Errors
    /// A secret that is too short, or a public key that does not fit its algorithm.
    pub fn new(
        app: &AppConfig,
        source: Option<Arc<KeySource>>,
        limits: &Limits,
    ) -> Result<Self, TokenKeyError> {
        let keys = app
            .tokens
            .iter()
            .map(TokenKey::new)
            .collect::<Result<Vec<_>, _>>()?;

        let signer = app
            .tokens
            .iter()
            .zip(&keys)
            .find_map(|(config, key)| match &key.verify {
                Verify::Secret(secret) => Some(TokenSigner::new(
                    config.kid.as_deref(),
                    (**secret).clone(),
                    app,
                    limits,
                )),
                Verify::Public(_) => None,
            });

        Ok(Self {
            keys,
            source,
            signer,
            issuer: app.issuer.as_deref().map(Into::into),
            audience: app.audience.as_deref().map(Into::into),
            require_exp: app.require_exp,
            claims_bytes: limits.claims_bytes,
        })
    }

    /// The same with `secret` as the only key, which was made up for this run: for development on loopback. Its tokens
    /// are worth nothing after a restart.
    ///
    /// # Errors
    /// Those of [`Tokens::new`].
    pub fn ephemeral(
        app: &AppConfig,
        secret: Secret,
        limits: &Limits,
    ) -> Result<Self, TokenKeyError> {
        let key = TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::HS256,
            key: KeyMaterial::Secret(secret),
        };

        Self::new(
            &AppConfig {
                tokens: vec![key],
                ..app.clone()
            },
            None,
            limits,
        )
    }

    /// Whether there is no key and none to come, and so no token can be good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.source.is_none()
    }

    /// Where further keys are fetched from, if they are.
    pub fn source(&self) -> Option<&Arc<KeySource>> {
        self.source.as_ref()
    }

    /// What signs for `POST /v1/tokens`: the first shared secret, if there is one.
    pub fn signer(&self) -> Option<&TokenSigner> {
        self.signer.as_ref()
    }

    /// Verifies a token at `now` (seconds since 1970): first its size, then its signature, and only then
    /// anything of its payload.
    ///
    /// With a `kid` the token must be signed by the key of that id, or by a key without one; without, by any key of
    /// its algorithm, of public keys by one of the first [`limits::TOKEN_TRIES`]. `exp` and `nbf` are optional and honoured, with [`limits::TOKEN_LEEWAY`]; so
    /// are `iss` and `aud` where configured. For HS256 this costs about 1 µs.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now: u64) -> Result<Verified, TokenError> {
        // Base64 has four characters for three bytes. What is too long is not even decoded.
        if token.len() > self.claims_bytes.saturating_mul(4) / 3 + ENVELOPE_BYTES {
            return Err(TokenError::TooBig(self.claims_bytes));
        }
        let [header, payload, signature] = parts(token)?;
        // The signature is over the text as it came, with the dot.
        let message = &token[..=header.len() + payload.len()];
        self.check_signature(&decode(header)?, message.as_bytes(), &decode(signature)?)?;
        let payload = decode(payload)?;
        // The bound before decoding also had room for the header and the signature.
        if payload.len() > self.claims_bytes {
            return Err(TokenError::TooBig(self.claims_bytes));
        }
        self.read(payload, now)
    }

    fn check_signature(
        &self,
        header: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        // serde would read a struct from an array too.
        if header.first() != Some(&b'{') {
            return Err(TokenError::Malformed);
        }

        let header: Header<'_> =
            serde_json::from_slice(header).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }

        let fetched = self.source.as_ref().map(|source| source.keys());
        let fetched = fetched.as_deref().map_or(&[][..], Vec::as_slice);
        let all = || self.keys.iter().chain(fetched);
        let kid = header.kid.as_deref();
        let named = kid.is_some_and(|kid| all().any(|key| key.kid.as_deref() == Some(kid)));
        let (mut fits, mut tried, mut tries) = (false, false, 0);

        // Keys without an id are found by trying alone, so they come first.
        let in_order = [true, false]
            .into_iter()
            .flat_map(|unnamed| all().filter(move |key| key.kid.is_none() == unnamed));
        for key in in_order.filter(|key| key.alg.name() == header.alg) {
            let chosen = match kid {
                None => true,
                Some(kid) if named => key.kid.as_deref() == Some(kid),
                Some(_) => key.kid.is_none(),
            };

            fits = true;
            tried |= chosen;

            // Verifying with a public key takes up to 0.1 ms, and anybody can make up a token.
            if chosen && matches!(key.verify, Verify::Public(_)) {
                tries += 1;
                if tries > TOKEN_TRIES {
                    return Err(TokenError::Unnamed);
                }
            }

            if chosen && key.verifies(message, signature) {
                return Ok(());
            }
        }

        Err(match &self.source {
            // A key that is yet to be fetched may be the one.
            Some(source) if !named && is_public(&header.alg) && (kid.is_some() || !fits) => {
                source.lacks()
            }
            _ if !fits => TokenError::Algorithm {
                named: known_name(&header.alg),
                takes: taken(all()),
            },
            _ if tried => TokenError::Signature,
            _ => TokenError::UnknownKey,
        })
    }

    fn read(&self, payload: Vec<u8>, now: u64) -> Result<Verified, TokenError> {
        let text = str::from_utf8(&payload).map_err(|_| TokenError::Malformed)?;
        let claims = Members::parse(text).map_err(|_| TokenError::Malformed)?;
        let leeway = limits::TOKEN_LEEWAY.as_secs();

        let expires_at = claims
            .get("exp")
            .map(|exp| seconds("exp", exp))
            .transpose()?;
        if self.require_exp && expires_at.is_none() {
            return Err(TokenError::NoExpiry);
        }

        // It decides whether the token was revoked, and nothing else: one that cannot be read counts as absent. One in
        // milliseconds would survive every revocation.
        let issued_at = match claims.get("iat").map(|iat| seconds("iat", iat)) {
            Some(Err(error @ TokenError::Milliseconds(_))) => return Err(error),
            issued_at => issued_at.and_then(Result::ok),
        };

        let not_before = claims
            .get("nbf")
            .map(|nbf| seconds("nbf", nbf))
            .transpose()?;
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
        let rights = claims
            .get("can")
            .map(|can| Rights::parse(can.get()).map(Arc::new))
            .transpose()?;

        // Last: only a token that is good in all else is merely expired, and its client is to come back with a new one.
        if expires_at.is_some_and(|exp| exp.saturating_add(leeway) <= now) {
            return Err(TokenError::Expired);
        }

        Ok(Verified {
            user,
            expires_at,
            issued_at,
            rights,
            claims: payload.into(),
        })
    }
}

/// Whether `token` looks like a JSON Web Token: three parts of base64. Any other text fits no key.
pub fn has_form(token: &str) -> bool {
    let is_base64 = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let mut parts = 0;
    // Whoever connects chooses the text, which may be long. A fourth part is enough to know.
    token.split('.').take(4).all(|part| {
        parts += 1;
        is_base64(part)
    }) && parts == 3
}

/// A secret that nobody knows and that no other run has.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_secret() -> Result<Secret, TokenKeyError> {
    let mut secret = [0; limits::TOKEN_SECRET_BYTES];
    let random = SystemRandom::new();
    random
        .fill(&mut secret)
        .map_err(|_| TokenKeyError::Random)?;
    Ok(data_encoding::HEXLOWER.encode(&secret).into())
}

/// What JavaScript and Python write where a token is missing, or has yet to come.
const UNSET: [&str; 6] = [
    "undefined",
    "null",
    "NaN",
    "None",
    "[object Promise]",
    "[object Object]",
];

/// The three parts of a token.
fn parts(token: &str) -> Result<[&str; 3], TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        _ if token.is_empty() => Err(TokenError::Empty),
        _ if token
            .get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer ")) =>
        {
            Err(TokenError::Scheme)
        }
        _ if token.starts_with('"') => Err(TokenError::Quoted),
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => {
            let unset = UNSET.into_iter().find(|unset| *unset == token);
            Err(unset.map_or(TokenError::Parts, TokenError::Unset))
        }
    }
}

/// What a message calls the algorithm `alg`: the maker of the token chose the name, so only registered ones are
/// repeated.
fn known_name(alg: &str) -> &'static str {
    const REGISTERED: [&str; 14] = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256",
        "PS384", "PS512", "EdDSA", "none",
    ];
    let known = REGISTERED.into_iter().find(|known| *known == alg);
    known.unwrap_or("not a known one")
}

/// Which algorithms `keys` are for.
fn taken<'k>(keys: impl Iterator<Item = &'k TokenKey>) -> String {
    let mut names: Vec<&str> = keys.map(|key| key.alg.name()).collect();
    names.sort_unstable();
    names.dedup();
    match names.split_last() {
        None => "this app has no key for tokens".to_owned(),
        Some((last, [])) => format!("this app takes {last}"),
        Some((last, others)) => format!("this app takes {} and {last}", others.join(", ")),
    }
}

/// Whether tokens of `alg` are verified with public keys.
fn is_public(alg: &str) -> bool {
    [
        TokenAlgorithm::RS256,
        TokenAlgorithm::ES256,
        TokenAlgorithm::EdDSA,
    ]
    .iter()
    .any(|known| known.name() == alg)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD
        .decode(part.as_bytes())
        .map_err(|_| TokenError::Malformed)
}

fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok()
}

/// A `NumericDate` (RFC 7519, section 2), which may have a fraction.
fn seconds(claim: &'static str, value: &RawValue) -> Result<u64, TokenError> {
    let seconds: f64 = serde_json::from_str(value.get())
        .map_err(|_| TokenError::Claim(claim, "a number of seconds"))?;
    if seconds < 0.0 {
        Err(TokenError::Claim(claim, "a number of seconds"))
    } else if seconds >= limits::TOKEN_TIME_END {
        Err(TokenError::Milliseconds(claim))
    } else {
        Ok(seconds as u64)
    }
}

fn is_for(aud: &RawValue, audience: &str) -> bool {
    let several: Option<Vec<Cow<'_, str>>> = serde_json::from_str(aud.get()).ok();
    several.is_some_and(|several| several.iter().any(|one| one == audience))
        || string(aud).as_deref() == Some(audience)
}

/// A name that `sub` may give.
pub(super) fn user(sub: Option<Cow<'_, str>>) -> Result<SmolStr, TokenError> {
    match sub {
        Some(sub) if (1..=limits::USER_BYTES).contains(&sub.len()) => Ok(sub.into()),
        _ => Err(TokenError::Claim("sub", "a string of 1 to 256 bytes")),
    }
}

#[cfg(test)]
mod tests;
