//! Ports for programs that have to be told theirs.

use std::{
    io,
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// The first port that is tried, and how many. All are below those that the system gives to outgoing connections (from
/// 32768 on): a client that dials one of those, while nobody listens there, may be given that very port for its own
/// end, and so connect to itself; then no server can be started there again.
const PORTS: (u32, u32) = (11_000, 20_000);

/// A port of 127.0.0.1 on which nobody listens.
pub(crate) fn free_port() -> io::Result<u16> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin at different places.
    let start = process::id().wrapping_mul(7919);
    for _ in 0..PORTS.1 {
        let place = start.wrapping_add(COUNT.fetch_add(1, Relaxed)) % PORTS.1;
        let port = (PORTS.0 + place) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
}
