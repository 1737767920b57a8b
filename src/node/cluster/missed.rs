//! What this node does about messages that it may have missed ([`Gaps`](crate::bus::Gaps) has the states of a topic).
//!
//! Once a second at most it takes what was missed, puts what depends on that in doubt, and has it fetched: of several topics at
//! the same time, and again only of those that could not be had.

use std::sync::Arc;

use tokio::{task::JoinSet, time::sleep};

use super::{Cluster, durable::topic};
use crate::{
    bus::{Gap, Topic, jitter},
    limits::{GAP_JITTER, GAPS_EVERY, RECOVER_AGAIN},
    metrics::Metrics,
};

/// Fetches what was missed of several topics at the same time.
pub(super) struct Fetches<'a> {
    at_once: usize,
    under_way: JoinSet<bool>,
    is_whole: bool,
    metrics: &'a Metrics,
}

impl<'a> Fetches<'a> {
    /// Begins without any, of which `at_once` may be under way at the same time.
    pub(super) fn new(at_once: usize, metrics: &'a Metrics) -> Self {
        Self {
            at_once,
            under_way: JoinSet::new(),
            is_whole: true,
            metrics,
        }
    }

    /// Begins one, once there is room for it. It resolves with false if something could not be had. Runs on a `LocalSet`.
    pub(super) async fn begin(&mut self, fetch: impl Future<Output = bool> + 'static) {
        if self.under_way.len() >= self.at_once {
            self.end_one().await;
        }
        self.under_way.spawn_local(fetch);
    }

    /// Waits for all of them. False if something could not be had.
    pub(super) async fn end(mut self) -> bool {
        while self.end_one().await {}
        self.is_whole
    }

    async fn end_one(&mut self) -> bool {
        let Some(done) = self.under_way.join_next().await else {
            return false;
        };
        // One that panicked has fetched nothing.
        let is_had = done.unwrap_or(false);
        self.is_whole &= is_had;
        let fetches = &self.metrics.bus.fetches;
        fetches[usize::from(!is_had)].inc();
        true
    }
}

/// Waits before what could not be had is asked for again: not all nodes at the same time.
pub(super) async fn before_fetching_again() {
    sleep(RECOVER_AGAIN / 2 + jitter(RECOVER_AGAIN)).await;
}

impl Cluster {
    /// Sees to what may have been missed, until the runtime ends.
    pub(super) async fn run_gap_checks(self: Arc<Self>) {
        loop {
            let gap = self.bus.gaps().next().await;
            self.suspect(&gap).await;
            // Not before: stored events of these topics are held back until all that depends on
            // them is in doubt.
            drop(gap);
            sleep(GAPS_EVERY).await;
        }
    }

    /// Puts all that depends on what was missed in doubt, and nothing else.
    async fn suspect(&self, gap: &Gap<'_>) {
        let partitions = gap.partitions();
        if gap.is_loss() {
            tracing::warn!(
                partitions,
                "events of other nodes may have been missed; stored ones are fetched"
            );
            // Readiness waits for a lease that was not renewed in the meantime.
            if gap.has_lost_server_of(&Topic::Nodes) {
                self.membership.renew_now();
            }
            // All nodes have lost the same server, and must not ask it for everything together.
            sleep(jitter(GAP_JITTER)).await;
        } else if gap.topics().len() > 0 {
            tracing::warn!(
                topics = gap.topics().len(),
                partitions,
                "more messages of other nodes came than this node takes in (limits.bus_inbox_messages, limits.bus_inbox_bytes); stored events among them are fetched"
            );
        }

        let is_tainted = |topic: &Topic| gap.concerns(topic) || gap.begins(topic);
        self.replicator.taint(|key| is_tainted(&topic(key))).await;

        // With a first connection that is all: users who came before it are in doubt, and nothing of others was heard yet.
        if !gap.is_loss() && gap.topics().len() == 0 {
            return;
        }

        self.stored.suspect_stored(gap).await;
        if gap.has_lost_server_of(&Topic::Node(self.node)) {
            self.roster.check();
        }

        self.suspect_peer_counts(gap);
        let is_of_mesa = |topic: &Topic| matches!(topic, Topic::Mesa(_) | Topic::Raw(_));
        if gap.is_loss() || gap.topics().any(is_of_mesa) {
            self.mesa_missed.send_replace(());
        }
    }

    /// Asks other nodes what they have in watched channels of which a notice may have been missed.
    fn suspect_peer_counts(&self, gap: &Gap<'_>) {
        // Another node's word that all are to be looked at may be among what was missed.
        let are_all = gap.concerns(&Topic::Nodes);
        self.notices.suspected_gap(|app, channel| {
            are_all || gap.concerns(&Topic::Watch(app, channel.clone()))
        });
    }
}
