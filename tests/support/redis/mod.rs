//! Real Redis servers on free ports in folders of their own, killed when dropped, and a proxy that can freeze.
//!
//! Tests and the load-test harness share it, so it knows only the standard library and signals.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each program uses its part"
)]

mod folder;
mod groups;
mod port;
mod proxy;
mod resp;
mod server;
mod signal;

use std::{
    io, thread,
    time::{Duration, Instant},
};

pub(crate) use self::port::free_port;
pub use self::{
    folder::Folder,
    groups::{RedisCluster, Replicated, SERVICE, Sentinels},
    proxy::Proxy,
    resp::{Reply, Resp},
    server::RedisServer,
    signal::pause_process,
};

/// How long a server may take to start, to find its peers, or to take over.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long sentinels may take to elect a leader. After a stall of two seconds they do nothing for 30 s (TILT mode), and an election
/// that fails is repeated after 10 s.
pub const ELECTION_PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `is_true` says so; an error names `what` never came.
pub fn wait_until(what: &str, is_true: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    wait_for(what, PATIENCE, is_true)
}

/// The same for as long as `patience`.
pub fn wait_for(
    what: &str,
    patience: Duration,
    mut is_true: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let seen = is_true();
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > patience {
            let why = seen
                .err()
                .map_or_else(String::new, |error| format!(": {error}"));
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{what}: not within {patience:?}{why}"),
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
