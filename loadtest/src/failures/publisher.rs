//! Publishes at a rate on one node, whatever becomes of it.

use std::{io, sync::atomic::Ordering::Relaxed, thread, time::Duration};

use serde::Deserialize;

use super::{
    plan::{CHANNELS, Scene, channel, stream},
    record::{Attempt, Fate},
    socket::Caller,
};
use crate::{clock, priority::First, stamp::Stamp};

/// How long an answer may take before its event's fate is unknown. Longer than a node waits for Redis.
const PATIENCE: Duration = Duration::from_secs(3);

/// The part of a receipt that says whether all have it.
#[derive(Deserialize)]
struct Receipt {
    missing_nodes: Vec<String>,
}

/// Publishes to all channels in turn until the scene says so; answers all attempts.
pub(super) fn publish(scene: &Scene, publisher: usize) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut caller = Caller::new(scene.nodes[publisher], PATIENCE);
    let _first = scene.manners.is_timed.then(First::ask);
    let period = 1_000_000_000 / u64::from(scene.manners.rate.max(1));
    let begun = clock::now();
    for n in 0.. {
        // What was due while an answer was awaited is left out: the checker needs no backlog.
        let due = begun + n * period;
        let now = clock::now();
        if now > due + period {
            continue;
        }
        thread::sleep(Duration::from_nanos(due.saturating_sub(now)));
        if scene.is_published.load(Relaxed) || scene.is_dead(publisher) {
            break;
        }
        let channel = attempts.len() % CHANNELS;
        let sequence = (attempts.len() / CHANNELS) as u32;
        attempts.push(attempt(scene, &mut caller, (publisher, channel, sequence)));
    }
    attempts
}

fn attempt(
    scene: &Scene,
    caller: &mut Caller,
    (publisher, number, sequence): (usize, usize, u32),
) -> Attempt {
    let sent = clock::now();
    let stamp = Stamp {
        round: scene.round,
        stream: stream(publisher, number),
        sequence,
        at: sent,
    };
    let body = format!(
        r#"{{"channel":"{}","event":"load","data":{}}}"#,
        channel(number),
        stamp.data(0)
    );
    let fate = match caller.post("/v1/send", &body) {
        Ok((200, answer)) => match serde_json::from_slice::<Receipt>(&answer) {
            Ok(receipt) if receipt.missing_nodes.is_empty() => Fate::Accepted,
            Ok(_) => Fate::Incomplete,
            Err(_) => Fate::Unknown,
        },
        Ok((503, _)) => Fate::Refused,
        // Nobody listens there, so nobody has it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Fate::Refused,
        Ok(_) | Err(_) => Fate::Unknown,
    };
    Attempt {
        publisher,
        channel: number,
        sequence,
        sent,
        answered: clock::now(),
        fate,
    }
}
