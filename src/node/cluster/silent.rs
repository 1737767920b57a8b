//! Nodes that did not answer in time: what is told to clients does not wait for them again until they are heard of.

use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::{id::NodeId, limits::SILENT_AT_LEAST};

/// The nodes that are not waited for.
#[derive(Debug, Default)]
pub(super) struct Silent(Mutex<AHashMap<NodeId, Silence>>);

#[derive(Debug)]
struct Silence {
    since: Instant,
    until: Instant,
    /// For how long an answer was waited for.
    patience: Duration,
}

impl Silent {
    /// Whether `node` is not waited for by who has this `patience`: whoever has more may get an answer.
    pub(super) fn holds(&self, node: NodeId, patience: Duration) -> bool {
        let silent = self.0.lock();
        silent
            .get(&node)
            .is_some_and(|silence| Instant::now() < silence.until && patience <= silence.patience)
    }

    /// Notes nodes that did not answer within `patience`, for `time` at most.
    pub(super) fn note(
        &self,
        nodes: impl Iterator<Item = NodeId>,
        patience: Duration,
        time: Duration,
    ) {
        let since = Instant::now();
        let mut silent = self.0.lock();
        silent.retain(|_, silence| silence.until > since);
        let until = since + time;
        let silence = |node| {
            let silence = Silence {
                since,
                until,
                patience,
            };
            (node, silence)
        };
        silent.extend(nodes.map(silence));
    }

    /// Notes that a node was heard of. What it had to say late anyway does not count: a node that is slow is asked again once in
    /// [`SILENT_AT_LEAST`].
    pub(super) fn heard(&self, node: NodeId) {
        let mut silent = self.0.lock();
        if silent
            .get(&node)
            .is_some_and(|silence| silence.since.elapsed() >= SILENT_AT_LEAST)
        {
            silent.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn who_does_not_answer_is_not_asked_for_a_while() {
        let silent = Silent::default();
        silent.note([NodeId(1)].into_iter(), SHORT, Duration::from_hours(1));
        silent.note([NodeId(2)].into_iter(), SHORT, Duration::ZERO);
        let holds = |node| silent.holds(NodeId(node), SHORT);
        assert!(holds(1) && !holds(2) && !holds(3));
        assert!(!silent.holds(NodeId(1), 2 * SHORT), "it may take longer");
    }

    #[test]
    fn who_is_heard_of_later_is_asked_again() {
        let silent = Silent::default();
        let two = [NodeId(1), NodeId(2)].into_iter();
        silent.note(two, SHORT, Duration::from_hours(1));
        let holds = |node| silent.holds(NodeId(node), SHORT);
        silent.heard(NodeId(1));
        assert!(holds(1), "that was a late answer");
        for silence in silent.0.lock().values_mut() {
            silence.since = silence.since.checked_sub(SILENT_AT_LEAST).unwrap();
        }
        silent.heard(NodeId(1));
        assert!(!holds(1) && holds(2));
    }
}
