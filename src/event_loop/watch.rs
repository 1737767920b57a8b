//! Heartbeats, deadlines and stalled sockets, looked after once per tick.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{
    EventLoop, NEVER, Seat,
    deadlines::{Due, until},
};
use crate::{
    close::{self, Close},
    hub::{SlotRef, State},
    limits::{PING_LOOK, SWEEP_STRIDE, TICK},
    metrics::Refusal,
    protocol::{frame::Frame, native},
    time_slice::TimeSlice,
};

/// What a client is told that should have authenticated and did not.
const NOT_IN_TIME: &str = "no token came in time; connect with ?token=, or send op \"auth\" first";

impl EventLoop {
    /// Looks after the shard until the thread ends.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = Frame::ping(b"");
        let mut seen = 0;
        loop {
            ticks.tick().await;
            // A shard is alive if it writes. The writer sleeps when nothing waits, so it is woken to show that it can.
            let flushes = self.flushes.get();
            if flushes != seen {
                seen = flushes;
                self.shard.beat();
            }
            self.shard.ring();
            self.note_closing();
            let (due, late) = self
                .heartbeats
                .borrow_mut()
                .turn(|at| self.seat_of(at).is_some());
            // There may be thousands of each: many came in the same tick, or their tokens were signed in the same second.
            let mut slice = TimeSlice::begin();
            for at in late {
                self.miss(at);
                slice.rest().await;
            }
            for some in due.chunks(SWEEP_STRIDE) {
                self.ping(some, &ping);
                slice.rest().await;
            }
            while self.fire() {
                slice.rest().await;
            }
            self.unfinished.expire(Instant::now());
        }
    }

    pub(super) fn ping(&self, due: &[SlotRef], ping: &Frame) {
        for seat in due.iter().filter_map(|at| self.seat_of(*at)) {
            seat.awaiting.set(true);
            seat.pings.set(seat.pings.get().wrapping_add(1));
            seat.pinged.set(true);
            self.note_expiry(&seat);
        }
        self.shard.with(|table| {
            for at in due {
                let ping = table.open_question(*at).unwrap_or_else(|| ping.clone());
                table.place_own(*at, ping);
            }
        });
    }

    /// Looks after a connection that was pinged a while ago: if it has not answered, it is ended.
    ///
    /// The time to answer begins when the ping has left the socket. A client on a slow link may still be reading what stands
    /// before it.
    pub(super) fn miss(&self, at: SlotRef) {
        let Some(seat) = self.seat_of(at) else { return };
        if !seat.awaiting.get() || seat.waits.get() {
            return;
        }
        if Self::holds_ping(&seat) {
            // What is in the kernel's hands, only the kernel can see moving.
            seat.end_if_silent_for(self.hub.limits().outbox_age);
            seat.waits.set(true);
            self.expect(PING_LOOK, at, Due::PingLeft(seat.pings.get()));
        } else {
            self.end_silent(at);
        }
    }

    /// Whether the last ping is not on its way yet. How long a socket may refuse, its own deadline says.
    fn holds_ping(seat: &Seat) -> bool {
        seat.stalled.get().is_some() || seat.has_unsent()
    }

    fn end_silent(&self, at: SlotRef) {
        let close = Close::new(close::HEARTBEAT_MISSED, "no answer to a ping");
        self.shard.with(|table| table.close_lost(at, &close));
    }

    /// Looks whether a ping that was late in leaving has left.
    fn look_for_ping(&self, at: SlotRef, number: u32) {
        let Some(seat) = self.seat_of(at) else { return };
        if !seat.awaiting.get() || seat.pings.get() != number {
            return seat.waits.set(false);
        }
        if Self::holds_ping(&seat) {
            return self.expect(PING_LOOK, at, Due::PingLeft(number));
        }
        let wait = self.hub.limits().heartbeat_wait;
        self.expect(wait, at, Due::Pong(number));
    }

    /// Ends a connection that has not answered a ping which left late.
    fn miss_late(&self, at: SlotRef, number: u32) {
        let Some(seat) = self.seat_of(at) else { return };
        seat.waits.set(false);
        if seat.awaiting.get() && seat.pings.get() == number {
            self.miss(at);
        }
    }

    fn expect(&self, wait: Duration, at: SlotRef, due: Due) {
        self.deadlines.borrow_mut().push(wait, at, due);
    }

    /// Does what is due next; false if nothing is.
    pub(super) fn fire(&self) -> bool {
        let due = self.deadlines.borrow_mut().pop();
        let Some((at, due)) = due else { return false };
        match due {
            Due::Reset => {
                if let Some(seat) = self.seat_of(at) {
                    seat.reset();
                }
            }
            Due::Authentication => self.give_up_on(at),
            Due::Expiry(second) => self.expire(at, second),
            Due::PingLeft(number) => self.look_for_ping(at, number),
            Due::Pong(number) => self.miss_late(at, number),
            Due::Stalled => self.end_stalled(at),
        }
        true
    }

    /// Sends a client away that has shown no token in time.
    fn give_up_on(&self, at: SlotRef) {
        if self.seat_of(at).is_some_and(|seat| seat.vouched.get()) {
            return;
        }
        let close = Close::new(close::UNAUTHORIZED, NOT_IN_TIME);
        let refused = self.shard.with(|table| {
            let connection = table.connection(at)?;
            (table.state(at) == State::Pending && table.close(at, None, &close))
                .then_some(connection.app)
        });
        if let Some(app) = refused {
            let refusals = &self.hub.context().refusals;
            refusals.refuse(Refusal::TokenMissing, Some(app), NOT_IN_TIME);
        }
    }

    /// The deadline for `second` has come. It may be another's by now, or early: a renewed token ends later, and clocks are
    /// set.
    pub(super) fn expire(&self, at: SlotRef, second: u32) {
        let expected = |seat: &Rc<Seat>| seat.expected.get() == second;
        let Some(seat) = self.seat_of(at).filter(expected) else {
            return;
        };
        seat.expected.set(NEVER);
        let connection = self.shard.own(|table| table.connection(at));
        let Some(expires_at) = connection.and_then(|connection| connection.expires_at) else {
            return;
        };
        if until(expires_at.get()) > Duration::ZERO {
            return self.expect_expiry(at, expires_at.get());
        }
        let close = Close::new(close::EXPIRED, "token expired");
        let bye = native::bye_expired(&close);
        self.shard.with(|table| table.close(at, Some(bye), &close));
    }

    /// Looks, after `wait`, whether the socket of `seat` still takes nothing.
    pub(super) fn watch_stalled(&self, seat: &Seat, wait: Duration) {
        if !seat.is_watched.replace(true) {
            self.expect(wait, seat.at, Due::Stalled);
        }
    }

    /// Closes a connection whose socket has taken nothing for too long.
    fn end_stalled(&self, at: SlotRef) {
        let Some(seat) = self.seat_of(at) else { return };
        seat.is_watched.set(false);
        let Some(since) = seat.stalled.get() else {
            return;
        };
        let left = self.hub.limits().outbox_age.saturating_sub(since.elapsed());
        if left > Duration::ZERO {
            return self.watch_stalled(&seat, left);
        }
        self.shard
            .with(|table| table.close_slow(at, "its socket took nothing for too long"));
    }
}
