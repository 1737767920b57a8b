//! What is said about clients and callers that are turned away.

use std::{
    fmt::{self, Display, Write as _},
    hash::{DefaultHasher, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;

use crate::{
    id::AppId,
    limits::{LOGGED_EVERY, REFUSAL_LINES, REFUSAL_TEXTS},
    metrics::{Metrics, Refusal},
};

/// Counts every refusal, and logs them sparingly: the first of its kind immediately, and a few more if they say something
/// else. Then once a minute how many others there were.
///
/// A page cannot see why its WebSocket or its request was refused, so the log has to say it. A client that tries
/// again and again must not fill the log. A kind is a reason and an app: how many there are does not depend on
/// clients.
#[derive(Debug)]
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    /// The names of the apps, by their ids.
    apps: Vec<Arc<str>>,
    /// By app, then by reason. The last row is for what names no app.
    kinds: Vec<[Kind; Refusal::ALL.len()]>,
    /// Whether the server has no API keys, so that the reader of the log is trying things out.
    is_development: AtomicBool,
}

/// One kind: what was logged of it in the minute that runs, and how many were not. Its lock is held for a few instructions.
#[derive(Debug, Default)]
struct Kind(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the minute began: with the first line after the last one.
    began: Option<Instant>,
    /// How many lines were written in it.
    lines: usize,
    /// What the first of them said, as hashes.
    texts: [u64; REFUSAL_TEXTS],
    /// How many would have been written.
    unlogged: u64,
}

impl State {
    fn is_recent(&self, now: Instant) -> bool {
        self.began
            .is_some_and(|began| now.saturating_duration_since(began) < LOGGED_EVERY)
    }

    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        self.lines = 0;
    }

    /// Whether one that says `text` is written in the minute that runs.
    fn may_write(&self, text: u64, is_development: bool) -> bool {
        if is_development {
            return self.lines < REFUSAL_LINES;
        }
        let logged = self.texts.get(..self.lines);
        logged.is_some_and(|logged| self.lines < REFUSAL_TEXTS && !logged.contains(&text))
    }
}

impl Kind {
    /// Counts one that says `text`. If a line about it is due, returns how many others were not logged.
    fn note(&self, text: u64, is_development: bool, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if !state.is_recent(now) {
            state.begin(now);
        } else if !state.may_write(text, is_development) {
            state.unlogged += 1;
            return None;
        }

        let at = state.lines;
        if let Some(place) = state.texts.get_mut(at) {
            *place = text;
        }

        state.lines += 1;
        Some(std::mem::take(&mut state.unlogged))
    }

    /// How many were not logged, if there are some and the minute is over.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.unlogged == 0 || state.is_recent(now) {
            return None;
        }
        state.begin(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

/// Hashes what is written to it.
#[derive(Default)]
struct TextHash(DefaultHasher);

impl fmt::Write for TextHash {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.write(part.as_bytes());
        Ok(())
    }
}

/// Refusals of one kind that were not logged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnloggedRefusals {
    why: Refusal,
    app: Option<AppId>,
    count: u64,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>, apps: Vec<Arc<str>>, is_development: bool) -> Self {
        let kinds = (0..=apps.len()).map(|_| [(); Refusal::ALL.len()].map(|()| Kind::default()));
        Self {
            metrics,
            kinds: kinds.collect(),
            apps,
            is_development: is_development.into(),
        }
    }

    /// Learns whether the server has no API keys, after a reload.
    pub(crate) fn set_development(&self, is_development: bool) {
        self.is_development.store(is_development, Relaxed);
    }

    /// Counts one, and logs it if it is the first of its kind within a minute, or says something else than those before it.
    /// `detail` says what was wrong and what to do; it holds no secret.
    pub(crate) fn refuse(&self, why: Refusal, app: Option<AppId>, detail: impl Display) {
        self.metrics.refused(why);
        let mut text = TextHash::default();

        // Writing to it cannot fail.
        let _ = write!(text, "{detail}");
        let Some(others) = self.note(why, app, text.0.finish(), Instant::now()) else {
            return;
        };

        let (reason, app) = (why.name(), self.name(app));
        // Only these ask something of the operator; the others are the client's mistakes.
        if why.is_capacity() {
            tracing::warn!(reason, app, others, "refused: {detail}");
        } else {
            tracing::info!(reason, app, others, "refused: {detail}");
        }
    }

    /// Logs how many were refused since the line about the first of them, where that is a minute ago.
    pub(crate) fn log_due(&self) {
        for UnloggedRefusals { why, app, count } in self.due(Instant::now()) {
            let (reason, app) = (why.name(), self.name(app));
            tracing::info!(
                reason,
                app,
                others = count,
                "refused: more of the same since the last line"
            );
        }
    }

    /// Takes note of one. How many others a line about it is to mention, if a line is due.
    fn note(&self, why: Refusal, app: Option<AppId>, text: u64, now: Instant) -> Option<u64> {
        // A lack of room is nobody's mistake that is being corrected.
        let is_development = self.is_development.load(Relaxed) && !why.is_capacity();
        self.kinds[self.row(app)][why as usize].note(text, is_development, now)
    }

    /// The kinds of which a line is due at `now`.
    fn due(&self, now: Instant) -> Vec<UnloggedRefusals> {
        let mut due = Vec::new();
        for (row, kinds) in self.kinds.iter().enumerate() {
            for (why, kind) in Refusal::ALL.into_iter().zip(kinds) {
                due.extend(kind.due(now).map(|count| UnloggedRefusals {
                    why,
                    app: (row < self.apps.len()).then_some(AppId(row as u16)),
                    count,
                }));
            }
        }
        due
    }

    fn row(&self, app: Option<AppId>) -> usize {
        app.map_or(self.apps.len(), |app| usize::from(app.0))
    }

    fn name(&self, app: Option<AppId>) -> Option<&str> {
        self.apps.get(self.row(app)).map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOGGED_EVERY as MINUTE;

    fn refusals(is_development: bool) -> Refusals {
        let apps = vec!["a".into(), "b".into()];
        Refusals::new(Arc::new(Metrics::new()), apps, is_development)
    }

    #[test]
    fn each_reason_and_app_has_lines_of_its_own() {
        let (refusals, now) = (refusals(false), Instant::now());
        let apps = [Some(AppId(0)), Some(AppId(1)), None];
        for why in Refusal::ALL {
            for app in apps {
                assert_eq!(refusals.note(why, app, 7, now), Some(0), "{why:?} {app:?}");
            }
        }
        for why in Refusal::ALL {
            assert_eq!(refusals.note(why, None, 7, now), None, "{why:?}");
        }
        let due = refusals.due(now + MINUTE);
        assert_eq!(due.len(), Refusal::ALL.len());
        assert!(due.iter().all(|one| one.app.is_none() && one.count == 1));
        assert_eq!(refusals.name(Some(AppId(1))), Some("b"));
        assert_eq!(refusals.name(None), None);
    }

    #[test]
    fn a_few_that_say_something_else_are_told_within_the_minute() {
        let (refusals, began) = (refusals(false), Instant::now());
        let note = |text, now| refusals.note(Refusal::Origin, None, text, now);
        let logged = (0..1000).filter(|&text| note(text, began).is_some());
        assert_eq!(logged.count(), REFUSAL_TEXTS);
        let again = (0..1000).filter(|&text| note(text, began + MINUTE / 2).is_some());
        assert_eq!(again.count(), 0);
        let others = 2000 - REFUSAL_TEXTS as u64;
        assert_eq!(note(0, began + MINUTE), Some(others));
        assert_eq!(note(0, began + MINUTE), None);
        assert_eq!(note(1, began + MINUTE), Some(1), "it mentions the others");
    }

    #[test]
    fn in_development_the_same_is_told_again_and_still_fills_no_log() {
        let (refusals, began) = (refusals(true), Instant::now());
        let note = |now| refusals.note(Refusal::Origin, None, 7, now);
        let logged = (0..1000).filter(|_| note(began).is_some());
        assert_eq!(logged.count(), REFUSAL_LINES);
        assert_eq!(note(began + MINUTE), Some(1000 - REFUSAL_LINES as u64));
        refusals.set_development(false);
        assert_eq!(note(began + MINUTE), None);
    }
}
