//! What is said about clients and callers that are turned away.

use std::{fmt::Display, sync::Arc, time::Instant};

use crate::{
    id::AppId,
    log_limit::Limited,
    metrics::{Metrics, Refusal},
};

/// Counts every refusal, and logs them sparingly: the first of its kind immediately, then once a minute how many others
/// there were.
///
/// A page cannot see why its WebSocket or its request was refused, so the log has to say it. Whoever tries again and
/// again must not fill the log. A kind is a reason and an app: how many there are does not depend on clients.
#[derive(Debug)]
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    /// The names of the apps, by their ids.
    apps: Vec<Arc<str>>,
    /// By app, then by reason. The last row is for what names no app.
    kinds: Vec<[Limited; Refusal::ALL.len()]>,
}

/// Refusals of one kind that no line has told of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Untold {
    why: Refusal,
    app: Option<AppId>,
    count: u64,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>, apps: Vec<Arc<str>>) -> Self {
        let kinds = (0..=apps.len()).map(|_| Default::default()).collect();
        Self {
            metrics,
            apps,
            kinds,
        }
    }

    /// Counts one, and logs it if it is the first of its kind within a minute. `detail` says what was wrong and what to
    /// do; it holds no secret.
    pub(crate) fn refuse(&self, why: Refusal, app: Option<AppId>, detail: impl Display) {
        self.metrics.refused(why);
        let Some(others) = self.note(why, app, Instant::now()) else {
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
    pub(crate) fn tell(&self) {
        for Untold { why, app, count } in self.due(Instant::now()) {
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
    fn note(&self, why: Refusal, app: Option<AppId>, now: Instant) -> Option<u64> {
        self.kinds[self.row(app)][why as usize].note(now)
    }

    /// The kinds that have more to tell and may do so at `now`.
    fn due(&self, now: Instant) -> Vec<Untold> {
        let mut due = Vec::new();
        for (row, kinds) in self.kinds.iter().enumerate() {
            for (why, kind) in Refusal::ALL.into_iter().zip(kinds) {
                due.extend(kind.due(now).map(|count| Untold {
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

    fn refusals() -> Refusals {
        Refusals::new(Arc::new(Metrics::new()), vec!["a".into(), "b".into()])
    }

    #[test]
    fn each_reason_and_app_has_lines_of_its_own() {
        let (refusals, now) = (refusals(), Instant::now());
        let apps = [Some(AppId(0)), Some(AppId(1)), None];
        for why in Refusal::ALL {
            for app in apps {
                assert_eq!(refusals.note(why, app, now), Some(0), "{why:?} {app:?}");
            }
        }
        for why in Refusal::ALL {
            assert_eq!(refusals.note(why, None, now), None, "{why:?}");
        }
        let due = refusals.due(now + MINUTE);
        assert_eq!(due.len(), Refusal::ALL.len());
        assert!(due.iter().all(|one| one.app.is_none() && one.count == 1));
        assert_eq!(refusals.name(Some(AppId(1))), Some("b"));
        assert_eq!(refusals.name(None), None);
    }
}
