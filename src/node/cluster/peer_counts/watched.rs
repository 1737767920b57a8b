//! One watched channel: what each other node has said that it has in it, and which nodes are not known.

use ahash::AHashMap;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::{
    hub::Count,
    id::NodeId,
    protocol::envelope::{Share, UserShare},
};

/// One watched channel. As long as it exists, its topic is subscribed to.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Those who are about to watch it, or wait for a page of its members.
    pub(super) guards: usize,
    /// How often that began.
    pub(super) uses: u64,
    pub(super) peers: AHashMap<NodeId, Peer>,
    pub(super) users: AHashMap<SmolStr, SmallVec<[Entry; 1]>>,
    /// How many of them there are.
    pub(super) entries: usize,
    /// Users with an open connection on any other node that names its users.
    pub(super) online: u64,
    /// The nodes that are not known.
    pub(super) unknown: AHashMap<NodeId, Unknown>,
    pub(super) is_due: bool,
    /// Something was sent that may lack what unknown nodes have.
    pub(super) is_sent_without: bool,
}

#[derive(Debug)]
pub(super) struct Peer {
    at: u64,
    pub(super) count: Count,
    /// Its users are known by name.
    pub(super) is_named: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    node: NodeId,
    open: u32,
    lost: u32,
    at: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unknown {
    pub(super) is_asked: bool,
    pub(super) is_late: bool,
}

impl Watched {
    /// Takes in what `node` has. If more users come by name than there is `room` for, they are not named.
    pub(super) fn apply(&mut self, node: NodeId, share: &Share, room: usize) {
        let before = self.entries;
        let peer = self.peers.entry(node).or_insert(Peer {
            at: 0,
            count: Count::default(),
            is_named: true,
        });

        // Notices and answers take different ways, so an older one may come later.
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
        // An older answer must not bring back a user that has gone.
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
    pub(super) fn release(&mut self, node: NodeId, user: Option<&str>) {
        let entries = user.and_then(|user| self.users.get_mut(user));
        if let Some(entries) = entries {
            let was_online = is_online(entries);
            let of_node = entries.iter_mut().find(|entry| entry.node == node);
            match of_node {
                // A lost one is not a connection that is counted.
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
    pub(super) fn remove(&mut self, node: NodeId) {
        self.peers.remove(&node);
        self.unknown.remove(&node);
        self.forget_users(node, u64::MAX);
    }

    /// Notes that `node` is known now. Returns whether the counts are to be sent again.
    pub(super) fn known(&mut self, node: NodeId) -> bool {
        self.unknown.remove(&node);
        // Users who have left were only kept so that the answer could not bring them back.
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

    pub(super) fn is_settled_news(&mut self) -> bool {
        self.unknown.is_empty() && std::mem::take(&mut self.is_sent_without)
    }

    /// How often `user` is there on all nodes but `except`.
    pub(super) fn tally(&self, user: &str, except: Option<NodeId>) -> u64 {
        let entries = self.users.get(user).into_iter().flatten();
        entries
            .filter(|entry| Some(entry.node) != except)
            .map(|entry| u64::from(entry.open) + u64::from(entry.lost))
            .sum()
    }

    /// How many are there, with those that are here: `names` of users if they are few.
    pub(super) fn total(&self, here: Count, names: Option<&[String]>) -> Count {
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
