//! Names of nodes and of connections, which filters may name too.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};

/// Names one node of the cluster; random at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// A new random id.
    #[inline]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128() as u32)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0.to_be_bytes()))
    }
}

/// The text is not a node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node id")]
pub struct BadNodeId;

impl FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<Self, BadNodeId> {
        let bytes = base32().decode(text.as_bytes()).map_err(|_| BadNodeId)?;
        bytes
            .try_into()
            .map(|bytes| Self(u32::from_be_bytes(bytes)))
            .map_err(|_| BadNodeId)
    }
}

/// Names a connection, unique over the cluster: where it lives (node, shard, slot) and 64 random bits.
///
/// Finding a connection by its id so needs no index; the random part makes an id of a slot's former tenant
/// miss, and ids impossible to guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The node that holds the socket.
    pub node: NodeId,
    /// The shard on that node.
    pub shard: u8,
    /// The slot in that shard; below 2^24.
    pub slot: u32,
    /// Random; distinguishes tenants of one slot.
    pub nonce: u64,
}

impl ConnectionId {
    /// Bytes of the textual form.
    pub const TEXT_LEN: usize = 26;

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.slot.to_be_bytes());
        // A slot is below 2^24, which leaves its first byte to the shard.
        bytes[4] = self.shard;
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.to_bytes()))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

/// The text is not a connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a connection id")]
pub struct BadConnectionId;

impl FromStr for ConnectionId {
    type Err = BadConnectionId;

    fn from_str(text: &str) -> Result<Self, BadConnectionId> {
        let bytes = base32()
            .decode(text.as_bytes())
            .map_err(|_| BadConnectionId)?;
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| BadConnectionId)?;
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };

        Ok(Self {
            node: NodeId(word(0)),
            shard: bytes[4],
            slot: word(4) & 0x00ff_ffff,
            nonce: u64::from(word(8)) << 32 | u64::from(word(12)),
        })
    }
}

/// Crockford's alphabet in lower case: no letter that is taken for a digit, safe in URLs and shells.
#[doc(hidden)]
#[inline]
pub fn base32() -> &'static Encoding {
    static ENCODING: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        // These 32 characters are a valid alphabet, so this never falls back.
        spec.encoding().unwrap_or(data_encoding::BASE32HEX_NOPAD)
    });
    &ENCODING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_survives_its_text() {
        let id = ConnectionId {
            node: NodeId(0xdead_beef),
            shard: 7,
            slot: 0x00ab_cdef,
            nonce: 0x0123_4567_89ab_cdef,
        };
        let text = id.to_string();
        assert_eq!(text.len(), ConnectionId::TEXT_LEN);
        assert_eq!(text.parse(), Ok(id));
        for bad in [
            "",
            "x",
            "zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "UUUUUUUUUUUUUUUUUUUUUUUUUU",
        ] {
            assert_eq!(bad.parse::<ConnectionId>(), Err(BadConnectionId), "{bad}");
        }
    }
}
