//! Sessions that have ended and whose clients have yet to poll for what they said last: kept for a few seconds, in memory
//! that is bounded for the node.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use tokio::time::sleep_until;

use super::Polls;
use crate::{
    limits::{LAST_WORDS_BYTES, LAST_WORDS_COST, LAST_WORDS_TIME},
    time_slice::TimeSlice,
};

/// Clients whose sessions have ended, and who have yet to poll for what those said last.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The oldest first: since when, who, and how much memory it takes.
    queue: VecDeque<(Instant, Box<str>, usize)>,
    pub(super) bytes: usize,
    /// Whether a task forgets them in time.
    is_swept: bool,
}

impl Ended {
    /// The oldest, if it ended before `until` or all together take too much.
    pub(super) fn pop(&mut self, until: Option<Instant>) -> Option<Box<str>> {
        let (since, ..) = self.queue.front()?;
        if self.bytes <= LAST_WORDS_BYTES && until.is_none_or(|until| *since > until) {
            return None;
        }
        let (_, sid, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes;
        Some(sid)
    }
}

impl Polls {
    /// The session of `sid` has ended. Keeps what its client has yet to be sent.
    pub(in crate::http::engineio) fn end(self: &Arc<Self>, sid: &str) {
        let found = self.clients.lock().get(sid).cloned();
        let Some(transport) = found else { return };
        let Some(bytes) = transport.end() else {
            return self.remove(sid);
        };

        let bytes = bytes + LAST_WORDS_COST;
        let mut ended = self.ended.lock();
        ended.queue.push_back((Instant::now(), sid.into(), bytes));
        ended.bytes += bytes;
        let begins_sweeping = !std::mem::replace(&mut ended.is_swept, true);
        let too_many: Vec<_> = std::iter::from_fn(|| ended.pop(None)).collect();
        // Others wait for this lock, and closing a transport takes further ones.
        drop(ended);
        for sid in too_many {
            self.forget(&sid);
        }

        if begins_sweeping {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// Forgets what the ended session of `sid` said last. A poll of it that still waits has nothing to wait for.
    pub(super) fn forget(&self, sid: &str) {
        let removed = self.clients.lock().remove(sid);
        if let Some(transport) = removed {
            transport.close();
        }
    }

    /// Forgets what sessions said last when its time is over, until there is nothing left to forget.
    async fn sweep(self: Arc<Self>) {
        loop {
            let oldest = {
                let mut ended = self.ended.lock();
                let oldest = ended.queue.front().map(|(since, ..)| *since);
                // It happens under the lock of the look, so that the next session that ends begins
                // a sweep.
                if oldest.is_none() {
                    *ended = Ended::default();
                }
                oldest
            };

            let Some(oldest) = oldest else { return };
            sleep_until((oldest + LAST_WORDS_TIME).into()).await;
            let mut slice = TimeSlice::begin();

            loop {
                let until = Instant::now().checked_sub(LAST_WORDS_TIME);
                let over = self.ended.lock().pop(until);
                let Some(sid) = over else { break };
                self.forget(&sid);
                slice.rest().await;
            }
        }
    }
}
