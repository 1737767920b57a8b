//! What is wrong with settings that can each be read.

use super::Problem;

/// The rules that a configuration breaks.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<FoundProblem>);

/// A rule that a configuration breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoundProblem {
    /// The setting, by its path in the file, such as `limits.heartbeat`.
    pub(super) key: Option<String>,
    /// The settings that it also depends on, by their paths; `""` is all of them. Where one of them could not be read,
    /// the rule may not be broken at all.
    pub(super) needs: Vec<String>,
    /// What is wrong, and what to do.
    pub(super) message: String,
}

impl FoundProblem {
    /// Whether it is broken, whatever the settings at `left_out` would have been.
    pub(super) fn is_certain(&self, left_out: &[String]) -> bool {
        // In both directions: a table that was left out has taken its settings along, and without
        // one of its settings it may not be what it was meant to be.
        let depends = |need: &String| {
            let mut out = left_out.iter();
            out.any(|out| is_within(out, need) || is_within(need, out))
        };
        !self.needs.iter().any(depends)
    }
}

/// Whether the setting at `path` is the one at `parent`, or a part of it.
fn is_within(path: &str, parent: &str) -> bool {
    let rest = path.strip_prefix(parent);
    rest.is_some_and(|rest| parent.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Problems {
    /// A setting that is wrong by itself.
    pub(super) fn value(&mut self, key: impl Into<String>, message: String) {
        self.0.push(FoundProblem {
            key: Some(key.into()),
            needs: Vec::new(),
            message,
        });
    }

    /// A setting that does not go together with another one: of the same table in `[limits]` and `[redis]`, otherwise of
    /// any.
    pub(super) fn pair(&mut self, key: impl Into<String>, message: String) {
        let key = key.into();
        let table = key.split('.').next().unwrap_or_default();
        let table = Some(table).filter(|table| ["limits", "redis"].contains(table));
        let needs = [table.unwrap_or_default().to_owned()];
        self.needing(key, needs, message);
    }

    /// A setting that is wrong unless those at `needs` say something else.
    pub(super) fn needing(
        &mut self,
        key: impl Into<String>,
        needs: impl Into<Vec<String>>,
        message: String,
    ) {
        self.0.push(FoundProblem {
            key: Some(key.into()),
            needs: needs.into(),
            message,
        });
    }

    /// Settings that do not go together.
    pub(super) fn push(&mut self, message: String) {
        self.0.push(FoundProblem {
            key: None,
            needs: vec![String::new()],
            message,
        });
    }

    pub(super) fn contains(&self, found_problem: &FoundProblem) -> bool {
        self.0.contains(found_problem)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let problems = self.0.into_iter();
        problems
            .map(|found_problem| Problem::Rule(found_problem.message))
            .collect()
    }
}

impl IntoIterator for Problems {
    type Item = FoundProblem;
    type IntoIter = std::vec::IntoIter<FoundProblem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
