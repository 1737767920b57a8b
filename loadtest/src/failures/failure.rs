//! The failures, and which goals do not hold for all of them.

use clap::ValueEnum;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Failure {
    /// Nothing fails: what the others are held against
    Calm,
    /// Redis is killed and started again 2 s later, with all that it had on disk
    Restart,
    /// Redis is killed and started again 2 s later, empty
    RestartEmpty,
    /// Redis stands still for 5 s (SIGSTOP)
    Stop,
    /// Every connection to Redis is ended (CLIENT KILL)
    KillClients,
    /// A primary of a Redis Cluster is killed, and its replica takes over
    ClusterFailover,
    /// A primary of a Redis Cluster hands over to its replica (CLUSTER FAILOVER)
    ClusterHandover,
    /// The primary is killed, and sentinels make its replica the primary
    SentinelFailover,
    /// The same with a replica that lags by 2 s, and publishers on nodes without members of the channel
    LaggingFailover,
    /// A node is killed
    NodeKilled,
    /// A node stands still for 20 s (SIGSTOP)
    NodePaused,
    /// Redis has no memory left for 5 s (maxmemory, noeviction)
    Memory,
    /// Subscribers stay connected to a replica that is detached from its primary
    DetachedReplica,
    /// All connections of one node to Redis, new ones too, forward nothing for 8 s, and stay open
    FrozenProxy,
    /// The open connections of one node to Redis no longer forward anything, and stay open. New ones work
    FrozenConnections,
    /// A primary of a Redis Cluster stands still for 6 s, and nothing takes over. The others serve
    ClusterPartAway,
    /// The connections for commands are ended every 100 ms for 5 s, those of subscribers stay, and members come and go
    CommandsCut,
    /// 5,000 clients join one channel with history at the same time, with 5 ms to Redis and 5 ms back
    JoinStorm,
    /// A node gets more messages than it has room for
    InboxOverflow,
    /// All nodes are cut off from Redis for longer than their leases, and a new one is the first to have it again
    NewNodeFirst,
    /// A node is killed, and another one renews its lease every 3 s only (SIGSTOP and SIGCONT in turn)
    LateLease,
    /// The nodes are drained, ended and started again, one after another
    RollingDeploy,
    /// The same, and each comes back with a rule that keeps the events of further channels
    RuleRollout,
    /// Redis evicts most of its keys (maxmemory, allkeys-lru) while half of the clients are away
    Evicting,
}

impl Failure {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it does.
    pub(crate) fn description(self) -> String {
        let value = self.to_possible_value();
        value
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Whether nodes may say without reserve that they are ready, and refuse some calls: Redis has no memory, so what it would keep
    /// is refused, and all else is delivered.
    pub(super) fn may_refuse_some(self) -> bool {
        self == Self::Memory
    }

    /// Whether clients go on where they are sent to, as they would without any failure.
    pub(super) fn is_deploy(self) -> bool {
        matches!(self, Self::RollingDeploy | Self::RuleRollout)
    }

    /// Whether clients that stay connected may be announced to have left: their node alone is away for longer than its lease.
    pub(super) fn may_end_a_lease(self) -> bool {
        matches!(self, Self::NodePaused | Self::FrozenProxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_name_and_says_what_it_does() {
        for failure in Failure::value_variants() {
            assert!(
                !failure.name().is_empty() && failure.description().len() > 10,
                "{failure:?}"
            );
        }
    }
}
