//! The failures: what each does to which servers, and when what failed is back.

use std::{net::SocketAddr, path::Path, sync::atomic::Ordering::Relaxed, thread, time::Duration};

use clap::ValueEnum;

use super::{
    node::Node,
    plan::{NODES, Scene},
};
use crate::{
    clock,
    error::{Doing, Result, failed},
    redis::{Proxy, RedisCluster, RedisServer, SERVICE, Sentinels},
};

/// The node that a failure of one node is about, or of its way to Redis.
const ONE: usize = 1;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Failure {
    /// Nothing fails: what the others are held against
    Calm,
    /// Redis is killed and started again 2 s later, with all that it had on disk
    Restart,
    /// Redis is killed and started again 2 s later, empty
    RestartEmpty,
    /// Redis stands still for 5 s (SIGSTOP)
    Stop,
    /// Every connection to Redis is ended (CLIENT KILL)
    KillClients,
    /// A primary of a Redis Cluster is killed, and its replica takes over
    ClusterFailover,
    /// A primary of a Redis Cluster hands over to its replica (CLUSTER FAILOVER)
    ClusterHandover,
    /// The primary is killed, and sentinels make its replica the primary
    SentinelFailover,
    /// The same with a replica that lags by 2 s, and publishers on nodes without members of the channel
    LaggingFailover,
    /// A node is killed
    NodeKilled,
    /// A node stands still for 20 s (SIGSTOP)
    NodePaused,
    /// Redis has no memory left for 5 s (maxmemory, noeviction)
    Memory,
    /// Subscribers stay connected to a replica that is detached from its primary
    DetachedReplica,
    /// All connections of one node to Redis, new ones too, forward nothing for 8 s, and stay open
    FrozenProxy,
    /// The open connections of one node to Redis forward nothing any more, and stay open; new ones work
    FrozenConnections,
}

impl Failure {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it does.
    pub(crate) fn description(self) -> String {
        let value = self.to_possible_value();
        value
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }
}

/// The servers of one failure.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) nodes: Vec<Node>,
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

impl Rig {
    /// Starts what `failure` needs, and the nodes; they log into the folder `logs`, if there is one.
    pub(super) fn start(failure: Failure, program: &Path, logs: Option<&Path>) -> Result<Self> {
        let start = || -> std::io::Result<(Redis, Vec<Proxy>)> {
            Ok(match failure {
                Failure::Restart => (Redis::One(RedisServer::start_durable()?), Vec::new()),
                Failure::ClusterFailover | Failure::ClusterHandover => {
                    (Redis::Cluster(RedisCluster::start()?), Vec::new())
                }
                Failure::SentinelFailover | Failure::LaggingFailover => {
                    (Redis::Sentinels(Sentinels::start()?), Vec::new())
                }
                Failure::DetachedReplica => {
                    let old = RedisServer::start()?;
                    let proxy = Proxy::start(old.address())?;
                    (Redis::Two(old, RedisServer::start()?), vec![proxy])
                }
                Failure::FrozenProxy | Failure::FrozenConnections => {
                    let redis = RedisServer::start()?;
                    let proxy = Proxy::start(redis.address())?;
                    (Redis::One(redis), vec![proxy])
                }
                _ => (Redis::One(RedisServer::start()?), Vec::new()),
            })
        };
        let (redis, proxies) = start().doing("cannot start Redis")?;
        let mut rig = Self {
            nodes: Vec::new(),
            proxies,
            redis,
        };
        for at in 0..NODES {
            let log = logs.map(|folder| folder.join(format!("{}-node-{at}.log", failure.name())));
            let node = Node::start(program, &rig.url(at), log.as_deref())?;
            rig.nodes.push(node);
        }
        Ok(rig)
    }

    /// How Redis is named to the node `at`.
    fn url(&self, at: usize) -> String {
        match (&self.redis, self.proxies.first()) {
            (Redis::Two(..), Some(proxy)) => proxy.url(),
            (Redis::One(_), Some(proxy)) if at == ONE => proxy.url(),
            (Redis::One(redis) | Redis::Two(redis, _), _) => redis.url(),
            (Redis::Cluster(cluster), _) => cluster_url(&cluster.addresses()),
            (Redis::Sentinels(sentinels), _) => sentinel_url(&sentinels.addresses()),
        }
    }

    /// Lets it happen; returns once what failed is back, with the moment from which on all has to work again.
    pub(super) fn inject(&mut self, failure: Failure, scene: &Scene) -> Result<u64> {
        let failed = clock::now();
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
            _ => self.fail(failure).doing("cannot let Redis fail")?,
        }
        // Where nothing comes back, the nodes have to help themselves from the first moment on.
        let is_instant = matches!(
            failure,
            Failure::Calm | Failure::NodeKilled | Failure::KillClients | Failure::FrozenConnections
        );
        Ok(if is_instant { failed } else { clock::now() })
    }

    fn freeze(&self, failure: Failure) -> Result<()> {
        let Some(proxy) = self.proxies.first() else {
            return self::failed("there is no proxy");
        };
        if failure == Failure::FrozenConnections {
            proxy.freeze_open();
        } else {
            proxy.freeze();
            thread::sleep(Duration::from_secs(8));
            proxy.thaw();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_name_and_says_what_it_does() {
        for failure in Failure::value_variants() {
            assert!(
                !failure.name().is_empty() && failure.description().len() > 10,
                "{failure:?}"
            );
        }
    }
}
