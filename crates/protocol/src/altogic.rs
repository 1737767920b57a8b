//! Altogic's and Agnost's protocol: events of Socket.IO, with an object each.
//!
//! Both have the same events. They differ in what they call a client key, and in which member of its credentials it is.

mod channel;
mod operation;

use std::borrow::Cow;

use fanfare_filter::id::ConnectionId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::{
    channel::{escape, unescape},
    operation::{Credentials, Json, Misunderstood, Operation, about_user},
};
use super::{
    engineio,
    event::write_json_string,
    native::{MemberKind, ParsedData, ParsedFrame, ParsedMember, confirmed},
    socketio::{ONLY, RESERVED, outline},
    wire::{Encoding, Out},
};
use crate::close;

/// Which of the two systems a client is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Altogic.
    Altogic,
    /// Agnost.
    Agnost,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is yet to be let in: what closes it is a `connect_error`.
    Connecting,
    /// It is in.
    Connected,
}

/// Native frames as clients of Altogic and Agnost get them.
#[derive(Clone, Copy, Debug)]
pub struct Altogic {
    /// Whose clients they are.
    pub system: System,
    /// How far they have come.
    pub stage: Stage,
}

/// The forms of clients of `system`: before, and after they are let in.
pub fn encodings(system: System) -> Vec<Box<dyn Encoding>> {
    let form = |stage| -> Box<dyn Encoding> { Box::new(Altogic { system, stage }) };
    vec![form(Stage::Connecting), form(Stage::Connected)]
}

/// Why a client may not come in, as these clients read it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fault<'a> {
    /// Whose fault it is.
    pub origin: &'static str,
    /// The stable code.
    pub code: &'a str,
    /// What is wrong.
    pub message: &'a str,
}

impl<'a> Fault<'a> {
    /// One of the client's.
    pub fn new(code: &'a str, message: &'a str) -> Self {
        Self {
            origin: "client_error",
            code,
            message,
        }
    }
}

/// Makes the `id` of an operation after which a client is notified of itself: `event` with its own `member` object,
/// in each of `channels`, which are named as the server names them. The native ack brings it back.
pub fn echo<'a>(
    event: &str,
    (id, profile): (ConnectionId, Option<&str>),
    channels: impl Iterator<Item = &'a str>,
) -> Box<RawValue> {
    let mut json = b"[".to_vec();
    write_json_string(&mut json, event);
    json.extend_from_slice(b",{\"id\":");
    write_json_string(&mut json, &id.to_string());

    if let Some(profile) = profile {
        json.extend_from_slice(b",\"data\":");
        json.extend_from_slice(profile.as_bytes());
    }

    json.push(b'}');
    for channel in channels {
        json.push(b',');
        write_json_string(&mut json, &unescape(channel));
    }

    json.push(b']');
    // Strings, and a profile that was read as JSON.
    let json = String::from_utf8(json).ok();
    let echo = json.and_then(|json| RawValue::from_string(json).ok());

    echo.unwrap_or_else(|| RawValue::NULL.to_owned())
}

/// Why a client is not let in.
#[derive(Serialize)]
struct ConnectError<'a> {
    message: &'a str,
    data: Fault<'a>,
}

/// Appends an event with one argument.
fn event(out: &mut Out, name: &str, argument: &[u8]) {
    // 4 is Engine.IO's message and 2 Socket.IO's event. With attachments, as below, it is 5 and
    // their number.
    let name = serde_json::to_vec(name).unwrap_or_default();
    out.text(&[b"42[", &name, b",", argument, b"]"]);
}

/// Appends an event whose argument has placeholders for `attachments`.
fn binary_event(out: &mut Out, name: &str, argument: &[u8], attachments: &[&[u8]]) {
    let name = serde_json::to_vec(name).unwrap_or_default();
    let kind = format!("45{}-[", attachments.len());
    out.text(&[kind.as_bytes(), &name, b",", argument, b"]"]);
    for attachment in attachments {
        out.binary(&[attachment]);
    }
}

/// The name under which a client hears of an event. Some names are Socket.IO's own, and end the connection of clients to which
/// they are sent.
fn safe_name(name: &str) -> Cow<'_, str> {
    if RESERVED.contains(&name) {
        Cow::Owned(format!("event:{name}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// The event by which a client learns what became of a member.
fn notice(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Joined => JOIN,
        MemberKind::Left => LEAVE,
        MemberKind::Updated => UPDATE,
    }
}

/// Someone, perhaps the client itself, is a member of a channel now.
pub const JOIN: &str = "channel:join";

/// Someone, perhaps the client itself, is no longer a member.
pub const LEAVE: &str = "channel:leave";

/// Someone, perhaps the client itself, has another profile.
pub const UPDATE: &str = "channel:update";

/// Events about users, which have arguments of their own if the server says them.
const USER_EVENTS: [&str; 7] = [
    "user:signin",
    "user:signout",
    "user:update",
    "user:delete",
    "user:pwdchange",
    "user:emailchange",
    "user:phonechange",
];

/// `{"channel":…,"message":…}`, which most events have: a channel as the server names it, and JSON.
fn payload(channel: Option<&str>, message: &[u8]) -> Vec<u8> {
    let mut json = Vec::with_capacity(message.len() + 64);
    json.extend_from_slice(b"{\"channel\":");
    match channel {
        Some(channel) => write_json_string(&mut json, &unescape(channel)),
        None => json.extend_from_slice(b"null"),
    }
    json.extend_from_slice(b",\"message\":");
    json.extend_from_slice(message);
    json.push(b'}');
    json
}

/// A member as these clients know one.
fn member(member: &ParsedMember<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Shown<'a> {
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
    }
    let shown = Shown {
        id: &member.id,
        data: member.data,
    };
    // Plain structs of strings and JSON always serialize.
    serde_json::to_vec(&shown).unwrap_or_default()
}

/// The list of a page of members, as these clients know them.
pub fn members(list: &RawValue) -> Vec<u8> {
    let list: Vec<ParsedMember<'_>> = serde_json::from_str(list.get()).unwrap_or_default();
    let shown: Vec<Vec<u8>> = list.iter().map(member).collect();
    [b"[", shown.join(&b","[..]).as_slice(), b"]"].concat()
}

/// An event about a user, with the arguments that its listeners take: its name again, the session and the user.
fn user_event(name: &str, data: &RawValue, out: &mut Out) {
    #[derive(Deserialize)]
    struct About<'a> {
        #[serde(borrow)]
        session: &'a RawValue,
        #[serde(borrow, default)]
        user: Option<&'a RawValue>,
    }

    // Callers of the API may send such an event with any data. All of it counts as the session
    // then.
    let about = serde_json::from_str(data.get()).unwrap_or(About {
        session: data,
        user: None,
    });

    let name = serde_json::to_vec(name).unwrap_or_default();
    let user = about.user.unwrap_or(RawValue::NULL);
    let parts: [&[u8]; 9] = [
        b"42[",
        &name,
        b",",
        &name,
        b",",
        about.session.get().as_bytes(),
        b",",
        user.get().as_bytes(),
        b"]",
    ];

    out.text(&parts);
}

/// Appends an event as the server has it.
fn native_event(said: &ParsedFrame<'_>, out: &mut Out) {
    let ParsedFrame::Event {
        name,
        channel,
        data,
        from,
        ..
    } = said
    else {
        return;
    };

    let json = match data {
        ParsedData::Json(json) => json,
        ParsedData::Bytes(bytes) => {
            let payload = payload(channel.as_deref(), ONLY);
            return binary_event(out, &safe_name(name), &payload, &[bytes]);
        }
    };

    // With `from` a client has sent it, and a client must not pass for the server that reports on a
    // user.
    if from.is_none() && USER_EVENTS.contains(&&**name) {
        return user_event(name, json, out);
    }

    if let Some(outlined) = outline(json.get()) {
        let payload = payload(channel.as_deref(), &outlined.json);
        let attachments: Vec<&[u8]> = outlined.attachments.iter().map(Vec::as_slice).collect();
        binary_event(out, &safe_name(name), &payload, &attachments);
    } else {
        let payload = payload(channel.as_deref(), json.get().as_bytes());
        event(out, &safe_name(name), &payload);
    }
}

impl Altogic {
    /// Says that something was refused. A call that waits for an answer gets none: it would take that for what it asked for.
    fn refused(self, code: &str, message: &str, out: &mut Out) {
        let fault = serde_json::to_vec(&Fault::new(code, message)).unwrap_or_default();
        match self.stage {
            // Until it is in, it hears only the `connect_error` that a close frame brings.
            Stage::Connecting => {}
            Stage::Connected => event(out, "error", &fault),
        }
    }

    /// Says why the connection ends, where that is more than that it does: without a word, clients come back by themselves.
    fn closing(self, code: Option<u16>, reason: &str, out: &mut Out) {
        let stays_away = code.is_some_and(close::is_final);
        match self.stage {
            _ if !stays_away => {}
            Stage::Connected => out.text(&[b"41"]),
            Stage::Connecting => {
                let code = code_of(self.system, reason);
                let message = format!("Realtime Connection Error - {reason}");
                let error = ConnectError {
                    message: &message,
                    data: Fault::new(code, reason),
                };
                out.text(&[b"44", &serde_json::to_vec(&error).unwrap_or_default()]);
            }
        }
    }
}

/// The code of the refusal that `reason` says: one of those with which a connection is closed before it is let in.
pub fn code_of(system: System, reason: &str) -> &'static str {
    match (reason, system) {
        (close::KEY_MISSING, System::Altogic) => "missing_client_key",
        (close::KEY_MISSING, System::Agnost) => "missing_api_key",
        (close::KEY_UNKNOWN, System::Altogic) => "invalid_client_key",
        (close::KEY_UNKNOWN, System::Agnost) => "invalid_api_key",
        (close::API_KEY_UNKNOWN, _) => "invalid_access_token",
        (close::TOKEN_MISSING, _) => "missing_session_token",
        _ if close::is_of_page(reason) => "domain_not_authorized",
        _ => "invalid_session_token",
    }
}

impl Encoding for Altogic {
    fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        match said {
            ParsedFrame::Event { .. } => native_event(said, out),
            ParsedFrame::Welcome { connection, .. } => {
                let sid = serde_json::to_vec(connection).unwrap_or_default();
                out.text(&[b"40{\"sid\":", &sid, b"}"]);
            }
            ParsedFrame::Member {
                kind,
                channel,
                member: about,
                previous,
                ..
            } => {
                if let Some(previous) = previous {
                    // These clients know a member by its connection: one goes, another comes.
                    let gone = serde_json::json!({ "id": previous }).to_string();
                    let left = payload(Some(channel), gone.as_bytes());
                    event(out, LEAVE, &left);
                }
                let kind = previous.as_ref().map_or(*kind, |_| MemberKind::Joined);
                let payload = payload(Some(channel), &member(about));
                event(out, notice(kind), &payload);
            }
            ParsedFrame::Members {
                channel,
                count,
                users,
            } => {
                let counts = serde_json::json!({ "count": count, "users": users }).to_string();
                let payload = payload(Some(channel), counts.as_bytes());
                event(out, "channel:members", &payload);
            }
            ParsedFrame::Ack(ack) => match ack.members {
                // Only `get_members` of the libraries waits for an acknowledgement (3). All else is
                // an event.
                Some(list) => {
                    out.text(&[b"43", ack.id.get().as_bytes(), b"[", &members(list), b"]"]);
                }
                None => echoed(ack.id, out),
            },
            ParsedFrame::Error { code, message, .. } => self.refused(code, message, out),
            // Clients of Engine.IO wait for its own sign of life. The question whether a stored event has come is WebSocket's, and
            // may stand for a sign of life.
            ParsedFrame::Ping(payload) => {
                if confirmed(payload).is_some() {
                    out.ping(payload);
                }
                out.text(&[engineio::PING]);
            }
            ParsedFrame::Close { code, reason } => {
                self.closing(*code, reason, out);
                out.control(said);
            }
            ParsedFrame::PongFrame(payload) => out.pong(payload),
            // These protocols have no word for it.
            ParsedFrame::Joined { .. }
            | ParsedFrame::Left { .. }
            | ParsedFrame::Pong
            | ParsedFrame::Bye { .. } => {}
        }
    }
}

/// Writes what [`echo`] made.
fn echoed(id: &RawValue, out: &mut Out) {
    let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(id.get()) else {
        return;
    };
    let [event, message, channels @ ..] = &*parts else {
        return;
    };

    for channel in channels {
        let parts: [&[u8]; 7] = [
            b"42[",
            event.get().as_bytes(),
            b",{\"channel\":",
            channel.get().as_bytes(),
            b",\"message\":",
            message.get().as_bytes(),
            b"}]",
        ];
        out.text(&parts);
    }
}

#[cfg(test)]
mod tests;
