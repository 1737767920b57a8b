//! How long a thread works, or holds a lock, before others get their turn.

use std::time::Duration;

/// How long placing, writing, or forgetting connections goes on before the thread turns to other work.
pub const SLICE: Duration = Duration::from_micros(200);

/// The same for writing to many while single events come: they wait for about one of these. Shorter ones cost floods up
/// to two fifths more CPU per delivery, since publications then come in between that would have been joined.
pub const SLICE_BESIDE_SMALL: Duration = Duration::from_micros(50);

/// How long after a single event the next one is expected.
pub const SMALL_EXPECTED: Duration = Duration::from_millis(50);

/// Small slices flushed before a waiting bulk slice is.
pub const SMALL_SLICES_PER_BULK: usize = 4;

/// Connections written between two looks at the clock while single events come, and notified of others' coming and
/// going.
pub const SLICE_STRIDE: usize = 8;

/// Connections written between two looks at the clock otherwise. What of each is not in the processor's cache is
/// fetched for all of them at the same time, which is waited for once.
pub const WRITE_STRIDE: usize = 16;

/// The clients of a thread go on for one part in so many of the time that its other tasks worked before. Where thousands join
/// at the same time, an event passes several turns of theirs on its way: the longer they are, the later it comes.
pub const CLIENTS_SHARE: u32 = 4;

/// How long they go on at most, even after a single long step of the others: an event on its way waits for them.
pub const CLIENTS_TURN: Duration = Duration::from_millis(5);

/// Frames of a client between two looks at the clock: several microseconds' work.
pub const RECEIVE_STRIDE: usize = 8;

/// Connections looked at between two looks at the clock, and under one hold of the lock, while placing: two or three
/// microseconds' work. No system call comes between them, as it does in [`SLICE_STRIDE`].
pub const SCAN_CHUNK: usize = 64;

/// Work after which a hold of a shard's lock ends, and after which the thread turns to other work: about as long as [`SLICE`].
/// Filters count (see [`FILTER_STEP_WORK`](super::FILTER_STEP_WORK)), and so does what is done to the connections that match.
/// Common filters, and placing, charge next to nothing, and end at [`SCAN_CHUNK`].
pub const SCAN_WORK: u32 = 200_000;

/// What taking a connection into a channel or out of it counts for in that work: its index, the channel's presence, what is
/// noted for other members and other nodes. That takes 0.6 to 1 µs.
pub const CHANNEL_WORK: u32 = 1000;

/// What throwing away a frame that a socket refused counts for in it.
pub const DISCARD_WORK: u32 = 50;

/// What inserting or removing an entry of an index counts for in it: 60 to 120 ns.
pub const INDEX_ENTRY_WORK: u32 = 100;

/// Slots of a shard that are looked at under one hold of its lock, for users who may have missed stored events or for clients
/// to disconnect: some microseconds' work.
pub const SLOTS_LOOK: usize = 1024;

/// Names of a target that are looked up under one hold of a shard's lock: some tens of microseconds' work where each is
/// somewhere else in memory. One that stands for many connections counts more, see [`NAMED_AS_ONE`].
pub const NAMES_LOOK: usize = 256;

/// Connections of a name that take as long to add to a set as it takes to look up a name.
pub const NAMED_AS_ONE: usize = 128;

/// Bodies of so many bytes and more take a shard's thread longer than a slice: each waits in line, and its params are
/// built by another thread.
pub const LONG_BODY: usize = 16 * 1024;

/// The same for profiles: beside reading one, its entries in indexes are replaced.
pub const LONG_PROFILE: usize = 1024;

/// How often a shard looks after heartbeats, deadlines and stalled sockets.
pub const TICK: Duration = Duration::from_millis(100);
