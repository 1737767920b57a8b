//! Those who are turned away can be found: one line in the log for each kind, and a count of all.

use std::{io::Write as _, net::TcpStream, process::Stdio};

use crate::{
    running::{Running, Served},
    support::*,
};
use serde_json::json;

/// `fanfare serve` that logs, on a free port.
fn logging(words: &[&str]) -> Served {
    Served::start_with(&[&["--listen", "127.0.0.1:0"], words].concat())
}

fn open(server: &Served, query: &str, headers: &[(&str, &str)]) -> Result<Client, Answer> {
    Client::open(server.address, &format!("/v1/connect?{query}"), headers)
}

/// How many were turned away for `reason`.
fn count(server: &Served, key: &str, reason: &str) -> u64 {
    let authorization = format!("Bearer {key}");
    let headers = [("Authorization", &*authorization)];
    let text = request(server.address, "GET", "/metrics", &headers, None).text;
    sum(
        &text,
        "fanfare_refusals_total",
        &format!("reason=\"{reason}\""),
    ) as u64
}

/// Everything that a server logged until it ended.
fn log_of(server: Served) -> String {
    let ended = server.terminate();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.error
}

#[test]
fn a_page_that_is_refused_again_and_again_is_one_line_and_every_try_is_counted() {
    let server = logging(&[]);
    for _ in 0..20 {
        let refused = open(&server, "", &[("Origin", "https://page.example")]).err();
        assert_eq!(refused.unwrap().status, 403);
    }
    assert_eq!(count(&server, "", "origin"), 20);
    let log = log_of(server);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused"))
        .collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains(" INFO "), "{line}");
    assert!(
        line.contains("the Origin \"https://page.example\" is not localhost, 127.0.0.1 or [::1]"),
        "{line}"
    );
    assert!(line.contains("reason=\"origin\""), "{line}");
}

#[test]
fn a_page_that_was_opened_as_a_file_is_told_to_be_served() {
    let server = logging(&[]);
    let refused = open(&server, "", &[("Origin", "null")]).err().unwrap();
    assert!(refused.text.contains("opened as a file"), "{refused:?}");
    assert!(log_of(server).contains("serve it on localhost"));
}

#[test]
fn in_development_each_reason_has_its_line() {
    let server = logging(&[
        "--limit",
        "connections=1",
        "--limit",
        "accepts_per_second=100000",
    ]);
    let local = format!("{}", server.address);
    let _only = open(&server, "", &[]).unwrap();
    let refused = |query: &str, headers: &[(&str, &str)]| {
        let refused = open(&server, query, headers);
        refused
            .err()
            .unwrap_or_else(|| panic!("{query} {headers:?}"))
            .status
    };
    assert_eq!(refused("", &[("Host", "fanfare.example")]), 403);
    assert_eq!(refused("", &[("Via", "1.1 proxy")]), 403);
    assert_eq!(refused("app=nobody's", &[]), 404);
    assert_eq!(refused("echo=perhaps", &[]), 400);
    assert_eq!(
        refused("", &[("Sec-WebSocket-Protocol", "graphql-ws")]),
        400
    );
    assert_eq!(refused("", &[]), 503);
    let astray = Client::open(server.address, "/socket", &[]);
    assert_eq!(astray.err().map(|answer| answer.status), Some(404));
    let plain = request(server.address, "GET", "/v1/connect", &[], None);
    assert_eq!(plain.status, 426);
    let text = [("Content-Type", "text/plain")];
    let form = request(server.address, "POST", "/v1/emit", &text, Some(b"{}"));
    assert_eq!(form.status, 415);
    let preflight = [
        ("Host", &*local),
        ("Origin", "http://localhost:3000"),
        ("Access-Control-Request-Method", "POST"),
    ];
    assert_eq!(
        request(server.address, "OPTIONS", "/v1/emit", &preflight, None).status,
        405
    );
    let reasons = [
        "host",
        "proxy",
        "app",
        "query",
        "protocol",
        "connections",
        "path",
        "handshake",
        "content_type",
        "preflight",
    ];
    for reason in reasons {
        assert_eq!(count(&server, "", reason), 1, "{reason}");
    }
    expect_lines(server, &reasons);
}

#[test]
fn with_keys_each_reason_has_its_line() {
    let server = logging(&[
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
        "--limit",
        "auth=100ms",
    ]);
    let closed = |query: &str| open(&server, query, &[]).unwrap().closed();
    let expired = signed(&json!({"sub": "ann", "exp": unix_now() - 60}));
    assert_eq!(closed("token=nonsense"), 4001);
    assert_eq!(closed(&format!("token={expired}")), 4005);
    assert_eq!(closed("key=pk_live_nobody"), 4001);
    assert_eq!(closed(""), 4001);
    let page = open(&server, "", &[("Origin", "https://page.example")]);
    assert_eq!(page.err().map(|answer| answer.status), Some(403));
    let wrong = [("Authorization", "Bearer not-a-key-of-this-server")];
    assert_eq!(
        request(server.address, "GET", "/v1/connections", &wrong, None).status,
        401
    );
    let reasons = [
        "token",
        "token_expired",
        "client_key",
        "token_missing",
        "origin",
        "api_key",
    ];
    for reason in reasons {
        assert_eq!(count(&server, KEY, reason), 1, "{reason}");
    }
    let log = expect_lines(server, &reasons);
    assert!(!log.contains(KEY) && !log.contains(SECRET), "{log}");
    let of_app = log.lines().filter(|line| line.contains("app=\"default\""));
    // The API key that nobody has is of no app.
    assert_eq!(of_app.count(), reasons.len() - 1, "{log}");
}

#[test]
fn a_lack_of_room_is_a_warning() {
    let server = logging(&["--limit", "connections_per_address=1"]);
    let _held = open(&server, "", &[]).unwrap();
    for _ in 0..3 {
        let second = open(&server, "", &[]);
        assert_eq!(second.err().map(|answer| answer.status), Some(503));
    }
    assert_eq!(count(&server, "", "address"), 3);
    let log = expect_lines(server, &["address"]);
    assert!(
        log.lines()
            .any(|line| line.contains(" WARN ") && line.contains("refused: ")),
        "{log}"
    );
}

/// Expects one line for each of `reasons`, and no other about refusals.
fn expect_lines(server: Served, reasons: &[&str]) -> String {
    let log = log_of(server);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused: "))
        .collect();
    for reason in reasons {
        let label = format!("reason=\"{reason}\"");
        let of_it = lines.iter().filter(|line| line.contains(&label));
        assert_eq!(of_it.count(), 1, "{reason}: {log}");
    }
    assert_eq!(lines.len(), reasons.len(), "{log}");
    log
}

#[test]
fn who_can_connect_and_what_is_lost_is_said_when_a_server_starts() {
    let mut running = Running::start(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--token-secret",
            SECRET,
            "--store-user-events",
        ],
        &[],
        Stdio::null(),
    );
    running.expect_error("clients: only with a token");
    running.expect_error("callers: everyone on this machine");
    running.expect_error("kept: events for users, in memory only");
    let check = crate::running::run(&["check", "--token-secret", SECRET]).expect(0);
    assert!(check.contains("\nclients: only with a token"), "{check}");
}

#[test]
fn a_socket_that_says_nothing_is_no_refusal() {
    let server = logging(&[]);
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.write_all(b"GET /v1/conn").unwrap();
    drop(socket);
    assert_eq!(count(&server, "", "handshake"), 0);
    assert!(!log_of(server).contains("refused"));
}
