//! Stored events as bytes: in the stream, and on the bus.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    history::{EchoOmission, Omit},
    protocol::event::Draft,
};

/// The first byte of a record: the version from which on nodes read this form, as in [`crate::protocol::envelope`]. A node skips, and
/// counts, what is newer.
const VERSION: u8 = 1;

/// Version of the envelope on the bus, and its kind for stored events.
#[cfg(test)]
const PUBLISHED: [u8; 2] = [1, 2];

/// A record: the version, the event's id, its frame without the offset as it was encoded once.
pub(in crate::history) fn encode(id: Uuid, draft: &Draft) -> Bytes {
    let mut record = BytesMut::with_capacity(17 + draft.len());
    record.put_u8(VERSION);
    record.put_slice(id.as_bytes());
    record.put_slice(draft.bytes());
    record.freeze()
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub(in crate::history) fn decode(record: &[u8]) -> Option<(Uuid, Draft)> {
    let (head, frame) = record.split_first_chunk::<17>()?;
    let (version, id) = head.split_first()?;
    let draft = Draft::from_encoded(frame).filter(|_| *version == VERSION)?;
    Some((Uuid::from_slice(id).ok()?, draft))
}

/// [`Omit`] as JSON. A version that leaves out somebody in a new way adds a field, and this one skips the event then.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Omitted {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connections: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Sender>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sender {
    user: Option<String>,
    device: Option<String>,
    connection: String,
}

/// Whom an event leaves out; nothing if that is nobody.
pub(in crate::history) fn encode_omit(omit: &Omit) -> Bytes {
    let sender = omit.sender.as_ref().map(|sender| Sender {
        user: sender.user.as_deref().map(Into::into),
        device: sender.device.as_deref().map(Into::into),
        connection: sender.connection.to_string(),
    });

    if omit.names() == 0 && sender.is_none() {
        return Bytes::new();
    }

    let omitted = Omitted {
        users: omit.users.iter().cloned().collect(),
        devices: omit.devices.iter().cloned().collect(),
        connections: omit.connections.iter().map(ToString::to_string).collect(),
        sender,
    };

    // Strings in vectors always serialize.
    serde_json::to_vec(&omitted).unwrap_or_default().into()
}

/// Reads what [`encode_omit`] wrote; `None` for anything else.
pub(in crate::history) fn decode_omit(omit: &[u8]) -> Option<Omit> {
    let Omitted {
        users,
        devices,
        connections,
        sender,
    } = serde_json::from_slice(omit).ok()?;

    let sender = match sender {
        None => None,
        Some(sender) => Some(EchoOmission {
            user: sender.user.map(Into::into),
            device: sender.device.map(Into::into),
            connection: sender.connection.parse().ok()?,
        }),
    };

    Some(Omit {
        users: users.into_iter().collect(),
        devices: devices.into_iter().collect(),
        connections: connections
            .iter()
            .map(|id| id.parse().ok())
            .collect::<Option<_>>()?,
        sender,
    })
}

/// What the publication of a stored event says: the event's position, and the publisher's own bytes
/// ([`crate::history::New::tail`]). `None` for any other publication.
///
/// On the bus that is one byte each for version (1) and kind (2), the epoch in 8 bytes, the offset in 8 bytes big-endian,
/// then the publisher's.
#[cfg(test)]
pub(super) fn published(payload: &Bytes) -> Option<(crate::history::Position, Bytes)> {
    use crate::history::{Epoch, Position};
    let (head, _) = payload.split_first_chunk::<18>()?;
    let (kind, head) = head.split_first_chunk::<2>()?;
    let (epoch, offset) = head.split_first_chunk::<8>()?;
    let position = Position {
        epoch: Epoch::from_bytes(*epoch),
        offset: u64::from_be_bytes(offset.try_into().ok()?),
    };
    (*kind == PUBLISHED).then(|| (position, payload.slice(18..)))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::history::{Epoch, Position};
    use crate::{
        id::{ConnectionId, NodeId},
        protocol::event::{Data, Event, Marks},
    };

    #[test]
    fn a_record_is_read_back_and_one_of_another_version_is_not() {
        let id = Uuid::now_v7();
        let draft = Event::new("e", Data::Bytes(Cow::Borrowed(&[0, 255])))
            .unwrap()
            .draft(&Marks::default());
        let record = encode(id, &draft);
        let (read_id, read) = decode(&record).unwrap();
        assert_eq!((read_id, read.bytes()), (id, draft.bytes()));
        let mut newer = record.to_vec();
        newer[0] = 2;
        for wrong in [
            &newer[..],
            &record[..record.len() - 1],
            &record[..17],
            &record[..3],
            &[],
        ] {
            assert!(decode(wrong).is_none(), "{wrong:?}");
        }
    }

    fn connection(nonce: u64) -> ConnectionId {
        ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce,
        }
    }

    #[test]
    fn who_is_left_out_is_read_back() {
        assert!(encode_omit(&Omit::default()).is_empty());
        let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
        let sender = |user: Option<&str>, device: Option<&str>| EchoOmission {
            user: user.map(Into::into),
            device: device.map(Into::into),
            connection: connection(9),
        };
        for omit in [
            Omit {
                users: names(&["a\"b", ""]),
                ..Omit::default()
            },
            Omit {
                devices: names(&["d"]),
                sender: Some(sender(None, None)),
                ..Omit::default()
            },
            Omit {
                connections: [connection(1), connection(2)].into_iter().collect(),
                sender: Some(sender(Some("u"), Some("d"))),
                ..Omit::default()
            },
        ] {
            assert_eq!(decode_omit(&encode_omit(&omit)), Some(omit));
        }
        for wrong in [
            "",
            "1",
            r#"{"groups":["g"]}"#,
            r#"{"connections":["x"]}"#,
            r#"{"users":[1]}"#,
        ] {
            assert_eq!(decode_omit(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_publication_says_where_its_event_stands() {
        let epoch = Epoch::random();
        let head = [&PUBLISHED[..], &epoch.to_bytes(), &7u64.to_be_bytes()].concat();
        let payload = Bytes::from([&head[..], b"tail"].concat());
        assert_eq!(
            published(&payload),
            Some((Position { epoch, offset: 7 }, "tail".into()))
        );
        assert_eq!(
            published(&head.clone().into()).map(|(_, tail)| tail),
            Some(Bytes::new())
        );
        let other = [&[1, 1], &head[2..]].concat();
        for wrong in [&head[..17], &other, &[]] {
            assert_eq!(published(&Bytes::copy_from_slice(wrong)), None, "{wrong:?}");
        }
    }
}
