//! What clients send reaches clients on other nodes, with who sent it.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, event, nothing_more},
    support::{Client, Received},
};

/// Expects the event `name` of `from` on each of `clients`.
fn expect(clients: &mut [Client], name: &str, from: &Value) {
    for client in clients {
        let got = event(client);
        assert_eq!((&got["event"], &got["from"]), (&json!(name), from), "{got}");
    }
}

#[test]
fn send_broadcast_and_publish_cross_nodes_with_their_sender() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    for by in 0..clients.len() {
        let from = json!({"connection": clients[by].id, "user": format!("u{by}")});
        for message in [
            json!({"op": "send", "channel": "lobby", "event": "e"}),
            json!({"op": "broadcast", "event": "e"}),
            json!({"op": "publish", "users": ["u0", "u1", "u2"], "event": "e"}),
        ] {
            // Its own copy may come before the ack.
            let (mut own, ack) = clients[by].ask_amid(&message);
            assert_eq!(ack["op"], "ack", "{ack}");
            if own.is_empty() {
                own.push(event(&mut clients[by]));
            }
            assert_eq!((own.len(), &own[0]["from"]), (1, &from), "{own:?}");
            let (before, rest) = clients.split_at_mut(by);
            expect(before, "e", &from);
            expect(&mut rest[1..], "e", &from);
        }
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn without_echo_only_the_sending_connection_is_left_out() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let mut twin = cluster[2].user("u0");
    twin.join("lobby");
    clients.push(twin);
    let from = json!({"connection": clients[0].id, "user": "u0"});
    clients[0].acked(&json!({"op": "send", "channel": "lobby", "event": "e", "echo": false}));
    clients[0].acked(&json!({"op": "broadcast", "event": "b", "echo": false}));
    for name in ["e", "b"] {
        expect(&mut clients[1..], name, &from);
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn whom_a_client_excepts_gets_nothing_on_any_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let except = json!({"users": ["u1"], "connections": [clients[0].id]});
    let (own, _) = clients[0]
        .ask_amid(&json!({"op": "send", "channel": "lobby", "event": "e", "except": except}));
    assert_eq!(own, Vec::<Value>::new());
    assert_eq!(event(&mut clients[2])["event"], "e");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn bytes_of_a_client_cross_nodes() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let header = json!({"op": "send", "channel": "lobby", "event": "e", "echo": false}).to_string();
    let mut message = vec![1];
    message.extend((header.len() as u16).to_be_bytes());
    message.extend(header.as_bytes());
    message.extend([0, 159, 255]);
    clients[0].frame(0x82, &message);
    for client in &mut clients[1..] {
        let Received::Binary(bytes) = client.message() else {
            panic!("expected bytes")
        };
        assert!(bytes.ends_with(&[0, 159, 255]), "{bytes:?}");
    }
}

#[test]
fn what_a_client_sends_one_after_another_arrives_in_that_order_on_other_nodes() {
    let cluster = Cluster::start();
    let mut ann = cluster[0].user("ann");
    let mut bob = cluster[1].user("bob");
    bob.join("lobby");
    for n in 0..300 {
        ann.send(&match n % 3 {
            0 => json!({"op": "send", "channel": "lobby", "event": "e", "data": n}),
            1 => json!({"op": "publish", "users": ["bob"], "event": "e", "data": n}),
            _ => json!({"op": "broadcast", "event": "e", "data": n, "echo": false}),
        });
    }
    for n in 0..300 {
        assert_eq!(event(&mut bob)["data"], n);
    }
}
