//! The threads of a server: one per shard, one for the admin address, and the tasks that each runs.

use std::{io, net::TcpListener, rc::Rc, sync::Arc, thread::JoinHandle};

use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, watch},
    task::LocalSet,
};

use super::{StartError, accepting::Accepted, ending::Stop};
use crate::{
    bus::{Inbox, send_together_from_this_thread},
    connection_limiter::ConnectionLimiter,
    dispatch_consumer,
    event_loop::EventLoop,
    http::{
        Edge, engineio::polling::Polls, idempotency::Store, sockets::Sockets,
        timeouts::ConnectionTimers,
    },
    limits::{ACCEPT_QUEUE, PROGRAM_MESSAGES},
    node::{Node, hear},
    supervisor::Supervisor,
};

/// What only the first shard's thread does.
struct First {
    listener: Arc<TcpListener>,
    senders: Vec<mpsc::Sender<Accepted>>,
    /// What comes from other nodes.
    inbox: Option<Inbox>,
}

/// What every thread gets.
#[derive(Clone)]
pub(super) struct ThreadParts {
    pub(super) node: Arc<Node>,
    pub(super) answers: Arc<Store>,
    pub(super) polls: Arc<Polls>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) stop: watch::Sender<Stop>,
}

impl ThreadParts {
    /// Starts the threads; returns them, and a handle to the runtime of a shard.
    pub(super) fn start(
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
        self.run_task("counts for the log", node.clone().log_counts());
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
        for (task, run) in cluster.tasks().chain(node.mesa.tasks()) {
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
}

pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(StartError::Thread)
}

/// Runs `future` as all that the thread called `thread` does.
fn block_on(supervisor: &Supervisor, thread: &str, future: impl Future<Output = ()> + 'static) {
    send_together_from_this_thread();
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new().block_on(&runtime, supervisor.run(thread, future)),
        Err(error) => supervisor.not_started(thread, &error),
    }
}

/// One shard per core, less one: the kernel's network work, and all else that runs, needs a core too. A server whose
/// threads keep every core busy writes smaller batches to clients that wait longer.
pub(super) fn shards_for(cores: usize) -> usize {
    cores.saturating_sub(1).clamp(1, usize::from(u8::MAX))
}
