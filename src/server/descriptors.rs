//! How many sockets the process may have: its limit of open files, less what it needs for itself.

use crate::limits::{CONNECTIONS_MAX, DESCRIPTORS_RESERVED, Limits};

/// Sets the bound on connections if the configuration leaves it open. Warns if it is more than there can be.
pub(super) fn bound_connections(limits: &mut Limits) {
    if limits.connections == 0 {
        limits.connections = connections_by_descriptors();
    }

    let (connections, free) = (limits.connections, free_descriptors());
    if connections > free {
        tracing::warn!(
            connections,
            descriptors = free,
            "limits.connections is more than the limit of open files allows; raise that (LimitNOFILE, ulimit -n), or lower \
             limits.connections"
        );
    }
}

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
fn free_descriptors() -> usize {
    descriptors().saturating_sub(DESCRIPTORS_RESERVED)
}
