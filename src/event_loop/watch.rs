//! Heartbeats, deadlines and stalled sockets, looked after once per tick.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{
    EventLoop,
    deadlines::{Due, until},
};
use crate::{
    close::{self, Close},
    hub::{SlotRef, State},
    limits::TICK,
    protocol::frame::Frame,
};

impl EventLoop {
    /// Looks after the shard until the thread ends.
    ///
    /// Connections are dealt over as many buckets as a heartbeat has ticks; each tick pings one bucket, and looks at
    /// the bucket that was pinged `heartbeat_wait` ago.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let limits = self.hub.limits().clone();
        let buckets = in_ticks(limits.heartbeat);
        let wait = in_ticks(limits.heartbeat_wait).min(buckets - 1);
        let ping = Frame::ping(b"");
        for tick in 0usize.. {
            ticks.tick().await;
            self.shard.beat();
            self.note_closing();
            self.ping(tick % buckets, buckets, &ping);
            self.miss((tick + buckets - wait) % buckets, buckets);
            self.fire();
            self.end_stalled(limits.outbox_age);
        }
    }

    fn bucket(&self, bucket: usize, buckets: usize, awaiting: bool) -> Vec<SlotRef> {
        let seats = self.seats.borrow();
        let seats = seats.iter().skip(bucket).step_by(buckets).flatten();
        seats.filter(|seat| seat.awaiting.get() == awaiting).map(|seat| seat.at).collect()
    }

    fn ping(&self, bucket: usize, buckets: usize, ping: &Frame) {
        let due = self.bucket(bucket, buckets, false);
        if due.is_empty() {
            return;
        }
        for at in &due {
            if let Some(seat) = self.seat_of(*at) {
                seat.awaiting.set(true);
            }
        }
        self.shard.with(|table| {
            for at in due {
                table.place_own(at, ping.clone());
            }
        });
    }

    /// Ends those who did not answer. A socket that refuses may not even have got the ping: its age decides.
    fn miss(&self, bucket: usize, buckets: usize) {
        let silent = self.bucket(bucket, buckets, true);
        if silent.is_empty() {
            return;
        }
        let close = Close::new(close::HEARTBEAT_MISSED, "no answer to a ping");
        self.shard.with(|table| {
            for at in silent {
                if table.blocked_since(at).is_none() {
                    table.close(at, None, &close);
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
                Due::Authentication => {
                    let close = Close::new(close::UNAUTHORIZED, "not authenticated in time");
                    self.shard.with(|table| {
                        if table.state(at) == State::Pending {
                            table.close(at, None, &close);
                        }
                    });
                }
                Due::Expiry => self.expire(at),
            }
        }
    }

    fn expire(&self, at: SlotRef) {
        let expires_at =
            self.shard.own(|table| table.connection(at)).and_then(|connection| connection.expires_at);
        let Some(expires_at) = expires_at else { return };
        if until(expires_at) > Duration::ZERO {
            self.expect_expiry(at, expires_at);
            return;
        }
        let close = Close::new(close::EXPIRED, "token expired");
        self.shard.with(|table| table.close(at, None, &close));
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
            self.shard.with(|table| table.close_slow(at, "its socket took nothing for too long"));
        }
    }
}

fn in_ticks(duration: Duration) -> usize {
    ((duration.as_millis() / TICK.as_millis()) as usize).max(2)
}
