//! Connections that were lost a short time ago, and may come back to their channels.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{
    connection::{Connection, Snapshot},
    returning::{HeldOff, Returning},
    scan::Spent,
};
use crate::{
    filter::{Judged, Value, Verdict},
    id::{AppId, ConnectionId},
    limits::{LAPSED_CHANNELS, LOST_MAX, SCAN_CHUNK},
};

/// Protocols whose clients come back as others: a lost connection of theirs has left immediately.
const NEVER_RESUMING: [&str; 2] = ["altogic", "agnost"];

/// A connection that neither its client nor a caller has ended, with the channels it may come back to.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) connection: Snapshot,
    /// The channels in which it heard of the others.
    pub(crate) watched: Vec<SmolStr>,
    /// Which loss of its queue it is, counted since the start.
    number: u64,
}

/// Connections that were lost a short time ago, and those whose clients closed them and are still counted in some channels.
///
/// Each time that a channel may wait has a queue of its own, so that the first of a queue is always the next to lapse. A connection
/// whose channels wait for different times is in several queues, with other channels in each.
#[derive(Debug)]
pub(crate) struct ResumeTable {
    /// The first is for lost connections.
    queues: Box<[Queue]>,
    /// Those whose clients have come back.
    returning: Returning,
    successors: Mutex<Successors>,
}

/// Which connections have taken the places of which others a short time ago.
#[derive(Debug, Default)]
struct Successors {
    by_id: AHashMap<ConnectionId, ConnectionId>,
    in_order: VecDeque<(Instant, ConnectionId)>,
}

impl Successors {
    /// Notes that `new` has taken the place of `old`. Forgets what was noted more than `window` ago, and the oldest beyond
    /// [`LOST_MAX`].
    fn note(&mut self, old: ConnectionId, new: ConnectionId, window: Duration) {
        while let Some((since, first)) = self.in_order.front().copied()
            && (since.elapsed() > window || self.in_order.len() >= LOST_MAX)
        {
            self.in_order.pop_front();
            self.by_id.remove(&first);
        }

        if self.by_id.insert(old, new).is_none() {
            self.in_order.push_back((Instant::now(), old));
        }
    }

    /// The last that has taken the place of `id`. Each is newer than the one before it, so that there is a last.
    fn last(&self, id: &ConnectionId) -> Option<ConnectionId> {
        let mut last = self.by_id.get(id)?;
        while let Some(next) = self.by_id.get(last) {
            last = next;
        }
        Some(*last)
    }
}

/// Connections that may come back within one time.
#[derive(Debug)]
struct Queue {
    window: Duration,
    lost: Mutex<DetachedConnections>,
}

/// Which of the queues a channel waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueAt(usize);

/// A channel of a lost connection.
#[derive(Clone, Debug)]
pub(crate) struct LostChannel {
    pub(crate) name: SmolStr,
    /// It was notified of the channel's members.
    pub(crate) watched: bool,
}

/// Who a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey<'a> {
    pub(crate) app: AppId,
    pub(crate) user: Option<&'a str>,
    pub(crate) device: Option<&'a str>,
}

#[derive(Debug, Default)]
struct DetachedConnections {
    by_id: AHashMap<ConnectionId, Detached>,
    /// By `AppId`, how many of them are an app's.
    of_apps: Box<[usize]>,
    in_order: VecDeque<(Instant, ConnectionId)>,
    /// Which loss the first of `in_order` is, counted since the start.
    first: u64,
    /// Where closed ones wait, whose clients come back without saying in whose place: a hash of client and channel, and the
    /// number of the loss. Any number of them may be of one client, and wait in one channel.
    places: BTreeSet<(u64, u64)>,
    hasher: RandomState,
}

impl DetachedConnections {
    fn place(&self, client: ClientKey<'_>, channel: &str) -> u64 {
        self.hasher.hash_one((client, channel))
    }

    /// The oldest one of `client` that waits in `channel`.
    fn waiting_in(&self, client: ClientKey<'_>, channel: &str) -> Option<ConnectionId> {
        let place = self.place(client, channel);
        let mut waiting = self.places.range((place, 0)..=(place, u64::MAX));
        // Of two places with the same hash, the other one's are passed over.
        waiting.find_map(|(_, number)| {
            let (_, id) = self.in_order.get((number - self.first) as usize)?;
            let one = &self.by_id.get(id)?.connection;
            (one.client() == client && one.is_in(channel)).then_some(*id)
        })
    }

    fn insert(&mut self, mut lost: Detached, is_closed: bool) {
        lost.number = self.first + self.in_order.len() as u64;
        let connection = &lost.connection;
        if is_closed {
            for channel in connection.channels() {
                let place = self.place(connection.client(), channel);
                self.places.insert((place, lost.number));
            }
        }
        self.of_apps[usize::from(connection.app.0)] += 1;
        self.in_order.push_back((Instant::now(), connection.id()));
        self.by_id.insert(connection.id(), lost);
    }

    fn remove(&mut self, id: &ConnectionId) -> Option<Detached> {
        let lost = self.by_id.remove(id)?;
        self.of_apps[usize::from(lost.connection.app.0)] -= 1;
        // Most apps have no channels in which closed ones wait.
        if !self.places.is_empty() {
            for channel in lost.connection.channels() {
                let place = self.place(lost.connection.client(), channel);
                self.places.remove(&(place, lost.number));
            }
        }
        Some(lost)
    }

    /// Takes the one with `id` out of `channel`.
    fn take_out(&mut self, id: &ConnectionId, channel: &str) {
        let Some(lost) = self.by_id.get_mut(id) else {
            return;
        };
        let client = lost.connection.client();
        let place = self.hasher.hash_one((client, channel));
        self.places.remove(&(place, lost.number));
        lost.take_out(channel);
    }
}

/// What became of taking a lost connection out of a channel.
#[derive(Debug)]
pub(super) enum Left {
    /// It was in the channel, and is not any longer.
    Done,
    /// It has changed since it was looked at.
    Changed(Snapshot),
    /// It has come back, or its time is over.
    Gone,
}

impl ResumeTable {
    /// One for `apps` apps in which lost connections wait for `resume_window`, and closed ones in a channel for one of
    /// `leave_after`.
    pub(crate) fn new(
        apps: usize,
        resume_window: Duration,
        leave_after: impl IntoIterator<Item = Duration>,
    ) -> Self {
        let times: BTreeSet<Duration> = leave_after
            .into_iter()
            .filter(|time| !time.is_zero())
            .collect();
        let queue = |window| Queue {
            window,
            lost: Mutex::new(DetachedConnections {
                of_apps: vec![0; apps].into(),
                ..DetachedConnections::default()
            }),
        };

        Self {
            queues: std::iter::once(resume_window)
                .chain(times)
                .map(queue)
                .collect(),
            returning: Returning::default(),
            successors: Mutex::default(),
        }
    }

    /// Where a lost connection like this one waits, if it may come back: someone must be able to prove to be its client.
    pub(super) fn queue_of_lost(&self, connection: &Connection) -> Option<QueueAt> {
        self.room(0, connection)
    }

    /// Where a closed connection like this one waits in a channel for `leave_after`.
    pub(super) fn queue_of_closed(
        &self,
        connection: &Connection,
        leave_after: Duration,
    ) -> Option<QueueAt> {
        let at = self.queues[1..]
            .iter()
            .position(|queue| queue.window == leave_after)?;
        self.room(at + 1, connection)
    }

    fn room(&self, at: usize, connection: &Connection) -> Option<QueueAt> {
        let queue = &self.queues[at];
        let is_known = connection.user().is_some() || connection.device().is_some();
        let comes_back = !NEVER_RESUMING.contains(&connection.attributes.connection.protocol);
        // Looked at last, since it takes the queue's lock.
        let has_room = || has_room(&queue.lost.lock().of_apps, connection.app);
        (is_known && comes_back && !queue.window.is_zero() && has_room()).then_some(QueueAt(at))
    }

    pub(super) fn insert(&self, QueueAt(at): QueueAt, lost: Detached) {
        let is_closed = at > 0;
        self.queues[at].lost.lock().insert(lost, is_closed);
    }

    /// Takes the connection `id` out for a client who proves to be its own, with all channels in which it still waits. Its
    /// place in each is to be [claimed](ResumeTable::claim) or [given up](ResumeTable::give_up).
    pub(crate) fn take(
        &self,
        id: &ConnectionId,
        proof: impl Fn(&Connection) -> bool,
    ) -> Option<Detached> {
        // Before the queues, so that a search finds the connection there or here.
        let mut returning = self.returning.lock();
        let mut taken: Option<Detached> = None;
        for queue in &self.queues {
            let mut detached = queue.lost.lock();
            if !detached
                .by_id
                .get(id)
                .is_some_and(|one| proof(&one.connection))
            {
                continue;
            }

            let Some(more) = detached.remove(id) else {
                continue;
            };

            match &mut taken {
                None => taken = Some(more),
                Some(taken) => {
                    let names = taken.connection.channel_names();
                    let all = names.chain(more.connection.channel_names()).cloned();
                    let all = all.map(Value::String).collect();
                    Arc::make_mut(&mut taken.connection).attributes.channels = Value::List(all);
                    taken.watched.extend(more.watched);
                }
            }
        }

        if let Some(Detached { connection, .. }) = &taken {
            let channels: Vec<SmolStr> = connection.channel_names().cloned().collect();
            returning.add(connection, &channels);
        }

        taken
    }

    /// Notes that the client of `old` has come back as `new`.
    pub(crate) fn note_successor(&self, old: ConnectionId, new: ConnectionId) {
        let [lost, ..] = &*self.queues else { return };
        self.successors.lock().note(old, new, lost.window);
    }

    /// Takes the connection out that has taken the place of `id`, as [`ResumeTable::take`] does, if it is lost by now. Its client
    /// may not know of it: its welcome was lost on its way.
    pub(crate) fn take_successor(
        &self,
        id: &ConnectionId,
        proof: impl Fn(&Connection) -> bool,
    ) -> Option<Detached> {
        let last = self.successors.lock().last(id)?;
        self.take(&last, proof)
    }

    /// Notes that a client is about to take the places of `lost`, a connection of another node, in `channels`. Each is to be
    /// [claimed](ResumeTable::claim) or [given up](ResumeTable::give_up), as those that were taken from here.
    pub(crate) fn expect(&self, lost: &Snapshot, channels: &[SmolStr]) {
        self.returning.lock().add(lost, channels);
    }

    /// Claims the place of the returning connection `id` in `channel`, under the lock in which its client takes it. False if
    /// it was taken out of the channel. `None` if that is just being done to some, which is to be waited for.
    pub(crate) fn claim(&self, id: &ConnectionId, channel: (AppId, &str)) -> Option<bool> {
        self.returning.claim(id, channel)
    }

    /// Gives up the place of the returning connection `id` in `channel`; false if it was taken out of the channel before.
    pub(crate) fn give_up(&self, id: &ConnectionId, channel: &str) -> bool {
        self.returning.give_up(id, channel)
    }

    /// Holds returning clients off `channel` while some are taken out of it, wherever they are: else one could be lost,
    /// or come back where the search has been.
    pub(crate) fn hold_off(&self, app: AppId, channel: &str) -> HeldOff<'_> {
        self.returning.hold_off(app, channel)
    }

    /// Takes a closed connection of this client out of `channel`, in which it is still counted. Returns it as it was; its
    /// place is to be claimed or given up.
    pub(crate) fn take_place(&self, client: ClientKey<'_>, channel: &str) -> Option<Detached> {
        let mut returning = self.returning.lock();
        for queue in &self.queues[1..] {
            let mut detached = queue.lost.lock();
            let Some(id) = detached.waiting_in(client, channel) else {
                continue;
            };
            let Some(one) = detached.by_id.get(&id) else {
                continue;
            };

            let was = Detached {
                connection: one.connection.clone(),
                watched: one.watched.clone(),
                number: one.number,
            };

            returning.add(&was.connection, &[channel.into()]);
            detached.take_out(&id, channel);
            if was.connection.channels().all(|other| other == channel) {
                detached.remove(&id);
            }

            return Some(was);
        }

        None
    }

    /// Takes `channel` from those lost ones in it for which `is_meant` says [`Verdict::Match`], and gives each to `left` as
    /// it was; returns how many. Those whose clients are about to take their places are among them.
    ///
    /// Connections are judged as snapshots and outside the lock, which shards wait for; the thread turns to other work
    /// between two slices.
    pub(crate) async fn leave(
        &self,
        channel: &str,
        is_meant: impl Fn(&Connection) -> Judged,
        left: impl FnMut(&Snapshot),
    ) -> u64 {
        let mut leave = Leave {
            channel,
            is_meant,
            left,
            count: 0,
        };

        let mut from = (0, 0);
        while let Some((queue, some)) = self.some(&mut from, |lost| lost.connection.clone()) {
            leave
                .take_out(some, |one| queue.take_out(one, channel))
                .await;
        }

        // After the queues: who is taken out of one in the meantime is found here.
        let returning = self.returning.of(channel);
        leave
            .take_out(returning, |one| self.returning.take_out(one, channel))
            .await;
        leave.count
    }

    /// What `of` says of up to [`SCAN_CHUNK`] of those who may come back, from a queue and a loss of it on, which then are the
    /// next ones. `None` at the end.
    fn some<T>(
        &self,
        from: &mut (usize, u64),
        of: impl Fn(&Detached) -> T + Copy,
    ) -> Option<(&Queue, Vec<T>)> {
        loop {
            let queue = self.queues.get(from.0)?;
            if let Some(some) = queue.some(&mut from.1, of) {
                return Some((queue, some));
            }
            *from = (from.0 + 1, 0);
        }
    }

    /// Those who may come back, with the channels in which they heard of the others. The thread turns to other work between two
    /// slices.
    pub(crate) async fn all(&self) -> Vec<(Snapshot, Vec<SmolStr>)> {
        let (mut from, mut all) = ((0, 0), Vec::new());
        let of = |lost: &Detached| (lost.connection.clone(), lost.watched.clone());
        while let Some((_, some)) = self.some(&mut from, of) {
            all.extend(some);
            tokio::task::yield_now().await;
        }
        all
    }

    /// Those whose clients are about to take their places, with the channels that they have yet to take, also connections of
    /// other nodes. Called after [`ResumeTable::all`] it has who comes back meanwhile.
    pub(crate) fn returning(&self) -> Vec<Snapshot> {
        self.returning.all()
    }

    /// Those whose time to come back is over, or the first of them: of each queue [`SCAN_CHUNK`] at most, or as many as wait in
    /// [`LAPSED_CHANNELS`].
    pub(crate) fn take_lapsed(&self) -> Vec<Detached> {
        self.queues.iter().flat_map(Queue::take_lapsed).collect()
    }
}

/// Lost connections on their way out of a channel.
struct Leave<'l, M, L> {
    channel: &'l str,
    is_meant: M,
    left: L,
    /// How many were taken out.
    count: u64,
}

impl<M: Fn(&Connection) -> Judged, L: FnMut(&Snapshot)> Leave<'_, M, L> {
    /// Takes out those of `some` who are meant, and lets others work then.
    async fn take_out(&mut self, some: Vec<Snapshot>, take_out: impl Fn(&Snapshot) -> Left) {
        let mut spent = Spent::default();
        for mut lost in some {
            while lost.is_in(self.channel) {
                let Judged { verdict, work } = (self.is_meant)(&lost);
                if spent.add(work) {
                    // The rest waits until others of the thread have worked.
                    tokio::task::yield_now().await;
                    spent = Spent::default();
                }

                if verdict != Verdict::Match {
                    break;
                }

                match take_out(&lost) {
                    Left::Done => {
                        (self.left)(&lost);
                        self.count += 1;
                        break;
                    }
                    Left::Changed(now) => lost = now,
                    Left::Gone => break,
                }
            }
        }

        tokio::task::yield_now().await;
    }
}

impl Queue {
    /// What `of` says of up to [`SCAN_CHUNK`] of those who may come back, from loss number `from` on, which then is the next
    /// one's. `None` at the end.
    fn some<T>(&self, from: &mut u64, of: impl Fn(&Detached) -> T) -> Option<Vec<T>> {
        let detached = self.lost.lock();
        let skipped = usize::try_from(from.saturating_sub(detached.first)).ok()?;
        let ids = detached.in_order.iter().skip(skipped).take(SCAN_CHUNK);
        if ids.len() == 0 {
            return None;
        }
        *from = detached.first + (skipped + ids.len()) as u64;
        let lost = ids.filter_map(|(_, id)| detached.by_id.get(id));
        Some(lost.map(of).collect())
    }

    /// Takes a lost connection out of `channel`, unless it is no longer what it was when it was looked at.
    fn take_out(&self, seen: &Snapshot, channel: &str) -> Left {
        let mut detached = self.lost.lock();
        let Some(lost) = detached.by_id.get(&seen.id()) else {
            return Left::Gone;
        };
        if !Arc::ptr_eq(&lost.connection, seen) {
            return Left::Changed(lost.connection.clone());
        }
        detached.take_out(&seen.id(), channel);
        Left::Done
    }

    fn take_lapsed(&self) -> Vec<Detached> {
        let mut detached = self.lost.lock();
        let (mut lapsed, mut channels) = (Vec::new(), 0);
        while let Some((since, id)) = detached.in_order.front().copied() {
            let is_full = lapsed.len() == SCAN_CHUNK || channels >= LAPSED_CHANNELS;
            if since.elapsed() < self.window || is_full {
                break;
            }
            let one = detached.remove(&id);
            detached.in_order.pop_front();
            detached.first += 1;
            channels += one
                .as_ref()
                .map_or(0, |one| one.connection.channels().count());
            lapsed.extend(one);
        }

        lapsed
    }
}

impl Detached {
    /// A connection that still waits in `channels`, each with whether it heard of the others there.
    pub(super) fn in_some(connection: &Snapshot, channels: Vec<LostChannel>) -> Self {
        let watched = channels.iter().filter(|channel| channel.watched);
        let watched = watched.map(|channel| channel.name.clone()).collect();
        let mut connection = connection.clone();
        if channels.len() < connection.channel_names().count() {
            let names = channels.into_iter();
            let names = names.map(|channel| Value::String(channel.name));
            Arc::make_mut(&mut connection).attributes.channels = Value::List(names.collect());
        }
        Self {
            connection,
            watched,
            number: 0,
        }
    }

    fn take_out(&mut self, channel: &str) {
        let rest = self
            .connection
            .channel_names()
            .filter(|name| ***name != *channel);
        let rest = rest.map(|name| Value::String(name.clone())).collect();
        Arc::make_mut(&mut self.connection).attributes.channels = Value::List(rest);
    }
}

/// Whether one more of `app` may wait where `of_apps` do, by `AppId`. An app always has its share: what others lose beyond
/// theirs is taken from the common half.
pub(crate) fn has_room(of_apps: &[usize], app: AppId) -> bool {
    let share = LOST_MAX / 2 / of_apps.len();
    let common = LOST_MAX - share * of_apps.len();
    let beyond = || -> usize { of_apps.iter().map(|of| of.saturating_sub(share)).sum() };
    of_apps[usize::from(app.0)] < share || beyond() < common
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);

    fn lost(device: &str, slot: u32, channels: &[&str]) -> Detached {
        let connection = crate::hub::tests::unconnected(device, slot);
        let channels = channels.iter().map(|name| LostChannel {
            name: (*name).into(),
            watched: false,
        });
        let mut connection = Arc::new(connection);
        let names: Vec<Value> = channels
            .clone()
            .map(|channel| Value::String(channel.name))
            .collect();
        Arc::make_mut(&mut connection).attributes.channels = Value::List(names.into());
        Detached::in_some(&connection, channels.collect())
    }

    #[test]
    fn an_app_has_its_share_whatever_others_lose() {
        let mut of_apps = [0, 0, 0];
        while has_room(&of_apps, AppId(0)) {
            of_apps[0] += 1;
        }
        let share = LOST_MAX / 2 / 3;
        assert_eq!(
            of_apps[0],
            LOST_MAX - 2 * share,
            "its share, and the common half"
        );
        for app in [1, 2] {
            while has_room(&of_apps, AppId(app)) {
                of_apps[usize::from(app)] += 1;
            }
            assert_eq!(of_apps[usize::from(app)], share);
        }
        assert_eq!(of_apps.iter().sum::<usize>(), LOST_MAX);

        let mut alone = [LOST_MAX - 1];
        assert!(has_room(&alone, AppId(0)));
        alone[0] += 1;
        assert!(!has_room(&alone, AppId(0)));
    }

    #[test]
    fn a_client_comes_back_to_its_oldest_place_in_a_channel() {
        let resume_table = ResumeTable::new(1, Duration::ZERO, [WINDOW]);
        for slot in 0..100 {
            let channels: &[&str] = if slot % 2 == 0 { &["a", "b"] } else { &["c"] };
            resume_table.insert(QueueAt(1), lost("x", slot, channels));
        }
        let of = |device| ClientKey {
            app: AppId(0),
            user: None,
            device: Some(device),
        };
        let (client, stranger) = (of("x"), of("y"));
        assert!(resume_table.take_place(stranger, "a").is_none());
        assert!(resume_table.take_place(client, "d").is_none());

        let take = |channel| {
            Some(
                resume_table
                    .take_place(client, channel)?
                    .connection
                    .id()
                    .slot,
            )
        };
        assert_eq!(
            (take("a"), take("a"), take("b")),
            (Some(0), Some(2), Some(0))
        );
        assert_eq!(take("c"), Some(1));
        let odd: Vec<u32> = std::iter::from_fn(|| take("c")).collect();
        assert_eq!(odd, (3..100).step_by(2).collect::<Vec<_>>());
        for channel in ["a", "b"] {
            while take(channel).is_some() {}
        }
        let detached = resume_table.queues[1].lost.lock();
        assert!(
            detached.by_id.is_empty() && detached.places.is_empty() && detached.of_apps[0] == 0
        );
    }

    #[tokio::test]
    async fn a_client_that_comes_back_is_lost_or_returning_until_its_places_are_claimed() {
        let resume_table = ResumeTable::new(1, WINDOW, []);
        let one = lost("x", 1, &["a", "b"]);
        let id = one.connection.id();
        resume_table.insert(QueueAt(0), one);
        let channels = async || {
            let lost = resume_table.all().await.into_iter().map(|(one, _)| one);
            let all: Vec<Snapshot> = lost.chain(resume_table.returning()).collect();
            let names = all.iter().flat_map(|one| one.channel_names().cloned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(channels().await, ["a", "b"]);

        assert!(resume_table.take(&id, |_| true).is_some());
        assert_eq!(channels().await, ["a", "b"]);
        resume_table.claim(&id, (AppId(0), "a"));
        assert_eq!(channels().await, ["b"]);
        resume_table.give_up(&id, "b");
        assert!(channels().await.is_empty());
    }

    #[test]
    fn the_last_that_has_taken_a_place_is_known_for_the_window_and_no_more_than_may_be_lost() {
        let id = |slot| crate::hub::tests::unconnected("x", slot).id();
        let mut successors = Successors::default();
        for slot in 0..3 {
            successors.note(id(slot), id(slot + 1), WINDOW);
        }
        assert_eq!(successors.last(&id(0)), Some(id(3)));
        assert_eq!(successors.last(&id(3)), None);

        successors.in_order[0].0 -= WINDOW * 2;
        successors.note(id(3), id(4), WINDOW);
        assert_eq!(successors.last(&id(0)), None);
        assert_eq!(successors.last(&id(1)), Some(id(4)));
        for slot in 0..LOST_MAX as u32 {
            successors.note(id(10 + slot), id(slot + 11), WINDOW);
        }
        assert_eq!(
            (successors.by_id.len(), successors.in_order.len()),
            (LOST_MAX, LOST_MAX)
        );
    }

    #[test]
    fn places_go_with_those_who_lapse_and_a_hold_gives_up_a_few() {
        let resume_table = ResumeTable::new(1, Duration::ZERO, [WINDOW]);
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for slot in 0..10 {
            resume_table.insert(QueueAt(1), lost("x", slot, &names));
        }
        assert!(resume_table.take_lapsed().is_empty());
        for (since, _) in &mut resume_table.queues[1].lost.lock().in_order {
            *since -= WINDOW;
        }
        let mut left = 10;
        while left > 0 {
            let lapsed = resume_table.take_lapsed().len();
            assert!((1..=3).contains(&lapsed), "{lapsed}");
            left -= lapsed;
            let places = resume_table.queues[1].lost.lock().places.len();
            assert_eq!(places, left * names.len());
        }
    }
}
