//! What the server keeps: histories, stored events, the numbering of channels.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::super::{
    arms::{Arms, Herd, text},
    attack::{Allowance, Attack, MIB},
};
use crate::error::{Doing, Result};

/// Channels with no more than their numbering, 100,000 of them at half a KiB, and their names.
const QUIET: Allowance = Allowance {
    bytes: 128 * MIB,
    why: "the numbering of 100,000 quiet channels, about half a KiB each, and requests under way",
};

/// What is kept, at its bound.
const HISTORY: Allowance = Allowance {
    bytes: 112 * MIB,
    why: "history_bytes (64 MiB), which count all that is kept, and requests under way",
};

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "long-names-in-except",
        does: "events to channels with history that leave out users with names of up to 60,000 bytes",
        against: "history_bytes, which must count the names that are kept with an event",
        peak: HISTORY,
        after: HISTORY,
        body: |arms| {
            let clients = arms.crowd(arms.size(20, 3), |n| {
                format!("&token={}", arms.token(&format!("u{n}"), "", 3600))
            })?;
            let herd = Herd::of(clients)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let names = |n: u64, bytes: usize| format!("{n}-{}", "n".repeat(bytes));
            let numbers = AtomicU64::new(0);
            let callers: Vec<_> = (0..2).map(|_| Mutex::new(arms.caller())).collect();
            arms.storm(3, |thread| {
                let n = numbers.fetch_add(1, Relaxed);
                let Some(caller) = callers.get(thread) else {
                    let name = names(n, 60_000);
                    herd.write_each(|client| {
                        text(&format!(
                            r#"{{"op":"send","channel":"kept-{n}-{client}","event":"e","except":{{"users":["{name}"]}}}}"#
                        ))
                    });
                    thread::sleep(Duration::from_millis(25));
                    return;
                };
                let (Ok(mut caller), name) = (caller.lock(), names(n, 200_000)) else { return };
                let body = format!(
                    r#"{{"channel":"kept-h-{n}","event":"e","except":{{"devices":["{name}"]}}}}"#
                );
                arms.post(&mut caller, "/v1/send", &body);
            });
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "many-names-in-except",
        does: "events to channels with history that leave out 10,000 users each",
        against: "history_bytes, which must count the names that are kept with an event",
        peak: HISTORY,
        after: HISTORY,
        body: |arms| {
            arms.ready()?;
            let names: Vec<_> = (0..10_000).map(|n| format!("\"nobody-{n}\"")).collect();
            let names = names.join(",");
            let bodies: Vec<_> = (0..50)
                .map(|n| {
                    format!(
                        r#"{{"channel":"kept-{n}","event":"e","except":{{"users":[{names}]}}}}"#
                    )
                })
                .collect();
            arms.post_in_turn(3, "/v1/send", &bodies);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "stored-for-nobody",
        does: "events of 160,000 bytes, each to be stored for 10,000 users who do not exist",
        against: "what one publication may store, and history_bytes",
        peak: HISTORY,
        after: HISTORY,
        body: |arms| {
            arms.ready()?;
            let users: Vec<_> = (10_000..20_000).map(|n| format!("\"{n}\"")).collect();
            let (users, data) = (users.join(","), "x".repeat(160_000));
            let body = format!(r#"{{"users":[{users}],"event":"e","data":"{data}"}}"#);
            arms.post_in_turn(2, "/v1/publish", &[body]);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "stored-and-never-confirmed",
        does: "events stored for 2,000 users in turn, of whom 200 are connected and never answer a ping",
        against: "history_bytes, and the bounds of each user",
        peak: Allowance {
            bytes: 144 * MIB,
            why: "history_bytes (64 MiB), and what the sockets of 200 clients that do not read have refused",
        },
        after: HISTORY,
        body: |arms| {
            let silent = arms.crowd(arms.size(200, 10), |n| {
                format!("&token={}", arms.token(&format!("s{n}"), "", 3600))
            })?;
            arms.ready()?;
            let data = "x".repeat(4000);
            let bodies: Vec<_> = (0..2000)
                .map(|n| format!(r#"{{"user":"s{n}","event":"e","data":"{data}"}}"#))
                .collect();
            arms.post_in_turn(3, "/v1/publish", &bodies);
            drop(silent);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "quiet-channels",
        does: "110,000 channels that keep an event for a second each, beside one with a member",
        against: "the numbering of a channel that has members, which must not begin again",
        peak: QUIET,
        after: QUIET,
        body: quiet_channels,
        ..Attack::PLAIN
    },
    Attack {
        name: "replays-in-a-loop",
        does: "50 clients that join a channel of 1,000 events again and again, each time from its beginning",
        against: "what a replay may cost, and what may wait for one client",
        peak: Allowance {
            bytes: 112 * MIB,
            why: "one replay at a time for each of 50 clients, whose frames are shared: 1 MiB of frames, and what sockets refused",
        },
        body: |arms| {
            let mut caller = arms.caller();
            let data = "x".repeat(1000);
            let item =
                format!(r#"{{"call":"send","channel":"kept-replay","event":"e","data":"{data}"}}"#);
            let body = format!(r#"{{"items":[{}]}}"#, vec![item; 100].join(","));
            for _ in 0..arms.size(10, 1) {
                arms.post(&mut caller, "/v1/batch", &body);
            }
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            while !arms.is_over() {
                herd.write_each(|_| {
                    text(r#"{"op":"join","channel":"kept-replay","since":{"offset":0}}"#)
                });
                thread::sleep(Duration::from_millis(20));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "channel-names",
        does: "50 clients that join and leave channels with new names of 200 bytes, as often as they may",
        against: "what an empty channel may leave behind",
        body: |arms| {
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let mut round = 0u64;
            while !arms.is_over() {
                round += 1;
                herd.write_each(|client| {
                    let name = format!("n-{client}-{round}-{}", "c".repeat(170));
                    let mut bytes = text(&format!(r#"{{"op":"join","channel":"{name}"}}"#));
                    bytes.extend(text(&format!(r#"{{"op":"leave","channel":"{name}"}}"#)));
                    bytes
                });
                thread::sleep(Duration::from_millis(40));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// Makes the server forget the numbering of channels, and looks whether it forgets one that somebody is in.
fn quiet_channels(arms: &Arms) -> Result<()> {
    let mut caller = arms.caller();
    let mut member = arms
        .client("")
        .doing("the member of the channel cannot connect")?;
    let join = r#"{"op":"join","id":1,"channel":"brief-member"}"#;
    member
        .ask(1, join)
        .doing("the member cannot join its channel")?;
    for _ in 0..3 {
        send_numbered(arms, &mut caller);
    }
    // What is kept of it must be gone, so that only the numbering is left.
    thread::sleep(Duration::from_millis(2500));
    arms.ready()?;

    let end = Instant::now() + arms.duration / 2;
    let numbers = AtomicU64::new(0);
    let bodies = arms.size(1100, 20) as u64;
    let callers: Vec<_> = (0..3).map(|_| Mutex::new(arms.caller())).collect();
    thread::scope(|scope| {
        for caller in &callers {
            let numbers = &numbers;
            scope.spawn(move || {
                let Ok(mut caller) = caller.lock() else {
                    return;
                };
                while Instant::now() < end {
                    let n = numbers.fetch_add(1, Relaxed);
                    if n >= bodies {
                        return;
                    }
                    let names: Vec<_> = (0..100).map(|at| format!("\"brief-{n}-{at}\"")).collect();
                    let body = format!(r#"{{"event":"e","channels":[{}]}}"#, names.join(","));
                    arms.post(&mut caller, "/v1/send", &body);
                }
            });
        }
    });
    arms.wait();
    // The last of them end a second after they were sent; then the oldest numbering is forgotten.
    thread::sleep(Duration::from_secs(2));
    if let Some(offset) = send_numbered(arms, &mut caller)
        && offset != 4
    {
        arms.fault(format!(
            "the numbering of a channel with a member went on with {offset}, not 4"
        ));
    }
    drop(member);
    Ok(())
}

/// Sends an event to the channel that is watched; returns its number.
fn send_numbered(arms: &Arms, caller: &mut crate::socket::Caller) -> Option<u64> {
    let body = r#"{"channel":"brief-member","event":"e"}"#;
    let answer = arms.post(caller, "/v1/send", body)?;
    let answer: serde_json::Value = serde_json::from_slice(&answer).ok()?;
    answer["publications"][0]["offset"].as_u64()
}
