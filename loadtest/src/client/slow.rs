//! Connections that stop reading, and what they find when they read again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{clock, stamp::Stamp, track::Tracks};

/// What became of connections that had stopped reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// Those that the server closed, by close code.
    pub(crate) closed: BTreeMap<u16, u64>,
    /// Those that ended without a close frame.
    pub(crate) cut: u64,
    /// Those that are open and have all events.
    pub(crate) complete: u64,
    /// Those that are open and lack events, which nobody told them.
    pub(crate) untold: u64,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed(u16),
    Cut,
}

/// What is heard again.
#[derive(Debug)]
struct Hearing {
    round: u16,
    /// Events that the server took, by stream.
    sent: Vec<u32>,
    patience: u64,
    /// When something was heard last.
    since: u64,
    /// By connection and stream.
    tracks: Tracks,
}

/// Connections that do not read, until they are to hear again.
#[derive(Debug)]
pub(super) struct Slow {
    ends: Vec<Option<End>>,
    hearing: Option<Hearing>,
}

impl Slow {
    /// None of so many connections reads any more.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            ends: vec![None; connections],
            hearing: None,
        }
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.hearing.is_none()
    }

    /// They read again, until nothing comes for so many nanoseconds.
    pub(super) fn hear(&mut self, round: u16, sent: Vec<u32>, patience: u64) {
        let tracks = Tracks::new(sent.len() * self.ends.len());
        self.hearing = Some(Hearing {
            round,
            sent,
            patience,
            since: clock::now(),
            tracks,
        });
    }

    /// Notes an event.
    pub(super) fn note(&mut self, connection: usize, stamp: Stamp, now: u64) {
        let Some(hearing) = &mut self.hearing else {
            return;
        };
        let (stream, streams) = (usize::from(stamp.stream), hearing.sent.len());
        if stamp.round == hearing.round && stream < streams && connection < self.ends.len() {
            hearing
                .tracks
                .note(connection * streams + stream, stamp.sequence);
            hearing.since = now;
        }
    }

    /// Notes that the server has ended a connection, by a close frame or without one.
    pub(super) fn ended(&mut self, connection: usize, code: Option<u16>, now: u64) {
        self.ends[connection] = Some(code.map_or(End::Cut, End::Closed));
        self.hearing
            .iter_mut()
            .for_each(|hearing| hearing.since = now);
    }

    /// What became of all, once nothing more comes.
    pub(super) fn heard(&self, now: u64) -> Option<Heard> {
        let hearing = self.hearing.as_ref()?;
        if now - hearing.since < hearing.patience && self.ends.iter().any(Option::is_none) {
            return None;
        }
        let mut heard = Heard::default();
        for (connection, end) in self.ends.iter().enumerate() {
            let streams = hearing.sent.len();
            let lost = |(stream, &sent)| hearing.tracks.lost(connection * streams + stream, sent);
            let lost: u64 = hearing.sent.iter().enumerate().map(lost).sum();
            match end {
                Some(End::Closed(code)) => *heard.closed.entry(*code).or_default() += 1,
                Some(End::Cut) => heard.cut += 1,
                None if lost == 0 => heard.complete += 1,
                None => heard.untold += 1,
            }
        }
        Some(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_closed_or_cut_or_complete_or_was_not_told() {
        let mut slow = Slow::new(4);
        assert!(slow.is_deaf() && slow.heard(u64::MAX).is_none());
        slow.hear(1, vec![2], u64::MAX);
        let stamp = |sequence| Stamp {
            round: 1,
            stream: 0,
            sequence,
            at: 0,
        };
        for (connection, sequence) in [(0, 0), (2, 0), (2, 1), (3, 1)] {
            slow.note(connection, stamp(sequence), 10);
        }
        slow.ended(0, Some(4101), 20);
        slow.ended(1, None, 20);
        assert_eq!(slow.heard(30), None, "more may come");
        slow.hearing.as_mut().unwrap().patience = 5;
        let heard = slow.heard(30).unwrap();
        assert_eq!(
            heard,
            Heard {
                closed: [(4101, 1)].into(),
                cut: 1,
                complete: 1,
                untold: 1
            }
        );
    }
}
