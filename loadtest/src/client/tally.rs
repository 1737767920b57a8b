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
    watched: Vec<bool>,
    arrived: Vec<u64>,
    tracks: Vec<Track>,
    latencies: Vec<Histogram<u64>>,
    report: Report,
}

impl Tally {
    /// Counters at zero for `connections`.
    pub(super) fn new(round: u16, streams: u16, watched: &[u16], connections: usize) -> Result<Self> {
        let streams = usize::from(streams);
        Ok(Self {
            round,
            streams,
            watched: (0..streams).map(|stream| watched.contains(&(stream as u16))).collect(),
            arrived: vec![0; streams],
            tracks: vec![Track::default(); streams * connections],
            latencies: (0..streams).map(|_| histogram()).collect::<Result<_>>()?,
            report: Report::default(),
        })
    }

    /// Notes an event; answers the stream if `connections` have all had this one of a watched stream.
    pub(super) fn note(
        &mut self,
        connection: usize,
        stamp: Stamp,
        now: u64,
        connections: usize,
    ) -> Option<u16> {
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
        let all = self.watched[stream] && self.arrived[stream].is_multiple_of(connections as u64);
        all.then_some(stamp.stream)
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
            }
        }
        let counted = |latencies: &Histogram<u64>| {
            latencies.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
        };
        report.latencies = self.latencies.iter().map(counted).collect();
        report
    }
}
