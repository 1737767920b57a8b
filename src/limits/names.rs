//! How long names may be.

/// Longest event name, in bytes. A name is repeated in every frame; longer ones are data in disguise.
pub const EVENT_NAME_BYTES: usize = 128;

/// Longest name of a channel, in bytes. It is repeated in every frame of the channel, as the event's name is.
pub const CHANNEL_NAME_BYTES: usize = 200;

/// Longest `sub` of a token, in bytes. It is the user's name in every index and member list.
pub const USER_BYTES: usize = 256;

/// Longest `device` of a client, in bytes: a UUID with a prefix fits.
pub const DEVICE_BYTES: usize = 128;

/// Longest text that may stand for a connection's id in a list of a target, in bytes. An id has 26.
pub const CONNECTION_ID_BYTES: usize = 64;
