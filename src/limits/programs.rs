//! Messages of programs that act through Redis, and the users and portals of Mesa's programs.

use std::time::Duration;

/// Messages of programs that a node holds until the one that leads has done them.
pub const DISPATCHES_PENDING: usize = 4096;

/// Their bytes.
pub const DISPATCHES_PENDING_BYTES: usize = 16 * 1024 * 1024;

/// How long they are held: several times what it takes to lose the lead and take it again.
pub const DISPATCHES_PENDING_FOR: Duration = Duration::from_secs(30);

/// Messages of programs that the leader of an app does at the same time: enough that a round trip to Redis costs none of them.
pub const PROGRAMS_AT_ONCE: usize = 256;

/// Their bytes, past which no further one is begun.
pub const PROGRAMS_AT_ONCE_BYTES: usize = 4 * 1024 * 1024;

/// Messages of programs that wait to be understood. Past it they are dropped and counted.
pub const PROGRAM_MESSAGES: usize = 4096;

/// Bytes of them. Half of it belongs to the apps in equal shares.
pub const PROGRAM_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that Fanfare stores for one user of Mesa's programs. A user who never comes back must not fill Redis.
pub const MESA_STORED_BYTES: usize = 1024 * 1024;

/// Users from whose messages Redis estimates what is stored for all users of Mesa's programs.
pub const MESA_SAMPLES: usize = 100;

/// Bytes that wait for one connection of Mesa's programs until it is let in: a round trip to Redis.
pub const MESA_COMING_BYTES: usize = 1024 * 1024;

/// Bytes of Mesa's messages that wait, for one app, to be stored for users who have gone. What more comes while Redis is away is
/// lost, and counted.
pub const MESA_GIVEN_BACK_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of them in one script: a millisecond's work of Redis.
pub const MESA_GIVEN_BACK_TOGETHER: usize = 1024 * 1024;

/// How long that is tried: a restart of Redis or a failover of Sentinels, several times.
pub const MESA_GIVEN_BACK_FOR: Duration = Duration::from_mins(2);

/// How long it waits before it is tried again.
pub const MESA_GIVEN_BACK_AGAIN: Duration = Duration::from_millis(250);

/// Users in one script of Mesa's, so that Redis goes on to others in between.
pub const MESA_SETTLED_TOGETHER: usize = 500;

/// How long the node that leads waits to hear of itself that it decides, before it says so again. It hears it as it hears messages,
/// which Redis has sent before; that takes a round trip.
pub const MESA_LEAD_AGAIN: Duration = Duration::from_secs(2);

/// Messages in one look at those that went to a node that has gone.
pub const MESA_SENT_PAGE: usize = 100;

/// When one looks for what a dispatcher has stored for a user who had come already: after its round trips, and after those of a
/// slow one.
pub const MESA_LOOKS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(3)];

/// How often one looks whether that is due.
pub const MESA_TICK: Duration = Duration::from_millis(250);

/// How long a node that leaves takes, at most, to leave users who are away to Mesa's dispatchers. 100,000 of them take 0.2 s.
pub const MESA_PARTING: Duration = Duration::from_secs(1);

/// Portals of one app that are known.
pub const MESA_PORTALS: usize = 1024;

/// Bytes of a portal's id. Mesa's own have 36 (a UUID). Each is in memory, and in all that the portal is sent.
pub const MESA_PORTAL_BYTES: usize = 128;
