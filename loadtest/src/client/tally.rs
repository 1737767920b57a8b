//! What a client process counts between a begin and an end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::latencies::{Latencies, Seen};
use crate::{
    error::Result,
    stamp::Stamp,
    track::{Arrival, Tracks},
};

/// How many events of a stream each connection must have had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Expected {
    /// All the same.
    Each(u32),
    /// One number per connection.
    Listed(Vec<u32>),
}

impl Expected {
    fn of(&self, connection: usize) -> u32 {
        match self {
            Self::Each(count) => *count,
            Self::Listed(counts) => counts.get(connection).copied().unwrap_or(0),
        }
    }
}

/// What came between a begin and an end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Events that came, repeated ones included.
    pub(crate) deliveries: u64,
    /// Events that never came.
    pub(crate) lost: u64,
    /// Events that came again.
    pub(crate) duplicates: u64,
    /// Events that came behind a later one of their stream.
    pub(crate) reordered: u64,
    /// Events that came to connections which they were not for.
    pub(crate) misdirected: u64,
    /// Events of an earlier measurement.
    pub(crate) stray: u64,
    /// Connections that ended.
    pub(crate) ended: u64,
    /// How many of them by which close code; 0 where there was no close frame.
    pub(crate) ended_by: BTreeMap<u16, u64>,
    /// Pings answered since connecting.
    pub(crate) pings: u64,
    /// When the last event came, by [`crate::clock::now`].
    pub(crate) last: u64,
    /// Latencies, by lane.
    pub(crate) lanes: Vec<Seen>,
}

impl Report {
    /// Adds what another process saw of the same streams, without the latencies.
    pub(crate) fn add(&mut self, other: &Self) {
        self.deliveries += other.deliveries;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.misdirected += other.misdirected;
        self.stray += other.stray;
        self.ended += other.ended;
        for (code, count) in &other.ended_by {
            *self.ended_by.entry(*code).or_default() += count;
        }
        self.pings += other.pings;
        self.last = self.last.max(other.last);
    }
}

/// One stream at one client process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Its lane.
    pub(crate) lane: usize,
    /// How many of these connections each event reaches; 0 where that is not known.
    pub(crate) reach: u64,
}

/// A stream, and how far it has come.
#[derive(Debug)]
struct Progress {
    stream: Stream,
    arrived: u64,
    /// Arrivals until one more event has reached all that it reaches.
    left: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Tally {
    round: u16,
    connections: usize,
    streams: Vec<Progress>,
    /// By connection and stream: what a connection gets at once lies together.
    tracks: Tracks,
    lanes: Vec<Latencies>,
    report: Report,
}

impl Tally {
    /// Counters at zero for `connections`; `interval` is in nanoseconds.
    pub(super) fn new(
        round: u16,
        interval: u64,
        streams: &[Stream],
        connections: usize,
    ) -> Result<Self> {
        let lanes = streams
            .iter()
            .map(|stream| stream.lane + 1)
            .max()
            .unwrap_or(0);
        let progress = |&stream: &Stream| Progress {
            stream,
            arrived: 0,
            left: stream.reach,
        };
        Ok(Self {
            round,
            connections,
            streams: streams.iter().map(progress).collect(),
            tracks: Tracks::new(streams.len() * connections),
            lanes: (0..lanes)
                .map(|_| Latencies::new(interval))
                .collect::<Result<_>>()?,
            report: Report::default(),
        })
    }

    /// Notes an event; answers the stream if all whom its event reaches have had it.
    pub(super) fn note(&mut self, connection: usize, stamp: Stamp, now: u64) -> Option<u16> {
        let at = usize::from(stamp.stream);
        let streams = self.streams.len();
        let (Some(progress), true) = (
            self.streams.get_mut(at),
            stamp.round == self.round && connection < self.connections,
        ) else {
            self.report.stray += 1;
            return None;
        };
        self.report.deliveries += 1;
        self.report.last = now;
        match self.tracks.note(connection * streams + at, stamp.sequence) {
            Arrival::New => {}
            Arrival::Reordered => self.report.reordered += 1,
            Arrival::Duplicate => {
                self.report.duplicates += 1;
                return None;
            }
        }
        self.lanes[progress.stream.lane].note(stamp.at, now);
        progress.arrived += 1;
        progress.left = progress.left.saturating_sub(1);
        if progress.left > 0 || progress.stream.reach == 0 {
            return None;
        }
        progress.left = progress.stream.reach;
        Some(stamp.stream)
    }

    /// Whether everything that `expected` names has come.
    pub(super) fn is_complete(&self, expected: &[Expected]) -> bool {
        expected
            .iter()
            .zip(&self.streams)
            .all(|(expected, progress)| {
                let all: u64 = match expected {
                    Expected::Each(count) => u64::from(*count) * self.connections as u64,
                    Expected::Listed(counts) => counts.iter().map(|&count| u64::from(count)).sum(),
                };
                progress.arrived >= all
            })
    }

    pub(super) fn deliveries(&self) -> u64 {
        self.report.deliveries
    }

    /// Closes the books.
    pub(super) fn finish(&mut self, expected: &[Expected]) -> Report {
        let mut report = std::mem::take(&mut self.report);
        let streams = self.streams.len();
        for (at, expected) in expected.iter().enumerate().take(streams) {
            for connection in 0..self.connections {
                let (track, expected) = (connection * streams + at, expected.of(connection));
                report.lost += self.tracks.lost(track, expected);
                report.misdirected += self.tracks.surplus(track, expected);
            }
        }
        report.lanes = self.lanes.iter_mut().map(Latencies::take).collect();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(reach: &[u64]) -> Tally {
        let streams: Vec<_> = reach
            .iter()
            .map(|&reach| Stream { lane: 0, reach })
            .collect();
        Tally::new(1, 1000, &streams, 3).unwrap()
    }

    fn stamp(stream: u16, sequence: u32) -> Stamp {
        Stamp {
            round: 1,
            stream,
            sequence,
            at: 1,
        }
    }

    #[test]
    fn each_stream_tells_when_all_whom_it_reaches_have_its_event() {
        let mut tally = tally(&[2, 0]);
        let mut told = |connection, stream| tally.note(connection, stamp(stream, 0), 5);
        assert_eq!([told(0, 0), told(0, 1), told(1, 1), told(2, 1)], [None; 4]);
        assert_eq!(told(2, 0), Some(0), "whichever two they are");
    }

    #[test]
    fn what_came_is_held_against_what_each_connection_was_to_have() {
        let mut tally = tally(&[0]);
        for (connection, sequence) in [(0, 0), (0, 1), (1, 0), (2, 0)] {
            tally.note(connection, stamp(0, sequence), 5);
        }
        tally.note(
            0,
            Stamp {
                round: 0,
                ..stamp(0, 0)
            },
            5,
        );
        let expected = [Expected::Listed(vec![2, 2, 0])];
        assert!(
            tally.is_complete(&expected),
            "four were meant, and four came"
        );
        let report = tally.finish(&expected);
        assert_eq!(report.lanes[0].all, [(4, 4)]);
        assert_eq!(
            (
                report.deliveries,
                report.lost,
                report.misdirected,
                report.stray
            ),
            (4, 1, 1, 1)
        );
    }
}
