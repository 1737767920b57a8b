//! The time of a store.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The time of the store, which never goes back.
pub(super) struct Clock {
    pub(super) unix_ms: u64,
    since: Instant,
}

impl Clock {
    /// Begins at the system's time, or at `last_ms` if that is later.
    pub(super) fn after(last_ms: u64) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            unix_ms: (unix.unwrap_or_default().as_millis() as u64).max(last_ms),
            since: Instant::now(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        // It goes on by a monotonic clock, since the system's may be set back while the server
        // runs.
        self.unix_ms + self.since.elapsed().as_millis() as u64
    }
}
