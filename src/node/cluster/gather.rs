//! Looking and steering over all nodes: this node's part, the others' answers, and who did not answer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ahash::AHashSet;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;

use super::{
    super::{Joins, Node, NodeError, Target},
    Cluster,
    ask::Gathered,
    moved::{FOLLOWED_AT_MOST, Followed},
    order::{Joined, Leavers, Listed, Number, Order, Page, Present},
};
use crate::{
    close::Close,
    hub::{Count, Snapshot},
    id::{AppId, ConnectionId, NodeId},
    limits::{COUNTED_TOGETHER, PAGE_BYTES},
    log_limit::Limited,
    protocol::native::MembersPage,
    time_slice::TimeSlice,
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

    pub(crate) fn write(&self) -> String {
        match &self.within {
            Some(within) => format!("{}-{within}", self.node),
            None => self.node.to_string(),
        }
    }
}

/// A page over all nodes.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) items: Vec<Box<RawValue>>,
    pub(crate) cursor: Option<String>,
}

impl Gathered {
    /// What the nodes said, as far as it can be read.
    pub(super) fn read<T: DeserializeOwned>(&self) -> impl Iterator<Item = T> {
        self.read_named().map(|(_, said)| said)
    }

    /// The same, each with the node that said it.
    pub(super) fn read_named<T: DeserializeOwned>(&self) -> impl Iterator<Item = (NodeId, T)> {
        self.said.iter().filter_map(|said| {
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
    async fn others(&self, app: AppId, order: &Order) -> Result<Gathered, NodeError> {
        Ok(match self.cluster_up()? {
            Some(cluster) => self.ask_all(cluster, app, order).await,
            None => Gathered::default(),
        })
    }

    /// The same after this node has done its part: those that cannot be asked any more are named as missing.
    pub(super) async fn others_then(&self, app: AppId, order: &Order) -> Gathered {
        let names = || {
            self.cluster
                .as_ref()
                .map(|cluster| cluster.peers.names())
                .unwrap_or_default()
        };
        let gathered = self.others(app, order).await;
        gathered.unwrap_or_else(|_| Gathered {
            missing: names(),
            ..Gathered::default()
        })
    }

    /// Closes the connections that `target` means, on every node; see [`Node::disconnect`].
    ///
    /// # Errors
    /// Those of [`Node::disconnect`], and [`NodeError::Away`]; nobody was disconnected then.
    pub(crate) async fn disconnect_everywhere(
        self: &Arc<Self>,
        app: AppId,
        target: Target,
        close: Close,
    ) -> Result<Overall<u64>, NodeError> {
        let (aim, code, reason) = (target.aim(None), close.code, close.reason.to_string());
        let order = Order::Disconnect { aim, code, reason };
        self.cluster_up()?;
        let here = self.disconnect(app, target, close).await?;
        let gathered = self.others_then(app, &order).await;
        let there: u64 = gathered.read::<Number>().map(|number| number.n).sum();
        Ok(Overall {
            value: here + there,
            missing: gathered.missing,
        })
    }

    /// Puts the connections that `target` means into `channel`, on every node; see [`Node::join_all`].
    ///
    /// # Errors
    /// Those of [`Node::join_all`], and [`NodeError::Away`]; nobody was joined then.
    pub(crate) async fn join_everywhere(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<Joins>, NodeError> {
        let order = Order::Join {
            channel: channel.clone(),
            aim: target.aim(None),
        };
        self.cluster_up()?;
        let mut joins = self.join_all(app, channel, target).await?;
        let gathered = self.others_then(app, &order).await;
        for Joined {
            joined,
            already,
            full,
        } in gathered.read()
        {
            joins.joined += joined;
            joins.already += already;
            joins.full += full;
        }
        Ok(Overall {
            value: joins,
            missing: gathered.missing,
        })
    }

    /// Takes the connections that `target` means out of `channel`, on every node; see [`Node::leave_all`].
    ///
    /// # Errors
    /// Those of [`Node::leave_all`], and [`NodeError::Away`]; nobody was taken out then.
    pub(crate) async fn leave_everywhere(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<u64>, NodeError> {
        let order = Order::Leave {
            channel: channel.clone(),
            aim: target.aim(None),
        };
        let cluster = self.cluster_up()?;
        let here = self
            .leave_here(app, channel.clone(), target.clone())
            .await?;
        let gathered = self.others_then(app, &order).await;
        let mut overall = Overall {
            value: here.n,
            missing: Vec::new(),
        };
        // What this node handed over before the others are asked, they find. Of each other it is not known.
        let mut followed = Followed::default();
        for (node, said) in gathered.read_named::<Leavers>() {
            overall.value += said.n;
            followed.add(node, &said.moved);
        }
        overall.missing = gathered.missing;
        let Some(cluster) = cluster else {
            return Ok(overall);
        };

        // A client that came to a node after this call did, from one that it had yet to reach, was on neither of them.
        for _ in 0..FOLLOWED_AT_MOST {
            let next = followed.take_next();
            if next.is_empty() {
                break;
            }
            for node in next {
                let said = if node == self.id() {
                    let leaving = self.leave_here(app, channel.clone(), target.clone());
                    leaving.await.ok()
                } else {
                    let said = self.ask_one(cluster, app, node, &order).await;
                    said.and_then(|said| serde_json::from_str(said.get()).ok())
                };
                match said {
                    Some(Leavers { n, moved }) => {
                        overall.value += n;
                        followed.add(node, &moved);
                    }
                    None => overall.missing.extend(self.name_of(node)),
                }
            }
        }
        overall.missing.sort();
        overall.missing.dedup();
        Ok(overall)
    }

    /// How often `user` is connected, on every node.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn user_everywhere(
        &self,
        app: AppId,
        user: &str,
    ) -> Result<Overall<u64>, NodeError> {
        let gathered = self
            .others(
                app,
                &Order::User {
                    user: user.to_owned(),
                },
            )
            .await?;
        let there: u64 = gathered.read::<Number>().map(|number| number.n).sum();
        Ok(Overall {
            value: self.user_connections(app, user) as u64 + there,
            missing: gathered.missing,
        })
    }

    /// How many are in `channel`, on every node. Users count once, wherever they are, as long as no node has more than
    /// [`USERS_NAMED`](crate::limits::USERS_NAMED) of them in it.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn count_everywhere(
        &self,
        app: AppId,
        channel: &str,
    ) -> Result<Overall<Count>, NodeError> {
        self.count_with(app, channel, None).await
    }

    /// The same of many channels, for notices: in their order, with as few questions as that takes, and without waiting for nodes
    /// that did not answer lately.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(super) async fn counts_everywhere(
        &self,
        app: AppId,
        channels: &[SmolStr],
    ) -> Result<Overall<Vec<Count>>, NodeError> {
        let mut overall = Overall {
            value: Vec::with_capacity(channels.len()),
            missing: Vec::new(),
        };
        let cluster = self.cluster_up()?;
        let mut slice = TimeSlice::begin();
        while let Some(some) = channels
            .get(overall.value.len()..)
            .filter(|some| !some.is_empty())
        {
            let some = &some[..some.len().min(COUNTED_TOGETHER)];
            let names: Vec<String> = some.iter().map(ToString::to_string).collect();
            let here = self.presents(app, &names).await;
            let mut parts = vec![here];
            if let Some(cluster) = cluster {
                let (gathered, there) = self.counts_there(cluster, app, names).await;
                for name in gathered.missing {
                    if !overall.missing.contains(&name) {
                        overall.missing.push(name);
                    }
                }
                parts.extend(there);
            }
            // What is not in every answer is asked for again.
            let known = parts.iter().map(Vec::len).min().unwrap_or(0).max(1);
            let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
            for _ in 0..known.min(some.len()) {
                let of_channel = parts.iter_mut().filter_map(Iterator::next);
                overall.value.push(sum(of_channel));
                slice.rest().await;
            }
        }
        Ok(overall)
    }

    /// What other nodes have of `channels`: of the first ones, and of one at least.
    async fn counts_there(
        &self,
        cluster: &Cluster,
        app: AppId,
        mut channels: Vec<String>,
    ) -> (Gathered, Vec<Vec<Present>>) {
        let patience = self.config.limits.ask_timeout;
        // A node of an earlier version knows this question only.
        if channels.len() == 1
            && let Some(channel) = channels.pop()
        {
            let order = Order::Count { channel };
            let gathered = self.ask_heard(cluster, app, &order, patience).await;
            let said = gathered.read::<Present>().map(|present| vec![present]);
            let said = said.collect();
            return (gathered, said);
        }
        let order = Order::Counts { channels };
        let gathered = self.ask_heard(cluster, app, &order, patience).await;
        let said = gathered.read::<Vec<Present>>();
        let said = said.filter(|said| !said.is_empty()).collect();
        (gathered, said)
    }

    /// The same as [`Node::count_everywhere`], and who is `joining` as if they were in.
    async fn count_with(
        &self,
        app: AppId,
        channel: &str,
        joining: Option<&Snapshot>,
    ) -> Result<Overall<Count>, NodeError> {
        let gathered = self
            .others(
                app,
                &Order::Count {
                    channel: channel.to_owned(),
                },
            )
            .await?;
        let joining = joining
            .filter(|joining| !joining.is_in(channel))
            .map(|joining| Present {
                connections: 1,
                users: 0,
                names: Some(joining.user().map(ToOwned::to_owned).into_iter().collect()),
            });
        let parts = gathered
            .read()
            .chain([self.present(app, channel)])
            .chain(joining);
        Ok(Overall {
            value: sum(parts),
            missing: gathered.missing,
        })
    }

    /// The channels that someone is in, on any node, by name: `limit` after `after`, and whether there are more.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn channels_everywhere(
        &self,
        app: AppId,
        (prefix, after): (&str, Option<&str>),
        limit: usize,
    ) -> Result<Overall<(Vec<(String, Count)>, bool)>, NodeError> {
        let (prefix_text, after_text) = (prefix.to_owned(), after.map(ToOwned::to_owned));
        let order = Order::Channels {
            prefix: prefix_text,
            after: after_text,
            limit: limit + 1,
        };
        let gathered = self.others(app, &order).await?;
        let here = self.listed(app, prefix, after, limit + 1).await;
        let lists = gathered.read::<Vec<Listed>>().chain([here]).collect();
        Ok(Overall {
            value: merge(lists, limit),
            missing: gathered.missing,
        })
    }

    /// Up to `limit` members of `channel` on all nodes, by nodes, shards and slots, and who is `joining` here as if they
    /// were one already. A member that stays is on exactly one page.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    async fn members_everywhere(
        &self,
        app: AppId,
        channel: &str,
        from: Option<PageStart>,
        (limit, max_bytes): (usize, usize),
        joining: Option<&Snapshot>,
    ) -> Result<Overall<Items>, NodeError> {
        let here = |from: Option<String>, (left, bytes)| async move {
            let bounds = (from.as_deref(), left);
            Ok(self
                .page_of_members(app, channel, bounds, bytes, joining)
                .await)
        };
        let order = |from, (limit, max_bytes)| Order::Members {
            channel: channel.to_owned(),
            from,
            limit,
            max_bytes,
        };
        self.pages(app, from, (limit, max_bytes), here, order).await
    }

    /// A page of the members of `channel` on all nodes with their counts, both of the same nodes.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn members_page_everywhere(
        &self,
        app: AppId,
        channel: &str,
        from: Option<PageStart>,
        (limit, max_bytes): (usize, usize),
        joining: Option<&Snapshot>,
    ) -> Result<Overall<MembersPage>, NodeError> {
        loop {
            let nodes = self.nodes(self.cluster.as_ref());
            let bounds = (limit, max_bytes);
            let page = self
                .members_everywhere(app, channel, from.clone(), bounds, joining)
                .await?;
            let count = self.count_with(app, channel, joining).await?;
            // A node that came or went in between would be in one of them only.
            if nodes != self.nodes(self.cluster.as_ref()) {
                continue;
            }
            let members = to_raw_value(&page.value.items).map_err(|_| NodeError::Failed)?;
            let Count { connections, users } = count.value;
            let mut missing = page.missing;
            missing.extend(count.missing);
            missing.sort();
            missing.dedup();
            let page = MembersPage {
                members,
                count: connections,
                users,
                cursor: page.value.cursor,
            };
            return Ok(Overall {
                value: page,
                missing,
            });
        }
    }

    /// Up to `limit` connections that `target` means, and as many as fit one answer, on all nodes, by nodes, shards and
    /// slots.
    ///
    /// # Errors
    /// Those of [`Node::connections`], and [`NodeError::Away`].
    pub(crate) async fn connections_everywhere(
        &self,
        app: AppId,
        target: Target,
        from: Option<PageStart>,
        limit: usize,
    ) -> Result<Overall<Items>, NodeError> {
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
        let order = |from, (limit, max_bytes)| Order::Connections {
            aim: target.aim(None),
            from,
            limit,
            max_bytes,
        };
        self.pages(app, from, (limit, PAGE_BYTES), here, order)
            .await
    }

    /// A connection as it is shown, wherever it is.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn connection_elsewhere(
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
        if !cluster.peers.all().iter().any(|peer| peer.id == id.node) {
            return Ok(None);
        }
        let said = self
            .ask_one(
                cluster,
                app,
                id.node,
                &Order::Connection { id: id.to_string() },
            )
            .await;
        let said = said.ok_or_else(|| NodeError::Away {
            reason: "the connection's node does not answer".into(),
        })?;
        Ok(Some(said).filter(|said| said.get() != "null"))
    }

    /// Goes from node to node, in the order of their ids, until the page has as many items, or bytes, as it may.
    async fn pages<F: Future<Output = Result<Page, NodeError>>>(
        &self,
        app: AppId,
        from: Option<PageStart>,
        (limit, max_bytes): (usize, usize),
        here: impl Fn(Option<String>, (usize, usize)) -> F,
        order: impl Fn(Option<String>, (usize, usize)) -> Order,
    ) -> Result<Overall<Items>, NodeError> {
        let cluster = self.cluster_up()?;
        let mut nodes = self.nodes(cluster);
        nodes.retain(|(id, _)| from.as_ref().is_none_or(|from| *id >= from.node));
        let mut overall = Overall {
            value: Items::default(),
            missing: Vec::new(),
        };
        let mut bytes = max_bytes;
        for (node, name) in nodes {
            let left = limit - overall.value.items.len();
            let within = from
                .as_ref()
                .filter(|from| from.node == node)
                .and_then(|from| from.within.clone());
            if left == 0 || bytes == 0 {
                overall.value.cursor = Some(PageStart { node, within: None }.write());
                break;
            }
            let page = match cluster {
                Some(cluster) if node != self.id() => {
                    let said = self
                        .ask_one(cluster, app, node, &order(within, (left, bytes)))
                        .await;
                    said.and_then(|said| serde_json::from_str::<Page>(said.get()).ok())
                }
                _ => Some(here(within, (left, bytes)).await?),
            };
            let Some(page) = page else {
                overall.missing.push(name);
                continue;
            };
            bytes = page.items.iter().fold(bytes, |left, item| {
                left.saturating_sub(item.get().len() + 1)
            });
            overall.value.items.extend(page.items);
            if let Some(within) = page.cursor {
                overall.value.cursor = Some(
                    PageStart {
                        node,
                        within: Some(within),
                    }
                    .write(),
                );
                break;
            }
        }
        Ok(overall)
    }

    /// The names of all nodes, this one's too.
    pub(in super::super) fn all_names(&self) -> Vec<String> {
        self.nodes(self.cluster.as_ref())
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    }

    /// What people call a node that is there.
    fn name_of(&self, id: NodeId) -> Option<String> {
        let mut nodes = self.nodes(self.cluster.as_ref()).into_iter();
        nodes.find(|(node, _)| *node == id).map(|(_, name)| name)
    }

    /// All nodes by their ids, with their names.
    fn nodes(&self, cluster: Option<&Cluster>) -> Vec<(NodeId, String)> {
        let peers = cluster
            .map(|cluster| cluster.peers.all())
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
        };
        let many = Present {
            connections: 5000,
            users: 4000,
            names: None,
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
