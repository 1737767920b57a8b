//! Carrying out what another node asks for, among this node's own connections.

use std::sync::Arc;

use super::{
    super::{MembersQuery, Node, NodeError, Target, read_cursor, show, write_cursor},
    order::{Joined, Leavers, Listed, Number, Order, Page, Part, Present, Refusal, Tallies},
};
use crate::{
    close::Close,
    hub::{Count, Snapshot},
    id::{AppId, ConnectionId, NodeId},
    limits::{PAGE_BYTES, PAGE_STRIDE, USERS_NAMED},
    protocol::{envelope::Aim, native::MembersBuilder},
    time_slice::TimeSlice,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

type Result = std::result::Result<Box<RawValue>, serde_json::Error>;

impl Node {
    /// Does what `order` of the node `from` says, for the connections of this node.
    pub(super) async fn obey(self: &Arc<Self>, app: AppId, from: NodeId, order: Order) -> Result {
        match order {
            Order::Hello | Order::Rules { .. } | Order::Done { .. } | Order::Receipt { .. } => {
                to_raw_value(&Part::default())
            }
            Order::Disconnect { aim, code, reason } => {
                let close = Close::new(code, &reason);
                said(self.disconnect_as_told(app, aim, close).await)
            }
            Order::Join { channel, aim } => said(self.join_as_told(app, channel, aim).await),
            Order::Leave { channel, aim } => {
                let leaving = async { self.leave_here(app, channel, Self::target_of(aim)?).await };
                said(leaving.await)
            }
            Order::User { user } => to_raw_value(&Number {
                n: self.user_connections(app, &user) as u64,
            }),
            Order::Count { channel } => to_raw_value(&self.present(app, &channel)),
            Order::Counts { channels } => to_raw_value(&self.presents(app, &channels).await),
            Order::Channels {
                prefix,
                after,
                limit,
            } => to_raw_value(&self.listed(app, &prefix, after.as_deref(), limit).await),
            Order::Members {
                channel,
                from,
                limit,
                max_bytes,
            } => to_raw_value(
                &self
                    .page_of_members(app, &channel, (from.as_deref(), limit), max_bytes, None)
                    .await,
            ),
            Order::Connections {
                aim,
                from,
                limit,
                max_bytes,
            } => {
                let page = async {
                    let target = Self::target_of(aim)?;
                    self.page_of_connections(app, target, from.as_deref(), (limit, max_bytes))
                        .await
                };
                said(page.await)
            }
            Order::Recall { id, user, device } => {
                to_raw_value(&self.hand_out(app, &id, user.as_deref(), device.as_deref()))
            }
            Order::Settle { id, taken } => to_raw_value(&self.settle(&id, &taken, from)),
            Order::Tallies { channel, users } => to_raw_value(&Tallies {
                tallies: self.hub.presence(app).tallies(&channel, &users),
            }),
            Order::Connection { id } => self.shown(app, &id),
            Order::Revoke { users, changes } => {
                to_raw_value(&self.revoke_as_told(app, users, changes).await)
            }
            Order::Claims {
                user,
                claims,
                can,
                at,
            } => {
                let wanted = (&*claims, can.as_deref());
                said(self.replace_as_told(app, &user, wanted, at).await)
            }
        }
    }

    /// Takes the connections that `target` means out of `channel` on this node; see [`Node::leave_all`]. Says as well where
    /// clients went who may have been missed.
    pub(super) async fn leave_here(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> std::result::Result<Leavers, NodeError> {
        let n = self.leave_all(app, channel.clone(), target).await?;
        // After that: a place that was not found any more was noted before it went.
        let moved = self.cluster.as_ref().map(|cluster| {
            let all = cluster.peers.all().into_iter().map(|peer| peer.id);
            cluster.moved.of(app, &channel, all)
        });
        let moved = moved.unwrap_or_default();
        Ok(Leavers { n, moved })
    }

    async fn disconnect_as_told(
        &self,
        app: AppId,
        aim: Aim,
        close: Close,
    ) -> std::result::Result<Number, NodeError> {
        let n = self.disconnect(app, Self::target_of(aim)?, close).await?;
        Ok(Number { n })
    }

    async fn join_as_told(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        aim: Aim,
    ) -> std::result::Result<Joined, NodeError> {
        let joins = self.join_all(app, channel, Self::target_of(aim)?).await?;
        Ok(Joined {
            joined: joins.joined,
            already: joins.already,
            full: joins.full,
        })
    }

    /// The connection `id` of this node as the API shows it, or null.
    fn shown(&self, app: AppId, id: &str) -> Result {
        let id = id.parse::<ConnectionId>().ok();
        let found = id.and_then(|id| self.hub.find(app, &id));

        to_raw_value(
            &found.map(|connection| show::connection(&connection, &self.live().config.redact)),
        )
    }

    /// Who is in `channel` here.
    pub(super) fn present(&self, app: AppId, channel: &str) -> Present {
        let Count { connections, users } = self.count(app, channel);
        let names = self.hub.presence(app).users(channel, USERS_NAMED);
        Present {
            connections,
            users,
            names,
        }
    }

    /// Who is in each of `channels` here: of as many as one answer may have bytes, and one at least.
    pub(super) async fn presents(&self, app: AppId, channels: &[String]) -> Vec<Present> {
        let (mut presents, mut bytes) = (Vec::new(), 0);
        let mut slice = TimeSlice::begin();
        for channel in channels {
            let present = self.present(app, channel);
            bytes += present.bytes();
            if bytes > PAGE_BYTES && !presents.is_empty() {
                break;
            }
            presents.push(present);
            slice.rest().await;
        }
        presents
    }

    /// The channels that someone is in here: up to `limit`, and as many as one answer may have bytes.
    pub(super) async fn listed(
        &self,
        app: AppId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Listed> {
        let found = self.hub.presence(app).list(prefix, after, limit).await;
        let (mut listed, mut bytes) = (Vec::<Listed>::new(), 0);
        let mut slice = TimeSlice::begin();
        for (channel, Count { connections, users }) in found {
            // A node that is alone needs no names to count each user once.
            let present = match self.cluster {
                Some(_) => self.present(app, &channel),
                None => Present {
                    connections,
                    users,
                    names: None,
                },
            };
            bytes += channel.len() + present.bytes();
            if bytes > PAGE_BYTES
                && let Some(last) = listed.last_mut()
            {
                last.more = true;
                break;
            }
            listed.push(Listed {
                channel: channel.to_string(),
                present,
                more: false,
            });
            slice.rest().await;
        }
        listed
    }

    /// Members of `channel` that are connected here.
    pub(super) async fn page_of_members(
        &self,
        app: AppId,
        channel: &str,
        (from, limit): (Option<&str>, usize),
        max_bytes: usize,
        joining: Option<&Snapshot>,
    ) -> Page {
        let mut from = from.and_then(read_cursor).unwrap_or_default();
        let mut builder = MembersBuilder::new(max_bytes);
        let mut slice = TimeSlice::begin();
        let cursor = loop {
            let before = builder.members();
            let query = MembersQuery {
                from,
                limit: (limit - before).min(PAGE_STRIDE),
                max_bytes,
            };
            match self.gather(app, channel, query, joining, &mut builder) {
                // There are more, and there is room for more.
                Some(next)
                    if builder.members() == before + query.limit && builder.members() < limit =>
                {
                    from = next;
                    slice.rest().await;
                }
                cursor => break cursor,
            }
        };
        let items = serde_json::from_str(builder.finish().get()).unwrap_or_default();
        Page {
            items,
            cursor: cursor.map(write_cursor),
        }
    }

    /// Connections of this node, as they are shown: up to `limit`, and as many as have `max_bytes`, but one at least.
    pub(super) async fn page_of_connections(
        &self,
        app: AppId,
        target: Target,
        from: Option<&str>,
        (limit, max_bytes): (usize, usize),
    ) -> std::result::Result<Page, NodeError> {
        let from = from.and_then(read_cursor).unwrap_or_default();
        let (found, next) = self.connections(app, target, from, limit).await?;
        let live = self.live_for_long();
        let (mut page, mut bytes) = (Page::default(), 0);
        let mut slice = TimeSlice::begin();
        for connection in &found {
            let shown = show::connection(connection, &live.config.redact);
            let Ok(item) = to_raw_value(&shown) else {
                continue;
            };
            bytes += item.get().len() + 1;
            if bytes > max_bytes && !page.items.is_empty() {
                let id = connection.id();
                page.cursor = Some(write_cursor((usize::from(id.shard), id.slot)));
                return Ok(page);
            }
            page.items.push(item);
            slice.rest().await;
        }
        page.cursor = next.map(write_cursor);
        Ok(page)
    }
}

/// An answer, or why there is none.
fn said<T: Serialize>(result: std::result::Result<T, NodeError>) -> Result {
    match result {
        Ok(value) => to_raw_value(&value),
        Err(error) => to_raw_value(&Refusal {
            error: error.to_string(),
        }),
    }
}
