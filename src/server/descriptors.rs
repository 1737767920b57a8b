//! How many sockets the process may have: its limit of open files, less what it needs for itself.

use crate::limits::{CONNECTIONS_MAX, DESCRIPTORS_RESERVED};

/// Descriptors that the process may open.
pub(super) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
}

/// As many connections as the process may open descriptors, at most [`CONNECTIONS_MAX`].
pub(crate) fn connections_by_descriptors() -> usize {
    free_descriptors().clamp(1, CONNECTIONS_MAX)
}

/// How many descriptors the process may open, less what it needs for itself.
pub(super) fn free_descriptors() -> usize {
    descriptors().saturating_sub(DESCRIPTORS_RESERVED)
}
