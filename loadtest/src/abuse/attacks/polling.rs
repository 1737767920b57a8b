//! Clients of Engine.IO that poll, in every way but the right one.

use super::super::{
    arms::Arms,
    attack::{Allowance, Attack, MIB},
};
use crate::{error::Result, socket::Caller};

const PATH: &str = "/socket.io/?EIO=4&transport=polling";

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "polls-of-nobody",
        does: "polls and posts for sessions that there are not, from four callers",
        against: "what a request costs that belongs to no session",
        body: |arms| {
            arms.ready()?;
            arms.storm(4, |thread| {
                let mut caller = arms.caller();
                let path = format!("{PATH}&sid=nobody-{thread}");
                arms.get(&mut caller, &path);
                arms.post(&mut caller, &path, "40");
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "sessions-that-never-poll",
        does: "polling sessions that are begun, entered, and never polled again, from two callers",
        against: "what a client may hold that only begins",
        peak: Allowance {
            bytes: 256 * MIB,
            why: "the sessions that may begin in a second (accepts_per_second), each until its time to authenticate or its first heartbeat is over",
        },
        keeps_out: Some("sessions that begin count as clients that connect"),
        body: |arms| {
            arms.ready()?;
            arms.storm(2, |_| {
                let mut caller = arms.caller();
                if let Some(sid) = begin(arms, &mut caller) {
                    arms.post(&mut caller, &format!("{PATH}&sid={sid}"), "40");
                }
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "posts-of-noops",
        does: "posts of 30,000 packets that say nothing, on session after session, from two callers",
        against: "the rate of messages, and what taking a payload apart may cost",
        body: |arms| flood(arms, &[&vec!["6"; 30_000].join("\u{1e}")]),
        ..Attack::PLAIN
    },
    Attack {
        name: "posts-of-nonsense",
        does: "posts of malformed packets, and of attachments that belong to nothing, from two callers",
        against: "that a malformed packet ends its own connection alone",
        body: |arms| {
            let deep = format!("42{}", "[".repeat(60_000));
            // The second is one of Engine.IO and of Socket.IO: only its session finds that it means nothing.
            flood(arms, &[&format!("bAAAA\u{1e}{deep}"), "42[1]"])
        },
        ..Attack::PLAIN
    },
];

/// Posts one of `bodies`, another one from each caller, on sessions that are begun for it.
fn flood(arms: &Arms, bodies: &[&str]) -> Result<()> {
    arms.ready()?;
    arms.storm(2, |number| {
        let body = bodies[number % bodies.len()];
        let mut caller = arms.caller();
        let Some(sid) = begin(arms, &mut caller) else {
            return;
        };
        let path = format!("{PATH}&sid={sid}");
        for body in ["40", body, body] {
            arms.post(&mut caller, &path, body);
        }
    });
    Ok(())
}

/// Begins a session, and returns its `sid`.
fn begin(arms: &Arms, caller: &mut Caller) -> Option<String> {
    let open = arms.get(caller, PATH)?;
    let open: serde_json::Value = serde_json::from_slice(open.get(1..)?).ok()?;
    open["sid"].as_str().map(str::to_owned)
}
