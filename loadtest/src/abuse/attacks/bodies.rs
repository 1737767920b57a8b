//! Bodies and requests of functions that are as large, as deep or as many as they may be.

use super::super::{
    attack::{Allowance, Attack, MIB},
    victim::ATTACKED,
};
use super::filters::list;

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "unknown-field",
        does: "bodies with a field whose name has 240,000 letters",
        against: "what a refusal may cost",
        body: |arms| {
            arms.ready()?;
            let body = format!(r#"{{"{}":1}}"#, "e".repeat(240_000));
            arms.post_in_turn(2, "/v1/emit", &[body]);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "deep-json",
        does: "data and params that nest 100,000 deep",
        against: "how deep JSON may nest, and the stack of a thread",
        body: |arms| {
            arms.ready()?;
            let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            let bodies = [
                format!(r#"{{"event":"e","data":{deep}}}"#),
                format!(r#"{{"event":"e","filter":"true","params":{{"a":{deep}}}}}"#),
                format!(r#"{{"event":"e","to":{deep}}}"#),
            ];
            arms.post_in_turn(3, "/v1/emit", &bodies);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "duplicate-keys",
        does: "params and fields that are there 20,000 times",
        against: "what parsing a body may cost",
        body: |arms| {
            arms.ready()?;
            let same = vec![r#""k":1"#; 40_000].join(",");
            let alike: Vec<_> = (0..20_000).map(|n| format!(r#""k{n}":1"#)).collect();
            let alike = alike.join(",");
            let bodies = [
                format!(r#"{{"event":"e","filter":"true","params":{{{same}}}}}"#),
                format!(r#"{{"event":"e","filter":"params.k1 == 2","params":{{{alike}}}}}"#),
                format!(r#"{{"event":"e",{same}}}"#),
            ];
            arms.post_in_turn(2, "/v1/emit", &bodies);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "largest-batches",
        does: "batches of 100 events to a channel of 300, as large as a body may be, from four callers",
        against: "what one request may place before others get their turn",
        peak: Allowance {
            bytes: 160 * MIB,
            why: "admitted_bytes (64 MiB) of publications, and what the crowd's sockets refused of them",
        },
        body: |arms| {
            let herd = super::super::arms::Herd::of(
                arms.crowd(arms.size(300, 20), |_| "&channel=flood".to_owned())?,
            )?;
            let reading = herd.read_on()?;
            arms.ready()?;
            let item = format!(
                r#"{{"call":"send","channel":"flood","event":"e","data":"{}"}}"#,
                "x".repeat(2500)
            );
            let body = format!(r#"{{"items":[{}]}}"#, vec![item; 100].join(","));
            arms.post_in_turn(4, "/v1/batch", &[body]);
            drop(reading);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "everyone-but",
        does: "events to everyone but 10,000 users, and to 10,000 users who are not there",
        against: "what a list of names may cost",
        body: |arms| {
            let crowd = arms.crowd(arms.size(500, 20), |n| {
                format!("&token={}", arms.token(&format!("u{n}"), "", 3600))
            })?;
            arms.ready()?;
            let names: Vec<_> = (0..10_000).map(|n| format!("\"nobody-{n}\"")).collect();
            let names = names.join(",");
            let bodies = [
                format!(r#"{{"event":"e","recipients":["*"],"except":[{names}]}}"#),
                format!(r#"{{"event":"e","recipients":[{names}],"store":false}}"#),
            ];
            arms.post_in_turn(3, "/v1/dispatch", &bodies);
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "made-up-cursors",
        does: "lists of connections, channels, members and history from cursors that were made up",
        against: "what a page may cost that begins anywhere",
        body: |arms| {
            let crowd = arms.crowd(arms.size(500, 20), |n| format!("&channel=c-{}", n % 50))?;
            arms.ready()?;
            let callers: Vec<_> = (0..3)
                .map(|_| std::sync::Mutex::new(arms.caller()))
                .collect();
            let numbers = std::sync::atomic::AtomicU64::new(1);
            arms.storm(3, |thread| {
                let Ok(mut caller) = callers[thread].lock() else {
                    return;
                };
                let n = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let cursor = format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let long = "z".repeat(4000);
                for path in [
                    format!("/v1/connections?limit=1000&cursor={cursor}"),
                    format!("/v1/connections?limit=1000&cursor={}", u64::MAX),
                    format!("/v1/channels?cursor={cursor}&prefix=c-"),
                    format!("/v1/channels?cursor={long}"),
                    format!("/v1/channels/c-1/members?cursor={cursor}"),
                    format!("/v1/channels/kept-1/history?after={}", u64::MAX),
                ] {
                    arms.get(&mut caller, &path);
                }
            });
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "largest-pages",
        does: "lists of 1,000 connections with claims of 8 KiB each, from six callers",
        against: "the size of one answer",
        peak: Allowance {
            bytes: 112 * MIB,
            why: "claims of 1,000 connections, 3 times 8 KiB each, and six pages of at most 4 MiB, built and sent",
        },
        body: |arms| {
            let crowd = arms.crowd(arms.size(1000, 40), |n| {
                let claims = format!(r#","x":"{}""#, "x".repeat(7000));
                format!("&token={}", arms.token(&format!("u{n}"), &claims, 3600))
            })?;
            arms.ready()?;
            let callers: Vec<_> = (0..6)
                .map(|_| std::sync::Mutex::new(arms.caller()))
                .collect();
            arms.storm(6, |thread| {
                let Ok(mut caller) = callers[thread].lock() else {
                    return;
                };
                if let Some(page) = arms.get(&mut caller, "/v1/connections?limit=1000")
                    && page.len() > 5 * 1024 * 1024
                {
                    arms.fault(format!("a page has {} bytes", page.len()));
                }
            });
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "idempotency-store",
        does: "batches of 100 with a new Idempotency-Key each, far more than the store holds",
        against: "idempotency_entries, of which each app has a share",
        limits: &[("idempotency_entries", "2000")],
        body: |arms| {
            arms.ready()?;
            let item = r#"{"call":"emit","event":"e","to":{}}"#;
            let body = format!(r#"{{"items":[{}]}}"#, vec![item; 100].join(","));
            keyed(arms, 3, "/v1/batch", &body);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "idempotency-answers",
        does: "events to 100 channels with a new Idempotency-Key each, whose answers have 30 KB",
        against: "the bytes of answers that are kept",
        limits: &[("history_bytes", "\"8MiB\"")],
        peak: Allowance {
            bytes: 144 * MIB,
            why: "the answers that are kept, 64 MiB, histories of 8 MiB that count an event as 640 bytes, and requests under way",
        },
        after: Allowance {
            bytes: 112 * MIB,
            why: "answers are kept for five minutes, 64 MiB at most, and histories of 8 MiB",
        },
        body: |arms| {
            arms.ready()?;
            let channels: Vec<_> = (0..100)
                .map(|n| format!("\"kept-{}-{n}\"", "c".repeat(180)))
                .collect();
            let channels = channels.join(",");
            keyed(
                arms,
                3,
                "/v1/send",
                &format!(r#"{{"event":"e","channels":[{channels}]}}"#),
            );
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "token-minting",
        does: "asks for tokens with claims of 200,000 bytes, and with none, in a loop",
        against: "what signing may cost",
        body: |arms| {
            arms.ready()?;
            let items = list("{\"a\":[1,2,3]}", 15_000);
            let bodies = [
                r#"{"user":"u"}"#.to_owned(),
                format!(r#"{{"user":"u","claims":{{"x":{items}}}}}"#),
            ];
            arms.post_in_turn(3, "/v1/tokens", &bodies);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "paths-and-queries",
        does: "paths that nobody serves, users with names of 30,000 bytes, and queries of as many fields",
        against: "what a request line may cost",
        body: |arms| {
            arms.ready()?;
            let callers: Vec<_> = (0..3)
                .map(|_| std::sync::Mutex::new(arms.caller()))
                .collect();
            let long = "%41".repeat(10_000);
            let fields: Vec<_> = (0..5000).map(|n| format!("f{n}={n}")).collect();
            let paths = [
                format!("/v1/users/{long}"),
                format!("/{long}"),
                format!("/readyz?{}", fields.join("&")),
                format!("/v1/connections?filter={long}"),
                format!("/v1/connect?app={ATTACKED}&{}", fields.join("&")),
            ];
            arms.storm(3, |thread| {
                let Ok(mut caller) = callers[thread].lock() else {
                    return;
                };
                for path in &paths {
                    arms.get(&mut caller, path);
                }
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// Posts the same body under new keys.
fn keyed(arms: &super::super::arms::Arms, threads: usize, path: &str, body: &str) {
    let callers: Vec<_> = (0..threads)
        .map(|_| std::sync::Mutex::new(arms.caller()))
        .collect();
    let numbers = std::sync::atomic::AtomicU64::new(0);
    arms.storm(threads, |thread| {
        let Ok(mut caller) = callers[thread].lock() else {
            return;
        };
        let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        arms.post_keyed(&mut caller, path, &format!("attack-{number}"), body);
    });
}
