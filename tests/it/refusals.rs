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
    let server = logging(&[
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
        "--origin",
        "https://app.example",
    ]);
    let refused = |origin: &str| {
        let refused = open(&server, "", &[("Origin", origin)]).err();
        assert_eq!(refused.unwrap().status, 403);
    };
    for _ in 0..20 {
        refused("https://page.example");
    }
    // Another mistake is told within the same minute.
    refused("https://other.example");
    assert_eq!(count(&server, KEY, "origin"), 21);
    let log = log_of(server);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused"))
        .collect();
    let [line, other] = lines[..] else {
        panic!("{log}")
    };
    assert!(line.contains(" INFO "), "{line}");
    assert!(
        line.contains("the Origin \"https://page.example\" is not in origins of app \"default\""),
        "{line}"
    );
    assert!(line.contains("reason=\"origin\""), "{line}");
    assert!(
        other.contains("https://other.example") && other.contains("others=19"),
        "{other}"
    );
}

#[test]
fn in_development_each_try_is_a_line() {
    let server = logging(&[]);
    for _ in 0..3 {
        let refused = open(&server, "", &[("Origin", "https://page.example")]).err();
        assert_eq!(refused.unwrap().status, 403);
    }
    assert_eq!(count(&server, "", "origin"), 3);
    let log = log_of(server);
    let told = "the Origin \"https://page.example\" is not localhost, 127.0.0.1 or [::1]";
    let lines = log.lines().filter(|line| line.contains(told));
    assert_eq!(lines.count(), 3, "{log}");
}

#[test]
fn a_page_without_a_token_is_told_to_send_one() {
    let server = logging(&["--api-key", KEY, "--token-secret", SECRET]);
    for (query, says) in [
        (
            "",
            "a page without a token may not connect: send ?token= (or list the page in origins: \"http://a.example\")",
        ),
        (
            "access_token=x",
            "send ?token=, not \"access_token\" (or list the page",
        ),
    ] {
        let refused = open(&server, query, &[("Origin", "http://a.example")]).err();
        let refused = refused.unwrap();
        assert!(
            refused.text.replace("\\\"", "\"").contains(says),
            "{refused:?}"
        );
    }
}

#[test]
fn a_parameter_that_has_no_effect_is_told() {
    let server = logging(&[
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
        "--limit",
        "auth=100ms",
    ]);
    let closed = |query: &str| open(&server, query, &[]).unwrap().message();
    let reason =
        "no token came in time; a parameter of the address is like ?token= and is not: rename it";
    assert_eq!(closed("tokn=x"), Received::Close(4001, reason.into()));
    let Received::Close(4001, plain) = closed("t=1700000000") else {
        panic!("it is let in")
    };
    assert!(plain.contains("connect with ?token="), "{plain}");
    let log = log_of(server);
    let says = "the parameter \"tokn\", which has no effect; did you mean \"token\"?";
    assert!(log.contains(says), "{log}");
    assert!(!log.contains("1700000000"), "{log}");
}

#[test]
fn whoever_polls_is_refused_with_a_line_too() {
    let server = logging(&[
        "--protocol",
        "socketio",
        "--origin",
        "https://app.example.com",
    ]);
    let get = |method: &str, query: &str, headers: &[(&str, &str)]| {
        let path = format!("/socket.io/?{query}");
        request(server.address, method, &path, headers, None)
    };
    let page = [("Origin", "http://localhost:8000")];
    let refused = get("GET", "EIO=4&transport=polling", &page);
    assert_eq!(refused.status, 403);
    let says = "the Origin \"http://localhost:8000\" is not in origins of app \"default\"";
    assert_eq!(refused.json()["message"], says);
    let path = "/socket.io/?EIO=4&transport=websocket";
    let refused = Client::open(server.address, path, &page);
    assert_eq!(refused.err().map(|answer| answer.status), Some(403));
    let old = get("GET", "EIO=3&transport=polling", &[]);
    assert_eq!(old.json()["message"], "Unsupported protocol version");
    let carrier = get("GET", "EIO=4&transport=carrier", &[]);
    assert_eq!(carrier.json()["message"], "Transport unknown");
    let post = get("POST", "EIO=4&transport=polling", &[]);
    assert_eq!(post.json()["message"], "Bad handshake method");

    let mut client = Client::open(server.address, path, &[]).unwrap();
    assert!(client.text().starts_with("0{"));
    client.frame(0x81, b"40/chat,");
    assert_eq!(
        client.text(),
        r#"44/chat,{"message":"Invalid namespace","data":{"message":"add \"/chat\" to namespaces of the app's protocols.socketio"}}"#
    );
    for (reason, times) in [("origin", 2), ("protocol", 2), ("handshake", 2)] {
        assert_eq!(count(&server, "", reason), times, "{reason}");
    }
    let log = log_of(server);
    for says in [
        &*format!("refused: {says} (socketio)"),
        "refused: this is a client of Socket.IO 2 (EIO=3); versions 3 and 4 are served (socketio)",
        "refused: transport=\"carrier\" is not \"polling\" or \"websocket\" (socketio)",
        "refused: a connection begins with GET (socketio)",
        "refused: unknown namespace \"/chat\"",
    ] {
        let line = log.lines().find(|line| line.contains(says));
        assert!(
            line.is_some_and(|line| line.contains("app=\"default\"")),
            "{says}: {log}"
        );
    }
}

#[test]
fn a_path_where_clients_connect_by_mistake_is_told_what_to_do() {
    let server = logging(&[]);
    let plain = |path: &str| request(server.address, "GET", path, &[], None);
    let socket = |path: &str| Client::open(server.address, path, &[]).err().unwrap();
    let polling = "/socket.io/?EIO=4&transport=polling";
    for (answer, says) in [
        (
            plain(polling),
            "clients of Socket.IO here: start the server with --protocol socketio",
        ),
        (
            socket(polling),
            "clients of Socket.IO here: start the server with --protocol socketio",
        ),
        (
            socket("/mesa"),
            "clients of Mesa here: start the server with --protocol mesa",
        ),
        (socket("/rtm"), "--protocol zexcore"),
        (plain("/realtime/realtime/"), "--protocol agnost"),
        (plain("/socket.io/socket.io.js"), "take it from npm"),
        (socket("/"), "clients connect to /v1/connect"),
        (socket("/ws"), "clients connect to /v1/connect"),
        (socket("/healthz"), "clients connect to /v1/connect"),
        (socket("/v1/connections"), "clients connect to /v1/connect"),
    ] {
        assert_eq!((answer.status, &*answer.code()), (404, "unknown_path"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{detail}");
    }
    assert_eq!(plain("/").status, 200, "people see the page");
    assert_eq!(count(&server, "", "path"), 10);
    let log = log_of(server);
    assert!(
        log.contains("refused: this path takes no WebSocket"),
        "{log}"
    );
    assert!(
        log.contains("refused: no app serves clients of Mesa"),
        "{log}"
    );
}

#[test]
fn a_protocol_at_another_path_is_told_of() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(fanfare::ProtocolKind::SocketIo);
        app.protocols.socketio.as_mut().unwrap().path = "/chat/".to_owned();
    });
    let answer = server.get("/socket.io/?EIO=4&transport=polling");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("clients of Socket.IO connect to \"/chat\" here"),
        "{detail}"
    );
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
