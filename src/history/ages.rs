//! Which stored event of an app is the oldest, and which are past their time, whatever their topics.
//!
//! Events that are stored equally long expire in the order in which they came: one linked list per such class,
//! through one table of places. So adding and removing cost the same however much is stored, and nothing stale is
//! left for a later clean-up to stumble over under the lock. Classes are few, as they come from the configuration.

use std::time::Duration;

use super::Key;

/// Ends a list.
const NONE: u32 = u32::MAX;

/// An event's place in the order; its holder gives it back to [`Ages::remove`], once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AgePlace(u32);

#[derive(Debug)]
struct Node {
    /// Whose event it is; none in a place that is free.
    key: Option<Key>,
    number: u64,
    until: Duration,
    class: u32,
    previous: u32,
    /// The next younger of the class, or the next free place.
    next: u32,
}

#[derive(Debug)]
struct Class {
    ttl: Duration,
    first: u32,
    last: u32,
}

/// An app's stored events by age. Its memory follows the most events that were ever stored at the same time.
#[derive(Debug)]
pub(super) struct Ages {
    nodes: Vec<Node>,
    classes: Vec<Class>,
    free: u32,
    /// Events ever added.
    added: u64,
}

impl Ages {
    /// What one event takes.
    #[cfg(test)]
    pub(super) const PLACE_BYTES: usize = size_of::<Node>();

    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            classes: Vec::new(),
            free: NONE,
            added: 0,
        }
    }

    /// Events held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.iter().filter(|node| node.key.is_some()).count()
    }

    /// Adds an event of `key` as the youngest. `now` never goes back from one call to the next.
    pub(super) fn add(&mut self, key: &Key, now: Duration, ttl: Duration) -> AgePlace {
        let class = self.class(ttl);
        let previous = self.classes[class].last;
        let node = Node {
            key: Some(key.clone()),
            number: self.added,
            until: now.saturating_add(ttl),
            class: class as u32,
            previous,
            next: NONE,
        };

        let at = self.free;
        let at = if at == NONE {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        } else {
            self.free = self.nodes[at as usize].next;
            self.nodes[at as usize] = node;
            at
        };

        // At the end of its class, which is in the order of ages only because `now` never goes
        // back.
        match previous {
            NONE => self.classes[class].first = at,
            previous => self.nodes[previous as usize].next = at,
        }

        self.classes[class].last = at;
        self.added += 1;
        AgePlace(at)
    }

    /// The class of `ttl`; one that is empty takes it over, so that there are never more than events.
    fn class(&mut self, ttl: Duration) -> usize {
        if let Some(class) = self.classes.iter().position(|class| class.ttl == ttl) {
            return class;
        }

        let fresh = Class {
            ttl,
            first: NONE,
            last: NONE,
        };

        if let Some(class) = self.classes.iter().position(|class| class.first == NONE) {
            self.classes[class] = fresh;
            return class;
        }

        self.classes.push(fresh);
        self.classes.len() - 1
    }

    /// Removes an event.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a place is good for one removal"
    )]
    pub(super) fn remove(&mut self, place: AgePlace) {
        let at = place.0;
        let node = &mut self.nodes[at as usize];
        let (class, previous, next) = (node.class as usize, node.previous, node.next);
        // Free places are a list of their own, so that the table never has to be searched for one.
        node.key = None;
        node.next = self.free;
        self.free = at;

        match previous {
            NONE => self.classes[class].first = next,
            previous => self.nodes[previous as usize].next = next,
        }

        match next {
            NONE => self.classes[class].last = previous,
            next => self.nodes[next as usize].previous = previous,
        }
    }

    fn heads(&self) -> impl Iterator<Item = &Node> {
        // All events of a class live equally long, so its first is its oldest and the next whose time ends. An empty
        // class has none: `NONE` is beyond every place.
        self.classes
            .iter()
            .filter_map(|class| self.nodes.get(class.first as usize))
    }

    /// The topic of the oldest event.
    pub(super) fn oldest(&self) -> Option<&Key> {
        self.heads().min_by_key(|node| node.number)?.key.as_ref()
    }

    /// The topic of an event that is past its time.
    pub(super) fn expired(&self, now: Duration) -> Option<&Key> {
        self.heads().find(|node| node.until <= now)?.key.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::{history::Topic, id::AppId};

    fn key(name: &str) -> Key {
        Key {
            app: AppId(0),
            topic: Topic::Channel(name.into()),
        }
    }

    #[test]
    fn places_are_used_again_and_empty_classes_too() {
        let mut ages = Ages::new();
        for second in 0..1000 {
            let ttl = Duration::from_secs(second);
            let places = [
                ages.add(&key("a"), Duration::ZERO, ttl),
                ages.add(&key("b"), Duration::ZERO, ttl),
            ];
            assert_eq!(ages.len(), 2);
            for place in places {
                ages.remove(place);
            }
        }
        assert_eq!(
            (ages.len(), ages.nodes.len(), ages.classes.len()),
            (0, 2, 1)
        );
        assert!(ages.oldest().is_none() && ages.expired(Duration::MAX).is_none());
    }

    proptest! {
        #[test]
        fn the_oldest_and_the_expired_are_found_whatever_was_removed(
            steps in prop::collection::vec((any::<bool>(), 0..3u64, any::<prop::sample::Index>()), 0..80),
        ) {
            let mut ages = Ages::new();
            let mut model: VecDeque<(String, Duration, AgePlace)> = VecDeque::new();
            for (at, (add, ttl, which)) in steps.into_iter().enumerate() {
                let (now, ttl) = (Duration::from_secs(at as u64), Duration::from_secs(ttl * 10));
                if add || model.is_empty() {
                    let name = at.to_string();
                    let place = ages.add(&key(&name), now, ttl);
                    model.push_back((name, now + ttl, place));
                } else if let Some((_, _, place)) = model.remove(which.index(model.len())) {
                    ages.remove(place);
                }
                prop_assert_eq!(ages.len(), model.len());
                prop_assert_eq!(ages.oldest().cloned(), model.front().map(|(name, ..)| key(name)));
                let expired: Vec<_> = model.iter().filter(|(_, until, _)| *until <= now).map(|e| key(&e.0)).collect();
                prop_assert_eq!(ages.expired(now).is_some(), !expired.is_empty());
                prop_assert!(ages.expired(now).is_none_or(|found| expired.contains(found)));
            }
        }
    }
}
