//! Clients that were let in, and do what they may as often and as largely as they may.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::super::{
    arms::{Arms, Herd, text},
    attack::{Allowance, Attack, MIB},
};
use crate::{
    client::frames::{PING, PONG, raw},
    error::{Doing, Result},
};

/// A frame that a fragment begins with, and one that goes on.
const TEXT_FIRST: u8 = 0x01;
const GOES_ON: u8 = 0x00;

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "members-in-bursts",
        does: "50 clients that ask for pages of 1,000 members, 100 times in one write, every two seconds",
        against: "what may be built for one client before its socket has refused anything",
        peak: Allowance {
            bytes: 128 * MIB,
            why: "outbox_bytes (1 MiB) for each of 50 clients, the 1,000 members and their profiles",
        },
        body: |arms| {
            let room = big_room(arms)?;
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let one = text(r#"{"op":"members","channel":"big","id":1,"limit":1000}"#);
            burst(arms, &herd, &one.repeat(100), Duration::from_secs(2));
            drop((room, reading));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "joins-with-members",
        does: "50 clients that join a channel of 1,000 with its list of members, and leave, 50 times in one write",
        against: "what may be built for one client before its socket has refused anything",
        peak: Allowance {
            bytes: 128 * MIB,
            why: "outbox_bytes (1 MiB) for each of 50 clients, the 1,000 members and their profiles",
        },
        body: |arms| {
            let room = big_room(arms)?;
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let mut one = text(r#"{"op":"join","channel":"big","id":1,"members":true}"#);
            one.extend(text(r#"{"op":"leave","channel":"big"}"#));
            burst(arms, &herd, &one.repeat(50), Duration::from_secs(2));
            drop((room, reading));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "pong-flood",
        does: "pongs that nobody asked for, as fast as four sockets take them",
        against: "the rate of messages, and how long one client may hold a shard",
        body: |arms| {
            arms.ready()?;
            flood(arms, &raw(0x80 | PONG, b"").repeat(10_000), b"");
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "confirmation-flood",
        does: "pongs that confirm stored events which do not exist, as fast as four sockets take them",
        against: "the rate of messages, and how often a shard is locked",
        body: |arms| {
            arms.ready()?;
            let pong = raw(0x80 | PONG, b"stored:\0\0\0\0\0\0\0\x01");
            flood(arms, &pong.repeat(3000), b"");
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "ping-flood",
        does: "pings with 125 bytes, as fast as four sockets take them, whose answers nobody reads",
        against: "the rate of messages, and what may wait for one client",
        body: |arms| {
            arms.ready()?;
            flood(arms, &raw(0x80 | PING, &[b'p'; 125]).repeat(500), b"");
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "message-flood",
        does: "messages over the rate, as fast as four sockets take them, on connection after connection",
        against: "the rate of messages, and what refusing one costs",
        body: |arms| {
            arms.ready()?;
            flood(arms, &text(r#"{"op":"ping","id":1}"#).repeat(2000), b"");
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "nonsense",
        does: "texts that are not JSON, bytes that mean nothing, and operations that there are not",
        against: "what understanding a message may cost",
        body: |arms| {
            arms.ready()?;
            let mut block = text(&format!(r#"{{"op":"{}"}}"#, "x".repeat(30_000)));
            block.extend(raw(0x82, &[7; 30_000]));
            block.extend(text(&"[".repeat(60_000)));
            block.extend(text("ping"));
            flood(arms, &block, b"");
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "empty-fragments",
        does: "messages in fragments without a byte, as fast as four sockets take them",
        against: "the number of fragments that a message may have",
        body: |arms| {
            arms.ready()?;
            flood(arms, &raw(GOES_ON, b"").repeat(8000), &raw(TEXT_FIRST, b""));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "unfinished-messages",
        does: "2,000 clients that each send all but the last byte of a message of 64 KiB",
        against: "what may wait for the end of a message, and for how long",
        peak: Allowance {
            bytes: 176 * MIB,
            why: "message_bytes (64 KiB) for each of 2,000 clients, and their connections",
        },
        body: |arms| {
            let clients = arms.crowd(arms.size(2000, 40), |_| String::new())?;
            arms.ready()?;
            let frame = raw(0x81, &[b'x'; 65_000]);
            let mut held = Vec::new();
            for client in clients {
                let (mut socket, _) = client.socket.into_parts();
                if socket.write_all(&frame[..frame.len() - 1]).is_ok() {
                    arms.count("messages without an end", 1);
                }
                held.push(socket);
            }
            arms.wait();
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "slow-frames",
        does: "500 clients that send their messages a byte at a time",
        against: "what a piece of a message may cost",
        body: |arms| {
            let herd = Herd::of(arms.crowd(arms.size(500, 20), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let message = text(r#"{"op":"send","channel":"nobody","event":"slow","data":"grüße"}"#);
            let mut at = 0;
            while !arms.is_over() {
                let byte = message[at % message.len()];
                herd.write_each(|_| vec![byte]);
                at += 1;
                thread::sleep(Duration::from_millis(10));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "reconnecting-user",
        does: "a user who sends 100 events in one write, and comes back on a new connection for the next 100",
        against: "messages_per_second and message_burst, which are the user's and not the connection's",
        body: reconnecting_user,
        ..Attack::PLAIN
    },
    Attack {
        name: "updates-in-a-hundred-channels",
        does: "20 clients in 100 channels that replace their profiles 50 times a second, watched by 20 others",
        against: "the deliveries that one message may cause",
        peak: Allowance {
            bytes: 96 * MIB,
            why: "outbox_bytes (1 MiB) for each of 40 clients",
        },
        body: |arms| {
            let clients = arms.size(40, 6);
            let channels = super::endings::channels("watched-", 0..100);
            let herd = Herd::of(arms.crowd(clients, |_| channels.clone())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let profile = "p".repeat(150);
            let mut round = 0;
            while !arms.is_over() {
                round += 1;
                herd.write_each(|client| {
                    if client % 2 == 0 {
                        return Vec::new();
                    }
                    text(&format!(
                        r#"{{"op":"update","data":{{"round":{round},"p":"{profile}"}}}}"#
                    ))
                });
                thread::sleep(Duration::from_millis(20));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "flip-flop",
        does: "20 clients that join and leave a channel which 2,000 others watch, as often as they may",
        against: "presence_notices, and what telling many may cost",
        body: |arms| {
            let watchers =
                Herd::of(arms.crowd(arms.size(2000, 40), |_| "&channel=watched-flip".to_owned())?)?;
            let reading = watchers.read_on()?;
            let herd = Herd::of(arms.crowd(arms.size(20, 4), |_| String::new())?)?;
            let also_reading = herd.read_on()?;
            arms.ready()?;
            let mut one = text(r#"{"op":"join","channel":"watched-flip"}"#);
            one.extend(text(r#"{"op":"leave","channel":"watched-flip"}"#));
            burst(arms, &herd, &one, Duration::from_millis(40));
            drop((reading, also_reading));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "clients-that-flood-a-channel",
        does: "50 clients that each send 50 events a second, of 1 KiB, to a channel of 500",
        against: "admission, which clients' events pass too",
        peak: Allowance {
            bytes: 192 * MIB,
            why: "admitted_bytes (64 MiB) of events, and what 500 sockets refused",
        },
        body: |arms| {
            let everyone =
                Herd::of(arms.crowd(arms.size(500, 20), |_| "&channel=flood".to_owned())?)?;
            let reading = everyone.read_on()?;
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |_| "&echo=false".to_owned())?)?;
            let also_reading = herd.read_on()?;
            arms.ready()?;
            let data = "x".repeat(1000);
            let event = text(&format!(
                r#"{{"op":"send","channel":"flood","event":"e","data":"{data}"}}"#
            ));
            burst(arms, &herd, &event, Duration::from_millis(20));
            drop((reading, also_reading));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "heavy-profiles",
        does: "1,000 clients with profiles of 8 KiB of JSON that take many times as much in memory",
        against: "profile_bytes, which is to bound what a profile takes",
        peak: Allowance {
            bytes: 96 * MIB,
            why: "1,000 profiles of at most four times profile_bytes (8 KiB) each, and their connections",
        },
        body: |arms| {
            let empty = vec!["{}"; 2700].join(",");
            profiles(arms, &format!(r#"{{"a":[{empty}]}}"#))
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "indexed-tags",
        does: "1,000 clients with 1,000 tags each in a profile that has an index, all of them different",
        against: "what one connection may take in an index",
        peak: Allowance {
            bytes: 96 * MIB,
            why: "1,000 profiles of at most four times profile_bytes (8 KiB) each, and 100 entries of an index each",
        },
        body: |arms| {
            // Numbers of each client's own, so that no two share an entry.
            let clients = arms.crowd(arms.size(1000, 20), |_| String::new())?;
            let herd = Herd::of(clients)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let mut round = 0u64;
            while !arms.is_over() {
                round += 1;
                herd.write_each(|client| {
                    let first = (client as u64 * 1000) + round;
                    let tags: Vec<_> = (first..first + 1000).map(|tag| tag.to_string()).collect();
                    text(&format!(
                        r#"{{"op":"update","data":{{"tags":[{}]}}}}"#,
                        tags.join(",")
                    ))
                });
                thread::sleep(Duration::from_millis(500));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "bytes-to-a-slow-room",
        does: "binary events of 60,000 bytes to a channel with 200 members who do not read",
        against: "refused_bytes, and outbox_bytes of each",
        limits: &[("refused_bytes", "\"32MiB\"")],
        peak: Allowance {
            bytes: 112 * MIB,
            why: "refused_bytes (32 MiB), and events under way",
        },
        body: |arms| {
            let room = arms.crowd(arms.size(200, 10), |_| "&channel=slow".to_owned())?;
            let herd = Herd::of(arms.crowd(4, |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let head = br#"{"op":"send","channel":"slow","event":"e"}"#;
            let mut message = vec![1, 0, head.len() as u8];
            message.extend(head);
            message.extend([0xff; 60_000]);
            burst(arms, &herd, &raw(0x82, &message), Duration::from_millis(20));
            drop((room, reading));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "resumes-of-others",
        does: "clients that ask for the place of 500 others, whose connections they know, again and again",
        against: "who may take a connection's place",
        body: resumes_of_others,
        ..Attack::PLAIN
    },
    Attack {
        name: "renewals",
        does: "50 clients that renew their tokens 50 times a second, with other claims each time",
        against: "what a renewal may cost, and what claims leave behind in an index",
        body: |arms| {
            let herd = Herd::of(arms.crowd(arms.size(50, 5), |n| {
                format!("&token={}", arms.token(&format!("u{n}"), "", 3600))
            })?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let mut round = 0;
            while !arms.is_over() {
                round += 1;
                herd.write_each(|n| {
                    let claims = format!(r#","tenant":"t-{n}-{round}","k{round}":1"#);
                    let token = arms.token(&format!("u{n}"), &claims, 3600);
                    text(&format!(r#"{{"op":"auth","token":"{token}"}}"#))
                });
                thread::sleep(Duration::from_millis(20));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// A channel of 1,000 members with profiles of 250 bytes.
fn big_room(arms: &Arms) -> Result<Herd> {
    let mut members = arms.crowd(arms.size(1000, 50), |_| "&channel=big".to_owned())?;
    let update = format!(
        r#"{{"op":"update","id":7,"data":{{"p":"{}"}}}}"#,
        "p".repeat(240)
    );
    for member in &mut members {
        member.ask(7, &update).doing("a profile is not taken")?;
    }
    Herd::of(members)
}

/// Writes `bytes` to each of them, once in `period`.
fn burst(arms: &Arms, herd: &Herd, bytes: &[u8], period: Duration) {
    while !arms.is_over() {
        let began = Instant::now();
        herd.write_each(|_| bytes.to_vec());
        arms.count("writes", herd.0.len() as u64);
        let next = (began + period).min(arms.until());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Writes `block` to four connections for as long as each takes it, and then to the next one; `first` goes before it.
fn flood(arms: &Arms, block: &[u8], first: &[u8]) {
    arms.storm(4, |_| {
        let Ok(client) = arms.client("") else {
            thread::sleep(Duration::from_millis(50));
            return;
        };
        arms.count("connections", 1);
        let (mut socket, _) = client.socket.into_parts();
        let _ = socket.set_write_timeout(Some(Duration::from_millis(500)));
        let _ = socket.write_all(first);
        while !arms.is_over() {
            if socket.write_all(block).is_err() {
                break;
            }
            arms.count("blocks", 1);
        }
    });
}

/// Gives 1,000 clients this profile, and keeps them.
fn profiles(arms: &Arms, profile: &str) -> Result<()> {
    let mut clients = arms.crowd(arms.size(1000, 20), |_| String::new())?;
    arms.ready()?;
    let update = format!(r#"{{"op":"update","id":1,"data":{profile}}}"#);
    for client in &mut clients {
        if let Ok(answer) = client.ask(1, &update) {
            let what = answer["code"].as_str().unwrap_or("taken");
            arms.count(format!("profiles: {what}"), 1);
        }
    }
    arms.wait();
    Ok(())
}

fn reconnecting_user(arms: &Arms) -> Result<()> {
    arms.ready()?;
    let began = Instant::now();
    let accepted = AtomicU64::new(0);
    let message = r#"{"op":"send","channel":"nobody","event":"e","id":1}"#;
    let block = text(message).repeat(100);
    arms.storm(4, |_| {
        let token = arms.token("restless", "", 3600);
        let Ok(client) = arms.client(&format!("&token={token}")) else {
            thread::sleep(Duration::from_millis(20));
            return;
        };
        let (mut socket, _) = client.socket.into_parts();
        let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
        if socket.write_all(&block).is_err() {
            return;
        }
        let (mut heard, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        // A hundred answers, or as many as come.
        while count(&heard, b"\"id\":1") < 100 {
            match socket.read(&mut buffer) {
                Ok(n @ 1..) => heard.extend_from_slice(&buffer[..n]),
                _ => break,
            }
        }
        accepted.fetch_add(count(&heard, b"\"op\":\"ack\"") as u64, Relaxed);
        super::super::arms::reset(&socket);
    });

    // The defaults: 50 a second, and 100 at once; half as much again is not the clock's fault.
    let accepted = accepted.into_inner();
    let allowed = (100.0 + 50.0 * began.elapsed().as_secs_f64()) * 1.5;
    arms.count("messages accepted of one user", accepted);
    if accepted as f64 > allowed {
        arms.fault(format!(
            "{accepted} messages of one user were accepted, where the rate allows {allowed:.0}"
        ));
    }
    Ok(())
}

/// How often `wanted` is in `bytes`.
fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, wanted).count()
}

fn resumes_of_others(arms: &Arms) -> Result<()> {
    let others = arms.crowd(arms.size(500, 20), |n| {
        let token = arms.token(&format!("u{n}"), "", 3600);
        format!("&device=d{n}&channel=private-{n}&token={token}")
    })?;
    arms.ready()?;
    let turn = AtomicU64::new(0);
    arms.storm(4, |_| {
        let n = turn.fetch_add(1, Relaxed) as usize % others.len();
        let token = arms.token("thief", "", 3600);
        let query = format!("&device=d{n}&resume={}&token={token}", others[n].id);
        let Ok(client) = arms.client(&query) else {
            return;
        };
        arms.count("attempts", 1);
        client.reset();
    });

    let mut lost = 0;
    for mut other in others {
        lost += u64::from(other.ask(9, r#"{"op":"ping","id":9}"#).is_err());
    }
    if lost > 0 {
        arms.fault(format!("{lost} clients lost their place to another user"));
    }
    Ok(())
}
