//! Who is in which channel of one app, over all shards: counts, users, and what is yet to be sent to those who watch.
//!
//! Tables call this under their shard's lock whenever a membership changes, so it agrees with the indexes at every
//! moment a caller can see both. Its own locks are held for one change and never while taking another.

mod channel_list;
mod notices;
mod register;
mod room;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use ahash::RandomState;
use parking_lot::Mutex;
use smol_str::SmolStr;

use self::room::{Room, Rooms};
pub(crate) use self::{
    notices::{DueNotices, Notice, NoticeBatch, NoticeQueue},
    register::{Change, Listing, Register},
};
use super::connection::Snapshot;
use crate::{
    id::{AppId, ConnectionId},
    limits::{Limits, USERS_NAMED},
    metrics::AppMetrics,
    protocol::native::MemberKind,
};

/// Channels are spread over this many locks, so that shards rarely meet at one.
const STRIPES: usize = 16;

/// What a member hears of the others' coming and going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watching {
    /// Nothing.
    No,
    /// A notice for each, within bounds; past them, counts.
    Notices,
    /// Counts only.
    Counts,
}

/// How a connection came into a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinKind {
    New,
    /// In place of this one, which was lost.
    Resumed(ConnectionId),
    /// The same, but its node has ended, and does not report that it is no longer counted there.
    Inherited(ConnectionId),
}

impl JoinKind {
    /// The connection in whose place it comes.
    pub(crate) fn previous(self) -> Option<ConnectionId> {
        match self {
            Self::New => None,
            Self::Resumed(previous) | Self::Inherited(previous) => Some(previous),
        }
    }
}

/// How a connection left a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaveKind {
    /// It has left for good.
    Left,
    /// The same, since the connection has ended.
    Gone,
    /// It may come back; nobody is notified until it [lapses](Presence::lapsed).
    Lost,
}

/// How many are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) connections: u64,
    /// Different users behind them; anonymous connections have none.
    pub(crate) users: u64,
}

/// The channels of one app on this node. Parts of its `impl` are in `notices.rs`, `register.rs` and `channel_list.rs`.
#[derive(Debug)]
pub(crate) struct Presence {
    app: AppId,
    stripes: Box<[Mutex<Rooms>]>,
    hasher: RandomState,
    /// Numbers every change, so that a room that was empty in between is not taken for unchanged.
    clock: AtomicU64,
    notices_per_window: u32,
    members_with_notices: usize,
    /// Users of a channel that other nodes are sent by name.
    named_at_most: usize,
    notices: Arc<NoticeQueue>,
    metrics: Arc<AppMetrics>,
    /// Where every change goes as well, if other nodes may watch.
    register: Option<Register>,
}

impl Presence {
    pub(crate) fn new(
        app: AppId,
        limits: &Limits,
        notices: Arc<NoticeQueue>,
        metrics: Arc<AppMetrics>,
        register: Option<Register>,
    ) -> Self {
        Self {
            app,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            clock: AtomicU64::new(1),
            notices_per_window: limits.presence_notices,
            members_with_notices: limits.presence_members,
            // Where members are sent one by one, their users are known.
            named_at_most: limits.presence_members.max(USERS_NAMED),
            notices,
            metrics,
            register,
        }
    }

    fn stripe(&self, channel: &str) -> &Mutex<Rooms> {
        &self.stripes[self.hasher.hash_one(channel) as usize % STRIPES]
    }

    /// Notes that `member` came into `channel`; answers the name as all its members share it, and the number of the
    /// change before this one.
    pub(super) fn joined(
        &self,
        channel: &str,
        member: &Snapshot,
        watching: Watching,
        join_kind: JoinKind,
    ) -> (SmolStr, u64) {
        let mut rooms = self.stripe(channel).lock();
        let known = rooms.get_key_value(channel).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| {
            self.metrics.channels.inc();
            channel.into()
        });

        let room = rooms.entry(name.clone()).or_default();
        let user = member.user_name();
        room.enter(user);
        // Numbered over all channels: a client compares what it has seen with this.
        let before = std::mem::replace(&mut room.changed, self.clock.fetch_add(1, Relaxed));
        self.metrics.memberships.inc();
        let previous = join_kind.previous();

        let kind = match previous {
            None => MemberKind::Joined,
            Some(previous) => {
                // Else another node has settled it.
                if previous.node == member.id().node {
                    room.settle_lost(user);
                }
                MemberKind::Updated
            }
        };

        let watches = watching != Watching::No;
        self.note(&name, member, Listing::In { watches, previous });
        self.queue_notice(&name, room, kind, member, join_kind);
        // This comes last: a member hears of those who come after it, and not of itself.
        Self::watch(room, watching);

        (name, before)
    }

    /// Notes how a member watches from now on; answers the number of the channel's last change.
    pub(super) fn watched(&self, channel: &str, member: &Snapshot, watching: Watching) -> u64 {
        let mut rooms = self.stripe(channel).lock();
        let Some(room) = rooms.get_mut(channel) else {
            return 0;
        };
        Self::watch(room, watching);
        let changed = room.changed;
        if watching != Watching::No {
            self.note(&channel.into(), member, Listing::watches(true));
        }
        changed
    }

    /// Notes that a member watches no more.
    pub(super) fn unwatched(&self, channel: &str, member: &Snapshot) {
        if let Some(room) = self.stripe(channel).lock().get_mut(channel) {
            room.watchers -= 1;
            self.note(&channel.into(), member, Listing::watches(false));
        }
    }

    fn watch(room: &mut Room, watching: Watching) {
        room.watchers += u32::from(watching != Watching::No);
        room.counts_only |= watching == Watching::Counts;
    }

    /// Notes that `member` left `channel`.
    pub(super) fn left(&self, channel: &str, member: &Snapshot, watched: bool, leaving: LeaveKind) {
        self.metrics.memberships.dec();
        self.change(channel, |room, name| {
            room.watchers -= u32::from(watched);
            room.exit(member.user_name(), leaving);
            match leaving {
                LeaveKind::Left | LeaveKind::Gone => {
                    let is_over = leaving == LeaveKind::Gone;
                    self.note(name, member, Listing::Out { is_over });
                    self.queue_notice(name, room, MemberKind::Left, member, JoinKind::New);
                }
                LeaveKind::Lost => self.share_soon(name, room, member),
            }
        });
    }

    /// Notes that a lost connection will not come back to `channel`, nor to any other.
    pub(crate) fn lapsed(&self, channel: &str, member: &Snapshot) {
        self.lapse(channel, member, Listing::Out { is_over: true });
    }

    /// Notes that a lost connection will not come back to `channel`, and may to others.
    pub(crate) fn lapsed_here(&self, channel: &str, member: &Snapshot) {
        self.lapse(channel, member, Listing::Out { is_over: false });
    }

    fn lapse(&self, channel: &str, member: &Snapshot, listing: Listing) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            self.note(name, member, listing);
            self.queue_notice(name, room, MemberKind::Left, member, JoinKind::New);
        });
    }

    /// Notes that the client of a lost connection goes on by another node, which notifies the
    /// channel.
    pub(crate) fn moved(&self, channel: &str, member: &Snapshot) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            self.note(name, member, Listing::Out { is_over: true });
        });
    }

    /// Notes that what members see of `member` has changed; answers how many watch here, or none where nobody can know, since
    /// other nodes may have some. `watches` says whether the member hears of the others.
    pub(super) fn updated(
        &self,
        channel: &str,
        member: &Snapshot,
        watches: impl FnOnce() -> bool,
    ) -> Option<u32> {
        let mut watchers = 0;
        self.change(channel, |room, name| {
            watchers = room.watchers;
            if self.register.is_some() {
                self.note(name, member, Listing::watches(watches()));
            }
            self.queue_notice(name, room, MemberKind::Updated, member, JoinKind::New);
        });
        self.register.is_none().then_some(watchers)
    }

    /// Notes that `member`, anonymous so far, is a user now.
    pub(super) fn identified(&self, channel: &str, member: &Snapshot, watches: bool) {
        self.change(channel, |room, name| {
            // `enter` counts the connection again, as one of its user.
            room.connections -= 1;
            room.enter(member.user_name());
            self.note(name, member, Listing::watches(watches));
            self.queue_notice(name, room, MemberKind::Updated, member, JoinKind::New);
        });
    }

    fn change(&self, channel: &str, change: impl FnOnce(&mut Room, &SmolStr)) {
        let mut rooms = self.stripe(channel).lock();
        let Some((name, _)) = rooms.get_key_value(channel) else {
            return;
        };

        let name = name.clone();
        let Some(room) = rooms.get_mut(channel) else {
            return;
        };

        change(room, &name);
        room.changed = self.clock.fetch_add(1, Relaxed);
        // Where there are other nodes, an empty channel stays until they are notified: then `take_notices` removes it.
        if room.is_empty() && (self.register.is_none() || !room.has_pending()) {
            let pending = room.pending.take();
            let unsent = pending.map_or(0, |pending| pending.notices.len());
            self.notices.unsent.fetch_sub(unsent, Relaxed);
            rooms.remove(channel);
            self.metrics.channels.dec();
        }
    }

    /// How many are in `channel` now.
    pub(crate) fn count(&self, channel: &str) -> Count {
        self.stripe(channel)
            .lock()
            .get(channel)
            .map(Room::count)
            .unwrap_or_default()
    }

    /// Whether anyone here hears of the others in `channel`.
    pub(crate) fn is_watched(&self, channel: &str) -> bool {
        self.stripe(channel)
            .lock()
            .get(channel)
            .is_some_and(|room| room.watchers > 0)
    }

    /// How often each of `users` is in `channel`, lost connections that may come back included.
    pub(crate) fn tallies(&self, channel: &str, users: &[String]) -> Vec<u64> {
        let rooms = self.stripe(channel).lock();
        let Some(room) = rooms.get(channel) else {
            return vec![0; users.len()];
        };
        users
            .iter()
            .map(|user| room.connections_of(&user.as_str().into()))
            .collect()
    }

    /// The users in `channel`, if they are at most `most`.
    pub(crate) fn users(&self, channel: &str, most: usize) -> Option<Vec<String>> {
        let rooms = self.stripe(channel).lock();
        let Some(room) = rooms.get(channel) else {
            return Some(Vec::new());
        };
        let online = room.users.iter().filter(|(_, counts)| counts.live > 0);
        (room.online as usize <= most).then(|| online.map(|(user, _)| user.to_string()).collect())
    }

    /// A number that is another after every change of who is in `channel`.
    pub(crate) fn changed(&self, channel: &str) -> u64 {
        self.stripe(channel)
            .lock()
            .get(channel)
            .map_or(0, |room| room.changed)
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.stripes.iter().all(|stripe| stripe.lock().is_empty())
    }
}
