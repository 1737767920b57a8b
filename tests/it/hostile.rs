//! What a hostile or broken peer sends ends at most its own connection, with the right code.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use crate::running::Running;
use crate::support::*;
use fanfare::{AppConfig, Scopes, Server, StartError, config::ClientAuth};
use serde_json::{Value, json};

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

#[test]
fn who_goes_on_sending_after_the_end_is_not_read_and_others_go_on() {
    let mut scene = scene();
    for payload in [&b""[..], br#"{"op":"ping"}"#, b"stored:12345678"] {
        for first in [0x81, 0x8a] {
            let mut client = scene.server.connect("");
            client.socket.set_nonblocking(true).unwrap();
            let block = masked(first, payload).repeat(10_000);
            let mut sent = 0;
            // What neither side's buffers take any more, nobody reads.
            let mut refused = 0;
            while refused < 20 && sent < 200 << 20 {
                match client.socket.write(&block) {
                    Ok(n) => (sent, refused) = (sent + n, 0),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        refused += 1;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => break,
                }
            }
            assert!(sent < 200 << 20, "{sent} bytes were read of {payload:?}");
            scene.goes_on("a flood");
        }
    }
    // Two of the six are texts that are no JSON.
    eventually("all were closed", || {
        let closed = |code| scene.server.count("fanfare_closes_total", code);
        (closed("code=\"4102\""), closed("code=\"4009\"")) == (4, 2)
    });
}

#[test]
fn a_profile_is_bounded_by_what_it_takes_in_memory() {
    let mut scene = scene_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.index = vec!["profile.tags".to_owned()];
    });
    let list = |item: &str, n: usize| format!("[{}]", vec![item; n].join(","));
    let objects: Vec<String> = (0..500).map(|n| format!("{{\"k{n}\":0}}")).collect();
    let mut client = scene.server.client("ann", &json!({}));
    for (what, data) in [
        ("empty objects", format!("{{\"a\":{}}}", list("{}", 2000))),
        ("empty lists", format!("{{\"a\":{}}}", list("[]", 2000))),
        ("short numbers", format!("{{\"a\":{}}}", list("1", 4000))),
        (
            "keys that nobody else has",
            format!("{{\"a\":[{}]}}", objects.join(",")),
        ),
        ("tags", format!("{{\"tags\":{}}}", list("1", 257))),
    ] {
        assert!(data.len() <= 8192, "{what}");
        client.frame(
            0x81,
            format!("{{\"op\":\"update\",\"id\":1,\"data\":{data}}}").as_bytes(),
        );
        let answer = client.json();
        assert_eq!(answer["code"], "profile_too_large", "{what}: {answer}");
        scene.goes_on(what);
    }
    let fits = json!({"tags": vec!["x"; 256], "text": "y".repeat(7000)});
    client.acked(&json!({"op": "update", "data": fits}));
    let metric = "fanfare_client_refusals_total";
    assert_eq!(scene.server.count(metric, "profile_too_large"), 5);
}

#[test]
fn claims_are_bounded_by_what_they_take_in_memory() {
    let mut scene = scene_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.tokens.push(token_key(SECRET));
        app.client_auth = Some(ClientAuth::Optional);
        app.index = vec!["auth.roles".to_owned()];
    });
    let token = |claims: Value| {
        let mut all = json!({"sub": "ann", "exp": unix_now() + 60});
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        signed(&all)
    };
    for claims in [
        json!({"a": vec![json!({}); 2000]}),
        json!({"roles": (0..257).collect::<Vec<_>>()}),
    ] {
        let mut client = scene.server.open(&format!("token={}", token(claims)));
        assert!(matches!(client.message(), Received::Close(4001, _)));
    }
    let roles = json!({"roles": (0..256).collect::<Vec<_>>()});
    let mut client = scene.server.open(&format!("token={}", token(roles)));
    assert_eq!(client.json()["user"], "ann");
    scene.goes_on("claims");
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

/// Sends `body`; meanwhile a client on each shard is answered as ever.
fn beside_pings(scene: &mut Scene, path: &str, body: &str) -> Answer {
    let Scene { witnesses, server } = scene;
    let answered = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let request = threads.spawn(|| {
            let answer = server.request("POST", path, &[], Some(body.as_bytes()));
            answered.store(true, SeqCst);
            answer
        });
        while !answered.load(SeqCst) {
            for witness in &mut *witnesses {
                let (_, pong) = witness.ask_amid(&json!({"op": "ping"}));
                assert_eq!(pong["op"], "ack");
            }
            // Faster than this, a witness would be over its own rate.
            std::thread::sleep(Duration::from_millis(25));
        }
        request.join().unwrap()
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of filters")]
fn a_filter_costs_no_more_than_it_is_charged() {
    let mut scene = scene();
    let many = |item: &str, times: usize| vec![item; times].join(",");
    let zeros = "0".repeat(220_000);
    let letters = "ab".repeat(120_000);
    let chain = |test: &str, times: usize| vec![test; times].join(" || ");
    let numbers = format!("[{}]", many("0", 10_000));
    let halves = many("0", 60_000);
    for (what, filter, params, errors) in [
        (
            "int() of a long text in a macro",
            "params.l.exists(i, int(params.z))".to_owned(),
            format!(r#"{{"l":{numbers},"z":"{zeros}"}}"#),
            4,
        ),
        (
            "int() of a long text many times",
            chain("int(params.z) == 1", 51),
            format!(r#"{{"z":"{zeros}"}}"#),
            4,
        ),
        (
            "a pattern with many places",
            "params.s.matches(params.p)".to_owned(),
            format!(r#"{{"s":"{letters}","p":"a[ab]{{100}}[cd]"}}"#),
            4,
        ),
        (
            "a list that holds a list, many times",
            chain("user in params.l", 63),
            format!(r#"{{"l":[[],{}]}}"#, many("0", 100_000)),
            0,
        ),
        (
            "two long lists that are alike, many times",
            chain("params.a == params.b", 51),
            format!(r#"{{"a":[{halves},1],"b":[{halves},2]}}"#),
            4,
        ),
        (
            "connection as a value in a macro",
            "params.l.exists(i, connection == i)".to_owned(),
            format!(r#"{{"l":{numbers}}}"#),
            4,
        ),
        (
            "a macro in a macro",
            "params.l.all(a, params.l.all(b, a + b >= 0))".to_owned(),
            format!(r#"{{"l":{numbers}}}"#),
            4,
        ),
    ] {
        let body = format!(
            r#"{{"event":"x","filter":{},"params":{params}}}"#,
            json!(filter)
        );
        let answer = beside_pings(&mut scene, "/v1/emit", &body);
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let receipt = answer.json();
        assert_eq!(
            (&receipt["matched"], &receipt["filter_errors"]),
            (&json!(0), &json!(errors)),
            "{what}"
        );

        // The same where every part of the filter is shown for one connection.
        let connection = &scene.witnesses[0].id;
        let body = format!(
            r#"{{"filter":{},"params":{params},"connection":"{connection}"}}"#,
            json!(filter)
        );
        let answer = beside_pings(&mut scene, "/v1/explain", &body);
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        assert_eq!(answer.json()["errored"], errors, "{what}");
        scene.goes_on(what);
    }
}

#[test]
fn a_heavy_filter_that_many_match_reaches_each_once() {
    let mut scene = scene();
    let mut clients: Vec<Client> = (0..60).map(|_| scene.server.connect("")).collect();
    // Of about a third of the work that ends a hold of the lock, so that a shard is gone through in many.
    let numbers: Vec<u32> = (0..30).collect();
    let body = json!({"event": "x", "params": {"l": numbers},
        "filter": "params.l.all(a, params.l.all(b, a + b >= 0))"});
    let answer = scene.server.call("/v1/emit", &body);
    assert_eq!(
        (&answer["matched"], &answer["queued"]),
        (&json!(64), &json!(64))
    );
    for client in scene.witnesses.iter_mut().chain(&mut clients) {
        assert_eq!(client.json(), json!({"event": "x", "data": null}));
        client.expect_nothing();
    }
}

#[test]
fn a_batch_of_new_filters_with_patterns_fills_no_more_than_the_cache() {
    let mut scene = scene_with(|config| config.limits.filter_cache_bytes = 512 * 1024);
    let item = |n: usize| {
        let tests: Vec<String> = (0..8)
            .map(|at| format!("user.matches('^[ab]{{40}}{n}-{at}$')"))
            .collect();
        json!({"call": "emit", "event": "x", "filter": tests.join(" || ")})
    };
    let items: Vec<_> = (0..100).map(item).collect();
    let body = json!({ "items": items }).to_string();
    let answer = beside_pings(&mut scene, "/v1/batch", &body).json();
    let results = answer["results"].as_array().unwrap();
    assert!(
        results.iter().all(|result| result["status"] == 200),
        "{answer}"
    );
    let kept = scene.server.count("fanfare_cached_filters", "");
    assert!((1..100).contains(&kept), "{kept}");

    let nine = ["user.matches(params.p)"; 9].join(" || ");
    let one = json!({"event": "x", "filter": nine, "params": {"p": "a"}});
    assert_eq!(
        scene.server.call("/v1/emit", &one)["filter_errors"],
        4,
        "one pattern, nine uses"
    );
    let nine = ["user.matches('a')"; 9].join(" || ");
    let refused = scene
        .server
        .post("/v1/emit", &json!({"event": "x", "filter": nine}));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "bad_regex")
    );
    scene.goes_on("many patterns");
}

#[test]
fn long_names_are_refused_without_a_suggestion() {
    let mut scene = scene();
    let name = "a".repeat(4000);
    let given = "b".repeat(230_000);
    let names: Vec<String> = (0..20_000).map(|n| format!("\"b{n:05}\":0")).collect();
    let unbound =
        |params: &str| format!(r#"{{"event":"e","filter":"params.{name}","params":{{{params}}}}}"#);
    for (what, body, code) in [
        (
            "a long param beside a long one",
            unbound(&format!("\"{given}\":0")),
            "unbound_param",
        ),
        (
            "a long param beside many",
            unbound(&names.join(",")),
            "unbound_param",
        ),
        (
            "a long field",
            format!(r#"{{"event":"e","{given}":0}}"#),
            "unknown_field",
        ),
    ] {
        let answer = beside_pings(&mut scene, "/v1/emit", &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{what}"
        );
        assert!(
            !answer.text.contains("did you mean"),
            "{what}: {}",
            answer.text
        );
        scene.goes_on(what);
    }
}

/// Sets its flag when it is dropped, also where an assertion fails: other threads would go on for ever.
struct End<'e>(&'e AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn heavy_filters_of_one_app_do_not_keep_another_app_waiting() {
    const OTHER: &str = "key-of-the-other-app-in-the-tests";
    let server = keyed_server(|config| {
        let other = AppConfig {
            keys: vec![api_key("other", OTHER, Scopes::ALL)],
            ..AppConfig::default()
        };
        config.apps.insert("other".to_owned(), other);
        config.limits.scans = 1;
        // One app's own filters wait, and are refused, soon.
        config.limits.admission_wait = Duration::from_millis(1);
    });
    let connect = |app: &str| server.connect(&format!("app={app}"));
    let _clients: Vec<Client> = (0..60).map(|_| connect("default")).collect();
    let _others: Vec<Client> = (0..5).map(|_| connect("other")).collect();

    let numbers: Vec<u32> = (0..40).collect();
    let heavy = json!({"event": "x", "params": {"l": numbers},
        "filter": "params.l.all(a, params.l.all(b, a + b >= 0)) && connection.device == 'x'"});
    let (ended, refused) = (AtomicBool::new(false), AtomicBool::new(false));
    let flood = || {
        while !ended.load(SeqCst) {
            let status = server.post_as(KEY, "/v1/emit", &heavy).status;
            refused.fetch_or(status == 503, SeqCst);
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..6 {
            threads.spawn(flood);
        }
        let _end = End(&ended);
        eventually("the app's own filters are refused", || refused.load(SeqCst));
        for _ in 0..20 {
            let answer = server.post_as(OTHER, "/v1/emit", &heavy);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
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

/// A socket on which `GET /healthz` was asked, and which rests since.
fn resting(server: std::net::SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {server}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    // One that was ended for another has no answer.
    let _ = socket.read(&mut [0; 1024]);
    socket
}

#[test]
fn idle_sockets_make_room_for_who_comes() {
    let server = server_with(|config| config.limits.http_sockets = 20);
    let mut held: Vec<TcpStream> = (0..50).map(|_| resting(server.address())).collect();
    held.extend((0..50).map(|_| TcpStream::connect(server.address()).unwrap()));

    let mut client = server.connect("");
    assert_eq!(server.get("/readyz").status, 200);
    server.call("/v1/broadcast", &json!({"event": "e"}));
    assert_eq!(client.json()["event"], "e");
    eventually("no more are open than may be", || {
        server.count("fanfare_http_sockets", "") <= 20
    });
    assert!(server.count("fanfare_http_sockets_ended_total", "") >= 80);

    // The client is none of them.
    client.send(&json!({"op": "ping"}));
    assert_eq!(client.json()["op"], "pong");
}

#[test]
fn with_few_descriptors_idle_sockets_keep_nobody_out() {
    let mut running = Running::shell(
        "ulimit -n 160; exec fanfare serve --listen 127.0.0.1:0 --shards 1 --log warn \
         --limit connections=20 --limit http_sockets=10000",
    );
    let welcome = running.line();
    let address = welcome.split_once("http://").unwrap().1;
    let address: std::net::SocketAddr = address.split(' ').next().unwrap().parse().unwrap();

    let _held: Vec<TcpStream> = (0..400).map(|_| resting(address)).collect();
    let _clients: Vec<Client> = (0..20)
        .map(|_| Client::open(address, "/v1/connect", &[]).unwrap())
        .collect();
    let ready = request(address, "GET", "/readyz", &[], None);
    assert_eq!(ready.status, 200, "{ready:?}");
}

#[test]
fn strangers_from_one_address_hold_few_sockets() {
    let server = keyed_server(|config| config.limits.connections_per_address = 5);
    let _held: Vec<TcpStream> = (0..200).map(|_| resting(server.address())).collect();
    let open = || {
        sum(
            &server.get_as(KEY, "/metrics").text,
            "fanfare_http_sockets",
            "",
        )
    };
    eventually("those of the address are few", || open() <= 33.0);
    drop(server.connect(""));
}

/// Sends a handshake of `lines`; the answer.
fn handshake(server: &TestServer, version: &str, lines: &str) -> Answer {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /v1/connect {version}\r\nHost: {}\r\n{lines}\r\n",
        server.address()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    parse_answer(&answer)
}

#[test]
fn handshakes_that_are_none_end_their_socket_and_keep_no_client_out() {
    const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let server = server_with(|config| config.limits.accepts_per_second = 1);
    let cases: Vec<(&str, String, u16)> = vec![
        ("no key", [UPGRADE, VERSION].concat(), 400),
        ("two keys", [UPGRADE, VERSION, KEY, KEY].concat(), 400),
        (
            "a key of 15 bytes",
            [
                UPGRADE,
                VERSION,
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n",
            ]
            .concat(),
            400,
        ),
        (
            "a key that is not base64",
            [
                UPGRADE,
                VERSION,
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q==\r\n",
            ]
            .concat(),
            400,
        ),
        ("no version", [UPGRADE, KEY].concat(), 426),
        (
            "two versions",
            [UPGRADE, VERSION, VERSION, KEY].concat(),
            426,
        ),
        ("no upgrade", [VERSION, KEY].concat(), 426),
        (
            "an unknown protocol",
            [UPGRADE, VERSION, KEY, "Sec-WebSocket-Protocol: x\r\n"].concat(),
            400,
        ),
        (
            "an origin that is refused",
            [UPGRADE, VERSION, KEY, "Origin: https://evil.example\r\n"].concat(),
            403,
        ),
    ];
    for (what, lines, status) in &cases {
        for _ in 0..5 {
            // Read to its end: the server closes.
            let answer = handshake(&server, "HTTP/1.1", lines);
            assert_eq!(answer.status, *status, "{what}: {answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{what}");
        }
    }
    let old = handshake(&server, "HTTP/1.0", &[UPGRADE, VERSION, KEY].concat());
    assert_eq!((old.status, old.code().as_str()), (400, "bad_handshake"));
    server.connect("");
}

#[test]
fn made_up_tokens_keep_no_client_out() {
    let server = keyed_server(|config| config.limits.accepts_per_second = 1);
    for _ in 0..20 {
        match server.try_open("token=made-up", &[]) {
            Ok(mut client) => assert_eq!(client.closed(), 4001),
            Err(answer) => assert_eq!(answer.code(), "accept_rate"),
        }
    }
    server.connect("");
}

#[test]
fn names_that_are_nobodys_are_refused_wherever_they_come_in() {
    let scene = scene_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.user_events = Some(fanfare::config::UserEvents::default());
        app.channels
            .insert(0, fanfare::config::ChannelRule::new("kept", 10));
    });
    let (user, device) = ("u".repeat(257), "d".repeat(129));
    let id = "0".repeat(65);
    for (path, field, body) in [
        (
            "/v1/emit",
            "to.users",
            json!({"to": {"users": ["u", user]}}),
        ),
        (
            "/v1/emit",
            "to.connections",
            json!({"to": {"connections": [id]}}),
        ),
        (
            "/v1/emit",
            "except.users",
            json!({"except": {"users": [user]}}),
        ),
        (
            "/v1/emit",
            "except.devices",
            json!({"except": {"devices": [device]}}),
        ),
        (
            "/v1/emit",
            "except.connections",
            json!({"except": {"connections": [id]}}),
        ),
        ("/v1/publish", "user", json!({"user": user})),
        ("/v1/publish", "users", json!({"users": [user]})),
        (
            "/v1/send",
            "except.devices",
            json!({"channel": "kept", "except": {"devices": [device]}}),
        ),
        ("/v1/dispatch", "recipients", json!({"recipients": [user]})),
        (
            "/v1/dispatch",
            "except",
            json!({"recipients": ["*"], "except": [user]}),
        ),
        (
            "/v1/join",
            "to.users",
            json!({"channel": "c", "to": {"users": [user]}}),
        ),
        (
            "/v1/disconnect",
            "to.users",
            json!({"to": {"users": [user]}}),
        ),
    ] {
        let mut body = body;
        if !matches!(path, "/v1/join" | "/v1/disconnect") {
            body["event"] = json!("e");
        }
        let answer = scene.server.post(path, &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "name_too_long"),
            "{body}"
        );
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains(&format!("\"{field}\"")),
            "{field}: {detail}"
        );
    }
    for path in [
        format!("/v1/users/{user}"),
        format!("/v1/channels?prefix={}", "c".repeat(201)),
    ] {
        let answer = scene.server.get(&path);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "name_too_long"),
            "{path}"
        );
    }

    // What a client sends ends in an error, and it stays.
    let mut client = scene.server.client("ann", &json!({}));
    for message in [
        json!({"op": "publish", "users": [user], "event": "e"}),
        json!({"op": "send", "channel": "kept", "event": "e", "except": {"users": [user]}}),
        json!({"op": "send", "channel": "kept", "event": "e", "except": {"devices": [device]}}),
    ] {
        client.send(&message);
        assert_eq!(client.json()["code"], "name_too_long", "{message}");
    }
    assert_eq!(scene.server.count("fanfare_history_events", ""), 0);
}

#[test]
fn one_call_stores_so_much_and_no_more() {
    let server = server_with(|config| {
        config.limits.stored_publication_bytes = 1 << 20;
        config.apps.values_mut().next().unwrap().user_events =
            Some(fanfare::config::UserEvents::default());
    });
    let publish = |users: usize, bytes: usize, store: bool| {
        let users: Vec<String> = (0..users).map(|n| n.to_string()).collect();
        let data = "x".repeat(bytes);
        server.post(
            "/v1/publish",
            &json!({"users": users, "event": "e", "data": data, "store": store}),
        )
    };
    for (users, bytes) in [(3000, 20), (100, 20_000)] {
        let refused = publish(users, bytes, true);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (413, "too_much_to_store")
        );
        assert_eq!(
            server.count("fanfare_history_events", ""),
            0,
            "all or nothing"
        );
        assert_eq!(publish(users, bytes, false).json()["stored"], 0);
    }
    assert_eq!(publish(40, 20_000, true).json()["stored"], 40);
}

#[test]
fn a_page_of_connections_is_bounded_in_bytes() {
    let server = server();
    let clients: Vec<Client> = (0..160)
        .map(|_| {
            let mut client = server.connect("");
            client.send(&json!({"op": "update", "id": 1, "data": {"a": "x".repeat(8000)}}));
            assert_eq!(client.json()["op"], "ack");
            client
        })
        .collect();
    let (mut listed, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let answer = server.get(&format!("/v1/connections?limit=1000{cursor}"));
        assert!(
            answer.text.len() < (1 << 20) + 16_384,
            "{}",
            answer.text.len()
        );
        let page = answer.json();
        for connection in page["connections"].as_array().unwrap() {
            listed.push(connection["id"].as_str().unwrap().to_owned());
        }
        pages += 1;
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut expected: Vec<String> = clients.iter().map(|client| client.id.clone()).collect();
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
    assert!(pages >= 2);
}

#[test]
fn close_codes_that_nobody_knows_are_counted_together() {
    let server = server();
    let mut clients: Vec<Client> = (3000..3020).map(|_| server.connect("")).collect();
    for (code, client) in (3000..).zip(&mut clients) {
        let body = json!({"to": {"connections": [client.id]}, "code": code});
        server.call("/v1/disconnect", &body);
        assert_eq!(client.closed(), code);
    }
    eventually("all are counted", || {
        server.count("fanfare_closes_total", "code=\"other\"") == 20
    });
    assert!(!server.get("/metrics").text.contains("code=\"3000\""));
}
