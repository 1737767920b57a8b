//! Long polling: a session's stream of WebSocket frames, handed to its client in the answers to its polls.
//!
//! The session does not know of it. It has one end of a pair of sockets; here is the other one. A poll waits for what the
//! session says and turns frames into a payload; what a client posts is turned into frames. Polls of one client come in on any
//! thread, one at a time.
//!
//! A session that ends gives its places back immediately, whether its client polls or not. Its last words, which no
//! poll has taken yet, are held for a few seconds in memory that is bounded for the node.

mod ended;
mod frames;
mod poll;
mod post;
#[cfg(test)]
mod tests;
mod transport;
mod writing;

use std::sync::{Arc, atomic::AtomicUsize};

use ahash::AHashMap;
use parking_lot::Mutex;

use self::ended::Ended;
pub(super) use self::transport::{TakenOver, Transport};
use crate::id::AppId;

/// The clients of this node that poll, by their `sid`. Each has a connection's place, which bounds how many there are; those
/// whose sessions have ended are bounded by their memory, and `ended.rs` has what becomes of them.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    clients: Mutex<AHashMap<Box<str>, Arc<Transport>>>,
    ended: Mutex<Ended>,
    /// Bytes of the answers to polls that are being written.
    answers: Arc<AtomicUsize>,
}

impl Polls {
    /// Bytes of the answers to polls that are being written.
    pub(super) fn answers(&self) -> &Arc<AtomicUsize> {
        &self.answers
    }

    pub(super) fn find(&self, sid: &str, app: AppId) -> Option<Arc<Transport>> {
        let clients = self.clients.lock();
        clients.get(sid).filter(|found| found.app == app).cloned()
    }

    pub(super) fn insert(&self, sid: &str, transport: Arc<Transport>) {
        self.clients.lock().insert(sid.into(), transport);
    }

    pub(super) fn remove(&self, sid: &str) {
        // It is dropped after the lock is released: that closes a socket, and others wait for the lock.
        let removed = self.clients.lock().remove(sid);
        drop(removed);
    }
}
