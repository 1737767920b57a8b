//! What other nodes have in the channels that someone watches here.
//!
//! Each node says with its notices what it has in a channel after them ([`Share`]). A node that watches the channel listens to that,
//! and asks each other node once: when it begins to watch, and when it may have missed something. So it can say at any time how
//! many are there, and how often a user is, without asking.
//!
//! For a watched channel another node is in one of these states:
//!
//! ```text
//!            begins to watch, gap                asked
//! (known) ─────────────────────────► to be asked ─────► asked ──── in node_call_timeout ──► known
//!                                        ▲                │ no answer
//!                                        └─ refused, ◄────┴──► late ──── answers ───► known
//!                                           no answer at all
//! ```
//!
//! A node that is known and has no entry has nobody in the channel. A client that was sent something while a node was
//! not known gets it the counts again when it is.

mod questions;
#[cfg(test)]
mod tests;
mod watched;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::{sync::Notify, time::timeout};

use self::watched::{Peer, Unknown, Watched};
use super::notices::NoticeRelay;
use crate::{
    bus::{Interest, Topic},
    hub::Count,
    id::{AppId, ConnectionId, NodeId},
    limits::{GONE_NODES, PEER_USERS},
    protocol::envelope::{Notices, Share},
};

type Channel = (AppId, SmolStr);

/// The watched channels. The part of its `impl` that asks other nodes is in `questions.rs`.
#[derive(Debug)]
pub(super) struct PeerCounts {
    interest: Arc<Interest>,
    state: Mutex<State>,
    /// Nodes are to be asked.
    pub(super) suspected: Notify,
    /// Some node that was not known is, or is late.
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    channels: AHashMap<Channel, Watched>,
    /// Those of which nodes are to be asked, oldest first, each once.
    due: VecDeque<Channel>,
    /// How often something may have been missed.
    gaps: u64,
    /// Entries of users, over all channels.
    users: usize,
    /// Nodes that have gone, the newest last, up to [`GONE_NODES`].
    gone: VecDeque<NodeId>,
}

/// Keeps a channel watched until it is dropped.
#[derive(Debug)]
pub(crate) struct WatchGuard {
    counts: Arc<PeerCounts>,
    channel: Channel,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        if let Some(watched) = self.counts.state.lock().channels.get_mut(&self.channel) {
            watched.guards -= 1;
        }
    }
}

/// What is known of the other nodes with members in a channel.
#[derive(Debug, Default)]
pub(super) struct KnownCounts {
    pub(super) connections: AHashMap<NodeId, u64>,
    /// The nodes that are not known.
    pub(super) unknown: AHashSet<NodeId>,
}

impl State {
    fn make_due(&mut self, channel: &Channel) {
        let Some(watched) = self.channels.get_mut(channel) else {
            return;
        };
        let is_any = watched.unknown.values().any(|unknown| !unknown.is_asked);
        if is_any && !std::mem::replace(&mut watched.is_due, true) {
            self.due.push_back(channel.clone());
        }
    }

    /// Notes that a client got a page without the members that `nodes` have: when those answer, the counts are sent
    /// again.
    fn lack(&mut self, channel: &Channel, nodes: &[NodeId]) {
        if let Some(watched) = self.channels.get_mut(channel) {
            // A node may have gone while the page was gathered. It never answers, and everyone was notified of its
            // members.
            for node in nodes.iter().filter(|node| !self.gone.contains(node)) {
                // It is late already: as long as it does not answer, looking again would show nothing else.
                watched.unknown.entry(*node).or_insert(Unknown {
                    is_asked: false,
                    is_late: true,
                });
            }
            watched.is_sent_without = true;
        }
        self.make_due(channel);
    }

    /// Notes that a node has come. Pages lacked one that comes back, or has said already what it has: when it answers,
    /// the counts are sent again.
    fn meet(&mut self, node: NodeId, serves: impl Fn(AppId) -> bool) {
        let is_back = self.gone.contains(&node);
        self.gone.retain(|gone| *gone != node);
        let all: Vec<Channel> = self.channels.keys().cloned().collect();
        for channel in &all {
            if serves(channel.0)
                && let Some(watched) = self.channels.get_mut(channel)
            {
                watched.unknown.entry(node).or_default();
                watched.is_sent_without |= is_back || watched.peers.contains_key(&node);
            }
            self.make_due(channel);
        }
    }

    /// Forgets a node that has gone. Returns the channels whose counts are to be sent again.
    fn forget(&mut self, node: NodeId) -> Vec<Channel> {
        self.gone.push_back(node);
        if self.gone.len() > GONE_NODES {
            self.gone.pop_front();
        }

        let mut news = Vec::new();
        let mut users = 0;
        for (channel, watched) in &mut self.channels {
            watched.remove(node);
            users += watched.entries;
            if watched.is_settled_news() {
                news.push(channel.clone());
            }
        }

        self.users = users;
        news
    }

    /// Takes in what `node` has, unless it has gone: it is asked again if it comes back.
    fn apply(&mut self, channel: &Channel, node: NodeId, share: &Share) {
        if self.gone.contains(&node) {
            return;
        }
        let room = PEER_USERS.saturating_sub(self.users);
        self.change(channel, |watched| watched.apply(node, share, room));
    }

    /// Changes a watched channel, and counts its users again.
    fn change<T>(
        &mut self,
        channel: &Channel,
        change: impl FnOnce(&mut Watched) -> T,
    ) -> Option<T> {
        let watched = self.channels.get_mut(channel)?;
        let before = watched.entries;
        let changed = change(watched);
        self.users = (self.users + watched.entries).saturating_sub(before);
        Some(changed)
    }
}

impl PeerCounts {
    pub(super) fn new(interest: Arc<Interest>) -> Self {
        Self {
            interest,
            state: Mutex::default(),
            suspected: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Keeps `channel` watched until the guard is dropped. If it was not, the nodes `peers` are to be asked.
    pub(super) fn watch(
        self: &Arc<Self>,
        app: AppId,
        channel: &str,
        peers: impl FnOnce() -> Vec<NodeId>,
    ) -> WatchGuard {
        let channel = (app, SmolStr::from(channel));
        let mut state = self.state.lock();
        let is_new = !state.channels.contains_key(&channel);
        let watched = state.channels.entry(channel.clone()).or_default();
        watched.guards += 1;
        // It never becomes less: `unwatch` sees by it whether someone has watched and gone since it
        // looked.
        watched.uses += 1;

        if is_new {
            let unknown = peers().into_iter().map(|node| (node, Unknown::default()));
            watched.unknown = unknown.collect();
            state.make_due(&channel);
            // Under the lock, so that nobody waits for a topic that is not subscribed to.
            let topic = Topic::Watch(channel.0, channel.1.clone());
            self.interest.add(topic);
            self.suspected.notify_one();
        }

        WatchGuard {
            counts: self.clone(),
            channel,
        }
    }

    /// Whether someone here watches `channel`, or did a moment ago.
    pub(super) fn is_watched(&self, app: AppId, channel: &str) -> bool {
        let channel = (app, channel.into());
        self.state.lock().channels.contains_key(&channel)
    }

    /// Takes in what a node says. In what it says of its members, tallies are those of all other nodes afterwards.
    /// Nothing if nobody watches the channel here; else, whether its counts are to be sent again. `is_peer` says
    /// whether the node is there.
    pub(super) fn take_in(&self, app: AppId, notices: &mut Notices, is_peer: bool) -> Option<bool> {
        let channel = (app, SmolStr::from(&notices.channel));
        let origin = NodeId(notices.origin);
        let mut state = self.state.lock();
        if !state.channels.contains_key(&channel) {
            return None;
        }

        if notices.is_gone {
            state.change(&channel, |watched| watched.remove(origin));
        } else if let Some(share) = &notices.share {
            state.apply(&channel, origin, share);
        } else if is_peer
            && !state.gone.contains(&origin)
            && let Some(watched) = state.channels.get_mut(&channel)
        {
            // This is a node of the version before. What it says of users counts until it is asked.
            watched.unknown.entry(origin).or_default();
            state.make_due(&channel);
        }

        let is_all = notices.share.as_ref().is_some_and(|it| it.is_whole);
        let is_news = is_all && state.change(&channel, |watched| watched.known(origin))?;
        let watched = state.channels.get_mut(&channel)?;

        for notice in &mut notices.members {
            // The connection goes on at `origin`, and the share of the node that had it still
            // counts it.
            let previous = notice.previous.as_ref().filter(|_| notice.is_inherited);
            let previous: Option<ConnectionId> = previous.and_then(|id| id.parse().ok());
            if let Some(previous) = previous {
                watched.release(previous.node, notice.user.as_deref());
            }
            if let Some(user) = &notice.user {
                notice.tally += watched.tally(user, Some(origin));
            }
        }

        if is_all {
            drop(state);
            self.settled.notify_waiters();
        }

        Some(is_news)
    }

    /// Notes that a connection of `user` in `channel` that the node `node` had, which has ended, counts here now.
    pub(super) fn release(&self, app: AppId, channel: &SmolStr, node: NodeId, user: Option<&str>) {
        let mut state = self.state.lock();
        if let Some(watched) = state.channels.get_mut(&(app, channel.clone())) {
            watched.release(node, user);
        }
    }

    /// How often `user` is in `channel` on other nodes.
    pub(super) fn tally(&self, app: AppId, channel: &SmolStr, user: &str) -> u64 {
        let state = self.state.lock();
        let watched = state.channels.get(&(app, channel.clone()));
        watched.map_or(0, |watched| watched.tally(user, None))
    }

    /// How many are in `channel` with those that are `here`, and whose `names` are these if they are few.
    pub(super) fn total(
        &self,
        app: AppId,
        channel: &str,
        here: Count,
        names: Option<&[String]>,
    ) -> Count {
        let state = self.state.lock();
        let watched = state.channels.get(&(app, channel.into()));
        watched.map_or(here, |watched| watched.total(here, names))
    }

    /// Whether all nodes name their users of `channel`, so that it is known how often each is there.
    pub(super) fn is_named(&self, app: AppId, channel: &str) -> bool {
        let state = self.state.lock();
        let watched = state.channels.get(&(app, channel.into()));
        watched.is_none_or(|watched| watched.peers.values().all(|peer| peer.is_named))
    }

    /// Notes that something of `channel` was sent: if nodes are not known, the counts are sent again when they are.
    pub(super) fn note_sent(&self, app: AppId, channel: &str) {
        let mut state = self.state.lock();
        if let Some(watched) = state.channels.get_mut(&(app, channel.into())) {
            watched.is_sent_without |= !watched.unknown.is_empty();
        }
    }

    /// Waits until all nodes are known for `channel` but those that are late, or `within` this time.
    pub(super) async fn settled(&self, app: AppId, channel: &str, within: Duration) {
        let channel = (app, SmolStr::from(channel));
        let settled = async {
            loop {
                let settled = self.settled.notified();
                let is_settled = {
                    let state = self.state.lock();
                    let watched = state.channels.get(&channel);
                    watched.is_none_or(|watched| watched.unknown.values().all(|it| it.is_late))
                };
                if is_settled {
                    return;
                }
                settled.await;
            }
        };

        // Past that time it is sent without them.
        let _ = timeout(within, settled).await;
    }

    /// The other nodes with members in `channel`.
    pub(super) fn parts(&self, app: AppId, channel: &str) -> KnownCounts {
        let channel = (app, SmolStr::from(channel));
        let mut state = self.state.lock();
        let Some(watched) = state.channels.get_mut(&channel) else {
            return KnownCounts::default();
        };
        watched.is_sent_without |= !watched.unknown.is_empty();
        let connections = |(node, peer): (&NodeId, &Peer)| (*node, peer.count.connections);
        KnownCounts {
            connections: watched.peers.iter().map(connections).collect(),
            unknown: watched.unknown.keys().copied().collect(),
        }
    }

    /// Notes that something may have been missed of the channels that `is_meant` names, which is sent in any case.
    /// Returns those of which nobody is to be asked, as no other node is `serving` their app.
    pub(super) fn suspected_gap(
        &self,
        serving: impl Fn(AppId) -> Vec<NodeId>,
        is_meant: impl Fn(AppId, &SmolStr) -> bool,
    ) -> Vec<Channel> {
        let mut state = self.state.lock();
        let meant = |channel: &&Channel| is_meant(channel.0, &channel.1);
        let mut meant: Vec<Channel> = state.channels.keys().filter(meant).cloned().collect();
        if meant.is_empty() {
            return meant;
        }

        state.gaps += 1;
        let mut peers: AHashMap<AppId, Vec<NodeId>> = AHashMap::new();
        for channel in &meant {
            let app = channel.0;
            let serving = peers.entry(app).or_insert_with(|| serving(app));
            if let Some(watched) = state.channels.get_mut(channel) {
                watched.is_sent_without = true;
                for peer in serving {
                    watched.unknown.insert(*peer, Unknown::default());
                }
            }
            state.make_due(channel);
        }

        drop(state);
        self.suspected.notify_one();
        meant.retain(|channel| peers.get(&channel.0).is_none_or(Vec::is_empty));

        meant
    }

    /// Notes that a client got a page without the members that `nodes` have, which are known to have some.
    pub(super) fn lacked(&self, app: AppId, channel: &str, nodes: &[NodeId]) {
        self.state.lock().lack(&(app, channel.into()), nodes);
        self.suspected.notify_one();
    }

    /// Notes that a node has come: what it says may have come before this node knew of it, or been missed.
    pub(super) fn met(&self, node: NodeId, serves: impl Fn(AppId) -> bool) {
        self.state.lock().meet(node, serves);
        self.suspected.notify_one();
    }

    /// Forgets a node that has gone. Returns the channels whose counts are to be sent again.
    pub(super) fn gone(&self, node: NodeId) -> Vec<Channel> {
        let news = self.state.lock().forget(node);
        self.settled.notify_waiters();
        news
    }

    /// The channels that nobody is about to watch, each with the number of its uses.
    pub(super) fn maybe_unwatched(&self) -> Vec<(Channel, u64)> {
        let state = self.state.lock();
        let idle = state.channels.iter().filter(|(_, it)| it.guards == 0);
        idle.map(|(channel, it)| (channel.clone(), it.uses))
            .collect()
    }

    /// Forgets a channel that nobody watches, unless it was used since.
    pub(super) fn unwatch(&self, channel: Channel, uses: u64) {
        let mut state = self.state.lock();
        let is_idle = |watched: &Watched| watched.guards == 0 && watched.uses == uses;
        if !state.channels.get(&channel).is_some_and(is_idle) {
            return;
        }
        if let Some(watched) = state.channels.remove(&channel) {
            state.users = state.users.saturating_sub(watched.entries);
        }
        // This happens under the lock, so that the next one that watches it subscribes after this.
        self.interest.remove(&Topic::Watch(channel.0, channel.1));
    }
}

impl NoticeRelay {
    /// Keeps `channel` watched here until the guard is dropped, or longer if someone watches it by then.
    pub(super) fn watch(&self, app: AppId, channel: &str) -> WatchGuard {
        let peers = || self.membership.peers().serving_ids(app);
        self.peer_counts.watch(app, channel, peers)
    }
}
