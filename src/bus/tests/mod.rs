//! The bus with real Redis servers, which are killed, frozen and demoted.

mod cluster;
mod proxy;
mod secure;
mod sentinel;
pub(crate) mod server;
mod standalone;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::timeout;

use self::server::{PATIENCE, eventually};
use super::*;
use crate::{config::RedisConfig, id::AppId, limits, metrics::Metrics, supervisor::Supervisor};

const APP: AppId = AppId(0);

/// The bus of a node that has reached Redis, for tests of what uses it.
pub(crate) async fn bus_at(url: &str) -> (Arc<Bus>, Inbox) {
    let config = RedisConfig {
        url: url.parse().unwrap(),
        ..RedisConfig::default()
    };
    let (bus, inbox) = start(&config, &Limits::default(), Arc::new(Metrics::new()));
    let start = Instant::now();
    while bus.health() != Health::Up {
        assert!(start.elapsed() < PATIENCE, "{:?}", bus.health());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (bus, inbox)
}

fn start(config: &RedisConfig, limits: &Limits, metrics: Arc<Metrics>) -> (Arc<Bus>, Inbox) {
    let apps = vec!["default".into(), "other".into()];
    let supervisor = Supervisor::default();
    let node = NodeId::random();
    Bus::start(config, "test", apps, node, limits, metrics, supervisor).unwrap()
}

/// One node's bus.
struct Node {
    bus: Arc<Bus>,
    inbox: Inbox,
    metrics: Arc<Metrics>,
}

impl Node {
    fn start(url: &str) -> Self {
        Self::with(
            &RedisConfig {
                url: url.parse().unwrap(),
                ..RedisConfig::default()
            },
            &patient(),
        )
    }

    fn with(config: &RedisConfig, limits: &Limits) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (bus, inbox) = start(config, limits, metrics.clone());
        Self {
            bus,
            inbox,
            metrics,
        }
    }

    /// One that is up.
    fn up(url: &str) -> Self {
        let node = Self::start(url);
        node.is_up();
        node
    }

    /// One that is up, and no more patient than it is by default.
    fn hasty(url: &str) -> Self {
        let config = RedisConfig {
            url: url.parse().unwrap(),
            ..RedisConfig::default()
        };
        let node = Self::with(&config, &Limits::default());
        node.is_up();
        node
    }

    fn is_up(&self) {
        let start = Instant::now();
        while self.bus.health() != Health::Up {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.bus.health());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the bus is down, for a reason with these words.
    fn is_down(&self, words: &str) {
        let start = Instant::now();
        loop {
            let health = self.bus.health();
            if matches!(&health, Health::Down { reason, .. } if reason.contains(words)) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "not down for \"{words}\" but {health:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    async fn joins(&self, topic: Topic) {
        self.bus.interest().add(topic.clone());
        self.bus.interest().live(&topic, PATIENCE).await.unwrap();
    }

    /// The next message.
    async fn message(&mut self) -> (Topic, Bytes) {
        let Incoming { topic, payload } = timeout(PATIENCE, self.inbox.next())
            .await
            .expect("nothing comes")
            .expect("the bus has ended");
        (topic, payload)
    }

    /// How often it may have missed something.
    fn gaps(&self) -> u64 {
        self.metrics.bus.gaps.get()
    }

    /// Publishes until Redis takes it, and waits until it comes to `other`; what comes before is let go.
    async fn reaches(&self, other: &mut Self, topic: &Topic) {
        let text = Bytes::from(format!("probe {}", uuid::Uuid::new_v4()));
        let start = Instant::now();
        while let Err(error) = self.bus.publish(topic, text.clone()).await {
            assert!(start.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while other.message().await != (topic.clone(), text.clone()) {}
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.bus.stop();
    }
}

/// A busy machine is no frozen Redis.
fn patient() -> Limits {
    Limits {
        redis_timeout: PATIENCE,
        bus_canary_timeout: PATIENCE,
        ..Limits::default()
    }
}

/// What a future gives that has nothing to wait for.
async fn at_once<T>(future: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = future => done,
        () = std::future::ready(()) => panic!("it waits"),
    }
}

fn user(name: &str) -> Topic {
    Topic::User(APP, name.into())
}

fn users(count: usize) -> Vec<Topic> {
    (0..count).map(|n| user(&format!("user-{n}"))).collect()
}

/// What every kind of Redis has to do: publications, scripts and commands, in order, to whom they are for.
async fn works(url: &str) {
    static SCRIPT: std::sync::LazyLock<Script> = std::sync::LazyLock::new(|| {
        Script::new(
            "redis.call('SET', KEYS[1], ARGV[1]) return redis.call(ARGV[3], ARGV[2], ARGV[1])",
        )
    });
    let (mut one, two) = (Node::up(url), Node::up(url));
    let topics = [
        Topic::Nodes,
        Topic::App(APP),
        user("ann"),
        Topic::Channel(APP, "room:1".into()),
        Topic::Dispatch(APP),
    ];
    for topic in &topics {
        one.joins(topic.clone()).await;
    }
    assert_eq!(two.bus.publish(&user("bob"), "nobody".into()).await, Ok(0));
    for topic in &topics {
        let key = two.bus.key(topic, "last");
        let channel = Bytes::from(two.bus.channel(topic));
        let command = Bytes::from_static(two.bus.cx.publish_command_of(topic).as_bytes());
        let before = two.bus.publish(topic, "1".into());
        let script = two.bus.eval(
            &SCRIPT,
            topic,
            vec![key.clone()],
            vec!["2".into(), channel, command],
        );
        let after = two.bus.publish(topic, "3".into());
        let stored = two.bus.command(topic, {
            let mut get = Cmd::new();
            get.arg("GET").arg(&key);
            get
        });
        // The order is that of the calls, whichever future is polled first.
        assert_eq!(stored.await, Ok(Value::BulkString(b"2".to_vec())));
        assert_eq!(
            (after.await, script.await, before.await),
            (Ok(1), Ok(Value::Int(1)), Ok(1))
        );
        for text in ["1", "2", "3"] {
            assert_eq!(one.message().await, (topic.clone(), text.into()));
        }
    }
    let refused = two
        .bus
        .command(&topics[0], {
            let mut bad = Cmd::new();
            bad.arg("NONSENSE");
            bad
        })
        .await;
    assert!(
        matches!(&refused, Err(BusError::Refused { code, .. }) if code == "ERR"),
        "{refused:?}"
    );
    assert_eq!(one.gaps(), 0);
}
