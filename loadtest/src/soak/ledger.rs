//! What the soak's functions were answered, summed up, to be held against what the server counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Deserialize;

/// Sums over all calls.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    placed: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    clients: AtomicU64,
    defects: AtomicU64,
}

/// What a publication came to.
#[derive(Deserialize)]
struct Placed {
    #[serde(default)]
    matched: u64,
}

impl Ledger {
    /// Notes the answer to a call. A publication's is counted where it `places` events: a repeat by its `Idempotency-Key` does not.
    pub(super) fn note(&self, answer: std::io::Result<(u16, Vec<u8>)>, places: bool) {
        self.calls.fetch_add(1, Relaxed);
        match answer {
            Ok((200, body)) if places => {
                let placed = serde_json::from_slice(&body).map_or(0, |Placed { matched }| matched);
                self.placed.fetch_add(placed, Relaxed);
            }
            Ok((200, _)) => {}
            Ok((status, _)) => {
                self.refused.fetch_add(1, Relaxed);
                self.defects.fetch_add(u64::from(status == 500), Relaxed);
            }
            Err(_) => {
                self.unanswered.fetch_add(1, Relaxed);
            }
        }
    }

    /// Notes that a client came.
    pub(super) fn came(&self) {
        self.clients.fetch_add(1, Relaxed);
    }

    /// Events that the server said it placed.
    pub(super) fn placed(&self) -> u64 {
        self.placed.load(Relaxed)
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    pub(super) fn clients(&self) -> u64 {
        self.clients.load(Relaxed)
    }

    /// Answers of 500.
    pub(super) fn defects(&self) -> u64 {
        self.defects.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_placed_counts() {
        let ledger = Ledger::default();
        let answer = |status, body: &str| Ok((status, body.as_bytes().to_vec()));
        ledger.note(answer(200, r#"{"matched":3,"queued":2}"#), true);
        ledger.note(answer(200, r#"{"matched":3}"#), false);
        ledger.note(answer(503, "{}"), true);
        ledger.note(answer(500, "{}"), true);
        ledger.note(Err(std::io::ErrorKind::TimedOut.into()), true);
        assert_eq!((ledger.placed(), ledger.calls()), (3, 5));
        assert_eq!(
            (ledger.refused(), ledger.unanswered(), ledger.defects()),
            (2, 1, 1)
        );
    }
}
