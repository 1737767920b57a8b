//! Thousands of clients that join one channel with history at the same time.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    figure::Figure,
    plan::{NODES, SECRET, Scene},
    rig::Happened,
    socket::{Caller, Heard, WebSocket},
};
use crate::{
    clock,
    error::{Doing, Result, failed},
    priority,
    token::Signer,
};

/// Clients.
const CLIENTS: usize = 5000;

/// Their channel, which keeps its events.
const CHANNEL: &str = "kept-storm";

/// The number of the first client; beyond those of subscribers.
const FIRST: usize = 2000;

/// Threads that connect them, and then read for them.
const THREADS: usize = 4;

/// How long one may take to connect.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long all may take to join, and then to get an event.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at all sockets: the harness must not take the nodes' time.
const LOOK: Duration = Duration::from_millis(20);

/// Between two events of the channel, while clients join.
const EVENTS: Duration = Duration::from_millis(250);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    op: String,
    event: Option<String>,
    id: Option<u32>,
    offset: Option<u64>,
}

/// As much of the answer to a call.
#[derive(Deserialize)]
struct Receipt {
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    offset: Option<u64>,
}

/// One client.
struct Client {
    socket: WebSocket,
    /// The last event of the channel that it has, or that was there before it came.
    offset: Option<u64>,
    is_asked: bool,
    /// Events that it did not get, or got again.
    mistakes: usize,
}

/// Lets clients join, and publishes to them meanwhile; answers what came of it once all are in.
pub(super) fn run(scene: &Scene) -> Result<Happened> {
    let mut clients = connect(scene)?;
    let is_joined = AtomicBool::new(false);
    let from = clock::now();
    let (sent, back) = thread::scope(|scope| {
        let is_joined = &is_joined;
        let publishing = scope.spawn(move || publish(scene, is_joined));
        let joining: Vec<_> = clients
            .iter_mut()
            .map(|some| scope.spawn(move || look_until(some, |client| client.offset.is_some())))
            .collect();
        for thread in joining {
            // One that panics leaves clients that are not in, which is told below.
            let _ = thread.join();
        }
        let back = clock::now();
        is_joined.store(true, Relaxed);
        let sent = publishing.join();
        (sent.unwrap_or(0), back)
    });

    // Whoever is in has every event from then on, this one too.
    let mut caller = Caller::new(scene.nodes[0], HANDSHAKE);
    let last = send(&mut caller).map_or_else(|| failed("the last event was refused"), Ok)?;
    thread::scope(|scope| {
        for some in &mut clients {
            scope.spawn(move || look_until(some, |client| client.offset == Some(last)));
        }
    });
    let all = || clients.iter().flatten();
    let joined = all().filter(|client| client.offset.is_some()).count();
    let current = all().filter(|client| client.offset == Some(last) && client.mistakes == 0);
    Ok(Happened {
        from,
        back,
        figures: vec![
            Figure::at_least("joined", joined, CLIENTS),
            Figure::at_least("got every event", current.count(), CLIENTS),
            Figure::at_least("events meanwhile", sent, 1),
            Figure::within("all in after", (back - from) as f64 / 1e9, "s", 30.0),
        ],
        ..Happened::default()
    })
}

/// Connects all, in turn on the nodes; they are in no channel.
fn connect(scene: &Scene) -> Result<Vec<Vec<Client>>> {
    let connect = |number: usize| -> std::io::Result<Client> {
        let path = format!(
            "/v1/connect?token={}",
            Signer::new(SECRET).sign(FIRST + number)
        );
        let socket = WebSocket::open(scene.nodes[number % NODES], &path, HANDSHAKE)?;
        socket.set_nonblocking()?;
        Ok(Client {
            socket,
            offset: None,
            is_asked: false,
            mistakes: 0,
        })
    };
    thread::scope(|scope| {
        let connect = &connect;
        let connecting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let numbers = (thread..CLIENTS).step_by(THREADS);
                scope.spawn(move || numbers.map(connect).collect::<std::io::Result<Vec<_>>>())
            })
            .collect();
        let mut clients = Vec::new();
        for thread in connecting {
            let some = thread
                .join()
                .or_else(|_| failed("a thread of the test panicked"))?;
            clients.push(some.doing("cannot connect the clients of the storm")?);
        }
        Ok(clients)
    })
}

/// Publishes until all are in; answers how many events were taken.
fn publish(scene: &Scene, is_joined: &AtomicBool) -> usize {
    let mut caller = Caller::new(scene.nodes[0], HANDSHAKE);
    let mut sent = 0;
    while !is_joined.load(Relaxed) {
        sent += usize::from(send(&mut caller).is_some());
        thread::sleep(EVENTS);
    }
    sent
}

/// Publishes an event to the channel; answers its offset if it was taken.
fn send(caller: &mut Caller) -> Option<u64> {
    let body = format!(r#"{{"channel":"{CHANNEL}","event":"storm"}}"#);
    let (status, answer) = caller.post("/v1/send", &body).ok()?;
    if status != 200 {
        return None;
    }
    let receipt: Receipt = serde_json::from_slice(&answer).ok()?;
    receipt.publications.first()?.offset
}

/// Lets the clients join and read until `is_done` says so of each.
fn look_until(clients: &mut [Client], is_done: impl Fn(&Client) -> bool) {
    let until = Instant::now() + PATIENCE;
    // All ask before any of them reads, so that it is a storm. Elsewhere clients have cores of their own, and reading for
    // thousands takes longer than serving them. Without priorities the row measures the harness too.
    for client in clients.iter_mut() {
        client.ask();
    }
    let _ = priority::give_way();

    loop {
        for client in clients.iter_mut() {
            client.look();
            client.ask();
        }
        if clients.iter().all(&is_done) || Instant::now() > until {
            return;
        }
        thread::sleep(LOOK);
    }
}

impl Client {
    /// Asks to join, unless it has.
    fn ask(&mut self) {
        if !std::mem::replace(&mut self.is_asked, true) {
            let join = format!(r#"{{"op":"join","id":1,"channel":"{CHANNEL}"}}"#);
            // One that cannot be written to ends, and is not in then.
            let _ = self.socket.send(&join);
        }
    }

    fn look(&mut self) {
        while let Heard::Text(text) = self.socket.next() {
            let message: Message = serde_json::from_slice(&text).unwrap_or_default();
            if message.event.is_some() {
                let expected = self.offset.map(|offset| offset + 1);
                self.mistakes += usize::from(message.offset != expected);
                self.offset = message.offset;
            } else if message.op == "ack" {
                self.offset = message.offset;
            } else if message.op == "error" && message.id.is_some() {
                self.is_asked = false;
            }
        }
    }
}
