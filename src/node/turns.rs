//! Whose turn it is to publish to a topic that is kept: one at a time, first come, first served.

use ahash::RandomState;
use tokio::sync::{Mutex, MutexGuard};

use crate::history::Key;

/// Topics share this many turns. Two that meet at one wait for each other now and then, and no topic needs memory.
const STRIPES: usize = 4096;

/// The sequencers of all topics. What is appended under a turn is placed everywhere before the turn is given on, so
/// every member sees one order, and who joins under it misses nothing.
#[derive(Debug)]
pub(crate) struct Turns {
    stripes: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Waits for the turn of `key`. Nobody may wait for a second while holding one.
    pub(crate) async fn take(&self, key: &Key) -> MutexGuard<'_, ()> {
        self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
            .lock()
            .await
    }
}
