//! Who is in which channel of one app, over all shards: counts, users, and what is yet to be told to those who watch.
//!
//! Tables call this under their shard's lock whenever a membership changes, so it agrees with the indexes at every
//! moment a caller can see both. Its own locks are held for one change and never while taking another.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet, RandomState};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, mpsc, oneshot};

use super::connection::Snapshot;
use crate::{
    id::{AppId, ConnectionId},
    limits::{CHANNELS_COPIED, CHANNELS_LOOK, Limits, NOTICES_UNTOLD, SHARE_BYTES, USERS_NAMED},
    metrics::AppMetrics,
    protocol::{
        envelope::{Share, UserShare},
        native::{Changes, MemberKind},
    },
    time_slice::TimeSlice,
};

/// Channels are spread over this many locks, so that shards rarely meet at one.
const STRIPES: usize = 16;

/// Over which time notices are counted and counts are gathered.
const NOTICE_WINDOW: Duration = Duration::from_secs(1);

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
    /// The same, but its node has ended, and does not tell that it is not counted there any more.
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
    /// For good.
    Left,
    /// The same, since the connection has ended.
    Gone,
    /// It may come back; nobody is told until it [lapses](Presence::lapsed).
    Lost,
}

/// How many are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) connections: u64,
    /// Different users behind them; anonymous connections have none.
    pub(crate) users: u64,
}

/// A change of membership, to be told to those who watch.
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

/// What is to be told about one channel now.
#[derive(Debug)]
pub(crate) struct NoticeBatch {
    pub(crate) channel: SmolStr,
    pub(crate) notices: Vec<Notice>,
    /// Changes told as counts, and how many are in the channel now.
    pub(crate) counted: Option<(Changes, Count)>,
    /// What is here after that, if other nodes are to be told. There may be nothing else to tell.
    pub(crate) share: Option<Share>,
}

/// The channels that have something to tell, over all apps of a node.
#[derive(Debug, Default)]
pub(crate) struct NoticeQueue {
    due: Mutex<VecDeque<(AppId, SmolStr)>>,
    counted: Mutex<Vec<(AppId, SmolStr)>>,
    /// Notices that wait, of all channels.
    untold: AtomicUsize,
    wake: Notify,
    /// Dropped when everything that waited was told.
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
}

impl NoticeBatch {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.counted.is_none() && self.share.is_none()
    }
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

    /// Has everything told that waits, the counts as well, and returns when that is done.
    pub(crate) async fn flush(&self) {
        let (flush, told) = oneshot::channel();
        self.flushes.lock().push(flush);
        self.wake.notify_one();
        // Nothing is sent: it is dropped.
        let _ = told.await;
    }

    /// Those who wait until everything is told.
    pub(crate) fn take_flushes(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.flushes.lock())
    }

    /// Whether one more notice may wait to be told.
    fn has_room(&self) -> bool {
        self.untold.load(Relaxed) < NOTICES_UNTOLD
    }

    /// The channels that have gathered counts since the last call.
    pub(crate) fn take_counted(&self) -> Vec<(AppId, SmolStr)> {
        std::mem::take(&mut self.counted.lock())
    }
}

#[derive(Debug, Default)]
struct UserCounts {
    live: u32,
    lost: u32,
}

impl UserCounts {
    fn of(&self, user: &SmolStr) -> UserShare {
        UserShare(user.clone(), self.live, self.lost)
    }
}

#[derive(Debug, Default)]
struct PendingNotices {
    notices: Vec<Notice>,
    counted: Option<Changes>,
    unshared: PendingShare,
    /// Notices since the window began.
    spent: u32,
    since: Option<Instant>,
    is_due: bool,
    is_counted: bool,
}

/// What other nodes do not know yet of the share of this one.
#[derive(Debug, Default)]
struct PendingShare {
    is_any: bool,
    users: AHashSet<SmolStr>,
    /// All users are to be named: those that changed were too many, or others could not be named before.
    is_whole: bool,
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

#[derive(Debug, Default)]
struct Room {
    connections: u32,
    watchers: u32,
    counts_only: bool,
    /// When it last changed, by [`Presence::clock`].
    changed: u64,
    online: u32,
    /// Lost connections without a user that may come back.
    lost_anonymous: u32,
    users: AHashMap<SmolStr, UserCounts>,
    pending: Option<Box<PendingNotices>>,
}

impl Room {
    fn count(&self) -> Count {
        Count {
            connections: self.connections.into(),
            users: self.online.into(),
        }
    }

    fn enter(&mut self, user: Option<&SmolStr>) {
        self.connections += 1;
        let Some(user) = user else { return };
        let counts = self.users.entry(user.clone()).or_default();
        counts.live += 1;
        self.online += u32::from(counts.live == 1);
    }

    fn exit(&mut self, user: Option<&SmolStr>, leaving: LeaveKind) {
        self.connections -= 1;
        let Some(user) = user else {
            self.lost_anonymous += u32::from(leaving == LeaveKind::Lost);
            return;
        };
        let Some(counts) = self.users.get_mut(user) else {
            return;
        };
        counts.live -= 1;
        self.online -= u32::from(counts.live == 0);
        counts.lost += u32::from(leaving == LeaveKind::Lost);
        self.forget_if_gone(user);
    }

    /// One lost connection of `user` will not come back, or has.
    fn settle_lost(&mut self, user: Option<&SmolStr>) {
        let Some(user) = user else {
            self.lost_anonymous = self.lost_anonymous.saturating_sub(1);
            return;
        };
        let Some(counts) = self.users.get_mut(user) else {
            return;
        };
        counts.lost = counts.lost.saturating_sub(1);
        self.forget_if_gone(user);
    }

    fn forget_if_gone(&mut self, user: &SmolStr) {
        if self
            .users
            .get(user)
            .is_some_and(|counts| counts.live == 0 && counts.lost == 0)
        {
            self.users.remove(user);
        }
    }

    fn connections_of(&self, user: &SmolStr) -> u64 {
        self.users
            .get(user)
            .map_or(0, |counts| u64::from(counts.live) + u64::from(counts.lost))
    }

    /// Whether nobody is here, and nobody may come back: what becomes of a lost connection is told until then.
    fn is_empty(&self) -> bool {
        self.connections == 0 && self.users.is_empty() && self.lost_anonymous == 0
    }

    /// All that is here. Users are named if they are at most `most`, and their names have at most [`SHARE_BYTES`].
    fn share(&self, most: usize) -> Share {
        let bytes = || self.users.keys().map(SmolStr::len).sum::<usize>();
        let is_named = self.users.len() <= most && bytes() <= SHARE_BYTES;
        let all = || self.users.iter().map(|(user, counts)| counts.of(user));
        Share {
            at: self.changed,
            connections: self.connections.into(),
            users: self.online.into(),
            tallies: is_named.then(|| all().collect()),
            is_whole: true,
        }
    }

    /// The same with those users alone that other nodes do not know of yet.
    fn share_pending(&self, unshared: &mut PendingShare, most: usize) -> Share {
        let PendingShare {
            users, is_whole, ..
        } = std::mem::take(unshared);

        if is_whole || self.users.len() > most {
            let share = self.share(most);
            unshared.is_whole = share.tallies.is_none();
            return share;
        }

        let of = |user: SmolStr| {
            let counts = self.users.get(&user);
            counts.map_or_else(|| UserShare(user.clone(), 0, 0), |counts| counts.of(&user))
        };

        Share {
            tallies: Some(users.into_iter().map(of).collect()),
            is_whole: false,
            ..self.share(0)
        }
    }

    /// Whether there is something to tell.
    fn has_pending(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| pending.is_due || pending.is_counted)
    }
}

type Rooms = BTreeMap<SmolStr, Room>;

/// A few channels of one stripe on their way into a list.
#[derive(Debug)]
struct StripeChannels<'p> {
    rooms: &'p Mutex<Rooms>,
    /// Where to look next.
    from: Bound<SmolStr>,
    found: VecDeque<(SmolStr, Count)>,
    /// There are no more.
    is_last: bool,
}

impl StripeChannels<'_> {
    fn first(&self) -> Option<&SmolStr> {
        self.found.front().map(|(name, _)| name)
    }

    /// Finds up to `most` further channels that begin with `prefix` and that someone is in, or fewer: one hold looks at a few.
    fn look(&mut self, prefix: &str, most: usize) {
        let rooms = self.rooms.lock();
        let from = self.from.as_ref().map(SmolStr::as_str);
        let mut range = rooms.range::<str, _>((from, Bound::Unbounded));
        let mut last = None;

        for _ in 0..CHANNELS_LOOK {
            let next = range.next().filter(|(name, _)| name.starts_with(prefix));
            let Some((name, room)) = next else {
                self.is_last = true;
                return;
            };

            last = Some(name);
            if room.connections > 0 {
                self.found.push_back((name.clone(), room.count()));
                if self.found.len() >= most.min(CHANNELS_COPIED) {
                    break;
                }
            }
        }

        if let Some(last) = last {
            self.from = Bound::Excluded(last.clone());
        }
    }
}

/// The channels of one app on this node.
#[derive(Debug)]
pub(crate) struct Presence {
    app: AppId,
    stripes: Box<[Mutex<Rooms>]>,
    hasher: RandomState,
    /// Numbers every change, so that a room that was empty in between is not taken for unchanged.
    clock: AtomicU64,
    notices_per_window: u32,
    members_with_notices: usize,
    /// Users of a channel that other nodes are told by name.
    named_at_most: usize,
    notices: Arc<NoticeQueue>,
    metrics: Arc<AppMetrics>,
    /// Where every change goes as well, if other nodes may watch.
    register: Option<Register>,
}

/// A change of who is in a channel, or of what is known of them, for the node's list of members.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) app: AppId,
    pub(crate) channel: SmolStr,
    /// The member before or after the change: its channels may lack this one, or still have it.
    pub(crate) member: Snapshot,
    pub(crate) listing: Listing,
}

/// What becomes of a member in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// It is in the channel.
    In {
        /// It hears of the others.
        watches: bool,
        /// The lost connection that it stands in for.
        previous: Option<ConnectionId>,
    },
    /// It is not any more.
    Out {
        /// Nobody comes back in its place to any channel.
        is_over: bool,
    },
}

/// Takes changes in their order, as many as may wait; that some were lost is told to who reads them.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    changes: mpsc::Sender<Change>,
    lost: Arc<AtomicBool>,
    noted: Arc<AtomicU64>,
}

impl Register {
    /// A register in which `bound` changes may wait, and its other end.
    pub(crate) fn new(bound: usize) -> (Self, mpsc::Receiver<Change>) {
        let (changes, end) = mpsc::channel(bound);
        (
            Self {
                changes,
                lost: Arc::default(),
                noted: Arc::default(),
            },
            end,
        )
    }

    fn note(&self, change: Change) {
        if self.changes.try_send(change).is_err() {
            self.lost.store(true, Relaxed);
        } else {
            self.noted.fetch_add(1, Relaxed);
        }
    }

    /// How many changes were noted so far, without those that were lost.
    pub(crate) fn noted(&self) -> u64 {
        self.noted.load(Relaxed)
    }

    /// Whether changes were lost since the last call.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.swap(false, Relaxed)
    }
}

impl Listing {
    /// A member is one still, and hears of the others or not.
    fn watches(watches: bool) -> Self {
        Self::In {
            watches,
            previous: None,
        }
    }
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
            // Where members are told one by one, their users are known.
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
        self.tell(&name, room, kind, member, join_kind);
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
                    self.tell(name, room, MemberKind::Left, member, JoinKind::New);
                }
                LeaveKind::Lost => self.share_soon(name, room, member),
            }
        });
    }

    /// Notes that a lost connection will not come back to `channel`; if it `is_over`, nor to any other.
    pub(crate) fn lapsed(&self, channel: &str, member: &Snapshot, is_over: bool) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            self.note(name, member, Listing::Out { is_over });
            self.tell(name, room, MemberKind::Left, member, JoinKind::New);
        });
    }

    /// Notes that the client of a lost connection goes on by another node, which tells the channel.
    pub(crate) fn moved(&self, channel: &str, member: &Snapshot) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            self.note(name, member, Listing::Out { is_over: true });
        });
    }

    /// Has the node's list of members changed, if there is one.
    fn note(&self, channel: &SmolStr, member: &Snapshot, listing: Listing) {
        if let Some(register) = &self.register {
            register.note(Change {
                app: self.app,
                channel: channel.clone(),
                member: member.clone(),
                listing,
            });
        }
    }

    /// Has other nodes told within a second of what is here now that a connection of `member` was lost, of which nobody hears.
    fn share_soon(&self, channel: &SmolStr, room: &mut Room, member: &Snapshot) {
        if self.register.is_some() {
            let pending = room.pending.get_or_insert_default();
            pending.unshared.note(member.user_name());
            self.gather(channel, pending);
        }
    }

    /// Has the channel told of at once.
    fn announce(&self, channel: &SmolStr, pending: &mut PendingNotices) {
        if !std::mem::replace(&mut pending.is_due, true) {
            let mut due = self.notices.due.lock();
            due.push_back((self.app, channel.clone()));
            drop(due);
            self.notices.wake.notify_one();
        }
    }

    /// Has the channel told of within a second.
    fn gather(&self, channel: &SmolStr, pending: &mut PendingNotices) {
        if !std::mem::replace(&mut pending.is_counted, true) {
            let mut counted = self.notices.counted.lock();
            counted.push((self.app, channel.clone()));
        }
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
            self.tell(name, room, MemberKind::Updated, member, JoinKind::New);
        });
        self.register.is_none().then_some(watchers)
    }

    /// Notes that `member`, anonymous so far, is a user now.
    pub(super) fn identified(&self, channel: &str, member: &Snapshot, watches: bool) {
        self.change(channel, |room, name| {
            room.connections -= 1;
            room.enter(member.user_name());
            self.note(name, member, Listing::watches(watches));
            self.tell(name, room, MemberKind::Updated, member, JoinKind::New);
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
        if room.is_empty() && (self.register.is_none() || !room.has_pending()) {
            let pending = room.pending.take();
            let untold = pending.map_or(0, |pending| pending.notices.len());
            self.notices.untold.fetch_sub(untold, Relaxed);
            rooms.remove(channel);
            self.metrics.channels.dec();
        }
    }

    fn tell(
        &self,
        channel: &SmolStr,
        room: &mut Room,
        kind: MemberKind,
        member: &Snapshot,
        join_kind: JoinKind,
    ) {
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

        // Those that wait are bounded too: whoever tells them may have much to do.
        let has_room = pending.notices.len() < self.notices_per_window as usize
            && pending.spent < self.notices_per_window
            && self.notices.has_room();
        if few && !room.counts_only && has_room {
            pending.spent += 1;
            self.notices.untold.fetch_add(1, Relaxed);
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

    /// Takes what is to be told about `channel` now: its notices, and with `counts` the changes gathered as counts.
    pub(crate) fn take_notices(&self, channel: &SmolStr, counts: bool) -> Option<NoticeBatch> {
        let mut rooms = self.stripe(channel).lock();
        let room = rooms.get_mut(channel)?;
        let count = room.count();
        let mut pending = room.pending.take()?;
        pending.is_due = false;
        let is_counted = counts && std::mem::take(&mut pending.is_counted);
        let changes = is_counted.then(|| pending.counted.take()).flatten();
        let counted = changes.map(|changes| (changes, count));
        let notices = std::mem::take(&mut pending.notices);
        self.notices.untold.fetch_sub(notices.len(), Relaxed);
        let is_news = pending.unshared.is_any || counted.is_some() || !notices.is_empty();
        let share = (is_news && self.register.is_some())
            .then(|| room.share_pending(&mut pending.unshared, self.named_at_most));
        room.pending = Some(pending);

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

    /// Up to `limit` channels whose names begin with `prefix` and come after `after`, in the order of their names.
    ///
    /// Looks at [`CHANNELS_LOOK`] channels under one hold of a stripe's lock, and lets other tasks run in between: there may be
    /// many in which nobody is any more, but for users who may come back.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(SmolStr, Count)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.into()),
            _ => Bound::Included(prefix.into()),
        };

        let stretch = |rooms| StripeChannels {
            rooms,
            from: from.clone(),
            found: VecDeque::new(),
            is_last: false,
        };

        let mut stretches: Vec<StripeChannels<'_>> = self.stripes.iter().map(stretch).collect();

        // Each stripe is in order, so the next name of all is the first of one of them.
        let (mut found, mut slice) = (Vec::new(), TimeSlice::begin());
        while found.len() < limit {
            for stretch in &mut stretches {
                while stretch.found.is_empty() && !stretch.is_last {
                    stretch.look(prefix, limit - found.len());
                    slice.rest().await;
                }
            }

            let first = stretches
                .iter_mut()
                .filter(|stretch| !stretch.found.is_empty())
                .min_by(|a, b| a.first().cmp(&b.first()));
            let Some(first) = first else { break };
            found.extend(first.found.pop_front());
            slice.rest().await;
        }

        found
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.stripes.iter().all(|stripe| stripe.lock().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SlowConsumer,
        filter::{Attributes, ConnectionInfo, Value},
        hub::{
            Connection,
            tests::{APP, context},
        },
        id::NodeId,
    };

    fn member() -> Snapshot {
        let id = ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce: 0,
        };
        let facts = ConnectionInfo {
            id,
            device: None,
            ip: [127, 0, 0, 1].into(),
            protocol: "test",
            connected_at: 0,
            node: "n".into(),
        };
        let mut attributes = Attributes::new(facts);
        attributes.user = Value::String("u".into());
        Arc::new(Connection::new(APP, attributes, Arc::default()))
    }

    #[test]
    fn the_last_in_a_channel_leaves_it_when_it_does_not_come_back_whoever_it_is() {
        for user in [Value::String("u".into()), Value::Null] {
            let mut member = member();
            Arc::make_mut(&mut member).attributes.user = user.clone();
            let (register, mut changes) = Register::new(8);
            let limits = Limits::default();
            let context = context(limits.clone(), &[], SlowConsumer::Disconnect);
            let metrics = context.app(APP).metrics.clone();
            let presence = Presence::new(APP, &limits, Arc::default(), metrics, Some(register));

            presence.joined("c", &member, Watching::No, JoinKind::New);
            presence.left("c", &member, false, LeaveKind::Lost);
            let told = presence.take_notices(&"c".into(), true).unwrap();
            assert_eq!(told.notices.len(), 1, "{user:?} has joined");

            presence.lapsed("c", &member, true);
            let told = presence.take_notices(&"c".into(), true).unwrap();
            assert_eq!(told.notices[0].kind, MemberKind::Left, "{user:?}");
            assert!(presence.is_empty(), "{user:?}");
            let last = std::iter::from_fn(|| changes.try_recv().ok()).last();
            assert_eq!(last.unwrap().listing, Listing::Out { is_over: true });
        }
    }

    #[tokio::test]
    async fn channels_are_listed_in_order_a_few_of_each_stripe_at_a_time() {
        let context = context(Limits::default(), &[], SlowConsumer::Disconnect);
        let presence = &context.app(APP).presence;
        let member = member();
        let mut all: Vec<String> = (0..8000).map(|n| format!("c{n}")).collect();
        for name in all.iter().map(String::as_str).chain(["b", "d"]) {
            presence.joined(name, &member, Watching::No, JoinKind::New);
        }
        all.sort_unstable();

        let names = async |after: Option<&str>, limit| -> Vec<String> {
            let found = presence.list("c", after, limit).await;
            found.iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(names(None, 9000).await, all);
        assert_eq!(names(None, 1000).await, all[..1000]);
        assert_eq!(names(Some(&all[999]), 7).await, all[1000..1007]);
        assert_eq!(names(Some("c"), 1).await, all[..1]);
        assert!(names(Some("d"), 1).await.is_empty());

        // Nobody is in them but a user who may come back.
        for name in &all[..7999] {
            presence.left(name, &member, false, LeaveKind::Lost);
        }
        assert_eq!(names(None, 9000).await, all[7999..]);
        for stripe in &presence.stripes {
            let mut stretch = StripeChannels {
                rooms: stripe,
                from: Bound::Unbounded,
                found: VecDeque::new(),
                is_last: false,
            };
            let rooms = stripe.lock().len();
            let mut looks = 0;
            while !stretch.is_last {
                stretch.look("", 10);
                looks += 1;
            }
            assert!(rooms > CHANNELS_LOOK && looks > rooms / CHANNELS_LOOK);
        }
    }
}
