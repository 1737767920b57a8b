//! What a client process counts between a begin and an end.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, failed},
    stamp::Stamp,
    track::{Arrival, Track},
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
    /// Pings answered since connecting.
    pub(crate) pings: u64,
    /// When the last event came, by [`crate::clock::now`].
    pub(crate) last: u64,
    /// Latency of each stream: nanoseconds and how often.
    pub(crate) latencies: Vec<Vec<(u64, u64)>>,
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
        self.pings += other.pings;
        self.last = self.last.max(other.last);
    }
}

/// A histogram of nanoseconds, exact to a thousandth, from 1 ns to 10 minutes.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).or_else(|error| failed(error.to_string()))
}

/// Puts counted latencies into `into`.
pub(crate) fn merge(into: &mut Histogram<u64>, counted: &[(u64, u64)]) {
    for &(value, count) in counted {
        into.saturating_record_n(value, count);
    }
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Tally {
    round: u16,
    streams: usize,
    /// By stream: how many connections each event reaches, or 0.
    reach: Vec<u64>,
    arrived: Vec<u64>,
    tracks: Vec<Track>,
    latencies: Vec<Histogram<u64>>,
    report: Report,
}

impl Tally {
    /// Counters at zero for `connections`.
    pub(super) fn new(round: u16, reach: Vec<u64>, connections: usize) -> Result<Self> {
        let streams = reach.len();
        Ok(Self {
            round,
            streams,
            reach,
            arrived: vec![0; streams],
            tracks: vec![Track::default(); streams * connections],
            latencies: (0..streams).map(|_| histogram()).collect::<Result<_>>()?,
            report: Report::default(),
        })
    }

    /// Notes an event; answers the stream if all whom its event reaches have had it.
    pub(super) fn note(&mut self, connection: usize, stamp: Stamp, now: u64) -> Option<u16> {
        let stream = usize::from(stamp.stream);
        if stamp.round != self.round || stream >= self.streams {
            self.report.stray += 1;
            return None;
        }
        self.report.deliveries += 1;
        self.report.last = now;
        match self.tracks[connection * self.streams + stream].note(stamp.sequence) {
            Arrival::New => {}
            Arrival::Reordered => self.report.reordered += 1,
            Arrival::Duplicate => {
                self.report.duplicates += 1;
                return None;
            }
        }
        self.latencies[stream].saturating_record(now.saturating_sub(stamp.at).max(1));
        self.arrived[stream] += 1;
        let reach = self.reach[stream];
        (reach > 0 && self.arrived[stream].is_multiple_of(reach)).then_some(stamp.stream)
    }

    /// Whether everything that `expected` names has come.
    pub(super) fn is_complete(&self, expected: &[Expected], connections: usize) -> bool {
        expected.iter().zip(&self.arrived).all(|(expected, &arrived)| {
            let all: u64 = match expected {
                Expected::Each(count) => u64::from(*count) * connections as u64,
                Expected::Listed(counts) => counts.iter().map(|&count| u64::from(count)).sum(),
            };
            arrived >= all
        })
    }

    pub(super) fn deliveries(&self) -> u64 {
        self.report.deliveries
    }

    /// Closes the books.
    pub(super) fn finish(&mut self, expected: &[Expected], connections: usize) -> Report {
        let mut report = std::mem::take(&mut self.report);
        for connection in 0..connections {
            for (stream, expected) in expected.iter().enumerate().take(self.streams) {
                let track = &self.tracks[connection * self.streams + stream];
                report.lost += track.lost(expected.of(connection));
                report.misdirected += track.surplus(expected.of(connection));
            }
        }
        let counted = |latencies: &Histogram<u64>| {
            latencies.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
        };
        report.latencies = self.latencies.iter().map(counted).collect();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(stream: u16, sequence: u32) -> Stamp {
        Stamp { round: 1, stream, sequence, at: 1 }
    }

    #[test]
    fn each_stream_tells_when_all_whom_it_reaches_have_its_event() {
        let mut tally = Tally::new(1, vec![2, 0], 3).unwrap();
        let mut told = |connection, stream| tally.note(connection, stamp(stream, 0), 5);
        assert_eq!([told(0, 0), told(0, 1), told(1, 1), told(2, 1)], [None; 4]);
        assert_eq!(told(2, 0), Some(0), "whichever two they are");
    }

    #[test]
    fn what_came_is_held_against_what_each_connection_was_to_have() {
        let mut tally = Tally::new(1, vec![0], 3).unwrap();
        for (connection, sequence) in [(0, 0), (0, 1), (1, 0), (2, 0)] {
            tally.note(connection, stamp(0, sequence), 5);
        }
        tally.note(0, Stamp { round: 0, ..stamp(0, 0) }, 5);
        let expected = [Expected::Listed(vec![2, 2, 0])];
        assert!(tally.is_complete(&expected, 3), "four were meant, and four came");
        let report = tally.finish(&expected, 3);
        assert_eq!((report.deliveries, report.lost, report.misdirected, report.stray), (4, 1, 1, 1));
    }
}
