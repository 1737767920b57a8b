//! Whether all is well after an attack: a newcomer gets its event, the counters balance, the server is ready, and leaves when it is
//! asked to.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::victim::{ATTACKED, DRAIN, Metrics, Victim, key};
use crate::socket::{Caller, Heard, WebSocket};

/// How long anything may take now that nobody attacks.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the counters may take to balance: longer than a close handshake that the client does not finish.
const BALANCE: Duration = Duration::from_secs(10);

/// How much longer than its drain a server may take to end.
const LEAVE: Duration = Duration::from_secs(4);

/// What is not well.
pub(super) fn examine(victim: &mut Victim) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(status) = victim.ended() {
        return vec![format!("the server has ended: {status}")];
    }
    if let Err(error) = event_arrives(victim) {
        wrong.push(format!("a new client gets no event: {error}"));
    }
    if let Err(said) = victim.readiness() {
        wrong.push(said);
    }
    if let Some(unbalanced) = await_balance(victim) {
        wrong.push(unbalanced);
    }
    wrong
}

/// Asks the server to leave; returns what is wrong with how it does.
pub(super) fn leaves(victim: &mut Victim) -> Option<String> {
    victim.terminate();
    let asked = Instant::now();
    match victim.ends_within(DRAIN + LEAVE) {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("the server ended by {status} when asked to leave")),
        None => Some(format!(
            "the server has not left {:.0} s after SIGTERM",
            asked.elapsed().as_secs_f64()
        )),
    }
}

/// A new client connects and is sent an event.
fn event_arrives(victim: &Victim) -> std::io::Result<()> {
    let path = format!("/v1/connect?app={ATTACKED}&channel=afterwards");
    let mut socket = WebSocket::open(victim.address, &path, PATIENCE)?;
    let hear = |socket: &mut WebSocket, wanted: &str| {
        let until = Instant::now() + PATIENCE;
        loop {
            match socket.next() {
                Heard::Text(text) if String::from_utf8_lossy(&text).contains(wanted) => {
                    return Ok(());
                }
                Heard::Ended => return Err(std::io::Error::other("it was closed")),
                _ if Instant::now() > until => {
                    return Err(std::io::Error::other(format!(
                        "no {wanted} within {PATIENCE:?}"
                    )));
                }
                _ => {}
            }
        }
    };
    hear(&mut socket, "\"joined\"")?;

    let mut caller = Caller::with_key(victim.address, PATIENCE, &key(ATTACKED));
    let body = r#"{"channel":"afterwards","event":"afterwards","data":1}"#;
    let (status, answer) = caller.post("/v1/send", body)?;
    if status != 200 {
        let answer = String::from_utf8_lossy(&answer);
        return Err(std::io::Error::other(format!("{status} {answer}")));
    }
    hear(&mut socket, "\"afterwards\"")?;
    socket.send_raw(&crate::client::frames::GOODBYE)
}

/// What does not balance, if it still does not after a while.
fn await_balance(victim: &Victim) -> Option<String> {
    let until = Instant::now() + BALANCE;
    loop {
        let unbalanced = match victim.metrics() {
            Ok(metrics) => unbalanced(&metrics),
            Err(error) => Some(error.to_string()),
        };
        if unbalanced.is_none() || Instant::now() > until {
            return unbalanced;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the counters of a server that nobody is connected to do not agree about.
fn unbalanced(metrics: &Metrics) -> Option<String> {
    let count = |name| metrics.sum(name);
    let open = count("fanfare_connections");
    let (came, went) = (
        count("fanfare_connected_total"),
        count("fanfare_closes_total"),
    );
    if open > 0 {
        return Some(format!("{open} connections are counted, and none is open"));
    }
    // A client that is refused before its welcome is closed without ever having been connected.
    if came > went {
        return Some(format!("{came} connections were opened, and {went} closed"));
    }
    let still = [
        "fanfare_memberships",
        "fanfare_blocked_connections",
        "fanfare_refused_bytes",
        "fanfare_bulk_in_flight",
        "fanfare_small_in_flight",
    ];
    still
        .into_iter()
        .find(|&name| count(name) > 0)
        .map(|name| format!("{name} is {}", count(name)))
}
