//! What is wrong with the bus now, reported once when it begins and once when it is over.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::connection::Address;
use crate::{limits::duration::short, metrics::Metrics};

/// How the bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Commands are answered, everything in the register is subscribed, and canaries come back.
    Up,
    /// Not so, and why.
    Down { since: Instant, reason: Arc<str> },
}

/// What a fault is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Component {
    /// Finding the servers.
    Topology,
    /// The connection that commands take.
    Publisher(Address),
    /// The connection that messages take.
    Subscriber(Address),
}

/// The faults of all parts.
#[derive(Debug)]
pub(super) struct HealthTracker {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    faults: BTreeMap<Component, Arc<str>>,
    /// Since when there are any, or none.
    since: Instant,
    was_up: bool,
}

impl HealthTracker {
    /// Everything is missing at first.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let faults = BTreeMap::from([(Component::Topology, Arc::from("not connected yet"))]);
        Self {
            state: Mutex::new(State {
                faults,
                since: Instant::now(),
                was_up: false,
            }),
            metrics,
        }
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state.lock();
        match state.faults.values().next() {
            None => Health::Up,
            Some(reason) => Health::Down {
                since: state.since,
                reason: reason.clone(),
            },
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.lock().faults.is_empty()
    }

    /// What is wrong with a server, if anything is known to be.
    pub(super) fn health_of(&self, address: &Address) -> Health {
        let state = self.state.lock();
        let parts = [
            Component::Publisher(address.clone()),
            Component::Subscriber(address.clone()),
        ];
        match parts.iter().find_map(|part| state.faults.get(part)) {
            None => Health::Up,
            Some(reason) => Health::Down {
                since: state.since,
                reason: reason.clone(),
            },
        }
    }

    /// Whether nothing is known to be wrong with a server.
    pub(super) fn is_well(&self, address: &Address) -> bool {
        let faults = &self.state.lock().faults;
        !faults.contains_key(&Component::Publisher(address.clone()))
            && !faults.contains_key(&Component::Subscriber(address.clone()))
    }

    /// Something went wrong.
    pub(super) fn fault(&self, part: Component, reason: &str) {
        self.set(part, reason, true);
    }

    /// Something is under way, and nothing wrong yet.
    pub(super) fn begin(&self, part: Component, reason: &str) {
        self.set(part, reason, false);
    }

    fn set(&self, part: Component, reason: &str, is_wrong: bool) {
        let mut state = self.state.lock();
        let is_news = state
            .faults
            .get(&part)
            .is_none_or(|known| **known != *reason);
        let went_down = state.faults.is_empty();
        let is_logged = state.faults.values().any(|known| **known == *reason);
        if is_news {
            state.faults.insert(part, reason.into());
        }

        if went_down {
            state.since = Instant::now();
        }

        let was_up = state.was_up;
        // Nothing is logged under a lock: the reader of the log may be slow.
        drop(state);
        if went_down {
            self.metrics.bus.up.set(0);
            tracing::warn!(
                reason,
                "Redis, or a part of it, is out of reach: what is served there reaches no other node until it is back, which is tried all the time"
            );
        } else if is_news && is_wrong && !was_up && !is_logged {
            // Someone who has just set it up wants to know every obstacle, each once.
            tracing::warn!(reason, "Redis is not in reach yet");
        } else if is_news {
            tracing::debug!(reason, "Redis is still out of reach");
        }
    }

    pub(super) fn clear(&self, part: &Component) {
        let mut state = self.state.lock();
        if state.faults.remove(part).is_none() || !state.faults.is_empty() {
            return;
        }

        let lasted = state.since.elapsed();
        state.since = Instant::now();
        let was_up = std::mem::replace(&mut state.was_up, true);
        drop(state);
        self.metrics.bus.up.set(1);

        if was_up {
            let lasted = short(lasted);
            tracing::info!(
                %lasted,
                "Redis is in reach again: all subscriptions are restored"
            );
        } else {
            tracing::info!("Redis is in reach");
        }
    }

    /// Nothing of a server that is no longer used is wrong.
    pub(super) fn forget(&self, address: &Address) {
        self.clear(&Component::Publisher(address.clone()));
        self.clear(&Component::Subscriber(address.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_up_when_nothing_is_wrong() {
        let metrics = Arc::new(Metrics::new());
        let health = HealthTracker::new(metrics.clone());
        let part = Component::Publisher(Address::new("h", 1));
        assert!(
            matches!(health.health(), Health::Down { reason, .. } if &*reason == "not connected yet")
        );
        health.fault(part.clone(), "refused");
        health.clear(&Component::Topology);
        assert!(matches!(health.health(), Health::Down { reason, .. } if &*reason == "refused"));
        health.begin(Component::Subscriber(Address::new("h", 1)), "subscribing");
        health.forget(&Address::new("h", 1));
        assert_eq!((health.health(), metrics.bus.up.get()), (Health::Up, 1));
        let before = Instant::now();
        health.fault(part.clone(), "gone");
        health.fault(part, "still gone");
        let Health::Down { since, reason } = health.health() else {
            panic!()
        };
        assert!(since >= before && &*reason == "still gone");
        assert_eq!(metrics.bus.up.get(), 0);
    }
}
