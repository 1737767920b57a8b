//! Keys, tokens and their revocation, and the public keys that are fetched for tokens.

use std::time::Duration;

/// Longest key of a client, in bytes. It is part of an address, and looked up for every connection.
pub const CLIENT_KEY_BYTES: usize = 128;

/// Shortest key of a client, in bytes. It is public and need not be hard to guess, only not another's by a slip.
pub const CLIENT_KEY_BYTES_MIN: usize = 8;

/// Shortest API key, in bytes. 16 random bytes cannot be guessed over a network.
pub const API_KEY_BYTES: usize = 16;

/// Shortest secret for HS256, in bytes: as long as the hash (RFC 7518, section 3.2). A shorter one can be found
/// from a single token, at home and in peace.
pub const TOKEN_SECRET_BYTES: usize = 32;

/// Revocations of other nodes that a node carries out at the same time. Past it they are read from Redis within
/// a second.
pub const REVOKES_AT_ONCE: usize = 256;

/// Revocations that are noted or removed under one hold of their lock, and users whose connections are looked for under
/// one hold of a shard's: some microseconds' work, for which a client that comes in may wait.
pub const REVOCATIONS_AT_ONCE: usize = 128;

/// Revocations that go to Redis in one script: a millisecond's work of Redis.
pub const REVOCATIONS_STORED: usize = 512;

/// How long the list of revocations stays in Redis after the last of them is over, for a namespace that nobody uses any
/// longer.
pub const REVOCATIONS_OUTLIVE: Duration = Duration::from_hours(24);

/// From here on a time in a token is taken for milliseconds, in seconds since 1970: the year 10,000. In milliseconds that is
/// January 1978, so no clock of today gives less.
pub const TOKEN_TIME_END: f64 = 253_402_300_800.0;

/// Clock difference between the signer of tokens and this node that `exp` and `nbf` forgive. So far ahead of this
/// node's clock may the time of a revocation be.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(5);

/// Public keys that are tried for one token, where it names none by its `kid`: rotation has two or three. Each try takes up
/// to 0.1 ms.
pub const TOKEN_TRIES: usize = 4;

/// Life of a signed token when the caller of `POST /v1/tokens` does not say.
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_hours(1);

/// Over how long clients are disconnected whose tokens end in the same second. As long as [`TOKEN_LEEWAY`], which forgives as
/// much of a token that is shown.
pub const EXPIRED_SPREAD: Duration = Duration::from_secs(5);

/// Largest set of public keys that is fetched, in bytes. Common ones are below 10 KiB.
pub const JWKS_BYTES: usize = 256 * 1024;

/// Most keys of such a set.
pub const JWKS_KEYS: usize = 100;

/// How long fetching them may take, connecting included. A client whose token names an unknown key waits for it.
pub const JWKS_WAIT: Duration = Duration::from_secs(5);

/// Between two fetches that tokens with unknown keys ask for, since anyone can make up such tokens.
pub const JWKS_ASKED_SPACING: Duration = Duration::from_secs(10);

/// The first wait after a fetch that failed; it doubles with each further one.
pub const JWKS_RETRY: Duration = Duration::from_secs(1);

/// The longest such wait: who signs tokens is back for this long before new keys are known, at most.
pub const JWKS_RETRY_MAX: Duration = Duration::from_mins(1);
