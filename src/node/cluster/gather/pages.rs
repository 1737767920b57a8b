//! Pages over all nodes: members of a channel, and the connections that a target means, node after node.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use ahash::AHashMap;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    super::rpc_request::{Page, Request},
    Overall,
    counts::Counted,
};
use crate::{
    hub::Snapshot,
    id::{AppId, NodeId},
    limits::{PAGE_BYTES, PAGE_MAX, PAGE_PARTS_AT_ONCE},
    node::{Node, NodeError, PageBounds, Target, read_cursor},
    protocol::native::MembersPage,
};

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
        // Refused here: the node that it is for would take what it cannot read for the beginning.
        read_cursor(within.unwrap_or("0.0"))?;
        Some(Self {
            node: node.parse().ok()?,
            within: within.map(ToOwned::to_owned),
        })
    }

    /// Where the first page begins.
    pub(crate) fn first() -> Self {
        Self {
            // No node comes before it.
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

impl Node {
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
        bounds: PageBounds,
        joining: Option<&Snapshot>,
    ) -> Result<Overall<MembersPage>, NodeError> {
        let joining = joining.filter(|joining| !joining.is_in(channel));
        let Overall { value, mut missing } = self.counted(app, channel, joining).await?;
        let Counted {
            mut count,
            connections,
        } = value;

        let is_joining = joining.is_some();
        let parts = self.member_parts(app, channel, is_joining, &connections);
        let here = |from: Option<String>, bounds| async move {
            Ok(self
                .page_of_members(app, channel, from.as_deref(), bounds, joining)
                .await)
        };

        let request = |from, bounds: PageBounds| Request::Members {
            channel: channel.to_owned(),
            from,
            limit: bounds.items,
            max_bytes: bounds.bytes,
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
            let bounds = PageBounds {
                items: PAGE_MAX,
                bytes: max_bytes,
            };
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

        let request = |from, bounds: PageBounds| Request::Connections {
            wire_target: target.wire_target(None),
            from,
            limit: bounds.items,
            max_bytes: bounds.bytes,
        };

        // How many each has is not known: one after another.
        let parts = self.page_parts(app, |_| u64::MAX);
        let bounds = PageBounds {
            items: limit,
            bytes: PAGE_BYTES,
        };
        self.pages(app, parts, from, bounds, here, request).await
    }

    /// The nodes that have members of `channel`, each with their number: here as it is now, with one more if someone
    /// `is_joining`, and on the other nodes by their `connections`.
    fn member_parts(
        &self,
        app: AppId,
        channel: &str,
        is_joining: bool,
        connections: &AHashMap<NodeId, u64>,
    ) -> Vec<PagePart> {
        let mut parts = self.page_parts(app, |_| 0);
        for part in &mut parts {
            part.items = if part.node == self.id() {
                self.count(app, channel).connections + u64::from(is_joining)
            } else {
                connections.get(&part.node).copied().unwrap_or(0)
            };
        }

        parts.retain(|part| part.items > 0);
        parts
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
        bounds: PageBounds,
        here: impl Fn(Option<String>, PageBounds) -> F,
        request: impl Fn(Option<String>, PageBounds) -> Request,
    ) -> Result<Overall<PageOfAll>, NodeError> {
        let cluster = self.cluster_up()?;
        parts.retain(|part| from.as_ref().is_none_or(|from| part.node >= from.node));
        let mut gathering = Gathering {
            value: PageOfAll::default(),
            missing: Vec::new(),
            parts: VecDeque::from(parts),
            items: bounds.items,
            bytes: bounds.bytes,
        };

        while let Some(first) = gathering.parts.front().map(|part| part.node) {
            let (left, bytes) = (gathering.items_left(), gathering.bytes);
            if left == 0 || bytes == 0 {
                gathering.value.cursor = Some(PageStart::at(first, None));
                break;
            }

            let from = from.as_ref().filter(|from| from.node == first);
            let within = from.and_then(|from| from.within.clone());
            let asked = gathering.asked_together().into_iter();
            let asked = asked.map(|(node, items)| {
                let bounds = PageBounds { items, bytes };
                let within = within.clone().filter(|_| node == first);
                let (here, request) = (&here, &request);

                async move {
                    match cluster {
                        Some(cluster) if node != self.id() => {
                            let request = request(within, bounds);
                            let said = cluster.rpc.call_one(app, node, &request).await;
                            Ok(said.and_then(|said| serde_json::from_str(said.get()).ok()))
                        }
                        _ => here(within, bounds).await.map(Some),
                    }
                }
            });

            if gathering.add(all_of(asked.collect()).await)? {
                break;
            }
        }

        Ok(Overall {
            value: gathering.value,
            missing: gathering.missing,
        })
    }
}

/// A page over all nodes while it is gathered.
struct Gathering {
    value: PageOfAll,
    /// Names of the nodes that did not say what they have.
    missing: Vec<String>,
    /// The nodes that have not been read, in their order.
    parts: VecDeque<PagePart>,
    /// Items that the page may have.
    items: usize,
    /// Bytes that still fit.
    bytes: usize,
}

impl Gathering {
    fn items_left(&self) -> usize {
        self.items - self.value.items.len()
    }

    /// The next nodes, up to the first that fills the page as far as is known, each with how many items it may give.
    fn asked_together(&self) -> Vec<(NodeId, usize)> {
        let left = self.items_left();
        let mut before = 0_usize;
        let mut asked = Vec::new();
        for part in self.parts.iter().take(PAGE_PARTS_AT_ONCE) {
            if before >= left {
                break;
            }
            asked.push((part.node, left - before));
            before = before.saturating_add(usize::try_from(part.items).unwrap_or(usize::MAX));
        }
        asked
    }

    /// Adds what the next nodes have said, in their order, as far as it fits. Returns whether the page ends within one of
    /// them.
    fn add(&mut self, said: Vec<Result<Option<Page>, NodeError>>) -> Result<bool, NodeError> {
        for (at, page) in said.into_iter().enumerate() {
            let page = page?;
            let (items, size) = page
                .as_ref()
                .map_or((0, 0), |page| (page.items.len(), page.bytes()));
            let has_room = self.value.items.len() + items <= self.items && size <= self.bytes;
            if at > 0 && !has_room {
                // More came in the meantime than were counted. It is asked again for what fits.
                break;
            }
            let Some(PagePart { node, name, .. }) = self.parts.pop_front() else {
                break;
            };

            let Some(page) = page else {
                self.value.unread.push(node);
                self.missing.push(name);
                continue;
            };

            self.bytes = self.bytes.saturating_sub(size);
            self.value.items.extend(page.items);
            if page.cursor.is_some() {
                self.value.cursor = Some(PageStart::at(node, page.cursor));
                return Ok(true);
            }
        }

        Ok(false)
    }
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
}
