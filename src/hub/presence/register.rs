//! Changes of members on their way to the node's list of them in Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use smol_str::SmolStr;
use tokio::sync::mpsc;

use super::Presence;
use crate::{
    hub::connection::Snapshot,
    id::{AppId, ConnectionId},
};

/// A change of who is in a channel, or of what is known of them, for the node's list of members.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) app: AppId,
    pub(crate) channel: SmolStr,
    /// The member before or after the change: its channels may lack this one, or still have it.
    pub(crate) member: Snapshot,
    pub(crate) listing: Listing,
}

/// What becomes of a member in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// It is in the channel.
    In {
        /// It hears of the others.
        watches: bool,
        /// The lost connection that it stands in for.
        previous: Option<ConnectionId>,
    },
    /// It is not any longer.
    Out {
        /// Nobody comes back in its place to any channel.
        is_over: bool,
    },
}

impl Listing {
    /// A member is one still, and hears of the others or not.
    pub(super) fn watches(watches: bool) -> Self {
        Self::In {
            watches,
            previous: None,
        }
    }
}

/// Takes changes in their order, as many as may wait; the reader learns that some were lost.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    changes: mpsc::Sender<Change>,
    lost: Arc<AtomicBool>,
    noted: Arc<AtomicU64>,
}

impl Register {
    /// A register in which `bound` changes may wait, and its other end.
    pub(crate) fn new(bound: usize) -> (Self, mpsc::Receiver<Change>) {
        let (changes, end) = mpsc::channel(bound);
        (
            Self {
                changes,
                lost: Arc::default(),
                noted: Arc::default(),
            },
            end,
        )
    }

    fn note(&self, change: Change) {
        // Nothing waits under a shard's lock. The list is written whole again where changes were
        // lost.
        if self.changes.try_send(change).is_err() {
            self.lost.store(true, Relaxed);
        } else {
            self.noted.fetch_add(1, Relaxed);
        }
    }

    /// How many changes were noted so far, without those that were lost.
    pub(crate) fn noted(&self) -> u64 {
        self.noted.load(Relaxed)
    }

    /// Whether changes were lost since the last call.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.swap(false, Relaxed)
    }
}

impl Presence {
    /// Has the node's list of members changed, if there is one.
    pub(super) fn note(&self, channel: &SmolStr, member: &Snapshot, listing: Listing) {
        if let Some(register) = &self.register {
            register.note(Change {
                app: self.app,
                channel: channel.clone(),
                member: member.clone(),
                listing,
            });
        }
    }
}
