//! Heartbeats, deadlines and stalled sockets, looked after once per tick.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{
    EventLoop, LocalSocket, NEVER,
    deadlines::{Due, until},
    heartbeats::Turn,
};
use crate::{
    close::{self, Close},
    hub::{SlotRef, State},
    limits::{PING_LOOK, SCAN_CHUNK, TICK},
    metrics::Refusal,
    protocol::{frame::Frame, native},
    time_slice::TimeSlice,
};

/// The reason for a client that should have authenticated and did not.
const NOT_IN_TIME: &str = "no token came in time; connect with ?token=, or send op \"auth\" first";

/// The same, for a client whose address has a parameter with a similar name.
const TOKEN_MISNAMED: &str =
    "no token came in time; a parameter of the address is like ?token= and is not: rename it";

impl EventLoop {
    /// Looks after the shard until the thread ends.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        // A thread that was held up does not make up for lost ticks: pings would follow each other
        // before clients can answer.
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
            let Turn { due, late } = self
                .heartbeats
                .borrow_mut()
                .turn(|at| self.socket_of(at).is_some());

            // There may be thousands of each: many came in the same tick, or their tokens were signed in the same second.
            let mut slice = TimeSlice::begin();
            for at in late {
                self.miss(at);
                slice.rest().await;
            }

            for some in due.chunks(SCAN_CHUNK) {
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
        for socket in due.iter().filter_map(|at| self.socket_of(*at)) {
            socket.awaiting.set(true);
            socket.pings.set(socket.pings.get().wrapping_add(1));
            socket.pinged.set(true);
            self.note_expiry(&socket);
        }

        self.shard.lock_and_wake(|table| {
            for at in due {
                let question = table.open_question(*at);
                // Clients of other protocols may need a sign of life that is not WebSocket's ping.
                let needs_both = question.is_some() && !table.is_native(*at);
                if let Some(question) = question {
                    table.place_own(*at, question);
                    if !needs_both {
                        continue;
                    }
                }
                table.place_own(*at, ping.clone());
            }
        });
    }

    /// Looks after a connection that was pinged a while ago: if it has not answered, it is ended.
    ///
    /// The time to answer begins when the ping has left the socket. A client on a slow link may still be reading what comes
    /// before it.
    pub(super) fn miss(&self, at: SlotRef) {
        let Some(socket) = self.socket_of(at) else {
            return;
        };
        if !socket.awaiting.get() || socket.waits.get() {
            return;
        }

        if Self::holds_ping(&socket) {
            // The ping is in the kernel's buffer, and only the kernel sees whether that moves.
            socket.end_if_silent_for(self.hub.limits().outbox_age);
            socket.waits.set(true);
            self.expect(PING_LOOK, at, Due::PingLeft(socket.pings.get()));
        } else {
            self.end_silent(at);
        }
    }

    /// Whether the last ping is not on its way yet. How long a socket may refuse, its own deadline says.
    fn holds_ping(socket: &LocalSocket) -> bool {
        socket.stalled.get().is_some() || socket.has_unsent()
    }

    fn end_silent(&self, at: SlotRef) {
        let close = Close::new(close::HEARTBEAT_MISSED, "no answer to a ping");
        self.shard
            .lock_and_wake(|table| table.close_lost(at, &close));
    }

    /// Looks whether a ping that was late in leaving has left.
    fn look_for_ping(&self, at: SlotRef, number: u32) {
        let Some(socket) = self.socket_of(at) else {
            return;
        };
        // It was answered, or a later ping has left, which has a look of its own.
        if !socket.awaiting.get() || socket.pings.get() != number {
            return socket.waits.set(false);
        }
        if Self::holds_ping(&socket) {
            return self.expect(PING_LOOK, at, Due::PingLeft(number));
        }
        let wait = self.hub.limits().heartbeat_wait;
        self.expect(wait, at, Due::Pong(number));
    }

    /// Ends a connection that has not answered a ping which left late.
    fn miss_late(&self, at: SlotRef, number: u32) {
        let Some(socket) = self.socket_of(at) else {
            return;
        };
        socket.waits.set(false);
        if socket.awaiting.get() && socket.pings.get() == number {
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
                if let Some(socket) = self.socket_of(at) {
                    socket.reset();
                }
            }
            Due::Authentication(is_misnamed) => self.give_up_on(at, is_misnamed),
            Due::Expiry(second) => self.expire(at, second),
            Due::PingLeft(number) => self.look_for_ping(at, number),
            Due::Pong(number) => self.miss_late(at, number),
            Due::Stalled => self.end_stalled(at),
        }

        true
    }

    /// Sends a client away that has shown no token in time.
    fn give_up_on(&self, at: SlotRef, is_misnamed: bool) {
        if self
            .socket_of(at)
            .is_some_and(|socket| socket.is_authenticated.get())
        {
            return;
        }

        let reason = if is_misnamed {
            TOKEN_MISNAMED
        } else {
            NOT_IN_TIME
        };

        let close = Close::new(close::UNAUTHORIZED, reason);
        let refused = self.shard.lock_and_wake(|table| {
            let connection = table.connection(at)?;
            // This is asked under the lock, since it may be let in at this moment.
            (table.state(at) == State::Pending && table.close(at, None, &close))
                .then_some(connection.app)
        });

        if let Some(app) = refused {
            let refusals = &self.hub.context().refusals;
            refusals.refuse(Refusal::TokenMissing, Some(app), reason);
        }
    }

    /// The deadline for `second` has come. It may be another's by now, or early: a renewed token ends later, and clocks are
    /// set.
    pub(super) fn expire(&self, at: SlotRef, second: u32) {
        let expected = |socket: &Rc<LocalSocket>| socket.expected.get() == second;
        let Some(socket) = self.socket_of(at).filter(expected) else {
            return;
        };

        socket.expected.set(NEVER);
        let connection = self.shard.lock(|table| table.connection(at));
        let Some(expires_at) = connection.and_then(|connection| connection.expires_at) else {
            return;
        };
        if until(expires_at.get()) > Duration::ZERO {
            return self.expect_expiry(at, expires_at.get());
        }

        let close = Close::new(close::EXPIRED, "token expired");
        let bye = native::bye_expired(&close);
        self.shard
            .lock_and_wake(|table| table.close(at, Some(bye), &close));
    }

    /// Looks, after `wait`, whether `socket` still takes nothing.
    pub(super) fn watch_stalled(&self, socket: &LocalSocket, wait: Duration) {
        if !socket.is_watched.replace(true) {
            self.expect(wait, socket.at, Due::Stalled);
        }
    }

    /// Closes a connection whose socket has taken nothing for too long.
    fn end_stalled(&self, at: SlotRef) {
        let Some(socket) = self.socket_of(at) else {
            return;
        };

        socket.is_watched.set(false);
        let Some(since) = socket.stalled.get() else {
            return;
        };

        let left = self.hub.limits().outbox_age.saturating_sub(since.elapsed());
        if left > Duration::ZERO {
            return self.watch_stalled(&socket, left);
        }

        self.shard
            .lock_and_wake(|table| table.close_slow(at, "its socket took nothing for too long"));
    }
}
