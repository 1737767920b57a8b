//! Members of a channel are told of members on other nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Settings},
    support::{Client, eventually},
};

/// The next notice: its kind, whom it is about, and how many connections the user has there.
fn notice(client: &mut Client) -> (String, String, u64) {
    let notice = client.json();
    assert_eq!(
        (&notice["op"], &notice["channel"]),
        (&json!("member"), &json!("lobby")),
        "{notice}"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&notice["kind"]),
        text(&notice["member"]["id"]),
        notice["user_connections"].as_u64().unwrap(),
    )
}

/// The next notice about `of`. One that was on the page already may be told once more before it.
fn notice_of(client: &mut Client, of: &Client) -> (String, String, u64) {
    std::iter::repeat_with(|| notice(client))
        .find(|(_, id, _)| *id == of.id)
        .unwrap()
}

fn told(kind: &str, of: &Client, user_connections: u64) -> (String, String, u64) {
    (kind.to_owned(), of.id.clone(), user_connections)
}

/// A client that is told who comes and goes.
fn watcher(cluster: &Cluster, at: usize) -> Client {
    let mut watcher = cluster[at].user(&format!("watcher-{at}"));
    watcher.watch("lobby");
    watcher
}

fn leave(client: &mut Client) {
    client.acked(&json!({"op": "leave", "channel": "lobby"}));
}

#[test]
fn joined_updated_and_left_are_told_on_every_node() {
    let cluster = Cluster::start();
    let mut first = watcher(&cluster, 0);
    let mut second = watcher(&cluster, 1);
    assert_eq!(notice_of(&mut first, &second), told("joined", &second, 1));
    let mut ann = cluster[2].user("ann");
    ann.join("lobby");
    for watcher in [&mut first, &mut second] {
        assert_eq!(notice_of(watcher, &ann), told("joined", &ann, 1));
    }
    ann.acked(&json!({"op": "update", "data": {"status": "away"}}));
    for watcher in [&mut first, &mut second] {
        let updated = watcher.json();
        let member = json!({"id": ann.id, "user": "ann", "data": {"status": "away"}});
        assert_eq!(
            (&updated["kind"], &updated["member"]),
            (&json!("updated"), &member),
            "{updated}"
        );
    }
    leave(&mut ann);
    for watcher in [&mut first, &mut second] {
        assert_eq!(notice(watcher), told("left", &ann, 0));
        watcher.expect_nothing();
    }
}

#[test]
fn the_connections_of_a_user_are_counted_over_all_nodes() {
    let cluster = Cluster::start();
    let mut watcher = watcher(&cluster, 0);
    let mut same: Vec<Client> = cluster.nodes.iter().map(|node| node.user("ann")).collect();
    for (before, client) in same.iter_mut().enumerate() {
        client.join("lobby");
        assert_eq!(
            notice(&mut watcher),
            told("joined", client, before as u64 + 1)
        );
    }
    for (before, client) in same.iter_mut().enumerate() {
        leave(client);
        assert_eq!(
            notice(&mut watcher),
            told("left", client, 2 - before as u64)
        );
    }
    watcher.expect_nothing();
}

#[test]
fn a_connection_that_closes_is_told_at_once_and_one_that_is_lost_after_the_window() {
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_LIMIT_RESUME_WINDOW", "1s"),
        |_| {},
    );
    let mut watcher = watcher(&cluster, 0);
    let mut ends = [cluster[1].user("ann"), cluster[2].user("bob")];
    for client in &mut ends {
        client.join("lobby");
        assert_eq!(notice(&mut watcher), told("joined", client, 1));
    }
    let [mut ann, bob] = ends;
    ann.frame(0x88, &1000u16.to_be_bytes());
    assert_eq!(notice(&mut watcher), told("left", &ann, 0));
    let left = told("left", &bob, 0);
    drop(bob);
    assert_eq!(notice(&mut watcher), left);
    watcher.expect_nothing();
}

#[test]
fn a_first_page_and_the_notices_behind_it_are_one_whole() {
    let by_name = |settings: Settings| settings.with("FANFARE_LIMIT_PRESENCE_NOTICES", "10000");
    let cluster = Cluster::start_with(by_name, |_| {});
    // Whoever leaves and joins again meanwhile is there in the end; whoever only leaves is not.
    let mut stay: Vec<Client> = (0..6)
        .map(|n| cluster[n % 3].user(&format!("stay-{n}")))
        .collect();
    let mut go: Vec<Client> = (0..6)
        .map(|n| cluster[n % 3].user(&format!("go-{n}")))
        .collect();
    for client in &mut go {
        client.join("lobby");
    }
    let there: BTreeSet<String> = stay.iter().map(|client| client.id.clone()).collect();
    for round in 0..5 {
        let late = std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                stay.iter_mut().zip(&mut go).for_each(|(stay, go)| {
                    stay.join("lobby");
                    leave(go);
                });
            });
            let mut late = cluster[round % 3].user("late");
            let ack = late.watch("lobby");
            let mut known: BTreeSet<String> = page(&ack).filter(|id| *id != late.id).collect();
            changing.join().unwrap();
            while known != there {
                let (kind, id, _) = notice(&mut late);
                // Who is on the page may be told to have joined once more.
                match kind.as_str() {
                    "joined" => known.insert(id),
                    _ => known.remove(&id),
                };
            }
            late
        });
        drop(late);
        stay.iter_mut().for_each(leave);
        for client in &mut go {
            client.join("lobby");
        }
        eventually("all know who is there", || {
            cluster.nodes.iter().all(|node| {
                let members: BTreeSet<String> =
                    page(&node.look("/v1/channels/lobby/members")).collect();
                go.iter().all(|client| members.contains(&client.id)) && members.is_disjoint(&there)
            })
        });
    }
}

/// The ids on a page.
fn page(page: &Value) -> impl Iterator<Item = String> {
    page["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["id"].as_str().unwrap().to_owned())
}

#[test]
fn whoever_may_have_missed_notices_is_told_to_look_again() {
    let cluster = Cluster::start();
    let mut watcher = watcher(&cluster, 0);
    let mut ann = cluster[1].user("ann");
    ann.join("lobby");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    assert!(
        cluster.redis.kill_clients("pubsub").unwrap() >= 3,
        "each node has one"
    );
    // A node that listens again later is counted later.
    loop {
        let told = watcher.json();
        assert_eq!(
            (&told["op"], &told["channel"]),
            (&json!("members"), &json!("lobby")),
            "{told}"
        );
        if told["count"] == 2 {
            break;
        }
    }
    let (_, page) = watcher.ask_amid(&json!({"op": "members", "channel": "lobby"}));
    assert_eq!(page["members"].as_array().unwrap().len(), 2, "{page}");
}

#[test]
fn what_could_not_be_published_is_told_when_redis_takes_messages_again() {
    let cluster = Cluster::start();
    let mut watcher = watcher(&cluster, 0);
    for round in 0..5 {
        let mut bob = cluster[1].user("bob");
        bob.join("lobby");
        while notice_or_count(&mut watcher, &bob) != Some(("joined", 2)) {}
        // Only connections for commands: nobody is told that messages may have been missed.
        cluster.redis.kill_clients("normal").unwrap();
        leave(&mut bob);
        while notice_or_count(&mut watcher, &bob) != Some(("left", 1)) {}
        eventually(&format!("round {round}: all nodes are back"), || {
            cluster.nodes.iter().all(crate::cluster::Node::is_ready)
        });
    }
}

/// What the next message tells of `of` in a channel of two at most: that it has come or gone, or how many there are.
fn notice_or_count(client: &mut Client, of: &Client) -> Option<(&'static str, u64)> {
    let told = client.json();
    match (told["op"].as_str(), told["kind"].as_str()) {
        (Some("members"), _) if told["count"] == 2 => Some(("joined", 2)),
        (Some("members"), _) => Some(("left", 1)),
        (_, Some("joined")) if told["member"]["id"] == of.id => Some(("joined", 2)),
        (_, Some("left")) if told["member"]["id"] == of.id => Some(("left", 1)),
        _ => None,
    }
}
