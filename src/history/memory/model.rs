//! The store's rules read naively, and the store held against them.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    tests::{ANYONE, at, audit, channel, event, store, user},
    *,
};
use crate::{
    history::Epoch,
    id::AppId,
    limits::{HISTORY_EVENT_BYTES, HISTORY_QUIET},
    metrics::DropReason,
    protocol::frame::Frame,
};

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
    fn stored(&self) -> impl Iterator<Item = &Known> {
        self.events.iter().filter(|known| !known.gone)
    }

    /// Removes all up to `offset`; how many there were.
    fn remove(&mut self, offset: u64, lost: bool) -> u64 {
        let gone = self
            .events
            .iter_mut()
            .filter(|known| !known.gone && known.offset <= offset);
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
        self.stored()
            .filter(|known| known.offset > after)
            .map(|known| (known.offset, known.id))
            .collect()
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
        let newest = if matches!(key.topic, Topic::User(_)) {
            self.users_begin_after
        } else {
            0
        };

        self.lives.entry(key.clone()).or_insert_with(|| {
            assert!(self.former.insert(epoch.0), "an epoch came twice");
            let (events, lost) = (Vec::new(), HashSet::new());
            Life {
                epoch,
                newest,
                events,
                lost,
                used: Duration::ZERO,
            }
        })
    }

    fn age(&mut self, key: &Key, now: Now) {
        let Some(life) = self.lives.get_mut(key) else {
            return;
        };

        let last = life
            .stored()
            .filter(|known| known.until <= now.age)
            .map(|known| known.offset)
            .max();

        let lost = life.remove(last.unwrap_or(0), true);
        if matches!(key.topic, Topic::User(_)) {
            self.expired += lost;
        }

        if lost > 0 && life.stored().next().is_none() {
            life.used = now.age;
        }
    }

    fn evict(&mut self, key: &Key, offset: u64, now: Now) {
        let Some(life) = self.lives.get_mut(key) else {
            return;
        };
        let lost = life.remove(offset, true);
        if matches!(key.topic, Topic::User(_)) {
            self.over += lost;
        }
        life.used = now.age;
    }

    fn append(
        &mut self,
        key: &Key,
        retention: &Retention,
        id: Uuid,
        appended: &Appended,
        now: Now,
    ) {
        self.age(key, now);
        let life = self.life(key, appended.position.epoch);
        life.newest += 1;
        let offset = life.newest;

        assert_eq!(
            appended.position,
            Position {
                epoch: life.epoch,
                offset
            }
        );

        self.number += 1;
        let (number, until) = (self.number, now.age + retention.ttl);
        let frame = appended.frame.clone();
        let life = self.life(key, appended.position.epoch);

        life.events.push(Known {
            offset,
            id,
            frame,
            until,
            number,
            gone: false,
        });

        let over = |life: &Life| {
            let bytes: usize = life.stored().map(|known| known.frame.len()).sum();
            life.stored().count() > retention.events || bytes > retention.bytes
        };

        while self.lives.get(key).is_some_and(over) {
            let oldest = self.lives[key].stored().map(|known| known.offset).min();
            self.evict(key, oldest.unwrap(), now);
        }

        self.evict_over_all(now);
    }

    /// Removes the oldest events of the app that stores most until all are within their bound.
    fn evict_over_all(&mut self, now: Now) {
        loop {
            let of = |app: u16| {
                let lives = self
                    .lives
                    .iter()
                    .filter(move |(key, _)| key.app == AppId(app));
                lives.flat_map(|(key, life)| life.stored().map(move |known| (key, known)))
            };

            let bytes = [0, 1].map(|app| {
                of(app)
                    .map(|(_, known)| known.frame.len() + HISTORY_EVENT_BYTES)
                    .sum::<usize>()
            });

            if bytes.iter().sum::<usize>() <= self.max_bytes {
                break;
            }

            let most = u16::from(bytes[0] <= bytes[1]);
            let oldest = of(most).min_by_key(|(_, known)| known.number);
            let (key, offset) = oldest
                .map(|(key, known)| (key.clone(), known.offset))
                .unwrap();
            self.evict(&key, offset, now);
        }
    }

    fn expire(&mut self, now: Now) {
        for key in self.lives.keys().cloned().collect::<Vec<_>>() {
            self.age(&key, now);
        }
        let floor = &mut self.users_begin_after;
        self.lives.retain(|key, life| {
            let stays = life.stored().next().is_some() || life.used + HISTORY_QUIET > now.age;
            if !stays && matches!(key.topic, Topic::User(_)) {
                *floor = (*floor).max(life.newest);
            }
            stays
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: usize,
        retention: usize,
        length: usize,
    },
    Position {
        topic: usize,
    },
    Since {
        topic: usize,
        epoch: usize,
        offset: u64,
    },
    Page {
        topic: usize,
        after: u64,
        limit: usize,
    },
    Waiting {
        topic: usize,
    },
    Confirm {
        topic: usize,
        offset: u64,
    },
    Expire,
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let topic = || 0..4usize;
    let offset = || 0..20u64;
    let seconds = prop_oneof![6 => 0..9u64, 1 => Just(3590u64)];

    prop_oneof![
        8 => (topic(), 0..3usize, 0..40usize).prop_map(|(topic, retention, length)| Step::Append { topic, retention, length }),
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
    [
        channel("c"),
        Key {
            app: AppId(1),
            ..channel("c")
        },
        user("u"),
        user("v"),
    ]
}

fn shown(entries: &[Entry]) -> Vec<(u64, Uuid)> {
    entries
        .iter()
        .map(|entry| (entry.offset, entry.id))
        .collect()
}

/// Does one step to both and holds the answers against each other.
fn run(store: &mut MemoryStore, model: &mut Model, step: &Step, now: Now) {
    let retention = |events, bytes, ttl| Retention {
        events,
        bytes,
        ttl: Duration::from_secs(ttl),
    };

    let retentions = [
        retention(3, 10_000, 20),
        retention(100, 150, 20),
        retention(100, 10_000, 7),
    ];

    let key = match step {
        Step::Append { topic, .. }
        | Step::Position { topic }
        | Step::Since { topic, .. }
        | Step::Page { topic, .. }
        | Step::Waiting { topic }
        | Step::Confirm { topic, .. } => &keys()[*topic],
        Step::Expire => {
            assert!(!store.expire(1000, now));
            return model.expire(now);
        }
        Step::Wait { .. } => return,
    };

    model.age(key, now);
    match *step {
        Step::Append {
            retention, length, ..
        } => {
            let (new, retention) = (event(length), &retentions[retention]);
            let id = new.id;
            let appended = store.append(key, retention, new, now);
            model.append(key, retention, id, &appended, now);
        }
        Step::Position { .. } => {
            let position = store.position(key, now);
            let life = model.life(key, position.epoch);
            assert_eq!(
                position,
                Position {
                    epoch: life.epoch,
                    offset: life.newest
                }
            );
        }
        Step::Since { epoch, offset, .. } => since(store, model, key, epoch, offset, now),
        Step::Page { after, limit, .. } => page(store, model, key, (after, limit), now),
        Step::Waiting { .. } => {
            let expected = model
                .lives
                .get(key)
                .map(|life| life.shown(0))
                .unwrap_or_default();
            assert_eq!(shown(&store.all_waiting(key, now).entries), expected);
        }
        Step::Confirm { offset, .. } => {
            store.confirm(key, offset, &ANYONE, now);
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

fn page(store: &mut MemoryStore, model: &Model, key: &Key, (after, limit): (u64, usize), now: Now) {
    let page = store.page(key, after, limit, now);
    assert_eq!(page.is_some(), model.lives.contains_key(key));
    let (Some(page), Some(life)) = (page, model.lives.get(key)) else {
        return;
    };

    let all = life.shown(after);
    assert_eq!(shown(&page.entries), all[..limit.min(all.len())]);
    assert_eq!(page.more, all.len() > limit);
    assert_eq!(
        page.position,
        Position {
            epoch: life.epoch,
            offset: life.newest
        }
    );
}

fn since(
    store: &mut MemoryStore,
    model: &mut Model,
    key: &Key,
    epoch: usize,
    offset: u64,
    now: Now,
) {
    let present = model.lives.get(key).map(|life| life.epoch);
    let named = [
        None,
        present,
        model.former.iter().min().map(|epoch| Epoch(*epoch)),
        Some(Epoch(0)),
    ][epoch];

    let recovery = store.all_since(
        key,
        named.map(|epoch| epoch.to_string()).as_deref(),
        offset,
        now,
    );

    let life = model.life(key, recovery.position.epoch);
    assert_eq!(
        recovery.position,
        Position {
            epoch: life.epoch,
            offset: life.newest
        }
    );

    let first = life.newest - life.events.len() as u64;
    let proven = named.is_none_or(|epoch| epoch == life.epoch)
        && (first..=life.newest).contains(&offset)
        && life.lost.iter().all(|lost| *lost <= offset);
    assert_eq!(recovery.recovered, proven);

    assert_eq!(
        shown(&recovery.entries),
        life.shown(if proven { offset } else { 0 })
    );
}

proptest! {
    #[test]
    fn the_store_agrees_with_its_rules_read_naively(steps in prop::collection::vec(step(), 0..120)) {
        let max_bytes = 8 * (HISTORY_EVENT_BYTES + 40);
        let mut store = store(max_bytes, 100);
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
            run(&mut store, &mut model, &step, at(seconds));
            audit(&store);
            let app = &store.accounting.shares[1].metrics;
            let losses = (app.drops(DropReason::StoredOver), app.drops(DropReason::StoredExpired));
            prop_assert_eq!(losses, (model.over, model.expired));
        }

        for key in &keys()[..2] {
            store.confirm(key, u64::MAX, &ANYONE, at(seconds));
        }

        prop_assert!(!store.expire(1000, at(seconds + 20)));
        audit(&store);
        prop_assert_eq!((store.accounting.bytes, store.accounting.events), (0, 0));
        store.expire(1000, at(seconds + 20 + HISTORY_QUIET.as_secs()));
        prop_assert!(store.topics.is_empty() && store.quiet.is_empty());
    }
}
