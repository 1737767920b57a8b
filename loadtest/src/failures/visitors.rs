//! Clients that come into the channels whose members are watched, and leave again, while something fails.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    plan::{NODES, SECRET, Scene, WATCHED, channel},
    present::Present,
    socket::{Heard, WebSocket},
};
use crate::{
    client::frames,
    clock,
    error::{Result, failed},
    token::Signer,
};

/// The number of the first visitor; beyond those of subscribers.
const FIRST: usize = 1000;

/// How long a handshake, an answer or an end may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a visitor stays.
const STAY: Duration = Duration::from_millis(100);

/// Lets clients come and go on each node while `act` runs; answers how many did, and what `act` answers.
pub(super) fn during<T>(
    scene: &Scene,
    present: &Present,
    act: impl FnOnce() -> T,
) -> Result<(usize, T)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let is_over = &is_over;
        let visiting: Vec<_> = (0..NODES)
            .map(|node| scope.spawn(move || visit_again(scene, present, node, is_over)))
            .collect();
        let acted = act();
        is_over.store(true, Relaxed);
        let mut visits = 0;
        for thread in visiting {
            visits += thread
                .join()
                .or_else(|_| failed("a thread of the test panicked"))?;
        }
        Ok((visits, acted))
    })
}

fn visit_again(scene: &Scene, present: &Present, node: usize, is_over: &AtomicBool) -> usize {
    let mut visits = 0;
    while !is_over.load(Relaxed) && !scene.is_over.load(Relaxed) {
        // One that does not get in has not come.
        if visit(scene, present, node).unwrap_or(false) {
            visits += 1;
        }
    }
    visits
}

/// Comes, joins, and leaves for good; true if it was a member of something.
fn visit(scene: &Scene, present: &Present, node: usize) -> io::Result<bool> {
    let token = Signer::new(SECRET).sign(FIRST + node);
    let path = format!("/v1/connect?token={token}");
    let mut socket = WebSocket::open(scene.nodes[node], &path, PATIENCE)?;
    let welcome = until(&mut socket, |message| message["op"] == "welcome")?;
    let id = welcome["connection"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    for at in 0..WATCHED {
        let join = json!({"op": "join", "id": at, "channel": channel(at)});
        socket.send(&join.to_string())?;
    }
    let (mut answers, mut joined) = (0, 0);
    let visited = until(&mut socket, |message| {
        answers += usize::from(message["id"].is_number());
        joined += usize::from(message["op"] == "ack");
        answers == WATCHED
    });
    thread::sleep(STAY);
    // It has gone from the moment on in which it says so: nobody waits for it to come back.
    present.visited(id, clock::now());
    let said = socket.send_raw(&frames::GOODBYE);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && socket.next() != Heard::Ended {}
    visited.and(said).map(|()| joined > 0)
}

/// Reads until `is_it` says so; an error if that never comes.
fn until(socket: &mut WebSocket, mut is_it: impl FnMut(&Value) -> bool) -> io::Result<Value> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match socket.next() {
            Heard::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            Heard::Nothing => {}
            Heard::Text(text) => {
                let message: Value = serde_json::from_slice(&text)?;
                if is_it(&message) {
                    return Ok(message);
                }
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
