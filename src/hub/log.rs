//! The frames of a shard that large publications placed and that are not yet written.
//!
//! An outbox is usually a run of this log: placing one more event for a connection is one addition. The log is
//! trimmed from its front as far as no unfinished run starts there; since a run is contiguous, nothing before the
//! first start is needed by anyone.

use std::collections::VecDeque;

use super::{admission::Permit, outbox::Queued};
use crate::protocol::frame::Frame;

#[derive(Debug)]
struct Entry {
    frame: Frame,
    /// Held until the entry is trimmed; its release shows admission that the sockets were offered the frame.
    permit: Permit,
    /// Unfinished runs that start here.
    starts: u32,
}

/// Frames in the order in which they were placed, numbered without end.
#[derive(Debug, Default)]
pub(super) struct Log {
    base: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    /// The number of `frame` in the log, appending it unless it is the last already.
    ///
    /// A publication that is placed in slices so keeps extending runs instead of breaking them.
    pub(super) fn number(&mut self, frame: &Frame, permit: &Permit) -> u64 {
        self.append(std::iter::once((frame, permit)))
    }

    /// The number of the first of `frames`, which follow each other; appends them unless they are the last already.
    pub(super) fn append<'a>(
        &mut self,
        frames: impl ExactSizeIterator<Item = (&'a Frame, &'a Permit)> + Clone,
    ) -> u64 {
        let from = self.entries.len().checked_sub(frames.len());
        let there = from.filter(|&from| {
            let last = self.entries.range(from..);
            last.zip(frames.clone())
                .all(|(entry, (frame, _))| entry.frame.is_same(frame))
        });

        if let Some(there) = there {
            return self.base + there as u64;
        }

        let first = self.end();
        self.entries.extend(frames.map(|(frame, permit)| Entry {
            frame: frame.clone(),
            permit: permit.clone(),
            starts: 0,
        }));

        first
    }

    /// One past the last number.
    pub(super) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Frames held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Notes that an outbox' run starts at `number`.
    pub(super) fn start(&mut self, number: u64) {
        self.entries[(number - self.base) as usize].starts += 1;
    }

    /// Notes that `count` runs starting at `first` are finished, and trims.
    pub(super) fn finish(&mut self, first: u64, count: u32) {
        self.entries[(first - self.base) as usize].starts -= count;
        self.trim();
    }

    /// Drops the entries that no unfinished run can reach.
    pub(super) fn trim(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.starts == 0) {
            self.entries.pop_front();
            self.base += 1;
        }
    }

    /// The frames numbered `first..end`, each with its permit, for an outbox that is no longer a run.
    pub(super) fn queued(&self, first: u64, end: u64) -> impl Iterator<Item = Queued> {
        let range = (first - self.base) as usize..(end - self.base) as usize;
        self.entries.range(range).map(|e| Queued {
            frame: e.frame.clone(),
            permit: Some(e.permit.clone()),
        })
    }

    /// The frames numbered `first..end`.
    pub(super) fn frames(&self, first: u64, end: u64) -> impl Iterator<Item = &Frame> {
        self.entries
            .range((first - self.base) as usize..(end - self.base) as usize)
            .map(|entry| &entry.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::admission::Admission;

    #[test]
    fn entries_live_exactly_as_long_as_a_run_reaches_them() {
        let admission = Admission::for_tests();
        let frames: Vec<Frame> = (0..4u8).map(|i| Frame::event_text(&[&[i]])).collect();
        let mut log = Log::default();
        let permit = |i: usize| admission.try_admit(1000, frames[i].len()).unwrap();
        assert_eq!(log.number(&frames[0], &permit(0)), 0);
        log.start(0);
        assert_eq!(log.number(&frames[1], &permit(1)), 1);
        assert_eq!(
            log.number(&frames[1], &permit(1)),
            1,
            "the last frame is not appended twice"
        );
        log.start(1);
        assert_eq!(log.number(&frames[2], &permit(2)), 2);
        log.finish(1, 1);
        assert_eq!(log.len(), 3, "the run from 0 may reach to the end");
        assert_eq!(
            log.frames(0, 3).map(|f| f.bytes()[2]).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        log.finish(0, 1);
        assert_eq!((log.len(), log.end()), (0, 3));
        assert_eq!(log.number(&frames[3], &permit(3)), 3);
    }
}
