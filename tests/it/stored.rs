//! Events stored for users: delivered first, confirmed by a pong, and kept until then.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

use crate::kept::*;
use crate::support::*;
use fanfare::config::{Config, SlowConsumer, UserEvents};
use serde_json::{Value, json};

/// A server that stores events for users, configured further by `change`.
fn server_that_stores(change: impl FnOnce(&mut Config, &mut UserEvents)) -> TestServer {
    server_with(|config| {
        let mut kept = UserEvents {
            size: 10_000,
            bytes: 64 << 20,
            ttl: Duration::from_hours(1),
        };
        change(config, &mut kept);
        config.apps.values_mut().next().unwrap().user_events = Some(kept);
    })
}

fn plain_server() -> TestServer {
    server_that_stores(|_, _| {})
}

/// A connection of ann that has had its welcome.
fn ann(server: &TestServer, query: &str) -> Client {
    let token = server.token("ann", &json!({}));
    server.connect(&format!("token={token}&{query}"))
}

/// The same, but it answers no pings.
fn mute_ann(server: &TestServer) -> Client {
    let mut client = ann(server, "");
    client.answers_pings = false;
    client
}

/// Publishes `data` to ann; the receipt.
fn publish(server: &TestServer, data: impl Into<Value>) -> Value {
    server.call(
        "/v1/publish",
        &json!({"user": "ann", "event": "e", "data": data.into()}),
    )
}

/// The calls that publish `numbers` to ann, each with `size` bytes beside it.
fn numbered(publisher: usize, numbers: std::ops::RangeInclusive<u64>, size: usize) -> Vec<Value> {
    let padding = "x".repeat(size);
    let one = |n| {
        json!({"call": "publish", "user": "ann", "event": "e",
               "data": {"publisher": publisher, "n": n, "padding": padding}})
    };
    numbers.map(one).collect()
}

/// Publishes the events 1 to `count` to ann.
fn publish_numbers(server: &TestServer, count: u64, size: usize) {
    Caller::new(server.address()).batches(&numbered(0, 1..=count, size));
}

fn number(event: &Value) -> u64 {
    event["data"]["n"]
        .as_u64()
        .unwrap_or_else(|| panic!("{event}"))
}

/// The next `count` numbers.
fn numbers(client: &mut Client, count: usize) -> Vec<u64> {
    (0..count).map(|_| number(&client.json())).collect()
}

/// The data of the events that have come before a round trip.
fn data(client: &mut Client) -> Vec<Value> {
    client.frame(0x89, b"data");
    let mut data = Vec::new();
    loop {
        match client.message() {
            Received::Text(text) => {
                data.push(serde_json::from_str::<Value>(&text).unwrap()["data"].clone());
            }
            Received::Pong(_) => return data,
            other => panic!("{other:?}"),
        }
    }
}

/// Events that are stored now.
fn stored(server: &TestServer) -> u64 {
    server.count("fanfare_history_events", "")
}

/// Waits until nothing is stored any more, and expects that the next connection gets nothing.
fn expect_confirmed(server: &TestServer) {
    eventually("all is confirmed", || stored(server) == 0);
    ann(server, "").expect_nothing();
}

// Away and back

#[test]
fn what_came_while_a_user_was_away_is_delivered_first_and_in_order() {
    let server = plain_server();
    let receipts = [publish(&server, 1), publish(&server, 2)];
    for receipt in &receipts {
        assert_eq!(
            (&receipt["matched"], &receipt["stored"]),
            (&json!(0), &json!(1)),
            "{receipt}"
        );
    }
    let mut client = ann(&server, "");
    assert_eq!(publish(&server, 3)["stored"], 1);
    for (n, receipt) in receipts.iter().enumerate() {
        assert_eq!(
            client.json(),
            json!({"event": "e", "data": n + 1, "id": receipt["id"]})
        );
    }
    let live = client.json();
    assert_eq!(live["data"], 3);
    assert!(live["id"].is_string(), "{live}");
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn many_publishers_at_once_lose_nothing_of_an_absent_user() {
    const EACH: u64 = 100;
    let server = plain_server();
    thread::scope(|scope| {
        for publisher in 0..6 {
            let server = &server;
            scope.spawn(move || {
                Caller::new(server.address()).batches(&numbered(publisher, 1..=EACH, 10));
            });
        }
    });
    let mut client = ann(&server, "");
    let mut last = [0; 6];
    for _ in 0..6 * EACH {
        let event = client.json();
        let of = event["data"]["publisher"].as_u64().unwrap() as usize;
        assert_eq!(number(&event), last[of] + 1, "of publisher {of}");
        last[of] += 1;
    }
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn each_user_of_a_list_has_its_own_but_for_those_excepted() {
    let server = plain_server();
    let body =
        json!({"recipients": ["ann", "bob", "cem"], "except": ["bob"], "event": "e", "data": 1});
    assert_eq!(server.call("/v1/dispatch", &body)["stored"], 2);
    let to = json!({"users": ["ann", "bob"]});
    let body = json!({"to": to, "except": {"users": ["ann"]}, "event": "e", "data": 2});
    assert_eq!(server.call("/v1/emit", &body)["stored"], 1);
    let waiting = |user: &str| data(&mut server.client(user, &json!({})));
    assert_eq!(
        [waiting("ann"), waiting("bob"), waiting("cem")],
        [vec![1], vec![2], vec![1]]
    );
}

#[test]
fn what_is_not_for_users_alone_is_not_stored() {
    let server = plain_server();
    let publish = |more: Value| {
        let mut body = json!({"event": "e"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let ann = json!({"users": ["ann"]});
    for body in [
        publish(json!({"to": ann, "filter": "true"})),
        publish(json!({"to": {"users": ["ann"], "channels": ["room"]}})),
        publish(json!({})),
    ] {
        assert_eq!(server.call("/v1/emit", &body)["stored"], 0, "{body}");
        let mut wanted = body.clone();
        wanted["store"] = json!(true);
        let refused = server.post("/v1/emit", &wanted);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "cannot_store"),
            "{body}"
        );
    }
    let everyone = publish(json!({"recipients": ["*"]}));
    assert_eq!(server.call("/v1/dispatch", &everyone)["stored"], 0);
    let declined = publish(json!({"to": ann, "store": false}));
    assert_eq!(server.call("/v1/emit", &declined)["stored"], 0);
    assert_eq!(stored(&server), 0);
    let wanted = publish(json!({"to": ann, "store": true}));
    assert_eq!(server.call("/v1/emit", &wanted)["stored"], 1);
}

#[test]
fn what_declined_to_be_stored_reaches_who_is_there() {
    let server = plain_server();
    let mut client = ann(&server, "");
    let body = json!({"user": "ann", "event": "e", "data": 1, "store": false});
    let receipt = server.call("/v1/publish", &body);
    assert_eq!(
        (&receipt["queued"], &receipt["stored"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(client.json(), json!({"event": "e", "data": 1}));
    assert_eq!(stored(&server), 0);
}

#[test]
fn a_client_may_publish_to_who_is_away() {
    let server = plain_server();
    let mut bob = server.client("bob", &json!({}));
    bob.send(&json!({"op": "publish", "id": 1, "users": ["ann"], "event": "e", "data": 1}));
    assert_eq!(bob.json()["op"], "ack");
    let mut client = ann(&server, "");
    let event = client.json();
    assert_eq!(
        (&event["data"], &event["from"]["user"]),
        (&json!(1), &json!("bob"))
    );
}

#[test]
fn bytes_are_stored_as_well() {
    let server = plain_server();
    server.call(
        "/v1/publish",
        &json!({"user": "ann", "event": "e", "data_base64": "AP8="}),
    );
    let Received::Binary(bytes) = ann(&server, "").message() else {
        panic!("expected bytes")
    };
    assert!(
        bytes.starts_with(&[1, 0]) && bytes.ends_with(&[b'}', 0, 255]),
        "{bytes:?}"
    );
}

// Full speed

/// Ann's events as her connections got them: each gets a run of one order, in which none is missing.
#[derive(Default)]
struct Followed {
    order: Vec<(u64, u64)>,
    places: BTreeMap<String, usize>,
    last: BTreeMap<u64, u64>,
}

impl Followed {
    /// Takes the event behind place `before`, or the first of a connection; its place.
    fn take(&mut self, before: Option<usize>, event: &Value) -> usize {
        let id = event["id"].as_str().unwrap_or_else(|| panic!("{event}"));
        let what = (event["data"]["publisher"].as_u64().unwrap(), number(event));
        let place = *self.places.entry(id.to_owned()).or_insert(self.order.len());
        assert!(
            before.is_none_or(|before| place == before + 1),
            "{what:?} is at {place}, behind {before:?}"
        );
        if place == self.order.len() {
            let last = self.last.insert(what.0, what.1).unwrap_or(0);
            assert_eq!(what.1, last + 1, "of publisher {}", what.0);
            self.order.push(what);
        }
        assert_eq!(self.order[place], what, "an id names one event");
        place
    }

    /// Reads all that a new connection is given before a round trip.
    fn read_all(&mut self, client: &mut Client) {
        client.frame(0x89, b"all");
        let mut at = None;
        while let Received::Text(text) = client.message() {
            at = Some(self.take(at, &serde_json::from_str(&text).unwrap()));
        }
    }

    /// Reads the first `count` events of a new connection.
    fn read(&mut self, client: &mut Client, count: usize) {
        let mut at = None;
        for _ in 0..count {
            at = Some(self.take(at, &client.json()));
        }
    }
}

/// Publishes numbered events, at most about 1,000 ahead of what is `read`, until it is to `stop`; how many.
fn publish_until(
    server: &TestServer,
    publisher: usize,
    read: &AtomicUsize,
    stop: &AtomicBool,
) -> usize {
    let mut caller = Caller::new(server.address());
    let mut sent = 0;
    while !stop.load(SeqCst) {
        if sent > read.load(SeqCst) + 1000 {
            thread::yield_now();
            continue;
        }
        caller.batches(&numbered(
            publisher,
            sent as u64 + 1..=sent as u64 + 50,
            200,
        ));
        sent += 50;
    }
    sent
}

/// Connects again and again, reads some or all, answers pings mostly, and ends hard.
fn come_and_go(server: &TestServer, followed: &mut Followed, read: &AtomicUsize) {
    let token = server.token("ann", &json!({}));
    for coming in 0..30 {
        let mut client = server.connect(&format!("token={token}"));
        client.answers_pings = coming % 5 != 3;
        if coming % 3 == 0 {
            shrink(&client);
        }
        match coming % 5 {
            0 | 4 => followed.read_all(&mut client),
            _ => followed.read(&mut client, 1 + coming * 37 % 200),
        }
        read.store(
            followed.last.values().copied().min().unwrap_or(0) as usize,
            SeqCst,
        );
        match coming % 2 {
            0 => reset(client),
            _ => cut(&client),
        }
    }
}

#[test]
fn under_full_load_nothing_is_lost_and_nothing_live_overtakes_what_waits() {
    let server = plain_server();
    let (read, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut followed = Followed::default();
    let sent: usize = thread::scope(|scope| {
        let publish = |publisher| {
            let (server, read, stop) = (&server, &read, &stop);
            scope.spawn(move || publish_until(server, publisher, read, stop))
        };
        let publishers = [publish(0), publish(1), publish(2)];
        let reading = scope
            .spawn(|| come_and_go(&server, &mut followed, &read))
            .join();
        stop.store(true, SeqCst);
        reading.unwrap();
        publishers
            .into_iter()
            .map(|publisher| publisher.join().unwrap())
            .sum()
    });
    followed.read_all(&mut ann(&server, ""));
    assert_eq!(followed.order.len(), sent);
    expect_confirmed(&server);
}

#[test]
fn what_was_read_and_not_answered_under_full_load_comes_again_from_the_first() {
    let server = plain_server();
    let calls = numbered(0, 1..=1000, 50);
    thread::scope(|scope| {
        scope.spawn(|| Caller::new(server.address()).batches(&calls));
        for _ in 0..3 {
            let mut mute = mute_ann(&server);
            assert_eq!(numbers(&mut mute, 100), (1..=100).collect::<Vec<_>>());
            reset(mute);
        }
    });
    assert_eq!(
        numbers(&mut ann(&server, ""), 1000),
        (1..=1000).collect::<Vec<_>>()
    );
}

// Not confirmed

#[test]
fn what_is_not_confirmed_waits_for_the_next_connection() {
    let server = plain_server();
    publish(&server, json!({"n": 1}));
    let mut mute = mute_ann(&server);
    publish(&server, json!({"n": 2}));
    let first = [mute.json(), mute.json()];
    mute.expect_nothing();
    reset(mute);
    let silent = mute_ann(&server);
    silent.socket.set_nonblocking(true).unwrap();
    drop(silent);
    let mut client = ann(&server, "");
    assert_eq!(
        [client.json(), client.json()],
        first,
        "the same, with the same ids"
    );
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn a_connection_that_closes_well_confirms_nothing_by_that() {
    let server = plain_server();
    publish(&server, 1);
    let mut mute = mute_ann(&server);
    assert_eq!(mute.json()["data"], 1);
    mute.frame(0x88, &[0x03, 0xe8]);
    assert_eq!(mute.closed(), 1000);
    assert_eq!(data(&mut ann(&server, "")), [1]);
}

#[test]
fn a_drop_in_the_middle_of_a_replay_loses_nothing() {
    const COUNT: u64 = 1000;
    let server = plain_server();
    publish_numbers(&server, COUNT, 1000);
    let mut unread = 1;
    for (read, end) in [(0, 0), (1, 1), (300, 0), (300, 1), (100, 0)] {
        let mut client = ann(&server, "");
        let numbers = numbers(&mut client, read);
        if let Some(first) = numbers.first().copied() {
            assert!(
                first <= unread,
                "{first} comes first, and {unread} nobody has read"
            );
            assert_eq!(numbers, (first..first + read as u64).collect::<Vec<_>>());
            unread = unread.max(first + read as u64);
        }
        if end == 0 {
            reset(client);
        } else {
            cut(&client);
        }
    }
    let mut client = ann(&server, "");
    let first = numbers(&mut client, 1)[0];
    assert!(
        first <= unread,
        "{first} comes first, and {unread} nobody has read"
    );
    let rest = (COUNT - first) as usize;
    assert_eq!(
        numbers(&mut client, rest),
        (first + 1..=COUNT).collect::<Vec<_>>()
    );
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn who_never_stays_for_all_that_waits_gets_on_all_the_same() {
    let server = plain_server();
    publish_numbers(&server, 400, 200);
    for left in [272, 144, 16] {
        let mut client = ann(&server, "");
        numbers(&mut client, 130);
        eventually("two stretches are confirmed", || stored(&server) == left);
        reset(client);
    }
}

#[test]
fn who_does_not_read_what_is_live_gets_it_the_next_time() {
    const COUNT: u64 = 300;
    let server = server_that_stores(|config, _| config.limits.send_buffer = 16 * 1024);
    let silent = ann(&server, "");
    shrink(&silent);
    publish_numbers(&server, COUNT, 1000);
    reset(silent);
    let mut client = ann(&server, "");
    assert_eq!(
        numbers(&mut client, COUNT as usize),
        (1..=COUNT).collect::<Vec<_>>()
    );
    client.expect_nothing();
    expect_confirmed(&server);
}

/// Where a client in a process of its own connects to, and how many events it reads.
const ADDRESS: &str = "FANFARE_TEST_ADDRESS";
const READS: &str = "FANFARE_TEST_READS";

#[test]
#[ignore = "another test runs it, as a process of its own"]
#[expect(
    clippy::disallowed_methods,
    reason = "what another test sets for this one is no configuration"
)]
fn a_client_that_says_what_it_reads_and_then_stalls() {
    let (Ok(path), Ok(reads)) = (env::var(ADDRESS), env::var(READS)) else {
        return;
    };
    let (address, path) = path.split_once('/').unwrap();
    let mut client = Client::open(address.parse().unwrap(), &format!("/{path}"), &[]).unwrap();
    client.json();
    let mut out = std::io::stdout().lock();
    for n in numbers(&mut client, reads.parse().unwrap()) {
        writeln!(out, "read {n}").unwrap();
    }
    writeln!(out, "stalled").unwrap();
    out.flush().unwrap();
    // Whoever started it ends it; this is for when that one failed.
    thread::sleep(3 * PATIENCE);
}

/// Starts a client of ann, in a process of its own, that reads `count` events.
fn start_client(server: &TestServer, count: usize) -> Child {
    let token = server.token("ann", &json!({}));
    Command::new(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "stored::a_client_that_says_what_it_reads_and_then_stalls",
        ])
        .env(
            ADDRESS,
            format!("{}/v1/connect?token={token}", server.address()),
        )
        .env(READS, count.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills `client` once it has read what it was to read; the first and the last of that.
fn kill(mut client: Child) -> (u64, u64) {
    let mut lines = BufReader::new(client.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let before_stall = lines.by_ref().take_while(|line| line != "stalled");
    let read: Vec<u64> = before_stall
        .filter_map(|line| line.split_once("read ")?.1.parse().ok())
        .collect();
    client.kill().unwrap();
    assert_eq!(client.wait().unwrap().code(), None, "it ended by itself");
    assert!(
        read.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{read:?}"
    );
    (read[0], read[read.len() - 1])
}

#[test]
fn a_client_killed_half_way_leaves_the_rest_for_the_next() {
    const COUNT: u64 = 2000;
    let server = plain_server();
    let calls = numbered(0, 1..=COUNT, 500);
    let (waiting, live) = calls.split_at(500);
    Caller::new(server.address()).batches(waiting);
    let mut last = 0;
    thread::scope(|scope| {
        let mut client = start_client(&server, 501);
        eventually("it has come", || {
            server.count("fanfare_connections", "default") == 1
        });
        scope.spawn(|| Caller::new(server.address()).batches(live));
        for next in [100, 400, 1] {
            let (first, read_to) = kill(client);
            assert!(
                first <= last + 1,
                "{} is lost: the next is {first}",
                last + 1
            );
            last = last.max(read_to);
            client = start_client(&server, next);
        }
        kill(client);
    });
    let mut client = ann(&server, "");
    let first = number(&client.json());
    assert!(
        first <= last + 1,
        "{} is lost: the next is {first}",
        last + 1
    );
    assert_eq!(
        numbers(&mut client, (COUNT - first) as usize),
        (first + 1..=COUNT).collect::<Vec<_>>()
    );
    client.expect_nothing();
    expect_confirmed(&server);
}

// Confirming

/// The payload of the ping behind what `client` was given.
fn question(client: &mut Client) -> Vec<u8> {
    loop {
        match client.next() {
            Received::Ping(payload) => return payload,
            Received::Text(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_second_connection_gets_the_same_and_one_answer_is_enough() {
    let server = plain_server();
    publish(&server, 1);
    let mut mute = mute_ann(&server);
    assert_eq!(mute.json()["data"], 1);
    let mut second = mute_ann(&server);
    assert_eq!(second.json()["data"], 1, "nobody has confirmed it");
    assert_eq!(publish(&server, 2)["queued"], 2);
    assert_eq!(
        (mute.json()["data"].clone(), second.json()["data"].clone()),
        (json!(2), json!(2))
    );
    assert_eq!(stored(&server), 2);
    let mut third = ann(&server, "");
    assert_eq!(data(&mut third), [1, 2]);
    expect_confirmed(&server);
    mute.expect_nothing();
    second.expect_nothing();
}

#[test]
fn a_made_up_answer_confirms_nothing() {
    // Answers that nobody asked for count as messages.
    let server = server_that_stores(|config, _| config.limits.message_burst = 1000);
    let mut bob = server.client("bob", &json!({}));
    let mut declining = ann(&server, "store=false");
    publish(&server, 1);
    publish(&server, 2);
    assert_eq!(
        (
            declining.json()["data"].clone(),
            declining.json()["data"].clone()
        ),
        (json!(1), json!(2))
    );
    let mut mute = mute_ann(&server);
    let asked = question(&mut mute);
    let answer = |client: &mut Client, payload: &[u8]| {
        client.frame(0x8a, payload);
        client.expect_nothing();
    };
    for client in [&mut bob, &mut declining] {
        answer(client, &asked);
    }
    let mut made_up = vec![
        vec![],
        b"x".to_vec(),
        vec![0xff; 125],
        asked[..asked.len() - 1].to_vec(),
    ];
    made_up.extend((0..asked.len()).map(|at| {
        let mut other = asked.clone();
        other[at] ^= 1;
        other
    }));
    made_up.extend((0..=255).map(|last| [&asked[..asked.len() - 1], &[last]].concat()));
    for payload in made_up.iter().filter(|payload| **payload != asked) {
        mute.frame(0x8a, payload);
    }
    mute.expect_nothing();
    assert_eq!(stored(&server), 2);
    answer(&mut mute, &asked);
    expect_confirmed(&server);
}

#[test]
fn an_answer_that_was_not_asked_for_yet_confirms_nothing_behind_it() {
    let server = plain_server();
    publish(&server, 1);
    let mut client = mute_ann(&server);
    let first = question(&mut client);
    publish(&server, 2);
    assert_eq!(client.json()["data"], 2);
    for _ in 0..2 {
        client.frame(0x8a, &first);
    }
    let second = question(&mut client);
    assert_ne!(first, second, "what came behind it is asked for by itself");
    client.expect_nothing();
    drop(client);
    assert_eq!(data(&mut ann(&server, "")), [2]);
}

#[test]
fn who_declines_gets_what_is_live_and_confirms_nothing() {
    let server = plain_server();
    publish(&server, 1);
    let mut declining = ann(&server, "store=false");
    declining.expect_nothing();
    let receipt = publish(&server, 2);
    assert_eq!(
        (&receipt["queued"], &receipt["stored"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(declining.json()["data"], 2);
    declining.expect_nothing();
    assert_eq!(data(&mut ann(&server, "")), [1, 2]);
}

#[test]
fn who_becomes_a_user_gets_what_waits_then() {
    let server = plain_server();
    publish(&server, 1);
    publish(&server, 2);
    let mut client = server.connect("");
    client.expect_nothing();
    let auth = json!({"op": "auth", "id": 1, "token": server.token("ann", &json!({}))});
    client.send(&auth);
    let (mut seen, mut acks) = (Vec::new(), 0);
    while seen.len() < 2 || acks < 1 {
        let message = client.json();
        if message["op"] == "ack" {
            acks += 1;
        } else {
            seen.push(message["data"].clone());
        }
    }
    assert_eq!(seen, [1, 2]);
    eventually("it is confirmed", || stored(&server) == 0);
    publish(&server, 3);
    assert_eq!(client.json()["data"], 3);
    client.send(&auth);
    assert_eq!(client.json()["op"], "ack", "renewing brings nothing again");
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn where_the_first_message_must_authenticate_what_waits_comes_behind_the_welcome() {
    let server = server_that_stores(|config, _| {
        config.apps.values_mut().next().unwrap().client_auth =
            Some(fanfare::config::ClientAuth::Required);
    });
    publish(&server, 1);
    let mut client = server.open("");
    client.send(&json!({"op": "auth", "token": server.token("ann", &json!({}))}));
    assert_eq!(
        (client.json()["op"].clone(), client.json()["data"].clone()),
        (json!("welcome"), json!(1))
    );
    client.expect_nothing();
    expect_confirmed(&server);
}

#[test]
fn an_answer_to_the_last_of_several_pings_confirms_as_well() {
    let server = server_that_stores(|config, _| {
        config.limits.heartbeat = Duration::from_secs(3);
        config.limits.heartbeat_wait = Duration::from_secs(2);
    });
    publish(&server, 1);
    let mut client = mute_ann(&server);
    let mut last = Vec::new();
    for _ in 0..3 {
        last = question(&mut client);
        client.send(&json!({"op": "ping"}));
    }
    assert_eq!(stored(&server), 1, "other signs of life confirm nothing");
    client.frame(0x8a, &last);
    expect_confirmed(&server);
}

#[test]
fn what_was_thrown_away_is_not_confirmed() {
    const COUNT: u64 = 600;
    let server = server_that_stores(|config, _| {
        config.limits.send_buffer = 16 * 1024;
        config.limits.outbox_bytes = 256 * 1024;
        config.apps.values_mut().next().unwrap().slow_consumer = SlowConsumer::DropOldest;
    });
    let mut slow = ann(&server, "");
    shrink(&slow);
    publish_numbers(&server, COUNT, 2000);
    assert!(
        server.count("fanfare_drops_total", "oldest") > 0,
        "nothing was thrown away"
    );
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    widen(&slow);
    while !seen.contains(&COUNT) {
        seen.insert(number(&slow.json()));
    }
    slow.expect_nothing();
    assert!(publish(&server, json!({"n": COUNT + 1}))["queued"] == 1);
    slow.json();
    slow.expect_nothing();
    reset(slow);
    let mut client = ann(&server, "");
    let first = number(&client.json());
    seen.insert(first);
    seen.extend(numbers(&mut client, (COUNT + 1 - first) as usize));
    assert_eq!(seen, (1..=COUNT + 1).collect(), "some came to nobody");
    client.expect_nothing();
    expect_confirmed(&server);
}

// Excepted devices

#[test]
fn a_device_that_an_event_is_not_for_does_not_take_it_from_the_users_others() {
    let server = plain_server();
    let body = |n: u64| json!({"to": {"users": ["ann"]}, "except": {"devices": ["phone"]}, "event": "e", "data": n});
    assert_eq!(server.call("/v1/emit", &body(1))["stored"], 1);
    let mut phone = ann(&server, "device=phone");
    phone.expect_nothing();
    reset(phone);
    assert_eq!(
        data(&mut ann(&server, "")),
        [1],
        "the phone was not given it"
    );
}

/// Ann's connection is excepted from one event and given the next; the other devices still get the first.
fn expect_withheld_is_kept(except: impl FnOnce(&Client) -> Value) {
    let server = plain_server();
    let mut phone = ann(&server, "device=phone");
    let withheld =
        json!({"to": {"users": ["ann"]}, "except": except(&phone), "event": "e", "data": 1});
    let receipt = server.call("/v1/emit", &withheld);
    assert_eq!(
        (&receipt["queued"], &receipt["stored"]),
        (&json!(0), &json!(1))
    );
    publish(&server, 2);
    assert_eq!(phone.json()["data"], 2);
    phone.expect_nothing();
    phone.expect_nothing();
    assert_eq!(
        data(&mut ann(&server, "")).first(),
        Some(&json!(1)),
        "nobody was given it before"
    );
}

#[test]
fn what_a_device_is_given_later_confirms_nothing_that_it_was_not_given() {
    expect_withheld_is_kept(|_| json!({"devices": ["phone"]}));
}

#[test]
fn what_a_connection_is_given_later_confirms_nothing_that_it_was_not_given() {
    expect_withheld_is_kept(|phone| json!({"connections": [phone.id]}));
}

// Bounds

#[test]
fn over_their_number_the_oldest_go_and_are_counted() {
    let server = server_that_stores(|_, kept| kept.size = 3);
    publish_numbers(&server, 5, 10);
    assert_eq!(server.count("fanfare_drops_total", "stored_over_bound"), 2);
    let mut client = ann(&server, "");
    assert_eq!(numbers(&mut client, 3), [3, 4, 5]);
    client.expect_nothing();
    expect_confirmed(&server);
    assert_eq!(
        server.count("fanfare_drops_total", "stored_over_bound"),
        2,
        "what is confirmed is no loss"
    );
}

#[test]
fn over_their_bytes_the_oldest_go_and_are_counted() {
    let server = server_that_stores(|_, kept| kept.bytes = 3500);
    publish_numbers(&server, 5, 1000);
    assert_eq!(server.count("fanfare_drops_total", "stored_over_bound"), 2);
    assert_eq!(numbers(&mut ann(&server, ""), 3), [3, 4, 5]);
}

#[test]
fn over_the_bound_of_the_node_the_oldest_of_all_users_go() {
    let server = server_that_stores(|config, kept| {
        config.limits.history_bytes = 300_000;
        kept.bytes = 300_000;
    });
    server.call(
        "/v1/publish",
        &json!({"user": "bob", "event": "e", "data": 1}),
    );
    let padding = "x".repeat(10_000);
    (1..=50).for_each(|n| drop(publish(&server, json!({"n": n, "padding": padding}))));
    server.client("bob", &json!({})).expect_nothing();
    let kept = stored(&server);
    assert_eq!(
        server.count("fanfare_drops_total", "stored_over_bound"),
        51 - kept
    );
    assert!((10..30).contains(&kept), "{kept}");
    assert_eq!(
        numbers(&mut ann(&server, ""), kept as usize),
        (51 - kept..=50).collect::<Vec<_>>()
    );
}

#[test]
fn past_their_time_they_go_and_are_counted() {
    let server = server_that_stores(|_, kept| kept.ttl = Duration::from_millis(200));
    publish_numbers(&server, 5, 10);
    eventually("they are counted", || {
        server.count("fanfare_drops_total", "stored_expired") == 5
    });
    ann(&server, "").expect_nothing();
    assert_eq!(stored(&server), 0);
    assert_eq!(server.count("fanfare_drops_total", "stored_over_bound"), 0);
}
