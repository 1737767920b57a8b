//! Servers that belong together: with a replica, as a Redis Cluster, under sentinels.

use std::{io, net::SocketAddr};

use super::{ELECTION_PATIENCE, Reply, Resp, free_port, server::RedisServer, wait_for, wait_until};

/// What the sentinels call their service.
pub const SERVICE: &str = "fanfare-test";

/// A primary and a replica that follows it.
#[derive(Debug)]
pub struct Replicated {
    pub primary: RedisServer,
    pub replica: RedisServer,
}

/// Without it a primary waits 5 s for further replicas before it sends its data.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

impl Replicated {
    pub fn start() -> io::Result<Self> {
        let primary = RedisServer::start_with(&AT_ONCE)?;
        let replica = RedisServer::start_with(&AT_ONCE)?;
        replica.follow(primary.address())?;
        Ok(Self { primary, replica })
    }

    /// Cuts the replica off once it has all that was written so far: both stay up, and it gets nothing more. The primary
    /// serves those who are connected, and nobody else.
    pub fn cut_off(&self) -> io::Result<()> {
        let written = self
            .primary
            .info("master_repl_offset")?
            .parse::<u64>()
            .unwrap_or(u64::MAX);
        wait_until("the replica has what was written", || {
            Ok(self
                .replica
                .info("slave_repl_offset")?
                .parse::<u64>()
                .is_ok_and(|has| has >= written))
        })?;
        // Without the password the replica cannot come back; who set it may go on.
        let mut primary = Resp::connect(self.primary.address())?;
        primary.call(&["CONFIG", "SET", "requirepass", "for nobody"])?;
        primary
            .call(&["CLIENT", "KILL", "TYPE", "replica"])
            .map(|_| ())
    }
}

/// Primaries of a [`RedisCluster`].
const PRIMARIES: usize = 3;

/// The slots of a Redis Cluster.
const SLOTS: usize = 16_384;

/// A Redis Cluster of three primaries with a replica each.
#[derive(Debug)]
pub struct RedisCluster {
    /// Three that began as primaries; then, in the same order, one that began as replica of each.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts one, and waits until every node serves and every replica follows.
    pub fn start() -> io::Result<Self> {
        Self::start_with_timeout(1500)
    }

    /// The same, whose replicas take over after so many ms.
    pub fn start_with_timeout(timeout_ms: u32) -> io::Result<Self> {
        let timeout = timeout_ms.to_string();
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..PRIMARIES * 2 {
            let bus = free_port()?.to_string();
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                &timeout,
                "--cluster-port",
                &bus,
            ];
            nodes.push(RedisServer::start_with(&[&AT_ONCE[..], &cluster].concat())?);
            buses.push(bus);
        }
        let cluster = Self { nodes };
        cluster.assign_slots()?;
        for (node, bus) in cluster.nodes.iter().zip(&buses).skip(1) {
            let port = node.address().port().to_string();
            cluster.nodes[0].call(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
        }
        let all = format!("cluster_known_nodes:{}", PRIMARIES * 2);
        cluster.wait_for("the nodes know each other", |info| info.contains(&all))?;
        for (primary, replica) in cluster.nodes.iter().zip(&cluster.nodes[PRIMARIES..]) {
            let id = primary.call(&["CLUSTER", "MYID"])?.text();
            wait_until("the replica knows its primary", || {
                replica.call(&["CLUSTER", "REPLICATE", &id]).map(|_| true)
            })?;
        }
        for replica in &cluster.nodes[PRIMARIES..] {
            wait_until("the replica follows", || replica.follows())?;
        }
        cluster.wait_for("the cluster serves", |info| {
            info.contains("cluster_state:ok")
        })?;
        Ok(cluster)
    }

    fn assign_slots(&self) -> io::Result<()> {
        for (at, node) in self.nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
            if at < PRIMARIES {
                let (first, end) = (SLOTS * at / PRIMARIES, SLOTS * (at + 1) / PRIMARIES);
                let (first, last) = (first.to_string(), (end - 1).to_string());
                node.call(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            }
        }
        Ok(())
    }

    /// Waits until `CLUSTER INFO` of every node that runs satisfies `is_true`.
    fn wait_for(&self, what: &str, is_true: impl Fn(&str) -> bool) -> io::Result<()> {
        for node in self.nodes.iter().filter(|node| node.id().is_some()) {
            wait_until(what, || {
                Ok(is_true(&node.call(&["CLUSTER", "INFO"])?.text()))
            })?;
        }
        Ok(())
    }

    /// The addresses of all nodes.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(RedisServer::address).collect()
    }

    /// The place of the first primary with the most sharded subscriptions: what its end is noticed by.
    pub fn busiest(&self) -> io::Result<usize> {
        let mut most = (0, 0);
        for at in 0..PRIMARIES {
            let channels = self.nodes[at]
                .call(&["PUBSUB", "SHARDCHANNELS"])?
                .items()
                .len();
            if channels > most.1 {
                most = (at, channels);
            }
        }
        Ok(most.0)
    }

    /// Kills the primary at `at`, and waits until its replica serves in its place.
    pub fn fail_over(&mut self, at: usize) -> io::Result<()> {
        self.nodes[at].kill()?;
        self.wait_for_takeover(at)
    }

    /// Has the replica of the primary at `at` take over from it, both alive; waits until it serves.
    pub fn hand_over(&self, at: usize) -> io::Result<()> {
        self.nodes[at + PRIMARIES].call(&["CLUSTER", "FAILOVER"])?;
        self.wait_for_takeover(at)
    }

    fn wait_for_takeover(&self, at: usize) -> io::Result<()> {
        wait_until("the replica takes over", || {
            self.nodes[at + PRIMARIES].is_primary()
        })?;
        self.wait_for("the cluster serves again", |info| {
            info.contains("cluster_state:ok")
        })
    }
}

/// A primary and a replica, watched by three sentinels of which two decide.
#[derive(Debug)]
pub struct Sentinels {
    pub sentinels: Vec<RedisServer>,
    pub servers: Replicated,
}

impl Sentinels {
    /// Starts all, and waits until every sentinel knows the replica and the other sentinels.
    pub fn start() -> io::Result<Self> {
        let servers = Replicated::start()?;
        let port = servers.primary.address().port();
        let lines = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {SERVICE} 1000\n\
             sentinel failover-timeout {SERVICE} 5000\n"
        );
        let sentinels = (0..3)
            .map(|_| RedisServer::start_sentinel(&lines))
            .collect::<io::Result<Vec<_>>>()?;
        for sentinel in &sentinels {
            let known = |what| {
                Ok::<_, io::Error>(sentinel.call(&["SENTINEL", what, SERVICE])?.items().len())
            };
            wait_until("the sentinels know each other", || {
                Ok(known("REPLICAS")? == 1 && known("SENTINELS")? == 2)
            })?;
        }
        Ok(Self { sentinels, servers })
    }

    /// The addresses of the sentinels.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(RedisServer::address).collect()
    }

    /// What a sentinel says where the primary is.
    pub fn primary(&self) -> io::Result<String> {
        let place = self.sentinels[0].call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])?;
        Ok(place
            .items()
            .iter()
            .map(Reply::text)
            .collect::<Vec<_>>()
            .join(":"))
    }

    /// Kills the primary, and waits until the replica is one and every sentinel says so.
    pub fn fail_over(&mut self) -> io::Result<()> {
        self.servers.primary.kill()?;
        let port = self.servers.replica.address().port().to_string();
        for sentinel in &self.sentinels {
            wait_for("the sentinels name the replica", ELECTION_PATIENCE, || {
                let place = sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])?;
                Ok(place.items().get(1).is_some_and(|at| at.text() == port))
            })?;
        }
        wait_until("the replica takes over", || {
            self.servers.replica.is_primary()
        })
    }
}
