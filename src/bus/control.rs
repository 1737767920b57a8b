//! The task that keeps a line and a subscriber at every primary, wherever the primaries are.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Context,
    backoff::some,
    command_queue::CommandQueue,
    connection::Address,
    health::Component,
    publisher, subscriber,
    topology::{self, Topology},
};
use crate::limits;

/// One primary, and the tasks that serve it.
struct Peer {
    queue: Arc<CommandQueue>,
    partitions: Vec<u16>,
    publisher: Task,
    subscriber: Task,
}

/// A task that ends when this is dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the primaries until the bus is to stop; then lets what is queued go out.
pub(super) async fn run(cx: Arc<Context>) {
    let mut peers = BTreeMap::<Address, Peer>::new();
    let follow = async {
        let mut recheck: Option<Instant> = None;
        loop {
            let known = peers
                .iter()
                .map(|(address, peer)| (address.clone(), peer.partitions.clone()));
            match topology::discover(&cx, &known.collect()).await {
                Ok(topology) => {
                    apply(&cx, &mut peers, topology);
                    cx.health.clear(&Component::Topology);
                }
                Err(fault) => cx.health.fault(Component::Topology, &fault.to_string()),
            }

            let next =
                Instant::now() + limits::BUS_TOPOLOGY_TROUBLE + some(limits::BUS_TOPOLOGY_TROUBLE);
            // For a while after trouble was reported as well: a failover takes its time, and until
            // then the servers that are asked still name the old primary.
            let is_calm = cx.health.is_up()
                && recheck.is_none_or(|recheck| recheck.elapsed() > limits::BUS_TOPOLOGY_DOUBT);
            tokio::select! {
                () = sleep(limits::BUS_TOPOLOGY), if is_calm => {}
                () = sleep_until(next), if !is_calm => {}
                () = cx.trouble.notified() => {
                    recheck = Some(Instant::now());
                    // All nodes notice it at about the same time, so none asks immediately.
                    sleep_until(next.max(Instant::now() + some(limits::BUS_BACKOFF_MIN))).await;
                }
            }
        }
    };

    let sweep = async {
        loop {
            sleep(limits::BUS_UNSUBSCRIBE_DELAY / 4).await;
            cx.metrics
                .bus
                .topics
                .set(cx.interest.sweep(std::time::Instant::now()) as i64);
        }
    };

    tokio::select! {
        () = follow => {}
        () = sweep => {}
        () = cx.stopped.notified() => {}
    }

    let deadline = Instant::now() + limits::BUS_FAREWELL;
    while peers.values().any(|peer| !peer.queue.is_idle()) && Instant::now() < deadline {
        sleep(limits::BUS_FAREWELL / 100).await;
    }
}

/// Makes `peers` what `topology` says. A primary whose partitions are no longer the same gets a new subscriber: that
/// is rare, and leaves nothing to be moved one by one.
fn apply(cx: &Arc<Context>, peers: &mut BTreeMap<Address, Peer>, topology: Topology) {
    let gone = peers
        .extract_if(.., |address, _| !topology.contains_key(address))
        .collect::<Vec<_>>();
    for (address, partitions) in topology {
        match peers.get_mut(&address) {
            Some(peer) if peer.partitions == partitions => {}
            Some(peer) => {
                // This aborts the old subscriber. It may end after the new one has attached, and
                // then detaches nothing: its generation no longer serves the partitions.
                peer.subscriber = subscribe(cx, &address, &partitions, &peer.queue);
                peer.partitions = partitions;
            }
            None => {
                let queue = Arc::new(CommandQueue::new(
                    address.clone(),
                    &cx.limits,
                    cx.metrics.clone(),
                ));
                let peer = Peer {
                    publisher: start(
                        cx,
                        &format!("publisher for {address}"),
                        publisher::run(queue.clone(), cx.clone()),
                    ),
                    subscriber: subscribe(cx, &address, &partitions, &queue),
                    partitions,
                    queue,
                };
                cx.health.begin(
                    Component::Publisher(address.clone()),
                    &format!("connecting to {address}"),
                );
                peers.insert(address, peer);
            }
        }
    }

    // Before the old queues are shut: a command that comes in between goes to the new primary.
    let mut routes = cx.routes.write();
    for peer in peers.values() {
        for partition in &peer.partitions {
            routes[usize::from(*partition)] = Some(peer.queue.clone());
        }
    }

    drop(routes);
    for (address, peer) in gone {
        // The tasks first: a publisher that is still connecting would open the queue again.
        drop((peer.publisher, peer.subscriber));
        peer.queue.shut("another Redis server has taken over");
        cx.health.forget(&address);
    }
}

fn subscribe(
    cx: &Arc<Context>,
    address: &Address,
    partitions: &[u16],
    queue: &Arc<CommandQueue>,
) -> Task {
    let assignment = subscriber::Assignment {
        address: address.clone(),
        partitions: partitions.to_vec(),
        queue: queue.clone(),
    };

    cx.health.begin(
        Component::Subscriber(address.clone()),
        &format!("subscribing at {address}"),
    );
    start(
        cx,
        &format!("subscriber at {address}"),
        subscriber::run(assignment, cx.clone()),
    )
}

/// Starts a task, which may end where it can do nothing, but must not panic.
fn start(cx: &Context, name: &str, run: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(cx.supervisor.run_to_end(name, run)))
}
