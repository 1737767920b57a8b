//! The server as a library: threads, listeners, accepting, and leaving well.
//!
//! One acceptor hands the sockets round to the shards' threads as plain descriptors; each thread serves HTTP on
//! those it gets and keeps those that become clients. Allocator, signals, log set-up and environment belong to the
//! program that embeds this.

mod builder;
mod call;
mod ending;
mod token;

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream as StdStream},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use parking_lot::Mutex;
use rustix::net::SocketFlags;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::LocalSet,
};

pub use self::{
    builder::ServerBuilder,
    call::Call,
    token::{SignTokenError, TokenRequest},
};
use self::{
    call::Registered,
    ending::{Ending, Stop},
};
use crate::{
    app::SetupError,
    bus::Inbox,
    config::{Config, ConfigError},
    connection_limiter::ConnectionLimiter,
    dispatch_consumer,
    event_loop::EventLoop,
    http::{
        Edge, Peer,
        engineio::polling::Polls,
        idempotency::Store,
        sockets::{SocketPermit, Sockets},
        timeouts::ConnectionTimers,
    },
    id::AppId,
    key_fetch::KeyFetchers,
    limits::{
        ACCEPT_QUEUE, CONNECTIONS_MAX, DESCRIPTORS_RESERVED, FIRST_REQUEST, HTTP_SOCKETS_ENDED,
        PROGRAM_MESSAGES, REQUEST_HEAD_BYTES,
    },
    log_limit::Line,
    node::{Node, hear},
    supervisor::Supervisor,
};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An app's keys, indexes or rights cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The address cannot be listened on.
    #[error("{}", if error.kind() == io::ErrorKind::AddrInUse {
        format!("{address} is in use by another process")
    } else {
        format!("cannot listen on {address}: {error}")
    })]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A running server; clones are handles to the same one.
///
/// It has threads and runtimes of its own, so it starts and works inside every flavour of tokio's runtime, and outside of
/// one. Its futures may be awaited on any executor; a program without one calls [`block_on`](crate::block_on()).
///
/// ```
/// use fanfare::Server;
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder().listen("127.0.0.1:0").start()?;
/// println!("clients connect to ws://{}/v1/connect", server.address());
///
/// let receipt = server.emit("alert", "Hello", r#"auth.email == "ann@example.com""#).await?;
/// assert_eq!(receipt.matched, 0, "nobody has connected yet");
///
/// let ann = server.sign_token("ann", json!({"email": "ann@example.com"})).sign()?;
/// println!("ann connects with ?token={}", ann.token);
///
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # How it ends
///
/// [`Server::shutdown`] drains: clients are asked to come back, and are disconnected one after another.
///
/// When the last handle is dropped, the server ends immediately. Nothing waits for that: `drop` returns immediately, from
/// inside a runtime too. The port is free by then, and the threads end within moments. Requests that are being answered
/// are cut off. Clients see their socket end without a close frame (1006), as after a crash, and come back by
/// themselves. Publications that were accepted and not yet written are lost. With Redis, the other nodes notice within
/// `limits.node_lease` that this one is gone.
///
/// If one of the server's own tasks fails, it ends in the same way, since it could no longer serve as it should.
/// [`Server::wait`] returns then, and says which one it was.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
    /// The app that the verbs of this handle speak for.
    pub(crate) app: AppId,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) node: Arc<Node>,
    /// A shard's runtime, on which calls from foreign threads run.
    pub(crate) handle: Handle,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    pub(crate) key_fetchers: KeyFetchers,
    /// Held while a new configuration is taken.
    pub(crate) reloading: Mutex<()>,
    ending: Ending,
}

/// A socket as the kernel gave it, with its peer's address.
type FromKernel = (StdStream, IpAddr);

/// A socket that was let in.
struct Accepted {
    socket: StdStream,
    ip: IpAddr,
    since: Instant,
    permit: SocketPermit,
}

impl Server {
    /// Starts a server: checks the configuration, listens, and starts its threads. [`Server::builder`] is for what is
    /// set most often.
    ///
    /// It serves until [`Server::shutdown`], or until every handle is dropped.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, Registered::default())
    }

    /// The same with functions that clients may call.
    fn start_with(mut config: Config, mut registered: Registered) -> Result<Self, StartError> {
        config.check()?;
        if config.limits.connections == 0 {
            config.limits.connections = connections_by_descriptors();
        }

        let (connections, free) = (config.limits.connections, free_descriptors());
        if connections > free {
            tracing::warn!(
                connections,
                descriptors = free,
                "limits.connections is more than the limit of open files allows; raise that (LimitNOFILE, ulimit -n), or lower \
                 limits.connections"
            );
        }

        let shards = match config.shards {
            0 => std::thread::available_parallelism().map_or(1, |cores| shards_for(cores.get())),
            n => n,
        };

        let (listener, address) = listen(config.listen, config.limits.send_buffer)?;
        let mut listening = vec![Arc::downgrade(&listener)];

        // With the real port where the configuration said 0.
        config.listen = address;
        let admin = config
            .admin_listen
            .map(|at| listen(at, config.limits.send_buffer))
            .transpose()?;
        listening.extend(admin.as_ref().map(|(listener, _)| Arc::downgrade(listener)));
        let (node, inbox) = Node::new(config, shards)?;
        let runtime = registered.serve(&node)?;

        let parts = ThreadParts {
            polls: Arc::default(),
            answers: Store::new(&node.config.limits, node.apps.len(), node.metrics.clone()),
            sockets: Sockets::new(&node.config.limits, descriptors(), node.metrics.clone()),
            limiter: Arc::new(ConnectionLimiter::new(&node.config.limits)),
            node: node.clone(),
            stop: watch::Sender::new(Stop::No),
        };

        let admin_address = admin.as_ref().map(|(_, address)| *address);
        let admin = admin.map(|(listener, _)| listener);
        let started = parts.start(shards, listener, admin, inbox);

        let (threads, handle) = started.inspect_err(|_| {
            // Those threads that did start hold the port. Their end is not a failure.
            parts.node.supervisor.end();
            parts.stop.send_replace(Stop::Now);
        })?;

        tracing::info!(%address, shards, apps = node.apps.len(), connections = node.config.limits.connections, "serving");
        for line in node.config.summary() {
            tracing::info!("{line}");
        }

        let stopped = parts.stop.subscribe();
        let ending = Ending::new(parts.stop, listening, threads, &node);
        let stopper = ending.stopper();
        node.supervisor.on_failure(move || stopper.end_now());

        let inner = Inner {
            node,
            handle,
            address,
            admin_address,
            key_fetchers: KeyFetchers::default(),
            reloading: Mutex::new(()),
            ending,
        };

        inner.key_fetchers.update(&inner.node, &inner.handle);
        let server = Self {
            inner: Arc::new(inner),
            app: AppId(0),
        };

        if let Some(runtime) = runtime {
            server.run_functions(&registered, runtime, stopped)?;
        }
        Ok(server)
    }

    /// Where clients and functions connect; with the real port where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Where health, metrics and pages are served apart, if they are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.inner.admin_address
    }

    /// All numbers of the node in the text format of Prometheus, as `GET /metrics` gives them; also after a shutdown.
    pub fn metrics(&self) -> String {
        self.inner.node.hub.note_queues();
        self.inner.node.metrics.render()
    }
}

/// What only the first shard's thread does.
struct First {
    listener: Arc<TcpListener>,
    senders: Vec<mpsc::Sender<Accepted>>,
    /// What comes from other nodes.
    inbox: Option<Inbox>,
}

/// What every thread gets.
#[derive(Clone)]
struct ThreadParts {
    node: Arc<Node>,
    answers: Arc<Store>,
    polls: Arc<Polls>,
    sockets: Arc<Sockets>,
    limiter: Arc<ConnectionLimiter>,
    stop: watch::Sender<Stop>,
}

impl ThreadParts {
    /// Starts the threads; returns them, and a handle to the runtime of a shard.
    fn start(
        &self,
        shards: usize,
        listener: Arc<TcpListener>,
        admin: Option<Arc<TcpListener>>,
        inbox: Option<Inbox>,
    ) -> Result<(Vec<JoinHandle<()>>, Handle), StartError> {
        let mut threads = Vec::new();
        let (ready, handles) = std::sync::mpsc::sync_channel(shards);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mpsc::channel(ACCEPT_QUEUE)).unzip();

        let mut first = Some(First {
            listener,
            senders,
            inbox,
        });

        for (index, sockets) in receivers.into_iter().enumerate() {
            let (parts, ready, first) = (self.clone(), ready.clone(), first.take());
            threads.push(spawn(format!("fanfare-{index}"), move || {
                parts.run_shard(index, sockets, first, ready);
            })?);
        }

        if let Some(listener) = admin {
            let parts = self.clone();
            threads.push(spawn("fanfare-admin".to_owned(), move || {
                parts.run_admin(listener);
            })?);
        }

        // Ends with the last thread if none can start a runtime.
        drop(ready);
        let handle = handles
            .recv()
            .map_err(|_| StartError::Thread(io::Error::other("a shard ended immediately")))?;
        Ok((threads, handle))
    }

    fn edge(&self, event_loop: Option<Rc<EventLoop>>) -> Rc<Edge> {
        Rc::new(Edge {
            node: self.node.clone(),
            answers: self.answers.clone(),
            limiter: self.limiter.clone(),
            polls: self.polls.clone(),
            event_loop,
        })
    }

    fn connection_timers(&self, thread: &str) -> Rc<ConnectionTimers> {
        let timers = ConnectionTimers::new(&self.node.config.limits);
        self.run_task(&format!("HTTP watch of {thread}"), timers.clone().run());
        timers
    }

    /// Starts a task on this thread that the server cannot do without.
    fn run_task(&self, task: &str, run: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(self.node.supervisor.run(task, run));
    }

    fn run_shard(
        self,
        index: usize,
        mut sockets: mpsc::Receiver<Accepted>,
        first: Option<First>,
        ready: std::sync::mpsc::SyncSender<Handle>,
    ) {
        let (supervisor, name) = (self.node.supervisor.clone(), format!("shard {index}"));
        block_on(&supervisor, &name.clone(), async move {
            // Fails only if the server was given up while starting.
            let _ = ready.send(Handle::current());
            let event_loop = EventLoop::new(self.node.hub.clone(), index);
            event_loop.start(&self.node.supervisor);

            if let Some(cluster) = &self.node.cluster {
                let stored = event_loop.clone().run_user_catch_up(cluster.stored.clone());
                self.run_task(&format!("missed stored events of {name}"), stored);
            }

            let edge = self.edge(Some(event_loop));
            let timers = self.connection_timers(&name);
            if let Some(first) = first {
                self.start_first(first);
            }

            self.serve_all(&edge, &timers, &mut sockets).await;
        });
    }

    /// Starts what there is one of in a server, on the first shard's thread.
    fn start_first(&self, first: First) {
        let node = &self.node;
        self.run_task("accept", self.clone().accept(first.listener, first.senders));
        self.run_task("notices to members", node.clone().run_notices());
        self.run_task("what is over its time", node.clone().run_expiry());
        self.run_task("counts for the log", node.clone().tell_counts());
        self.run_task("expired answers", self.answers.clone().expire_on_time());
        let (Some(inbox), Some(cluster)) = (first.inbox, &node.cluster) else {
            return;
        };

        let (programs, messages) = mpsc::channel(PROGRAM_MESSAGES);
        // These two end with the bus, which says by itself why it has ended.
        let supervisor = &node.supervisor;
        let hear = hear(node.clone(), cluster.clone(), inbox, programs);
        tokio::task::spawn_local(supervisor.run_to_end("hearing other nodes", hear));
        let serve = dispatch_consumer::serve(node.clone(), messages);
        tokio::task::spawn_local(supervisor.run_to_end("programs", serve));
        let topics = node.mesa.topics().cloned().collect();
        self.run_task("lease", cluster.clone().run_membership(topics));
        if !node.mesa.is_empty() {
            self.run_task("users of Mesa's programs", node.clone().run_mesa());
            let giving_back = node.clone().run_mesa_giving_back();
            self.run_task("messages of Mesa's programs", giving_back);
        }

        for (task, run) in cluster.tasks() {
            self.run_task(task, run);
        }

        if node
            .config
            .apps
            .values()
            .any(|app| app.max_stored_bytes.is_some())
        {
            self.run_task("quotas of apps", node.clone().look_at_quotas());
        }
    }

    fn run_admin(self, listener: Arc<TcpListener>) {
        let (supervisor, name) = (self.node.supervisor.clone(), "admin thread");
        block_on(&supervisor, name, async move {
            let edge = self.edge(None);
            let timers = self.connection_timers(name);
            let (sender, mut sockets) = mpsc::channel(ACCEPT_QUEUE);
            self.run_task(
                "accept of the admin thread",
                self.clone().accept(listener, vec![sender]),
            );
            self.serve_all(&edge, &timers, &mut sockets).await;
        });
    }

    /// Serves what is accepted, until no more is accepted and the last request is answered, or until all is to end now.
    async fn serve_all(
        &self,
        edge: &Rc<Edge>,
        timers: &Rc<ConnectionTimers>,
        sockets: &mut mpsc::Receiver<Accepted>,
    ) {
        let mut serving = tokio::task::JoinSet::new();
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop == Stop::Now) => return,
                accepted = sockets.recv() => match accepted {
                    Some(accepted) => {
                        serving.spawn_local(self.clone().serve(edge.clone(), timers.clone(), accepted));
                    }
                    None => break,
                },
                Some(_) = serving.join_next() => {}
            }
        }

        // Without a word to stop, the task that accepts has failed. The supervisor ends the server for that, and not
        // for this thread.
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
            () = finish(serving) => {}
        }
    }

    /// Accepts until the server stops, and hands the sockets round. Those that the kernel has let in by then are served
    /// too: closed unread, they would look to a load balancer as if their requests might have been delivered.
    async fn accept(self, listener: Arc<TcpListener>, senders: Vec<mpsc::Sender<Accepted>>) {
        #[expect(
            deprecated,
            reason = "what replaces it is `unsafe`; an `Arc` of a `TcpListener` keeps to what that asks"
        )]
        let listener = match AsyncFd::with_interest(listener, Interest::READABLE) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot watch the listening socket"),
        };

        let mut stop = self.stop.subscribe();
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                // First: a socket that was shut accepts no more, which is not an error then.
                _ = stop.wait_for(|stop| *stop != Stop::No) => break,
                accepted = listener.async_io(Interest::READABLE, |socket| accept_one(socket)) => accepted,
            };

            match accepted {
                Ok(accepted) => {
                    let Some(accepted) = self.let_in(accepted) else {
                        continue;
                    };
                    next = (next + 1) % senders.len();
                    if !hand_over(&senders, next, accepted).await {
                        return;
                    }
                }
                Err(error) => self.cannot_accept(&error).await,
            }
        }

        if *stop.borrow() == Stop::Now {
            return;
        }

        for sender in senders.iter().cycle().take(ACCEPT_QUEUE) {
            // What tokio knows of the listener is a moment old.
            let Ok(accepted) = accept_one(listener.get_ref()) else {
                return;
            };
            let Some(accepted) = self.let_in(accepted) else {
                continue;
            };
            if sender.send(accepted).await.is_err() {
                return;
            }
        }
    }

    /// Takes a place for a socket among those of the node. Nothing where each of them is busy, which ends the socket.
    fn let_in(&self, (socket, ip): FromKernel) -> Option<Accepted> {
        let runtime_config = self.node.runtime_config();
        let is_proxy = runtime_config
            .config
            .trusted_proxies
            .iter()
            .any(|proxy| proxy.contains(&ip));

        let permit = self.sockets.enter(ip, is_proxy, self.node.occupied())?;
        Some(Accepted {
            socket,
            ip,
            since: Instant::now(),
            permit,
        })
    }

    /// Makes room after the kernel gave no socket. The process is out of descriptors, most likely, and sockets that wait for
    /// requests hold some of them.
    async fn cannot_accept(&self, error: &io::Error) {
        if let Some(others) = self.node.lines().note(Line::CannotAccept) {
            tracing::error!(others, %error, "cannot accept; raise the limit of open files (ulimit -n) or lower limits.connections");
        }
        let ended = self.sockets.end_some(HTTP_SOCKETS_ENDED);
        let most = Duration::from_millis(if ended > 0 { 10 } else { 100 });

        // Clients free descriptors too, and say nothing.
        let _ = tokio::time::timeout(most, self.sockets.freed()).await;
    }

    /// Serves HTTP on one socket, until it ends or becomes a client's.
    async fn serve(self, edge: Rc<Edge>, timers: Rc<ConnectionTimers>, accepted: Accepted) {
        let Accepted {
            socket,
            ip,
            since,
            // Held until the socket ends, or is a client's.
            permit,
        } = accepted;

        let Ok(socket) = TcpStream::from_std(socket) else {
            return;
        };

        let timer = permit.timer().clone();
        let socket = timers.over(socket, timer.clone());
        let peer = Rc::new(Peer {
            ip,
            since,
            timer: timer.clone(),
        });

        let asked = Rc::new(Cell::new(false));
        let has_asked = asked.clone();
        let service = service_fn(move |request| {
            let (edge, peer) = (edge.clone(), peer.clone());
            has_asked.set(true);
            async move { Ok::<_, std::convert::Infallible>(edge.serve(request, &peer).await) }
        });

        let connection = http1::Builder::new()
            .max_buf_size(REQUEST_HEAD_BYTES)
            // Else a caller that hangs up after its body takes a request back that no handler has seen yet.
            .half_close(true)
            .writev(false)
            .serve_connection(socket, service)
            .with_upgrades();

        let mut connection = std::pin::pin!(connection);
        let mut stop = self.stop.subscribe();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = timer.over() => return tracing::debug!(%ip, "HTTP connection ended: it took too long, or made room"),
            _ = stop.wait_for(|stop| *stop != Stop::No) => {
                // The first request of a connection just accepted may be on its way.
                let first = if asked.get() { Duration::ZERO } else { FIRST_REQUEST };
                if let Ok(ended) = tokio::time::timeout(first, connection.as_mut()).await {
                    ended
                } else {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };

        if let Err(error) = ended {
            tracing::debug!(%error, %ip, "HTTP connection ended");
        }
    }
}

/// Lets requests that are being answered finish, for a second at most.
async fn finish(mut serving: tokio::task::JoinSet<()>) {
    let all = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(1), all)
        .await
        .is_err()
    {
        tracing::warn!("requests were cut off: they took too long to answer");
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(StartError::Thread)
}

/// Runs `future` as all that the thread called `thread` does.
fn block_on(supervisor: &Supervisor, thread: &str, future: impl Future<Output = ()> + 'static) {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new().block_on(&runtime, supervisor.run(thread, future)),
        Err(error) => supervisor.not_started(thread, &error),
    }
}

/// Accepts without registering the socket with this thread's runtime, as tokio's listener would: it may be another's.
fn accept_one(listener: &TcpListener) -> io::Result<FromKernel> {
    let (socket, address) =
        rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((
        socket.into(),
        SocketAddr::try_from(address)?.ip().to_canonical(),
    ))
}

/// One shard per core, less one: the kernel's network work, and all else that runs, needs a core too. A server whose
/// threads keep every core busy writes smaller batches to clients that wait longer.
fn shards_for(cores: usize) -> usize {
    cores.saturating_sub(1).clamp(1, usize::from(u8::MAX))
}

/// Listens; a port that another process has is an error, since only the address is reused, not the port.
///
/// What is set here is inherited by every accepted socket.
fn listen(
    address: SocketAddr,
    send_buffer: usize,
) -> Result<(Arc<TcpListener>, SocketAddr), StartError> {
    let listen = || -> io::Result<(Arc<TcpListener>, SocketAddr)> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;

        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(send_buffer)?;

        // The kernel doubles what it grants, and says nothing when that is less.
        let granted = socket.send_buffer_size()? / 2;
        if granted < send_buffer {
            tracing::warn!(
                send_buffer,
                granted,
                "the kernel grants a smaller send buffer than limits.send_buffer; raise net.core.wmem_max, or lower \
                 limits.send_buffer"
            );
        }

        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;

        Ok((Arc::new(listener), address))
    };

    listen().map_err(|error| StartError::Listen { address, error })
}

/// Gives a socket to a shard, beginning with `first`: one whose thread is busy does not keep the others' clients out. False
/// if the server has ended.
async fn hand_over(
    senders: &[mpsc::Sender<Accepted>],
    first: usize,
    mut accepted: Accepted,
) -> bool {
    for n in 0..senders.len() {
        match senders[(first + n) % senders.len()].try_send(accepted) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) => accepted = back,
            Err(TrySendError::Closed(_)) => return false,
        }
    }
    senders[first].send(accepted).await.is_ok()
}

/// Descriptors that the process may open.
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
}

/// As many connections as the process may open descriptors, at most [`CONNECTIONS_MAX`].
pub(crate) fn connections_by_descriptors() -> usize {
    free_descriptors().clamp(1, CONNECTIONS_MAX)
}

/// How many descriptors the process may open, less what it needs for itself.
fn free_descriptors() -> usize {
    descriptors().saturating_sub(DESCRIPTORS_RESERVED)
}

#[cfg(test)]
mod tests;
