//! Clients of Engine.IO that poll: what is left of one whose session has ended, and what it is told.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::support::*;
use fanfare::{
    ProtocolKind,
    config::{ClientAuth, Config},
};
use serde_json::{Value, json};

/// Descriptors of a session whose client polls, each of which has a connection's place.
const PLACES: usize = 3;

/// How often a session ends and another one begins in its places. If each kept them for as long as a close handshake may take,
/// all would not come in within [`PATIENCE`].
const SESSIONS: usize = 12;

/// The answer to a request for a session that is none.
const UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// A server that has room for one client that polls.
fn server_for_one(change: impl FnOnce(&mut Config)) -> TestServer {
    keyed_server(|config| {
        config.limits.connections = PLACES;
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::SocketIo);
        change(config);
    })
}

/// A client of Socket.IO that polls.
struct Poller<'s> {
    server: &'s TestServer,
    path: String,
    sid: String,
}

impl<'s> Poller<'s> {
    fn begin(server: &'s TestServer) -> Option<Self> {
        let path = "/socket.io/?EIO=4&transport=polling";
        let answer = server.get(path);
        if answer.status != 200 {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "connection_limit")
            );
            return None;
        }
        let open: Value = serde_json::from_str(&answer.text[1..]).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        Some(Self {
            server,
            path: format!("{path}&sid={sid}"),
            sid,
        })
    }

    /// One that is in the main namespace.
    fn join(server: &'s TestServer) -> Option<Self> {
        let poller = Self::begin(server)?;
        assert_eq!(poller.post("40"), (200, "ok".to_owned()));
        assert!(poller.poll().1.starts_with("40{"));
        Some(poller)
    }

    fn post(&self, body: &str) -> (u16, String) {
        let answer = self
            .server
            .request("POST", &self.path, &[], Some(body.as_bytes()));
        (answer.status, answer.text)
    }

    fn poll(&self) -> (u16, String) {
        let answer = self.server.get(&self.path);
        (answer.status, answer.text)
    }

    /// A poll whose answer is not read yet.
    fn poll_later(&self) -> TcpStream {
        self.poll_by(TcpStream::connect(self.server.address()).unwrap())
    }

    /// The same by `socket`.
    fn poll_by(&self, mut socket: TcpStream) -> TcpStream {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path,
            self.server.address()
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket
    }
}

fn read(mut socket: TcpStream) -> Answer {
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    parse_answer(&answer)
}

/// Lets one session after another `end` in the places of the one before.
fn one_after_another<'s>(
    server: &'s TestServer,
    sessions: usize,
    begin: impl Fn(&'s TestServer) -> Option<Poller<'s>>,
    end: impl Fn(&Poller<'s>),
) {
    let mut ended = 0;
    eventually("each begins in the places of the one before", || {
        if let Some(poller) = begin(server) {
            end(&poller);
            ended += 1;
        }
        ended == sessions
    });
}

#[test]
fn a_malformed_packet_is_refused_by_the_post_and_its_session_is_gone() {
    let server = server_for_one(|_| {});
    let deep = format!("42{}", "[".repeat(60_000));
    let nonsense = [
        format!("bAAAA\u{1e}{deep}"),
        deep,
        "bAAAA".to_owned(),
        r#"451-["e"]"#.to_owned() + "\u{1e}42[\"e\"]",
        "42[\"e\"]\u{1e}x".to_owned(),
        "4".to_owned(),
    ];
    for (n, body) in nonsense.iter().enumerate() {
        one_after_another(&server, SESSIONS, Poller::join, |poller| {
            let (status, text) = poller.post(body);
            assert_eq!(
                (status, text.as_str()),
                (400, r#"{"code":3,"message":"Bad request"}"#)
            );
            assert_eq!(poller.post("3"), (400, UNKNOWN.to_owned()));
            assert_eq!(poller.poll(), (400, UNKNOWN.to_owned()));
        });
        let refused = server.count("fanfare_client_refusals_total", "bad_message");
        assert_eq!(refused, ((n + 1) * SESSIONS) as u64);
    }
}

#[test]
fn a_session_that_the_server_ends_gives_its_places_back_though_nobody_polls() {
    let server = server_for_one(|_| {});
    // What only the session finds out.
    for body in ["42[1]", "44"] {
        one_after_another(&server, SESSIONS, Poller::join, |poller| {
            assert_eq!(poller.post(body), (200, "ok".to_owned()));
        });
    }
    one_after_another(&server, SESSIONS, Poller::join, |_| {
        let all = json!({"filter": "true", "code": 4000});
        assert_eq!(server.post_as(KEY, "/v1/disconnect", &all).status, 200);
    });
    one_after_another(&server, SESSIONS, Poller::join, |poller| {
        assert_eq!(poller.post("41"), (200, "ok".to_owned()));
    });
}

#[test]
fn a_session_over_its_rate_gives_its_places_back_though_nobody_polls() {
    let server = server_for_one(|config| {
        config.limits.messages_per_second = 1;
        config.limits.message_burst = 10;
    });
    let flood = vec!["42[\"e\"]"; 2000].join("\u{1e}");
    one_after_another(&server, SESSIONS, Poller::begin, |poller| {
        poller.post(&flood);
    });
    let struck = server.count("fanfare_closes_total", "4102");
    assert!(struck > 0, "{}", server.get("/metrics").text);
}

#[test]
fn what_a_session_said_last_waits_for_the_next_poll_without_its_places() {
    let server = server_for_one(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.client_auth = Some(ClientAuth::Required);
    });
    let mut refused: Vec<Poller<'_>> = Vec::new();
    eventually("each begins in the places of the one before", || {
        if let Some(poller) = Poller::begin(&server) {
            assert_eq!(poller.post(r#"40{"token":"bad"}"#), (200, "ok".to_owned()));
            refused.push(poller);
        }
        refused.len() == 4
    });
    let last = refused.pop();
    for poller in refused {
        let (status, text) = poller.poll();
        assert!(status == 200 && text.starts_with("44{"), "{status} {text}");
        assert!(text.contains("4001"), "{text}");
        assert_eq!(poller.poll(), (200, "1".to_owned()));
        assert_eq!(poller.poll(), (400, UNKNOWN.to_owned()));
    }
    drop(last);
}

#[test]
fn a_poll_that_waits_is_told_why_its_session_ends() {
    let server = server_for_one(|_| {});
    one_after_another(&server, SESSIONS, Poller::join, |poller| {
        let poll = poller.poll_later();
        eventually("it is disconnected while it polls", || {
            let all = json!({"filter": "true", "code": 4000, "reason": "because"});
            server.post_as(KEY, "/v1/disconnect", &all).json()["disconnected"] != 0
        });
        let answer = read(poll);
        assert_eq!(answer.status, 200);
        assert!(answer.text.contains("41"), "{answer:?}");
        let (status, text) = poller.poll();
        assert!(
            (status, text.as_str()) == (200, "1") || (status, text.as_str()) == (400, UNKNOWN),
            "{status} {text}"
        );
    });
}

#[test]
fn a_client_that_lets_its_answers_stand_gives_its_places_back_when_it_is_closed() {
    let server = server_for_one(|config| {
        config.limits.outbox_bytes = 256 * 1024;
        config.limits.send_buffer = 16 * 1024;
    });
    let event = json!({"event": "e", "data": "x".repeat(4000)});
    // Its last frame finds no room, and waits a second for a poll.
    one_after_another(&server, SESSIONS / 2, Poller::join, |_| {
        eventually("it is closed for being slow", || {
            server.post_as(KEY, "/v1/emit", &event).json()["queued"] == 0
        });
    });
}

#[test]
fn an_upgrade_ends_with_its_session() {
    let server = server_for_one(|config| config.limits.connections = PLACES + 1);
    let all = json!({"filter": "true", "code": 4000});
    let open = |poller: &Poller<'_>| {
        let path = format!("/socket.io/?EIO=4&transport=websocket&sid={}", poller.sid);
        Client::open(server.address(), &path, &[]).unwrap()
    };

    one_after_another(&server, SESSIONS, Poller::join, |poller| {
        let mut socket = open(poller);
        assert_eq!(server.post_as(KEY, "/v1/disconnect", &all).status, 200);
        assert_eq!(socket.next(), Received::End);
        assert_eq!(poller.poll().1, "41");
    });

    // From the answer to its probe on, a client stops polling. It hears the session's last words on the WebSocket, to which it
    // listens once it has chosen that.
    one_after_another(&server, SESSIONS, Poller::join, |poller| {
        let mut socket = open(poller);
        socket.frame(0x81, b"2probe");
        assert_eq!(socket.text(), "3probe");
        assert_eq!(server.post_as(KEY, "/v1/disconnect", &all).status, 200);
        socket.frame(0x81, b"5");
        assert_eq!(socket.text(), "41");
        let received = std::iter::from_fn(|| Some(socket.next()));
        assert!(received.take(3).any(|received| received == Received::End));
    });
}

#[test]
fn one_poll_waits_for_the_answer_before_it_and_a_further_one_closes_the_connection() {
    let server = server_for_one(|config| config.limits.send_buffer = 16 * 1024);
    let poller = Poller::join(&server).unwrap();
    let event = json!({"event": "e", "data": "x".repeat(200_000)});
    assert_eq!(server.post_as(KEY, "/v1/emit", &event).status, 200);

    // Its answer has one packet that no buffer takes, so it is being written as long as nobody reads it.
    let unread = TcpStream::connect(server.address()).unwrap();
    socket2::SockRef::from(&unread)
        .set_recv_buffer_size(4096)
        .unwrap();
    let unread = poller.poll_by(unread);
    assert_eq!(unread.peek(&mut [0]).unwrap(), 1);

    let others = [poller.poll_later(), poller.poll_later()];
    let answers = others.map(read);
    assert!(answers.iter().all(|answer| answer.status == 400));
    let codes = answers.map(|answer| answer.json()["code"].clone());
    assert!(codes.contains(&json!(3)), "{codes:?}");
    assert_eq!(poller.poll(), (400, UNKNOWN.to_owned()));
    drop(unread);
}

#[test]
fn a_client_goes_on_polling_if_there_is_no_place_for_its_upgrade() {
    let server = server_for_one(|_| {});
    let poller = Poller::join(&server).unwrap();
    let path = format!("/socket.io/?EIO=4&transport=websocket&sid={}", poller.sid);
    let refused = Client::open(server.address(), &path, &[]).err().unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "connection_limit")
    );
    let poll = poller.poll_later();
    let event = json!({"event": "e", "data": 1});
    assert_eq!(server.post_as(KEY, "/v1/emit", &event).status, 200);
    assert_eq!(read(poll).text, r#"42["e",1]"#);
}
