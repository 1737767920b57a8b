//! Channels and presence in depth: who is in from when to when, who is told, who comes back, who is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use crate::support::*;
use fanfare::config::{ChannelRule, ClientAuth, Config, Presence};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_hours(1);

/// A server whose channels `kept` and `told` have history and notices to all.
fn with_rules(change: impl FnOnce(&mut Config)) -> TestServer {
    server_with(|config| {
        let rules = &mut config.apps.values_mut().next().unwrap().channels;
        rules.push(ChannelRule::new("kept", 1000));
        for (pattern, presence) in [
            ("told", Presence::All),
            ("counted", Presence::Count),
            ("hidden", Presence::Off),
        ] {
            rules.push(ChannelRule {
                presence,
                ..ChannelRule::new(pattern, 0)
            });
        }
        rules.push(ChannelRule {
            presence: Presence::All,
            leave_after: Duration::from_secs(30),
            ..ChannelRule::new("reloaded", 0)
        });
        rules.push(ChannelRule {
            presence: Presence::All,
            leave_after: Duration::from_millis(100),
            ..ChannelRule::new("left-soon", 0)
        });
        config.limits.messages_per_second = 1_000_000;
        config.limits.message_burst = 1_000_000;
        config.limits.presence_notices = u32::MAX;
        change(config);
    })
}

fn leave(client: &mut Client, channel: &str) {
    client.acked(&json!({"op": "leave", "channel": channel}));
}

fn send(server: &TestServer, channel: &str) -> Value {
    server.call("/v1/send", &json!({"channel": channel, "event": "e"}))["matched"].clone()
}

fn put(server: &TestServer, verb: &str, channel: &str, id: &str) -> Value {
    server.call(
        &format!("/v1/{verb}"),
        &json!({"channel": channel, "to": {"connections": [id]}}),
    )
}

fn channels_of(server: &TestServer, id: &str) -> Value {
    server.get(&format!("/v1/connections/{id}")).json()["channels"].clone()
}

/// Ends a connection without a close frame, and waits until the server knows.
fn lose(server: &TestServer, client: Client) -> String {
    let id = client.id.clone();
    drop(client);
    let path = format!("/v1/connections/{id}");
    eventually("it is gone", || server.get(&path).status == 404);
    id
}

/// What the next message, a notice about one member, says: its kind, the member's id, the user's connections.
fn notice(client: &mut Client) -> (String, String, u64) {
    let message = client.json();
    assert_eq!(message["op"], "member", "{message}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&message["kind"]),
        text(&message["member"]["id"]),
        message["user_connections"].as_u64().unwrap(),
    )
}

fn told(kind: &str, member: &Client, user_connections: u64) -> (String, String, u64) {
    (kind.to_owned(), member.id.clone(), user_connections)
}

#[test]
fn what_has_an_id_is_acked_and_what_has_none_is_silent() {
    let server = with_rules(|_| {});
    let mut client = server.client("ann", &json!({}));
    for message in [
        json!({"op": "join", "channel": "room"}),
        json!({"op": "join", "channel": "room", "members": true}),
        json!({"op": "send", "channel": "room", "event": "e", "echo": false}),
        json!({"op": "broadcast", "event": "e", "echo": false}),
        json!({"op": "publish", "users": ["nobody"], "event": "e"}),
        json!({"op": "update", "data": {"a": 1}}),
        json!({"op": "leave", "channel": "room"}),
        json!({"op": "leave", "channel": "room"}),
    ] {
        client.acked(&message);
        client.send(&message);
        client.expect_nothing();
    }
    assert_eq!(
        client.acked(&json!({"op": "members", "channel": "room"}))["count"],
        0
    );
    client.send(&json!({"op": "join", "channel": ""}));
    let error = client.json();
    assert_eq!(
        (&error["op"], &error["id"]),
        (&json!("error"), &json!(null))
    );
}

#[test]
fn what_was_not_asked_for_is_told_by_joined_and_left() {
    let server = with_rules(|_| {});
    send(&server, "kept");
    let mut client = server.connect("channel=room&channel=kept&channel=room");
    assert_eq!(client.json(), json!({"op": "joined", "channel": "room"}));
    let joined = client.json();
    assert_eq!(
        (&joined["op"], &joined["channel"], &joined["offset"]),
        (&json!("joined"), &json!("kept"), &json!(1))
    );
    assert!(joined["epoch"].is_string(), "{joined}");
    let rest = client.pending();
    assert!(
        rest.iter().all(|told| told["channel"] == "room"),
        "at most that it is in room already: {rest:?}"
    );
    assert_eq!(put(&server, "join", "lobby", &client.id)["joined"], 1);
    assert_eq!(client.json(), json!({"op": "joined", "channel": "lobby"}));
    assert_eq!(
        put(&server, "join", "lobby", &client.id),
        json!({"joined": 0, "already": 1, "full": 0})
    );
    assert_eq!(put(&server, "leave", "lobby", &client.id)["left"], 1);
    assert_eq!(client.json(), json!({"op": "left", "channel": "lobby"}));
    assert_eq!(put(&server, "leave", "lobby", &client.id)["left"], 0);
    client.expect_nothing();
    assert_eq!(channels_of(&server, &client.id), json!(["room", "kept"]));
}

#[test]
fn a_right_lost_at_renewal_takes_its_channels_away() {
    let server = keyed_server(|_| {});
    let token =
        |join: Value| signed(&json!({"sub": "ann", "can": {"join": join, "members": ["*"]}}));
    let mut ann = server.connect(&format!("token={}&channel=a", token(json!(["*"]))));
    let mut bob = server.connect(&format!(
        "token={}",
        signed(&json!({"sub": "bob", "can": {"join": ["*"], "members": ["*"]}}))
    ));
    assert_eq!(ann.json()["op"], "joined");
    for channel in ["b", "c"] {
        ann.join(channel);
    }
    let put_into = json!({"channel": "api", "to": {"connections": [ann.id]}});
    assert_eq!(
        server.post_as(KEY, "/v1/join", &put_into).json()["joined"],
        1
    );
    assert_eq!(ann.json()["channel"], "api");
    bob.watch("b");
    let (mut before, ack) = ann.ask_amid(&json!({"op": "auth", "token": token(json!(["c"]))}));
    assert_eq!(ack["op"], "ack");
    before.extend(ann.pending());
    let told: BTreeSet<String> = before.iter().map(Value::to_string).collect();
    let left = |channel: &str| json!({"op": "left", "channel": channel}).to_string();
    assert!(
        told.contains(&left("a")) && told.contains(&left("b")) && !told.contains(&left("c")),
        "{told:?}"
    );
    assert_eq!(notice(&mut bob), self::told("left", &ann, 0));
    for (channel, expected) in [("a", 0), ("b", 1), ("c", 1)] {
        let body = json!({"channel": channel, "event": "e", "except": {"users": [""]}});
        assert_eq!(
            server.post_as(KEY, "/v1/send", &body).json()["matched"],
            expected,
            "{channel}"
        );
    }
    assert_eq!(ann.json()["channel"], "c");
    ann.expect_nothing();
}

#[test]
fn a_channel_that_may_not_be_had_at_connecting_is_an_error_that_names_it() {
    let server = keyed_server(|_| {});
    let token = signed(&json!({"sub": "ann", "can": {"join": ["room"]}}));
    let mut ann = server.connect(&format!(
        "token={token}&channel=lobby&channel=a%20b&channel=room"
    ));
    for (code, name) in [("forbidden", "lobby"), ("bad_channel", "a b")] {
        let error = ann.json();
        assert_eq!(
            (&error["op"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{error}"
        );
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    assert_eq!(ann.json(), json!({"op": "joined", "channel": "room"}));
    ann.expect_nothing();
}

/// Stops those who send when it is dropped, be it by a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `then` while a caller and a client keep sending to `channel`.
fn while_others_send(server: &TestServer, channel: &str, then: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                send(server, channel);
            }
        });
        scope.spawn(|| {
            let mut client = server.connect("echo=false");
            while !is_over.load(Relaxed) {
                client.acked(&json!({"op": "send", "channel": channel, "event": "c"}));
            }
        });
        let _stop = Stop(&is_over);
        then();
    });
}

/// Expects an event of `channel`, and where it keeps events the one after `offset`.
fn assert_follows(event: &Value, channel: &str, offset: &mut Value) {
    assert_eq!(event["channel"], channel, "{event}");
    assert!(event["event"].is_string(), "{event}");
    if let Some(before) = offset.as_u64() {
        assert_eq!(event["offset"], before + 1);
        *offset = event["offset"].clone();
    }
}

#[test]
fn events_of_a_channel_come_behind_the_ack_of_its_join_and_never_behind_that_of_its_leave() {
    let server = with_rules(|_| {});
    for channel in ["room", "kept"] {
        while_others_send(&server, channel, || {
            let mut member = server.connect("");
            for _ in 0..20 {
                let mut offset = member.join(channel)["offset"].clone();
                assert_eq!(offset.is_u64(), channel == "kept");
                for _ in 0..3 {
                    assert_follows(&member.json(), channel, &mut offset);
                }
                let (last, ack) = member.ask_amid(&json!({"op": "leave", "channel": channel}));
                for event in &last {
                    assert_follows(event, channel, &mut offset);
                }
                assert_eq!(ack["op"], "ack");
                member.expect_nothing();
            }
        });
    }
}

#[test]
fn what_a_client_sends_at_once_is_done_one_after_another() {
    let server = with_rules(|_| {});
    for channel in ["room", "kept"] {
        let mut client = server.client("ann", &json!({}));
        let send = |id: usize| json!({"op": "send", "channel": channel, "event": "e", "data": id, "id": id});
        let messages = [
            send(0),
            json!({"op": "join", "channel": channel, "id": 1}),
            send(2),
            json!({"op": "update", "data": {"n": 3}, "id": 3}),
            json!({"op": "members", "channel": channel, "id": 4}),
            json!({"op": "leave", "channel": channel, "id": 5}),
            send(6),
            json!({"op": "members", "channel": channel, "id": 7}),
        ];
        let frames = messages
            .iter()
            .flat_map(|message| masked(0x81, message.to_string().as_bytes()));
        client
            .socket
            .write_all(&frames.collect::<Vec<u8>>())
            .unwrap();
        let mut answers = Vec::new();
        for _ in 0..=messages.len() {
            let message = client.json();
            if message["event"] == "e" {
                assert_eq!(
                    (&message["data"], answers.len()),
                    (&json!(2), 2),
                    "{message}"
                );
            } else {
                answers.push(message);
            }
        }
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(
                (&answer["op"], &answer["id"]),
                (&json!("ack"), &json!(n)),
                "{answer}"
            );
        }
        assert_eq!(answers[4]["members"][0]["data"], json!({"n": 3}));
        assert_eq!(answers[7]["count"], 0);
        client.expect_nothing();
    }
}

#[test]
fn events_of_a_channel_come_behind_joined_and_never_behind_left() {
    let server = with_rules(|_| {});
    for channel in ["room", "kept"] {
        while_others_send(&server, channel, || {
            let mut member = server.connect("");
            for _ in 0..20 {
                assert_eq!(put(&server, "join", channel, &member.id)["joined"], 1);
                let joined = member.json();
                assert_eq!(
                    (&joined["op"], &joined["channel"]),
                    (&json!("joined"), &json!(channel))
                );
                let mut offset = joined["offset"].clone();
                for _ in 0..3 {
                    assert_follows(&member.json(), channel, &mut offset);
                }
                assert_eq!(put(&server, "leave", channel, &member.id)["left"], 1);
                loop {
                    let next = member.json();
                    if next["op"] == "left" {
                        break;
                    }
                    assert_follows(&next, channel, &mut offset);
                }
                member.expect_nothing();
            }
        });
    }
}

#[test]
fn channels_named_at_connecting_have_their_joined_before_their_events() {
    let server = with_rules(|_| {});
    for channel in ["room", "kept"] {
        while_others_send(&server, channel, || {
            for _ in 0..20 {
                let mut member = server.connect(&format!("channel={channel}"));
                let joined = member.json();
                assert_eq!(joined["op"], "joined", "{joined}");
                let mut offset = joined["offset"].clone();
                for _ in 0..3 {
                    assert_follows(&member.json(), channel, &mut offset);
                }
            }
        });
    }
}

#[test]
fn joining_twice_changes_nothing() {
    let server = with_rules(|_| {});
    let (mut watcher, mut ann) = (server.connect(""), server.client("ann", &json!({})));
    watcher.watch("room");
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    ann.join("room");
    ann.join("room");
    assert_eq!(send(&server, "room"), 2);
    assert_eq!((ann.pending().len(), watcher.pending().len()), (1, 1));
    assert_eq!(server.get("/v1/channels/room").json()["connections"], 2);
    assert_eq!(channels_of(&server, &ann.id), json!(["room"]));
    leave(&mut ann, "room");
    leave(&mut ann, "room");
    assert_eq!(notice(&mut watcher), told("left", &ann, 0));
    assert_eq!(send(&server, "room"), 1);
    assert_eq!(watcher.json()["event"], "e");
    ann.expect_nothing();
}

#[test]
fn joining_again_with_members_starts_the_notices() {
    let server = server();
    let (mut watcher, mut ann) = (server.connect(""), server.connect(""));
    watcher.join("room");
    assert_eq!(watcher.watch("room")["count"], 1);
    ann.join("room");
    assert_eq!(notice(&mut watcher).1, ann.id);
}

#[test]
fn a_connection_is_in_as_many_channels_as_it_may_be() {
    let server = with_rules(|config| config.limits.channels_per_connection = 2);
    let mut client = server.connect("channel=a");
    assert_eq!(client.json()["channel"], "a");
    client.join("b");
    client.join("b");
    let full = client.ask(&json!({"op": "join", "channel": "c"}));
    assert_eq!(
        (&full["op"], &full["code"]),
        (&json!("error"), &json!("too_many_channels"))
    );
    assert_eq!(
        put(&server, "join", "c", &client.id),
        json!({"joined": 0, "already": 0, "full": 1})
    );
    client.expect_nothing();
    assert_eq!(send(&server, "c"), 0);
    leave(&mut client, "a");
    client.join("c");
    assert_eq!(channels_of(&server, &client.id), json!(["b", "c"]));
    assert_eq!(
        server
            .try_open("channel=a&channel=b&channel=c", &[])
            .err()
            .unwrap()
            .status,
        400
    );
}

#[test]
fn a_name_that_no_channel_can_have_is_refused_everywhere() {
    let server = with_rules(|_| {});
    let mut client = server.connect("");
    let long = "x".repeat(201);
    for name in ["", "a b", "é", "a/b", "room*", "a\"b", "a\u{0}b", &long] {
        for op in ["join", "leave", "members", "send"] {
            let mut message = json!({"op": op, "channel": name});
            if op == "send" {
                message["event"] = json!("e");
            }
            assert_eq!(client.ask(&message)["code"], "bad_channel", "{message}");
        }
        for (path, body) in [
            ("/v1/join", json!({"channel": name, "filter": "true"})),
            ("/v1/leave", json!({"channel": name, "filter": "true"})),
            ("/v1/send", json!({"channel": name, "event": "e"})),
            (
                "/v1/send",
                json!({"channels": ["fine", name], "event": "e"}),
            ),
            (
                "/v1/emit",
                json!({"to": {"channels": [name]}, "event": "e"}),
            ),
        ] {
            let answer = server.post(path, &body);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "bad_channel"),
                "{path} {name}"
            );
        }
    }
    assert_eq!(
        server.get("/v1/channels/a%20b/members").code(),
        "bad_channel"
    );
    client.expect_nothing();
    assert_eq!(channels_of(&server, &client.id), json!([]));
    for name in [
        "x".repeat(200),
        "Az0_.:=@,;-".to_owned(),
        "fanfare:x".to_owned(),
    ] {
        client.join(&name);
        assert_eq!(send(&server, &name), 1);
        assert_eq!(client.json()["channel"], name);
    }
}

#[test]
fn filters_see_channels_and_profile_at_once() {
    let server = with_rules(|config| {
        config.apps.values_mut().next().unwrap().index = vec!["profile.status".to_owned()];
    });
    let mut client = server.client("ann", &json!({}));
    let seen = |filter: &str| {
        let matched =
            server.call("/v1/emit", &json!({"event": "e", "filter": filter}))["matched"].clone();
        matched == 1
    };
    // One has an index, the others are looked at one by one.
    let in_room = [
        "\"room\" in channels",
        "channels.exists(c, c.startsWith(\"ro\"))",
        "size(channels) == 1",
    ];
    let away = [
        "profile.status == \"away\"",
        "profile.mood == \"low\"",
        "has(profile.status) && profile.n > 1",
    ];
    let none = |filters: &[&str; 3]| filters.iter().all(|filter| !seen(filter));
    for round in 0..10 {
        let profile = json!({"status": "away", "mood": "low", "n": 2});
        assert!(none(&in_room) && none(&away), "{round}");
        client.acked(&json!({"op": "update", "data": profile}));
        assert!(
            away.iter().all(|filter| seen(filter)) && none(&in_room),
            "before joining"
        );
        assert_eq!(client.pending().len(), 3);
        client.join("room");
        assert!(in_room.iter().chain(&away).all(|filter| seen(filter)));
        assert_eq!(client.pending().len(), 6);
        client.acked(&json!({"op": "update", "data": {"status": "here"}}));
        assert!(none(&away) && seen("profile.status == \"here\"") && seen("profile.mood == null"));
        client.pending();
        client.acked(&json!({"op": "update", "data": null}));
        assert!(none(&away) && seen("profile == null"));
        client.pending();
        leave(&mut client, "room");
    }
    client.acked(&json!({"op": "update", "data": {"status": "away"}}));
    client.join("room");
    lose(&server, client);
    assert!(none(&in_room) && none(&away));
}

#[test]
fn a_profile_is_an_object_within_its_bound() {
    let server = with_rules(|config| config.limits.profile_bytes = 100);
    let mut client = server.client("ann", &json!({}));
    let shown = |client: &Client| {
        server.get(&format!("/v1/connections/{}", client.id)).json()["profile"].clone()
    };
    client.acked(&json!({"op": "update", "data": {"a": 1, "b": {"c": 2}}}));
    client.acked(&json!({"op": "update", "data": {"b": {"d": 1e2}}}));
    assert_eq!(
        shown(&client),
        json!({"b": {"d": 100.0}}),
        "it is replaced, not merged"
    );
    for data in [
        json!([]),
        json!("x"),
        json!(1),
        json!({"a": "x".repeat(100)}),
    ] {
        assert_eq!(
            client.ask(&json!({"op": "update", "data": data}))["op"],
            "error",
            "{data}"
        );
    }
    assert_eq!(client.ask(&json!({"op": "update"}))["op"], "error");
    assert_eq!(shown(&client), json!({"b": {"d": 100.0}}));
    client.acked(&json!({"op": "update", "data": null}));
    assert_eq!(shown(&client), json!(null));
}

fn ids(members: &Value) -> Vec<String> {
    members
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["id"].as_str().unwrap().to_owned())
        .collect()
}

/// All members by pages of `limit`, and the largest page.
fn all_pages(mut page: impl FnMut(Option<&str>) -> Value) -> (Vec<String>, usize) {
    let (mut found, mut largest, mut cursor): (Vec<String>, usize, Option<String>) =
        (Vec::new(), 0, None);
    loop {
        let page = page(cursor.as_deref());
        assert_eq!(
            (&page["count"], &page["users"]),
            (&json!(12), &json!(3)),
            "{page}"
        );
        let some = ids(&page["members"]);
        largest = largest.max(some.len());
        found.extend(some);
        match page.get("cursor") {
            None => return (found, largest),
            Some(next) => cursor = Some(next.as_str().unwrap().to_owned()),
        }
    }
}

#[test]
fn members_come_in_pages_to_the_end() {
    let server = with_rules(|config| {
        config.limits.outbox_bytes = 2048;
        config.limits.body_bytes = 2048;
        config.limits.message_bytes = 2048;
        config.limits.claims_bytes = 1024;
        config.limits.profile_bytes = 100;
    });
    let mut clients: Vec<Client> = (0..11)
        .map(|n| server.client(&format!("u{}", n % 3), &json!({})))
        .collect();
    for client in &mut clients {
        client.join("room");
        client.join("other");
    }
    let mut last = server.client("u0", &json!({}));
    let ack = last.watch("room");
    clients.push(last);
    let expected: BTreeSet<String> = clients.iter().map(|client| client.id.clone()).collect();
    let last = clients.last_mut().unwrap();
    let (mut found, _) = all_pages(|cursor| match cursor {
        None => ack.clone(),
        Some(cursor) => last.acked(&json!({"op": "members", "channel": "room", "cursor": cursor})),
    });
    assert!(
        ack["cursor"].is_string() && !ids(&ack["members"]).is_empty(),
        "a page is a quarter of an outbox: {ack}"
    );
    found.sort();
    assert_eq!(found, expected.iter().cloned().collect::<Vec<_>>());
    for limit in [1, 2, 5, 12, 100] {
        let by_client = all_pages(|cursor| {
            last.acked(
                &json!({"op": "members", "channel": "room", "cursor": cursor, "limit": limit}),
            )
        });
        let by_call = all_pages(|cursor| {
            let cursor = cursor
                .map(|cursor| format!("&cursor={cursor}"))
                .unwrap_or_default();
            server
                .get(&format!("/v1/channels/room/members?limit={limit}{cursor}"))
                .json()
        });
        assert!(
            by_client.1 <= limit && by_call.1 == limit.min(12),
            "{limit}: {} {}",
            by_client.1,
            by_call.1
        );
        for (mut found, _) in [by_client, by_call] {
            found.sort();
            assert_eq!(
                found,
                expected.iter().cloned().collect::<Vec<_>>(),
                "{limit}"
            );
        }
    }
    for message in [
        json!({"op": "members", "channel": "room", "limit": 0}),
        json!({"op": "members", "channel": "room", "cursor": "x"}),
    ] {
        assert_eq!(last.ask(&message)["op"], "error", "{message}");
    }
}

#[test]
fn the_ack_of_a_join_shows_the_client_itself_among_the_members() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    ann.acked(&json!({"op": "update", "data": {"n": 1}}));
    let ack = ann.watch("room");
    assert_eq!(
        ack["members"],
        json!([{"id": ann.id, "user": "ann", "data": {"n": 1}}])
    );
    assert_eq!(
        (&ack["count"], &ack["users"], ack.get("cursor")),
        (&json!(1), &json!(1), None)
    );
    let ack = bob.watch("room");
    assert_eq!((&ack["count"], &ack["users"]), (&json!(2), &json!(2)));
    assert_eq!(ids(&ack["members"]).len(), 2);
    assert_eq!(notice(&mut ann), told("joined", &bob, 1));
    bob.expect_nothing();
}

#[test]
fn a_user_is_present_until_its_last_connection_leaves() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut pair = [
        server.client("ann", &json!({})),
        server.client("ann", &json!({})),
    ];
    for (client, there) in pair.iter_mut().zip(1..) {
        client.join("room");
        assert_eq!(notice(&mut watcher), told("joined", client, there));
    }
    let counts = || {
        let channel = server.get("/v1/channels/room").json();
        (channel["connections"].clone(), channel["users"].clone())
    };
    assert_eq!(counts(), (json!(3), json!(1)));
    for (client, left) in pair.iter_mut().zip([1, 0]) {
        client.frame(0x88, &1000_u16.to_be_bytes());
        assert_eq!(notice(&mut watcher), told("left", client, left));
        assert_eq!(counts(), (json!(1 + left), json!(left)));
    }
    watcher.expect_nothing();
}

#[test]
fn left_comes_at_once_after_a_close_frame_and_after_the_window_without_one() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut both = [
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    ];
    for client in &mut both {
        client.join("room");
        assert_eq!(notice(&mut watcher), told("joined", client, 1));
    }
    let [ann, mut bob] = both;
    lose(&server, ann);
    assert_eq!(send(&server, "room"), 2, "it gets no events");
    assert_eq!(watcher.json()["event"], "e");
    assert_eq!(bob.json()["event"], "e");
    bob.frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(
        notice(&mut watcher),
        told("left", &bob, 0),
        "and not that of who may come back"
    );
    let ids: Vec<String> = ids(&server.get("/v1/channels/room/members").json()["members"]);
    assert_eq!(ids, [watcher.id.clone()]);
    watcher.expect_nothing();
}

#[test]
fn left_comes_after_the_window_where_nobody_came_back() {
    let server = with_rules(|config| config.limits.resume_window = Duration::from_millis(50));
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut ann = server.client("ann", &json!({}));
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let left = ("left".to_owned(), ann.id.clone(), 0);
    let id = lose(&server, ann);
    assert_eq!(notice(&mut watcher), left);
    let token = server.token("ann", &json!({}));
    let mut late = server.open(&format!("token={token}&resume={id}"));
    assert_eq!(late.json()["resumed"], false);
    late.expect_nothing();
    watcher.expect_nothing();
}

#[test]
fn with_the_window_off_left_comes_at_once() {
    let server = with_rules(|config| config.limits.resume_window = Duration::ZERO);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut ann = server.client("ann", &json!({}));
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let left = ("left".to_owned(), ann.id.clone(), 0);
    lose(&server, ann);
    assert_eq!(notice(&mut watcher), left);
}

#[test]
fn who_is_disconnected_by_the_api_has_left_at_once() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut ann = server.client("ann", &json!({}));
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    server.call("/v1/disconnect", &json!({"to": {"users": ["ann"]}}));
    assert_eq!(notice(&mut watcher), told("left", &ann, 0));
}

/// The handshake's query of `user` on `device`.
fn on_device(server: &TestServer, user: &str, device: &str) -> String {
    format!("token={}&device={device}", server.token(user, &json!({})))
}

/// Comes back in place of `old`, to `channels`; the welcome has been taken.
fn come_back(server: &TestServer, query: &str, old: &str, channels: &[&str]) -> Client {
    let mut client = server.open(&format!("{query}&resume={old}"));
    let welcome = client.json();
    assert_eq!(
        (&welcome["op"], &welcome["resumed"]),
        (&json!("welcome"), &json!(true)),
        "{welcome}"
    );
    welcome["connection"]
        .as_str()
        .unwrap()
        .clone_into(&mut client.id);
    assert_ne!(client.id, old);
    let told: BTreeSet<String> = channels.iter().map(|_| client.json().to_string()).collect();
    let expected = channels
        .iter()
        .map(|channel| json!({"op": "joined", "channel": channel}).to_string());
    assert_eq!(told, expected.collect());
    client
}

/// Leaves as a page does that is loaded again, and waits until the server knows.
fn leave_page(server: &TestServer, mut client: Client, payload: &[u8]) -> String {
    client.frame(0x88, payload);
    lose(server, client)
}

#[test]
fn a_page_that_is_loaded_again_is_told_as_one_update() {
    let server = with_rules(|_| {});
    let mut watcher = server.connect("");
    watcher.join("reloaded");
    let query = on_device(&server, "ann", "laptop");
    let mut ann = server.connect(&query);
    ann.join("reloaded");
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));

    // By a new join, which does not say in whose place: once with 1001, once without a code.
    for payload in [&1001_u16.to_be_bytes()[..], &[]] {
        let old = leave_page(&server, ann, payload);
        assert_eq!(send(&server, "reloaded"), 1, "it gets no events");
        assert_eq!(watcher.json()["event"], "e");
        ann = server.connect(&query);
        ann.join("reloaded");
        assert_stands_in(&mut watcher, &ann, &old);
    }

    // By its id, which gives back the channel that waits, and not the one that does not.
    ann.join("room");
    let old = leave_page(&server, ann, &1001_u16.to_be_bytes());
    let ann = come_back(&server, &query, &old, &["reloaded"]);
    assert_stands_in(&mut watcher, &ann, &old);
    assert_eq!(channels_of(&server, &ann.id), json!(["reloaded"]));
    watcher.expect_nothing();
}

#[test]
fn only_the_same_client_takes_the_place_of_a_page_that_was_left() {
    let server = with_rules(|_| {});
    let mut watcher = server.connect("");
    watcher.join("reloaded");
    let mut ann = server.connect(&on_device(&server, "ann", "laptop"));
    ann.join("reloaded");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    leave_page(&server, ann, &[]);

    let mut phone = server.connect(&on_device(&server, "ann", "phone"));
    phone.join("reloaded");
    assert_eq!(
        notice(&mut watcher),
        told("joined", &phone, 2),
        "the one that was left is still counted"
    );
    // Any other close is for good.
    phone.frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(notice(&mut watcher), told("left", &phone, 1));
    // A client that nobody could know again leaves immediately.
    let mut nobody = server.connect("");
    nobody.join("reloaded");
    assert_eq!(notice(&mut watcher), told("joined", &nobody, 1));
    nobody.frame(0x88, &[]);
    assert_eq!(notice(&mut watcher), told("left", &nobody, 0));
}

#[test]
fn a_page_that_does_not_come_back_has_left_after_its_time() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.join("left-soon");
    let mut ann = server.client("ann", &json!({}));
    ann.join("left-soon");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    ann.frame(0x88, &1001_u16.to_be_bytes());
    assert_eq!(notice(&mut watcher), told("left", &ann, 0));
}

/// Expects that the next notice is `member` in place of `previous`.
fn assert_stands_in(watcher: &mut Client, member: &Client, previous: &str) {
    let message = watcher.json();
    let seen = (
        &message["kind"],
        &message["member"]["id"],
        &message["previous"],
        &message["user_connections"],
    );
    assert_eq!(
        seen,
        (
            &json!("updated"),
            &json!(member.id),
            &json!(previous),
            &json!(1)
        ),
        "{message}"
    );
}

#[test]
fn who_comes_back_in_the_window_has_its_channels_and_others_see_one_update() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let mut ann = server.connect(&query);
    ann.join("lobby");
    ann.watch("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let old = lose(&server, ann);
    let mut ann = come_back(&server, &query, &old, &["lobby", "room"]);
    assert_stands_in(&mut watcher, &ann, &old);
    for channel in ["lobby", "room"] {
        send(&server, channel);
        assert_eq!(ann.json()["channel"], channel);
    }
    assert_eq!(watcher.json()["event"], "e");
    let mut bob = server.client("bob", &json!({}));
    bob.join("room");
    assert_eq!(
        notice(&mut watcher),
        told("joined", &bob, 1),
        "nothing came between"
    );
    assert_eq!(
        notice(&mut ann),
        told("joined", &bob, 1),
        "it watches as it did before"
    );
    assert_eq!(server.get("/v1/channels/room").json()["connections"], 3);
    let mut again = server.open(&format!("{query}&resume={old}"));
    assert_eq!(again.json()["resumed"], false, "nobody comes back twice");
}

#[test]
fn a_client_comes_back_again_and_again() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let mut ann = server.connect(&query);
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    for _ in 0..5 {
        let old = lose(&server, ann);
        ann = come_back(&server, &query, &old, &["room"]);
        assert_stands_in(&mut watcher, &ann, &old);
    }
    ann.frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(notice(&mut watcher), told("left", &ann, 0));
}

#[test]
fn another_user_or_device_gets_nothing_back_and_takes_nothing_away() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let mut ann = server.connect(&query);
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let old = lose(&server, ann);
    for other in [
        on_device(&server, "bob", "phone"),
        on_device(&server, "ann", "laptop"),
        format!("token={}", server.token("ann", &json!({}))),
        "device=phone".to_owned(),
        String::new(),
    ] {
        let mut other_client = server.open(&format!("{other}&resume={old}"));
        assert_eq!(other_client.json()["resumed"], false, "{other}");
        other_client.expect_nothing();
    }
    for nonsense in ["x", "00000000000000000000000004"] {
        assert_eq!(
            server.open(&format!("{query}&resume={nonsense}")).json()["resumed"],
            false,
            "{nonsense}"
        );
    }
    assert_eq!(
        server.connect(&query).pending(),
        [Value::Null; 0],
        "who does not ask is new"
    );
    let ann = come_back(&server, &query, &old, &["room"]);
    assert_stands_in(&mut watcher, &ann, &old);
    watcher.expect_nothing();
}

#[test]
fn a_client_comes_back_although_the_server_thinks_it_never_went() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let mut stale = server.connect(&query);
    stale.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &stale, 1));
    let mut other = server.open(&format!(
        "{}&resume={}",
        on_device(&server, "bob", "phone"),
        stale.id
    ));
    assert_eq!(other.json()["resumed"], false);
    stale.expect_nothing();
    let ann = come_back(&server, &query, &stale.id, &["room"]);
    assert_stands_in(&mut watcher, &ann, &stale.id);
    stale.closed();
    let path = format!("/v1/connections/{}", stale.id);
    drop(stale);
    eventually("the stale one is gone", || server.get(&path).status == 404);
    let mut bob = server.client("bob", &json!({}));
    bob.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &bob, 1));
    assert_eq!(server.get("/v1/users/ann").json()["connections"], 1);
}

#[test]
fn after_a_close_frame_nothing_is_left_to_come_back_to() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let query = on_device(&server, "ann", "phone");
    let mut ann = server.connect(&query);
    ann.join("room");
    ann.frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(ann.closed(), 1000);
    let mut again = server.open(&format!("{query}&resume={}", ann.id));
    assert_eq!(again.json()["resumed"], false);
    again.expect_nothing();
}

#[test]
fn who_comes_back_with_fewer_rights_is_told_which_channels_it_has_left() {
    let server = keyed_server(|config| config.limits.resume_window = LONG);
    let token =
        |join: Value| signed(&json!({"sub": "ann", "can": {"join": join, "members": ["*"]}}));
    let bob = signed(&json!({"sub": "bob", "can": {"join": ["*"], "members": ["*"]}}));
    let mut watcher = server.connect(&format!("token={bob}"));
    watcher.watch("b");
    let mut ann = server.connect(&format!("token={}", token(json!(["*"]))));
    ann.join("a");
    ann.join("b");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let (left, old) = (told("left", &ann, 0), ann.id.clone());
    drop(ann);
    let path = format!("/v1/connections/{old}");
    eventually("it is gone", || server.get_as(KEY, &path).status == 404);
    let mut ann = server.open(&format!("token={}&resume={old}", token(json!(["a"]))));
    assert_eq!(ann.json()["resumed"], true);
    let told: BTreeSet<String> = (0..2).map(|_| ann.json().to_string()).collect();
    let expected = [
        json!({"op": "joined", "channel": "a"}),
        json!({"op": "left", "channel": "b"}),
    ];
    assert_eq!(told, expected.iter().map(Value::to_string).collect());
    assert_eq!(notice(&mut watcher), left);
    ann.expect_nothing();
}

/// Adds up what a watcher hears until `joined` members came and `left` went; answers how many notices and how many
/// counts that were, and the last count.
fn heard(watcher: &mut Client, joined: u64, left: u64) -> (u64, u64, Value) {
    let (mut notices, mut counts, mut last) = (0, 0, Value::Null);
    let mut sums = (0, 0);
    while sums != (joined, left) {
        let message = watcher.json();
        assert_eq!(message["channel"], "room", "{message}");
        match message["op"].as_str().unwrap() {
            "member" => {
                notices += 1;
                let is_joined = message["kind"] == "joined";
                sums.0 += u64::from(is_joined);
                sums.1 += u64::from(!is_joined);
            }
            "members" => {
                counts += 1;
                sums.0 += message["joined"].as_u64().unwrap();
                sums.1 += message["left"].as_u64().unwrap();
                last = message;
            }
            _ => panic!("{message}"),
        }
        assert!(
            sums.0 <= joined && sums.1 <= left,
            "{sums:?} of {joined} and {left}"
        );
    }
    (notices, counts, last)
}

#[test]
fn under_churn_notices_become_counts_that_add_up() {
    let server = with_rules(|config| config.limits.presence_notices = 2);
    let mut watcher = server.client("wes", &json!({}));
    watcher.watch("room");
    let _others: Vec<Client> = (0..30)
        .map(|n| server.client(&format!("u{}", n % 10), &json!({})))
        .collect();
    let all = |verb: &str| {
        let body = json!({"channel": "room", "filter": "user != \"wes\""});
        server.call(&format!("/v1/{verb}"), &body);
    };
    all("join");
    let (notices, counts, last) = heard(&mut watcher, 30, 0);
    assert!(
        notices < 30 && counts > 0,
        "{notices} notices and {counts} counts"
    );
    assert_eq!(
        (&last["count"], &last["users"]),
        (&json!(31), &json!(11)),
        "{last}"
    );
    all("leave");
    let (notices, counts, last) = heard(&mut watcher, 0, 30);
    assert!(
        notices < 30 && counts > 0,
        "{notices} notices and {counts} counts"
    );
    assert_eq!(
        (&last["count"], &last["users"]),
        (&json!(1), &json!(1)),
        "{last}"
    );
    for _ in 0..5 {
        all("join");
        all("leave");
    }
    heard(&mut watcher, 150, 150);
    watcher.expect_nothing();
}

#[test]
fn with_no_notices_allowed_and_above_the_size_that_has_them_there_are_counts_only() {
    let none = |config: &mut Config| config.limits.presence_notices = 0;
    let large = |config: &mut Config| config.limits.presence_members = 1;
    for server in [with_rules(none), with_rules(large)] {
        let mut watcher = server.connect("");
        watcher.watch("room");
        let mut ann = server.client("ann", &json!({}));
        ann.join("room");
        let expected = json!({
            "op": "members", "channel": "room", "joined": 1, "left": 0, "updated": 0, "count": 2, "users": 1
        });
        assert_eq!(watcher.json(), expected);
        ann.acked(&json!({"op": "update", "data": {}}));
        assert_eq!(watcher.json()["updated"], 1);
    }
}

#[test]
fn a_channel_that_counts_only_tells_how_many_and_never_who() {
    let server = with_rules(|_| {});
    let (mut watcher, mut plain) = (server.connect(""), server.connect(""));
    plain.join("counted");
    watcher.watch("counted");
    let mut ann = server.client("ann", &json!({}));
    ann.join("counted");
    let message = watcher.json();
    assert_eq!(
        (&message["op"], &message["joined"], &message["count"]),
        (&json!("members"), &json!(1), &json!(3))
    );
    leave(&mut ann, "counted");
    let message = watcher.json();
    assert_eq!(
        (&message["op"], &message["left"], &message["count"]),
        (&json!("members"), &json!(1), &json!(2))
    );
    plain.expect_nothing();
}

#[test]
fn a_channel_that_hides_its_members_gives_neither_lists_nor_notices() {
    let server = with_rules(|_| {});
    let (mut plain, mut ann) = (server.connect(""), server.client("ann", &json!({})));
    let refused = plain.ask(&json!({"op": "join", "channel": "hidden", "members": true}));
    assert_eq!(
        (&refused["op"], &refused["code"]),
        (&json!("error"), &json!("members_off"))
    );
    assert_eq!(
        channels_of(&server, &plain.id),
        json!([]),
        "refused as a whole"
    );
    plain.join("hidden");
    assert_eq!(
        plain.ask(&json!({"op": "members", "channel": "hidden"}))["code"],
        "members_off"
    );
    ann.join("hidden");
    ann.acked(&json!({"op": "update", "data": {}}));
    leave(&mut ann, "hidden");
    // The notices of all channels go out one after another.
    plain.watch("room");
    ann.join("room");
    assert_eq!(notice(&mut plain), told("joined", &ann, 1));
    assert_eq!(
        server.get("/v1/channels/hidden/members").json()["count"],
        1,
        "callers of the API see them"
    );
}

/// Clients on devices of their own, all in `room`: `ann` twice, `bob`, who is left out below, and `cid`.
fn crowd(server: &TestServer) -> Vec<Client> {
    let devices = [
        ("ann", "laptop"),
        ("ann", "tablet"),
        ("bob", "phone"),
        ("cid", "watch"),
    ];
    let mut clients: Vec<Client> = devices
        .iter()
        .map(|(user, device)| server.connect(&on_device(server, user, device)))
        .collect();
    for client in &mut clients {
        client.join("room");
    }
    clients
}

/// Expects that all of `crowd` but those at `without` have had one event.
fn assert_all_but(crowd: &mut [Client], without: &[usize], what: &Value) {
    for (at, client) in crowd.iter_mut().enumerate() {
        let expected = usize::from(!without.contains(&at));
        assert_eq!(client.pending().len(), expected, "{what} for {at}");
    }
}

/// Ways to leave out some of `crowd`, and who they are.
fn exceptions(crowd: &[Client]) -> Vec<(Value, Vec<usize>)> {
    vec![
        (json!({}), vec![]),
        (json!({"connections": [crowd[2].id]}), vec![2]),
        (json!({"connections": [crowd[0].id, "nonsense"]}), vec![0]),
        (json!({"users": ["bob"]}), vec![2]),
        (json!({"users": ["ann", "nobody"]}), vec![0, 1]),
        (json!({"devices": ["phone"]}), vec![2]),
        (json!({"devices": ["laptop", "none"]}), vec![0]),
        (
            json!({"users": ["bob"], "devices": ["watch"], "connections": [crowd[1].id]}),
            vec![1, 2, 3],
        ),
    ]
}

#[test]
fn every_call_leaves_out_connections_users_and_devices() {
    let server = with_rules(|_| {});
    let mut crowd = crowd(&server);
    let everyone = json!(["ann", "bob", "cid"]);
    let calls = [
        ("/v1/emit", json!({})),
        ("/v1/emit", json!({"filter": "true"})),
        (
            "/v1/emit",
            json!({"to": {"channels": ["room"], "users": ["cid"], "connections": [crowd[2].id]}}),
        ),
        ("/v1/publish", json!({"users": everyone})),
        ("/v1/send", json!({"channel": "room"})),
        ("/v1/broadcast", json!({})),
        ("/v1/dispatch", json!({"recipients": everyone})),
        ("/v1/dispatch", json!({"recipients": ["*"]})),
    ];
    for (path, body) in &calls {
        for (except, without) in exceptions(&crowd) {
            let mut body = body.clone();
            body["event"] = json!("e");
            body["except"] = except;
            assert_eq!(
                server.call(path, &body)["matched"],
                4 - without.len(),
                "{path} {body}"
            );
            assert_all_but(&mut crowd, &without, &body);
        }
    }
    let body = json!({"recipients": ["*"], "event": "e", "except": ["ann"]});
    server.call("/v1/dispatch", &body);
    assert_all_but(&mut crowd, &[0, 1], &body);
}

#[test]
fn every_operation_of_a_client_leaves_out_connections_users_and_devices() {
    let server = with_rules(|_| {});
    let mut crowd = crowd(&server);
    let mut sender = server.connect(&format!(
        "{}&echo=false",
        on_device(&server, "ann", "sender")
    ));
    for message in [
        json!({"op": "send", "channel": "room"}),
        json!({"op": "broadcast"}),
        json!({"op": "publish", "users": ["ann", "bob", "cid"]}),
    ] {
        for (except, without) in exceptions(&crowd) {
            let mut message = message.clone();
            message["event"] = json!("e");
            message["except"] = except;
            sender.acked(&message);
            assert_all_but(&mut crowd, &without, &message);
        }
    }
    sender.expect_nothing();
}

/// A binary message: version, length of the header, header, bytes.
fn binary(header: &Value, bytes: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let length = u16::try_from(header.len()).unwrap().to_be_bytes();
    [&[1], &length[..], header.as_bytes(), bytes].concat()
}

/// The header and the bytes of a binary message.
fn opened(message: &Received) -> (Value, Vec<u8>) {
    let Received::Binary(message) = message else {
        panic!("expected bytes, got {message:?}")
    };
    let [1, high, low, rest @ ..] = &message[..] else {
        panic!("{message:?}")
    };
    let (header, bytes) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
    (serde_json::from_slice(header).unwrap(), bytes.to_vec())
}

#[test]
fn bytes_of_a_call_arrive_as_binary_with_their_channel_in_the_header() {
    let server = with_rules(|_| {});
    let mut member = server.connect("");
    member.join("room");
    member.join("kept");
    for base64 in ["", "AA==", "AP8B"] {
        let body = json!({"channels": ["room", "kept"], "event": "e", "data_base64": base64});
        server.call("/v1/send", &body);
        let bytes = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
        assert_eq!(
            opened(&member.message()),
            (json!({"event": "e", "channel": "room"}), bytes.clone())
        );
        let (header, kept) = opened(&member.message());
        assert_eq!((&header["channel"], kept), (&json!("kept"), bytes));
        assert!(header["offset"].is_u64(), "{header}");
    }
    member.expect_nothing();
}

#[test]
fn bytes_of_a_client_arrive_as_binary_with_who_sent_them() {
    let server = with_rules(|_| {});
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    bob.join("room");
    let from = json!({"connection": ann.id, "user": "ann"});
    for (header, channel) in [
        (
            json!({"op": "send", "channel": "room", "event": "e", "id": 1}),
            Some("room"),
        ),
        (
            json!({"op": "broadcast", "event": "e", "echo": false, "id": 1}),
            None,
        ),
        (
            json!({"op": "publish", "users": ["bob"], "event": "e", "id": 1}),
            None,
        ),
    ] {
        for bytes in [&b""[..], &[0, 255, 1, b'{'], &[7; 10_000]] {
            ann.frame(0x82, &binary(&header, bytes));
            assert_eq!(ann.json(), json!({"op": "ack", "id": 1}));
            let mut expected = json!({"event": "e", "from": from});
            if let Some(channel) = channel {
                expected["channel"] = json!(channel);
            }
            assert_eq!(
                opened(&bob.message()),
                (expected, bytes.to_vec()),
                "{header}"
            );
        }
    }
    for header in [
        json!({"op": "join", "channel": "room", "id": 1}),
        json!({"op": "send", "channel": "room", "event": "e", "data": 1, "id": 1}),
    ] {
        ann.frame(0x82, &binary(&header, b"x"));
        let error = ann.json();
        assert_eq!(
            (&error["op"], &error["id"], &error["code"]),
            (&json!("error"), &json!(1), &json!("bad_message"))
        );
    }
    for broken in [
        &b""[..],
        &[1],
        &[1, 0, 9, b'{'],
        &[2, 0, 2, b'{', b'}'],
        &binary(&json!([]), b""),
        &[1, 0, 1, b'{'],
    ] {
        ann.frame(0x82, broken);
        assert_eq!(ann.json()["op"], "error", "{broken:?}");
    }
    bob.expect_nothing();
}

#[test]
fn text_and_bytes_keep_their_order() {
    let server = with_rules(|_| {});
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    bob.join("room");
    bob.join("kept");
    for channel in ["room", "kept"] {
        for n in 0..50_u8 {
            let mut header = json!({"op": "send", "channel": channel, "event": "e"});
            if n % 2 == 0 {
                header["data"] = json!(n);
                ann.send(&header);
            } else {
                ann.frame(0x82, &binary(&header, &[n]));
            }
        }
        for n in 0..50_u8 {
            match bob.message() {
                Received::Text(text) => {
                    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["data"], n);
                }
                bytes => assert_eq!(opened(&bytes).1, [n]),
            }
        }
    }
}

#[test]
fn data_of_a_client_arrive_byte_for_byte() {
    let server = with_rules(|_| {});
    let (mut ann, mut bob) = (server.connect(""), server.connect(""));
    bob.join("room");
    for data in [
        "12345678901234567890",
        "1e2",
        "-0",
        "null",
        r#"{"b":1,"a":[ 1.0 ],"b":2}"#,
        r#""\u00e9\/é""#,
    ] {
        ann.frame(
            0x81,
            format!(r#"{{"op":"send","data" : {data} ,"channel":"room","event":"e"}}"#).as_bytes(),
        );
        let text = bob.text();
        assert!(
            text.contains(&format!("\"data\":{data},")),
            "{data}: {text}"
        );
    }
    ann.send(&json!({"op": "send", "channel": "room", "event": "e"}));
    assert_eq!(bob.json()["data"], json!(null));
}

#[test]
fn a_call_is_answered_that_no_function_takes_it() {
    let server = server();
    let mut client = server.connect("");
    let answer = client.ask(&json!({"op": "call", "name": "sum", "data": [1, 2]}));
    assert_eq!(
        (&answer["op"], &answer["code"]),
        (&json!("error"), &json!("no_functions"))
    );
    client.send(&json!({"op": "call", "name": "sum"}));
    assert_eq!(client.json()["code"], "no_functions");
    client.expect_nothing();
}

/// What a watcher knows of the members of `room`, by their ids.
#[derive(Default)]
struct Roster(BTreeMap<String, Value>);

impl Roster {
    /// Joins, and fetches what the first page leaves out: where many come and go that may be all.
    fn watch(watcher: &mut Client) -> Self {
        let mut roster = Self::default();
        let mut page = watcher.watch("room");
        while let Some(cursor) = page.get("cursor") {
            roster.add(&page);
            let more = json!({"op": "members", "channel": "room", "cursor": cursor});
            let (notices, next) = watcher.ask_amid(&more);
            for notice in &notices {
                roster.take(notice);
            }
            page = next;
        }
        roster.add(&page);
        roster
    }

    fn add(&mut self, page: &Value) {
        for member in page["members"].as_array().unwrap() {
            self.0
                .insert(member["id"].as_str().unwrap().to_owned(), member.clone());
        }
    }

    fn take(&mut self, notice: &Value) {
        assert_eq!(notice["op"], "member", "{notice}");
        let id = notice["member"]["id"].as_str().unwrap().to_owned();
        if notice["kind"] == "left" {
            self.0.remove(&id);
        } else {
            self.0.insert(id, notice["member"].clone());
        }
    }

    /// Takes notices up to the one of `last`'s joining.
    fn follow(&mut self, watcher: &mut Client, last: &str) {
        while !self.0.contains_key(last) {
            self.take(&watcher.json());
        }
    }
}

#[test]
fn a_list_kept_by_the_pages_and_the_notices_is_true_in_the_end() {
    let server = with_rules(|_| {});
    let restless = |n: usize| {
        let server = &server;
        move || {
            let mut client = server.client(&format!("u{n}"), &json!({}));
            for round in 0..40 {
                client.join("room");
                client.acked(&json!({"op": "update", "data": {"round": round}}));
                if round % 3 < n {
                    leave(&mut client, "room");
                }
            }
            client
        }
    };
    let (_clients, mut watchers) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|n| scope.spawn(restless(n))).collect();
        let watchers: Vec<(Client, Roster)> = (0..10)
            .map(|_| {
                let mut watcher = server.connect("");
                let roster = Roster::watch(&mut watcher);
                (watcher, roster)
            })
            .collect();
        let clients: Vec<Client> = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect();
        (clients, watchers)
    });
    let mut last = server.connect("");
    last.join("room");
    let mut expected = Roster::default();
    expected.add(&server.get("/v1/channels/room/members").json());
    for (watcher, roster) in &mut watchers {
        roster.follow(watcher, &last.id);
        assert_eq!(roster.0, expected.0);
    }
}

#[test]
fn where_all_are_told_so_is_who_was_put_in_and_nobody_about_itself() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut put_in = server.client("pat", &json!({}));
    put(&server, "join", "told", &put_in.id);
    assert_eq!(put_in.json()["op"], "joined");
    let mut named = server.connect(&format!(
        "{}&channel=told",
        on_device(&server, "nat", "phone")
    ));
    assert_eq!(named.json()["op"], "joined");
    assert_eq!(notice(&mut put_in), told("joined", &named, 1));
    let old = lose(&server, named);
    let mut named = come_back(
        &server,
        &on_device(&server, "nat", "phone"),
        &old,
        &["told"],
    );
    assert_stands_in(&mut put_in, &named, &old);
    put_in.acked(&json!({"op": "update", "data": {"a": 1}}));
    assert_eq!(notice(&mut named), told("updated", &put_in, 1));
    named.acked(&json!({"op": "update", "data": {"b": 2}}));
    assert_eq!(notice(&mut put_in), told("updated", &named, 1));
    named.expect_nothing();
}

#[test]
fn who_becomes_a_user_is_told_as_such() {
    let server = with_rules(|_| {});
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut client = server.connect("");
    client.join("room");
    assert_eq!(notice(&mut watcher).0, "joined");
    client.acked(&json!({"op": "auth", "token": server.token("ann", &json!({}))}));
    let message = watcher.json();
    assert_eq!(
        (&message["kind"], &message["member"]["user"]),
        (&json!("updated"), &json!("ann"))
    );
    assert_eq!(message["user_connections"], 1);
    assert_eq!(server.get("/v1/channels/room").json()["users"], 1);
    leave(&mut client, "room");
    assert_eq!(notice(&mut watcher), told("left", &client, 0));
}

#[test]
fn who_may_come_back_still_counts_among_the_connections_of_its_user() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let (mut phone, mut laptop) = (server.connect(&query), server.client("ann", &json!({})));
    phone.join("room");
    laptop.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &phone, 1));
    assert_eq!(notice(&mut watcher), told("joined", &laptop, 2));
    let old = lose(&server, phone);
    leave(&mut laptop, "room");
    assert_eq!(notice(&mut watcher), told("left", &laptop, 1));
    let phone = come_back(&server, &query, &old, &["room"]);
    assert_stands_in(&mut watcher, &phone, &old);
}

#[test]
fn what_the_handshake_asks_for_waits_for_the_token() {
    let server = with_rules(|config| {
        config.limits.resume_window = LONG;
        config.apps.values_mut().next().unwrap().client_auth = Some(ClientAuth::Required);
    });
    let token = server.token("ann", &json!({}));
    let mut ann = server.open("channel=room");
    ann.expect_nothing();
    assert_eq!(send(&server, "room"), 0);
    let (before, ack) = ann.ask_amid(&json!({"op": "auth", "token": token}));
    assert_eq!(
        (&before[0]["op"], &ack["op"]),
        (&json!("welcome"), &json!("ack"))
    );
    let told: Vec<Value> = before.into_iter().skip(1).chain(ann.pending()).collect();
    assert_eq!(told, [json!({"op": "joined", "channel": "room"})]);
    ann.id = server.get("/v1/channels/room/members").json()["members"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let old = lose(&server, ann);
    let mut ann = server.open(&format!("resume={old}"));
    ann.expect_nothing();
    let (before, _) = ann.ask_amid(&json!({"op": "auth", "token": token}));
    assert_eq!(before[0]["resumed"], true, "{before:?}");
    let told: Vec<Value> = before.into_iter().skip(1).chain(ann.pending()).collect();
    assert_eq!(told, [json!({"op": "joined", "channel": "room"})]);
}

#[test]
fn coming_back_has_its_joined_before_the_events_however_soon_it_is() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let query = on_device(&server, "ann", "phone");
    for channel in ["room", "kept"] {
        let mut ann = server.connect(&query);
        ann.join(channel);
        while_others_send(&server, channel, || {
            for _ in 0..20 {
                // Whether the server has noticed the end by then is open.
                let old = ann.id.clone();
                drop(
                    ann.socket
                        .try_clone()
                        .map(|socket| socket.shutdown(std::net::Shutdown::Both)),
                );
                ann = server.open(&format!("{query}&resume={old}"));
                let welcome = ann.json();
                assert_eq!(welcome["resumed"], true);
                welcome["connection"]
                    .as_str()
                    .unwrap()
                    .clone_into(&mut ann.id);
                let joined = ann.json();
                assert_eq!(
                    (&joined["op"], &joined["channel"]),
                    (&json!("joined"), &json!(channel))
                );
                let mut offset = joined["offset"].clone();
                for _ in 0..3 {
                    assert_follows(&ann.json(), channel, &mut offset);
                }
            }
        });
    }
}

#[test]
fn a_client_whose_welcome_was_lost_comes_back_by_the_connection_before() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    let mut ann = server.connect(&query);
    ann.join("room");
    assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
    let old = lose(&server, ann);

    // Each time it is let in, and lost again before it knows.
    let mut before = old.clone();
    for _ in 0..3 {
        let mut unheard = server.open(&format!("{query}&resume={old}"));
        let updated = watcher.json();
        assert_eq!(
            (&updated["kind"], &updated["previous"]),
            (&json!("updated"), &json!(before)),
            "{updated}"
        );
        updated["member"]["id"]
            .as_str()
            .unwrap()
            .clone_into(&mut unheard.id);
        before = lose(&server, unheard);
    }

    // Nobody else comes back by it.
    let other = on_device(&server, "ann", "laptop");
    let mut stranger = server.open(&format!("{other}&resume={old}"));
    assert_eq!(stranger.json()["resumed"], false);
    let new = come_back(&server, &query, &old, &["room"]);
    let updated = watcher.json();
    assert_eq!(
        (&updated["previous"], &updated["member"]["id"]),
        (&json!(before), &json!(new.id)),
        "{updated}"
    );
    watcher.expect_nothing();
}

#[test]
fn of_several_that_come_back_at_once_one_does() {
    let server = with_rules(|config| config.limits.resume_window = LONG);
    let mut watcher = server.connect("");
    watcher.watch("room");
    let query = on_device(&server, "ann", "phone");
    for _ in 0..10 {
        let mut ann = server.connect(&query);
        ann.join("room");
        assert_eq!(notice(&mut watcher), told("joined", &ann, 1));
        let old = lose(&server, ann);
        let resume = format!("{query}&resume={old}");
        let welcomes: Vec<(Client, Value)> = std::thread::scope(|scope| {
            let open = || {
                let mut client = server.open(&resume);
                let welcome = client.json();
                (client, welcome)
            };
            let opened: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            opened.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let resumed: Vec<&Value> = welcomes
            .iter()
            .map(|(_, welcome)| welcome)
            .filter(|welcome| welcome["resumed"] == true)
            .collect();
        assert_eq!(resumed.len(), 1, "{resumed:?}");
        let message = watcher.json();
        assert_eq!(
            (&message["kind"], &message["previous"]),
            (&json!("updated"), &json!(old))
        );
        for (mut client, _) in welcomes {
            client.frame(0x88, &1000_u16.to_be_bytes());
        }
        assert_eq!(watcher.json()["kind"], "left");
    }
}

#[test]
fn who_missed_its_heartbeat_may_come_back() {
    let server = with_rules(|config| {
        config.limits.resume_window = LONG;
        config.limits.heartbeat = Duration::from_secs(2);
        config.limits.heartbeat_wait = Duration::from_secs(1);
    });
    let query = on_device(&server, "ann", "phone");
    let mut silent = server.connect(&query);
    silent.join("room");
    silent.answers_pings = false;
    assert_eq!(silent.closed(), 4201);
    let mut ann = come_back(&server, &query, &silent.id, &["room"]);
    assert_eq!(send(&server, "room"), 1);
    assert_eq!(ann.json()["event"], "e");
}

#[test]
fn channels_are_listed_in_pages_by_their_names() {
    let server = with_rules(|_| {});
    let (mut ann, mut bob) = (server.client("ann", &json!({})), server.connect(""));
    for channel in ["room-3", "room-1", "lobby", "room-2"] {
        ann.join(channel);
    }
    bob.join("room-2");
    let list = |query: &str| {
        let page = server.get(&format!("/v1/channels?{query}")).json();
        let names = page["channels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["channel"].as_str().unwrap().to_owned());
        (
            names.collect::<Vec<String>>(),
            page["cursor"].as_str().map(str::to_owned),
        )
    };
    assert_eq!(list("").0, ["lobby", "room-1", "room-2", "room-3"]);
    assert_eq!(
        list("prefix=room-"),
        (
            vec!["room-1".into(), "room-2".into(), "room-3".into()],
            None
        )
    );
    let (first, cursor) = list("prefix=room-&limit=2");
    assert_eq!(first, ["room-1", "room-2"]);
    assert_eq!(
        list(&format!("prefix=room-&limit=2&cursor={}", cursor.unwrap())),
        (vec!["room-3".into()], None)
    );
    let two = server.get("/v1/channels/room-2").json();
    assert_eq!((&two["connections"], &two["users"]), (&json!(2), &json!(1)));
    leave(&mut ann, "lobby");
    assert_eq!(list("prefix=l").0, [""; 0]);
    assert_eq!(server.get("/v1/channels/lobby").json()["connections"], 0);
    lose(&server, bob);
    assert_eq!(server.get("/v1/channels/room-2").json()["connections"], 1);
}

#[test]
fn whoever_joins_a_large_channel_is_on_exactly_one_of_its_pages() {
    let server = server();
    let others: Vec<Client> = (0..130).map(|_| server.connect("channel=hall")).collect();
    let mut client = server.connect("");
    let mut ack = client.ask(&json!({"op": "join", "channel": "hall", "members": true}));
    assert_eq!(ack["count"], 131);
    let mut ids: Vec<String> = Vec::new();
    loop {
        let page = ack["members"].as_array().unwrap();
        ids.extend(
            page.iter()
                .map(|member| member["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = ack["cursor"].as_str() else {
            break;
        };
        ack = client.ask(&json!({"op": "members", "channel": "hall", "cursor": cursor}));
    }
    let mut all: Vec<String> = others
        .iter()
        .map(|other| other.id.clone())
        .chain([client.id.clone()])
        .collect();
    ids.sort_unstable();
    all.sort_unstable();
    assert_eq!(ids, all);
}

#[test]
fn who_is_sent_away_by_the_api_has_left_whatever_the_code() {
    let server = server_with(|config| config.limits.resume_window = Duration::from_hours(1));
    let mut watcher = server.connect("");
    watcher.watch("room");
    let gone = server.connect("channel=room&device=d");
    assert_eq!(watcher.json()["kind"], "joined");
    server.call(
        "/v1/disconnect",
        &json!({"to": {"connections": [gone.id]}, "code": 4101}),
    );
    assert_eq!(watcher.json()["kind"], "left");
}
