//! Stored events on their way to a connection: what it has been given, and what it has confirmed.
//!
//! A connection confirms by the pong to a ping placed behind the event; WebSocket clients answer pings by themselves,
//! and in order. Of what is live one such ping at a time is out, so that a flood of events costs few; a replay has one
//! behind each stretch, so that a client that never stays for all of it gets on.

use smol_str::SmolStr;

use super::{
    Hub,
    connection::{SlotRef, State},
    gate::Ticket,
    inbox::{Missing, Turn},
    selection::{Named, Selection},
    sweep::Counts,
    table::Table,
};
use crate::{
    history::{Entry, Position, Reader, Waiting},
    id::AppId,
    limits::{CONFIRMED_STRETCH, DOUBTED_LOOK},
    predicate::Verdict,
    protocol::{frame::Frame, native},
};

/// What became of a stored event that was placed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlacedStored {
    /// What is held back counts as queued: it is stored, and handed over with what is missing before it.
    pub(crate) counts: Counts,
    /// Whether a connection waits for what is missing before it.
    pub(crate) is_held: bool,
}

/// What became of the connections of a user that were in doubt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mended {
    /// Events handed over.
    pub(crate) events: u64,
    /// Connections that are in doubt still.
    pub(crate) left: u64,
    /// Connections for which it is not certain what is missing.
    pub(crate) given_up: u64,
}

impl Table {
    /// Asks for the confirmation of the stored event `offset`, which was just placed for `at`.
    pub(crate) fn ask(&mut self, at: SlotRef, offset: u64) {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return;
        };
        if inbox.asks(offset) {
            let ping = native::confirm_ping(inbox.placed());
            self.place_own(at, ping);
        }
    }

    /// Notes that stored events may be missing among what is placed from now on: nothing more of them is, and nobody
    /// confirms any, until the store was asked. `number` counts the node's doubts.
    pub(crate) fn doubt_stored(&mut self, number: u64) {
        for inbox in self.slots.iter_mut().filter_map(|slot| slot.inbox.as_mut()) {
            inbox.doubt(number);
        }
    }

    /// The same for one connection.
    pub(crate) fn doubt(&mut self, at: SlotRef, number: u64) {
        if let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) {
            inbox.doubt(number);
        }
    }

    /// The users of connections in doubt among [`DOUBTED_LOOK`] slots from `from` on, and where to look next.
    pub(crate) fn doubted(&self, from: usize) -> (Vec<(AppId, SmolStr)>, Option<usize>) {
        let end = self.slots.len().min(from + DOUBTED_LOOK);
        let looked = self.slots[from.min(end)..end]
            .iter()
            .filter(|slot| slot.state == State::Open);
        let doubted = looked.filter_map(|slot| {
            let user = slot.connection.as_ref()?.user_name()?;
            slot.inbox
                .as_ref()?
                .is_doubted()
                .then(|| (slot.app, user.clone()))
        });
        (doubted.collect(), (end < self.slots.len()).then_some(end))
    }

    /// Notes that the client answered the ping behind `offset`; true if that confirms everything up to it.
    ///
    /// What a client makes up confirms nothing that it was not given.
    pub(crate) fn confirmed(&mut self, at: SlotRef, offset: u64) -> bool {
        if self.state(at) != State::Open {
            return false;
        }
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return false;
        };
        if !inbox.answered(offset) {
            return false;
        }
        let placed = inbox.placed();
        if !inbox.is_asked() && placed > offset {
            self.ask(at, placed);
        }
        true
    }

    /// Hands an open connection what waits for its user, with pings that ask for its confirmation. True if the owner has
    /// to start writing; see [`Table::replay`].
    pub(crate) fn hand_over(&mut self, at: SlotRef, waiting: &Waiting, missed: &[&Entry]) -> bool {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return false;
        };
        inbox.stand(waiting);
        self.replay_stored(at, missed)
    }

    fn replay_stored(&mut self, at: SlotRef, missed: &[&Entry]) -> bool {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return false;
        };
        let mut frames = Vec::with_capacity(missed.len() + missed.len() / CONFIRMED_STRETCH + 1);
        for stretch in missed.chunks(CONFIRMED_STRETCH) {
            frames.extend(stretch.iter().map(|entry| entry.frame.clone()));
            if let Some(last) = stretch.last() {
                inbox.ask(last.offset);
                frames.push(native::confirm_ping(last.offset));
            }
        }
        !frames.is_empty() && self.replay(at, frames)
    }

    /// Hands a connection in doubt what it has missed of what the store holds, and ends the doubt where that is all.
    fn mend(
        &mut self,
        at: SlotRef,
        waiting: &Waiting,
        (seen, in_turn): (u64, bool),
        mended: &mut Mended,
    ) {
        let Some(connection) = self.open_connection(at.slot).cloned() else {
            return;
        };
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return;
        };
        let (after, is_all) = match inbox.judge(waiting, seen, in_turn) {
            Missing::Nothing => return,
            Missing::After(after, is_all) => (after, is_all),
            Missing::Unknown => {
                inbox.give_up(waiting.position);
                mended.given_up += 1;
                return;
            }
        };
        let was_asked = inbox.go_on(waiting, is_all);
        let reader = Reader {
            user: connection.user(),
            device: connection.device(),
            connection: connection.id(),
        };
        let later = waiting.entries.iter().filter(|entry| entry.offset > after);
        let missed: Vec<&Entry> = later.filter(|entry| entry.is_for(&reader)).collect();
        if self.replay_stored(at, &missed) {
            self.replays.push(at);
        }
        if missed.is_empty() && was_asked {
            self.ask(at, 0);
        }
        mended.events += missed.len() as u64;
        mended.left += u64::from(!is_all);
    }

    /// The connections whose replays the owner has to start to write, since the last call.
    pub(crate) fn take_replays(&mut self) -> Vec<SlotRef> {
        std::mem::take(&mut self.replays)
    }

    /// The ping that asks for what is not confirmed yet, if any: a client may answer only the last of several pings
    /// (RFC 6455, section 5.5.3), so a heartbeat's must not take its place.
    pub(crate) fn open_question(&mut self, at: SlotRef) -> Option<Frame> {
        self.slot(at)?
            .inbox
            .as_ref()?
            .open_question()
            .map(native::confirm_ping)
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
    /// Places the stored event at `position` of one user for the connections of `selection`; those that take stored
    /// events are asked to confirm it. Places at once, without yielding: a user has few connections.
    pub(crate) fn place_stored(
        &self,
        selection: &Selection,
        frame: &Frame,
        position: Position,
        ticket: &Ticket,
    ) -> PlacedStored {
        let mut placed = PlacedStored::default();
        let counts = &mut placed.counts;
        let may_ask = self.context().interest.is_some();
        for shard in self.shards() {
            shard.with(|table| {
                for at in table.candidates(selection.app, selection.source()) {
                    let Some(connection) = table.open_connection(at.slot).cloned() else {
                        continue;
                    };
                    counts.looked.at += 1;
                    let inbox = table.slot(at).and_then(|slot| slot.inbox.as_mut());
                    // Whom it is not for has nothing to miss of it.
                    let turn = inbox.map_or(Turn::Next, |inbox| inbox.receive(position, may_ask));
                    placed.is_held |= turn == Turn::Later;
                    if selection.admits(&connection, &connection.attributes.auth) != Verdict::Match
                    {
                        continue;
                    }
                    counts.looked.matched += 1;
                    if turn != Turn::Next {
                        counts.queued += 1;
                        continue;
                    }
                    counts.queued += u64::from(table.place(at.slot, frame, ticket));
                    table.ask(at, position.offset);
                }
            });
        }
        placed
    }

    /// Hands the connections of `user` that are in doubt what they have missed of what the store holds, which was asked
    /// after doubt number `seen`. `in_turn`: the user's turn was held since then.
    pub(crate) fn mend_stored(
        &self,
        (app, user): (AppId, &str),
        waiting: &Waiting,
        (seen, in_turn): (u64, bool),
    ) -> Mended {
        let selection = Selection {
            named: Some(Named::user(user)),
            ..Selection::everyone(app)
        };
        let mut mended = Mended::default();
        for shard in self.shards() {
            shard.with(|table| {
                for at in table.candidates(app, selection.source()) {
                    table.mend(at, waiting, (seen, in_turn), &mut mended);
                }
            });
        }
        mended
    }

    /// Gives up what the connections of `user` that are in doubt have missed: it waits for the next connection.
    pub(crate) fn give_up_stored(&self, app: AppId, user: &str) {
        let selection = Selection {
            named: Some(Named::user(user)),
            ..Selection::everyone(app)
        };
        for shard in self.shards() {
            shard.own(|table| {
                for at in table.candidates(app, selection.source()) {
                    let inbox = table.slot(at).and_then(|slot| slot.inbox.as_mut());
                    if let Some(inbox) = inbox.filter(|inbox| inbox.is_doubted()) {
                        inbox.give_up(None);
                    }
                }
            });
        }
    }
}
