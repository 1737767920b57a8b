//! Where places in channels went whose clients came back to other nodes, for the calls that take connections out of a channel.
//!
//! Such a call reaches each node at a moment of its own. A client that moves in the meantime from a node that the
//! call has yet to reach to one that it has reached is found on neither. So a node remembers for a while to which
//! nodes it has handed places of a channel over, and says so to the caller, who asks those nodes again.

use std::{collections::VecDeque, time::Instant};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::{
    id::{AppId, NodeId},
    limits::{MOVED_MAX, MOVED_REMEMBERED},
};

/// That a node has handed a place over, as it says it to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Relocation {
    /// The node that the client came back to.
    pub(super) to: u32,
    /// Counts what this node has handed over. A greater one is a later one.
    pub(super) number: u64,
}

/// What this node has handed over in the last [`MOVED_REMEMBERED`].
#[derive(Debug, Default)]
pub(super) struct Relocations(Mutex<RelocationLog>);

type Channel = (AppId, SmolStr);

#[derive(Debug, Default)]
struct RelocationLog {
    /// The last move from a channel to each node.
    by_channel: AHashMap<Channel, SmallVec<[Relocation; 1]>>,
    /// Every move: when it was, and its number.
    in_order: VecDeque<(Instant, u64, Channel)>,
    last: u64,
    /// Moves were forgotten before their time: until then any node may have got some.
    is_short_until: Option<Instant>,
}

impl Relocations {
    /// Notes that the place of a connection in `channel` goes to the node `to`. Called before the place is no longer found here.
    pub(super) fn note(&self, app: AppId, channel: &SmolStr, to: NodeId) {
        let (now, channel) = (Instant::now(), (app, channel.clone()));
        let mut log = self.0.lock();
        log.forget_old(now);

        // Beyond the bound any node may have got a place that is forgotten, so for a while all are
        // named.
        if log.in_order.len() >= MOVED_MAX {
            log.forget_first();
            log.is_short_until = Some(now + MOVED_REMEMBERED);
        }

        log.last += 1;
        let (to, number) = (to.0, log.last);
        let ones = log.by_channel.entry(channel.clone()).or_default();
        // The last move is enough: a node that is asked again sees to all that came to it before.
        ones.retain(|one| one.to != to);
        ones.push(Relocation { to, number });
        log.in_order.push_back((now, number, channel));
    }

    /// The last move from `channel` to each node; `all` are the nodes that there are.
    pub(super) fn of(
        &self,
        app: AppId,
        channel: &str,
        all: impl Iterator<Item = NodeId>,
    ) -> Vec<Relocation> {
        let now = Instant::now();
        let mut log = self.0.lock();
        log.forget_old(now);
        if log.is_short_until.is_some_and(|until| now < until) {
            let number = log.last;
            return all.map(|NodeId(to)| Relocation { to, number }).collect();
        }
        let of_channel = log.by_channel.get(&(app, channel.into()));
        of_channel.map(|ones| ones.to_vec()).unwrap_or_default()
    }
}

impl RelocationLog {
    fn forget_old(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > MOVED_REMEMBERED;
        while self.in_order.front().is_some_and(|(at, ..)| is_old(at)) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, number, channel)) = self.in_order.pop_front() else {
            return;
        };
        if let Some(ones) = self.by_channel.get_mut(&channel) {
            // A later move to the same node has taken the place of this one, and is forgotten in
            // its own time.
            ones.retain(|one| one.number > number);
            if ones.is_empty() {
                self.by_channel.remove(&channel);
            }
        }
    }
}

/// What a call that takes connections out of a channel has followed up of the moves that it learned of.
#[derive(Debug, Default)]
pub(super) struct FollowedRelocations {
    /// By the node that handed over and the one that got it.
    last: AHashMap<(NodeId, u32), u64>,
    next: AHashSet<u32>,
}

impl FollowedRelocations {
    /// Notes what `node` says that it has handed over.
    pub(super) fn add(&mut self, node: NodeId, log: &[Relocation]) {
        for Relocation { to, number } in log {
            let last = self.last.entry((node, *to)).or_default();
            if *last < *number {
                *last = *number;
                self.next.insert(*to);
            }
        }
    }

    /// The nodes that have got places since they were asked last.
    pub(super) fn take_next(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.next)
            .into_iter()
            .map(NodeId)
            .collect()
    }
}

/// How often clients that move are followed. Each time finds a client that moved again within a round trip of the
/// bus.
pub(super) const FOLLOWED_AT_MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(1);

    fn of(relocations: &Relocations, channel: &str) -> Vec<u32> {
        let all = [NodeId(8), NodeId(9)].into_iter();
        relocations
            .of(APP, channel, all)
            .iter()
            .map(|one| one.to)
            .collect()
    }

    #[test]
    fn the_nodes_that_got_places_of_a_channel_are_named() {
        let relocations = Relocations::default();
        relocations.note(APP, &"a".into(), NodeId(1));
        relocations.note(APP, &"a".into(), NodeId(2));
        relocations.note(APP, &"a".into(), NodeId(1));
        relocations.note(APP, &"b".into(), NodeId(3));
        relocations.note(AppId(2), &"a".into(), NodeId(4));
        assert_eq!(
            (of(&relocations, "a"), of(&relocations, "b")),
            (vec![2, 1], vec![3])
        );
        assert!(of(&relocations, "c").is_empty());
    }

    #[test]
    fn moves_that_are_over_their_time_are_forgotten_whole() {
        let relocations = Relocations::default();
        relocations.note(APP, &"a".into(), NodeId(1));
        relocations.note(APP, &"a".into(), NodeId(1));
        relocations.0.lock().forget_first();
        assert_eq!(of(&relocations, "a"), [1], "the later one is there");
        relocations.0.lock().forget_first();
        assert!(of(&relocations, "a").is_empty());
        let mut log = relocations.0.lock();
        log.forget_old(Instant::now() + 2 * MOVED_REMEMBERED);
        assert!(log.by_channel.is_empty() && log.in_order.is_empty());
    }

    #[test]
    fn of_too_many_moves_any_node_may_have_got_one() {
        let relocations = Relocations::default();
        for n in 0..=MOVED_MAX {
            relocations.note(APP, &n.to_string().into(), NodeId(1));
        }
        assert_eq!(of(&relocations, "0"), [8, 9]);
        assert_eq!(relocations.0.lock().in_order.len(), MOVED_MAX);
    }

    #[test]
    fn a_move_is_followed_once() {
        let mut followed = FollowedRelocations::default();
        let one = |to, number| Relocation { to, number };
        followed.add(NodeId(1), &[one(2, 5), one(3, 1)]);
        followed.add(NodeId(4), &[one(2, 1)]);
        let mut next = followed.take_next();
        next.sort();
        assert_eq!(next, [NodeId(2), NodeId(3)]);
        followed.add(NodeId(1), &[one(2, 5)]);
        assert!(followed.take_next().is_empty());
        followed.add(NodeId(1), &[one(2, 6)]);
        assert_eq!(followed.take_next(), [NodeId(2)]);
    }
}
