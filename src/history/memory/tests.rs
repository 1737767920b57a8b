use serde_json::value::RawValue;
use uuid::Uuid;

use super::{log::Held, *};
use crate::{
    history::{Epoch, HistoryError, Omit, ages::Ages},
    id::AppId,
    limits::{HISTORY_CONFIRMERS, HISTORY_EVENT_BYTES, HISTORY_NAME_BYTES, HISTORY_QUIET},
    metrics::DropReason,
    protocol::{
        event::{Data, Event, Marks},
        frame::Frame,
    },
};

const PLENTY: Retention = Retention {
    events: 1000,
    bytes: 1 << 20,
    ttl: Duration::from_mins(5),
};

pub(super) fn store(max_bytes: usize, max_quiet: usize) -> MemoryStore {
    let metrics = Arc::new(Metrics::new());
    let apps = ["a", "b"].map(|name| Arc::new(metrics.app(name)));
    let nobody = Occupied::by(|_, _| false);
    MemoryStore::new((max_bytes, max_quiet), metrics, apps.into(), nobody)
}

impl MemoryStore {
    /// [`MemoryStore::since`], with the entries.
    pub(super) fn all_since(
        &mut self,
        key: &Key,
        epoch: Option<&str>,
        offset: u64,
        now: Now,
    ) -> Recovery {
        let (mut recovery, run) = self.since(key, epoch, offset, now);
        if let Some(mut run) = run {
            self.copy(key, &mut run, usize::MAX, &mut recovery.entries);
        }
        recovery
    }

    /// [`MemoryStore::waiting`], with the entries.
    pub(super) fn all_waiting(&mut self, key: &Key, now: Now) -> Waiting {
        let (mut waiting, run) = self.waiting(key, now);
        if let Some(mut run) = run {
            self.copy(key, &mut run, usize::MAX, &mut waiting.entries);
        }
        waiting
    }
}

/// A reader from whom nothing is withheld by name.
pub(super) const ANYONE: Reader<'static> = Reader {
    user: None,
    device: None,
    connection: crate::id::ConnectionId {
        node: crate::id::NodeId(0),
        shard: 0,
        slot: 0,
        nonce: 0,
    },
};

pub(super) fn channel(name: &str) -> Key {
    Key {
        app: AppId(0),
        topic: Topic::Channel(name.into()),
    }
}

pub(super) fn user(name: &str) -> Key {
    Key {
        app: AppId(1),
        topic: Topic::User(name.into()),
    }
}

pub(super) fn at(seconds: u64) -> Now {
    Now {
        age: Duration::from_secs(seconds),
        unix_ms: 1_700_000_000_000 + seconds * 1000,
    }
}

/// An event whose data are a string of `length` bytes.
pub(super) fn event(length: usize) -> New {
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(length))).unwrap();
    let draft = Event::new("e", Data::Json(&data))
        .unwrap()
        .draft(&Marks::default());
    New {
        id: Uuid::new_v4(),
        draft,
        omit: None,
        tail: None,
    }
}

fn offsets(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.offset).collect()
}

fn text(frame: &Frame) -> &str {
    std::str::from_utf8(&frame.bytes()[2..]).unwrap()
}

#[test]
fn an_app_over_its_quota_is_refused_until_its_events_have_expired() {
    let mut store = store(usize::MAX, 100);
    store.accounting.shares[0].quota = Some(20 * 700);
    let room = |n: usize| channel(&format!("room {n}"));
    let append = |store: &mut MemoryStore, key: &Key, now: Now| {
        store.make_room(key.app, now)?;
        Ok::<_, HistoryError>(store.append(key, &PLENTY, event(1), now))
    };
    let count = (0..100)
        .take_while(|n| append(&mut store, &room(*n), at(0)).is_ok())
        .count();
    assert!((15..=21).contains(&count), "{count}");
    let error = append(&mut store, &channel("new"), at(299)).unwrap_err();
    assert!(matches!(
        error,
        HistoryError::OverQuota { quota: 14_000, .. }
    ));
    assert_eq!(store.accounting.shares[0].metrics.storage_refused.get(), 2);
    for _ in 0..100 {
        append(&mut store, &user("u"), at(299)).unwrap();
    }

    // What is past its time makes room, although nobody has looked for it.
    for _ in 0..count {
        append(&mut store, &channel("new"), at(300)).unwrap();
    }
    append(&mut store, &channel("new"), at(300)).unwrap_err();
    audit(&store);
}

fn fill(store: &mut MemoryStore, key: &Key, retention: &Retention, count: usize, now: Now) {
    (0..count).for_each(|_| drop(store.append(key, retention, event(1), now)));
}

/// What an event counts for, from what is there.
fn true_weight(held: &Held) -> usize {
    weight(held.entry.bytes(), held.entry.omit.as_deref())
}

/// Holds what is counted against what is there.
pub(super) fn audit(store: &MemoryStore) {
    let held = || store.topics.values().flat_map(|log| &log.entries);
    assert_eq!(store.accounting.events, held().count());
    assert_eq!(
        store.accounting.bytes,
        held().map(true_weight).sum::<usize>()
    );
    for (app, share) in store.accounting.shares.iter().enumerate() {
        let of_app = store
            .topics
            .iter()
            .filter(|(key, _)| usize::from(key.app.0) == app);
        let held = || of_app.clone().flat_map(|(_, log)| &log.entries);
        assert_eq!(share.ages.len(), held().count());
        assert_eq!(share.bytes, held().map(true_weight).sum::<usize>());
    }
    assert_eq!(
        store.accounting.metrics.history_events.get(),
        held().count() as i64
    );
    assert_eq!(
        store.accounting.metrics.history_bytes.get(),
        store.accounting.bytes as i64
    );
    assert_eq!(
        store.quiet.len(),
        store
            .topics
            .values()
            .filter(|log| log.entries.is_empty())
            .count()
    );
    for (key, log) in &store.topics {
        assert_eq!(
            log.bytes,
            log.entries
                .iter()
                .map(|held| held.entry.bytes())
                .sum::<usize>()
        );
        let quiet = log.quiet.and_then(|place| store.quiet.get(&place));
        assert_eq!(
            quiet.map(|(_, key)| key),
            log.entries.is_empty().then_some(key)
        );
        let offsets: Vec<u64> = log.later(0).map(|entry| entry.offset).collect();
        assert!(offsets.is_sorted() && offsets.last().is_none_or(|last| *last <= log.newest));
        if matches!(key.topic, Topic::Channel(_)) {
            let newest_run =
                (log.newest - log.entries.len() as u64 + 1..=log.newest).collect::<Vec<_>>();
            assert_eq!(offsets, newest_run);
        }
    }
}

#[tokio::test]
async fn two_quick_stores_keep_both_and_only_channels_carry_offsets() {
    let store = Memory::with_two_apps(1 << 20);
    let key = user("u");
    let (first, second) = tokio::join!(
        store.append(&key, &PLENTY, event(1)), //
        store.append(&key, &PLENTY, event(2)),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.position.offset, second.position.offset), (1, 2));
    assert_eq!(first.position.epoch, second.position.epoch);
    let waiting = store.waiting(&key).await.unwrap().entries;
    assert!(waiting[0].frame.is_same(&first.frame) && waiting[1].frame.is_same(&second.frame));
    assert_eq!(text(&first.frame), r#"{"event":"e","data":"x"}"#);
    assert!(waiting[0].at_ms > 1_600_000_000_000);
    store.confirm(&key, 1, &ANYONE);
    assert_eq!(offsets(&store.waiting(&key).await.unwrap().entries), [2]);

    let appended = store
        .append(&channel("c"), &PLENTY, event(1))
        .await
        .unwrap();
    assert_eq!(
        text(&appended.frame),
        r#"{"event":"e","data":"x","offset":1}"#
    );
    store.expire();
    let other_app = Key {
        app: AppId(1),
        ..channel("c")
    };
    assert!(store.page(&other_app, 0, 10).await.unwrap().is_none());
}

#[test]
fn who_joins_an_empty_channel_can_come_back() {
    let mut store = store(1 << 20, 10);
    let key = channel("c");
    assert!(
        store.page(&key, 0, 10, at(0)).is_none()
            && store.all_waiting(&key, at(0)).entries.is_empty()
    );
    assert!(store.topics.is_empty(), "neither begins a numbering");
    let joined = store.position(&key, at(0));
    assert_eq!(joined.offset, 0);
    let epoch = joined.epoch.to_string();
    fill(&mut store, &key, &PLENTY, 3, at(1));
    let missed = store.all_since(&key, Some(&epoch), 0, at(2));
    assert!(
        missed.recovered
            && missed.position
                == Position {
                    offset: 3,
                    ..joined
                }
    );
    assert_eq!(offsets(&missed.entries), [1, 2, 3]);
    let missed = store.all_since(&key, Some(&epoch), 3, at(2));
    assert!(missed.recovered && missed.entries.is_empty());
    let page = store.page(&key, 1, 1, at(2)).unwrap();
    assert!(page.more && offsets(&page.entries) == [2]);
    let page = store.page(&key, 2, 1, at(2)).unwrap();
    assert!(!page.more && offsets(&page.entries) == [3] && page.position == missed.position);
}

#[test]
fn nothing_is_recovered_that_cannot_be_proven() {
    let mut store = store(1 << 20, 10);
    let key = channel("c");
    let epoch = store.position(&key, at(0)).epoch.to_string();
    let since = |store: &mut MemoryStore, epoch: Option<&str>, offset, now| {
        let recovery = store.all_since(&key, epoch, offset, now);
        (recovery.recovered, offsets(&recovery.entries))
    };
    let three = Retention {
        events: 3,
        ..PLENTY
    };
    fill(&mut store, &channel("c"), &three, 4, at(0));
    assert_eq!(
        since(&mut store, Some(&epoch), 0, at(1)),
        (false, vec![2, 3, 4]),
        "1 is evicted"
    );
    assert_eq!(
        since(&mut store, Some(&epoch), 1, at(1)),
        (true, vec![2, 3, 4])
    );
    assert_eq!(since(&mut store, None, 0, at(1)), (false, vec![2, 3, 4]));
    assert_eq!(since(&mut store, None, 2, at(1)), (true, vec![3, 4]));
    assert_eq!(
        since(&mut store, Some(&epoch), 5, at(1)),
        (false, vec![2, 3, 4]),
        "not yet given out"
    );
    for other in [Epoch::random().to_string().as_str(), "", "another"] {
        assert_eq!(
            since(&mut store, Some(other), 4, at(1)),
            (false, vec![2, 3, 4]),
            "{other}"
        );
    }
    let late = at(300);
    assert_eq!(
        since(&mut store, Some(&epoch), 3, late),
        (false, vec![]),
        "4 is expired, and was never swept"
    );
    assert_eq!(since(&mut store, Some(&epoch), 4, late), (true, vec![]));
    audit(&store);
}

#[test]
fn a_topic_keeps_its_newest_events_within_number_bytes_and_time() {
    let mut store = store(1 << 20, 10);
    let key = user("u");
    let retention = Retention {
        events: 3,
        bytes: 130,
        ttl: Duration::from_secs(10),
    };
    for (second, length, left) in [
        (0, 1, vec![1]),
        (1, 1, vec![1, 2]),
        (2, 50, vec![1, 2, 3]),
        (3, 50, vec![4]),
        (4, 1, vec![4, 5]),
    ] {
        store.append(&key, &retention, event(length), at(second));
        assert_eq!(
            offsets(&store.all_waiting(&key, at(second)).entries),
            left,
            "{second}"
        );
    }
    let losses = store.accounting.shares[1].metrics.clone();
    assert_eq!(
        (
            losses.drops(DropReason::StoredOver),
            losses.drops(DropReason::StoredExpired)
        ),
        (3, 0)
    );
    assert_eq!(offsets(&store.all_waiting(&key, at(13)).entries), [5]);
    assert!(!store.expire(1024, at(14)));
    assert_eq!(
        (
            losses.drops(DropReason::StoredOver),
            losses.drops(DropReason::StoredExpired)
        ),
        (3, 2)
    );
    let huge = store.append(&key, &retention, event(1000), at(15));
    assert_eq!(
        (huge.position.offset, huge.frame.len() > 1000),
        (6, true),
        "delivered, if not kept"
    );
    assert!(store.all_waiting(&key, at(15)).entries.is_empty());
    fill(&mut store, &channel("c"), &retention, 5, at(15));
    assert!(store.expire(2, at(25)) && !store.expire(1024, at(25)));
    assert_eq!(losses.drops(DropReason::StoredOver), 4);
    assert_eq!(
        store.accounting.shares[0]
            .metrics
            .drops(DropReason::StoredExpired),
        0,
        "a channel's are no losses"
    );
    audit(&store);
}

#[test]
fn events_kept_for_a_shorter_time_take_the_older_ones_along() {
    let mut store = store(1 << 20, 10);
    let (key, short) = (
        channel("c"),
        Retention {
            ttl: Duration::from_secs(10),
            ..PLENTY
        },
    );
    fill(&mut store, &key, &PLENTY, 2, at(0));
    fill(&mut store, &key, &short, 1, at(1));
    fill(&mut store, &key, &PLENTY, 1, at(2));
    assert_eq!(store.all_waiting(&key, at(10)).entries.len(), 4);
    assert_eq!(offsets(&store.all_waiting(&key, at(11)).entries), [4]);
    audit(&store);
}

/// What an event of one byte in a channel counts for.
fn one() -> usize {
    weight(event(1).draft.finish(Some(1)).len(), None)
}

#[test]
fn over_the_bound_on_all_topics_the_oldest_of_an_app_go_whatever_their_topic() {
    let mut store = store(3 * one(), 10);
    let (short, long) = (
        Retention {
            ttl: Duration::from_secs(100),
            ..PLENTY
        },
        PLENTY,
    );
    let (old, young) = (channel("old"), channel("young"));
    let epoch = store.position(&old, at(0)).epoch.to_string();
    fill(&mut store, &old, &long, 1, at(0));
    fill(&mut store, &old, &short, 1, at(1));
    fill(&mut store, &young, &short, 1, at(2));
    fill(&mut store, &young, &long, 1, at(3));
    assert_eq!(offsets(&store.all_waiting(&old, at(3)).entries), [2]);
    assert!(!store.all_since(&old, Some(&epoch), 0, at(3)).recovered);
    fill(&mut store, &young, &long, 1, at(4));
    assert_eq!(
        offsets(&store.all_waiting(&young, at(4)).entries),
        [1, 2, 3]
    );
    assert!(store.all_waiting(&old, at(4)).entries.is_empty());
    assert_eq!(
        store.position(&old, at(4)),
        Position {
            epoch: epoch.parse().unwrap(),
            offset: 2
        }
    );
    audit(&store);
}

#[test]
fn over_the_bound_the_app_that_keeps_most_gives_way_to_others() {
    let mut store = store(4 * one(), 10);
    fill(&mut store, &user("u"), &PLENTY, 2, at(0));
    fill(&mut store, &channel("c"), &PLENTY, 10, at(1));
    assert_eq!(
        offsets(&store.all_waiting(&user("u"), at(2)).entries),
        [1, 2],
        "older, and no more than half"
    );
    assert_eq!(
        offsets(&store.all_waiting(&channel("c"), at(2)).entries),
        [9, 10]
    );
    fill(&mut store, &user("v"), &PLENTY, 1, at(3));
    assert_eq!(offsets(&store.all_waiting(&user("u"), at(3)).entries), [2]);
    assert_eq!(
        store.accounting.shares[1]
            .metrics
            .drops(DropReason::StoredOver),
        1
    );
    audit(&store);
}

#[test]
fn the_allowance_of_an_event_covers_its_places_in_sparse_tables() {
    assert!(
        4 * size_of::<Held>() + 2 * Ages::PLACE_BYTES + 64 < HISTORY_EVENT_BYTES,
        "as it says"
    );
}

#[test]
fn names_left_out_count_too() {
    let mut store = store(1 << 20, 10);
    let users = (0..1000).map(|n| n.to_string().into()).collect();
    let omit = Some(Arc::new(Omit {
        users,
        ..Omit::default()
    }));
    store.append(&channel("c"), &PLENTY, New { omit, ..event(1) }, at(0));
    assert!(store.accounting.bytes > 1000 * HISTORY_NAME_BYTES);
    store.confirm(&channel("c"), 1, &ANYONE, at(0));
    assert_eq!(store.accounting.bytes, 0);
}

/// An event of one byte that leaves out a user with a name of `length` bytes.
fn without_a_user(length: usize) -> New {
    let omit = Omit {
        users: ["u".repeat(length).into()].into_iter().collect(),
        ..Omit::default()
    };
    New {
        omit: Some(Arc::new(omit)),
        ..event(1)
    }
}

#[test]
fn a_name_left_out_counts_for_its_bytes() {
    let mut store = store(1 << 20, 10);
    store.append(&channel("c"), &PLENTY, without_a_user(60_000), at(0));
    assert!(store.accounting.bytes >= 60_000);
    audit(&store);

    // Against the bound on all topics, and against the channel's own.
    for n in 0..100 {
        let other = channel(&n.to_string());
        store.append(&other, &PLENTY, without_a_user(60_000), at(0));
        assert!(store.accounting.bytes <= 1 << 20, "{n}");
    }
    let own = Retention {
        bytes: 100_000,
        ..PLENTY
    };
    for _ in 0..2 {
        store.append(&channel("own"), &own, without_a_user(60_000), at(1));
    }
    assert_eq!(store.all_waiting(&channel("own"), at(1)).entries.len(), 1);
    audit(&store);
}

#[test]
fn what_was_withheld_from_who_confirms_waits_for_others() {
    let mut store = store(1 << 20, 10);
    let (phone, key) = (
        Reader {
            device: Some("phone"),
            ..ANYONE
        },
        user("u"),
    );
    let withheld = || {
        Some(Arc::new(Omit {
            devices: ["phone".into()].into_iter().collect(),
            ..Omit::default()
        }))
    };
    for n in 1..=6 {
        let omit = if n % 2 == 0 { withheld() } else { None };
        store.append(&key, &PLENTY, New { omit, ..event(1) }, at(0));
    }
    let offsets = |store: &mut MemoryStore| {
        store
            .all_waiting(&key, at(0))
            .entries
            .iter()
            .map(|entry| entry.offset)
            .collect::<Vec<_>>()
    };
    store.confirm(&key, 4, &phone, at(0));
    assert_eq!(offsets(&mut store), [2, 4, 5, 6]);
    let page = store.page(&key, 2, 2, at(0)).unwrap();
    assert_eq!(
        (
            page.entries
                .iter()
                .map(|entry| entry.offset)
                .collect::<Vec<_>>(),
            page.more
        ),
        (vec![4, 5], true)
    );
    store.confirm(&key, 6, &phone, at(0));
    audit(&store);
    assert_eq!(offsets(&mut store), [2, 4, 6]);
    store.confirm(&key, 6, &ANYONE, at(0));
    audit(&store);
    assert_eq!(store.accounting.bytes, 0);
}

#[test]
fn a_long_run_is_copied_in_pieces_as_it_was_when_that_began() {
    let mut store = store(1 << 30, 10);
    let key = user("u");
    fill(&mut store, &key, &PLENTY, 600, at(0));
    let (waiting, run) = store.waiting(&key, at(0));
    let mut run = run.unwrap();
    let (begun, mut copied) = (run, Vec::new());
    assert_eq!(store.copy(&key, &mut run, 256, &mut copied), Copied::More);
    assert_eq!(copied.len(), 256, "a hold copies no more");

    // What comes meanwhile does not belong to it, and that what was copied is removed does it no harm.
    let over = Retention {
        events: 600 - 256 + 10,
        ..PLENTY
    };
    fill(&mut store, &key, &over, 10, at(0));
    assert_eq!(store.copy(&key, &mut run, 256, &mut copied), Copied::More);
    assert_eq!(store.copy(&key, &mut run, 256, &mut copied), Copied::All);
    let all: Vec<u64> = (1..=600).collect();
    assert_eq!(offsets(&copied), all);
    assert_eq!(waiting.position.unwrap().offset, 600);

    // A reader from before that must not take what is left for all there was.
    let mut run = begun;
    assert_eq!(
        store.copy(&key, &mut run, 256, &mut copied),
        Copied::Removed
    );
    let begun = store.waiting(&key, at(0)).1.unwrap();
    let other = Run {
        epoch: Epoch::random(),
        ..begun
    };
    for (mut run, expected) in [(begun, Copied::More), (other, Copied::Removed)] {
        assert_eq!(store.copy(&key, &mut run, 9, &mut copied), expected);
    }
}

#[tokio::test]
async fn a_reader_gets_all_of_a_long_run() {
    let store = Memory::with_two_apps(1 << 30);
    let key = channel("c");
    let retention = Retention {
        events: 2000,
        ..PLENTY
    };
    for _ in 0..2000 {
        store.append(&key, &retention, event(1)).await.unwrap();
    }
    let all: Vec<u64> = (1..=2000).collect();
    assert_eq!(offsets(&store.waiting(&key).await.unwrap().entries), all);
    let Position { epoch, .. } = store.position(&key, &retention).await.unwrap();
    let epoch = epoch.to_string();
    let since = store
        .since(&key, &retention, Some(&epoch), 1000)
        .await
        .unwrap();
    assert!(since.recovered && offsets(&since.entries) == all[1000..]);
}

#[test]
fn a_confirmation_of_what_is_yet_to_come_says_nothing_of_it() {
    let mut store = store(1 << 20, 10);
    let key = user("u");
    let phone = Reader {
        device: Some("phone"),
        ..ANYONE
    };
    let withheld = Arc::new(Omit {
        devices: ["phone".into()].into_iter().collect(),
        ..Omit::default()
    });
    let omit = Some(withheld);
    store.append(&key, &PLENTY, New { omit, ..event(1) }, at(0));
    store.confirm(&key, 10, &phone, at(0));
    store.append(&key, &PLENTY, event(1), at(0));
    store.confirm(&key, 2, &phone, at(0));
    let waiting = store.all_waiting(&key, at(0)).entries;
    let offsets: Vec<u64> = waiting.iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, [1]);
}

#[test]
fn what_is_withheld_from_a_reader_is_looked_at_once_however_often_it_confirms() {
    let mut store = store(1 << 30, 10);
    let key = user("u");
    let retention = Retention {
        events: 1000,
        ..PLENTY
    };
    let readers = ["phone", "tablet", "watch", "tv", "car"].map(|device| Reader {
        device: Some(device),
        ..ANYONE
    });
    let withheld = Arc::new(Omit {
        devices: readers
            .iter()
            .filter_map(|reader| reader.device.map(Into::into))
            .collect(),
        ..Omit::default()
    });
    // Those that are confirmed stand among those that are not.
    for n in 1..=1000u64 {
        let omit = (n <= 400 || n % 2 == 0).then(|| withheld.clone());
        store.append(&key, &retention, New { omit, ..event(1) }, at(0));
    }
    let who = |store: &MemoryStore, reader: &Reader<'_>| store.accounting.hasher.hash_one(reader);

    let phone = &readers[0];
    store.confirm(&key, 800, phone, at(0));
    audit(&store);
    let left = store.topics[&key].entries.len();
    assert_eq!(left, 800, "those withheld, and 100 that are not confirmed");
    let hash = who(&store, phone);
    let looked = store.topics[&key].unconfirmed(804, hash);
    assert_eq!(looked, 600..604, "and none of the 600 that are withheld");
    assert!(
        store.topics[&key].later(0).is_sorted_by_key(|e| e.offset),
        "what stays is in order"
    );

    // More readers than are remembered do no harm.
    for reader in &readers {
        store.confirm(&key, 1000, reader, at(0));
    }
    audit(&store);
    assert_eq!(store.topics[&key].confirmed.len(), HISTORY_CONFIRMERS);
    let waiting = store.all_waiting(&key, at(0)).entries;
    assert_eq!(waiting.len(), 700);
    store.confirm(&key, 1000, &ANYONE, at(0));
    audit(&store);
    assert_eq!((store.accounting.bytes, store.accounting.events), (0, 0));
    assert!(store.topics[&key].confirmed.is_empty());
}

#[test]
fn quiet_topics_know_their_numbering_for_an_hour_and_the_longest_quiet_go_first() {
    let mut store = store(1 << 20, 2);
    let a = store.position(&channel("a"), at(0));
    let b = store.position(&channel("b"), at(1));
    assert_eq!(store.position(&channel("a"), at(2)), a);
    let c = store.position(&channel("c"), at(3));
    assert_eq!(
        store.position(&channel("a"), at(4)),
        a,
        "b was quiet for longer"
    );
    assert_ne!(store.position(&channel("b"), at(5)), b, "a new life");
    assert_ne!(store.position(&channel("c"), at(6)), c);
    fill(&mut store, &channel("c"), &PLENTY, 1, at(7));
    let c = store.position(&channel("c"), at(8));
    let hour = HISTORY_QUIET.as_secs();
    store.expire(1024, at(hour));
    assert_eq!(
        store.position(&channel("c"), at(2 * hour - 1)),
        c,
        "quiet since its event expired"
    );
    store.expire(1024, at(2 * hour + 10));
    assert_eq!(store.topics.len(), 1);
    store.expire(1024, at(3 * hour - 1));
    assert!(store.topics.is_empty());
    audit(&store);
}

/// A store in which the channels that begin with `occupied` have members.
fn partly_occupied(max_quiet: usize) -> MemoryStore {
    let metrics = Arc::new(Metrics::new());
    let apps = ["a", "b"].map(|name| Arc::new(metrics.app(name)));
    let occupied = Occupied::by(|app, name| app == AppId(0) && name.starts_with("occupied"));
    MemoryStore::new((1 << 20, max_quiet), metrics, apps.into(), occupied)
}

#[test]
fn the_numbering_of_a_channel_with_members_outlives_any_number_of_others() {
    let mut store = partly_occupied(10);
    fill(&mut store, &channel("occupied"), &PLENTY, 3, at(0));
    let stands = store.position(&channel("occupied"), at(400));
    assert_eq!(stands.offset, 3);
    for n in 0..1000 {
        store.position(&channel(&n.to_string()), at(400));
        assert!(store.quiet.len() <= 12);
    }
    assert_eq!(store.position(&channel("occupied"), at(401)), stands);

    // Nor does time end it.
    for hours in 1..10 {
        let now = at(401 + hours * (HISTORY_QUIET.as_secs() + 1));
        while store.expire(1024, now) {}
        assert_eq!(store.topics.len(), 1, "only the one with members");
    }
    let later = at(100 * HISTORY_QUIET.as_secs());
    let appended = store.append(&channel("occupied"), &PLENTY, event(1), later);
    assert_eq!(
        appended.position,
        Position {
            offset: 4,
            ..stands
        }
    );
    audit(&store);
}

#[test]
fn others_are_forgotten_however_many_channels_have_members() {
    let mut store = partly_occupied(10);
    for n in 0..100 {
        store.position(&channel(&format!("occupied-{n}")), at(0));
    }
    for n in 0..10_000 {
        store.position(&channel(&n.to_string()), at(1));
        assert!(
            store.quiet.len() <= 100 + 100 / 7 + 10,
            "{}",
            store.quiet.len()
        );
    }
    let occupied =
        |key: &&Key| matches!(&key.topic, Topic::Channel(name) if name.starts_with("occupied"));
    assert_eq!(store.topics.keys().filter(occupied).count(), 100);
    audit(&store);
}

#[test]
fn a_late_confirmation_removes_nothing_of_a_later_numbering() {
    let mut store = store(1 << 20, 1);
    fill(&mut store, &user("u"), &PLENTY, 7, at(0));
    store.confirm(&user("u"), 7, &ANYONE, at(1));
    store.position(&channel("c"), at(2));
    assert!(!store.topics.contains_key(&user("u")), "forgotten");
    fill(&mut store, &user("u"), &PLENTY, 9, at(3));
    store.confirm(&user("u"), 7, &ANYONE, at(4));
    assert_eq!(store.all_waiting(&user("u"), at(4)).entries.len(), 9);
    audit(&store);
}

#[test]
fn a_drained_topic_gives_its_room_back() {
    let mut store = store(1 << 20, 10);
    fill(&mut store, &user("u"), &PLENTY, 1000, at(0));
    store.confirm(&user("u"), 999, &ANYONE, at(1));
    assert!(store.topics[&user("u")].entries.capacity() < 32);
}
