//! The health of a process, how it ends, its log, and what the client `fanfare listen` takes.

use std::time::Duration;

/// How long a shard may be silent before its node is not ready: its ticks come ten times a second.
pub const READY_SILENCE: Duration = Duration::from_secs(5);

/// How long a shard may be silent before the process is to be started again: far longer than any pause of a machine that
/// recovers by itself.
pub const LIVE_SILENCE: Duration = Duration::from_secs(30);

/// How long a server that ends waits for the first request of a connection that it has accepted already.
pub const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// Between the goodbyes of two clients while draining; a node of 10,000 so leaves within 10 s.
pub const DRAIN_SPACING: Duration = Duration::from_millis(1);

/// Longest `reconnect_in_ms` of a goodbye; what follows a node's leaving is spread over this.
pub const DRAIN_RECONNECT: Duration = Duration::from_secs(3);

/// How often lines of one kind that clients or callers can cause are logged at most. Short enough to look for what just
/// happened, and one line for each kind in it does not fill a log.
pub const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// How many refusals of one kind are logged in that time if each says something else: somebody who corrects one mistake
/// and makes another sees both.
pub const REFUSAL_TEXTS: usize = 4;

/// How many refusals of one kind are logged in that time without API keys, whatever they say: who reads the log wants to see
/// each try, and a page that tries again and again must not fill it.
pub const REFUSAL_LINES: usize = 30;

/// How often it is looked whether the count of such lines is due.
pub const LOGGED_LOOK: Duration = Duration::from_secs(5);

/// Bytes of log lines that wait to be written. A reader that pauses for a moment loses nothing; one that is stuck costs
/// this much memory, and as much again for what is being written.
pub const LOG_BYTES: usize = 1024 * 1024;

/// How long a program that ends waits for its log lines, and for what it prints, to be taken.
pub const LOG_FAREWELL: Duration = Duration::from_millis(500);

/// Longest message that `fanfare listen` takes. No server sends one near it, and a wrong one cannot fill the memory.
pub const LISTEN_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
