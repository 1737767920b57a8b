//! The connections to Redis: what is read, what waits to be written, when they are looked at, and what may have been missed.

use std::time::Duration;

/// Largest frame that Redis may send: an event of the largest body that anyone would set, several times. A connection that
/// announces more is cut.
pub const BUS_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// Elements of one answer of Redis. A cluster's map of slots has a few for each of at most 16,384 ranges.
pub const BUS_FRAME_ELEMENTS: usize = 1024 * 1024;

/// How deep an answer of Redis may nest. Those that are asked for have four levels.
pub const BUS_FRAME_DEPTH: usize = 16;

/// Free space that a read from Redis finds at least: hundreds of messages a system call under load.
pub const BUS_READ_BYTES: usize = 128 * 1024;

/// Payloads up to this are copied out of the buffer they were read into, so that one that is kept for long keeps no
/// other. Larger ones are shared, and keep at most eight times their size.
pub const BUS_COPIED_BYTES: usize = 16 * 1024;

/// Commands in one pipeline to Redis, and their bytes: enough to make a round trip cheap, and no more than a few
/// milliseconds' work of Redis.
pub const BUS_PIPELINE_COMMANDS: usize = 512;

/// See [`BUS_PIPELINE_COMMANDS`].
pub const BUS_PIPELINE_BYTES: usize = 512 * 1024;

/// Pipelines under way to one Redis server at the same time: while one is executed, the next is on its way and a third
/// is built.
pub const BUS_PIPELINES: usize = 8;

/// Calls that go to Redis as one script at most: what they share is paid once, and Redis works for some milliseconds at most,
/// as for a pipeline.
pub const BUS_BATCH_CALLS: usize = 256;

/// Bytes of subscriptions that wait for one socket. More are made when these are gone.
pub const BUS_SUBSCRIBE_BYTES: usize = 64 * 1024;

/// Channels in one SUBSCRIBE. Redis carries out a command at one go, and others wait.
pub const BUS_SUBSCRIBE_CHANNELS: usize = 256;

/// How long a topic stays subscribed that nobody needs any longer: a client that reconnects costs Redis
/// nothing.
pub const BUS_UNSUBSCRIBE_DELAY: Duration = Duration::from_secs(1);

/// Time for a connection to Redis: TCP, TLS and greeting.
pub const BUS_CONNECT: Duration = Duration::from_secs(1);

/// The first wait before another attempt to connect to Redis; each wait is a random part of its bound, which doubles.
pub const BUS_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest such wait. With the time to connect it keeps a Redis that is back from being found later than in 2 s.
pub const BUS_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Between two canaries of a connection to Redis, and two looks at the role of the server at its
/// other end.
pub const BUS_CANARY: Duration = Duration::from_millis(500);

/// Between two looks at who is primary while all is well; a server that moved a subscription away is noticed
/// immediately.
pub const BUS_TOPOLOGY: Duration = Duration::from_secs(5);

/// The same while something is wrong, and the least between any two looks, whatever asks for them. Up to as much is added by
/// chance, so that all nodes together do not crowd the servers that are well.
pub const BUS_TOPOLOGY_TROUBLE: Duration = Duration::from_millis(250);

/// How long after a sign that something has moved it is looked often: the servers notify each other of it
/// first.
pub const BUS_TOPOLOGY_DOUBT: Duration = Duration::from_secs(2);

/// How long a node that ends waits for what it has queued for Redis.
pub const BUS_FAREWELL: Duration = Duration::from_millis(500);

/// Messages that leave the inbox under one hold of its lock.
pub const BUS_INBOX_BATCH: usize = 256;

/// Topics of which messages were dropped that a node remembers by name: about a megabyte. Past that their partitions stand for
/// them.
pub const GAP_TOPICS: usize = 8192;

/// The least time between two looks at what was missed: a node that gets more than it can take does not spend itself on that.
pub const GAPS_EVERY: Duration = Duration::from_secs(1);

/// Up to this, and at random, nodes wait before they fetch what they missed while a connection was lost: all of them have lost
/// theirs.
pub const GAP_JITTER: Duration = Duration::from_millis(250);
