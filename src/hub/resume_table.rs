//! Connections that were lost a short time ago, and may come back to their channels.

mod leave;
mod queue;
mod successors;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use smol_str::SmolStr;

use self::{
    leave::Leave,
    queue::{DetachedConnections, Queue},
    successors::Successors,
};
use super::{
    connection::{Connection, Snapshot},
    returning::{HeldOff, Returning},
};
use crate::{
    filter::{Judged, Value},
    id::{AppId, ConnectionId},
    limits::LOST_MAX,
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

            // A client may wait in several queues, in each with the channels that have its window.
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

    /// Whether the connection `id` may come back to a channel, or its client is about to.
    pub(crate) fn waits(&self, id: &ConnectionId) -> bool {
        let is_in = |queue: &Queue| {
            let detached = queue.lost.lock();
            let one = detached.by_id.get(id);
            one.is_some_and(|one| one.connection.channels().next().is_some())
        };
        // In this order, in which it moves.
        self.queues.iter().any(is_in) || self.returning.has(id)
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
        let last = self.successor(id)?;
        self.take(&last, proof)
    }

    /// The last connection of this node that has taken the place of `id`.
    pub(crate) fn successor(&self, id: &ConnectionId) -> Option<ConnectionId> {
        self.successors.lock().last(id)
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

    /// Takes `channel` from those lost ones in it for which `is_meant` says `Verdict::Match`, and gives each to `left` as
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

    /// What `of` says of up to `SCAN_CHUNK` of those who may come back, from a queue and a loss of it on, which then are the
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

    /// Those whose time to come back is over, or the first of them: of each queue `SCAN_CHUNK` at most, or as many as wait in
    /// `LAPSED_CHANNELS`.
    pub(crate) fn take_lapsed(&self) -> Vec<Detached> {
        self.queues.iter().flat_map(Queue::take_lapsed).collect()
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
