//! One client's life, from the upgraded socket to the last count: what its frames mean, and one exit guard.

use std::{
    future::poll_fn,
    net::IpAddr,
    num::NonZeroU64,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::net::TcpStream;

use crate::{
    app::App,
    auth::{TokenError, Verified, unix_now},
    close::{self, Close},
    config::ClientAuth,
    event_loop::{EventLoop, Seat},
    hub::{Connection, State},
    id::AppId,
    limits::RATE_LIMIT_STRIKES,
    node::{Node, Occupancy},
    predicate::{Attributes, Facts, Value},
    protocol::{
        decoder::{Decoder, Message, Role},
        frame::Frame,
        native::{self, Misunderstood, Reconnect, Request, Welcome},
    },
};

/// A socket that the HTTP edge has upgraded.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) app: AppId,
    pub(crate) socket: TcpStream,
    /// Bytes that came behind the handshake.
    pub(crate) leftover: Bytes,
    pub(crate) ip: IpAddr,
    pub(crate) device: Option<Arc<str>>,
    pub(crate) token: Option<String>,
    /// When the socket was accepted.
    pub(crate) since: Instant,
    pub(crate) occupancy: Occupancy,
}

/// What the reading side of a connection holds while the client is idle: no buffer, and nothing on the heap besides.
pub(crate) struct Session {
    node: Arc<Node>,
    event_loop: Rc<EventLoop>,
    seat: Rc<Seat>,
    decoder: Decoder,
    rate: Rate,
    app: AppId,
    /// The code the client closed with.
    left_with: u16,
    _occupancy: Occupancy,
}

impl Session {
    /// Gives an upgraded socket its slot, and decides about its credentials; `None` where no slot is left.
    pub(crate) fn begin(node: Arc<Node>, event_loop: Rc<EventLoop>, arrival: Arrival) -> Option<Self> {
        let Arrival { app, socket, leftover, ip, device, token, since, occupancy } = arrival;
        let shard = event_loop.shard().clone();
        let facts = |id| Facts {
            id,
            device,
            ip,
            protocol: native::NAME,
            connected_at: unix_now() as u32,
            node: node.name.clone(),
        };
        let build = |id| Connection { app, attributes: Attributes::new(facts(id)), expires_at: None };
        let Ok((at, connection)) = shard.own(|table| table.insert(build)) else {
            tracing::error!("no slot is left for a connection");
            return None;
        };
        let seat = event_loop.seat(socket, at);
        let decoder = Decoder::new(Role::Server, node.config.limits.message_bytes);
        let mut session = Self {
            rate: Rate::new(node.config.limits.message_burst),
            node,
            event_loop,
            seat,
            decoder,
            app,
            left_with: close::ABNORMAL,
            _occupancy: occupancy,
        };
        session.identify(&connection, token.as_deref());
        session.node.metrics.handshake.observe(since.elapsed().as_secs_f64());
        if !leftover.is_empty() {
            session.receive(&mut leftover.to_vec());
        }
        Some(session)
    }

    /// Serves the client until it leaves or is sent away.
    ///
    /// The task holds this and nothing else: polled by hand, it needs no place in a list of those who wait.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let event_loop = self.event_loop.clone();
        loop {
            let seat = self.seat.clone();
            match ready!(event_loop.poll_read(cx, &seat, |bytes| self.receive(bytes))) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    fn app(&self) -> &App {
        self.node.app(self.app)
    }

    /// Decides what the handshake's credentials, or their absence, make of the connection.
    fn identify(&mut self, connection: &Connection, token: Option<&str>) {
        let auth = self.app().policy(0).client_auth;
        match (auth, token) {
            (ClientAuth::Off, _) | (ClientAuth::Optional, None) => {
                self.open(Connection { attributes: connection.attributes.clone(), ..*connection });
            }
            (ClientAuth::Required, None) => {
                self.event_loop.expect_authentication(self.seat.at, self.node.config.limits.auth);
            }
            (_, Some(token)) => match self.app().tokens.verify(token, unix_now()) {
                Ok(verified) => match self.authenticated(connection, verified) {
                    Ok(connection) => self.open(connection),
                    Err(message) => self.close(close::UNAUTHORIZED, &message),
                },
                Err(error) => self.unauthorized(&error),
            },
        }
    }

    /// The connection as it is with a verified token's claims.
    fn authenticated(&self, connection: &Connection, verified: Verified) -> Result<Connection, String> {
        let mut claims = verified.claims.to_vec();
        let auth =
            Value::from_json(&mut claims, &self.app().layouts).map_err(|error| format!("claims: {error}"))?;
        let mut attributes = connection.attributes.clone();
        attributes.auth = auth;
        // One string for both, where there is one.
        attributes.user = match attributes.auth.get("sub") {
            sub @ Value::String(_) => sub.clone(),
            _ => Value::String(verified.user),
        };
        let expires_at = verified.expires_at.and_then(NonZeroU64::new);
        Ok(Connection { app: self.app, attributes, expires_at })
    }

    /// Lets the connection be reached; its welcome comes before anything else.
    fn open(&self, connection: Connection) {
        let at = self.seat.at;
        let heartbeat = self.node.config.limits.heartbeat.as_secs();
        let welcome = native::welcome(&Welcome {
            connection: connection.id(),
            user: connection.user(),
            heartbeat,
            resumed: None,
            reconnect: Reconnect { min_ms: 500, max_ms: 30_000, resume_ms: 0 },
        });
        let expires_at = connection.expires_at;
        let opened = self.event_loop.shard().with(|table| {
            let pending = table.state(at) == State::Pending;
            let opened = table.open(at, connection) && pending;
            if opened {
                table.place_own(at, welcome);
            }
            opened
        });
        if opened {
            self.app().metrics.connections.inc();
            self.app().metrics.connected.inc();
        }
        if let Some(expires_at) = expires_at {
            self.event_loop.expect_expiry(at, expires_at.get());
        }
    }

    fn unauthorized(&self, error: &TokenError) {
        tracing::info!(app = %self.app().name, %error, "client refused");
        self.close(close::UNAUTHORIZED, &error.to_string());
    }

    fn close(&self, code: u16, reason: &str) {
        let close = Close::new(code, reason);
        self.event_loop.shard().with(|table| table.close(self.seat.at, None, &close));
    }

    /// Answers the client's close frame. The code counts as the client's, not as one of ours.
    fn leave_by_itself(&self, code: u16) {
        let close = Close::new(code, "");
        self.event_loop.shard().with(|table| table.close_answer(self.seat.at, &close));
    }

    fn reply(&self, frame: Frame) {
        self.event_loop.shard().with(|table| table.place_own(self.seat.at, frame));
    }

    /// Takes bytes off the socket. Once the connection is closing, only the client's own close frame counts.
    fn receive(&mut self, mut bytes: &mut [u8]) {
        self.seat.heard();
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Server, 0));
        loop {
            match decoder.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => self.message(&message),
                Err(violation) => {
                    self.close(violation.code(), &violation.to_string());
                    break;
                }
            }
        }
        self.decoder = decoder;
    }

    fn message(&mut self, message: &Message<'_>) {
        if let Message::Close(close) = message {
            let code = close.map_or(close::NO_STATUS, |(code, _)| code);
            // A client's own codes would let it make up labels of a metric.
            self.left_with = if code < 3000 { code } else { close::NORMAL };
            self.leave_by_itself(code);
            return;
        }
        if matches!(message, Message::Pong(_)) || self.is_closing() {
            return;
        }
        self.app().metrics.messages.inc();
        match self.rate.take(&self.node.config.limits, Instant::now()) {
            Allowance::Go => {}
            Allowance::Refused => {
                let id = if let Message::Text(text) = message { native::id(text) } else { None };
                return self.reply(native::error(id, "rate_limited", "too many messages; slow down"));
            }
            Allowance::Strike => return self.close(close::RATE_LIMITED, "too many messages"),
        }
        match message {
            Message::Text(text) => self.text(text),
            Message::Binary(_) => {
                self.reply(native::error(None, "bad_message", "binary messages are not understood here"));
            }
            Message::Ping(payload) => self.reply(Frame::pong(payload)),
            Message::Pong(_) | Message::Close(_) => {}
        }
    }

    fn is_closing(&self) -> bool {
        let state = self.event_loop.shard().own(|table| table.state(self.seat.at));
        matches!(state, State::Closing | State::Free)
    }

    fn text(&mut self, text: &str) {
        match native::parse(text) {
            Ok(call) => match call.request {
                Request::Ping => self.reply(call.id.map_or_else(native::pong, native::ack)),
                Request::Auth { token } => self.authenticate(call.id, &token),
                _ => self.reply(native::error(call.id, "unknown_op", "this op is not served")),
            },
            Err(Misunderstood::NotJson) => self.close(close::BAD_MESSAGE, "the message is not JSON"),
            Err(Misunderstood::Refused { id, code, message }) => {
                self.reply(native::error(id, code, &message));
            }
        }
    }

    /// `op: auth`: who was waiting for it is let in; who is in is renewed in one step, as the same user.
    fn authenticate(&mut self, id: Option<&RawValue>, token: &str) {
        let at = self.seat.at;
        let refuse = |code: &str, message: &str| self.reply(native::error(id, code, message));
        if self.app().policy(0).client_auth == ClientAuth::Off {
            return refuse("auth_off", "client authentication is off");
        }
        let (state, connection) =
            self.event_loop.shard().own(|table| (table.state(at), table.connection(at)));
        let Some(connection) = connection else { return };
        let verified = match self.app().tokens.verify(token, unix_now()) {
            Ok(verified) => verified,
            Err(error) if state == State::Pending => return self.unauthorized(&error),
            Err(error) => return refuse("unauthorized", &error.to_string()),
        };
        if connection.user().is_some_and(|user| user != &*verified.user) {
            return refuse("forbidden", "a renewed token must be of the same user");
        }
        let (user, expires_at) = (verified.user.clone(), verified.expires_at);
        match self.authenticated(&connection, verified) {
            Ok(connection) => self.open(connection),
            Err(message) => return refuse("unauthorized", &message),
        }
        if let Some(id) = id {
            self.reply(native::ack_auth(id, &user, expires_at));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let at = self.seat.at;
        self.event_loop.leave(at);
        let Some(departure) = self.event_loop.shard().own(|table| table.remove(at)) else { return };
        let code = if departure.close_code == 0 { self.left_with } else { departure.close_code };
        let app = self.app();
        app.metrics.closed(code);
        if departure.was_open {
            app.metrics.connections.dec();
        }
        let connection = departure.connection;
        tracing::debug!(
            app = %app.name,
            connection = %connection.id(),
            user = connection.user().unwrap_or(""),
            code,
            unwritten = departure.unwritten,
            "connection ended"
        );
    }
}

/// Whether a client may send one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowance {
    Go,
    Refused,
    /// Refused so often in a row that the client is closed.
    Strike,
}

/// A token bucket in 24 bytes.
#[derive(Debug)]
struct Rate {
    level: f32,
    strikes: u32,
    since: Instant,
}

impl Rate {
    fn new(burst: u32) -> Self {
        Self { level: burst as f32, strikes: 0, since: Instant::now() }
    }

    fn take(&mut self, limits: &crate::limits::Limits, now: Instant) -> Allowance {
        let gained = now.duration_since(self.since).as_secs_f32() * limits.messages_per_second as f32;
        self.level = (self.level + gained).min(limits.message_burst as f32);
        self.since = now;
        if self.level >= 1.0 {
            self.level -= 1.0;
            self.strikes = 0;
            return Allowance::Go;
        }
        self.strikes += 1;
        if self.strikes > RATE_LIMIT_STRIKES { Allowance::Strike } else { Allowance::Refused }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn a_burst_passes_then_the_rate_holds_then_the_client_is_closed() {
        let limits = Limits { messages_per_second: 10, message_burst: 5, ..Limits::default() };
        let mut rate = Rate::new(limits.message_burst);
        let start = Instant::now();
        assert!((0..5).all(|_| rate.take(&limits, start) == Allowance::Go));
        assert_eq!(rate.take(&limits, start), Allowance::Refused);
        let later = start + Duration::from_millis(250);
        assert!((0..2).all(|_| rate.take(&limits, later) == Allowance::Go));
        assert!((0..RATE_LIMIT_STRIKES).all(|_| rate.take(&limits, later) == Allowance::Refused));
        assert_eq!(rate.take(&limits, later), Allowance::Strike);
    }
}
