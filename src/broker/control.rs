//! The task that keeps a line and a subscriber at every primary, wherever the primaries are.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Context,
    backoff::some,
    board::Part,
    line::Line,
    link::Address,
    publisher, subscriber,
    topology::{self, Topology},
};
use crate::limits;

/// One primary, and the tasks that serve it.
struct Peer {
    line: Arc<Line>,
    partitions: Vec<u16>,
    publisher: Task,
    subscriber: Task,
}

/// A task that ends when it is let go.
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
        let mut doubted: Option<Instant> = None;
        loop {
            let known = peers
                .iter()
                .map(|(address, peer)| (address.clone(), peer.partitions.clone()));
            match topology::discover(&cx, &known.collect()).await {
                Ok(topology) => {
                    apply(&cx, &mut peers, topology);
                    cx.board.clear(&Part::Topology);
                }
                Err(fault) => cx.board.fault(Part::Topology, &fault.to_string()),
            }
            let next =
                Instant::now() + limits::BUS_TOPOLOGY_TROUBLE + some(limits::BUS_TOPOLOGY_TROUBLE);
            let is_calm = cx.board.is_up()
                && doubted.is_none_or(|doubted| doubted.elapsed() > limits::BUS_TOPOLOGY_DOUBT);
            tokio::select! {
                () = sleep(limits::BUS_TOPOLOGY), if is_calm => {}
                () = sleep_until(next), if !is_calm => {}
                () = cx.trouble.notified() => {
                    doubted = Some(Instant::now());
                    // What one node notices, all do.
                    sleep_until(next.max(Instant::now() + some(limits::BUS_BACKOFF_MIN))).await;
                }
            }
        }
    };
    let sweep = async {
        loop {
            sleep(limits::BUS_LINGER / 4).await;
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
    while peers.values().any(|peer| !peer.line.is_idle()) && Instant::now() < deadline {
        sleep(limits::BUS_FAREWELL / 100).await;
    }
}

/// Makes `peers` what `topology` says. A primary whose partitions are not the same any more gets a new subscriber: that is
/// rare, and leaves nothing to be moved one by one.
fn apply(cx: &Arc<Context>, peers: &mut BTreeMap<Address, Peer>, topology: Topology) {
    let gone = peers
        .extract_if(.., |address, _| !topology.contains_key(address))
        .collect::<Vec<_>>();
    for (address, partitions) in topology {
        match peers.get_mut(&address) {
            Some(peer) if peer.partitions == partitions => {}
            Some(peer) => {
                peer.subscriber = subscribe(cx, &address, &partitions, &peer.line);
                peer.partitions = partitions;
            }
            None => {
                let line = Arc::new(Line::new(address.clone(), &cx.limits, cx.metrics.clone()));
                let peer = Peer {
                    publisher: start(
                        cx,
                        &format!("publisher for {address}"),
                        publisher::run(line.clone(), cx.clone()),
                    ),
                    subscriber: subscribe(cx, &address, &partitions, &line),
                    partitions,
                    line,
                };
                cx.board.begin(
                    Part::Publisher(address.clone()),
                    &format!("connecting to {address}"),
                );
                peers.insert(address, peer);
            }
        }
    }
    let mut routes = cx.routes.write();
    for peer in peers.values() {
        for partition in &peer.partitions {
            routes[usize::from(*partition)] = Some(peer.line.clone());
        }
    }
    drop(routes);
    for (address, peer) in gone {
        drop((peer.publisher, peer.subscriber));
        peer.line.shut("another Redis server has taken over");
        cx.board.forget(&address);
    }
}

fn subscribe(cx: &Arc<Context>, address: &Address, partitions: &[u16], line: &Arc<Line>) -> Task {
    let duty = subscriber::Duty {
        address: address.clone(),
        partitions: partitions.to_vec(),
        line: line.clone(),
    };
    cx.board.begin(
        Part::Subscriber(address.clone()),
        &format!("subscribing at {address}"),
    );
    start(
        cx,
        &format!("subscriber at {address}"),
        subscriber::run(duty, cx.clone()),
    )
}

/// Starts a task, which may end where it can do nothing, but must not panic.
fn start(cx: &Context, name: &str, run: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(cx.supervisor.run_to_end(name, run)))
}
