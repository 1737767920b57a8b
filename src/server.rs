//! The server as a library: threads, listeners, accepting, and leaving well.
//!
//! One acceptor hands the sockets round to the shards' threads as plain descriptors; each thread serves HTTP on
//! those it gets and keeps those that become clients. Allocator, signals, log set-up and environment belong to the
//! program that embeds this.

mod accepting;
mod builder;
mod call;
mod descriptors;
mod ending;
mod serving;
#[cfg(test)]
mod tests;
mod threads;
mod token;

use std::{io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};

pub(crate) use self::descriptors::connections_by_descriptors;
use self::{
    accepting::listen,
    call::Registered,
    descriptors::{bound_connections, descriptors},
    ending::{Ending, Stop},
    threads::{ThreadParts, shards_for},
};
pub use self::{
    builder::ServerBuilder,
    call::Call,
    token::{SignTokenError, TokenRequest},
};
use crate::{
    app::SetupError,
    config::{Config, ConfigError},
    connection_limiter::ConnectionLimiter,
    http::{idempotency::Store, sockets::Sockets},
    id::AppId,
    key_fetch::KeyFetchers,
    node::Node,
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

/// How many shards there are: as many as `config` says, or as fit the machine's cores.
fn shards_of(config: &Config) -> usize {
    match config.shards {
        0 => std::thread::available_parallelism().map_or(1, |cores| shards_for(cores.get())),
        n => n,
    }
}

/// Logs that the server serves, and how it is configured.
fn log_start(node: &Node, address: SocketAddr, shards: usize) {
    tracing::info!(%address, shards, apps = node.apps.len(), connections = node.config.limits.connections, "serving");
    for line in node.config.summary() {
        tracing::info!("{line}");
    }
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
        bound_connections(&mut config.limits);
        let shards = shards_of(&config);
        let (listener, address) = listen(config.listen, config.limits.send_buffer)?;
        // The accepting task owns the socket, so that the port is free when it ends. Whoever ends
        // the server only shuts it.
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

        log_start(&node, address, shards);

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
