//! Who may do what: API keys of functions, tokens of clients, and the rights that a token carries.
//!
//! Nothing here does I/O or asks for the time; [`unix_now`] is what callers pass in.

mod api_key;
mod claims;
mod rights;
mod sign;
mod token;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::{
    api_key::{ApiKey, ApiKeys},
    rights::{Rights, RightsError, matches},
    sign::{SignError, Signed, TokenSigner},
    token::{TokenError, TokenKeyError, Tokens, Verified},
};
pub use crate::config::{Scope, Scopes};

/// Seconds since 1970, as tokens count them.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
