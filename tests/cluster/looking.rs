//! Who is there, asked of any node: the whole cluster answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, encoded},
    support::{Client, eventually},
};

/// All pages of a list, each of at most `limit`: what each item of `list` says of itself by `name`.
fn pages(node: &Node, path: &str, list: &str, name: &str, limit: usize) -> Vec<String> {
    let join = if path.contains('?') { '&' } else { '?' };
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = node.look(&format!("{path}{join}limit={limit}{cursor}"));
        let items = page[list].as_array().unwrap_or_else(|| panic!("{page}"));
        assert!(items.len() <= limit, "{page}");
        all.extend(
            items
                .iter()
                .map(|item| item[name].as_str().unwrap().to_owned()),
        );
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => return all,
        }
        assert!(all.len() < 10_000, "the pages never end");
    }
}

/// Expects that every node lists exactly `expected`, however long its pages are.
fn expect_pages(
    cluster: &Cluster,
    (path, list, name): (&str, &str, &str),
    expected: &BTreeSet<String>,
) {
    for node in &cluster.nodes {
        for limit in [1, 4, 1000] {
            let mut listed = Vec::new();
            eventually(
                &format!("{path} by {limit} has {expected:?}, not {listed:?}"),
                || {
                    listed = pages(node, path, list, name, limit);
                    listed.iter().cloned().collect::<BTreeSet<_>>() == *expected
                },
            );
            assert_eq!(listed.len(), expected.len(), "each once: {listed:?}");
        }
    }
}

fn ids(clients: &[Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.id.clone()).collect()
}

#[test]
fn every_node_lists_the_members_of_all() {
    let cluster = Cluster::start();
    let mut members = cluster.members("lobby");
    members.extend(cluster.members("lobby"));
    members.push(cluster[1].connect("channel=lobby"));
    members[0].acked(&json!({"op": "update", "data": {"status": "Available"}}));
    expect_pages(
        &cluster,
        ("/v1/channels/lobby/members", "members", "id"),
        &ids(&members),
    );
    for node in &cluster.nodes {
        eventually("the profile is shown", || {
            let page = node.look("/v1/channels/lobby/members");
            assert_eq!(
                (&page["count"], &page["users"]),
                (&json!(7), &json!(3)),
                "{page}"
            );
            let listed = page["members"].as_array().unwrap();
            let of = |id: &str| {
                listed
                    .iter()
                    .find(|member| member["id"] == id)
                    .cloned()
                    .unwrap()
            };
            assert_eq!(
                of(&members[6].id),
                json!({"id": members[6].id, "user": null})
            );
            of(&members[0].id)
                == json!({"id": members[0].id, "user": "u0", "data": {"status": "Available"}})
        });
    }
}

#[test]
fn members_that_leave_or_end_are_not_listed_any_more() {
    let cluster = Cluster::start();
    let mut members = cluster.members("lobby");
    expect_pages(
        &cluster,
        ("/v1/channels/lobby/members", "members", "id"),
        &ids(&members),
    );
    members[0].acked(&json!({"op": "leave", "channel": "lobby"}));
    members[1].frame(0x88, &1000u16.to_be_bytes());
    assert_eq!(members[1].closed(), 1000);
    expect_pages(
        &cluster,
        ("/v1/channels/lobby/members", "members", "id"),
        &ids(&members[2..]),
    );
}

#[test]
fn a_client_is_shown_the_members_of_all_nodes() {
    let cluster = Cluster::start();
    let mut members = cluster.members("lobby");
    expect_pages(
        &cluster,
        ("/v1/channels/lobby/members", "members", "id"),
        &ids(&members),
    );
    let of = |answer: &Value| {
        let listed = answer["members"]
            .as_array()
            .unwrap_or_else(|| panic!("{answer}"));
        listed
            .iter()
            .map(|member| member["id"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let mut late = cluster[2].user("late");
    let ack = late.watch("lobby");
    members.push(late);
    assert_eq!(
        (of(&ack), &ack["count"], &ack["users"]),
        (ids(&members), &json!(4), &json!(4)),
        "{ack}"
    );
    let page = members[0].acked(&json!({"op": "members", "channel": "lobby"}));
    assert_eq!(
        (of(&page), &page["count"]),
        (ids(&members), &json!(4)),
        "{page}"
    );
}

#[test]
fn channels_are_counted_over_all_nodes() {
    let cluster = Cluster::start();
    let mut users = cluster.members("lobby");
    let mut twin = cluster[1].user("u0");
    twin.join("lobby");
    for (at, user) in users.iter_mut().enumerate() {
        user.join(&format!("own-{at}"));
    }
    let expected = json!({"channel": "lobby", "connections": 4, "users": 3});
    for node in &cluster.nodes {
        eventually("the channel is counted", || {
            node.look("/v1/channels/lobby") == expected
        });
        let listed = || node.look("/v1/channels?prefix=lob")["channels"].clone();
        // A list names nobody, so that a user counts once for each node.
        let counted = json!({"channel": "lobby", "connections": 4, "users": 4});
        eventually("it is listed so", || listed() == json!([counted]));
        let none = json!({"channel": "nobody", "connections": 0, "users": 0});
        assert_eq!(node.look("/v1/channels/nobody"), none);
    }
    let names = ["lobby", "own-0", "own-1", "own-2"]
        .map(str::to_owned)
        .into();
    expect_pages(&cluster, ("/v1/channels", "channels", "channel"), &names);
    let owned = names
        .iter()
        .filter(|name| name.starts_with("own-"))
        .cloned()
        .collect();
    expect_pages(
        &cluster,
        ("/v1/channels?prefix=own-", "channels", "channel"),
        &owned,
    );
    assert!(
        pages(&cluster[0], "/v1/channels", "channels", "channel", 1).is_sorted(),
        "in the order of names"
    );
}

#[test]
fn a_user_is_online_wherever_its_connections_are() {
    let cluster = Cluster::start();
    let users = [
        cluster[0].user("ann"),
        cluster[1].user("ann"),
        cluster[1].user("é/ü"),
    ];
    for node in &cluster.nodes {
        for (user, connections) in [("ann", 2), ("é/ü", 1), ("nobody", 0)] {
            let path = format!("/v1/users/{}", encoded(user));
            let expected = json!({"online": connections > 0, "connections": connections});
            eventually(&format!("{user} has {connections}"), || {
                node.look(&path) == expected
            });
        }
    }
    drop(users);
    for node in &cluster.nodes {
        let gone = json!({"online": false, "connections": 0});
        eventually("ann is gone", || node.look("/v1/users/ann") == gone);
    }
}

#[test]
fn connections_of_all_nodes_are_listed_and_filtered() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    clients.extend(cluster.nodes.iter().map(|node| node.connect("")));
    expect_pages(
        &cluster,
        ("/v1/connections", "connections", "id"),
        &ids(&clients),
    );
    let filter = format!("/v1/connections?filter={}", encoded("user != null"));
    expect_pages(
        &cluster,
        (&filter, "connections", "id"),
        &ids(&clients[..3]),
    );
}

#[test]
fn a_connection_is_shown_by_every_node() {
    let cluster = Cluster::start();
    let mut client = cluster[1].user_with("ann", &json!({"plan": "free"}), "device=d1");
    client.join("lobby");
    let path = format!("/v1/connections/{}", client.id);
    let own = cluster[1].look(&path);
    assert_eq!(
        (&own["user"], &own["channels"]),
        (&json!("ann"), &json!(["lobby"])),
        "{own}"
    );
    for node in &cluster.nodes {
        assert_eq!(node.look(&path), own);
    }
    assert_eq!(cluster[0].get("/v1/connections/nobody").status, 404);
    drop(client);
    for node in &cluster.nodes {
        eventually("it is gone", || node.get(&path).status == 404);
    }
}
