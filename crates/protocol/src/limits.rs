//! Every bound of the protocols, each with the reason for its value.

use std::time::Duration;

pub use fanfare_filter::limits::DATA_DEPTH;

/// Longest event name, in bytes. A name is repeated in every frame; longer ones are data in disguise.
pub const EVENT_NAME_BYTES: usize = 128;

/// Longest name of a channel, in bytes. It is repeated in every frame of the channel, as the event's name is.
pub const CHANNEL_NAME_BYTES: usize = 200;

/// Longest `sub` of a token, in bytes. It is the user's name in every index and member list.
pub const USER_BYTES: usize = 256;

/// Frames that one client message may be split into. 64 KiB in pieces of 16 bytes fit; a flood of empty fragments,
/// which no bound on bytes would ever meet, does not.
pub const MESSAGE_FRAGMENTS: u32 = 4096;

/// Longest `reconnect_in_ms` of a goodbye to a client whose token has expired, and half of it the shortest: tokens that
/// were signed together end together, and a client that comes back with the same token must not do so in a loop.
pub const EXPIRED_RECONNECT: Duration = Duration::from_secs(1);

/// Most attachments of a packet of Socket.IO. Its newest clients end the connection where a packet has more.
pub const SOCKETIO_ATTACHMENTS: usize = 10;

/// Most namespaces of Socket.IO that an app may have. Each set of them that a client can be in is a wire form.
pub const SOCKETIO_NAMESPACES: usize = 5;
