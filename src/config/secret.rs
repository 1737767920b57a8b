//! Text that must not be shown, and its hash.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::digest;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

/// A text whose `Debug` form does not show it; it has no `Display`, so that no log line can hold it by accident.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for where it is used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The SHA-256 of an API key: enough to recognise the key, and not enough to use it.
///
/// A fast hash is right here, since API keys are random and long, not chosen by people.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; digest::SHA256_OUTPUT_LEN]);

impl KeyHash {
    /// The hash of a key that is not known yet. No key has it.
    pub(super) const NONE: Self = Self([0; digest::SHA256_OUTPUT_LEN]);

    /// The hash of a key as its owner presents it.
    pub fn of(key: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
        Self(hash)
    }
}

impl PartialEq for KeyHash {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// The text is not a key hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a hash is \"sha256:\" and 64 hexadecimal digits (make one with: printf %s \"$KEY\" | sha256sum)"
)]
pub struct BadKeyHash;

impl FromStr for KeyHash {
    type Err = BadKeyHash;

    fn from_str(text: &str) -> Result<Self, BadKeyHash> {
        let hex = text.strip_prefix("sha256:").ok_or(BadKeyHash)?;
        let bytes = HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|_| BadKeyHash)?;
        bytes.try_into().map(Self).map_err(|_| BadKeyHash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_common_tools() {
        let hash: KeyHash =
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
                .parse()
                .unwrap();
        assert_eq!(hash, KeyHash::of("test"));
        assert_ne!(hash, KeyHash::of("Test"));
        for bad in [
            "",
            "test",
            "sha256:",
            "sha256:00",
            "sha1:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
        ] {
            assert_eq!(bad.parse::<KeyHash>(), Err(BadKeyHash), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!(
            "{:?} {:?}",
            Secret::from("swordfish"),
            KeyHash::of("swordfish")
        );
        assert_eq!(shown, "Secret(…) KeyHash(…)");
    }
}
