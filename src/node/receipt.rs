//! What a caller hears of its publication.

use serde::Serialize;
use smol_str::SmolStr;
use uuid::Uuid;

use crate::{hub::Counts, protocol::native::Position};

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Names the publication; a UUID of version 7.
    pub id: Uuid,
    /// Connections that were meant, after exceptions: `queued` and `dropped` together.
    pub matched: u64,
    /// Connections that have it in their outbox, or on their wire.
    pub queued: u64,
    /// Connections that were too slow to be given it.
    pub dropped: u64,
    /// For how many channels or users it was stored.
    pub stored: u64,
    /// Connections for which the filter ended in an error.
    pub filter_errors: u64,
    /// Nodes whose connections are counted here.
    pub nodes: u32,
    /// Nodes that did not answer in time, or that may not have it. They may have delivered it, or not.
    pub missing_nodes: Vec<String>,
    /// Its place in each channel that stores it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Placement>,
}

/// The place of an event in a channel that stores its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The channel.
    pub channel: SmolStr,
    /// The publication.
    pub id: Uuid,
    /// Which life of the channel's numbering.
    pub epoch: String,
    /// Its number there.
    pub offset: u64,
}

impl Receipt {
    pub(super) fn new(id: Uuid) -> Self {
        Self {
            id,
            matched: 0,
            queued: 0,
            dropped: 0,
            stored: 0,
            filter_errors: 0,
            nodes: 1,
            missing_nodes: Vec::new(),
            publications: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, counts: Counts) {
        self.matched += counts.scan.matched;
        self.queued += counts.queued;
        self.dropped += counts.scan.matched - counts.queued;
        self.filter_errors += counts.scan.errors;
    }

    /// Adds what became of it on another node.
    pub(super) fn add_part(&mut self, matched: u64, queued: u64, filter_errors: u64) {
        self.matched += matched;
        self.queued += queued;
        self.dropped += matched.saturating_sub(queued);
        self.filter_errors += filter_errors;
    }

    pub(super) fn join(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.dropped += other.dropped;
        self.stored += other.stored;
        self.filter_errors += other.filter_errors;
        self.publications.extend(other.publications);
        // Parts of one call ask the same nodes.
        self.nodes = self.nodes.max(other.nodes);
        self.missing_nodes.extend(other.missing_nodes);
        self.missing_nodes.sort();
        self.missing_nodes.dedup();
    }

    /// The place of the event in the one channel that it was sent to, if that stores its events.
    pub(crate) fn position(&self) -> Option<Position> {
        let placement = self.publications.first()?;
        Some(Position {
            epoch: placement.epoch.as_str().into(),
            offset: placement.offset,
        })
    }
}
