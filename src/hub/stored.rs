//! Stored events on their way to a connection: what it has been given, and what it has confirmed.
//!
//! A connection confirms by the pong to a ping placed after the event; WebSocket clients answer pings by themselves,
//! and in order. Of what is live one such ping at a time is out, so that a flood of events costs few; a replay has
//! one after each stretch, so that a client that never stays for all of it gets on.

use smol_str::SmolStr;

use super::{
    Hub, Owner,
    admission::Permit,
    connection::{SlotRef, Snapshot, State},
    inbox::{Missing, Turn},
    outbox::Replay,
    scan::{Counts, Spent},
    selection::{Selection, user_key},
    table::{Context, Table},
};
use crate::{
    filter::{LookupKey, Verdict},
    history::{Entry, Position, Waiting},
    id::AppId,
    limits::{CONFIRMED_STRETCH, SCAN_CHUNK, SLOTS_LOOK},
    protocol::{frame::Frame, native, wire::Form},
    time_slice::TimeSlice,
};

/// What became of a stored event that was placed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlacedStored {
    /// What is held back counts as queued: it is stored, and handed over with what is missing before it.
    pub(crate) counts: Counts,
    /// Whether a connection waits for what is missing before it.
    pub(crate) is_held: bool,
}

/// When the store was asked what waits for a user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The newest of the node's doubts at that time.
    pub(crate) seen: u64,
    /// The user's lock is held since then: nothing can have come in the meantime.
    pub(crate) in_turn: bool,
}

/// A connection in doubt, and what of the store's answer it has missed.
#[derive(Debug)]
pub(crate) struct SuspectInbox {
    at: SlotRef,
    pub(crate) connection: Snapshot,
    /// In which form its frames are written.
    pub(crate) form: Form,
    missing: Missing,
}

impl SuspectInbox {
    /// The entries of `waiting` that the connection has missed.
    pub(crate) fn missed<'a>(&self, waiting: &'a Waiting) -> Vec<&'a Entry> {
        let Missing::After(after, _) = self.missing else {
            return Vec::new();
        };
        let reader = self.connection.reader();
        waiting
            .entries
            .iter()
            .filter(|entry| entry.offset > after && entry.is_for(&reader))
            .collect()
    }
}

/// Stored events, ready to be handed over, with pings among them that ask for their confirmation.
#[derive(Debug)]
pub(crate) struct StoredReplay {
    replay: Replay,
    /// The offsets after which the pings come.
    asked: Vec<u64>,
    events: u64,
}

impl StoredReplay {
    /// Makes a replay of `missed` in `form`. The shard's lock is not needed for it.
    pub(crate) fn new(context: &Context, form: Form, missed: &[&Entry]) -> Self {
        // This has room for the pings.
        let mut frames = Vec::with_capacity(missed.len() + missed.len() / CONFIRMED_STRETCH + 1);
        let mut asked = Vec::new();
        for stretch in missed.chunks(CONFIRMED_STRETCH) {
            frames.extend(stretch.iter().map(|entry| entry.frame.clone()));
            if let Some(last) = stretch.last() {
                asked.push(last.offset);
                frames.push(native::confirm_ping(last.offset));
            }
        }

        Self {
            replay: Replay::new(context.refused.clone(), context.wire(form), frames),
            asked,
            events: missed.len() as u64,
        }
    }

    /// How many events there are.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// What became of the connections of a user that were in doubt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CatchUp {
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

    /// Notes for the connections in [`SLOTS_LOOK`] slots from `from` on whose users `is_meant` names that stored events may be
    /// missing among what is placed from now on. Nothing more of them is placed, and no client confirms any, until the store was
    /// asked. `number` counts the node's doubts. Returns where the next slots begin.
    pub(crate) fn suspect_stored(
        &mut self,
        number: u64,
        from: usize,
        is_meant: impl Fn(AppId, &SmolStr) -> bool,
    ) -> Option<usize> {
        // A stretch of slots under each hold: a node may have a million.
        let end = self.slots.len().min(from + SLOTS_LOOK);
        for slot in &mut self.slots[from.min(end)..end] {
            let Some(inbox) = &mut slot.inbox else {
                continue;
            };
            let user = slot.connection.as_ref().and_then(|it| it.user_name());
            if user.is_none_or(|user| is_meant(slot.app, user)) {
                inbox.suspected_gap(number);
            }
        }
        (end < self.slots.len()).then_some(end)
    }

    /// The same for one connection.
    pub(crate) fn suspected_gap(&mut self, at: SlotRef, number: u64) {
        if let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) {
            inbox.suspected_gap(number);
        }
    }

    /// The users of connections in doubt among [`SLOTS_LOOK`] slots from `from` on, and where to look next.
    pub(crate) fn suspect(&self, from: usize) -> (Vec<(AppId, SmolStr)>, Option<usize>) {
        let end = self.slots.len().min(from + SLOTS_LOOK);
        let scan = self.slots[from.min(end)..end]
            .iter()
            .filter(|slot| slot.state == State::Open);
        let suspect = scan.filter_map(|slot| {
            let user = slot.connection.as_ref()?.user_name()?;
            slot.inbox
                .as_ref()?
                .is_suspect()
                .then(|| (slot.app, user.clone()))
        });
        (suspect.collect(), (end < self.slots.len()).then_some(end))
    }

    /// Takes note of a pong that answers a ping after a stored event; false if no such ping was out.
    pub(crate) fn hear_pong(&mut self, at: SlotRef) -> bool {
        let inbox = self.slot(at).and_then(|slot| slot.inbox.as_mut());
        inbox.is_some_and(|inbox| inbox.hear_pong())
    }

    /// Notes that the client answered the ping after `offset`; true if that confirms everything up to it.
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

        // While one was out, others were placed that it did not ask for.
        let placed = inbox.placed();
        if !inbox.is_asked() && placed > offset {
            self.ask(at, placed);
        }
        true
    }

    /// Hands an open connection what was `missed` of what waits for its user. True if the owner has to start writing; see
    /// [`Table::replay`].
    pub(crate) fn hand_over(
        &mut self,
        owner: &mut Owner,
        at: SlotRef,
        waiting: &Waiting,
        missed: StoredReplay,
    ) -> bool {
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return false;
        };
        inbox.stand(waiting);
        self.replay_stored(owner, at, missed)
    }

    fn replay_stored(&mut self, owner: &mut Owner, at: SlotRef, missed: StoredReplay) -> bool {
        if let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) {
            for offset in missed.asked {
                inbox.ask(offset);
            }
        }
        self.replay(owner, at, missed.replay)
    }

    /// What a connection in doubt has missed of what the store holds; nothing if it is not in doubt.
    pub(crate) fn judge(
        &mut self,
        at: SlotRef,
        waiting: &Waiting,
        asked: Asked,
    ) -> Option<SuspectInbox> {
        let connection = self.open_connection(at.slot)?.clone();
        let slot = self.slot(at)?;
        let form = slot.form;
        let inbox = slot.inbox.as_ref()?;

        match inbox.judge(waiting, asked.seen, asked.in_turn) {
            Missing::Nothing => None,
            missing => Some(SuspectInbox {
                at,
                connection,
                form,
                missing,
            }),
        }
    }

    /// Hands a connection in doubt what it has `missed`, and ends the doubt if that is all. A connection that is in another
    /// doubt by now stays in it. True if the owner has to start writing.
    pub(crate) fn catch_up(
        &mut self,
        owner: &mut Owner,
        suspect: &SuspectInbox,
        (waiting, asked): (&Waiting, Asked),
        missed: StoredReplay,
        caught_up: &mut CatchUp,
    ) -> bool {
        let at = suspect.at;
        // The judgement was made without the lock, so it is made again under it.
        let is_same = self
            .judge(at, waiting, asked)
            .is_some_and(|now| now.missing == suspect.missing);
        let Some(inbox) = self.slot(at).and_then(|slot| slot.inbox.as_mut()) else {
            return false;
        };
        if !is_same {
            caught_up.left += u64::from(inbox.is_suspect());
            return false;
        }

        let Missing::After(_, is_all) = suspect.missing else {
            inbox.give_up(waiting.position);
            caught_up.given_up += 1;
            return false;
        };

        let was_asked = inbox.go_on(waiting, is_all);
        let events = missed.events;
        let begins = self.replay_stored(owner, at, missed);
        // No ping goes out with events, so one asks again for those before.
        if events == 0 && was_asked {
            self.ask(at, 0);
        }

        caught_up.events += events;
        caught_up.left += u64::from(!is_all);
        begins
    }

    /// Gives up what a connection in doubt has missed: it waits for the client's next connection.
    pub(crate) fn give_up_stored(&mut self, at: SlotRef) {
        let inbox = self.slot(at).and_then(|slot| slot.inbox.as_mut());
        if let Some(inbox) = inbox.filter(|inbox| inbox.is_suspect()) {
            inbox.give_up(None);
        }
    }

    /// Up to [`SCAN_CHUNK`] open connections of a user from slot `from` on, in the order of slots.
    pub(crate) fn connections_of(&self, app: AppId, user: &LookupKey, from: u32) -> Vec<SlotRef> {
        let slots = self.apps[app.0 as usize].users.page(user, from, SCAN_CHUNK);
        slots
            .into_iter()
            .filter_map(|slot| self.reference(slot))
            .collect()
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

    /// Whether more than `bytes` wait for a connection that were not written yet: what its socket refused, and what only it is
    /// sent. What it has in common with others in the log is not of its asking.
    pub(crate) fn is_behind(&mut self, at: SlotRef, bytes: usize) -> bool {
        let is_there = matches!(self.state(at), State::Open | State::Pending);
        is_there && self.slot(at).is_some_and(|slot| slot.outbox.is_over(bytes))
    }

    /// Hands an open connection frames that it missed, before everything that is placed from now on.
    ///
    /// They are shared with the history and count as refused bytes of the node, but not towards the connection's own
    /// bounds: it did not ask for them faster than it reads. True if the owner has to start writing them.
    pub(crate) fn replay(&mut self, _: &mut Owner, at: SlotRef, frames: Replay) -> bool {
        if frames.is_empty() || self.state(at) != State::Open {
            return false;
        }
        // The owner writes on by itself if the socket was blocked already.
        let was_blocked = self.slots[at.slot as usize].outbox.is_blocked();
        self.backlog_of(at.slot).append(frames);
        !was_blocked
    }

    /// Places a stored event for one connection of its user.
    fn place_stored(
        &mut self,
        at: SlotRef,
        (selection, frame, permit): (&Selection, &Frame, &Permit),
        position: Position,
        placed: &mut PlacedStored,
    ) {
        let may_ask = self.context.interest.is_some();
        let Some(connection) = self.open_connection(at.slot).cloned() else {
            return;
        };

        let counts = &mut placed.counts;
        counts.scan.evaluated += 1;

        // A connection that the event is not for has nothing to miss of it.
        let inbox = self.slot(at).and_then(|slot| slot.inbox.as_mut());
        let turn = inbox.map_or(Turn::Next, |inbox| inbox.receive(position, may_ask));
        placed.is_held |= turn == Turn::Later;

        // Nothing is stored of an event with a filter, so that this costs next to nothing.
        let judged = selection.admits(&connection, &connection.attributes.auth);
        if judged.verdict != Verdict::Match {
            return;
        }

        counts.scan.matched += 1;
        if turn != Turn::Next {
            counts.queued += 1;
            return;
        }

        counts.queued += u64::from(self.place(at.slot, frame, permit));
        self.ask(at, position.offset);
    }
}

impl Hub {
    /// Notes for the connections of `user` that stored events may be missing, as [`Table::suspect_stored`] does.
    pub(crate) async fn suspect_user(&self, app: AppId, user: &str, number: u64) {
        let key = user_key(user);
        for shard in self.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock_and_wake(|table| {
                    let found = table.connections_of(app, &key, from);
                    for &at in &found {
                        table.suspected_gap(at, number);
                    }
                    // A full page may have others after it.
                    found.get(SCAN_CHUNK - 1).map(|last| last.slot + 1)
                });
                tokio::task::yield_now().await;
            }
        }
    }

    /// Places the stored event at `position` of `user` for the user's connections in `selection`; those that take stored events
    /// are asked to confirm it. A few connections are placed immediately, many in slices.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(crate) async fn place_stored(
        &self,
        (selection, user): (&Selection, &str),
        frame: &Frame,
        position: Position,
        permit: &Permit,
        slice: &mut TimeSlice,
    ) -> PlacedStored {
        self.context().forms.prepare(selection.app, frame);
        let key = user_key(user);
        let mut placed = PlacedStored::default();

        for shard in self.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock_and_wake(|table| {
                    let found = table.connections_of(selection.app, &key, from);
                    let mut spent = Spent::default();
                    table.take_work();

                    for &at in &found {
                        table.place_stored(at, (selection, frame, permit), position, &mut placed);
                        // One that is closed as too slow may be in many channels.
                        if spent.add(table.take_work()) {
                            return Some(at.slot + 1);
                        }
                    }

                    let last = found.get(SCAN_CHUNK - 1);
                    last.map(|last| last.slot + 1)
                });

                if next.is_some() {
                    slice.rest().await;
                }
            }
        }

        placed
    }
}
