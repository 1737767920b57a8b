//! Clients of other systems' protocols: packets that are none, polling that is cut short or never ends, and signs of life that
//! do not come.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        arms::{Arms, Herd, reset},
        attack::{Allowance, Attack, MIB},
    },
    malformed,
    sockets::pipeline,
};
use crate::{
    error::{Doing, Result},
    http,
    socket::{Caller, Heard, WebSocket},
};

/// Where clients of Socket.IO begin to poll, and where they are known by their `sid` afterwards.
const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

/// Where they connect, or go on after polling.
const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// How long a client waits for an answer. A poll is answered at the latest by a ping, which comes every other second here.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may be open that is to be closed: longer than a close handshake that it does not finish.
const GONE: Duration = Duration::from_secs(25);

/// Signs of life come so often that sessions without a connection end within the time that an attack is given to settle.
const BRISK: &[(&str, &str)] = &[
    ("heartbeat", "\"2s\""),
    ("heartbeat_wait", "\"1s\""),
    ("resume_window", "\"1s\""),
];

/// Between two clients that one thread loses: four threads lose 1,000 a second, of which the server has 3,000 until they are
/// given up. They are to harm by how they end, and not by how many they are.
const PACE: Duration = Duration::from_millis(4);

/// What sessions take that nobody has ended yet.
const SESSIONS: Allowance = Allowance {
    bytes: 96 * MIB,
    why: "sessions that live for three seconds after their clients have gone, 12 KiB each at most, and requests under way",
};

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "polling-drops",
        does: "Socket.IO clients that are lost while they poll: before the answer, in a body, and with two polls open",
        against: "what a session leaves behind that ends in the middle of a request",
        limits: BRISK,
        peak: SESSIONS,
        body: |arms| {
            arms.ready()?;
            let turn = AtomicUsize::new(0);
            arms.storm(4, |_| {
                let step = turn.fetch_add(1, Relaxed);
                if drop_while_polling(arms, step).is_ok() {
                    arms.count("clients lost", 1);
                }
                thread::sleep(PACE);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "upgrade-drops",
        does: "Socket.IO clients that are lost in each step of their upgrade from polling, and upgrades in a wrong order",
        against: "sessions that have two transports, or none",
        limits: BRISK,
        peak: SESSIONS,
        body: |arms| {
            arms.ready()?;
            let turn = AtomicUsize::new(0);
            arms.storm(4, |_| {
                let step = turn.fetch_add(1, Relaxed);
                if drop_while_upgrading(arms, step).is_ok() {
                    arms.count("clients lost", 1);
                }
                thread::sleep(PACE);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "unanswered-engine-pings",
        does: "2,000 Socket.IO clients that read and never answer the pings of Engine.IO",
        against: "heartbeat (2 s) and heartbeat_wait (1 s), by which they must be closed",
        limits: BRISK,
        body: unanswered_pings,
        ..Attack::PLAIN
    },
    Attack {
        name: "malformed-socketio",
        does: "clients that send every kind of wrong packet of Engine.IO and Socket.IO, by WebSocket and by polling",
        against: "more than the end of their own connection",
        limits: BRISK,
        peak: SESSIONS,
        body: |arms| {
            malformed(arms, &malformed::socket_io(), |arms| {
                socket_io(arms, WEBSOCKET, None)
            })
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "malformed-mesa",
        does: "clients that send every kind of wrong frame of Mesa, before and after they are known",
        against: "more than the end of their own connection",
        body: |arms| malformed(arms, &malformed::mesa(), mesa),
        ..Attack::PLAIN
    },
    Attack {
        name: "malformed-zexcore",
        does: "clients that send every kind of wrong frame of Zexcore RTM, before and after they are known",
        against: "more than the end of their own connection",
        body: |arms| malformed(arms, &malformed::zexcore(), zexcore),
        ..Attack::PLAIN
    },
    Attack {
        name: "polling-flood",
        does: "polls of sessions that do not exist, one after another, and sessions that post hundreds of packets at a time",
        against: "what a request of polling costs, and the rates of a client",
        limits: BRISK,
        peak: SESSIONS,
        body: polling_flood,
        ..Attack::PLAIN
    },
    Attack {
        name: "polls-never-read",
        does: "200 Socket.IO clients that poll again and again and read no answer, while events of 4 KiB go to them",
        against: "outbox_bytes and refused_bytes (32 MiB)",
        // They answer no ping either, and are not to be closed for that while the attack lasts.
        limits: &[
            ("heartbeat", "\"6s\""),
            ("heartbeat_wait", "\"3s\""),
            ("resume_window", "\"1s\""),
            ("refused_bytes", "\"32MiB\""),
        ],
        peak: Allowance {
            bytes: 128 * MIB,
            why: "refused_bytes (32 MiB), one answer under way for each client, and events under way",
        },
        body: polls_never_read,
        ..Attack::PLAIN
    },
    Attack {
        name: "polling-sessions-abandoned",
        does: "sessions of Socket.IO that are begun by a poll and never heard of again, as fast as they are let in",
        against: "state and descriptors, which must end without a connection that ends",
        limits: BRISK,
        keeps_out: Some("sessions have the places of connections until they are given up"),
        peak: SESSIONS,
        after: Allowance {
            bytes: 48 * MIB,
            why: "tables and pages of 10,000 sessions, which are kept for the next ones",
        },
        body: |arms| {
            arms.ready()?;
            let to = arms.to;
            arms.storm(4, |_| {
                let mut caller = Caller::new(to, PATIENCE);
                while !arms.is_over() && arms.get(&mut caller, POLLING).is_some() {
                    arms.count("sessions", 1);
                }
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "polling-huge-bodies",
        does: "Socket.IO clients that post 100 MB, bodies that never end, one packet of 1 MB, and half a million empty ones",
        against: "the size of a body (`body_bytes`), and what a body may hold",
        limits: BRISK,
        peak: SESSIONS,
        body: polling_huge_bodies,
        ..Attack::PLAIN
    },
];

/// A client of Socket.IO that polls.
struct Polling {
    caller: Caller,
    /// Its path, with its `sid`.
    path: String,
    sid: String,
}

impl Polling {
    /// Begins a session.
    fn begin(arms: &Arms) -> io::Result<Self> {
        let mut caller = Caller::new(arms.to, PATIENCE);
        let (status, body) = caller.get(POLLING)?;
        let open = body.strip_prefix(b"0").unwrap_or_default();
        let open: serde_json::Value = serde_json::from_slice(open).unwrap_or_default();
        let Some(sid) = open["sid"].as_str().filter(|_| status == 200) else {
            arms.count(format!("sessions refused by {status}"), 1);
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        arms.count("sessions", 1);
        Ok(Self {
            caller,
            path: format!("{POLLING}&sid={sid}"),
            sid: sid.to_owned(),
        })
    }

    /// Joins the main namespace, with a token if it has one; returns when it is in.
    fn join(&mut self, token: Option<&str>) -> io::Result<()> {
        self.caller.post(&self.path, &connect(token))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.caller.get(&self.path)?;
            let mut packets = body.split(|&byte| byte == SEPARATOR);
            if packets.any(|packet| packet.starts_with(b"40")) {
                return Ok(());
            }
            if status != 200 || Instant::now() > until {
                return Err(io::Error::other(format!("{status} and no 40")));
            }
            self.caller.post(&self.path, "3")?;
        }
    }

    /// Says goodbye, so that nothing of it is left; it may have been closed for what it did.
    fn leave(mut self) {
        // A body that was refused has ended the connection, which only the next request finds out.
        let is_said = self.caller.post(&self.path, "1").is_ok();
        if !is_said {
            let _ = self.caller.post(&self.path, "1");
        }
    }

    /// The head of a request for its session, behind which `length` bytes of a body come.
    fn head(&self, arms: &Arms, method: &str, length: &str) -> String {
        format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain;charset=UTF-8\r\n{length}\r\n",
            self.path, arms.to
        )
    }

    /// A connection on which it polls, and reads nothing.
    fn poll(&self, arms: &Arms) -> io::Result<TcpStream> {
        let mut socket = arms.socket()?;
        socket.write_all(self.head(arms, "GET", "").as_bytes())?;
        Ok(socket)
    }
}

/// Stands between the packets of a body.
const SEPARATOR: u8 = 0x1e;

/// The packet by which a client joins the main namespace.
fn connect(token: Option<&str>) -> String {
    token.map_or_else(
        || "40".to_owned(),
        |token| format!(r#"40{{"token":"{token}"}}"#),
    )
}

/// Waits for a text that `is_wanted`.
fn hear(socket: &mut WebSocket, is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match socket.next() {
            Heard::Text(text) if is_wanted(&text) => return Ok(()),
            Heard::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if Instant::now() > until => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
    }
}

/// A client of Socket.IO in the main namespace.
fn socket_io(arms: &Arms, path: &str, token: Option<&str>) -> io::Result<WebSocket> {
    let mut socket = WebSocket::open(arms.to, path, PATIENCE)?;
    hear(&mut socket, |text| text.starts_with(b"0"))?;
    socket.send(&connect(token))?;
    hear(&mut socket, |text| text.starts_with(b"40"))?;
    Ok(socket)
}

/// A client of Mesa that is known.
fn mesa(arms: &Arms) -> io::Result<WebSocket> {
    let mut socket = WebSocket::open(arms.to, "/mesa", PATIENCE)?;
    let token = arms.token("mesa", "", 3600);
    hear(&mut socket, |text| text.starts_with(br#"{"op":10"#))?;
    socket.send(&format!(r#"{{"op":2,"d":{{"token":"{token}"}}}}"#))?;
    hear(&mut socket, |text| text.starts_with(br#"{"op":22"#))?;
    Ok(socket)
}

/// A client of Zexcore RTM that is known.
fn zexcore(arms: &Arms) -> io::Result<WebSocket> {
    let mut socket = WebSocket::open(arms.to, "/rtm", PATIENCE)?;
    let token = arms.token("zexcore", "", 3600);
    socket.send(&format!(r#"{{"id":1,"type":"auth","data":["{token}"]}}"#))?;
    hear(&mut socket, |text| text.starts_with(br#"{"id":1,"data":"#))?;
    Ok(socket)
}

/// Lets a client go in one of the ways that polling has, in turn.
fn drop_while_polling(arms: &Arms, step: usize) -> io::Result<()> {
    let mut session = Polling::begin(arms)?;
    if step.is_multiple_of(2) {
        session.join(None)?;
    }
    let body = format!(r#"42["{}"]"#, "e".repeat(2000));
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut socket = match step % 6 {
        // A poll is open, and a second one beside it.
        0 | 1 => session.poll(arms)?,
        2 => {
            let first = session.poll(arms)?;
            let second = session.poll(arms)?;
            thread::sleep(Duration::from_millis(5));
            reset(&first);
            second
        }
        // A body has come in part, and another one is whole and its answer is not read.
        3 => {
            let mut socket = arms.socket()?;
            let head = session.head(arms, "POST", &length);
            socket.write_all(format!("{head}{}", &body[..1000]).as_bytes())?;
            socket
        }
        4 => {
            let mut socket = arms.socket()?;
            let head = session.head(arms, "POST", &length);
            socket.write_all(format!("{head}{body}").as_bytes())?;
            socket
        }
        // The request that begins a session is all that the server has seen.
        _ => {
            let mut socket = arms.socket()?;
            let head = format!("GET {POLLING} HTTP/1.1\r\nHost: {}\r\n\r\n", arms.to);
            socket.write_all(head.as_bytes())?;
            socket
        }
    };
    if step.is_multiple_of(3) {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
        let _ = socket.read(&mut [0; 16]);
    }
    reset(&socket);
    Ok(())
}

/// Lets a client go in one of the steps of its upgrade, in turn.
fn drop_while_upgrading(arms: &Arms, step: usize) -> io::Result<()> {
    let mut session = Polling::begin(arms)?;
    session.join(None)?;
    let poll = session.poll(arms)?;
    let path = format!("{WEBSOCKET}&sid={}", session.sid);
    let begin = || WebSocket::open(arms.to, &path, PATIENCE);
    let is_pong = |text: &[u8]| text == b"3probe";

    let mut socket = begin()?;
    match step % 7 {
        // Nothing is said on the new transport.
        0 => {}
        // It is probed, and the answer is not read, or it is.
        1 => socket.send("2probe")?,
        2 => {
            socket.send("2probe")?;
            hear(&mut socket, is_pong)?;
        }
        // It is chosen, and lost, while the poll is open.
        3 => {
            socket.send("2probe")?;
            hear(&mut socket, is_pong)?;
            socket.send("5")?;
        }
        // It is chosen unprobed.
        4 => socket.send("5")?,
        // Two are probed and chosen.
        5 => {
            let mut other = begin()?;
            for socket in [&mut socket, &mut other] {
                socket.send("2probe")?;
                socket.send("5")?;
            }
            reset(&other.into_parts().0);
        }
        // The client goes on polling after it has chosen.
        _ => {
            socket.send("2probe")?;
            hear(&mut socket, is_pong)?;
            socket.send("5")?;
            let _ = session.caller.post(&session.path, r#"42["late"]"#);
            let _ = session.caller.get(&session.path);
        }
    }
    reset(&socket.into_parts().0);
    reset(&poll);
    Ok(())
}

/// Clients that are to be closed because they do not answer.
fn unanswered_pings(arms: &Arms) -> Result<()> {
    let count = arms.size(2000, 40);
    let sockets: io::Result<Vec<_>> = (0..count)
        .map(|_| socket_io(arms, WEBSOCKET, None).map(|socket| socket.into_parts().0))
        .collect();
    let herd = Herd::of_sockets(sockets.doing("cannot connect the attack's clients")?)?;
    arms.ready()?;
    let reading = herd.read_on()?;
    arms.wait();
    // Where the attack is a short one, the ping has yet to come.
    let until = Instant::now() + GONE;
    let mut open = herd.open();
    while open > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(50));
        open = herd.open();
    }
    drop(reading);
    arms.count("clients closed", (count - open) as u64);
    if open > 0 {
        arms.fault(format!("{open} clients are open that answer no ping"));
    }
    Ok(())
}

/// Sends each of `packets` on a connection of its own, of which every other one is in already, and now and then all of them on
/// one. A client that does nothing wrong must notice nothing.
fn malformed(
    arms: &Arms,
    packets: &malformed::Packets,
    client: impl Fn(&Arms) -> io::Result<WebSocket> + Sync,
) -> Result<()> {
    let bystander = client(arms).doing("a client cannot connect")?;
    arms.ready()?;
    let turn = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| stay(arms, bystander));
        arms.storm(4, |_| {
            let n = turn.fetch_add(1, Relaxed);
            let opened = if n.is_multiple_of(2) {
                client(arms)
            } else {
                WebSocket::open(arms.to, packets.path, PATIENCE)
            };
            match opened {
                Ok(socket) => send_wrong(arms, socket, packets, n),
                Err(_) => arms.count("clients refused", 1),
            }

            // What can be posted is posted as well.
            if let Some(packet) = packets.posted.get(n % packets.posted.len().max(1)) {
                post_once(arms, packet, n);
            }
        });
    });
    Ok(())
}

/// Lives as a client should, until it is over; that it is closed is a fault.
fn stay(arms: &Arms, mut socket: WebSocket) {
    while !arms.is_over() {
        let alive = match socket.next() {
            Heard::Text(text) if text == b"2" => "3",
            Heard::Text(text) if text.starts_with(br#"{"op":1,"#) => r#"{"op":11,"d":{}}"#,
            Heard::Text(_) | Heard::Nothing => continue,
            Heard::Ended => return arms.fault("a client that did nothing wrong was closed"),
        };
        // A socket that takes no answer has ended, which is read next.
        let _ = socket.send(alive);
    }
}

/// Sends one packet, or all of them, and looks whether the connection ends.
fn send_wrong(arms: &Arms, mut socket: WebSocket, packets: &malformed::Packets, n: usize) {
    let frames = &packets.frames;
    let chosen = if n.is_multiple_of(frames.len()) {
        &frames[..]
    } else {
        let at = n / 2 % frames.len();
        &frames[at..=at]
    };
    let _ = socket.send_raw(&chosen.concat());
    arms.count("packets", chosen.len() as u64);
    let has_ended = loop {
        match socket.next() {
            Heard::Text(_) => {}
            Heard::Nothing => break false,
            Heard::Ended => break true,
        }
    };
    arms.count("connections ended", u64::from(has_ended));
    reset(&socket.into_parts().0);
}

/// Posts a packet to a session of its own, which is in already every other time.
fn post_once(arms: &Arms, packet: &str, n: usize) {
    let Ok(mut session) = Polling::begin(arms) else {
        return;
    };
    if n.is_multiple_of(2) && session.join(None).is_err() {
        return;
    }
    arms.post(&mut session.caller, &session.path, packet);
    session.leave();
}

fn polling_flood(arms: &Arms) -> Result<()> {
    arms.ready()?;
    let unknown = format!(
        "GET {POLLING}&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: {}\r\n\r\n",
        arms.to
    );
    let separator = char::from(SEPARATOR).to_string();
    let bodies = [
        vec![r#"42["flood",1]"#; 300].join(&separator),
        vec!["3"; 1000].join(&separator),
        "6".to_owned(),
    ];
    thread::scope(|scope| {
        scope.spawn(|| pipeline(arms, 2, unknown.as_bytes(), true));
        arms.storm(2, |number| {
            let Ok(mut session) = Polling::begin(arms) else {
                return;
            };
            if session.join(None).is_err() {
                return;
            }
            // One may be open at a time. The other client opens more, each on a connection of its own, and is closed for it.
            let polls = if number == 0 { 1 } else { 20 };
            let polls: Vec<_> = (0..polls).map_while(|_| session.poll(arms).ok()).collect();
            arms.count("polls", polls.len() as u64);
            for body in bodies.iter().cycle().take(60) {
                let taken = arms.post(&mut session.caller, &session.path, body);
                if arms.is_over() || taken.is_none() {
                    break;
                }
            }
        });
    });
    Ok(())
}

fn polls_never_read(arms: &Arms) -> Result<()> {
    let count = arms.size(200, 10);
    let user = |n: usize| format!("poller-{n}");
    let mut polls = Vec::new();
    for n in 0..count {
        let mut session = Polling::begin(arms).doing("a client cannot poll")?;
        let token = arms.token(&user(n), "", 3600);
        session.join(Some(&token)).doing("a client cannot join")?;
        let socket = session.poll(arms).doing("a client cannot poll")?;
        polls.push((session.head(arms, "GET", ""), socket));
    }
    arms.ready()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !arms.is_over() {
                for (head, socket) in &mut polls {
                    let _ = socket.set_write_timeout(Some(Duration::from_millis(1)));
                    let _ = socket.write_all(head.as_bytes());
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let users: Vec<_> = (0..count).map(|n| format!("\"{}\"", user(n))).collect();
        let body = format!(
            r#"{{"event":"e","to":{{"users":[{}]}},"data":"{}"}}"#,
            users.join(","),
            "x".repeat(4000)
        );
        arms.post_in_turn(2, "/v1/emit", &[body]);
    });
    Ok(())
}

fn polling_huge_bodies(arms: &Arms) -> Result<()> {
    arms.ready()?;
    let turn = AtomicUsize::new(0);
    let separator = char::from(SEPARATOR).to_string();
    let whole = [
        format!(r#"42["e","{}"]"#, "x".repeat(1_000_000)),
        vec![""; 500_000].join(&separator),
        vec!["4"; 100_000].join(&separator),
        format!("b{}", "A".repeat(900_000)),
    ];
    arms.storm(4, |_| {
        let n = turn.fetch_add(1, Relaxed);
        let Ok(mut session) = Polling::begin(arms) else {
            return;
        };
        if n.is_multiple_of(2) && session.join(None).is_err() {
            return;
        }
        let chunk = "x".repeat(0x8000);
        match n % 6 {
            4 => {
                let head = session.head(arms, "POST", "Content-Length: 100000000\r\n");
                send_on(arms, &head, chunk.as_bytes());
            }
            5 => {
                let head = session.head(arms, "POST", "Transfer-Encoding: chunked\r\n");
                send_on(arms, &head, format!("8000\r\n{chunk}\r\n").as_bytes());
            }
            n => {
                arms.post(&mut session.caller, &session.path, &whole[n]);
            }
        }
        session.leave();
    });
    Ok(())
}

/// Sends a head, and `part` behind it again and again, until the server takes no more.
fn send_on(arms: &Arms, head: &str, part: &[u8]) {
    let Ok(mut socket) = arms.socket() else {
        return;
    };
    let _ = socket.set_write_timeout(Some(Duration::from_millis(300)));
    if socket.write_all(head.as_bytes()).is_err() {
        return;
    }
    let mut taken = 0;
    while taken < BODY && !arms.is_over() && socket.write_all(part).is_ok() {
        taken += part.len();
    }
    let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
    let mut answer = [0; 1024];
    let read = socket.read(&mut answer).unwrap_or(0);
    let status = http::parse(&answer[..read]).map_or(0, |answer| answer.status());
    arms.count(format!("huge bodies answered by {status}"), 1);
    arms.count("KiB of bodies taken", taken as u64 / 1024);
}

/// A body is as long at most.
const BODY: usize = 100_000_000;
