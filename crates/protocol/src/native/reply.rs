//! What the server says beside events: one object in a text frame, with an `op`.

use std::time::Duration;

use fanfare_filter::id::ConnectionId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::members::{Changes, Member, MemberKind, MembersPage, as_text};
use crate::{close::Close, frame::Frame, limits::EXPIRED_RECONNECT};

/// The first message to a client that is let in.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Welcome<'a> {
    /// Its connection.
    #[serde(serialize_with = "as_text")]
    pub connection: ConnectionId,
    /// Its user; `null` if anonymous.
    pub user: Option<&'a str>,
    /// Seconds between two pings of the server.
    pub heartbeat: u64,
    /// Whether an earlier connection goes on in this one; left out where the client asked for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
    /// What a client of another protocol names to go on in another connection, in place of this one's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<&'a str>,
    /// How to come back.
    pub reconnect: Reconnect,
}

/// How a client is to come back after its connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reconnect {
    /// The shortest wait, in milliseconds.
    pub min_ms: u64,
    /// The longest wait, in milliseconds.
    pub max_ms: u64,
    /// How long this connection can be resumed, in milliseconds.
    pub resume_ms: u64,
}

/// A place in the history of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Within which offsets count.
    pub epoch: Box<str>,
    /// The last event's offset.
    pub offset: u64,
}

/// What the ack of a `join` carries; what is `None` is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinAck<'a> {
    /// The position of the channel's history.
    pub position: Option<&'a Position>,
    /// Whether all that was missed is replayed.
    pub recovered: Option<bool>,
    /// The first page of members.
    pub members: Option<&'a MembersPage>,
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Reply<'a> {
    Welcome(&'a Welcome<'a>),
    Joined {
        channel: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    Left {
        channel: &'a str,
    },
    Member {
        kind: MemberKind,
        channel: &'a str,
        member: &'a Member<'a>,
        user_connections: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<&'a str>,
    },
    Members {
        channel: &'a str,
        joined: u64,
        left: u64,
        updated: u64,
        count: u64,
        users: u64,
    },
    Ack(Ack<'a>),
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        code: &'a str,
        message: &'a str,
    },
    Pong,
    Bye {
        code: u16,
        reason: &'a str,
        reconnect_in_ms: u64,
    },
}

/// Every ack: what one has nothing to say about is left out.
#[derive(Serialize)]
struct Ack<'a> {
    id: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

impl<'a> Ack<'a> {
    fn new(id: &'a RawValue) -> Self {
        Self {
            id,
            user: None,
            expires_at: None,
            epoch: None,
            offset: None,
            recovered: None,
            members: None,
            count: None,
            users: None,
            cursor: None,
            data: None,
        }
    }

    fn at(self, position: Option<&'a Position>) -> Self {
        let (epoch, offset) = parts(position);
        Self {
            epoch,
            offset,
            ..self
        }
    }

    fn with(self, page: &'a MembersPage) -> Self {
        Self {
            members: Some(&page.members),
            count: Some(page.count),
            users: Some(page.users),
            cursor: page.cursor.as_deref(),
            ..self
        }
    }
}

fn parts(position: Option<&Position>) -> (Option<&str>, Option<u64>) {
    position
        .map(|position| (&*position.epoch, position.offset))
        .unzip()
}

fn frame(reply: &Reply<'_>) -> Frame {
    // Plain structs of strings and numbers always serialize.
    Frame::text(&serde_json::to_vec(reply).unwrap_or_default())
}

/// The first message of every connection.
pub fn welcome(welcome: &Welcome<'_>) -> Frame {
    frame(&Reply::Welcome(welcome))
}

/// Says that the client is a member of `channel` without having asked; `position` where it has history.
pub fn joined(channel: &str, position: Option<&Position>) -> Frame {
    let (epoch, offset) = parts(position);
    frame(&Reply::Joined {
        channel,
        epoch,
        offset,
        recovered: None,
    })
}

/// Says to a member of `channel` that its history goes on from `position` in another epoch; whether that is all that
/// comes after what the member has.
pub fn goes_on(channel: &str, position: &Position, recovered: bool) -> Frame {
    // `joined` once more: a client that is in the channel takes it as its new position.
    let (epoch, offset) = parts(Some(position));
    frame(&Reply::Joined {
        channel,
        epoch,
        offset,
        recovered: Some(recovered),
    })
}

/// Says that the client is no longer a member of `channel`, without having asked.
pub fn left(channel: &str) -> Frame {
    frame(&Reply::Left { channel })
}

/// Says what became of one member of `channel`, whose user has `user_connections` there now.
///
/// `previous` is the connection that the member's goes on for.
pub fn member(
    kind: MemberKind,
    channel: &str,
    member: &Member<'_>,
    user_connections: u64,
    previous: Option<ConnectionId>,
) -> Frame {
    let previous = previous.map(|id| id.to_string());
    frame(&Reply::Member {
        kind,
        channel,
        member,
        user_connections,
        previous: previous.as_deref(),
    })
}

/// Says how often what became of the members of `channel`, if one notice for each would be too much; `count` members
/// and `users` are left.
pub fn members_changed(channel: &str, changes: &Changes, count: u64, users: u64) -> Frame {
    let Changes {
        joined,
        left,
        updated,
    } = *changes;

    frame(&Reply::Members {
        channel,
        joined,
        left,
        updated,
        count,
        users,
    })
}

/// The answer to a request that needs no more than to be known done.
pub fn ack(id: &RawValue) -> Frame {
    frame(&Reply::Ack(Ack::new(id)))
}

/// The answer to an `auth` that carried an `id`.
pub fn ack_auth(id: &RawValue, user: &str, expires_at: Option<u64>) -> Frame {
    frame(&Reply::Ack(Ack {
        user: Some(user),
        expires_at,
        ..Ack::new(id)
    }))
}

/// The answer to `join`.
pub fn ack_join(id: &RawValue, join: &JoinAck<'_>) -> Frame {
    let ack = Ack {
        recovered: join.recovered,
        ..Ack::new(id).at(join.position)
    };
    frame(&Reply::Ack(match join.members {
        Some(page) => ack.with(page),
        None => ack,
    }))
}

/// The answer to `members`.
pub fn ack_members(id: &RawValue, page: &MembersPage) -> Frame {
    frame(&Reply::Ack(Ack::new(id).with(page)))
}

/// The answer to `send`; `position` is the event's, where the channel has history.
pub fn ack_position(id: &RawValue, position: Option<&Position>) -> Frame {
    frame(&Reply::Ack(Ack::new(id).at(position)))
}

/// The answer to `call`, with what the function returned.
pub fn ack_data(id: &RawValue, data: &RawValue) -> Frame {
    frame(&Reply::Ack(Ack {
        data: Some(data),
        ..Ack::new(id)
    }))
}

/// The answer to a request that was refused.
pub fn error(id: Option<&RawValue>, code: &str, message: &str) -> Frame {
    frame(&Reply::Error { id, code, message })
}

/// The answer to `ping` without an `id`.
pub fn pong() -> Frame {
    frame(&Reply::Pong)
}

/// The last message before the server closes a connection whose client is to come back.
pub fn bye(code: u16, reason: &str, reconnect_in_ms: u64) -> Frame {
    frame(&Reply::Bye {
        code,
        reason,
        reconnect_in_ms,
    })
}

/// The same to a client whose token has expired, before `close`: it needs a new token first.
pub fn bye_expired(close: &Close) -> Frame {
    bye_between(close, EXPIRED_RECONNECT / 2, EXPIRED_RECONNECT)
}

/// The same before `close`, at some moment between two waits: not all clients are to come back together.
pub fn bye_between(close: &Close, min: Duration, max: Duration) -> Frame {
    let (min, max) = (min.as_millis() as u64, max.as_millis() as u64);
    let span = max.saturating_sub(min).max(1);
    // A UUID is the source of randomness that the crate has. Its bias under `%` does not matter
    // here.
    let jitter = uuid::Uuid::new_v4().as_u128() as u64 % span;
    bye(close.code, &close.reason, min + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: &str = "00000000000000000000000004";

    #[track_caller]
    fn says(frame: &Frame, text: &str) {
        assert_eq!(str::from_utf8(frame.payload()).unwrap(), text);
        assert!(frame.is_text() && !frame.is_event());
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn position() -> Position {
        Position {
            epoch: "e".into(),
            offset: 12,
        }
    }

    #[test]
    fn plain_replies_have_the_shape_of_the_protocol() {
        says(&pong(), r#"{"op":"pong"}"#);
        says(&ack(&raw("1")), r#"{"op":"ack","id":1}"#);
        says(
            &ack_data(&raw("1"), &raw(r#"{"a":[1.0]}"#)),
            r#"{"op":"ack","id":1,"data":{"a":[1.0]}}"#,
        );
        says(
            &ack_data(&raw("1"), RawValue::NULL),
            r#"{"op":"ack","id":1,"data":null}"#,
        );
        says(
            &ack_auth(&raw("1"), "u", Some(5)),
            r#"{"op":"ack","id":1,"user":"u","expires_at":5}"#,
        );
        says(
            &error(None, "c", "m"),
            r#"{"op":"error","code":"c","message":"m"}"#,
        );
        says(
            &error(Some(&raw(r#""x""#)), "c", "m"),
            r#"{"op":"error","id":"x","code":"c","message":"m"}"#,
        );
        says(
            &bye(4200, "draining", 5),
            r#"{"op":"bye","code":4200,"reason":"draining","reconnect_in_ms":5}"#,
        );
    }

    #[test]
    fn a_welcome_says_how_to_come_back() {
        let reconnect = Reconnect {
            min_ms: 1,
            max_ms: 2,
            resume_ms: 3,
        };
        let connection = CONNECTION.parse().unwrap();
        let fresh = Welcome {
            connection,
            user: None,
            heartbeat: 25,
            resumed: None,
            recovery: None,
            reconnect,
        };
        let (head, tail) = (
            r#"{"op":"welcome","connection":"#,
            r#""reconnect":{"min_ms":1,"max_ms":2,"resume_ms":3}}"#,
        );
        says(
            &welcome(&fresh),
            &format!(r#"{head}"{CONNECTION}","user":null,"heartbeat":25,{tail}"#),
        );
        says(
            &welcome(&Welcome {
                user: Some("u"),
                resumed: Some(false),
                ..fresh
            }),
            &format!(r#"{head}"{CONNECTION}","user":"u","heartbeat":25,"resumed":false,{tail}"#),
        );
    }

    #[test]
    fn channels_that_were_not_asked_for_are_told() {
        says(&joined("c", None), r#"{"op":"joined","channel":"c"}"#);
        says(
            &joined("c", Some(&position())),
            r#"{"op":"joined","channel":"c","epoch":"e","offset":12}"#,
        );
        says(
            &goes_on("c", &position(), true),
            r#"{"op":"joined","channel":"c","epoch":"e","offset":12,"recovered":true}"#,
        );
        says(&left("c"), r#"{"op":"left","channel":"c"}"#);
    }

    #[test]
    fn acks_carry_what_there_is() {
        let (id, position) = (raw("1"), position());
        let page = MembersPage {
            members: raw("[{}]"),
            count: 3,
            users: 2,
            cursor: Some("x".to_owned()),
        };
        says(
            &ack_join(&id, &JoinAck::default()),
            r#"{"op":"ack","id":1}"#,
        );
        let join = JoinAck {
            position: Some(&position),
            recovered: Some(true),
            members: Some(&page),
        };
        says(
            &ack_join(&id, &join),
            concat!(
                r#"{"op":"ack","id":1,"epoch":"e","offset":12,"recovered":true,"#,
                r#""members":[{}],"count":3,"users":2,"cursor":"x"}"#,
            ),
        );
        says(
            &ack_members(
                &id,
                &MembersPage {
                    cursor: None,
                    ..page
                },
            ),
            r#"{"op":"ack","id":1,"members":[{}],"count":3,"users":2}"#,
        );
        says(&ack_position(&id, None), r#"{"op":"ack","id":1}"#);
        says(
            &ack_position(&id, Some(&position)),
            r#"{"op":"ack","id":1,"epoch":"e","offset":12}"#,
        );
    }

    #[test]
    fn members_are_told_one_by_one_or_counted() {
        let id = CONNECTION.parse().unwrap();
        let one = Member {
            id,
            user: Some("u"),
            data: None,
        };
        let (head, tail) = (
            r#""channel":"c","member":{"id":"00000000000000000000000004","user":"u"}"#,
            r#""previous":"00000000000000000000000004"}"#,
        );
        for (kind, name) in [
            (MemberKind::Joined, "joined"),
            (MemberKind::Left, "left"),
            (MemberKind::Updated, "updated"),
        ] {
            let head = format!(r#"{{"op":"member","kind":"{name}",{head},"user_connections":2"#);
            says(&member(kind, "c", &one, 2, None), &format!("{head}}}"));
            says(
                &member(kind, "c", &one, 2, Some(id)),
                &format!("{head},{tail}"),
            );
        }
        says(
            &members_changed(
                "c",
                &Changes {
                    joined: 12,
                    left: 3,
                    updated: 1,
                },
                200,
                180,
            ),
            r#"{"op":"members","channel":"c","joined":12,"left":3,"updated":1,"count":200,"users":180}"#,
        );
    }
}
