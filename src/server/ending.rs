//! How a server ends: well, by a shutdown that drains it, or immediately, when nobody holds it any longer.

use std::{
    mem,
    net::TcpListener,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use rustix::net::Shutdown;
use tokio::{runtime::Handle, sync::watch};

use super::{Inner, Server};
use crate::{TaskFailed, drain, node::Node};

/// What the threads are to do: No, then Finish, then Now, or any part of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// To serve.
    No,
    /// To accept nothing more, and to end once what is being answered is.
    Finish,
    /// To end, and to drop what is under way.
    Now,
}

/// What it takes to end a server immediately.
#[derive(Clone, Debug)]
pub(super) struct Stopper {
    stop: watch::Sender<Stop>,
    /// The sockets that hold the ports. They belong to the tasks that accept, and are closed with them.
    listening: Vec<Weak<TcpListener>>,
    node: Weak<Node>,
}

/// What it takes to end a server.
#[derive(Debug)]
pub(super) struct Ending {
    stopper: Stopper,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// A shutdown has begun.
    begun: AtomicBool,
    /// Whether a shutdown has been carried out.
    ended: watch::Sender<bool>,
}

impl Ending {
    pub(super) fn new(
        stop: watch::Sender<Stop>,
        listening: Vec<Weak<TcpListener>>,
        threads: Vec<JoinHandle<()>>,
        node: &Arc<Node>,
    ) -> Self {
        let stopper = Stopper {
            stop,
            listening,
            node: Arc::downgrade(node),
        };
        Self {
            stopper,
            threads: Mutex::new(threads),
            begun: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// What ends the server from anywhere. It does not keep the server alive.
    pub(super) fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }
}

impl Stopper {
    /// Ends everything without waiting for anything.
    pub(super) fn end_now(&self) {
        let node = self.node.upgrade();
        // First: tasks that end because of this have not failed.
        if let Some(node) = &node {
            node.supervisor.end();
        }
        raise(&self.stop, Stop::Now);
        for listener in self.listening.iter().filter_map(Weak::upgrade) {
            // Frees the port before the thread that accepts has noticed. Fails only where it is free already.
            let _ = rustix::net::shutdown(&*listener, Shutdown::Both);
        }
        if let Some(cluster) = node.as_ref().and_then(|node| node.cluster.as_ref()) {
            cluster.bus.give_up();
        }
    }
}

impl Server {
    /// Leaves well: readiness fails, `drain_delay` passes, each client is sent away at its own moment of the window
    /// with 4200, HTTP is served until the last has gone; then the threads end. Returns within `drain_timeout`, plus
    /// two seconds for what is being answered.
    ///
    /// A second call waits for the first. A dropped call changes nothing: the server goes on leaving, and ends
    /// immediately once the last handle is dropped. So a program that has less time waits as long as it likes, and drops
    /// the server.
    ///
    /// It may be awaited on any executor, since a thread of its own does the work.
    pub async fn shutdown(&self) {
        let ending = &self.inner.ending;
        let mut ended = ending.ended.subscribe();
        if !ending.begun.swap(true, Relaxed) {
            self.inner.leave();
        }
        // The sender is in `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Waits until the server has ended: after a [`Server::shutdown`], or because it failed.
    ///
    /// A server fails if one of its own tasks panics or ends. It stops immediately then, as if the last handle was dropped:
    /// clients come back to another node, or when the program has started another server.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = fanfare::Server::builder().start()?;
    /// server.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskFailed`] names the task.
    pub async fn wait(&self) -> Result<(), TaskFailed> {
        let supervisor = &self.inner.node.supervisor;
        let mut ended = self.inner.ending.ended.subscribe();
        tokio::select! {
            // A server that has failed may be shut down as well, and has failed all the same.
            biased;
            failed = supervisor.failed() => Err(failed),
            _ = ended.wait_for(|ended| *ended) => Ok(()),
        }
    }
}

impl Inner {
    /// Drains the node and ends its threads, on a thread that holds nothing of the server, so that the last handle
    /// may be dropped in the meantime.
    fn leave(&self) {
        let (node, handle) = (self.node.clone(), self.handle.clone());
        let (stop, ended) = (self.ending.stopper.stop.clone(), self.ending.ended.clone());
        let threads = mem::take(&mut *self.ending.threads.lock());

        let last = thread::Builder::new()
            .name("fanfare-end".to_owned())
            .spawn(move || {
                drain_on(&handle, &node);
                node.supervisor.end();
                raise(&stop, Stop::Finish);
                join(threads);
                // Only now: requests that were in progress may have published.
                if let Some(cluster) = &node.cluster {
                    cluster.bus.stop();
                }
                if let Some(disk) = &node.disk {
                    disk.close();
                }
                tracing::info!("stopped");
                ended.send_replace(true);
            });

        if let Err(error) = last {
            tracing::error!(%error, "cannot start a thread to drain on; ending immediately");
            self.ending.stopper.end_now();
            self.ending.ended.send_replace(true);
        }
    }
}

impl Drop for Inner {
    /// The last handle is gone. It may have been in a task of a runtime, or on one of the server's own threads.
    fn drop(&mut self) {
        self.ending.stopper.end_now();
    }
}

/// Drains `node` on the runtime of `handle`, and returns when that is done, or the runtime has ended.
fn drain_on(handle: &Handle, node: &Arc<Node>) {
    let (done, end) = mpsc::sync_channel::<()>(0);
    let node = node.clone();
    handle.spawn(async move {
        drain::drain(&node).await;
        // Before the node departs: the others must have its last changes while they still count it.
        if let Some(cluster) = &node.cluster {
            tokio::join!(
                cluster.notices.notify_all_changes(),
                cluster.roster.finish_list()
            );
        }
        node.depart().await;
        drop(done);
    });

    // Nothing is sent: the sender is dropped with the task, however that ends.
    let _ = end.recv();
}

/// Lets the threads stop, unless they were to stop sooner already.
fn raise(stop: &watch::Sender<Stop>, to: Stop) {
    stop.send_if_modified(|stop| {
        let sooner = to > *stop;
        *stop = to.max(*stop);
        sooner
    });
}

fn join(threads: Vec<JoinHandle<()>>) {
    // All of them, whether or not one has panicked.
    let panicked = threads
        .into_iter()
        .filter_map(|thread| thread.join().err())
        .count();
    if panicked > 0 {
        tracing::error!(panicked, "threads of the server panicked");
    }
}
