//! What ends a load test early.

use std::io;

/// Why a load test cannot go on, in words for whoever started it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What the harness's functions answer.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when the system refused.
pub(crate) trait Doing<T> {
    /// Adds `doing` to the error.
    fn doing(self, doing: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: doing.into(),
            source: source.into(),
        })
    }
}

/// An error made of words alone.
pub(crate) fn failed<T>(words: impl Into<String>) -> Result<T> {
    Err(Error::Failed(words.into()))
}
