//! What a hostile or broken peer sends ends at most its own connection, with the right code.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::support::*;
use fanfare::{Server, StartError};
use serde_json::json;

/// A server with a client on each shard that must go on working.
struct Scene {
    witnesses: Vec<Client>,
    server: TestServer,
}

fn scene() -> Scene {
    scene_with(|_| {})
}

fn scene_with(change: impl FnOnce(&mut fanfare::config::Config)) -> Scene {
    let server = server_with(change);
    let witnesses = (0..4).map(|_| server.connect("device=witness")).collect();
    Scene { witnesses, server }
}

impl Scene {
    /// Every witness still gets what is sent, and nothing else.
    fn goes_on(&mut self, after: &str) {
        let body =
            json!({"event": "still", "data": after, "filter": "connection.device == \"witness\""});
        assert_eq!(
            self.server.call("/v1/emit", &body)["queued"],
            4,
            "after {after}"
        );
        for witness in &mut self.witnesses {
            assert_eq!(witness.json(), json!({"event": "still", "data": after}));
        }
    }

    /// Sends raw bytes as a client; answers the code it is closed with.
    fn closed_by(&self, bytes: &[u8]) -> u16 {
        let mut client = self.server.connect("");
        let _ = client.socket.write_all(bytes);
        client.closed()
    }
}

/// A frame without a mask.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, payload.len() as u8];
    frame.extend(payload);
    frame
}

/// The head of a masked frame that claims `length` bytes.
fn head(first: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first, 0xff];
    head.extend(length.to_be_bytes());
    head.extend([1, 2, 3, 4]);
    head
}

// Frames

#[test]
fn violations_of_the_framing_close_with_1002() {
    let mut scene = scene();
    let ping = br#"{"op":"ping"}"#;
    let long_form =
        |payload: &[u8]| [&[0x81, 0xfe, 0, payload.len() as u8, 0, 0, 0, 0], payload].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unmasked text frame", unmasked(0x81, ping)),
        ("an unmasked ping", unmasked(0x89, b"")),
        ("an unmasked close", unmasked(0x88, &[0x03, 0xe8])),
        ("a pong of 1,000 bytes", masked(0x8a, &[0; 1000])),
        ("a ping of 126 bytes", masked(0x89, &[0; 126])),
        ("a close of 126 bytes", masked(0x88, &[0x03; 126])),
        ("a fragmented ping", masked(0x09, b"")),
        (
            "a text frame inside a fragmented message",
            [masked(0x01, b"{"), masked(0x81, ping)].concat(),
        ),
        (
            "a binary frame inside a fragmented message",
            [masked(0x01, b"{"), masked(0x82, b"x")].concat(),
        ),
        ("a continuation of nothing", masked(0x80, ping)),
        (
            "a continuation behind a whole message",
            [masked(0x81, ping), masked(0x80, ping)].concat(),
        ),
        ("a reserved bit", masked(0xc1, ping)),
        ("the second reserved bit", masked(0xa1, ping)),
        ("the third reserved bit", masked(0x91, ping)),
        ("an unknown opcode", masked(0x83, ping)),
        ("an unknown control opcode", masked(0x8b, b"")),
        ("a length in more bytes than it needs", long_form(ping)),
        ("a length with its top bit", head(0x81, 1 << 63)),
        ("a close of one byte", masked(0x88, &[3])),
        ("a close with 1005", masked(0x88, &1005u16.to_be_bytes())),
        ("a close with 1006", masked(0x88, &1006u16.to_be_bytes())),
        ("a close with 999", masked(0x88, &999u16.to_be_bytes())),
        ("a close with 5000", masked(0x88, &5000u16.to_be_bytes())),
    ];
    for (what, bytes) in cases {
        assert_eq!(scene.closed_by(&bytes), 1002, "{what}");
        scene.goes_on(what);
    }
}

#[test]
fn text_that_is_no_utf8_closes_with_1007() {
    let mut scene = scene();
    let fragments = |parts: &[&[u8]]| {
        let last = parts.len() - 1;
        let frame = |(n, part): (usize, &&[u8])| {
            masked(u8::from(n == 0) | if n == last { 0x80 } else { 0 }, part)
        };
        parts
            .iter()
            .enumerate()
            .flat_map(frame)
            .collect::<Vec<u8>>()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an invalid byte", masked(0x81, b"\"\xff\"")),
        ("a surrogate", masked(0x81, b"\"\xed\xa0\x80\"")),
        ("an overlong form", masked(0x81, b"\"\xc0\xaf\"")),
        ("an unfinished character", masked(0x81, b"\"\xc3")),
        (
            "fragments that end inside a character",
            fragments(&[b"\"\xe2\x82", b""]),
        ),
        (
            "an invalid byte in a later fragment",
            fragments(&[b"\"", b"\xe2", b"\x28\""]),
        ),
        ("a close reason", masked(0x88, b"\x03\xe8\xff")),
    ];
    for (what, bytes) in cases {
        assert_eq!(scene.closed_by(&bytes), 1007, "{what}");
        scene.goes_on(what);
    }
    let mut whole = scene.server.connect("");
    let euro = fragments(&[br#"{"op":"ping","id":""#, b"\xe2", b"\x82", b"\xac\"}"]);
    whole.socket.write_all(&euro).unwrap();
    assert_eq!(
        whole.json()["id"],
        "€",
        "a character over three fragments is one"
    );
}

#[test]
fn too_big_is_decided_on_the_header_and_over_all_fragments() {
    let mut scene = scene_with(|config| {
        config.limits.message_bytes = 1000;
        config.limits.claims_bytes = 200;
        config.limits.profile_bytes = 200;
    });
    let padded = |n: usize| format!("{{\"op\":\"ping\"{}}}", " ".repeat(n - 13)).into_bytes();
    let mut client = scene.server.connect("");
    client.frame(0x81, &padded(1000));
    assert_eq!(client.json()["op"], "pong");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a message over the limit", masked(0x81, &padded(1001))),
        ("a header alone that claims 1 MiB", head(0x81, 1 << 20)),
        ("a header alone that claims 2^62 bytes", head(0x82, 1 << 62)),
        (
            "fragments",
            [masked(0x01, &[b' '; 600]), masked(0x00, &[b' '; 401])].concat(),
        ),
        (
            "a header of a fragment",
            [masked(0x01, &[b' '; 600]), head(0x80, 1 << 20)].concat(),
        ),
        (
            "5,000 empty fragments",
            [masked(0x01, b""), masked(0x00, b"").repeat(5000)].concat(),
        ),
    ];
    for (what, bytes) in cases {
        assert_eq!(scene.closed_by(&bytes), 1009, "{what}");
        scene.goes_on(what);
    }
}

#[test]
fn a_frame_cut_at_every_byte_is_still_one_frame() {
    let scene = scene();
    let mut client = scene.server.connect("");
    let frame = masked(
        0x81,
        json!({"op": "ping", "id": "x".repeat(60)})
            .to_string()
            .as_bytes(),
    );
    for byte in frame {
        client.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.json()["op"], "ack");
}

#[test]
fn what_comes_with_the_handshake_in_one_write_is_read() {
    let scene = scene();
    let mut socket = TcpStream::connect(scene.server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let bytes = [
        head.as_bytes(),
        &masked(0x81, br#"{"op":"ping","id":"early"}"#),
    ]
    .concat();
    socket.write_all(&bytes).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.windows(7).any(|window| window == b"\"early\"") {
        let n = socket.read(&mut buffer).unwrap();
        assert!(n > 0, "{:?}", String::from_utf8_lossy(&seen));
        seen.extend(&buffer[..n]);
    }
    let at = |text: &[u8]| {
        seen.windows(text.len())
            .position(|window| window == text)
            .unwrap()
    };
    assert!(at(b"welcome") < at(b"early"));
}

#[test]
fn after_a_violation_what_follows_is_not_looked_at() {
    let scene = scene();
    let mut client = scene.server.connect("");
    let bytes = [masked(0xc1, b"x"), masked(0x81, br#"{"op":"ping","id":1}"#)].concat();
    client.socket.write_all(&bytes).unwrap();
    assert!(matches!(client.message(), Received::Close(1002, _)));
    assert_eq!(client.message(), Received::End);
}

// Messages

#[test]
fn nested_and_odd_client_messages_end_at_most_their_own_connection() {
    let mut scene = scene();
    let deep = |open: &str, n: usize| open.repeat(n);
    for text in [
        deep("[", 60_000),
        deep("{\"a\":", 10_000),
        format!("{{\"op\":{}", deep("[", 50_000)),
        format!(
            "{{\"op\":\"ping\",\"id\":{}{}}}",
            deep("[", 20_000),
            deep("]", 20_000)
        ),
        format!(
            "{{\"op\":\"ping\",\"extra\":{}{}}}",
            deep("[", 20_000),
            deep("]", 20_000)
        ),
        format!("{{\"op\":\"{}\"}}", "x".repeat(60_000)),
        r#"{"op":"disconnect"}"#.to_owned(),
        r#"{"event":"disconnect","data":1}"#.to_owned(),
        r#"{"op":"ping","op":"auth"}"#.to_owned(),
        r#"{"op":"auth","token":"\ud800"}"#.to_owned(),
        "\u{feff}{\"op\":\"ping\"}".to_owned(),
    ] {
        let mut client = scene.server.connect("");
        client.frame(0x81, text.as_bytes());
        let cut: String = text.chars().take(40).collect();
        match client.message() {
            Received::Text(error) => {
                assert!(
                    error.starts_with(r#"{"op":"error""#) && error.len() < 600,
                    "{cut}: {error}"
                );
            }
            Received::Close(4009, _) => {}
            other => panic!("{cut}: {other:?}"),
        }
        scene.goes_on(&cut);
    }
}

#[test]
fn an_event_may_have_any_name_but_a_reserved_one() {
    let mut scene = scene();
    for name in [
        "disconnect",
        "error",
        "__proto__",
        "\u{0}",
        "\"},{\"",
        "é".repeat(64).as_str(),
    ] {
        scene.server.call("/v1/broadcast", &json!({"event": name}));
        for witness in &mut scene.witnesses {
            assert_eq!(witness.json(), json!({"event": name, "data": null}));
        }
    }
}

// Bodies and filters

#[test]
fn hostile_bodies_and_filters_are_refused_and_deliver_nothing() {
    let mut scene = scene();
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let filter = |text: &str| json!({"event": "x", "filter": text}).to_string();
    let bound = |text: &str, params: &str| {
        format!(
            r#"{{"event":"x","filter":{},"params":{params}}}"#,
            json!(text)
        )
    };
    for (what, body, code) in [
        (
            "data 100,000 deep",
            format!(r#"{{"event":"x","data":{}}}"#, deep(100_000)),
            "data_too_deep",
        ),
        (
            "params 100,000 deep",
            bound("true", &format!("{{\"a\":{}}}", deep(100_000))),
            "bad_params",
        ),
        (
            "to 100,000 deep",
            format!(r#"{{"event":"x","to":{}}}"#, deep(100_000)),
            "bad_field",
        ),
        (
            "an unknown field 100,000 deep",
            format!(r#"{{"event":"x","y":{}}}"#, deep(100_000)),
            "unknown_field",
        ),
        (
            "an unclosed body",
            format!(r#"{{"event":"x","data":{}"#, "[".repeat(100_000)),
            "bad_json",
        ),
        (
            "a filter of 5 KiB",
            filter(&format!("user == \"{}\"", "x".repeat(5 * 1024))),
            "filter_too_long",
        ),
        (
            "parentheses 200 deep",
            filter(&format!("{}true{}", "(".repeat(200), ")".repeat(200))),
            "filter_too_deep",
        ),
        (
            "negations 200 deep",
            filter(&format!("{}true", "!".repeat(201))),
            "filter_too_deep",
        ),
        (
            "lists 200 deep",
            filter(&format!("{} == 1", deep(200))),
            "filter_too_deep",
        ),
        (
            "a regex that explodes",
            filter("user.matches(\"(a{1000}){1000}\")"),
            "bad_regex",
        ),
        (
            "a regex that explodes in a param",
            bound("user.matches(params.p)", r#"{"p":"((x{100}){100}){100}"}"#),
            "bad_regex",
        ),
        (
            "a regex with a back reference",
            filter(r#"user.matches("(a)\\1")"#),
            "bad_regex",
        ),
        (
            "an unbound param",
            filter("user == params.nobody"),
            "unbound_param",
        ),
        (
            "an unbound param beside ||",
            filter("true || user == params.nobody"),
            "unbound_param",
        ),
        (
            "an unknown name beside ||",
            filter("true || nobody"),
            "undeclared_name",
        ),
        (
            "an unknown function beside ||",
            filter("true || nobody(1)"),
            "unknown_function",
        ),
    ] {
        let answer = scene
            .server
            .request("POST", "/v1/emit", &[], Some(body.as_bytes()));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{what}"
        );
        assert!(
            answer.text.len() < 2000,
            "{what}: {} bytes",
            answer.text.len()
        );
        scene.goes_on(what);
    }
}

#[test]
fn expensive_filters_end_in_errors_not_in_a_stalled_server() {
    let mut scene = scene();
    let list: Vec<u32> = (0..2000).collect();
    let nested = json!({"event": "x", "params": {"l": list},
        "filter": "params.l.all(a, params.l.all(b, params.l.all(c, a + b + c >= 0)))"});
    let receipt = scene.server.call("/v1/emit", &nested);
    assert_eq!(
        (&receipt["matched"], &receipt["filter_errors"]),
        (&json!(0), &json!(4))
    );
    scene.goes_on("nested macros");
    let regex = json!({"event": "x", "params": {"s": format!("{}b", "a".repeat(30_000))},
        "filter": "params.s.matches(\"^(a+)+$\")"});
    assert_eq!(scene.server.call("/v1/emit", &regex)["matched"], 0);
    scene.goes_on("a regex that would backtrack");
}

#[test]
fn an_empty_target_reaches_nobody() {
    let mut scene = scene();
    for to in [
        json!({}),
        json!({"users": []}),
        json!({"connections": []}),
        json!({"users": [], "connections": [""]}),
    ] {
        assert_eq!(
            scene
                .server
                .call("/v1/emit", &json!({"event": "x", "to": to}))["matched"],
            0
        );
        assert_eq!(
            scene.server.call("/v1/disconnect", &json!({ "to": to }))["disconnected"],
            0
        );
    }
    scene.goes_on("empty targets");
}

// Sockets

/// What the server says before it ends the socket.
fn last_words(mut socket: TcpStream) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut raw = Vec::new();
    match socket.read_to_end(&mut raw) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            panic!(
                "the socket stays open after {:?}",
                String::from_utf8_lossy(&raw)
            )
        }
        _ => String::from_utf8_lossy(&raw).into_owned(),
    }
}

#[test]
fn garbage_instead_of_http_is_refused_or_cut_off() {
    let mut scene = scene_with(|config| config.limits.handshake = Duration::from_secs(2));
    let long_head = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(1_000_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: y\r\n".repeat(1000)
    );
    let both = "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let lengths = "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                   Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}";
    for (what, bytes) in [
        (
            "a TLS hello",
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        ),
        ("zeros", &[0; 4096]),
        ("ones", &[0xff; 4096]),
        ("text", b"hello\r\n\r\n"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("a head of 1 MB", long_head.as_bytes()),
        ("1,000 headers", many.as_bytes()),
        ("two kinds of length", both.as_bytes()),
        ("two lengths", lengths.as_bytes()),
        ("nothing", b""),
    ] {
        let mut socket = TcpStream::connect(scene.server.address()).unwrap();
        let _ = socket.write_all(bytes);
        let said = last_words(socket);
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{what}: {said}"
        );
        scene.goes_on(what);
    }
}

#[test]
fn a_head_that_dribbles_is_cut_off_in_time() {
    let mut scene = scene_with(|config| config.limits.handshake = Duration::from_secs(2));
    let mut socket = TcpStream::connect(scene.server.address()).unwrap();
    let started = std::time::Instant::now();
    let dribble = b"GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    for byte in dribble {
        if socket.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "a head may dribble for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.goes_on("a slow head");
}

#[test]
fn a_second_head_that_dribbles_is_cut_off_too() {
    let mut scene = scene_with(|config| config.limits.handshake = Duration::from_secs(2));
    let mut socket = TcpStream::connect(scene.server.address()).unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
        .unwrap();
    let started = std::time::Instant::now();
    while socket.write_all(b"x").is_ok() {
        assert!(
            started.elapsed() < PATIENCE,
            "a second head may dribble for ever"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.goes_on("a slow second head");
}

#[test]
fn a_body_that_dribbles_is_cut_off_in_time() {
    let mut scene = scene_with(|config| config.limits.handshake = Duration::from_secs(2));
    let mut socket = TcpStream::connect(scene.server.address()).unwrap();
    let head = "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let started = std::time::Instant::now();
    while socket.write_all(b" ").is_ok() {
        assert!(started.elapsed() < PATIENCE, "a body may dribble for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.goes_on("a slow body");
}

#[test]
fn half_open_and_vanishing_sockets_leave_nothing_behind() {
    let mut scene = scene();
    for n in 0..20 {
        let client = scene.server.connect("device=vanishing");
        match n % 3 {
            0 => client.socket.shutdown(std::net::Shutdown::Both).unwrap(),
            1 => client.socket.shutdown(std::net::Shutdown::Write).unwrap(),
            _ => {
                let socket = socket2::SockRef::from(&client.socket);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        drop(client);
        // And one that goes in the middle of its handshake.
        let mut socket = TcpStream::connect(scene.server.address()).unwrap();
        socket
            .write_all(b"GET /v1/connect HTTP/1.1\r\nHost: loc")
            .unwrap();
    }
    eventually("only the witnesses are left", || {
        scene.server.count("fanfare_connections", "default") == 4
    });
    scene.goes_on("vanishing sockets");
}

#[test]
fn a_client_that_ignores_the_close_frame_is_reset() {
    let mut scene = scene();
    let mut stubborn = scene.server.connect("");
    let id = stubborn.id.clone();
    let body = json!({"to": {"connections": [id]}});
    assert_eq!(
        scene.server.call("/v1/disconnect", &body)["disconnected"],
        1
    );
    assert_eq!(stubborn.closed(), 4010);
    let ended = || scene.server.count("fanfare_closes_total", "code=\"4010\"") == 1;
    eventually("the socket is ended by the server", ended);
    scene.goes_on("a stubborn client");
}

#[test]
fn a_second_server_on_the_same_port_does_not_start_and_names_it() {
    let mut scene = scene();
    let mut config = config();
    config.listen = scene.server.address();
    let error = Server::start(config).unwrap_err();
    assert!(
        matches!(&error, StartError::Listen { address, .. } if *address == scene.server.address())
    );
    let port = scene.server.address().port().to_string();
    assert!(
        error.to_string().contains(&port) && error.to_string().contains("in use"),
        "{error}"
    );
    scene.goes_on("a second server");
}

#[test]
fn a_handshake_is_a_get() {
    let mut scene = scene();
    let mut socket = TcpStream::connect(scene.server.address()).unwrap();
    let head = "HEAD /v1/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut buffer = [0; 1024];
    let n = socket.read(&mut buffer).unwrap();
    let said = String::from_utf8_lossy(&buffer[..n]);
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    scene.goes_on("a handshake by HEAD");
}
