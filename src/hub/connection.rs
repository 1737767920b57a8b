//! What the hub knows about one connection.

use std::{num::NonZeroU64, sync::Arc};

use crate::{
    id::{AppId, ConnectionId},
    predicate::{Attributes, Value},
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

/// An immutable view of one connection; renewal replaces it whole.
#[derive(Debug)]
pub struct Connection {
    /// The app that it belongs to.
    pub app: AppId,
    /// What filters see.
    pub attributes: Attributes,
    /// When its token ends, in Unix seconds.
    pub expires_at: Option<NonZeroU64>,
}

impl Connection {
    /// Its name in the cluster.
    pub fn id(&self) -> ConnectionId {
        self.attributes.connection.id
    }

    /// The authenticated user, if any.
    pub fn user(&self) -> Option<&str> {
        match &self.attributes.user {
            Value::String(user) => Some(user),
            _ => None,
        }
    }

    /// The device that the client named, if any.
    pub fn device(&self) -> Option<&str> {
        self.attributes.connection.device.as_deref()
    }
}

/// How a connection stands.
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

/// A connection as `GET /v1/connections` shows it, and `emit_where` sees it.
pub(crate) type Snapshot = Arc<Connection>;
