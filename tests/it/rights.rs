//! What a client may do, end to end: each operation with each right missing, and with exactly those that it needs.

use crate::support::*;
use fanfare::config::Config;
use serde_json::{Map, Value, json};

/// Every right, as a `can` that gives it for what the operations below touch.
fn rights() -> Map<String, Value> {
    let rights = json!({
        "join": ["room-*"], "send": ["room-1"], "members": ["*-1"], "call": ["sum"],
        "broadcast": true, "publish": true, "update": true
    });
    rights.as_object().unwrap().clone()
}

fn only(names: &[&str]) -> Value {
    rights()
        .into_iter()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect()
}

fn all_but(missing: &str) -> Value {
    rights()
        .into_iter()
        .filter(|(name, _)| name != missing)
        .collect()
}

/// One operation of a client.
struct Operation {
    message: Value,
    /// The rights that it needs.
    needs: &'static [&'static str],
    /// What shows that it was carried out.
    effect: Effect,
}

enum Effect {
    /// Nothing but its answer.
    Answer,
    /// Another member hears of it.
    Notice(&'static str),
    /// Another client gets the event.
    Event,
    /// It gets past the check, to where no function is set up.
    NoFunction,
}

fn operations() -> Vec<Operation> {
    let operation = |message, needs, effect| Operation {
        message,
        needs,
        effect,
    };
    vec![
        operation(json!({"op": "ping"}), &[], Effect::Answer),
        operation(
            json!({"op": "join", "channel": "room-1"}),
            &["join"],
            Effect::Notice("joined"),
        ),
        operation(
            json!({"op": "join", "channel": "room-1", "members": true}),
            &["join", "members"],
            Effect::Notice("joined"),
        ),
        operation(
            json!({"op": "join", "channel": "room-1", "since": {"offset": 0}}),
            &["join"],
            Effect::Notice("joined"),
        ),
        operation(
            json!({"op": "leave", "channel": "room-1"}),
            &[],
            Effect::Answer,
        ),
        operation(
            json!({"op": "members", "channel": "room-1"}),
            &["members"],
            Effect::Answer,
        ),
        operation(
            json!({"op": "send", "channel": "room-1", "event": "e"}),
            &["send"],
            Effect::Event,
        ),
        operation(
            json!({"op": "broadcast", "event": "e"}),
            &["broadcast"],
            Effect::Event,
        ),
        operation(
            json!({"op": "publish", "users": ["bob"], "event": "e"}),
            &["publish"],
            Effect::Event,
        ),
        operation(
            json!({"op": "update", "data": {"a": 1}}),
            &["update"],
            Effect::Answer,
        ),
        operation(
            json!({"op": "call", "name": "sum", "data": [1]}),
            &["call"],
            Effect::NoFunction,
        ),
    ]
}

fn with_can(server: &TestServer, user: &str, can: &Value) -> Client {
    server.connect(&format!(
        "token={}&echo=false",
        signed(&json!({"sub": user, "can": can}))
    ))
}

/// A server, and a client that hears of the members of `room-1`, of what is sent to it, to everyone and to `bob`.
fn with_witness() -> (TestServer, Client) {
    let server = keyed_server(|config| {
        config.limits.presence_notices = u32::MAX;
        config.limits.messages_per_second = 1_000_000;
        config.limits.message_burst = 1_000_000;
    });
    let mut bob = with_can(&server, "bob", &json!({"join": ["*"], "members": ["*"]}));
    bob.watch("room-1");
    (server, bob)
}

/// Has another client come to `room-1` and go: whatever was told before would have come first.
fn assert_witness_heard_nothing(server: &TestServer, bob: &mut Client, what: &str) {
    let body = json!({"channel": "room-1", "filter": "user == \"eve\""});
    for (verb, kind) in [("join", "joined"), ("leave", "left")] {
        server.post_as(KEY, &format!("/v1/{verb}"), &body);
        let notice = bob.json();
        assert_eq!(
            (&notice["kind"], &notice["member"]["user"]),
            (&json!(kind), &json!("eve")),
            "{what}: {notice}"
        );
    }
    bob.expect_nothing();
}

fn shown(server: &TestServer, client: &Client) -> Value {
    server
        .get_as(KEY, &format!("/v1/connections/{}", client.id))
        .json()
}

/// Expects that `client` is refused for want of `missing`, that nothing came of it, and that it stays.
fn assert_refused(
    server: &TestServer,
    bob: &mut Client,
    client: &mut Client,
    message: &Value,
    missing: &str,
) {
    let what = format!("{message} without {missing}");
    let before = shown(server, client);
    let error = client.ask(message);
    assert_eq!(
        (&error["op"], &error["code"]),
        (&json!("error"), &json!("forbidden")),
        "{what}: {error}"
    );
    let text = error["message"].as_str().unwrap();
    assert!(text.contains(&format!("\"{missing}\"")), "{what}: {text}");
    client.send(message);
    let silent = client.json();
    assert_eq!(
        (&silent["code"], &silent["id"]),
        (&json!("forbidden"), &json!(null)),
        "{what}"
    );
    assert_eq!(shown(server, client), before, "{what}");
    assert_witness_heard_nothing(server, bob, &what);
    client.expect_nothing();
    client.acked(&json!({"op": "ping"}));
}

/// Expects that what `client` asks for is done.
fn assert_done(server: &TestServer, bob: &mut Client, client: &mut Client, operation: &Operation) {
    let Operation {
        message, effect, ..
    } = operation;
    let answer = client.ask(message);
    let expected = if matches!(effect, Effect::NoFunction) {
        "error"
    } else {
        "ack"
    };
    assert_eq!(answer["op"], expected, "{message}: {answer}");
    match effect {
        Effect::NoFunction => assert_eq!(answer["code"], "no_functions"),
        Effect::Notice(kind) => {
            let notice = bob.json();
            assert_eq!(
                (&notice["kind"], &notice["member"]["id"]),
                (&json!(kind), &json!(client.id))
            );
            assert_eq!(shown(server, client)["channels"], json!(["room-1"]));
            client.acked(&json!({"op": "leave", "channel": "room-1"}));
            assert_eq!(bob.json()["kind"], "left");
        }
        Effect::Event => {
            let event = bob.json();
            assert_eq!(
                (&event["event"], &event["from"]["connection"]),
                (&json!("e"), &json!(client.id))
            );
        }
        Effect::Answer => {}
    }
    match message["op"].as_str().unwrap() {
        "members" => assert_eq!(answer["members"][0]["id"], bob.id.as_str(), "{answer}"),
        "update" => assert_eq!(shown(server, client)["profile"], json!({"a": 1})),
        _ => {}
    }
    assert_witness_heard_nothing(server, bob, &message.to_string());
}

#[test]
fn every_operation_is_refused_without_each_right_it_needs_and_does_without_the_others() {
    let (server, mut bob) = with_witness();
    let _eve = with_can(&server, "eve", &json!({}));
    for operation in operations() {
        for missing in rights().keys() {
            let mut client = with_can(&server, "ann", &all_but(missing));
            if operation.needs.contains(&missing.as_str()) {
                assert_refused(&server, &mut bob, &mut client, &operation.message, missing);
            } else {
                assert_done(&server, &mut bob, &mut client, &operation);
            }
        }
    }
}

#[test]
fn every_operation_works_with_exactly_the_rights_it_needs_and_none_without_any() {
    let (server, mut bob) = with_witness();
    let _eve = with_can(&server, "eve", &json!({}));
    for operation in operations() {
        let mut client = with_can(&server, "ann", &only(operation.needs));
        assert_done(&server, &mut bob, &mut client, &operation);
        if let Some(first) = operation.needs.first() {
            let mut client = with_can(&server, "ann", &json!({}));
            assert_refused(&server, &mut bob, &mut client, &operation.message, first);
        }
    }
}

#[test]
fn a_right_for_other_names_is_none() {
    let (server, mut bob) = with_witness();
    let _eve = with_can(&server, "eve", &json!({}));
    let elsewhere = json!({
        "join": ["room", "Room-1", "room-1-*", "*-2"], "send": ["room-11"], "members": ["room-"], "call": ["su", "sums"],
        "broadcast": false, "publish": false, "update": false
    });
    for Operation { message, needs, .. } in operations() {
        if let Some(first) = needs.first() {
            let mut client = with_can(&server, "ann", &elsewhere);
            assert_refused(&server, &mut bob, &mut client, &message, first);
        }
    }
}

#[test]
fn bytes_need_the_same_rights() {
    let (server, mut bob) = with_witness();
    for (message, missing) in [
        (
            json!({"op": "send", "channel": "room-1", "event": "e", "id": 1}),
            "send",
        ),
        (
            json!({"op": "broadcast", "event": "e", "id": 1}),
            "broadcast",
        ),
        (
            json!({"op": "publish", "users": ["bob"], "event": "e", "id": 1}),
            "publish",
        ),
    ] {
        let header = message.to_string();
        let frame = [
            &[1, 0, u8::try_from(header.len()).unwrap()],
            header.as_bytes(),
            b"bytes",
        ]
        .concat();
        let mut client = with_can(&server, "ann", &all_but(missing));
        client.frame(0x82, &frame);
        let error = client.json();
        assert_eq!(
            (&error["code"], &error["id"]),
            (&json!("forbidden"), &json!(1)),
            "{message}: {error}"
        );
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains(&format!("\"{missing}\"")),
            "{error}"
        );
        client.expect_nothing();
        bob.expect_nothing();
        let mut client = with_can(&server, "ann", &only(&[missing]));
        client.frame(0x82, &frame);
        assert_eq!(client.json(), json!({"op": "ack", "id": 1}));
        assert!(matches!(bob.message(), Received::Binary(_)));
    }
}

/// Expects that `client` may do nothing but what needs no right.
fn assert_powerless(server: &TestServer, bob: &mut Client, client: &mut Client) {
    for operation in operations() {
        match operation.needs.first() {
            Some(missing) => assert_refused(server, bob, client, &operation.message, missing),
            None => assert_done(server, bob, client, &operation),
        }
    }
}

#[test]
fn without_can_nothing_is_allowed_on_a_server_with_keys() {
    let (server, mut bob) = with_witness();
    let _eve = with_can(&server, "eve", &json!({}));
    let mut ann = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    assert_powerless(&server, &mut bob, &mut ann);
    let mut anonymous = server.connect("");
    assert_powerless(&server, &mut bob, &mut anonymous);
}

#[test]
fn without_can_the_default_holds_and_a_can_replaces_it_altogether() {
    let server = keyed_server(|config| {
        let can = json!({"join": ["lobby"], "update": true});
        config.apps.values_mut().next().unwrap().default_can = Some(can);
    });
    let mut ann = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    let mut anonymous = server.connect("channel=lobby&channel=room-1");
    assert_eq!(
        anonymous.json(),
        json!({"op": "joined", "channel": "lobby"})
    );
    let refused = anonymous.json();
    assert_eq!(refused["code"], "forbidden");
    assert!(
        refused["message"].as_str().unwrap().contains("room-1"),
        "{refused}"
    );
    for client in [&mut ann, &mut anonymous] {
        client.join("lobby");
        client.acked(&json!({"op": "update", "data": {}}));
        for operation in operations()
            .iter()
            .filter(|operation| operation.message["op"] != "update")
        {
            if let Some(missing) = operation.needs.first() {
                let error = client.ask(&operation.message);
                assert_eq!(error["code"], "forbidden", "{error}");
                assert!(
                    error["message"].as_str().unwrap().contains(missing),
                    "{error}"
                );
            }
        }
    }
    let mut own = with_can(&server, "bob", &json!({"join": ["room-1"]}));
    own.join("room-1");
    assert_eq!(
        own.ask(&json!({"op": "join", "channel": "lobby"}))["code"],
        "forbidden"
    );
    assert_eq!(
        own.ask(&json!({"op": "update", "data": {}}))["code"],
        "forbidden"
    );
}

#[test]
fn in_development_everything_is_allowed_without_can_and_a_can_still_holds() {
    let server = server();
    let mut anonymous = server.connect("");
    for operation in operations() {
        let answer = anonymous.ask_amid(&operation.message).1;
        assert_ne!(answer["code"], "forbidden", "{answer}");
    }
    let body = json!({"user": "ann", "can": {"join": ["room-1"]}});
    let token = server.call("/v1/tokens", &body)["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut ann = server.connect(&format!("token={token}"));
    ann.join("room-1");
    assert_eq!(
        ann.ask(&json!({"op": "broadcast", "event": "e"}))["code"],
        "forbidden"
    );
}

#[test]
fn a_renewed_token_brings_its_own_rights() {
    let (server, mut bob) = with_witness();
    let _eve = with_can(&server, "eve", &json!({}));
    let mut ann = with_can(&server, "ann", &only(&["update"]));
    let renew = |ann: &mut Client, can: &Value| {
        ann.acked(&json!({"op": "auth", "token": signed(&json!({"sub": "ann", "can": can}))}));
    };
    for operation in operations() {
        renew(&mut ann, &only(operation.needs));
        assert_done(&server, &mut bob, &mut ann, &operation);
        if let Some(missing) = operation.needs.first() {
            renew(&mut ann, &all_but(missing));
            assert_refused(&server, &mut bob, &mut ann, &operation.message, missing);
        }
    }
    let other = signed(&json!({"sub": "eve", "can": rights()}));
    assert_eq!(
        ann.ask(&json!({"op": "auth", "token": other}))["code"],
        "forbidden"
    );
    let bad = signed(&json!({"sub": "ann", "can": {"jion": []}}));
    assert_eq!(ann.ask(&json!({"op": "auth", "token": bad}))["op"], "error");
    assert_refused(
        &server,
        &mut bob,
        &mut ann,
        &json!({"op": "call", "name": "sum"}),
        "call",
    );
}

/// A client in `room-1` that hears of its members by its own asking, and one that comes and goes.
fn watching(change: impl FnOnce(&mut Config)) -> (TestServer, Client) {
    let server = keyed_server(change);
    let mut ann = with_can(&server, "ann", &only(&["join", "members"]));
    ann.watch("room-1");
    (server, ann)
}

/// Expects that of someone's coming to `room-1` the client hears nothing, while another one does.
fn assert_hears_of_nobody(server: &TestServer, ann: &mut Client) {
    let mut witness = with_can(server, "wes", &json!({"join": ["*"], "members": ["*"]}));
    witness.watch("room-1");
    let mut bob = with_can(server, "bob", &only(&["join"]));
    for (op, kind) in [("join", "joined"), ("leave", "left"), ("join", "joined")] {
        bob.acked(&json!({"op": op, "channel": "room-1"}));
        assert_eq!(witness.json()["kind"], kind);
    }
    ann.expect_nothing();
}

#[test]
fn who_loses_the_right_to_see_members_hears_of_them_no_more() {
    let (server, mut ann) = watching(|_| {});
    let token = signed(&json!({"sub": "ann", "can": only(&["join"])}));
    ann.acked(&json!({"op": "auth", "token": token}));
    assert_eq!(
        ann.ask(&json!({"op": "members", "channel": "room-1"}))["code"],
        "forbidden"
    );
    assert_hears_of_nobody(&server, &mut ann);
}

#[test]
fn who_comes_back_without_the_right_to_see_members_hears_of_them_no_more() {
    let (server, ann) =
        watching(|config| config.limits.resume_window = std::time::Duration::from_hours(1));
    let old = ann.id.clone();
    drop(ann);
    let path = format!("/v1/connections/{old}");
    eventually("it is gone", || server.get_as(KEY, &path).status == 404);
    let token = signed(&json!({"sub": "ann", "can": only(&["join"])}));
    let mut ann = server.open(&format!("token={token}&resume={old}"));
    assert_eq!(ann.json()["resumed"], true);
    assert_eq!(ann.json(), json!({"op": "joined", "channel": "room-1"}));
    assert_hears_of_nobody(&server, &mut ann);
}
