//! Every bound of the server, in one place, each with the reason for its default.
//!
//! What a deployment may want to change is a field of [`Limits`] (the `[limits]` table of the configuration);
//! what only the code's own soundness asks for is a constant.

pub mod duration;
pub mod size;

use std::time::Duration;

use serde::{Deserialize, Serialize};

// The filter language has bounds of its own: `fanfare_filter::limits`.
pub use fanfare_filter::limits::{DATA_DEPTH, FILTER_STEP_WORK, SUGGESTED_BYTES, TARGET_NAMES};

/// Longest event name, in bytes. A name is repeated in every frame; longer ones are data in disguise.
pub const EVENT_NAME_BYTES: usize = 128;

/// Longest name of a channel, in bytes. It is repeated in every frame of the channel, as the event's name is.
pub const CHANNEL_NAME_BYTES: usize = 200;

/// Most attachments of a packet of Socket.IO. Its newest clients end the connection where a packet has more.
pub const SOCKETIO_ATTACHMENTS: usize = 10;

/// Longest name by which a client comes back: the id of a connection, a dot and a device. The server has given no longer one, and
/// the client's connection keeps it.
pub const RECOVERY_NAME_BYTES: usize = 26 + 1 + DEVICE_BYTES;

/// How much longer than `resume_window` the name is kept by which the client of an ended connection comes back. The window begins
/// when others learn that the connection is lost, which may be after its session has ended.
pub const RECOVERY_GRACE: Duration = Duration::from_mins(1);

/// How long Redis keeps such a name while its connection lives. A node that crashes leaves its clients' names behind, about 200 bytes
/// each, and they are not to stay for ever. A client of a connection that is older begins afresh if its node crashes.
pub const RECOVERY_KEPT: Duration = Duration::from_hours(7 * 24);

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

/// How long a client that polls and is being closed has to read what stands before the close frame, if its socket is full. One
/// that reads has done so within a poll or two, and its places are wanted by others.
pub const POLLED_CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long the last words of sessions whose clients poll are kept for a client's next poll, once a session has ended.
pub const LAST_WORDS_TIME: Duration = Duration::from_secs(5);

/// Memory of all last words of a node. Past it the oldest are forgotten: their clients learn that the session is unknown.
pub const LAST_WORDS_BYTES: usize = 4 * 1024 * 1024;

/// What one session's last words take beside their bytes.
pub const LAST_WORDS_COST: usize = 512;

/// Time for a WebSocket that is to take over from polling: as long as Engine.IO's own server waits.
pub const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// After this a WebSocket that has taken over from polling is offered to its session again, if that could not take it at once.
/// Until then another thread may have to carry its bytes.
pub const RELAY_PAUSE: Duration = Duration::from_millis(50);

/// The same once the session has refused it several times.
pub const RELAY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Most namespaces of Socket.IO that an app may have. Each set of them that a client can be in is a wire form.
pub const SOCKETIO_NAMESPACES: usize = 5;

/// How long a node waits before it tries again to renew its lease after the first failure. Each wait is twice the one before, up
/// to the time between two renewals.
pub(crate) const LEASE_AGAIN: Duration = Duration::from_millis(100);

/// How long the nodes' leases and their lists of members stay in Redis after the last renewal, for a namespace that nobody
/// uses any more. Far more than a lease: a dead node's list is there until another node has told its channels, also
/// where all nodes were gone overnight.
pub(crate) const ROSTER_OUTLIVES: Duration = Duration::from_hours(24);

/// How often a join that asks for a replay looks whether the one before it has gone out: one at a time, so that what a
/// client asks for again and again cannot pile up.
pub const REPLAY_LOOK: Duration = Duration::from_millis(10);

/// The same once it has waited for a while: each look takes the shard's lock, and thousands may wait.
pub const REPLAY_LOOK_MAX: Duration = Duration::from_millis(250);

/// Stored events between two pings that ask for their confirmation, where many are handed over at once.
pub const CONFIRMED_STRETCH: usize = 64;

/// Most events that a channel or a user may keep. A replay is handed to a client at once, and a client that missed
/// more is quicker to fetch the state anew.
pub const HISTORY_EVENTS_MAX: usize = 10_000;

/// Bytes kept per channel with history, and per user with stored events, where nothing is set: 100 events of 10 KiB.
pub const HISTORY_BYTES_DEFAULT: usize = 1024 * 1024;

/// How long a channel keeps an event where nothing is set: a phone in a lift, a laptop carried to another room.
pub const HISTORY_TTL_DEFAULT: Duration = Duration::from_mins(5);

/// Events kept for a user where nothing is set: more than anyone reads after a day away.
pub const USER_EVENTS_DEFAULT: usize = 1000;

/// How long a user's events are kept where nothing is set: whoever comes every day misses none.
pub const USER_EVENTS_TTL_DEFAULT: Duration = Duration::from_hours(24);

/// Longest key of a client, in bytes. It is part of an address, and looked up for every connection.
pub const CLIENT_KEY_BYTES: usize = 128;

/// Shortest key of a client, in bytes. It is public and need not be hard to guess, only not another's by a slip.
pub const CLIENT_KEY_BYTES_MIN: usize = 8;

/// Longest `Idempotency-Key`, in bytes. Four UUIDs fit.
pub const IDEMPOTENCY_KEY_BYTES: usize = 128;

/// What an answer kept for an `Idempotency-Key` counts for beside its bytes and its key's: its places in a table that may be
/// half empty and among the ages, and what wakes those who wait for it.
pub const IDEMPOTENCY_ENTRY_BYTES: usize = 512;

/// What a request with such a key counts for while it runs: its answer is seldom longer.
pub const IDEMPOTENCY_RUNNING_BYTES: usize = 1024;

/// Longest message that `fanfare listen` takes. No server sends one near it, and a wrong one cannot fill the memory.
pub const LISTEN_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Answers past their time that are removed under one hold of the store's lock, for which every request with such a key waits: a
/// tenth of a millisecond's work.
pub const IDEMPOTENCY_EXPIRED_AT_ONCE: usize = 256;

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

/// Bodies of so many bytes and more take a shard's thread longer than a slice: each waits for its turn, and its params are
/// built by another thread.
pub const LONG_BODY: usize = 16 * 1024;

/// The same for profiles: beside reading one, its entries in indexes are replaced.
pub const LONG_PROFILE: usize = 1024;

/// Deliveries up to which a publication is small: it has its own share of admission and its own flush list.
pub const SMALL_DELIVERIES: usize = 100;

/// Items in one batch call.
pub const BATCH_ITEMS: usize = 100;

/// Requests of other nodes that a node carries out at once, beside what each app has for itself; more are refused, and their
/// askers name it as missing.
pub const PEER_CALLS_AT_ONCE: usize = 256;

/// Requests that a node always carries out for each app, whatever others ask for: a few calls at the same time.
pub const PEER_CALLS_OF_APP: usize = 16;

/// Revocations of other nodes that it carries out at once. Past it they are read from Redis within a second.
pub const REVOKES_AT_ONCE: usize = 256;

/// Longest `leave_after` of a channel rule. Its members' last states are kept in memory for as long.
pub const LEAVE_AFTER_MAX: Duration = Duration::from_mins(1);

/// Connections that may come back within one time. Of more, whoever is lost has left: a node that loses as many in a few seconds
/// has other worries, and each is kept with its claims and its profile. Half of it belongs to the apps in equal shares, and the
/// other half to whoever comes first.
pub const LOST_MAX: usize = 100_000;

/// Channels of connections that did not come back which are given up under one hold of the lock for which joins and closes wait:
/// some tens of microseconds' work.
pub const LAPSED_CHANNELS: usize = 256;

/// How long a node holds the channels of a lost connection for another node that its client came back to.
pub const HANDED_OVER: Duration = Duration::from_secs(2);

/// How long a node remembers where it has handed places in channels over: a call that takes connections out of a channel, and
/// that began before that, asks this node later by its own scan and the way over the bus.
pub const MOVED_KEPT: Duration = Duration::from_secs(10);

/// Places that it remembers so, about 150 bytes each. Past it such a call asks every node twice.
pub const MOVED_MAX: usize = 65_536;

/// In leases, how much longer than `resume_window` it is remembered that a node has ended, and who was taken out of channels since:
/// until its lease is over and another node has taken away what it had, also if that one ends meanwhile.
pub const ENDED_KEPT: u32 = 6;

/// Bytes of a record of whom a call meant to take out of a channel. If that takes more, the record means everyone.
pub const REMOVAL_BYTES: usize = 4096;

/// Such records of one channel, which each client reads that comes back from a node that has ended. Past it one record takes their
/// place that means everyone.
pub const REMOVALS_MAX: usize = 128;

/// How often a call that takes connections out of a channel asks the nodes at most. It asks again if one of them departs, or does
/// not answer.
pub const REMOVAL_ROUNDS: usize = 3;

/// Channels of which a node remembers that other nodes' watchers were not told of a change, since Redis took no message: a few
/// megabytes. Past it, all watchers of all channels are told to look again.
pub const CHANNELS_OWED: usize = 65_536;

/// How long a node waits before it tries again to fetch kept events that it has missed, or to publish notices that it owes.
pub const RECOVER_AGAIN: Duration = Duration::from_millis(250);

/// Users for whom one publication is on its way into Redis at once: a round trip for all of them, and two or three
/// milliseconds' work of Redis at most, after which others get their turn.
pub const STORED_AT_ONCE: usize = 64;

/// Topics of which messages were dropped that a node remembers by name: about a megabyte. Past that their partitions stand for
/// them.
pub const GAP_TOPICS: usize = 8192;

/// The least time between two looks at what was missed: a node that gets more than it can take does not spend itself on that.
pub const GAPS_EVERY: Duration = Duration::from_secs(1);

/// Up to this, and at random, nodes wait before they fetch what they missed while a connection was lost: all of them have lost
/// theirs.
pub const GAP_JITTER: Duration = Duration::from_millis(250);

/// Users whose stored events a node fetches at once after it may have missed some: they share a pipeline or two, and are
/// a few MiB at most where everyone has a full inbox.
pub const RECOVER_USERS: usize = 32;

/// Channels whose missed events a node fetches at the same time: they share a pipeline, and are some MiB at most where each has
/// a full history.
pub const RECOVER_CHANNELS: usize = 32;

/// Durable events of one topic that wait for its turn: a second of a channel that gets a thousand events a second, which Redis
/// may take to answer. What comes on top is fetched from the history later.
pub const ARRIVALS: usize = 1024;

/// Bytes of all events that wait so: as many as are let in at once of what clients missed, and a part of the inbox of the bus.
pub const ARRIVALS_BYTES: usize = 32 * 1024 * 1024;

/// Slots of a shard that are looked at under one hold of its lock, for users who may have missed stored events or for clients
/// to disconnect: some microseconds' work.
pub const SLOTS_LOOK: usize = 1024;

/// Names of a target that are looked up under one hold of a shard's lock: some tens of microseconds' work where each is
/// somewhere else in memory. One that stands for many connections counts more, see [`NAMED_AS_ONE`].
pub const NAMES_LOOK: usize = 256;

/// Connections of a name that take as long to add to a set as it takes to look up a name.
pub const NAMED_AS_ONE: usize = 128;

/// Connections whose sockets refused that are looked at each time the node is over its bound of refused bytes. Of those the ones
/// are closed that hold most. Looking at them takes as long as one slice.
pub const SHED_LOOK: usize = 256;

/// Frames of each that are looked at, to tell how much of what waits for it waits for others as well.
pub const SHED_FRAMES: usize = 8;

/// A connection whose frames wait for as many sockets, on an average, holds nothing to speak of by itself: closing it frees
/// nothing while the others stay.
pub const SHED_SHARED: usize = 8;

/// Slow consumers of one shard that are logged one by one between two looks. Of more, only the number is logged.
pub const SLOW_LOGGED: usize = 16;

/// How often a node forgets how far it has placed kept channels that nobody on it is in any more; 100 bytes each.
pub const FORGET_PLACED: Duration = Duration::from_mins(1);

/// Changes of memberships that wait to be written to the node's list in Redis; past it the list is written anew.
pub const CHANGES_WAITING: usize = 65_536;

/// Users and channels of one call that get the event by topics of their own, so that only nodes with one of them hear it. For
/// more the event would be copied more often than there are nodes: then all nodes get it once.
pub const TOPICS_APART: usize = 16;

/// Answers to one request that wait to be read: each node gives one.
pub const ANSWERS_WAITING: usize = 1024;

/// Notices of other nodes that wait to be passed on. Past it they are dropped and counted, and those who watch are told
/// that there were some.
pub const NOTICES_WAITING: usize = 4096;

/// Notices of other nodes that are passed on together. As many are on their way at once when a node that crashed has many to take
/// leave of.
pub const NOTICES_TOGETHER: usize = 256;

/// Notices that are kept for a client while its page of members is gathered; beyond, it fetches the page anew.
pub const NOTICES_CAPTURED: usize = 256;

/// Bytes of what a node holds of another one's members before it tells that they have left: a few thousand of them. That node may have
/// had a hundred thousand, each in a hundred channels.
pub(crate) const TOLD_TOGETHER: usize = 4 * 1024 * 1024;

/// Channels of which it knows meanwhile how many members were told, 12 bytes each. Of more, some may be told by name again.
pub(crate) const TOLD_CHANNELS: usize = 1 << 20;

/// What a member, and a channel, count for in them beside their texts.
pub(crate) const TOLD_BYTES: usize = 160;

/// Changes of memberships that go to Redis in one command.
pub const MEMBERS_AT_ONCE: usize = 512;

/// Users of other nodes, in watched channels, that a node knows by name: some 30 MB. Past it channels are told as counts, in which a
/// user on several nodes may count more than once.
pub const PEER_USERS: usize = 262_144;

/// Bytes of the names of users that a node says at once of one channel: those of [`USERS_NAMED`] users if each is as long as may be.
pub const SHARE_BYTES: usize = 256 * 1024;

/// Nodes that have gone and are known to have been there, so that clients look again if one comes back: more than there are at any
/// time.
pub const GONE_NODES: usize = 256;

/// Questions about what other nodes have in watched channels that are asked at once, of up to [`COUNTED_TOGETHER`] channels each.
pub const QUESTIONS_AT_ONCE: usize = 64;

/// Other nodes that are asked at once for their parts of a page of members.
pub const PAGE_PARTS_AT_ONCE: usize = 8;

/// Channels that a node asks others about with one question, when it begins to watch them. They answer for as many of them as
/// [`PAGE_BYTES`] hold.
pub const COUNTED_TOGETHER: usize = 256;

/// Notices of members that wait on a node to be told, of all channels together. What comes on top is told as counts. Each holds
/// on to its connection as it was: a kilobyte or two as a rule, and 20 at most.
pub const NOTICES_UNTOLD: usize = 65_536;

/// Publications that a node remembers by their ids: to deliver once what came by several topics, and to say what became
/// of one. A sender asks within a second.
pub const RECENT_PUBLICATIONS: usize = 16_384;

/// Users of one channel that nodes name to each other, so that one on several nodes counts once. Of more, only their
/// number is said: a list as long would be most of what nodes say.
pub const USERS_NAMED: usize = 1000;

/// Parts in which a node keeps how far it has placed its durable channels: of 100,000 channels, one part takes less than 50 µs to
/// be looked at after a gap.
pub const WATERMARK_STRIPES: usize = 256;

/// How long the claim on an `Idempotency-Key` holds after it was made or renewed last. After that the node of its request is taken
/// for dead.
pub const IDEMPOTENCY_RUNNING: Duration = Duration::from_secs(30);

/// How long it is renewed at most: longer than a batch of 100 items takes that all wait for Redis and for earlier requests.
pub const IDEMPOTENCY_LONGEST: Duration = Duration::from_mins(30);

/// How long a repeat waits for the first request with its `Idempotency-Key`: longer than a request usually takes, and no longer
/// than a function likes to be kept. Then it is told to come again.
pub const IDEMPOTENCY_WAIT: Duration = Duration::from_secs(5);

/// The first wait before a node tells Redis again what became of an `Idempotency-Key`; each wait is twice the one before.
pub const IDEMPOTENCY_AGAIN: Duration = Duration::from_millis(250);

/// How often it does so while Redis is there. With the waits between them that is about as long as [`IDEMPOTENCY_RUNNING`].
pub const IDEMPOTENCY_TRIES: u32 = 7;

/// How often a node looks whether the same request, which runs on another one, has its answer.
pub const IDEMPOTENCY_LOOK: Duration = Duration::from_millis(50);

/// Messages of programs that a node holds until the one that leads has done them.
pub const DISPATCHES_PENDING: usize = 4096;

/// Their bytes.
pub const DISPATCHES_PENDING_BYTES: usize = 16 * 1024 * 1024;

/// How long they are held: several times what it takes to lose the lead and take it anew.
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

/// Bytes of a portal's id. Mesa's own have 36 (a UUID). Each is kept, and stands in all that the portal is told.
pub const MESA_PORTAL_BYTES: usize = 128;

/// Ids that `explain` shows as a sample.
pub const EXPLAIN_SAMPLE: usize = 10;

/// Entries of one page of connections, when the caller does not say.
pub const PAGE_DEFAULT: usize = 100;

/// Most entries of one page.
pub const PAGE_MAX: usize = 1000;

/// Members on one page, when a caller of the HTTP API does not say. Most channels fit.
pub const MEMBERS_PAGE_DEFAULT: usize = 500;

/// Bytes of connections, members, channels or kept events on one page of the HTTP API: what callers read into memory without
/// a thought, and what is put together in a few milliseconds.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Channels that are looked at under one hold of their lock for such a page, whether or not anyone is in them: some tens of
/// microseconds' work, for which clients that join and leave may wait.
pub const CHANNELS_LOOK: usize = 256;

/// Channels that are copied out under one such hold. There are several such locks, and a page takes from all.
pub const CHANNELS_COPIED: usize = 64;

/// Members that are put on a page of the HTTP API between two looks at the clock.
pub const PAGE_STRIDE: usize = 64;

/// What a channel counts for on such a page beside its name and the names of its users.
pub const LISTED_BYTES: usize = 96;

/// Channels that one call may send to. Each has a frame of its own, all of them are encoded before the first is placed,
/// and admission must have room for all at once.
pub const SEND_CHANNELS: usize = 100;

/// How long placing, writing, or forgetting connections goes on before the thread turns to other work.
pub const SLICE: Duration = Duration::from_micros(200);

/// The same for writing to many while single events come: they wait for about one of these. Shorter ones cost floods up
/// to two fifths more CPU per delivery, since publications then come in between that would have been joined.
pub const SLICE_BESIDE_SMALL: Duration = Duration::from_micros(50);

/// How long after a single event the next one is expected.
pub const SMALL_EXPECTED: Duration = Duration::from_millis(50);

/// Connections written between two looks at the clock while single events come, and told of others' coming and going.
pub const SLICE_STRIDE: usize = 8;

/// Connections written between two looks at the clock otherwise. What of each is not in the processor's cache is fetched
/// for all of them at once, which is waited for once.
pub const WRITE_STRIDE: usize = 16;

/// Connections looked at between two looks at the clock, and under one hold of the lock, while placing: two or three
/// microseconds' work. No system call lies between them, as it does in [`SLICE_STRIDE`].
pub const SCAN_CHUNK: usize = 64;

/// Work after which a hold of a shard's lock ends, and after which the thread turns to other work: about as long as [`SLICE`].
/// Filters count (see [`FILTER_STEP_WORK`]), and so does what is done to the connections that match. Common filters, and
/// placing, charge next to nothing, and end at [`SCAN_CHUNK`].
pub const SCAN_WORK: u32 = 200_000;

/// What taking a connection into a channel or out of it counts for in that work: its index, the channel's presence, what is
/// noted for other members and other nodes. That takes 0.6 to 1 µs.
pub const CHANNEL_WORK: u32 = 1000;

/// What throwing away a frame that a socket refused counts for in it.
pub const DISCARD_WORK: u32 = 50;

/// What inserting or removing an entry of an index counts for in it: 60 to 120 ns.
pub const INDEX_ENTRY_WORK: u32 = 100;

/// How long a large publication waits, at most, while more than half of its app's sockets refuse. What stalls most clients at
/// once is the way to them and seldom they; publishers that wait a little do not get them all closed as slow.
pub const BACKPRESSURE_DELAY: Duration = Duration::from_millis(100);

/// How often the sockets are looked at in that time.
pub const BACKPRESSURE_STEP: Duration = Duration::from_millis(1);

/// How long a shard that is ahead of the others waits for more to write, while admission is full.
pub const COALESCE_DELAY: Duration = Duration::from_millis(1);

/// The part of what admission lets in that is worth a system call for one connection while admission is full.
pub const COALESCE_PART: usize = 2;

/// Bytes of a frame that count as one large publication at admission; 64 of them are 40 KiB for a connection at a time.
/// Past about 48 KiB a copied write is hardly cheaper, and everyone waits longer: docs/internals/performance.md has the figures.
pub const ADMITTED_UNIT: usize = 640;

/// The same where it can reach no more than [`PAGED_SOCKETS`]: of pages a longer write is cheaper, up to a segment of 64
/// KiB, which 64 of these nearly fill.
pub const ADMITTED_UNIT_PAGED: usize = 960;

/// What one publication counts at least there, of [`ADMITTED_UNIT`]: 72 are under way instead of 64, which costs less CPU
/// and no latency that could be told from noise; 128 do.
pub const ADMITTED_LEAST_PAGED: usize = 568;

/// The most of admission that one large publication takes for its bytes, as a part of it: so many are always under way at
/// once, and no shard waits for the last one's end.
pub const ADMITTED_PART: usize = 8;

/// In how many steps admission's places are let out again while the sockets are written once round. So many rounds of
/// publications are under way at once, and each is large enough to be placed as one batch.
pub const ADMISSION_STEPS: usize = 4;

/// Small slices flushed before a waiting bulk slice gets its turn.
pub const SMALL_SLICES_PER_BULK: usize = 4;

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
/// buffer is set to: of more, a socket takes only a part at once.
pub const JOINED_BYTES: usize = 128 * 1024;

/// Shared buffer of a shard thread for reading; no connection holds one while idle. A session reads it once before others get
/// their turn, so it bounds what each of thousands that send large messages takes of a round.
pub const READ_BUFFER: usize = 16 * 1024;

/// Frames that one client message may be split into. 64 KiB in pieces of 16 bytes fit; a flood of empty fragments,
/// which no bound on bytes would ever meet, does not.
pub const MESSAGE_FRAGMENTS: u32 = 4096;

/// Shortest API key, in bytes. 16 random bytes cannot be guessed over a network.
pub const API_KEY_BYTES: usize = 16;

/// Shortest secret for HS256, in bytes: as long as the hash (RFC 7518, section 3.2). A shorter one can be found
/// from a single token, at home and in peace.
pub const TOKEN_SECRET_BYTES: usize = 32;

/// Longest `sub` of a token, in bytes. It is the user's name in every index and member list.
pub const USER_BYTES: usize = 256;

/// Longest `device` of a client, in bytes: a UUID with a prefix fits.
pub const DEVICE_BYTES: usize = 128;

/// Longest text that may stand for a connection's id in a list of a target, in bytes. An id has 26.
pub const CONNECTION_ID_BYTES: usize = 64;

/// Revocations that are noted or removed under one hold of their lock, and users whose connections are looked for under
/// one hold of a shard's: some microseconds' work, for which a client that comes in may wait.
pub const REVOCATIONS_AT_ONCE: usize = 128;

/// Revocations that go to Redis in one script: a millisecond's work of Redis.
pub const REVOCATIONS_STORED: usize = 512;

/// How long the list of revocations stays in Redis after the last of them is over, for a namespace that nobody uses any
/// more.
pub const REVOCATIONS_OUTLIVE: Duration = Duration::from_hours(24);

/// From here on a time in a token is taken for milliseconds, in seconds since 1970: the year 10,000. In milliseconds that is
/// January 1978, so no clock of today gives less.
pub const TOKEN_TIME_END: f64 = 253_402_300_800.0;

/// Clock difference between whoever signs tokens and this node that `exp` and `nbf` forgive. So far ahead of this node's
/// clock may the time of a revocation be.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(5);

/// Largest set of public keys that is fetched, in bytes. Common ones are below 10 KiB.
pub const JWKS_BYTES: usize = 256 * 1024;

/// Public keys that are tried for one token, where it names none by its `kid`: rotation has two or three. Each try takes up
/// to 0.1 ms.
pub const TOKEN_TRIES: usize = 4;

/// Most keys of such a set.
pub const JWKS_KEYS: usize = 100;

/// How long fetching them may take, connecting included. A client whose token names an unknown key waits for it.
pub const JWKS_WAIT: Duration = Duration::from_secs(5);

/// Between two fetches that tokens with unknown keys ask for, since anyone can make up such tokens.
pub const JWKS_ASKED_SPACING: Duration = Duration::from_secs(10);

/// The first wait after a fetch that failed; it doubles with each further one.
pub const JWKS_RETRY: Duration = Duration::from_secs(1);

/// The longest such wait: who signs tokens is back for this long before new keys are known, at most.
pub const JWKS_RETRY_MAX: Duration = Duration::from_mins(1);

/// Life of a signed token when the caller of `POST /v1/tokens` does not say.
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_hours(1);

/// How often a shard looks after heartbeats, deadlines and stalled sockets.
pub const TICK: Duration = Duration::from_millis(100);

/// Rate-limited messages in a row after which a client is closed with 4102.
pub const RATE_LIMIT_STRIKES: u32 = 100;

/// Messages that an anonymous connection may send at once when it has just come: a token, a profile, and joining the
/// channels of a page that does not name them in its address. Whatever more it sends, it has to earn first: a bound that
/// connecting again would restore is no bound. A user needs no such start, since its bucket is kept.
pub const ANONYMOUS_START: u32 = 20;

/// Users of one app, or addresses, of which a node remembers how much they have sent lately; about 64 bytes each. Whoever has
/// sent nothing for `message_burst` / `messages_per_second` seconds need not be remembered.
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

/// How long a client may take for one message, from its first byte to its last. 64 KiB in this time are 17 kbit/s; whoever is
/// slower, or never ends, would hold memory for it.
pub const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// Memory of all messages of a node that have begun and not ended: 1,000 of the largest. Past it the oldest is given up, since
/// an honest one is whole within milliseconds.
pub const UNFINISHED_BYTES: usize = 64 * 1024 * 1024;

/// Memory of all messages of a node that came behind one which has yet to be done, such as a join whose client reads its replay
/// slowly. Past it the client that waits for longest is closed.
pub const HELD_BYTES: usize = 64 * 1024 * 1024;

/// How much is still read of a client that is being closed, in which its close frame may come. Of one that goes on sending
/// nothing more is read, and its socket is reset after [`CLOSE_GRACE`].
pub const CLOSING_BYTES: u32 = 256 * 1024;

/// Frames of a client between two looks at the clock: several microseconds' work.
pub const RECEIVE_STRIDE: usize = 8;

/// How long a client has to answer a close frame before its socket is reset.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);

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

/// Sockets of HTTP that are told to end when the process is out of descriptors: enough for a burst of clients.
pub const HTTP_SOCKETS_ENDED: usize = 16;

/// Largest head of an HTTP request: the largest token fits three times.
pub const REQUEST_HEAD_BYTES: usize = 64 * 1024;

/// How long a server that ends waits for the first request of a connection that it has accepted already.
pub const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// Between the goodbyes of two clients while draining; a node of 10,000 so leaves within 10 s.
pub const DRAIN_SPACING: Duration = Duration::from_millis(1);

/// Longest `reconnect_in_ms` of a goodbye; what follows a node's leaving is spread over this.
pub const DRAIN_RECONNECT: Duration = Duration::from_secs(3);

/// How long a shard may be silent before its node is not ready: its ticks come ten times a second.
pub const READY_SILENCE: Duration = Duration::from_secs(5);

/// How long a shard may be silent before the process is to be started again: far longer than any pause of a machine that
/// recovers by itself.
pub const LIVE_SILENCE: Duration = Duration::from_secs(30);

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

/// Over how long clients are disconnected whose tokens end in the same second. As long as [`TOKEN_LEEWAY`], which forgives as
/// much of a token that is shown.
pub const EXPIRED_SPREAD: Duration = Duration::from_secs(5);

/// How often a socket is looked at from which a ping has not left yet.
pub const PING_LOOK: Duration = Duration::from_secs(1);

/// Longest `reconnect_in_ms` of a goodbye to a client whose token has expired, and half of it the shortest: tokens that
/// were signed together end together, and a client that comes back with the same token must not do so in a loop.
pub const EXPIRED_RECONNECT: Duration = Duration::from_secs(1);

/// Sockets accepted and not yet taken by their shard's thread.
pub const ACCEPT_QUEUE: usize = 1024;

/// What one kept event counts for beside its frame's bytes: its entry (72) in a table that may be three quarters empty, its
/// place among the ages (80) in one that may be half empty, the frame's header and count (64), and a share of its topic.
pub const HISTORY_EVENT_BYTES: usize = 640;

/// What one name that replay leaves out counts for beside its own bytes: an allocation, and a place in a set.
pub const HISTORY_NAME_BYTES: usize = 128;

/// How often a node looks how many bytes apps keep in Redis that may keep only so many. It is how long such an app may go on after it
/// has reached its bound, and a few microseconds of Redis for each partition.
pub const QUOTA_LOOK: Duration = Duration::from_secs(3);

/// Kept events that are copied out for one reader before others get the lock: some tens of microseconds' work where each is
/// somewhere else in memory.
pub const HISTORY_COPIED: usize = 256;

/// How often copying begins anew because events were removed that were yet to be copied. After that all are copied under one
/// hold: whoever removes them is quicker than the reader.
pub const HISTORY_COPY_TRIES: usize = 3;

/// Connections of one user of which the store remembers how far they have confirmed, where some of what is kept is not for them:
/// as many as have somebody's devices open at the same time. Of another one all that is kept is looked at again.
pub const HISTORY_CONFIRMERS: usize = 4;

/// How long a topic of which nothing is kept any more knows its numbering: a tab that slept over lunch still learns
/// that it missed nothing.
pub const HISTORY_QUIET: Duration = Duration::from_hours(1);

/// The same in Redis for a topic that never had an event: long enough for a client that reconnects, and short enough that
/// joining names that nobody uses does not fill Redis. A node with members knows by itself that nothing came.
pub const HISTORY_UNUSED: Duration = Duration::from_mins(2);

/// Topics of which nothing is kept, in which nobody is, and whose numbering is known. They are half a KiB each; who joins
/// channel after channel so fills 50 MB and no more. Channels with members come on top, as many as connections may be in.
pub const HISTORY_QUIET_TOPICS: usize = 100_000;

/// Topics that are looked at for one to forget, where there are more: each may turn out to have members.
pub const HISTORY_QUIET_LOOKS: usize = 8;

/// Topics of which a node remembers how far it has seen their numbering, to notice when Redis has gone back behind it.
/// They are about 150 bytes each; of others only the epoch tells.
pub const HISTORY_SEEN_TOPICS: usize = 100_000;

/// Longest time that Redis is told to keep an event: 34,000 years, in milliseconds that no sum overflows.
pub const HISTORY_TTL_MS_MAX: u64 = 1 << 50;

/// Calls that wait for the data directory: at 100,000 a second, what a disk that stalls for 40 ms holds up. Beyond that they
/// are refused.
pub const DATA_QUEUE: usize = 4096;

/// Bytes of the events among them. One larger event may always wait.
pub const DATA_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Calls that are written as one group: more make nothing cheaper, and the first would wait for the last.
pub const DATA_GROUP: usize = 256;

/// How often the data directory looks for what is past its time.
pub const DATA_TICK: Duration = Duration::from_secs(1);

/// How long a data directory that cannot be used is left alone before it is opened again.
pub const DATA_REOPEN: Duration = Duration::from_secs(1);

/// Free bytes that the disk of a data directory must have for events to be stored: room for a new journal, which has 64 MiB from
/// the start, and for sorting what is there.
pub const DATA_SPARE_BYTES: u64 = 128 * 1024 * 1024;

/// Topics that are looked at in one group because something of them is past its time, or because too much is kept.
pub const DATA_DUE_SLICE: usize = 64;

/// Topics that the data directory has in memory at most, half of them used lately.
pub const DATA_TOPICS: usize = 32 * 1024;

/// Events of these, of which 40 bytes each are in memory.
pub const DATA_STUBS: usize = 512 * 1024;

/// What a topic counts for against the bound of the data directory, beside its events: its record and the two keys of it.
pub const DATA_TOPIC_BYTES: usize = 256;

/// By how much a user's numbering leaps after a loss: more than can be given out within the time that may be lost.
pub const DATA_LEAP: u64 = 1 << 32;

/// Memory for blocks of the data directory's files: what is read again soon, such as the channels that are joined most.
pub const DATA_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Memory for what is not yet in sorted files; the journal has it too. While it is moved there, as much is gathered again, and
/// four times as much before calls wait.
pub const DATA_BUFFER: u64 = 16 * 1024 * 1024;

/// At how much in memory the database begins to sort a table by itself, which it has no need to.
pub const DATA_TABLE_BUFFER: u64 = 1024 * 1024 * 1024;

/// Bytes of the journals: what is read again when the directory is opened, which bounds how long that takes.
pub const DATA_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// Kept events that are removed for their age before others get the lock: many may be past their time at once, and
/// each costs a few look-ups.
pub const HISTORY_EXPIRE_SLICE: usize = 1024;

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

/// Pipelines under way to one Redis server at once: while one is executed, the next is on its way and a third is built.
pub const BUS_PIPELINES: usize = 8;

/// Calls that go to Redis as one script at most: what they share is paid once, and Redis works for some milliseconds at most,
/// as for a pipeline.
pub const BUS_BATCH_CALLS: usize = 256;

/// Bytes of subscriptions that wait for one socket. More are made when these are gone.
pub const BUS_SUBSCRIBE_BYTES: usize = 64 * 1024;

/// Channels in one SUBSCRIBE. Redis carries out a command at one go, and others wait.
pub const BUS_SUBSCRIBE_CHANNELS: usize = 256;

/// How long a topic stays subscribed that nobody needs any more: a client that reconnects costs Redis nothing.
pub const BUS_UNSUBSCRIBE_DELAY: Duration = Duration::from_secs(1);

/// Time for a connection to Redis: TCP, TLS and greeting.
pub const BUS_CONNECT: Duration = Duration::from_secs(1);

/// The first wait before another attempt to connect to Redis; each wait is a random part of its bound, which doubles.
pub const BUS_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest such wait. With the time to connect it keeps a Redis that is back from being found later than in 2 s.
pub const BUS_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Between two canaries of a connection to Redis, and two looks at the role of what is behind it.
pub const BUS_CANARY: Duration = Duration::from_millis(500);

/// Between two looks at who is primary while all is well; a server that moved a subscription away tells at once.
pub const BUS_TOPOLOGY: Duration = Duration::from_secs(5);

/// The same while something is wrong, and the least between any two looks, whatever asks for them. Up to as much is added by
/// chance, so that all nodes together do not crowd the servers that are well.
pub const BUS_TOPOLOGY_TROUBLE: Duration = Duration::from_millis(250);

/// How long after a sign that something has moved it is looked often: the servers tell each other of it first.
pub const BUS_TOPOLOGY_DOUBT: Duration = Duration::from_secs(2);

/// How long a node that ends waits for what it has queued for Redis.
pub const BUS_FAREWELL: Duration = Duration::from_millis(500);

/// Messages that leave the inbox under one hold of its lock.
pub const BUS_INBOX_BATCH: usize = 256;

/// Calls of one connection to functions of the embedding program that run at the same time. As many as a page asks for when it
/// opens, and no more than a hundredth of what a node runs, so that one client does not keep the others' calls out.
pub const CALLS_OF_CONNECTION: usize = 16;

/// Bounds that a deployment may set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest HTTP body, in bytes. An event larger than this belongs in storage, with its address sent.
    #[serde(with = "crate::limits::size")]
    pub body_bytes: usize,
    /// Largest message of a client, assembled from its fragments, in bytes.
    #[serde(with = "crate::limits::size")]
    pub message_bytes: usize,
    /// Claims of a token, in bytes of JSON. They are held in memory for every connection.
    #[serde(with = "crate::limits::size")]
    pub claims_bytes: usize,
    /// A client's profile, in bytes of JSON. It is held in memory for every connection, and shown to all members of its
    /// channels.
    #[serde(with = "crate::limits::size")]
    pub profile_bytes: usize,
    /// Channels that one connection may be in. Each costs memory for every member, and a notice when it leaves.
    pub channels_per_connection: usize,
    /// Messages a second that one client may send, on average.
    pub messages_per_second: u32,
    /// Messages a client may send at once after being quiet.
    pub message_burst: u32,
    /// Bytes that one socket refused and that wait for it. A phone in a tunnel for a few seconds fits.
    #[serde(with = "crate::limits::size")]
    pub outbox_bytes: usize,
    /// Frames that wait for one socket which refused. So many of 128 bytes fill `outbox_bytes`: with fewer, a client that reads
    /// nothing for a fifth of a second is closed in a flood of small events, where it is meant to have seconds.
    pub outbox_frames: usize,
    /// How long a socket may take nothing while frames wait for it.
    #[serde(with = "crate::limits::duration")]
    pub outbox_age: Duration,
    /// Refused bytes of all connections of the node together, shared bytes counted once.
    #[serde(with = "crate::limits::size")]
    pub refused_bytes: usize,
    /// Kernel send buffer per socket, in bytes. The kernel's own default holds about 4 MB for one stalled client.
    #[serde(with = "crate::limits::size")]
    pub send_buffer: usize,
    /// Time for a client to finish its request's head, and for a body to arrive.
    #[serde(with = "crate::limits::duration")]
    pub handshake: Duration,
    /// How long an HTTP connection may rest between requests. A load balancer must give one up sooner than the server, or it
    /// sends a request into its end. Those of clouds keep one for up to 600 s, and cannot be told otherwise.
    #[serde(with = "crate::limits::duration")]
    pub http_idle: Duration,
    /// Time for a client to authenticate by message where authentication is required.
    #[serde(with = "crate::limits::duration")]
    pub auth: Duration,
    /// Between two WebSocket pings to one client. Common proxies cut what is silent for 30 to 60 s.
    #[serde(with = "crate::limits::duration")]
    pub heartbeat: Duration,
    /// Time for a client to answer a ping.
    #[serde(with = "crate::limits::duration")]
    pub heartbeat_wait: Duration,
    /// Connections of this node; 0 means as many as the file descriptors allow, at most 1,000,000.
    pub connections: usize,
    /// Sockets of HTTP on this node, functions' and proxies' kept ones and those that are to become clients; 0 means a quarter
    /// of the file descriptors, from 64 to 8,192. Past it the one that waits for a request for longest is closed.
    pub http_sockets: usize,
    /// Connections that begin in a second. Protects what is connected from a stampede of what reconnects. Requests that
    /// become no connection do not count.
    pub accepts_per_second: u32,
    /// Connections from one address (IPv6: one /64); 0 is off, so that an unconfigured load balancer is no outage.
    pub connections_per_address: usize,
    /// Large publications accepted and not yet offered to every socket, every 640 bytes counting as one (one publication
    /// as an eighth of them at most); where one can reach 2,048 connections at most, every 960 bytes, and eight ninths of
    /// one at least. 64 keeps p99 flat under flood.
    pub bulk_publications: usize,
    /// Deliveries of large publications that may be outstanding.
    pub bulk_deliveries: usize,
    /// Small publications (up to 100 deliveries) accepted and not yet offered to every socket.
    pub small_publications: usize,
    /// Bytes of all accepted publications not yet offered.
    #[serde(with = "crate::limits::size")]
    pub admitted_bytes: usize,
    /// Heavy filters that run at the same time: those that scan every connection, or may take long for one. Each app may
    /// always run one; further ones of all apps take turns.
    pub scans: usize,
    /// Compiled filters and regular expressions that are kept, in bytes, for all apps together. Each app has an equal share. A
    /// common filter takes a few KiB.
    #[serde(with = "crate::limits::size")]
    pub filter_cache_bytes: usize,
    /// How long a request waits for admission before it gets 503.
    #[serde(with = "crate::limits::duration")]
    pub admission_wait: Duration,
    /// Answers kept for `Idempotency-Key`s. With several apps each has an equal share for certain, and may have more while
    /// there is room.
    pub idempotency_entries: usize,
    /// Bytes of them, with their keys and an allowance of 512 bytes each; shared in the same way.
    #[serde(with = "crate::limits::size")]
    pub idempotency_bytes: usize,
    /// How long such an answer is kept.
    #[serde(with = "crate::limits::duration")]
    pub idempotency_window: Duration,
    /// Longest life of a token that `POST /v1/tokens` signs.
    #[serde(with = "crate::limits::duration")]
    pub token_ttl: Duration,
    /// How long a revocation is kept: as long as the tokens live that are in use. A token that lives longer is good again
    /// after that.
    #[serde(with = "crate::limits::duration")]
    pub revocation_ttl: Duration,
    /// Revocations of one app that are kept. Each is a user's name and about 150 bytes, on every node; so all of them
    /// are 40 MB at most.
    pub revocations: usize,
    /// How old public keys from a `jwks_url` become before they are fetched again. One that was withdrawn is good for
    /// this long.
    #[serde(with = "crate::limits::duration")]
    pub jwks_refresh: Duration,
    /// Bytes of all histories and stored events of the node together; the oldest of the app that keeps most give way.
    /// Bounds of channels and users do not bound how many of them there are.
    #[serde(with = "crate::limits::size")]
    pub history_bytes: usize,
    /// Bytes that one call may store: its event, with an allowance of 640 bytes and whom it leaves out, once for each user or
    /// channel that it is stored for. Else one request with 10,000 names writes a gigabyte, and pushes out what others have
    /// stored.
    #[serde(with = "crate::limits::size")]
    pub stored_publication_bytes: usize,
    /// How long the channels of a connection that ended without a close frame are kept for its return; 0 is off. A
    /// change of network takes a phone less.
    #[serde(with = "crate::limits::duration")]
    pub resume_window: Duration,
    /// Notices about single members that a channel sends a second; more are told as counts, and 0 leaves only counts.
    /// What every member is told about every member grows with the square of the channel.
    pub presence_notices: u32,
    /// Members above which the notices of a channel are only counts. Nobody reads a list as long.
    pub presence_members: usize,
    /// The first wait before a client connects again, which the welcome advises. Shorter ones hit a node that has just
    /// restarted.
    #[serde(with = "crate::limits::duration")]
    pub reconnect_min: Duration,
    /// The longest such wait, however often connecting failed. People wait this long for a server that is back.
    #[serde(with = "crate::limits::duration")]
    pub reconnect_max: Duration,
    /// Time for a function of the embedding program to answer a call. A person waits no longer; what takes longer answers
    /// immediately, and sends an event when it is done.
    #[serde(with = "crate::limits::duration")]
    pub call: Duration,
    /// Calls to such functions that run on this node at the same time. Each holds up to `message_bytes` of data, so that all of
    /// them hold 128 MiB at most. Half of them belong to the apps in equal shares.
    pub calls: usize,
    /// How long a node counts as there without having said so. A crashed node's members are there for as long.
    #[serde(with = "crate::limits::duration")]
    pub node_lease: Duration,
    /// Time for other nodes to answer a call that asks them all; those that do not are named.
    #[serde(with = "crate::limits::duration")]
    pub node_call_timeout: Duration,
    /// Time for Redis to answer a command, from the call. What takes longer has failed for its caller, who waits.
    #[serde(with = "crate::limits::duration")]
    pub redis_timeout: Duration,
    /// Time for a canary to come back through Redis, and for Redis to tell its role; then the connection is given up. A
    /// node is deaf for this long before anyone knows.
    #[serde(with = "crate::limits::duration")]
    pub bus_canary_timeout: Duration,
    /// Commands that wait to be sent to one Redis server.
    pub bus_queue_commands: usize,
    /// Bytes of them.
    #[serde(with = "crate::limits::size")]
    pub bus_queue_bytes: usize,
    /// Messages of other nodes that wait to be delivered by this one. What comes on top is dropped.
    pub bus_inbox_messages: usize,
    /// Bytes of them.
    #[serde(with = "crate::limits::size")]
    pub bus_inbox_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 256 * 1024,
            message_bytes: 64 * 1024,
            claims_bytes: 8 * 1024,
            profile_bytes: 8 * 1024,
            channels_per_connection: 100,
            messages_per_second: 50,
            message_burst: 100,
            outbox_bytes: 1024 * 1024,
            outbox_frames: 8192,
            outbox_age: Duration::from_secs(10),
            refused_bytes: 256 * 1024 * 1024,
            send_buffer: 64 * 1024,
            handshake: Duration::from_secs(10),
            http_idle: Duration::from_secs(620),
            auth: Duration::from_secs(5),
            heartbeat: Duration::from_secs(25),
            heartbeat_wait: Duration::from_secs(10),
            connections: 0,
            http_sockets: 0,
            accepts_per_second: 10_000,
            connections_per_address: 0,
            bulk_publications: 64,
            bulk_deliveries: 4_000_000,
            small_publications: 4096,
            admitted_bytes: 64 * 1024 * 1024,
            scans: 4,
            filter_cache_bytes: fanfare_filter::limits::FILTER_CACHE_BYTES,
            admission_wait: Duration::from_millis(500),
            idempotency_entries: 100_000,
            idempotency_bytes: 64 * 1024 * 1024,
            idempotency_window: Duration::from_mins(5),
            token_ttl: Duration::from_hours(24),
            revocation_ttl: Duration::from_hours(7 * 24),
            revocations: 100_000,
            jwks_refresh: Duration::from_mins(5),
            history_bytes: 64 * 1024 * 1024,
            stored_publication_bytes: 16 * 1024 * 1024,
            resume_window: Duration::from_secs(5),
            presence_notices: 20,
            presence_members: 500,
            reconnect_min: Duration::from_millis(500),
            reconnect_max: Duration::from_secs(30),
            call: Duration::from_secs(10),
            calls: 2048,
            node_lease: Duration::from_secs(5),
            node_call_timeout: Duration::from_secs(1),
            redis_timeout: Duration::from_secs(1),
            bus_canary_timeout: Duration::from_secs(2),
            bus_queue_commands: 65_536,
            bus_queue_bytes: 64 * 1024 * 1024,
            bus_inbox_messages: 65_536,

            bus_inbox_bytes: 64 * 1024 * 1024,
        }
    }
}
