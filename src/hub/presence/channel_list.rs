//! The list of channels by name, gathered from all stripes a few at a time.

use std::{collections::VecDeque, ops::Bound};

use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{Count, Presence, Rooms};
use crate::{
    limits::{CHANNELS_COPIED, CHANNELS_LOOK},
    time_slice::TimeSlice,
};

/// A few channels of one stripe on their way into a list.
#[derive(Debug)]
pub(super) struct StripeChannels<'p> {
    pub(super) rooms: &'p Mutex<Rooms>,
    /// Where to look next.
    pub(super) from: Bound<SmolStr>,
    pub(super) found: VecDeque<(SmolStr, Count)>,
    /// There are no more.
    pub(super) is_last: bool,
}

impl StripeChannels<'_> {
    fn first(&self) -> Option<&SmolStr> {
        self.found.front().map(|(name, _)| name)
    }

    /// Finds up to `most` further channels that begin with `prefix` and that someone is in, or fewer: one hold looks at a few.
    pub(super) fn look(&mut self, prefix: &str, most: usize) {
        let rooms = self.rooms.lock();
        let from = self.from.as_ref().map(SmolStr::as_str);
        let mut range = rooms.range::<str, _>((from, Bound::Unbounded));
        let mut last = None;

        for _ in 0..CHANNELS_LOOK {
            // The names are in order, so the first without the prefix is the end.
            let next = range.next().filter(|(name, _)| name.starts_with(prefix));
            let Some((name, room)) = next else {
                self.is_last = true;
                return;
            };

            last = Some(name);
            if room.connections > 0 {
                self.found.push_back((name.clone(), room.count()));
                if self.found.len() >= most.min(CHANNELS_COPIED) {
                    break;
                }
            }
        }

        // The next look goes on after the last name, which may be gone by then.
        if let Some(last) = last {
            self.from = Bound::Excluded(last.clone());
        }
    }
}

impl Presence {
    /// Up to `limit` channels whose names begin with `prefix` and come after `after`, in the order of their names.
    ///
    /// Looks at [`CHANNELS_LOOK`] channels under one hold of a stripe's lock, and lets other tasks run in between:
    /// there may be many in which nobody is any longer, except for users who may come back.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(SmolStr, Count)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.into()),
            _ => Bound::Included(prefix.into()),
        };

        let stretch = |rooms| StripeChannels {
            rooms,
            from: from.clone(),
            found: VecDeque::new(),
            is_last: false,
        };

        let mut stretches: Vec<StripeChannels<'_>> = self.stripes.iter().map(stretch).collect();

        // Each stripe is in order, so the next name of all is the first of one of them.
        let (mut found, mut slice) = (Vec::new(), TimeSlice::begin());
        while found.len() < limit {
            for stretch in &mut stretches {
                while stretch.found.is_empty() && !stretch.is_last {
                    stretch.look(prefix, limit - found.len());
                    slice.rest().await;
                }
            }

            let first = stretches
                .iter_mut()
                .filter(|stretch| !stretch.found.is_empty())
                .min_by(|a, b| a.first().cmp(&b.first()));
            let Some(first) = first else { break };
            found.extend(first.found.pop_front());
            slice.rest().await;
        }

        found
    }
}
