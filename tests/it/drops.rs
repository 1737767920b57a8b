//! Thousands of connections that drop at once: others come in meanwhile, and nothing of those that went is left.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use crate::support::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// Connections that drop.
const HELD: usize = 2400;

/// Channels, of so many members each that comings and goings are told one by one at first, and as counts then.
const ROOMS: usize = 8;

/// Threads that let others come in.
const DOORS: usize = 3;

/// How many of those that came in through a door stay.
const STAY: usize = 20;

/// Both ends of every connection are in this process, and the soft limit of descriptors is often 1,024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .unwrap();
}

fn open(server: &TestServer, user: &str) -> Client {
    let claims = json!({"sub": user, "can": {"join": ["*"], "members": ["*"], "send": ["*"]}});
    server.connect(&format!("token={}", signed(&claims)))
}

fn room(at: usize) -> String {
    format!("room-{at}")
}

/// Members of all rooms in turn; every other one of a room hears who comes and goes.
fn hold(server: &TestServer) -> Vec<Client> {
    let member = |at: usize| {
        let mut client = open(server, &format!("held-{at}"));
        let watches = (at / ROOMS).is_multiple_of(2);
        let join = json!({"op": "join", "channel": room(at % ROOMS), "members": watches});
        assert_eq!(client.ask_amid(&join).1["op"], "ack");
        client
    };
    (0..HELD).map(member).collect()
}

/// Ends all at once, every other one by a reset.
fn drop_all(held: Vec<Client>) {
    for (at, client) in held.iter().enumerate() {
        if at % 2 == 1 {
            socket2::SockRef::from(&client.socket)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
    drop(held);
}

/// Lets one client after another in until it is `over`; each joins, sends, and gets what it sent. Some stay.
fn let_in(server: &TestServer, door: usize, over: &AtomicBool) -> Vec<Client> {
    let mut staying = Vec::new();
    for n in 0.. {
        let channel = format!("new-{door}-{n}");
        let mut client = open(server, &channel);
        client.join(&channel);
        client.send(&json!({"op": "send", "channel": channel, "event": "e", "data": n}));
        let got = client.json();
        assert_eq!(
            (&got["event"], &got["data"]),
            (&json!("e"), &json!(n)),
            "{got}"
        );
        if staying.len() < STAY {
            staying.push(client);
        } else {
            client.frame(0x88, &[]);
            assert_eq!(client.closed(), 1005);
        }
        if over.load(SeqCst) && staying.len() == STAY {
            break;
        }
    }
    staying
}

/// What a member was told of the others.
#[derive(Debug, Default)]
struct Told {
    joined: u64,
    left: u64,
}

impl Told {
    fn note(&mut self, message: &Value) {
        match (message["op"].as_str(), message["kind"].as_str()) {
            (Some("member"), Some("joined")) => self.joined += 1,
            (Some("member"), Some("left")) => self.left += 1,
            (Some("members"), _) => {
                self.joined += message["joined"].as_u64().unwrap();
                self.left += message["left"].as_u64().unwrap();
            }
            _ => panic!("{message}"),
        }
    }
}

#[test]
fn others_come_in_while_thousands_drop_and_nothing_of_these_is_left() {
    raise_descriptor_limit();
    let server = keyed_server(|config| {
        config.limits.resume_window = Duration::from_millis(500);
        // Who holds thousands of connections on one thread answers no pings meanwhile.
        config.limits.heartbeat = Duration::from_mins(10);
    });
    let mut witnesses: Vec<Client> = (0..ROOMS)
        .map(|at| open(&server, &format!("witness-{at}")))
        .collect();
    for (at, witness) in witnesses.iter_mut().enumerate() {
        witness.watch(&room(at));
    }
    let held = hold(&server);
    let count = |name: &str| sum(&server.get_as(KEY, "/metrics").text, name, "") as usize;
    assert_eq!(count("fanfare_memberships"), HELD + ROOMS);
    let over = AtomicBool::new(false);
    let mut newcomers: Vec<Client> = thread::scope(|scope| {
        let doors: Vec<_> = (0..DOORS)
            .map(|door| {
                scope.spawn({
                    let (server, over) = (&server, &over);
                    move || let_in(server, door, over)
                })
            })
            .collect();
        drop_all(held);
        eventually("those that dropped are forgotten", || {
            count("fanfare_closes_total") >= HELD
        });
        over.store(true, SeqCst);
        doors
            .into_iter()
            .flat_map(|door| door.join().unwrap())
            .collect()
    });
    let stay = ROOMS + DOORS * STAY;
    eventually("only who stayed is counted", || {
        count("fanfare_connections") == stay
    });
    assert_eq!(count("fanfare_memberships"), stay);
    tells_who_is_there(&server, &mut witnesses);
    let answer = server.post_as(KEY, "/v1/broadcast", &json!({"event": "to all"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    for client in witnesses.iter_mut().chain(&mut newcomers) {
        assert_eq!(client.json()["event"], "to all");
        client.expect_nothing();
    }
}

/// Expects each witness alone in its room, by the API and by what it was told.
fn tells_who_is_there(server: &TestServer, witnesses: &mut [Client]) {
    let members = (HELD / ROOMS) as u64;
    for (at, witness) in witnesses.iter_mut().enumerate() {
        let mut told = Told::default();
        while told.left < members {
            told.note(&witness.json());
        }
        assert_eq!((told.joined, told.left), (members, members));
        let list = server
            .get_as(KEY, &format!("/v1/channels/{}/members", room(at)))
            .json();
        let ids: Vec<&Value> = list["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| &member["id"])
            .collect();
        assert_eq!(
            (&list["count"], ids),
            (&json!(1), vec![&json!(witness.id)]),
            "{list}"
        );
        let user = server.get_as(KEY, &format!("/v1/users/held-{at}")).json();
        assert_eq!(user["online"], false, "{user}");
    }
}
