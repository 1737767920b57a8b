//! What a message costs beyond one message: each client may send so many a second, and some cause more work than others.

use crate::limits::{NAMES_COST, PAGE_COST_BYTES};

/// So many messages more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost(pub(super) u32);

impl Cost {
    /// It costs no more than any message.
    pub(super) const NONE: Self = Self(0);

    /// Returns the cost of a page of members with `bytes` of JSON.
    pub(super) fn of_page(bytes: usize) -> Self {
        Self((bytes / PAGE_COST_BYTES) as u32)
    }

    /// Returns the cost of an event that names so many users, connections and devices.
    pub(super) fn of_names(names: usize) -> Self {
        Self((names / NAMES_COST) as u32)
    }
}

/// What became of a message.
pub(super) enum MessageProgress<F> {
    /// All is done.
    Done(Cost),
    /// This has yet to be waited for.
    Waiting(F),
}
