//! The history of a channel: every member sees one order, and who comes back gets what it missed.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use crate::kept::*;
use crate::support::*;
use fanfare::config::{ChannelRule, Config};
use serde_json::{Value, json};

const ROOM: &str = "room";

/// A server whose channels named like [`ROOM`] keep `size` events, configured further by `change`.
fn server_that_keeps(
    size: usize,
    change: impl FnOnce(&mut Config, &mut ChannelRule),
) -> TestServer {
    server_with(|config| {
        let mut rule = ChannelRule::new("room*", size);
        rule.history_bytes = 64 << 20;
        rule.history_ttl = Duration::from_hours(1);
        change(config, &mut rule);
        let app = config.apps.values_mut().next().unwrap();
        app.channels.insert(0, rule);
    })
}

fn server_of_rooms() -> TestServer {
    server_that_keeps(100, |_, _| {})
}

/// Sends `data` to [`ROOM`]; its receipt.
fn send(server: &TestServer, data: impl Into<Value>) -> Value {
    server.call(
        "/v1/send",
        &json!({"channel": ROOM, "event": "e", "data": data.into()}),
    )
}

/// Sends `numbers` to [`ROOM`], one after another.
fn send_all(server: &TestServer, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        send(server, n);
    }
}

/// The ack of a join.
fn join(client: &mut Client, channel: &str, since: Option<&Value>) -> Value {
    let mut message = json!({"op": "join", "id": "join", "channel": channel});
    if let Some(since) = since {
        message["since"] = since.clone();
    }
    client.send(&message);
    let ack = client.json();
    assert_eq!(
        (&ack["op"], &ack["id"]),
        (&json!("ack"), &json!("join")),
        "{ack}"
    );
    ack
}

/// Joins [`ROOM`], coming from `offset`; whether that recovered it.
fn come_back(client: &mut Client, epoch: &str, offset: u64) -> bool {
    let ack = join(
        client,
        ROOM,
        Some(&json!({"epoch": epoch, "offset": offset})),
    );
    ack["recovered"]
        .as_bool()
        .unwrap_or_else(|| panic!("{ack}"))
}

/// The epoch of [`ROOM`].
fn epoch(server: &TestServer) -> String {
    let ack = join(&mut server.connect(""), ROOM, None);
    ack["epoch"]
        .as_str()
        .unwrap_or_else(|| panic!("{ack}"))
        .to_owned()
}

/// The offsets of what has come before a round trip.
fn offsets(client: &mut Client) -> Vec<u64> {
    client.frame(0x89, b"offsets");
    let mut offsets = Vec::new();
    loop {
        match client.message() {
            Received::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                offsets.push(
                    event["offset"]
                        .as_u64()
                        .unwrap_or_else(|| panic!("{event}")),
                );
            }
            Received::Pong(_) => return offsets,
            other => panic!("{other:?}"),
        }
    }
}

// Numbers

#[test]
fn events_are_numbered_from_1_and_receipts_say_where_they_stand() {
    let server = server_of_rooms();
    let mut member = server.connect("");
    let ack = join(&mut member, ROOM, None);
    assert_eq!(
        (&ack["offset"], ack.get("recovered")),
        (&json!(0), None),
        "{ack}"
    );
    for n in 1..=3 {
        let receipt = send(&server, n);
        let place =
            json!({"channel": ROOM, "id": receipt["id"], "epoch": ack["epoch"], "offset": n});
        assert_eq!(
            (&receipt["stored"], &receipt["publications"]),
            (&json!(1), &json!([place]))
        );
        let event = member.json();
        assert_eq!(
            event,
            json!({"event": "e", "channel": ROOM, "data": n, "offset": n})
        );
    }
    let mut other = server.connect("");
    let joined = join(&mut other, ROOM, None);
    assert_eq!(
        (&joined["offset"], &joined["epoch"]),
        (&json!(3), &ack["epoch"])
    );
    other.expect_nothing();
}

#[test]
fn the_ack_of_a_send_says_where_the_event_stands() {
    let server = server_of_rooms();
    send(&server, 1);
    let mut client = server.connect("");
    let joined = join(&mut client, ROOM, None);
    client.send(&json!({"op": "send", "id": 7, "channel": ROOM, "event": "e", "data": 2}));
    let (first, second) = (client.json(), client.json());
    let (ack, event) = if first["op"] == "ack" {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(
        ack,
        json!({"op": "ack", "id": 7, "epoch": joined["epoch"], "offset": 2})
    );
    assert_eq!(
        (&event["offset"], &event["from"]["connection"]),
        (&json!(2), &json!(client.id))
    );
    client.send(&json!({"op": "send", "id": 8, "channel": "other", "event": "e"}));
    assert_eq!(
        client.json(),
        json!({"op": "ack", "id": 8}),
        "this channel keeps nothing"
    );
}

#[test]
fn several_channels_are_numbered_apart() {
    let server = server_of_rooms();
    send(&server, 1);
    let body = json!({"channels": ["room-2", ROOM, "other"], "event": "e"});
    let receipt = server.call("/v1/send", &body);
    let places: BTreeSet<(&str, u64)> = receipt["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| {
            (
                place["channel"].as_str().unwrap(),
                place["offset"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(places, [("room-2", 1), (ROOM, 2)].into_iter().collect());
    assert_eq!(receipt["stored"], 2);
}

#[test]
fn who_is_put_into_a_channel_is_told_where_it_stands() {
    let server = server_of_rooms();
    send_all(&server, 1..=2);
    let told = |client: &mut Client| {
        let joined = client.json();
        assert_eq!(
            (&joined["op"], &joined["channel"]),
            (&json!("joined"), &json!(ROOM)),
            "{joined}"
        );
        (
            joined["epoch"].as_str().unwrap().to_owned(),
            joined["offset"].as_u64().unwrap(),
        )
    };
    let at = (epoch(&server), 2);
    let mut by_query = server.connect("channel=room");
    assert_eq!(told(&mut by_query), at);
    let mut by_api = server.connect("");
    server.call(
        "/v1/join",
        &json!({"channel": ROOM, "to": {"connections": [by_api.id]}}),
    );
    assert_eq!(told(&mut by_api), at);
    send(&server, 3);
    assert_eq!(
        (offsets(&mut by_query), offsets(&mut by_api)),
        (vec![3], vec![3])
    );
}

// Coming back

#[test]
fn what_was_missed_is_replayed_in_order_then_what_is_live() {
    let server = server_of_rooms();
    let epoch = epoch(&server);
    send_all(&server, 1..=2);
    server.call(
        "/v1/send",
        &json!({"channel": ROOM, "event": "e", "data_base64": "AP8="}),
    );
    send_all(&server, 4..=5);
    let mut client = server.connect("");
    assert!(come_back(&mut client, &epoch, 1));
    send(&server, 6);
    let event = |n: u64| json!({"event": "e", "channel": ROOM, "data": n, "offset": n});
    assert_eq!(client.json(), event(2));
    let Received::Binary(bytes) = client.message() else {
        panic!("expected bytes")
    };
    let (head, rest) = bytes[3..].split_at(usize::from(bytes[2]));
    assert_eq!((bytes[0], rest), (1, &[0, 255][..]));
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head, json!({"event": "e", "channel": ROOM, "offset": 3}));
    assert_eq!(
        [client.json(), client.json(), client.json()],
        [event(4), event(5), event(6)]
    );
    client.expect_nothing();
    assert_eq!(server.count("fanfare_replayed_total", ""), 4);
}

#[test]
fn what_cannot_be_proven_is_not_recovered() {
    let server = server_that_keeps(3, |_, _| {});
    let epoch = epoch(&server);
    send_all(&server, 1..=5);
    let since = |epoch: &str, offset: u64| {
        let mut client = server.connect("");
        let recovered = come_back(&mut client, epoch, offset);
        (recovered, offsets(&mut client))
    };
    assert_eq!(since(&epoch, 5), (true, vec![]), "nothing was missed");
    assert_eq!(
        since(&epoch, 2),
        (true, vec![3, 4, 5]),
        "the oldest that is kept is the next"
    );
    assert_eq!(since(&epoch, 1), (false, vec![3, 4, 5]), "2 is lost");
    assert_eq!(since(&epoch, 0), (false, vec![3, 4, 5]));
    assert!(!since(&epoch, 6).0, "ahead of the channel");
    assert!(!since(&epoch, u64::MAX).0);
    assert_eq!(
        since("0000000000000", 4),
        (false, vec![3, 4, 5]),
        "another epoch"
    );
    assert_eq!(since("nonsense", 5), (false, vec![3, 4, 5]));
}

#[test]
fn a_channel_without_history_recovers_nothing() {
    let server = server_of_rooms();
    let mut client = server.connect("");
    let ack = join(
        &mut client,
        "other",
        Some(&json!({"epoch": "0000000000000", "offset": 1})),
    );
    assert_eq!(ack, json!({"op": "ack", "id": "join", "recovered": false}));
    let receipt = server.call("/v1/send", &json!({"channel": "other", "event": "e"}));
    assert_eq!(
        (&receipt["stored"], receipt.get("publications")),
        (&json!(0), None)
    );
    assert_eq!(
        client.json(),
        json!({"event": "e", "channel": "other", "data": null})
    );
}

#[test]
fn the_history_of_one_app_is_not_anothers() {
    let server = server_that_keeps(10, |config, rule| {
        let other = fanfare::config::AppConfig {
            channels: vec![rule.clone()],
            ..Default::default()
        };
        config.apps.insert("other".to_owned(), other);
    });
    send_all(&server, 1..=3);
    let own = epoch(&server);
    let mut stranger = server.connect("app=other");
    let ack = join(
        &mut stranger,
        ROOM,
        Some(&json!({"epoch": own, "offset": 0})),
    );
    assert_eq!(
        (&ack["recovered"], &ack["offset"]),
        (&json!(false), &json!(0))
    );
    stranger.expect_nothing();
}

// What is removed

/// The data of an event whose frame has somewhat over 1,000 bytes.
fn kilobyte() -> Value {
    json!("x".repeat(1000))
}

/// What a client gets that has seen nothing, and whether that is all there was.
fn kept(server: &TestServer, channel: &str) -> (bool, Vec<u64>) {
    let mut client = server.connect("");
    let here = join(&mut server.connect(""), channel, None);
    let since = json!({"epoch": here["epoch"], "offset": 0});
    let ack = join(&mut client, channel, Some(&since));
    (ack["recovered"].as_bool().unwrap(), offsets(&mut client))
}

#[test]
fn over_its_bytes_a_channel_forgets_the_oldest() {
    let server = server_that_keeps(100, |_, rule| rule.history_bytes = 3500);
    for _ in 0..3 {
        send(&server, kilobyte());
    }
    assert_eq!(kept(&server, ROOM), (true, vec![1, 2, 3]));
    send(&server, kilobyte());
    send(&server, kilobyte());
    assert_eq!(kept(&server, ROOM), (false, vec![3, 4, 5]));
    let receipt = send(&server, "x".repeat(4000));
    assert_eq!(
        receipt["publications"][0]["offset"], 6,
        "it is delivered and numbered all the same"
    );
    assert_eq!(kept(&server, ROOM), (false, vec![]));
}

#[test]
fn past_its_time_an_event_is_forgotten() {
    let server = server_that_keeps(100, |config, rule| {
        let short = ChannelRule {
            history_ttl: Duration::from_millis(200),
            ..ChannelRule::new("room-short", 9)
        };
        config
            .apps
            .values_mut()
            .next()
            .unwrap()
            .channels
            .push(short);
        rule.pattern = ROOM.to_owned();
    });
    let body = json!({"channels": [ROOM, "room-short"], "event": "e"});
    server.call("/v1/send", &body);
    let receipt = server.call("/v1/send", &body);
    let short = &receipt["publications"][1];
    assert_eq!(
        (&short["channel"], &short["offset"]),
        (&json!("room-short"), &json!(2))
    );
    eventually("its time is over", || {
        kept(&server, "room-short") == (false, vec![])
    });
    assert_eq!(kept(&server, ROOM), (true, vec![1, 2]));
    let mut client = server.connect("");
    let ack = join(
        &mut client,
        "room-short",
        Some(&json!({"epoch": short["epoch"], "offset": 2})),
    );
    assert_eq!(
        (&ack["recovered"], &ack["offset"]),
        (&json!(true), &json!(2)),
        "the numbering goes on"
    );
    eventually("memory is given back", || {
        server.count("fanfare_history_events", "") == 2
    });
}

#[test]
fn over_the_bound_of_the_node_the_oldest_of_all_channels_go() {
    const BOUND: usize = 300_000;
    let server = server_that_keeps(100, |config, rule| {
        config.limits.history_bytes = BOUND;
        rule.history_bytes = BOUND;
    });
    let data = "x".repeat(10_000);
    let send = |channel: &str| {
        server.call(
            "/v1/send",
            &json!({"channel": channel, "event": "e", "data": data}),
        )
    };
    (0..5).for_each(|_| drop(send("room-old")));
    assert_eq!(kept(&server, "room-old"), (true, vec![1, 2, 3, 4, 5]));
    (0..40).for_each(|_| drop(send("room-new")));
    assert_eq!(kept(&server, "room-old"), (false, vec![]));
    let (recovered, offsets) = kept(&server, "room-new");
    assert!(!recovered && offsets.len() >= 10, "{offsets:?}");
    assert_eq!(
        offsets,
        (41 - offsets.len() as u64..=40).collect::<Vec<_>>()
    );
    let bytes = server.count("fanfare_history_bytes", "");
    assert!(
        bytes <= BOUND as u64 && bytes > 10_000 * offsets.len() as u64,
        "{bytes}"
    );
}

#[test]
fn an_app_that_stores_as_much_as_it_may_is_refused() {
    let server = server_that_keeps(100, |config, _| {
        let app = config.apps.values_mut().next().unwrap();
        app.max_stored_bytes = Some(30_000);
    });
    let mut client = server.connect("");
    join(&mut client, "room-1", None);
    let send = |channel: &str, data: &str| {
        let body = json!({"channel": channel, "event": "e", "data": data}).to_string();
        server.request("POST", "/v1/send", &[], Some(body.as_bytes()))
    };
    let data = "x".repeat(10_000);
    for _ in 0..3 {
        assert_eq!(send("room-1", &data).status, 200);
        client.json();
    }
    for channel in ["room-1", "room-2"] {
        let refused = send(channel, "more");
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "history_over_quota"),
            "{refused:?}"
        );
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    let other = send("other", "not stored");
    assert_eq!(other.status, 200, "{other:?}");
    assert_eq!(server.count("fanfare_storage_refused_total", ""), 2);
    assert!(server.count("fanfare_stored_bytes", "") > 30_000);
    client.send(&json!({"op": "send", "id": 2, "channel": "room-1", "event": "e"}));
    assert_eq!(client.json()["code"], "history_over_quota");
}

// Who is left out

#[test]
fn an_event_without_echo_is_replayed_to_others_than_its_sender() {
    let server = server_of_rooms();
    let epoch = epoch(&server);
    let ann = server.token("ann", &json!({}));
    let connect =
        |token: &str, device: &str| server.connect(&format!("token={token}&device={device}"));
    let (mut phone, mut laptop) = (connect(&ann, "phone"), connect(&ann, "laptop"));
    join(&mut phone, ROOM, None);
    join(&mut laptop, ROOM, None);
    phone.send(&json!({"op": "send", "id": 1, "channel": ROOM, "event": "e", "echo": false}));
    assert_eq!(
        phone.json(),
        json!({"op": "ack", "id": 1, "epoch": epoch, "offset": 1})
    );
    assert_eq!(laptop.json()["offset"], 1);
    phone.expect_nothing();
    send(&server, 2);
    let bob = server.token("bob", &json!({}));
    for (token, device, expected) in [
        (&ann, "phone", vec![2]),
        (&ann, "laptop", vec![1, 2]),
        (&bob, "phone", vec![1, 2]),
        (&bob, "tablet", vec![1, 2]),
    ] {
        let mut back = connect(token, device);
        assert!(come_back(&mut back, &epoch, 0));
        assert_eq!(offsets(&mut back), expected, "{device}");
    }
}

#[test]
fn a_connection_may_ask_for_no_echo_once_and_for_all() {
    let server = server_of_rooms();
    let epoch = epoch(&server);
    let mut client = server.connect("echo=false&device=d");
    join(&mut client, ROOM, None);
    for echo in [json!({}), json!({"echo": true})] {
        let mut message = json!({"op": "send", "channel": ROOM, "event": "e"});
        message
            .as_object_mut()
            .unwrap()
            .extend(echo.as_object().unwrap().clone());
        client.send(&message);
    }
    assert_eq!(offsets(&mut client), [2]);
    let mut back = server.connect("device=d");
    assert!(come_back(&mut back, &epoch, 0));
    assert_eq!(offsets(&mut back), [2]);
}

#[test]
fn who_was_excepted_is_left_out_of_the_replay() {
    let server = server_of_rooms();
    let epoch = epoch(&server);
    let ann = server.token("ann", &json!({}));
    for (n, except) in [
        json!({"users": ["ann"]}),
        json!({"devices": ["phone"]}),
        json!({}),
    ]
    .iter()
    .enumerate()
    {
        let body = json!({"channel": ROOM, "event": "e", "data": n, "except": except});
        assert_eq!(
            server.call("/v1/send", &body)["publications"][0]["offset"],
            n + 1
        );
    }
    for (query, expected) in [
        (format!("token={ann}&device=phone"), vec![3]),
        (format!("token={ann}"), vec![2, 3]),
        ("device=phone".to_owned(), vec![1, 3]),
        (String::new(), vec![1, 2, 3]),
    ] {
        let mut client = server.connect(&query);
        assert!(come_back(&mut client, &epoch, 0));
        assert_eq!(offsets(&mut client), expected, "{query}");
    }
}

#[test]
fn what_names_no_single_channel_is_not_kept() {
    let server = server_of_rooms();
    let mut member = server.connect("");
    join(&mut member, ROOM, None);
    join(&mut member, "other", None);
    let to = |to: Value| json!({"event": "e", "to": to});
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    let room = json!({"channels": [ROOM]});
    for (n, body) in [
        with(to(room.clone()), "filter", json!("true")),
        to(json!({"channels": [ROOM, "room-2"]})),
        to(json!({"channels": [ROOM], "users": ["ann"]})),
        to(json!({"channels": [ROOM], "connections": [member.id]})),
        to(json!({"channels": ["other"]})),
        json!({"event": "e"}),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = server.post("/v1/emit", &with(body.clone(), "store", json!(true)));
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "cannot_store"),
            "{body}"
        );
        member.expect_nothing();
        let receipt = server.call("/v1/emit", &with(body.clone(), "data", json!(n)));
        assert_eq!(
            (&receipt["stored"], receipt.get("publications")),
            (&json!(0), None),
            "{body}"
        );
        let event = member.json();
        assert_eq!(
            (&event["data"], event.get("offset")),
            (&json!(n), None),
            "{body}"
        );
    }
    let declined = with(to(room.clone()), "store", json!(false));
    assert_eq!(server.call("/v1/emit", &declined).get("publications"), None);
    assert_eq!(member.json().get("offset"), None);
    let wanted = server.call("/v1/emit", &with(to(room), "store", json!(true)));
    assert_eq!(
        (&wanted["stored"], &wanted["publications"][0]["offset"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(member.json()["offset"], 1, "nothing before it was counted");
}

// Full speed

/// The calls of publisher `name`: its events `numbers`, of `size` bytes, to [`ROOM`].
fn numbered(name: usize, numbers: std::ops::RangeInclusive<usize>, size: usize) -> Vec<Value> {
    let padding = "x".repeat(size);
    let one = |n| {
        json!({"call": "send", "channel": ROOM, "event": "e",
               "data": {"publisher": name, "n": n, "padding": padding}})
    };
    numbers.map(one).collect()
}

/// Publishes all of `publishers` at once, each on a connection of its own.
fn publish(server: &TestServer, publishers: &[Vec<Value>]) {
    thread::scope(|scope| {
        for calls in publishers {
            scope.spawn(|| Caller::new(server.address()).batches(calls));
        }
    });
}

/// What one reader of [`ROOM`] has seen: every offset once and in order, and so every publisher's numbers.
struct Seen {
    offset: u64,
    numbers: Vec<u64>,
    order: Vec<usize>,
}

impl Seen {
    fn new(publishers: usize) -> Self {
        Self {
            offset: 0,
            numbers: vec![0; publishers],
            order: Vec::new(),
        }
    }

    fn take(&mut self, event: &Value) {
        assert_eq!(
            event["offset"].as_u64(),
            Some(self.offset + 1),
            "after {}: {event}",
            self.offset
        );
        let data = &event["data"];
        let publisher = data["publisher"].as_u64().unwrap() as usize;
        assert_eq!(
            data["n"].as_u64(),
            Some(self.numbers[publisher] + 1),
            "of publisher {publisher}"
        );
        self.numbers[publisher] += 1;
        self.offset += 1;
        self.order.push(publisher);
    }
}

/// Bounds that no reader of a test meets.
fn patient(config: &mut Config) {
    config.limits.outbox_bytes = 64 << 20;
    config.limits.outbox_frames = 100_000;
    config.limits.outbox_age = Duration::from_mins(5);
}

/// Joins, reads some, ends hard, comes back with what it read last, until it has seen `count` events; how often it
/// came back.
fn come_and_go(server: &TestServer, epoch: &str, count: u64, seed: u64, seen: &mut Seen) -> u64 {
    let mut random = seed;
    let mut comings = 0;
    while seen.offset < count {
        comings += 1;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut client = server.connect("");
        if random & 1 << 40 != 0 {
            shrink(&client);
        }
        assert!(come_back(&mut client, epoch, seen.offset));
        for _ in 0..(random >> 50) % 800 {
            if seen.offset == count {
                break;
            }
            seen.take(&client.json());
        }
        match (random >> 33) % 3 {
            0 => reset(client),
            1 => cut(&client),
            _ => drop(client),
        }
    }
    comings
}

#[test]
fn who_comes_and_goes_under_full_load_sees_every_event_once_and_in_order() {
    const EACH: usize = 3000;
    let server = server_that_keeps(10_000, |config, _| patient(config));
    let epoch = epoch(&server);
    let publishers: Vec<_> = (0..3).map(|name| numbered(name, 1..=EACH, 200)).collect();
    let count = (publishers.len() * EACH) as u64;
    let orders: Vec<(Vec<usize>, u64)> = thread::scope(|scope| {
        let readers: Vec<_> = (1..=5)
            .map(|seed| {
                let (server, epoch) = (&server, epoch.as_str());
                scope.spawn(move || {
                    let mut seen = Seen::new(3);
                    let comings = come_and_go(server, epoch, count, seed, &mut seen);
                    (seen.order, comings)
                })
            })
            .collect();
        publish(&server, &publishers);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect()
    });
    for (order, comings) in &orders {
        assert!(*comings > 5, "it hardly left: {comings}");
        assert!(*order == orders[0].0, "two readers saw two orders");
    }
}

#[test]
fn members_on_all_shards_see_the_same_order_of_many_publishers() {
    const EACH: usize = 500;
    let server = server_that_keeps(10, |config, _| patient(config));
    let mut members: Vec<Client> = (0..6).map(|_| server.connect("")).collect();
    let shards: BTreeSet<u8> = members
        .iter()
        .map(|member| member.id.as_bytes()[7])
        .collect();
    assert_eq!(shards.len(), 2);
    for member in &mut members {
        join(member, ROOM, None);
    }
    let publishers: Vec<_> = (0..4).map(|name| numbered(name, 1..=EACH, 10)).collect();
    publish(&server, &publishers);
    let orders: Vec<Vec<usize>> = members
        .iter_mut()
        .map(|member| {
            let mut seen = Seen::new(4);
            (0..4 * EACH).for_each(|_| seen.take(&member.json()));
            seen.order
        })
        .collect();
    assert!(orders.iter().all(|order| *order == orders[0]));
}

/// Whoever comes in, in whichever way, gets the events right behind the offset that it was told.
fn come_in(server: &TestServer) {
    for way in (0..3).cycle().take(45) {
        let mut client = server.connect(if way == 0 { "channel=room" } else { "" });
        if way == 1 {
            server.call(
                "/v1/join",
                &json!({"channel": ROOM, "to": {"connections": [client.id]}}),
            );
        }
        let told = if way == 2 {
            join(&mut client, ROOM, None)
        } else {
            client.json()
        };
        let offset = told["offset"].as_u64().unwrap_or_else(|| panic!("{told}"));
        for next in 1..=10 {
            assert_eq!(client.json()["offset"], offset + next, "{told}");
        }
    }
}

#[test]
fn whoever_comes_in_gets_the_very_next_event_behind_the_offset_it_was_told() {
    let server = server_that_keeps(10, |config, _| patient(config));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for publisher in 0..2 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut caller = Caller::new(server.address());
                while !stop.load(SeqCst) {
                    caller.batches(&numbered(publisher, 1..=20, 10));
                }
            });
        }
        let arrivals = scope.spawn(|| come_in(&server)).join();
        stop.store(true, SeqCst);
        arrivals.unwrap();
    });
}

// Slow readers

/// A server with small socket buffers, and 4,000 events of 1 KiB in [`ROOM`].
fn server_with_a_long_history(change: impl FnOnce(&mut Config)) -> TestServer {
    let server = server_that_keeps(10_000, |config, _| {
        config.limits.send_buffer = 16 * 1024;
        config.limits.outbox_bytes = 256 * 1024;
        config.limits.outbox_frames = 20;
        change(config);
    });
    publish(&server, &[numbered(0, 1..=4000, 1000)]);
    server
}

/// A client with a small receive buffer that asked for everything in [`ROOM`] and has its ack.
fn slow_client(server: &TestServer) -> Client {
    let epoch = epoch(server);
    let mut client = server.connect("");
    shrink(&client);
    assert!(come_back(&mut client, &epoch, 0));
    client
}

#[test]
fn a_long_replay_to_a_slow_reader_is_no_reason_to_close_it() {
    let age = Duration::from_secs(4);
    let server = server_with_a_long_history(|config| config.limits.outbox_age = age);
    let mut client = slow_client(&server);
    let mut seen = Seen::new(1);
    let began = std::time::Instant::now();
    while began.elapsed() < age + Duration::from_millis(500) {
        seen.take(&client.json());
        thread::sleep(Duration::from_millis(5));
    }
    widen(&client);
    assert!(seen.offset < 3000, "it was not slow");
    while seen.offset < 4000 {
        seen.take(&client.json());
    }
    client.expect_nothing();
    assert_eq!(server.count("fanfare_closes_total", "4101"), 0);
    assert_eq!(server.count("fanfare_drops_total", "slow_consumer"), 0);
}

#[test]
fn who_stops_reading_its_replay_is_closed() {
    let server =
        server_with_a_long_history(|config| config.limits.outbox_age = Duration::from_millis(300));
    let mut client = slow_client(&server);
    let mut seen = Seen::new(1);
    (0..10).for_each(|_| seen.take(&client.json()));
    eventually("it is closed for it", || {
        server.count("fanfare_drops_total", "slow_consumer") > 3000
    });
    let end = loop {
        match client.message() {
            Received::Text(text) => seen.take(&serde_json::from_str(&text).unwrap()),
            other => break other,
        }
    };
    assert!(
        matches!(end, Received::Close(4101, _) | Received::End),
        "{end:?}"
    );
    let counted = || server.count("fanfare_closes_total", "4101") == 1;
    drop(client);
    eventually("it is counted", counted);
    let mut back = server.connect("");
    assert!(come_back(&mut back, &epoch(&server), seen.offset));
    assert_eq!(back.json()["offset"], seen.offset + 1);
    reset(back);
    eventually("what was refused is let go", || {
        server.count("fanfare_refused_bytes", "") == 0
    });
}

#[test]
fn what_is_live_comes_behind_a_replay_that_is_under_way() {
    let server = server_with_a_long_history(|_| {});
    let mut client = slow_client(&server);
    publish(&server, &[numbered(0, 4001..=4010, 10)]);
    widen(&client);
    let mut seen = Seen::new(1);
    (0..4010).for_each(|_| seen.take(&client.json()));
    client.expect_nothing();
    assert_eq!(server.count("fanfare_closes_total", "4101"), 0);
}

// GET /v1/channels/{channel}/history

#[test]
fn what_a_channel_keeps_can_be_paged_through() {
    let server = server_that_keeps(5, |_, _| {});
    let page = |query: &str| {
        let answer = server.get(&format!("/v1/channels/room/history?{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let offsets = |page: &Value| -> Vec<u64> {
        page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["offset"].as_u64().unwrap())
            .collect()
    };
    let unknown = page("");
    assert_eq!((&unknown["offset"], offsets(&unknown)), (&json!(0), vec![]));
    let receipts: Vec<Value> = (1..=7).map(|n| send(&server, n)).collect();
    let all = page("");
    assert_eq!(
        (offsets(&all), all.get("cursor")),
        (vec![3, 4, 5, 6, 7], None)
    );
    assert_eq!(
        (&all["offset"], &all["epoch"]),
        (&json!(7), &receipts[0]["publications"][0]["epoch"])
    );
    let third = &all["events"][0];
    assert_eq!((&third["event"], &third["data"]), (&json!("e"), &json!(3)));
    assert_eq!(third["id"], receipts[2]["id"]);
    let first = page("limit=2");
    assert_eq!((offsets(&first), &first["cursor"]), (vec![3, 4], &json!(4)));
    let second = page("limit=2&after=4");
    assert_eq!(
        (offsets(&second), &second["cursor"]),
        (vec![5, 6], &json!(6))
    );
    let last = page("limit=2&after=6");
    assert_eq!((offsets(&last), last.get("cursor")), (vec![7], None));
    assert_eq!(offsets(&page("after=7")), Vec::<u64>::new());
    for bad in ["after=x", "after=-1", "limit=0", "limit=1001"] {
        let answer = server.get(&format!("/v1/channels/room/history?{bad}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_query"),
            "{bad}"
        );
    }
    let nothing = server.get("/v1/channels/other/history");
    assert_eq!(
        (nothing.status, nothing.code().as_str()),
        (404, "no_history")
    );
}

#[test]
fn asking_again_and_again_for_a_replay_piles_nothing_up() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels.push(ChannelRule::new("kept", 1000));
        config.limits.outbox_age = Duration::from_secs(2);
    });
    let data = "x".repeat(16 * 1024);
    for _ in 0..60 {
        server.call(
            "/v1/send",
            &json!({"channel": "kept", "event": "e", "data": data}),
        );
    }
    let mut greedy = server.connect("");
    shrink(&greedy);
    for _ in 0..40 {
        greedy.send(&json!({"op": "join", "channel": "kept", "since": {"offset": 0}}));
    }
    eventually("it is closed for reading nothing", || {
        server.count("fanfare_closes_total", "4101") == 1
    });
    assert_eq!(
        server.count("fanfare_replayed_total", ""),
        60,
        "the others wait for the first"
    );
}
