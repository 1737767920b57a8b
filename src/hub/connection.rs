//! What the hub knows about one connection.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use smol_str::SmolStr;

use crate::{
    auth::Rights,
    filter::{Attributes, Value},
    history::Reader,
    id::{AppId, ConnectionId},
};

/// Names a connection inside one shard, for whatever outlives the shard's lock.
///
/// A slot is used again; the generation makes a reference to its former tenant miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotRef {
    /// Place in the shard's table.
    pub(crate) slot: u32,
    /// Which tenant of that place.
    pub(crate) generation: u32,
}

/// Where a page of a node's connections begins, in the order of shards and slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageCursor {
    pub(crate) shard: usize,
    pub(crate) slot: u32,
}

/// An immutable view of one connection; whatever changes about it replaces it whole.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The app that it belongs to.
    pub app: AppId,
    /// What filters see.
    pub attributes: Attributes,
    /// What its client may do.
    pub rights: Arc<Rights>,
    /// When its token ends, in Unix seconds.
    pub expires_at: Option<NonZeroU64>,
    /// When its token was issued, in Unix seconds, if the token says so.
    pub issued_at: Option<NonZeroU32>,
    /// Since when its claims and rights are others than its token's, in Unix seconds: the API replaced them. Tokens that
    /// were issued before that do not renew it.
    pub replaced_at: Option<NonZeroU32>,
    /// Whether it takes stored events, and so confirms them.
    pub takes_stored: bool,
}

impl Connection {
    /// One that has not authenticated and takes no stored events.
    pub(crate) fn new(app: AppId, attributes: Attributes, rights: Arc<Rights>) -> Self {
        Self {
            app,
            attributes,
            rights,
            expires_at: None,
            issued_at: None,
            replaced_at: None,
            takes_stored: false,
        }
    }

    /// Its name in the cluster.
    pub fn id(&self) -> ConnectionId {
        self.attributes.connection.id
    }

    /// It as the store of events knows it, which leaves some out of an event's readers.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            user: self.user(),
            device: self.device(),
            connection: self.id(),
        }
    }

    /// The claim `name` of its token; null if there is none.
    pub fn claim(&self, name: &str) -> &Value {
        self.attributes.auth.get(name)
    }

    /// The authenticated user, if any.
    pub fn user(&self) -> Option<&str> {
        self.attributes.user.as_str()
    }

    /// The authenticated user as a text that is cheap to clone.
    pub(crate) fn user_name(&self) -> Option<&SmolStr> {
        match &self.attributes.user {
            Value::String(user) => Some(user),
            _ => None,
        }
    }

    /// The device that the client named, if any.
    pub fn device(&self) -> Option<&str> {
        self.attributes.connection.device.as_deref()
    }

    /// When its token was issued, as [`Verified`](crate::auth::Verified) has it.
    pub(crate) fn token_issued_at(&self) -> Option<u64> {
        self.issued_at.map(|at| u64::from(at.get()))
    }

    /// The names of its channels, in the order in which it joined them.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.channel_names().map(|name| &**name)
    }

    /// The names of its channels as texts that are cheap to clone.
    pub(crate) fn channel_names(&self) -> impl Iterator<Item = &SmolStr> {
        self.attributes
            .channels
            .as_list()
            .unwrap_or_default()
            .iter()
            .filter_map(|name| match name {
                Value::String(name) => Some(name),
                _ => None,
            })
    }

    /// Whether it is in `channel`.
    pub fn is_in(&self, channel: &str) -> bool {
        self.channels().any(|name| name == channel)
    }

    /// What the client says about itself, if anything.
    pub fn profile(&self) -> Option<&Value> {
        Some(&self.attributes.profile).filter(|profile| !profile.is_null())
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot has no tenant.
    Free,
    /// Connected, and not yet authenticated where that is required: reached by nothing.
    Pending,
    /// Reached by what matches it.
    Open,
    /// Its last frames are on their way; nothing more is placed.
    Closing,
}

/// A connection as look-ups show it, and `emit_where` sees it.
pub(crate) type Snapshot = Arc<Connection>;
