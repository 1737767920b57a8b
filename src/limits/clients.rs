//! What one client may send, and what is held of it: its attributes, its messages and its calls.

use std::time::Duration;

/// How many times as much memory a profile, or a token's claims, may take as their JSON may have bytes. Text takes about as much
/// as its JSON, a short number or text three to six times, and `{}` twenty-four times.
pub const JSON_MEMORY: usize = 4;

/// What a profile, or a token's claims, may take in memory in any case: a few members with names of their own.
pub const JSON_MEMORY_LEAST: usize = 4096;

/// What a value may take in memory that comes as up to `json` bytes of JSON.
pub(crate) fn json_memory(json: usize) -> usize {
    json.saturating_mul(JSON_MEMORY).max(JSON_MEMORY_LEAST)
}

/// Entries that one connection may have in one declared index: elements of a list, or keys of a map. Each is about 100 bytes,
/// and is removed and inserted when the attribute changes. Tokens of large directories name 200 groups at most.
pub const INDEX_ENTRIES: usize = 256;

/// Rate-limited messages in a row after which a client is closed with 4102.
pub const RATE_LIMIT_STRIKES: u32 = 100;

/// Messages that an anonymous connection may send together when it has just come: a token, a profile, and joining the
/// channels of a page that does not name them in its address. It has to earn all that it sends beyond: a bound that
/// connecting again would restore does not bound. A user needs no such start, since its bucket is kept.
pub const ANONYMOUS_START: u32 = 20;

/// Users of one app, or addresses, of which a node remembers how much they have sent lately; about 64 bytes each. One
/// that has sent nothing for `message_burst` / `messages_per_second` seconds need not be remembered.
pub const RATED_CLIENTS: usize = 65_536;

/// Bytes of a page of members that cost as much as one message: making the largest page, a quarter of `outbox_bytes`, takes
/// about as long as sixteen messages.
pub const PAGE_COST_BYTES: usize = 16 * 1024;

/// Names in one event of a client (users, and who is left out) that cost as much as one message: each is looked up on every
/// shard.
pub const NAMES_COST: usize = 100;

/// Messages in a row that cannot be read at all after which a client is closed with 4009: it speaks another protocol.
pub const UNREADABLE_ROW: u8 = 10;

/// In this time one of them is forgotten, so that a library that sends the text `ping` as its heartbeat does no harm.
pub const UNREADABLE_FORGOTTEN: Duration = Duration::from_secs(5);

/// How long a client may take for one message, from its first byte to its last. 64 KiB in this time are 17 kbit/s; a
/// client that is slower, or never ends, would hold memory for it.
pub const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// Memory of all messages of a node that have begun and not ended: 1,000 of the largest. Past it the oldest is given up, since
/// an honest one is whole within milliseconds.
pub const UNFINISHED_BYTES: usize = 64 * 1024 * 1024;

/// Memory of all messages of a node that came after one which has yet to be done, such as a join whose client reads its
/// replay slowly. Past it the client that waits for longest is closed.
pub const HELD_BYTES: usize = 64 * 1024 * 1024;

/// Calls of one connection to functions of the embedding program that run at the same time. As many as a page asks for when it
/// opens, and no more than a hundredth of what a node runs, so that one client does not keep the others' calls out.
pub const CALLS_OF_CONNECTION: usize = 16;
