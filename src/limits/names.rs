//! How long names may be.

/// Longest `device` of a client, in bytes: a UUID with a prefix fits.
pub const DEVICE_BYTES: usize = 128;

/// Longest text that may stand for a connection's id in a list of a target, in bytes. An id has 26.
pub const CONNECTION_ID_BYTES: usize = 64;
