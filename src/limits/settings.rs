//! The bounds that a deployment may set: the `[limits]` table of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// Messages a client may send together after being quiet.
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
    /// How long an HTTP connection may rest between requests. A load balancer must give one up sooner than the server,
    /// or it sends a request into its end. Those of clouds keep one for up to 600 s, and that cannot be set.
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
    /// Heavy filters that run at the same time: those that scan every connection, or may take long for one. Each app
    /// may always run one; further ones are served app by app.
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
    /// Notices about single members that a channel sends a second; more are sent as counts, and 0 leaves only counts.
    /// What every member is sent about every member grows with the square of the channel.
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
    /// Time for Redis to answer a command, from the call. A command that takes longer has failed for its caller,
    /// who waits.
    #[serde(with = "crate::limits::duration")]
    pub redis_timeout: Duration,
    /// Time for a canary to come back through Redis, and for Redis to say its role; then the connection is given up. A
    /// node is deaf for this long before anyone knows.
    #[serde(with = "crate::limits::duration")]
    pub bus_canary_timeout: Duration,
    /// Commands that wait to be sent to one Redis server.
    pub bus_queue_commands: usize,
    /// Bytes of them.
    #[serde(with = "crate::limits::size")]
    pub bus_queue_bytes: usize,
    /// Messages of other nodes that wait to be delivered by this one. Messages beyond that are
    /// dropped.
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
