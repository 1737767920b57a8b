//! Permissions: API keys of functions, tokens of clients, and the rights that a token carries.
//!
//! Nothing here does I/O or asks for the time; [`unix_now`] is what callers pass in.

mod api_key;
mod claims;
mod key;
mod key_set;
mod key_source;
mod public_key;
mod revocations;
mod rights;
mod sign;
#[cfg(test)]
mod testkeys;
mod token;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::{
    api_key::{ApiKey, ApiKeys},
    key::TokenKeyError,
    key_set::{KeySet, KeySetError},
    key_source::KeySource,
    revocations::TooManyRevocations,
    rights::{Rights, RightsError, matches},
    sign::{SignError, Signed, TokenSigner},
    token::{TokenError, Tokens, Verified, has_form, random_secret},
};
pub(crate) use self::{
    revocations::{Revocation, Revocations, Revoked},
    rights::{json_kind, lacking},
    sign::claims_of,
};
pub use crate::config::{Scope, Scopes};

/// Seconds since 1970, as tokens count them.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
