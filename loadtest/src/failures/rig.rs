//! What each failure does to which servers, and when what failed is back.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{
    await_ready, eviction,
    failure::Failure,
    figure::Figure,
    node::{Node, Start},
    overflow,
    plan::{CHANNELS, NODES, Scene, channel},
    present::Present,
    storm, visitors,
};
use crate::{
    clock,
    error::{Doing, Result, failed},
    redis::{Proxy, RedisCluster, RedisServer, Reply, SERVICE, Sentinels},
};

/// The node that a failure of one node is about, or of its way to Redis.
const ONE: usize = 1;

/// The node that dies beside another one that is late.
const OTHER: usize = 2;

/// How long a primary of a Redis Cluster may be away before another takes over; longer than it is.
const NO_TAKEOVER_MS: u32 = 15_000;

/// The servers of one failure.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) nodes: Vec<Node>,
    /// One that is started while it happens.
    newcomer: Option<Node>,
    start: Start,
    proxies: Vec<Proxy>,
    redis: Redis,
}

/// Redis, in the form that a failure is about.
#[derive(Debug)]
enum Redis {
    One(RedisServer),
    /// Two of which one takes over from the other.
    Two(RedisServer, RedisServer),
    Cluster(RedisCluster),
    Sentinels(Sentinels),
}

/// What is known of a failure once it is over.
#[derive(Debug, Default)]
pub(super) struct Happened {
    /// When it began.
    pub(super) from: u64,
    /// From when on all had to work again.
    pub(super) back: u64,
    /// Channels that it has nothing to do with, where a failure is about some channels only.
    pub(super) elsewhere: BTreeSet<usize>,
    pub(super) figures: Vec<Figure>,
}

/// How a Redis Cluster is named to a node.
fn cluster_url(addresses: &[SocketAddr]) -> String {
    format!("redis+cluster://{}", listed(addresses))
}

/// How a service under sentinels is named to a node.
fn sentinel_url(addresses: &[SocketAddr]) -> String {
    format!("redis+sentinel://{}/{SERVICE}", listed(addresses))
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(SocketAddr::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Starts Redis as `failure` needs it, and what stands between it and the nodes.
fn start_redis(failure: Failure) -> std::io::Result<(Redis, Vec<Proxy>)> {
    Ok(match failure {
        Failure::Restart => (Redis::One(RedisServer::start_durable()?), Vec::new()),
        Failure::ClusterFailover | Failure::ClusterHandover => {
            (Redis::Cluster(RedisCluster::start()?), Vec::new())
        }
        Failure::ClusterPartAway => {
            let cluster = RedisCluster::start_with_timeout(NO_TAKEOVER_MS)?;
            (Redis::Cluster(cluster), Vec::new())
        }
        Failure::SentinelFailover | Failure::LaggingFailover => {
            (Redis::Sentinels(Sentinels::start()?), Vec::new())
        }
        Failure::DetachedReplica => {
            let old = RedisServer::start()?;
            let proxy = Proxy::start(old.address())?;
            (Redis::Two(old, RedisServer::start()?), vec![proxy])
        }
        Failure::FrozenProxy
        | Failure::FrozenConnections
        | Failure::JoinStorm
        | Failure::NewNodeFirst => {
            let redis = RedisServer::start()?;
            let proxy = Proxy::start(redis.address())?;
            (Redis::One(redis), vec![proxy])
        }
        _ => (Redis::One(RedisServer::start()?), Vec::new()),
    })
}

impl Rig {
    /// Starts what `failure` needs, and the nodes; they log into the folder `logs`, if there is one.
    pub(super) fn start(failure: Failure, program: &Path, logs: Option<&Path>) -> Result<Self> {
        let (redis, proxies) = start_redis(failure).doing("cannot start Redis")?;
        let start = Start {
            program: program.to_owned(),
            redis: String::new(),
            log: None,
            more: overflow::arguments(failure),
        };
        let mut rig = Self {
            nodes: Vec::new(),
            newcomer: None,
            start,
            proxies,
            redis,
        };
        let log = |at| logs.map(|folder| folder.join(format!("{}-node-{at}.log", failure.name())));
        for at in 0..NODES {
            let start = Start {
                redis: rig.url(failure, at),
                log: log(at),
                ..rig.start.clone()
            };
            rig.nodes.push(Node::start(start)?);
        }
        rig.start.log = log(NODES);
        Ok(rig)
    }

    /// How Redis is named to the node `at`.
    fn url(&self, failure: Failure, at: usize) -> String {
        let is_for_all = matches!(failure, Failure::JoinStorm | Failure::NewNodeFirst);
        match (&self.redis, self.proxies.first()) {
            (Redis::Two(..), Some(proxy)) => proxy.url(),
            (Redis::One(_), Some(proxy)) if at == ONE || is_for_all => proxy.url(),
            (Redis::One(redis) | Redis::Two(redis, _), _) => redis.url(),
            (Redis::Cluster(cluster), _) => cluster_url(&cluster.addresses()),
            (Redis::Sentinels(sentinels), _) => sentinel_url(&sentinels.addresses()),
        }
    }

    /// Lets it happen; returns once what failed is back.
    pub(super) fn inject(
        &mut self,
        failure: Failure,
        scene: &Scene,
        present: &Present,
    ) -> Result<Happened> {
        let from = clock::now();
        match failure {
            Failure::Calm => {}
            Failure::NodeKilled => {
                scene.is_dead[ONE].store(true, Relaxed);
                self.nodes[ONE].kill()?;
            }
            Failure::NodePaused => {
                self.nodes[ONE].pause()?;
                thread::sleep(Duration::from_secs(20));
                self.nodes[ONE].resume()?;
            }
            Failure::FrozenProxy | Failure::FrozenConnections => self.freeze(failure)?,
            Failure::ClusterPartAway => return self.part_away(),
            Failure::CommandsCut => return self.cut_commands(scene, present),
            Failure::JoinStorm => {
                self.proxy()?.delay(Duration::from_millis(5));
                let happened = storm::run(scene);
                self.proxy()?.delay(Duration::ZERO);
                return happened;
            }
            Failure::InboxOverflow => return overflow::run(self.redis()?, &self.nodes[ONE], scene),
            Failure::NewNodeFirst => self.bring_a_newcomer(scene)?,
            Failure::LateLease => self.be_late(scene)?,
            Failure::RollingDeploy => self.deploy(&[])?,
            Failure::RuleRollout => self.deploy(&["--channel-history", "live-*=10000"])?,
            Failure::Evicting => return eviction::run(self.redis()?, scene),
            _ => self.fail(failure).doing("cannot let Redis fail")?,
        }
        // Where nothing comes back, the nodes have to help themselves from the first moment on.
        let is_instant = matches!(
            failure,
            Failure::Calm | Failure::NodeKilled | Failure::KillClients | Failure::FrozenConnections
        );
        Ok(Happened {
            from,
            back: if is_instant { from } else { clock::now() },
            ..Happened::default()
        })
    }

    fn proxy(&self) -> Result<&Proxy> {
        self.proxies
            .first()
            .map_or_else(|| failed("there is no proxy"), Ok)
    }

    fn redis(&self) -> Result<&RedisServer> {
        match &self.redis {
            Redis::One(redis) => Ok(redis),
            redis => failed(format!("there is more than one server: {redis:?}")),
        }
    }

    fn freeze(&self, failure: Failure) -> Result<()> {
        let proxy = self.proxy()?;
        if failure == Failure::FrozenConnections {
            proxy.freeze_open();
        } else {
            proxy.freeze();
            thread::sleep(Duration::from_secs(8));
            proxy.thaw();
        }
        Ok(())
    }

    /// Stops the primary of some channels, which has nothing that all nodes need.
    fn part_away(&self) -> Result<Happened> {
        let Redis::Cluster(cluster) = &self.redis else {
            return failed("there is no cluster");
        };
        let doing = "cannot ask a primary what it has";
        let mut parts = Vec::new();
        for primary in &cluster.nodes {
            let channels = primary.call(&["PUBSUB", "SHARDCHANNELS"]).doing(doing)?;
            let names: Vec<String> = channels.items().iter().map(Reply::text).collect();
            let has = |number: &usize| {
                let end = format!(":channel:{}", channel(*number));
                names.iter().any(|name| name.ends_with(&end))
            };
            let numbers: BTreeSet<usize> = (0..CHANNELS).filter(has).collect();
            let is_shared = names.iter().any(|name| name.ends_with("::nodes"));
            parts.push((primary, numbers, is_shared));
        }
        let victim = parts
            .iter()
            .find(|(_, numbers, is_shared)| !numbers.is_empty() && !is_shared);
        let Some((primary, numbers, _)) = victim else {
            return failed("no primary has channels and nothing else that all nodes need");
        };

        let from = clock::now();
        primary.pause().doing("cannot stop a primary")?;
        thread::sleep(Duration::from_secs(6));
        primary.resume().doing("cannot let a primary go on")?;
        Ok(Happened {
            from,
            back: clock::now(),
            elsewhere: (0..CHANNELS)
                .filter(|number| !numbers.contains(number))
                .collect(),
            figures: vec![],
        })
    }

    /// Ends the connections for commands again and again, while clients come and go.
    fn cut_commands(&self, scene: &Scene, present: &Present) -> Result<Happened> {
        let redis = self.redis()?;
        let from = clock::now();
        let until = Instant::now() + Duration::from_secs(5);
        let (visits, cut) = visitors::during(scene, present, || {
            let mut cut = 0;
            while Instant::now() < until {
                cut += redis.kill_clients("normal")?;
                thread::sleep(Duration::from_millis(100));
            }
            std::io::Result::Ok(cut)
        })?;
        let cut = cut.doing("cannot end connections")?;
        Ok(Happened {
            from,
            back: clock::now(),
            figures: vec![
                Figure::at_least("connections cut", cut.max(0) as usize, 1),
                Figure::at_least("came and went", visits, 1),
            ],
            ..Happened::default()
        })
    }

    /// Cuts all nodes off until their leases are over, and lets a new one be the first that has Redis.
    fn bring_a_newcomer(&mut self, scene: &Scene) -> Result<()> {
        let redis = self.redis()?.url();
        self.proxy()?.freeze();
        thread::sleep(Duration::from_secs(6));
        let newcomer = Node::start(Start {
            redis,
            ..self.start.clone()
        })?;
        let address = newcomer.address;
        self.newcomer = Some(newcomer);
        await_ready(address, "the new node")?;
        // It has a lease by now, and nobody else has.
        let _ = scene.newcomer.set(address);
        self.proxy()?.thaw();
        Ok(())
    }

    /// Kills one node, and lets another one work only now and then.
    fn be_late(&mut self, scene: &Scene) -> Result<()> {
        scene.is_dead[OTHER].store(true, Relaxed);
        self.nodes[OTHER].kill()?;
        for _ in 0..5 {
            self.nodes[ONE].pause()?;
            thread::sleep(Duration::from_millis(2600));
            self.nodes[ONE].resume()?;
            thread::sleep(Duration::from_millis(600));
        }
        Ok(())
    }

    /// Drains, ends and starts every node again, one after another.
    fn deploy(&mut self, more: &[&str]) -> Result<()> {
        for node in &mut self.nodes {
            node.drain()?;
            node.start_again(more)?;
            await_ready(node.address, "a node that was started again")?;
        }
        Ok(())
    }

    fn fail(&mut self, failure: Failure) -> std::io::Result<()> {
        let proxy = self.proxies.first();
        match (&mut self.redis, failure) {
            (Redis::One(redis), Failure::Restart | Failure::RestartEmpty) => {
                redis.kill()?;
                thread::sleep(Duration::from_secs(2));
                redis.restart()
            }
            (Redis::One(redis), Failure::Stop) => {
                redis.pause()?;
                thread::sleep(Duration::from_secs(5));
                redis.resume()
            }
            (Redis::One(redis), Failure::KillClients) => {
                redis.kill_clients("normal")?;
                redis.kill_clients("pubsub").map(|_| ())
            }
            (Redis::One(redis), Failure::Memory) => {
                redis.set("maxmemory-policy", "noeviction")?;
                redis.set("maxmemory", "1")?;
                thread::sleep(Duration::from_secs(5));
                redis.set("maxmemory", "0")
            }
            (Redis::Cluster(cluster), Failure::ClusterFailover) => {
                cluster.fail_over(cluster.busiest()?)
            }
            (Redis::Cluster(cluster), Failure::ClusterHandover) => {
                cluster.hand_over(cluster.busiest()?)
            }
            (Redis::Sentinels(sentinels), Failure::SentinelFailover) => sentinels.fail_over(),
            (Redis::Sentinels(sentinels), Failure::LaggingFailover) => {
                sentinels.servers.cut_off()?;
                thread::sleep(Duration::from_secs(2));
                sentinels.fail_over()
            }
            (Redis::Two(old, new), Failure::DetachedReplica) => {
                new.follow(old.address())?;
                new.detach()?;
                if let Some(proxy) = proxy {
                    proxy.point_to(new.address());
                }
                old.follow(new.address())?;
                // Commands go to the new primary from here on; who is subscribed stays, and hears all by replication.
                old.kill_clients("normal")?;
                thread::sleep(Duration::from_secs(3));
                old.detach()
            }
            (redis, failure) => Err(std::io::Error::other(format!(
                "{failure:?} is not for {redis:?}"
            ))),
        }
    }
}
