//! What nodes ask each other, and how each keeps up with what the others publish and store.

use std::time::Duration;

/// How long a node waits before it tries again to renew its lease after the first failure. Each wait is twice the one before, up
/// to the time between two renewals.
pub(crate) const LEASE_AGAIN: Duration = Duration::from_millis(100);

/// Requests of other nodes that a node carries out at the same time, beside what each app has for itself; more are
/// refused, and their askers name it as missing.
pub const PEER_CALLS_AT_ONCE: usize = 256;

/// Requests that a node always carries out for each app, whatever others ask for: a few calls at the same time.
pub const PEER_CALLS_OF_APP: usize = 16;

/// Answers to one request that wait to be read: each node gives one.
pub const ANSWERS_WAITING: usize = 1024;

/// Other nodes that are asked at the same time for their parts of a page of members.
pub const PAGE_PARTS_AT_ONCE: usize = 8;

/// Users and channels of one call that get the event by topics of their own, so that only nodes with one of them hear it. For
/// more the event would be copied more often than there are nodes: then all nodes get it once.
pub const TOPICS_APART: usize = 16;

/// Messages of one batch that are on their way to Redis at the same time, beside those of its last item: a round trip for all of
/// them, and less than a pipeline takes, so that others get their turn.
pub const SENT_AT_ONCE: usize = 64;

/// Publications that a node remembers by their ids: to deliver once what came by several topics, and to say what became
/// of one. A sender asks within a second.
pub const RECENT_PUBLICATIONS: usize = 16_384;

/// How long a node waits before it tries again to fetch stored events that it has missed, or to publish notices that it owes.
pub const RECOVER_AGAIN: Duration = Duration::from_millis(250);

/// Users whose stored events a node fetches at the same time after it may have missed some: they share a pipeline or
/// two, and are a few MiB at most where everyone has a full inbox.
pub const RECOVER_USERS: usize = 32;

/// Channels whose missed events a node fetches at the same time: they share a pipeline, and are some MiB at most where each has
/// a full history.
pub const RECOVER_CHANNELS: usize = 32;

/// Durable events of one topic that wait for its lock: a second of a channel that gets a thousand events a second,
/// which Redis may take to answer. Events beyond that are fetched from the history later.
pub const ARRIVALS: usize = 1024;

/// Bytes of all events that wait so: as many as are let in at the same time of what clients missed, and a part of the
/// inbox of the bus.
pub const ARRIVALS_BYTES: usize = 32 * 1024 * 1024;

/// Parts in which a node keeps how far it has placed its durable channels: of 100,000 channels, one part takes less than 50 µs to
/// be looked at after a gap.
pub const WATERMARK_STRIPES: usize = 256;

/// How often a node forgets how far it has placed durable channels that nobody on it is in any longer; 100 bytes
/// each.
pub const FORGET_PLACED: Duration = Duration::from_mins(1);
