//! The store in Redis held against the one in memory.

use proptest::prelude::*;

use super::*;
use crate::history::{Entry, Memory};

#[derive(Clone, Debug)]
enum Step {
    Append {
        retention: usize,
        length: usize,
        omits: bool,
    },
    Position,
    Since {
        epoch: usize,
        offset: u64,
    },
    Page {
        after: u64,
        limit: usize,
    },
    Waiting,
    Confirm {
        offset: u64,
        phone: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || 0..20u64;
    prop_oneof![
        8 => (0..3usize, 0..30usize, prop::bool::weighted(0.3))
            .prop_map(|(retention, length, omits)| Step::Append { retention, length, omits }),
        1 => Just(Step::Position),
        3 => (0..3usize, offset()).prop_map(|(epoch, offset)| Step::Since { epoch, offset }),
        2 => (offset(), 0..5usize).prop_map(|(after, limit)| Step::Page { after, limit }),
        1 => Just(Step::Waiting),
        3 => (offset(), any::<bool>()).prop_map(|(offset, phone)| Step::Confirm { offset, phone }),
    ]
}

/// One store, and its own offsets and epochs as both stores would show them.
struct Side<'a> {
    store: &'a dyn History,
    key: &'a Key,
    /// What the store counts from.
    base: u64,
    epoch: Option<Epoch>,
}

type Shown = Vec<(u64, uuid::Uuid, Vec<u8>, u64)>;

impl Side<'_> {
    /// An offset as the store has it.
    fn own(&self, offset: u64) -> u64 {
        self.base + offset
    }

    fn position(&mut self, position: Position) -> u64 {
        assert_eq!(*self.epoch.get_or_insert(position.epoch), position.epoch);
        position.offset - self.base
    }

    fn shown(&self, entries: &[Entry]) -> Shown {
        let one = |entry: &Entry| {
            let names = entry.omit.as_deref().map_or(0, |omit| omit.names() as u64);
            (
                entry.offset - self.base,
                entry.id,
                entry.frame.bytes().to_vec(),
                names,
            )
        };
        entries.iter().map(one).collect()
    }

    async fn run(&mut self, step: &Step, new: &New) -> (Option<u64>, bool, Shown) {
        let retentions = [
            KEEP,
            Retention { events: 3, ..KEEP },
            Retention { bytes: 160, ..KEEP },
        ];
        match *step {
            Step::Append { retention, .. } => {
                let appended = self
                    .store
                    .append(self.key, &retentions[retention], new.clone())
                    .await
                    .unwrap();
                let frame = appended.frame.bytes().to_vec();
                let offset = self.position(appended.position);
                (Some(offset), true, vec![(offset, new.id, frame, 0)])
            }
            Step::Position => {
                let position = self.store.position(self.key, &KEEP).await.unwrap();
                (Some(self.position(position)), false, Vec::new())
            }
            Step::Since { epoch, offset } => {
                let other = Epoch::random();
                let epoch = [None, self.epoch, Some(other)][epoch].map(|epoch| epoch.to_string());
                let recovery = self
                    .store
                    .since(self.key, &KEEP, epoch.as_deref(), self.own(offset))
                    .await
                    .unwrap();
                let shown = self.shown(&recovery.entries);
                (
                    Some(self.position(recovery.position)),
                    recovery.recovered,
                    shown,
                )
            }
            Step::Page { after, limit } => {
                match self
                    .store
                    .page(self.key, self.own(after), limit)
                    .await
                    .unwrap()
                {
                    None => (None, false, Vec::new()),
                    Some(page) => {
                        let shown = self.shown(&page.entries);
                        (Some(self.position(page.position)), page.more, shown)
                    }
                }
            }
            Step::Waiting => {
                let waiting = self.store.waiting(self.key).await.unwrap().entries;
                (None, false, self.shown(&waiting))
            }
            Step::Confirm { offset, phone } => {
                let reader = if phone { PHONE } else { ANYONE };
                self.store.confirm(self.key, self.own(offset), &reader);
                (None, false, Vec::new())
            }
        }
    }
}

/// Until the store's queue of confirmations is empty: what it shows is what memory shows.
async fn settle(memory: &Side<'_>, redis: &Side<'_>) {
    let expected = memory.shown(&memory.store.waiting(memory.key).await.unwrap().entries);
    until(expected, async || {
        redis.shown(&redis.store.waiting(redis.key).await.unwrap().entries)
    })
    .await;
}

async fn compare(redis: &RedisHistory, key: &Key, steps: &[Step]) {
    let memory = Memory::with_two_apps(1 << 20);
    let mut memory = Side {
        store: &memory,
        key,
        base: 0,
        epoch: None,
    };
    let mut redis = Side {
        store: redis,
        key,
        base: 0,
        epoch: None,
    };
    if matches!(key.topic, Topic::User(_)) {
        // A user's numbering begins anywhere; both count from where theirs did.
        redis.base = redis.store.position(key, &KEEP).await.unwrap().offset;
        memory.base = memory.store.position(key, &KEEP).await.unwrap().offset;
    }
    for (n, step) in steps.iter().enumerate() {
        let new = match *step {
            Step::Append {
                length,
                omits: true,
                ..
            } => not_for_phones(length),
            Step::Append { length, .. } => event(length),
            _ => event(0),
        };
        let expected = memory.run(step, &new).await;
        assert_eq!(redis.run(step, &new).await, expected, "step {n}: {step:?}");
        if matches!(step, Step::Confirm { .. }) {
            settle(&memory, &redis).await;
        }
    }
    settle(&memory, &redis).await;
}

#[test]
fn redis_agrees_with_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start(&[]);
    let node = runtime.block_on(Node::new(&server.url()));
    let mut runner = proptest::test_runner::TestRunner::default();
    let cases = (any::<bool>(), prop::collection::vec(step(), 0..60));
    let number = std::cell::Cell::new(0);
    let outcome = runner.run(&cases, |(is_channel, steps)| {
        number.set(number.get() + 1);
        let name = number.get().to_string();
        let key = if is_channel {
            channel(&name)
        } else {
            user(&name)
        };
        runtime.block_on(compare(&node.store, &key, &steps));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
