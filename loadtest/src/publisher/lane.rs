//! A lane: callers that do the same thing in the same rhythm.

use std::ops::Range;

use hdrhistogram::Histogram;

use super::timeline::Timeline;
use crate::{
    client::Expected,
    clock,
    driver::{Api, Recipients},
    error::Result,
    filter::Filter,
};

/// Whom the events of a lane are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// One user after another.
    EachInTurn,
    /// Everyone.
    Everyone,
    /// The users that match a filter.
    Matching(Filter),
}

/// When a lane sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each caller as soon as it has its answer.
    OnAnswer,
    /// Each caller as soon as it has its answer, and all connections have the event.
    OnDelivery,
    /// So many a second, whatever the server does; latency counts from when an event was due.
    PerSecond(f64),
}

/// What some callers do.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// What its events are called in the report.
    pub(crate) name: &'static str,
    pub(crate) aim: Aim,
    pub(crate) pace: Pace,
    /// HTTP connections; each has one request under way.
    pub(crate) callers: usize,
    /// Length of `data`.
    pub(crate) bytes: usize,
    /// The server.
    pub(crate) api: Api,
    /// Which fleets hold the recipients; unless these are single users, all that are on this server.
    pub(crate) fleets: Range<usize>,
}

/// What became of a lane.
#[derive(Debug)]
pub(crate) struct LaneOutcome {
    /// The lane's.
    pub(crate) name: &'static str,
    /// Events that the server took.
    pub(crate) sent: u64,
    /// Requests that it had no room for (503).
    pub(crate) refused: u64,
    /// Events of a lane with a rate that were due and never sent, since no caller was free long after the end.
    pub(crate) unsent: u64,
    /// From when an event was due to its answer.
    pub(crate) answers: Histogram<u64>,
    /// From when an event was due to its arrival, over all arrivals.
    pub(crate) deliveries: Histogram<u64>,
    /// The same over time.
    pub(crate) timeline: Timeline,
    /// How late requests were sent although a caller was free, for a lane with a rate: the harness's own fault, and
    /// part of the above.
    pub(crate) lateness: Histogram<u64>,
}

/// A lane at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) lane: Lane,
    pub(super) outcome: LaneOutcome,
    /// The first stream; callers have one each, unless their events are for single users.
    pub(super) stream: u16,
    /// How many fleets each event reaches.
    pub(super) fleets_reached: usize,
    users: Range<usize>,
    turn: usize,
    /// By user: events taken, and whether one is under way.
    counts: Vec<(u32, bool)>,
    due: u64,
}

impl Running {
    pub(super) fn new(lane: &Lane, stream: u16, users: Range<usize>) -> Result<Self> {
        let outcome = LaneOutcome {
            name: lane.name,
            sent: 0,
            refused: 0,
            unsent: 0,
            answers: crate::client::histogram()?,
            deliveries: crate::client::histogram()?,
            timeline: Timeline::new(1, 0),
            lateness: crate::client::histogram()?,
        };
        let counts = vec![(0, false); users.len()];
        Ok(Self {
            lane: lane.clone(),
            outcome,
            stream,
            fleets_reached: 0,
            users,
            turn: 0,
            counts,
            due: 0,
        })
    }

    /// Begins: what has a rate is due from `now` on, and the timeline counts from there, in these intervals.
    pub(super) fn start(&mut self, now: u64, interval: u64) {
        self.due = now;
        self.outcome.timeline = Timeline::new(interval, now);
    }

    /// How many streams it has.
    pub(super) fn streams(lane: &Lane) -> u16 {
        if lane.aim == Aim::EachInTurn {
            1
        } else {
            lane.callers as u16
        }
    }

    /// How many of `users` each event reaches; `None` where it is for one user after another.
    pub(super) fn reach(&self, users: &Range<usize>) -> Option<usize> {
        match self.lane.aim {
            Aim::EachInTurn => None,
            Aim::Everyone => Some(users.len()),
            Aim::Matching(filter) => {
                Some(users.clone().filter(|&user| filter.matches(user)).count())
            }
        }
    }

    /// When the next event is due: now, unless there is a rate; `None` if that is not before `until`.
    pub(super) fn due(&self, now: u64, until: u64) -> Option<u64> {
        let due = if self.is_paced() { self.due } else { now };
        (due < until).then_some(due)
    }

    /// Whether the lane has a rate.
    pub(super) fn is_paced(&self) -> bool {
        matches!(self.lane.pace, Pace::PerSecond(_))
    }

    /// Takes the next event's recipients and, for a single user, the place in its sequence; `None` while every
    /// user's last event is under way. Its caller has been free since `free`.
    pub(super) fn next(&mut self, now: u64, free: u64) -> Option<(Recipients, Option<u32>)> {
        let taken = match self.lane.aim {
            Aim::Everyone => (Recipients::Everyone, None),
            Aim::Matching(filter) => (Recipients::Matching(filter), None),
            Aim::EachInTurn => {
                let users = self.counts.len();
                let user = (0..users)
                    .map(|n| (self.turn + n) % users)
                    .find(|&n| !self.counts[n].1)?;
                self.turn = user + 1;
                self.counts[user].1 = true;
                (
                    Recipients::User(self.users.start + user),
                    Some(self.counts[user].0),
                )
            }
        };
        if let Pace::PerSecond(rate) = self.lane.pace {
            self.outcome
                .lateness
                .saturating_record(now.saturating_sub(self.due.max(free)).max(1));
            self.due += period(rate);
        }
        Some(taken)
    }

    /// Counts what was due before `until` as never sent.
    pub(super) fn give_up(&mut self, until: u64) {
        if let Pace::PerSecond(rate) = self.lane.pace {
            self.outcome.unsent += until.saturating_sub(self.due).div_ceil(period(rate));
            self.due = self.due.max(until);
        }
    }

    /// Notes an answer to an event that was due `at`.
    pub(super) fn answered(&mut self, recipients: Recipients, at: u64, taken: bool) {
        if let Recipients::User(user) = recipients {
            let (count, under_way) = &mut self.counts[user - self.users.start];
            *count += u32::from(taken);
            *under_way = false;
        }
        if taken {
            self.outcome.sent += 1;
            self.outcome
                .answers
                .saturating_record(clock::now().saturating_sub(at).max(1));
        } else {
            self.outcome.refused += 1;
        }
    }

    /// What the users `users` of one fleet must have had of a stream whose caller had `sent` events taken.
    pub(super) fn expected(&self, users: &Range<usize>, sent: u32) -> Expected {
        let single = |user: usize| {
            user.checked_sub(self.users.start)
                .and_then(|at| self.counts.get(at))
                .map_or(0, |&(n, _)| n)
        };
        match self.lane.aim {
            Aim::EachInTurn => Expected::Listed(users.clone().map(single).collect()),
            Aim::Everyone => Expected::Each(sent),
            Aim::Matching(filter) => {
                let matching = |user| if filter.matches(user) { sent } else { 0 };
                Expected::Listed(users.clone().map(matching).collect())
            }
        }
    }
}

/// Nanoseconds between two events.
fn period(rate: f64) -> u64 {
    ((1e9 / rate) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::driver::Driver;

    fn running(aim: Aim, pace: Pace, users: Range<usize>) -> Running {
        let api = Api {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            driver: Driver::floor(),
        };
        let lane = Lane {
            name: "",
            aim,
            pace,
            callers: 2,
            bytes: 0,
            api,
            fleets: 0..1,
        };
        Running::new(&lane, 0, users).unwrap()
    }

    #[test]
    fn what_was_due_while_no_caller_was_free_is_sent_late_or_told() {
        let mut lane = running(Aim::Everyone, Pace::PerSecond(1000.0), 0..1);
        let (began, until) = (5_000_000, 15_000_000);
        lane.start(began, 1);
        assert_eq!(lane.due(began, until), Some(began));
        lane.next(began, 0);
        // Both callers are busy for 7 ms: the seven events that were due are due still.
        let now = began + 7_500_000;
        for n in 1..=7 {
            assert_eq!(lane.due(now, until), Some(began + n * 1_000_000));
            lane.next(now, now - 1000);
        }
        assert!(lane.due(now, until) > Some(now));
        assert_eq!(
            lane.outcome.lateness.max(),
            1000,
            "only while a caller was free it was the harness"
        );
        lane.give_up(until);
        assert_eq!((lane.outcome.unsent, lane.due(until, until)), (2, None));
    }

    #[test]
    fn single_users_take_turns_and_count_what_was_taken() {
        let mut lane = running(Aim::EachInTurn, Pace::OnAnswer, 10..12);
        assert_eq!(lane.next(1, 0), Some((Recipients::User(10), Some(0))));
        assert_eq!(lane.next(1, 0), Some((Recipients::User(11), Some(0))));
        assert_eq!(lane.next(1, 0), None, "both have one under way");
        lane.answered(Recipients::User(10), 1, true);
        lane.answered(Recipients::User(11), 1, false);
        assert_eq!(lane.next(1, 0), Some((Recipients::User(10), Some(1))));
        assert_eq!(
            lane.next(1, 0),
            Some((Recipients::User(11), Some(0))),
            "the same place again after a 503"
        );
        let Expected::Listed(expected) = lane.expected(&(9..13), 0) else {
            panic!("by user")
        };
        assert_eq!((expected, lane.outcome.refused), (vec![0, 1, 0, 0], 1));
    }
}
