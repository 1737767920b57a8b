//! How many are in a channel on all nodes, and the channels that someone is in.

use std::collections::BTreeMap;

use ahash::{AHashMap, AHashSet};

use super::{
    super::{
        peer_counts::KnownCounts,
        rpc_request::{Listed, Present, Request},
    },
    Everywhere, Overall,
};
use crate::{
    hub::{Count, Snapshot},
    id::{AppId, NodeId},
    node::{Node, NodeError},
};

/// A page of the channels that someone is in.
#[derive(Clone, Debug)]
pub(crate) struct ListedChannels {
    pub(crate) channels: Vec<(String, Count)>,
    /// There are more after them.
    pub(crate) has_more: bool,
}

/// How many are in a channel on all nodes, and how many of them on each other node.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) count: Count,
    pub(super) connections: AHashMap<NodeId, u64>,
}

impl Node {
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

        let here = async { self.present(app, channel) };
        let Everywhere { here, others } = self.look_everywhere(app, &request, here).await?;
        let there: Vec<(NodeId, Present)> = others.read_named().collect();
        let connections = |(node, present): &(NodeId, Present)| (*node, present.connections);
        let connections = there.iter().map(connections).collect();

        // It is counted by its user, so that one who is there already counts once.
        let joining = joining.map(|joining| Present {
            connections: 1,
            names: Some(joining.user().map(ToOwned::to_owned).into_iter().collect()),
            ..Present::default()
        });

        let there = there.into_iter().map(|(_, present)| present);
        let parts = there.chain([here]).chain(joining);
        Ok(others.overall(Counted {
            count: sum(parts),
            connections,
        }))
    }

    /// The same of a channel that may be watched here: then it is known already.
    pub(super) async fn counted(
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

        // Others may not have answered yet if the watching has only begun.
        let patience = self.config.limits.node_call_timeout;
        cluster
            .notices
            .peer_counts
            .settled(app, channel, patience)
            .await;

        let KnownCounts {
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

    /// The channels that someone is in, on any node, by name: those that begin with `prefix`, `limit` after `after`.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_channels(
        &self,
        app: AppId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Overall<ListedChannels>, NodeError> {
        let request = Request::Channels {
            prefix: prefix.to_owned(),
            after: after.map(ToOwned::to_owned),
            // One more, which shows whether there are more.
            limit: limit + 1,
        };

        let here = self.listed(app, prefix, after, limit + 1);
        let Everywhere { here, others } = self.look_everywhere(app, &request, here).await?;
        let lists = others.read::<Vec<Listed>>().chain([here]).collect();
        Ok(others.overall(merge(lists, limit)))
    }
}

/// The first `limit` channels of the lists of several nodes. A list that breaks off says nothing
/// of what would come after it, so what others have there is left for the next page.
fn merge(lists: Vec<Vec<Listed>>, limit: usize) -> ListedChannels {
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

    let has_more = merged.len() > limit || known_to.is_some();
    let first = merged.into_iter().take(limit);
    let channels = first.map(|(name, parts)| (name, sum(parts))).collect();

    ListedChannels { channels, has_more }
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
            let ListedChannels { channels, has_more } = merge(lists, limit);
            let shown = |(name, count): &(String, Count)| format!("{name}{}", count.connections);
            let shown: Vec<_> = channels.iter().map(shown).collect();
            (shown.join(" "), has_more)
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
