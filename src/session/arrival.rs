//! A client that has just come gets its slot and the answer to its handshake, and its credentials are decided about.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use smol_str::SmolStr;
use tokio::net::TcpStream;

use super::{
    ConnectOptions, Ending, Foreign, Session, client::Client, mesa::MesaSide,
    unreadable::Unreadable,
};
use crate::{
    auth::{Rights, unix_now},
    close,
    event_loop::{EventLoop, LocalSocket},
    filter::{Attributes, ConnectionInfo},
    hub::{Connection, SlotRef, Snapshot},
    id::{AppId, ConnectionId},
    metrics::Refusal,
    node::{Node, Occupancy},
    protocol::{
        decoder::{Decoder, Role},
        frame::Frame,
        native,
    },
    rates::Bucket,
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

impl Session {
    /// Gives an upgraded socket its slot, and decides about its credentials; `None` where no slot is left.
    pub(crate) fn begin(
        node: Arc<Node>,
        event_loop: Rc<EventLoop>,
        mut arrival: Arrival,
    ) -> Option<Self> {
        let (at, connection) = take_slot(&node, &event_loop, &mut arrival)?;
        let Arrival {
            app,
            policy,
            socket,
            echo,
            store,
            since,
            mut foreign,
            ..
        } = arrival;

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
            read_in: 0,
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
}

/// Gives a client that has just come its slot; `None` where none is left.
fn take_slot(
    node: &Node,
    event_loop: &EventLoop,
    arrival: &mut Arrival,
) -> Option<(SlotRef, Snapshot)> {
    let (app, ip) = (arrival.app, arrival.ip);
    let foreign = arrival.foreign.as_deref_mut();
    let protocol = foreign
        .as_ref()
        .map_or(native::NAME, |foreign| foreign.protocol);
    let device = arrival.device.take();
    let device = device.or_else(|| foreign?.device.take());

    let facts = |id| ConnectionInfo {
        id,
        device,
        ip,
        protocol,
        connected_at: unix_now() as u32,
        node: node.name.clone(),
    };

    let rights = default_rights(node, app, arrival.policy);
    let build = |id| Connection::new(app, Attributes::new(facts(id)), rights);
    let slot = event_loop.shard().lock(|table| table.insert(build)).ok();
    if slot.is_none() {
        refuse_full(node, app);
    }
    slot
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
pub(super) fn default_rights(node: &Node, app: AppId, policy: usize) -> Arc<Rights> {
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
