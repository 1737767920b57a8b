//! Histories of channels and stored events of users, in whichever store, and how they are handed over.

use std::time::Duration;

/// Most events that are stored for a channel or a user. A replay is handed to a client all together, and a client that
/// missed more is quicker to fetch the state again.
pub const HISTORY_EVENTS_MAX: usize = 10_000;

/// Bytes stored per channel with history, and per user with stored events, where nothing is set: 100 events of 10 KiB.
pub const HISTORY_BYTES_DEFAULT: usize = 1024 * 1024;

/// How long a channel keeps an event where nothing is set: a phone in a lift, a laptop carried to another room.
pub const HISTORY_TTL_DEFAULT: Duration = Duration::from_mins(5);

/// Events stored for a user where nothing is set: more than anyone reads after a day away.
pub const USER_EVENTS_DEFAULT: usize = 1000;

/// How long a user's events are stored where nothing is set: whoever comes every day misses none.
pub const USER_EVENTS_TTL_DEFAULT: Duration = Duration::from_hours(24);

/// How often a join that asks for a replay looks whether the one before it has gone out: one at a time, so that what a
/// client asks for again and again cannot pile up.
pub const REPLAY_LOOK: Duration = Duration::from_millis(10);

/// The same once it has waited for a while: each look takes the shard's lock, and thousands may wait.
pub const REPLAY_LOOK_MAX: Duration = Duration::from_millis(250);

/// Stored events between two pings that ask for their confirmation, where many are handed over
/// together.
pub const CONFIRMED_STRETCH: usize = 64;

/// Events of one call, for its users or of a batch, that are on their way into Redis at the same time: a round trip for all of
/// them, and two or three milliseconds' work of Redis at most, after which others get their turn.
pub const STORED_AT_ONCE: usize = 64;

/// What one stored event counts for beside its frame's bytes: its entry (72) in a table that may be three quarters empty, its
/// place among the ages (80) in one that may be half empty, the frame's header and count (64), and a share of its topic.
pub const HISTORY_EVENT_BYTES: usize = 640;

/// What one name that replay leaves out counts for beside its own bytes: an allocation, and a place in a set.
pub const HISTORY_NAME_BYTES: usize = 128;

/// How often a node looks how many bytes apps store in Redis that may store only so many. It is how long such an app may go on after it
/// has reached its bound, and a few microseconds of Redis for each partition.
pub const QUOTA_LOOK: Duration = Duration::from_secs(3);

/// Kept events that are copied out for one reader before others get the lock: some tens of microseconds' work where each is
/// somewhere else in memory.
pub const HISTORY_COPIED: usize = 256;

/// How often copying begins again because events were removed that were yet to be copied. After that all are copied
/// under one hold: the one that removes them is quicker than the reader.
pub const HISTORY_COPY_TRIES: usize = 3;

/// Connections of one user of which the store remembers how far they have confirmed, where some of what is stored is not for them:
/// as many as have somebody's devices open at the same time. Of another one all that is stored is looked at again.
pub const HISTORY_CONFIRMERS: usize = 4;

/// How long a topic of which nothing is stored any longer knows its numbering: a tab that slept over lunch still
/// learns that it missed nothing.
pub const HISTORY_QUIET: Duration = Duration::from_hours(1);

/// The same in Redis for a topic that never had an event: long enough for a client that reconnects, and short enough that
/// joining names that nobody uses does not fill Redis. A node with members knows by itself that nothing came.
pub const HISTORY_UNUSED: Duration = Duration::from_mins(2);

/// Topics of which nothing is stored, in which nobody is, and whose numbering is known. They are half a KiB each; who joins
/// channel after channel so fills 50 MB and no more. Channels with members come on top, as many as connections may be in.
pub const HISTORY_QUIET_TOPICS: usize = 100_000;

/// Topics that are looked at for one to forget, where there are more: each may turn out to have members.
pub const HISTORY_QUIET_LOOKS: usize = 8;

/// Topics of which a node remembers how far it has seen their numbering, to notice when Redis has gone back before it.
/// They are about 150 bytes each; for others only the epoch shows it.
pub const HISTORY_SEEN_TOPICS: usize = 100_000;

/// Longest time that Redis is asked to store an event: 34,000 years, in milliseconds that no sum
/// overflows.
pub const HISTORY_TTL_MS_MAX: u64 = 1 << 50;

/// Kept events that are removed for their age before others get the lock: many may be past their time together,
/// and each costs a few look-ups.
pub const HISTORY_EXPIRE_SLICE: usize = 1024;
