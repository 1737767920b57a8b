//! A lane: callers that do the same thing in the same rhythm.

use std::ops::Range;

use hdrhistogram::Histogram;

use crate::{
    client::Expected,
    clock,
    driver::{Api, Recipients},
    error::Result,
};

/// Whom the events of a lane are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// One user after another.
    EachInTurn,
    /// Everyone.
    Everyone,
    /// Everyone, through a filter that scans.
    Scan,
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
    pub(crate) aim: Aim,
    pub(crate) pace: Pace,
    /// HTTP connections; each has one request under way.
    pub(crate) callers: usize,
    /// Length of `data`.
    pub(crate) bytes: usize,
    /// The server.
    pub(crate) api: Api,
    /// Which fleets hold the recipients; for [`Aim::Everyone`], all that are on this server.
    pub(crate) fleets: Range<usize>,
}

/// What became of a lane.
#[derive(Debug)]
pub(crate) struct LaneOutcome {
    /// Events that the server took.
    pub(crate) sent: u64,
    /// Requests that it had no room for (503).
    pub(crate) refused: u64,
    /// From when an event was due to its answer.
    pub(crate) answers: Histogram<u64>,
    /// From when an event was due to its arrival, over all arrivals.
    pub(crate) deliveries: Histogram<u64>,
    /// How late requests were sent, for a lane with a rate: the harness's own fault, and part of the above.
    pub(crate) lateness: Histogram<u64>,
}

/// A lane at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) lane: Lane,
    pub(super) outcome: LaneOutcome,
    /// The first stream; callers of a lane to everyone have one each.
    pub(super) stream: u16,
    users: Range<usize>,
    turn: usize,
    /// By user: events taken, and whether one is under way.
    counts: Vec<(u32, bool)>,
    due: u64,
}

impl Running {
    pub(super) fn new(lane: &Lane, stream: u16, users: Range<usize>) -> Result<Self> {
        let outcome = LaneOutcome {
            sent: 0,
            refused: 0,
            answers: crate::client::histogram()?,
            deliveries: crate::client::histogram()?,
            lateness: crate::client::histogram()?,
        };
        let counts = vec![(0, false); users.len()];
        Ok(Self { lane: lane.clone(), outcome, stream, users, turn: 0, counts, due: 0 })
    }

    /// Begins: what has a rate is due from `now` on.
    pub(super) fn start(&mut self, now: u64) {
        self.due = now;
    }

    /// How many streams it has.
    pub(super) fn streams(lane: &Lane) -> u16 {
        if lane.aim == Aim::EachInTurn { 1 } else { lane.callers as u16 }
    }

    /// The streams of which every event goes to everyone.
    pub(super) fn watched(&self) -> Range<u16> {
        match self.lane.aim {
            Aim::EachInTurn => 0..0,
            _ => self.stream..self.stream + Self::streams(&self.lane),
        }
    }

    /// When the next event is due: now, unless there is a rate.
    pub(super) fn due(&self, now: u64) -> u64 {
        if let Pace::PerSecond(_) = self.lane.pace { self.due } else { now }
    }

    /// Takes the next event's recipients and, for a single user, the place in its sequence; `None` while every
    /// user's last event is under way.
    pub(super) fn next(&mut self, now: u64) -> Option<(Recipients, Option<u32>)> {
        let taken = match self.lane.aim {
            Aim::Everyone => (Recipients::Everyone, None),
            Aim::Scan => (Recipients::Scan, None),
            Aim::EachInTurn => {
                let users = self.counts.len();
                let user = (0..users).map(|n| (self.turn + n) % users).find(|&n| !self.counts[n].1)?;
                self.turn = user + 1;
                self.counts[user].1 = true;
                (Recipients::User(self.users.start + user), Some(self.counts[user].0))
            }
        };
        if let Pace::PerSecond(rate) = self.lane.pace {
            self.outcome.lateness.saturating_record(now.saturating_sub(self.due).max(1));
            self.due += (1e9 / rate) as u64;
        }
        Some(taken)
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
            self.outcome.answers.saturating_record(clock::now().saturating_sub(at).max(1));
        } else {
            self.outcome.refused += 1;
        }
    }

    /// What the users `users` of one fleet must have had of the single-user stream.
    pub(super) fn expected(&self, users: &Range<usize>) -> Expected {
        let count = |user: usize| {
            user.checked_sub(self.users.start).and_then(|at| self.counts.get(at)).map_or(0, |&(n, _)| n)
        };
        Expected::Listed(users.clone().map(count).collect())
    }
}
