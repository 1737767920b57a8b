//! Placing what is for everyone: publications that wait for the same shard go through its table together.
//!
//! They lie in the log one behind the other then, so that the runs of all connections are the same one, and each
//! connection is looked at once for all of them. Placed among each other they would break every run.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    Hub, Shard,
    connection::State,
    gate::Ticket,
    outbox::Queued,
    selection::{Except, Selection},
    sweep::{Counts, Looked},
    table::{Dirty, Table},
};
use crate::{
    id::AppId,
    limits::{SLICE, SWEEP_STRIDE},
    protocol::frame::Frame,
};

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
        Queued { frame: self.frame.clone(), ticket: Some(self.ticket.clone()) }
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
    fn of(&self, rider: usize) -> Counts {
        let looked = Looked { at: self.met, matched: self.met - self.excepted[rider], errors: 0 };
        Counts { looked, queued: self.whole + self.single[rider] }
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
        let Some(last) = chunk.last() else { return false };
        tally.next = last + 1;
        let first = self.log.append(wave.iter().map(|rider| (&rider.frame, &rider.ticket)));
        let end = first + wave.len() as u64;
        let excepting = wave.iter().any(|rider| !rider.except.is_empty());
        for slot in chunk {
            let entry = &mut self.slots[slot as usize];
            let (State::Open, Some(connection)) = (entry.state, &entry.connection) else { continue };
            tally.met += 1;
            let excepted = excepting && wave.iter().any(|rider| rider.except.has(connection));
            if !excepted && entry.outbox.extend_run(first, end, &mut self.log) {
                tally.whole += 1;
                self.mark(slot, Dirty::Bulk);
            } else {
                self.place_singly(slot, wave, tally);
            }
        }
        true
    }

    /// Places a wave for a connection that one of its events leaves out, or whose outbox is no run that goes on.
    fn place_singly(&mut self, slot: u32, wave: &Wave, tally: &mut Tally) {
        for (at, rider) in wave.iter().enumerate() {
            let entry = &mut self.slots[slot as usize];
            if entry.connection.as_ref().is_some_and(|connection| rider.except.has(connection)) {
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
    /// Places a publication for everyone in this shard, with all that wait for it too.
    async fn ride(&self, selection: &Selection, frame: &Frame, ticket: &Ticket) -> Counts {
        let rider = Arc::new(Rider {
            app: selection.app,
            except: selection.except.clone(),
            frame: frame.clone(),
            ticket: ticket.clone(),
            placed: OnceLock::new(),
        });
        self.waves.waiting.lock().push(rider.clone());
        let _turn = self.waves.turn.lock().await;
        if rider.placed.get().is_none() {
            self.carry(&self.waves.board(rider.app)).await;
        }
        rider.placed.get().copied().unwrap_or_default()
    }

    async fn carry(&self, wave: &Wave) {
        let none = || wave.iter().map(|_| 0).collect();
        let mut tally = Tally { next: 0, met: 0, whole: 0, single: none(), excepted: none() };
        let mut until = Instant::now() + SLICE;
        // The lock is let go after every stride, so that a small publication need not wait for a slice.
        while self.with(|table| table.place_wave(wave, &mut tally)) {
            if Instant::now() >= until {
                tokio::task::yield_now().await;
                until = Instant::now() + SLICE;
            }
        }
        for (at, rider) in wave.iter().enumerate() {
            // Set by nobody else: who carries a rider has taken it from those that wait.
            let _ = rider.placed.set(tally.of(at));
        }
    }
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
            let Counts { looked, queued } = shard.ride(selection, frame, ticket).await;
            counts.looked.at += looked.at;
            counts.looked.matched += looked.matched;
            counts.queued += queued;
        }
        self.placed(counts, ticket)
    }
}
