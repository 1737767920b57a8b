//! What is left when writing ends anywhere: every group that was answered, all of it, and nothing of any other.
//!
//! The journal of a directory is recorded together with what the store holds after each group. Then it is cut at any byte, or
//! pages of it are left out as by a power loss, and what is opened has to be exactly what one of the groups left.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use uuid::Uuid;

use super::{
    database::Survives,
    journal::Left,
    store::OnDisk,
    tests::{Directory, copy},
    *,
};
use crate::{
    auth::Revocation,
    config::DataSync,
    history::suite::{ANYONE, KEEP, channel, event, user},
};

/// How much more than in every run is tried.
fn is_thorough() -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "only to try more than there is time for in every run"
    )]
    std::env::var("CRASHES").is_ok()
}

/// A topic: its position, and its events with their offsets, ids and frames.
type Topic = (Position, Vec<(u64, Uuid, Vec<u8>)>);

/// All that a store answers with.
#[derive(Debug, Default, PartialEq)]
struct State {
    topics: BTreeMap<String, Topic>,
    answers: Vec<String>,
    revoked: Vec<Revoked>,
}

/// Nothing is past its time while it is tried.
const RETENTION: Retention = Retention {
    ttl: Duration::from_hours(24),
    ..KEEP
};

fn keys() -> Vec<Key> {
    let channels = (0..4).map(|at| channel(&format!("c{at}")));
    let users = (0..2).map(|at| user(&format!("u{at}")));
    channels.chain(users).collect()
}

fn state(store: &mut Store) -> State {
    let mut state = State::default();
    for key in keys() {
        let Some(read) = store.stored(&key, 0).unwrap() else {
            continue;
        };

        let (mut run, mut entries) = (read.run, Vec::new());
        let events = store.snapshot();
        events
            .copy(read.topic, &mut run, usize::MAX, &mut entries)
            .unwrap();

        let events = entries.iter().map(|entry| {
            let frame = entry.frame.payload().to_vec();
            (entry.offset, entry.id, frame)
        });

        let topic = (read.answer, events.collect());
        state.topics.insert(format!("{:?}", key.topic), topic);
    }

    for at in 0..100 {
        let name = format!("request {at}");
        let stored = store.answer(AppId(0), &name).unwrap();
        state.answers.extend(stored.map(|_| name));
    }

    state.revoked = store.revoked(AppId(1)).unwrap();
    state
}

/// Does what belongs to group number `at`, without ending it.
fn act(store: &mut Store, at: usize) {
    let keys = keys();
    let few = Retention {
        events: 3,
        ..RETENTION
    };
    store.append(&keys[0], &few, &event(10)).unwrap();

    for n in 0..at % 4 {
        let key = &keys[(at + n) % keys.len()];
        // Some groups reach over several pages.
        let length = if at % 7 == 3 { 6_000 } else { 30 * n };
        store.append(key, &RETENTION, &event(length)).unwrap();
    }

    if at % 5 == 4 {
        let key = user("u0");
        let newest = store.position(&key).unwrap().offset;
        store.confirm(&key, newest, &ANYONE).unwrap();
    }

    if at % 6 == 1 {
        let stored = StoredAnswer {
            body: "digest".into(),
            answer: "{}".into(),
        };
        let name = format!("request {at}");
        store
            .keep_answer(AppId(0), &name, &stored, 60_000_000)
            .unwrap();
    }

    if at % 9 == 2 {
        let revocation = Revocation::new(at as u64, u64::from(u32::MAX));
        let revoked = [(format!("user-{at}").into(), revocation)];
        store.revoke(AppId(1), &revoked).unwrap();
    }
}

/// What a directory had on disk after each group.
struct Recorded {
    directory: Directory,
    /// Its journal, without what is not written yet.
    journal: Vec<u8>,
    /// How long the journal was when a group was answered, and what the store held.
    groups: Vec<(usize, State)>,
}

/// The journal, without the zeros at its end. A group does not end with a zero.
fn journal(directory: &Path) -> Vec<u8> {
    let mut journal = fs::read(directory.join("0.jnl")).unwrap();
    let written = journal.iter().rposition(|byte| *byte != 0);
    journal.truncate(written.map_or(0, |last| last + 1));
    journal
}

impl Recorded {
    /// Records groups `first..end` of a new directory, which `prepare` may fill before.
    fn new(prepare: impl FnOnce(&Directory), groups: std::ops::Range<usize>) -> Self {
        let directory = Directory::new();
        prepare(&directory);
        let setup = directory.setup(DataSync::Always, 1 << 30);
        let mut store = Store::open(&setup).unwrap();
        let mut recorded = Vec::new();

        for at in groups {
            let written = journal(&directory.0).len();
            recorded.push((written, state(&mut store)));
            act(&mut store, at);
            store.commit(Survives::PowerLoss).unwrap();
        }

        let journal = journal(&directory.0);
        recorded.push((journal.len(), state(&mut store)));

        // What the system has when the process is killed now.
        let copied = Directory::new();
        fs::remove_file(directory.0.join("0.jnl")).unwrap();
        copy(&directory.0, &copied.0);
        drop(store);

        Self {
            directory: copied,
            journal,
            groups: recorded,
        }
    }

    /// Opens a copy with `journal` in place of what was written. Exactly the groups that are whole in it are there, and the
    /// numberings go on after them.
    fn opens_with(&self, journal: &[u8], whole: usize, what: &str) {
        let directory = Directory::new();
        copy(&self.directory.0, &directory.0);
        fs::write(directory.0.join("0.jnl"), journal).unwrap();

        let setup = directory.setup(DataSync::Always, 1 << 30);
        let left = [Left::Ended, Left::Failed][whole % 2];
        let store = Store::open_left(&setup, left);
        let mut store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        let groups = self.groups.iter();
        let there = groups.take_while(|(end, _)| *end <= whole).last();
        let empty = State::default();
        let expected = there.map_or(&empty, |(_, state)| state);
        let found = state(&mut store);
        assert!(found == *expected, "{what}: {found:#?}\n{expected:#?}");

        for key in keys() {
            let before = store.position(&key).unwrap();
            let next = store.append(&key, &RETENTION, &event(1)).unwrap().position;
            assert_eq!(next.offset, before.offset + 1, "{what}");
        }

        store.commit(Survives::PowerLoss).unwrap();
        let after = state(&mut store);
        drop(store);
        let mut store = directory.store();
        assert!(state(&mut store) == after, "{what}: opened once more");
    }
}

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005) + 1;
        (self.0 >> 33) as usize % end
    }
}

/// Cuts the journal at each byte from `first` on, or at some of them and around the end of each group.
fn cut(recorded: &Recorded, first: usize) {
    let length = recorded.journal.len();
    let cuts: Vec<usize> = if is_thorough() {
        (first..=length).collect()
    } else {
        let mut numbers = Numbers(length as u64);
        let ends = recorded.groups.iter().map(|(end, _)| *end);
        let around = ends.flat_map(|end| [end - 1, end, end + 1]);
        let anywhere = (0..20).map(|_| first + numbers.below(length - first));
        around.chain(anywhere).collect()
    };

    for at in cuts {
        if (first..=length).contains(&at) {
            recorded.opens_with(&recorded.journal[..at], at, &format!("cut at {at}"));
        }
    }
}

#[test]
fn a_journal_that_is_cut_at_any_byte_has_all_whole_groups_and_nothing_else() {
    let recorded = Recorded::new(|_| {}, 0..12);
    cut(&recorded, 0);
}

/// Makes a directory whose tables are sorted after some dozens of groups.
fn with_small_buffers(directory: &Directory) {
    use fjall::{Database, KeyspaceCreateOptions};
    let database = Database::builder(&directory.0).open().unwrap();
    for name in ["topics", "events", "due", "facts", "meta"] {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(40_000);
        database.keyspace(name, options).unwrap();
    }
}

#[test]
fn so_has_one_of_which_much_is_in_sorted_files() {
    let prepare = |directory: &Directory| {
        with_small_buffers(directory);
        let setup = directory.setup(DataSync::Always, 1 << 30);
        let mut store = Store::open(&setup).unwrap();
        for at in 0..200 {
            act(&mut store, at);
            store.commit(Survives::PowerLoss).unwrap();
        }
        store.tables().compact().unwrap();
    };

    // Nothing that is in sorted files is lost with the end of the journal, which was synced before.
    let recorded = Recorded::new(prepare, 200..204);
    let sorted = fs::read_dir(recorded.directory.0.join("keyspaces/2/tables"));
    assert!(sorted.unwrap().count() > 0);
    cut(&recorded, recorded.groups[0].0);
}

#[test]
fn pages_that_a_power_loss_leaves_out_cost_no_more_than_what_was_not_synced() {
    const PAGE: usize = 512;
    let recorded = Recorded::new(|_| {}, 0..16);
    let mut numbers = Numbers(7);

    for round in 0..if is_thorough() { 3_000 } else { 40 } {
        // Everything up to here is synced.
        let synced = recorded.groups[numbers.below(recorded.groups.len())].0;
        let mut torn = recorded.journal.clone();
        let mut at = synced;

        while at < torn.len() {
            let end = torn.len().min((at / PAGE + 1) * PAGE);
            if numbers.below(3) == 0 {
                torn[at..end].fill(0);
            }
            at = end;
        }

        let differs = torn.iter().zip(&recorded.journal).position(|(a, b)| a != b);
        torn.resize(torn.len() + 1_000, 0);
        let whole = differs.unwrap_or(recorded.journal.len());
        assert!(whole >= synced);
        recorded.opens_with(&torn, whole, &format!("round {round}"));
    }
}

#[test]
fn a_directory_whose_making_was_cut_short_is_made_again() {
    let whole = Directory::new();
    drop(whole.store());
    for left in [
        &["owner"][..],
        &["owner", "lock", "keyspaces"],
        &["owner", "lock", "keyspaces", "0.jnl"],
        &["owner", "lock", "keyspaces", "0.jnl", "version"],
    ] {
        let directory = Directory::new();
        fs::create_dir_all(&directory.0).unwrap();
        for name in left {
            let path = directory.0.join(name);
            if *name == "keyspaces" {
                fs::create_dir(path).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }

        let mut store = directory.store();
        store.append(&channel("c"), &RETENTION, &event(1)).unwrap();
        store.commit(Survives::PowerLoss).unwrap();
        drop(store);
        let one = OnDisk {
            events: 1,
            topics: 1,
        };
        assert_eq!(directory.store().counts(), one, "{left:?}");
    }

    // The version is there, and no table.
    let directory = Directory::new();
    fs::create_dir_all(directory.0.join("keyspaces")).unwrap();
    fs::copy(whole.0.join("version"), directory.0.join("version")).unwrap();
    fs::write(directory.0.join("lock"), "").unwrap();
    fs::write(directory.0.join("0.jnl"), "").unwrap();
    drop(directory.store());
}
