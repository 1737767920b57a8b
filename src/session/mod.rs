//! One client's life, from the upgraded socket to the last count: what its frames mean, and one exit guard.
//!
//! A client's messages are taken one after another. One that has something to wait for is held as a future, and
//! nothing more is read until it is done: what a client sends next is never placed before what it sent first, and one
//! that sends faster than the node takes is held back by its own socket.
//!
//! A session reads its socket once, and works for one slice of time, before the thread's other tasks run. What it has
//! read and not looked at by then waits in memory of its own.

mod calling;
mod client;
mod cost;
mod credentials;
pub(crate) mod dialect;
pub(crate) mod dialects;
mod connect;
mod foreign;
mod permissions;
mod page_with_notices;
pub(crate) mod handover;
mod joining;
mod mesa;
mod recovering;
mod unreadable;

use std::{
    future::poll_fn,
    mem,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::Bytes;
use serde_json::value::RawValue;
use smol_str::SmolStr;
use tokio::{net::TcpStream, time::sleep};

use self::{
    client::Client,
    connect::KeptForClient,
    cost::{Cost, MessageProgress},
    mesa::MesaSide,
    unreadable::Unreadable,
};
pub(crate) use self::{connect::ConnectOptions, foreign::Foreign};
use crate::{
    auth::{Rights, unix_now},
    close,
    event_loop::{EventLoop, GivenUp, LocalSocket, UnfinishedMessage},
    filter::{Attributes, ConnectionInfo},
    hub::{Connection, LongStep, Snapshot, State},
    id::{AppId, ConnectionId},
    limits::{CLOSING_BYTES, MESSAGE_TIME, READ_BUFFER, RECEIVE_STRIDE},
    metrics::Refusal,
    node::{Node, Occupancy},
    protocol::{
        decoder::{Decoder, Message, Role},
        frame::Frame,
        native::{self, Call, Misunderstood, Request},
    },
    rates::{Allowance, Bucket, Payer},
    time_slice::TimeSlice,
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
    /// Bytes that came after the handshake.
    pub(crate) leftover: Bytes,
    pub(crate) ip: IpAddr,
    pub(crate) device: Option<SmolStr>,
    pub(crate) token: Option<String>,
    /// Whether it gets its own messages back where they do not say.
    pub(crate) echo: bool,
    /// Whether it takes events that were stored for its user.
    pub(crate) store: bool,
    /// What it wants to come in to.
    pub(crate) options: ConnectOptions,
    /// When the socket was accepted.
    pub(crate) since: Instant,
    pub(crate) occupancy: Occupancy,
    /// What there is to know of a client that speaks another protocol. Such a client says itself who it is.
    pub(crate) foreign: Option<Box<Foreign>>,
}

/// What a message has yet to wait for; returns what it cost beyond one message.
type Operation = Pin<Box<dyn Future<Output = Cost>>>;

/// What has to be done before the socket is read again.
struct Pending {
    /// The operation under way, if one is.
    operation: Option<Operation>,
    /// What was read, of which the bytes from `from` on have not been looked at.
    rest: Vec<u8>,
    from: usize,
    /// Its share of the memory that waits for operations.
    held: Option<UnfinishedMessage>,
}

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It goes on.
    No,
    /// It is being closed; so many bytes were read since.
    Begun(u32),
    /// Its client goes on sending instead of leaving: nothing more is read.
    Unheard,
}

/// What the reading side of a connection holds while the client is idle: no buffer, and nothing on the heap besides.
pub(crate) struct Session {
    client: Client,
    decoder: Decoder,
    /// What it may send while it has no user.
    bucket: Bucket,
    pending: Option<Box<Pending>>,
    /// The message that has begun and not ended.
    unfinished: Option<UnfinishedMessage>,
    /// What it comes in to once it is let in.
    options: Option<Box<ConnectOptions>>,
    unreadable: Unreadable,
    ending: Ending,
    /// Set if the client speaks another protocol than `fanfare.v1`.
    foreign: Option<Box<Foreign>>,
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
            mut foreign,
            ..
        } = arrival;

        let device = device.or_else(|| foreign.as_mut()?.device.take());
        let shard = event_loop.shard().clone();
        let facts = |id| ConnectionInfo {
            id,
            device,
            ip,
            protocol: foreign
                .as_ref()
                .map_or(native::NAME, |foreign| foreign.protocol),
            connected_at: unix_now() as u32,
            node: node.name.clone(),
        };

        let rights = default_rights(&node, app, policy);
        let build = |id| Connection::new(app, Attributes::new(facts(id)), rights);
        let Ok((at, connection)) = shard.lock(|table| table.insert(build)) else {
            refuse_full(&node, app);
            return None;
        };

        let socket = event_loop.add_socket(socket, at);
        greet(
            &event_loop,
            &socket,
            arrival.granted,
            foreign.as_deref_mut(),
            connection.id(),
        );

        let mesa = MesaSide::of(&node, app, foreign.as_deref());
        let (message_bytes, bucket) = bounds_of_newcomer(&node);
        let mut session = Self {
            decoder: Decoder::new(Role::Server, message_bytes),
            bucket,
            client: Client {
                node,
                event_loop,
                socket,
                app,
                policy: policy as u16,
                echo,
                store,
                form_inside: None,
                is_server: false,
                recovery: None,
                mesa,
            },

            pending: None,
            unfinished: None,
            unreadable: Unreadable::default(),
            ending: Ending::No,
            // Most clients ask for nothing, and an idle session holds nothing on the heap for it.
            options: (!arrival.options.is_empty()).then(|| Box::new(arrival.options)),
            foreign,
            left_with: close::ABNORMAL,

            _occupancy: arrival.occupancy,
        };

        session.meet(arrival.refusal, arrival.token.as_deref(), &connection);
        let metrics = &session.client.node.metrics;
        metrics.handshake.observe(since.elapsed().as_secs_f64());
        // Messages that came with the handshake are looked at first, as if they had just been read.
        session.keep(arrival.leftover.to_vec(), 0);

        Some(session)
    }

    fn is_let_in_first(&self) -> bool {
        let foreign = self.foreign.as_ref();
        foreign.is_some_and(|foreign| foreign.dialect.is_let_in_first())
    }

    /// Decides what is done about a client that has just come.
    fn meet(
        &mut self,
        refusal: Option<&'static str>,
        token: Option<&str>,
        connection: &Arc<Connection>,
    ) {
        match refusal {
            Some(why) => self.client.turn_away(Refusal::ClientKey, why),
            None if self.is_let_in_first() => self.let_in_first(connection),
            None if self.foreign.is_some() => self.await_credentials(),
            None => self.identify(connection, token),
        }
    }

    /// Serves the client until it leaves or is sent away.
    ///
    /// The task holds this and nothing else: polled by hand, it needs no place in a list of those who wait.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        let event_loop = self.client.event_loop.clone();
        // Thousands may end at the same time, and each takes locks to be removed: the thread does
        // that in slices.
        event_loop.drop_later(move || drop(self));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let slice = TimeSlice::begin();
        self.look_at_unfinished();
        self.note_held(cx.waker());
        // An offer that comes now is declined, so that the other thread goes on carrying bytes.
        if self.pending.is_some() {
            self.move_over(cx.waker());
        }

        while let Some(pending) = &mut self.pending {
            if let Some(operation) = &mut pending.operation {
                let cost = ready!(operation.as_mut().poll(cx));
                pending.operation = None;
                self.charge(cost);
            }

            if self.ending == Ending::Unheard {
                return Poll::Ready(());
            }

            self.go_on(&slice);
            self.note_unfinished(cx.waker());
            // Not all was looked at within the slice. The other tasks come before the rest.
            if self.pending.is_some() && slice.is_spent() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }

        let read = {
            let (event_loop, socket) = (self.client.event_loop.clone(), self.client.socket.clone());
            event_loop.poll_read(cx, &socket, |bytes| self.receive(bytes, &slice))
        };

        match read {
            Poll::Pending => {
                // Nothing is under way here, so the client may move to another socket without
                // losing anything.
                if self.move_over(cx.waker()) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) => {
                self.note_unfinished(cx.waker());
                // Others come before the next read, however much this client has sent.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Lets a connection in, or renews it, and answers the `auth` that asked for it.
    fn enter(&mut self, connection: Connection, auth: Option<Box<RawValue>>) {
        let options = self.options.take();
        let options = options.filter(|options| options.asks_for_something());

        // With other nodes it waits until the bus brings what it is to get.
        if options.is_none() && !connection.takes_stored && self.client.node.cluster.is_none() {
            self.client
                .open(connection, None, KeptForClient::default(), auth.as_deref());
            return;
        }

        // It has authenticated in time: entering, which may take long, must not count against it.
        self.client.socket.mark_authenticated();
        let client = self.client.clone();
        let options = options.map(|options| *options).unwrap_or_default();

        self.wait_for(async move {
            client.enter(connection, options, auth).await;
            Cost::NONE
        });
    }

    fn wait_for(&mut self, operation: impl Future<Output = Cost> + 'static) {
        self.pending = Some(Box::new(Pending {
            operation: Some(Box::pin(operation)),
            rest: Vec::new(),
            from: 0,
            held: None,
        }));
    }

    /// Keeps what was read and is not looked at yet, from `from` on.
    fn keep(&mut self, rest: Vec<u8>, from: usize) {
        if from == rest.len() {
            return;
        }

        match &mut self.pending {
            Some(pending) => (pending.rest, pending.from) = (rest, from),
            None => {
                self.pending = Some(Box::new(Pending {
                    operation: None,
                    rest,
                    from,
                    held: None,
                }));
            }
        }
    }

    /// Takes bytes off the socket.
    fn receive(&mut self, bytes: &mut [u8], slice: &TimeSlice) {
        self.client.socket.heard();
        let left = self.take(bytes, slice);
        // They are in the thread's own buffer, which the next read overwrites.
        if left > 0 {
            self.keep(bytes[bytes.len() - left..].to_vec(), 0);
        }

        // Where memory is short, what has begun is finished first, which frees it.
        let is_tight = self.client.event_loop.unfinished().is_tight();
        if self.pending.is_none() && self.decoder.held() >= READ_BUFFER / 2 && !is_tight {
            // Thousands may send long messages at the same time. Each piece waits in line with the others, and short
            // messages go between.
            let (node, app) = (self.client.node.clone(), self.client.app);
            self.wait_for(async move {
                node.queue_long_step(app, LongStep::Client).await;
                Cost::NONE
            });
        }
    }

    /// Goes on with what was read before.
    fn go_on(&mut self, slice: &TimeSlice) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let Pending { mut rest, from, .. } = *pending;
        let left = self.take(&mut rest[from..], slice);
        let from = rest.len() - left;
        self.keep(rest, from);
    }

    /// Takes messages out of `bytes`, up to one that has something to wait for, or for a slice of time; returns how many
    /// bytes were not looked at.
    fn take(&mut self, mut bytes: &mut [u8], slice: &TimeSlice) -> usize {
        // Taken out, since a message borrows from it while the session changes.
        let mut decoder = mem::replace(&mut self.decoder, Decoder::new(Role::Server, 0));
        let mut frames = 0;
        while self.pending.is_none() {
            if let Ending::Begun(_) | Ending::Unheard = self.ending {
                self.discard(&mut decoder, mem::take(&mut bytes));
                break;
            }

            // Looking at the clock for each frame would cost about as much as a small frame.
            if frames == RECEIVE_STRIDE {
                if slice.is_spent() {
                    break;
                }
                frames = 0;
            }

            frames += 1;
            match decoder.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => self.message(&message),
                Err(violation) => self.close(violation.code(), &decoder.reason(violation)),
            }
        }

        self.decoder = decoder;
        bytes.len()
    }

    /// Passes over all but the client's own close frame, once its connection is being closed. A frame costs some nanoseconds
    /// then, and no lock.
    fn discard(&mut self, decoder: &mut Decoder, mut bytes: &mut [u8]) {
        let Ending::Begun(so_far) = self.ending else {
            return;
        };

        let all = so_far.saturating_add(bytes.len() as u32);
        self.ending = Ending::Begun(all);
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Message::Close(close))) => self.client_closes(close),
                Ok(Some(_)) => {}
                // After a violation nothing that follows means anything.
                Ok(None) | Err(_) => break,
            }
        }

        // A client that closes sends its close frame soon. This one only goes on sending.
        if all > CLOSING_BYTES {
            self.ending = Ending::Unheard;
            self.wait_for_reset();
        }
    }

    /// Reads nothing more. When it has waited, the close frame was written, and the socket is reset.
    fn wait_for_reset(&mut self) {
        let grace = self.client.socket.close_grace();
        self.wait_for(async move {
            sleep(grace).await;
            Cost::NONE
        });
    }

    fn client_closes(&mut self, close: Option<(u16, &str)>) {
        let code = close.map_or(close::NO_STATUS, |(code, _)| code);
        if self.ending == Ending::No && self.outlives_close() {
            return self.break_off(if code < 3000 { code } else { close::NORMAL });
        }
        // A client's own codes would let it make up labels of a metric.
        self.left_with = if code < 3000 { code } else { close::NORMAL };
        self.client.leave_by_itself(code);
        self.end();
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.client.close(code, reason);
        self.end();
    }

    /// Notes that the connection is being closed.
    fn end(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Begun(0);
        }
    }

    /// Notes what waits for an operation.
    fn note_held(&mut self, waker: &Waker) {
        if let Some(pending) = &mut self.pending
            && pending.operation.is_some()
            && pending.rest.capacity() > 0
        {
            let held = self.client.event_loop.held();
            let held = pending.held.get_or_insert_with(|| held.begin(waker));
            held.holds(pending.rest.capacity());
        }
    }

    /// Notes whether a message has begun and not ended, what it takes, and what waits for an operation.
    fn note_unfinished(&mut self, waker: &Waker) {
        self.note_held(waker);
        let held = self.held_by_dialect();
        let is_mid_message = self.decoder.is_mid_message() || held > 0;
        if !is_mid_message || self.ending != Ending::No {
            self.unfinished = None;
            return;
        }
        let unfinished = self
            .unfinished
            .get_or_insert_with(|| self.client.event_loop.unfinished().begin(waker));
        unfinished.holds(self.decoder.held() + held);
    }

    /// Closes a client whose message is not waited for any longer.
    fn look_at_unfinished(&mut self) {
        let held = self
            .pending
            .as_ref()
            .and_then(|pending| pending.held.as_ref());
        let given_up = self
            .unfinished
            .iter()
            .chain(held)
            .find_map(UnfinishedMessage::given_up);

        let Some(why) = given_up else { return };
        self.unfinished = None;

        // With it goes what waited after it.
        self.pending = None;
        // The part of the message that came is freed now. Its rest would be taken for frames: only the end of the
        // socket counts.
        self.decoder = Decoder::new(Role::Server, 0);
        if let Some(foreign) = &mut self.foreign {
            foreign.dialect.lose_part();
        }

        self.ending = Ending::Unheard;
        let (reason, message) = match why {
            GivenUp::Late => (
                "unfinished_late",
                format!("a message did not end within {} s", MESSAGE_TIME.as_secs()),
            ),
            GivenUp::Crowded => (
                "unfinished_crowded",
                "too many messages begin and do not end, or wait for what came before them"
                    .to_owned(),
            ),
        };

        self.client.app().metrics.client_refused(reason);
        self.client.close_for_now(close::OVER_LIMIT, &message);
        self.wait_for_reset();
    }

    fn message(&mut self, message: &Message<'_>) {
        match message {
            Message::Close(close) => return self.client_closes(*close),
            Message::Pong(payload) if self.client.is_answer(payload) => return,
            // Whatever is unfinished from now on has begun after it.
            Message::Text(_) | Message::Binary(_) => {
                if self.held_by_dialect() == 0 {
                    self.unfinished = None;
                }
                if self.answers_ping(message) {
                    return;
                }
            }
            Message::Pong(_) | Message::Ping(_) => {}
        }

        let Some((state, connection)) = self.client.standing() else {
            return self.end();
        };
        // It was closed by another task, such as a call of the API.
        if state == State::Closing {
            return self.end();
        }

        let metrics = &self.client.app().metrics;
        metrics.messages.inc();
        match self.allow(&connection) {
            Allowance::Go => {}
            Allowance::Refused => return self.refuse_over_rate(message),
            Allowance::Strike => {
                self.client.close_for_rate();
                return self.end();
            }
        }

        match message {
            Message::Text(_) | Message::Binary(_) if self.foreign.is_some() => {
                self.hear(message, state, &connection);
            }
            Message::Text(text) => self.understand(native::parse(text), state, &connection),
            Message::Binary(bytes) => {
                self.understand(native::parse_binary(bytes), state, &connection);
            }
            Message::Ping(payload) => self.client.reply(Frame::pong(payload)),
            Message::Pong(_) | Message::Close(_) => {}
        }
    }

    /// Takes a message from what the client may send.
    fn allow(&mut self, connection: &Connection) -> Allowance {
        if self.client.is_server {
            return Allowance::Go;
        }
        let payer = payer(self.client.app, connection, &mut self.bucket);
        let node = &self.client.node;
        node.rates.take(payer, &node.runtime_config().config.limits)
    }

    /// Takes what a message cost beyond the first.
    fn charge(&mut self, cost: Cost) {
        if cost == Cost::NONE || self.client.is_server {
            return;
        }
        let Some(connection) = self.client.connection() else {
            return;
        };
        let payer = payer(self.client.app, &connection, &mut self.bucket);
        let node = &self.client.node;
        node.rates
            .charge(payer, cost.0, &node.runtime_config().config.limits);
    }

    fn refuse_over_rate(&mut self, message: &Message<'_>) {
        if let Some(foreign) = &mut self.foreign
            && matches!(message, Message::Text(_) | Message::Binary(_))
        {
            // The other parts mean nothing without this one.
            foreign.dialect.lose_part();
        }

        let id = match message {
            Message::Text(text) => native::id(text),
            Message::Binary(bytes) => native::binary_id(bytes),
            Message::Pong(_) => {
                // A client does not know of the pongs that its library sends.
                return self.client.app().metrics.client_refused("unasked_pong");
            }
            Message::Ping(_) | Message::Close(_) => None,
        };

        let message = "too many messages; slow down";
        self.client.refuse(id, "rate_limited", message);
    }

    fn understand(
        &mut self,
        call: Result<Call<'_>, Misunderstood<'_>>,
        state: State,
        connection: &Snapshot,
    ) {
        // Only messages in a row that cannot be read count against the client.
        if !matches!(call, Err(Misunderstood::Unreadable { .. })) {
            self.unreadable.end_row();
        }

        match call {
            Ok(Call {
                id,
                request: Request::Auth { token },
            }) => self.authenticate(id, &token),
            Ok(Call { id, request }) => {
                match self.client.clone().call(id, request, state, connection) {
                    MessageProgress::Done(cost) => self.charge(cost),
                    MessageProgress::Waiting(operation) => self.wait_for(operation),
                }
            }
            Err(Misunderstood::Unreadable { message }) => {
                self.client.refuse(None, "bad_message", message);
                if self.unreadable.note() {
                    let reason = "one message after another cannot be read; send JSON objects";
                    self.close(close::BAD_MESSAGE, reason);
                }
            }
            Err(Misunderstood::Refused { id, code, message }) => {
                self.client.refuse(id, code, &message);
            }
        }
    }
}

/// How long the messages of a client may be, and how much it may send while it has no user.
fn bounds_of_newcomer(node: &Node) -> (usize, Bucket) {
    let runtime_config = node.runtime_config();
    let limits = &runtime_config.config.limits;
    (limits.message_bytes, Bucket::of_newcomer(limits))
}

/// Grants a handshake, and says what the protocol of the client says first.
fn greet(
    event_loop: &EventLoop,
    socket: &LocalSocket,
    granted: Vec<u8>,
    foreign: Option<&mut Foreign>,
    connection: ConnectionId,
) {
    // A client that polls has its answer already.
    if !granted.is_empty() {
        let answer = Frame::handshake(granted);
        event_loop
            .shard()
            .lock_and_wake(|table| table.place_own(socket.at, answer));
    }
    if let Some(foreign) = foreign {
        foreign.greet(event_loop, socket, connection);
    }
}

/// The rights of a client whose token has no `can`, under one of the policies of `app`.
fn default_rights(node: &Node, app: AppId, policy: usize) -> Arc<Rights> {
    let runtime_config = node.runtime_config();
    runtime_config
        .access(app)
        .policy(policy)
        .default_rights
        .clone()
}

/// Says that a connection found no slot.
fn refuse_full(node: &Node, app: AppId) {
    let detail = "no slot is left for a connection";
    node.refusals()
        .refuse(Refusal::Connections, Some(app), detail);
}

/// Whose rate holds for a connection.
fn payer<'a>(app: AppId, connection: &'a Connection, bucket: &'a mut Bucket) -> Payer<'a> {
    match connection.user_name() {
        Some(user) => Payer::User(app, user),
        None => Payer::Anonymous(bucket, connection.attributes.connection.ip),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Client {
            event_loop, socket, ..
        } = &self.client;

        // The socket first: once the slot is free, another connection may get it.
        event_loop.leave(socket.at);
        let Some(departure) = event_loop.shard().lock(|table| table.remove(socket.at)) else {
            return;
        };

        // 0 means that the server did not close it: then what the client closed with counts.
        let code = if departure.close_code == 0 {
            self.left_with
        } else {
            departure.close_code
        };

        let app = self.client.app();
        app.metrics.closed(code);
        // One that was never let in was never counted.
        if departure.was_open {
            app.metrics.connections.dec();
        }

        let connection = departure.connection;
        self.client.leave_mesa(&connection);
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
