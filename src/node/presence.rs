//! Telling members of each other, and holding the channels of those who may come back.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use smol_str::SmolStr;
use tokio::time::MissedTickBehavior;

use super::{Node, channels::shown};
use crate::{
    auth::unix_now,
    hub::{About, Limbo, Lost, Snapshot, Tidings, channel_key},
    id::{AppId, ConnectionId},
    limits::{COUNTED_TOGETHER, TICK},
    protocol::native,
    time_slice::TimeSlice,
};

/// How often gathered counts are told, and what is over its time is removed.
const GATHERING: Duration = Duration::from_secs(1);

impl Node {
    /// Tells members of each other as it happens, until the runtime ends. One task per node, so that the notices of a
    /// channel reach everyone in one order.
    pub(crate) async fn tell_members(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bulletin = self.hub.context().bulletin.clone();
        let mut gathered = Instant::now();
        loop {
            tokio::select! {
                () = bulletin.rung() => {}
                _ = ticks.tick() => {}
            }
            let mut slice = TimeSlice::begin();
            // Only what is due by now: what comes in meanwhile must not keep the rest of this loop waiting.
            for (app, channel) in bulletin.take_due() {
                let due = [(app, channel)];
                self.tell(app, &due, false, &mut slice).await;
                slice.rest().await;
            }
            if gathered.elapsed() >= GATHERING {
                gathered = Instant::now();
                let mut counted = bulletin.take_counted();
                counted.sort_by_key(|(app, _)| *app);
                for of_app in counted.chunk_by(|(one, _), (other, _)| one == other) {
                    for some in of_app.chunks(COUNTED_TOGETHER) {
                        self.tell(some[0].0, some, true, &mut slice).await;
                        slice.rest().await;
                    }
                }
            }
        }
    }

    /// Ends what is over its time, until the runtime ends: places of those who did not come back, kept events, revocations. It
    /// waits for no other node, as [`Node::tell_members`] does.
    pub(crate) async fn end_what_is_over(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expired = Instant::now();
        loop {
            ticks.tick().await;
            self.give_up_lapsed(&mut TimeSlice::begin()).await;
            if expired.elapsed() < GATHERING {
                continue;
            }
            expired = Instant::now();
            while self.history.expire() {
                tokio::task::yield_now().await;
            }
            // With other nodes they are removed from Redis too, by a task of its own.
            while self.cluster.is_none() && !self.revocations.expire(unix_now()).is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Gives up connections that did not come back in time: they may be thousands.
    async fn give_up_lapsed(&self, slice: &mut TimeSlice) {
        loop {
            let lapsed = self.limbo().take_lapsed();
            if lapsed.is_empty() {
                return;
            }
            for Lost { connection, .. } in lapsed {
                for channel in connection.channels() {
                    self.hub
                        .presence(connection.app)
                        .lapsed(channel, &connection);
                }
                slice.rest().await;
            }
        }
    }

    fn limbo(&self) -> &Limbo {
        &self.hub.context().limbo
    }

    /// Tells what there is to tell of some channels of `app`. The other nodes are asked for all of them together.
    async fn tell(
        &self,
        app: AppId,
        channels: &[(AppId, SmolStr)],
        counts: bool,
        slice: &mut TimeSlice,
    ) {
        let mut heard: Vec<Tidings> = Vec::new();
        for (_, channel) in channels {
            let tidings = self.hub.presence(app).take_tidings(channel, counts);
            let Some(tidings) = tidings.filter(|tidings| !tidings.is_empty()) else {
                continue;
            };
            if self.cluster.is_some() {
                self.tell_elsewhere(app, &tidings);
                if !self.is_heard(app, channel) {
                    continue;
                }
            }
            heard.push(tidings);
            slice.rest().await;
        }
        if self.cluster.is_some() && !heard.is_empty() {
            self.count_elsewhere(app, &mut heard).await;
        }
        for tidings in &heard {
            let frames = frames(tidings);
            self.app(app).metrics.notices.inc_by(frames.len() as u64);
            self.tell_here(app, &tidings.channel, &frames, slice).await;
        }
    }

    /// Notifies those who watch `channel` on this node, a few at a time in the order of their slots.
    pub(in crate::node) async fn tell_here(
        &self,
        app: AppId,
        channel: &str,
        frames: &[About],
        slice: &mut TimeSlice,
    ) {
        let key = channel_key(channel);
        for (at, shard) in self.hub.shards().iter().enumerate() {
            // A client that comes to watch from here on is met below, or has been given these with its page of members.
            if let Some(cluster) = &self.cluster {
                shard.own(|_| cluster.captures.note(at, app, channel, frames));
            }
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.with(|table| table.notify_watchers(app, &key, from, frames));
                slice.rest().await;
            }
        }
    }

    /// Finds the channels of the connection `id` for a client who comes back by another one, and proves to be the
    /// same by user and device. One that the server still holds for alive is closed: its client knows better.
    pub(crate) fn recall(
        self: &Arc<Self>,
        app: AppId,
        id: &ConnectionId,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<Recalled> {
        let alive = self.hub.find(app, id);
        // A device is no credential: whoever has nothing else may come back, and may not send anyone away.
        if user.is_some() && alive.is_some_and(|alive| alive.is_of_client(app, user, device)) {
            self.hub.shard(usize::from(id.shard)).with(|table| {
                if let Some(at) = table.find(app, id).and_then(|slot| table.reference(slot)) {
                    table.close_replaced(at);
                }
            });
        }
        // What a revoked token had is not taken up by a newer one.
        let proof = |lost: &crate::hub::Connection| {
            lost.is_of_client(app, user, device) && !self.is_revoked(lost, unix_now())
        };
        let Lost {
            connection,
            watched,
            ..
        } = self.limbo().take(id, proof)?;
        let channels = connection
            .channel_names()
            .map(|name| (name.clone(), watched.contains(name)));
        Some(Recalled {
            channels: channels.collect(),
            node: self.clone(),
            lost: connection,
        })
    }
}

impl Node {
    /// Takes over `channel` from a connection that the client of `own` has closed, and that is still counted there.
    pub(crate) fn take_place(
        self: &Arc<Self>,
        own: &crate::hub::Connection,
        channel: &str,
    ) -> Option<Recalled> {
        let client = (own.app, own.user(), own.device());
        let Lost {
            connection,
            watched,
            ..
        } = self.limbo().take_place(client, channel)?;
        let watched = watched.iter().any(|name| name == channel);
        Some(Recalled {
            channels: VecDeque::from([(channel.into(), watched)]),
            node: self.clone(),
            lost: connection,
        })
    }
}

/// The channels of a lost connection, on their way to the one that takes its place. Those not taken are left when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Recalled {
    node: Arc<Node>,
    pub(crate) lost: Snapshot,
    channels: VecDeque<(SmolStr, bool)>,
}

impl Recalled {
    /// The next channel, and whether it was watched.
    pub(crate) fn next(&self) -> Option<(SmolStr, bool)> {
        self.channels.front().cloned()
    }

    /// The channels that are yet to be taken or given up.
    pub(crate) fn left(&self) -> impl Iterator<Item = &(SmolStr, bool)> {
        self.channels.iter()
    }

    /// Notes that the next channel was taken over.
    pub(crate) fn taken(&mut self) {
        self.channels.pop_front();
    }

    /// Gives the next channel up; nothing is left to do if someone else has taken the connection out of it.
    pub(crate) fn give_up(&mut self) {
        let Some((channel, _)) = self.channels.front() else {
            return;
        };
        if self.node.limbo().give_up(&self.lost.id(), channel) {
            self.lapse();
        } else {
            self.channels.pop_front();
        }
    }

    /// Claims the next channel for another node; false if someone has taken the connection out of it.
    pub(crate) fn hand_over(&mut self) -> bool {
        let Some((channel, _)) = self.channels.pop_front() else {
            return false;
        };
        let claimed = self.node.limbo().give_up(&self.lost.id(), &channel);
        if claimed {
            let presence = self.node.hub.presence(self.lost.app);
            presence.moved(&channel, &self.lost);
        }
        claimed
    }

    /// Says that the lost connection has left the next channel, which was claimed for nothing.
    pub(crate) fn lapse(&mut self) {
        if let Some((channel, _)) = self.channels.pop_front() {
            self.node
                .hub
                .presence(self.lost.app)
                .lapsed(&channel, &self.lost);
        }
    }
}

impl Drop for Recalled {
    fn drop(&mut self) {
        while !self.channels.is_empty() {
            self.give_up();
        }
    }
}

/// What is to be said.
fn frames(tidings: &Tidings) -> Vec<About> {
    let Tidings {
        channel,
        notices,
        counted,
        ..
    } = tidings;
    let mut frames: Vec<_> = notices
        .iter()
        .map(|notice| {
            let member = shown(&notice.member);
            let id = member.id;
            let frame = native::member(
                notice.kind,
                channel,
                &member,
                notice.user_connections,
                notice.previous,
            );
            (Some(id), frame)
        })
        .collect();
    frames.extend(counted.as_ref().map(|(changes, count)| {
        (
            None,
            native::members_changed(channel, changes, count.connections, count.users),
        )
    }));
    frames
}
