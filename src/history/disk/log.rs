//! A topic in memory: its numbering, and what has to be known of its events without reading them.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    history::{
        Entry, Epoch, Omit, Position, Reader, Run,
        memory::{Confirmed, weight},
    },
    limits::HISTORY_CONFIRMERS,
};

/// An event without its frame.
#[derive(Debug)]
pub(super) struct Stub {
    pub(super) offset: u64,
    /// [`Entry::bytes`].
    pub(super) bytes: u32,
    /// When it is past its time; never later than of a newer one.
    pub(super) until_ms: u64,
    omit: Option<Arc<Omit>>,
}

impl Stub {
    pub(super) fn new(entry: &Entry, until_ms: u64) -> Self {
        Self {
            offset: entry.offset,
            bytes: entry.bytes() as u32,
            until_ms,
            omit: entry.omit.clone(),
        }
    }

    fn is_for(&self, reader: &Reader<'_>) -> bool {
        !self.omit.as_ref().is_some_and(|omit| omit.has(reader))
    }

    /// What it counts for against the bound on all topics.
    pub(super) fn weight(&self) -> u64 {
        weight(self.bytes as usize, self.omit.as_deref()) as u64
    }
}

/// A topic: its numbering, and the newest run of its events.
#[derive(Debug)]
pub(super) struct Log {
    /// Names its events on disk.
    pub(super) id: u64,
    pub(super) position: Position,
    /// The numbering that this one goes on from, up to its last offset that was stored.
    pub(super) parent: Option<Position>,
    /// The highest offset that was removed unconfirmed.
    pub(super) lost_to: u64,
    /// When it was last used, to some minutes.
    pub(super) used_ms: u64,
    /// The generation of the directory in which it was last written.
    pub(super) generation: u32,
    pub(super) stubs: VecDeque<Stub>,
    /// Bytes of its events, as [`Entry::bytes`] counts them.
    pub(super) bytes: u64,
    /// The minute for which it was last noted as due.
    pub(super) due: u32,
    /// Its record differs from the one on disk.
    pub(super) is_changed: bool,
    /// Readers from whom some of what is stored is withheld.
    confirmed: Vec<Confirmed>,
}

impl Log {
    /// Begins a numbering after `offset`.
    pub(super) fn new(id: u64, epoch: Epoch, offset: u64) -> Self {
        Self {
            id,
            position: Position { epoch, offset },
            parent: None,
            lost_to: offset,
            used_ms: 0,
            generation: 0,
            stubs: VecDeque::new(),
            bytes: 0,
            due: 0,
            is_changed: false,
            confirmed: Vec::new(),
        }
    }

    /// Adds the newest event. Older ones are stored no longer than it: what is stored is a run.
    pub(super) fn push(&mut self, stub: Stub) {
        let until_ms = stub.until_ms;
        let longer = self.stubs.iter_mut().rev();
        for older in longer.take_while(|older| older.until_ms > until_ms) {
            older.until_ms = until_ms;
        }
        self.bytes += u64::from(stub.bytes);
        self.stubs.push_back(stub);
        self.is_changed = true;
    }

    /// Removes the oldest event, which was not confirmed.
    pub(super) fn pop_lost(&mut self) -> Option<Stub> {
        let stub = self.stubs.pop_front()?;
        self.lost_to = stub.offset;
        self.bytes -= u64::from(stub.bytes);
        self.is_changed = true;
        self.trim();
        Some(stub)
    }

    /// Removes what is stored up to `offset` and is for `reader`, which has it and is called `who`.
    pub(super) fn confirm(&mut self, offset: u64, reader: &Reader<'_>, who: u64) -> Vec<Stub> {
        let up_to = |offset| self.stubs.partition_point(|stub| stub.offset <= offset);
        let known = self.confirmed.iter().find(|known| known.who == who);
        let start = known.map_or(0, |known| up_to(known.offset));
        let end = up_to(offset);
        if end <= start {
            return Vec::new();
        }

        let mut removed = Vec::new();
        let rest = self.stubs.split_off(end);
        let looked_at: Vec<Stub> = self.stubs.drain(start..).collect();

        for stub in looked_at {
            if stub.is_for(reader) {
                self.bytes -= u64::from(stub.bytes);
                removed.push(stub);
            } else {
                self.stubs.push_back(stub);
            }
        }

        let has_withheld = !self.stubs.is_empty();
        self.stubs.extend(rest);

        // From most readers nothing is withheld, and nothing has to be remembered.
        if has_withheld {
            self.confirmed.retain(|known| known.who != who);
            // One that is forgotten costs a longer look the next time, and nothing else.
            if self.confirmed.len() == HISTORY_CONFIRMERS {
                self.confirmed.remove(0);
            }
            self.confirmed.push(Confirmed {
                who,
                offset: offset.min(self.position.offset),
            });
        }

        self.trim();
        removed
    }

    /// Gives back room.
    fn trim(&mut self) {
        if self.stubs.is_empty() {
            self.confirmed = Vec::new();
        }
        // Rarely: a topic that is in use grows again, and would be copied each time.
        if self.stubs.capacity() > 16 + 4 * self.stubs.len() {
            self.stubs.shrink_to(2 * self.stubs.len());
        }
    }

    /// The run that is stored now after `offset`.
    pub(super) fn run_after(&self, offset: u64) -> Run {
        Run {
            epoch: self.position.epoch,
            // Nothing is stored up to what was removed unconfirmed.
            after: offset.max(self.lost_to),
            end: self.position.offset,
        }
    }

    /// Whether nothing but what was confirmed is missing after `offset` of `epoch`; without an epoch, of the present one.
    pub(super) fn proves(&self, epoch: Option<&str>, offset: u64) -> bool {
        let newest = match epoch.map(str::parse::<Epoch>) {
            None => self.position.offset,
            Some(Ok(epoch)) if epoch == self.position.epoch => self.position.offset,
            Some(Ok(epoch)) => match self.parent {
                Some(parent) if parent.epoch == epoch => parent.offset,
                _ => return false,
            },
            Some(Err(_)) => return false,
        };
        (self.lost_to..=newest).contains(&offset)
    }

    /// Goes on in another life of the files, in which what was given out last may be missing: a channel in a new epoch, a
    /// user's numbering after a leap, so that a confirmation that is under way confirms nothing that is yet to come.
    pub(super) fn fork(&mut self, is_user: bool, leap: u64, keeps_parent: bool) {
        self.is_changed = true;
        if is_user {
            self.position.offset += leap;
            // A user's offsets need not be without gaps: a leap over all that may have been given
            // out is enough.
            return;
        }
        self.parent = keeps_parent.then_some(self.position);
        self.position.epoch = Epoch::random();
    }
}
