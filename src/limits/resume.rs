//! Clients that come back: what is kept of lost connections, on this node and on others, and who was taken out of a
//! channel in the meantime.

use std::time::Duration;

use super::DEVICE_BYTES;

/// Longest name by which a client comes back: the id of a connection, a dot and a device. The server has given no longer one, and
/// the client's connection keeps it.
pub const RECOVERY_NAME_BYTES: usize = 26 + 1 + DEVICE_BYTES;

/// How much longer than `resume_window` the name is kept by which the client of an ended connection comes back. The window begins
/// when others learn that the connection is lost, which may be after its session has ended.
pub const RECOVERY_GRACE: Duration = Duration::from_mins(1);

/// How long Redis keeps such a name while its connection lives. A node that crashes leaves its clients' names behind,
/// about 200 bytes each, and they are not to stay forever. A client of a connection that is older begins afresh if its
/// node crashes.
pub const RECOVERY_STORED: Duration = Duration::from_hours(7 * 24);

/// Longest `leave_after` of a channel rule. Its members' last states are kept in memory for as long.
pub const LEAVE_AFTER_MAX: Duration = Duration::from_mins(1);

/// Connections that may come back within one time. Of more, a client that is lost has left: a node that loses as many
/// in a few seconds has other worries, and each is kept with its claims and its profile. Half of it belongs to the apps
/// in equal shares, and the other half to those that come first.
pub const LOST_MAX: usize = 100_000;

/// Channels of connections that did not come back which are given up under one hold of the lock for which joins and closes wait:
/// some tens of microseconds' work.
pub const LAPSED_CHANNELS: usize = 256;

/// How long a node holds the channels of a lost connection for another node that its client came back to.
pub const HANDED_OVER: Duration = Duration::from_secs(2);

/// Nodes that are asked, one after another, what a lost connection had whose client came back and may not know it: each names the
/// next one. More welcomes in a row are hardly lost on different nodes.
pub const TAKEN_OVER: usize = 4;

/// How long a node remembers where it has handed places in channels over: a call that takes connections out of a channel, and
/// that began before that, asks this node later by its own scan and the way over the bus.
pub const MOVED_REMEMBERED: Duration = Duration::from_secs(10);

/// Places that it remembers so, about 150 bytes each. Past it such a call asks every node twice.
pub const MOVED_MAX: usize = 65_536;

/// In leases, how much longer than `resume_window` it is remembered that a node has ended, and who was taken out of
/// channels since: until its lease is over and another node has taken away what it had, also if that one ends in the
/// meantime.
pub const ENDED_REMEMBERED: u32 = 6;

/// Bytes of a record of whom a call meant to take out of a channel. If that takes more, the record means everyone.
pub const REMOVAL_BYTES: usize = 4096;

/// Such records of one channel, which each client reads that comes back from a node that has ended. Past it one record takes their
/// place that means everyone.
pub const REMOVALS_MAX: usize = 128;

/// How often a call that takes connections out of a channel asks the nodes at most. It asks again if one of them departs, or does
/// not answer.
pub const REMOVAL_ROUNDS: usize = 3;
