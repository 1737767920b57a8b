//! How it goes with this node's lease: what readiness and the log say of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{bus::BusError, metrics::Metrics};

/// When the lease was renewed last, and why not since.
#[derive(Debug, Default)]
pub(super) struct Renewal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the last renewal began that was done.
    renewed: Option<Instant>,
    failure: Option<Arc<str>>,
    /// Codes of the refusals that were logged since.
    logged: Vec<String>,
}

impl Renewal {
    /// The lease was renewed, by a step that began at `began`.
    pub(super) fn succeeded(&self, began: Instant) {
        let logged = {
            let mut state = self.0.lock();
            // When it began, not when it ended: the lease may last from that moment on.
            state.renewed = Some(began);
            state.failure = None;
            std::mem::take(&mut state.logged)
        };
        if !logged.is_empty() {
            tracing::info!("this node's lease is renewed again");
        }
    }

    /// It was not. A refusal is logged once for each reason. That Redis is away, the bus logs.
    pub(super) fn failed(&self, error: &BusError, metrics: &Metrics) {
        let reason = format!("{error}{}", error.hint());
        let is_news = {
            let mut state = self.0.lock();
            state.failure = Some(reason.as_str().into());
            let BusError::Refused { code, .. } = error else {
                tracing::debug!(%error, "lease not renewed");
                return;
            };
            let is_news = !state.logged.contains(code);
            if is_news {
                state.logged.push(code.clone());
            }
            is_news
        };

        metrics.bus.renewals_refused.inc();
        if is_news {
            tracing::warn!(
                reason,
                "this node's lease was not renewed; when it is over, the other nodes take this one for gone"
            );
        }
    }

    /// What is wrong, where the lease is `length` long.
    pub(super) fn fault(&self, length: Duration) -> Option<String> {
        let state = self.0.lock();
        let why = state
            .failure
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();

        match state.renewed.map(|renewed| renewed.elapsed()) {
            None => Some(format!("the other nodes do not know of this one yet{why}")),
            // Half of it, so that somebody can act before the node is taken for gone.
            Some(age) if age > length / 2 => Some(format!(
                "this node's lease has not been renewed for {} s, and ends after {} s; then the other nodes take this one for gone{why}",
                age.as_secs(),
                length.as_secs_f64()
            )),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(5);

    #[test]
    fn a_lease_that_is_half_over_is_a_fault_with_its_reason() {
        let (renewal, metrics) = (Renewal::default(), Metrics::new());
        assert_eq!(
            renewal.fault(LENGTH).unwrap(),
            "the other nodes do not know of this one yet"
        );
        renewal.succeeded(Instant::now());
        assert_eq!(renewal.fault(LENGTH), None);
        renewal.succeeded(Instant::now().checked_sub(LENGTH / 2).unwrap());
        let refused = |code: &str| BusError::Refused {
            code: code.to_owned(),
            message: "no.".to_owned(),
        };
        renewal.failed(&refused("NOREPLICAS"), &metrics);
        renewal.failed(&refused("NOREPLICAS"), &metrics);
        let fault = renewal.fault(LENGTH).unwrap();
        assert!(
            fault.contains("for 2 s") && fault.contains("NOREPLICAS no. (too few replicas"),
            "{fault}"
        );
        assert_eq!(metrics.bus.renewals_refused.get(), 2);
        assert_eq!(renewal.0.lock().logged, ["NOREPLICAS"]);
        renewal.failed(&BusError::Unanswered, &metrics);
        assert_eq!(metrics.bus.renewals_refused.get(), 2);
        renewal.succeeded(Instant::now());
        assert_eq!(renewal.fault(LENGTH), None);
        assert!(renewal.0.lock().logged.is_empty());
    }
}
