//! What a filter sees of one connection.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::{
    layout::{Map, MapKey},
    tally,
    value::Value,
};
use crate::id::ConnectionId;

/// The variables of one connection; `params` come with the request.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The claims of its token; null if it is anonymous.
    pub auth: Value,
    /// Who it is: a string, or null.
    pub user: Value,
    /// What it says about itself; null if it has said nothing.
    pub profile: Value,
    /// The names of its channels: a list of strings.
    pub channels: Value,
    /// What the server knows about the socket.
    pub connection: ConnectionInfo,
}

impl Attributes {
    /// Those of a connection that has neither authenticated nor said or joined anything.
    #[inline]
    pub fn new(connection: ConnectionInfo) -> Self {
        let none = Value::List(Arc::default());
        Self {
            auth: Value::Null,
            user: Value::Null,
            profile: Value::Null,
            channels: none,
            connection,
        }
    }
}

/// What a filter sees of one connection, with its claims at hand: who keeps them where the processor looks first spares a
/// scan a wait for memory.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The same as in `attributes`.
    pub auth: &'a Value,
    /// Everything.
    pub attributes: &'a Attributes,
}

impl<'a> From<&'a Attributes> for View<'a> {
    #[inline]
    fn from(attributes: &'a Attributes) -> Self {
        Self {
            auth: &attributes.auth,
            attributes,
        }
    }
}

/// `connection.*`. Values are built when a filter asks for one, so that no connection holds them twice.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// `connection.id`, as text.
    pub id: ConnectionId,
    /// `connection.device`: chosen by the client; null if it named none.
    pub device: Option<SmolStr>,
    /// `connection.ip`, as text.
    pub ip: IpAddr,
    /// `connection.protocol`.
    pub protocol: &'static str,
    /// `connection.connected_at`, in Unix seconds.
    pub connected_at: u32,
    /// `connection.node`.
    pub node: Arc<str>,
}

/// One member of `connection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionField {
    Id,
    Device,
    Ip,
    Protocol,
    ConnectedAt,
    Node,
}

impl ConnectionField {
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("id", Self::Id),
        ("device", Self::Device),
        ("ip", Self::Ip),
        ("protocol", Self::Protocol),
        ("connected_at", Self::ConnectedAt),
        ("node", Self::Node),
    ];

    /// What building its value is charged: some are written out as text.
    pub(super) fn work(self) -> usize {
        match self {
            Self::Id | Self::Ip => 128,
            Self::Device | Self::Protocol | Self::ConnectedAt | Self::Node => 0,
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(have, _)| *have == name)
            .map(|(_, fact)| *fact)
    }
}

impl ConnectionInfo {
    pub(super) fn get(&self, fact: ConnectionField) -> Value {
        // Counted in tests only, which compare it with what `work` charges.
        tally::add(match fact {
            ConnectionField::Id | ConnectionField::Ip => 100,
            _ => 5,
        });
        match fact {
            ConnectionField::Id => Value::String(self.id.to_string().into()),
            ConnectionField::Device => self.device.clone().into(),
            ConnectionField::Ip => Value::String(self.ip.to_string().into()),
            ConnectionField::Protocol => self.protocol.into(),
            ConnectionField::ConnectedAt => Value::Int(self.connected_at.into()),
            ConnectionField::Node => Value::String(self.node.clone().into()),
        }
    }

    /// What [`ConnectionInfo::to_value`] is charged: ten or so pieces of memory.
    pub(super) const WORK: usize = 1024;

    /// All of them as a map: the value of `connection` itself.
    #[inline]
    pub fn to_value(&self) -> Value {
        let members = ConnectionField::ALL
            .iter()
            .map(|(name, fact)| (MapKey::String((*name).into()), self.get(*fact)));
        Value::Map(Map::new(members.collect(), None))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::id::NodeId;

    pub(crate) fn facts() -> ConnectionInfo {
        ConnectionInfo {
            id: ConnectionId {
                node: NodeId(1),
                shard: 2,
                slot: 3,
                nonce: 4,
            },
            device: Some("phone".into()),
            ip: IpAddr::from([192, 0, 2, 1]),
            protocol: "fanfare.v1",
            connected_at: 1_700_000_000,
            node: "n1".into(),
        }
    }

    #[test]
    fn connection_is_a_map_of_what_it_gives_one_by_one() {
        let facts = facts();
        let whole = facts.to_value();
        for (name, fact) in ConnectionField::ALL {
            assert_eq!(whole.get(name), &facts.get(fact), "{name}");
            assert_eq!(ConnectionField::named(name), Some(fact));
        }
        assert_eq!(
            whole.as_map().map(Map::len),
            Some(ConnectionField::ALL.len())
        );
    }
}
