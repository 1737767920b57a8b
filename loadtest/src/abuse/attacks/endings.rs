//! Ends: of many connections at the same time, of tokens, of clients that do not read, of the server itself.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::super::{
    arms::{Arms, Client, Herd, text, unix_now},
    attack::{Allowance, Attack, MIB},
};
use crate::{
    client::frames,
    error::{Doing, Error, Result},
};

/// What connections take: about 3 KiB each with a token, a channel and what is kept of one that may come back.
const CROWD: Allowance = Allowance {
    bytes: 96 * MIB,
    why: "4,000 connections with a token and a channel each, and what those are kept for that may come back",
};

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "rooms-of-two",
        does: "4,000 clients in channels of two that watch each other, of whom one of each pair is lost at the same moment",
        against: "how long telling the others may hold a shard",
        limits: &[("resume_window", "\"1s\"")],
        peak: CROWD,
        body: |arms| {
            let herd = Herd::of(arms.crowd(arms.size(4000, 60), |n| {
                format!("&channel=watched-{}", n / 2)
            })?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            herd.cut(|n| n % 2 == 0);
            arms.count("clients lost", herd.0.len() as u64 / 2);
            arms.wait();
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "mass-disconnect",
        does: "4,000 clients with profiles of 4 KiB, in five channels each, that are gone at the same moment",
        against: "memory that must return when its connections are gone",
        limits: &[("resume_window", "\"1s\"")],
        peak: Allowance {
            bytes: 192 * MIB,
            why: "4,000 connections, each with a profile of 4 KiB and five channels, and what is kept for those that may come back",
        },
        body: |arms| {
            let mut clients = arms.crowd(arms.size(4000, 60), |n| {
                channels("room-", (n..n + 5).map(|c| c % 500))
            })?;
            let update = format!(
                r#"{{"op":"update","id":1,"data":{{"p":"{}"}}}}"#,
                "p".repeat(4000)
            );
            for client in &mut clients {
                client.ask(1, &update).doing("a profile is not taken")?;
            }
            let herd = Herd::of(clients)?;
            arms.ready()?;
            herd.cut(|_| true);
            arms.wait();
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "tokens-end-together",
        does: "4,000 clients whose tokens end in the same second",
        against: "how long ending them may hold a shard",
        peak: CROWD,
        body: |arms| {
            let clients = arms.crowd(arms.size(4000, 60), |n| {
                format!("&token={}", arms.token(&format!("u{n}"), "", 3600))
            })?;
            let herd = Herd::of(clients)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let ttl = if arms.duration > Duration::from_secs(2) {
                2
            } else {
                1
            };
            let exp = unix_now() + ttl;
            herd.write_each(|n| {
                let left = exp.saturating_sub(unix_now());
                let token = arms.token(&format!("u{n}"), "", left.max(1));
                text(&format!(r#"{{"op":"auth","token":"{token}"}}"#))
            });
            arms.wait();
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "unanswered-goodbyes",
        does: "SIGTERM, with 4,000 clients that do not answer and do not go",
        against: "the time that leaving may take, and what it costs in that time",
        drains: true,
        keeps_out: Some("a server that leaves takes no new clients"),
        peak: CROWD,
        body: |arms| {
            let silent = arms.crowd(arms.size(4000, 60), |_| String::new())?;
            arms.ready()?;
            signal(arms, Signal::TERM)?;
            arms.wait();
            drop(silent);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "stalled-and-sent-away",
        does: "clients that do not read, sent away near the bound of refused bytes, beside one that reads later",
        against: "refused_bytes, of which those that are being closed have a part",
        limits: &[("refused_bytes", "\"8MiB\""), ("outbox_bytes", "\"2MiB\"")],
        peak: Allowance {
            bytes: 72 * MIB,
            why: "refused_bytes (8 MiB), and events under way",
        },
        body: stalled_and_sent_away,
        ..Attack::PLAIN
    },
    Attack {
        name: "leave-during-a-mass-drop",
        does: "3,000 members of a channel that are lost at the same moment, and calls that take them out of it by a heavy filter",
        against: "how long the list of those that may come back is held",
        peak: CROWD,
        body: |arms| {
            let herd =
                Herd::of(arms.crowd(arms.size(3000, 60), |_| "&channel=watched-drop".to_owned())?)?;
            arms.ready()?;
            herd.cut(|_| true);
            let filter = "params.l.exists(a, params.l.exists(b, a + b < 0))";
            let l = super::filters::list("1", 60);
            let body =
                format!(r#"{{"channel":"watched-drop","filter":"{filter}","params":{{"l":{l}}}}}"#);
            arms.post_in_turn(3, "/v1/leave", &[body]);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "slow-readers",
        does: "200 clients that read one byte at a time, while events of 4 KiB go to their channel",
        against: "outbox_bytes and refused_bytes (32 MiB)",
        limits: &[("refused_bytes", "\"32MiB\"")],
        peak: Allowance {
            bytes: 112 * MIB,
            why: "refused_bytes (32 MiB), and events under way",
        },
        body: |arms| {
            let clients = arms.crowd(arms.size(200, 10), |_| "&channel=slow".to_owned())?;
            let herd = Herd::of(clients)?;
            arms.ready()?;
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !arms.is_over() {
                        for mut socket in herd.0.iter() {
                            let _ = socket.read(&mut [0; 1]);
                        }
                        thread::sleep(Duration::from_millis(5));
                    }
                });
                let body = format!(
                    r#"{{"channel":"slow","event":"e","data":"{}"}}"#,
                    "x".repeat(4000)
                );
                arms.post_in_turn(2, "/v1/send", &[body]);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "on-after-the-goodbye",
        does: "clients that send a close frame, and go on sending as if they had not",
        against: "what is read of a client that has left",
        body: |arms| {
            arms.ready()?;
            let block = text(r#"{"op":"broadcast","event":"e","data":1}"#).repeat(1000);
            arms.storm(4, |_| {
                let Ok(client) = arms.client("") else { return };
                let (mut socket, _) = client.socket.into_parts();
                let _ = socket.set_write_timeout(Some(Duration::from_millis(300)));
                let _ = socket.write_all(&frames::GOODBYE);
                for _ in 0..50 {
                    if arms.is_over() || socket.write_all(&block).is_err() {
                        break;
                    }
                    arms.count("blocks behind a close frame", 1);
                }
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "disconnects-in-a-loop",
        does: "calls that close everyone of an app, with another code each time, while clients come back",
        against: "what a close code leaves behind in the numbers, and what closing many costs",
        body: |arms| {
            arms.ready()?;
            let codes = std::sync::atomic::AtomicU64::new(0);
            let caller = std::sync::Mutex::new(arms.caller());
            arms.storm(4, |thread| {
                if thread > 0 {
                    // Clients of the user whom the calls mean, and not the witness.
                    let token = arms.token("unwanted", "", 3600);
                    let _ = arms.client(&format!("&token={token}"));
                    return;
                }
                let Ok(mut caller) = caller.lock() else {
                    return;
                };
                let code = 3000 + codes.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2000;
                let body = format!(r#"{{"to":{{"users":["unwanted"]}},"code":{code}}}"#);
                arms.post(&mut caller, "/v1/disconnect", &body);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// The query that joins these channels.
pub(super) fn channels(prefix: &str, numbers: impl Iterator<Item = usize>) -> String {
    numbers.fold(String::new(), |query, n| {
        format!("{query}&channel={prefix}{n}")
    })
}

/// Sends the server a signal.
pub(super) fn signal(arms: &Arms, signal: Signal) -> Result<()> {
    let Some(pid) = Pid::from_raw(arms.pid as i32) else {
        return Err(Error::Failed("the server has no process".to_owned()));
    };
    kill_process(pid, signal).doing("cannot signal the server")
}

/// Fills sockets that nobody reads up to nearly the bound, sends those clients away, and goes on with others. A client that has little
/// waiting must not be closed for what those hold that are being closed.
fn stalled_and_sent_away(arms: &Arms) -> Result<()> {
    let mut caller = arms.caller();
    let user = |name: &str| format!("&token={}", arms.token(name, "", 3600));
    let bystander = arms
        .client(&user("bystander"))
        .doing("a client cannot connect")?;
    let stalled = arms.crowd(20, |n| user(&format!("stalled-{n}")))?;
    let late = arms.crowd(4, |n| user(&format!("late-{n}")))?;
    arms.ready()?;
    // More than the kernel takes, and far less than one client may have waiting.
    for n in 0..BYSTANDER {
        publish(arms, &mut caller, "bystander", n);
    }

    for round in 0..30 {
        for n in 0..stalled.len() {
            publish(arms, &mut caller, &format!("stalled-{n}"), round);
        }
        if refused_bytes(arms) > REFUSED_BYTES * 8 / 10 {
            break;
        }
    }
    let users: Vec<_> = (0..stalled.len())
        .map(|n| format!("\"stalled-{n}\""))
        .collect();
    let body = format!(r#"{{"to":{{"users":[{}]}}}}"#, users.join(","));
    arms.post(&mut caller, "/v1/disconnect", &body);
    // They neither read nor go. What comes now must not be at the expense of those that stay.
    for round in 0..12 {
        for n in 0..late.len() {
            publish(arms, &mut caller, &format!("late-{n}"), round);
        }
    }
    arms.count("bytes refused", refused_bytes(arms));
    if let Err(error) = has_all(bystander, BYSTANDER) {
        arms.fault(format!("a client that had little waiting {error}"));
    }
    drop((stalled, late));
    arms.wait();
    Ok(())
}

/// Events of 60 KB that wait for the client that is to be spared.
const BYSTANDER: usize = 12;

/// The bound of the attack on refused bytes.
const REFUSED_BYTES: u64 = 8 * MIB;

/// What sockets have refused, as the server counts it.
fn refused_bytes(arms: &Arms) -> u64 {
    let metrics = crate::socket::get(arms.admin, "/metrics", Duration::from_secs(2));
    let text = metrics.map_or_else(
        |_| String::new(),
        |(_, body)| String::from_utf8_lossy(&body).into_owned(),
    );
    crate::inspect::sum(&text, "fanfare_refused_bytes", "").unwrap_or(0)
}

fn publish(arms: &Arms, caller: &mut crate::socket::Caller, user: &str, number: usize) {
    let data = "x".repeat(60_000);
    let body = format!(r#"{{"user":"{user}","event":"e-{number}","data":"{data}","store":false}}"#);
    arms.post(caller, "/v1/publish", &body);
}

/// Whether a client that begins to read now gets so many events.
fn has_all(client: Client, count: usize) -> std::result::Result<(), String> {
    let mut socket = client.socket;
    let until = Instant::now() + Duration::from_secs(5);
    let mut seen = 0;
    while seen < count {
        match socket.next() {
            crate::socket::Heard::Text(text) if text.starts_with(br#"{"event":"e-"#) => seen += 1,
            crate::socket::Heard::Ended => {
                return Err(format!("was closed after {seen} of {count} events"));
            }
            _ if Instant::now() > until => return Err(format!("got {seen} of {count} events")),
            _ => {}
        }
    }
    Ok(())
}
