//! Heartbeats, deadlines and stalled sockets, looked after once per tick.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{
    EventLoop, NEVER,
    deadlines::{Due, until},
};
use crate::{
    close::{self, Close},
    hub::{SlotRef, State},
    limits::TICK,
    metrics::Refusal,
    protocol::{frame::Frame, native},
};

/// What a client is told that should have authenticated and did not.
const NOT_IN_TIME: &str = "no token came in time; connect with ?token=, or send op \"auth\" first";

impl EventLoop {
    /// Looks after the shard until the thread ends.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outbox_age = self.hub.limits().outbox_age;
        let ping = Frame::ping(b"");
        loop {
            ticks.tick().await;
            self.shard.beat();
            self.note_closing();
            let (due, late) = self
                .heartbeats
                .borrow_mut()
                .turn(|at| self.seat_of(at).is_some());
            self.miss(&late);
            self.ping(&due, &ping);
            self.fire();
            self.end_stalled(outbox_age);
        }
    }

    fn ping(&self, due: &[SlotRef], ping: &Frame) {
        if due.is_empty() {
            return;
        }
        for seat in due.iter().filter_map(|at| self.seat_of(*at)) {
            seat.awaiting.set(true);
        }
        self.shard.with(|table| {
            for at in due {
                let ping = table.open_question(*at).unwrap_or_else(|| ping.clone());
                table.place_own(*at, ping);
            }
        });
    }

    /// Ends those who did not answer. A socket that refuses may not even have got the ping: its age decides.
    fn miss(&self, late: &[SlotRef]) {
        let seats = late.iter().filter_map(|at| self.seat_of(*at));
        let silent: Vec<SlotRef> = seats
            .filter(|seat| seat.awaiting.get())
            .map(|seat| seat.at)
            .collect();
        if silent.is_empty() {
            return;
        }
        let close = Close::new(close::HEARTBEAT_MISSED, "no answer to a ping");
        self.shard.with(|table| {
            for at in silent {
                if table.blocked_since(at).is_none() {
                    table.close_lost(at, &close);
                }
            }
        });
    }

    fn fire(&self) {
        loop {
            let due = self.deadlines.borrow_mut().pop();
            let Some((at, due)) = due else { return };
            match due {
                Due::Reset => {
                    if let Some(seat) = self.seat_of(at) {
                        seat.reset();
                    }
                }
                Due::Authentication => self.give_up_on(at),
                Due::Expiry(second) => self.expire(at, second),
            }
        }
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
    fn expire(&self, at: SlotRef, second: u32) {
        let Some(seat) = self.seat_of(at).filter(|seat| seat.expiry.get() == second) else {
            return;
        };
        seat.expiry.set(NEVER);
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

    fn end_stalled(&self, age: Duration) {
        let now = Instant::now();
        let stalled: Vec<SlotRef> = {
            let stalled = self.stalled.borrow();
            stalled
                .iter()
                .filter(|(_, since)| now.duration_since(**since) >= age)
                .map(|(at, _)| *at)
                .collect()
        };
        for at in stalled {
            self.shard
                .with(|table| table.close_slow(at, "its socket took nothing for too long"));
        }
    }
}
