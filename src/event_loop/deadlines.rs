//! What is due later, without a timer per connection.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::hub::SlotRef;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The client did not answer the close frame: reset its socket.
    Reset,
    /// Time to authenticate is over. Whether the client's address seems to have its token under another name.
    Authentication(bool),
    /// A token ends, at this time in Unix seconds.
    Expiry(u32),
    /// A ping had not left the socket when it was last looked at. Its number among the connection's pings.
    PingLeft(u32),
    /// A ping that left the socket late should have been answered. Its number among the connection's pings.
    Pong(u32),
    /// A socket that refused may have taken nothing for too long.
    Stalled,
}

/// A heap of moments, in milliseconds since the shard began.
///
/// Nothing is due later than a heartbeat and a few seconds from now: what is due later is noted when the heartbeat comes to its
/// connection. So an entry of a connection that has gone does not stay for long either. Each is 24 bytes.
#[derive(Debug)]
pub(super) struct Deadlines {
    began: Instant,
    heap: BinaryHeap<Reverse<(u64, SlotRef, Due)>>,
}

impl Deadlines {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            heap: BinaryHeap::new(),
        }
    }

    /// Notes that `due` comes up for `at` after `wait`.
    pub(super) fn push(&mut self, wait: Duration, at: SlotRef, due: Due) {
        // Rounded up: what is looked at too early would have to be looked at again.
        let moment = self.began.elapsed().saturating_add(wait).as_millis() as u64 + 1;
        self.heap.push(Reverse((moment, at, due)));
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The next entry whose moment has come.
    pub(super) fn pop(&mut self) -> Option<(SlotRef, Due)> {
        let now = self.began.elapsed().as_millis() as u64;
        let &Reverse((moment, at, due)) = self.heap.peek()?;
        if moment > now {
            return None;
        }
        self.heap.pop();
        // Its connection may have gone since, which the generation in `at` shows to the caller.
        Some((at, due))
    }
}

/// How long from now until `unix` seconds; nothing if that is over.
pub(super) fn until(unix: u64) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Duration::from_secs(unix).saturating_sub(now)
}
