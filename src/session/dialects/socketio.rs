//! Clients of Socket.IO: events named as the operations of native clients are those operations, with the same fields; every
//! other event is a call.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;
use smol_str::SmolStr;

use crate::{
    id::ConnectionId,
    metrics::Refusal,
    protocol::{
        decoder::Message,
        engineio::{self, Malformed},
        event::{Data, channel_name},
        frame::Frame,
        native::{self, Call, Misunderstood, Request},
        socketio::{self, Arguments, Assembly, Kind, Namespaces, Packet, request_id},
        wire::{Form, Out},
    },
    session::{
        ConnectOptions,
        dialect::{Credentials, Dialect, Meaning, Recovery, Unintelligible},
    },
};

/// What all clients of an app's Socket.IO have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) namespaces: Arc<Namespaces>,
    /// First the form of those who wait for each namespace, then that of each set of namespaces.
    pub(crate) forms: Arc<[Form]>,
    /// Most bytes of a packet with its attachments.
    pub(crate) limit: usize,
}

impl Setup {
    fn waiting(&self, at: usize) -> Option<Form> {
        self.forms.get(at).copied()
    }

    fn inside(&self, inside: u8) -> Option<Form> {
        let sets = self.forms.get(self.namespaces.len()..)?;
        // The empty set has no form, so the first is that of the first namespace alone.
        sets.get(usize::from(inside).checked_sub(1)?).copied()
    }
}

/// One client's side.
#[derive(Debug)]
pub(crate) struct SocketIo {
    setup: Setup,
    /// The first packet, until it is said.
    open: Vec<u8>,
    connection: Option<ConnectionId>,
    /// A bit for each namespace that the client is in.
    inside: u8,
    /// A packet whose attachments have yet to come.
    assembly: Option<Box<Assembly>>,
    /// A packet, or a part of one, was refused for the client's rate: attachments that follow may be its.
    has_lost_part: bool,
    /// What the reading of the last message borrows.
    last: Option<Box<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    whole: Option<Box<Assembly>>,
    json: String,
    list: String,
    id: Option<Box<RawValue>>,
}

/// What a client says of itself when it connects to a namespace. It may say more, for others.
#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    pid: Option<SmolStr>,
    #[serde(default)]
    offset: Option<SmolStr>,
}

/// Events that are operations of native clients.
const OPERATIONS: [&str; 8] = [
    "auth",
    "join",
    "leave",
    "send",
    "broadcast",
    "publish",
    "update",
    "members",
];

impl From<Malformed> for Unintelligible {
    fn from(Malformed(message): Malformed) -> Self {
        // Packets are written by a library: one that is wrong means that no later one can be trusted.
        Self {
            message,
            is_fatal: true,
        }
    }
}

impl SocketIo {
    /// A client that is sent `open` first.
    pub(crate) fn new(setup: Setup, open: Vec<u8>) -> Self {
        Self {
            setup,
            open,
            connection: None,
            inside: 0,
            assembly: None,
            has_lost_part: false,
            last: None,
        }
    }

    fn packet<'m>(&'m mut self, text: &'m str) -> Result<Meaning<'m>, Unintelligible> {
        let packet = socketio::parse(text)?;
        if packet.attachments > 0 {
            self.assembly = Some(Box::new(Assembly::new(text, packet.attachments)));
            return Ok(Meaning::Nothing);
        }

        match packet.kind {
            Kind::Connect => Ok(self.connect(&packet)),
            Kind::Disconnect => Ok(self.disconnect(packet.namespace)),
            Kind::Event => self.event(&packet),
            // The server asks for no answers.
            Kind::Ack => Ok(Meaning::Nothing),
            Kind::ConnectError => {
                Err(Malformed("a client does not say that it refuses a namespace").into())
            }
        }
    }

    fn attachment<'m>(&'m mut self, bytes: &[u8]) -> Result<Meaning<'m>, Unintelligible> {
        if self.has_lost_part {
            return Ok(Meaning::Nothing);
        }
        let Some(assembly) = &mut self.assembly else {
            return Err(Malformed("there are bytes, and no packet that they belong to").into());
        };
        if !assembly.take(bytes, self.setup.limit)? {
            return Ok(Meaning::Nothing);
        }
        self.last.get_or_insert_default().whole = self.assembly.take();
        self.whole()
    }

    /// Reads the packet whose last attachment has come.
    fn whole(&mut self) -> Result<Meaning<'_>, Unintelligible> {
        let place = |namespace: &str| place(&self.setup.namespaces, self.inside, namespace);
        let Last {
            whole,
            json,
            list,
            id,
        } = &mut **self.last.get_or_insert_default();

        let Some((text, attachments)) = whole.as_ref().map(|whole| whole.parts()) else {
            return Ok(Meaning::Nothing);
        };

        let packet = socketio::parse(text)?;
        let (Kind::Event, Some(data), Some((at, prefix))) =
            (packet.kind, packet.data, place(packet.namespace))
        else {
            return Ok(Meaning::Nothing);
        };

        // Each namespace of a client counts its ids by itself.
        *id = packet.id.and_then(|id| raw(request_id(at, id)));
        if let [one] = attachments
            && is_only_data(data)?
        {
            return operation(data, Some(one), id.as_deref(), prefix, list);
        }

        *json = socketio::inline(data.get(), attachments)?;
        let data = serde_json::from_str(json)
            .map_err(|_| Malformed("the data of a packet is not JSON"))?;
        operation(data, None, id.as_deref(), prefix, list)
    }

    fn event<'m>(&'m mut self, packet: &Packet<'m>) -> Result<Meaning<'m>, Unintelligible> {
        let place = place(&self.setup.namespaces, self.inside, packet.namespace);
        let (Some(data), Some((at, prefix))) = (packet.data, place) else {
            return Ok(Meaning::Nothing);
        };
        let Last { id, list, .. } = &mut **self.last.get_or_insert_default();
        *id = packet.id.and_then(|id| raw(request_id(at, id)));
        operation(data, None, id.as_deref(), prefix, list)
    }

    fn connect<'m>(&mut self, packet: &Packet<'m>) -> Meaning<'m> {
        let name = packet.namespace;
        let Some(at) = self.setup.namespaces.find(name) else {
            let shown: String = name.chars().take(SHOWN_CHARS).collect();
            let hint = format!("add {shown:?} to namespaces of the app's protocols.socketio");
            return unknown_namespace(name, &hint);
        };

        let was = self.inside;
        if was >> at & 1 == 1 {
            return Meaning::Nothing;
        }

        let auth = packet.data.map_or("{}", RawValue::get);
        let Ok(auth) = serde_json::from_str::<Auth<'_>>(auth) else {
            let detail = wrong_auth(auth);
            return Meaning::TurnedAway {
                why: Refusal::Query,
                answer: socketio::connect_error(name, &detail, None),
                detail: format!("{detail} (socketio)"),
            };
        };

        self.inside |= 1 << at;
        // The first namespace has let it in, and a further one needs no credentials.
        if was != 0 {
            return self.also_in(name);
        }

        let prefix = self.setup.namespaces.get(at).map(|one| &*one.prefix);
        let prefixed = |channel: String| format!("{}{channel}", prefix.unwrap_or(""));
        let channels = auth.channels.unwrap_or_default();

        Meaning::Enter(Credentials {
            token: auth.token,
            key: auth.key,
            echo: auth.echo,
            form: self.setup.waiting(at),
            form_inside: self.setup.inside(self.inside),

            options: ConnectOptions {
                channels: channels.into_iter().map(prefixed).collect(),
                ..ConnectOptions::default()
            },

            recovery: Some(Recovery {
                offered: auth.pid,
                last: auth.offset,
            }),
            ..Credentials::default()
        })
    }

    /// The client, who is in already, is in the namespace `name` too.
    fn also_in<'m>(&self, name: &str) -> Meaning<'m> {
        let sid = self.connection.map(|id| id.to_string()).unwrap_or_default();
        match self.setup.inside(self.inside) {
            Some(form) => Meaning::Reform {
                form,
                answer: Some(socketio::connected(name, &sid)),
                leave: None,
            },
            None => Meaning::Nothing,
        }
    }

    fn disconnect<'m>(&mut self, name: &str) -> Meaning<'m> {
        let Some(at) = self.setup.namespaces.find(name) else {
            return Meaning::Nothing;
        };

        self.inside &= !(1 << at);
        if self.inside == 0 {
            return Meaning::Leave;
        }

        let prefix = self.setup.namespaces.get(at).map(|one| one.prefix.clone());
        match self.setup.inside(self.inside) {
            Some(form) => Meaning::Reform {
                form,
                answer: None,
                leave: prefix.filter(|prefix| !prefix.is_empty()),
            },
            None => Meaning::Nothing,
        }
    }
}

impl Dialect for SocketIo {
    fn greeting(&mut self, connection: ConnectionId) -> Vec<Frame> {
        self.connection = Some(connection);
        let mut out = Out::default();
        out.text(&[&std::mem::take(&mut self.open)]);
        vec![out.into_frame()]
    }

    fn outlives_close(&self) -> bool {
        self.inside != 0
    }

    fn names_token(&self) -> &'static str {
        "auth.token"
    }

    fn answers_ping(&self, message: &Message<'_>) -> bool {
        matches!(message, Message::Text(text) if text.as_bytes() == engineio::PONG)
    }

    fn held(&self) -> usize {
        self.assembly
            .as_ref()
            .map_or(0, |assembly| assembly.bytes())
    }

    fn lose_part(&mut self) {
        self.assembly = None;
        self.has_lost_part = true;
    }

    fn read<'m>(&'m mut self, message: &'m Message<'m>) -> Result<Meaning<'m>, Unintelligible> {
        let text = match message {
            Message::Binary(bytes) => return self.attachment(bytes),
            Message::Text(text) => text,
            _ => return Ok(Meaning::Nothing),
        };

        // A text begins a packet, so attachments from here on belong to that.
        self.has_lost_part = false;
        match engineio::parse(text)? {
            engineio::Packet::Message(_) if self.assembly.is_some() => {
                Err(Malformed("there is text in place of an attachment").into())
            }
            engineio::Packet::Message(packet) => self.packet(packet),
            // It would have left its namespaces before, if it did not mean to come back.
            engineio::Packet::Close if self.inside != 0 => Ok(Meaning::Break),
            engineio::Packet::Close => Ok(Meaning::Leave),
            engineio::Packet::Ping(rest) => {
                let mut out = Out::default();
                out.text(&[engineio::PONG, rest.as_bytes()]);
                Ok(Meaning::Answer(out.into_frame()))
            }
            engineio::Packet::Pong(_) | engineio::Packet::Upgrade | engineio::Packet::Noop => {
                Ok(Meaning::Nothing)
            }
        }
    }

    fn forget(&mut self) {
        self.last = None;
    }
}

/// Most characters of a namespace that a message repeats.
const SHOWN_CHARS: usize = 64;

/// Refuses the namespace `name`, which is not there; `hint` says what to do.
pub(super) fn unknown_namespace<'m>(name: &str, hint: &str) -> Meaning<'m> {
    let shown: String = name.chars().take(SHOWN_CHARS).collect();
    Meaning::TurnedAway {
        why: Refusal::Protocol,
        answer: socketio::connect_error(name, "Invalid namespace", Some(hint)),
        detail: format!("unknown namespace {shown:?}; {hint}"),
    }
}

/// What is wrong with an `auth` that is not an [`Auth`]: the first of its fields that is not what it should be.
fn wrong_auth(auth: &str) -> String {
    fn is<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> bool {
        value.is_none_or(|value| serde_json::from_str::<T>(value.get()).is_ok())
    }

    #[derive(Deserialize)]
    struct AuthPayload<'a> {
        #[serde(borrow, default)]
        token: Option<&'a RawValue>,
        #[serde(borrow, default)]
        key: Option<&'a RawValue>,
        #[serde(borrow, default)]
        echo: Option<&'a RawValue>,
        #[serde(borrow, default)]
        channels: Option<&'a RawValue>,
        #[serde(borrow, default)]
        pid: Option<&'a RawValue>,

        #[serde(borrow, default)]
        offset: Option<&'a RawValue>,
    }

    let Ok(fields) = serde_json::from_str::<AuthPayload<'_>>(auth) else {
        return "auth has one of its fields twice".to_owned();
    };

    let texts = [
        ("token", fields.token),
        ("key", fields.key),
        ("pid", fields.pid),
        ("offset", fields.offset),
    ];

    if let Some((name, _)) = texts.iter().find(|(_, value)| !is::<String>(*value)) {
        return format!("auth.{name} must be a string");
    }
    if !is::<bool>(fields.echo) {
        return "auth.echo must be true or false".to_owned();
    }
    if is::<Vec<String>>(fields.channels) {
        // A field of Fanfare's that is not known here.
        return "auth cannot be read".to_owned();
    }

    "auth.channels must be a list of strings, such as [\"room-1\"]".to_owned()
}

fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}

/// The index of the namespace `name` and what its channels begin with, if the client is `inside`. Socket.IO's own
/// server ignores events for other ones as well.
fn place<'n>(namespaces: &'n Namespaces, inside: u8, name: &str) -> Option<(usize, &'n str)> {
    let at = namespaces.find(name)?;
    let namespace = namespaces.get(at)?;
    (inside >> at & 1 == 1).then_some((at, &*namespace.prefix))
}

/// Whether the bytes of an event are all that it sends, or all that it calls with, and not a part of that.
fn is_only_data(data: &RawValue) -> Result<bool, Malformed> {
    #[derive(Deserialize)]
    struct Sent<'a> {
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }

    let Arguments { name, rest } = Arguments::read(data)?;
    let alone = match &*name {
        "send" | "broadcast" | "publish" => rest
            .first()
            .and_then(|first| serde_json::from_str::<Sent<'_>>(first.get()).ok()?.data),
        name if OPERATIONS.contains(&name) => None,
        _ if rest.len() == 1 => rest.first().copied(),
        _ => None,
    };

    Ok(alone.is_some_and(|data| socketio::placeholder(data) == Some(0)))
}

/// What the event with these `data` asks for, in a namespace whose channels begin with `prefix`. `list` is for what has to be
/// put together.
fn operation<'m>(
    data: &'m RawValue,
    bytes: Option<&'m [u8]>,
    id: Option<&'m RawValue>,
    prefix: &str,
    list: &'m mut String,
) -> Result<Meaning<'m>, Unintelligible> {
    let Arguments { name, rest } = Arguments::read(data)?;
    if !OPERATIONS.contains(&&*name) {
        let data = match bytes {
            Some(bytes) => Data::Bytes(Cow::Borrowed(bytes)),
            None => Data::Json(arguments(&rest, list)),
        };
        let request = Request::Call { name, data };
        return Ok(Meaning::Call(Call { id, request }));
    }

    if !fits(&name, &rest) {
        return Ok(Meaning::Refused {
            id: id.map(ToOwned::to_owned),
            code: "bad_message",
            message: format!("{name} takes {}", usage(&name)),
        });
    }

    let fields = match rest.first() {
        // `emit("join", "room")`
        Some(first) if first.get().starts_with('"') => {
            *list = format!("{{\"channel\":{first}}}");
            list
        }
        Some(first) => first.get(),
        None => "{}",
    };

    match native::parse_as(&name, id, fields, bytes) {
        Ok(call) => Ok(in_namespace(call, prefix)),
        Err(Misunderstood::Refused { id, code, message }) => Ok(Meaning::Refused {
            id: id.map(ToOwned::to_owned),
            code,
            message,
        }),
        Err(Misunderstood::Unreadable { message }) => Err(Unintelligible {
            message,
            is_fatal: false,
        }),
    }
}

/// Whether the operation `name` may have these arguments: one object, or the name of a channel where it needs nothing else.
fn fits(name: &str, arguments: &[&RawValue]) -> bool {
    let Some((first, more)) = arguments.split_first() else {
        return true;
    };
    let is_right = match first.get().as_bytes().first() {
        Some(b'{') => true,
        Some(b'"') => matches!(name, "join" | "leave" | "members"),
        _ => false,
    };
    // A variable without a value is `null` here.
    is_right && more.iter().all(|other| other.get() == "null")
}

/// What the operation `name` takes.
fn usage(name: &str) -> &'static str {
    match name {
        "send" => "one object: { channel, event, data }",
        "broadcast" => "one object: { event, data }",
        "publish" => "one object: { users, event, data }",
        "update" => "one object: { data }",
        "auth" => "one object: { token }",
        _ => "one channel, or one object: { channel }",
    }
}

/// The arguments of a call as its data: one alone, several as a list.
fn arguments<'m>(rest: &[&'m RawValue], list: &'m mut String) -> &'m RawValue {
    match rest {
        [] => RawValue::NULL,
        [one] => one,
        many => {
            let texts: Vec<&str> = many.iter().map(|one| one.get()).collect();
            *list = format!("[{}]", texts.join(","));
            serde_json::from_str(list).unwrap_or(RawValue::NULL)
        }
    }
}

/// The same with the channel's whole name.
fn in_namespace<'m>(mut call: Call<'m>, prefix: &str) -> Meaning<'m> {
    if prefix.is_empty() {
        return Meaning::Call(call);
    }

    if let Request::Join { channel, .. }
    | Request::Leave { channel }
    | Request::Members { channel, .. }
    | Request::Send { channel, .. } = &mut call.request
    {
        let whole = format!("{prefix}{channel}");
        if let Err(error) = channel_name(&whole) {
            return Meaning::Refused {
                id: call.id.map(ToOwned::to_owned),
                code: error.code(),
                message: error.to_string(),
            };
        }
        *channel = Cow::Owned(whole);
    }

    Meaning::Call(call)
}

#[cfg(test)]
mod tests;
