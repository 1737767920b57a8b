//! The store in a real Redis.

mod lineage;
mod losses;
mod model;
mod quotas;

use std::time::Instant;

use redis::Value;

use super::*;
use crate::{
    bus::{
        Inbox, Incoming,
        tests::server::{Cluster, PATIENCE, Server},
    },
    config::RedisConfig,
    history::suite::{
        self, ANYONE, KEEP, PHONE, channel, event, fill, not_for_phones, offsets, since, until,
        user,
    },
    id::NodeId,
    limits::Limits,
};

/// A node's store.
struct Node {
    store: RedisHistory,
    bus: Arc<Bus>,
    metrics: Arc<Metrics>,
    inbox: Inbox,
}

impl std::ops::Deref for Node {
    type Target = RedisHistory;

    fn deref(&self) -> &RedisHistory {
        &self.store
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.bus.stop();
    }
}

impl Node {
    /// One that has reached Redis.
    async fn new(url: &str) -> Self {
        Self::with_quotas(url, &[]).await
    }

    /// The same where apps may store so many bytes.
    async fn with_quotas(url: &str, quotas: &[Option<usize>]) -> Self {
        let node = Self::start(url, quotas);
        let anything = channel("anything");
        until(Ok(None), async || {
            node.page(&anything, 0, 1)
                .await
                .map(|page| page.map(|_| ()))
        })
        .await;
        node
    }

    fn start(url: &str, quotas: &[Option<usize>]) -> Self {
        let config = RedisConfig {
            url: url.parse().unwrap(),
            ..RedisConfig::default()
        };
        let metrics = Arc::new(Metrics::new());
        let names = ["a", "b"];
        let apps = names.map(|name| Arc::new(metrics.app(name))).to_vec();
        let names = names.map(Into::into).to_vec();
        let (bus, inbox) = Bus::start(
            &config,
            "test",
            names,
            NodeId::random(),
            &Limits::default(),
            metrics.clone(),
            crate::supervisor::Supervisor::default(),
        )
        .unwrap();
        let store = RedisHistory::new(bus.clone(), metrics.clone(), apps, quotas);
        Self {
            store,
            bus,
            metrics,
            inbox,
        }
    }

    /// Hears what is published to a topic from now on.
    async fn listen(&self, key: &Key) {
        self.bus.interest().add(home(key));
        self.bus
            .interest()
            .live(&home(key), PATIENCE)
            .await
            .unwrap();
    }

    /// The next publication.
    async fn next(&mut self) -> Option<(Position, Bytes)> {
        let Incoming { payload, .. } = tokio::time::timeout(PATIENCE, self.inbox.next())
            .await
            .unwrap()
            .unwrap();
        published(&payload)
    }

    fn key(&self, key: &Key, suffix: &str) -> String {
        String::from_utf8(self.bus.key(&home(key), suffix)).unwrap()
    }

    fn losses(&self, key: &Key) -> (u64, u64) {
        let app = &self.store.0.apps[usize::from(key.app.0)];
        (
            app.drops(DropReason::StoredOver),
            app.drops(DropReason::StoredExpired),
        )
    }
}

fn with_tail(tail: &str, length: usize) -> New {
    New {
        tail: Some(tail.to_owned().into()),
        ..event(length)
    }
}

#[tokio::test]
async fn redis_behaves_as_a_store() {
    let server = Server::start(&[]);
    suite::behaves_as_a_store(&Node::new(&server.url()).await.store).await;
}

#[tokio::test]
async fn nodes_share_what_is_kept_and_a_new_one_finds_it() {
    let server = Server::start(&[]);
    let (room, ann) = (channel("c"), user("u"));
    let one = Node::new(&server.url()).await;
    let other = Node::new(&server.url()).await;
    let first = fill(&one.store, &room, &KEEP, 2).await;
    let second = fill(&other.store, &room, &KEEP, 1).await;
    assert_eq!((second.epoch, second.offset), (first.epoch, 3));
    let stored = fill(&one.store, &ann, &KEEP, 3).await;
    drop((one, other));
    let later = Node::new(&server.url()).await;
    assert_eq!(later.position(&room, &KEEP).await.unwrap(), second);
    let epoch = first.epoch.to_string();
    assert_eq!(
        since(&later.store, &room, Some(&epoch), 1).await,
        (true, vec![2, 3])
    );
    assert_eq!(later.waiting(&ann).await.unwrap().entries.len(), 3);
    assert_eq!(later.position(&ann, &KEEP).await.unwrap(), stored);
}

#[tokio::test]
async fn a_cluster_behaves_as_a_store() {
    let cluster = Cluster::start();
    suite::behaves_as_a_store(&Node::new(&cluster.url()).await.store).await;
    publishes_in_the_order_of_offsets(&cluster.url()).await;
}

#[tokio::test]
async fn what_is_published_has_the_order_of_offsets() {
    let server = Server::start(&[]);
    publishes_in_the_order_of_offsets(&server.url()).await;
}

async fn publishes_in_the_order_of_offsets(url: &str) {
    const EACH: usize = 50;
    let room = channel("order");
    let nodes = [Node::new(url).await, Node::new(url).await];
    let mut listener = Node::new(url).await;
    listener.listen(&room).await;
    let mut tasks = Vec::new();
    for (n, node) in nodes.iter().cycle().take(4).enumerate() {
        let (store, room) = (node.store.clone(), room.clone());
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            for k in 0..EACH {
                let tail = format!("{n}:{k}");
                answers.push((
                    store
                        .append(&room, &KEEP, with_tail(&tail, 1))
                        .await
                        .unwrap()
                        .position,
                    tail,
                ));
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.unwrap());
    }
    answers.sort_by_key(|(position, _)| position.offset);
    let all: Vec<u64> = answers
        .iter()
        .map(|(position, _)| position.offset)
        .collect();
    assert_eq!(all, (1..=4 * EACH as u64).collect::<Vec<_>>());
    for (position, tail) in answers {
        assert_eq!(listener.next().await, Some((position, tail.into())));
    }
}

#[tokio::test]
async fn only_what_has_a_tail_is_published_and_an_empty_one_is_one() {
    let server = Server::start(&[]);
    let mut node = Node::new(&server.url()).await;
    for key in [channel("c"), user("u")] {
        node.listen(&key).await;
        node.append(&key, &KEEP, event(1)).await.unwrap();
        let second = node.append(&key, &KEEP, with_tail("", 1)).await.unwrap();
        let huge = node
            .append(&key, &Retention { bytes: 10, ..KEEP }, with_tail("t", 100))
            .await
            .unwrap();
        assert!(node.waiting(&key).await.unwrap().entries.is_empty());
        for (appended, tail) in [(second, ""), (huge, "t")] {
            assert_eq!(node.next().await, Some((appended.position, tail.into())));
        }
    }
}

#[tokio::test]
async fn without_memory_nothing_is_kept_and_nobody_is_told() {
    let server = Server::start(&[]);
    let (room, ann) = (channel("c"), user("u"));
    let mut node = Node::new(&server.url()).await;
    let epoch = fill(&node.store, &room, &KEEP, 2).await.epoch.to_string();
    let newest = fill(&node.store, &ann, &KEEP, 2).await.offset;
    let other = channel("other");
    fill(&node.store, &other, &KEEP, 2).await;
    node.listen(&room).await;
    server.ask(&[
        "config",
        "set",
        "maxmemory",
        "1mb",
        "maxmemory-policy",
        "noeviction",
    ]);
    for key in [&room, &ann, &channel("new"), &user("new")] {
        let refused = node
            .append(key, &KEEP, with_tail("lost", 1))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, HistoryError::Full(text) if text.contains("maxmemory")),
            "{refused:?}"
        );
    }
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 1).await,
        (true, vec![2]),
        "reading goes on"
    );
    node.confirm(&ann, newest, &ANYONE);
    until(0, async || node.waiting(&ann).await.unwrap().entries.len()).await;
    server.ask(&["del", &node.key(&other, "events")]);
    assert_eq!(
        since(&node.store, &other, None, 1).await,
        (false, vec![]),
        "so does telling what was evicted"
    );
    server.ask(&["config", "set", "maxmemory", "0"]);
    let third = node
        .append(&room, &KEEP, with_tail("found", 1))
        .await
        .unwrap();
    assert_eq!(third.position.offset, 3);
    assert_eq!(node.next().await, Some((third.position, "found".into())));
}

#[tokio::test]
async fn what_is_in_the_way_is_refused_in_words() {
    let server = Server::start(&[]);
    let room = channel("c");
    let mut node = Node::new(&server.url()).await;
    node.listen(&room).await;
    server.ask(&["set", &node.key(&room, "events"), "a string"]);
    let refused = node
        .append(&room, &KEEP, with_tail("t", 1))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, HistoryError::Refused(text) if text.contains("WRONGTYPE")),
        "{refused:?}"
    );
    server.ask(&["del", &node.key(&room, "events")]);
    let first = node.append(&room, &KEEP, with_tail("u", 1)).await.unwrap();
    assert_eq!(first.position.offset, 1);
    assert_eq!(node.next().await.map(|(_, tail)| tail), Some("u".into()));
}

#[tokio::test]
async fn an_append_to_a_topic_that_the_node_knows_costs_four_commands() {
    let server = Server::start(&[]);
    let node = Node::new(&server.url()).await;
    for key in [channel("c"), user("u")] {
        fill(&node.store, &key, &KEEP, 2).await;
        server.ask(&["config", "resetstat"]);
        let appended = node.append(&key, &KEEP, with_tail("t", 1)).await.unwrap();
        let stats = server.ask(&["info", "commandstats"]);
        let stats: String = redis::from_redis_value_ref(&stats).unwrap();
        let mut commands: Vec<&str> = stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next())
            .filter(|name| {
                [
                    "hmget",
                    "xadd",
                    "hset",
                    "publish",
                    "xlen",
                    "xrange",
                    "pexpireat",
                ]
                .contains(name)
            })
            .collect();
        commands.sort_unstable();
        assert_eq!(commands, ["hmget", "hset", "publish", "xadd"], "{stats}");
        assert_eq!(node.position(&key, &KEEP).await.unwrap(), appended.position);
        assert_eq!(node.waiting(&key).await.unwrap().entries.len(), 3);
    }
}

#[tokio::test]
async fn without_redis_every_answer_is_an_error_and_soon() {
    let mut server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    fill(&node.store, &room, &KEEP, 1).await;
    server.kill();
    let began = Instant::now();
    for n in 0..3 {
        let error = node.append(&room, &KEEP, event(1)).await.unwrap_err();
        let said = matches!(error, HistoryError::Unavailable | HistoryError::Unanswered);
        assert!(said, "{n}: {error:?}");
        let error = node.since(&room, &KEEP, None, 0).await.unwrap_err();
        assert!(
            matches!(error, HistoryError::Unavailable | HistoryError::Unanswered),
            "{n}: {error:?}"
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "each has a deadline"
    );
    node.confirm(&room, 1, &ANYONE);
}

#[tokio::test]
async fn what_is_not_answered_may_have_happened() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    node.append(&room, &KEEP, event(1)).await.unwrap();
    server.freeze();
    assert_eq!(
        node.append(&room, &KEEP, event(1)).await.unwrap_err(),
        HistoryError::Unanswered
    );
    server.thaw();
    let other = Node::new(&server.url()).await;
    until(vec![1, 2], async || {
        offsets(&other.waiting(&room).await.unwrap().entries)
    })
    .await;
    until(Ok(2), async || {
        node.position(&room, &KEEP)
            .await
            .map(|position| position.offset)
    })
    .await;
    assert_eq!(
        node.append(&room, &KEEP, event(1))
            .await
            .unwrap()
            .position
            .offset,
        3
    );
}

#[tokio::test]
async fn redis_forgets_a_topic_an_hour_after_its_last_event_was_due() {
    let server = Server::start(&[]);
    let (room, quiet) = (channel("c"), channel("quiet"));
    let node = Node::new(&server.url()).await;
    let retention = Retention {
        ttl: Duration::from_secs(100),
        ..KEEP
    };
    fill(&node.store, &room, &retention, 2).await;
    node.position(&quiet, &KEEP).await.unwrap();
    let left = |key: &Key, suffix: &str| -> u64 {
        let Value::Int(left) = server.ask(&["pttl", &node.key(key, suffix)]) else {
            panic!()
        };
        u64::try_from(left).unwrap() / 1000
    };
    let hour = HISTORY_QUIET.as_secs();
    for suffix in ["state", "events"] {
        let left = left(&room, suffix);
        assert!(
            (hour + 100..hour + 100 + 601).contains(&left),
            "{suffix} {left}"
        );
    }
    let unused = HISTORY_UNUSED.as_secs();
    assert!((unused - 1..unused + 61).contains(&left(&quiet, "state")));
    since(&node.store, &quiet, None, 0).await;
    assert!(
        (unused - 1..unused + 61).contains(&left(&quiet, "state")),
        "nobody has used it yet"
    );
    node.remember(&quiet).await.unwrap();
    assert!(left(&quiet, "state") >= hour - 1, "someone is in it");
    fill(&node.store, &quiet, &retention, 1).await;
    node.confirm(&quiet, 1, &ANYONE);
    until(0, async || {
        node.waiting(&quiet).await.unwrap().entries.len()
    })
    .await;
    fill(&node.store, &quiet, &retention, 1).await;
    for suffix in ["state", "events"] {
        assert!(
            left(&quiet, suffix) >= hour + 100 - 1,
            "a stream that is made anew is not for ever"
        );
    }
}

/// How many scripts Redis has run.
fn scripts(server: &Server) -> u64 {
    let stats = server.ask(&["info", "commandstats"]);
    let text: String = ::redis::from_redis_value(stats).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn appends_that_wait_go_as_one_script_and_each_has_its_answer() {
    const EACH: u64 = 100;
    let server = Server::start(&[]);
    let mut node = Node::new(&server.url()).await;
    let (room, side, ann) = (channel("room"), channel("side"), user("ann"));
    let broken = channel("broken");
    node.listen(&room).await;
    server.ask(&["set", &node.key(&broken, "events"), "a string"]);
    let first = node.append(&ann, &KEEP, event(1)).await.unwrap().position;
    let before = scripts(&server);

    server.freeze();
    let keys = [&room, &room, &side, &broken, &ann];
    let mut sent = Vec::new();
    for n in 1..=EACH {
        for key in keys {
            sent.push((key, node.append(key, &KEEP, with_tail(&n.to_string(), 1))));
        }
    }
    server.thaw();
    let mut got: std::collections::BTreeMap<String, Vec<u64>> = std::collections::BTreeMap::new();
    for (key, answer) in sent {
        let name = format!("{:?}", key.topic);
        match answer.await {
            Ok(appended) => got.entry(name).or_default().push(appended.position.offset),
            Err(HistoryError::Refused(text)) => {
                assert!(
                    *key == broken && text.contains("WRONGTYPE"),
                    "{name} {text}"
                );
            }
            Err(error) => panic!("{name} {error}"),
        }
    }
    let all = |key: &Key| got[&format!("{:?}", key.topic)].clone();
    assert_eq!(all(&room), (1..=2 * EACH).collect::<Vec<_>>());
    assert_eq!(all(&side), (1..=EACH).collect::<Vec<_>>());
    let stored = (first.offset + 1..=first.offset + EACH).collect::<Vec<_>>();
    assert_eq!(all(&ann), stored);
    for n in 1..=2 * EACH {
        let (position, tail) = node.next().await.unwrap();
        assert_eq!(
            (position.offset, tail),
            (n, n.div_ceil(2).to_string().into())
        );
    }

    // Some were on their way before Redis was frozen, in as many pipelines as there may be.
    let ran = scripts(&server) - before;
    assert!(ran < EACH / 2, "{ran} scripts for {} appends", EACH * 5);
}
