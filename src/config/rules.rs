//! What is wrong with settings that can each be read.

use super::Problem;

/// The rules that a configuration breaks.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Broken>);

/// A rule that a configuration breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The setting, by its path in the file, such as `limits.heartbeat`.
    pub(super) key: Option<String>,
    /// Whether this setting is wrong whatever the others are.
    pub(super) is_alone: bool,
    /// What is wrong, and what to do.
    pub(super) message: String,
}

impl Rules {
    /// A setting that is wrong by itself.
    pub(super) fn value(&mut self, key: impl Into<String>, message: String) {
        self.0.push(Broken {
            key: Some(key.into()),
            is_alone: true,
            message,
        });
    }

    /// A setting that does not go together with another one.
    pub(super) fn pair(&mut self, key: impl Into<String>, message: String) {
        self.0.push(Broken {
            key: Some(key.into()),
            is_alone: false,
            message,
        });
    }

    /// Settings that do not go together.
    pub(super) fn push(&mut self, message: String) {
        self.0.push(Broken {
            key: None,
            is_alone: false,
            message,
        });
    }

    pub(super) fn contains(&self, broken: &Broken) -> bool {
        self.0.contains(broken)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let problems = self.0.into_iter();
        problems
            .map(|broken| Problem::Rule(broken.message))
            .collect()
    }
}

impl IntoIterator for Rules {
    type Item = Broken;
    type IntoIter = std::vec::IntoIter<Broken>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
