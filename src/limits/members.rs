//! Notices of members, the shares that nodes have in channels, and the nodes' lists of members in Redis.

use std::time::Duration;

/// Notices of members that wait on a node to be sent, of all channels together. Changes beyond that are sent as
/// counts. Each holds on to its connection as it was: a kilobyte or two as a rule, and 20 at most.
pub const NOTICES_UNSENT: usize = 65_536;

/// Notices of other nodes that wait to be passed on. Past it they are dropped and counted, and those who watch are
/// notified that there were some.
pub const NOTICES_WAITING: usize = 4096;

/// Notices of other nodes that are passed on together. As many are on their way at the same time when a node that
/// crashed has many to take leave of.
pub const NOTICES_TOGETHER: usize = 256;

/// Notices that are kept for a client while its page of members is gathered; beyond, it fetches the page
/// again.
pub const NOTICES_CAPTURED: usize = 256;

/// Channels of which a node remembers that other nodes' watchers were not notified of a change, since Redis took no
/// message: a few megabytes. Past it, all watchers of all channels are asked to look again.
pub const CHANNELS_OWED: usize = 65_536;

/// Users of one channel that nodes name to each other, so that one on several nodes counts once. Of more, only their
/// number is said: a list as long would be most of what nodes say.
pub const USERS_NAMED: usize = 1000;

/// Bytes of the names of users that a node says together of one channel: those of [`USERS_NAMED`] users if each is as
/// long as may be.
pub const SHARE_BYTES: usize = 256 * 1024;

/// Users of other nodes, in watched channels, that a node knows by name: some 30 MB. Past it channels are sent as
/// counts, in which a user on several nodes may count more than once.
pub const PEER_USERS: usize = 262_144;

/// Nodes that have gone and are known to have been there, so that clients look again if one comes back: more than there are at any
/// time.
pub const GONE_NODES: usize = 256;

/// Channels that a node asks others about with one question, when it begins to watch them. They answer for as many of them as
/// [`PAGE_BYTES`](super::PAGE_BYTES) hold.
pub const COUNTED_TOGETHER: usize = 256;

/// Questions about what other nodes have in watched channels that are asked at the same time, of up to
/// [`COUNTED_TOGETHER`] channels each.
pub const QUESTIONS_AT_ONCE: usize = 64;

/// How long the nodes' leases and their lists of members stay in Redis after the last renewal, for a namespace that
/// nobody uses any longer. Far more than a lease: a dead node's list is there until another node has notified its
/// channels, also where all nodes were gone overnight.
pub(crate) const ROSTER_OUTLIVES: Duration = Duration::from_hours(24);

/// Changes of memberships that wait to be written to the node's list in Redis; past it the list is written
/// again.
pub const CHANGES_WAITING: usize = 65_536;

/// Changes of memberships that go to Redis in one command.
pub const MEMBERS_AT_ONCE: usize = 512;

/// Bytes of what a node holds of another one's members before it reports that they have left: a few thousand of them.
/// That node may have had a hundred thousand, each in a hundred channels.
pub(crate) const NOTIFIED_TOGETHER: usize = 4 * 1024 * 1024;

/// Channels of which it knows in the meantime how many members were sent, 12 bytes each. Of more, some may be sent by
/// name again.
pub(crate) const NOTIFIED_CHANNELS: usize = 1 << 20;

/// What a member, and a channel, count for in them beside their texts.
pub(crate) const NOTIFIED_BYTES: usize = 160;
