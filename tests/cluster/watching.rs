//! What watchers need comes with the notices: nobody asks back, and who does not watch hears nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use fanfare::config::{ChannelRule, Presence};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings},
    redis::Resp,
    support::{Client, eventually},
};

/// A message of the bus: its channel, and what it says.
type Message = (String, String);

/// What goes over the bus while `act` runs, canaries aside; and how many canaries.
fn tapped(cluster: &Cluster, act: impl FnOnce()) -> (Vec<Message>, u64) {
    let mut tap = Resp::connect(cluster.redis.address()).unwrap();
    tap.call(&["PSUBSCRIBE", "*"]).unwrap();
    act();
    cluster.redis.call(&["PUBLISH", "last", "last"]).unwrap();
    let (mut messages, mut canaries) = (Vec::new(), 0);
    loop {
        let message = tap.read().unwrap();
        let [channel, text] = [2, 3].map(|at| message.items()[at].text());
        if channel == "last" {
            return (messages, canaries);
        }
        if channel.contains("canary") {
            canaries += 1;
        } else {
            messages.push((channel, text));
        }
    }
}

/// The requests among `messages` that are of a kind.
fn requests<'m>(messages: &'m [Message], kind: &str) -> Vec<&'m Message> {
    let order = format!(r#""order":{{"{kind}":"#);
    let is_one = |(_, text): &&Message| text.contains(&order);
    messages.iter().filter(is_one).collect()
}

/// Commands of this name that Redis has carried out.
fn calls(cluster: &Cluster, command: &str) -> u64 {
    let stats = cluster.redis.call(&["INFO", "commandstats"]).unwrap();
    let (stats, start) = (stats.text(), format!("cmdstat_{command}:calls="));
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

fn watcher(node: &Node, user: &str) -> Client {
    let mut watcher = node.user(user);
    watcher.watch("lobby");
    watcher
}

fn leave(client: &mut Client) {
    client.ask_amid(&json!({"op": "leave", "channel": "lobby"}));
}

/// The next message about `of`: its kind, and how many connections the user has.
fn notice_of(client: &mut Client, of: &Client) -> (String, u64) {
    let notice = std::iter::repeat_with(|| client.json())
        .find(|told| told["member"]["id"] == of.id)
        .unwrap();
    let kind = notice["kind"].as_str().unwrap().to_owned();
    (kind, notice["user_connections"].as_u64().unwrap())
}

/// The next message with counts.
fn counts(client: &mut Client) -> Value {
    std::iter::repeat_with(|| client.json())
        .find(|told| told["op"] == "members")
        .unwrap()
}

#[test]
fn a_change_of_a_channel_that_is_watched_on_every_node_is_one_publication() {
    for nodes in [3, 5, 9] {
        let by_name = |settings: Settings| settings.with("FANFARE_LIMIT_PRESENCE_NOTICES", "1000");
        let cluster = Cluster::of(nodes, by_name, |_| {});
        let mut watchers: Vec<Client> = (0..nodes)
            .map(|n| watcher(&cluster[n], &format!("watcher-{n}")))
            .collect();
        let mut others: Vec<Client> = (0..10)
            .map(|n| cluster[n % nodes].user(&format!("u{}", n / 2)))
            .collect();
        let changes = 2 * others.len() as u64;

        let mut published = 0;
        let (messages, canaries) = tapped(&cluster, || {
            let before = calls(&cluster, "publish");
            for (n, client) in others.iter_mut().enumerate() {
                client.join("lobby");
                for watcher in &mut watchers {
                    let told = ("joined".to_owned(), n as u64 % 2 + 1);
                    assert_eq!(notice_of(watcher, client), told);
                }
            }
            for client in &mut others {
                leave(client);
                for watcher in &mut watchers {
                    assert_eq!(notice_of(watcher, client).0, "left");
                }
            }
            published = calls(&cluster, "publish") - before;
        });
        assert_eq!(
            messages.len() as u64,
            changes,
            "{nodes} nodes: {messages:?}"
        );
        assert!(messages.iter().all(|(at, _)| at.ends_with(":watch:lobby")));
        // The tap hears canaries from a moment before and to a moment after.
        assert!(
            (changes..=changes + canaries).contains(&published),
            "{nodes} nodes: {published} for {changes} changes"
        );
    }
}

#[test]
fn a_node_that_stands_still_is_counted_all_the_same() {
    let long = |settings: Settings| settings.with("FANFARE_LIMIT_NODE_LEASE", "60s");
    let cluster = Cluster::apart_set(long);
    let mut watcher = watcher(&cluster[0], "watcher");
    let mut ann = [cluster[1].user("ann"), cluster[2].user("ann")];
    for (n, client) in ann.iter_mut().enumerate() {
        client.join("lobby");
        let told = ("joined".to_owned(), n as u64 + 1);
        assert_eq!(notice_of(&mut watcher, client), told);
    }
    cluster[2].pause();
    leave(&mut ann[0]);
    let told = ("left".to_owned(), 1);
    assert_eq!(notice_of(&mut watcher, &ann[0]), told);

    // Nobody knows yet what it has for one who begins to watch now. What is told without it is corrected.
    let mut late = watcher_of(&cluster[1], "late");
    ann[0].ask_amid(&json!({"op": "join", "channel": "lobby"}));
    assert_eq!(notice_of(&mut late, &ann[0]), ("joined".to_owned(), 1));
    cluster[2].resume();
    while counts(&mut late)["count"] != 4 {}
}

fn watcher_of(node: &Node, user: &str) -> Client {
    let mut watcher = node.user(user);
    watcher.ask_amid(&json!({"op": "join", "channel": "lobby", "members": true}));
    watcher
}

#[test]
fn a_counted_channel_costs_each_node_one_message_a_second() {
    let counted = |settings: Settings| settings.with("FANFARE_LIMIT_PRESENCE_NOTICES", "0");
    let cluster = Cluster::of(3, counted, |_| {});
    let mut watchers: Vec<Client> = cluster
        .nodes
        .iter()
        .map(|node| watcher(node, "watcher"))
        .collect();
    let mut others = cluster.users();
    let mut seconds = 0;
    let (messages, _) = tapped(&cluster, || {
        let began = Instant::now();
        for _ in 0..30 {
            for client in &mut others {
                client.ask_amid(&json!({"op": "join", "channel": "lobby"}));
                leave(client);
            }
            thread::sleep(Duration::from_millis(50));
        }
        for client in &mut others {
            client.ask_amid(&json!({"op": "join", "channel": "lobby"}));
        }
        for watcher in &mut watchers {
            // The watchers are one user.
            while counts(watcher)["users"] != 4 {}
        }
        seconds = began.elapsed().as_secs() as usize;
    });
    let watch = |(at, _): &&Message| at.ends_with(":watch:lobby");
    let told = messages.iter().filter(watch).count();
    assert_eq!(told, messages.len(), "{messages:?}");
    assert!(told <= 3 * (seconds + 2), "{told} in {seconds} s");
}

#[test]
fn of_a_channel_that_shows_no_members_nothing_is_published() {
    let cluster = Cluster::start_with(
        |settings| settings,
        |config| {
            let hidden = ChannelRule {
                presence: Presence::Off,
                ..ChannelRule::new("hidden", 0)
            };
            let app = config.apps.values_mut().next().unwrap();
            app.channels.insert(0, hidden);
        },
    );
    let mut watcher = watcher(&cluster[0], "watcher");
    let mut ann = cluster[1].user("ann");
    let (messages, _) = tapped(&cluster, || {
        ann.join("hidden");
        ann.join("lobby");
        assert_eq!(notice_of(&mut watcher, &ann), ("joined".to_owned(), 1));
    });
    // What the watcher's own join said may come as late as this.
    let about = messages.iter().filter(|(_, text)| text.contains(&ann.id));
    let about: Vec<_> = about.map(|(at, _)| at).collect();
    assert_eq!(about.len(), 1, "{about:?}");
}

#[test]
fn a_page_of_members_asks_nodes_that_have_some_and_lists_name_nobody() {
    let cluster = Cluster::of(5, |settings| settings, |_| {});
    let mut members: Vec<Client> = (0..6)
        .map(|n| cluster[1 + n % 2].user(&format!("somebody-{n}")))
        .collect();
    for member in &mut members {
        member.join("lobby");
    }
    let (messages, _) = tapped(&cluster, || {
        let page = cluster[0].look("/v1/channels/lobby/members");
        assert_eq!(page["members"].as_array().unwrap().len(), 6, "{page}");
        assert_eq!((&page["count"], &page["users"]), (&json!(6), &json!(6)));
    });
    assert_eq!(requests(&messages, "count").len(), 1);
    assert_eq!(requests(&messages, "members").len(), 2, "{messages:?}");

    // One that watches knows how many each has.
    let mut watcher = watcher(&cluster[3], "watcher");
    let (messages, _) = tapped(&cluster, || {
        let ask = json!({"op": "members", "channel": "lobby", "limit": 2});
        let (_, page) = watcher.ask_amid(&ask);
        assert_eq!(page["members"].as_array().unwrap().len(), 2, "{page}");
        assert_eq!(page["count"], 7, "{page}");
    });
    assert!(requests(&messages, "count").is_empty());
    assert!(requests(&messages, "members").len() <= 1, "{messages:?}");

    let (messages, _) = tapped(&cluster, || {
        let list = cluster[0].look("/v1/channels");
        assert_eq!(list["channels"][0]["connections"], 7, "{list}");
    });
    let names = |(_, text): &&Message| text.contains("somebody");
    assert_eq!(messages.iter().find(names), None);
}

#[test]
fn nodes_that_are_gone_are_not_asked_for_members() {
    let long = |settings: Settings| settings.with("FANFARE_LIMIT_NODE_LEASE", "60s");
    let mut cluster = Cluster::apart_set(long);
    let mut ann = cluster[0].user("ann");
    ann.join("lobby");
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let late = |n| cluster[0].user(&format!("late-{n}"));
    let mut late: Vec<Client> = (0..3).map(late).collect();
    let (messages, _) = tapped(&cluster, || {
        let ask = json!({"op": "join", "channel": "lobby", "members": true});
        for (n, late) in late.iter_mut().enumerate() {
            let (_, ack) = late.ask_amid(&ask);
            assert_eq!(ack["members"].as_array().unwrap().len(), n + 2, "{ack}");
        }
    });
    assert!(requests(&messages, "members").is_empty(), "{messages:?}");
}

#[test]
fn nodes_of_the_version_before_hear_and_are_heard() {
    let cluster = Cluster::start();
    let mut watcher = watcher(&cluster[0], "watcher");
    let old = cluster[2].user("old");
    // As a node says it that knows nothing of watchers' topics.
    let told = json!({"kind": "joined", "id": old.id, "user": "old", "tally": 2});
    let notices = json!({"origin": 5, "app": "default", "channel": "lobby", "members": [told]});
    let publish = |notices: &Value| {
        let message = [&[1, 5], notices.to_string().as_bytes()].concat();
        let mut redis = Resp::connect(cluster.redis.address()).unwrap();
        redis
            .call_bytes(&[b"PUBLISH", b"fanfare:tests:default:channel:lobby", &message])
            .unwrap();
    };
    publish(&notices);
    assert_eq!(notice_of(&mut watcher, &old), ("joined".to_owned(), 2));

    // While there is one, others say it as it expects.
    let leases = ["ZRANGE", "fanfare:tests::nodes.leases", "0", "-1"];
    let leases = cluster.redis.call(&leases).unwrap();
    let [one, other] = [0, 1].map(|at| leases.items()[at].text());
    let before = format!("{}{} before", &one[..3], &other[3..7]);
    let add = [
        "ZADD",
        "fanfare:tests::nodes.leases",
        "99999999999999",
        &before,
    ];
    cluster.redis.call(&add).unwrap();
    let knows = |node: &Node| node.count("fanfare_peers", "") == 3;
    eventually("it is known", || cluster.nodes.iter().all(knows));
    let mut ann = cluster[1].user("ann");
    let (messages, _) = tapped(&cluster, || {
        ann.join("lobby");
        assert_eq!(notice_of(&mut watcher, &ann), ("joined".to_owned(), 1));
    });
    let about_ann =
        |(at, text): &&Message| text.contains(&ann.id) && at.ends_with(":channel:lobby");
    assert_eq!(messages.iter().filter(about_ann).count(), 1, "{messages:?}");
    let of_ann = |told: &Value| told["member"]["id"] == ann.id;
    assert!(!watcher.pending().iter().any(of_ann), "it is told once");
}

#[test]
fn only_nodes_with_watchers_listen_to_notices() {
    let cluster = Cluster::start();
    let topic = ["PUBSUB", "NUMSUB", "fanfare:tests:default:watch:lobby"];
    let listening = || cluster.redis.call(&topic).unwrap().items()[1].number();
    let mut member = cluster[1].user("member");
    member.join("lobby");
    assert_eq!(listening(), Some(0));
    let mut watchers = [0, 2].map(|at| watcher(&cluster[at], "watcher"));
    assert_eq!(listening(), Some(2));
    for watcher in &mut watchers {
        leave(watcher);
    }
    eventually("nobody listens", || listening() == Some(0));
}
