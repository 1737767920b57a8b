//! Who publishes what to whom in every failure.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
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

/// What all threads of one failure know.
#[derive(Debug)]
pub(super) struct Scene {
    /// Tells the stamps of this failure from those of others.
    pub(super) round: u16,
    pub(super) nodes: [SocketAddr; NODES],
    /// Whether [`CONFINED`] has members on one node only.
    pub(super) is_confined: bool,
    /// Nodes that do not come back.
    pub(super) is_dead: [AtomicBool; NODES],
    /// Publishers are to end.
    pub(super) is_published: AtomicBool,
    /// All else is to end.
    pub(super) is_over: AtomicBool,
    /// Events a second of each publisher.
    pub(super) rate: u32,
}

impl Scene {
    pub(super) fn new(
        round: u16,
        nodes: [SocketAddr; NODES],
        rate: u32,
        is_confined: bool,
    ) -> Self {
        let (is_published, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self {
            round,
            nodes,
            is_confined,
            is_dead: Default::default(),
            is_published,
            is_over,
            rate,
        }
    }

    /// Whether subscribers that begin at `node` are in `channel`.
    pub(super) fn is_for(&self, channel: usize, node: usize) -> bool {
        node == HOME || self.is_for_all(channel)
    }

    /// Whether every subscriber is in `channel`.
    pub(super) fn is_for_all(&self, channel: usize) -> bool {
        !self.is_confined || channel != CONFINED
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
