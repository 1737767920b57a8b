//! What clients get in place of native frames.

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;

use super::bytes::{ONLY, outline};
use crate::{
    close, engineio,
    event::write_json_string,
    frame::Frame,
    limits::SOCKETIO_NAMESPACES,
    native::{MemberKind, ParsedData, ParsedFrame, ParsedSender},
    wire::{Encoding, Out},
};

/// Names that clients take for what the protocol itself says. The newest ones end the connection where such an event comes.
pub(crate) const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// A namespace that clients may be in.
#[derive(Debug)]
pub struct Namespace {
    /// As clients name it: `/`, `/chat`.
    pub name: String,
    /// The beginning of its channels' names: nothing for `/`, `chat:`.
    pub prefix: String,
    /// The text before the id in its packets: nothing for `/`, `/chat,`.
    lead: String,
}

/// All namespaces of an app, in the order of the configuration.
#[derive(Debug)]
pub struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// Those that have these `names`, up to [`SOCKETIO_NAMESPACES`].
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let namespace = |name: &str| match name.trim_start_matches('/') {
            "" => Namespace {
                name: "/".to_owned(),
                prefix: String::new(),
                lead: String::new(),
            },
            bare => Namespace {
                name: format!("/{bare}"),
                prefix: format!("{bare}:"),
                lead: format!("/{bare},"),
            },
        };

        let names = names.into_iter().take(SOCKETIO_NAMESPACES);
        Self(names.map(namespace).collect())
    }

    /// The index of the one with this `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|namespace| namespace.name == name)
    }

    /// The one at the index `at`.
    pub fn get(&self, at: usize) -> Option<&Namespace> {
        self.0.get(at)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn lead(&self, at: usize) -> &[u8] {
        self.0.get(at).map_or(b"", |one| one.lead.as_bytes())
    }
}

/// Writes for clients that are in the same namespaces.
///
/// One client may be in several of them over one connection, and gets an event to everyone in each.
#[derive(Clone, Debug)]
pub struct SocketIo {
    namespaces: Arc<Namespaces>,
    /// A bit for each namespace.
    inside: u8,
    /// Whether the client has yet to be let in.
    waits: bool,
}

impl SocketIo {
    /// For clients that want to be in the namespace at `at`, and have yet to be let in.
    pub fn waiting(namespaces: &Arc<Namespaces>, at: usize) -> Self {
        Self {
            namespaces: namespaces.clone(),
            inside: 1 << at,
            waits: true,
        }
    }

    /// For clients in the namespaces whose bits are set in `inside`.
    pub fn inside(namespaces: &Arc<Namespaces>, inside: u8) -> Self {
        Self {
            namespaces: namespaces.clone(),
            inside,
            waits: false,
        }
    }

    fn each(&self) -> impl Iterator<Item = usize> + use<> {
        let inside = self.inside;
        (0..SOCKETIO_NAMESPACES).filter(move |at| inside >> at & 1 == 1)
    }

    /// The first namespace that the client is in.
    fn first(&self) -> usize {
        // While a client waits, only the bit of the namespace that it wants is set.
        self.inside.trailing_zeros() as usize
    }

    /// The namespace in which something about `channel` is said, and what the channel is called there.
    fn place<'c>(&self, channel: &'c str) -> (usize, &'c str) {
        let inner = self.each().find_map(|at| {
            let prefix = &*self.namespaces.get(at)?.prefix;
            let local = channel.strip_prefix(prefix)?;
            // The empty prefix of `/` begins every name. It is looked at only after all others.
            (!prefix.is_empty()).then_some((at, local))
        });
        let outer = || self.each().find(|at| self.namespaces.lead(*at).is_empty());
        // A channel of none of the client's namespaces: somebody else brought the client there.
        inner.unwrap_or_else(|| (outer().unwrap_or(self.first()), channel))
    }

    fn packet(&self, out: &mut Out, kind: &[u8], at: usize, parts: &[&[u8]]) {
        let lead = [engineio::MESSAGE, kind, self.namespaces.lead(at)];
        let all: smallvec::SmallVec<[&[u8]; 8]> = lead.iter().chain(parts).copied().collect();
        out.text(&all);
    }

    /// An event of the server's own, with one argument.
    fn send_event(&self, out: &mut Out, name: &str, at: usize, argument: &impl Serialize) {
        let json = serde_json::to_vec(&(name, argument)).unwrap_or_default();
        self.packet(out, b"2", at, &[&json]);
    }

    fn event(&self, event: &Event<'_>, out: &mut Out) {
        match event.channel {
            Some(channel) => {
                let (at, local) = self.place(channel);
                self.event_in(event, at, Some(local), out);
            }
            None => self
                .each()
                .for_each(|at| self.event_in(event, at, None, out)),
        }
    }

    fn event_in(&self, event: &Event<'_>, at: usize, local: Option<&str>, out: &mut Out) {
        let (head, tail) = (event.head(), event.tail(local));
        let data = match event.data {
            ParsedData::Bytes(bytes) => {
                // A client takes the next binary message for the attachment. Both are in one `out`,
                // so no other frame gets between them.
                self.packet(out, b"51-", at, &[&head, ONLY, &tail]);
                return out.binary(&[bytes]);
            }
            ParsedData::Json(data) => data.get(),
        };

        let Some(outlined) = outline(data) else {
            return self.packet(out, b"2", at, &[&head, data.as_bytes(), &tail]);
        };

        let kind = format!("5{}-", outlined.attachments.len());
        self.packet(out, kind.as_bytes(), at, &[&head, &outlined.json, &tail]);
        for attachment in &outlined.attachments {
            out.binary(&[attachment]);
        }
    }

    fn answer(&self, out: &mut Out, id: &RawValue, argument: &impl Serialize) {
        let Some((at, id)) = request(id) else { return };
        let json = serde_json::to_vec(&[argument]).unwrap_or_default();
        self.packet(out, b"3", at, &[id.as_bytes(), &json]);
    }

    fn close(&self, code: Option<u16>, reason: &str, out: &mut Out) {
        // A client that is not let in yet listens for `connect_error` alone.
        if self.waits {
            let at = self.first();
            let data = code.map(|code| ErrorData {
                code: Some(code),
                message: None,
            });
            let error = connect_error_of(reason, data);
            self.packet(out, b"4", at, &[&error]);
        } else if code.is_some_and(is_final) {
            // Clients that hear this do not come back by themselves.
            for at in self.each() {
                self.packet(out, b"1", at, &[]);
            }
        }

        out.close(code, reason);
    }

    /// What the server says of itself.
    fn notice(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        let place = |channel| self.place(channel);
        match said {
            ParsedFrame::Joined {
                channel,
                epoch,
                offset,
                recovered,
            } => {
                let (at, channel) = place(channel);
                let joined = Joined {
                    channel,
                    epoch: epoch.as_deref(),
                    offset: *offset,
                    recovered: *recovered,
                };
                self.send_event(out, "fanfare:joined", at, &joined);
            }
            ParsedFrame::Left { channel } => {
                let (at, channel) = place(channel);
                self.send_event(out, "fanfare:left", at, &Left { channel });
            }
            ParsedFrame::Member {
                kind,
                channel,
                member,
                user_connections,
                previous,
            } => {
                let (at, channel) = place(channel);
                let change = MemberChange {
                    kind: *kind,
                    channel,
                    member: Member {
                        id: &member.id,
                        user: member.user(),
                        data: member.data,
                    },
                    user_connections: *user_connections,
                    previous: previous.as_deref(),
                };
                self.send_event(out, "fanfare:member", at, &change);
            }
            ParsedFrame::Members {
                channel,
                count,
                users,
                ..
            } => {
                let (at, channel) = place(channel);
                let members = Members {
                    channel,
                    count: *count,
                    users: *users,
                };
                self.send_event(out, "fanfare:members", at, &members);
            }
            // Before that a client hears no events. The close frame brings it a `connect_error`.
            said if !self.waits => self.trouble(said, out),
            _ => {}
        }
    }

    /// What went wrong, or is about to.
    fn trouble(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        match said {
            ParsedFrame::Error { code, message, .. } => {
                let error = Refusal { code, message };
                self.send_event(out, "fanfare:error", self.first(), &error);
            }
            ParsedFrame::Bye {
                code,
                reason,
                reconnect_in_ms,
            } => {
                let bye = Bye {
                    code: *code,
                    reason,
                    reconnect_in_ms: *reconnect_in_ms,
                };
                self.send_event(out, "fanfare:bye", self.first(), &bye);
            }
            _ => {}
        }
    }
}

impl Encoding for SocketIo {
    fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        match said {
            ParsedFrame::Event {
                name,
                channel,
                data,
                from,
                id,
                offset,
            } => {
                let event = Event {
                    name,
                    channel: channel.as_deref(),
                    data: *data,
                    from: from.as_ref(),
                    id: id.as_deref(),
                    offset: *offset,
                };
                self.event(&event, out);
            }
            ParsedFrame::Welcome {
                connection,
                recovery,
                ..
            } => {
                let json = connected_json(connection, recovery.as_deref());
                self.packet(out, b"0", self.first(), &[&json]);
            }
            ParsedFrame::Ack(ack) => self.answer(out, ack.id, &**ack),
            ParsedFrame::Error {
                id: Some(id),
                code,
                message,
            } => self.answer(
                out,
                id,
                &Refused {
                    error: Refusal { code, message },
                },
            ),
            // The heartbeat. A ping that asks whether a stored event has arrived is answered by the client's WebSocket.
            ParsedFrame::Ping([]) => out.text(&[engineio::PING]),
            ParsedFrame::Close { code, reason } => self.close(*code, reason, out),
            said => {
                if !out.control(said) {
                    self.notice(said, out);
                }
            }
        }
    }
}

/// An event, as its frame has it.
struct Event<'a> {
    name: &'a str,
    channel: Option<&'a str>,
    data: ParsedData<'a>,
    from: Option<&'a ParsedSender<'a>>,
    id: Option<&'a str>,
    offset: Option<u64>,
}

impl Event<'_> {
    /// The name a client can listen to.
    fn safe_name(&self) -> &str {
        if RESERVED.contains(&self.name) {
            "fanfare:event"
        } else {
            self.name
        }
    }

    /// The part before the data.
    fn head(&self) -> Vec<u8> {
        let mut head = b"[".to_vec();
        write_json_string(&mut head, self.safe_name());
        head.push(b',');
        head
    }

    /// The part after the data: where the event comes from, if there is something to say of it, and its place in a
    /// history.
    ///
    /// The place is a string of its own. A client that may be recovered keeps the last argument of every event if that is a
    /// string, and names it when it comes back. So no other string is ever the last argument: after data that is one, and of
    /// which nothing is to be said, comes an empty object.
    fn tail(&self, local: Option<&str>) -> Vec<u8> {
        let about = About {
            event: (self.safe_name() != self.name).then_some(self.name),
            channel: local,
            from: self.from.map(|from| From {
                connection: &from.connection,
                user: from.user(),
            }),
            id: self.id,
            offset: self.offset,
        };

        let mut tail = Vec::new();
        let is_place_like =
            matches!(self.data, ParsedData::Json(data) if data.get().starts_with('"'));
        if !about.is_empty() || is_place_like {
            tail.push(b',');
            // A plain struct of strings and numbers always serializes, and writing to a Vec cannot fail.
            let _ = serde_json::to_writer(&mut tail, &about);
        }

        if let (Some(offset), Some(channel)) = (self.offset, self.channel) {
            tail.extend_from_slice(format!(",\"{offset}@{channel}\"").as_bytes());
        }

        tail.push(b']');
        tail
    }
}

/// The namespace and the id of a request, as its dialect has put them together.
fn request(id: &RawValue) -> Option<(usize, Cow<'_, str>)> {
    let id = id.get();
    if !id.starts_with('"') {
        return Some((0, id.into()));
    }
    let (at, id) = id.trim_matches('"').split_once(':')?;
    Some((at.parse().ok()?, id.into()))
}

/// The id of a native request for the id of a packet in the namespace at `at`, as JSON.
pub fn request_id(at: usize, id: &str) -> String {
    format!("\"{at}:{id}\"")
}

/// Whether a client that is closed with `code` is not to come back by itself. One whose token has expired may well have a new one.
fn is_final(code: u16) -> bool {
    code == close::NORMAL || ((4000..4100).contains(&code) && code != close::EXPIRED)
}

fn connected_json(sid: &str, pid: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Connected<'a> {
        sid: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<&'a str>,
    }
    serde_json::to_vec(&Connected { sid, pid }).unwrap_or_default()
}

fn connect_error_of(message: &str, data: Option<ErrorData<'_>>) -> Vec<u8> {
    #[derive(Serialize)]
    struct ConnectError<'a> {
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<ErrorData<'a>>,
    }
    serde_json::to_vec(&ConnectError { message, data }).unwrap_or_default()
}

/// What a `connect_error` says beside its message.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct ErrorData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Says that a client is in the namespace `name` too, as `sid`.
pub fn connected(name: &str, sid: &str) -> Frame {
    about_namespace(b"0", name, &connected_json(sid, None))
}

/// Says that a client is not let into the namespace `name`.
///
/// `hint` says what to do, where `message` is the one that Socket.IO's own server has.
pub fn connect_error(name: &str, message: &str, hint: Option<&str>) -> Frame {
    let data = hint.map(|hint| ErrorData {
        code: None,
        message: Some(hint),
    });
    about_namespace(b"4", name, &connect_error_of(message, data))
}

fn about_namespace(kind: &[u8], name: &str, json: &[u8]) -> Frame {
    let mut out = Out::default();
    match name {
        "/" => out.text(&[engineio::MESSAGE, kind, json]),
        name => out.text(&[engineio::MESSAGE, kind, name.as_bytes(), b",", json]),
    }
    out.into_frame()
}

#[derive(Serialize)]
struct From<'a> {
    connection: &'a str,
    user: Option<&'a str>,
}

#[derive(Serialize)]
struct About<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<From<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl About<'_> {
    fn is_empty(&self) -> bool {
        self.event.is_none()
            && self.channel.is_none()
            && self.from.is_none()
            && self.id.is_none()
            && self.offset.is_none()
    }
}

#[derive(Serialize)]
struct Joined<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
}

#[derive(Serialize)]
struct Left<'a> {
    channel: &'a str,
}

#[derive(Serialize)]
struct MemberChange<'a> {
    kind: MemberKind,
    channel: &'a str,
    member: Member<'a>,
    user_connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<&'a str>,
}

#[derive(Serialize)]
struct Member<'a> {
    id: &'a str,
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Members<'a> {
    channel: &'a str,
    count: u64,
    users: u64,
}

#[derive(Serialize)]
struct Bye<'a> {
    code: u16,
    reason: &'a str,
    reconnect_in_ms: u64,
}

#[derive(Serialize)]
struct Refusal<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Refused<'a> {
    error: Refusal<'a>,
}

#[cfg(test)]
mod tests;
