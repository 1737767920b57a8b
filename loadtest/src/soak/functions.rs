//! The soak's functions: events of every kind, calls that look, and calls that steer.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Scene, clients::USERS};
use crate::{
    abuse::victim::{ATTACKED, key},
    socket::Caller,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn caller(scene: &Scene) -> Caller {
    Caller::with_key(scene.address, PATIENCE, &key(ATTACKED))
}

/// Events to channels with history, stored events for users of whom half are away, and events through filters: forty a second.
pub(super) fn publish(scene: &Scene) {
    let mut caller = caller(scene);
    let data = "x".repeat(300);
    scene.every(Duration::from_millis(25), |n| {
        let (path, body) = match n % 4 {
            0 => (
                "/v1/send",
                format!(r#"{{"channel":"kept-{}","event":"e","data":"{data}"}}"#, n % 20),
            ),
            1 => (
                "/v1/publish",
                format!(r#"{{"user":"u{}","event":"e","data":"{data}"}}"#, n * 3 % USERS),
            ),
            2 => (
                "/v1/emit",
                format!(
                    r#"{{"event":"e","data":{n},"filter":"auth.tenant == params.t","params":{{"t":"t{}"}}}}"#,
                    n % 10
                ),
            ),
            _ => (
                "/v1/send",
                format!(r#"{{"channel":"once-{}","event":"e","except":{{"users":["u1"]}}}}"#, n / 4),
            ),
        };
        scene.ledger.note(caller.post(path, &body), true);
    });
}

/// A flood to everyone once in two seconds: a hundred events of 4 KiB, one behind the other.
pub(super) fn flood(scene: &Scene) {
    let mut caller = caller(scene);
    let body = format!(r#"{{"event":"flood","data":"{}"}}"#, "x".repeat(4000));
    scene.every(Duration::from_secs(2), |_| {
        for _ in 0..100 {
            if scene.is_over() {
                return;
            }
            scene.ledger.note(caller.post("/v1/broadcast", &body), true);
        }
    });
}

/// Calls with an `Idempotency-Key`, each made twice: ten keys a second.
pub(super) fn repeat(scene: &Scene) {
    let mut caller = caller(scene);
    scene.every(Duration::from_millis(100), |n| {
        let body = format!(r#"{{"channel":"all","event":"once","data":{n}}}"#);
        let more = format!("Idempotency-Key: soak-{n}\r\n");
        for places in [true, false] {
            let answer = caller.post_with("/v1/send", &more, &body);
            scene.ledger.note(answer, places);
        }
    });
}

/// Filters that take as long as they may, different ones each time, and calls that look: five a second.
pub(super) fn look(scene: &Scene) {
    let mut caller = caller(scene);
    let list = vec!["1"; 60].join(",");
    scene.every(Duration::from_millis(200), |n| {
        let heavy = "params.l.exists(a, params.l.exists(b, a + b < 0))";
        let body = format!(
            r#"{{"event":"e","filter":"{heavy} || user == 'u{n}' || user.matches('^v{n}[ab]+$')","params":{{"l":[{list}]}}}}"#
        );
        scene.ledger.note(caller.post("/v1/emit", &body), true);
        let explain = format!(r#"{{"filter":"auth.tenant == 't{}' && {n} > 0"}}"#, n % 10);
        scene.ledger.note(caller.post("/v1/explain", &explain), false);
        for path in [
            "/v1/connections?limit=50",
            "/v1/channels?prefix=room-&limit=50",
            "/v1/channels/kept-1/history?limit=10",
            "/v1/channels/all/members?limit=50",
        ] {
            scene.ledger.note(caller.get(path), false);
        }
    });
}

/// Calls that steer, once a second: in, out, and away.
pub(super) fn steer(scene: &Scene) {
    let mut caller = caller(scene);
    scene.every(Duration::from_secs(1), |n| {
        let user = format!("u{}", n * 11 % USERS);
        for (path, body) in [
            (
                "/v1/join",
                format!(r#"{{"channel":"steered","to":{{"users":["{user}"]}}}}"#),
            ),
            (
                "/v1/leave",
                format!(r#"{{"channel":"steered","to":{{"users":["{user}"]}}}}"#),
            ),
            (
                "/v1/disconnect",
                format!(
                    r#"{{"to":{{"users":["u{}"]}},"code":4010}}"#,
                    USERS / 2 + n % (USERS / 2)
                ),
            ),
        ] {
            scene.ledger.note(caller.post(path, &body), false);
        }
    });
}

/// A reload once in five seconds.
pub(super) fn reload(scene: &Scene) {
    scene.every(Duration::from_secs(5), |_| {
        if let Some(pid) = Pid::from_raw(scene.process.0 as i32) {
            // Fails only if the server has ended, which is found at the end.
            let _ = kill_process(pid, Signal::HUP);
        }
    });
}
