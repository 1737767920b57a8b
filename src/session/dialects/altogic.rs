//! Clients of Altogic and Agnost, and Agnost's server library.
//!
//! They speak Socket.IO over a WebSocket, in its main namespace only. Each of their events is one operation. A
//! client learns about itself from the answer to the operation, since the server's notices are for the others.

use std::iter;

use serde_json::value::RawValue;

use crate::{
    close,
    hub::Connection,
    id::ConnectionId,
    protocol::{
        altogic::{
            Credentials as Auth, JOIN, LEAVE, Misunderstood, Operation, UPDATE, about_user, echo,
        },
        decoder::Message,
        engineio::{self, Malformed},
        event::{Data, Event, EventError, Exceptions, channel_name},
        frame::Frame,
        native::{Call, ClientEvent, Request},
        socketio::{self, Arguments, Assembly, Kind, Packet, inline, placeholder},
        wire::{Form, Out},
    },
    session::dialect::{ClientState, Credentials, Dialect, Meaning, Unintelligible},
    session::dialects::socketio::unknown_namespace,
};

/// One client's side.
#[derive(Debug)]
pub(crate) struct Altogic {
    /// The first packet, until it is said.
    open: Vec<u8>,
    /// Most bytes of a packet with its attachments.
    most_bytes: usize,
    /// Its form once it is let in.
    inside: Form,
    standing: Option<ClientState>,
    /// Whether its events go back to it where they do not say.
    echo: bool,
    has_entered: bool,
    /// Whether it is a server library.
    is_server: bool,
    /// A packet whose attachments have yet to come.
    assembly: Option<Assembly>,
    /// A packet that is being read, with its attachments in place.
    whole: String,
    /// The bytes that are its message.
    bytes: Option<Box<[u8]>>,
    slots: Slots,
}

/// What an operation has that is not in its message.
#[derive(Debug, Default)]
struct Slots {
    /// Its id.
    id: Option<Box<RawValue>>,
    /// The data of its event.
    data: Option<Box<RawValue>>,
    /// Bytes of the notices about itself that its client gets, one for each of its channels.
    notices: usize,
}

impl Altogic {
    /// A client that is sent `open` first, and has the form `inside` once it is let in. Its packets have at most
    /// `most_bytes`.
    pub(crate) fn new(inside: Form, most_bytes: usize, open: Vec<u8>) -> Self {
        Self {
            open,
            most_bytes,
            inside,
            standing: None,
            echo: true,
            has_entered: false,
            is_server: false,
            assembly: None,
            whole: String::new(),
            bytes: None,
            slots: Slots::default(),
        }
    }

    /// Takes an attachment; true if its packet, which is then in `whole`, is complete. A message that is nothing but bytes is
    /// in `bytes`.
    fn attach(&mut self, attachment: &[u8]) -> Result<bool, Malformed> {
        // Without a packet these are the rest of one that was refused for its client's rate.
        let Some(mut assembly) = self.assembly.take() else {
            return Ok(false);
        };

        if !assembly.take(attachment, self.most_bytes)? {
            self.assembly = Some(assembly);
            return Ok(false);
        }

        let (text, attachments) = assembly.parts();
        match attachments {
            [bytes] if is_bytes(text, self.is_server) => {
                self.bytes = Some(bytes.clone());
                text.clone_into(&mut self.whole);
            }
            _ => self.whole = inline(text, attachments)?,
        }

        Ok(true)
    }

    /// Reads a packet, or the beginning of one that has attachments.
    fn packet<'m>(
        &'m mut self,
        text: &'m str,
        standing: &ClientState,
    ) -> Result<Meaning<'m>, Unintelligible> {
        let packet = socketio::parse(text).map_err(fatal)?;
        if packet.attachments > 0 {
            self.assembly = Some(Assembly::new(text, packet.attachments));
            return Ok(Meaning::Nothing);
        }

        match packet.kind {
            Kind::Connect if packet.namespace != "/" => Ok(unknown_namespace(
                packet.namespace,
                "clients of Altogic and Agnost are in \"/\" only",
            )),
            Kind::Connect => Ok(self.connect(packet.data, standing.has_client_keys)),
            Kind::Disconnect if packet.namespace == "/" => Ok(Meaning::Leave),
            Kind::Event if packet.namespace == "/" => {
                let me = Me::new(standing, (self.echo, self.is_server));
                me.event(&packet, None, &mut self.slots)
            }
            // Nothing is asked of clients that they would answer.
            _ => Ok(Meaning::Nothing),
        }
    }

    /// Reads a packet whose attachments have come.
    fn whole_packet(&mut self, standing: &ClientState) -> Result<Meaning<'_>, Unintelligible> {
        let packet = socketio::parse(&self.whole).map_err(fatal)?;
        if (packet.kind, packet.namespace) != (Kind::Event, "/") {
            return Ok(Meaning::Nothing);
        }
        let me = Me::new(standing, (self.echo, self.is_server));
        me.event(&packet, self.bytes.take(), &mut self.slots)
    }

    /// What a client says of itself. It has to name a client key if the app `has_keys`: without any, there is nothing
    /// to distinguish one from another.
    fn connect<'m>(&mut self, auth: Option<&'m RawValue>, has_keys: bool) -> Meaning<'m> {
        if self.has_entered {
            return Meaning::Nothing;
        }

        let auth = Auth::read(auth.map_or("{}", RawValue::get));
        let credentials = Credentials {
            echo: Some(auth.echo().unwrap_or(true)),
            form_inside: Some(self.inside),
            ..Credentials::default()
        };

        self.has_entered = true;
        self.echo = auth.echo().unwrap_or(true);
        if let Some(key) = auth.access_token() {
            self.is_server = true;
            return Meaning::Enter(Credentials {
                api_key: Some(key),
                ..credentials
            });
        }

        if has_keys && auth.key().is_none() {
            return Meaning::Close {
                code: close::UNAUTHORIZED,
                reason: close::KEY_MISSING.to_owned(),
            };
        }

        Meaning::Enter(Credentials {
            token: auth.session(),
            key: auth.key().filter(|_| has_keys),
            ..credentials
        })
    }
}

/// A client in the midst of an operation.
struct Me<'c> {
    connection: &'c Connection,
    /// Whether its events go back to it where they do not say.
    echo: bool,
    is_server: bool,
}

impl<'c> Me<'c> {
    fn new(standing: &'c ClientState, (echo, is_server): (bool, bool)) -> Self {
        Self {
            connection: &standing.connection,
            echo,
            is_server,
        }
    }

    /// What an event asks for. `bytes` are its message if that is nothing else; what the operation has beside the packet goes to `slots`.
    fn event<'m>(
        &self,
        packet: &Packet<'m>,
        bytes: Option<Box<[u8]>>,
        slots: &'m mut Slots,
    ) -> Result<Meaning<'m>, Unintelligible> {
        let data = packet.data.unwrap_or(RawValue::NULL);
        let arguments = Arguments::read(data).map_err(fatal)?;
        let argument = arguments.rest.first().copied().unwrap_or(RawValue::NULL);

        let operation = match Operation::read(&arguments.name, argument, self.is_server) {
            Ok(operation) => operation,
            Err(Misunderstood(message)) => return Ok(refused("bad_message", message)),
        };

        *slots = Slots::default();
        slots.id = match &operation {
            Operation::Members { .. } => packet
                .id
                .and_then(|id| RawValue::from_string(id.to_owned()).ok()),
            _ => self.echo_of(&operation),
        };

        if let (Operation::Update { data, .. }, Some(_)) = (&operation, &slots.id) {
            slots.notices = self.connection.channels().count() * data.0.get().len();
        }

        if let Operation::UserEvent { session, about, .. } = &operation {
            slots.data = Some(about_user(*session, *about));
        }

        Ok(self
            .call(operation, bytes, slots)
            .unwrap_or_else(|error| refused(error.code(), error.to_string())))
    }

    fn call<'m>(
        &self,
        operation: Operation<'m>,
        bytes: Option<Box<[u8]>>,
        slots: &'m Slots,
    ) -> Result<Meaning<'m>, EventError> {
        let id = slots.id.as_deref();
        let request = match operation {
            Operation::Join { channel, .. } => {
                channel_name(&channel)?;
                if self.connection.is_in(&channel) {
                    return Ok(Meaning::Nothing);
                }
                Request::Attend { channel }
            }
            Operation::Leave { channel, .. } => {
                if !self.connection.is_in(&channel) {
                    return Ok(Meaning::Nothing);
                }
                Request::Leave { channel }
            }
            Operation::Update { data, .. } => Request::Update { data: data.0 },
            Operation::Send {
                channel,
                event,
                message,
                echo,
            } => {
                let data = match bytes {
                    Some(bytes) => Data::Bytes(bytes.into_vec().into()),
                    None => Data::Json(message.0),
                };
                let message = ClientEvent {
                    event: Event::new(event, data)?,
                    echo,
                    except: Exceptions::default(),
                };
                match channel {
                    Some(channel) => {
                        channel_name(&channel)?;
                        Request::Send { channel, message }
                    }
                    None => Request::Broadcast { message },
                }
            }
            Operation::UserEvent { user, event, .. } => {
                let data = slots.data.as_deref().unwrap_or(RawValue::NULL);
                Request::Publish {
                    users: vec![user],
                    message: ClientEvent {
                        event: Event::new(event, Data::Json(data))?,
                        echo: None,
                        except: Exceptions::default(),
                    },
                }
            }
            // Without an id nobody waits for the list.
            Operation::Members { .. } if id.is_none() => return Ok(Meaning::Nothing),
            Operation::Members { channel } => {
                channel_name(&channel)?;
                Request::Roster { channel }
            }
        };

        Ok(Meaning::Call(Call { id, request }))
    }

    /// The id by which the client is notified of itself once `operation` is done, if it wants that.
    fn echo_of(&self, operation: &Operation<'_>) -> Option<Box<RawValue>> {
        let (own, id) = (self.connection, self.connection.id());
        let profile = own
            .profile()
            .and_then(|profile| serde_json::to_string(profile).ok());
        let of_channel = |event, channel: &str| {
            let channels = iter::once(channel);
            Some(echo(event, (id, profile.as_deref()), channels))
        };

        match operation {
            Operation::Join { channel, echo } if echo.unwrap_or(self.echo) => {
                of_channel(JOIN, channel)
            }
            Operation::Leave { channel, echo } if echo.unwrap_or(self.echo) => {
                of_channel(LEAVE, channel)
            }
            Operation::Update { data, echo: wanted } if wanted.unwrap_or(self.echo) => {
                let data = Some(data.0.get()).filter(|data| *data != "null");
                Some(echo(UPDATE, (id, data), own.channels()))
            }
            _ => None,
        }
    }
}

/// Whether the message of the packet `text`, which has one attachment, is nothing but that.
fn is_bytes(text: &str, is_server: bool) -> bool {
    let packet = socketio::parse(text).ok();
    let data = packet.and_then(|packet| packet.data);
    let Some(arguments) = data.and_then(|data| Arguments::read(data).ok()) else {
        return false;
    };
    let operation = arguments
        .rest
        .first()
        .and_then(|argument| Operation::read(&arguments.name, argument, is_server).ok());
    matches!(operation, Some(Operation::Send { message, .. }) if placeholder(message.0) == Some(0))
}

fn refused<'m>(code: &'static str, message: String) -> Meaning<'m> {
    Meaning::Refused {
        id: None,
        code,
        message,
    }
}

/// After a packet that is malformed, nothing that follows means anything.
fn fatal(Malformed(message): Malformed) -> Unintelligible {
    Unintelligible {
        message,
        is_fatal: true,
    }
}

impl Dialect for Altogic {
    fn greeting(&mut self, _connection: ConnectionId) -> Vec<Frame> {
        let mut out = Out::default();
        out.text(&[&std::mem::take(&mut self.open)]);
        vec![out.into_frame()]
    }

    fn names_token(&self) -> &'static str {
        "a session token"
    }

    fn answers_ping(&self, message: &Message<'_>) -> bool {
        matches!(message, Message::Text(text) if text.as_bytes() == engineio::PONG)
    }

    fn held(&self) -> usize {
        self.assembly.as_ref().map_or(0, Assembly::bytes)
    }

    fn answer_bytes(&self) -> usize {
        self.slots.notices
    }

    fn forget(&mut self) {
        (self.whole, self.bytes) = (String::new(), None);
        self.slots = Slots::default();
    }

    fn lose_part(&mut self) {
        self.assembly = None;
    }

    fn know(&mut self, standing: ClientState) {
        self.standing = Some(standing);
    }

    fn read<'m>(&'m mut self, message: &'m Message<'m>) -> Result<Meaning<'m>, Unintelligible> {
        // Kept any longer, it would have to be copied when it changes.
        let Some(standing) = self.standing.take() else {
            return Ok(Meaning::Nothing);
        };

        let text = match message {
            Message::Binary(bytes) => {
                if !self.attach(bytes).map_err(fatal)? {
                    return Ok(Meaning::Nothing);
                }
                return self.whole_packet(&standing);
            }
            Message::Text(text) => text,
            _ => return Ok(Meaning::Nothing),
        };

        // An attachment was refused for its client's rate, and its packet with it.
        self.assembly = None;
        match engineio::parse(text).map_err(fatal)? {
            engineio::Packet::Message(text) => self.packet(text, &standing),
            engineio::Packet::Close => Ok(Meaning::Leave),
            _ => Ok(Meaning::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        auth::Rights,
        filter::{Attributes, ConnectionInfo},
        id::{AppId, NodeId},
    };

    const LIMIT: usize = 1000;

    fn dialect() -> Altogic {
        Altogic::new(Form::NATIVE, LIMIT, b"0{}".to_vec())
    }

    fn standing() -> ClientState {
        let id = ConnectionId {
            node: NodeId(0),
            shard: 0,
            slot: 0,
            nonce: 0,
        };
        let facts = ConnectionInfo {
            id,
            device: None,
            ip: [127, 0, 0, 1].into(),
            protocol: "altogic",
            connected_at: 0,
            node: "node".into(),
        };
        let rights = Arc::new(Rights::everything());
        let connection = Connection::new(AppId(0), Attributes::new(facts), rights);
        ClientState {
            connection: Arc::new(connection),
            has_client_keys: false,
        }
    }

    /// What `message` means, as far as the tests ask.
    fn read(dialect: &mut Altogic, message: &Message<'_>) -> &'static str {
        dialect.know(standing());
        match dialect.read(message) {
            Ok(Meaning::Nothing) => "nothing",
            Ok(Meaning::Leave) => "leave",
            Ok(Meaning::Call(Call {
                request: Request::Broadcast { message },
                ..
            })) => match message.event.data {
                Data::Json(_) => "json",
                Data::Bytes(_) => "bytes",
            },
            Ok(Meaning::Refused { .. }) => "refused",
            Err(Unintelligible { is_fatal: true, .. }) => "fatal",
            other => panic!("{other:?}"),
        }
    }

    fn with_attachment(message: &str) -> String {
        format!(r#"451-["message",{{"eventName":"e","message":{message}}}]"#)
    }

    #[test]
    fn a_message_of_bytes_alone_is_bytes_and_any_other_json() {
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        for (message, kind) in [
            (placeholder.to_owned(), "bytes"),
            (format!("[{placeholder}]"), "json"),
            ("{}".to_owned(), "fatal"),
        ] {
            let (mut one, text) = (dialect(), with_attachment(&message));
            assert_eq!(read(&mut one, &Message::Text(&text)), "nothing");
            assert_eq!(read(&mut one, &Message::Binary(b"x")), kind, "{message}");
        }
    }

    #[test]
    fn nothing_of_a_packet_stays_once_it_was_read() {
        let text = with_attachment(r#"[{"_placeholder":true,"num":0}]"#);
        let mut one = dialect();
        read(&mut one, &Message::Text(&text));
        read(&mut one, &Message::Binary(&[0; LIMIT / 2]));
        assert!(one.whole.capacity() > LIMIT / 2);
        one.forget();
        assert_eq!((one.whole.capacity(), one.held()), (0, 0));
        assert!(one.bytes.is_none() && one.assembly.is_none());
    }

    #[test]
    fn what_is_left_of_a_packet_that_was_refused_for_its_rate_is_passed_over() {
        let text = with_attachment(r#"{"_placeholder":true,"num":0}"#);
        let mut one = dialect();
        assert_eq!(read(&mut one, &Message::Binary(b"bytes")), "nothing");
        assert_eq!(read(&mut one, &Message::Text(&text)), "nothing");
        // The next packet comes in place of the attachment.
        assert_eq!(read(&mut one, &Message::Text("41")), "leave");
        assert_eq!(read(&mut one, &Message::Binary(b"bytes")), "nothing");
    }

    #[test]
    fn a_packet_is_no_bigger_with_its_attachments_than_a_message() {
        let mut one = dialect();
        let text = with_attachment("{}");
        assert_eq!(read(&mut one, &Message::Text(&text)), "nothing");
        assert_eq!(read(&mut one, &Message::Binary(&[0; LIMIT])), "fatal");
    }
}
