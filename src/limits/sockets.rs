//! Sockets: how many there are, how they are written and read, and when they are closed.

use std::time::Duration;

/// Most connections of one node where nothing is set.
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// Descriptors kept for functions' requests, listeners, logs and epoll when the connections take the rest.
pub const DESCRIPTORS_RESERVED: usize = 512;

/// Descriptors that sockets of HTTP leave free, beside those of clients: for listeners, logs, epoll and Redis.
pub const DESCRIPTORS_SPARE: usize = 64;

/// Fewest sockets of HTTP where nothing is set: proxies and functions keep some open each.
pub const HTTP_SOCKETS_MIN: usize = 64;

/// Most of them where nothing is set. Each has buffers of 20 KiB, and of up to 90 KiB while a long head comes: 160 MiB, or 720 MiB
/// if strangers send long heads on all of them. Bodies, of at most `body_bytes` each, come from those who have a key.
pub const HTTP_SOCKETS_MAX: usize = 8_192;

/// Sockets of HTTP that strangers from one address may have at least, where connections of an address are bounded. A browser
/// opens six, and several may share the address.
pub const HTTP_SOCKETS_OF_ADDRESS: usize = 32;

/// Sockets of HTTP that are asked to end when the process is out of descriptors: enough for a burst of
/// clients.
pub const HTTP_SOCKETS_ENDED: usize = 16;

/// Sockets accepted and not yet taken by their shard's thread.
pub const ACCEPT_QUEUE: usize = 1024;

/// Buffers in one vectored write. 64 frames of 1 KiB fill a socket's send buffer.
pub const WRITE_VECTORS: usize = 64;

/// Sockets that wait for the same run, at most, for the kernel to be given its pages instead of its bytes. With more, what
/// `sendfile` looks at of each socket besides is not in the processor's cache, and costs more than the copy.
pub const PAGED_SOCKETS: usize = 2048;

/// Sockets that get a run's bytes before the others get its pages: for a few, making pages costs more than it saves.
pub const PAGED_AFTER: usize = 4;

/// Bytes from which a run is worth pages.
pub const PAGED_BYTES: usize = 4096;

/// Bytes of a run up to which its frames are copied into one buffer before they are written. Twice what a socket's send
/// buffer is set to: of more, a socket takes only a part at a time.
pub const JOINED_BYTES: usize = 128 * 1024;

/// Shared buffer of a shard thread for reading; no connection holds one while idle. A session reads it twice at most before others
/// get their turn, so it bounds what each of thousands that send large messages takes of a round.
pub const READ_BUFFER: usize = 16 * 1024;

/// Connections whose sockets refused that are looked at each time the node is over its bound of refused bytes. Of those the ones
/// are closed that hold most. Looking at them takes as long as one slice.
pub const SHED_LOOK: usize = 256;

/// Frames of each that are looked at, to estimate how much of what waits for it waits for others as
/// well.
pub const SHED_FRAMES: usize = 8;

/// A connection whose frames wait for as many sockets, on an average, holds nothing to speak of by itself: closing it frees
/// nothing while the others stay.
pub const SHED_SHARED: usize = 8;

/// Slow consumers of one shard that are logged one by one between two looks. Of more, only the number is logged.
pub const SLOW_LOGGED: usize = 16;

/// How often a socket is looked at from which a ping has not left yet.
pub const PING_LOOK: Duration = Duration::from_secs(1);

/// How much is still read of a client that is being closed, in which its close frame may come. Of one that goes on sending
/// nothing more is read, and its socket is reset after [`CLOSE_GRACE`].
pub const CLOSING_BYTES: u32 = 256 * 1024;

/// How long a client has to answer a close frame before its socket is reset.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);
