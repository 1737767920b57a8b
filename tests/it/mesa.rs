//! Clients of Mesa beside native ones, on one node without Redis.

use std::time::Duration;

use fanfare::{Call, ProtocolKind, ServerBuilder, config::ClientAuth};
use serde_json::{Value, json};

use crate::support::*;

fn server_with_mesa() -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::Mesa);
        app.client_auth = Some(ClientAuth::Optional);
    })
}

/// A client that has had its hello.
fn connect(server: &TestServer, query: &str) -> Client {
    let mut client = Client::open(server.address(), &format!("/mesa{query}"), &[]).unwrap();
    assert_eq!(client.json()["op"], 10);
    client
}

fn authenticate(client: &mut Client, token: &str) {
    client.send(&json!({"op": 2, "d": {"token": token, "shouldSync": true}}));
}

#[test]
fn what_a_client_says_is_a_call_of_a_function() {
    let config = {
        let mut config = config();
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::Mesa);
        app.client_auth = Some(ClientAuth::Optional);
        config
    };
    let (sender, calls) = std::sync::mpsc::sync_channel(1);
    let builder = ServerBuilder::from(config).on_call("STATUS_UPDATE", move |call: Call| {
        let user = call.user().map(ToString::to_string);
        let heard = (user, call.parse::<Value>().unwrap());
        sender.send(heard).unwrap();
        async move { Ok(()) }
    });
    let server = TestServer(builder.start().expect("the server starts"));
    let mut client = connect(&server, "");
    authenticate(&mut client, &server.token("ann", &json!({})));
    assert_eq!(client.json()["op"], 22);
    client.send(&json!({"op": 0, "d": {"status": "online"}, "t": "STATUS_UPDATE"}));
    let heard = calls.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(heard, (Some("ann".to_owned()), json!({"status": "online"})));
    client.expect_nothing();
}

#[test]
fn the_token_may_come_with_the_handshake() {
    let server = server_with_mesa();
    let token = server.token("ann", &json!({"name": "Ann"}));
    let mut client = connect(&server, &format!("?token={token}"));
    server.call("/v1/publish", &json!({"user": "ann", "event": "e"}));
    assert_eq!(client.json()["t"], "e");
    authenticate(&mut client, &token);
    let answer = client.json();
    assert_eq!(
        (&answer["op"], &answer["d"]["id"], &answer["d"]["name"]),
        (&json!(22), &json!("ann"), &json!("Ann"))
    );
    let mut bad = connect(&server, "?token=nonsense");
    assert_eq!(bad.closed(), 1008);
}

#[test]
fn a_bad_token_closes_whoever_brings_it() {
    let server = server_with_mesa();
    let mut client = connect(&server, "");
    authenticate(&mut client, &server.token("ann", &json!({})));
    assert_eq!(client.json()["op"], 22);
    authenticate(&mut client, &server.token("ann", &json!({})));
    assert_eq!(client.json()["op"], 22, "it is renewed");
    authenticate(&mut client, "nonsense");
    assert_eq!(client.closed(), 1008);
}

#[test]
fn malformed_messages_end_at_most_their_connection() {
    let server = server_with_mesa();
    let mut other = connect(&server, "");
    for bad in [
        &b""[..],
        b"{",
        b"null",
        b"[]",
        b"{}",
        br#"{"op":"0"}"#,
        br#"{"op":4294967296}"#,
        br#"{"op":2,"d":[]}"#,
        br#"{"op":2,"d":{"token":{}}}"#,
        br#"{"op":0,"t":{}}"#,
        b"\xff",
    ] {
        let mut client = connect(&server, "");
        for _ in 0..12 {
            client.frame(0x81, bad);
        }
        let code = client.closed();
        assert!([1006, 1007, 1008].contains(&code), "{bad:?}: {code}");
    }
    server.call("/v1/broadcast", &json!({"event": "e"}));
    assert_eq!(other.json()["t"], "e");
}

#[test]
fn an_event_is_written_once_for_all_clients_of_mesa() {
    let server = server_with_mesa();
    let mut clients: Vec<Client> = (0..20).map(|_| connect(&server, "")).collect();
    let mut native = server.connect("");
    for n in 0..10 {
        server.call("/v1/broadcast", &json!({"event": "e", "data": n}));
    }
    for client in &mut clients {
        for n in 0..10 {
            assert_eq!(client.text(), format!(r#"{{"op":0,"d":{n},"t":"e"}}"#));
        }
    }
    for n in 0..10 {
        assert_eq!(native.json()["data"], n);
    }
    assert_eq!(server.count("fanfare_encodings_total", ""), 20);
    assert_eq!(server.count("fanfare_deliveries_total", ""), 210);
}
