//! Clients of Zexcore RTM on several nodes, with native ones in the same room.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node},
    support::{Client, signed},
};

fn entered(node: &Node, user: &str) -> Client {
    let mut client = Client::open(node.address(), "/rtm", &[]).unwrap();
    let token = signed(&json!({"sub": user}));
    let told = request(&mut client, &json!({"type": "auth", "data": [token]}));
    assert_eq!(told["user"], user, "{told}");
    client
}

/// Sends a request and returns the `data` of its answer.
fn request(client: &mut Client, fields: &Value) -> Value {
    let mut message = fields.clone();
    message["id"] = json!("asked");
    client.send(&message);
    let answer = client.json();
    assert_eq!(answer["id"], "asked", "{answer}");
    answer["data"].clone()
}

#[test]
fn clients_of_both_protocols_on_all_nodes_share_a_room() {
    const EVENTS: u64 = 50;
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_PROTOCOL", "zexcore"),
        |_| {},
    );
    let mut natives: Vec<Client> = (0..3)
        .map(|n| cluster[n].user(&format!("native{n}")))
        .collect();
    for native in &mut natives {
        native.join("room");
    }
    let mut others: Vec<Client> = (0..3)
        .map(|n| entered(&cluster[n], &format!("rtm{n}")))
        .collect();
    for other in &mut others {
        let subscribe = json!({"type": "subscribe", "event": "posted", "tags": ["room"]});
        assert_eq!(request(other, &subscribe), true);
    }

    // From a function by one node, and from a native client on each other one.
    for n in 0..EVENTS {
        let sent = json!({"channel": "room", "event": "posted", "data": n});
        if n % 2 == 0 {
            cluster[0].call("/v1/send", &sent);
        } else {
            let mut message = sent.clone();
            message["op"] = json!("send");
            message["echo"] = json!(false);
            natives[1].acked(&message);
        }
        for other in &mut others {
            assert_eq!(other.json(), json!({"event": "posted", "data": [n]}));
        }
        for (at, native) in natives.iter_mut().enumerate() {
            if n % 2 == 0 || at != 1 {
                assert_eq!(native.json()["data"], n);
            }
        }
    }

    // By user, and by a filter, from another node than that of the client.
    for (n, other) in others.iter_mut().enumerate() {
        let from = &cluster[(n + 1) % 3];
        from.call(
            "/v1/publish",
            &json!({"user": format!("rtm{n}"), "event": "dm", "data": [n, "x"], "store": false}),
        );
        assert_eq!(other.json(), json!({"event": "dm", "data": [n, "x"]}));
    }
    let filter = "connection.protocol == \"zexcore\"";
    cluster[2].call("/v1/emit", &json!({"event": "all", "filter": filter}));
    for other in &mut others {
        assert_eq!(other.json(), json!({"event": "all", "data": [null]}));
    }
    for native in &mut natives {
        native.expect_nothing();
    }
}

#[test]
fn what_was_stored_for_a_user_comes_with_its_auth() {
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_PROTOCOL", "zexcore"),
        |_| {},
    );
    for n in 0..5 {
        let publish = json!({"user": "ann", "event": "dm", "data": n});
        assert_eq!(cluster[0].call("/v1/publish", &publish)["stored"], 1);
    }
    let mut client = Client::open(cluster[1].address(), "/rtm", &[]).unwrap();
    let token = signed(&json!({"sub": "ann"}));
    client.send(&json!({"id": 1, "type": "auth", "data": [token]}));
    let (mut events, mut answers) = (Vec::new(), 0);
    while events.len() < 5 || answers < 1 {
        let message = client.json();
        if message["event"] == "dm" {
            events.push(message["data"].clone());
        } else {
            assert_eq!(message["data"]["user"], "ann", "{message}");
            answers += 1;
        }
    }
    assert_eq!(events, (0..5).map(|n| json!([n])).collect::<Vec<_>>());
    client.expect_nothing();
}
