//! Placing what is for everyone: publications that wait for the same shard go through its table together.
//!
//! They lie in the log one behind the other then, so that the runs of all connections are the same one, and each
//! connection is looked at once for all of them. Placed among each other they would break every run.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    Hub, Shard,
    connection::State,
    gate::Ticket,
    outbox::Queued,
    selection::{Except, Selection},
    sweep::{Counts, Looked, Spent},
    table::{Dirty, Table},
};
use crate::{id::AppId, limits::SWEEP_STRIDE, protocol::frame::Frame, time_slice::TimeSlice};

/// A publication that waits for one shard.
#[derive(Debug)]
struct Rider {
    app: AppId,
    except: Except,
    frame: Frame,
    ticket: Ticket,
    placed: OnceLock<Counts>,
}

impl Rider {
    fn queued(&self) -> Queued {
        Queued {
            frame: self.frame.clone(),
            ticket: Some(self.ticket.clone()),
        }
    }
}

type Wave = SmallVec<[Arc<Rider>; 16]>;

/// Who waits for a shard, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Waves {
    waiting: Mutex<Vec<Arc<Rider>>>,
    turn: tokio::sync::Mutex<()>,
}

impl Waves {
    /// Takes the riders of `app`, in the order in which they came.
    fn board(&self, app: AppId) -> Wave {
        let mut wave = Wave::new();
        self.waiting.lock().retain(|rider| {
            if rider.app == app {
                wave.push(rider.clone());
            }
            rider.app != app
        });
        wave
    }
}

/// What a wave has done so far.
#[derive(Debug)]
struct Tally {
    /// Where it goes on.
    next: u32,
    /// Connections met.
    met: u64,
    /// Connections that took the whole wave.
    whole: u64,
    /// By rider, those that took it though not the whole wave.
    single: SmallVec<[u64; 16]>,
    /// By rider, those that it leaves out.
    excepted: SmallVec<[u64; 16]>,
}

impl Tally {
    fn new(wave: &Wave) -> Self {
        let none = || wave.iter().map(|_| 0).collect();
        Self {
            next: 0,
            met: 0,
            whole: 0,
            single: none(),
            excepted: none(),
        }
    }

    fn of(&self, rider: usize) -> Counts {
        let looked = Looked {
            at: self.met,
            matched: self.met - self.excepted[rider],
            errors: 0,
        };
        Counts {
            looked,
            queued: self.whole + self.single[rider],
        }
    }
}

impl Table {
    /// Places a wave for the next connections of its app; false at the end.
    fn place_wave(&mut self, wave: &Wave, tally: &mut Tally) -> bool {
        // Collected one by one: a bitmap's iterator counts all that is left when it is asked for its length.
        let mut chunk: SmallVec<[u32; SWEEP_STRIDE]> = SmallVec::new();
        for slot in self.next_member(wave[0].app, tally.next).take(SWEEP_STRIDE) {
            chunk.push(slot);
        }
        let Some(last) = chunk.last() else {
            return false;
        };
        tally.next = last + 1;
        let mut spent = Spent::default();
        self.take_work();
        let mut first = self.enlog(wave);
        let excepting = wave.iter().any(|rider| !rider.except.is_empty());
        for slot in chunk {
            let entry = &mut self.slots[slot as usize];
            let (State::Open, Some(connection)) = (entry.state, &entry.connection) else {
                continue;
            };
            tally.met += 1;
            let excepted = excepting && wave.iter().any(|rider| rider.except.has(connection));
            if !excepted && entry.outbox.extend_run(first, wave.len(), &mut self.log) {
                tally.whole += 1;
                self.mark(slot, Dirty::Bulk);
            } else {
                self.place_singly(slot, wave, tally);
                // A run that became a queue has let go of its frames, and with them, perhaps, of the wave's.
                first = self.enlog(wave);
                // One that is closed as too slow may be in many channels.
                if spent.add(self.take_work()) {
                    tally.next = slot + 1;
                    break;
                }
            }
        }
        true
    }

    /// Where the wave begins in the log.
    fn enlog(&mut self, wave: &Wave) -> u64 {
        self.log
            .append(wave.iter().map(|rider| (&rider.frame, &rider.ticket)))
    }

    /// Places a wave for a connection that one of its events leaves out, or whose outbox is no run that goes on.
    fn place_singly(&mut self, slot: u32, wave: &Wave, tally: &mut Tally) {
        for (at, rider) in wave.iter().enumerate() {
            let entry = &mut self.slots[slot as usize];
            if entry.state != State::Open {
                // Closed as too slow by the one before; nothing may stand behind its close frame.
                break;
            }
            if entry
                .connection
                .as_ref()
                .is_some_and(|connection| rider.except.has(connection))
            {
                tally.excepted[at] += 1;
            } else if entry.outbox.is_blocked() {
                tally.single[at] += u64::from(self.place_blocked(slot, &rider.frame));
            } else {
                entry.outbox.push(rider.queued(), &mut self.log);
                self.mark(slot, Dirty::Bulk);
                tally.single[at] += 1;
            }
        }
    }
}

impl Shard {
    /// Places a publication for everyone in this shard, with all that wait for it too; where the gate `is_full`, also
    /// with those that it let in at the same time.
    async fn ride(
        &self,
        is_full: bool,
        selection: &Selection,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        let rider = Arc::new(Rider {
            app: selection.app,
            except: selection.except.clone(),
            frame: frame.clone(),
            ticket: ticket.clone(),
            placed: OnceLock::new(),
        });
        self.waves.waiting.lock().push(rider.clone());
        if is_full {
            tokio::task::yield_now().await;
        }
        let _turn = self.waves.turn.lock().await;
        if rider.placed.get().is_none() {
            self.carry(&self.waves.board(rider.app)).await;
        }
        rider.placed.get().copied().unwrap_or_default()
    }

    async fn carry(&self, wave: &Wave) {
        let mut tally = Tally::new(wave);
        let mut slice = TimeSlice::begin();
        // The lock is let go after every stride, so that a small publication need not wait for a slice.
        while self.with_fair(|table| table.place_wave(wave, &mut tally)) {
            slice.rest().await;
        }
        for (at, rider) in wave.iter().enumerate() {
            // Set by nobody else: who carries a rider has taken it from those that wait.
            let _ = rider.placed.set(tally.of(at));
        }
    }
}

/// Places publications as one wave, without waiting for anyone.
#[cfg(test)]
pub(super) fn place_at_once(
    table: &mut Table,
    publications: Vec<(Frame, Ticket, Except)>,
) -> Vec<Counts> {
    let rider = |(frame, ticket, except)| {
        let app = super::tests::APP;
        Arc::new(Rider {
            app,
            except,
            frame,
            ticket,
            placed: OnceLock::new(),
        })
    };
    let wave: Wave = publications.into_iter().map(rider).collect();
    let mut tally = Tally::new(&wave);
    while table.place_wave(&wave, &mut tally) {}
    (0..wave.len()).map(|at| tally.of(at)).collect()
}

impl Hub {
    /// Places a publication for everyone, less its exceptions, slice by slice, yielding between slices.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(super) async fn place_for_all(
        &self,
        selection: &Selection,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        let mut counts = Counts::default();
        for shard in self.shards() {
            let Counts { looked, queued } =
                shard.ride(self.is_full(), selection, frame, ticket).await;
            counts.looked.at += looked.at;
            counts.looked.matched += looked.matched;
            counts.queued += queued;
        }
        self.placed(counts, ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Coming, Outcome, Owner, Watching, tests::*},
        *,
    };
    use crate::{config::SlowConsumer, limits::Limits, predicate::Value};

    #[test]
    fn a_hold_that_closes_slow_consumers_ends_by_what_that_takes() {
        let limits = Limits {
            outbox_frames: 1,
            ..Limits::default()
        };
        let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
        let frame = Frame::event_text(&[b"x"]);
        hub.shard(0).own(|table| {
            let mut outcome = Outcome::default();
            for n in 0..SWEEP_STRIDE {
                let at = connect(table, &n.to_string(), Value::Null);
                for channel in 0..100 {
                    table.join(at, &channel.to_string(), Watching::No, Coming::New);
                }
                outcome.refuse(at, vec![frame.clone()], 0);
            }
            table.settle(&mut Owner::for_tests(), &mut outcome);
        });

        let ticket = hub.gate.try_admit(SWEEP_STRIDE, frame.len()).unwrap();
        let rider = Rider {
            app: APP,
            except: Except::default(),
            frame,
            ticket,
            placed: OnceLock::new(),
        };
        let wave: Wave = [Arc::new(rider)].into_iter().collect();
        let mut tally = Tally::new(&wave);
        let (mut met, mut goes_on) = (0, true);
        while goes_on {
            goes_on = hub
                .shard(0)
                .own(|table| table.place_wave(&wave, &mut tally));
            assert!(tally.met - met <= 2, "{tally:?}");
            met = tally.met;
        }
        assert_eq!((met, tally.of(0).queued), (SWEEP_STRIDE as u64, 0));
    }

    #[tokio::test]
    async fn publications_that_wait_at_once_are_placed_together_each_with_its_own_counts() {
        let hub = Hub::new(2, context(Limits::default(), &[], SlowConsumer::Disconnect));
        for shard in 0..2 {
            hub.shard(shard).own(|table| {
                for n in 0..100 {
                    connect(table, &format!("u{}", n % 50), Value::Null);
                }
            });
        }
        let everyone = Selection::everyone(APP);
        let mut but_two = everyone.clone();
        but_two.except.users.insert("u7".into());
        let held = hub.shard(0).waves.turn.lock().await;
        let frames: Vec<Frame> = (0..3u8).map(|n| Frame::event_text(&[&[n]])).collect();
        let place = async |n: usize, selection: &Selection| {
            let ticket = hub.gate.try_admit(200, 3).unwrap();
            hub.place_large(selection, &frames[n], &ticket).await
        };
        let all =
            async { tokio::join!(place(0, &everyone), place(1, &but_two), place(2, &everyone)) };
        let release = async {
            while hub.shard(0).waves.waiting.lock().len() < 3 {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let ((first, second, third), ()) = tokio::join!(all, release);
        assert_eq!([first.queued, second.queued, third.queued], [200, 196, 200]);
        assert_eq!((second.looked.at, second.looked.matched), (200, 196));
        // One behind the other, not one per slice: two shards' logs hold three frames each.
        let lengths = [0, 1].map(|shard| hub.shard(shard).own(|table| table.log.len()));
        assert_eq!(lengths, [3, 3]);
    }
}
