//! What is yet to be sent about each channel: to those who watch here, one by one or as counts, and to other nodes as a
//! share.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use ahash::AHashSet;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, oneshot};

use super::{Count, JoinKind, Presence, room::Room};
use crate::{
    hub::connection::Snapshot,
    id::{AppId, ConnectionId},
    limits::{NOTICES_UNSENT, USERS_NAMED},
    protocol::{
        envelope::Share,
        native::{Changes, MemberKind},
    },
};

/// Over which time notices are counted and counts are gathered.
const NOTICE_WINDOW: Duration = Duration::from_secs(1);

/// A change of membership, to be sent to those who watch.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) kind: MemberKind,
    pub(crate) member: Snapshot,
    /// Connections of the member's user in the channel after the change, lost ones that may come back included.
    pub(crate) user_connections: u64,
    /// The lost connection that the member stands in for.
    pub(crate) previous: Option<ConnectionId>,
    /// The node of that one has ended, and may still be thought to have it.
    pub(crate) is_inherited: bool,
}

/// What is to be sent about one channel now.
#[derive(Debug)]
pub(crate) struct NoticeBatch {
    pub(crate) channel: SmolStr,
    pub(crate) notices: Vec<Notice>,
    /// Changes sent as counts, and how many are in the channel now.
    pub(crate) counted: Option<(Changes, Count)>,
    /// What is here after that, if other nodes are to get it. There may be nothing else to send.
    pub(crate) share: Option<Share>,
}

impl NoticeBatch {
    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.counted.is_none() && self.share.is_none()
    }
}

/// The channels that have something to send, over all apps of a node.
#[derive(Debug, Default)]
pub(crate) struct NoticeQueue {
    due: Mutex<VecDeque<(AppId, SmolStr)>>,
    counted: Mutex<Vec<(AppId, SmolStr)>>,
    /// Notices that wait, of all channels.
    pub(super) unsent: AtomicUsize,
    wake: Notify,
    /// Dropped when everything that waited was sent.
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
}

impl NoticeQueue {
    /// Waits until a channel has notices.
    pub(crate) async fn rung(&self) {
        self.wake.notified().await;
    }

    /// The channels that have notices, in the order in which they came to have them.
    pub(crate) fn take_due(&self) -> VecDeque<(AppId, SmolStr)> {
        std::mem::take(&mut self.due.lock())
    }

    /// Has everything sent that waits, the counts as well, and returns when that is done.
    pub(crate) async fn flush(&self) {
        let (flush, sent) = oneshot::channel();
        // This comes before the bell: the task that it wakes takes all who wait by then.
        self.flushes.lock().push(flush);
        self.wake.notify_one();
        // Nothing is sent: it is dropped.
        let _ = sent.await;
    }

    /// Those who wait until everything is sent.
    pub(crate) fn take_flushes(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.flushes.lock())
    }

    /// Whether one more notice may wait to be sent.
    fn has_room(&self) -> bool {
        self.unsent.load(Relaxed) < NOTICES_UNSENT
    }

    /// The channels that have gathered counts since the last call.
    pub(crate) fn take_counted(&self) -> Vec<(AppId, SmolStr)> {
        std::mem::take(&mut self.counted.lock())
    }
}

#[derive(Debug, Default)]
pub(super) struct PendingNotices {
    pub(super) notices: Vec<Notice>,
    counted: Option<Changes>,
    unshared: PendingShare,
    /// Notices since the window began.
    spent: u32,
    since: Option<Instant>,
    pub(super) is_due: bool,
    pub(super) is_counted: bool,
}

/// What other nodes do not know yet of the share of this one.
#[derive(Debug, Default)]
pub(super) struct PendingShare {
    is_any: bool,
    pub(super) users: AHashSet<SmolStr>,
    /// All users are to be named: those that changed were too many, or others could not be named before.
    pub(super) is_whole: bool,
}

impl PendingShare {
    fn note(&mut self, user: Option<&SmolStr>) {
        self.is_any = true;
        if let Some(user) = user.filter(|_| !self.is_whole) {
            self.users.insert(user.clone());
            if self.users.len() > USERS_NAMED {
                self.users = AHashSet::new();
                self.is_whole = true;
            }
        }
    }
}

/// What is to be sent about a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DueNotices {
    /// Its notices.
    Notices,
    /// These, and the changes that were gathered as counts.
    WithCounts,
}

impl Presence {
    /// Has other nodes notified within a second of what is here now that a connection of `member` was lost, of which
    /// nobody hears.
    pub(super) fn share_soon(&self, channel: &SmolStr, room: &mut Room, member: &Snapshot) {
        if self.register.is_some() {
            let pending = room.pending.get_or_insert_default();
            pending.unshared.note(member.user_name());
            self.gather(channel, pending);
        }
    }

    /// Has the channel reported immediately.
    fn announce(&self, channel: &SmolStr, pending: &mut PendingNotices) {
        // It is in the queue already, and will be taken with this.
        if !std::mem::replace(&mut pending.is_due, true) {
            let mut due = self.notices.due.lock();
            due.push_back((self.app, channel.clone()));
            drop(due);
            self.notices.wake.notify_one();
        }
    }

    /// Has the channel reported within a second.
    fn gather(&self, channel: &SmolStr, pending: &mut PendingNotices) {
        if !std::mem::replace(&mut pending.is_counted, true) {
            let mut counted = self.notices.counted.lock();
            counted.push((self.app, channel.clone()));
        }
    }

    pub(super) fn queue_notice(
        &self,
        channel: &SmolStr,
        room: &mut Room,
        kind: MemberKind,
        member: &Snapshot,
        join_kind: JoinKind,
    ) {
        // Nobody would hear of it, here or elsewhere.
        if self.register.is_none() && room.watchers == 0 {
            return;
        }

        // Each anonymous connection is someone of its own.
        let user_connections = match member.user_name() {
            Some(user) => room.connections_of(user),
            None => u64::from(kind != MemberKind::Left),
        };

        let few = room.connections as usize <= self.members_with_notices;
        let pending = room.pending.get_or_insert_default();
        if self.register.is_some() {
            pending.unshared.note(member.user_name());
        }

        let now = Instant::now();
        if pending
            .since
            .is_none_or(|since| now.duration_since(since) >= NOTICE_WINDOW)
        {
            pending.since = Some(now);
            pending.spent = 0;
        }

        // Those that wait are bounded too: the task that sends them may have much to do.
        let has_room = pending.notices.len() < self.notices_per_window as usize
            && pending.spent < self.notices_per_window
            && self.notices.has_room();
        if few && !room.counts_only && has_room {
            pending.spent += 1;
            self.notices.unsent.fetch_add(1, Relaxed);
            pending.notices.push(Notice {
                kind,
                member: member.clone(),
                user_connections,
                previous: join_kind.previous(),
                is_inherited: matches!(join_kind, JoinKind::Inherited(_)),
            });
            self.announce(channel, pending);
            return;
        }

        pending.counted.get_or_insert_default().count(kind, 1);
        self.gather(channel, pending);
    }

    /// Takes what is to be sent about `channel` now: its notices, and if they are `due` the changes gathered as counts.
    pub(crate) fn take_notices(&self, channel: &SmolStr, due: DueNotices) -> Option<NoticeBatch> {
        let mut rooms = self.stripe(channel).lock();
        let room = rooms.get_mut(channel)?;
        let count = room.count();
        let mut pending = room.pending.take()?;
        pending.is_due = false;
        let is_counted = due == DueNotices::WithCounts && std::mem::take(&mut pending.is_counted);
        let changes = is_counted.then(|| pending.counted.take()).flatten();
        let counted = changes.map(|changes| (changes, count));
        let notices = std::mem::take(&mut pending.notices);
        self.notices.unsent.fetch_sub(notices.len(), Relaxed);
        let is_news = pending.unshared.is_any || counted.is_some() || !notices.is_empty();
        let share = (is_news && self.register.is_some())
            .then(|| room.share_pending(&mut pending.unshared, self.named_at_most));
        room.pending = Some(pending);

        // It had stayed only for these.
        if room.is_empty() && !room.has_pending() {
            rooms.remove(channel);
            self.metrics.channels.dec();
        }

        Some(NoticeBatch {
            channel: channel.clone(),
            notices,
            counted,
            share,
        })
    }

    /// All that is in `channel` here, for another node.
    pub(crate) fn share(&self, channel: &str) -> Share {
        let rooms = self.stripe(channel).lock();
        match rooms.get(channel) {
            Some(room) => room.share(self.named_at_most),
            None => self.share_of_none(),
        }
    }

    /// The same with `user` alone.
    pub(crate) fn share_of(&self, channel: &str, user: Option<&SmolStr>) -> Share {
        let rooms = self.stripe(channel).lock();
        let mut unshared = PendingShare::default();
        unshared.note(user);
        match rooms.get(channel) {
            Some(room) => room.share_pending(&mut unshared, self.named_at_most),
            None => self.share_of_none(),
        }
    }

    /// Nothing, which is newer than all that was said of the channel, and older than what comes.
    fn share_of_none(&self) -> Share {
        Share {
            at: self.clock.load(Relaxed) - 1,
            tallies: Some(Vec::new()),
            is_whole: true,
            ..Share::default()
        }
    }
}
