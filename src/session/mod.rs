//! One client's life, from the upgraded socket to the last count: what its frames mean, and one exit guard.
//!
//! A client's messages are taken one after another. One that has something to wait for is kept as a future, and
//! nothing more is read until it is done: what a client sends next is never placed before what it sent first, and one
//! that sends faster than the node takes is held back by its own socket.

mod client;
mod credentials;
mod entering;
mod gate;
mod gathered;
mod joining;
mod rate;

use std::{
    future::poll_fn,
    mem,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use serde_json::value::RawValue;
use smol_str::SmolStr;
use tokio::net::TcpStream;

pub(crate) use self::entering::Entrance;
use self::{
    client::Client,
    rate::{Allowance, Rate},
};
use crate::{
    auth::unix_now,
    close,
    event_loop::EventLoop,
    hub::Connection,
    id::AppId,
    metrics::Refusal,
    node::{Node, Occupancy},
    predicate::{Attributes, Facts},
    protocol::{
        decoder::{Decoder, Message, Role},
        frame::Frame,
        native::{self, Call, Misunderstood, Request},
    },
};

/// A socket that the HTTP edge has upgraded.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) app: AppId,
    /// Which of the app's policies for clients holds.
    pub(crate) policy: usize,
    /// Why it may not stay, where its handshake already says so.
    pub(crate) refusal: Option<&'static str>,
    pub(crate) socket: TcpStream,
    /// The answer to its handshake, which is yet to be written.
    pub(crate) granted: Vec<u8>,
    /// Bytes that came behind the handshake.
    pub(crate) leftover: Bytes,
    pub(crate) ip: IpAddr,
    pub(crate) device: Option<SmolStr>,
    pub(crate) token: Option<String>,
    /// Whether it gets its own messages back where they do not say.
    pub(crate) echo: bool,
    /// Whether it takes events that were stored for its user.
    pub(crate) store: bool,
    /// What it wants to come in to.
    pub(crate) entrance: Entrance,
    /// When the socket was accepted.
    pub(crate) since: Instant,
    pub(crate) occupancy: Occupancy,
}

/// What a message has yet to wait for.
type Operation = Pin<Box<dyn Future<Output = ()>>>;

/// An operation under way, and the bytes that came behind it.
struct Pending {
    operation: Operation,
    rest: Vec<u8>,
}

/// What the reading side of a connection holds while the client is idle: no buffer, and nothing on the heap besides.
pub(crate) struct Session {
    client: Client,
    decoder: Decoder,
    rate: Rate,
    pending: Option<Box<Pending>>,
    /// What it comes in to once it is let in.
    entrance: Option<Box<Entrance>>,
    /// The code the client closed with.
    left_with: u16,
    _occupancy: Occupancy,
}

impl Session {
    /// Gives an upgraded socket its slot, and decides about its credentials; `None` where no slot is left.
    pub(crate) fn begin(
        node: Arc<Node>,
        event_loop: Rc<EventLoop>,
        arrival: Arrival,
    ) -> Option<Self> {
        let Arrival {
            app,
            policy,
            socket,
            ip,
            device,
            echo,
            store,
            since,
            ..
        } = arrival;
        let shard = event_loop.shard().clone();
        let facts = |id| Facts {
            id,
            device,
            ip,
            protocol: native::NAME,
            connected_at: unix_now() as u32,
            node: node.name.clone(),
        };
        let rights = node
            .live()
            .access(app)
            .policy(policy)
            .default_rights
            .clone();
        let build = |id| Connection::new(app, Attributes::new(facts(id)), rights);
        let Ok((at, connection)) = shard.own(|table| table.insert(build)) else {
            let detail = "no slot is left for a connection";
            let refusals = node.refusals();
            refusals.refuse(Refusal::Connections, Some(app), detail);
            return None;
        };
        let seat = event_loop.seat(socket, at);
        shard.with(|table| table.place_own(at, Frame::handshake(arrival.granted)));
        let (message_bytes, burst) = {
            let live = node.live();
            let limits = &live.config.limits;
            (limits.message_bytes, limits.message_burst)
        };
        let mut session = Self {
            decoder: Decoder::new(Role::Server, message_bytes),
            rate: Rate::new(burst),
            client: Client {
                node,
                event_loop,
                seat,
                app,
                policy: policy as u16,
                echo,
                store,
            },
            pending: None,
            entrance: (!arrival.entrance.is_empty()).then(|| Box::new(arrival.entrance)),
            left_with: close::ABNORMAL,
            _occupancy: arrival.occupancy,
        };
        match arrival.refusal {
            Some(why) => session.client.turn_away(Refusal::ClientKey, why),
            None => session.identify(&connection, arrival.token.as_deref()),
        }
        session
            .client
            .node
            .metrics
            .handshake
            .observe(since.elapsed().as_secs_f64());
        session.receive(&mut arrival.leftover.to_vec());
        Some(session)
    }

    /// Serves the client until it leaves or is sent away.
    ///
    /// The task holds this and nothing else: polled by hand, it needs no place in a list of those who wait.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        let event_loop = self.client.event_loop.clone();
        event_loop.see_off(move || drop(self));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let event_loop = self.client.event_loop.clone();
        loop {
            while let Some(pending) = &mut self.pending {
                ready!(pending.operation.as_mut().poll(cx));
                let rest = self.pending.take().map(|pending| pending.rest);
                self.receive(&mut rest.unwrap_or_default());
            }
            let seat = self.client.seat.clone();
            match ready!(event_loop.poll_read(cx, &seat, |bytes| self.receive(bytes))) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Lets a connection in, or renews it, and answers the `auth` that asked for it.
    fn enter(&mut self, connection: Connection, auth: Option<Box<RawValue>>) {
        let entrance = self.entrance.take();
        // With other nodes it waits until the bus brings what it is to get.
        if entrance.is_none() && !connection.takes_stored && self.client.node.cluster.is_none() {
            self.client.open(connection, None, None);
            return self.client.acknowledge_auth(auth.as_deref());
        }
        self.client.seat.vouch();
        let client = self.client.clone();
        self.wait_for(client.enter(
            connection,
            entrance.map(|entrance| *entrance).unwrap_or_default(),
            auth,
        ));
    }

    fn wait_for(&mut self, operation: impl Future<Output = ()> + 'static) {
        self.pending = Some(Box::new(Pending {
            operation: Box::pin(operation),
            rest: Vec::new(),
        }));
    }

    /// Takes bytes off the socket, up to a message that has something to wait for. Once the connection is closing,
    /// only the client's own close frame counts.
    fn receive(&mut self, mut bytes: &mut [u8]) {
        self.client.seat.heard();
        if let Some(pending) = &mut self.pending {
            pending.rest.extend_from_slice(bytes);
            return;
        }
        let mut decoder = mem::replace(&mut self.decoder, Decoder::new(Role::Server, 0));
        while self.pending.is_none() {
            match decoder.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => self.message(&message),
                Err(violation) => {
                    self.client.close(violation.code(), &violation.to_string());
                    break;
                }
            }
        }
        self.decoder = decoder;
        if let Some(pending) = &mut self.pending {
            pending.rest.extend_from_slice(bytes);
        }
    }

    fn message(&mut self, message: &Message<'_>) {
        if let Message::Close(close) = message {
            let code = close.map_or(close::NO_STATUS, |(code, _)| code);
            // A client's own codes would let it make up labels of a metric.
            self.left_with = if code < 3000 { code } else { close::NORMAL };
            self.client.leave_by_itself(code);
            return;
        }
        if let Message::Pong(payload) = message {
            return self.client.confirm(payload);
        }
        if self.client.is_closing() {
            return;
        }
        self.client.app().metrics.messages.inc();
        match self
            .rate
            .take(&self.client.node.live().config.limits, Instant::now())
        {
            Allowance::Go => {}
            Allowance::Refused => {
                let id = match message {
                    Message::Text(text) => native::id(text),
                    Message::Binary(bytes) => native::binary_id(bytes),
                    _ => None,
                };
                return self
                    .client
                    .refuse(id, "rate_limited", "too many messages; slow down");
            }
            Allowance::Strike => return self.client.strike(),
        }
        match message {
            Message::Text(text) => self.understand(native::parse(text)),
            Message::Binary(bytes) => self.understand(native::parse_binary(bytes)),
            Message::Ping(payload) => self.client.reply(Frame::pong(payload)),
            Message::Pong(_) | Message::Close(_) => {}
        }
    }

    fn understand(&mut self, call: Result<Call<'_>, Misunderstood<'_>>) {
        match call {
            Ok(Call {
                id,
                request: Request::Auth { token },
            }) => self.authenticate(id, &token),
            Ok(Call { id, request }) => {
                if let Some(operation) = self.client.clone().call(id, request) {
                    self.wait_for(operation);
                }
            }
            Err(Misunderstood::NotJson) => {
                self.client
                    .close(close::BAD_MESSAGE, "the message is not JSON");
            }
            Err(Misunderstood::Refused { id, code, message }) => {
                self.client.refuse(id, code, &message);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Client {
            event_loop, seat, ..
        } = &self.client;
        event_loop.leave(seat.at);
        let Some(departure) = event_loop.shard().own(|table| table.remove(seat.at)) else {
            return;
        };
        let code = if departure.close_code == 0 {
            self.left_with
        } else {
            departure.close_code
        };
        let app = self.client.app();
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
