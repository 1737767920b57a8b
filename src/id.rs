//! Names of things inside a node and over the cluster.

pub(crate) use fanfare_filter::id::base32;
pub use fanfare_filter::id::{BadConnectionId, BadNodeId, ConnectionId, NodeId};

/// An app's index in the node's table; everything that belongs to an app is reached through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub u16);
