//! Connections are closed and put into channels from any node.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, all_get, nothing_more},
    support::{Client, Received, eventually},
};

fn expect_closed(client: &mut Client, code: u16, reason: &str) {
    assert_eq!(client.message(), Received::Close(code, reason.to_owned()));
}

#[test]
fn connections_on_all_nodes_are_closed_by_user() {
    let cluster = Cluster::start();
    let mut same: Vec<Client> = cluster.nodes.iter().map(|node| node.user("ann")).collect();
    let mut others = cluster.users();
    let body = json!({"to": {"users": ["ann"]}, "code": 4010, "reason": "signed out"});
    assert_eq!(
        cluster[1].call("/v1/disconnect", &body),
        json!({"disconnected": 3})
    );
    for client in &mut same {
        expect_closed(client, 4010, "signed out");
    }
    nothing_more(&cluster[0], &mut others);
}

#[test]
fn connections_on_all_nodes_are_closed_by_filter_channel_and_id() {
    let cluster = Cluster::start();
    let calls: [fn(&[Client]) -> Value; 3] = [
        |_| json!({"filter": "user in params.them", "params": {"them": ["u0", "u2"]}}),
        |_| json!({"to": {"channels": ["lobby"]}, "except": {"users": ["u1"]}}),
        |clients| json!({"to": {"connections": [clients[0].id, clients[2].id]}, "code": 3001, "reason": "why"}),
    ];
    for (at, body) in calls.iter().enumerate() {
        let mut clients = cluster.members("lobby");
        assert_eq!(
            cluster[at].call("/v1/disconnect", &body(&clients)),
            json!({"disconnected": 2})
        );
        let (code, reason) = if at == 2 {
            (3001, "why")
        } else {
            (4010, "disconnected")
        };
        expect_closed(&mut clients[0], code, reason);
        expect_closed(&mut clients[2], code, reason);
        nothing_more(&cluster[0], &mut clients[1..2]);
        drop(clients);
        eventually("all are gone", || {
            cluster[0].look("/v1/channels/lobby")["connections"] == 0
        });
    }
}

#[test]
fn what_was_sent_before_is_still_written() {
    let cluster = Cluster::start();
    let mut client = cluster[2].user("ann");
    cluster[0].call(
        "/v1/publish",
        &json!({"user": "ann", "event": "last", "store": false}),
    );
    cluster[0].call("/v1/disconnect", &json!({"to": {"users": ["ann"]}}));
    all_get(std::slice::from_mut(&mut client), "last");
    expect_closed(&mut client, 4010, "disconnected");
}

#[test]
fn connections_on_all_nodes_are_put_into_a_channel_and_out_of_it() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let users = json!({"users": ["u0", "u1", "u2"]});
    for node in &cluster.nodes {
        let put = json!({"channel": "lobby", "to": users});
        assert_eq!(
            node.call("/v1/join", &put),
            json!({"joined": 3, "already": 0, "full": 0})
        );
        for client in &mut clients {
            assert_eq!(client.json(), json!({"op": "joined", "channel": "lobby"}));
        }
        assert_eq!(
            node.call("/v1/join", &put),
            json!({"joined": 0, "already": 3, "full": 0})
        );
        cluster[0].call("/v1/send", &json!({"channel": "lobby", "event": "inside"}));
        all_get(&mut clients, "inside");
        assert_eq!(node.call("/v1/leave", &put), json!({"left": 3}));
        for client in &mut clients {
            assert_eq!(client.json(), json!({"op": "left", "channel": "lobby"}));
        }
        cluster[0].call("/v1/send", &json!({"channel": "lobby", "event": "outside"}));
        nothing_more(node, &mut clients);
    }
}

#[test]
fn who_is_put_into_a_channel_with_history_is_told_where_it_stands() {
    let cluster = Cluster::start();
    let mut client = cluster[1].user("ann");
    let receipt = cluster[0].call("/v1/send", &json!({"channel": "room", "event": "e"}));
    cluster[2].call(
        "/v1/join",
        &json!({"channel": "room", "filter": "user == 'ann'"}),
    );
    let joined = client.json();
    let place = &receipt["publications"][0];
    assert_eq!(
        (&joined["op"], &joined["channel"]),
        (&json!("joined"), &json!("room")),
        "{joined}"
    );
    assert_eq!(
        (&joined["epoch"], &joined["offset"]),
        (&place["epoch"], &place["offset"]),
        "{joined}"
    );
}
