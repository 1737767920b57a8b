//! Lines of the log that clients and callers can cause: one a minute of each kind, and a count of the others.
//!
//! ```text
//! if let Some(others) = context.lines.note(Line::SlowConsumer) {
//!     tracing::warn!(others, …, "slow consumer closed");
//! }
//! ```
//!
//! [`Limited`] is one such kind by itself, for code that reaches no [`Lines`].

use std::time::Instant;

use parking_lot::Mutex;

use crate::limits::LOGGED_EVERY;

/// One kind of line: when it was last written, and how many were not. Its lock is held for a few instructions, and
/// nothing is taken while it is: it may be asked under any other lock.
#[derive(Debug, Default)]
pub(crate) struct Limited(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// When a line was last written.
    logged: Option<Instant>,
    /// How many would have been written since.
    unlogged: u64,
}

// `Default` cannot be derived where a static needs the same value.
impl Default for State {
    fn default() -> Self {
        Self::NEW
    }
}

impl State {
    const NEW: Self = Self {
        logged: None,
        unlogged: 0,
    };

    fn is_recent(&self, now: Instant) -> bool {
        self.logged
            .is_some_and(|logged| now.saturating_duration_since(logged) < LOGGED_EVERY)
    }
}

impl Limited {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State::NEW))
    }

    /// Counts one. If a line about it is due, returns how many others were not logged.
    pub(crate) fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.is_recent(now) {
            state.unlogged += 1;
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }

    /// Counts some that no line is to be about.
    fn add(&self, count: u64) {
        self.0.lock().unlogged += count;
    }

    /// How many were not logged, if there are some and a line may be written again.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.unlogged == 0 || state.is_recent(now) {
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

/// A kind of line that clients or callers can cause, other than a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A client that read too slowly was closed.
    SlowConsumer,
    /// The system gave no socket.
    CannotAccept,
    /// An event was stored for a part of its target.
    StoredInPart,
    /// One of several publications of a call failed.
    CarriedOutInPart,
    /// Redis did not confirm a publication.
    NotReached,
    /// A part of a receipt cannot be read.
    BadReceipt,
    /// A node could not do what another one asked.
    NotDone,
    /// A message of another node cannot be used.
    SkippedEvent,
    /// Too many messages of programs wait.
    ProgramsOverflow,
    /// Too many events of one topic wait.
    ArrivalsOverflow,
    /// Stored events that were missed cannot be had yet.
    NotFetched,
    /// A user came in without what is stored.
    WithoutStored,
    /// A message of Mesa's dispatchers was not stored for a user who has gone.
    NotGivenBack,
    /// Stored events may have been missed for good.
    StoredUnsure,
    /// A function of the embedding program panicked.
    FunctionPanicked,
    /// A client called a function that is not there.
    NoFunction,
    /// A client's address has a parameter that has no effect.
    StrayParameter,
}

impl Line {
    pub(crate) const ALL: [Self; 17] = [
        Self::SlowConsumer,
        Self::CannotAccept,
        Self::StoredInPart,
        Self::CarriedOutInPart,
        Self::NotReached,
        Self::BadReceipt,
        Self::NotDone,
        Self::SkippedEvent,
        Self::ProgramsOverflow,
        Self::ArrivalsOverflow,
        Self::NotFetched,
        Self::WithoutStored,
        Self::NotGivenBack,
        Self::StoredUnsure,
        Self::FunctionPanicked,
        Self::NoFunction,
        Self::StrayParameter,
    ];

    /// What the line that counts the others says.
    fn of_others(self) -> &'static str {
        match self {
            Self::SlowConsumer => "more slow consumers were closed",
            Self::CannotAccept => "more sockets could not be accepted",
            Self::StoredInPart => "more publications were stored in part, or it is not known",
            Self::CarriedOutInPart => "more publications were carried out in part",
            Self::NotReached => "more publications may not have reached the other nodes",
            Self::BadReceipt => "more receipts of other nodes could not be read",
            Self::NotDone => "more requests were not carried out by another node",
            Self::SkippedEvent => "more events of other nodes were skipped",
            Self::ProgramsOverflow => "more messages of programs were dropped: too many wait",
            Self::ArrivalsOverflow => {
                "more events of busy channels were dropped, to be fetched later"
            }
            Self::NotFetched => "more events that were missed could not be fetched yet",
            Self::WithoutStored => "more users came in without what was stored",
            Self::NotGivenBack => "more messages of Mesa's dispatchers were lost",
            Self::StoredUnsure => "more stored events may have been missed",
            Self::FunctionPanicked => "more functions panicked that clients called",
            Self::NoFunction => "more clients called functions that are not set up",
            Self::StrayParameter => "more addresses of clients have a parameter without effect",
        }
    }
}

/// All kinds of a node.
#[derive(Debug, Default)]
pub(crate) struct Lines([Limited; Line::ALL.len()]);

impl Lines {
    /// Counts one of `line`. If it is to be written, returns how many others were not logged.
    pub(crate) fn note(&self, line: Line) -> Option<u64> {
        self.0[line as usize].note(Instant::now())
    }

    /// Counts some of `line` that are not to be written.
    pub(crate) fn add(&self, line: Line, count: u64) {
        if count > 0 {
            self.0[line as usize].add(count);
        }
    }

    /// Logs how many were not written since the first of their kind, where that was a minute ago.
    pub(crate) fn log_due(&self) {
        let now = Instant::now();
        for (line, limited) in Line::ALL.into_iter().zip(&self.0) {
            match limited.due(now) {
                // The client's mistake, of which the operator need not know.
                Some(others) if matches!(line, Line::NoFunction | Line::StrayParameter) => {
                    tracing::info!(others, "{}", line.of_others());
                }
                Some(others) => tracing::warn!(others, "{}", line.of_others()),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: std::time::Duration = LOGGED_EVERY;

    #[test]
    fn the_first_is_told_and_the_others_are_counted_for_a_minute() {
        let (limited, began) = (Limited::new(), Instant::now());
        assert_eq!(limited.note(began), Some(0));
        for n in 1..100 {
            assert_eq!(limited.note(began + MINUTE * n / 100), None);
        }
        assert_eq!(limited.due(began + MINUTE * 99 / 100), None);
        assert_eq!(limited.due(began + MINUTE), Some(99));
        assert_eq!(
            limited.due(began + MINUTE * 3),
            None,
            "they are logged once"
        );

        // A line counts what no line has mentioned, whoever writes it.
        let later = began + MINUTE * 4;
        assert_eq!(limited.note(later), Some(0));
        assert_eq!(limited.note(later), None);
        assert_eq!(limited.note(later + MINUTE), Some(1));
    }

    #[test]
    fn each_kind_has_lines_of_its_own() {
        let lines = Lines::default();
        for (at, line) in Line::ALL.into_iter().enumerate() {
            assert_eq!(line as usize, at, "{line:?} is not in its place");
            assert_eq!(lines.note(line), Some(0), "{line:?}");
            assert_eq!(lines.note(line), None, "{line:?}");
        }
        lines.add(Line::SlowConsumer, 5);
        let limited = &lines.0[Line::SlowConsumer as usize];
        assert_eq!(limited.due(Instant::now() + MINUTE), Some(6));
        let logged: std::collections::BTreeSet<_> = Line::ALL.map(Line::of_others).into();
        assert_eq!(logged.len(), Line::ALL.len());
    }
}
