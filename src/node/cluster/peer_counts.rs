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
//! A node that is known and has no entry has nobody in the channel. Whoever was told something while a node was not known is told
//! the counts again when it is.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, Semaphore},
    time::{MissedTickBehavior, timeout},
};

use super::{
    notices::NoticeRelay,
    rpc_request::{Present, Request},
};
use crate::{
    bus::{Interest, Topic},
    hub::Count,
    id::{AppId, ConnectionId, NodeId},
    limits::{COUNTED_TOGETHER, GONE_NODES, PEER_USERS, QUESTIONS_AT_ONCE},
    protocol::envelope::{Notices, Share, UserShare},
    time_slice::TimeSlice,
};

/// How often nodes are asked again that have not answered, and channels are forgotten that nobody watches.
const EVERY: Duration = Duration::from_secs(1);

type Channel = (AppId, SmolStr);

/// The watched channels.
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

/// One watched channel. As long as it exists, its topic is subscribed to.
#[derive(Debug, Default)]
struct Watched {
    /// Those who are about to watch it, or wait for a page of its members.
    guards: usize,
    /// How often that began.
    uses: u64,
    peers: AHashMap<NodeId, Peer>,
    users: AHashMap<SmolStr, SmallVec<[Entry; 1]>>,
    /// How many of them there are.
    entries: usize,
    /// Users with an open connection on any other node that names its users.
    online: u64,
    /// The nodes that are not known.
    unknown: AHashMap<NodeId, Unknown>,
    is_due: bool,
    /// Something was told that may lack what unknown nodes have.
    is_told_without: bool,
}

#[derive(Debug)]
struct Peer {
    at: u64,
    count: Count,
    /// Its users are known by name.
    is_named: bool,
}

#[derive(Debug)]
struct Entry {
    node: NodeId,
    open: u32,
    lost: u32,
    at: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unknown {
    is_asked: bool,
    is_late: bool,
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

/// What to ask other nodes.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) app: AppId,
    pub(super) channels: Vec<SmolStr>,
    pub(super) nodes: AHashSet<NodeId>,
    /// How often something had been missed by then.
    gaps: u64,
}

/// What is known of the other nodes with members in a channel.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) connections: AHashMap<NodeId, u64>,
    /// The nodes that are not known.
    pub(super) unknown: AHashSet<NodeId>,
}

impl Watched {
    /// Takes in what `node` has. If more users come by name than there is `room` for, they are not named.
    fn apply(&mut self, node: NodeId, share: &Share, room: usize) {
        let before = self.entries;
        let peer = self.peers.entry(node).or_insert(Peer {
            at: 0,
            count: Count::default(),
            is_named: true,
        });

        if share.at >= peer.at {
            peer.at = share.at;
            peer.count = Count {
                connections: share.connections,
                users: share.users,
            };
        }

        let is_named = peer.is_named;
        match &share.tallies {
            Some(tallies) if share.is_whole => {
                peer.is_named = true;
                // What came since is newer.
                self.forget_users(node, share.at);
                self.set(node, tallies, share.at);
            }
            Some(tallies) if is_named => self.set(node, tallies, share.at),
            None if is_named => self.forget_names(node),
            Some(_) | None => {}
        }

        if self.entries > before + room {
            self.forget_names(node);
        }
    }

    fn forget_names(&mut self, node: NodeId) {
        self.forget_users(node, u64::MAX);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.is_named = false;
        }
    }

    /// Forgets what `node` has said of users up to the number `at`.
    fn forget_users(&mut self, node: NodeId, at: u64) {
        self.retain(|entry| entry.node != node || entry.at > at);
    }

    fn retain(&mut self, stays: impl Fn(&Entry) -> bool) {
        (self.entries, self.online) = (0, 0);
        self.users.retain(|_, entries| {
            entries.retain(|entry| stays(entry));
            self.entries += entries.len();
            self.online += u64::from(is_online(entries));
            !entries.is_empty()
        });
    }

    fn set(&mut self, node: NodeId, tallies: &[UserShare], at: u64) {
        // What an older answer says of a user that has gone must not bring it back.
        let keeps_gone = self.unknown.contains_key(&node);
        for UserShare(user, open, lost) in tallies {
            let entries = self.users.entry(user.clone()).or_default();
            let was_online = is_online(entries);
            let known = entries.iter().position(|entry| entry.node == node);
            if known.is_some_and(|known| entries[known].at > at) {
                continue;
            }

            if let Some(known) = known {
                entries.swap_remove(known);
                self.entries -= 1;
            }

            if keeps_gone || *open > 0 || *lost > 0 {
                entries.push(Entry {
                    node,
                    open: *open,
                    lost: *lost,
                    at,
                });
                self.entries += 1;
            }

            self.online += u64::from(is_online(entries));
            self.online -= u64::from(was_online);
            if entries.is_empty() {
                self.users.remove(user);
            }
        }
    }

    /// Notes that one connection of `user`, if it has one, that `node` had counts elsewhere now. The node has ended, and does not say
    /// so.
    fn release(&mut self, node: NodeId, user: Option<&str>) {
        let entries = user.and_then(|user| self.users.get_mut(user));
        if let Some(entries) = entries {
            let was_online = is_online(entries);
            let of_node = entries.iter_mut().find(|entry| entry.node == node);
            match of_node {
                // A lost one is no connection that is counted.
                Some(entry) if entry.lost > 0 => {
                    entry.lost -= 1;
                    return;
                }
                Some(entry) => entry.open = entry.open.saturating_sub(1),
                None => {}
            }

            self.online -= u64::from(was_online && !is_online(entries));
        }

        if let Some(peer) = self.peers.get_mut(&node) {
            peer.count.connections = peer.count.connections.saturating_sub(1);
        }
    }

    /// Forgets a node that has gone.
    fn remove(&mut self, node: NodeId) {
        self.peers.remove(&node);
        self.unknown.remove(&node);
        self.forget_users(node, u64::MAX);
    }

    /// Notes that `node` is known now. Returns whether the counts are to be told again.
    fn known(&mut self, node: NodeId) -> bool {
        self.unknown.remove(&node);
        self.retain(|entry| entry.node != node || entry.open > 0 || entry.lost > 0);
        let is_empty = |peer: &Peer| peer.count.connections == 0 && peer.is_named;

        if self.peers.get(&node).is_some_and(is_empty)
            && !self
                .users
                .values()
                .flatten()
                .any(|entry| entry.node == node)
        {
            self.peers.remove(&node);
        }

        self.is_settled_news()
    }

    fn is_settled_news(&mut self) -> bool {
        self.unknown.is_empty() && std::mem::take(&mut self.is_told_without)
    }

    /// How often `user` is there on all nodes but `except`.
    fn tally(&self, user: &str, except: Option<NodeId>) -> u64 {
        let entries = self.users.get(user).into_iter().flatten();
        entries
            .filter(|entry| Some(entry.node) != except)
            .map(|entry| u64::from(entry.open) + u64::from(entry.lost))
            .sum()
    }

    /// How many are there, with those that are here: `names` of users if they are few.
    fn total(&self, here: Count, names: Option<&[String]>) -> Count {
        let mut total = here;
        for peer in self.peers.values() {
            total.connections += peer.count.connections;
            if !peer.is_named {
                total.users += peer.count.users;
            }
        }

        total.users += self.online;
        let is_there = |name: &&String| {
            let entries = self.users.get(name.as_str());
            entries.is_some_and(|entries| is_online(entries))
        };

        // Who is both here and there counts once.
        let both = names.into_iter().flatten().filter(is_there).count();
        total.users -= both as u64;
        total
    }
}

fn is_online(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.open > 0)
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

    /// Notes that a client got a page without the members that `nodes` have: when those answer, the counts are told again.
    fn lack(&mut self, channel: &Channel, nodes: &[NodeId]) {
        if let Some(watched) = self.channels.get_mut(channel) {
            // A node may have gone while the page was gathered. It never answers, and everyone was told of its members.
            for node in nodes.iter().filter(|node| !self.gone.contains(node)) {
                // It is late already: as long as it does not answer, looking again would show nothing else.
                watched.unknown.entry(*node).or_insert(Unknown {
                    is_asked: false,
                    is_late: true,
                });
            }
            watched.is_told_without = true;
        }
        self.make_due(channel);
    }

    /// Notes that a node has come. Pages lacked one that comes back, or has said already what it has: when it answers, the counts
    /// are told again.
    fn meet(&mut self, node: NodeId, serves: impl Fn(AppId) -> bool) {
        let is_back = self.gone.contains(&node);
        self.gone.retain(|gone| *gone != node);
        let all: Vec<Channel> = self.channels.keys().cloned().collect();
        for channel in &all {
            if serves(channel.0)
                && let Some(watched) = self.channels.get_mut(channel)
            {
                watched.unknown.entry(node).or_default();
                watched.is_told_without |= is_back || watched.peers.contains_key(&node);
            }
            self.make_due(channel);
        }
    }

    /// Forgets a node that has gone. Returns the channels whose counts are to be told again.
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

    /// Changes a watched channel, and counts its users anew.
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

    /// Takes in what a node says. In what it says of its members, tallies are those of all other nodes afterwards. Nothing if nobody
    /// watches the channel here; else, whether its counts are to be told again. `is_peer` tells whether the node is there.
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
            // A node of the version before. What it says of users counts until it is asked.
            watched.unknown.entry(origin).or_default();
            state.make_due(&channel);
        }

        let is_all = notices.share.as_ref().is_some_and(|it| it.is_whole);
        let is_news = is_all && state.change(&channel, |watched| watched.known(origin))?;
        let watched = state.channels.get_mut(&channel)?;

        for told in &mut notices.members {
            let previous = told.previous.as_ref().filter(|_| told.is_inherited);
            let previous: Option<ConnectionId> = previous.and_then(|id| id.parse().ok());
            if let Some(previous) = previous {
                watched.release(previous.node, told.user.as_deref());
            }
            if let Some(user) = &told.user {
                told.tally += watched.tally(user, Some(origin));
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

    /// Notes that something of `channel` was told: if nodes are not known, the counts are told again when they are.
    pub(super) fn told(&self, app: AppId, channel: &str) {
        let mut state = self.state.lock();
        if let Some(watched) = state.channels.get_mut(&(app, channel.into())) {
            watched.is_told_without |= !watched.unknown.is_empty();
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

        // Past that time it is told without them.
        let _ = timeout(within, settled).await;
    }

    /// The other nodes with members in `channel`.
    pub(super) fn parts(&self, app: AppId, channel: &str) -> Parts {
        let channel = (app, SmolStr::from(channel));
        let mut state = self.state.lock();
        let Some(watched) = state.channels.get_mut(&channel) else {
            return Parts::default();
        };
        watched.is_told_without |= !watched.unknown.is_empty();
        let connections = |(node, peer): (&NodeId, &Peer)| (*node, peer.count.connections);
        Parts {
            connections: watched.peers.iter().map(connections).collect(),
            unknown: watched.unknown.keys().copied().collect(),
        }
    }

    /// Notes that something may have been missed of the channels that `is_meant` names, which is told in any case. Returns those
    /// of which nobody is to be asked, as no other node is `serving` their app.
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
                watched.is_told_without = true;
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

    /// Forgets a node that has gone. Returns the channels whose counts are to be told again.
    pub(super) fn gone(&self, node: NodeId) -> Vec<Channel> {
        let news = self.state.lock().forget(node);
        self.settled.notify_waiters();
        news
    }

    /// What is to be asked next, if anything is.
    pub(super) fn next_question(&self) -> Option<Question> {
        let mut state = self.state.lock();
        let app = state.due.front()?.0;
        let (mut channels, mut nodes) = (Vec::new(), AHashSet::new());

        while channels.len() < COUNTED_TOGETHER
            && state.due.front().is_some_and(|next| next.0 == app)
            && let Some(channel) = state.due.pop_front()
        {
            let Some(watched) = state.channels.get_mut(&channel) else {
                continue;
            };
            watched.is_due = false;
            for (node, unknown) in &mut watched.unknown {
                if !std::mem::replace(&mut unknown.is_asked, true) {
                    nodes.insert(*node);
                }
            }
            channels.push(channel.1);
        }

        Some(Question {
            app,
            channels,
            nodes,
            gaps: state.gaps,
        })
    }

    /// Notes what `node` answers. Returns the channels whose counts are to be told again.
    pub(super) fn answered(
        &self,
        question: &Question,
        node: NodeId,
        shares: impl Iterator<Item = Share>,
    ) -> Vec<SmolStr> {
        let mut news = Vec::new();
        let mut state = self.state.lock();

        // What came after the answer may have been missed since.
        let is_current = state.gaps == question.gaps;
        for (name, share) in question.channels.iter().zip(shares) {
            let channel = (question.app, name.clone());
            state.apply(&channel, node, &share);
            let known = |watched: &mut Watched| is_current && watched.known(node);
            if state.change(&channel, known) == Some(true) {
                news.push(name.clone());
            }
        }

        drop(state);
        self.settled.notify_waiters();
        news
    }

    /// Notes that those who were asked and have not answered are late. Returns the channels whose counts are to be told without
    /// them, and again when they answer.
    pub(super) fn late(&self, app: AppId, channels: &[SmolStr]) -> Vec<SmolStr> {
        let mut state = self.state.lock();
        let mut news = Vec::new();
        for name in channels {
            let Some(watched) = state.channels.get_mut(&(app, name.clone())) else {
                continue;
            };
            let mut is_any = false;
            for unknown in watched.unknown.values_mut() {
                is_any |= unknown.is_asked && !std::mem::replace(&mut unknown.is_late, true);
            }
            if is_any && watched.is_told_without {
                news.push(name.clone());
            }
        }

        drop(state);
        self.settled.notify_waiters();
        news
    }

    /// Notes that a question is over: those that have not answered are to be asked again.
    pub(super) fn over(&self, question: &Question) {
        let mut state = self.state.lock();
        for name in &question.channels {
            let channel = (question.app, name.clone());
            if let Some(watched) = state.channels.get_mut(&channel) {
                for unknown in watched.unknown.values_mut() {
                    unknown.is_asked = false;
                }
            }
            state.make_due(&channel);
        }
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
        // Under the lock, so that whoever watches it again subscribes after this.
        self.interest.remove(&Topic::Watch(channel.0, channel.1));
    }
}

impl NoticeRelay {
    /// Keeps `channel` watched here until the guard is dropped, or longer if someone watches it by then.
    pub(super) fn watch(&self, app: AppId, channel: &str) -> WatchGuard {
        let peers = || self.membership.peers().serving_ids(app);
        self.peer_counts.watch(app, channel, peers)
    }

    /// Asks other nodes what they have in watched channels, and forgets channels that nobody watches any more, until the runtime
    /// ends.
    pub(super) async fn run_peer_counts(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let room = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE));

        loop {
            tokio::select! {
                () = self.peer_counts.suspected.notified() => {}
                _ = ticks.tick() => self.forget_unwatched().await,
            }

            // With room first: what is asked for meanwhile is part of the question.
            while let Ok(permit) = room.clone().acquire_owned().await
                && let Some(question) = self.peer_counts.next_question()
            {
                let relay = self.clone();
                tokio::spawn(async move {
                    relay.ask_for_shares(&question).await;
                    relay.peer_counts.over(&question);
                    drop(permit);
                });
            }
        }
    }

    async fn forget_unwatched(&self) {
        let mut slice = TimeSlice::begin();
        for (channel, uses) in self.peer_counts.maybe_unwatched() {
            if !self.hub.presence(channel.0).is_watched(&channel.1) {
                self.peer_counts.unwatch(channel, uses);
            }
            slice.rest().await;
        }
    }

    /// Asks, and takes each answer in as it comes.
    async fn ask_for_shares(&self, question: &Question) {
        let Question {
            app,
            channels,
            nodes,
            ..
        } = question;

        // What changes after an answer has to come here.
        let until = Instant::now() + self.hub.context().limits.redis_timeout;
        let topics = channels.iter().map(|name| Topic::Watch(*app, name.clone()));
        for topic in topics.chain([Topic::Node(self.hub.context().node)]) {
            let within = until.saturating_duration_since(Instant::now());
            if let Err(error) = self.bus.interest().live(&topic, within).await {
                tracing::debug!(%error, "other nodes are asked later what they have in channels");
                return;
            }
        }

        let request = Request::Counts {
            channels: channels.iter().map(ToString::to_string).collect(),
            shares: true,
        };

        let answered = |node: NodeId, said: Option<&RawValue>| {
            let Some(said) = said else { return };
            let Ok(presents) = serde_json::from_str::<Vec<Present>>(said.get()) else {
                return;
            };
            let shares = presents.into_iter().map(Present::into_share);
            let news = self.peer_counts.answered(question, node, shares);
            self.notify_counts_of(*app, news);
        };

        let asking = self.rpc.call_each(*app, nodes, &request, answered);
        tokio::pin!(asking);
        let patience = self.hub.context().limits.node_call_timeout;

        match timeout(patience, &mut asking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "other nodes could not be asked"),
            Err(_) => {
                self.notify_counts_of(*app, self.peer_counts.late(*app, channels));
                // One that is slow may answer yet; one that is not there is asked again.
                let _ = timeout(patience, asking).await;
            }
        }
    }

    fn notify_counts_of(&self, app: AppId, channels: Vec<SmolStr>) {
        let channels = channels.into_iter().map(|channel| (app, channel));
        self.remote_notices.tell_counts(channels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn share(at: u64, tallies: Option<&[(&str, u32, u32)]>, is_whole: bool) -> Share {
        let tally = |(user, open, lost): &(&str, u32, u32)| UserShare((*user).into(), *open, *lost);
        Share {
            at,
            connections: at,
            users: at,
            tallies: tallies.map(|tallies| tallies.iter().map(tally).collect()),
            is_whole,
        }
    }

    fn count(connections: u64, users: u64) -> Count {
        Count { connections, users }
    }

    #[test]
    fn a_user_counts_once_wherever_it_is_and_its_connections_add_up() {
        let mut watched = Watched::default();
        watched.apply(
            A,
            &share(3, Some(&[("ann", 1, 1), ("bob", 1, 0)]), true),
            10,
        );
        watched.apply(B, &share(1, Some(&[("ann", 1, 0)]), false), 10);
        assert_eq!(watched.tally("ann", None), 3);
        assert_eq!(watched.tally("ann", Some(A)), 1);
        let names = ["bob".to_owned(), "eve".to_owned()];
        assert_eq!(watched.total(count(2, 2), Some(&names)), count(6, 3));

        // Lost, and not yet told to have left: it is no user who is there.
        watched.apply(A, &share(4, Some(&[("bob", 0, 1)]), false), 10);
        assert_eq!((watched.online, watched.tally("bob", None)), (1, 1));
        watched.apply(A, &share(5, Some(&[("bob", 0, 0)]), false), 10);
        assert_eq!((watched.entries, watched.users.len()), (2, 1));

        watched.remove(A);
        assert_eq!((watched.tally("ann", None), watched.entries), (1, 1));
        assert_eq!(watched.total(count(0, 0), None), count(1, 1));
    }

    #[test]
    fn a_connection_that_goes_on_elsewhere_counts_once() {
        let mut watched = Watched::default();
        let before = [("ann", 1, 1), ("bob", 1, 0)];
        watched.apply(A, &share(2, Some(&before), true), 10);
        watched.apply(B, &share(1, Some(&[("ann", 1, 0)]), true), 10);
        let state = |watched: &Watched| {
            let count = watched.total(count(0, 0), None);
            (watched.tally("ann", None), count.connections, count.users)
        };
        assert_eq!(state(&watched), (3, 3, 2));
        watched.release(A, Some("ann"));
        assert_eq!(state(&watched), (2, 3, 2), "the lost one");
        watched.release(A, Some("ann"));
        assert_eq!(state(&watched), (1, 2, 2), "it is still on the other node");
        watched.release(A, Some("bob"));
        assert_eq!(state(&watched), (1, 1, 1));
        for user in [Some("bob"), None, Some("nobody")] {
            watched.release(A, user);
        }
        assert_eq!(state(&watched), (1, 1, 1), "no more than there were");
        watched.remove(A);
        assert_eq!(state(&watched), (1, 1, 1));
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let mut watched = Watched::default();
        watched.unknown.insert(A, Unknown::default());
        watched.apply(
            A,
            &share(7, Some(&[("ann", 0, 0), ("bob", 2, 0)]), false),
            10,
        );
        // The answer was given before that.
        watched.apply(
            A,
            &share(
                5,
                Some(&[("ann", 1, 0), ("bob", 1, 0), ("eve", 1, 0)]),
                true,
            ),
            10,
        );
        let tally = |watched: &Watched, user| watched.tally(user, None);
        let tallies = ["ann", "bob", "eve"].map(|user| tally(&watched, user));
        assert_eq!((tallies, watched.online), ([0, 2, 1], 2));
        assert_eq!(watched.peers[&A].count.connections, 7);

        watched.is_told_without = true;
        assert!(watched.known(A), "the counts are told again");
        assert!(!watched.known(A) && !watched.users.contains_key("ann"));
        assert_eq!(watched.entries, 2);
    }

    #[test]
    fn users_that_are_not_named_count_on_each_node() {
        let mut watched = Watched::default();
        watched.apply(A, &share(2, Some(&[("ann", 2, 0)]), true), 10);
        watched.apply(B, &share(9, None, true), 10);
        assert!(!watched.peers[&B].is_named);
        assert_eq!(watched.total(count(0, 0), None), count(11, 10));
        // Changes alone do not say who is there.
        watched.apply(B, &share(10, Some(&[("bob", 1, 0)]), false), 10);
        assert_eq!((watched.tally("bob", None), watched.entries), (0, 1));
        watched.apply(B, &share(11, Some(&[("bob", 1, 0)]), true), 10);
        assert_eq!(
            (watched.tally("bob", None), watched.peers[&B].is_named),
            (1, true)
        );
    }

    /// Whether the counts of the watched channel are told again when `node` is known.
    fn is_told_again(state: &mut State, channel: &Channel, node: NodeId) -> bool {
        state.change(channel, |watched| watched.known(node)) == Some(true)
    }

    #[test]
    fn a_page_without_the_members_of_a_node_is_corrected_when_that_answers() {
        let channel = (AppId(0), SmolStr::from("c"));
        let mut state = State::default();
        state.channels.insert(channel.clone(), Watched::default());
        state.lack(&channel, &[A]);
        assert_eq!(state.due.front(), Some(&channel), "it is asked");
        assert!(is_told_again(&mut state, &channel, A));
        assert!(!is_told_again(&mut state, &channel, A));
    }

    #[test]
    fn a_node_that_has_gone_is_not_waited_for_and_does_not_count() {
        let channel = (AppId(0), SmolStr::from("c"));
        let mut state = State::default();
        state.channels.insert(channel.clone(), Watched::default());
        state.apply(&channel, A, &share(2, None, true));
        state.forget(A);

        // A page was gathered before that, and lacks a late node too.
        state.lack(&channel, &[A, B]);
        assert!(is_told_again(&mut state, &channel, B));

        // What it said last comes after that.
        state.apply(&channel, A, &share(3, None, true));
        let total = |state: &State| state.channels[&channel].total(Count::default(), None);
        assert_eq!(total(&state), Count::default());
        state.meet(A, |_| true);
        state.apply(&channel, A, &share(3, None, true));
        assert_eq!(total(&state), count(3, 3));
    }

    #[test]
    fn a_node_that_comes_back_is_news_and_a_new_one_is_not() {
        let channel = (AppId(0), SmolStr::from("c"));
        let mut state = State::default();
        state.channels.insert(channel.clone(), Watched::default());
        state.meet(A, |_| true);
        assert!(!is_told_again(&mut state, &channel, A));
        assert!(state.forget(A).is_empty());
        state.meet(B, |_| true);
        assert!(!is_told_again(&mut state, &channel, B));
        state.meet(A, |_| true);
        assert!(is_told_again(&mut state, &channel, A));
        let c = NodeId(3);
        state.apply(&channel, c, &share(1, None, false));
        state.meet(c, |_| true);
        assert!(is_told_again(&mut state, &channel, c));

        for node in 0..1000 {
            state.forget(NodeId(node));
        }
        assert_eq!(state.gone.len(), GONE_NODES);
    }

    #[test]
    fn names_are_bounded() {
        let mut watched = Watched::default();
        let names = [("ann", 1, 0), ("bob", 1, 0), ("eve", 1, 0)];
        watched.apply(A, &share(3, Some(&names), true), 2);
        assert!(!watched.peers[&A].is_named && watched.users.is_empty());
        assert_eq!(watched.total(count(0, 0), None), count(3, 3));
    }
}
