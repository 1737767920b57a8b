//! Notices that come while a page of members is gathered over all nodes, for whoever waits for it: told behind the page,
//! they make it whole.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use parking_lot::Mutex;

use super::super::Node;
use crate::{
    hub::About,
    id::{AppId, ConnectionId},
    limits::NOTICES_CAPTURED,
    protocol::frame::Frame,
};

/// The captures of a node.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    waiting: Mutex<Vec<Arc<Waiting>>>,
    /// How many, to be read without the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Waiting {
    app: AppId,
    channel: String,
    /// Whoever waits.
    connection: ConnectionId,
    /// `None` once there were too many.
    notices: Mutex<Option<Vec<Frame>>>,
}

/// Takes every notice of a channel for one connection, from its beginning until it is dropped.
#[derive(Debug)]
pub(crate) struct Capture {
    node: Arc<Node>,
    waiting: Arc<Waiting>,
}

impl Captures {
    /// Whether someone waits for notices of `channel`.
    pub(super) fn is_waiting(&self, app: AppId, channel: &str) -> bool {
        self.count.load(SeqCst) > 0
            && self
                .waiting
                .lock()
                .iter()
                .any(|one| one.app == app && one.channel == channel)
    }

    /// Takes notices for those on the shard `shard` who wait for them. Called under that shard's lock, under which they
    /// stop waiting too: so each notice is either here, or told to a member that watches.
    pub(in super::super) fn note(&self, shard: usize, app: AppId, channel: &str, frames: &[About]) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let waiting = self.waiting.lock();
        let those = waiting.iter().filter(|one| {
            usize::from(one.connection.shard) == shard && one.app == app && one.channel == channel
        });
        for one in those {
            let mut captured = one.notices.lock();
            if let Some(list) = &mut *captured {
                let others = frames
                    .iter()
                    .filter(|(about, _)| *about != Some(one.connection));
                list.extend(others.map(|(_, frame)| frame.clone()));
                if list.len() > NOTICES_CAPTURED {
                    *captured = None;
                }
            }
        }
    }
}

impl Node {
    /// Begins to take notices of `channel` for `connection`; `None` without other nodes.
    pub(crate) fn capture(
        self: &Arc<Self>,
        app: AppId,
        channel: &str,
        connection: ConnectionId,
    ) -> Option<Capture> {
        let captures = &self.cluster.as_ref()?.captures;
        let notices = Mutex::new(Some(Vec::new()));
        let waiting = Arc::new(Waiting {
            app,
            channel: channel.to_owned(),
            connection,
            notices,
        });
        captures.waiting.lock().push(waiting.clone());
        captures.count.fetch_add(1, SeqCst);
        Some(Capture {
            node: self.clone(),
            waiting,
        })
    }
}

impl Capture {
    /// The notices so far, in order; `None` if they were too many, and what they tell of has to be fetched anew. To be
    /// called under the lock of the connection's shard.
    pub(crate) fn take(&self) -> Option<Vec<Frame>> {
        self.waiting.notices.lock().as_mut().map(std::mem::take)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(cluster) = &self.node.cluster {
            cluster
                .captures
                .waiting
                .lock()
                .retain(|one| !Arc::ptr_eq(one, &self.waiting));
            cluster.captures.count.fetch_sub(1, SeqCst);
        }
    }
}
