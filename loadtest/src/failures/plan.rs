//! Who publishes what to whom in every failure.

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Nodes; each has a publisher, and subscribers.
pub(super) const NODES: usize = 3;

/// Channels, of which the even ones keep their events. Enough that every shard of a Redis Cluster has some.
pub(super) const CHANNELS: usize = 12;

/// The pattern of those that keep their events.
pub(super) const KEPT: &str = "kept-*";

/// The channel that only subscribers of [`HOME`] are in, where a failure is about nodes that have no member of a channel.
/// It keeps its events.
pub(super) const CONFINED: usize = 2;

/// The node whose subscribers are in [`CONFINED`].
pub(super) const HOME: usize = 0;

/// The channels whose members every subscriber follows by notices: one that keeps its events, and one that does not.
pub(super) const WATCHED: usize = 2;

/// Signs the clients' tokens.
pub(super) const SECRET: &str = "failure-matrix-secret-0123456789abcdef";

/// The name of a channel.
pub(super) fn channel(number: usize) -> String {
    format!("{}-{number}", if keeps(number) { "kept" } else { "live" })
}

/// Whether a channel keeps its events.
pub(super) fn keeps(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// The number of the channel of this name.
pub(super) fn number(channel: &str) -> Option<usize> {
    channel
        .rsplit_once('-')?
        .1
        .parse()
        .ok()
        .filter(|&number| number < CHANNELS)
}

/// The stream of a stamp: who published, and where.
pub(super) fn stream(publisher: usize, channel: usize) -> u16 {
    (publisher * CHANNELS + channel) as u16
}

/// Publisher and channel of a stream.
pub(super) fn of_stream(stream: u16) -> (usize, usize) {
    (
        usize::from(stream) / CHANNELS,
        usize::from(stream) % CHANNELS,
    )
}

/// What a failure asks of those who take part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// Events a second of each publisher.
    pub(super) rate: u32,
    /// Whether [`CONFINED`] has members on one node only.
    pub(super) is_confined: bool,
    /// Whether clients that come back resume what they had, and wait for as long as they are told to.
    pub(super) do_resume: bool,
    /// Whether times are measured that many other threads must not make longer: those that measure have a processor first.
    pub(super) is_timed: bool,
}

/// What all threads of one failure know.
#[derive(Debug)]
pub(super) struct Scene {
    /// Tells the stamps of this failure from those of others.
    pub(super) round: u16,
    pub(super) nodes: [SocketAddr; NODES],
    pub(super) manners: Manners,
    /// Another node, which was started while it happened.
    pub(super) newcomer: OnceLock<SocketAddr>,
    /// Every other subscriber stays away.
    pub(super) is_half_away: AtomicBool,
    /// Nodes that do not come back.
    pub(super) is_dead: [AtomicBool; NODES],
    /// Publishers are to end.
    pub(super) is_published: AtomicBool,
    /// All else is to end.
    pub(super) is_over: AtomicBool,
}

impl Scene {
    pub(super) fn new(round: u16, nodes: [SocketAddr; NODES], manners: Manners) -> Self {
        Self {
            round,
            nodes,
            manners,
            newcomer: OnceLock::new(),
            is_half_away: AtomicBool::new(false),
            is_dead: Default::default(),
            is_published: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// The nodes that are to be there, those that came later included.
    pub(super) fn living(&self) -> impl Iterator<Item = SocketAddr> {
        let first = (0..NODES).filter(|&node| !self.is_dead(node));
        first
            .map(|node| self.nodes[node])
            .chain(self.newcomer.get().copied())
    }

    /// Whether the subscriber `number` is to stay away now.
    pub(super) fn is_away(&self, number: usize) -> bool {
        number.is_multiple_of(2) && self.is_half_away.load(Relaxed)
    }

    /// Whether subscribers that begin at `node` are in `channel`.
    pub(super) fn is_for(&self, channel: usize, node: usize) -> bool {
        node == HOME || self.is_for_all(channel)
    }

    /// Whether every subscriber is in `channel`.
    pub(super) fn is_for_all(&self, channel: usize) -> bool {
        !self.manners.is_confined || channel != CONFINED
    }

    pub(super) fn is_dead(&self, node: usize) -> bool {
        self.is_dead[node].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_names_lead_back() {
        for publisher in 0..NODES {
            for number in 0..CHANNELS {
                assert_eq!(of_stream(stream(publisher, number)), (publisher, number));
                assert_eq!(super::number(&channel(number)), Some(number));
            }
        }
        assert_eq!(number("kept-99"), None);
    }
}
