//! A client's connection: its handshake, what it may say, and how it ends.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::support::*;
use fanfare::{
    ProtocolKind,
    config::{AppConfig, ClientAuth},
};
use serde_json::{Value, json};

const CLOSE_CODES: &str = include_str!("../../docs/reference/close-codes.md");
const ERRORS: &str = include_str!("../../docs/reference/errors.md");

// Handshake

#[test]
fn the_welcome_comes_first_and_names_the_connection() {
    let server = server();
    let mut client = server.open("");
    server.call("/v1/broadcast", &json!({"event": "later"}));
    let welcome = client.json();
    assert_eq!(
        (&welcome["op"], &welcome["user"], &welcome["heartbeat"]),
        (&json!("welcome"), &json!(null), &json!(25))
    );
    let id = welcome["connection"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/connections/{id}")).status, 200);
    let token = server.token("ann", &json!({}));
    assert_eq!(server.open(&format!("token={token}")).json()["user"], "ann");
}

#[test]
fn the_subprotocol_is_echoed_where_offered_and_others_are_refused() {
    let server = server();
    let upgrade = |more: &[(&str, &str)]| {
        let mut headers = vec![
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(more);
        // The head is all that is wanted of an upgraded socket.
        handshake(&server, &headers)
    };
    let plain = upgrade(&[]);
    assert_eq!(
        (plain.status, plain.header("sec-websocket-protocol")),
        (101, None)
    );
    assert_eq!(
        plain.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for offer in ["fanfare.v1", "other, fanfare.v1", "fanfare.v1,fanfare.v2"] {
        let answer = upgrade(&[("Sec-WebSocket-Protocol", offer)]);
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (101, Some("fanfare.v1")),
            "{offer}"
        );
    }
    let answer = upgrade(&[("Sec-WebSocket-Protocol", "fanfare.v2")]);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "unknown_protocol")
    );
    let answer = upgrade(&[(
        "Sec-WebSocket-Extensions",
        "permessage-deflate; client_max_window_bits",
    )]);
    assert_eq!(
        (answer.status, answer.header("sec-websocket-extensions")),
        (101, None)
    );
}

/// The head of the answer to a GET of `/v1/connect`; all of it where it is a refusal.
fn handshake(server: &TestServer, headers: &[(&str, &str)]) -> Answer {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("GET /v1/connect HTTP/1.1\r\nHost: {}\r\n", server.address());
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    socket.write_all((head + "\r\n").as_bytes()).unwrap();
    let mut raw = Vec::new();
    let mut byte = [0];
    while !raw.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        raw.push(byte[0]);
    }
    let answer = parse_answer(&raw);
    let length = answer
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).unwrap();
    Answer {
        text: String::from_utf8(body).unwrap(),
        ..answer
    }
}

#[test]
fn what_is_no_handshake_is_refused() {
    let server = server();
    let plain = server.get("/v1/connect");
    assert_eq!(
        (plain.status, plain.code().as_str()),
        (426, "upgrade_required")
    );
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let no_key = [&upgrade[..], &[("Sec-WebSocket-Version", "13")]].concat();
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let old = [&upgrade[..], &[key, ("Sec-WebSocket-Version", "8")]].concat();
    let answer = handshake(&server, &no_key);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_handshake")
    );
    let answer = handshake(&server, &old);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (426, "upgrade_required")
    );
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
}

#[test]
fn the_app_is_chosen_by_name_and_an_unknown_one_is_refused() {
    let server = server_with(|config| {
        config.apps.insert("other".to_owned(), AppConfig::default());
    });
    let mut default = server.connect("app=default");
    let mut first = server.connect("");
    let mut other = server.connect("app=other");
    assert_eq!(
        server.call("/v1/broadcast", &json!({"event": "e"}))["matched"],
        2
    );
    assert_eq!(
        (
            default.json()["event"].clone(),
            first.json()["event"].clone()
        ),
        (json!("e"), json!("e"))
    );
    other.expect_nothing();
    let unknown = server.try_open("app=nobody", &[]).err().unwrap();
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "unknown_app")
    );
}

#[test]
fn the_query_is_decoded_as_browsers_encode_it_and_unknown_parameters_are_ignored() {
    let server = server();
    let client = server.connect("device=my+phone%2F%C3%A9&some=thing&flag");
    let shown = server.get(&format!("/v1/connections/{}", client.id)).json();
    assert_eq!(shown["device"], "my phone/é");
    let long = server
        .try_open(&format!("device={}", "x".repeat(129)), &[])
        .err()
        .unwrap();
    assert_eq!((long.status, long.code().as_str()), (400, "bad_query"));
    let bad = server.try_open("device=%ff", &[]).err().unwrap();
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_query"));
}

#[test]
fn filters_see_what_the_server_knows_of_a_connection() {
    let server = server_with(|config| config.node_name = Some("node-1".to_owned()));
    let client = server.connect("device=laptop");
    let _other = server.connect("");
    for filter in [
        "connection.device == \"laptop\"",
        "connection.id == params.id",
        "connection.id in [params.id]",
        "connection.ip == \"127.0.0.1\" && connection.device != null",
        "connection.protocol == \"fanfare.v1\" && has(connection.device) && connection.device == \"laptop\"",
        "connection.connected_at > 1700000000 && connection.node == \"node-1\" && connection.id == params.id",
        "user == null && auth == null && profile == null && channels == [] && connection.id == params.id",
    ] {
        let body = json!({"filter": filter, "params": {"id": client.id}});
        assert_eq!(
            server.call("/v1/explain", &body)["sample"],
            json!([client.id]),
            "{filter}"
        );
    }
}

#[test]
fn over_the_connection_limit_a_handshake_gets_503_until_one_leaves() {
    let server = server_with(|config| config.limits.connections = 2);
    let (first, _second) = (server.connect(""), server.connect(""));
    let full = server.try_open("", &[]).err().unwrap();
    assert_eq!(
        (full.status, full.code().as_str()),
        (503, "connection_limit")
    );
    assert!(full.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(server.count("fanfare_refusals_total", "connections"), 1);
    assert_eq!(server.get("/v1/connections").status, 200);
    drop(first);
    eventually("there is room again", || server.try_open("", &[]).is_ok());
}

#[test]
fn a_client_that_polls_has_three_places_among_the_connections() {
    let server = server_with(|config| {
        config.limits.connections = 6;
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::SocketIo);
    });
    let poll = || server.get("/socket.io/?EIO=4&transport=polling");
    let first = poll();
    assert_eq!((first.status, poll().status), (200, 200));
    let full = poll();
    assert_eq!(
        (full.status, full.code().as_str()),
        (503, "connection_limit")
    );
    assert_eq!(server.count("fanfare_refusals_total", "connections"), 1);
    assert!(server.try_open("", &[]).is_err());

    let open: Value = serde_json::from_str(&first.text[1..]).unwrap();
    let session = format!(
        "/socket.io/?EIO=4&transport=polling&sid={}",
        open["sid"].as_str().unwrap()
    );
    let goodbye = server.request("POST", &session, &[], Some(b"1"));
    assert_eq!(goodbye.status, 200);
    eventually("all its places are free", || {
        let natives = [(); 3].map(|()| server.try_open("", &[]));
        natives.iter().all(Result::is_ok)
    });
}

#[test]
fn over_the_limit_of_its_address_a_handshake_gets_503_and_other_addresses_go_on() {
    let server = keyed_server(|config| {
        config.limits.connections_per_address = 2;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let from = |address: &str| server.try_open("", &[("X-Forwarded-For", address)]);
    let _held = [from("203.0.113.1").unwrap(), from("203.0.113.1").unwrap()];
    let full = from("203.0.113.1").err().unwrap();
    assert_eq!((full.status, full.code().as_str()), (503, "address_limit"));
    assert!(full.header("retry-after").is_some());
    assert!(from("203.0.113.2").is_ok());
    let _block = [from("2001:db8::1").unwrap(), from("2001:db8::2").unwrap()];
    assert_eq!(from("2001:db8::3").err().unwrap().status, 503, "one /64");
    assert!(from("2001:db8:0:1::3").is_ok());
    assert_eq!(server.count("fanfare_refusals_total", "address"), 2);
}

#[test]
fn over_the_accept_rate_a_handshake_gets_503() {
    let server = server_with(|config| config.limits.accepts_per_second = 1);
    let answers: Vec<_> = (0..20).map(|_| server.try_open("", &[])).collect();
    let refused: Vec<&Answer> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert!(answers.iter().any(Result::is_ok) && !refused.is_empty());
    for answer in refused {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "accept_rate")
        );
        assert!(answer.header("retry-after").is_some());
    }
}

#[test]
fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
    let ip = |server: &TestServer, forwarded: &str| {
        let mut client = server
            .try_open("", &[("X-Forwarded-For", forwarded)])
            .unwrap();
        let id = client.json()["connection"].as_str().unwrap().to_owned();
        server.get_as(KEY, &format!("/v1/connections/{id}")).json()["ip"].clone()
    };
    let trusting = keyed_server(|config| {
        config.trusted_proxies = vec![
            "127.0.0.0/8".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap(),
        ];
    });
    assert_eq!(ip(&trusting, "203.0.113.9"), "203.0.113.9");
    assert_eq!(
        ip(&trusting, "198.51.100.1, 203.0.113.9, 10.0.0.7"),
        "203.0.113.9",
        "rightmost that is not trusted"
    );
    assert_eq!(ip(&trusting, "203.0.113.9, 2001:db8::1"), "2001:db8::1");
    assert_eq!(ip(&trusting, "spoofed, 10.0.0.7"), "10.0.0.7");
    assert_eq!(ip(&keyed_server(|_| {}), "203.0.113.9"), "127.0.0.1");
}

// Messages

#[test]
fn each_message_with_an_id_gets_one_ack_or_error_that_carries_it() {
    let server = server();
    let mut client = server.connect("");
    for (message, expected) in [
        (r#"{"op":"ping"}"#, json!({"op": "pong"})),
        (r#"{"op":"ping","id":1}"#, json!({"op": "ack", "id": 1})),
        (r#"{"id":"a","op":"ping"}"#, json!({"op": "ack", "id": "a"})),
        (
            r#"{"op":"ping","id":12345678901234567890}"#,
            json!({"op": "ack", "id": 12_345_678_901_234_567_890_u64}),
        ),
    ] {
        client.frame(0x81, message.as_bytes());
        assert_eq!(client.json(), expected, "{message}");
    }
    for (message, id, code) in [
        (r#"{"op":"dance","id":2}"#, json!(2), "unknown_op"),
        (r#"{"op":"ping","id":3,"extra":1}"#, json!(3), "bad_message"),
        (
            r#"{"op":"ping","extra":1,"id":"x"}"#,
            json!("x"),
            "bad_message",
        ),
        (r#"{"op":"auth","id":4}"#, json!(4), "bad_message"),
        (r#"{"op":"auth","id":5,"token":7}"#, json!(5), "bad_message"),
        (r#"{"id":6}"#, json!(6), "bad_message"),
        (r#"{"op":"dance"}"#, json!(null), "unknown_op"),
        (r#"{"op":"ping","id":[1]}"#, json!(null), "bad_message"),
        (r#"{"op":"ping","id":{}}"#, json!(null), "bad_message"),
        (r#"["ping"]"#, json!(null), "bad_message"),
        (r#"["ping",1]"#, json!(null), "bad_message"),
        ("\"ping\"", json!(null), "bad_message"),
        ("1", json!(null), "bad_message"),
        ("{}", json!(null), "bad_message"),
    ] {
        client.frame(0x81, message.as_bytes());
        let answer = client.json();
        assert_eq!(
            (&answer["op"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{message}: {answer}"
        );
        assert_eq!(answer["id"], id, "{message}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    client.frame(0x82, b"binary");
    assert_eq!(client.json()["code"], "bad_message");
    client.expect_nothing();
}

#[test]
fn an_error_carries_the_id_of_a_message_over_the_rate_too() {
    let server = server_with(|config| {
        config.limits.message_burst = 1;
        config.limits.messages_per_second = 1;
    });
    let mut client = server.connect("");
    let messages =
        (0..5).flat_map(|n| masked(0x81, json!({"op": "ping", "id": n}).to_string().as_bytes()));
    client
        .socket
        .write_all(&messages.collect::<Vec<u8>>())
        .unwrap();
    for n in 0..5 {
        let answer = client.json();
        assert_eq!(answer["id"], n, "{answer}");
    }
}

#[test]
fn what_is_no_json_is_an_error_and_ten_in_a_row_close_with_4009() {
    let server = server();
    let [text, binary] = [0x81, 0x82];
    let cases: &[(u8, &[u8])] = &[
        (text, b""),
        (text, b"{"),
        (text, b"ping"),
        (text, b"{\"op\":\"ping\"}{}"),
        (text, b"{'op':'ping'}"),
        (binary, b""),
        (binary, b"\x02\x00\x00"),
        (binary, b"\x01\x00\x01{"),
    ];
    let mut client = server.client("ann", &json!({}));
    for _ in 0..3 {
        for (kind, payload) in cases {
            client.frame(*kind, payload);
            assert_eq!(client.json()["code"], "bad_message", "{payload:?}");
        }
        // A message that can be read ends the row.
        client.acked(&json!({"op": "ping"}));
    }
    for n in 0..10 {
        client.frame(0x81, b"ping");
        assert_eq!(client.json()["code"], "bad_message", "{n}");
    }
    assert!(matches!(client.message(), Received::Close(4009, _)));
    assert!(server.count("fanfare_client_refusals_total", "bad_message") >= 34);
}

#[test]
fn a_message_in_fragments_with_a_ping_between_is_one_message() {
    let server = server();
    let mut client = server.connect("");
    client.frame(0x01, br#"{"op":"pi"#);
    client.frame(0x89, b"between");
    client.frame(0x00, br#"ng","id"#);
    client.frame(0x80, br#"":1}"#);
    assert_eq!(client.message(), Received::Pong(b"between".to_vec()));
    assert_eq!(client.json(), json!({"op": "ack", "id": 1}));
}

// Bounds

#[test]
fn silence_after_a_ping_ends_with_4201_and_an_answer_does_not() {
    let server = server_with(|config| {
        config.limits.heartbeat = Duration::from_secs(3);
        config.limits.heartbeat_wait = Duration::from_secs(2);
    });
    let mut silent = server.connect("");
    let mut answering = server.connect("");
    let listening = std::thread::spawn(move || {
        let mut pings = 0;
        while pings < 2 {
            match answering.next() {
                Received::Ping(payload) => {
                    answering.frame(0x8a, &payload);
                    pings += 1;
                }
                other => panic!("expected pings, got {other:?}"),
            }
        }
        answering.expect_nothing();
    });
    assert!(matches!(silent.next(), Received::Ping(_)));
    assert_eq!(
        silent.next(),
        Received::Close(4201, "no answer to a ping".into())
    );
    listening.join().unwrap();
    drop(silent);
    eventually("it is counted", || {
        server.count("fanfare_closes_total", "code=\"4201\"") == 1
    });
}

#[test]
fn any_message_is_a_sign_of_life() {
    let server = server_with(|config| {
        config.limits.heartbeat = Duration::from_secs(3);
        config.limits.heartbeat_wait = Duration::from_secs(2);
    });
    let mut client = server.connect("");
    for _ in 0..2 {
        assert!(matches!(client.next(), Received::Ping(_)));
        client.send(&json!({"op": "ping"}));
        assert_eq!(client.next(), Received::Text(r#"{"op":"pong"}"#.into()));
    }
}

#[test]
fn over_the_rate_a_message_gets_an_error_and_a_hundred_in_a_row_close_with_4102() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 5;
    });
    let mut client = server.connect("");
    // All in one write, so that hardly any time passes between them.
    let flood: Vec<u8> = (0..150)
        .flat_map(|_| masked(0x81, br#"{"op":"ping"}"#))
        .collect();
    client.socket.write_all(&flood).unwrap();
    let (mut pongs, mut errors, mut byes) = (0, 0, 0);
    let code = loop {
        match client.message() {
            Received::Text(text) if text == r#"{"op":"pong"}"# => pongs += 1,
            Received::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                if message["op"] == "bye" {
                    assert!(
                        message["code"] == 4102 && message["reconnect_in_ms"].as_u64() > Some(0)
                    );
                    byes += 1;
                    continue;
                }
                assert_eq!(message["code"], "rate_limited");
                errors += 1;
            }
            Received::Close(code, _) => break code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, byes), (4102, 1));
    assert!(
        (5..=20).contains(&pongs) && errors >= 100,
        "{pongs} pongs, {errors} errors"
    );
    let mut other = server.connect("");
    other.expect_nothing();
}

#[test]
fn a_client_within_the_rate_stays() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    for n in 0..100 {
        client.send(&json!({"op": "ping", "id": n}));
        assert_eq!(client.json(), json!({"op": "ack", "id": n}));
    }
}

/// How many of `count` messages in one write are answered before the first is over the rate.
fn answered(client: &mut Client, count: usize) -> usize {
    let all = masked(0x81, br#"{"op":"ping","id":1}"#).repeat(count);
    client.socket.write_all(&all).unwrap();
    let answers: Vec<Value> = (0..count).map(|_| client.json()).collect();
    let refused = |answer: &Value| answer["code"] == "rate_limited";
    answers.iter().position(refused).unwrap_or(count)
}

#[test]
fn a_user_has_one_rate_over_all_its_connections_and_gains_nothing_by_new_ones() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 50;
    });
    let mut first = server.client("ann", &json!({}));
    let mut second = server.client("ann", &json!({}));
    assert_eq!(answered(&mut first, 30), 30);
    let rest = answered(&mut second, 50);
    assert!((20..30).contains(&rest), "{rest}");
    drop((first, second));
    for _ in 0..3 {
        let again = answered(&mut server.client("ann", &json!({})), 15);
        assert!(again < 10, "{again}");
    }
    assert_eq!(answered(&mut server.client("bob", &json!({})), 50), 50);
    assert!(server.count("fanfare_client_refusals_total", "rate_limited") > 0);
}

#[test]
fn an_anonymous_client_begins_with_what_a_page_needs_and_earns_the_rest() {
    let server = server_with(|config| config.limits.messages_per_second = 1);
    let mut client = server.connect("");
    let begun = answered(&mut client, 60);
    assert!((20..40).contains(&begun), "{begun}");
    // With a user it has the user's.
    let mut client = server.connect("");
    let token = server.token("ann", &json!({}));
    client.acked(&json!({"op": "auth", "token": token}));
    assert_eq!(answered(&mut client, 90), 90);
}

#[test]
fn an_address_gains_nothing_by_new_connections_where_they_are_bounded() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 20;
        config.limits.connections_per_address = 2;
    });
    let sent: usize = (0..10)
        .map(|_| {
            let mut client = None;
            eventually("there is room for one more", || {
                client = server.try_open("", &[]).ok();
                client.is_some()
            });
            let mut client = client.unwrap();
            assert_eq!(client.json()["op"], "welcome");
            answered(&mut client, 20)
        })
        .sum();
    // Two connections of 20, and what was earned meanwhile.
    assert!((40..100).contains(&sent), "{sent}");
}

#[test]
fn pongs_that_nobody_asked_for_count_as_messages() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 5;
    });
    let mut client = server.connect("");
    let flood = masked(0x8a, b"").repeat(500);
    client.socket.write_all(&flood).unwrap();
    assert_eq!(client.json()["op"], "bye");
    assert!(matches!(client.message(), Received::Close(4102, _)));
    assert!(server.count("fanfare_client_refusals_total", "unasked_pong") >= 100);
}

#[test]
fn a_profile_costs_what_it_makes_others_hear() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 20;
    });
    let update = json!({"op": "update", "data": {"status": "away"}});
    let mut client = server.client("ann", &json!({}));
    let mut watcher = server.client("bob", &json!({}));
    for n in 0..12 {
        watcher.watch(&format!("room-{n}"));
    }
    for n in 0..15 {
        client.watch(&format!("room-{n}"));
    }
    let mut alone = server.client("cem", &json!({}));
    alone.watch("other");
    for _ in 0..15 {
        alone.acked(&update);
    }
    // 15 joins are gone; the update takes 13 and leaves a debt.
    client.acked(&update);
    assert_eq!(client.ask(&update)["code"], "rate_limited");
}

#[test]
fn a_page_of_members_costs_by_its_size() {
    let server = server_with(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 30;
    });
    let profile = json!({"op": "update", "data": {"text": "x".repeat(8000)}});
    let mut members: Vec<Client> = (0..30)
        .map(|n| server.client(&format!("u{n}"), &json!({})))
        .collect();
    for member in &mut members {
        member.acked(&profile);
        member.join("room");
    }
    let mut reader = server.client("ann", &json!({}));
    let page = json!({"op": "members", "channel": "room"});
    let answers: Vec<Value> = (0..4).map(|_| reader.ask(&page)).collect();
    // 30 profiles are 240 KB, and 15 messages.
    assert_eq!(answers[0]["members"].as_array().unwrap().len(), 30);
    assert_eq!(answers[3]["code"], "rate_limited");
    let mut joiner = server.client("bob", &json!({}));
    let join = json!({"op": "join", "channel": "room", "members": true});
    let answers: Vec<Value> = (0..4).map(|_| joiner.ask(&join)).collect();
    assert_eq!(answers[0]["op"], "ack");
    assert_eq!(answers[3]["code"], "rate_limited");
}

#[test]
fn pages_wait_for_a_client_that_does_not_read() {
    const PAGES: usize = 60;
    let server = server_with(|config| {
        config.limits.messages_per_second = 1_000_000;
        config.limits.message_burst = 1_000_000;
        config.limits.send_buffer = 16 * 1024;
        config.shards = 1;
    });
    let profile = json!({"op": "update", "data": {"text": "x".repeat(8000)}});
    let mut members: Vec<Client> = (0..30)
        .map(|n| server.client(&format!("u{n}"), &json!({})))
        .collect();
    for member in &mut members {
        member.acked(&profile);
        member.join("room");
    }
    let mut reader = server.client("ann", &json!({}));
    let asked: Vec<u8> = (0..PAGES)
        .flat_map(|n| {
            let members = json!({"op": "members", "id": n, "channel": "room"});
            masked(0x81, members.to_string().as_bytes())
        })
        .collect();
    reader.socket.write_all(&asked).unwrap();
    // The outbox bound is 1 MiB: with a page more at a time than is read, the client would be closed as slow.
    let waits = || server.count("fanfare_refused_bytes", "") > 0;
    eventually("the client's socket is full", waits);
    for n in 0..PAGES {
        let page = reader.json();
        assert_eq!(page["id"], n, "{:.200}", page.to_string());
        assert_eq!(page["members"].as_array().unwrap().len(), 30);
        let waiting = server.count("fanfare_refused_bytes", "");
        assert!(waiting <= 600 * 1024, "{waiting} bytes wait");
    }
}

#[test]
fn the_oldest_unfinished_message_is_given_up_where_all_are_too_large() {
    let server = server_with(|config| {
        config.shards = 1;
        let limits = &mut config.limits;
        limits.message_bytes = 48 * 1024 * 1024;
        (limits.outbox_bytes, limits.stored_publication_bytes) =
            (limits.message_bytes, limits.message_bytes);
    });
    let mut clients = [server.connect(""), server.connect("")];
    let mut head = vec![0x82, 0xff];
    head.extend((48u64 * 1024 * 1024).to_be_bytes());
    head.extend([0; 4]);
    let part = vec![0; 36 * 1024 * 1024];
    for client in &mut clients {
        client.socket.write_all(&head).unwrap();
        client.socket.write_all(&part).unwrap();
    }
    let [oldest, other] = &mut clients;
    let bye = oldest.json();
    assert_eq!((&bye["op"], &bye["code"]), (&json!("bye"), &json!(4100)));
    assert!(matches!(oldest.message(), Received::Close(4100, _)));
    let rest = vec![0; 12 * 1024 * 1024];
    other.socket.write_all(&rest).unwrap();
    assert_eq!(other.json()["code"], "bad_message");
    let reason = "unfinished_crowded";
    assert_eq!(server.count("fanfare_client_refusals_total", reason), 1);
}

#[test]
fn an_empty_token_is_a_bad_one_where_one_is_required() {
    let wait = Duration::from_hours(1);
    let server = server_with(|config| {
        config.limits.auth = wait;
        let app = config.apps.values_mut().next().unwrap();
        app.client_auth = Some(ClientAuth::Required);
    });
    assert!(matches!(
        server.open("token=").message(),
        Received::Close(4001, _)
    ));
    let optional = self::server();
    assert_eq!(optional.open("token=").json()["user"], json!(null));
}

#[test]
fn who_takes_nothing_is_closed_and_counted_and_others_get_everything() {
    let server = server_with(|config| {
        config.limits.outbox_bytes = 300_000;
        config.limits.send_buffer = 8192;
    });
    let stalled = server.connect("");
    let mut reading = server.connect("");
    let data = "x".repeat(100_000);
    let mut sent = 0;
    while server.count("fanfare_drops_total", "slow_consumer") == 0 {
        server.call("/v1/broadcast", &json!({"event": "e", "data": data}));
        assert_eq!(reading.json()["data"].as_str().unwrap().len(), data.len());
        sent += 1;
        assert!(sent < 1000, "nobody is ever too slow");
    }
    drop(stalled);
    eventually("4101 is counted", || {
        server.count("fanfare_closes_total", "code=\"4101\"") == 1
    });
    reading.expect_nothing();
}

// Ends

#[test]
fn a_close_is_answered_by_the_same_code_and_ends_the_connection() {
    let server = server();
    for (payload, code) in [
        (&[][..], 1005),
        (&[0x03, 0xe8][..], 1000),
        (b"\x0f\xa0reason", 4000),
    ] {
        let mut client = server.connect("");
        client.frame(0x88, payload);
        assert_eq!(client.message(), Received::Close(code, String::new()));
        assert_eq!(client.message(), Received::End);
    }
    eventually("all are gone", || {
        server.count("fanfare_connections", "default") == 0
    });
    assert_eq!(server.count("fanfare_closes_total", "code=\"1005\""), 1);
}

#[test]
fn after_a_close_nothing_is_delivered() {
    let server = server();
    let mut client = server.connect("");
    client.frame(0x88, &[0x03, 0xe8]);
    assert_eq!(client.message(), Received::Close(1000, String::new()));
    assert_eq!(
        server.call("/v1/broadcast", &json!({"event": "e"}))["matched"],
        0
    );
    assert_eq!(client.message(), Received::End);
}

#[test]
fn a_socket_that_ends_leaves_nothing_behind() {
    let server = server();
    let client = server.client("ann", &json!({}));
    let path = format!("/v1/connections/{}", client.id);
    assert_eq!(server.get(&path).status, 200);
    drop(client);
    eventually("it is gone", || server.get(&path).status == 404);
    assert_eq!(
        server.call("/v1/publish", &json!({"user": "ann", "event": "e"}))["matched"],
        0
    );
    eventually("it is counted", || {
        server.count("fanfare_closes_total", "code=\"1006\"") == 1
    });
}

#[test]
fn a_node_that_leaves_says_bye_with_a_moment_to_come_back() {
    let server = server();
    let mut client = server.connect("");
    let leaving = std::thread::spawn(move || drop(server));
    let bye = client.json();
    assert_eq!(
        (&bye["op"], &bye["code"], &bye["reason"]),
        (&json!("bye"), &json!(4200), &json!("draining"))
    );
    assert!(bye["reconnect_in_ms"].as_u64().unwrap() <= 3000, "{bye}");
    assert_eq!(client.message(), Received::Close(4200, "draining".into()));
    drop(client);
    leaving.join().unwrap();
}

// The reference pages

#[test]
fn the_reference_has_every_close_code_and_every_error() {
    let codes: BTreeMap<String, &str> = include_str!("../../crates/protocol/src/close.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": u16 = "))
        .map(|(name, code)| (code.trim_end_matches(';').to_owned(), name))
        .collect();
    assert!(codes.len() > 10, "{codes:?}");
    let documented: Vec<&str> = CLOSE_CODES
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
        .filter(|code| code.len() == 4 && code.parse::<u16>().is_ok())
        .collect();
    let known: Vec<&str> = codes.keys().map(String::as_str).collect();
    assert_eq!(documented, known);
    let codes = [
        "bad_message",
        "unknown_op",
        "bad_channel",
        "event_name_length",
        "event_name_reserved",
        "data_too_deep",
        "unauthorized",
        "forbidden",
        "auth_off",
        "rate_limited",
        "too_many_channels",
        "members_off",
        "profile_too_large",
        "bad_profile",
        "no_functions",
        "no_users",
        "too_many_names",
        "name_too_long",
        "too_much_to_store",
        "busy",
        "history_unavailable",
        "internal",
    ];
    for code in codes {
        assert!(ERRORS.contains(&format!("| `{code}` |")), "{code}");
    }
}

#[test]
fn with_authentication_off_everyone_is_anonymous() {
    let off = |config: &mut fanfare::config::Config| {
        config
            .apps
            .values_mut()
            .for_each(|app| app.client_auth = Some(ClientAuth::Off));
    };
    let server = server_with(off);
    let mut client = server.open("token=nonsense");
    assert_eq!(client.json()["user"], json!(null));
    client.send(&json!({"op": "auth", "id": 1, "token": "t"}));
    assert_eq!(client.json()["code"], "auth_off");
    client.expect_nothing();
}

#[test]
fn a_message_over_the_bound_is_told_the_bound() {
    let server = server();
    let mut client = server.connect("");
    client.frame(0x81, &vec![b'x'; 70_000]);
    let reason = "over 65536 bytes (limits.message_bytes)".to_owned();
    assert_eq!(client.next(), Received::Close(1009, reason));
}
