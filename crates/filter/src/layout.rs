//! Maps whose keys are shared: a million connections with the same claims hold their keys once.
//!
//! As in an engine for JavaScript, the sorted keys of a map are its [`Layout`], and maps with the same keys share
//! one. So a map costs its values alone, and a compiled `auth.tenant` finds its slot by comparing the layout's id
//! with the one it saw last.

use std::{
    borrow::Borrow,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{
    tally,
    value::{NULL, Value, double_as_int},
};

/// The key of a map: a string, or in a map literal an int or a bool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapKey {
    /// `true` or `false`.
    Bool(bool),
    /// An int; a double of the same value finds it.
    Int(i64),
    /// A string, as every key of JSON is.
    String(SmolStr),
}

impl MapKey {
    /// The key that a value names, or `None` for one that cannot be a key of any map.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(key) => Some(Self::Bool(*key)),
            Value::Int(key) => Some(Self::Int(*key)),
            Value::Double(key) => double_as_int(*key).map(Self::Int),
            Value::String(key) => Some(Self::String(key.clone())),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Its text, if it is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(key) => Some(key),
            Self::Bool(_) | Self::Int(_) => None,
        }
    }

    /// The bytes of its text.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::String(key) => key.len(),
            Self::Bool(_) | Self::Int(_) => 0,
        }
    }

    /// The key as a value.
    #[inline]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Bool(key) => Value::Bool(*key),
            Self::Int(key) => Value::Int(*key),
            Self::String(key) => Value::String(key.clone()),
        }
    }
}

/// The keys of maps, sorted and without repeats, held once for all maps that have them.
#[derive(Debug)]
pub struct Layout {
    /// Unique over the process's life; 0 for a layout that no cache may remember.
    id: u64,
    keys: Arc<[MapKey]>,
    home: Weak<Table>,
}

impl Layout {
    /// A layout that only those share who are given it.
    pub(super) fn alone(keys: Vec<MapKey>) -> Arc<Self> {
        Arc::new(Self {
            id: 0,
            keys: keys.into(),
            home: Weak::new(),
        })
    }

    fn find_str(&self, key: &str) -> Option<usize> {
        self.keys
            .binary_search_by(|have| match have {
                MapKey::String(have) => {
                    tally::add(2 + have.len().min(key.len()));
                    (**have).cmp(key)
                }
                // Strings come last in the order.
                MapKey::Bool(_) | MapKey::Int(_) => std::cmp::Ordering::Less,
            })
            .ok()
    }

    /// The keys, sorted.
    #[inline]
    pub fn keys(&self) -> &[MapKey] {
        &self.keys
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if let Some(table) = self.home.upgrade() {
            table.forget(&self.keys);
        }
    }
}

/// Keys and values of one object; cloning shares them.
///
/// One allocation: a scan reads the claims of every connection, and waits for memory once less for each.
#[derive(Clone)]
pub struct Map(Arc<[Cell]>);

/// A part of a map's allocation: its layout, and after it its values.
enum Cell {
    Layout(Arc<Layout>),
    Value(Value),
}

impl Cell {
    fn value(&self) -> &Value {
        match self {
            Self::Value(value) => value,
            Self::Layout(_) => &NULL,
        }
    }
}

impl Map {
    /// Builds a map whose layout is shared with every map of `layouts` that has the same keys. Of a repeated key
    /// the last value stays. Without `layouts` the keys belong to this map alone.
    #[inline]
    pub fn new(members: Vec<(MapKey, Value)>, layouts: Option<&Layouts>) -> Self {
        tally::add(200 + 24 * members.len());
        let (keys, values) = sorted(members);
        let layout = match layouts {
            Some(layouts) => layouts.intern(keys),
            None => Layout::alone(keys),
        };
        Self::laid_out(layout, values)
    }

    /// A map of the keys of `layout` with `values` in their order.
    pub(super) fn laid_out(layout: Arc<Layout>, values: Vec<Value>) -> Self {
        debug_assert_eq!(layout.keys.len(), values.len());
        let values = values.into_iter().map(Cell::Value);
        Self(
            std::iter::once(Cell::Layout(layout))
                .chain(values)
                .collect(),
        )
    }

    /// The value of `key`, or null.
    #[inline]
    pub fn get(&self, key: &str) -> &Value {
        self.find(key).unwrap_or(&NULL)
    }

    /// The value of `key`, if the map has it.
    #[inline]
    pub fn find(&self, key: &str) -> Option<&Value> {
        self.value(self.layout().find_str(key)?)
    }

    /// The value that `key` finds; a double finds the int that it equals (CEL specification, "Equality").
    pub(super) fn find_value(&self, key: &Value) -> Option<&Value> {
        match key {
            Value::String(key) => self.find(key),
            other => self.find_key(&MapKey::from_value(other)?),
        }
    }

    pub(super) fn find_key(&self, key: &MapKey) -> Option<&Value> {
        self.value(self.layout().keys.binary_search(key).ok()?)
    }

    /// Keys with their values, sorted by key.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&MapKey, &Value)> {
        self.layout()
            .keys
            .iter()
            .zip(self.0[1..].iter().map(Cell::value))
    }

    /// The keys, sorted.
    #[inline]
    pub fn keys(&self) -> &[MapKey] {
        &self.layout().keys
    }

    /// How many members there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len() - 1
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The layout, shared with other maps of the same keys.
    #[inline]
    pub fn layout(&self) -> &Arc<Layout> {
        match &self.0[0] {
            Cell::Layout(layout) => layout,
            Cell::Value(_) => unreachable!("a map begins with its layout"),
        }
    }

    /// The value in a slot of the layout; `None` beyond its end.
    #[inline]
    fn value(&self, slot: usize) -> Option<&Value> {
        self.0.get(slot + 1).map(Cell::value)
    }
}

/// Sorts the members of a map by key; of a repeated key the last value stays.
pub(super) fn sorted(mut members: Vec<(MapKey, Value)>) -> (Vec<MapKey>, Vec<Value>) {
    // The sort is stable, so that of repeated keys the last stays the last.
    members.sort_by(|(a, _), (b, _)| {
        tally::add(2 + a.len().min(b.len()));
        a.cmp(b)
    });
    members.dedup_by(|later, earlier| {
        let repeats = later.0 == earlier.0;
        // The later one is dropped, and its value is to stay.
        if repeats {
            std::mem::swap(later, earlier);
        }
        repeats
    });
    members.into_iter().unzip()
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        tally::add(self.iter().map(|(key, _)| 4 + key.len()).sum());
        let is_laid_out_alike =
            Arc::ptr_eq(self.layout(), other.layout()) || self.keys() == other.keys();
        is_laid_out_alike
            && self
                .iter()
                .map(|(_, value)| value)
                .eq(other.iter().map(|(_, value)| value))
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The layouts that are alive: building a map with keys already seen shares them.
///
/// A layout leaves with its last map, so hostile keys leave nothing behind. Cloning shares the same table.
#[derive(Clone, Debug, Default)]
pub struct Layouts(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    /// `ahash` seeds itself at random, so that nobody can choose keys that collide.
    layouts: Mutex<AHashMap<SharedKeys, Weak<Layout>>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SharedKeys(Arc<[MapKey]>);

impl Borrow<[MapKey]> for SharedKeys {
    fn borrow(&self) -> &[MapKey] {
        &self.0
    }
}

impl Layouts {
    /// An empty table.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Layouts that are alive.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.layouts.lock().len()
    }

    /// Whether no layout is alive.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn intern(&self, keys: Vec<MapKey>) -> Arc<Layout> {
        let mut layouts = self.0.layouts.lock();
        if let Some(layout) = layouts.get(&*keys).and_then(Weak::upgrade) {
            return layout;
        }

        let keys: Arc<[MapKey]> = keys.into();
        let layout = Arc::new(Layout {
            id: next_id(keys.len()),
            keys: keys.clone(),
            home: Arc::downgrade(&self.0),
        });

        // A dying layout with these keys may still have its entry; it is replaced, and `forget` will see that.
        layouts.remove(&*keys);
        layouts.insert(SharedKeys(keys), Arc::downgrade(&layout));
        layout
    }
}

impl Table {
    fn forget(&self, keys: &[MapKey]) {
        // Another layout with these keys may have taken the entry since. That one is alive.
        let mut layouts = self.layouts.lock();
        if layouts
            .get(keys)
            .is_some_and(|layout| layout.strong_count() == 0)
        {
            layouts.remove(keys);
            // A crowd of layouts that has gone must not hold the room for it.
            if layouts.capacity() > 64 && layouts.len() < layouts.capacity() / 8 {
                layouts.shrink_to_fit();
            }
        }
    }
}

/// Bits of a remembered slot; layouts with more keys than that are not remembered.
const SLOT_BITS: u32 = 20;
const ABSENT: u64 = (1 << SLOT_BITS) - 1;
const NOTHING_SEEN: u64 = u64::MAX;

fn next_id(keys: usize) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Its slots do not fit their bits, so no step may remember it.
    if keys as u64 >= ABSENT {
        return 0;
    }
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    // If ids ever ran out, nothing would be remembered, which is slow and right.
    if id < NOTHING_SEEN >> SLOT_BITS {
        id
    } else {
        0
    }
}

/// One `.key` of a compiled path, which remembers the layout it saw last and where the key was.
#[derive(Debug)]
pub(super) struct Step {
    key: SmolStr,
    /// Layout id above, slot below. One word, so that a relaxed load sees both or neither.
    seen: AtomicU64,
}

impl Step {
    pub(super) fn new(key: SmolStr) -> Self {
        Self {
            key,
            seen: AtomicU64::new(NOTHING_SEEN),
        }
    }

    /// The member that the step names, or null.
    #[inline]
    pub(super) fn get<'m>(&self, map: &'m Map) -> &'m Value {
        self.find(map).unwrap_or(&NULL)
    }

    /// The member that the step names.
    #[inline]
    pub(super) fn find<'m>(&self, map: &'m Map) -> Option<&'m Value> {
        let seen = self.seen.load(Ordering::Relaxed);
        if seen >> SLOT_BITS == map.layout().id {
            // An absent key is remembered as a slot beyond every layout's end.
            return map.value((seen & ABSENT) as usize);
        }
        self.search(map)
    }

    #[cold]
    fn search<'m>(&self, map: &'m Map) -> Option<&'m Value> {
        let (slot, id) = (map.layout().find_str(&self.key), map.layout().id);
        if id != 0 {
            let remembered = slot.map_or(ABSENT, |slot| slot as u64);
            self.seen
                .store(id << SLOT_BITS | remembered, Ordering::Relaxed);
        }
        map.value(slot?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(layouts: &Layouts, keys: &[&str]) -> Map {
        let members = keys.iter().zip(0..);
        Map::new(
            members
                .map(|(k, i)| (MapKey::String((*k).into()), Value::Int(i)))
                .collect(),
            Some(layouts),
        )
    }

    #[test]
    fn maps_with_the_same_keys_share_them_and_leave_nothing_behind() {
        let layouts = Layouts::new();
        let (a, b, c) = (
            map(&layouts, &["x", "y"]),
            map(&layouts, &["y", "x"]),
            map(&layouts, &["x"]),
        );
        assert!(Arc::ptr_eq(a.layout(), b.layout()));
        assert!(!Arc::ptr_eq(a.layout(), c.layout()));
        assert_eq!(layouts.len(), 2);
        drop((a, c));
        assert_eq!(layouts.len(), 1);
        drop(b);
        for hostile in 0..1000 {
            map(&layouts, &[&format!("k{hostile}")]);
        }
        assert!(layouts.is_empty());
    }

    #[test]
    fn of_a_repeated_key_the_last_value_stays() {
        let map = map(&Layouts::new(), &["x", "y", "x", "x"]);
        assert_eq!(
            (map.len(), map.get("x"), map.get("y")),
            (2, &Value::Int(3), &Value::Int(1))
        );
    }

    #[test]
    fn a_step_follows_whatever_layout_it_meets() {
        let layouts = Layouts::new();
        let maps = [
            map(&layouts, &["a", "x"]),
            map(&layouts, &["x"]),
            map(&layouts, &["b"]),
        ];
        let own = Map::new(vec![(MapKey::String("x".into()), Value::Int(7))], None);
        let step = Step::new("x".into());
        for _ in 0..2 {
            assert_eq!(
                maps.each_ref().map(|m| step.get(m).clone()),
                [Value::Int(1), Value::Int(0), Value::Null]
            );
            assert_eq!(
                (step.get(&maps[2]), step.get(&maps[2])),
                (&Value::Null, &Value::Null)
            );
            assert_eq!(step.get(&own), &Value::Int(7));
        }
    }

    #[test]
    fn numbers_find_keys_by_value() {
        let map = Map::new(
            vec![
                (MapKey::Int(1), true.into()),
                (MapKey::Bool(true), Value::Int(5)),
            ],
            None,
        );
        assert_eq!(
            map.find_value(&Value::Double(1.0)),
            Some(&Value::Bool(true))
        );
        assert_eq!(map.find_value(&Value::Double(1.5)), None);
        assert_eq!(map.find_value(&Value::Bool(true)), Some(&Value::Int(5)));
        assert_eq!(map.find_value(&Value::from("1")), None);
    }
}
