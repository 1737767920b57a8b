//! The table against sockets that take what they like: nothing lost, nothing doubled, nothing out of order, and
//! everything given back.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use proptest::prelude::*;

use super::{
    AppCounts, Batch, Connection, Except, Hub, Load, Outcome, Owner, Progress, Reach, Replay,
    Selection, SlotRef, State, Table,
    admission::{Admission, Permit},
    broadcast::place_at_once,
    table::Context,
};
use crate::{
    close::Close,
    config::SlowConsumer,
    filter::{Attributes, ConnectionInfo, FilterCache, Layouts, Schema, Value},
    id::{AppId, ConnectionId, NodeId},
    limits::Limits,
    metrics::DropReason,
    protocol::frame::Frame,
};

pub(super) const APP: AppId = AppId(0);

pub(super) fn context(limits: Limits, index: &[&str], slow_consumer: SlowConsumer) -> Arc<Context> {
    Arc::new(Context::of_one_app(
        limits,
        Arc::new(Schema::new(index).unwrap()),
        slow_consumer,
    ))
}

pub(crate) fn connect(table: &mut Table, user: &str, auth: Value) -> SlotRef {
    let (at, connection) = table
        .insert(|id| {
            let facts = ConnectionInfo {
                id,
                device: None,
                ip: [127, 0, 0, 1].into(),
                protocol: "test",
                connected_at: 0,
                node: "n".into(),
            };
            let mut attributes = Attributes::new(facts);
            attributes.user = Value::String(user.into());
            attributes.auth = auth;
            Connection::new(APP, attributes, Arc::default())
        })
        .unwrap();
    assert!(table.open(at, Connection::clone(&connection)));
    at
}

/// A connection of an anonymous client with a device, which is in no table.
pub(crate) fn unconnected(device: &str, slot: u32) -> Connection {
    let facts = ConnectionInfo {
        id: ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot,
            nonce: 0,
        },
        device: Some(device.into()),
        ip: [127, 0, 0, 1].into(),
        protocol: "test",
        connected_at: 0,
        node: "n".into(),
    };
    Connection::new(APP, Attributes::new(facts), Arc::default())
}

/// A socket that takes `room` bytes and then refuses.
#[derive(Default)]
struct Socket {
    room: usize,
    taken: Vec<u8>,
}

impl Socket {
    fn write(&mut self, frames: &[Frame], skip: usize) -> usize {
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|frame| frame.bytes().to_vec())
            .skip(skip)
            .collect();
        let n = bytes.len().min(self.room);
        self.room -= n;
        self.taken.extend(&bytes[..n]);
        n
    }
}

/// The thread of one shard, without a thread and without sockets.
struct Thread {
    owner: Owner,
    /// A batch is out.
    is_out: bool,
    table: Table,
    at: Vec<SlotRef>,
    sockets: Vec<Socket>,
    blocked: Vec<bool>,
    expected: Vec<Vec<u8>>,
    admission: Arc<Admission>,
    batch: Batch,
    outcome: Outcome,
    next: u8,
}

impl Thread {
    fn new(connections: usize) -> Self {
        let context = context(Limits::default(), &[], SlowConsumer::Disconnect);
        let admission = Admission::new(&context.limits, context.metrics.clone());
        let mut table = Table::new(0, context);
        let at: Vec<SlotRef> = (0..connections)
            .map(|n| connect(&mut table, &n.to_string(), Value::Null))
            .collect();
        Self {
            owner: Owner::for_tests(),
            is_out: false,
            table,
            sockets: at.iter().map(|_| Socket::default()).collect(),
            blocked: vec![false; connections],
            expected: vec![Vec::new(); connections],
            at,
            admission,
            batch: Batch::default(),
            outcome: Outcome::default(),
            next: 0,
        }
    }

    fn frame(&mut self) -> Frame {
        self.next = self.next.wrapping_add(1);
        Frame::event_text(&[&vec![self.next; 1 + usize::from(self.next % 7)]])
    }

    fn place(&mut self, to: &[usize], small: bool) {
        let frame = self.frame();
        let reach = if small { 1 } else { 1000 };
        let Some(permit): Option<Permit> = self.admission.try_admit(reach, frame.len()) else {
            return;
        };
        for &n in to {
            assert!(self.table.place(self.at[n].slot, &frame, &permit));
            self.expected[n].extend(frame.bytes());
        }
        self.table.trim();
    }

    /// Places publications for everyone as one batch; each leaves out some.
    fn batch(&mut self, excepted: &[Vec<usize>]) {
        let mut batch = Vec::new();
        for out in excepted {
            let frame = self.frame();
            let Some(permit) = self.admission.try_admit(1000, frame.len()) else {
                break;
            };
            let mut except = Except::default();
            except.connections.extend(
                out.iter()
                    .map(|&n| self.table.connection(self.at[n]).unwrap().id()),
            );
            for n in (0..self.at.len()).filter(|n| !out.contains(n)) {
                self.expected[n].extend(frame.bytes());
            }
            batch.push((frame, permit, except));
        }
        let counts = place_at_once(&mut self.table, batch);
        for (counts, out) in counts.iter().zip(excepted) {
            assert_eq!(counts.queued as usize, self.at.len() - out.len());
        }
        self.table.trim();
    }

    fn flush(&mut self, small: bool, max: usize) {
        self.take(small, max);
        self.settle();
    }

    /// Takes a batch out and writes it. Other threads go on placing until it is settled.
    fn take(&mut self, small: bool, max: usize) {
        self.table
            .take(&mut self.owner, small, max, &mut self.batch);
        self.is_out = true;
        for work in self.batch.works.drain(..) {
            let n = self.at.iter().position(|at| *at == work.at).unwrap();
            let own: Vec<Frame>;
            let frames = match &work.load {
                Load::Run { first, end } => {
                    self.outcome.finish(*first);
                    self.batch.window.run(*first, *end)
                }
                Load::One(queued) => std::slice::from_ref(&queued.frame),
                Load::Queue(queue) => {
                    own = queue.iter().map(|queued| queued.frame.clone()).collect();
                    &own
                }
            };
            let taken = self.sockets[n].write(frames, 0);
            let (whole, begun) = split(frames, taken);
            if whole < frames.len() {
                self.outcome
                    .refuse(work.at, frames[whole..].to_vec(), begun);
            }
        }
    }

    fn settle(&mut self) {
        self.is_out = false;
        let settled = self.table.settle(&mut self.owner, &mut self.outcome);
        for at in settled.blocked {
            let n = self.at.iter().position(|other| *other == at).unwrap();
            assert!(
                !std::mem::replace(&mut self.blocked[n], true),
                "one drain at a time"
            );
        }
    }

    fn replay(&mut self, n: usize, frames: usize) {
        let frames: Vec<Frame> = (0..frames).map(|_| self.frame()).collect();
        self.expected[n].extend(frames.iter().flat_map(|frame| frame.bytes().to_vec()));
        let missed = Replay::new(self.table.context.refused.clone(), None, frames);
        let begins = self.table.replay(&mut self.owner, self.at[n], missed);
        assert_eq!(begins, !self.blocked[n]);
        self.blocked[n] = true;
    }

    fn drain(&mut self, n: usize, room: usize) {
        self.sockets[n].room += room;
        if !self.blocked[n] {
            return;
        }
        let mut frames = Vec::new();
        let skip = self
            .table
            .lend(&mut self.owner, self.at[n], 3, &mut frames)
            .unwrap();
        let taken = self.sockets[n].write(&frames, skip);
        let progress = self.table.advance(&mut self.owner, self.at[n], taken);
        if progress != Progress::Blocked {
            self.blocked[n] = false;
        }
    }

    fn finish(&mut self) {
        self.settle();
        for _ in 0..200 {
            for n in 0..self.at.len() {
                self.drain(n, 1 << 16);
            }
            self.flush(true, 16);
            self.flush(false, 16);
        }
        self.batch.window.release();
    }
}

fn split(frames: &[Frame], mut bytes: usize) -> (usize, usize) {
    for (at, frame) in frames.iter().enumerate() {
        if bytes < frame.len() {
            return (at, bytes);
        }
        bytes -= frame.len();
    }
    (frames.len(), 0)
}

#[derive(Clone, Debug)]
enum Step {
    Place { to: Vec<usize>, small: bool },
    BroadcastBatch { excepted: Vec<Vec<usize>> },
    Take { small: bool, max: usize },
    Settle,
    Drain { n: usize, room: usize },
    Replay { n: usize, frames: usize },
}

fn steps(connections: usize) -> impl Strategy<Value = Vec<Step>> {
    let place = (
        prop::collection::btree_set(0..connections, 0..=connections),
        any::<bool>(),
    )
        .prop_map(|(to, small)| Step::Place {
            to: to.into_iter().collect(),
            small,
        });
    let some =
        prop::collection::btree_set(0..connections, 0..2).prop_map(|out| out.into_iter().collect());
    let batch =
        prop::collection::vec(some, 1..4).prop_map(|excepted| Step::BroadcastBatch { excepted });
    let take = (any::<bool>(), 1..5usize).prop_map(|(small, max)| Step::Take { small, max });
    let settle = Just(Step::Settle);
    let drain = (0..connections, 0..40usize).prop_map(|(n, room)| Step::Drain { n, room });
    let replay = (0..connections, 1..6usize).prop_map(|(n, frames)| Step::Replay { n, frames });
    prop::collection::vec(
        prop_oneof![6 => place, 4 => batch, 6 => take, 4 => settle, 4 => drain, 1 => replay],
        0..60,
    )
}

proptest! {
    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_sockets_refuse(steps in steps(6)) {
        let mut owner = Thread::new(6);
        for step in steps {
            match step {
                Step::Place { to, small } => owner.place(&to, small),
                Step::BroadcastBatch { excepted } => owner.batch(&excepted),
                Step::Settle => owner.settle(),
                // What only the owner does, it does between two batches: its right is lent to the batch that is out.
                Step::Take { .. } | Step::Drain { .. } | Step::Replay { .. } if owner.is_out => {}
                Step::Take { small, max } => owner.take(small, max),
                Step::Drain { n, room } => owner.drain(n, room),
                Step::Replay { n, frames } => owner.replay(n, frames),
            }
        }
        owner.finish();
        for (socket, expected) in owner.sockets.iter().zip(&owner.expected) {
            prop_assert_eq!(&socket.taken, expected);
        }
        let metrics = owner.table.context.metrics.clone();
        prop_assert_eq!((metrics.bulk_in_flight.get(), metrics.small_in_flight.get()), (0, 0), "every permit is back");
        prop_assert_eq!(owner.table.context.refused.load(Relaxed), 0);
        for at in owner.at.clone() {
            prop_assert!(owner.table.remove(at).is_some());
        }
        prop_assert!(owner.table.is_empty());
    }
}

#[test]
fn a_reference_to_a_former_tenant_reaches_nobody() {
    let mut table = Table::new(0, context(Limits::default(), &[], SlowConsumer::Disconnect));
    let old = connect(&mut table, "old", Value::Null);
    let old_id = table.connection(old).unwrap().id();
    assert!(table.remove(old).is_some());
    let new = connect(&mut table, "new", Value::Null);
    assert_eq!(old.slot, new.slot);
    assert!(!table.place_own(old, Frame::text(b"x")));
    assert!(!table.close(old, None, &Close::new(4010, "")));
    assert!(table.remove(old).is_none() && table.find(APP, &old_id).is_none());
    assert_eq!(table.state(new), State::Open);
}

#[test]
fn who_is_too_slow_is_closed_and_what_it_loses_is_counted() {
    let limits = Limits {
        outbox_frames: 4,
        ..Limits::default()
    };
    let context = context(limits, &[], SlowConsumer::Disconnect);
    let metrics = context.app(APP).metrics.clone();
    let mut owner = Thread {
        table: Table::new(0, context),
        ..Thread::new(0)
    };
    owner.at = vec![connect(&mut owner.table, "slow", Value::Null)];
    (owner.sockets, owner.blocked, owner.expected) =
        (vec![Socket::default()], vec![false], vec![Vec::new()]);
    owner.place(&[0], false);
    owner.flush(false, 1);
    assert!(owner.blocked[0]);
    (0..3).for_each(|_| owner.place(&[0], true));
    assert_eq!(owner.table.state(owner.at[0]), State::Open);
    let frame = owner.frame();
    let permit = owner.admission.try_admit(1, frame.len()).unwrap();
    assert!(
        !owner.table.place(owner.at[0].slot, &frame, &permit),
        "over the bound"
    );
    assert_eq!(owner.table.state(owner.at[0]), State::Closing);
    assert_eq!(metrics.drops(DropReason::Slow), 5);
    owner.drain(0, 1 << 16);
    assert_eq!(
        owner.sockets[0].taken[..4],
        [0x88, 10, 0x10, 0x05],
        "a close frame with 4101, and nothing else"
    );
}

#[test]
fn a_batch_ends_at_the_close_frame_of_who_is_too_slow() {
    let limits = Limits {
        outbox_frames: 2,
        ..Limits::default()
    };
    let context = context(limits, &[], SlowConsumer::Disconnect);
    let metrics = context.app(APP).metrics.clone();
    let mut owner = Thread {
        table: Table::new(0, context),
        ..Thread::new(0)
    };
    owner.at = vec![connect(&mut owner.table, "slow", Value::Null)];
    (owner.sockets, owner.blocked, owner.expected) =
        (vec![Socket::default()], vec![false], vec![Vec::new()]);
    owner.place(&[0], false);
    owner.flush(false, 1);
    let batch: Vec<_> = (0..5)
        .map(|_| {
            (
                owner.frame(),
                owner.admission.try_admit(1000, 8).unwrap(),
                Except::default(),
            )
        })
        .collect();
    let queued: Vec<u64> = place_at_once(&mut owner.table, batch)
        .iter()
        .map(|counts| counts.queued)
        .collect();
    assert_eq!(queued, [1, 0, 0, 0, 0]);
    assert_eq!(owner.table.state(owner.at[0]), State::Closing);
    assert_eq!(
        metrics.drops(DropReason::Slow),
        3,
        "the one refused, and two of the batch"
    );
    owner.drain(0, 1 << 16);
    let taken = &owner.sockets[0].taken;
    assert_eq!(
        (taken[0], taken.len()),
        (0x88, 12),
        "a close frame, and nothing behind it"
    );
}

#[test]
fn where_configured_the_oldest_go_and_the_connection_stays() {
    let limits = Limits {
        outbox_frames: 3,
        ..Limits::default()
    };
    let context = context(limits, &[], SlowConsumer::DropOldest);
    let metrics = context.app(APP).metrics.clone();
    let mut owner = Thread {
        table: Table::new(0, context),
        ..Thread::new(0)
    };
    owner.at = vec![connect(&mut owner.table, "slow", Value::Null)];
    (owner.sockets, owner.blocked, owner.expected) =
        (vec![Socket::default()], vec![false], vec![Vec::new()]);
    (0..6).for_each(|_| owner.place(&[0], true));
    owner.flush(true, 1);
    assert_eq!(metrics.drops(DropReason::Oldest), 3);
    owner.place(&[0], true);
    assert_eq!(metrics.drops(DropReason::Oldest), 4);
    owner.drain(0, 1 << 16);
    let last: usize = owner.expected[0].len();
    assert!(
        owner.expected[0].ends_with(&owner.sockets[0].taken) && owner.sockets[0].taken.len() < last
    );
}

#[tokio::test]
async fn the_largest_backlogs_go_first_when_the_node_is_over_its_bound() {
    let limits = Limits {
        refused_bytes: 1000,
        ..Limits::default()
    };
    let hub = Hub::new(2, context(limits, &[], SlowConsumer::Disconnect));
    let mut owners = Vec::new();
    for (shard, bytes) in [(0, 300), (1, 900)] {
        let at = hub
            .shard(shard)
            .lock(|table| connect(table, "u", Value::Null));
        let mut outcome = Outcome::default();
        let mut owner = hub.shard(shard).owner();
        outcome.refuse(at, vec![Frame::event_text(&[&vec![0; bytes]])], 0);
        hub.shard(shard)
            .lock(|table| table.settle(&mut owner, &mut outcome));
        owners.push((shard, at));
    }
    hub.shed();
    let states: Vec<State> = owners
        .iter()
        .map(|&(shard, at)| hub.shard(shard).lock(|table| table.state(at)))
        .collect();
    assert_eq!(states, [State::Open, State::Closing]);
}

#[tokio::test]
async fn what_waits_for_those_that_are_closing_is_thrown_away_before_anyone_else_is_closed() {
    let limits = Limits {
        refused_bytes: 1000,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let shard = hub.shard(0);
    let mut owner = shard.owner();
    let mut block = |bytes: usize| {
        let at = shard.lock(|table| connect(table, "u", Value::Null));
        let mut outcome = Outcome::default();
        outcome.refuse(at, vec![Frame::event_text(&[&vec![0; bytes]])], 0);
        shard.lock(|table| table.settle(&mut owner, &mut outcome));
        at
    };
    let (leaving, small) = (block(400), block(900));
    shard.lock(|table| table.close(leaving, None, &Close::new(4010, "")));
    hub.shed();
    let states = [leaving, small].map(|at| shard.lock(|table| table.state(at)));
    assert_eq!(states, [State::Closing, State::Open]);
    assert!(hub.context().refused.load(Relaxed) < 1000);
}

#[tokio::test]
async fn a_node_far_over_its_bound_is_within_it_after_a_few_looks() {
    const MANY: usize = 3 * crate::limits::SHED_LOOK;
    let limits = Limits {
        refused_bytes: 100_000,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let shard = hub.shard(0);
    let mut owner = shard.owner();
    let mut outcome = Outcome::default();
    for _ in 0..MANY {
        let at = shard.lock(|table| connect(table, "u", Value::Null));
        outcome.refuse(at, vec![Frame::event_text(&[&[0; 1000]])], 0);
    }
    shard.lock(|table| table.settle(&mut owner, &mut outcome));
    let mut looks = 0;
    let mut before = 0;
    let refused = || hub.context().refused.load(Relaxed);
    while refused() > 100_000 {
        let goes_on = hub.shed();
        looks += 1;
        assert!(looks <= 6, "{}", refused());
        assert_eq!(goes_on, refused() > 100_000);

        // One look closes as many as a hold may take work.
        let closed = shard.lock(|table| table.closing.len());
        assert!((1..=200).contains(&(closed - before)), "{closed}");
        before = closed;
    }
    let slow = shard.lock(Table::take_slow);
    assert_eq!(slow.some.len(), crate::limits::SLOW_LOGGED);
    assert!(slow.more > 0, "of many, only the number is logged");
}

#[tokio::test]
async fn who_holds_memory_alone_is_closed_before_those_who_wait_for_the_same() {
    // Each reader has a place of 16 bytes in a queue of its own.
    const BOUND: usize = 10_000 + 2 * crate::limits::SHED_LOOK * 16;
    let limits = Limits {
        refused_bytes: BOUND,
        ..Limits::default()
    };
    let hub = Hub::new(2, context(limits, &[], SlowConsumer::Disconnect));
    let shared = Frame::event_text(&[&[0; 7000]]);
    let block = |shard: usize, owner: &mut Owner, frame: &Frame| {
        let shard = hub.shard(shard);
        let at = shard.lock(|table| connect(table, "u", Value::Null));
        let mut outcome = Outcome::default();
        outcome.refuse(at, vec![frame.clone()], 0);
        shard.lock(|table| table.settle(owner, &mut outcome));
        at
    };
    let mut owners = [hub.shard(0).owner(), hub.shard(1).owner()];
    // More than one look is for, and in front of who holds much.
    let readers: Vec<SlotRef> = (0..2 * crate::limits::SHED_LOOK)
        .map(|_| block(0, &mut owners[0], &shared))
        .collect();
    let own = [4000, 5000].map(|bytes| {
        let frame = Frame::event_text(&[&vec![0; bytes]]);
        block(1, &mut owners[1], &frame)
    });
    let state = |shard: usize, at| hub.shard(shard).lock(|table| table.state(at));
    let closed = || {
        let is_closing = |at: &&SlotRef| state(0, **at) == State::Closing;
        readers.iter().filter(is_closing).count()
    };
    while hub.shed() {}
    assert_eq!(own.map(|at| state(1, at)), [State::Closing; 2]);
    assert_eq!(closed(), 0, "closing a reader would have freed nothing");
    assert!(hub.context().refused.load(Relaxed) <= BOUND);

    // Where all of them hold the same, no other way is left.
    for _ in 0..2 {
        let frame = Frame::event_text(&[&[0; 7000]]);
        for at in &readers {
            hub.shard(0)
                .lock(|table| table.place_own(*at, frame.clone()));
        }
    }
    let mut looks = 0;
    while hub.shed() {
        looks += 1;
        assert!(looks < 50);
    }
    assert!(hub.context().refused.load(Relaxed) <= BOUND);
    assert_eq!(closed(), readers.len());
}

#[tokio::test]
async fn large_publications_wait_while_most_sockets_refuse_and_only_then() {
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    hub.shard(0).lock(|table| {
        for n in 0..400 {
            connect(table, &format!("u{n}"), Value::Null);
        }
    });
    let metrics = hub.context().metrics.clone();
    let reach = hub.reach(&Selection::everyone(APP));
    let refusing = |sockets| {
        hub.context()
            .app(APP)
            .counts
            .blocked
            .store(sockets, Relaxed);
    };
    refusing(200);
    hub.admit(APP, &reach, 10).await.unwrap();
    assert_eq!(metrics.backpressure_waits.get(), 0, "half is not most");
    refusing(201);
    let recover = async {
        while metrics.backpressure_waits.get() == 0 {
            tokio::task::yield_now().await;
        }
        refusing(0);
    };
    let (permit, ()) = tokio::join!(hub.admit(APP, &reach, 10), recover);
    assert!(permit.is_ok());
    refusing(400);
    assert!(
        hub.admit(APP, &reach, 10).await.is_ok(),
        "not for ever, though nothing gets better"
    );
    let small = Reach::Small(smallvec::SmallVec::new());
    hub.admit(APP, &small, 10).await.unwrap();
    assert_eq!(
        metrics.backpressure_waits.get(),
        2,
        "a small one never waits"
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a scenario in the order of time")]
async fn an_index_finds_the_same_as_a_scan_through_connects_renewals_and_leaves() {
    let context = context(Limits::default(), &["auth.team"], SlowConsumer::Disconnect);
    let schema = context.app(APP).schema.clone();
    let hub = Hub::new(1, context);
    let (layouts, cache, without_index) = (
        Layouts::new(),
        FilterCache::new(),
        Schema::new::<&str>(&[]).unwrap(),
    );
    let auth = |team: &str| {
        Value::from_json(
            &mut format!(r#"{{"team":"{team}"}}"#).into_bytes(),
            &layouts,
        )
        .unwrap()
    };
    let mut present: Vec<(SlotRef, String)> = Vec::new();
    for round in 0..300usize {
        let team = format!("t{}", round % 5);
        hub.shard(0).lock(|table| match round % 7 {
            5 if !present.is_empty() => {
                let (at, _) = present.swap_remove(round % present.len());
                assert!(table.remove(at).is_some());
            }
            6 if !present.is_empty() => {
                let n = round % present.len();
                let old = table.connection(present[n].0).unwrap();
                let mut attributes = old.attributes.clone();
                attributes.auth = auth(&team);
                assert!(table.open(
                    present[n].0,
                    Connection::new(APP, attributes, Arc::default())
                ));
                present[n].1 = team.clone();
            }
            _ => present.push((connect(table, "u", auth(&team)), team.clone())),
        });
        let text = format!("auth.team == \"{team}\"");
        let selection = |schema: &Schema| {
            let filter = cache
                .get_or_compile(&text, schema)
                .unwrap()
                .filter
                .bind(None)
                .unwrap();
            Selection {
                filter: Some(Arc::new(filter)),
                ..Selection::everyone(APP)
            }
        };
        let count = present.iter().filter(|(_, have)| *have == team).count();
        assert_eq!(
            hub.reach(&selection(&schema)).bound(),
            count,
            "round {round}"
        );
        let scan = selection(&without_index);
        assert!(scan.is_scan());
        assert_eq!(
            hub.scan(&scan, |_, _| {}).await.matched,
            count as u64,
            "round {round}"
        );
    }
    assert!(matches!(
        hub.reach(&Selection::everyone(APP)),
        Reach::Large(_)
    ));
    hub.shard(0).lock(|table| {
        for (at, _) in present {
            table.remove(at);
        }
        assert!(table.is_empty());
    });
    assert!(layouts.is_empty());
}

#[test]
fn a_stored_event_is_confirmed_by_the_pong_behind_it_and_by_nothing_else() {
    let mut table = Table::new(0, context(Limits::default(), &[], SlowConsumer::Disconnect));
    let at = connect(&mut table, "u", Value::Null);
    let mut takes = Connection::clone(&table.connection(at).unwrap());
    assert!(
        !table.confirmed(at, 0) && !table.confirmed(at, 1),
        "it takes none"
    );
    takes.takes_stored = true;
    assert!(table.open(at, takes));
    table.ask(at, 4);
    table.ask(at, 7);
    assert!(
        !table.confirmed(at, 7),
        "the ping that is out stands behind 4"
    );
    assert!(table.confirmed(at, 4) && !table.confirmed(at, 4));
    assert!(table.open_question(at).is_some(), "7 is asked for by now");
    assert!(table.confirmed(at, 7));
    assert!(table.open_question(at).is_none());
}

#[test]
fn an_app_is_congested_by_its_own_sockets_alone() {
    let mut context =
        Context::of_one_app(Limits::default(), Arc::default(), SlowConsumer::Disconnect);
    let other = Context::of_one_app(Limits::default(), Arc::default(), SlowConsumer::Disconnect);
    context.apps.extend(other.apps);
    let hub = Hub::new(1, Arc::new(context));
    let shard = hub.shard(0);
    let mut owner = shard.owner();
    let at: Vec<SlotRef> = (0..201)
        .map(|n| shard.lock(|table| connect(table, &n.to_string(), Value::Null)))
        .collect();
    let mut outcome = Outcome::default();
    for at in &at {
        outcome.refuse(*at, vec![Frame::event_text(&[b"x"])], 0);
    }
    shard.lock(|table| table.settle(&mut owner, &mut outcome));
    assert!(hub.is_congested(APP) && !hub.is_congested(AppId(1)));

    // What a socket takes, and who is gone, refuses no longer.
    for (n, at) in at.into_iter().enumerate() {
        if n < 101 {
            shard.lock(|table| table.remove(at));
        } else {
            let mut frames = Vec::new();
            shard.lock(|table| table.lend(&mut owner, at, 1, &mut frames));
            shard.lock(|table| table.advance(&mut owner, at, frames[0].len()));
        }
    }
    assert!(!hub.is_congested(APP));
    let AppCounts { open, blocked } = &hub.context().app(APP).counts;
    assert_eq!((open.load(Relaxed), blocked.load(Relaxed)), (100, 0));
}
