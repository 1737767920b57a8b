//! Carrying out what another node asks for, among this node's own connections.

use std::sync::Arc;

use super::{
    super::{MembersQuery, Node, NodeError, PageBounds, Target, read_cursor, show, write_cursor},
    Cluster,
    revoked::replace_for_peer,
    rpc_request::{
        Joined, Leavers, Listed, Number, Page, Present, ReceiptPart, Refusal, Request, Tallies,
    },
};
use crate::{
    close::Close,
    hub::{ClientKey, Count, PageCursor, Snapshot},
    id::{AppId, ConnectionId, NodeId},
    limits::{PAGE_BYTES, PAGE_STRIDE, USERS_NAMED},
    protocol::{envelope::WireTarget, native::MembersBuilder},
    time_slice::TimeSlice,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

type Result = std::result::Result<Box<RawValue>, serde_json::Error>;

/// Does what `order` of the node `from` says about `app`, for the connections of `node`. This takes the whole node: the order
/// is one of its own calls, carried out here alone.
#[expect(clippy::too_many_lines, reason = "one arm for each request")]
pub(super) async fn handle_request(
    node: &Arc<Node>,
    cluster: &Cluster,
    (app, from): (AppId, NodeId),
    request: Request,
) -> Result {
    match request {
        // The task that hears the bus takes these out before, since they need no room among the
        // calls.
        Request::Hello
        | Request::Rules { .. }
        | Request::Done { .. }
        | Request::DoneTogether { .. }
        | Request::LookAgain
        | Request::Receipt { .. } => to_raw_value(&ReceiptPart::default()),
        Request::Disconnect {
            wire_target,
            code,
            reason,
        } => {
            let close = Close::new(code, &reason);
            said(disconnect_for_peer(node, app, wire_target, close).await)
        }
        Request::Join {
            channel,
            wire_target,
        } => said(join_for_peer(node, app, channel, wire_target).await),
        Request::Leave {
            channel,
            wire_target,
        } => said(leave_for_peer(node, app, channel, wire_target).await),
        Request::User { user } => to_raw_value(&Number {
            n: node.user_connections(app, &user) as u64,
        }),
        Request::Count { channel } => to_raw_value(&node.present(app, &channel)),
        Request::Counts { channels, shares } => {
            to_raw_value(&node.presents(app, &channels, shares).await)
        }
        Request::Channels {
            prefix,
            after,
            limit,
        } => to_raw_value(&node.listed(app, &prefix, after.as_deref(), limit).await),
        Request::Members {
            channel,
            from,
            limit,
            max_bytes,
        } => {
            let bounds = PageBounds {
                items: limit,
                bytes: max_bytes,
            };
            let page = node.page_of_members(app, &channel, from.as_deref(), bounds, None);
            to_raw_value(&page.await)
        }
        Request::Connections {
            wire_target,
            from,
            limit,
            max_bytes,
        } => {
            let bounds = PageBounds {
                items: limit,
                bytes: max_bytes,
            };
            said(page_for_peer(node, app, wire_target, from.as_deref(), bounds).await)
        }
        Request::Recall {
            id,
            user,
            device,
            or_successor,
        } => {
            let (user, device) = (user.as_deref(), device.as_deref());
            let client = ClientKey { app, user, device };
            to_raw_value(&cluster.handover.hand_out(&id, client, or_successor).await)
        }
        Request::Settle { id, taken } => {
            to_raw_value(&cluster.handover.settle(&id, &taken, from).await)
        }
        Request::Tallies { channel, users } => to_raw_value(&Tallies {
            tallies: node.hub.presence(app).tallies(&channel, &users),
        }),
        Request::Connection { id } => node.shown(app, &id),
        Request::Revoke { users, changes } => {
            to_raw_value(&cluster.revoked.revoke_for_peer(app, users, changes).await)
        }
        Request::Claims {
            user,
            claims,
            can,
            at,
        } => {
            let wanted = (&*claims, can.as_deref());
            said(replace_for_peer(node, app, &user, wanted, at).await)
        }
    }
}

async fn page_for_peer(
    node: &Node,
    app: AppId,
    wire_target: WireTarget,
    from: Option<&str>,
    bounds: PageBounds,
) -> std::result::Result<Page, NodeError> {
    let target = Target::from_wire(wire_target)?;
    node.page_of_connections(app, target, from, bounds).await
}

async fn disconnect_for_peer(
    node: &Node,
    app: AppId,
    wire_target: WireTarget,
    close: Close,
) -> std::result::Result<Number, NodeError> {
    let n = node
        .disconnect(app, Target::from_wire(wire_target)?, close)
        .await?;
    Ok(Number { n })
}

async fn leave_for_peer(
    node: &Arc<Node>,
    app: AppId,
    channel: String,
    wire_target: WireTarget,
) -> std::result::Result<Leavers, NodeError> {
    node.leave_local(app, channel, Target::from_wire(wire_target)?)
        .await
}

async fn join_for_peer(
    node: &Arc<Node>,
    app: AppId,
    channel: String,
    wire_target: WireTarget,
) -> std::result::Result<Joined, NodeError> {
    let joins = node
        .join_all(app, channel, Target::from_wire(wire_target)?)
        .await?;
    Ok(Joined {
        joined: joins.joined,
        already: joins.already,
        full: joins.full,
    })
}

/// What this node has of its own for a call or a page over all nodes.
impl Node {
    /// Takes the connections that `target` means out of `channel` on this node; see [`Node::leave_all`]. Says as well where
    /// clients went who may have been missed.
    pub(super) async fn leave_local(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> std::result::Result<Leavers, NodeError> {
        let n = self.leave_all(app, channel.clone(), target).await?;
        // After that: a place that was not found any longer was noted before it went.
        let moved = self.cluster.as_ref().map(|cluster| {
            let all = cluster.membership.peers().serving_ids(app).into_iter();
            cluster.handover.moved.of(app, &channel, all)
        });
        let departs = |cluster: &Arc<Cluster>| cluster.membership.departs();
        Ok(Leavers {
            n,
            moved: moved.unwrap_or_default(),
            departs: self.cluster.as_ref().is_some_and(departs),
        })
    }

    /// The connection `id` of this node as the API shows it, or null.
    fn shown(&self, app: AppId, id: &str) -> Result {
        let id = id.parse::<ConnectionId>().ok();
        let found = id.and_then(|id| self.hub.find(app, &id));

        to_raw_value(
            &found.map(|connection| {
                show::connection(&connection, &self.runtime_config().config.redact)
            }),
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
            share: None,
        }
    }

    /// The same for a node that watches `channel`.
    fn shared(&self, app: AppId, channel: &str) -> Present {
        let share = self.hub.presence(app).share(channel);
        Present {
            connections: share.connections,
            users: share.users,
            names: None,
            share: Some(share),
        }
    }

    /// Who is in each of `channels` here: of as many as one answer may have bytes, and one at least.
    async fn presents(&self, app: AppId, channels: &[String], shares: bool) -> Vec<Present> {
        let (mut presents, mut bytes) = (Vec::new(), 0);
        let mut slice = TimeSlice::begin();
        for channel in channels {
            let present = if shares {
                self.shared(app, channel)
            } else {
                self.present(app, channel)
            };
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
            // Without names: those of all channels would be more than a node takes in.
            let present = Present {
                connections,
                users,
                names: None,
                share: None,
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
        from: Option<&str>,
        bounds: PageBounds,
        joining: Option<&Snapshot>,
    ) -> Page {
        let mut from = from.and_then(read_cursor).unwrap_or_default();
        let mut builder = MembersBuilder::new(bounds.bytes);
        let mut slice = TimeSlice::begin();

        let cursor = loop {
            let before = builder.members();
            let query = MembersQuery {
                from,
                // Little is done at a time, since it is under one hold of each shard's lock.
                limit: (bounds.items - before).min(PAGE_STRIDE),
                max_bytes: bounds.bytes,
            };

            match self.gather(app, channel, query, joining, &mut builder) {
                // There are more, and there is room for more.
                Some(next)
                    if builder.members() == before + query.limit
                        && builder.members() < bounds.items =>
                {
                    from = next;
                    slice.rest().await;
                }
                cursor => break cursor,
            }
        };

        // They are taken apart again: the caller joins the items of several nodes to one page.
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
        bounds: PageBounds,
    ) -> std::result::Result<Page, NodeError> {
        let from = from.and_then(read_cursor).unwrap_or_default();
        let (found, next) = self.connections(app, target, from, bounds.items).await?;
        let config = self.runtime_config_owned();
        let (mut page, mut bytes) = (Page::default(), 0);
        let mut slice = TimeSlice::begin();

        for connection in &found {
            let shown = show::connection(connection, &config.config.redact);
            let Ok(item) = to_raw_value(&shown) else {
                continue;
            };

            bytes += item.get().len() + 1;
            if bytes > bounds.bytes && !page.items.is_empty() {
                let id = connection.id();
                page.cursor = Some(write_cursor(PageCursor {
                    shard: usize::from(id.shard),
                    slot: id.slot,
                }));
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
