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

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, mpsc};

use super::connection::Snapshot;
use crate::{
    id::{AppId, ConnectionId},
    limits::{CHANNELS_COPIED, CHANNELS_LOOK, Limits, NOTICES_UNTOLD},
    metrics::AppMetrics,
    protocol::native::{Changes, MemberKind},
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
pub(crate) enum Coming {
    New,
    /// In place of this one, which was lost.
    Resumed(ConnectionId),
}

/// How a connection left a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// For good.
    Left,
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
}

/// What is to be told about one channel now.
#[derive(Debug)]
pub(crate) struct Tidings {
    pub(crate) channel: SmolStr,
    pub(crate) notices: Vec<Notice>,
    /// Changes told as counts, and how many are in the channel now.
    pub(crate) counted: Option<(Changes, Count)>,
}

/// The channels that have something to tell, over all apps of a node.
#[derive(Debug, Default)]
pub(crate) struct Bulletin {
    due: Mutex<VecDeque<(AppId, SmolStr)>>,
    counted: Mutex<Vec<(AppId, SmolStr)>>,
    /// Notices that wait, of all channels.
    untold: AtomicUsize,
    bell: Notify,
}

impl Tidings {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.counted.is_none()
    }
}

impl Bulletin {
    /// Waits until a channel has notices.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// The channels that have notices, in the order in which they came to have them.
    pub(crate) fn take_due(&self) -> VecDeque<(AppId, SmolStr)> {
        std::mem::take(&mut self.due.lock())
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
struct Tally {
    live: u32,
    lost: u32,
}

#[derive(Debug, Default)]
struct News {
    notices: Vec<Notice>,
    counted: Changes,
    /// Notices since the window began.
    spent: u32,
    since: Option<Instant>,
    is_due: bool,
    is_counted: bool,
}

#[derive(Debug, Default)]
struct Room {
    connections: u32,
    watchers: u32,
    counts_only: bool,
    /// When it last changed, by [`Presence::clock`].
    changed: u64,
    online: u32,
    users: AHashMap<SmolStr, Tally>,
    news: Option<Box<News>>,
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
        let tally = self.users.entry(user.clone()).or_default();
        tally.live += 1;
        self.online += u32::from(tally.live == 1);
    }

    fn exit(&mut self, user: Option<&SmolStr>, leaving: Leaving) {
        self.connections -= 1;
        let Some(user) = user else { return };
        let Some(tally) = self.users.get_mut(user) else {
            return;
        };
        tally.live -= 1;
        self.online -= u32::from(tally.live == 0);
        tally.lost += u32::from(leaving == Leaving::Lost);
        self.forget_if_gone(user);
    }

    /// One lost connection of `user` will not come back, or has.
    fn settle_lost(&mut self, user: Option<&SmolStr>) {
        let Some(user) = user else { return };
        let Some(tally) = self.users.get_mut(user) else {
            return;
        };
        tally.lost = tally.lost.saturating_sub(1);
        self.forget_if_gone(user);
    }

    fn forget_if_gone(&mut self, user: &SmolStr) {
        if self
            .users
            .get(user)
            .is_some_and(|tally| tally.live == 0 && tally.lost == 0)
        {
            self.users.remove(user);
        }
    }

    fn connections_of(&self, user: &SmolStr) -> u64 {
        self.users
            .get(user)
            .map_or(0, |tally| u64::from(tally.live) + u64::from(tally.lost))
    }

    fn is_empty(&self) -> bool {
        self.connections == 0 && self.users.is_empty()
    }

    /// Whether there is something to tell.
    fn has_news(&self) -> bool {
        self.news
            .as_ref()
            .is_some_and(|news| news.is_due || news.is_counted)
    }
}

type Rooms = BTreeMap<SmolStr, Room>;

/// A few channels of one stripe on their way into a list.
#[derive(Debug)]
struct Stretch<'p> {
    rooms: &'p Mutex<Rooms>,
    /// Where to look next.
    from: Bound<SmolStr>,
    found: VecDeque<(SmolStr, Count)>,
    /// There are no more.
    is_last: bool,
}

impl Stretch<'_> {
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
    bulletin: Arc<Bulletin>,
    metrics: Arc<AppMetrics>,
    /// Where every change goes as well, if other nodes may watch.
    register: Option<Register>,
}

/// A change of who is in a channel, or of what is seen of them.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) app: AppId,
    pub(crate) channel: SmolStr,
    pub(crate) kind: MemberKind,
    pub(crate) member: Snapshot,
    pub(crate) previous: Option<ConnectionId>,
}

/// Takes changes in their order, as many as may wait; that some were lost is told to who reads them.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    changes: mpsc::Sender<Change>,
    lost: Arc<AtomicBool>,
}

impl Register {
    /// A register in which `bound` changes may wait, and its other end.
    pub(crate) fn new(bound: usize) -> (Self, mpsc::Receiver<Change>) {
        let (changes, end) = mpsc::channel(bound);
        (
            Self {
                changes,
                lost: Arc::default(),
            },
            end,
        )
    }

    fn note(&self, change: Change) {
        if self.changes.try_send(change).is_err() {
            self.lost.store(true, Relaxed);
        }
    }

    /// Whether changes were lost since the last call.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.swap(false, Relaxed)
    }
}

impl Presence {
    pub(crate) fn new(
        app: AppId,
        limits: &Limits,
        bulletin: Arc<Bulletin>,
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
            bulletin,
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
        coming: Coming,
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
        let (kind, previous) = match coming {
            Coming::New => (MemberKind::Joined, None),
            Coming::Resumed(previous) => {
                // Else another node has settled it.
                if previous.node == member.id().node {
                    room.settle_lost(user);
                }
                (MemberKind::Updated, Some(previous))
            }
        };
        self.tell(&name, room, kind, member, previous);
        Self::watch(room, watching);
        (name, before)
    }

    /// Notes how a member watches from now on; answers the number of the channel's last change.
    pub(super) fn watched(&self, channel: &str, watching: Watching) -> u64 {
        let mut rooms = self.stripe(channel).lock();
        let Some(room) = rooms.get_mut(channel) else {
            return 0;
        };
        Self::watch(room, watching);
        room.changed
    }

    /// Notes that a member watches no more.
    pub(super) fn unwatched(&self, channel: &str) {
        if let Some(room) = self.stripe(channel).lock().get_mut(channel) {
            room.watchers -= 1;
        }
    }

    fn watch(room: &mut Room, watching: Watching) {
        room.watchers += u32::from(watching != Watching::No);
        room.counts_only |= watching == Watching::Counts;
    }

    /// Notes that `member` left `channel`.
    pub(super) fn left(&self, channel: &str, member: &Snapshot, watched: bool, leaving: Leaving) {
        self.metrics.memberships.dec();
        self.change(channel, |room, name| {
            room.watchers -= u32::from(watched);
            room.exit(member.user_name(), leaving);
            if leaving == Leaving::Left {
                self.tell(name, room, MemberKind::Left, member, None);
            }
        });
    }

    /// Notes that a lost connection will not come back.
    pub(crate) fn lapsed(&self, channel: &str, member: &Snapshot) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            self.tell(name, room, MemberKind::Left, member, None);
        });
    }

    /// Notes that the client of a lost connection goes on by another node, which tells the channel.
    pub(crate) fn moved(&self, channel: &str, member: &Snapshot) {
        self.change(channel, |room, name| {
            room.settle_lost(member.user_name());
            if let Some(register) = &self.register {
                let (channel, member) = (name.clone(), member.clone());
                let change = Change {
                    app: self.app,
                    channel,
                    kind: MemberKind::Left,
                    member,
                    previous: None,
                };
                register.note(change);
            }
        });
    }

    /// Notes that what members see of `member` has changed; answers how many watch here, or none where nobody can know, since
    /// other nodes may have some.
    pub(super) fn updated(&self, channel: &str, member: &Snapshot) -> Option<u32> {
        let mut watchers = 0;
        self.change(channel, |room, name| {
            watchers = room.watchers;
            self.tell(name, room, MemberKind::Updated, member, None);
        });
        self.register.is_none().then_some(watchers)
    }

    /// Notes that `member`, anonymous so far, is a user now.
    pub(super) fn identified(&self, channel: &str, member: &Snapshot) {
        self.change(channel, |room, name| {
            room.connections -= 1;
            room.enter(member.user_name());
            self.tell(name, room, MemberKind::Updated, member, None);
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
        if room.is_empty() && (self.register.is_none() || !room.has_news()) {
            let news = room.news.take();
            let untold = news.map_or(0, |news| news.notices.len());
            self.bulletin.untold.fetch_sub(untold, Relaxed);
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
        previous: Option<ConnectionId>,
    ) {
        if let Some(register) = &self.register {
            let (channel, member) = (channel.clone(), member.clone());
            register.note(Change {
                app: self.app,
                channel,
                kind,
                member,
                previous,
            });
        } else if room.watchers == 0 {
            return;
        }
        // Each anonymous connection is someone of its own.
        let user_connections = match member.user_name() {
            Some(user) => room.connections_of(user),
            None => u64::from(kind != MemberKind::Left),
        };
        let few = room.connections as usize <= self.members_with_notices;
        let news = room.news.get_or_insert_default();
        let now = Instant::now();
        if news
            .since
            .is_none_or(|since| now.duration_since(since) >= NOTICE_WINDOW)
        {
            news.since = Some(now);
            news.spent = 0;
        }
        // Those that wait are bounded too: whoever tells them may be waiting for other nodes.
        let has_room = news.notices.len() < self.notices_per_window as usize
            && news.spent < self.notices_per_window
            && self.bulletin.has_room();
        if few && !room.counts_only && has_room {
            news.spent += 1;
            self.bulletin.untold.fetch_add(1, Relaxed);
            news.notices.push(Notice {
                kind,
                member: member.clone(),
                user_connections,
                previous,
            });
            if !std::mem::replace(&mut news.is_due, true) {
                self.bulletin
                    .due
                    .lock()
                    .push_back((self.app, channel.clone()));
                self.bulletin.bell.notify_one();
            }
            return;
        }
        match kind {
            MemberKind::Joined => news.counted.joined += 1,
            MemberKind::Left => news.counted.left += 1,
            MemberKind::Updated => news.counted.updated += 1,
        }
        if !std::mem::replace(&mut news.is_counted, true) {
            self.bulletin
                .counted
                .lock()
                .push((self.app, channel.clone()));
        }
    }

    /// Takes what is to be told about `channel` now: its notices, and with `counts` the changes gathered as counts.
    pub(crate) fn take_tidings(&self, channel: &SmolStr, counts: bool) -> Option<Tidings> {
        let mut rooms = self.stripe(channel).lock();
        let room = rooms.get_mut(channel)?;
        let count = room.count();
        let news = room.news.as_mut()?;
        news.is_due = false;
        let counted = (counts && std::mem::take(&mut news.is_counted))
            .then(|| (std::mem::take(&mut news.counted), count));
        let notices = std::mem::take(&mut news.notices);
        self.bulletin.untold.fetch_sub(notices.len(), Relaxed);
        if room.is_empty() && !room.has_news() {
            rooms.remove(channel);
            self.metrics.channels.dec();
        }
        Some(Tidings {
            channel: channel.clone(),
            notices,
            counted,
        })
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

    /// The channels in which someone here hears of the others.
    pub(crate) fn watched_channels(&self) -> Vec<SmolStr> {
        let mut watched = Vec::new();
        for stripe in &self.stripes {
            let rooms = stripe.lock();
            watched.extend(
                rooms
                    .iter()
                    .filter(|(_, room)| room.watchers > 0)
                    .map(|(name, _)| name.clone()),
            );
        }
        watched
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
        let online = room.users.iter().filter(|(_, tally)| tally.live > 0);
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
        let stretch = |rooms| Stretch {
            rooms,
            from: from.clone(),
            found: VecDeque::new(),
            is_last: false,
        };
        let mut stretches: Vec<Stretch<'_>> = self.stripes.iter().map(stretch).collect();

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
        hub::{
            Connection,
            tests::{APP, context},
        },
        id::NodeId,
        predicate::{Attributes, Facts, Value},
    };

    fn member() -> Snapshot {
        let id = ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce: 0,
        };
        let facts = Facts {
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

    #[tokio::test]
    async fn channels_are_listed_in_order_a_few_of_each_stripe_at_a_time() {
        let context = context(Limits::default(), &[], SlowConsumer::Disconnect);
        let presence = &context.app(APP).presence;
        let member = member();
        let mut all: Vec<String> = (0..8000).map(|n| format!("c{n}")).collect();
        for name in all.iter().map(String::as_str).chain(["b", "d"]) {
            presence.joined(name, &member, Watching::No, Coming::New);
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
            presence.left(name, &member, false, Leaving::Lost);
        }
        assert_eq!(names(None, 9000).await, all[7999..]);
        for stripe in &presence.stripes {
            let mut stretch = Stretch {
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
