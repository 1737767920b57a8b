//! What nodes say to each other over the bus: an encoded event with whom it is for, a request, an answer.
//!
//! One version byte, one byte for the kind; of a stored event its epoch and its offset, 8 bytes each; then the length
//! of the header (4 bytes), the header as JSON, and the event's frame as clients get it. Numbers are big-endian.
//!
//! The version byte is the first version whose nodes read the message. A node reads all versions from [`OLDEST`] to [`VERSION`].
//! It skips and counts what is newer. It writes no version that is newer than what every living node reads
//! (`node::cluster::leases`), so nodes of two versions run beside each other while one replaces the other.
//!
//! | version | what is new |
//! | --- | --- |
//! | 1 | |
//! | 2 | Notices carry the share of their origin, and go to the topic of the channel's watchers alone. `Done` names several messages. |
//!
//! To change a message: raise [`VERSION`], write the new form only from that version on, and read both. Record the new form
//! (`tests/cluster/rollout.rs`). Once no supported version needs a form, raise [`OLDEST`] and remove it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;
use uuid::Uuid;

use super::{
    event::{Draft, Exceptions},
    frame::Frame,
    native::{Changes, MemberKind},
};

/// The newest version that this node reads, and that it writes if every other node reads it too.
pub const VERSION: u8 = 2;

/// The oldest version that this node reads and can write.
pub const OLDEST: u8 = 1;

/// The version from which on nodes read events, requests and answers.
const COMMON: u8 = 1;

/// The version from which on notices carry shares.
pub const NOTICES_WITH_SHARES: u8 = 2;

/// The version from which on one request may name several messages of programs that are done.
pub const DONE_TOGETHER: u8 = 2;

const EVENT: u8 = 1;
const STORED: u8 = 2;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
const NOTICES: u8 = 5;

/// Why a message of the bus is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A newer node, or an older one, speaks so.
    #[error("version {0} of the nodes' messages is not known here")]
    Version(u8),
    /// Not written by a node.
    #[error("a message of another node has no readable {0}")]
    Malformed(&'static str),
}

/// Whom an event or an order is for, as nodes say it to each other: by names and source texts, since each node looks up
/// and compiles for itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WireTarget {
    /// The union of what is named; none is everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Names>,
    /// The text of the filter that narrows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The filter's `params`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
    /// Who does not get it.
    #[serde(default, skip_serializing_if = "Exceptions::is_empty")]
    pub except: Exceptions,
}

/// Users, channels and connections by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// All connections of these users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// All members of these channels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// These connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<String>,
}

/// What goes before an event's frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header<'a> {
    /// The node that sends it.
    pub origin: u32,
    /// The publication.
    pub id: Uuid,
    /// The name of the app.
    #[serde(borrow)]
    pub app: Cow<'a, str>,
    /// The connections that it is for.
    // The name on the wire stays, since nodes of version 1 read it.
    #[serde(rename = "aim")]
    pub wire_target: WireTarget,
    /// It was sent to several topics, and is to be delivered once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub many: bool,
    /// The node that sends it will ask what became of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub receipt: bool,
}

/// A message of the bus, understood.
#[derive(Debug)]
pub enum Envelope<'a> {
    /// An event that is not stored.
    Event {
        /// Its target.
        header: Header<'a>,
        /// The event, encoded.
        frame: Frame,
    },
    /// An event that the history has, and its place there.
    Durable {
        /// The numbering of the history.
        epoch: u64,
        /// The event's number within it.
        offset: u64,
        /// Its target.
        header: Header<'a>,
        /// The event, encoded without its offset.
        draft: Draft,
    },
    /// Something asked of this node.
    Request(WireRequest<'a>),
    /// The answer to a request of this node.
    Answer(Answer<'a>),
    /// What has become of members of a channel on another node.
    Notices(Notices),
}

/// What has become of members of a channel on one node, for those who watch it on others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notices {
    /// The node that had the members.
    pub origin: u32,
    /// The name of the app.
    pub app: String,
    /// The channel.
    pub channel: String,
    /// What has become of each of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberNotice>,
    /// Changes that are given as counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// What the node has in the channel after them. A node of version 1 does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// The node is gone, and another one says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_gone: bool,
    /// For nodes of version 1: the others get the same by the topic of those who watch.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_copy: bool,
}

/// What one node has in a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Of two shares of a node the one with the greater number is newer.
    pub at: u64,
    /// Connections in the channel.
    pub connections: u64,
    /// Their different users.
    pub users: u64,
    /// How often users are there; absent if they are too many to be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tallies: Option<Vec<UserShare>>,
    /// These are all users, and not only those for whom it has changed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_whole: bool,
}

/// A user, its open connections in a channel on one node, and the lost ones that may come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserShare(pub SmolStr, pub u32, pub u32);

/// What has become of one member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberNotice {
    /// What has become of it.
    pub kind: MemberKind,
    /// The connection.
    pub id: String,
    /// Its user; `None` if it is anonymous.
    pub user: Option<String>,
    /// Its profile, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The connection whose place it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The node of that one has ended, and may still be thought to have it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_inherited: bool,
    /// Connections of its user in the channel on that node, after the change.
    pub tally: u64,
}

/// Something asked of one node or of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireRequest<'a> {
    /// The node that asks.
    pub origin: u32,
    /// Its number for the request, which the answer repeats.
    pub id: u64,
    /// The name of the app.
    #[serde(borrow)]
    pub app: Cow<'a, str>,
    /// What is to be done; the nodes' own affair.
    #[serde(borrow)]
    pub order: &'a RawValue,
}

/// A node's answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer<'a> {
    /// The node that answers.
    pub origin: u32,
    /// The number of the request.
    pub id: u64,
    /// What has come of it.
    #[serde(borrow)]
    pub result: &'a RawValue,
}

impl<'a> Envelope<'a> {
    /// Reads a message. Copies the event's frame once; receivers share the copy.
    ///
    /// # Errors
    /// [`EnvelopeError`]: the message is to be skipped.
    pub fn read(message: &'a [u8]) -> Result<Self, EnvelopeError> {
        let [version, kind, rest @ ..] = message else {
            return Err(EnvelopeError::Malformed("head"));
        };
        if !(OLDEST..=VERSION).contains(version) {
            return Err(EnvelopeError::Version(*version));
        }

        match *kind {
            EVENT => {
                let (header, draft) = read_tail(rest)?;
                Ok(Self::Event {
                    header,
                    frame: draft.finish(None),
                })
            }
            STORED => {
                let (epoch, rest) = read_number(rest)?;
                let (offset, rest) = read_number(rest)?;
                let (header, draft) = read_tail(rest)?;
                Ok(Self::Durable {
                    epoch,
                    offset,
                    header,
                    draft,
                })
            }
            REQUEST => read_json(rest, "request").map(Self::Request),
            ANSWER => read_json(rest, "answer").map(Self::Answer),
            NOTICES => read_json(rest, "notices").map(Self::Notices),
            // Not from a newer node: a new kind comes with a new version.
            _ => Err(EnvelopeError::Malformed("kind")),
        }
    }
}

/// The message of an event that is not stored.
pub fn event(header: &Header<'_>, frame: &Frame) -> Bytes {
    // Room for most headers, so that only long targets make it grow.
    let mut out = Vec::with_capacity(frame.len() + 320);
    out.extend_from_slice(&[COMMON, EVENT]);
    write_tail(&mut out, header, frame);
    out.into()
}

/// The part of a stored event's messages that comes after their offsets, which only the history knows. There may be
/// one message for each of many users: what they share is written once.
#[derive(Debug)]
pub struct Tails<'h> {
    header: &'h Header<'h>,
    /// It may have as many names as the body of a call has room for.
    except: Option<Box<RawValue>>,
    frame: Frame,
}

/// A [`Header`] as it is written, with parts that are written already.
#[derive(Serialize)]
struct WrittenHeader<'a> {
    origin: u32,
    id: Uuid,
    app: &'a str,
    #[serde(rename = "aim")]
    wire_target: WrittenWireTarget<'a>,
    #[serde(skip_serializing_if = "is_false")]
    many: bool,
    #[serde(skip_serializing_if = "is_false")]
    receipt: bool,
}

/// An [`WireTarget`] as it is written.
#[derive(Serialize)]
struct WrittenWireTarget<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a Names>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<&'a RawValue>,
}

impl<'h> Tails<'h> {
    /// Those of the event `draft`.
    pub fn new(header: &'h Header<'h>, draft: &Draft) -> Self {
        let except = Some(&header.wire_target.except).filter(|except| !except.is_empty());
        Self {
            header,
            // Lists of texts always serialize.
            except: except.and_then(|except| to_raw_value(except).ok()),
            frame: draft.finish(None),
        }
    }

    /// The one for `to`, or for whom the header names.
    pub fn tail(&self, to: Option<&Names>) -> Bytes {
        let Header {
            origin,
            id,
            app,
            wire_target,
            many,
            receipt,
        } = self.header;

        let header = WrittenHeader {
            origin: *origin,
            id: *id,
            app,
            wire_target: WrittenWireTarget {
                to: to.or(wire_target.to.as_ref()),
                filter: wire_target.filter.as_deref(),
                params: wire_target.params.as_deref(),
                except: self.except.as_deref(),
            },
            many: *many,
            receipt: *receipt,
        };

        let except = self.except.as_ref().map_or(0, |except| except.get().len());
        let mut out = Vec::with_capacity(self.frame.len() + except + 320);
        write_tail(&mut out, &header, &self.frame);

        out.into()
    }
}

/// The message of a request.
pub fn request(request: &WireRequest<'_>) -> Bytes {
    json([COMMON, REQUEST], request)
}

/// The message of an answer.
pub fn answer(answer: &Answer<'_>) -> Bytes {
    json([COMMON, ANSWER], answer)
}

/// The message of notices, in the newest form that nodes of `version` read.
pub fn notices(notices: &Notices, version: u8) -> Bytes {
    // The mark is the first version that reads the form. Later versions have not changed it, and a
    // higher mark would keep nodes from reading it that could.
    json([version.min(NOTICES_WITH_SHARES), NOTICES], notices)
}

fn json(head: [u8; 2], value: &impl Serialize) -> Bytes {
    let mut out = head.to_vec();
    // Structs with texts as keys always serialize, and a Vec takes everything.
    let _ = serde_json::to_writer(&mut out, value);
    out.into()
}

fn write_tail(out: &mut Vec<u8>, header: &impl Serialize, frame: &Frame) {
    let at = out.len();
    // Filled in below: the length is known once the header is written.
    out.extend_from_slice(&[0; 4]);
    let _ = serde_json::to_writer(&mut *out, header);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(frame.bytes());
}

fn read_tail(rest: &[u8]) -> Result<(Header<'_>, Draft), EnvelopeError> {
    // Only the header has a length here. The frame says its own, and must end with the message.
    let (length, rest) = rest
        .split_first_chunk()
        .ok_or(EnvelopeError::Malformed("header"))?;
    let length = u32::from_be_bytes(*length) as usize;
    let (header, frame) = rest
        .split_at_checked(length)
        .ok_or(EnvelopeError::Malformed("header"))?;
    let draft = Draft::from_encoded(frame).ok_or(EnvelopeError::Malformed("frame"))?;
    Ok((read_json(header, "header")?, draft))
}

fn read_number(bytes: &[u8]) -> Result<(u64, &[u8]), EnvelopeError> {
    let (number, rest) = bytes
        .split_first_chunk()
        .ok_or(EnvelopeError::Malformed("position"))?;
    Ok((u64::from_be_bytes(*number), rest))
}

fn read_json<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, EnvelopeError> {
    serde_json::from_slice(bytes).map_err(|_| EnvelopeError::Malformed(what))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, Event, Marks};

    fn draft(data: &str) -> Draft {
        let data: &RawValue = serde_json::from_str(data).unwrap();
        Event::new("e", Data::Json(data))
            .unwrap()
            .draft(&Marks::default())
    }

    fn header() -> Header<'static> {
        let wire_target = WireTarget {
            to: Some(Names {
                users: vec!["a\"b".into()],
                ..Names::default()
            }),
            filter: Some("auth.x == params.y".into()),
            params: Some(RawValue::from_string("{\"y\":1}".into()).unwrap()),
            except: Exceptions {
                devices: vec!["d".into()],
                ..Exceptions::default()
            },
        };
        Header {
            origin: 7,
            id: Uuid::from_u128(9),
            app: "default".into(),
            wire_target,
            many: true,
            receipt: false,
        }
    }

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let draft = draft("[1.0, 12345678901234567890]");
        let message = event(&header(), &draft.finish(None));
        let Ok(Envelope::Event {
            header: read,
            frame,
        }) = Envelope::read(&message)
        else {
            panic!()
        };
        assert_eq!(frame.bytes(), draft.finish(None).bytes());
        assert!(frame.is_event() && read.many && !read.receipt);
        assert_eq!(
            (read.origin, read.id, &*read.app),
            (7, Uuid::from_u128(9), "default")
        );
        assert_eq!(read.wire_target.to.unwrap().users, ["a\"b"]);
        assert_eq!(read.wire_target.params.unwrap().get(), "{\"y\":1}");
        assert_eq!(read.wire_target.except.devices, ["d"]);
    }

    #[test]
    fn a_stored_event_gets_its_offset_from_the_history() {
        let draft = draft("null");
        let mut message = vec![COMMON, STORED];
        message.extend_from_slice(&5u64.to_be_bytes());
        message.extend_from_slice(&12u64.to_be_bytes());
        message.extend_from_slice(&Tails::new(&header(), &draft).tail(None));
        let Ok(Envelope::Durable {
            epoch,
            offset,
            draft: read,
            ..
        }) = Envelope::read(&message)
        else {
            panic!()
        };
        assert_eq!((epoch, offset), (5, 12));
        assert_eq!(
            read.finish(Some(12)).bytes(),
            draft.finish(Some(12)).bytes()
        );
    }

    #[test]
    fn each_of_many_users_gets_what_all_share_and_its_own_name() {
        let draft = draft("[1]");
        let written = |header: &Header<'_>| {
            let mut out = Vec::new();
            write_tail(&mut out, header, &draft.finish(None));
            out
        };
        let whole = header();
        let plain = Header {
            wire_target: WireTarget::default(),
            many: false,
            receipt: true,
            ..header()
        };
        for mut header in [whole, plain] {
            let tails = Tails::new(&header, &draft);
            assert_eq!(tails.tail(None), written(&header));
            let names = Names {
                users: vec!["bob".into()],
                ..Names::default()
            };
            let tail = tails.tail(Some(&names));
            header.wire_target.to = Some(names);
            assert_eq!(tail, written(&header));
        }
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        let whole = event(&header(), &draft("{}").finish(None));
        for end in 0..whole.len() {
            assert!(Envelope::read(&whole[..end]).is_err(), "{end}");
        }
        assert!(
            Envelope::read(&[&whole[..], b"x"].concat()).is_err(),
            "a frame has one length"
        );
        let mut newer = whole.to_vec();
        for version in [0, VERSION + 1, u8::MAX] {
            newer[0] = version;
            let unknown = EnvelopeError::Version(version);
            assert_eq!(Envelope::read(&newer).unwrap_err(), unknown);
        }
        newer[..2].copy_from_slice(&[VERSION, 99]);
        assert_eq!(
            Envelope::read(&newer).unwrap_err(),
            EnvelopeError::Malformed("kind")
        );
    }
}
