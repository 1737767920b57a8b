//! Channels: who is in them, what they store, and putting connections into them from outside.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    Node, NodeError, Target,
    cluster::{JoinLock, NoticeBuffer, SubscriptionGuard},
    publish::run_detached,
};
use crate::{
    history::{Key, Page, Position as At, Recovery, Retention},
    hub::{
        Count, JoinKind, Joining, PageCursor, Selection, Snapshot, Table, Watching, channel_key,
    },
    id::{AppId, ConnectionId},
    protocol::{
        event::channel_name,
        native::{self, Member, MembersBuilder, MembersPage, Position, Since},
    },
};

/// Reads what [`write_cursor`] wrote.
pub(crate) fn read_cursor(text: &str) -> Option<PageCursor> {
    let (shard, slot) = text.split_once('.')?;
    Some(PageCursor {
        shard: shard.parse().ok()?,
        slot: slot.parse().ok()?,
    })
}

/// A cursor as clients and callers hold it.
pub(crate) fn write_cursor(PageCursor { shard, slot }: PageCursor) -> String {
    format!("{shard}.{slot}")
}

/// How much a page may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageBounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// What a page of members is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MembersQuery {
    pub(crate) from: PageCursor,
    pub(crate) limit: usize,
    pub(crate) max_bytes: usize,
}

/// How many connections a call put into a channel, on all nodes that answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// Connections that are members since this call.
    pub joined: u64,
    /// Connections that were members before it.
    pub already: u64,
    /// Connections that did not join, since they are in as many channels as `limits.channels_per_connection` allows.
    pub full: u64,
}

impl Node {
    /// The key under which a channel's events are stored, if they are.
    pub(crate) fn history_key(&self, app: AppId, channel: &str) -> Option<Key> {
        self.app(app)
            .rule(channel)
            .retention
            .map(|_| Key::channel(app, channel.into()))
    }

    /// How the members of `channel` hear of each other, where one `asked` for it.
    pub(crate) fn watching(&self, app: AppId, channel: &str, asked: bool) -> Watching {
        self.app(app).watching(channel, asked)
    }

    /// How many are in `channel`.
    pub(crate) fn count(&self, app: AppId, channel: &str) -> Count {
        self.hub.presence(app).count(channel)
    }

    /// A page of the members of `channel`, by shards and slots, with how many there are in all. A member that stays
    /// is on exactly one page.
    pub(crate) fn members(&self, app: AppId, channel: &str, query: MembersQuery) -> MembersPage {
        let mut builder = MembersBuilder::new(query.max_bytes);
        let cursor = self.gather(app, channel, query, None, &mut builder);
        let Count { connections, users } = self.count(app, channel);
        let cursor = cursor.map(write_cursor);
        MembersPage {
            members: builder.finish(),
            count: connections,
            users,
            cursor,
        }
    }

    /// Adds members to a page, and `joining` in its place as if it were one already; answers where the next one begins.
    pub(crate) fn gather(
        &self,
        app: AppId,
        channel: &str,
        query: MembersQuery,
        joining: Option<&Snapshot>,
        page: &mut MembersBuilder,
    ) -> Option<PageCursor> {
        let key = channel_key(channel);
        let mut left = query.limit;
        for (at, shard) in self.hub.shards().iter().enumerate().skip(query.from.shard) {
            let from = if at == query.from.shard {
                query.from.slot
            } else {
                0
            };
            // One more is fetched than fit, for the cursor.
            let mut members = shard.lock(|table| table.members_of(app, &key, from, left + 1));
            if let Some(joining) = joining.filter(|joining| usize::from(joining.id().shard) == at) {
                let place = members.partition_point(|member| member.id().slot < joining.id().slot);
                let is_there = members
                    .get(place)
                    .is_some_and(|member| member.id() == joining.id());
                if !is_there && joining.id().slot >= from {
                    members.insert(place, joining.clone());
                }
            }

            for member in &members {
                if left == 0 || !page.push(&shown(member)) {
                    return Some(PageCursor {
                        shard: at,
                        slot: member.id().slot,
                    });
                }
                left -= 1;
            }
        }

        None
    }

    /// Up to `limit` stored events of `channel` after `after`, oldest first; `None` where none were ever
    /// stored.
    ///
    /// # Errors
    /// [`NodeError::History`] where they are out of reach.
    pub(crate) async fn history_page(
        &self,
        app: AppId,
        channel: &str,
        after: u64,
        limit: usize,
    ) -> Result<Option<Page>, NodeError> {
        match self.history_key(app, channel) {
            Some(key) => Ok(self.history.page(&key, after, limit).await?),
            None => Ok(None),
        }
    }

    /// The position of `channel`, if its events are stored. Belongs into the channel's lock where it must stay
    /// true.
    ///
    /// # Errors
    /// [`NodeError::History`] where that is out of reach.
    pub(crate) async fn position(
        &self,
        app: AppId,
        channel: &str,
    ) -> Result<Option<Position>, NodeError> {
        let (Some(key), Some(retention)) = (
            self.history_key(app, channel),
            self.app(app).rule(channel).retention,
        ) else {
            return Ok(None);
        };
        let position = self.standing(&key, &retention).await?;
        Ok(Some(Position {
            epoch: position.epoch.to_string().into(),
            offset: position.offset,
        }))
    }

    /// Takes the lock of a durable channel for a client that joins it.
    pub(crate) async fn lock_to_join<'a>(&'a self, key: &Key) -> JoinLock<'a> {
        match &self.cluster {
            Some(cluster) => cluster.replicator.lock_to_join(key).await,
            None => JoinLock::alone(self.topic_locks.lock(key).await),
        }
    }

    /// The position of a durable channel for a client that joins now, under its lock; see
    /// [`Replicator::standing`](super::cluster::Replicator::standing).
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(crate) async fn standing(&self, key: &Key, retention: &Retention) -> Result<At, NodeError> {
        match &self.cluster {
            Some(cluster) => cluster.replicator.standing(key, retention).await,
            None => Ok(self.history.position(key, retention).await?),
        }
    }

    /// What a client has missed that joins a durable channel now, under its lock; see
    /// [`Replicator::missed_since`](super::cluster::Replicator::missed_since).
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(crate) async fn missed_since(
        &self,
        key: &Key,
        retention: &Retention,
        since: &Since,
    ) -> Result<Recovery, NodeError> {
        if let Some(cluster) = &self.cluster {
            return cluster.replicator.missed_since(key, retention, since).await;
        }
        let epoch = since.epoch.as_deref();
        let missed = self
            .history
            .since(key, retention, epoch, since.offset)
            .await?;
        Ok(missed)
    }

    /// Listens to what everyone of `app` and `user` get from other nodes, if there are any.
    pub(crate) async fn subscribe_user(
        &self,
        app: AppId,
        user: Option<&SmolStr>,
    ) -> SubscriptionGuard {
        match &self.cluster {
            Some(cluster) => cluster.subscribe_user(app, user).await,
            None => SubscriptionGuard::default(),
        }
    }

    /// Listens to what members of `channel` get from other nodes, and to what those get who watch it.
    pub(crate) async fn subscribe_channel(
        &self,
        app: AppId,
        channel: &str,
        watching: Watching,
    ) -> SubscriptionGuard {
        match &self.cluster {
            Some(cluster) => cluster.subscribe_channel(app, channel, watching).await,
            None => SubscriptionGuard::default(),
        }
    }

    /// Begins to take notices of `channel` for `connection`, once they come here; nothing without other nodes.
    pub(crate) async fn buffer_notices(
        &self,
        app: AppId,
        channel: &str,
        connection: ConnectionId,
    ) -> Option<NoticeBuffer> {
        let cluster = self.cluster.as_ref()?;
        Some(
            cluster
                .notices
                .buffer_notices(app, channel, connection)
                .await,
        )
    }

    /// Puts the connections that `target` means into `channel`. Each is notified, before every event of
    /// it.
    ///
    /// Carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// As [`Node::select`], [`NodeError::Busy`] and [`NodeError::History`].
    pub(crate) async fn join_all(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Joins, NodeError> {
        channel_name(&channel)?;
        let bound = self.compile_aside(app, &target).await?;
        let selection = self.select(app, target, bound)?;
        let permit = self.hub.permit(&selection).await?;
        let node = self.clone();

        // Past this the call is carried out to its end: a part of the members would be a lasting
        // fault.
        run_detached(async move {
            let watching = node.watching(app, &channel, false);
            // This comes first: an event stored after the position was read must already be heard
            // here.
            let _subscriptions = node.subscribe_channel(app, &channel, watching).await;
            let key = node.history_key(app, &channel);

            let _topic_lock = match &key {
                Some(key) => Some(node.lock_to_join(key).await),
                None => None,
            };

            let notice = native::joined(&channel, node.position(app, &channel).await?.as_ref());
            let mut joins = Joins::default();
            let join = |table: &mut Table, slot| {
                let Some(at) = table.reference(slot) else {
                    return;
                };

                match table.join(at, &channel, watching, JoinKind::New) {
                    Joining::Joined(_) => {
                        // This is one step with the join, so that no event of the channel comes
                        // before it.
                        table.place_own(at, notice.clone());
                        joins.joined += 1;
                    }
                    Joining::Already(_) => joins.already += 1,
                    Joining::Full => joins.full += 1,
                    Joining::Gone => {}
                }
            };

            node.hub.scan(&selection, join).await;
            drop(permit);
            Ok(joins)
        })
        .await?
    }

    /// Takes the connections that `target` means out of `channel`; returns how many were in it. Each is notified,
    /// after every event of it.
    ///
    /// # Errors
    /// As [`Node::join_all`].
    pub(crate) async fn leave_all(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<u64, NodeError> {
        channel_name(&channel)?;
        let bound = self.compile_aside(app, &target).await?;
        let selection: Selection = self.select(app, target, bound)?;
        let permit = self.hub.permit(&selection).await?;
        let node = self.clone();

        run_detached(async move {
            let resume_table = &node.hub.context().resume_table;
            // Nobody comes back to the channel where the scan has been.
            let held_off = resume_table.hold_off(app, &channel);
            let notice = native::left(&channel);
            let mut left = 0;

            let leave_one = |table: &mut Table, slot| {
                let Some(at) = table.reference(slot) else {
                    return;
                };
                if table.leave(at, &channel) {
                    table.place_own(at, notice.clone());
                    left += 1;
                }
            };

            node.hub.scan(&selection, leave_one).await;
            drop(permit);

            // Those who were lost a moment ago must not come back to it.
            let lost = resume_table
                .leave(
                    &channel,
                    |lost| selection.means(lost),
                    |lost| {
                        // One of another node was counted there. The node that brings its client back here notifies the
                        // members.
                        if lost.id().node == node.id() {
                            node.hub.presence(app).lapsed_here(&channel, lost);
                        }
                    },
                )
                .await;

            drop(held_off);
            left + lost
        })
        .await
    }
}

/// A connection as other members see it.
pub(crate) fn shown(connection: &Snapshot) -> Member<'_> {
    Member {
        id: connection.id(),
        user: connection.user(),
        data: connection.profile(),
    }
}
