//! The profiles of clients and the claims of their tokens, bounded by what they take while the clients are
//! connected.

use super::App;
use crate::{
    filter::{JsonError, Value},
    limits::{INDEX_ENTRIES, Limits, json_memory},
};

/// Why a profile, or a token's claims, cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// More bytes of JSON than there may be.
    #[error("{bytes} bytes of JSON, over {most}")]
    Long {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        most: usize,
    },
    /// Too large in memory, or not a value at all.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// More entries in an index than one connection may have.
    #[error("{path} has {entries} entries, over {INDEX_ENTRIES} for an indexed attribute")]
    Entries {
        /// The declared path.
        path: String,
        /// How many there are.
        entries: usize,
    },
}

impl Unfit {
    /// Whether there is too much of it, and nothing else is wrong with it.
    pub(crate) fn is_size(&self) -> bool {
        matches!(
            self,
            Self::Long { .. } | Self::Entries { .. } | Self::Json(JsonError::TooLarge(_))
        )
    }
}

impl App {
    /// The profile that a client sends.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn profile(&self, json: &str, limits: &Limits) -> Result<Value, Unfit> {
        self.fitting(true, json, limits.profile_bytes)
    }

    /// The claims of a token.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn claims(&self, json: &str, limits: &Limits) -> Result<Value, Unfit> {
        self.fitting(false, json, limits.claims_bytes)
    }

    fn fitting(&self, of_profile: bool, json: &str, most: usize) -> Result<Value, Unfit> {
        // Before it is copied and parsed: a client chooses the length.
        if json.len() > most {
            let bytes = json.len();
            return Err(Unfit::Long { bytes, most });
        }

        // The parser writes into the text that it reads, and this one is only borrowed.
        let mut text = json.as_bytes().to_vec();
        let value = Value::from_json_within(json_memory(most), &mut text, &self.layouts)?;
        match self.schema.over(INDEX_ENTRIES, of_profile, &value) {
            None => Ok(value),
            Some((path, entries)) => Err(Unfit::Entries {
                path: path.to_owned(),
                entries,
            }),
        }
    }
}
