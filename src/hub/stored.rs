//! Stored events on their way to a connection: what it has been given, and what it has confirmed.
//!
//! A connection confirms by the pong to a ping placed behind the event; WebSocket clients answer pings by themselves,
//! and in order. Of what is live one such ping at a time is out, so that a flood of events costs few; a replay has one
//! behind each stretch, so that a client that never stays for all of it gets on.

use std::collections::VecDeque;

use super::{
    Hub,
    connection::{SlotRef, State},
    gate::Ticket,
    selection::Selection,
    sweep::Counts,
    table::Table,
};
use crate::{
    history::Entry,
    limits::CONFIRMED_STRETCH,
    predicate::Verdict,
    protocol::{frame::Frame, native},
};

/// What one connection has been given of its user's stored events.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Offset of the newest that was placed.
    placed: u64,
    /// Offsets that the pings which are out stand behind, in order.
    asked: VecDeque<u64>,
    /// An event was thrown away: nothing behind it may be confirmed.
    broken: bool,
}

impl Inbox {
    /// Notes that an event was thrown away before it was written.
    pub(super) fn lose(&mut self) {
        self.broken = true;
    }
}

impl Table {
    /// Notes that the stored event `offset` was just placed for `slot`, and asks for its confirmation.
    pub(crate) fn ask(&mut self, at: SlotRef, offset: u64) {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else { return };
        inbox.placed = inbox.placed.max(offset);
        if inbox.asked.is_empty() && !inbox.broken {
            inbox.asked.push_back(inbox.placed);
            let ping = native::confirm_ping(inbox.placed);
            self.place_own(at, ping);
        }
    }

    /// Notes that stored events may be missing among what is placed from now on: nobody confirms any more what stands behind
    /// them, so all of it waits for the next connection.
    pub(crate) fn doubt_stored(&mut self) {
        for inbox in self.slots.iter_mut().filter_map(|slot| slot.inbox.as_mut()) {
            inbox.lose();
        }
    }

    /// Whether the stored event `offset` was placed for `at` before.
    fn has_been_given(&mut self, at: SlotRef, offset: u64) -> bool {
        self.slot(at).and_then(|slot| slot.inbox.as_ref()).is_some_and(|inbox| inbox.placed >= offset)
    }

    /// Notes that the client answered the ping behind `offset`; true if that confirms everything up to it.
    ///
    /// What a client makes up confirms nothing that it was not given.
    pub(crate) fn confirmed(&mut self, at: SlotRef, offset: u64) -> bool {
        if self.state(at) != State::Open {
            return false;
        }
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else { return false };
        let Some(known) = inbox.asked.iter().position(|asked| *asked == offset).filter(|_| !inbox.broken)
        else {
            return false;
        };
        // Who answers one has had those before it (RFC 6455, section 5.5.3).
        inbox.asked.drain(..=known);
        let placed = inbox.placed;
        if inbox.asked.is_empty() && placed > offset {
            self.ask(at, placed);
        }
        true
    }

    /// Hands an open connection what was stored for its user, with pings that ask for its confirmation. True if the
    /// owner has to start writing; see [`Table::replay`].
    pub(crate) fn hand_over(&mut self, at: SlotRef, missed: &[&Entry]) -> bool {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else { return false };
        inbox.placed = missed.last().map_or(inbox.placed, |last| last.offset);
        let mut frames = Vec::with_capacity(missed.len() + missed.len() / CONFIRMED_STRETCH + 1);
        for stretch in missed.chunks(CONFIRMED_STRETCH) {
            frames.extend(stretch.iter().map(|entry| entry.frame.clone()));
            if let Some(last) = stretch.last() {
                inbox.asked.push_back(last.offset);
                frames.push(native::confirm_ping(last.offset));
            }
        }
        !frames.is_empty() && self.replay(at, frames)
    }

    /// The ping that asks for what is not confirmed yet, if any: a client may answer only the last of several pings
    /// (RFC 6455, section 5.5.3), so a heartbeat's must not take its place.
    pub(crate) fn open_question(&mut self, at: SlotRef) -> Option<Frame> {
        let inbox = self.slot(at)?.inbox.as_ref()?;
        inbox.asked.back().filter(|_| !inbox.broken).map(|asked| native::confirm_ping(*asked))
    }

    /// Whether frames that were handed over by [`Table::replay`] still wait for the socket of an open connection.
    pub(crate) fn is_replaying(&mut self, at: SlotRef) -> bool {
        self.state(at) == State::Open
            && self
                .slot(at)
                .and_then(|slot| slot.outbox.backlog())
                .is_some_and(|backlog| backlog.is_replaying())
    }

    /// Hands an open connection frames that it missed, before everything that is placed from now on.
    ///
    /// They are shared with the history and count as refused bytes of the node, but not towards the connection's own
    /// bounds: it did not ask for them faster than it reads. True if the owner has to start writing them.
    pub(crate) fn replay(&mut self, at: SlotRef, frames: impl IntoIterator<Item = Frame>) -> bool {
        if self.state(at) != State::Open {
            return false;
        }
        let was_blocked = self.slots[at.slot as usize].outbox.is_blocked();
        let backlog = self.backlog_of(at.slot);
        for frame in frames {
            backlog.push_replayed(frame);
        }
        !was_blocked
    }
}

impl Hub {
    /// Places the stored event `offset` of one user for the connections of `selection`; those that take stored events
    /// are asked to confirm it. Places at once, without yielding: a user has few connections.
    pub(crate) fn place_stored(
        &self,
        selection: &Selection,
        frame: &Frame,
        offset: u64,
        ticket: &Ticket,
    ) -> Counts {
        let mut counts = Counts::default();
        for shard in self.shards() {
            shard.with(|table| {
                for at in table.candidates(selection.app, selection.source()) {
                    let Some(connection) = table.open_connection(at.slot) else { continue };
                    counts.looked.at += 1;
                    if selection.admits(connection) != Verdict::Match {
                        continue;
                    }
                    counts.looked.matched += 1;
                    // Over a bus it may come after it was handed over with what had waited.
                    if table.has_been_given(at, offset) {
                        counts.queued += 1;
                        continue;
                    }
                    counts.queued += u64::from(table.place(at.slot, frame, ticket));
                    table.ask(at, offset);
                }
            });
        }
        counts
    }
}
