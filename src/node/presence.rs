//! Notifying members of each other, and holding the channels of those who may come back.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use smol_str::SmolStr;
use tokio::time::MissedTickBehavior;

use super::{Node, channels::shown, cluster::NoticeBuffers, identity::is_revoked};
use crate::{
    auth::{Revocations, unix_now},
    hub::{
        About, ClientKey, Detached, DueNotices, Hub, LostChannel, NoticeBatch, ResumeTable,
        Snapshot, channel_key,
    },
    id::{AppId, ConnectionId},
    limits::{QUOTA_LOOK, TICK},
    protocol::native,
    time_slice::TimeSlice,
};

/// How often gathered counts are sent, and what is over its time is removed.
const GATHERING: Duration = Duration::from_secs(1);

impl Node {
    /// Notifies members of each other as it happens, until the runtime ends. One task per node, so that the notices
    /// of a channel reach everyone in one order.
    pub(crate) async fn run_notices(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notices = self.hub.context().notices.clone();
        let mut gathered = Instant::now();

        loop {
            tokio::select! {
                () = notices.rung() => {}
                _ = ticks.tick() => {}
            }

            let mut slice = TimeSlice::begin();
            // These are taken first: their drop below says that all which was due before has been
            // sent.
            let flushes = notices.take_flushes();

            // Only what is due by now: what comes in the meantime must not keep the rest of this loop
            // waiting.
            for (app, channel) in notices.take_due() {
                self.notify_channel(app, &channel, DueNotices::Notices, &mut slice)
                    .await;
                slice.rest().await;
            }

            if gathered.elapsed() >= GATHERING || !flushes.is_empty() {
                gathered = Instant::now();
                for (app, channel) in notices.take_counted() {
                    self.notify_channel(app, &channel, DueNotices::WithCounts, &mut slice)
                        .await;
                    slice.rest().await;
                }
            }

            drop(flushes);
        }
    }

    /// Ends what is over its time, until the runtime ends: places of those who did not come back, stored events, revocations.
    pub(crate) async fn run_expiry(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expired = Instant::now();

        loop {
            ticks.tick().await;
            let mut slice = TimeSlice::begin();
            self.give_up_lapsed(&mut slice).await;
            while self.protocols.recoveries.forget_some(Instant::now()) {
                slice.rest().await;
            }

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

    /// Looks now and then how many bytes apps store that may store only so many.
    pub(crate) async fn look_at_quotas(self: Arc<Self>) {
        loop {
            self.mesa.look_at_stored().await;
            if let Err(error) = self.history.look_at_quotas().await {
                tracing::debug!(%error, "what apps store cannot be read for now");
            }
            tokio::time::sleep(QUOTA_LOOK).await;
        }
    }

    /// Gives up connections that did not come back in time: they may be thousands.
    async fn give_up_lapsed(&self, slice: &mut TimeSlice) {
        loop {
            let lapsed = self.resume_table().take_lapsed();
            if lapsed.is_empty() {
                return;
            }

            for Detached { connection, .. } in lapsed {
                for channel in connection.channels() {
                    self.hub
                        .presence(connection.app)
                        .lapsed(channel, &connection);
                }
                slice.rest().await;
            }
        }
    }

    fn resume_table(&self) -> &ResumeTable {
        &self.hub.context().resume_table
    }

    /// Sends what is to be sent of a channel: to other nodes, and to those who watch it here.
    async fn notify_channel(
        &self,
        app: AppId,
        channel: &SmolStr,
        due: DueNotices,
        slice: &mut TimeSlice,
    ) {
        let batch = self.hub.presence(app).take_notices(channel, due);
        let Some(mut batch) = batch.filter(|batch| !batch.is_empty()) else {
            return;
        };

        let notices = self.cluster.as_ref().map(|cluster| &cluster.notices);
        if let Some(notices) = notices {
            if !notices.shows_members_of(app, channel) {
                return;
            }
            notices.notify_remote(app, &batch);
            // Others may watch the channel though nobody here does, and were notified above.
            if !notices.is_heard(app, channel) {
                return;
            }
            notices.count_remote(app, &mut batch);
        }

        let frames = frames(&batch);
        self.app(app).metrics.notices.inc_by(frames.len() as u64);
        let watchers = LocalWatchers {
            hub: &self.hub,
            notice_buffers: notices.map(|notices| &notices.notice_buffers),
        };

        watchers.notify(app, channel, &frames, slice).await;
    }

    /// Finds the channels of the connection `id` for a client who comes back by another one, and proves to be the
    /// same by user and device. One that the server still holds for alive is closed: its client knows better.
    pub(crate) fn begin_resume(
        self: &Arc<Self>,
        app: AppId,
        id: &ConnectionId,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<LocalResume> {
        let client = ClientKey { app, user, device };
        LocalResume::find(&self.hub, &self.revocations, id, client)
            .or_else(|| LocalResume::find_successor(&self.hub, &self.revocations, id, client))
    }

    /// Takes over `channel` from a connection that the client of `own` has closed, and that is still counted there.
    pub(crate) fn take_place(
        self: &Arc<Self>,
        own: &crate::hub::Connection,
        channel: &str,
    ) -> Option<LocalResume> {
        let client = own.client();
        let Detached {
            connection,
            watched,
            ..
        } = self.resume_table().take_place(client, channel)?;
        let watched = watched.iter().any(|name| name == channel);
        Some(LocalResume {
            channels: VecDeque::from([LostChannel {
                name: channel.into(),
                watched,
            }]),
            hub: self.hub.clone(),
            lost: connection,
        })
    }
}

/// Those on this node who hear of members of channels.
pub(super) struct LocalWatchers<'n> {
    pub(super) hub: &'n Hub,
    /// Those who wait for a page of members, if there are other nodes.
    pub(super) notice_buffers: Option<&'n NoticeBuffers>,
}

impl LocalWatchers<'_> {
    /// Notifies those who watch `channel`, a few at a time in the order of their slots.
    pub(super) async fn notify(
        &self,
        app: AppId,
        channel: &str,
        frames: &[About],
        slice: &mut TimeSlice,
    ) {
        let key = channel_key(channel);
        for (at, shard) in self.hub.shards().iter().enumerate() {
            // A client that comes to watch from here on is met below, or has been given these with its page of members.
            if let Some(notice_buffers) = self.notice_buffers {
                shard.lock(|_| notice_buffers.note(at, app, channel, frames));
            }
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock_and_wake(|table| table.notify_watchers(app, &key, from, frames));
                slice.rest().await;
            }
        }
    }
}

/// The channels of a lost connection, on their way to the one that takes its place. Those not taken are left when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct LocalResume {
    hub: Arc<Hub>,
    pub(crate) lost: Snapshot,
    channels: VecDeque<LostChannel>,
}

impl LocalResume {
    /// See [`Node::begin_resume`].
    pub(super) fn find(
        hub: &Arc<Hub>,
        revocations: &Revocations,
        id: &ConnectionId,
        client: ClientKey<'_>,
    ) -> Option<Self> {
        let alive = hub.find(client.app, id);
        // A device is not a credential: a client that has nothing else may come back, and may not send
        // anyone away.
        if client.user.is_some() && alive.is_some_and(|alive| alive.is_of_client(client)) {
            hub.shard(usize::from(id.shard)).lock_and_wake(|table| {
                if let Some(at) = table
                    .find(client.app, id)
                    .and_then(|slot| table.reference(slot))
                {
                    table.close_replaced(at);
                }
            });
        }

        let proof = proof(revocations, client);
        // A connection that was closed above is lost now, and so is found like one that ended by
        // itself.
        let detached = hub.context().resume_table.take(id, proof)?;
        Some(Self::of(hub, detached))
    }

    /// The same of the connection that has taken the place of `id` since, if it is lost: its client does not know of it if its
    /// welcome was lost on its way.
    pub(super) fn find_successor(
        hub: &Arc<Hub>,
        revocations: &Revocations,
        id: &ConnectionId,
        client: ClientKey<'_>,
    ) -> Option<Self> {
        let proof = proof(revocations, client);
        let detached = hub.context().resume_table.take_successor(id, proof)?;
        Some(Self::of(hub, detached))
    }

    fn of(hub: &Arc<Hub>, detached: Detached) -> Self {
        let Detached {
            connection,
            watched,
            ..
        } = detached;

        let channels = connection.channel_names().map(|name| LostChannel {
            name: name.clone(),
            watched: watched.contains(name),
        });
        Self {
            channels: channels.collect(),
            hub: hub.clone(),
            lost: connection,
        }
    }

    /// The next channel.
    pub(crate) fn next(&self) -> Option<LostChannel> {
        self.channels.front().cloned()
    }

    /// The channels that are yet to be taken or given up.
    pub(crate) fn left(&self) -> impl Iterator<Item = &LostChannel> {
        self.channels.iter()
    }

    /// Notes that the next channel was taken over.
    pub(crate) fn taken(&mut self) {
        self.channels.pop_front();
    }

    /// Gives the next channel up; nothing is left to do if someone else has taken the connection out of it.
    pub(crate) fn give_up(&mut self) {
        let Some(channel) = self.channels.front() else {
            return;
        };

        if self
            .hub
            .context()
            .resume_table
            .give_up(&self.lost.id(), &channel.name)
        {
            self.lapse();
        } else {
            self.channels.pop_front();
        }
    }

    /// Claims the next channel for another node; false if someone has taken the connection out of it.
    pub(crate) fn hand_over(&mut self) -> bool {
        let Some(LostChannel { name: channel, .. }) = self.channels.pop_front() else {
            return false;
        };

        let claimed = self
            .hub
            .context()
            .resume_table
            .give_up(&self.lost.id(), &channel);

        if claimed {
            let presence = self.hub.presence(self.lost.app);
            presence.moved(&channel, &self.lost);
        }

        claimed
    }

    /// Says that the lost connection has left the next channel, which was claimed for nothing.
    pub(crate) fn lapse(&mut self) {
        if let Some(channel) = self.channels.pop_front() {
            self.hub
                .presence(self.lost.app)
                .lapsed(&channel.name, &self.lost);
        }
    }
}

impl Drop for LocalResume {
    fn drop(&mut self) {
        while !self.channels.is_empty() {
            self.give_up();
        }
    }
}

/// Whether a lost connection is one of this client's. What a revoked token had is not taken up by a newer one.
fn proof<'c>(
    revocations: &'c Revocations,
    client: ClientKey<'c>,
) -> impl Fn(&crate::hub::Connection) -> bool + 'c {
    move |lost| lost.is_of_client(client) && !is_revoked(revocations, lost, unix_now())
}

/// What is to be said.
fn frames(batch: &NoticeBatch) -> Vec<About> {
    let NoticeBatch {
        channel,
        notices,
        counted,
        ..
    } = batch;

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
