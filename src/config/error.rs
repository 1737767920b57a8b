//! What is wrong with a configuration: all of it at the same time, since people repair a file in one go.

use std::{fmt, path::PathBuf};

/// Everything wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// One thing wrong with a configuration: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A line of the file that is not TOML, or a value in it that cannot be used.
    #[error("{}:{line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A name that means nothing.
    #[error("{place}: unknown {kind} \"{name}\"{}", hint(nearest.as_deref()))]
    Unknown {
        /// The file with its line, or the layer.
        place: String,
        /// "key", "variable" or "limit".
        kind: &'static str,
        /// The name.
        name: String,
        /// The known name most like it.
        nearest: Option<String>,
    },
    /// A value of a flag or a variable that cannot be used.
    #[error("{place}: {message}")]
    Value {
        /// The flag or variable.
        place: String,
        /// What is wrong with its value; never the value of a secret.
        message: String,
    },
    /// Settings that are each right and do not go together.
    #[error("{0}")]
    Rule(String),
}

/// `; did you mean "…"?`, if there is a nearest one.
pub(super) fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"))
}

/// The known name most like `name`, unless none is.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min_by_key(|(distance, _)| *distance)
        // Half of the letters wrong is another word.
        .filter(|(distance, known)| *distance <= known.len() / 2)
        .map(|(_, known)| known.to_owned())
}
