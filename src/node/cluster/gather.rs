//! Looking and steering over all nodes: this node's part, the others' answers, and who did not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use ahash::{AHashMap, AHashSet};
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    super::{Joins, Node, NodeError, Target},
    leases::{Peer, Peers},
    leaving::Leaving,
    peer_counts::Parts,
    rpc::Responses,
    rpc_request::{Joined, Listed, Number, Page, Present, Request},
};
use crate::{
    close::Close,
    hub::{Count, Snapshot},
    id::{AppId, ConnectionId, NodeId},
    limits::{PAGE_BYTES, PAGE_MAX, PAGE_PARTS_AT_ONCE},
    log_limit::Limited,
    protocol::native::MembersPage,
};

/// Lines about answers of nodes that cannot be read.
static UNREADABLE: Limited = Limited::new();

/// An answer of the cluster, and the nodes that are missing from it.
#[derive(Clone, Debug)]
pub(crate) struct Overall<T> {
    pub(crate) value: T,
    /// Nodes that hold a lease, and did not answer in time.
    pub(crate) missing: Vec<String>,
}

/// Where a page over all nodes begins: a node, and that node's own cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageStart {
    node: NodeId,
    within: Option<String>,
}

impl PageStart {
    /// Reads what [`PageStart::write`] wrote.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (node, within) = text
            .split_once('-')
            .map_or((text, None), |(node, within)| (node, Some(within)));
        super::super::read_cursor(within.unwrap_or("0.0"))?;
        Some(Self {
            node: node.parse().ok()?,
            within: within.map(ToOwned::to_owned),
        })
    }

    /// Where the first page begins.
    pub(crate) fn first() -> Self {
        Self {
            node: NodeId(0),
            within: None,
        }
    }

    /// The text of where a page begins.
    fn at(node: NodeId, within: Option<String>) -> String {
        Self { node, within }.write()
    }

    pub(crate) fn write(&self) -> String {
        match &self.within {
            Some(within) => format!("{}-{within}", self.node),
            None => self.node.to_string(),
        }
    }
}

/// A page over all nodes.
#[derive(Debug, Default)]
pub(crate) struct PageOfAll {
    pub(crate) items: Vec<Box<RawValue>>,
    pub(crate) cursor: Option<String>,
    /// Nodes that did not say what they have.
    unread: Vec<NodeId>,
}

/// A node that has a part of a page, and how many items it has, as far as is known.
#[derive(Debug)]
struct PagePart {
    node: NodeId,
    name: String,
    items: u64,
}

/// How many are in a channel on all nodes, and how many of them on each other node.
#[derive(Debug)]
struct Counted {
    count: Count,
    connections: AHashMap<NodeId, u64>,
}

/// Waits for all of `futures` at the same time.
async fn all_of<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    poll_fn(|cx| {
        let mut is_pending = false;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *done = Some(value),
                    Poll::Pending => is_pending = true,
                }
            }
        }

        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;

    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

impl Responses {
    /// What the nodes said, as far as it can be read.
    pub(super) fn read<T: DeserializeOwned>(&self) -> impl Iterator<Item = T> {
        self.read_named().map(|(_, said)| said)
    }

    /// The same, each with the node that said it.
    pub(super) fn read_named<T: DeserializeOwned>(&self) -> impl Iterator<Item = (NodeId, T)> {
        self.received.iter().filter_map(|said| {
            let read = serde_json::from_str(said.result.get()).ok();
            if read.is_none()
                && let Some(others) = UNREADABLE.note(Instant::now())
            {
                // An answer may be large, and it may hold names.
                let bytes = said.result.get().len();
                tracing::warn!(others, node = %said.node, bytes, "a node's answer cannot be read");
            }
            Some((said.node, read?))
        })
    }
}

impl Node {
    /// Asks all others, unless this node is alone.
    async fn call_remote(&self, app: AppId, request: &Request) -> Result<Responses, NodeError> {
        Ok(match self.cluster_up()? {
            Some(cluster) => cluster.rpc.call_all(app, request).await,
            None => Responses::default(),
        })
    }

    /// The same after this node has done its part: those that cannot be asked any more are named as missing.
    pub(super) async fn call_remote_if_up(&self, app: AppId, request: &Request) -> Responses {
        let names = || {
            self.cluster
                .as_ref()
                .map(|cluster| cluster.membership.peers().names(app))
                .unwrap_or_default()
        };
        let responses = self.call_remote(app, request).await;
        responses.unwrap_or_else(|_| Responses {
            missing: names(),
            ..Responses::default()
        })
    }

    /// Closes the connections that `target` means, on every node; see [`Node::disconnect`].
    ///
    /// # Errors
    /// Those of [`Node::disconnect`], and [`NodeError::Away`]; nobody was disconnected then.
    pub(crate) async fn cluster_disconnect(
        self: &Arc<Self>,
        app: AppId,
        target: Target,
        close: Close,
    ) -> Result<Overall<u64>, NodeError> {
        let (wire_target, code, reason) = (
            target.wire_target(None),
            close.code,
            close.reason.to_string(),
        );

        let request = Request::Disconnect {
            wire_target,
            code,
            reason,
        };

        self.cluster_up()?;
        let here = self.disconnect(app, target, close).await?;
        let responses = self.call_remote_if_up(app, &request).await;
        let there: u64 = responses.read::<Number>().map(|number| number.n).sum();

        Ok(Overall {
            value: here + there,
            missing: responses.missing,
        })
    }

    /// Puts the connections that `target` means into `channel`, on every node; see [`Node::join_all`].
    ///
    /// # Errors
    /// Those of [`Node::join_all`], and [`NodeError::Away`]; nobody was joined then.
    pub(crate) async fn cluster_join(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<Joins>, NodeError> {
        let request = Request::Join {
            channel: channel.clone(),
            wire_target: target.wire_target(None),
        };

        self.cluster_up()?;
        let mut joins = self.join_all(app, channel, target).await?;
        let responses = self.call_remote_if_up(app, &request).await;

        for Joined {
            joined,
            already,
            full,
        } in responses.read()
        {
            joins.joined += joined;
            joins.already += already;
            joins.full += full;
        }

        Ok(Overall {
            value: joins,
            missing: responses.missing,
        })
    }

    /// Takes the connections that `target` means out of `channel`, on every node; see [`Node::leave_all`]. Those whose nodes have
    /// ended do not come back to it.
    ///
    /// # Errors
    /// Those of [`Node::leave_all`], and [`NodeError::Away`]; nobody was taken out then.
    pub(crate) async fn cluster_leave(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<u64>, NodeError> {
        let Some(cluster) = self.cluster_up()? else {
            let here = self.leave_local(app, channel, target).await?;
            return Ok(Overall {
                value: here.n,
                missing: Vec::new(),
            });
        };

        let peers = cluster.membership.peers().serving(app);
        let leaving = Leaving::new(self, cluster, (app, channel, target));
        if cluster.removals.may_await() {
            let all = peers.iter().map(|peer| peer.id).chain([self.id()]);
            leaving.note(all).await.map_err(|error| NodeError::Away {
                reason: error.to_string().into(),
            })?;
        }

        leaving.run(peers).await
    }

    /// How often `user` is connected, on every node.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_user(
        &self,
        app: AppId,
        user: &str,
    ) -> Result<Overall<u64>, NodeError> {
        let responses = self
            .call_remote(
                app,
                &Request::User {
                    user: user.to_owned(),
                },
            )
            .await?;

        let there: u64 = responses.read::<Number>().map(|number| number.n).sum();
        Ok(Overall {
            value: self.user_connections(app, user) as u64 + there,
            missing: responses.missing,
        })
    }

    /// How many are in `channel`, on every node. Users count once, wherever they are, as long as no node has more than
    /// [`USERS_NAMED`](crate::limits::USERS_NAMED) of them in it.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_count(
        &self,
        app: AppId,
        channel: &str,
    ) -> Result<Overall<Count>, NodeError> {
        let Overall { value, missing } = self.count_with(app, channel, None).await?;
        Ok(Overall {
            value: value.count,
            missing,
        })
    }

    /// The same, and who is `joining` as if they were in.
    async fn count_with(
        &self,
        app: AppId,
        channel: &str,
        joining: Option<&Snapshot>,
    ) -> Result<Overall<Counted>, NodeError> {
        let request = Request::Count {
            channel: channel.to_owned(),
        };

        let responses = self.call_remote(app, &request).await?;
        let there: Vec<(NodeId, Present)> = responses.read_named().collect();
        let connections = |(node, present): &(NodeId, Present)| (*node, present.connections);
        let connections = there.iter().map(connections).collect();

        let joining = joining.map(|joining| Present {
            connections: 1,
            names: Some(joining.user().map(ToOwned::to_owned).into_iter().collect()),
            ..Present::default()
        });

        let there = there.into_iter().map(|(_, present)| present);
        let parts = there.chain([self.present(app, channel)]).chain(joining);
        Ok(Overall {
            value: Counted {
                count: sum(parts),
                connections,
            },
            missing: responses.missing,
        })
    }

    /// The same of a channel that may be watched here: then it is known already.
    async fn counted(
        &self,
        app: AppId,
        channel: &str,
        joining: Option<&Snapshot>,
    ) -> Result<Overall<Counted>, NodeError> {
        let cluster = self.cluster_up()?;
        let watched =
            cluster.filter(|cluster| cluster.notices.peer_counts.is_watched(app, channel));
        let Some(cluster) = watched else {
            return self.count_with(app, channel, joining).await;
        };

        let patience = self.config.limits.node_call_timeout;
        cluster
            .notices
            .peer_counts
            .settled(app, channel, patience)
            .await;

        let Parts {
            connections,
            unknown,
        } = cluster.notices.peer_counts.parts(app, channel);

        let mut count = cluster.notices.count_of_all(app, channel);
        if let Some(joining) = joining {
            count.connections += 1;
            let user: Vec<String> = joining.user().map(ToOwned::to_owned).into_iter().collect();
            let here = self.hub.presence(app).tallies(channel, &user);
            let of = |user: &String| {
                cluster
                    .notices
                    .peer_counts
                    .tally(app, &channel.into(), user)
            };
            let is_new = here.iter().all(|n| *n == 0) && user.iter().all(|user| of(user) == 0);
            count.users += u64::from(!user.is_empty() && is_new);
        }

        let missing = unknown.iter().filter_map(|node| self.name_of(*node));
        Ok(Overall {
            value: Counted { count, connections },
            missing: missing.collect(),
        })
    }

    /// The channels that someone is in, on any node, by name: `limit` after `after`, and whether there are more.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_channels(
        &self,
        app: AppId,
        (prefix, after): (&str, Option<&str>),
        limit: usize,
    ) -> Result<Overall<(Vec<(String, Count)>, bool)>, NodeError> {
        let (prefix_text, after_text) = (prefix.to_owned(), after.map(ToOwned::to_owned));
        let request = Request::Channels {
            prefix: prefix_text,
            after: after_text,
            limit: limit + 1,
        };

        let responses = self.call_remote(app, &request).await?;
        let here = self.listed(app, prefix, after, limit + 1).await;
        let lists = responses.read::<Vec<Listed>>().chain([here]).collect();

        Ok(Overall {
            value: merge(lists, limit),
            missing: responses.missing,
        })
    }

    /// A page of up to `limit` members of `channel` on all nodes, by nodes, shards and slots, with their counts, and who is
    /// `joining` here as if they were in already. A member that stays is on exactly one page. Nodes without members are not asked
    /// for any.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_members_page(
        &self,
        app: AppId,
        channel: &str,
        from: Option<PageStart>,
        bounds: (usize, usize),
        joining: Option<&Snapshot>,
    ) -> Result<Overall<MembersPage>, NodeError> {
        let joining = joining.filter(|joining| !joining.is_in(channel));
        let Overall { value, mut missing } = self.counted(app, channel, joining).await?;
        let Counted {
            mut count,
            connections,
        } = value;

        let mut parts = self.page_parts(app, |_| 0);
        for part in &mut parts {
            part.items = if part.node == self.id() {
                self.count(app, channel).connections + u64::from(joining.is_some())
            } else {
                connections.get(&part.node).copied().unwrap_or(0)
            };
        }

        parts.retain(|part| part.items > 0);

        let here = |from: Option<String>, (left, bytes)| async move {
            let bounds = (from.as_deref(), left);
            Ok(self
                .page_of_members(app, channel, bounds, bytes, joining)
                .await)
        };

        let request = |from, (limit, max_bytes)| Request::Members {
            channel: channel.to_owned(),
            from,
            limit,
            max_bytes,
        };

        let page = self.pages(app, parts, from, bounds, here, request).await?;
        // Counts and members are of the same nodes.
        for node in &page.value.unread {
            let unread = connections.get(node).copied().unwrap_or(0);
            count.connections = count.connections.saturating_sub(unread);
        }

        // A client that keeps a list by this page looks again once they answer.
        if let Some(cluster) = &self.cluster
            && !page.value.unread.is_empty()
            && cluster.notices.notice_buffers.is_waiting(app, channel)
        {
            let lacked = &page.value.unread;
            cluster.notices.peer_counts.lacked(app, channel, lacked);
        }

        missing.extend(page.missing);
        missing.sort();
        missing.dedup();

        let page = MembersPage {
            members: to_raw_value(&page.value.items).map_err(|_| NodeError::Failed)?,
            count: count.connections,
            users: count.users,
            cursor: page.value.cursor,
        };

        Ok(Overall {
            value: page,
            missing,
        })
    }

    /// All members of `channel` on all nodes, as a list; `None` if that has over `max_bytes`.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn roster(
        &self,
        app: AppId,
        channel: &str,
        max_bytes: usize,
    ) -> Result<Option<Box<RawValue>>, NodeError> {
        let (mut all, mut bytes, mut from) = (Vec::new(), 0, None);
        loop {
            let bounds = (PAGE_MAX, max_bytes);
            let page = self
                .cluster_members_page(app, channel, from, bounds, None)
                .await?;
            let members: Vec<Box<RawValue>> =
                serde_json::from_str(page.value.members.get()).map_err(|_| NodeError::Failed)?;

            for member in members {
                bytes += member.get().len();
                all.push(member);
            }

            if bytes > max_bytes {
                return Ok(None);
            }

            from = page.value.cursor.as_deref().and_then(PageStart::read);
            if from.is_none() {
                return to_raw_value(&all).map(Some).map_err(|_| NodeError::Failed);
            }
        }
    }

    /// Up to `limit` connections that `target` means, and as many as fit one answer, on all nodes, by nodes, shards and
    /// slots.
    ///
    /// # Errors
    /// Those of [`Node::connections`], and [`NodeError::Away`].
    pub(crate) async fn cluster_connections(
        &self,
        app: AppId,
        target: Target,
        from: Option<PageStart>,
        limit: usize,
    ) -> Result<Overall<PageOfAll>, NodeError> {
        // A wrong filter is refused even if no connection of the page is on this node.
        let bound = self.compile_aside(app, &target).await?;
        self.select(app, target.clone(), bound)?;

        let here = |from: Option<String>, bounds| {
            let target = target.clone();
            async move {
                self.page_of_connections(app, target, from.as_deref(), bounds)
                    .await
            }
        };

        let request = |from, (limit, max_bytes)| Request::Connections {
            wire_target: target.wire_target(None),
            from,
            limit,
            max_bytes,
        };

        // How many each has is not known: one after another.
        let parts = self.page_parts(app, |_| u64::MAX);
        self.pages(app, parts, from, (limit, PAGE_BYTES), here, request)
            .await
    }

    /// A connection as it is shown, wherever it is.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn remote_connection(
        &self,
        app: AppId,
        id: &ConnectionId,
    ) -> Result<Option<Box<RawValue>>, NodeError> {
        if id.node == self.id() {
            return Ok(None);
        }
        let Some(cluster) = self.cluster_up()? else {
            return Ok(None);
        };

        if !cluster
            .membership
            .peers()
            .serving_ids(app)
            .contains(&id.node)
        {
            return Ok(None);
        }

        let said = cluster
            .rpc
            .call_one(app, id.node, &Request::Connection { id: id.to_string() })
            .await;
        let said = said.ok_or_else(|| NodeError::Away {
            reason: "the connection's node does not answer".into(),
        })?;
        Ok(Some(said).filter(|said| said.get() != "null"))
    }

    /// All nodes that serve `app` in the order of their ids, each with the number of its items.
    fn page_parts(&self, app: AppId, items: impl Fn(NodeId) -> u64) -> Vec<PagePart> {
        let nodes = self.nodes(|peers| peers.serving(app)).into_iter();
        let part = |(node, name)| PagePart {
            node,
            name,
            items: items(node),
        };
        nodes.map(part).collect()
    }

    /// Goes through the nodes in their order until the page has as many items, or bytes, as it may. Those whose items fit, as far as
    /// is known, are asked together.
    async fn pages<F: Future<Output = Result<Page, NodeError>>>(
        &self,
        app: AppId,
        mut parts: Vec<PagePart>,
        from: Option<PageStart>,
        (limit, max_bytes): (usize, usize),
        here: impl Fn(Option<String>, (usize, usize)) -> F,
        request: impl Fn(Option<String>, (usize, usize)) -> Request,
    ) -> Result<Overall<PageOfAll>, NodeError> {
        let cluster = self.cluster_up()?;
        let (mut value, mut missing) = (PageOfAll::default(), Vec::new());
        parts.retain(|part| from.as_ref().is_none_or(|from| part.node >= from.node));
        let (mut parts, mut bytes) = (VecDeque::from(parts), max_bytes);

        while let Some(first) = parts.front().map(|part| part.node) {
            let left = limit - value.items.len();
            let from = from.as_ref().filter(|from| from.node == first);
            let within = from.and_then(|from| from.within.clone());
            if left == 0 || bytes == 0 {
                value.cursor = Some(PageStart::at(first, None));
                break;
            }

            let mut before = 0;
            let mut asked = Vec::new();
            for part in parts.iter().take(PAGE_PARTS_AT_ONCE) {
                if before >= left {
                    break;
                }

                let (node, bounds) = (part.node, (left - before, bytes));
                let within = within.clone().filter(|_| node == first);
                let (here, request) = (&here, &request);

                asked.push(async move {
                    match cluster {
                        Some(cluster) if node != self.id() => {
                            let request = request(within, bounds);
                            let said = cluster.rpc.call_one(app, node, &request).await;
                            Ok(said.and_then(|said| serde_json::from_str(said.get()).ok()))
                        }
                        _ => here(within, bounds).await.map(Some),
                    }
                });

                before = before.saturating_add(usize::try_from(part.items).unwrap_or(usize::MAX));
            }

            for (at, page) in all_of(asked).await.into_iter().enumerate() {
                let page: Option<Page> = page?;
                let (items, size) = page
                    .as_ref()
                    .map_or((0, 0), |page| (page.items.len(), page.bytes()));
                let has_room = value.items.len() + items <= limit && size <= bytes;
                if at > 0 && !has_room {
                    // More came meanwhile than were counted. It is asked again for what fits.
                    break;
                }
                let Some(PagePart { node, name, .. }) = parts.pop_front() else {
                    break;
                };

                let Some(page) = page else {
                    value.unread.push(node);
                    missing.push(name);
                    continue;
                };

                bytes = bytes.saturating_sub(size);
                value.items.extend(page.items);
                if page.cursor.is_some() {
                    value.cursor = Some(PageStart::at(node, page.cursor));
                    return Ok(Overall { value, missing });
                }
            }
        }

        Ok(Overall { value, missing })
    }

    /// The names of the nodes that serve `app`, this one's too.
    pub(in crate::node) fn serving_names(&self, app: AppId) -> Vec<String> {
        self.nodes(|peers| peers.serving(app))
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    }

    /// What people call a node that is there.
    pub(super) fn name_of(&self, id: NodeId) -> Option<String> {
        let mut nodes = self.nodes(Peers::all).into_iter();
        nodes.find(|(node, _)| *node == id).map(|(_, name)| name)
    }

    /// This node and those `of` the others, by their ids, with their names.
    fn nodes(&self, of: impl Fn(&Peers) -> Vec<Peer>) -> Vec<(NodeId, String)> {
        let cluster = self.cluster.as_ref();
        let peers = cluster
            .map(|cluster| of(cluster.membership.peers()))
            .unwrap_or_default();
        let mut nodes: Vec<_> = peers
            .into_iter()
            .map(|peer| (peer.id, peer.name.to_string()))
            .collect();
        nodes.push((self.id(), self.name.to_string()));
        nodes.sort();
        nodes
    }
}

/// The first `limit` channels of the lists of several nodes, and whether there are more. A list that breaks off says nothing
/// of what would come after it, so what others have there is left for the next page.
fn merge(lists: Vec<Vec<Listed>>, limit: usize) -> (Vec<(String, Count)>, bool) {
    let ends = lists.iter().filter_map(|list| list.last());
    let known_to = ends
        .filter(|last| last.more)
        .map(|last| last.channel.clone())
        .min();

    let mut merged: BTreeMap<String, Vec<Present>> = BTreeMap::new();
    for Listed {
        channel, present, ..
    } in lists.into_iter().flatten()
    {
        if known_to.as_ref().is_none_or(|last| channel <= *last) {
            merged.entry(channel).or_default().push(present);
        }
    }

    let more = merged.len() > limit || known_to.is_some();
    let found = merged
        .into_iter()
        .take(limit)
        .map(|(name, parts)| (name, sum(parts)))
        .collect();

    (found, more)
}

/// The counts of several nodes together.
fn sum(parts: impl IntoIterator<Item = Present>) -> Count {
    let (mut named, mut count) = (AHashSet::new(), Count::default());
    for Present {
        connections,
        users,
        names,
        ..
    } in parts
    {
        count.connections += connections;
        match names {
            Some(names) => named.extend(names),
            None => count.users += users,
        }
    }

    count.users += named.len() as u64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text() {
        for within in [None, Some("1.23".to_owned())] {
            let place = PageStart {
                node: NodeId(77),
                within,
            };
            assert_eq!(PageStart::read(&place.write()), Some(place));
        }
        for bad in ["", "x", "00000000-", "0000001-1", "0000001-a.b"] {
            assert_eq!(PageStart::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_that_breaks_off_ends_the_page() {
        let list = |names: &[&str], more: bool| {
            let listed = |(at, name): (usize, &&str)| Listed {
                channel: (*name).to_owned(),
                present: Present {
                    connections: 1,
                    ..Present::default()
                },
                more: more && at + 1 == names.len(),
            };
            names.iter().enumerate().map(listed).collect::<Vec<_>>()
        };
        let merged = |lists: Vec<Vec<Listed>>, limit| {
            let (found, more) = merge(lists, limit);
            let shown = |(name, count): &(String, Count)| format!("{name}{}", count.connections);
            (found.iter().map(shown).collect::<Vec<_>>().join(" "), more)
        };
        let whole = || vec![list(&["a", "c"], false), list(&["a", "b"], false)];
        assert_eq!(merged(whole(), 10), ("a2 b1 c1".to_owned(), false));
        assert_eq!(merged(whole(), 2), ("a2 b1".to_owned(), true));
        let broken = || vec![list(&["a", "c", "d"], false), list(&["a", "b"], true)];
        assert_eq!(merged(broken(), 10), ("a2 b1".to_owned(), true));
        assert_eq!(merged(broken(), 1), ("a2".to_owned(), true));
        assert_eq!(merged(vec![list(&[], true)], 1), (String::new(), false));
    }

    #[test]
    fn a_user_on_two_nodes_counts_once() {
        let part = |names: &[&str]| Present {
            connections: names.len() as u64,
            users: names.len() as u64,
            names: Some(names.iter().map(ToString::to_string).collect()),
            share: None,
        };
        let many = Present {
            connections: 5000,
            users: 4000,
            names: None,
            share: None,
        };
        assert_eq!(
            sum([part(&["a", "b"]), part(&["b"])]),
            Count {
                connections: 3,
                users: 2
            }
        );
        assert_eq!(
            sum([part(&["a"]), many]),
            Count {
                connections: 5001,
                users: 4001
            }
        );
    }
}
