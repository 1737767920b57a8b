//! What the frames of a client of another protocol mean: the same operations as those of `fanfare.v1`.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use smol_str::SmolStr;

use super::ConnectOptions;
use crate::{
    hub::Snapshot,
    id::ConnectionId,
    metrics::Refusal,
    protocol::{decoder::Message, frame::Frame, native::Call, wire::Form},
};

/// A client's side of a protocol: it turns the client's messages into what the session does for any client.
///
/// Rates, rights, deadlines and refusals are the session's. What the client gets is written by the protocol's
/// [`Encoding`](crate::protocol::wire::Encoding).
pub(crate) trait Dialect: fmt::Debug {
    /// What is said before anything has come from the client of `connection`, as it goes over the wire.
    fn greeting(&mut self, _connection: ConnectionId) -> Vec<Frame> {
        Vec::new()
    }

    /// Whether a client that closes its WebSocket may yet come back: it would have said goodbye before.
    fn outlives_close(&self) -> bool {
        false
    }

    /// Whether a client is let in without having said who it is, if the app allows that. Otherwise it says so first.
    fn is_let_in_first(&self) -> bool {
        false
    }

    /// How its clients send a token, for messages to a client that sent none.
    fn names_token(&self) -> &'static str {
        "a token"
    }

    /// Whether `message` answers the server's own sign of life, for protocols that do not use WebSocket's. It costs nothing
    /// then.
    fn answers_ping(&self, _message: &Message<'_>) -> bool {
        false
    }

    /// Learns the state of its client, before each message.
    fn know(&mut self, _standing: ClientState) {}

    /// Bytes of a message of which a part has come, and the rest has not. Their time and room are bounded as those of an
    /// unfinished WebSocket message.
    fn held(&self) -> usize {
        0
    }

    /// A message was refused unread, for the client's rate. If it was a part of a larger one, the rest of that means nothing.
    fn lose_part(&mut self) {}

    /// Reads one text or binary message.
    ///
    /// # Errors
    /// [`Unintelligible`] if it is not one of the protocol's.
    fn read<'m>(&'m mut self, message: &'m Message<'m>) -> Result<Meaning<'m>, Unintelligible>;

    /// About how many bytes the client gets for the last reading that are not in the reading itself. They are charged as a page of
    /// members is.
    fn answer_bytes(&self) -> usize {
        0
    }

    /// Lets go of what the last reading borrowed: a client may be idle for long.
    fn forget(&mut self) {}
}

/// The state of a client.
#[derive(Debug)]
pub(crate) struct ClientState {
    /// Its connection.
    pub(crate) connection: Snapshot,
    /// Whether the app has client keys.
    pub(crate) has_client_keys: bool,
}

/// What a message means.
#[derive(Debug)]
#[allow(dead_code, reason = "the first protocol does not need all of it")]
pub(crate) enum Meaning<'m> {
    /// Nothing yet: it is a part of something larger, or needs no answer.
    Nothing,
    /// This is the answer, as it goes over the wire.
    Answer(Frame),
    /// The client is refused what it needs to come in, and learns that; it may try again.
    TurnedAway {
        /// What is counted.
        why: Refusal,
        /// What is logged.
        detail: String,
        /// The answer, as it goes over the wire.
        answer: Frame,
    },
    /// The client wants to be let in, or renews its token.
    Enter(Credentials<'m>),
    /// An operation, which is checked and charged as one of a native client.
    Call(Call<'m>),
    /// The client joins all of these channels, or none if it lacks the right for one. There is one answer.
    JoinAll {
        /// The request, which is answered once the client is in all of them.
        id: Option<&'m RawValue>,
        /// The channels, whose names are good.
        channels: Vec<Cow<'m, str>>,
    },
    /// The message is one of the protocol, and asks for something that cannot be.
    Refused {
        /// The request, for the answer.
        id: Option<Box<RawValue>>,
        /// The stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The client's form is another one from now on.
    Reform {
        /// The form.
        form: Form,
        /// What is said then, as it goes over the wire.
        answer: Option<Frame>,
        /// Channels whose names begin with this are left.
        leave: Option<String>,
    },
    /// The client says goodbye.
    Leave,
    /// The client goes, and may come back: as if its socket had failed.
    Break,
    /// The connection is to be closed.
    Close {
        /// The close code.
        code: u16,
        /// Why.
        reason: String,
    },
}

/// Who a client says it is.
#[derive(Debug, Default)]
pub(crate) struct Credentials<'m> {
    /// The request, which is answered once the client is in.
    pub(crate) id: Option<&'m RawValue>,
    /// Its token; without it, that of the handshake.
    pub(crate) token: Option<Cow<'m, str>>,
    /// Its client key, if it has one.
    pub(crate) key: Option<Cow<'m, str>>,
    /// Whether it gets its own messages back where they do not say; without it, as it was.
    pub(crate) echo: Option<bool>,
    /// The API key by which it is a server of the app. Nothing but the echo and the forms counts beside it.
    pub(crate) api_key: Option<Cow<'m, str>>,
    /// Whether it takes what was stored for its user; without it, as it was.
    pub(crate) store: Option<bool>,
    /// Its form from now on; without it, as it was.
    pub(crate) form: Option<Form>,
    /// Its form once it is in; without it, as it was.
    pub(crate) form_inside: Option<Form>,
    /// What it wants once it is in.
    pub(crate) options: ConnectOptions,
    /// How it goes on for an earlier connection, in protocols whose clients do that by themselves.
    pub(crate) recovery: Option<Recovery>,
}

/// How a client goes on for an earlier connection, whose id it does not know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    /// The name that it was given for when it comes back.
    pub(crate) offered: Option<SmolStr>,
    /// The last stored event that it got: offset and channel.
    pub(crate) last: Option<SmolStr>,
}

/// A message that is not one of the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unintelligible {
    /// What is wrong with it.
    pub(crate) message: &'static str,
    /// Whether nothing that follows can be understood either, so that the connection ends.
    pub(crate) is_fatal: bool,
}
