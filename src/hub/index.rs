//! From an attribute's value to the connections that have it.

use ahash::AHashMap;
use roaring::RoaringBitmap;

use crate::filter::{LookupKey, Value, index_entries};

/// Above this a posting becomes a bitmap; below, a scan of a short list is quicker and smaller.
const FEW: usize = 16;

/// The slots whose attribute has one value.
#[derive(Debug)]
enum Posting {
    One(u32),
    Few(Vec<u32>),
    Many(Box<RoaringBitmap>),
}

impl Posting {
    fn insert(&mut self, slot: u32) {
        match self {
            Self::One(one) if *one == slot => {}
            Self::One(one) => *self = Self::Few(vec![*one, slot]),
            Self::Few(few) if few.contains(&slot) => {}
            Self::Few(few) if few.len() < FEW => few.push(slot),
            Self::Few(few) => {
                let mut many: RoaringBitmap = few.iter().copied().collect();
                many.insert(slot);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => {
                many.insert(slot);
            }
        }
    }

    /// Takes `slot` out; true when nothing is left.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One(one) => *one == slot,
            Self::Few(few) => {
                few.retain(|&other| other != slot);
                few.is_empty()
            }
            Self::Many(many) => {
                many.remove(slot);
                // Half of the bound, so that one that comes and goes does not change the form each
                // time.
                if many.len() <= FEW as u64 / 2 {
                    *self = Self::Few(many.iter().collect());
                }
                false
            }
        }
    }

    fn contains(&self, slot: u32) -> bool {
        match self {
            Self::One(one) => *one == slot,
            Self::Few(few) => few.contains(&slot),
            Self::Many(many) => many.contains(slot),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len() as usize,
        }
    }
}

/// An index over one attribute: scalars by value, lists by element, maps by key, each apart from the others.
#[derive(Debug, Default)]
pub(super) struct Index {
    postings: AHashMap<LookupKey, Posting>,
}

impl Index {
    /// Notes that the attribute of `slot` is `value`. Returns how many entries that took.
    pub(super) fn insert(&mut self, value: &Value, slot: u32) -> u32 {
        let mut entries = 0;
        index_entries(value, |key| {
            self.insert_key(key, slot);
            entries += 1;
        });
        entries
    }

    /// Forgets what [`Index::insert`] noted for the same value and slot. Returns how many entries that were.
    pub(super) fn remove(&mut self, value: &Value, slot: u32) -> u32 {
        let mut entries = 0;
        index_entries(value, |key| {
            self.remove_key(&key, slot);
            entries += 1;
        });
        entries
    }

    /// Notes that `slot` has `key`.
    pub(super) fn insert_key(&mut self, key: LookupKey, slot: u32) {
        self.postings
            .entry(key)
            .and_modify(|posting| posting.insert(slot))
            .or_insert(Posting::One(slot));
    }

    /// Forgets that `slot` has `key`; true if it had it.
    pub(super) fn remove_key(&mut self, key: &LookupKey, slot: u32) -> bool {
        let Some(posting) = self.postings.get_mut(key) else {
            return false;
        };
        if !posting.contains(slot) {
            return false;
        }
        if posting.remove(slot) {
            self.postings.remove(key);
        }
        true
    }

    /// Whether `slot` has `key`.
    pub(super) fn contains(&self, key: &LookupKey, slot: u32) -> bool {
        self.postings
            .get(key)
            .is_some_and(|posting| posting.contains(slot))
    }

    /// Up to `limit` slots from `from` on that have `key`, in their order.
    pub(super) fn page(&self, key: &LookupKey, from: u32, limit: usize) -> Vec<u32> {
        let Some(posting) = self.postings.get(key) else {
            return Vec::new();
        };
        let mut slots: Vec<u32> = match posting {
            Posting::One(one) => vec![*one],
            Posting::Few(few) => few.clone(),
            Posting::Many(many) => return many.range(from..).take(limit).collect(),
        };
        // A short list has its slots in the order in which they came.
        slots.retain(|&slot| slot >= from);
        slots.sort_unstable();
        slots.truncate(limit);
        slots
    }

    /// How many slots have `key`.
    pub(super) fn count(&self, key: &LookupKey) -> usize {
        self.postings.get(key).map_or(0, Posting::len)
    }

    /// Adds the slots that have `key`. Costs a copy of their set at most.
    pub(super) fn collect(&self, key: &LookupKey, to: &mut RoaringBitmap) {
        match self.postings.get(key) {
            None => {}
            Some(Posting::One(one)) => {
                to.insert(*one);
            }
            Some(Posting::Few(few)) => to.extend(few),
            Some(Posting::Many(many)) => *to |= &**many,
        }
    }

    /// The distinct values, as keys.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.postings.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postings_grow_and_shrink_without_losing_a_slot() {
        let mut index = Index::default();
        let value = Value::Int(7);
        let mut key = None;
        index_entries(&value, |k| key = Some(k));
        let key = key.unwrap();
        for slot in 0..40 {
            index.insert(&value, slot);
            index.insert(&value, slot);
            assert_eq!(index.count(&key), slot as usize + 1);
        }
        for slot in 0..40 {
            let mut slots = RoaringBitmap::new();
            index.collect(&key, &mut slots);
            assert_eq!(slots, (slot..40).collect());
            assert_eq!(
                index.page(&key, 20, 3),
                (slot.max(20)..40).take(3).collect::<Vec<_>>()
            );
            assert!(index.contains(&key, slot));
            index.remove(&value, slot);
            assert!(!index.contains(&key, slot) && !index.remove_key(&key, slot));
        }
        assert_eq!(index.len(), 0, "an empty posting is forgotten");
    }
}
