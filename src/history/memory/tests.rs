use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;
use crate::{
    id::AppId,
    protocol::{
        event::{Data, Event, Marks},
        frame::Frame,
    },
};

const PLENTY: Keep = Keep { events: 1000, bytes: 1 << 20, ttl: Duration::from_mins(5) };

fn kept(max_bytes: usize, max_quiet: usize) -> Kept {
    let metrics = Arc::new(Metrics::new());
    let apps = ["a", "b"].map(|name| Arc::new(metrics.app(name)));
    Kept::new(max_bytes, max_quiet, metrics, apps.into())
}

fn channel(name: &str) -> Key {
    Key { app: AppId(0), topic: Topic::Channel(name.into()) }
}

fn user(name: &str) -> Key {
    Key { app: AppId(1), topic: Topic::User(name.into()) }
}

fn at(seconds: u64) -> Now {
    Now { age: Duration::from_secs(seconds), unix_ms: 1_700_000_000_000 + seconds * 1000 }
}

/// An event whose data are a string of `length` bytes.
fn event(length: usize) -> New {
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(length))).unwrap();
    let draft = Event::new("e", Data::Json(&data)).unwrap().draft(&Marks::default());
    New { id: Uuid::new_v4(), draft, omit: None }
}

fn offsets(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.offset).collect()
}

fn text(frame: &Frame) -> &str {
    std::str::from_utf8(&frame.bytes()[2..]).unwrap()
}

fn fill(kept: &mut Kept, key: &Key, keep: &Keep, count: usize, now: Now) {
    (0..count).for_each(|_| drop(kept.append(key, keep, event(1), now)));
}

/// Holds what is counted against what is there.
fn audit(kept: &Kept) {
    let held = || kept.topics.values().flat_map(|log| &log.entries);
    assert_eq!(kept.books.ages.len(), held().count());
    assert_eq!(kept.books.bytes, held().map(|held| weight(&held.entry)).sum::<usize>());
    assert_eq!(kept.books.metrics.history_events.get(), held().count() as i64);
    assert_eq!(kept.books.metrics.history_bytes.get(), kept.books.bytes as i64);
    assert_eq!(kept.quiet.len(), kept.topics.values().filter(|log| log.entries.is_empty()).count());
    for (key, log) in &kept.topics {
        assert_eq!(log.bytes, log.entries.iter().map(|held| held.entry.frame.len()).sum::<usize>());
        let quiet = log.quiet.and_then(|place| kept.quiet.get(&place));
        assert_eq!(quiet.map(|(_, key)| key), log.entries.is_empty().then_some(key));
        let newest_run = (log.newest - log.entries.len() as u64 + 1..=log.newest).collect::<Vec<_>>();
        assert_eq!(log.later(0).map(|entry| entry.offset).collect::<Vec<_>>(), newest_run);
    }
}

#[tokio::test]
async fn two_quick_stores_keep_both_and_only_channels_carry_offsets() {
    let store = Memory::new(1 << 20, Arc::new(Metrics::new()), Vec::new());
    let key = user("u");
    let (first, second) = tokio::join!(
        store.append(&key, &PLENTY, event(1)), //
        store.append(&key, &PLENTY, event(2)),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.position.offset, second.position.offset), (1, 2));
    assert_eq!(first.position.epoch, second.position.epoch);
    let waiting = store.waiting(&key).await.unwrap();
    assert!(waiting[0].frame.is_same(&first.frame) && waiting[1].frame.is_same(&second.frame));
    assert_eq!(text(&first.frame), r#"{"event":"e","data":"x"}"#);
    assert!(waiting[0].at_ms > 1_600_000_000_000);
    store.confirm(&key, 1);
    assert_eq!(offsets(&store.waiting(&key).await.unwrap()), [2]);

    let appended = store.append(&channel("c"), &PLENTY, event(1)).await.unwrap();
    assert_eq!(text(&appended.frame), r#"{"event":"e","data":"x","offset":1}"#);
    store.expire();
    let other_app = Key { app: AppId(1), ..channel("c") };
    assert!(store.page(&other_app, 0, 10).await.unwrap().is_none());
}

#[test]
fn who_joins_an_empty_channel_can_come_back() {
    let mut kept = kept(1 << 20, 10);
    let key = channel("c");
    assert!(kept.page(&key, 0, 10, at(0)).is_none() && kept.waiting(&key, at(0)).is_empty());
    assert!(kept.topics.is_empty(), "neither begins a numbering");
    let joined = kept.position(&key, at(0));
    assert_eq!(joined.offset, 0);
    let epoch = joined.epoch.to_string();
    fill(&mut kept, &key, &PLENTY, 3, at(1));
    let missed = kept.since(&key, Some(&epoch), 0, at(2));
    assert!(missed.recovered && missed.position == Position { offset: 3, ..joined });
    assert_eq!(offsets(&missed.entries), [1, 2, 3]);
    let missed = kept.since(&key, Some(&epoch), 3, at(2));
    assert!(missed.recovered && missed.entries.is_empty());
    let page = kept.page(&key, 1, 1, at(2)).unwrap();
    assert!(page.more && offsets(&page.entries) == [2]);
    let page = kept.page(&key, 2, 1, at(2)).unwrap();
    assert!(!page.more && offsets(&page.entries) == [3] && page.position == missed.position);
}

#[test]
fn nothing_is_recovered_that_cannot_be_proven() {
    let mut kept = kept(1 << 20, 10);
    let key = channel("c");
    let epoch = kept.position(&key, at(0)).epoch.to_string();
    let since = |kept: &mut Kept, epoch: Option<&str>, offset, now| {
        let recovery = kept.since(&key, epoch, offset, now);
        (recovery.recovered, offsets(&recovery.entries))
    };
    let three = Keep { events: 3, ..PLENTY };
    fill(&mut kept, &channel("c"), &three, 4, at(0));
    assert_eq!(since(&mut kept, Some(&epoch), 0, at(1)), (false, vec![2, 3, 4]), "1 is evicted");
    assert_eq!(since(&mut kept, Some(&epoch), 1, at(1)), (true, vec![2, 3, 4]));
    assert_eq!(since(&mut kept, None, 0, at(1)), (false, vec![2, 3, 4]));
    assert_eq!(since(&mut kept, None, 2, at(1)), (true, vec![3, 4]));
    assert_eq!(since(&mut kept, Some(&epoch), 5, at(1)), (false, vec![2, 3, 4]), "not yet given out");
    for other in [Epoch::random().to_string().as_str(), "", "another"] {
        assert_eq!(since(&mut kept, Some(other), 4, at(1)), (false, vec![2, 3, 4]), "{other}");
    }
    let late = at(300);
    assert_eq!(since(&mut kept, Some(&epoch), 3, late), (false, vec![]), "4 is expired, and was never swept");
    assert_eq!(since(&mut kept, Some(&epoch), 4, late), (true, vec![]));
    audit(&kept);
}

#[test]
fn a_topic_keeps_its_newest_events_within_number_bytes_and_time() {
    let mut kept = kept(1 << 20, 10);
    let key = user("u");
    let keep = Keep { events: 3, bytes: 130, ttl: Duration::from_secs(10) };
    for (second, length, left) in
        [(0, 1, vec![1]), (1, 1, vec![1, 2]), (2, 50, vec![1, 2, 3]), (3, 50, vec![4]), (4, 1, vec![4, 5])]
    {
        kept.append(&key, &keep, event(length), at(second));
        assert_eq!(offsets(&kept.waiting(&key, at(second))), left, "{second}");
    }
    let losses = kept.books.apps[1].clone();
    assert_eq!((losses.drops(DropReason::StoredOver), losses.drops(DropReason::StoredExpired)), (3, 0));
    assert_eq!(offsets(&kept.waiting(&key, at(13))), [5]);
    assert!(!kept.expire(1024, at(14)));
    assert_eq!((losses.drops(DropReason::StoredOver), losses.drops(DropReason::StoredExpired)), (3, 2));
    let huge = kept.append(&key, &keep, event(1000), at(15));
    assert_eq!((huge.position.offset, huge.frame.len() > 1000), (6, true), "delivered, if not kept");
    assert!(kept.waiting(&key, at(15)).is_empty());
    fill(&mut kept, &channel("c"), &keep, 5, at(15));
    assert!(kept.expire(2, at(25)) && !kept.expire(1024, at(25)));
    assert_eq!(losses.drops(DropReason::StoredOver), 4);
    assert_eq!(kept.books.apps[0].drops(DropReason::StoredExpired), 0, "a channel's are no losses");
    audit(&kept);
}

#[test]
fn events_kept_for_a_shorter_time_take_the_older_ones_along() {
    let mut kept = kept(1 << 20, 10);
    let (key, short) = (channel("c"), Keep { ttl: Duration::from_secs(10), ..PLENTY });
    fill(&mut kept, &key, &PLENTY, 2, at(0));
    fill(&mut kept, &key, &short, 1, at(1));
    fill(&mut kept, &key, &PLENTY, 1, at(2));
    assert_eq!(kept.waiting(&key, at(10)).len(), 4);
    assert_eq!(offsets(&kept.waiting(&key, at(11))), [4]);
    audit(&kept);
}

#[test]
fn over_the_bound_on_all_topics_the_oldest_go_whatever_their_topic() {
    let one = weight(&Entry {
        offset: 1,
        id: Uuid::nil(),
        frame: event(1).draft.finish(Some(1)),
        omit: None,
        at_ms: 0,
    });
    let mut kept = kept(3 * one, 10);
    let (short, long) = (Keep { ttl: Duration::from_secs(100), ..PLENTY }, PLENTY);
    let (old, young) = (channel("old"), channel("young"));
    let epoch = kept.position(&old, at(0)).epoch.to_string();
    fill(&mut kept, &old, &long, 1, at(0));
    fill(&mut kept, &user("u"), &short, 1, at(1));
    fill(&mut kept, &old, &short, 1, at(2));
    fill(&mut kept, &young, &long, 1, at(3));
    assert_eq!(offsets(&kept.waiting(&old, at(3))), [2]);
    assert!(!kept.since(&old, Some(&epoch), 0, at(3)).recovered);
    fill(&mut kept, &young, &long, 1, at(4));
    assert!(kept.waiting(&user("u"), at(4)).is_empty());
    assert_eq!(kept.books.apps[1].drops(DropReason::StoredOver), 1);
    fill(&mut kept, &young, &long, 1, at(5));
    assert_eq!(offsets(&kept.waiting(&young, at(5))), [1, 2, 3]);
    assert!(kept.waiting(&old, at(5)).is_empty());
    assert_eq!(kept.position(&old, at(5)), Position { epoch: epoch.parse().unwrap(), offset: 2 });
    audit(&kept);
}

#[test]
fn names_left_out_count_too() {
    let mut kept = kept(1 << 20, 10);
    let users = (0..1000).map(|n| n.to_string().into()).collect();
    let omit = Some(Arc::new(Omit { users, ..Omit::default() }));
    kept.append(&channel("c"), &PLENTY, New { omit, ..event(1) }, at(0));
    assert!(kept.books.bytes > 1000 * HISTORY_NAME_BYTES);
    kept.confirm(&channel("c"), 1, at(0));
    assert_eq!(kept.books.bytes, 0);
}

#[test]
fn quiet_topics_know_their_numbering_for_an_hour_and_the_longest_quiet_go_first() {
    let mut kept = kept(1 << 20, 2);
    let a = kept.position(&channel("a"), at(0));
    let b = kept.position(&channel("b"), at(1));
    assert_eq!(kept.position(&channel("a"), at(2)), a);
    let c = kept.position(&channel("c"), at(3));
    assert_eq!(kept.position(&channel("a"), at(4)), a, "b was quiet for longer");
    assert_ne!(kept.position(&channel("b"), at(5)), b, "a new life");
    assert_ne!(kept.position(&channel("c"), at(6)), c);
    fill(&mut kept, &channel("c"), &PLENTY, 1, at(7));
    let c = kept.position(&channel("c"), at(8));
    let hour = HISTORY_QUIET.as_secs();
    kept.expire(1024, at(hour));
    assert_eq!(kept.position(&channel("c"), at(2 * hour - 1)), c, "quiet since its event expired");
    kept.expire(1024, at(2 * hour + 10));
    assert_eq!(kept.topics.len(), 1);
    kept.expire(1024, at(3 * hour - 1));
    assert!(kept.topics.is_empty());
    audit(&kept);
}

#[test]
fn a_late_confirmation_removes_nothing_of_a_later_numbering() {
    let mut kept = kept(1 << 20, 1);
    fill(&mut kept, &user("u"), &PLENTY, 7, at(0));
    kept.confirm(&user("u"), 7, at(1));
    kept.position(&channel("c"), at(2));
    assert!(!kept.topics.contains_key(&user("u")), "forgotten");
    fill(&mut kept, &user("u"), &PLENTY, 9, at(3));
    kept.confirm(&user("u"), 7, at(4));
    assert_eq!(kept.waiting(&user("u"), at(4)).len(), 9);
    audit(&kept);
}

#[test]
fn a_drained_topic_gives_its_room_back() {
    let mut kept = kept(1 << 20, 10);
    fill(&mut kept, &user("u"), &PLENTY, 1000, at(0));
    kept.confirm(&user("u"), 999, at(1));
    assert!(kept.topics[&user("u")].entries.capacity() < 32);
}

/// An event of the model. Everything that ever was stays in it.
#[derive(Debug)]
struct Known {
    offset: u64,
    id: Uuid,
    frame: Frame,
    until: Duration,
    number: usize,
    gone: bool,
}

#[derive(Debug)]
struct Life {
    epoch: Epoch,
    newest: u64,
    events: Vec<Known>,
    lost: HashSet<u64>,
    used: Duration,
}

impl Life {
    fn kept(&self) -> impl Iterator<Item = &Known> {
        self.events.iter().filter(|known| !known.gone)
    }

    /// Removes all up to `offset`; how many there were.
    fn remove(&mut self, offset: u64, lost: bool) -> u64 {
        let gone = self.events.iter_mut().filter(|known| !known.gone && known.offset <= offset);
        let mut count = 0;
        for known in gone {
            known.gone = true;
            count += 1;
            if lost {
                self.lost.insert(known.offset);
            }
        }
        count
    }

    fn shown(&self, after: u64) -> Vec<(u64, Uuid)> {
        self.kept().filter(|known| known.offset > after).map(|known| (known.offset, known.id)).collect()
    }
}

/// The store as its rules read, without any thought of cost.
struct Model {
    lives: HashMap<Key, Life>,
    former: HashSet<u64>,
    max_bytes: usize,
    number: usize,
    users_begin_after: u64,
    over: u64,
    expired: u64,
}

impl Model {
    fn life(&mut self, key: &Key, epoch: Epoch) -> &mut Life {
        let newest = if matches!(key.topic, Topic::User(_)) { self.users_begin_after } else { 0 };
        self.lives.entry(key.clone()).or_insert_with(|| {
            assert!(self.former.insert(epoch.0), "an epoch came twice");
            let (events, lost) = (Vec::new(), HashSet::new());
            Life { epoch, newest, events, lost, used: Duration::ZERO }
        })
    }

    fn age(&mut self, key: &Key, now: Now) {
        let Some(life) = self.lives.get_mut(key) else { return };
        let last = life.kept().filter(|known| known.until <= now.age).map(|known| known.offset).max();
        let lost = life.remove(last.unwrap_or(0), true);
        if matches!(key.topic, Topic::User(_)) {
            self.expired += lost;
        }
        if lost > 0 && life.kept().next().is_none() {
            life.used = now.age;
        }
    }

    fn evict(&mut self, key: &Key, offset: u64, now: Now) {
        let Some(life) = self.lives.get_mut(key) else { return };
        let lost = life.remove(offset, true);
        if matches!(key.topic, Topic::User(_)) {
            self.over += lost;
        }
        life.used = now.age;
    }

    fn append(&mut self, key: &Key, keep: &Keep, id: Uuid, appended: &Appended, now: Now) {
        self.age(key, now);
        let life = self.life(key, appended.position.epoch);
        life.newest += 1;
        let offset = life.newest;
        assert_eq!(appended.position, Position { epoch: life.epoch, offset });
        self.number += 1;
        let (number, until) = (self.number, now.age + keep.ttl);
        let frame = appended.frame.clone();
        let life = self.life(key, appended.position.epoch);
        life.events.push(Known { offset, id, frame, until, number, gone: false });
        let over = |life: &Life| {
            let bytes: usize = life.kept().map(|known| known.frame.len()).sum();
            life.kept().count() > keep.events || bytes > keep.bytes
        };
        while self.lives.get(key).is_some_and(over) {
            let oldest = self.lives[key].kept().map(|known| known.offset).min();
            self.evict(key, oldest.unwrap(), now);
        }
        loop {
            let all = || self.lives.iter().flat_map(|(key, life)| life.kept().map(move |known| (key, known)));
            let bytes: usize = all().map(|(_, known)| known.frame.len() + HISTORY_EVENT_BYTES).sum();
            let oldest = all().min_by_key(|(_, known)| known.number);
            let Some((key, offset)) = oldest.map(|(key, known)| (key.clone(), known.offset)) else { break };
            if bytes <= self.max_bytes {
                break;
            }
            self.evict(&key, offset, now);
        }
    }

    fn expire(&mut self, now: Now) {
        for key in self.lives.keys().cloned().collect::<Vec<_>>() {
            self.age(&key, now);
        }
        let floor = &mut self.users_begin_after;
        self.lives.retain(|key, life| {
            let stays = life.kept().next().is_some() || life.used + HISTORY_QUIET > now.age;
            if !stays && matches!(key.topic, Topic::User(_)) {
                *floor = (*floor).max(life.newest);
            }
            stays
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { topic: usize, keep: usize, length: usize },
    Position { topic: usize },
    Since { topic: usize, epoch: usize, offset: u64 },
    Page { topic: usize, after: u64, limit: usize },
    Waiting { topic: usize },
    Confirm { topic: usize, offset: u64 },
    Expire,
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let topic = || 0..4usize;
    let offset = || 0..20u64;
    let seconds = prop_oneof![6 => 0..9u64, 1 => Just(3590u64)];
    prop_oneof![
        8 => (topic(), 0..3usize, 0..40usize).prop_map(|(topic, keep, length)| Step::Append { topic, keep, length }),
        1 => topic().prop_map(|topic| Step::Position { topic }),
        3 => (topic(), 0..4usize, offset()).prop_map(|(topic, epoch, offset)| Step::Since { topic, epoch, offset }),
        2 => (topic(), offset(), 0..5usize).prop_map(|(topic, after, limit)| Step::Page { topic, after, limit }),
        1 => topic().prop_map(|topic| Step::Waiting { topic }),
        2 => (topic(), offset()).prop_map(|(topic, offset)| Step::Confirm { topic, offset }),
        1 => Just(Step::Expire),
        4 => seconds.prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn keys() -> [Key; 4] {
    [channel("c"), Key { app: AppId(1), ..channel("c") }, user("u"), user("v")]
}

fn shown(entries: &[Entry]) -> Vec<(u64, Uuid)> {
    entries.iter().map(|entry| (entry.offset, entry.id)).collect()
}

/// Does one step to both and holds the answers against each other.
fn run(kept: &mut Kept, model: &mut Model, step: &Step, now: Now) {
    let keep = |events, bytes, ttl| Keep { events, bytes, ttl: Duration::from_secs(ttl) };
    let keeps = [keep(3, 10_000, 20), keep(100, 150, 20), keep(100, 10_000, 7)];
    let key = match step {
        Step::Append { topic, .. }
        | Step::Position { topic }
        | Step::Since { topic, .. }
        | Step::Page { topic, .. }
        | Step::Waiting { topic }
        | Step::Confirm { topic, .. } => &keys()[*topic],
        Step::Expire => {
            assert!(!kept.expire(1000, now));
            return model.expire(now);
        }
        Step::Wait { .. } => return,
    };
    model.age(key, now);
    match *step {
        Step::Append { keep, length, .. } => {
            let (new, keep) = (event(length), &keeps[keep]);
            let id = new.id;
            let appended = kept.append(key, keep, new, now);
            model.append(key, keep, id, &appended, now);
        }
        Step::Position { .. } => {
            let position = kept.position(key, now);
            let life = model.life(key, position.epoch);
            assert_eq!(position, Position { epoch: life.epoch, offset: life.newest });
        }
        Step::Since { epoch, offset, .. } => since(kept, model, key, epoch, offset, now),
        Step::Page { after, limit, .. } => {
            let page = kept.page(key, after, limit, now);
            assert_eq!(page.is_some(), model.lives.contains_key(key));
            let (Some(page), Some(life)) = (page, model.lives.get(key)) else { return };
            let all = life.shown(after);
            assert_eq!(shown(&page.entries), all[..limit.min(all.len())]);
            assert_eq!(page.more, all.len() > limit);
            assert_eq!(page.position, Position { epoch: life.epoch, offset: life.newest });
        }
        Step::Waiting { .. } => {
            let expected = model.lives.get(key).map(|life| life.shown(0)).unwrap_or_default();
            assert_eq!(shown(&kept.waiting(key, now)), expected);
        }
        Step::Confirm { offset, .. } => {
            kept.confirm(key, offset, now);
            if let Some(life) = model.lives.get_mut(key) {
                life.remove(offset, false);
            }
        }
        Step::Expire | Step::Wait { .. } => {}
    }
    if let Some(life) = model.lives.get_mut(key) {
        life.used = now.age;
    }
}

fn since(kept: &mut Kept, model: &mut Model, key: &Key, epoch: usize, offset: u64, now: Now) {
    let present = model.lives.get(key).map(|life| life.epoch);
    let named = [None, present, model.former.iter().min().map(|epoch| Epoch(*epoch)), Some(Epoch(0))][epoch];
    let recovery = kept.since(key, named.map(|epoch| epoch.to_string()).as_deref(), offset, now);
    let life = model.life(key, recovery.position.epoch);
    assert_eq!(recovery.position, Position { epoch: life.epoch, offset: life.newest });
    let first = life.newest - life.events.len() as u64;
    let proven = named.is_none_or(|epoch| epoch == life.epoch)
        && (first..=life.newest).contains(&offset)
        && life.lost.iter().all(|lost| *lost <= offset);
    assert_eq!(recovery.recovered, proven);
    assert_eq!(shown(&recovery.entries), life.shown(if proven { offset } else { 0 }));
}

proptest! {
    #[test]
    fn the_store_agrees_with_its_rules_read_naively(steps in prop::collection::vec(step(), 0..120)) {
        let max_bytes = 8 * (HISTORY_EVENT_BYTES + 40);
        let mut kept = kept(max_bytes, 100);
        let mut model = Model {
            lives: HashMap::new(),
            former: HashSet::new(),
            max_bytes,
            number: 0,
            users_begin_after: 0,
            over: 0,
            expired: 0,
        };
        let mut seconds = 0;
        for step in steps {
            if let Step::Wait { seconds: more } = step {
                seconds += more;
            }
            run(&mut kept, &mut model, &step, at(seconds));
            audit(&kept);
            let app = &kept.books.apps[1];
            let losses = (app.drops(DropReason::StoredOver), app.drops(DropReason::StoredExpired));
            prop_assert_eq!(losses, (model.over, model.expired));
        }
        for key in &keys()[..2] {
            kept.confirm(key, u64::MAX, at(seconds));
        }
        prop_assert!(!kept.expire(1000, at(seconds + 20)));
        audit(&kept);
        prop_assert_eq!((kept.books.bytes, kept.books.ages.len()), (0, 0));
        kept.expire(1000, at(seconds + 20 + HISTORY_QUIET.as_secs()));
        prop_assert!(kept.topics.is_empty() && kept.quiet.is_empty());
    }
}
