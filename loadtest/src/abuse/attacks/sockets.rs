//! Connections that are no clients, or not yet: heads, bodies, handshakes, and sockets that say nothing.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::super::{
    arms::{Arms, reset},
    attack::{Allowance, Attack, MIB},
    victim::{ATTACKED, key},
};
use crate::{error::Result, http};

/// What hyper holds for a connection that has sent something: two buffers of 8 KiB, and a task.
const SOCKETS: Allowance = Allowance {
    bytes: 96 * MIB,
    why: "24 KiB for each of 2,000 connections, and requests under way",
};

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "idle-http-sockets",
        does: "1,000 connections that have asked /healthz once, where the server may open 1,024 files",
        against: "the descriptors that clients need",
        descriptors: Some(1024),
        body: |arms| {
            idle(arms, |to| {
                format!("GET /healthz HTTP/1.1\r\nHost: {to}\r\n\r\n")
            })
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "silent-sockets",
        does: "1,000 connections that never say anything, where the server may open 1,024 files",
        against: "the descriptors that clients need",
        descriptors: Some(1024),
        body: |arms| idle(arms, |_| String::new()),
        ..Attack::PLAIN
    },
    Attack {
        name: "no-handshakes",
        does: "150,000 upgrades without a key, one after another on one connection",
        against: "accepts_per_second (50 here), which is for clients",
        limits: &[("accepts_per_second", "50")],
        body: |arms| {
            arms.ready()?;
            let one = format!(
                "GET /v1/connect?app={ATTACKED} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
                arms.to
            );
            pipeline(arms, 1, one.as_bytes(), true);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "slow-heads",
        does: "500 connections that send the head of a request a byte at a time",
        against: "the time for a head (`handshake`)",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let head = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nX: ", arms.to);
            trickle(arms, arms.size(500, 30), head.as_bytes());
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "slow-bodies",
        does: "500 functions with keys that send a body of 250,000 bytes a byte at a time",
        against: "the time for a body (`handshake`)",
        peak: SOCKETS,
        after: Allowance {
            bytes: 40 * MIB,
            why: "buffers of 500 bodies of 60 KB, which the allocator keeps for the next ones",
        },
        body: |arms| {
            arms.ready()?;
            let head = format!(
                "POST /v1/emit HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: 250000\r\n\r\n{}",
                arms.to,
                key(ATTACKED),
                " ".repeat(60_000)
            );
            let sockets = opened(arms, arms.size(500, 30), head.as_bytes());
            dribble(arms, &sockets);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "header-floods",
        does: "heads with 100 fields and 60,000 bytes, one after another on four connections",
        against: "the size of a head",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let field = "h".repeat(580);
            let fields = (0..98).fold(String::new(), |fields, n| {
                format!("{fields}X-{n}: {field}\r\n")
            });
            let one = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", arms.to);
            pipeline(arms, 4, one.as_bytes(), true);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "answers-that-nobody-reads",
        does: "requests for the largest answers, one after another on 50 connections, of which none is read",
        against: "what may wait for one function",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let one = format!("GET /v1/openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", arms.to);
            pipeline(arms, arms.size(50, 5), one.as_bytes(), false);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "half-closed",
        does: "connections whose sending side ends after a request, a handshake, or half a head",
        against: "sockets that nobody ends",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let to = arms.to;
            let openings = [
                format!("GET /healthz HTTP/1.1\r\nHost: {to}\r\n\r\n"),
                http::upgrade(to, &format!("/v1/connect?app={ATTACKED}"), ""),
                "GET /heal".to_owned(),
                String::new(),
            ];
            let turn = AtomicU64::new(0);
            arms.storm(4, |_| {
                let opening = &openings[turn.fetch_add(1, Relaxed) as usize % openings.len()];
                let Ok(mut socket) = arms.socket() else {
                    return;
                };
                let _ = socket.write_all(opening.as_bytes());
                let _ = socket.shutdown(Shutdown::Write);
                let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = socket.read(&mut [0; 4096]);
                arms.count("connections", 1);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "resets",
        does: "connections that are reset before a request, in it, before its answer, and as clients",
        against: "what a connection leaves behind that ends at any point",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let to = arms.to;
            let upgrade = http::upgrade(to, &format!("/v1/connect?app={ATTACKED}&channel=c"), "");
            let openings = [
                String::new(),
                "GET /heal".to_owned(),
                format!("GET /v1/openapi.json HTTP/1.1\r\nHost: {to}\r\n\r\n"),
                upgrade,
            ];
            let turn = AtomicU64::new(0);
            arms.storm(4, |_| {
                let n = turn.fetch_add(1, Relaxed) as usize;
                let Ok(mut socket) = arms.socket() else {
                    return;
                };
                let _ = socket.write_all(openings[n % openings.len()].as_bytes());
                if n.is_multiple_of(3) {
                    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
                    let _ = socket.read(&mut [0; 512]);
                }
                reset(&socket);
                arms.count("connections", 1);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "garbage",
        does: "connections that begin with TLS, with HTTP/2, with zeros, and with 60,000 letters",
        against: "what is not HTTP/1.1",
        peak: SOCKETS,
        body: |arms| {
            arms.ready()?;
            let openings: [Vec<u8>; 4] = [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                vec![0; 4096],
                vec![b'a'; 60_000],
            ];
            let turn = AtomicU64::new(0);
            arms.storm(4, |_| {
                let opening = &openings[turn.fetch_add(1, Relaxed) as usize % openings.len()];
                let Ok(mut socket) = arms.socket() else {
                    return;
                };
                let _ = socket.write_all(opening);
                let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
                let _ = socket.read(&mut [0; 4096]);
                reset(&socket);
                arms.count("connections", 1);
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "bad-tokens",
        does: "clients with texts that are not tokens, as fast as they are let in",
        against: "what refusing a client costs, and what the log says of it",
        body: |arms| {
            arms.ready()?;
            let turn = AtomicU64::new(0);
            refused_clients(arms, || format!("x.{}.z", turn.fetch_add(1, Relaxed)));
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "tokens-of-unknown-keys",
        does: "clients with tokens that each name another key, or another algorithm",
        against: "what looking for a key costs, and what is remembered of it",
        body: |arms| {
            arms.ready()?;
            let turn = AtomicU64::new(0);
            refused_clients(arms, || {
                let n = turn.fetch_add(1, Relaxed);
                let encode = |text: String| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
                let algorithm = ["HS256", "RS256", "ES256", "none"][n as usize % 4];
                let head = encode(format!(r#"{{"alg":"{algorithm}","kid":"k-{n}"}}"#));
                let payload = encode(r#"{"sub":"u","exp":9999999999}"#.to_owned());
                format!("{head}.{payload}.{}", "A".repeat(342))
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "come-and-go",
        does: "clients with tokens that are good for 30 days, which are let in and go immediately",
        against: "state that must end with its connection",
        body: |arms| {
            arms.ready()?;
            let token = arms.token("brief", "", 30 * 24 * 3600);
            arms.storm(4, |_| {
                if let Ok(client) = arms.client(&format!("&token={token}")) {
                    arms.count("clients", 1);
                    client.reset();
                }
            });
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// Opens 1,000 connections that each send `opening`, and keeps them all open.
fn idle(arms: &Arms, opening: impl Fn(std::net::SocketAddr) -> String) -> Result<()> {
    arms.ready()?;
    let opening = opening(arms.to);
    let mut held = Vec::new();
    for _ in 0..1000 {
        if arms.is_over() {
            break;
        }
        // A server that has no file left leaves a connection in the kernel's queue, where it is as good.
        if let Ok(mut socket) = arms.socket() {
            let _ = socket.write_all(opening.as_bytes());
            held.push(socket);
        }
    }
    arms.count("connections", held.len() as u64);
    arms.wait();
    Ok(())
}

/// Connections that have sent `opening`.
fn opened(arms: &Arms, count: usize, opening: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        if let Ok(mut socket) = arms.socket() {
            let _ = socket.write_all(opening);
            let _ = socket.set_nonblocking(true);
            sockets.push(socket);
        }
    }
    arms.count("connections", sockets.len() as u64);
    sockets
}

/// Sends a byte to each of them in turn, until it is over.
fn dribble(arms: &Arms, sockets: &[TcpStream]) {
    while !arms.is_over() {
        for mut socket in sockets {
            let _ = socket.write(b" ");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The same, from the first byte of `head` on.
fn trickle(arms: &Arms, count: usize, head: &[u8]) {
    let sockets = opened(arms, count, b"");
    for &byte in head {
        for mut socket in &sockets {
            let _ = socket.write(&[byte]);
        }
        if arms.is_over() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    dribble(arms, &sockets);
}

/// Writes `one` again and again, without waiting for answers, which a thread reads and forgets if `is_read`.
pub(super) fn pipeline(arms: &Arms, connections: usize, one: &[u8], is_read: bool) {
    let block = one.repeat((60_000 / one.len()).max(1));
    let per_block = (block.len() / one.len()) as u64;
    arms.storm(connections, |_| {
        let Ok(mut socket) = arms.socket() else {
            return;
        };
        let _ = socket.set_write_timeout(Some(Duration::from_millis(500)));
        let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
        thread::scope(|scope| {
            let mut reader = &socket;
            if let (true, Ok(other)) = (is_read, socket.try_clone()) {
                scope.spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    let mut other = other;
                    while matches!(other.read(&mut buffer), Ok(1..)) {}
                });
            }
            while !arms.is_over() && reader.write_all(&block).is_ok() {
                arms.count("requests", per_block);
            }
            // Ends the thread that reads.
            let _ = reader.shutdown(Shutdown::Both);
        });
        let _ = socket.flush();
        if !is_read {
            thread::sleep(Duration::from_millis(100));
        }
    });
}

/// Clients with tokens that are refused, until it is over.
fn refused_clients(arms: &Arms, token: impl Fn() -> String + Sync) {
    arms.storm(4, |_| {
        let path = format!("/v1/connect?app={ATTACKED}&token={}", token());
        let Ok(mut socket) = arms.socket() else {
            return;
        };
        let _ = socket.write_all(http::upgrade(arms.to, &path, "").as_bytes());
        let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
        let mut answer = [0; 1024];
        if matches!(socket.read(&mut answer), Ok(1..)) {
            arms.count("refused", 1);
        }
        reset(&socket);
    });
}
