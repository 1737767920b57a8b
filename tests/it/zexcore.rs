//! Clients of Zexcore RTM, by their frames: what they send and what they get, beside native clients in the same room.

use std::time::Duration;

use fanfare::{
    Call, CallError, ProtocolKind, Server, ServerBuilder,
    config::{ClientAuth, Config},
};
use serde_json::{Value, json};

use crate::support::*;

/// A server that takes these clients at `/rtm`, with functions.
fn serving(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config();
    config.drain_delay = Some(Duration::ZERO);
    let app = config.apps.values_mut().next().unwrap();
    app.protocols.enable(ProtocolKind::Zexcore);
    change(&mut config);
    let builder: ServerBuilder = config.into();
    let builder = builder
        .on_call("hello", |call: Call| async move {
            Ok(json!({"caller": call.user(), "arguments": call.parse::<Value>()?}))
        })
        .on_call("nothing", |_: Call| async move { Ok(()) })
        .on_call("fail", |_: Call| async move {
            Err::<(), _>(CallError::new("out_of_stock", "no more hats"))
        })
        .on_call("say", |call: Call| async move {
            let (room, text): (String, String) = call.parse()?;
            let server: Server = call.server()?;
            server.send(&room, "said", (call.user(), text)).await?;
            Ok(())
        });
    TestServer(builder.start().expect("the server starts"))
}

/// The same where clients need a token.
fn required() -> TestServer {
    serving(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.client_auth = Some(ClientAuth::Required);
        app.tokens.push(token_key(SECRET));
    })
}

fn open(server: &TestServer) -> Client {
    Client::open(server.address(), "/rtm", &[]).unwrap()
}

/// Sends a request with an id of its own, and returns the `data` of the answer.
fn request(client: &mut Client, fields: &Value) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let mut message = fields.clone();
    message["id"] = json!(id);
    client.send(&message);
    let answer = client.json();
    let names: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(names, ["data", "id"], "{answer}");
    assert_eq!(answer["id"], json!(id), "{answer}");
    answer["data"].clone()
}

fn auth(client: &mut Client, data: &Value) -> Value {
    request(client, &json!({"type": "auth", "data": [data]}))
}

fn invoke(client: &mut Client, function: &str, arguments: &Value) -> Value {
    let message = json!({"type": "invoke", "data": arguments, "function": function});
    request(client, &message)
}

fn subscribe(client: &mut Client, event: &str, tags: &[&str]) -> Value {
    request(
        client,
        &json!({"type": "subscribe", "event": event, "tags": tags}),
    )
}

/// A client that is let in as `user`.
fn entered(server: &TestServer, user: &str, claims: &Value) -> Client {
    let mut client = open(server);
    let told = auth(&mut client, &json!(server.token(user, claims)));
    assert_eq!(told["user"], user, "{told}");
    client
}

#[test]
fn a_client_authenticates_with_a_token_of_the_app() {
    let server = required();
    let mut client = open(&server);
    let refused = invoke(&mut client, "hello", &json!([]));
    assert_eq!(refused["error"]["code"], "unauthorized", "not yet");
    let told = auth(&mut client, &json!(server.token("ann", &json!({}))));
    assert_eq!(told["user"], "ann");
    assert!(told["expires_at"].is_u64(), "{told}");

    let mut other = open(&server);
    let token = json!({"token": server.token("bob", &json!({}))});
    assert_eq!(auth(&mut other, &token)["user"], "bob");

    // Or in the address, for which the client need not be changed either.
    let path = format!("/rtm?token={}", server.token("eve", &json!({})));
    let mut third = Client::open(server.address(), &path, &[]).unwrap();
    let hello = invoke(&mut third, "hello", &json!([]));
    assert_eq!(hello["caller"], "eve");
}

#[test]
fn a_refusal_is_false_so_that_the_client_does_not_come_back() {
    let server = required();
    for data in [
        json!("no token"),
        json!(server.token("ann", &json!({})) + "x"),
    ] {
        let mut client = open(&server);
        assert_eq!(auth(&mut client, &data), false, "{data}");
        assert_eq!(client.closed(), 4001);
    }
    for data in [json!(""), json!(1), json!({"a": 1})] {
        let mut client = open(&server);
        assert_eq!(auth(&mut client, &data), false, "{data}");
        client.expect_nothing();
    }
    let expired = signed(&json!({"sub": "ann", "exp": unix_now() - 60}));
    let mut client = open(&server);
    assert_eq!(auth(&mut client, &json!(expired)), false);
    assert_eq!(client.closed(), 4005);

    // One that is in stays in.
    let mut client = entered(&server, "ann", &json!({}));
    assert_eq!(auth(&mut client, &json!("no token")), false);
    assert_eq!(
        auth(&mut client, &json!(server.token("bob", &json!({})))),
        false
    );
    assert_eq!(invoke(&mut client, "hello", &json!([]))["caller"], "ann");
}

#[test]
fn without_a_need_for_tokens_a_client_is_in_when_it_has_connected() {
    let server = serving(|_| {});
    let mut client = open(&server);
    eventually("it is in", || {
        server.call("/v1/broadcast", &json!({"event": "e", "data": 1}))["queued"] == 1
    });
    assert_eq!(client.json(), json!({"event": "e", "data": [1]}));
    let hello = invoke(&mut client, "hello", &json!([]));
    assert_eq!(hello["caller"], json!(null));
    // It may still become someone.
    assert_eq!(
        auth(&mut client, &json!(server.token("ann", &json!({}))))["user"],
        "ann"
    );
    assert_eq!(invoke(&mut client, "hello", &json!([]))["caller"], "ann");
}

#[test]
fn a_page_of_any_origin_may_bring_its_token_in_a_message() {
    let server = serving(|config| {
        config.limits.auth = Duration::from_secs(3);
        let app = config.apps.values_mut().next().unwrap();
        app.tokens.push(token_key(SECRET));
        app.keys.push(api_key("all", KEY, fanfare::Scopes::ALL));
        app.client_auth = Some(ClientAuth::Optional);
    });
    let page = [("Origin", "https://example.com")];
    let open = || Client::open(server.address(), "/rtm", &page).unwrap();
    let mut client = open();
    let token = signed(&json!({"sub": "ann", "exp": unix_now() + 60}));
    assert_eq!(auth(&mut client, &json!(token))["user"], "ann");
    assert_eq!(open().closed(), 4001, "without one it is refused");
}

#[test]
fn events_are_spread_into_arguments() {
    let server = required();
    let mut ann = entered(&server, "ann", &json!({"email": "ann@example.com"}));
    let mut bob = entered(&server, "bob", &json!({"email": "bob@example.com"}));
    let mut native = server.client("eve", &json!({}));
    for (data, arguments) in [
        (json!("Hello"), json!(["Hello"])),
        (json!(["a", {"b": 1}]), json!(["a", {"b": 1}])),
        (json!(null), json!([null])),
    ] {
        server.call("/v1/broadcast", &json!({"event": "alert", "data": data}));
        for client in [&mut ann, &mut bob] {
            assert_eq!(client.json(), json!({"event": "alert", "data": arguments}));
        }
        assert_eq!(native.json()["data"], data);
    }
    let bytes = json!({"event": "bytes", "data_base64": "AP8="});
    server.call("/v1/broadcast", &bytes);
    assert_eq!(ann.json()["data"], json!([{"$bytes": "AP8="}]));
    assert_eq!(bob.json()["event"], "bytes");
    assert!(matches!(native.message(), Received::Binary(_)));

    // By a filter over what they have authenticated with, and by user.
    let filter = "auth.email == \"ann@example.com\" && connection.protocol == \"zexcore\"";
    let emit = json!({"event": "mail", "data": 1, "filter": filter});
    assert_eq!(server.call("/v1/emit", &emit)["matched"], 1);
    assert_eq!(ann.json(), json!({"event": "mail", "data": [1]}));
    server.call(
        "/v1/publish",
        &json!({"user": "bob", "event": "dm", "data": 2}),
    );
    assert_eq!(bob.json(), json!({"event": "dm", "data": [2]}));
    // A native client reaches them too.
    native.acked(&json!({"op": "publish", "users": ["ann"], "event": "dm", "data": [3, 4]}));
    assert_eq!(ann.json(), json!({"event": "dm", "data": [3, 4]}));
    for client in [&mut ann, &mut bob, &mut native] {
        client.expect_nothing();
    }
}

#[test]
fn tags_are_channels_and_a_native_client_is_in_the_same_room() {
    let server = required();
    let mut rtm = entered(&server, "ann", &json!({}));
    let mut native = server.client("bob", &json!({}));
    native.watch("news");
    assert_eq!(subscribe(&mut rtm, "posted", &["news", "sports"]), true);
    let joined = native.json();
    assert_eq!(
        (&joined["kind"], &joined["member"]["user"]),
        (&json!("joined"), &json!("ann"))
    );
    assert_eq!(subscribe(&mut rtm, "alert", &[]), true, "nothing to join");
    assert_eq!(subscribe(&mut rtm, "posted", &["news"]), true, "again");

    // What the one sends, the other gets, in order.
    for n in 0..20 {
        native.acked(
            &json!({"op": "send", "channel": "news", "event": "posted", "data": n, "echo": false}),
        );
        server.call(
            "/v1/send",
            &json!({"channel": "sports", "event": "posted", "data": [n, "s"]}),
        );
        assert_eq!(rtm.json(), json!({"event": "posted", "data": [n]}));
        assert_eq!(rtm.json(), json!({"event": "posted", "data": [n, "s"]}));
    }
    // By a function of the program, since the protocol has no sending of its own.
    let message = json!({"id": "s", "type": "invoke", "function": "say", "data": ["news", "hi"]});
    rtm.send(&message);
    let (event, answer) = (rtm.json(), rtm.json());
    assert_eq!(event, json!({"event": "said", "data": ["ann", "hi"]}));
    assert_eq!(answer, json!({"id": "s", "data": null}));
    let heard = native.json();
    assert_eq!(
        (&heard["event"], &heard["channel"], &heard["data"]),
        (&json!("said"), &json!("news"), &json!(["ann", "hi"]))
    );
    drop(rtm);
    assert_eq!(native.json()["kind"], "left");
}

#[test]
fn a_tag_needs_the_right_to_join_and_one_without_it_joins_none() {
    let server = serving(|config| {
        config.limits.channels_per_connection = 3;
        let app = config.apps.values_mut().next().unwrap();
        app.tokens.push(token_key(SECRET));
        app.keys.push(api_key("all", KEY, fanfare::Scopes::ALL));
    });
    let can = json!({"join": ["room-*"], "call": ["hello"]});
    let token = signed(&json!({"sub": "ann", "exp": unix_now() + 60, "can": can}));
    let mut client = open(&server);
    assert_eq!(auth(&mut client, &json!(token))["user"], "ann");
    let code = |data: Value| data["error"]["code"].as_str().unwrap().to_owned();
    let channels = || {
        let page = request_as_operator(&server, "/v1/connections");
        page["connections"][0]["channels"].clone()
    };

    assert_eq!(
        code(subscribe(&mut client, "e", &["room-1", "secret"])),
        "forbidden"
    );
    assert_eq!(
        code(subscribe(&mut client, "e", &["room-1", "not a name"])),
        "bad_channel"
    );
    let many: Vec<String> = (0..4).map(|n| format!("room-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        code(subscribe(&mut client, "e", &many)),
        "too_many_channels"
    );
    assert_eq!(channels(), json!([]));
    assert_eq!(subscribe(&mut client, "e", &["room-1", "room-2"]), true);
    // Up to the first for which there is no room.
    assert_eq!(
        code(subscribe(&mut client, "e", &["room-3", "room-4", "room-5"])),
        "too_many_channels"
    );
    assert_eq!(channels(), json!(["room-1", "room-2", "room-3"]));

    assert_eq!(code(invoke(&mut client, "fail", &json!([]))), "forbidden");
    assert_eq!(invoke(&mut client, "hello", &json!([]))["caller"], "ann");
    client.expect_nothing();
}

fn request_as_operator(server: &TestServer, path: &str) -> Value {
    let answer = server.get_as(KEY, path);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn an_invocation_is_answered_with_what_the_function_returns() {
    let server = required();
    let mut client = entered(&server, "ann", &json!({}));
    assert_eq!(
        invoke(&mut client, "hello", &json!([1, {"a": [null]}])),
        json!({"caller": "ann", "arguments": [1, {"a": [null]}]})
    );
    assert_eq!(invoke(&mut client, "nothing", &json!([])), json!(null));
    assert_eq!(
        invoke(&mut client, "fail", &json!([])),
        json!({"error": {"code": "out_of_stock", "message": "no more hats"}})
    );
    let unknown = invoke(&mut client, "none", &json!([]));
    assert_eq!(unknown["error"]["code"], "no_functions");
    let other = json!({"type": "invoke", "data": []});
    assert_eq!(request(&mut client, &other)["error"]["code"], "bad_message");
    let other = json!({"type": "unsubscribe", "event": "e"});
    assert_eq!(request(&mut client, &other)["error"]["code"], "unknown_op");

    // Without an id nobody waits.
    client.send(&json!({"type": "invoke", "function": "hello", "data": []}));
    client.send(&json!({"type": "invoke", "function": "none", "data": []}));
    assert_eq!(invoke(&mut client, "nothing", &json!([])), json!(null));
    client.expect_nothing();
    assert_eq!(server.count("fanfare_calls_total", "default"), 5);
}

#[test]
fn a_client_has_the_limits_of_any_other() {
    let server = serving(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 30;
        config.limits.message_bytes = 4096;
        config.limits.claims_bytes = 1024;
        config.limits.profile_bytes = 1024;
    });
    let mut client = entered(&server, "ann", &json!({}));
    // A subscription to ten tags costs ten messages.
    for _ in 0..3 {
        let tags = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        subscribe(&mut client, "e", &tags);
    }
    let refused = invoke(&mut client, "nothing", &json!([]));
    assert_eq!(refused["error"]["code"], "rate_limited");

    let mut client = entered(&server, "bob", &json!({}));
    for garbage in ["", "ping", "[1]", "{\"type\":\"auth\",\"id\":{}}"] {
        client.frame(0x81, garbage.as_bytes());
    }
    client.frame(0x82, b"bytes");
    client.expect_nothing();
    for _ in 0..5 {
        client.frame(0x81, b"garbage");
    }
    assert_eq!(client.closed(), 4009);
    assert!(server.count("fanfare_client_refusals_total", "bad_message") >= 10);

    let mut client = entered(&server, "eve", &json!({}));
    client.frame(0x81, &vec![b'x'; 4097]);
    assert_eq!(client.closed(), 1009);
}

#[test]
fn a_drain_sends_them_away_like_any_other() {
    let server = required();
    let mut client = entered(&server, "ann", &json!({}));
    let closed = std::thread::spawn(move || client.closed());
    drop(server);
    assert_eq!(closed.join().unwrap(), 4200);
}
