//! Clients of Engine.IO and Socket.IO: polling, the upgrade to a WebSocket, and what their protocols bound.

use std::time::Duration;

/// How long clients of Engine.IO wait for a ping that is late, before they give the server up. It is for them to find a dead
/// network; a node that is busy or being reloaded is not to lose them all at the same time.
pub const PING_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes from which on the answer to a poll is not made longer. What is left comes with the next one.
pub const POLL_BYTES: usize = 256 * 1024;

/// The part of `refused_bytes` that answers to polls may take together before each is made no longer than
/// [`POLL_BYTES_TIGHT`]. Clients that read no answer hold them, and no shedding frees them.
pub const ANSWERS_PART: usize = 8;

/// The same as [`POLL_BYTES`] once answers take much memory: enough for the packets of a lively client.
pub const POLL_BYTES_TIGHT: usize = 16 * 1024;

/// Bytes of a post that are handed to its session at a time.
pub const POST_PART: usize = 16 * 1024;

/// How long a client that polls and is being closed has to read what comes before the close frame, if its socket is
/// full. One that reads has done so within a poll or two, and its places are wanted by others.
pub const POLLED_CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long the last words of sessions whose clients poll are kept for a client's next poll, once a session has ended.
pub const LAST_WORDS_TIME: Duration = Duration::from_secs(5);

/// Memory of all last words of a node. Past it the oldest are forgotten: their clients learn that the session is unknown.
pub const LAST_WORDS_BYTES: usize = 4 * 1024 * 1024;

/// What one session's last words take beside their bytes.
pub const LAST_WORDS_COST: usize = 512;

/// Time for a WebSocket that is to take over from polling: as long as Engine.IO's own server waits.
pub const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// After this a WebSocket that has taken over from polling is offered to its session again, if that could not take it
/// immediately. Until then another thread may have to carry its bytes.
pub const RELAY_PAUSE: Duration = Duration::from_millis(50);

/// The same once the session has refused it several times.
pub const RELAY_PAUSE_MAX: Duration = Duration::from_secs(5);
