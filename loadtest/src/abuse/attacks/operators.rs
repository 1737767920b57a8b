//! What goes wrong around the server: a log that nobody reads, reloads without end, scrapes without end.

use std::{io::Write as _, sync::Mutex, thread, time::Duration};

use rustix::process::Signal;

use super::{
    super::{
        arms::Herd,
        attack::{Allowance, Attack, MIB},
        victim::ATTACKED,
    },
    endings::signal,
};
use crate::http;

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "unread-log-of-bad-tokens",
        does: "clients with bad tokens, where nobody reads what the server logs",
        against: "logging, which must never block",
        is_log_unread: true,
        body: |arms| {
            arms.ready()?;
            arms.storm(4, |_| {
                let path = format!("/v1/connect?app={ATTACKED}&token=x.y.z");
                let Ok(mut socket) = arms.socket() else {
                    return;
                };
                let _ = socket.write_all(http::upgrade(arms.to, &path, "").as_bytes());
                let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
                let _ = std::io::Read::read(&mut socket, &mut [0; 1024]);
                arms.count("refused", 1);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "unread-log-of-slow-clients",
        does: "1,000 clients that are closed for not reading, where nobody reads what the server logs",
        against: "logging, which must never block, least of all under a lock",
        is_log_unread: true,
        limits: &[("outbox_bytes", "\"128KiB\""), ("body_bytes", "\"64KiB\"")],
        peak: Allowance {
            bytes: 256 * MIB,
            why: "outbox_bytes (128 KiB) for each of 1,000 clients, of which most is shared, and events under way",
        },
        body: |arms| {
            let stalled = arms.crowd(arms.size(1000, 100), |_| "&channel=stalled".to_owned())?;
            arms.ready()?;
            let data = "x".repeat(16_000);
            let body = format!(r#"{{"channel":"stalled","event":"e","data":"{data}"}}"#);
            arms.post_in_turn(2, "/v1/send", &[body]);
            drop(stalled);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "unread-log-of-reloads",
        does: "SIGHUP a hundred times a second, where nobody reads what the server logs",
        against: "logging, which must never block",
        is_log_unread: true,
        body: |arms| {
            arms.ready()?;
            while !arms.is_over() {
                signal(arms, Signal::HUP)?;
                arms.count("signals", 1);
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "reloads",
        does: "SIGHUP as often as the server takes it, with 500 clients connected",
        against: "what a reload may cost",
        body: |arms| {
            let herd = Herd::of(arms.crowd(arms.size(500, 20), |_| String::new())?)?;
            let reading = herd.read_on()?;
            arms.ready()?;
            while !arms.is_over() {
                signal(arms, Signal::HUP)?;
                arms.count("signals", 1);
                thread::sleep(Duration::from_millis(1));
            }
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "scrapes",
        does: "/metrics and /readyz from the admin address and with a key, from four callers",
        against: "what looking at the server may cost",
        body: |arms| {
            let crowd = arms.crowd(arms.size(500, 20), |n| format!("&channel=c-{n}"))?;
            arms.ready()?;
            let callers: Vec<_> = (0..4)
                .map(|n| {
                    let admin = crate::socket::Caller::new(arms.admin, Duration::from_secs(5));
                    Mutex::new(if n % 2 == 0 { admin } else { arms.caller() })
                })
                .collect();
            arms.storm(4, |thread| {
                let Ok(mut caller) = callers[thread].lock() else {
                    return;
                };
                for path in ["/metrics", "/readyz", "/readyz?scope=node"] {
                    arms.get(&mut caller, path);
                }
            });
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
];
