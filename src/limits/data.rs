//! The data directory: its queue, its memory and its files.

use std::time::Duration;

/// Calls that wait for the data directory: at 100,000 a second, what a disk that stalls for 40 ms holds up. Beyond that they
/// are refused.
pub const DATA_QUEUE: usize = 4096;

/// Bytes of the events among them. One larger event may always wait.
pub const DATA_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Calls that are written as one group: more make nothing cheaper, and the first would wait for the last.
pub const DATA_GROUP: usize = 256;

/// How often the data directory looks for what is past its time.
pub const DATA_TICK: Duration = Duration::from_secs(1);

/// How long a data directory that cannot be used is left alone before it is opened again.
pub const DATA_REOPEN: Duration = Duration::from_secs(1);

/// Free bytes that the disk of a data directory must have for events to be stored: room for a new journal, which has 64 MiB from
/// the start, and for sorting what is there.
pub const DATA_SPARE_BYTES: u64 = 128 * 1024 * 1024;

/// Topics that are looked at in one group because something of them is past its time, or because too much is stored.
pub const DATA_DUE_SLICE: usize = 64;

/// Topics that the data directory has in memory at most, half of them used lately.
pub const DATA_TOPICS: usize = 32 * 1024;

/// Events of these, of which 40 bytes each are in memory.
pub const DATA_STUBS: usize = 512 * 1024;

/// What a topic counts for against the bound of the data directory, beside its events: its record and the two keys of it.
pub const DATA_TOPIC_BYTES: usize = 256;

/// By how much a user's numbering leaps after a loss: more than can be given out within the time that may be lost.
pub const DATA_LEAP: u64 = 1 << 32;

/// Memory for blocks of the data directory's files: what is read again soon, such as the channels that are joined most.
pub const DATA_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Memory for what is not yet in sorted files; the journal has it too. While it is moved there, as much is gathered again, and
/// four times as much before calls wait.
pub const DATA_BUFFER: u64 = 16 * 1024 * 1024;

/// At how much in memory the database begins to sort a table by itself, which it has no need to.
pub const DATA_TABLE_BUFFER: u64 = 1024 * 1024 * 1024;

/// Bytes of the journals: what is read again when the directory is opened, which bounds how long that takes.
pub const DATA_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
