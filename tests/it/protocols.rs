//! Clients of other protocols beside native ones: the same events, in their own form, under the same limits.

use std::time::Duration;

use crate::support::*;
use fanfare::{
    ProtocolKind,
    config::{AppConfig, ClientAuth, ClientKeyConfig, Config, UserEvents},
};
use serde_json::{Value, json};

fn server_with_rtm(change: impl FnOnce(&mut Config)) -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::Zexcore);
        change(config);
    })
}

/// A client of Zexcore RTM that is let in as `user`.
fn rtm(server: &TestServer, user: &str) -> Client {
    let mut client = Client::open(server.address(), "/rtm", &[]).unwrap();
    let token = server.token(user, &json!({}));
    client.send(&json!({"id": 1, "type": "auth", "data": [token]}));
    assert_eq!(client.json()["id"], 1);
    client
}

fn number(event: &Value) -> u64 {
    event["data"][0]["n"].as_u64().unwrap()
}

#[test]
fn an_event_is_written_once_for_all_clients_of_a_protocol() {
    const EVENTS: u64 = 50;
    let server = server_with_rtm(|_| {});
    let mut others: Vec<Client> = (0..20).map(|n| rtm(&server, &format!("u{n}"))).collect();
    let mut natives: Vec<Client> = (0..5).map(|_| server.connect("")).collect();
    for n in 1..=EVENTS {
        let receipt = server.call("/v1/emit", &json!({"event": "e", "data": {"n": n}}));
        assert_eq!(receipt["queued"], 25);
    }
    for client in &mut others {
        let seen: Vec<u64> = (0..EVENTS).map(|_| number(&client.json())).collect();
        assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
    }
    for client in &mut natives {
        let seen = (0..EVENTS).map(|_| client.json()["data"]["n"].as_u64().unwrap());
        assert_eq!(seen.collect::<Vec<_>>(), (1..=EVENTS).collect::<Vec<_>>());
    }
    assert_eq!(server.count("fanfare_encodings_total", ""), 2 * EVENTS);
    assert_eq!(server.count("fanfare_deliveries_total", ""), 25 * EVENTS);
}

#[test]
fn what_a_socket_refused_and_what_comes_behind_it_is_in_the_clients_form() {
    const EVENTS: u64 = 2000;
    let server = server_with_rtm(|config| {
        config.limits.send_buffer = 16 * 1024;
        config.limits.outbox_bytes = 64 << 20;
        config.limits.outbox_frames = 10_000;
    });
    let mut slow = rtm(&server, "ann");
    let room = |client: &Client, bytes| {
        let socket = socket2::SockRef::from(&client.socket);
        socket.set_recv_buffer_size(bytes).unwrap();
    };
    room(&slow, 4096);
    let padding = "x".repeat(2000);
    for n in 1..=EVENTS {
        let data = json!({"n": n, "padding": padding});
        server.call("/v1/emit", &json!({"event": "e", "data": data}));
    }
    assert_eq!(
        server.metric("fanfare_blocked_connections", ""),
        1.0,
        "the socket refuses"
    );
    room(&slow, 1 << 20);
    for n in 1..=EVENTS {
        let event = slow.json();
        assert_eq!((&event["event"], number(&event)), (&json!("e"), n));
    }
    assert_eq!(server.count("fanfare_deliveries_total", ""), EVENTS);
    assert_eq!(server.count("fanfare_drops_total", ""), 0);
}

#[test]
fn what_was_stored_for_a_user_comes_in_the_clients_form_and_is_confirmed() {
    const EVENTS: u64 = 300;
    let server = server_with_rtm(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.user_events = Some(UserEvents {
            size: 1000,
            bytes: 64 << 20,
            ttl: Duration::from_hours(1),
        });
    });
    for n in 1..=EVENTS {
        let event = json!({"user": "ann", "event": "e", "data": {"n": n}});
        assert_eq!(server.call("/v1/publish", &event)["stored"], 1);
    }
    let mut client = Client::open(server.address(), "/rtm", &[]).unwrap();
    let token = server.token("ann", &json!({}));
    client.send(&json!({"id": 1, "type": "auth", "data": [token]}));
    let (mut seen, mut is_answered) = (Vec::new(), false);
    while seen.len() < EVENTS as usize || !is_answered {
        let message = client.json();
        if message["event"].is_null() {
            is_answered = true;
        } else {
            seen.push(number(&message));
        }
    }
    assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
    client.expect_nothing();
    eventually("everything is confirmed", || {
        client.pending();
        server.count("fanfare_history_events", "") == 0
    });
}

#[test]
fn a_client_that_says_nothing_of_itself_is_closed_in_time() {
    let server = server_with_rtm(|config| {
        config.limits.auth = Duration::from_secs(1);
        let app = config.apps.values_mut().next().unwrap();
        app.client_auth = Some(ClientAuth::Required);
    });
    let mut client = Client::open(server.address(), "/rtm", &[]).unwrap();
    assert_eq!(client.closed(), 4001);
}

#[test]
fn a_path_is_served_only_if_it_is_configured_and_by_one_protocol() {
    let server = server();
    let refused = Client::open(server.address(), "/rtm", &[]).err().unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (404, "unknown_path")
    );

    let mut config = config();
    let app = config.apps.values_mut().next().unwrap();
    app.protocols.enable(ProtocolKind::SocketIo);
    app.protocols.enable(ProtocolKind::Altogic);
    let error = config.check().unwrap_err().to_string();
    assert!(
        error.contains("is also that of protocol socketio"),
        "{error}"
    );
    let with_hosts = |of_one: &[&str], of_other: &[&str]| {
        let mut config = config.clone();
        let app = config.apps.values_mut().next().unwrap();
        let owned = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect();
        app.protocols.socketio.as_mut().unwrap().hosts = owned(of_one);
        app.protocols.altogic.as_mut().unwrap().hosts = owned(of_other);
        config.check().err().map(|error| error.to_string())
    };
    assert_eq!(with_hosts(&[], &["a.example"]), None);
    assert_eq!(with_hosts(&["a.example"], &["b.example"]), None);
    let shared = with_hosts(&["a.example"], &["b.example", "A.example"]).unwrap();
    assert!(
        shared.contains("set another path or other hosts"),
        "{shared}"
    );
    let with_port = with_hosts(&[], &["a.example:80"]).unwrap();
    assert!(
        with_port.contains("is not the name of a host"),
        "{with_port}"
    );
    for (path, reason) in [
        ("rtm", "is not a path"),
        ("/", "is not a path"),
        ("/a?b", "is not a path"),
        ("/v1/rtm", "is the server's own"),
        ("/healthz", "is the server's own"),
    ] {
        let mut config = super::support::config();
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::Zexcore);
        app.protocols.zexcore.as_mut().unwrap().path = path.to_owned();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(reason), "{path}: {error}");
    }
}

/// A client of Socket.IO in the namespace `/`, over WebSocket.
fn socketio(server: &TestServer, auth: &Value) -> Client {
    let mut client = Client::open(
        server.address(),
        "/socket.io/?EIO=4&transport=websocket",
        &[],
    )
    .unwrap();
    assert!(client.text().starts_with("0{"));
    client.frame(0x81, format!("40{auth}").as_bytes());
    client
}

fn server_with_socketio(change: impl FnOnce(&mut Config)) -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::SocketIo);
        change(config);
    })
}

#[test]
fn a_client_over_its_rate_loses_packets_and_not_its_connection() {
    let server = server_with_socketio(|config| {
        config.limits.messages_per_second = 20;
        config.limits.message_burst = 20;
    });
    let mut client = socketio(&server, &json!({}));
    assert!(client.text().starts_with("40{"));
    for _ in 0..15 {
        client.frame(
            0x81,
            br#"451-["send",{"channel":"c","event":"e","data":{"_placeholder":true,"num":0}}]"#,
        );
        client.frame(0x82, b"bytes");
    }
    std::thread::sleep(Duration::from_secs(1));
    client.frame(0x81, br#"427["join","room"]"#);
    loop {
        let said = client.text();
        if said.starts_with("437[") {
            break;
        }
        assert!(said.contains("rate_limited"), "{said}");
    }
}

#[test]
fn more_channels_than_a_connection_may_have_are_refused_at_once() {
    let server = server_with_socketio(|config| config.limits.channels_per_connection = 3);
    let names = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>();
    let mut client = socketio(&server, &json!({"channels": names(4)}));
    assert!(client.text().starts_with("44{"));
    let mut client = socketio(&server, &json!({"channels": names(3)}));
    assert!(client.text().starts_with("40{"));
}

#[test]
fn what_native_clients_say_in_their_address_counts_or_is_refused() {
    let server = server_with_rtm(|config| {
        config.apps.insert("other".to_owned(), AppConfig::default());
        let app = config.apps.get_mut("default").unwrap();
        app.protocols.enable(ProtocolKind::SocketIo);
        app.client_auth = Some(ClientAuth::Optional);
        app.client_keys.push(ClientKeyConfig {
            name: "strict".to_owned(),
            key: "pk_strict".to_owned(),
            client_auth: Some(ClientAuth::Required),
            origins: None,
            can: None,
        });
    });
    let paths = ["/rtm?", "/socket.io/?EIO=4&transport=websocket&"];
    let open =
        |path: &str, query: &str| Client::open(server.address(), &format!("{path}{query}"), &[]);

    // The key's own policy holds: a client has to bring a token.
    for path in paths {
        let mut free = open(path, "").unwrap();
        let mut strict = open(path, "key=pk_strict").unwrap();
        let mut unknown = open(path, "key=pk_nobody").unwrap();
        for client in [&mut free, &mut strict, &mut unknown] {
            if path.starts_with("/socket.io/") {
                assert!(client.text().starts_with("0{"));
                client.frame(0x81, b"40");
            } else {
                client.send(&json!({"id": 1, "type": "auth", "data": []}));
            }
        }
        assert_eq!(strict.closed(), 4001, "{path}");
        assert_eq!(unknown.closed(), 4001, "{path}");
        assert!(!free.text().is_empty());
        free.expect_nothing();
    }

    let id = server.connect("").id;
    for path in paths {
        for query in ["app=other", "channel=c", &format!("resume={id}")] {
            let refused = open(path, query).err();
            let refused = refused.unwrap_or_else(|| panic!("{path}{query} is taken"));
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (400, "bad_query"),
                "{path}{query}"
            );
        }
        for query in ["app=default", "app=its-own", "resume=true"] {
            assert!(open(path, query).is_ok(), "{path}{query}");
        }
    }
}

/// What a client of Socket.IO is told that says `auth` of itself, from a page if there is an `origin`.
fn connect_error(server: &TestServer, auth: &Value, origin: Option<&str>) -> Value {
    let headers: Vec<(&str, &str)> = origin
        .map(|origin| ("Origin", origin))
        .into_iter()
        .collect();
    let path = "/socket.io/?EIO=4&transport=websocket";
    let mut client = Client::open(server.address(), path, &headers).unwrap();
    assert!(client.text().starts_with("0{"));
    client.frame(0x81, format!("40{auth}").as_bytes());
    let said = client.text();
    let error = said.strip_prefix("44");
    let error = error.unwrap_or_else(|| panic!("{auth} is let in: {said}"));
    serde_json::from_str(error).unwrap()
}

#[test]
fn a_page_of_socketio_is_told_what_is_missing() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::SocketIo);
        app.client_keys.push(ClientKeyConfig {
            name: "web".to_owned(),
            key: "pk_live_web".to_owned(),
            client_auth: None,
            origins: Some(vec!["https://app.example".to_owned()]),
            can: None,
        });
    });
    let page = Some("http://localhost:8000");
    assert_eq!(
        connect_error(&server, &json!({}), page),
        json!({
            "message": "a page without a token may not connect: send auth.token (or list the page in origins: \"http://localhost:8000\")",
            "data": {"code": 4001},
        })
    );
    assert_eq!(
        connect_error(&server, &json!({"key": "pk_live_web"}), page)["message"],
        "the Origin \"http://localhost:8000\" is not in origins of client key \"web\""
    );
}

#[test]
fn the_field_of_the_auth_that_is_wrong_is_named() {
    let server = server_with_socketio(|_| {});
    for (auth, says) in [
        (
            json!({"channels": "room-1"}),
            "auth.channels must be a list of strings, such as [\"room-1\"]",
        ),
        (
            json!({"channels": ["a", 1]}),
            "auth.channels must be a list",
        ),
        (json!({"token": 5}), "auth.token must be a string"),
        (json!({"echo": "no"}), "auth.echo must be true or false"),
    ] {
        let error = connect_error(&server, &auth, None);
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(says), "{auth}: {message}");
    }
    assert_eq!(server.count("fanfare_refusals_total", "query"), 4);
}

#[test]
fn what_is_emitted_amiss_is_answered_with_what_to_emit() {
    let server = server_with_socketio(|_| {});
    let mut client = socketio(&server, &json!({}));
    assert!(client.text().starts_with("40{"));
    let mut refused = |arguments: &Value| {
        client.frame(0x81, format!("421{arguments}").as_bytes());
        let said = client.text();
        let answer = said.strip_prefix("431").unwrap_or_else(|| panic!("{said}"));
        let answer: Value = serde_json::from_str(answer).unwrap();
        answer[0]["error"].clone()
    };
    for (arguments, says) in [
        (
            json!(["send", "room-1", "chat", {"text": "hi"}]),
            "send takes one object: { channel, event, data }",
        ),
        (
            json!(["join", "room-1", "room-2"]),
            "join takes one channel, or one object: { channel }",
        ),
        (
            json!(["join", ["room-1", "room-2"]]),
            "join takes one channel, or one object: { channel }",
        ),
        (
            json!(["update", "away"]),
            "update takes one object: { data }",
        ),
        (
            json!(["broadcast", "chat", 1]),
            "broadcast takes one object: { event, data }",
        ),
    ] {
        let error = refused(&arguments);
        assert_eq!(
            error,
            json!({"code": "bad_message", "message": says}),
            "{arguments}"
        );
    }
    let error = refused(&json!(["chat message", "hi"]));
    assert_eq!(error["code"], "no_functions");
    let message = error["message"].as_str().unwrap();
    for part in [
        "\"chat message\" is not an event of Fanfare's (join, send, …)",
        "emit(\"send\", { channel, event: \"chat message\", data })",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_argument_without_a_value_counts_as_absent() {
    let server = server_with_socketio(|_| {});
    let mut client = socketio(&server, &json!({}));
    assert!(client.text().starts_with("40{"));
    client.frame(0x81, br#"421["join","room-1",null]"#);
    assert_eq!(client.text(), "431[{}]");
}
