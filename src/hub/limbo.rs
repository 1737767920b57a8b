//! Connections that were lost a short time ago, and may come back to their channels.

use std::{
    collections::{BTreeSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::{
    connection::{Connection, Snapshot},
    returning::{HeldOff, Returning},
    sweep::Spent,
};
use crate::{
    id::{AppId, ConnectionId},
    limits::{LOST_MAX, SWEEP_STRIDE},
    predicate::{Judged, Value, Verdict},
};

/// A connection that its client did not close, and that was not sent away, with the channels it may come back to.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) connection: Snapshot,
    /// The channels in which it heard of the others.
    pub(crate) watched: Vec<SmolStr>,
}

/// Connections that were lost a short time ago, and those whose clients closed them and are still counted in some channels.
///
/// Each time that a channel may wait has a queue of its own, so that the first of a queue is always the next to lapse. A connection
/// whose channels wait for different times is in several queues, with other channels in each.
#[derive(Debug)]
pub(crate) struct Limbo {
    /// The first is for lost connections.
    queues: Box<[Queue]>,
    /// Those whose clients have come back.
    returning: Returning,
}

/// Connections that may come back within one time.
#[derive(Debug)]
struct Queue {
    window: Duration,
    lost: Mutex<LostOnes>,
}

/// Which of the queues a channel waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueAt(usize);

/// Who a connection belongs to.
type Client = (AppId, Option<SmolStr>, Option<SmolStr>);

#[derive(Debug, Default)]
struct LostOnes {
    by_id: AHashMap<ConnectionId, Lost>,
    in_order: VecDeque<(Instant, ConnectionId)>,
    /// Which loss the first of `in_order` is, counted since the start.
    first: u64,
    /// The closed ones by their clients, which come back without saying in whose place.
    by_client: AHashMap<Client, SmallVec<[ConnectionId; 1]>>,
}

impl LostOnes {
    fn remove(&mut self, id: &ConnectionId) -> Option<Lost> {
        let lost = self.by_id.remove(id)?;
        if let Entry::Occupied(mut ids) = self.by_client.entry(client_of(&lost.connection)) {
            ids.get_mut().retain(|other| other != id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        Some(lost)
    }
}

/// What became of taking a lost connection out of a channel.
#[derive(Debug)]
pub(super) enum Left {
    /// It was in the channel, and is not any more.
    Done,
    /// It has changed since it was looked at.
    Changed(Snapshot),
    /// It has come back, or its time is over.
    Gone,
}

impl Limbo {
    /// One in which lost connections wait for `resume_window`, and closed ones in a channel for one of `leave_after`.
    pub(crate) fn new(
        resume_window: Duration,
        leave_after: impl IntoIterator<Item = Duration>,
    ) -> Self {
        let times: BTreeSet<Duration> = leave_after
            .into_iter()
            .filter(|time| !time.is_zero())
            .collect();
        let queue = |window| Queue {
            window,
            lost: Mutex::default(),
        };
        Self {
            queues: std::iter::once(resume_window)
                .chain(times)
                .map(queue)
                .collect(),
            returning: Returning::default(),
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
        let has_room = || queue.lost.lock().by_id.len() < LOST_MAX;
        (is_known && !queue.window.is_zero() && has_room()).then_some(QueueAt(at))
    }

    pub(super) fn insert(&self, QueueAt(at): QueueAt, lost: Lost) {
        let mut ones = self.queues[at].lost.lock();
        let id = lost.connection.id();
        if at > 0 {
            let ids = ones.by_client.entry(client_of(&lost.connection));
            ids.or_default().push(id);
        }
        ones.in_order.push_back((Instant::now(), id));
        ones.by_id.insert(id, lost);
    }

    /// Takes the connection `id` out for a client who proves to be its own, with all channels in which it still waits. Its
    /// place in each is to be [claimed](Limbo::claim) or [given up](Limbo::give_up).
    pub(crate) fn take(
        &self,
        id: &ConnectionId,
        proof: impl Fn(&Connection) -> bool,
    ) -> Option<Lost> {
        let mut returning = self.returning.lock();
        let mut taken: Option<Lost> = None;
        for queue in &self.queues {
            let mut ones = queue.lost.lock();
            if !ones.by_id.get(id).is_some_and(|one| proof(&one.connection)) {
                continue;
            }
            let Some(more) = ones.remove(id) else {
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
        if let Some(Lost { connection, .. }) = &taken {
            let channels: Vec<SmolStr> = connection.channel_names().cloned().collect();
            returning.add(connection, &channels);
        }
        taken
    }

    /// Notes that a client is about to take the places of `lost`, a connection of another node, in `channels`. Each is to be
    /// [claimed](Limbo::claim) or [given up](Limbo::give_up), as those that were taken from here.
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

    /// Holds returning clients off `channel` while some are taken out of it, wherever they are: else one could be lost, or
    /// come back, behind whoever looks.
    pub(crate) fn hold_off(&self, app: AppId, channel: &str) -> HeldOff<'_> {
        self.returning.hold_off(app, channel)
    }

    /// Takes a closed connection of this client out of `channel`, in which it is still counted. Returns it as it was; its
    /// place is to be claimed or given up.
    pub(crate) fn take_place(
        &self,
        (app, user, device): (AppId, Option<&str>, Option<&str>),
        channel: &str,
    ) -> Option<Lost> {
        let client = (app, user.map(SmolStr::from), device.map(SmolStr::from));
        let mut returning = self.returning.lock();
        for queue in &self.queues[1..] {
            let mut ones = queue.lost.lock();
            let ids = ones.by_client.get(&client).cloned().unwrap_or_default();
            for id in ids {
                let Some(one) = ones.by_id.get_mut(&id) else {
                    continue;
                };
                if !one.connection.is_in(channel) {
                    continue;
                }
                let was = Lost {
                    connection: one.connection.clone(),
                    watched: one.watched.clone(),
                };
                returning.add(&one.connection, &[channel.into()]);
                one.take_out(channel);
                if one.connection.channels().next().is_none() {
                    ones.remove(&id);
                }
                return Some(was);
            }
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
        while let Some((queue, some)) = self.some(&mut from) {
            leave
                .take_out(some, |one| queue.take_out(one, channel))
                .await;
        }
        // After the queues: who is taken out of one meanwhile is found here.
        let returning = self.returning.of(channel);
        leave
            .take_out(returning, |one| self.returning.take_out(one, channel))
            .await;
        leave.count
    }

    /// Up to [`SWEEP_STRIDE`] of those who may come back, from a queue and a loss of it on, which then are the next ones.
    /// `None` at the end.
    fn some(&self, from: &mut (usize, u64)) -> Option<(&Queue, Vec<Snapshot>)> {
        loop {
            let queue = self.queues.get(from.0)?;
            if let Some(some) = queue.some(&mut from.1) {
                return Some((queue, some));
            }
            *from = (from.0 + 1, 0);
        }
    }

    /// Those who may come back. The thread turns to other work between two slices.
    pub(crate) async fn all(&self) -> Vec<Snapshot> {
        let (mut from, mut all) = ((0, 0), Vec::new());
        while let Some((_, some)) = self.some(&mut from) {
            all.extend(some);
            tokio::task::yield_now().await;
        }
        all
    }

    /// Those whose time to come back is over, or the first of them: [`SWEEP_STRIDE`] of each queue at most.
    pub(crate) fn take_lapsed(&self) -> Vec<Lost> {
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
    /// Up to [`SWEEP_STRIDE`] of those who may come back, from loss number `from` on, which then is the next one's. `None` at
    /// the end.
    fn some(&self, from: &mut u64) -> Option<Vec<Snapshot>> {
        let ones = self.lost.lock();
        let skipped = usize::try_from(from.saturating_sub(ones.first)).ok()?;
        let ids = ones.in_order.iter().skip(skipped).take(SWEEP_STRIDE);
        if ids.len() == 0 {
            return None;
        }
        *from = ones.first + (skipped + ids.len()) as u64;
        let lost = ids.filter_map(|(_, id)| ones.by_id.get(id));
        Some(lost.map(|lost| lost.connection.clone()).collect())
    }

    /// Takes a lost connection out of `channel`, unless it is no longer what it was when it was looked at.
    fn take_out(&self, seen: &Snapshot, channel: &str) -> Left {
        let mut ones = self.lost.lock();
        let Some(lost) = ones.by_id.get_mut(&seen.id()) else {
            return Left::Gone;
        };
        if !Arc::ptr_eq(&lost.connection, seen) {
            return Left::Changed(lost.connection.clone());
        }
        lost.take_out(channel);
        Left::Done
    }

    fn take_lapsed(&self) -> Vec<Lost> {
        let mut ones = self.lost.lock();
        let mut lapsed = Vec::new();
        while let Some((since, id)) = ones.in_order.front().copied() {
            if since.elapsed() < self.window || lapsed.len() == SWEEP_STRIDE {
                break;
            }
            ones.in_order.pop_front();
            ones.first += 1;
            lapsed.extend(ones.remove(&id));
        }
        lapsed
    }
}

impl Lost {
    /// A connection that still waits in `channels`, each with whether it heard of the others there.
    pub(super) fn in_some(connection: &Snapshot, channels: Vec<(SmolStr, bool)>) -> Self {
        let watched = channels.iter().filter(|(_, watched)| *watched);
        let watched = watched.map(|(name, _)| name.clone()).collect();
        let mut connection = connection.clone();
        if channels.len() < connection.channel_names().count() {
            let names = channels.into_iter().map(|(name, _)| Value::String(name));
            Arc::make_mut(&mut connection).attributes.channels = Value::List(names.collect());
        }
        Self {
            connection,
            watched,
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

fn client_of(connection: &Connection) -> Client {
    let device = connection.device().map(SmolStr::from);
    (connection.app, connection.user_name().cloned(), device)
}
