//! The HTTP API as its callers see it: every call's fields and meaning, every refusal, keys and apps.

mod channels;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    time::Duration,
};

use crate::support::*;
use fanfare::{
    config::{AppConfig, ChannelRule, ClientAuth, Scope, Scopes, TokenAlgorithm, UserEvents},
    filter::FilterErrorKind,
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/reference/http.md");
const ERRORS: &str = include_str!("../../docs/reference/errors.md");
const METRICS: &str = include_str!("../../docs/reference/metrics.md");

/// `matched` of the answer to a successful call.
fn matched(server: &TestServer, path: &str, body: &Value) -> u64 {
    let receipt = server.call(path, body);
    assert_eq!(receipt["matched"], receipt["queued"], "{receipt}");
    receipt["matched"].as_u64().unwrap()
}

fn refusal(server: &TestServer, path: &str, body: &Value) -> (u16, String) {
    let answer = server.post(path, body);
    (answer.status, answer.code())
}

/// The names of the events that a client has had.
fn events(client: &mut Client) -> Vec<String> {
    client.frame(0x89, b"end");
    let mut names = Vec::new();
    loop {
        match client.message() {
            Received::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                names.push(event["event"].as_str().unwrap_or("?").to_owned());
            }
            Received::Pong(payload) if payload == b"end" => return names,
            Received::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

// Publishing

#[test]
fn publish_reaches_every_connection_of_its_users_and_nobody_else() {
    let server = server();
    let (mut ann, mut again) = (
        server.client("ann", &json!({})),
        server.client("ann", &json!({})),
    );
    let (mut bob, mut cid) = (
        server.client("bob", &json!({})),
        server.client("cid", &json!({})),
    );
    let mut anonymous = server.connect("");
    assert_eq!(
        matched(
            &server,
            "/v1/publish",
            &json!({"user": "ann", "event": "one"})
        ),
        2
    );
    assert_eq!(
        matched(
            &server,
            "/v1/publish",
            &json!({"users": ["ann", "bob", "ann"], "event": "two"})
        ),
        3
    );
    assert_eq!(
        matched(
            &server,
            "/v1/publish",
            &json!({"users": [], "event": "nobody"})
        ),
        0
    );
    assert_eq!(
        matched(
            &server,
            "/v1/publish",
            &json!({"user": "stranger", "event": "nobody"})
        ),
        0
    );
    assert_eq!(events(&mut ann), ["one", "two"]);
    assert_eq!(events(&mut again), ["one", "two"]);
    assert_eq!(events(&mut bob), ["two"]);
    assert_eq!(events(&mut cid), [""; 0]);
    assert_eq!(events(&mut anonymous), [""; 0]);
}

#[test]
fn broadcast_reaches_everyone_less_the_exceptions() {
    let server = server();
    let mut ann = server.client("ann", &json!({"age": 20}));
    let mut laptop = server.connect("device=laptop");
    let mut phone = server.connect("device=phone");
    assert_eq!(
        matched(
            &server,
            "/v1/broadcast",
            &json!({"event": "all", "data": 1})
        ),
        3
    );
    let except = json!({"users": ["ann"], "devices": ["laptop"], "connections": ["nonsense"]});
    assert_eq!(
        matched(
            &server,
            "/v1/broadcast",
            &json!({"event": "some", "except": except})
        ),
        1
    );
    let except = json!({"connections": [phone.id]});
    assert_eq!(
        matched(
            &server,
            "/v1/broadcast",
            &json!({"event": "others", "except": except})
        ),
        2
    );
    let filtered =
        json!({"event": "adults", "filter": "auth.age >= params.a", "params": {"a": 18}});
    assert_eq!(matched(&server, "/v1/broadcast", &filtered), 1);
    assert_eq!(events(&mut ann), ["all", "others", "adults"]);
    assert_eq!(events(&mut laptop), ["all", "others"]);
    assert_eq!(events(&mut phone), ["all", "some"]);
}

#[test]
fn dispatch_reaches_its_recipients_or_everyone_and_never_whom_it_excepts() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    let mut anonymous = server.connect("");
    let dispatch = |body: Value| matched(&server, "/v1/dispatch", &body);
    assert_eq!(
        dispatch(json!({"recipients": ["ann", "bob"], "event": "a", "except": ["bob"]})),
        1
    );
    assert_eq!(
        dispatch(json!({"recipients": ["*"], "event": "b", "except": ["ann"]})),
        2
    );
    assert_eq!(dispatch(json!({"recipients": ["*"], "event": "c"})), 3);
    assert_eq!(dispatch(json!({"recipients": [], "event": "d"})), 0);
    assert_eq!(
        dispatch(json!({"recipients": ["*"], "event": "e", "filter": "user == \"bob\""})),
        1
    );
    let except = json!({"users": ["ann"], "connections": [anonymous.id]});
    assert_eq!(
        dispatch(json!({"recipients": ["*"], "event": "f", "except": except})),
        1
    );
    assert_eq!(events(&mut ann), ["a", "c"]);
    assert_eq!(events(&mut bob), ["b", "c", "e", "f"]);
    assert_eq!(events(&mut anonymous), ["b", "c"]);
}

#[test]
fn emit_sends_once_to_the_union_of_what_it_names_narrowed_by_the_filter() {
    let server = server();
    let mut ann = server.client("ann", &json!({"team": "red"}));
    let mut bob = server.client("bob", &json!({"team": "blue"}));
    let mut anonymous = server.connect("");
    let emit = |body: Value| matched(&server, "/v1/emit", &body);
    let to = json!({"users": ["ann", "bob"], "connections": [ann.id, anonymous.id, anonymous.id, "nonsense"]});
    assert_eq!(emit(json!({"event": "union", "to": to})), 3);
    assert_eq!(
        emit(json!({"event": "red", "to": to, "filter": "auth.team == \"red\""})),
        1
    );
    assert_eq!(
        emit(json!({"event": "less", "to": to, "except": {"users": ["ann"]}})),
        2
    );
    assert_eq!(emit(json!({"event": "everyone"})), 3);
    for nobody in [
        json!({}),
        json!({"users": []}),
        json!({"connections": ["nonsense"]}),
    ] {
        assert_eq!(
            emit(json!({"event": "nobody", "to": nobody})),
            0,
            "{nobody}"
        );
        assert_eq!(
            emit(json!({"event": "nobody", "to": nobody, "filter": "true"})),
            0,
            "{nobody}"
        );
    }
    assert_eq!(events(&mut ann), ["union", "red", "everyone"]);
    assert_eq!(events(&mut bob), ["union", "less", "everyone"]);
    assert_eq!(events(&mut anonymous), ["union", "less", "everyone"]);
}

#[test]
fn null_in_place_of_a_target_or_a_filter_is_refused_and_never_means_everyone() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    for field in ["to", "filter", "except", "params"] {
        let mut body = json!({"event": "e", "to": {"users": ["ann"]}, "filter": "true"});
        body[field] = Value::Null;
        assert_eq!(server.post("/v1/emit", &body).status, 400, "{body}");
        let mut body = json!({"to": {"users": ["ann"]}, "filter": "true"});
        body[field] = Value::Null;
        assert_eq!(server.post("/v1/disconnect", &body).status, 400, "{body}");
    }
    client.expect_nothing();
}

#[test]
fn data_arrive_byte_for_byte() {
    let server = server();
    let mut client = server.connect("");
    for data in [
        "12345678901234567890",
        "1.0",
        "1e2",
        "-0",
        "null",
        r#"{"b":1,"a":{"z":[],"y":{}},"b":2}"#,
        r#""\u00e9\/\n\ud83d\ude00 é""#,
        "[ 1 ,\t2,\n 3 ]",
    ] {
        let body = format!("{{ \"data\" : {data} , \"event\":\"e\" }}");
        let answer = server.request("POST", "/v1/emit", &[], Some(body.as_bytes()));
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(
            client.text(),
            format!("{{\"event\":\"e\",\"data\":{data}}}")
        );
    }
    server.call("/v1/emit", &json!({"event": "without"}));
    assert_eq!(client.text(), r#"{"event":"without","data":null}"#);
}

#[test]
fn bytes_arrive_in_a_binary_frame_behind_their_header() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    let calls = [
        ("/v1/emit", json!({"event": "e\"", "data_base64": "AP8B"})),
        (
            "/v1/publish",
            json!({"event": "e\"", "data_base64": "AP8B", "user": "ann"}),
        ),
        (
            "/v1/broadcast",
            json!({"event": "e\"", "data_base64": "AP8B"}),
        ),
        (
            "/v1/dispatch",
            json!({"event": "e\"", "data_base64": "AP8B", "recipients": ["ann"]}),
        ),
    ];
    for (path, body) in calls {
        server.call(path, &body);
        let header = br#"{"event":"e\""}"#;
        let mut expected = vec![1, 0, header.len() as u8];
        expected.extend(header);
        expected.extend([0, 255, 1]);
        assert_eq!(client.message(), Received::Binary(expected), "{path}");
    }
}

#[test]
fn what_one_caller_sends_one_after_another_arrives_in_that_order() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    for n in 0..50 {
        let body = match n % 3 {
            0 => json!({"event": "e", "data": n}),
            1 => json!({"event": "e", "data": n, "to": {"users": ["ann"]}}),
            _ => json!({"event": "e", "data": n, "filter": "size(user) == 3"}),
        };
        server.call("/v1/emit", &body);
    }
    for n in 0..50 {
        assert_eq!(client.json()["data"], n);
    }
}

#[test]
fn a_receipt_has_every_count() {
    let server = server();
    let _ann = server.client("ann", &json!({"age": "old"}));
    let _bob = server.client("bob", &json!({"age": 30}));
    let body =
        json!({"event": "e", "filter": "auth.age >= 18", "scope": "node", "receipt": "cluster"});
    let mut receipt = server.call("/v1/emit", &body);
    let id: uuid::Uuid = receipt["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    receipt["id"] = Value::Null;
    assert_eq!(
        receipt,
        json!({"id": null, "matched": 1, "queued": 1, "dropped": 0, "stored": 0, "filter_errors": 1, "nodes": 1,
               "missing_nodes": []})
    );
    assert_eq!(server.count("fanfare_filter_errors_total", "default"), 1);
    assert_eq!(server.count("fanfare_encodings_total", "default"), 1);
}

#[test]
fn what_is_for_users_is_kept_for_those_who_are_away_where_the_app_says_so() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.user_events = Some(UserEvents::default());
    });
    let mut bob = server.client("bob", &json!({}));
    let stored = |path: &str, body: Value| {
        let receipt = server.call(path, &body);
        assert_eq!(receipt.get("publications"), None, "{receipt}");
        (
            receipt["stored"].as_u64().unwrap(),
            receipt["matched"].as_u64().unwrap(),
        )
    };
    assert_eq!(
        stored(
            "/v1/publish",
            json!({"users": ["ann", "bob", "ann"], "event": "a", "store": true})
        ),
        (2, 1)
    );
    let less = json!({"recipients": ["ann", "bob"], "except": ["bob"], "event": "b"});
    assert_eq!(stored("/v1/dispatch", less), (1, 0));
    assert_eq!(
        stored(
            "/v1/emit",
            json!({"to": {"users": ["ann"]}, "event": "c", "filter": "true"})
        ),
        (0, 0)
    );
    assert_eq!(
        stored(
            "/v1/publish",
            json!({"user": "ann", "event": "d", "store": false})
        ),
        (0, 0)
    );
    assert_eq!(
        stored(
            "/v1/emit",
            json!({"to": {"users": ["ann"], "channels": ["x"]}, "event": "e"})
        ),
        (0, 0)
    );
    let data = json!({"user": "ann", "event": "f", "data_base64": "AP8="});
    assert_eq!(stored("/v1/publish", data), (1, 0));
    assert_eq!(
        refusal(
            &server,
            "/v1/broadcast",
            &json!({"event": "e", "store": true})
        ),
        (400, "cannot_store".into())
    );
    assert_eq!(bob.json()["event"], "a");
    let mut ann = server.client("ann", &json!({}));
    assert_eq!(
        (ann.json()["event"].clone(), ann.json()["event"].clone()),
        (json!("a"), json!("b"))
    );
    assert!(matches!(ann.message(), Received::Binary(bytes) if bytes.ends_with(&[0, 255])));
    ann.expect_nothing();
}

#[test]
fn a_batch_answers_item_by_item_and_one_bad_item_stops_no_other() {
    let server = server();
    let mut ann = server.client("ann", &json!({}));
    let items = json!([
        {"call": "emit", "event": "a"},
        {"call": "emit", "event": ""},
        {"call": "publish", "user": "ann", "event": "b"},
        {"call": "dance"},
        {"event": "no call"},
        {"call": "broadcast", "event": "c", "to": {}},
        [],
        {"call": "dispatch", "recipients": ["*"], "except": ["ann"], "event": "d"},
        {"call": "broadcast", "event": "e", "data": 5},
    ]);
    let answer = server.call("/v1/batch", &json!({ "items": items }));
    let seen: Vec<(u64, &str)> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            (
                result["status"].as_u64().unwrap(),
                result["error"]["code"].as_str().unwrap_or("ok"),
            )
        })
        .collect();
    let expected = [
        (200, "ok"),
        (400, "event_name_length"),
        (200, "ok"),
        (400, "unknown_call"),
        (400, "missing_field"),
        (400, "unknown_field"),
        (400, "bad_json"),
        (200, "ok"),
        (200, "ok"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(answer["results"][7]["result"]["matched"], 0);
    assert_eq!(events(&mut ann), ["a", "b", "e"]);
    assert_eq!(
        server.call("/v1/batch", &json!({"items": []})),
        json!({"results": []})
    );
}

#[test]
fn a_caller_that_hangs_up_during_a_large_emit_changes_nothing() {
    let server = server();
    // Over 100, so that the publication is a large one.
    let mut clients: Vec<Client> = (0..130).map(|_| server.connect("")).collect();
    for round in 0..5 {
        let body =
            json!({"event": "e", "data": round, "filter": "size(connection.id) == 26"}).to_string();
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let head = format!(
            "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).unwrap();
        drop(socket);
        for client in &mut clients {
            assert_eq!(client.json()["data"], round);
        }
    }
    for client in &mut clients {
        client.expect_nothing();
    }
}

// Idempotency

fn emit_with_key(server: &TestServer, key: &str, body: &Value) -> Answer {
    server.request(
        "POST",
        "/v1/emit",
        &[("Idempotency-Key", key)],
        Some(body.to_string().as_bytes()),
    )
}

#[test]
fn a_repeat_with_the_same_key_gets_the_first_answer_and_sends_nothing() {
    let server = server();
    let mut client = server.connect("");
    let body = json!({"event": "once"});
    let first = emit_with_key(&server, "k", &body);
    assert_eq!(first.status, 200);
    assert_eq!(first.header("idempotency-replayed"), None);
    let repeated = emit_with_key(&server, "k", &body);
    assert_eq!(repeated.text, first.text);
    assert_eq!(repeated.header("idempotency-replayed"), Some("true"));
    let other = emit_with_key(&server, "other", &body);
    assert_ne!(other.text, first.text);
    assert_eq!(other.header("idempotency-replayed"), None);
    let reused = emit_with_key(&server, "k", &json!({"event": "else"}));
    assert_eq!(
        (reused.status, reused.code().as_str()),
        (422, "idempotency_key_reused")
    );
    // The same key on another path is another key.
    let broadcast = server.request(
        "POST",
        "/v1/broadcast",
        &[("Idempotency-Key", "k")],
        Some(br#"{"event":"path"}"#),
    );
    assert_eq!(broadcast.status, 200);
    assert_eq!(events(&mut client), ["once", "once", "path"]);
}

#[test]
fn requests_with_the_same_key_at_the_same_time_send_one_event() {
    let server = server();
    let mut client = server.connect("");
    let body = json!({"event": "once", "filter": "true"});
    let answers: BTreeSet<String> = std::thread::scope(|scope| {
        let call = || emit_with_key(&server, "k", &body);
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap().text)
            .collect()
    });
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(events(&mut client), ["once"]);
}

#[test]
fn after_an_error_the_key_is_free() {
    let server = server();
    assert_eq!(
        emit_with_key(&server, "k", &json!({"event": ""})).status,
        400
    );
    assert_eq!(
        emit_with_key(&server, "k", &json!({"event": "e"})).status,
        200
    );
}

#[test]
fn a_key_is_1_to_128_ascii_bytes() {
    let server = server();
    let body = json!({"event": "e"});
    assert_eq!(emit_with_key(&server, &"k".repeat(128), &body).status, 200);
    for key in ["", &"k".repeat(129), "schlüssel"] {
        assert_eq!(
            emit_with_key(&server, key, &body).code(),
            "idempotency_key_length",
            "{key}"
        );
    }
}

#[test]
fn a_repeated_batch_runs_only_what_failed() {
    let server = server();
    let mut ann = server.client("ann", &json!({}));
    let broken = json!({"call": "emit", "event": "b", "filter": "user == params.u"});
    let items =
        json!({"items": [{"call": "emit", "event": "a"}, broken, {"call": "emit", "event": "c"}]});
    let batch = |body: &Value| {
        let body = body.to_string();
        server.request(
            "POST",
            "/v1/batch",
            &[("Idempotency-Key", "k")],
            Some(body.as_bytes()),
        )
    };
    let (first, second) = (batch(&items), batch(&items));
    for answer in [&first, &second] {
        // An item runs again, so neither answer is one that was given before.
        assert_eq!(answer.header("idempotency-replayed"), None);
    }
    let (first, second) = (first.json(), second.json());
    assert_eq!(first["results"][0], second["results"][0]);
    assert_eq!(second["results"][1]["error"]["code"], "unbound_param");
    assert_eq!(first["results"][2], second["results"][2]);
    assert_eq!(events(&mut ann), ["a", "c"]);
    assert_eq!(batch(&json!({"items": []})).status, 422);
}

#[test]
fn a_batch_is_a_replay_if_all_its_items_are() {
    let server = server();
    let mut client = server.connect("");
    let items = json!({"items": [{"call": "emit", "event": "a"}, {"call": "emit", "event": "b"}]});
    let batch = || {
        let body = items.to_string();
        let headers = [("Idempotency-Key", "k")];
        server.request("POST", "/v1/batch", &headers, Some(body.as_bytes()))
    };
    let (first, second) = (batch(), batch());
    assert_eq!(first.text, second.text);
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(events(&mut client), ["a", "b"]);
}

#[test]
fn a_caller_with_a_key_that_hangs_up_finds_the_answer_when_it_comes_back() {
    let server = server();
    let mut client = server.connect("");
    let body = r#"{"event":"once"}"#;
    let mut socket = TcpStream::connect(server.address()).unwrap();
    let head = "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let head = format!(
        "{head}Idempotency-Key: k\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    drop(socket);
    assert_eq!(client.json()["event"], "once");
    assert_eq!(
        emit_with_key(&server, "k", &json!({"event": "once"})).status,
        200
    );
    client.expect_nothing();
}

#[test]
fn a_full_store_of_answers_refuses_new_keys() {
    let server = server_with(|config| config.limits.idempotency_entries = 1);
    let body = json!({"event": "e"});
    assert_eq!(emit_with_key(&server, "a", &body).status, 200);
    let full = emit_with_key(&server, "b", &body);
    assert_eq!(
        (full.status, full.code().as_str()),
        (503, "idempotency_store_full")
    );
    assert!(full.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(emit_with_key(&server, "a", &body).status, 200);
}

#[test]
fn an_app_that_fills_the_store_of_answers_keeps_no_other_apps_key_out() {
    const OTHER_KEY: &str = "key-of-the-other-app-in-the-tests";
    let server = keyed_server(|config| {
        config.limits.idempotency_entries = 10;
        let mut other = AppConfig::default();
        other.keys.push(api_key("other", OTHER_KEY, Scopes::ALL));
        other.client_auth = Some(ClientAuth::Off);
        config.apps.insert("other".to_owned(), other);
    });
    let emit = |api_key: &str, key: &str| {
        server.request(
            "POST",
            "/v1/emit",
            &[
                ("Authorization", &format!("Bearer {api_key}")),
                ("Idempotency-Key", key),
            ],
            Some(br#"{"event":"e"}"#),
        )
    };
    for n in 0..10 {
        assert_eq!(emit(KEY, &n.to_string()).status, 200);
    }
    assert_eq!(emit(KEY, "more").code(), "idempotency_store_full");
    for n in 0..5 {
        let first = emit(OTHER_KEY, &n.to_string());
        assert_eq!(first.status, 200, "{n}");
        assert_eq!(emit(OTHER_KEY, &n.to_string()).json(), first.json());
    }
}

// Refusals

#[test]
fn every_wrong_publishing_body_has_its_code_and_delivers_nothing() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    let deep = format!(
        r#"{{"event":"e","data":{}{}}}"#,
        "[".repeat(129),
        "]".repeat(129)
    );
    let deep_params = format!(
        r#"{{"event":"e","filter":"true","params":{{"a":{}{}}}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let names = format!(
        r#"{{"event":"e","to":{{"users":[{}"u"]}}}}"#,
        "\"u\",".repeat(10_000)
    );
    for (path, body, code) in [
        ("/v1/emit", "", "bad_json"),
        ("/v1/emit", "{", "bad_json"),
        ("/v1/emit", "[]", "bad_json"),
        ("/v1/emit", "null", "bad_json"),
        ("/v1/emit", "{\"event\":\"e\"}{}", "bad_json"),
        ("/v1/emit", "{\"event\":\"e\",}", "bad_json"),
        ("/v1/emit", "{}", "missing_field"),
        ("/v1/emit", r#"{"event":7}"#, "bad_field"),
        ("/v1/emit", r#"{"event":"e","event":"f"}"#, "bad_field"),
        (
            "/v1/emit",
            r#"{"event":"e","fitler":"true"}"#,
            "unknown_field",
        ),
        (
            "/v1/emit",
            r#"{"event":"e","call":"emit"}"#,
            "unknown_field",
        ),
        ("/v1/emit", r#"{"event":"e","user":"ann"}"#, "unknown_field"),
        (
            "/v1/emit",
            r#"{"event":"e","to":{"user":["ann"]}}"#,
            "unknown_field",
        ),
        ("/v1/emit", r#"{"event":"e","to":"ann"}"#, "bad_field"),
        (
            "/v1/emit",
            r#"{"event":"e","to":{"users":"ann"}}"#,
            "bad_field",
        ),
        ("/v1/emit", r#"{"event":"e","except":["ann"]}"#, "bad_field"),
        ("/v1/emit", r#"{"event":"e","filter":1}"#, "bad_field"),
        ("/v1/emit", r#"{"event":"e","scope":"planet"}"#, "bad_field"),
        (
            "/v1/emit",
            r#"{"event":"e","receipt":"planet"}"#,
            "bad_field",
        ),
        (
            "/v1/emit",
            r#"{"event":"e","data":1,"data_base64":""}"#,
            "bad_field",
        ),
        (
            "/v1/emit",
            r#"{"event":"e","data_base64":"A"}"#,
            "bad_base64",
        ),
        ("/v1/emit", r#"{"event":"e","store":true}"#, "cannot_store"),
        ("/v1/emit", r#"{"event":""}"#, "event_name_length"),
        (
            "/v1/emit",
            r#"{"event":"fanfare:welcome"}"#,
            "event_name_reserved",
        ),
        ("/v1/emit", &deep, "data_too_deep"),
        ("/v1/emit", r#"{"event":"e","params":1}"#, "bad_params"),
        ("/v1/emit", &deep_params, "bad_params"),
        ("/v1/emit", &names, "too_many_names"),
        ("/v1/publish", r#"{"event":"e"}"#, "missing_field"),
        (
            "/v1/publish",
            r#"{"event":"e","user":"ann","users":["ann"]}"#,
            "bad_field",
        ),
        (
            "/v1/publish",
            r#"{"event":"e","user":"ann","to":{}}"#,
            "unknown_field",
        ),
        ("/v1/broadcast", r#"{"event":"e","to":{}}"#, "unknown_field"),
        ("/v1/dispatch", r#"{"event":"e"}"#, "missing_field"),
        (
            "/v1/dispatch",
            r#"{"event":"e","recipients":["*","ann"]}"#,
            "bad_field",
        ),
        (
            "/v1/dispatch",
            r#"{"event":"e","recipients":["*"],"except":"ann"}"#,
            "bad_field",
        ),
        (
            "/v1/dispatch",
            r#"{"event":"e","recipients":["*"],"except":{"user":["ann"]}}"#,
            "unknown_field",
        ),
        (
            "/v1/dispatch",
            r#"{"event":"e","recipients":["*"],"to":{}}"#,
            "unknown_field",
        ),
        ("/v1/batch", "{}", "missing_field"),
        ("/v1/batch", r#"{"items":{}}"#, "bad_field"),
        ("/v1/batch", r#"{"items":[],"all":true}"#, "unknown_field"),
    ] {
        let answer = server.request("POST", path, &[], Some(body.as_bytes()));
        let cut: String = body.chars().take(80).collect();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{path} {cut}: {answer:?}"
        );
        let problem = answer.json();
        assert_eq!(problem["type"], format!("urn:fanfare:problem:{code}"));
        assert_eq!(
            (&problem["status"], &problem["title"]),
            (&json!(400), &json!("Bad Request"))
        );
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let items: Vec<Value> = (0..101)
        .map(|_| json!({"call": "broadcast", "event": "e"}))
        .collect();
    assert_eq!(
        refusal(&server, "/v1/batch", &json!({ "items": items })),
        (400, "too_many_items".into())
    );
    client.expect_nothing();
}

#[test]
fn every_wrong_filter_has_its_code_and_points_at_the_mistake() {
    let server = server();
    let mut client = server.connect("");
    let long = format!("user == \"{}\"", "x".repeat(4096));
    let many = format!("user in [{}1]", "1,".repeat(1024));
    let large = format!("{}true", "user == connection.id || ".repeat(100));
    let deep = format!("{}true{}", "(".repeat(200), ")".repeat(200));
    for (filter, code) in [
        ("user ==", "filter_syntax"),
        ("", "filter_syntax"),
        ("user == 1u", "filter_unsupported"),
        ("frobnicate(user)", "unknown_function"),
        ("user.startsWith()", "wrong_arguments"),
        ("atuh.email == 'x'", "undeclared_name"),
        ("true || usr == 'x'", "undeclared_name"),
        ("user == params.u", "unbound_param"),
        ("user.matches('(')", "bad_regex"),
        ("user.matches('(a{1000}){1000}')", "bad_regex"),
        ("user.matches(auth.pattern)", "bad_regex"),
        ("1 + 1", "not_boolean"),
        (&long, "filter_too_long"),
        (&large, "filter_too_large"),
        (&deep, "filter_too_deep"),
        (&many, "filter_list_too_long"),
    ] {
        let answer = server.post("/v1/emit", &json!({"event": "e", "filter": filter}));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{filter}"
        );
        let problem = answer.json();
        assert!(
            problem["offset"].is_u64() && problem["length"].is_u64(),
            "{problem}"
        );
        assert!(
            problem["excerpt"].as_str().unwrap().contains('^'),
            "{problem}"
        );
        assert_eq!(
            server
                .post("/v1/explain", &json!({ "filter": filter }))
                .code(),
            code
        );
        assert_eq!(
            server
                .post("/v1/disconnect", &json!({ "filter": filter }))
                .code(),
            code
        );
    }
    let problem = server
        .post(
            "/v1/emit",
            &json!({"event": "e", "filter": "true && usr == 'x'"}),
        )
        .json();
    assert_eq!(
        (&problem["offset"], &problem["length"]),
        (&json!(8), &json!(3))
    );
    assert_eq!(problem["excerpt"], "true && usr == 'x'\n        ^^^");
    client.expect_nothing();
}

#[test]
fn unknown_paths_and_wrong_methods_say_so() {
    let server = server();
    for path in [
        "/v1",
        "/v1/emits",
        "/v2/emit",
        "/v1/emit/",
        "/v1/connections/",
        "/v1/users/a/b",
        "//",
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "unknown_path"),
            "{path}"
        );
    }
    for (method, path, allow) in [
        ("GET", "/v1/emit", "POST"),
        ("PUT", "/v1/publish", "POST"),
        ("OPTIONS", "/v1/batch", "POST"),
        ("DELETE", "/v1/connections/x", "GET"),
        ("POST", "/v1/users/ann", "GET"),
        ("POST", "/healthz", "GET"),
        ("POST", "/v1/connect", "GET"),
    ] {
        let answer = server.request(method, path, &[], None);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed"),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(server.get("/v1/connections/%ff").code(), "bad_path");
    assert_eq!(server.get("/v1/users/%ff").code(), "bad_path");
}

#[test]
fn a_body_over_the_bound_is_refused_with_and_without_a_length() {
    let server = server_with(|config| config.limits.body_bytes = 1000);
    let body = |padding: usize| format!(r#"{{"event":"e","data":"{}"}}"#, "x".repeat(padding));
    assert_eq!(
        server
            .request("POST", "/v1/emit", &[], Some(body(900).as_bytes()))
            .status,
        200
    );
    let answer = server.request("POST", "/v1/emit", &[], Some(body(1000).as_bytes()));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "body_too_large")
    );
    assert_eq!(
        answer.json()["detail"],
        "the body is over 1000 bytes (limits.body_bytes)"
    );
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", body(1000).len(), body(1000));
    let headers = [("Transfer-Encoding", "chunked")];
    let answer = server.request("POST", "/v1/emit", &headers, Some(chunked.as_bytes()));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "body_too_large")
    );
}

#[test]
fn a_body_that_is_no_utf8_is_refused() {
    let server = server();
    let answer = server.request("POST", "/v1/emit", &[], Some(b"{\"event\":\"\xff\"}"));
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_json"));
    assert!(answer.text.contains("byte 10"), "{answer:?}");
}

#[test]
fn a_body_that_stops_is_refused_in_time_and_one_that_ends_early_at_once() {
    let server = server_with(|config| config.limits.handshake = Duration::from_secs(2));
    let begin = || {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
        socket.write_all(head.as_bytes()).unwrap();
        socket
    };
    let answer = |mut socket: TcpStream| {
        let mut raw = Vec::new();
        socket.read_to_end(&mut raw).unwrap();
        parse_answer(&raw)
    };
    let late = answer(begin());
    assert_eq!((late.status, late.code().as_str()), (408, "body_timeout"));
    let socket = begin();
    socket.shutdown(Shutdown::Write).unwrap();
    let early = answer(socket);
    assert_eq!(
        (early.status, early.code().as_str()),
        (400, "body_incomplete")
    );
}

#[test]
fn an_idle_connection_is_closed_when_it_has_rested_as_long_as_it_may() {
    let server = server_with(|config| {
        config.limits.handshake = Duration::from_secs(1);
        config.limits.http_idle = Duration::from_secs(2);
    });
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rested = std::time::Instant::now();
    for _ in 0..2 {
        rested = std::time::Instant::now();
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut answer = [0; 1024];
        let read = socket.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
    }
    assert_eq!(socket.read(&mut [0]).unwrap(), 0, "it is closed");
    assert!(
        rested.elapsed() > Duration::from_secs(1),
        "it may rest longer than a head may take"
    );
}

#[test]
fn without_users_publish_is_refused_and_the_rest_goes_on() {
    let server = server_with(|config| {
        config
            .apps
            .values_mut()
            .for_each(|app| app.client_auth = Some(ClientAuth::Off));
    });
    let mut client = server.connect("token=not-looked-at");
    assert_eq!(
        refusal(
            &server,
            "/v1/publish",
            &json!({"user": "ann", "event": "e"})
        ),
        (409, "no_users".into())
    );
    let batch = server.call(
        "/v1/batch",
        &json!({"items": [{"call": "publish", "user": "ann", "event": "e"}]}),
    );
    assert_eq!(batch["results"][0]["error"]["code"], "no_users");
    assert_eq!(
        refusal(&server, "/v1/tokens", &json!({"user": "ann"})),
        (409, "no_token_secret".into())
    );
    assert_eq!(
        matched(
            &server,
            "/v1/dispatch",
            &json!({"recipients": ["*"], "event": "e"})
        ),
        1
    );
    assert_eq!(events(&mut client), ["e"]);
}

// Looking

#[test]
fn explain_tells_the_plan_who_matches_and_what_may_be_meant_otherwise() {
    let server = server_with(|config| {
        config
            .apps
            .values_mut()
            .for_each(|app| app.index = vec!["auth.team".to_owned()]);
    });
    let ann = server.client("ann", &json!({"team": "red", "age": 20}));
    let _bob = server.client("bob", &json!({"team": "red", "age": "old"}));
    let _cid = server.client("cid", &json!({"team": "blue"}));
    let explain = |body: Value| server.call("/v1/explain", &body);
    let by_index = explain(
        json!({"filter": "auth.team == params.t && auth.age > 18", "params": {"t": "red"}}),
    );
    assert_eq!(by_index["plan"]["access"], "index");
    assert_eq!(by_index["plan"]["index"], "auth.team");
    assert_eq!(
        (&by_index["plan"]["keys"], &by_index["plan"]["residual"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(
        (&by_index["looked_at"], &by_index["matched"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&by_index["errored"], &by_index["sample"]),
        (&json!(1), &json!([ann.id]))
    );
    assert_eq!(by_index["warnings"], json!([]));
    assert!(by_index.get("values").is_none());
    let scan = explain(json!({"filter": "auth.age > 18"}));
    assert_eq!(
        (&scan["plan"]["access"], &scan["plan"]["index"]),
        (&json!("scan"), &json!(null))
    );
    assert_eq!(scan["looked_at"], 3);
    let nobody = explain(json!({"filter": "false && auth.age > 18"}));
    assert_eq!(
        (&nobody["plan"]["access"], &nobody["looked_at"]),
        (&json!("nobody"), &json!(0))
    );
    let code = |filter: &str, params: Value| {
        explain(json!({"filter": filter, "params": params}))["warnings"][0]["code"].clone()
    };
    assert_eq!(
        code("profile.status == \"away\"", json!({})),
        "client_controlled"
    );
    assert_eq!(
        code("connection.device == \"d\"", json!({})),
        "client_controlled"
    );
    assert_eq!(
        code("auth.email == params.e", json!({"e": null})),
        "null_equals_null"
    );
    let values = explain(
        json!({"filter": "auth.age > 18 && auth.age + \"x\" == \"\"", "connection": ann.id}),
    );
    let values = values["values"].as_array().unwrap().clone();
    let of = |text: &str| {
        values
            .iter()
            .find(|value| value["text"] == text)
            .unwrap()
            .clone()
    };
    assert_eq!(of("auth.age")["value"], 20);
    assert_eq!(of("auth.age > 18")["value"], true);
    assert!(of("auth.age + \"x\"")["error"].is_string());
    let gone = server.post(
        "/v1/explain",
        &json!({"filter": "true", "connection": "nonsense"}),
    );
    assert_eq!(
        (gone.status, gone.code().as_str()),
        (404, "unknown_connection")
    );
    assert_eq!(
        server.post("/v1/explain", &json!({})).code(),
        "missing_field"
    );
}

#[test]
fn connections_are_listed_by_page_each_once() {
    let server = server();
    let mut ids: Vec<String> = Vec::new();
    let clients: Vec<Client> = (0..25)
        .map(|n| server.client(&format!("u{n}"), &json!({ "n": n })))
        .collect();
    let mut path = "/v1/connections?limit=10".to_owned();
    let mut sizes = Vec::new();
    loop {
        let page = server.get(&path).json();
        let listed = page["connections"].as_array().unwrap();
        sizes.push(listed.len());
        ids.extend(
            listed
                .iter()
                .map(|connection| connection["id"].as_str().unwrap().to_owned()),
        );
        match page.get("cursor") {
            Some(cursor) => {
                path = format!(
                    "/v1/connections?limit=10&cursor={}",
                    cursor.as_str().unwrap()
                );
            }
            None => break,
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    let listed: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(
        listed,
        clients.iter().map(|client| client.id.clone()).collect()
    );
    assert_eq!(ids.len(), 25);
    let filtered = server
        .get("/v1/connections?filter=auth.n+%3C+params.n&params=%7B%22n%22:3%7D")
        .json();
    assert_eq!(filtered["connections"].as_array().unwrap().len(), 3);
    assert!(filtered.get("cursor").is_none());
}

#[test]
fn a_connection_shows_its_attributes() {
    let server = server_with(|config| config.node_name = Some("node-1".to_owned()));
    let token = server.token("ann", &json!({"email": "ann@example.com"}));
    let client = server.connect(&format!("token={token}&device=laptop"));
    let shown = server.get(&format!("/v1/connections/{}", client.id)).json();
    assert_eq!(shown["id"], client.id);
    assert_eq!(
        (&shown["user"], &shown["device"]),
        (&json!("ann"), &json!("laptop"))
    );
    assert_eq!(
        (&shown["ip"], &shown["protocol"]),
        (&json!("127.0.0.1"), &json!("fanfare.v1"))
    );
    assert_eq!(
        (&shown["node"], &shown["auth"]["email"]),
        (&json!("node-1"), &json!("ann@example.com"))
    );
    assert!(shown["connected_at"].as_u64().unwrap().abs_diff(unix_now()) < 60);
    assert_eq!(
        (&shown["profile"], &shown["channels"]),
        (&json!(null), &json!([]))
    );
    let anonymous = server.connect("");
    let shown = server
        .get(&format!("/v1/connections/{}", anonymous.id))
        .json();
    assert_eq!(
        (&shown["user"], &shown["device"], &shown["auth"]),
        (&json!(null), &json!(null), &json!(null))
    );
    let gone = server.get("/v1/connections/nonsense");
    assert_eq!(
        (gone.status, gone.code().as_str()),
        (404, "unknown_connection")
    );
}

#[test]
fn a_wrong_query_is_refused() {
    let server = server();
    for (query, code) in [
        ("limit=0", "bad_query"),
        ("limit=1001", "bad_query"),
        ("limit=many", "bad_query"),
        ("cursor=x", "bad_query"),
        ("filter=%ff", "bad_query"),
        ("filters=true", "unknown_field"),
        ("filter=true&params=1", "bad_params"),
        ("filter=usr", "undeclared_name"),
        ("filter=usr&cursor=0000000-0.0", "undeclared_name"),
        ("filter=usr&cursor=zzzzzzr-0.0", "undeclared_name"),
    ] {
        let answer = server.get(&format!("/v1/connections?{query}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{query}"
        );
    }
    assert_eq!(server.get("/v1/connections?limit=1000").status, 200);
}

#[test]
fn what_is_redacted_is_shown_by_no_call() {
    let hidden = ["auth.email", "connection.ip"].map(str::to_owned).to_vec();
    let server = server_with(|config| config.redact = hidden);
    let client = server.client(
        "ann",
        &json!({"email": "hidden@example.com", "team": "red"}),
    );
    let one = server.get(&format!("/v1/connections/{}", client.id)).json();
    assert_eq!(
        (&one["auth"]["email"], &one["ip"]),
        (&json!("[redacted]"), &json!("[redacted]"))
    );
    assert_eq!(one["auth"]["team"], "red");
    assert_eq!(server.get("/v1/connections").json()["connections"][0], one);
    for filter in [
        "auth.email.startsWith(\"a\")",
        "auth[\"email\"] == \"a\"",
        "size(auth) > 0",
        "[auth].exists(a, a.email == \"x\")",
        "connection.ip + \"\" == \"\"",
        "{\"a\": auth}.a.email == \"x\"",
    ] {
        let explained = server.post(
            "/v1/explain",
            &json!({"filter": filter, "connection": client.id}),
        );
        assert_eq!(explained.status, 200, "{filter}: {explained:?}");
        let shows = explained.text.contains("hidden@") || explained.text.contains("127.0.0.1");
        assert!(!shows, "{filter}: {}", explained.text);
    }
    let explained = server.call(
        "/v1/explain",
        &json!({"filter": "auth.team == \"red\"", "connection": client.id}),
    );
    assert!(
        explained["values"]
            .to_string()
            .contains("\"value\":\"red\""),
        "{explained}"
    );
}

#[test]
fn what_is_redacted_is_hidden_in_lists_too() {
    let hidden = ["auth.accounts.iban", "profile.pets.chip"].map(str::to_owned);
    let server = server_with(|config| config.redact = hidden.to_vec());
    let accounts = json!([{"iban": "secret-1", "bank": "b"}, [{"iban": "secret-2"}]]);
    let mut client = server.client("ann", &json!({"accounts": accounts}));
    client.join("room");
    client.send(&json!({"op": "update", "id": 1, "data": {"pets": [{"chip": "secret-3"}]}}));
    assert_eq!(client.json()["op"], "ack");

    let one = server.get(&format!("/v1/connections/{}", client.id));
    assert_eq!(one.json()["auth"]["accounts"][0]["bank"], "b");
    for shown in [
        one,
        server.get("/v1/connections"),
        server.get("/v1/channels/room/members"),
    ] {
        assert_eq!(shown.status, 200, "{shown:?}");
        assert!(!shown.text.contains("secret-"), "{}", shown.text);
        assert!(shown.text.contains("[redacted]"), "{}", shown.text);
    }
    for filter in [
        "auth.accounts.exists(a, a.iban == \"x\")",
        "auth.accounts[0].iban == \"x\"",
        "auth.accounts.map(a, a.iban) == []",
        "size(auth.accounts) == 0",
        "profile.pets == []",
    ] {
        let question = json!({"filter": filter, "connection": client.id});
        let explained = server.post("/v1/explain", &question);
        assert_eq!(explained.status, 200, "{filter}: {explained:?}");
        assert!(
            !explained.text.contains("secret-"),
            "{filter}: {}",
            explained.text
        );
    }
}

#[test]
fn explain_names_the_index_that_would_help() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.index = vec!["auth.team".to_owned()];
    });
    let suggested = |filter: &str| {
        let explained = server.call("/v1/explain", &json!({"filter": filter}));
        explained["suggested_index"].clone()
    };
    assert_eq!(
        suggested("auth.age > 1 && auth.plan == \"pro\""),
        "auth.plan"
    );
    assert_eq!(suggested("\"admin\" in auth.roles"), "auth.roles");
    assert_eq!(
        suggested("auth.team == \"red\" && auth.plan == \"pro\""),
        json!(null)
    );
    assert_eq!(suggested("auth.age > 1"), json!(null));
}

#[test]
fn a_user_is_online_while_it_has_a_connection() {
    let server = server();
    let user = |path: &str| server.get(path).json();
    assert_eq!(
        user("/v1/users/ann"),
        json!({"online": false, "connections": 0})
    );
    let first = server.client("ann", &json!({}));
    let second = server.client("ann", &json!({}));
    assert_eq!(
        user("/v1/users/ann"),
        json!({"online": true, "connections": 2})
    );
    drop((first, second));
    eventually("ann is gone", || {
        user("/v1/users/ann") == json!({"online": false, "connections": 0})
    });
    let _client = server.client("a/b é", &json!({}));
    assert_eq!(
        user("/v1/users/a%2Fb%20%C3%A9"),
        json!({"online": true, "connections": 1})
    );
}

// Steering

#[test]
fn disconnect_closes_whom_it_describes_with_code_and_reason() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    let mut laptop = server.connect("device=laptop");
    let mut phone = server.connect("device=phone");
    let disconnect = |body: Value| {
        server.call("/v1/disconnect", &body)["disconnected"]
            .as_u64()
            .unwrap()
    };
    server.call("/v1/publish", &json!({"user": "ann", "event": "last"}));
    assert_eq!(disconnect(json!({"to": {"users": ["ann"]}})), 1);
    assert_eq!(ann.json()["event"], "last");
    assert_eq!(ann.message(), Received::Close(4010, "disconnected".into()));
    let to = json!({"connections": [bob.id], "users": ["bob"]});
    assert_eq!(
        disconnect(json!({"to": to, "code": 3000, "reason": "bye"})),
        1
    );
    assert_eq!(bob.message(), Received::Close(3000, "bye".into()));
    let filter = "connection.device == params.d";
    let body =
        json!({"filter": filter, "params": {"d": "laptop"}, "except": {"devices": ["laptop"]}});
    assert_eq!(disconnect(body), 0);
    assert_eq!(
        disconnect(json!({"filter": filter, "params": {"d": "laptop"}, "code": 1000})),
        1
    );
    assert_eq!(laptop.closed(), 1000);
    assert_eq!(disconnect(json!({"to": {}})), 0);
    assert_eq!(
        disconnect(json!({"to": {"connections": [phone.id]}, "filter": "false"})),
        0
    );
    phone.expect_nothing();
    assert_eq!(disconnect(json!({"filter": "true", "code": 4999})), 1);
    assert_eq!(phone.closed(), 4999);
    drop((ann, bob, laptop, phone));
    eventually("the end is counted", || {
        server.count("fanfare_closes_total", "code=\"4010\"") == 1
    });
}

#[test]
fn a_wrong_disconnect_closes_nobody() {
    let server = server();
    let mut client = server.connect("");
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"code": 4000}), "missing_field"),
        (json!({"filter": "true", "code": 1001}), "bad_field"),
        (json!({"filter": "true", "code": 2999}), "bad_field"),
        (json!({"filter": "true", "code": 5000}), "bad_field"),
        (json!({"filter": "true", "code": -1}), "bad_field"),
        (
            json!({"filter": "true", "reason": "x".repeat(124)}),
            "bad_field",
        ),
        (json!({"filter": "true", "user": "ann"}), "unknown_field"),
        (json!({"to": {"devices": ["x"]}}), "unknown_field"),
    ] {
        assert_eq!(
            refusal(&server, "/v1/disconnect", &body),
            (400, code.to_owned()),
            "{body}"
        );
    }
    client.expect_nothing();
}

#[test]
fn tokens_are_signed_within_bounds() {
    let server = server_with(|config| config.limits.token_ttl = Duration::from_hours(2));
    let lifetime = |body: Value| {
        let expires_at = server.call("/v1/tokens", &body)["expires_at"]
            .as_u64()
            .unwrap();
        expires_at - unix_now()
    };
    assert!((3540..=3600).contains(&lifetime(json!({"user": "ann"}))));
    assert!((40..=100).contains(&lifetime(json!({"user": "ann", "ttl": 100}))));
    assert!((7140..=7200).contains(&lifetime(json!({"user": "ann", "ttl": 1_000_000}))));
    let body = json!({"user": "ann", "claims": {"n": 1}, "can": {"broadcast": true}});
    let token = server.call("/v1/tokens", &body)["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let client = server.connect(&format!("token={token}"));
    let auth = server.get(&format!("/v1/connections/{}", client.id)).json()["auth"].clone();
    assert_eq!(
        (&auth["sub"], &auth["n"], &auth["can"]),
        (&json!("ann"), &json!(1), &json!({"broadcast": true}))
    );
    for body in [
        json!({"user": ""}),
        json!({"user": "x".repeat(257)}),
        json!({"user": "ann", "claims": []}),
        json!({"user": "ann", "claims": {"sub": "bob"}}),
        json!({"user": "ann", "claims": {"exp": 1}}),
        json!({"user": "ann", "claims": {"big": "x".repeat(9000)}}),
        json!({"user": "ann", "can": {"dance": true}}),
        json!({"user": "ann", "ttl": 0}),
    ] {
        assert_eq!(
            refusal(&server, "/v1/tokens", &body),
            (400, "bad_token_request".into()),
            "{body}"
        );
    }
    assert_eq!(
        server.post("/v1/tokens", &json!({})).code(),
        "missing_field"
    );
    assert_eq!(
        server
            .post("/v1/tokens", &json!({"user": "ann", "ttl": -1}))
            .code(),
        "bad_field"
    );
}

// Operation

#[test]
fn health_readiness_description_and_page_answer() {
    let server = server();
    let get = |path: &str, kind: &str| {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.header("content-type").unwrap().starts_with(kind),
            "{answer:?}"
        );
        answer
    };
    assert_eq!(
        get("/healthz", "application/json").json(),
        json!({"status": "ok"})
    );
    assert_eq!(
        get("/livez", "application/json").json(),
        json!({"status": "ok"})
    );
    assert_eq!(
        get("/readyz", "application/json").json(),
        json!({"ready": true})
    );
    assert_eq!(
        get("/v1/openapi.json", "application/json").json()["openapi"],
        "3.1.0"
    );
    assert!(
        get("/metrics", "application/openmetrics-text")
            .text
            .ends_with("# EOF\n")
    );
    assert!(
        get("/", "text/html")
            .header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
}

#[test]
fn readiness_is_asked_of_the_cluster_or_of_the_node() {
    let server = server();
    for path in [
        "/readyz",
        "/readyz?",
        "/readyz?scope=cluster",
        "/readyz?scope=node",
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"ready": true})),
            "{path}"
        );
    }
    for (query, code) in [
        ("scope=planet", "bad_query"),
        ("scope=", "bad_query"),
        ("scop=node", "unknown_field"),
    ] {
        let answer = server.get(&format!("/readyz?{query}"));
        assert_eq!((answer.status, &*answer.code()), (400, code), "{query}");
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = server();
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/",
        "/v1/openapi.json",
        "/v1/connections",
        "/v1/users/ann",
        "/v1/channels",
        "/v1/channels/room/members",
    ] {
        let answer = server.request("HEAD", path, &[], None);
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{path}");
        assert!(
            answer
                .header("content-length")
                .unwrap()
                .parse::<usize>()
                .unwrap()
                > 0,
            "{path}"
        );
    }
    assert_eq!(server.request("HEAD", "/v1/emit", &[], None).status, 405);
}

#[test]
fn the_admin_address_serves_health_and_metrics_without_keys() {
    let server = keyed_server(|config| config.admin_listen = Some(([127, 0, 0, 1], 0).into()));
    let admin = server.0.admin_address().unwrap();
    for path in ["/healthz", "/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(request(admin, "GET", path, &[], None).status, 200, "{path}");
    }
    for path in ["/metrics", "/"] {
        assert_eq!(server.get(path).status, 404, "{path} has moved");
    }
    let page = request(admin, "GET", "/", &[], None).text;
    assert!(
        page.contains(&format!("data-port=\"{}\"", server.address().port())),
        "clients connect elsewhere"
    );
    let emit = request(admin, "POST", "/v1/emit", &[], Some(br#"{"event":"e"}"#));
    assert_eq!(emit.status, 401);
    let connect = Client::open(admin, "/v1/connect", &[]).err().unwrap();
    assert_eq!(
        (connect.status, connect.code().as_str()),
        (404, "unknown_path")
    );
}

#[test]
fn one_http_connection_carries_many_requests() {
    let server = server();
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = r#"{"event":"e"}"#;
    let request = format!(
        "POST /v1/emit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.repeat(3).as_bytes()).unwrap();
    let mut raw = String::new();
    let mut buffer = [0; 4096];
    while raw.matches("\"missing_nodes\":[]}").count() < 3 {
        let n = socket.read(&mut buffer).unwrap();
        assert!(n > 0, "{raw}");
        raw += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    assert_eq!(raw.matches("HTTP/1.1 200 OK").count(), 3);
}

// Keys and apps

/// Every call of the API, with a body that it takes.
fn calls() -> Vec<(Scope, &'static str, &'static str, Option<Value>)> {
    vec![
        (
            Scope::Publish,
            "POST",
            "/v1/emit",
            Some(json!({"event": "e"})),
        ),
        (
            Scope::Publish,
            "POST",
            "/v1/publish",
            Some(json!({"event": "e", "user": "ann"})),
        ),
        (
            Scope::Publish,
            "POST",
            "/v1/send",
            Some(json!({"event": "e", "channel": "room"})),
        ),
        (
            Scope::Publish,
            "POST",
            "/v1/broadcast",
            Some(json!({"event": "e"})),
        ),
        (
            Scope::Publish,
            "POST",
            "/v1/dispatch",
            Some(json!({"event": "e", "recipients": ["*"]})),
        ),
        (
            Scope::Publish,
            "POST",
            "/v1/batch",
            Some(json!({"items": []})),
        ),
        (
            Scope::Inspect,
            "POST",
            "/v1/explain",
            Some(json!({"filter": "true"})),
        ),
        (Scope::Inspect, "GET", "/v1/connections", None),
        (Scope::Inspect, "GET", "/v1/users/ann", None),
        (Scope::Inspect, "GET", "/v1/channels", None),
        (Scope::Inspect, "GET", "/v1/channels/room", None),
        (Scope::Inspect, "GET", "/v1/channels/room/members", None),
        (Scope::Inspect, "GET", "/v1/channels/room/history", None),
        (
            Scope::Control,
            "POST",
            "/v1/join",
            Some(json!({"channel": "room", "to": {}})),
        ),
        (
            Scope::Control,
            "POST",
            "/v1/leave",
            Some(json!({"channel": "room", "to": {}})),
        ),
        (
            Scope::Control,
            "POST",
            "/v1/disconnect",
            Some(json!({"to": {}})),
        ),
        (
            Scope::Tokens,
            "POST",
            "/v1/tokens",
            Some(json!({"user": "ann"})),
        ),
    ]
}

#[test]
fn every_call_needs_a_key_with_its_scope() {
    let key_of = |scope: Scope| format!("key-with-only-the-scope-{scope}");
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        for scope in Scope::ALL {
            app.keys.push(api_key(
                scope.name(),
                &key_of(scope),
                [scope].into_iter().collect(),
            ));
        }
        app.channels = vec![ChannelRule::new("room", 1)];
    });
    for (needed, method, path, body) in calls() {
        let body = body.map(|body| body.to_string());
        let call = |headers: &[(&str, &str)]| {
            server.request(method, path, headers, body.as_ref().map(String::as_bytes))
        };
        for headers in [
            &[][..],
            &[("Authorization", "Bearer unknown-key-of-some-length")],
            &[("Authorization", "Basic a2V5OmtleQ==")],
            &[("Authorization", KEY)],
        ] {
            let answer = call(headers);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthorized"),
                "{path} {headers:?}"
            );
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        for scope in Scope::ALL {
            let answer = call(&[("Authorization", &format!("Bearer {}", key_of(scope)))]);
            if scope == needed {
                assert_eq!(answer.status, 200, "{path} with {scope}: {answer:?}");
            } else {
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (403, "missing_scope"),
                    "{path} with {scope}"
                );
            }
        }
        assert_eq!(
            call(&[("authorization", &format!("bearer {KEY}"))]).status,
            200,
            "{path}"
        );
    }
}

#[test]
fn with_keys_any_host_origin_proxy_and_content_type_may_call() {
    let server = keyed_server(|_| {});
    let authorization = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Host", "api.example.com"),
        ("Origin", "https://example.com"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("Content-Type", "text/plain"),
    ];
    assert_eq!(
        server
            .request("POST", "/v1/emit", &headers, Some(br#"{"event":"e"}"#))
            .status,
        200
    );
}

const OTHER_KEY: &str = "key-of-the-other-app-of-the-test";
const OTHER_SECRET: &str = "secret-of-the-other-app-of-the-test";

fn two_apps() -> TestServer {
    keyed_server(|config| {
        let keys = vec![api_key("all", OTHER_KEY, Scope::ALL.into_iter().collect())];
        let app = AppConfig {
            keys,
            tokens: vec![token_key(OTHER_SECRET)],
            ..AppConfig::default()
        };
        config.apps.insert("other".to_owned(), app);
    })
}

#[test]
fn no_call_reaches_or_sees_another_app() {
    let server = two_apps();
    let other_token = jwt(
        OTHER_SECRET,
        &json!({"alg": "HS256"}),
        &json!({"sub": "ann"}),
    );
    let mut mine = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    let mut theirs = server.connect(&format!("app=other&token={other_token}"));
    let sent = |path: &str, body: Value| {
        let answer = server.post_as(KEY, path, &body).json();
        answer["matched"]
            .as_u64()
            .unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(sent("/v1/emit", json!({"event": "a"})), 1);
    assert_eq!(sent("/v1/emit", json!({"event": "b", "filter": "true"})), 1);
    assert_eq!(
        sent(
            "/v1/emit",
            json!({"event": "c", "to": {"users": ["ann"], "connections": [theirs.id]}})
        ),
        1
    );
    assert_eq!(
        sent(
            "/v1/emit",
            json!({"event": "x", "to": {"connections": [theirs.id]}})
        ),
        0
    );
    let by_id =
        json!({"event": "x", "filter": "connection.id == params.i", "params": {"i": theirs.id}});
    assert_eq!(sent("/v1/emit", by_id), 0);
    assert_eq!(sent("/v1/publish", json!({"event": "d", "user": "ann"})), 1);
    assert_eq!(sent("/v1/broadcast", json!({"event": "e"})), 1);
    assert_eq!(
        sent("/v1/dispatch", json!({"event": "f", "recipients": ["*"]})),
        1
    );
    let listed = server.get_as(KEY, "/v1/connections").json();
    assert_eq!(listed["connections"].as_array().unwrap().len(), 1);
    assert_eq!(
        server
            .get_as(KEY, &format!("/v1/connections/{}", theirs.id))
            .status,
        404
    );
    assert_eq!(server.get_as(KEY, "/v1/users/ann").json()["connections"], 1);
    let explained = server
        .post_as(KEY, "/v1/explain", &json!({"filter": "user == \"ann\""}))
        .json();
    assert_eq!(
        (&explained["matched"], &explained["sample"]),
        (&json!(1), &json!([mine.id]))
    );
    let spied = server.post_as(
        KEY,
        "/v1/explain",
        &json!({"filter": "true", "connection": theirs.id}),
    );
    assert_eq!(spied.status, 404);
    let closed = server.post_as(
        KEY,
        "/v1/disconnect",
        &json!({"to": {"connections": [theirs.id]}}),
    );
    assert_eq!(closed.json()["disconnected"], 0);
    let closed = server.post_as(OTHER_KEY, "/v1/disconnect", &json!({"filter": "false"}));
    assert_eq!(closed.json()["disconnected"], 0);
    assert_eq!(events(&mut mine), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(events(&mut theirs), [""; 0]);
    let closed = server.post_as(KEY, "/v1/disconnect", &json!({"filter": "true"}));
    assert_eq!(closed.json()["disconnected"], 1);
    assert_eq!(mine.closed(), 4010);
    theirs.expect_nothing();
}

#[test]
fn tokens_and_idempotency_keys_of_one_app_mean_nothing_in_another() {
    let server = two_apps();
    let token = server
        .post_as(OTHER_KEY, "/v1/tokens", &json!({"user": "ann"}))
        .json();
    let token = token["token"].as_str().unwrap();
    assert_eq!(server.open(&format!("token={token}")).closed(), 4001);
    assert_eq!(
        server.connect(&format!("app=other&token={token}")).id.len(),
        26
    );
    let emit = |key: &str| {
        let headers = [
            ("Authorization", format!("Bearer {key}")),
            ("Idempotency-Key", "k".to_owned()),
        ];
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        server
            .request("POST", "/v1/emit", &headers, Some(br#"{"event":"e"}"#))
            .json()["id"]
            .clone()
    };
    let (mine, theirs) = (emit(KEY), emit(OTHER_KEY));
    assert_ne!(mine, theirs);
    assert_eq!((emit(KEY), emit(OTHER_KEY)), (mine, theirs));
}

#[test]
fn the_numbers_that_an_app_sees_are_its_own() {
    let server = two_apps();
    let token = server.post_as(OTHER_KEY, "/v1/tokens", &json!({"user": "ann"}));
    let token = token.json()["token"].as_str().unwrap().to_owned();
    let _mine = server.connect("");
    let _theirs = server.connect(&format!("app=other&token={token}"));
    let mine = server.get_as(KEY, "/metrics").text;
    let theirs = server.get_as(OTHER_KEY, "/metrics").text;
    for (text, other) in [(&mine, "other"), (&theirs, "default")] {
        assert_eq!(sum(text, "fanfare_connections", ""), 1.0, "{text}");
        assert!(!text.contains(&format!("app=\"{other}\"")), "{text}");
        assert!(
            !text.contains("fanfare_http_request_seconds"),
            "of the node: {text}"
        );
    }
    assert!(
        theirs.contains("fanfare_connections{app=\"other\"} 1\n"),
        "{theirs}"
    );

    // Whoever runs the node sees all, and so does the only app of a node.
    let all = server.get("/metrics").text;
    assert_eq!(sum(&all, "fanfare_connections", ""), 2.0);
    assert!(all.contains("fanfare_http_request_seconds"));
    let alone = keyed_server(|_| {});
    assert!(
        alone
            .get_as(KEY, "/metrics")
            .text
            .contains("fanfare_http_request_seconds")
    );
}

#[test]
fn what_came_through_a_proxy_on_this_machine_needs_a_key() {
    let server = keyed_server(|_| {});
    for header in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
        ("Via", "1.1 proxy"),
        ("Host", "fanfare.example"),
        ("Origin", "https://evil.example"),
    ] {
        for path in ["/metrics", "/"] {
            let refused = server.request("GET", path, &[header], None);
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (401, "unauthorized"),
                "{path} {header:?}"
            );
        }
        let authorization = format!("Bearer {KEY}");
        let headers = [header, ("Authorization", &authorization)];
        assert_eq!(
            server.request("GET", "/metrics", &headers, None).status,
            200
        );
    }
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(
        server.get_as("no key of this server", "/metrics").status,
        401
    );
}

#[test]
fn an_app_with_public_keys_only_signs_nothing() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let server = server_with(|config| {
        let key = fanfare::config::KeyMaterial::Public(pem.to_owned());
        let key = fanfare::config::TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::EdDSA,
            key,
        };
        config
            .apps
            .values_mut()
            .for_each(|app| app.tokens = vec![key.clone()]);
    });
    assert_eq!(
        refusal(&server, "/v1/tokens", &json!({"user": "ann"})),
        (409, "no_token_secret".into())
    );
}

// The reference page

/// The codes that an error's `fn code` in `source` gives.
fn codes_of_errors(source: &str) -> impl Iterator<Item = String> {
    let (_, code) = source
        .split_once("fn code(&self) -> &'static str {")
        .unwrap();
    let (code, _) = code.split_once("\n    }\n").unwrap();
    code.split("=> \"")
        .skip(1)
        .map(|arm| arm.split('"').next().unwrap().to_owned())
}

/// The sources in `folder` and the folders in it, without files of tests.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
        {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
    found
}

/// The codes that the sources of the HTTP edge name where they build a problem.
fn codes_in(source: &str) -> BTreeSet<String> {
    let source = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(source);
    let mut codes = BTreeSet::new();
    for builder in [
        "Problem::new(",
        "Self::new(",
        "bad_request(",
        "not_found(",
        "unavailable(",
        "refuse(",
    ] {
        for (at, _) in source.match_indices(builder) {
            let after = &source[at + builder.len()..];
            let Some((before, rest)) = after.split_once('"') else {
                continue;
            };
            let plain =
                |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || "_:,".contains(c);
            let Some((code, _)) = rest.split_once('"') else {
                continue;
            };
            if before.chars().all(plain)
                && code
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                codes.insert(code.to_owned());
            }
        }
    }
    codes
}

#[test]
fn the_page_and_the_description_have_every_code_of_a_problem() {
    let mut codes: BTreeSet<String> = BTreeSet::new();
    let edge = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    codes.extend(sources(&edge).iter().flat_map(|source| codes_in(source)));
    // Chosen by a variable where the problem is built; an index path is refused when the server starts.
    codes.extend(["missing_field", "bad_field"].map(str::to_owned));
    codes.extend(codes_of_errors(include_str!("../../src/node/mod.rs")));
    codes.extend(codes_of_errors(include_str!(
        "../../crates/protocol/src/event.rs"
    )));
    codes.extend(
        FilterErrorKind::ALL
            .iter()
            .map(|kind| kind.code().to_owned()),
    );
    codes.remove("bad_index_path");
    let found = ["unknown_path", "address_limit", "busy", "bad_channel"];
    assert!(found.iter().all(|code| codes.contains(*code)), "{codes:?}");
    let table: BTreeSet<String> = ERRORS
        .lines()
        .skip_while(|line| !line.starts_with("| code | status |"))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split('`')
                .next()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(table, codes, "the table of docs/reference/errors.md");
    let api: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let listed = api["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
        .as_array()
        .unwrap();
    let listed: BTreeSet<String> = listed
        .iter()
        .map(|code| code.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, codes, "openapi.json");
}

#[test]
fn the_page_has_every_metric() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        // Nobody listens there; trying counts.
        app.jwks_url = Some("http://127.0.0.1:1/keys".to_owned().try_into().unwrap());
        app.issuer = Some("nobody".to_owned());
    });
    // Families without a label show up once they have counted.
    let mut client = server.connect("");
    client.frame(0x81, b"no message");
    assert_eq!(client.json()["op"], "error");
    drop(client);
    assert!(
        server
            .try_open("", &[("Origin", "https://evil.example")])
            .is_err()
    );
    eventually("the end is counted", || {
        server.count("fanfare_closes_total", "") == 1
    });
    eventually("a fetch is counted", || {
        server.count("fanfare_jwks_fetches_total", "") > 0
    });
    let text = server.get("/metrics").text;
    for (shown, is) in [
        ("fanfare_ready", 1),
        ("fanfare_draining", 0),
        ("fanfare_reloads_refused_total", 0),
    ] {
        assert_eq!(server.count(shown, ""), is, "{shown}");
    }
    for shown in [
        "fanfare_connections_limit",
        "process_start_time_seconds",
        "process_max_fds",
    ] {
        assert!(server.count(shown, "") > 0, "{shown}");
    }
    let built = concat!(
        "fanfare_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\",commit=\""
    );
    assert!(text.contains(built), "{text}");
    let mut names = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let shown = match kind {
            "counter" => format!("`{name}_total`"),
            "info" => format!("`{name}_info`"),
            _ => format!("`{name}`"),
        };
        assert!(
            METRICS.contains(&shown),
            "{shown} is not in docs/reference/metrics.md"
        );
        names += 1;
    }
    let sources = [
        include_str!("../../src/metrics.rs"),
        include_str!("../../src/metrics/bus.rs"),
    ];
    // A row of the table, or a call of its own; the table makes three calls for all of its rows.
    let is_row = |line: &&str| line.starts_with("        ") && line.contains(" = \"");
    let registered: usize = sources
        .iter()
        .map(|source| {
            let rows = source
                .lines()
                .filter(is_row)
                .filter(|row| row.contains("\", \""))
                .count();
            rows + source.matches("r.register").count()
        })
        .sum();
    let registered = registered - 3;
    assert_eq!(names, registered, "{text}");
    let documented = METRICS
        .lines()
        .filter(|line| line.starts_with("| `fanfare_") || line.starts_with("| `process_"))
        .count();
    assert_eq!(documented, names);
}

#[test]
fn the_page_and_the_description_have_every_path() {
    let api: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    for path in api["paths"].as_object().unwrap().keys() {
        assert!(
            PAGE.contains(&format!("{path}`")),
            "{path} is not in docs/reference/http.md"
        );
    }
}
