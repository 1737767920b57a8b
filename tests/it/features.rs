//! What Zexcore RTM, Agnost, Altogic and Mesa offer, feature by feature, as a plain client and an HTTP caller have it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use crate::support::*;
use fanfare::config::{
    AppConfig, ChannelRule, ClientAuth, ClientKeyConfig, Config, Presence, Scopes, UserEvents,
};
use serde_json::{Value, json};

/// The next event called `name`; other events are passed over.
fn next_called(client: &mut Client, name: &str) -> Value {
    loop {
        let message = client.json();
        if message["event"] == name {
            return message["data"].clone();
        }
    }
}

fn sender(client: &Client, user: Option<&str>) -> Value {
    json!({"connection": client.id, "user": user})
}

/// A server that stores events of users.
fn storing() -> TestServer {
    server_with(store_events)
}

fn store_events(config: &mut Config) {
    config
        .apps
        .values_mut()
        .for_each(|app| app.user_events = Some(UserEvents::default()));
}

fn publish(server: &TestServer, user: &str, data: usize) -> Value {
    server.call(
        "/v1/publish",
        &json!({"user": user, "event": "e", "data": data}),
    )
}

/// Has the client answer what asks for a confirmation, at most twice, and the server take the answers.
fn confirm(client: &mut Client) {
    (0..3).for_each(|_| client.expect_nothing());
}

#[test]
fn zexcore_emit_with_a_predicate() {
    let server = server();
    let mut ann = server.client("ann", &json!({"age": 20, "email": "ann@example.com"}));
    let mut bob = server.client("bob", &json!({"age": 12, "email": "bob@example.com"}));
    let mut anonymous = server.connect("");
    let adults = json!({
        "event": "alert", "data": "Hello", "filter": "auth.age >= params.least", "params": {"least": 18}
    });
    let receipt = server.call("/v1/emit", &adults);
    assert_eq!(
        (&receipt["matched"], &receipt["filter_errors"]),
        (&json!(1), &json!(1)),
        "{receipt}"
    );
    let one = json!({"event": "mail", "filter": "auth.email == \"bob@example.com\""});
    assert_eq!(server.call("/v1/emit", &one)["matched"], 1);
    assert_eq!(ann.json(), json!({"event": "alert", "data": "Hello"}));
    assert_eq!(bob.json(), json!({"event": "mail", "data": null}));
    ann.expect_nothing();
    bob.expect_nothing();
    anonymous.expect_nothing();
}

#[test]
fn zexcore_publish_to_a_user_from_the_server_and_from_a_client() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    assert_eq!(publish(&server, "ann", 1)["matched"], 1);
    assert_eq!(ann.json(), json!({"event": "e", "data": 1}));
    bob.acked(
        &json!({"op": "publish", "users": ["ann", "nobody"], "event": "hi", "data": {"n": 2}}),
    );
    assert_eq!(
        ann.json(),
        json!({"event": "hi", "data": {"n": 2}, "from": sender(&bob, Some("bob"))})
    );
    ann.expect_nothing();
    bob.expect_nothing();
}

#[test]
fn zexcore_subscribe_to_an_event() {
    let server = server();
    let mut subscriber = server.connect("");
    for n in 0..3 {
        server.call("/v1/emit", &json!({"event": "tick", "data": n}));
        server.call(
            "/v1/emit",
            &json!({"event": "trade", "data": ["BTC", n, {"fee": null}]}),
        );
    }
    for n in 0..3 {
        let arguments = next_called(&mut subscriber, "trade");
        assert_eq!((&arguments[0], &arguments[1]), (&json!("BTC"), &json!(n)));
        assert_eq!(arguments[2], json!({"fee": null}));
    }
    subscriber.expect_nothing();
}

#[test]
fn agnost_send_to_a_channel() {
    let server = server();
    let (mut ann, mut bob) = (server.client("ann", &json!({})), server.connect(""));
    let mut outsider = server.connect("");
    ann.join("room");
    bob.join("room");
    outsider.join("lobby");
    let receipt = server.call(
        "/v1/send",
        &json!({"channel": "room", "event": "news", "data": [1, 2]}),
    );
    assert_eq!(receipt["matched"], 2);
    for member in [&mut ann, &mut bob] {
        assert_eq!(
            member.json(),
            json!({"event": "news", "channel": "room", "data": [1, 2]})
        );
    }
    outsider.acked(&json!({"op": "send", "channel": "room", "event": "chat", "data": "hi"}));
    for member in [&mut ann, &mut bob] {
        let expected = json!({"event": "chat", "channel": "room", "data": "hi", "from": sender(&outsider, None)});
        assert_eq!(member.json(), expected);
        member.expect_nothing();
    }
    outsider.expect_nothing();
}

#[test]
fn agnost_send_to_several_channels() {
    let server = server();
    let (mut both, mut one) = (
        server.connect("channel=a&channel=b"),
        server.connect("channel=b"),
    );
    assert_eq!(both.json()["channel"], "a");
    assert_eq!(both.json()["channel"], "b");
    assert_eq!(one.json()["channel"], "b");
    let body = json!({"channels": ["a", "b", "empty", "a"], "event": "e"});
    assert_eq!(server.call("/v1/send", &body)["matched"], 3);
    assert_eq!(both.json()["channel"], "a");
    assert_eq!(both.json()["channel"], "b");
    assert_eq!(one.json()["channel"], "b");
    both.expect_nothing();
    one.expect_nothing();
}

#[test]
fn agnost_broadcast() {
    let server = server();
    let (mut ann, mut bob) = (server.client("ann", &json!({})), server.connect(""));
    ann.join("room");
    assert_eq!(
        server.call("/v1/broadcast", &json!({"event": "all", "data": true}))["matched"],
        2
    );
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.json(), json!({"event": "all", "data": true}));
    }
    ann.acked(&json!({"op": "broadcast", "event": "hello", "data": 1, "echo": false}));
    assert_eq!(
        bob.json(),
        json!({"event": "hello", "data": 1, "from": sender(&ann, Some("ann"))})
    );
    bob.expect_nothing();
}

#[test]
fn agnost_get_members_with_and_without_profile() {
    let server = server();
    let (mut ann, mut anonymous) = (server.client("ann", &json!({})), server.connect(""));
    let members = || server.get("/v1/channels/room/members").json();
    assert_eq!(members(), json!({"members": [], "count": 0, "users": 0}));
    ann.acked(&json!({"op": "update", "data": {"name": "Ann", "n": [1, 2.5, null]}}));
    ann.join("room");
    anonymous.join("room");
    let mut page = members();
    let by_id = |member: &Value| member["id"].as_str().unwrap().to_owned();
    page["members"].as_array_mut().unwrap().sort_by_key(by_id);
    let mut expected = vec![
        json!({"id": ann.id, "user": "ann", "data": {"name": "Ann", "n": [1, 2.5, null]}}),
        json!({"id": anonymous.id, "user": null}),
    ];
    expected.sort_by_key(by_id);
    assert_eq!(page, json!({"members": expected, "count": 2, "users": 1}));
    ann.acked(&json!({"op": "update", "data": null}));
    let without = members()["members"]
        .as_array()
        .unwrap()
        .iter()
        .all(|member| member.get("data").is_none());
    assert!(without, "null removes the profile");
}

#[test]
fn altogic_echo_is_on_and_can_be_off_for_the_connection_and_set_by_each_message() {
    let server = server();
    for (query, by_default) in [("", true), ("echo=true", true), ("echo=false", false)] {
        for (echo, expected) in [(None, by_default), (Some(true), true), (Some(false), false)] {
            let token = server.token("ann", &json!({}));
            let mut ann = server.connect(&format!("token={token}&{query}"));
            let mut bob = server.client("bob", &json!({}));
            ann.join("room");
            bob.join("room");
            for mut message in [
                json!({"op": "send", "channel": "room", "event": "e"}),
                json!({"op": "broadcast", "event": "e"}),
                json!({"op": "publish", "users": ["ann", "bob"], "event": "e"}),
            ] {
                if let Some(echo) = echo {
                    message["echo"] = json!(echo);
                }
                let (before, ack) = ann.ask_amid(&message);
                assert_eq!(ack["op"], "ack", "{ack}");
                let own = before.len() + ann.pending().len();
                assert_eq!(own, usize::from(expected), "{query} {message}");
                assert_eq!(
                    bob.json()["from"],
                    sender(&ann, Some("ann")),
                    "{query} {message}"
                );
                bob.expect_nothing();
            }
        }
    }
}

/// What a member is told when another one comes, changes and goes.
fn assert_life_is_told(watcher: &mut Client, member: &Client, user: &str) {
    let bare = json!({"id": member.id, "user": user});
    let changed = json!({"id": member.id, "user": user, "data": {"mood": "good"}});
    for (kind, shown, left) in [
        ("joined", &bare, 1),
        ("updated", &changed, 1),
        ("left", &changed, 0),
    ] {
        let expected = json!({
            "op": "member", "kind": kind, "channel": "room", "member": shown, "user_connections": left
        });
        assert_eq!(watcher.json(), expected);
    }
}

fn live_in_the_room(member: &mut Client) {
    member.join("room");
    member.acked(&json!({"op": "update", "data": {"mood": "good"}}));
    member.acked(&json!({"op": "leave", "channel": "room"}));
}

#[test]
fn altogic_join_leave_and_update_notices_to_members_who_asked() {
    let server = server();
    let (mut watcher, mut plain) = (
        server.client("wes", &json!({})),
        server.client("pat", &json!({})),
    );
    plain.join("room");
    watcher.watch("room");
    let mut ann = server.client("ann", &json!({}));
    live_in_the_room(&mut ann);
    assert_life_is_told(&mut watcher, &ann, "ann");
    // Notices of one channel are told one after another, so those before have gone out.
    ann.join("room");
    assert_eq!(watcher.json()["kind"], "joined");
    plain.expect_nothing();
    ann.expect_nothing();
}

#[test]
fn altogic_join_leave_and_update_notices_to_all_by_channel_pattern() {
    let server = server_with(|config| {
        let rule = ChannelRule {
            presence: Presence::All,
            ..ChannelRule::new("ro*", 0)
        };
        config.apps.values_mut().next().unwrap().channels.push(rule);
    });
    let mut plain = server.client("pat", &json!({}));
    plain.join("room");
    plain.join("lobby");
    let mut ann = server.client("ann", &json!({}));
    ann.join("lobby");
    live_in_the_room(&mut ann);
    // What a member of the lobby was not told it would have had first.
    assert_life_is_told(&mut plain, &ann, "ann");
    plain.expect_nothing();
}

const PAGE_KEY: &str = "pk-of-the-shop";
const OTHER_KEY: &str = "key-of-the-other-app-of-the-test";
const OTHER_SECRET: &str = "secret-of-the-other-app-of-the-test";

fn everything() -> Value {
    json!({"join": ["*"], "send": ["*"], "members": ["*"], "call": ["*"], "broadcast": true, "publish": true,
           "update": true})
}

fn other_token(claims: &Value) -> String {
    jwt(OTHER_SECRET, &json!({"alg": "HS256"}), claims)
}

/// The app of [`keyed_server`], and one called `other` that `change` configures further.
fn two_apps(change: impl FnOnce(&mut Config)) -> TestServer {
    keyed_server(|config| {
        let app = AppConfig {
            keys: vec![api_key("all", OTHER_KEY, Scopes::ALL)],
            tokens: vec![token_key(OTHER_SECRET)],
            client_auth: Some(ClientAuth::Optional),
            ..AppConfig::default()
        };
        config.apps.insert("other".to_owned(), app);
        change(config);
    })
}

/// [`two_apps`], the other of which has [`PAGE_KEY`].
fn with_page_key(change: impl FnOnce(&mut Config)) -> TestServer {
    two_apps(|config| {
        config
            .apps
            .get_mut("other")
            .unwrap()
            .client_keys
            .push(ClientKeyConfig {
                name: "shop".to_owned(),
                key: PAGE_KEY.to_owned(),
                client_auth: Some(ClientAuth::Required),
                origins: Some(vec!["https://shop.example".to_owned()]),
                can: Some(json!({"join": ["room-*"]})),
            });
        change(config);
    })
}

#[test]
fn altogic_enforce_session_by_client_key() {
    let server = with_page_key(|_| {});
    let token = other_token(&json!({"sub": "ann"}));
    let mut at_once = server.connect(&format!("key={PAGE_KEY}&token={token}"));
    let shown = server
        .get_as(OTHER_KEY, &format!("/v1/connections/{}", at_once.id))
        .json();
    assert_eq!(shown["user"], "ann", "the key names the app");
    let mut later = server.open(&format!("key={PAGE_KEY}"));
    later.expect_nothing();
    let body = json!({"event": "early"});
    assert_eq!(
        server.post_as(OTHER_KEY, "/v1/broadcast", &body).json()["matched"],
        1
    );
    assert_eq!(
        later.ask(&json!({"op": "join", "channel": "room-1"}))["code"],
        "unauthorized"
    );
    let (before, ack) = later.ask_amid(&json!({"op": "auth", "token": token}));
    assert_eq!(
        (before.len(), &before[0]["op"], &ack["op"]),
        (1, &json!("welcome"), &json!("ack"))
    );
    assert_eq!(at_once.json()["event"], "early");
    later.join("room-1");
    later.expect_nothing();
    let without_key = server.connect("app=other");
    assert_eq!(
        without_key.id.len(),
        at_once.id.len(),
        "without the key the app's own setting holds"
    );
    assert_eq!(server.open("key=pk-of-nobody").closed(), 4001);
    let mine = signed(&json!({"sub": "ann"}));
    assert_eq!(
        server
            .open(&format!("key={PAGE_KEY}&token={mine}"))
            .closed(),
        4001
    );
    let mixed = server
        .try_open(&format!("key={PAGE_KEY}&app=default&token={token}"), &[])
        .err()
        .unwrap();
    assert_eq!(mixed.status, 400);
}

#[test]
fn altogic_a_client_key_closes_who_brings_no_token_in_time() {
    let server = with_page_key(|config| config.limits.auth = Duration::from_millis(1));
    assert_eq!(server.open(&format!("key={PAGE_KEY}")).closed(), 4001);
    server.connect("app=other").expect_nothing();
}

#[test]
fn altogic_a_client_key_has_its_origins() {
    let server = with_page_key(|_| {});
    let token = other_token(&json!({"sub": "ann"}));
    let query = format!("key={PAGE_KEY}&token={token}");
    let from = |query: &str, origin: &str| {
        let opened = server.try_open(query, &[("Origin", origin)]);
        opened.map_or_else(
            |answer| (answer.status, answer.code()),
            |mut c| (101, c.json()["op"].to_string()),
        )
    };
    assert_eq!(
        from(&query, "https://shop.example"),
        (101, "\"welcome\"".to_owned())
    );
    assert_eq!(
        from(&query, "https://evil.example"),
        (403, "origin_refused".to_owned())
    );
    assert_eq!(
        from(&format!("key={PAGE_KEY}"), "https://evil.example").0,
        403
    );
    assert_eq!(
        from(&format!("app=other&token={token}"), "https://evil.example").0,
        101
    );
}

#[test]
fn altogic_a_client_key_has_its_default_rights() {
    let server = with_page_key(|_| {});
    let mut client = server.connect(&format!(
        "key={PAGE_KEY}&token={}",
        other_token(&json!({"sub": "ann"}))
    ));
    client.join("room-1");
    let refused = client.ask(&json!({"op": "join", "channel": "lobby"}));
    assert_eq!(refused["code"], "forbidden");
    assert_eq!(
        client.ask(&json!({"op": "update", "data": {}}))["code"],
        "forbidden"
    );
    let own = other_token(&json!({"sub": "bob", "can": {"join": ["lobby"]}}));
    let mut own = server.connect(&format!("key={PAGE_KEY}&token={own}"));
    own.join("lobby");
    assert_eq!(
        own.ask(&json!({"op": "join", "channel": "room-1"}))["code"],
        "forbidden"
    );
    let token = other_token(&json!({"sub": "ann"}));
    let mut without_key = server.connect(&format!("app=other&token={token}"));
    assert_eq!(
        without_key.ask(&json!({"op": "join", "channel": "room-1"}))["code"],
        "forbidden"
    );
}

#[test]
fn mesa_dispatch_to_ids() {
    let server = server();
    let mut ids: Vec<Client> = (0..3)
        .map(|n| server.client(&n.to_string(), &json!({})))
        .collect();
    let body =
        json!({"recipients": ["0", "1", "9"], "event": "STATUS_UPDATE", "data": {"online": true}});
    assert_eq!(server.call("/v1/dispatch", &body)["matched"], 2);
    for client in &mut ids[..2] {
        assert_eq!(
            client.json(),
            json!({"event": "STATUS_UPDATE", "data": {"online": true}})
        );
        client.expect_nothing();
    }
    ids[2].expect_nothing();
    assert_eq!(
        server.call("/v1/dispatch", &json!({"recipients": [], "event": "e"}))["matched"],
        0
    );
}

#[test]
fn mesa_dispatch_to_everyone() {
    let server = server();
    let (mut ann, mut anonymous) = (server.client("ann", &json!({})), server.connect(""));
    assert_eq!(
        server.call("/v1/dispatch", &json!({"recipients": ["*"], "event": "e"}))["matched"],
        2
    );
    assert_eq!(ann.json()["event"], "e");
    assert_eq!(anonymous.json()["event"], "e");
    let mixed = server.post(
        "/v1/dispatch",
        &json!({"recipients": ["*", "ann"], "event": "e"}),
    );
    assert_eq!(mixed.status, 400);
    ann.expect_nothing();
}

#[test]
fn mesa_dispatch_excluding_users() {
    let server = server();
    let mut clients: Vec<Client> = (0..3)
        .map(|n| server.client(&n.to_string(), &json!({})))
        .collect();
    let mut again = server.client("1", &json!({}));
    for (recipients, expected) in [(json!(["0", "1"]), [1, 0, 0]), (json!(["*"]), [1, 0, 1])] {
        let body = json!({"recipients": recipients, "except": ["1", "9"], "event": "e"});
        assert_eq!(
            server.call("/v1/dispatch", &body)["matched"],
            expected.iter().sum::<usize>()
        );
        for (client, expected) in clients.iter_mut().zip(expected) {
            assert_eq!(client.pending().len(), expected, "{recipients}");
        }
        again.expect_nothing();
    }
}

#[test]
fn mesa_offline_messages_come_in_order_before_anything_newer() {
    let server = storing();
    for n in 0..20 {
        let receipt = publish(&server, "ann", n);
        assert_eq!(
            (&receipt["stored"], &receipt["matched"]),
            (&json!(1), &json!(0))
        );
    }
    let is_there = AtomicBool::new(false);
    let (mut ann, sent) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut n = 20;
            // A few more once she is there, so that some come live.
            let mut more = 5;
            while more > 0 {
                publish(&server, "ann", n);
                n += 1;
                more -= usize::from(is_there.load(Relaxed));
            }
            n
        });
        let ann = server.client("ann", &json!({}));
        is_there.store(true, Relaxed);
        (ann, sending.join().unwrap())
    });
    let mut ids = Vec::new();
    for n in 0..sent {
        let event = ann.json();
        assert_eq!((&event["event"], &event["data"]), (&json!("e"), &json!(n)));
        ids.push(event["id"].as_str().unwrap().to_owned());
    }
    assert!(
        ids.is_sorted() && ids.windows(2).all(|two| two[0] != two[1]),
        "{ids:?}"
    );
    confirm(&mut ann);
    drop(ann);
    server.client("ann", &json!({})).expect_nothing();
}

#[test]
fn mesa_an_offline_message_stays_until_a_connection_has_confirmed_it() {
    let server = storing();
    let mut silent = server.client("ann", &json!({}));
    silent.answers_pings = false;
    assert_eq!(publish(&server, "ann", 7)["matched"], 1);
    let first = silent.json();
    silent.expect_nothing();
    drop(silent);
    let mut ann = server.client("ann", &json!({}));
    assert_eq!(ann.json(), first, "it is the same one with the same id");
    confirm(&mut ann);
    drop(ann);
    server.client("ann", &json!({})).expect_nothing();
}

#[test]
fn mesa_offline_messages_come_to_who_says_by_message_who_it_is() {
    let server = storing();
    publish(&server, "ann", 0);
    publish(&server, "ann", 1);
    let mut ann = server.connect("");
    let auth = json!({"op": "auth", "token": server.token("ann", &json!({}))});
    let (before, ack) = ann.ask_amid(&auth);
    assert_eq!(ack["op"], "ack");
    let events: Vec<Value> = before
        .into_iter()
        .chain(ann.pending())
        .map(|event| event["data"].clone())
        .collect();
    assert_eq!(events, [json!(0), json!(1)]);
    publish(&server, "ann", 2);
    assert_eq!(ann.json()["data"], 2);
    ann.acked(&auth);
    ann.expect_nothing();
}

#[test]
fn mesa_offline_messages_of_a_dispatch_wait_for_those_it_names() {
    let server = storing();
    let body = json!({"recipients": ["0", "1", "2"], "except": ["1"], "event": "e", "data": 1});
    assert_eq!(server.call("/v1/dispatch", &body)["matched"], 0);
    server.call(
        "/v1/dispatch",
        &json!({"recipients": ["*"], "event": "nobody is there"}),
    );
    for (id, expected) in [("0", 1), ("1", 0), ("2", 1), ("3", 0)] {
        assert_eq!(
            server.client(id, &json!({})).pending().len(),
            expected,
            "{id}"
        );
    }
}

/// Publishes to `ann` but not to her phone.
fn publish_past_the_phone(server: &TestServer, data: usize) {
    let body = json!({"user": "ann", "event": "e", "data": data, "except": {"devices": ["phone"]}});
    assert_eq!(server.call("/v1/publish", &body)["stored"], 1);
}

#[test]
fn mesa_an_offline_message_waits_although_a_device_that_it_leaves_out_came() {
    let server = storing();
    publish_past_the_phone(&server, 0);
    let query = format!("token={}", server.token("ann", &json!({})));
    let mut phone = server.connect(&format!("{query}&device=phone"));
    confirm(&mut phone);
    assert_eq!(
        server.connect(&format!("{query}&device=laptop")).pending()[0]["data"],
        0
    );
}

#[test]
fn mesa_an_offline_message_waits_although_a_device_that_it_leaves_out_confirmed_a_newer_one() {
    let server = storing();
    let query = format!("token={}", server.token("ann", &json!({})));
    let mut phone = server.connect(&format!("{query}&device=phone"));
    publish_past_the_phone(&server, 0);
    publish(&server, "ann", 1);
    assert_eq!(phone.json()["data"], 1);
    confirm(&mut phone);
    assert_eq!(
        server.connect(&format!("{query}&device=laptop")).pending()[0]["data"],
        0
    );
}

#[test]
fn mesa_an_event_can_opt_out_of_being_stored() {
    let server = storing();
    let body = json!({"user": "ann", "event": "gone", "store": false});
    assert_eq!(server.call("/v1/publish", &body)["stored"], 0);
    let body = json!({"recipients": ["ann"], "event": "gone", "store": false});
    assert_eq!(server.call("/v1/dispatch", &body)["stored"], 0);
    assert_eq!(publish(&server, "ann", 1)["stored"], 1);
    let mut ann = server.client("ann", &json!({}));
    assert_eq!(ann.json()["data"], 1);
    assert_eq!(
        server.call(
            "/v1/publish",
            &json!({"user": "ann", "event": "live", "store": false})
        )["matched"],
        1
    );
    assert_eq!(
        ann.json(),
        json!({"event": "live", "data": null}),
        "what is not stored has no id"
    );
    ann.expect_nothing();
    let body = json!({"event": "e", "to": {"users": ["ann"]}, "filter": "true", "store": true});
    assert_eq!(server.post("/v1/emit", &body).status, 400);
    assert_eq!(
        server
            .post("/v1/broadcast", &json!({"event": "e", "store": true}))
            .status,
        400
    );
    ann.expect_nothing();
}

#[test]
fn mesa_a_connection_can_opt_out_of_what_is_stored() {
    let server = storing();
    publish(&server, "ann", 0);
    let token = server.token("ann", &json!({}));
    let mut live = server.connect(&format!("token={token}&store=false"));
    live.expect_nothing();
    publish(&server, "ann", 1);
    assert_eq!(live.json()["data"], 1);
    confirm(&mut live);
    let mut ann = server.client("ann", &json!({}));
    assert_eq!(ann.json()["data"], 0, "it took nothing away");
    assert_eq!(ann.json()["data"], 1, "it confirmed nothing");
    confirm(&mut ann);
    live.expect_nothing();
}

#[test]
fn mesa_disconnecting_a_user() {
    let server = server();
    let (mut ann, mut again) = (
        server.client("ann", &json!({})),
        server.client("ann", &json!({})),
    );
    let mut bob = server.client("bob", &json!({}));
    let disconnect = |body: Value| server.call("/v1/disconnect", &body)["disconnected"].clone();
    assert_eq!(disconnect(json!({"to": {"users": ["ann", "nobody"]}})), 2);
    assert_eq!(ann.closed(), 4010);
    assert_eq!(again.closed(), 4010);
    bob.expect_nothing();
    assert_eq!(
        disconnect(json!({"to": {"users": ["bob"]}, "code": 1000, "reason": "bye"})),
        1
    );
    assert_eq!(bob.message(), Received::Close(1000, "bye".to_owned()));
    assert_eq!(server.post("/v1/disconnect", &json!({})).status, 400);
}

#[test]
fn mesa_several_connections_of_a_user() {
    let server = server();
    let mut clients: Vec<Client> = (0..3).map(|_| server.client("ann", &json!({}))).collect();
    assert_eq!(
        server.get("/v1/users/ann").json(),
        json!({"online": true, "connections": 3})
    );
    assert_eq!(publish(&server, "ann", 1)["matched"], 3);
    for client in &mut clients {
        assert_eq!(client.json()["data"], 1);
    }
    let gone = clients.pop().unwrap();
    let path = format!("/v1/connections/{}", gone.id);
    drop(gone);
    eventually("it is gone", || server.get(&path).status == 404);
    assert_eq!(publish(&server, "ann", 2)["matched"], 2);
    for client in &mut clients {
        assert_eq!(client.json()["data"], 2);
        client.expect_nothing();
    }
    assert_eq!(
        server.get("/v1/users/bob").json(),
        json!({"online": false, "connections": 0})
    );
}

/// What both apps of the server below hold: `ann` on the same device, in the channel `room`, which keeps its events.
struct Twins {
    mine: Client,
    theirs: Client,
    // Dropped last: it waits for its clients to go.
    server: TestServer,
}

fn twins() -> Twins {
    let server = two_apps(|config| {
        store_events(config);
        for app in config.apps.values_mut() {
            app.default_can = Some(everything());
            app.channels.push(ChannelRule::new("*", 100));
        }
    });
    let claims = json!({"sub": "ann"});
    let mut mine = server.connect(&format!("token={}&device=d", signed(&claims)));
    let mut theirs = server.connect(&format!(
        "app=other&token={}&device=d",
        other_token(&claims)
    ));
    theirs.acked(&json!({"op": "update", "data": {"whose": "theirs"}}));
    theirs.watch("room");
    mine.join("room");
    let body = json!({"channel": "room", "event": "secret"});
    assert_eq!(
        server.post_as(OTHER_KEY, "/v1/send", &body).json()["matched"],
        1
    );
    assert_eq!(theirs.json()["offset"], 1);
    Twins {
        mine,
        theirs,
        server,
    }
}

impl Twins {
    /// Expects that nothing has happened to the other app, which goes on by itself.
    fn assert_untouched(mut self) {
        let mut bob = self.server.connect(&format!(
            "app=other&token={}",
            other_token(&json!({"sub": "bob"}))
        ));
        bob.join("room");
        let notice = self.theirs.json();
        assert_eq!(
            (&notice["kind"], &notice["member"]["id"]),
            (&json!("joined"), &json!(bob.id))
        );
        let body = json!({"channel": "room", "event": "theirs"});
        let receipt = self.server.post_as(OTHER_KEY, "/v1/send", &body).json();
        assert_eq!(
            (&receipt["matched"], &receipt["publications"][0]["offset"]),
            (&json!(2), &json!(2))
        );
        assert_eq!(self.theirs.json()["event"], "theirs");
        self.theirs.expect_nothing();
        let shown = self
            .server
            .get_as(OTHER_KEY, &format!("/v1/connections/{}", self.theirs.id))
            .json();
        assert_eq!(
            (&shown["channels"], &shown["user"]),
            (&json!(["room"]), &json!("ann"))
        );
        drop(self.theirs);
        let token = other_token(&json!({"sub": "ann"}));
        self.server
            .connect(&format!("app=other&token={token}"))
            .expect_nothing();
    }
}

/// Every call of one app with a target in the other: the counted field of its answer, and what that is.
fn calls_at(theirs: &str) -> Vec<(&'static str, Value, &'static str, u64)> {
    let connections = json!({"connections": [theirs]});
    let (by_id, params) = ("connection.id == params.id", json!({"id": theirs}));
    vec![
        (
            "/v1/emit",
            json!({"event": "x", "to": connections}),
            "matched",
            0,
        ),
        (
            "/v1/emit",
            json!({"event": "x", "filter": by_id, "params": params}),
            "matched",
            0,
        ),
        (
            "/v1/emit",
            json!({"event": "x", "filter": "profile.whose == \"theirs\""}),
            "matched",
            0,
        ),
        ("/v1/emit", json!({"event": "x"}), "matched", 1),
        (
            "/v1/emit",
            json!({"event": "x", "filter": "true"}),
            "matched",
            1,
        ),
        (
            "/v1/emit",
            json!({"event": "x", "to": {"users": ["ann"]}}),
            "matched",
            1,
        ),
        (
            "/v1/emit",
            json!({"event": "x", "to": {"channels": ["room"]}}),
            "matched",
            1,
        ),
        (
            "/v1/publish",
            json!({"event": "x", "user": "ann"}),
            "matched",
            1,
        ),
        (
            "/v1/send",
            json!({"event": "x", "channel": "room"}),
            "matched",
            1,
        ),
        ("/v1/broadcast", json!({"event": "x"}), "matched", 1),
        (
            "/v1/dispatch",
            json!({"event": "x", "recipients": ["ann"]}),
            "matched",
            1,
        ),
        (
            "/v1/dispatch",
            json!({"event": "x", "recipients": ["*"]}),
            "matched",
            1,
        ),
        (
            "/v1/explain",
            json!({"filter": "user == \"ann\""}),
            "matched",
            1,
        ),
        (
            "/v1/join",
            json!({"channel": "den", "to": connections}),
            "joined",
            0,
        ),
        (
            "/v1/join",
            json!({"channel": "den", "filter": "true"}),
            "joined",
            1,
        ),
        (
            "/v1/join",
            json!({"channel": "hut", "to": {"users": ["ann"]}}),
            "joined",
            1,
        ),
        (
            "/v1/join",
            json!({"channel": "pit", "to": {"channels": ["room"]}}),
            "joined",
            1,
        ),
        (
            "/v1/leave",
            json!({"channel": "room", "to": connections}),
            "left",
            0,
        ),
        (
            "/v1/leave",
            json!({"channel": "room", "filter": "true"}),
            "left",
            1,
        ),
        (
            "/v1/disconnect",
            json!({"to": connections}),
            "disconnected",
            0,
        ),
        (
            "/v1/disconnect",
            json!({"filter": by_id, "params": params}),
            "disconnected",
            0,
        ),
        (
            "/v1/disconnect",
            json!({"to": {"channels": ["room"]}}),
            "disconnected",
            0,
        ),
        (
            "/v1/disconnect",
            json!({"filter": "true"}),
            "disconnected",
            1,
        ),
    ]
}

#[test]
fn mesa_two_apps_cannot_reach_each_other_by_any_call() {
    let Twins {
        server,
        mut mine,
        theirs,
    } = twins();
    for (path, body, field, count) in calls_at(&theirs.id) {
        let answer = server.post_as(KEY, path, &body).json();
        assert_eq!(answer[field], count, "{path} {body}: {answer}");
    }
    assert_eq!(mine.closed(), 4010);
    let items = json!([
        {"call": "emit", "event": "x", "to": {"connections": [theirs.id]}},
        {"call": "send", "event": "x", "channel": "room"},
        {"call": "broadcast", "event": "x"},
    ]);
    let answer = server
        .post_as(KEY, "/v1/batch", &json!({"items": items}))
        .json();
    for n in 0..3 {
        assert_eq!(answer["results"][n]["result"]["matched"], 0, "{answer}");
    }
    let spied = server.post_as(
        KEY,
        "/v1/explain",
        &json!({"filter": "true", "connection": theirs.id}),
    );
    assert_eq!(spied.status, 404);
    Twins {
        mine,
        theirs,
        server,
    }
    .assert_untouched();
}

#[test]
fn mesa_two_apps_cannot_see_each_other_by_any_call() {
    let twins = twins();
    let get = |path: &str| twins.server.get_as(KEY, path).json();
    let ids = |page: &Value| -> Vec<Value> {
        page.as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].clone())
            .collect()
    };
    let mine = vec![json!(twins.mine.id)];
    assert_eq!(ids(&get("/v1/connections")["connections"]), mine);
    assert_eq!(
        get("/v1/users/ann"),
        json!({"online": true, "connections": 1})
    );
    let channels = get("/v1/channels");
    assert_eq!(
        channels["channels"].as_array().unwrap().len(),
        1,
        "{channels}"
    );
    assert_eq!(channels["channels"][0]["connections"], 1);
    assert_eq!(get("/v1/channels/room")["connections"], 1);
    let members = get("/v1/channels/room/members");
    assert_eq!(
        (ids(&members["members"]), &members["count"]),
        (mine, &json!(1))
    );
    assert_eq!(get("/v1/channels/room/history")["events"], json!([]));
    let path = format!("/v1/connections/{}", twins.theirs.id);
    assert_eq!(twins.server.get_as(KEY, &path).status, 404);
    twins.assert_untouched();
}

#[test]
fn mesa_two_apps_cannot_reach_each_other_by_any_client_operation() {
    let mut twins = twins();
    let mine = &mut twins.mine;
    for message in [
        json!({"op": "send", "channel": "room", "event": "x"}),
        json!({"op": "broadcast", "event": "x"}),
        json!({"op": "publish", "users": ["ann"], "event": "x"}),
        json!({"op": "update", "data": {"whose": "mine"}}),
        json!({"op": "leave", "channel": "room"}),
    ] {
        assert_eq!(mine.ask_amid(&message).1["op"], "ack", "{message}");
    }
    mine.pending();
    let ack = mine.watch("room");
    assert_eq!(
        (&ack["count"], &ack["members"][0]["id"]),
        (&json!(1), &json!(mine.id)),
        "{ack}"
    );
    let since = json!({"epoch": ack["epoch"], "offset": 0});
    let (_, ack) = mine.ask_amid(&json!({"op": "join", "channel": "room", "since": since}));
    assert_eq!(ack["offset"], 1, "its own event only: {ack}");
    assert_eq!(mine.pending()[0]["event"], "x");
    let page = mine.acked(&json!({"op": "members", "channel": "room"}));
    assert_eq!(page["members"].as_array().unwrap().len(), 1, "{page}");
    let token = other_token(&json!({"sub": "ann"}));
    assert_eq!(
        mine.ask(&json!({"op": "auth", "token": token}))["code"],
        "unauthorized"
    );
    let token = signed(&json!({"sub": "ann"}));
    let query = format!("token={token}&device=d&resume={}", twins.theirs.id);
    let mut thief = twins.server.open(&query);
    assert_eq!(thief.json()["resumed"], false);
    drop(thief);
    twins.assert_untouched();
}
