//! What every store of events does, whatever it keeps them in.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::*;
use crate::{
    id::NodeId,
    protocol::event::{Data, Event, Marks},
};

pub(super) const KEEP: Retention = Retention {
    events: 100,
    bytes: 1 << 20,
    ttl: Duration::from_mins(5),
};

/// A reader from whom nothing is withheld by name.
pub(super) const ANYONE: Reader<'static> = Reader {
    user: None,
    device: None,
    connection: ConnectionId {
        node: NodeId(0),
        shard: 0,
        slot: 0,
        nonce: 0,
    },
};

pub(super) const PHONE: Reader<'static> = Reader {
    device: Some("phone"),
    ..ANYONE
};

pub(super) fn channel(name: &str) -> Key {
    Key::channel(AppId(0), name.into())
}

pub(super) fn user(name: &str) -> Key {
    Key::user(AppId(1), name.into())
}

/// An event whose data are a string of `length` bytes.
pub(super) fn event(length: usize) -> New {
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(length))).unwrap();
    let draft = Event::new("e", Data::Json(&data))
        .unwrap()
        .draft(&Marks::default());
    New {
        id: Uuid::now_v7(),
        draft,
        omit: None,
        tail: None,
    }
}

/// The same, stored from phones.
pub(super) fn not_for_phones(length: usize) -> New {
    let omit = Omit {
        devices: ["phone".into()].into_iter().collect(),
        ..Omit::default()
    };
    New {
        omit: Some(Arc::new(omit)),
        ..event(length)
    }
}

pub(super) async fn fill(
    store: &dyn History,
    key: &Key,
    retention: &Retention,
    count: usize,
) -> Position {
    let mut position = None;
    for _ in 0..count {
        position = Some(
            store
                .append(key, retention, event(1))
                .await
                .unwrap()
                .position,
        );
    }
    position.unwrap()
}

pub(super) fn offsets(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.offset).collect()
}

/// The offsets of what is waiting, counted from the first that was ever given.
async fn waiting(store: &dyn History, key: &Key, first: u64) -> Vec<u64> {
    let entries = store.waiting(key).await.unwrap().entries;
    entries
        .iter()
        .map(|entry| entry.offset - first + 1)
        .collect()
}

/// Asks until the answer is `expected`.
pub(super) async fn until<T: PartialEq + fmt::Debug>(expected: T, mut ask: impl AsyncFnMut() -> T) {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if answer == expected {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{answer:?} instead of {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What `since` says, as (recovered, offsets).
pub(super) async fn since(
    store: &dyn History,
    key: &Key,
    epoch: Option<&str>,
    offset: u64,
) -> (bool, Vec<u64>) {
    let recovery = store.since(key, &KEEP, epoch, offset).await.unwrap();
    (recovery.recovered, offsets(&recovery.entries))
}

/// All of it, each with topics of its own.
pub(super) async fn behaves_as_a_store(store: &dyn History) {
    numbers_are_dense_and_only_channels_show_them(store).await;
    what_is_kept_is_what_came(store).await;
    only_what_can_be_proven_is_recovered(store).await;
    the_newest_stay_within_number_and_bytes(store).await;
    names_left_out_count_for_their_topic(store).await;
    what_is_past_its_time_is_gone_and_the_numbering_stays(store).await;
    a_shorter_time_takes_the_older_along(store).await;
    pages_follow_each_other(store).await;
    what_is_withheld_from_who_confirms_waits_for_others(store).await;
    topics_and_apps_are_apart(store).await;
    assert!(!store.expire());
}

async fn numbers_are_dense_and_only_channels_show_them(store: &dyn History) {
    let (room, ann) = (channel("numbers"), user("numbers"));
    assert!(store.page(&room, 0, 10).await.unwrap().is_none());
    assert!(
        store.page(&room, 0, 10).await.unwrap().is_none(),
        "reading begins no numbering"
    );
    let begun = store.position(&room, &KEEP).await.unwrap();
    assert_eq!(begun.offset, 0);

    for n in 1..=12 {
        let appended = store.append(&room, &KEEP, event(1)).await.unwrap();
        assert_eq!(appended.position, Position { offset: n, ..begun });
        let text = format!(r#"{{"event":"e","data":"x","offset":{n}}}"#);
        assert_eq!(appended.frame.payload(), text.as_bytes());
    }

    let first = store.append(&ann, &KEEP, event(1)).await.unwrap();
    let second = store.append(&ann, &KEEP, event(1)).await.unwrap();
    assert_eq!(first.frame.payload(), br#"{"event":"e","data":"x"}"#);

    let next = Position {
        offset: first.position.offset + 1,
        ..first.position
    };

    assert_eq!(second.position, next);
    assert_eq!(store.position(&ann, &KEEP).await.unwrap(), next);
}

async fn what_is_kept_is_what_came(store: &dyn History) {
    let room = channel("kept");
    let omit = Omit {
        users: ["u\"".into()].into_iter().collect(),
        connections: [ANYONE.connection].into_iter().collect(),
        sender: Some(EchoOmission {
            user: None,
            device: Some("d".into()),
            connection: PHONE.connection,
        }),
        ..Omit::default()
    };

    let bytes = Event::new("b", Data::Bytes(vec![0, 255].into()))
        .unwrap()
        .draft(&Marks::default());
    let news = [
        event(1),
        New {
            draft: bytes,
            ..event(0)
        },
        New {
            omit: Some(Arc::new(omit)),
            ..event(200)
        },
        New {
            omit: Some(Arc::new(Omit::default())),
            ..event(70_000)
        },
    ];

    for new in &news {
        store.append(&room, &KEEP, new.clone()).await.unwrap();
    }

    let stored = store.waiting(&room).await.unwrap().entries;
    assert_eq!(stored.len(), news.len());
    for (n, (stored, new)) in stored.iter().zip(&news).enumerate() {
        let offset = n as u64 + 1;
        assert_eq!((stored.offset, stored.id), (offset, new.id));
        assert_eq!(stored.frame.bytes(), new.draft.finish(Some(offset)).bytes());
        assert!(
            stored.frame.is_event() && stored.at_ms > 1_600_000_000_000,
            "{stored:?}"
        );
        let omits = |omit: &Option<Arc<Omit>>| omit.as_deref().cloned().unwrap_or_default();
        assert_eq!(omits(&stored.omit), omits(&new.omit));
    }
}

async fn only_what_can_be_proven_is_recovered(store: &dyn History) {
    let room = channel("proven");
    let three = Retention { events: 3, ..KEEP };
    let epoch = fill(store, &room, &three, 4).await.epoch.to_string();
    let own = Some(epoch.as_str());

    assert_eq!(
        since(store, &room, own, 0).await,
        (false, vec![2, 3, 4]),
        "1 is lost"
    );

    assert_eq!(since(store, &room, own, 1).await, (true, vec![2, 3, 4]));
    assert_eq!(since(store, &room, own, 3).await, (true, vec![4]));
    assert_eq!(since(store, &room, own, 4).await, (true, vec![]));

    assert_eq!(
        since(store, &room, own, 5).await,
        (false, vec![2, 3, 4]),
        "not yet given out"
    );

    assert_eq!(
        since(store, &room, own, u64::MAX).await,
        (false, vec![2, 3, 4])
    );
    assert_eq!(since(store, &room, None, 0).await, (false, vec![2, 3, 4]));
    assert_eq!(since(store, &room, None, 2).await, (true, vec![3, 4]));

    for other in [Epoch::random().to_string().as_str(), "", "another"] {
        assert_eq!(
            since(store, &room, Some(other), 4).await,
            (false, vec![2, 3, 4]),
            "{other}"
        );
    }

    let fresh = channel("proven-fresh");
    let begun = store.since(&fresh, &KEEP, None, 0).await.unwrap();
    assert!(begun.recovered && begun.entries.is_empty() && begun.position.offset == 0);

    assert_eq!(
        fill(store, &fresh, &KEEP, 1).await,
        Position {
            offset: 1,
            ..begun.position
        }
    );
}

async fn the_newest_stay_within_number_and_bytes(store: &dyn History) {
    let ann = user("bounds");
    let one = store.append(&ann, &KEEP, event(10)).await.unwrap();
    let (first, length) = (one.position.offset, one.frame.len());

    let of = |events, bytes| Retention {
        events,
        bytes,
        ..KEEP
    };

    for (retention, size, left) in [
        (of(2, 1 << 20), 10, vec![1, 2]),
        (of(2, 1 << 20), 10, vec![2, 3]),
        (of(100, 3 * length), 10, vec![2, 3, 4]),
        (of(100, 3 * length - 1), 10, vec![4, 5]),
        (of(100, 3 * length), 10 + length, vec![5, 6]),
        (of(100, 100), 1000, vec![]),
        (KEEP, 1, vec![8]),
    ] {
        let appended = store.append(&ann, &retention, event(size)).await.unwrap();
        assert!(appended.frame.len() > size, "delivered, if not kept");
        assert_eq!(waiting(store, &ann, first).await, left, "{retention:?}");
    }

    let room = channel("bounds");
    for _ in 0..9 {
        store.append(&room, &KEEP, event(1)).await.unwrap();
    }

    let tenth = store
        .append(&room, &KEEP, event(1))
        .await
        .unwrap()
        .frame
        .len();

    // The frame of the ninth has a digit less.
    let retention = Retention {
        bytes: 3 * tenth - 1,
        ..KEEP
    };

    for left in [[9, 10, 11].as_slice(), &[11, 12]] {
        store.append(&room, &retention, event(1)).await.unwrap();
        assert_eq!(offsets(&store.waiting(&room).await.unwrap().entries), left);
    }
}

async fn names_left_out_count_for_their_topic(store: &dyn History) {
    let retention = Retention {
        bytes: 100_000,
        ..KEEP
    };

    for key in [channel("names"), user("names")] {
        let mut last = 0;
        for n in 1..=4 {
            let omit = Omit {
                users: ["u".repeat(30_000).into()].into_iter().collect(),
                ..Omit::default()
            };

            let new = New {
                omit: Some(Arc::new(omit)),
                ..event(1)
            };

            last = store
                .append(&key, &retention, new)
                .await
                .unwrap()
                .position
                .offset;

            let stored = store.waiting(&key).await.unwrap().entries;
            assert_eq!(stored.len(), n.min(3));
        }

        // What is confirmed is no longer counted.
        store.confirm(&key, last, &ANYONE);
        until(0, async || store.waiting(&key).await.unwrap().entries.len()).await;
        for n in 1..=3 {
            store.append(&key, &retention, event(20_000)).await.unwrap();
            assert_eq!(store.waiting(&key).await.unwrap().entries.len(), n);
        }
    }
}

async fn what_is_past_its_time_is_gone_and_the_numbering_stays(store: &dyn History) {
    let room = channel("age");
    let short = Retention {
        ttl: Duration::from_millis(100),
        ..KEEP
    };

    let position = fill(store, &room, &short, 70).await;
    until(0, async || {
        store.waiting(&room).await.unwrap().entries.len()
    })
    .await;
    let epoch = position.epoch.to_string();
    assert_eq!(since(store, &room, Some(&epoch), 69).await, (false, vec![]));
    assert_eq!(since(store, &room, Some(&epoch), 70).await, (true, vec![]));
    assert_eq!(store.position(&room, &KEEP).await.unwrap(), position);
    let page = store.page(&room, 0, 10).await.unwrap().unwrap();

    assert_eq!(
        (page.position, page.entries.len(), page.more),
        (position, 0, false)
    );
    assert_eq!(
        fill(store, &room, &KEEP, 1).await,
        Position {
            offset: 71,
            ..position
        }
    );

    assert_eq!(
        since(store, &room, Some(&epoch), 70).await,
        (true, vec![71])
    );
}

async fn a_shorter_time_takes_the_older_along(store: &dyn History) {
    let room = channel("ages");
    let short = Retention {
        ttl: Duration::from_millis(100),
        ..KEEP
    };

    let epoch = fill(store, &room, &KEEP, 2).await.epoch.to_string();
    fill(store, &room, &short, 1).await;
    fill(store, &room, &KEEP, 2).await;

    until(vec![4, 5], async || {
        offsets(&store.waiting(&room).await.unwrap().entries)
    })
    .await;
    assert_eq!(
        since(store, &room, Some(&epoch), 1).await,
        (false, vec![4, 5])
    );
    assert_eq!(
        since(store, &room, Some(&epoch), 3).await,
        (true, vec![4, 5])
    );

    let room = channel("ages-of-the-missed");
    fill(store, &room, &KEEP, 2).await;
    fill(store, &room, &short, 1).await;
    fill(store, &room, &KEEP, 2).await;

    until((false, vec![4, 5]), async || {
        let answer = since(store, &room, None, 1).await;
        assert!(
            !answer.0 || answer.1 == [2, 3, 4, 5],
            "{answer:?} is not all that was missed"
        );
        answer
    })
    .await;
}

async fn pages_follow_each_other(store: &dyn History) {
    let room = channel("pages");
    let position = fill(store, &room, &Retention { events: 5, ..KEEP }, 7).await;
    for (after, limit, expected, more) in [
        (0, 100, vec![3, 4, 5, 6, 7], false),
        (0, 5, vec![3, 4, 5, 6, 7], false),
        (0, 2, vec![3, 4], true),
        (4, 2, vec![5, 6], true),
        (6, 2, vec![7], false),
        (7, 2, vec![], false),
        (u64::MAX, 2, vec![], false),
        (0, 0, vec![], true),
    ] {
        let page = store.page(&room, after, limit).await.unwrap().unwrap();
        let found = (page.position, offsets(&page.entries), page.more);
        assert_eq!(
            found,
            (position, expected, more),
            "after {after} limit {limit}"
        );
    }
}

async fn what_is_withheld_from_who_confirms_waits_for_others(store: &dyn History) {
    let ann = user("withheld");
    let first = store
        .append(&ann, &KEEP, event(1))
        .await
        .unwrap()
        .position
        .offset;

    for n in 2..=6 {
        let new = if n % 2 == 0 {
            not_for_phones(1)
        } else {
            event(1)
        };
        store.append(&ann, &KEEP, new).await.unwrap();
    }

    store.confirm(&ann, first + 3, &PHONE);
    until(vec![2, 4, 5, 6], async || waiting(store, &ann, first).await).await;
    let page = store.page(&ann, first + 1, 2).await.unwrap().unwrap();

    assert_eq!(
        (offsets(&page.entries), page.more),
        (vec![first + 3, first + 4], true)
    );
    store.confirm(&ann, first + 5, &PHONE);
    until(vec![2, 4, 6], async || waiting(store, &ann, first).await).await;
    store.confirm(&ann, first + 3, &ANYONE);
    until(vec![6], async || waiting(store, &ann, first).await).await;
    store.confirm(&ann, first + 5, &ANYONE);
    until(vec![], async || waiting(store, &ann, first).await).await;
    store.confirm(&ann, first + 5, &ANYONE);
    store.confirm(&user("unknown"), 1, &ANYONE);
    store.append(&ann, &KEEP, event(1)).await.unwrap();

    assert_eq!(
        waiting(store, &ann, first).await,
        [7],
        "confirming is no reason for a new numbering"
    );
}

async fn topics_and_apps_are_apart(store: &dyn History) {
    let keys = [
        channel("apart"),
        Key {
            app: AppId(1),
            ..channel("apart")
        },
        Key::user(AppId(0), "apart".into()),
    ];

    let mut epochs = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        epochs.push(fill(store, key, &KEEP, n + 1).await.epoch);
    }

    for (n, key) in keys.iter().enumerate() {
        assert_eq!(store.waiting(key).await.unwrap().entries.len(), n + 1);
        assert_eq!(store.position(key, &KEEP).await.unwrap().epoch, epochs[n]);
    }

    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2]);
}

#[tokio::test]
async fn memory_behaves_as_a_store() {
    behaves_as_a_store(&Memory::with_two_apps(1 << 20)).await;
}
