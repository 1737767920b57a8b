//! The list of this node's members in Redis, which outlives a node that ends without a word.
//!
//! It lives as long as the node's lease. A node that finds a list without a lease notifies the channels, bit by
//! bit, that these members have left, and takes it away; so nobody stays who is not there. Where no node comes any
//! longer, it goes by itself. Until then clients that come back take their places out of it
//! ([`super::resume_from_list`]).
//!
//! The list has a version. Each change is made only to the version before it, so it shows if Redis has lost the list, or has gone
//! back to an older one. Only then, and after changes that may have been lost on their way, is it written as a whole. What clients
//! take out of it makes no other version, as it is to stay out.

mod announcing;
mod notice_groups;
mod reaping;
mod writing;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};

pub(super) use self::writing::Listed;
use super::{
    Handles, Task,
    leases::{Membership, millis},
    notices::NoticeRelay,
};
use crate::{
    app::Apps,
    auth::Revocations,
    bus::{Bus, BusError, Script, Topic, jitter},
    hub::{Change, Hub, Register},
    id::NodeId,
    limits::{MEMBERS_AT_ONCE, ROSTER_OUTLIVES},
};

/// How long the list waits before it is written again after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a node that departs looks whether its list is written.
const LOOK: Duration = Duration::from_millis(5);

/// What the list is called, and one that is being written in its place.
const LIST: &str = "members";
const NEW_LIST: &str = "members.new";

/// What has to be done about the list, beyond making changes to it, and how far that is.
#[derive(Debug)]
struct ListDue {
    due: Notify,
    is_to_be_written: AtomicBool,
    /// How many changes have been seen to.
    listed: AtomicU64,
    /// It has all of these: nothing of it is just being written.
    is_whole: AtomicBool,
    /// The node departs, and the list is as its clients find it from then on.
    is_finished: watch::Sender<bool>,
}

impl Default for ListDue {
    fn default() -> Self {
        Self {
            due: Notify::new(),
            is_to_be_written: AtomicBool::new(false),
            listed: AtomicU64::new(0),
            is_whole: AtomicBool::new(true),
            is_finished: watch::Sender::new(false),
        }
    }
}

impl ListDue {
    /// Has the list written as a whole: it is not what it should be.
    fn write(&self) {
        self.is_to_be_written.store(true, SeqCst);
        self.due.notify_one();
    }

    /// Whether Redis has the list with the first `changes` changes.
    fn has(&self, changes: u64) -> bool {
        // Last of all whether it is whole: that ends before a change or a whole list is begun, and not before it is done.
        !self.is_to_be_written.load(SeqCst)
            && self.listed.load(SeqCst) >= changes
            && self.is_whole.load(SeqCst)
    }
}

/// The versions of the list. Each change makes another, and none is used twice: a change that comes late finds another one.
#[derive(Debug)]
struct Versions {
    last: u64,
    /// The one that Redis has, empty if it has no list; nothing if that is not known.
    in_redis: Option<String>,
}

impl Versions {
    fn next(&mut self) -> String {
        self.last += 1;
        self.last.to_string()
    }
}

/// Gives keys a time to live, those that are there.
static OUTLIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end return 1")
});

/// This node's list of members in Redis, and those of nodes that have ended.
///
/// It owns the changes on their way to the list, and what is due beyond them. [`Cluster`](super::Cluster) has the list renewed
/// with the lease, and nodes reaped that have ended. Those who resume connections take places out of other nodes' lists
/// (`resume_from_list.rs` has that part of its `impl`, and the folder `roster` has others). Notices that follow from all this go
/// out by the [`NoticeRelay`].
#[derive(Debug)]
pub(crate) struct Roster {
    pub(super) bus: Arc<Bus>,
    node: NodeId,
    hub: Arc<Hub>,
    pub(super) apps: Arc<Apps>,
    pub(super) revocations: Arc<Revocations>,
    membership: Arc<Membership>,
    notices: Arc<NoticeRelay>,
    /// Changes of who is in which channel here, on their way to the list.
    register: Register,
    changes: Mutex<Option<mpsc::Receiver<Change>>>,
    list: ListDue,
}

impl Roster {
    pub(super) fn new(
        handles: &Handles<'_>,
        (register, changes): (Register, mpsc::Receiver<Change>),
        membership: &Arc<Membership>,
        notices: &Arc<NoticeRelay>,
    ) -> Self {
        Self {
            bus: handles.bus.clone(),
            node: handles.hub.context().node,
            hub: handles.hub.clone(),
            apps: handles.apps.clone(),
            revocations: handles.revocations.clone(),
            membership: membership.clone(),
            notices: notices.clone(),
            register,
            changes: Mutex::new(Some(changes)),
            list: ListDue::default(),
        }
    }

    /// What it does until the runtime ends, by name.
    pub(super) fn tasks(self: &Arc<Self>) -> [(&'static str, Task); 1] {
        [("list of members", Box::pin(self.clone().run_roster()))]
    }

    /// Has the list looked at: Redis may have lost it. It is written only if so.
    pub(super) fn check(&self) {
        self.list.due.notify_one();
    }

    /// Restores what other nodes know of the members here, after they were taken for gone.
    pub(super) fn restore(self: &Arc<Self>) {
        self.list.write();
        self.announce_members();
    }

    /// Keeps this node's list of members in step with its channels, until the runtime ends.
    pub(super) async fn run_roster(self: Arc<Self>) {
        let Some(mut changes) = self.changes.lock().take() else {
            return;
        };

        let mut batch = Vec::new();
        let mut versions = Versions {
            last: 0,
            // The node's id is new, so there is no list under it.
            in_redis: Some(String::new()),
        };

        loop {
            tokio::select! {
                n = changes.recv_many(&mut batch, MEMBERS_AT_ONCE) => if n == 0 { return },
                () = self.list.due.notified() => {}
            }

            if self.membership.has_left() {
                // Other nodes see to the list from now on.
                batch.clear();
                continue;
            }

            // In this order: see `ListDue::has`.
            self.list.is_whole.store(false, SeqCst);
            let is_stale = self.list.is_to_be_written.swap(false, SeqCst);
            let is_lost = self.register.has_lost();
            // Not known until Redis has answered: a change that got no answer may have been made.
            let before = versions.in_redis.take();
            let now = versions.next();

            let changed = match before.filter(|_| !is_stale && !is_lost) {
                Some(before) => self.change_list(&batch, before, now).await,
                None => self.write_list(now).await.map(Some),
            };

            self.list.listed.fetch_add(batch.len() as u64, SeqCst);
            batch.clear();
            let is_whole = matches!(changed, Ok(Some(_)));
            self.list.is_whole.store(is_whole, SeqCst);

            match changed {
                Ok(Some(now)) => versions.in_redis = Some(now),
                Ok(None) => {
                    tracing::debug!("Redis has lost this node's list of members");
                    // All nodes may have lost theirs at the same time.
                    tokio::time::sleep(jitter(self.hub.context().limits.node_lease / 5)).await;
                    self.list.write();
                }
                Err(error) => {
                    tracing::debug!(%error, "the list of members in Redis is not up to date");
                    tokio::time::sleep(AGAIN).await;
                    self.list.write();
                }
            }
        }
    }

    /// Gives the list its whole time again, and one that is being written.
    pub(super) async fn renew_list(&self) {
        let home = Topic::Node(self.node);
        let lists = self.list_keys(&home).into();
        if let Err(error) = self
            .bus
            .eval(&OUTLIVE, &home, lists, vec![millis(ROSTER_OUTLIVES)])
            .await
        {
            tracing::debug!(%error, "the list of members was not given its time again");
        }
    }

    /// Waits until the list has every change so far, before this node departs: its clients come back to what is listed, and nobody
    /// else tells of the others. Waits for Redis for `limits.redis_timeout` at most.
    pub(crate) async fn finish_list(&self) {
        self.membership.begin_to_depart();
        let noted = self.register.noted();
        let written = async {
            while !self.list.has(noted) {
                tokio::time::sleep(LOOK).await;
            }
            self.list_profiles().await?;
            // It may be new, and nobody comes any longer.
            self.renew_list().await;
            Ok::<(), BusError>(())
        };

        match timeout(self.hub.context().limits.redis_timeout, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "clients without channels come back without their profiles");
            }
            Err(_) => tracing::warn!(
                "clients of this node may come back to fewer channels than they had: Redis did not take the list of members in time"
            ),
        }

        self.list.is_finished.send_replace(true);
    }

    /// Waits until [`Roster::finish_list`] is done: before that the list may lack what clients had. That takes
    /// `limits.redis_timeout` at most from the moment in which the node begins to depart.
    pub(super) async fn list_finished(&self) {
        let mut is_finished = self.list.is_finished.subscribe();
        // The sender is in `self`.
        let _ = is_finished.wait_for(|is_finished| *is_finished).await;
    }

    /// The list of the node whose home this is, and the one that it may be writing.
    pub(super) fn list_keys(&self, home: &Topic) -> [Vec<u8>; 2] {
        [LIST, NEW_LIST].map(|list| self.bus.key(home, list))
    }
}

fn command(name: &str, keys: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(keys);
    command
}
