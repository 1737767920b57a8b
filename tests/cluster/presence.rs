//! Members of a channel are told of members on other nodes.

use serde_json::{Value, json};

use crate::{cluster::Cluster, support::Client};

/// The next notice: its kind, whom it is about, and how many connections the user has there.
fn notice(client: &mut Client) -> (String, String, u64) {
    let notice = client.json();
    assert_eq!((&notice["op"], &notice["channel"]), (&json!("member"), &json!("lobby")), "{notice}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&notice["kind"]), text(&notice["member"]["id"]), notice["user_connections"].as_u64().unwrap())
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
    assert_eq!(notice(&mut first), told("joined", &second, 1));
    let mut ann = cluster[2].user("ann");
    ann.join("lobby");
    for watcher in [&mut first, &mut second] {
        assert_eq!(notice(watcher), told("joined", &ann, 1));
    }
    ann.acked(&json!({"op": "update", "data": {"status": "away"}}));
    for watcher in [&mut first, &mut second] {
        let updated = watcher.json();
        let member = json!({"id": ann.id, "user": "ann", "data": {"status": "away"}});
        assert_eq!((&updated["kind"], &updated["member"]), (&json!("updated"), &member), "{updated}");
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
        assert_eq!(notice(&mut watcher), told("joined", client, before as u64 + 1));
    }
    for (before, client) in same.iter_mut().enumerate() {
        leave(client);
        assert_eq!(notice(&mut watcher), told("left", client, 2 - before as u64));
    }
    watcher.expect_nothing();
}

#[test]
fn a_connection_that_closes_is_told_at_once_and_one_that_is_lost_after_the_window() {
    let cluster = Cluster::start_with(|settings| settings.with("FANFARE_LIMIT_RESUME_WINDOW", "1s"), |_| {});
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
