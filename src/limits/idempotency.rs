//! Requests with an `Idempotency-Key`, and the answers that are stored for them.

use std::time::Duration;

/// Longest `Idempotency-Key`, in bytes. Four UUIDs fit.
pub const IDEMPOTENCY_KEY_BYTES: usize = 128;

/// What an answer stored for an `Idempotency-Key` counts for beside its bytes and its key's: its places in a table that may be
/// half empty and among the ages, and what wakes those who wait for it.
pub const IDEMPOTENCY_ENTRY_BYTES: usize = 512;

/// What a request with such a key counts for while it runs: its answer is seldom longer.
pub const IDEMPOTENCY_RUNNING_BYTES: usize = 1024;

/// Answers past their time that are removed under one hold of the store's lock, for which every request with such a key waits: a
/// tenth of a millisecond's work.
pub const IDEMPOTENCY_EXPIRED_AT_ONCE: usize = 256;

/// How long the claim on an `Idempotency-Key` holds after it was made or renewed last. After that the node of its request is taken
/// for dead.
pub const IDEMPOTENCY_RUNNING: Duration = Duration::from_secs(30);

/// How long it is renewed at most: longer than a batch of 100 items takes that all wait for Redis and for earlier requests.
pub const IDEMPOTENCY_LONGEST: Duration = Duration::from_mins(30);

/// How long a repeat waits for the first request with its `Idempotency-Key`: longer than a request usually takes, and
/// no longer than a function likes to be kept. Then it is asked to come again.
pub const IDEMPOTENCY_WAIT: Duration = Duration::from_secs(5);

/// The first wait before a node reports to Redis again what became of an `Idempotency-Key`; each wait is twice the one
/// before.
pub const IDEMPOTENCY_AGAIN: Duration = Duration::from_millis(250);

/// How often it does so while Redis is there. With the waits between them that is about as long as [`IDEMPOTENCY_RUNNING`].
pub const IDEMPOTENCY_TRIES: u32 = 7;

/// How often a node looks whether the same request, which runs on another one, has its answer.
pub const IDEMPOTENCY_LOOK: Duration = Duration::from_millis(50);
