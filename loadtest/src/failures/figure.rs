//! Figures that only one failure has, each with its goal.

use std::fmt;

use serde::Serialize;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// A time. A busy machine alone can make it longer.
    Within(f64),
}

/// A figure of one failure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    goal: Goal,
}

impl Figure {
    /// A number of something that may not be more than `most`.
    pub(super) fn at_most(what: &'static str, value: usize, most: usize) -> Self {
        Self::new(what, (value as f64, ""), Goal::AtMost(most as f64))
    }

    /// A number of something without which the failure has not happened, or has not been survived.
    pub(super) fn at_least(what: &'static str, value: usize, least: usize) -> Self {
        Self::new(what, (value as f64, ""), Goal::AtLeast(least as f64))
    }

    /// A time, with its unit.
    pub(super) fn within(what: &'static str, value: f64, unit: &'static str, most: f64) -> Self {
        Self::new(what, (value, unit), Goal::Within(most))
    }

    fn new(what: &'static str, (value, unit): (f64, &'static str), goal: Goal) -> Self {
        Self {
            what,
            value,
            unit,
            goal,
        }
    }

    /// What is wrong with it, in words, if anything is.
    pub(super) fn wrong(&self) -> Option<String> {
        match self.goal {
            Goal::AtMost(most) if self.value > most => Some(format!("{self}, not {most} at most")),
            Goal::AtLeast(least) if self.value < least => {
                Some(format!("{self}, not {least} at least"))
            }
            _ => None,
        }
    }

    /// The same of what took too long.
    pub(super) fn late(&self) -> Option<String> {
        match self.goal {
            Goal::Within(most) if self.value > most => {
                Some(format!("{self}, not {most} {} at most", self.unit))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, value, unit, ..
        } = self;
        match self.goal {
            Goal::Within(_) => write!(f, "{what}: {value:.1} {unit}"),
            Goal::AtMost(_) | Goal::AtLeast(_) => write!(f, "{what}: {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_misses_its_goal_is_wrong_or_late() {
        let lost = |count| Figure::at_most("lost elsewhere", count, 0);
        assert_eq!(lost(0).wrong(), None);
        assert_eq!(lost(2).wrong().unwrap(), "lost elsewhere: 2, not 0 at most");
        let joined = |count| Figure::at_least("joined", count, 5);
        assert_eq!(joined(5).wrong(), None);
        assert_eq!(joined(4).wrong().unwrap(), "joined: 4, not 5 at least");

        let slow = Figure::within("p99 elsewhere", 51.26, "ms", 50.0);
        assert_eq!(slow.wrong(), None);
        assert_eq!(
            slow.late().unwrap(),
            "p99 elsewhere: 51.3 ms, not 50 ms at most"
        );
        assert_eq!(Figure::within("p99", 50.0, "ms", 50.0).late(), None);
    }
}
