//! Calls of the HTTP API, and the pages that they answer with.

/// Largest head of an HTTP request: the largest token fits three times.
pub const REQUEST_HEAD_BYTES: usize = 64 * 1024;

/// Items in one batch call.
pub const BATCH_ITEMS: usize = 100;

/// Channels that one call may send to. Each has a frame of its own, all of them are encoded before the first is placed,
/// and admission must have room for all at the same time.
pub const SEND_CHANNELS: usize = 100;

/// Ids that `explain` shows as a sample.
pub const EXPLAIN_SAMPLE: usize = 10;

/// Entries of one page of connections, when the caller does not say.
pub const PAGE_DEFAULT: usize = 100;

/// Most entries of one page.
pub const PAGE_MAX: usize = 1000;

/// Members on one page, when a caller of the HTTP API does not say. Most channels fit.
pub const MEMBERS_PAGE_DEFAULT: usize = 500;

/// Bytes of connections, members, channels or stored events on one page of the HTTP API: what callers read into memory without
/// a thought, and what is put together in a few milliseconds.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Channels that are looked at under one hold of their lock for such a page, whether or not anyone is in them: some tens of
/// microseconds' work, for which clients that join and leave may wait.
pub const CHANNELS_LOOK: usize = 256;

/// Channels that are copied out under one such hold. There are several such locks, and a page takes from all.
pub const CHANNELS_COPIED: usize = 64;

/// Members that are put on a page of the HTTP API between two looks at the clock.
pub const PAGE_STRIDE: usize = 64;

/// What a channel counts for on such a page beside its name and the names of its users.
pub const LISTED_BYTES: usize = 96;
