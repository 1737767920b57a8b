//! What the server says, read back: a native frame by its parts, for those who say the same in another protocol.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::members::MemberKind;
use crate::frame::{BINARY, CLOSE, Frame, PING, PONG, TEXT};

/// A frame that the server made.
#[derive(Debug)]
pub enum ParsedFrame<'a> {
    /// An event.
    Event {
        /// Its name.
        name: Cow<'a, str>,
        /// The channel it was sent to.
        channel: Option<Cow<'a, str>>,
        /// Its data.
        data: ParsedData<'a>,
        /// The client that sent it.
        from: Option<ParsedSender<'a>>,
        /// Names it where it is stored.
        id: Option<Cow<'a, str>>,
        /// Its place in the channel's history.
        offset: Option<u64>,
    },
    /// The client is let in.
    Welcome {
        /// Its connection.
        connection: Cow<'a, str>,
        /// Its user, if it has one.
        user: Option<Cow<'a, str>>,
        /// Seconds between two pings of the server.
        heartbeat: u64,
        /// Whether an earlier connection goes on in this one, if that was asked for.
        resumed: Option<bool>,
        /// What a client that knows no connection ids names to go on in another one.
        recovery: Option<Cow<'a, str>>,
    },
    /// The client is in a channel, or the channel's history goes on in another epoch.
    Joined {
        /// The channel.
        channel: Cow<'a, str>,
        /// Within which offsets count.
        epoch: Option<Cow<'a, str>>,
        /// The last event's offset.
        offset: Option<u64>,
        /// Whether everything that was missed comes.
        recovered: Option<bool>,
    },
    /// The client is out of a channel.
    Left {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// What became of a member of a channel.
    Member {
        /// What it is.
        kind: MemberKind,
        /// The channel.
        channel: Cow<'a, str>,
        /// The member.
        member: ParsedMember<'a>,
        /// Connections that its user has there.
        user_connections: u64,
        /// The connection that the member's goes on for.
        previous: Option<Cow<'a, str>>,
    },
    /// How often what became of the members of a channel.
    Members {
        /// The channel.
        channel: Cow<'a, str>,
        /// Its members now.
        count: u64,
        /// Their users.
        users: u64,
    },
    /// The answer to a request.
    Ack(Box<ParsedAck<'a>>),
    /// Something was refused.
    Error {
        /// The request, if it had an id.
        id: Option<&'a RawValue>,
        /// The stable code.
        code: Cow<'a, str>,
        /// What is wrong.
        message: Cow<'a, str>,
    },
    /// The answer to a `ping` without an id.
    Pong,
    /// The connection is about to be closed.
    Bye {
        /// The code of the close frame that follows.
        code: u16,
        /// Why.
        reason: Cow<'a, str>,
        /// When to come back, in milliseconds.
        reconnect_in_ms: u64,
    },
    /// A WebSocket ping.
    Ping(&'a [u8]),
    /// A WebSocket pong.
    PongFrame(&'a [u8]),
    /// A close frame.
    Close {
        /// Its code.
        code: Option<u16>,
        /// Its reason.
        reason: &'a str,
    },
}

/// The data of an event.
#[derive(Clone, Copy, Debug)]
pub enum ParsedData<'a> {
    /// JSON as it came.
    Json(&'a RawValue),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// The client that sent an event.
#[derive(Debug, Deserialize)]
pub struct ParsedSender<'a> {
    /// Its connection.
    #[serde(borrow)]
    pub connection: Cow<'a, str>,
    /// Its user; `None` if it is anonymous.
    #[serde(borrow, default)]
    user: Option<Text<'a>>,
}

impl ParsedSender<'_> {
    /// Its user; `None` if it is anonymous.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|Text(user)| &**user)
    }
}

/// A member of a channel.
#[derive(Debug, Deserialize)]
pub struct ParsedMember<'a> {
    /// Its connection.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Its user; `None` if it is anonymous.
    #[serde(borrow, default)]
    user: Option<Text<'a>>,
    /// Its profile, if it has one.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
}

impl ParsedMember<'_> {
    /// Its user; `None` if it is anonymous.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|Text(user)| &**user)
    }
}

/// The answer to a request; what one has nothing to say about is `None`. As JSON it has no `id`: other protocols write that
/// elsewhere.
#[derive(Debug, Serialize)]
pub struct ParsedAck<'a> {
    /// The request.
    #[serde(skip)]
    pub id: &'a RawValue,
    /// The user that `auth` made of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
    /// When the client's token ends, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The epoch of the position in a history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Cow<'a, str>>,
    /// The offset of that position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether everything that was missed comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// A list of members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<&'a RawValue>,
    /// All members of the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// All users among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
    /// Where the next page of members begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cow<'a, str>>,
    /// What a call returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
}

/// A string as JSON has it, borrowed where it has no escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Every member that any native frame has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FrameMembers<'a> {
    #[serde(borrow)]
    op: Option<Text<'a>>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    from: Option<ParsedSender<'a>>,
    // A text in an event, and in an answer whatever the client has sent.
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    offset: Option<u64>,
    #[serde(borrow)]
    connection: Option<Text<'a>>,
    #[serde(borrow)]
    user: Option<Text<'a>>,
    heartbeat: u64,
    resumed: Option<bool>,
    #[serde(borrow)]
    recovery: Option<Text<'a>>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    recovered: Option<bool>,
    kind: Option<MemberKind>,
    #[serde(borrow)]
    member: Option<ParsedMember<'a>>,
    user_connections: u64,
    #[serde(borrow)]
    previous: Option<Text<'a>>,
    #[serde(borrow)]
    members: Option<&'a RawValue>,
    count: Option<u64>,
    users: Option<u64>,
    expires_at: Option<u64>,
    #[serde(borrow)]
    cursor: Option<Text<'a>>,
    // A text in `error`, and a number in `bye`.
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    reconnect_in_ms: u64,
}

/// What is there, also if it is `null`: a function may return that.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn text(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|Text(text)| text)
}

impl<'a> ParsedFrame<'a> {
    /// Reads a frame that was made by this module or by [`Event`](crate::event::Event); `None` for any other one.
    pub fn read(frame: &'a Frame) -> Option<Self> {
        let payload = frame.payload();
        match frame.opcode() {
            TEXT => Self::of_parts(serde_json::from_slice(payload).ok()?),
            BINARY => {
                // After the version byte and the length of the head.
                let (head, bytes) = payload
                    .get(3..)?
                    .split_at_checked(usize::from(u16::from_be_bytes([payload[1], payload[2]])))?;
                let parts: FrameMembers<'a> = serde_json::from_slice(head).ok()?;
                Self::event(parts, ParsedData::Bytes(bytes))
            }
            PING => Some(Self::Ping(payload)),
            PONG => Some(Self::PongFrame(payload)),
            CLOSE => {
                // A body is empty, or begins with a code (RFC 6455, section 5.5.1).
                let code = payload
                    .first_chunk()
                    .map(|code: &[u8; 2]| u16::from_be_bytes(*code));
                let reason = payload.get(2..).unwrap_or_default();
                let reason = str::from_utf8(reason).unwrap_or_default();
                Some(Self::Close { code, reason })
            }
            _ => None,
        }
    }

    fn of_parts(parts: FrameMembers<'a>) -> Option<Self> {
        // By hand, and not as an enum with a tag: serde copies the members of one until it has seen
        // the tag, and raw JSON cannot be borrowed from the copy.
        if parts.event.is_some() {
            let data = ParsedData::Json(parts.data.unwrap_or(RawValue::NULL));
            return Self::event(parts, data);
        }

        let Text(op) = parts.op.as_ref()?;
        Some(match &**op {
            "welcome" => Self::Welcome {
                connection: text(parts.connection)?,
                user: text(parts.user),
                heartbeat: parts.heartbeat,
                resumed: parts.resumed,
                recovery: text(parts.recovery),
            },

            "joined" => Self::Joined {
                channel: text(parts.channel)?,
                epoch: text(parts.epoch),
                offset: parts.offset,
                recovered: parts.recovered,
            },

            "left" => Self::Left {
                channel: text(parts.channel)?,
            },

            "member" => Self::Member {
                kind: parts.kind?,
                channel: text(parts.channel)?,
                member: parts.member?,
                user_connections: parts.user_connections,
                previous: text(parts.previous),
            },

            "members" => Self::Members {
                channel: text(parts.channel)?,
                count: parts.count?,
                users: parts.users?,
            },

            "ack" => Self::Ack(Box::new(Self::ack(parts)?)),
            "error" => Self::Error {
                id: parts.id,
                code: text(read(parts.code))?,
                message: text(parts.message)?,
            },

            "pong" => Self::Pong,
            "bye" => Self::Bye {
                code: read(parts.code)?,
                reason: text(parts.reason)?,
                reconnect_in_ms: parts.reconnect_in_ms,
            },

            _ => return None,
        })
    }

    fn event(parts: FrameMembers<'a>, data: ParsedData<'a>) -> Option<Self> {
        Some(Self::Event {
            name: text(parts.event)?,
            channel: text(parts.channel),
            data,
            from: parts.from,
            id: text(read(parts.id)),
            offset: parts.offset,
        })
    }

    fn ack(parts: FrameMembers<'a>) -> Option<ParsedAck<'a>> {
        Some(ParsedAck {
            id: parts.id?,
            user: text(parts.user),
            expires_at: parts.expires_at,
            epoch: text(parts.epoch),
            offset: parts.offset,
            recovered: parts.recovered,
            members: parts.members,
            count: parts.count,
            users: parts.users,
            cursor: text(parts.cursor),
            data: parts.data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        close::Close,
        event::{Data, Event, Marks, Sender},
        native,
    };

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn an_event_is_read_with_all_that_it_carries() {
        let from = Sender {
            connection: "00000000000000000000000004".parse().unwrap(),
            user: Some("a\"b".into()),
        };
        let marks = Marks {
            channel: Some("c"),
            from: Some(&from),
            id: Some(uuid::Uuid::from_u128(7)),
        };
        let data = raw("[1, null]");
        for data in [Data::Json(&data), Data::Bytes(b"\0{}"[..].into())] {
            let frame = Event::new("e\n", data.clone())
                .unwrap()
                .draft(&marks)
                .finish(Some(12));
            let Some(ParsedFrame::Event {
                name,
                channel,
                data: said,
                from,
                id,
                offset,
            }) = ParsedFrame::read(&frame)
            else {
                panic!("{frame:?} is not read");
            };
            assert_eq!((&*name, channel.as_deref()), ("e\n", Some("c")));
            match (data, said) {
                (Data::Json(data), ParsedData::Json(said)) => assert_eq!(said.get(), data.get()),
                (Data::Bytes(data), ParsedData::Bytes(said)) => assert_eq!(said, &*data),
                other => panic!("{other:?}"),
            }
            let from = from.unwrap();
            assert_eq!(
                (&*from.connection, from.user()),
                ("00000000000000000000000004", Some("a\"b"))
            );
            assert_eq!(id.unwrap(), "00000000-0000-0000-0000-000000000007");
            assert_eq!(offset, Some(12));
        }
    }

    #[test]
    fn an_event_without_marks_has_none_and_null_is_data() {
        let data = raw("null");
        let frame = Event::new("e", Data::Json(&data)).unwrap().encode();
        let Some(ParsedFrame::Event {
            channel: None,
            data: ParsedData::Json(data),
            from: None,
            id: None,
            offset: None,
            ..
        }) = ParsedFrame::read(&frame)
        else {
            panic!("{frame:?} is not read");
        };
        assert_eq!(data.get(), "null");
    }

    #[test]
    fn what_the_server_says_of_itself_is_read() {
        let id = raw("7");
        assert!(matches!(
            ParsedFrame::read(&native::error(Some(&id), "forbidden", "no \"join\"")),
            Some(ParsedFrame::Error { id: Some(id), code, message })
                if id.get() == "7" && code == "forbidden" && message == "no \"join\""
        ));
        assert!(matches!(
            ParsedFrame::read(&native::ack(&id)),
            Some(ParsedFrame::Ack(ack)) if ack.id.get() == "7" && ack.data.is_none()
        ));
        assert!(matches!(
            ParsedFrame::read(&native::bye(4200, "draining", 5)),
            Some(ParsedFrame::Bye { code: 4200, reason, reconnect_in_ms: 5 }) if reason == "draining"
        ));
        assert!(matches!(
            ParsedFrame::read(&native::left("c")),
            Some(ParsedFrame::Left { channel }) if channel == "c"
        ));
        assert!(matches!(
            ParsedFrame::read(&native::pong()),
            Some(ParsedFrame::Pong)
        ));
        assert!(matches!(
            ParsedFrame::read(&Frame::ping(b"x")),
            Some(ParsedFrame::Ping(b"x"))
        ));
        assert!(matches!(
            ParsedFrame::read(&Frame::close(&Close::new(4200, "draining"))),
            Some(ParsedFrame::Close {
                code: Some(4200),
                reason: "draining"
            })
        ));
        assert!(ParsedFrame::read(&Frame::text(b"{\"op\":\"dance\"}")).is_none());
    }
}
