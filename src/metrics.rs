//! Every number the server shows about itself, in the text format of Prometheus.
//!
//! Counters are plain atomics that their users hold, so that counting costs one addition and no look-up.

mod bus;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

pub use self::bus::{BusMetrics, Sent};
use crate::close;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AppLabel {
    app: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DropLabels {
    app: Arc<str>,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClientRefusalLabels {
    app: Arc<str>,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CloseLabels {
    app: Arc<str>,
    code: &'static str,
}

/// Close codes that are told apart. A client, and who closes one by the API, may take any other, and each would be a series
/// for ever.
const CLOSE_CODES: [(u16, &str); 21] = [
    (1000, "1000"),
    (1001, "1001"),
    (1002, "1002"),
    (1003, "1003"),
    (1005, "1005"),
    (1006, "1006"),
    (1007, "1007"),
    (1008, "1008"),
    (1009, "1009"),
    (1011, "1011"),
    (close::UNAUTHORIZED, "4001"),
    (close::FORBIDDEN, "4003"),
    (close::EXPIRED, "4005"),
    (close::BAD_MESSAGE, "4009"),
    (close::DISCONNECTED, "4010"),
    (close::REPLACED, "4011"),
    (close::OVER_LIMIT, "4100"),
    (close::TOO_SLOW, "4101"),
    (close::RATE_LIMITED, "4102"),
    (close::DRAINING, "4200"),
    (close::HEARTBEAT_MISSED, "4201"),
];

/// The label of a close code.
fn close_label(code: u16) -> &'static str {
    let known = CLOSE_CODES.iter().find(|(known, _)| *known == code);
    known.map_or("other", |(_, label)| label)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FetchLabels {
    app: Arc<str>,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Why an event that was placed for a connection, or stored for a user, did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The client read too slowly and was closed.
    Slow,
    /// The client read too slowly and lost its oldest events, as configured.
    Oldest,
    /// The connection ended first.
    Gone,
    /// It was stored for a user who did not come in time, and made room for newer events.
    StoredOver,
    /// It was stored for a user who did not come in time, and became too old.
    StoredExpired,
}

impl DropReason {
    const ALL: [Self; 5] = [
        Self::Slow,
        Self::Oldest,
        Self::Gone,
        Self::StoredOver,
        Self::StoredExpired,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow_consumer",
            Self::Oldest => "oldest",
            Self::Gone => "connection_gone",
            Self::StoredOver => "stored_over_bound",
            Self::StoredExpired => "stored_expired",
        }
    }
}

/// Why a handshake, or a call, was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node holds as many connections as it may.
    Connections,
    /// Too many connections from one address.
    Address,
    /// Handshakes came faster than the accept rate.
    AcceptRate,
    /// The node is leaving.
    Draining,
    /// The page's Origin is not allowed.
    Origin,
    /// Without API keys: the `Host` is not this machine.
    Host,
    /// Without API keys: a proxy passed the request on.
    Proxy,
    /// Without API keys: the request comes from another machine.
    Remote,
    /// Without API keys: a body that a page's form could have sent.
    ContentType,
    /// A page of another origin asked whether it may call (CORS).
    Preflight,
    /// The API key is missing or unknown.
    ApiKey,
    /// The API key lacks a scope.
    Scope,
    /// The client key is unknown.
    ClientKey,
    /// A client's token is bad.
    Token,
    /// A client's token has expired.
    TokenExpired,
    /// A client that must have a token sent none in time.
    TokenMissing,
    /// The keys that may verify a client's token cannot be fetched.
    TokenKeys,
    /// There is no such app.
    App,
    /// The query of a handshake cannot be read.
    Query,
    /// A WebSocket handshake on a path that takes none.
    Path,
    /// What came to `/v1/connect` is not a WebSocket handshake of RFC 6455.
    Handshake,
    /// The client offers only other protocols.
    Protocol,
}

impl Refusal {
    /// Every reason, each in its own place.
    pub const ALL: [Self; 22] = [
        Self::Connections,
        Self::Address,
        Self::AcceptRate,
        Self::Draining,
        Self::Origin,
        Self::Host,
        Self::Proxy,
        Self::Remote,
        Self::ContentType,
        Self::Preflight,
        Self::ApiKey,
        Self::Scope,
        Self::ClientKey,
        Self::Token,
        Self::TokenExpired,
        Self::TokenMissing,
        Self::TokenKeys,
        Self::App,
        Self::Query,
        Self::Path,
        Self::Handshake,
        Self::Protocol,
    ];

    /// The name in the label `reason`, and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "address",
            Self::AcceptRate => "accept_rate",
            Self::Draining => "draining",
            Self::Origin => "origin",
            Self::Host => "host",
            Self::Proxy => "proxy",
            Self::Remote => "remote",
            Self::ContentType => "content_type",
            Self::Preflight => "preflight",
            Self::ApiKey => "api_key",
            Self::Scope => "scope",
            Self::ClientKey => "client_key",
            Self::Token => "token",
            Self::TokenExpired => "token_expired",
            Self::TokenMissing => "token_missing",
            Self::TokenKeys => "token_keys",
            Self::App => "app",
            Self::Query => "query",
            Self::Path => "path",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
        }
    }

    /// Whether the node lacks room, and nothing is wrong with the client.
    pub fn is_capacity(self) -> bool {
        matches!(self, Self::Connections | Self::Address | Self::AcceptRate)
    }
}

/// The numbers of one app.
#[derive(Debug)]
pub struct AppMetrics {
    app: Arc<str>,
    closes: Family<CloseLabels, Counter>,
    client_refusals: Family<ClientRefusalLabels, Counter>,
    drops: [Counter; 5],
    /// Connections that are open now.
    pub connections: Gauge,
    /// Connections that were ever welcomed.
    pub connected: Counter,
    /// Publications past the admission gate.
    pub accepted: Counter,
    /// Frames built for events; compare with `deliveries`.
    pub encodings: Counter,
    /// Event frames written to sockets, whole.
    pub deliveries: Counter,
    /// Evaluations of filters that ended in an error.
    pub filter_errors: Counter,
    /// Messages that clients sent.
    pub messages: Counter,
    /// Channels with members.
    pub channels: Gauge,
    /// Members of all channels.
    pub memberships: Gauge,
    /// Frames built to tell members of each other.
    pub notices: Counter,
    /// Kept events placed again for who missed them.
    pub replayed: Counter,
    /// Messages of programs on the dispatch channel that could not be taken.
    pub dispatch_malformed: Counter,
    /// Messages of programs that were to be kept, and are not.
    pub dispatch_lost: Counter,
    /// Connections that took a lost one's place.
    pub resumed: Counter,
}

impl AppMetrics {
    /// Counts `n` events lost for `reason`.
    pub fn dropped(&self, reason: DropReason, n: u64) {
        if n > 0 {
            self.drops[reason as usize].inc_by(n);
        }
    }

    /// Events lost so far for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Counts a message of a client that was refused: by the code of its error, or by the reason where it gets none.
    pub fn client_refused(&self, reason: &'static str) {
        let labels = ClientRefusalLabels {
            app: self.app.clone(),
            reason,
        };
        self.client_refusals.get_or_create(&labels).inc();
    }

    /// Counts a connection that ended with `code`.
    pub fn closed(&self, code: u16) {
        self.closes
            .get_or_create(&CloseLabels {
                app: self.app.clone(),
                code: close_label(code),
            })
            .inc();
    }

    /// Connections that ended with `code` so far, or with any that is not told apart if it is not.
    pub fn closes(&self, code: u16) -> u64 {
        self.closes
            .get_or_create(&CloseLabels {
                app: self.app.clone(),
                code: close_label(code),
            })
            .get()
    }
}

/// The numbers of the node. Names start with `fanfare_`, and with `process_` where Prometheus has them for any program.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    process: Registry,
    /// 1 while readiness succeeds, over all nodes; as of the last look.
    pub ready: Gauge,
    /// 1 from SIGTERM on; as of the last look.
    pub draining: Gauge,
    /// The most connections that the node takes.
    pub connections_limit: Gauge,
    /// The most files and sockets that the process may open.
    pub max_fds: Gauge,
    /// Configurations that a reload refused.
    pub reloads_refused: Counter,
    by_app: Family<AppLabel, Gauge>,
    connected: Family<AppLabel, Counter>,
    accepted: Family<AppLabel, Counter>,
    encodings: Family<AppLabel, Counter>,
    deliveries: Family<AppLabel, Counter>,
    filter_errors: Family<AppLabel, Counter>,
    messages: Family<AppLabel, Counter>,
    channels: Family<AppLabel, Gauge>,
    memberships: Family<AppLabel, Gauge>,
    notices: Family<AppLabel, Counter>,
    replayed: Family<AppLabel, Counter>,
    dispatch_malformed: Family<AppLabel, Counter>,
    dispatch_lost: Family<AppLabel, Counter>,
    resumed: Family<AppLabel, Counter>,
    drops: Family<DropLabels, Counter>,
    closes: Family<CloseLabels, Counter>,
    client_refusals: Family<ClientRefusalLabels, Counter>,
    refused: Family<ReasonLabel, Counter>,
    jwks_fetches: Family<FetchLabels, Counter>,
    jwks_keys: Family<AppLabel, Gauge>,
    /// Requests turned away by the admission gate with 503.
    pub admission_refused: Counter,
    /// Sockets of HTTP that are open.
    pub http_sockets: Gauge,
    /// Sockets of HTTP that were closed to make room for others.
    pub http_sockets_ended: Counter,
    /// Answers for `Idempotency-Key`s that were given up before their time, to make room for those of other apps.
    pub idempotency_given_up: Counter,
    /// Large publications that waited because most connections refused.
    pub eased: Counter,
    /// Large publications between admission and their last offer.
    pub bulk_in_flight: Gauge,
    /// Small publications between admission and their last offer.
    pub small_in_flight: Gauge,
    /// Bytes that sockets refused, shared bytes once.
    pub refused_bytes: Gauge,
    /// Connections whose socket refuses now.
    pub blocked: Gauge,
    /// Frames in the shards' logs.
    pub log_frames: Gauge,
    /// Other nodes that hold a lease.
    pub peers: Gauge,
    /// Messages of the bus that this node could not use.
    pub bus_skipped: Counter,
    /// Messages of nodes of another version, which were skipped.
    pub bus_unknown_version: Counter,
    /// Kept events that the bus did not bring, and that were fetched.
    pub bus_recovered: Counter,
    /// Compiled filters in the caches.
    pub cached_filters: Gauge,
    /// Events kept for channels and users.
    pub history_events: Gauge,
    /// Memory they take, as their bound counts it.
    pub history_bytes: Gauge,
    /// Kept events that this version could not read.
    pub history_unreadable: Counter,
    /// Time to compile a filter that the cache did not have.
    pub filter_compile: Histogram,
    /// Time to match and place one publication that names a filter.
    pub filter_evaluate: Histogram,
    /// Time from the accepted socket to the welcome.
    pub handshake: Histogram,
    /// Time from admission to the moment when every socket was offered the event.
    pub delivery: Histogram,
    /// Time from a request's head to its answer.
    pub http: Histogram,
    /// Log lines that the reader of the log did not take in time.
    pub log_lines_dropped: Counter,
    /// What goes to other nodes and comes from them.
    pub bus: BusMetrics,
}

fn seconds() -> Histogram {
    // 10 µs to 40 s in steps of 2: from one targeted emit to a stall.
    Histogram::new(exponential_buckets(10e-6, 2.0, 23))
}

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("fanfare");
        let bus = BusMetrics::new(&mut registry);
        let mut metrics = Self {
            registry,
            process: Registry::with_prefix("process"),
            ready: Gauge::default(),
            draining: Gauge::default(),
            connections_limit: Gauge::default(),
            max_fds: Gauge::default(),
            reloads_refused: Counter::default(),
            bus,
            by_app: Family::default(),
            connected: Family::default(),
            accepted: Family::default(),
            encodings: Family::default(),
            deliveries: Family::default(),
            filter_errors: Family::default(),
            messages: Family::default(),
            channels: Family::default(),
            memberships: Family::default(),
            notices: Family::default(),
            replayed: Family::default(),
            dispatch_malformed: Family::default(),
            dispatch_lost: Family::default(),
            resumed: Family::default(),
            drops: Family::default(),
            closes: Family::default(),
            client_refusals: Family::default(),
            refused: Family::default(),
            jwks_fetches: Family::default(),
            jwks_keys: Family::default(),
            admission_refused: Counter::default(),
            http_sockets: Gauge::default(),
            http_sockets_ended: Counter::default(),
            idempotency_given_up: Counter::default(),
            eased: Counter::default(),
            bulk_in_flight: Gauge::default(),
            small_in_flight: Gauge::default(),
            refused_bytes: Gauge::default(),
            blocked: Gauge::default(),
            log_frames: Gauge::default(),
            peers: Gauge::default(),
            bus_skipped: Counter::default(),
            bus_unknown_version: Counter::default(),
            bus_recovered: Counter::default(),
            cached_filters: Gauge::default(),
            history_events: Gauge::default(),
            history_bytes: Gauge::default(),
            history_unreadable: Counter::default(),
            filter_compile: seconds(),
            filter_evaluate: seconds(),
            handshake: seconds(),
            delivery: seconds(),
            http: seconds(),
            log_lines_dropped: Counter::default(),
        };
        metrics.register_publications();
        metrics.register_clients();
        metrics.register_http();
        metrics.register_gauges();
        metrics.register_times();
        metrics.register_process();
        metrics
    }

    fn register_process(&mut self) {
        let r = &mut self.registry;
        let built = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("BUILT_FROM")),
        ];
        r.register("build", "What is running", Info::new(built));
        r.register(
            "ready",
            "1 while readiness succeeds, over all nodes",
            self.ready.clone(),
        );
        r.register(
            "draining",
            "1 once the node has been told to stop",
            self.draining.clone(),
        );
        r.register(
            "connections_limit",
            "The most connections that the node takes",
            self.connections_limit.clone(),
        );
        r.register(
            "reloads_refused",
            "Configurations that a reload refused",
            self.reloads_refused.clone(),
        );

        let started = Gauge::<f64, AtomicU64>::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(now.map_or(0.0, |since| since.as_secs_f64()));
        let r = &mut self.process;
        r.register(
            "start_time_seconds",
            "When the server was set up, in seconds since 1970",
            started,
        );
        r.register(
            "max_fds",
            "The most files and sockets that the process may open",
            self.max_fds.clone(),
        );
    }

    fn register_publications(&mut self) {
        let r = &mut self.registry;
        r.register(
            "events_accepted",
            "Publications past the admission gate",
            self.accepted.clone(),
        );
        r.register(
            "encodings",
            "Frames built for events",
            self.encodings.clone(),
        );
        r.register(
            "deliveries",
            "Event frames written to sockets, whole",
            self.deliveries.clone(),
        );
        r.register(
            "drops",
            "Events lost for a connection or a user, by reason",
            self.drops.clone(),
        );
        r.register(
            "filter_errors",
            "Evaluations of filters that ended in an error",
            self.filter_errors.clone(),
        );
        r.register(
            "dispatch_malformed",
            "Messages on the dispatch channel that could not be taken",
            self.dispatch_malformed.clone(),
        );
        r.register(
            "dispatch_lost",
            "Messages on the dispatch channel that were to be kept, and are not",
            self.dispatch_lost.clone(),
        );
        r.register(
            "replayed",
            "Kept events placed again for who missed them",
            self.replayed.clone(),
        );
        r.register(
            "history_unreadable",
            "Kept events skipped because this version cannot read them",
            self.history_unreadable.clone(),
        );
        r.register(
            "eased",
            "Large publications that waited because most connections refused",
            self.eased.clone(),
        );
        r.register(
            "admission_refused",
            "Requests answered 503 by the admission gate",
            self.admission_refused.clone(),
        );
    }

    fn register_http(&mut self) {
        let r = &mut self.registry;
        r.register(
            "http_sockets",
            "Sockets of HTTP that are open",
            self.http_sockets.clone(),
        );
        r.register(
            "http_sockets_ended",
            "Sockets of HTTP closed while they waited for a request, to make room for others",
            self.http_sockets_ended.clone(),
        );
        r.register(
            "idempotency_given_up",
            "Answers for Idempotency-Keys given up before their time, by apps that kept more than their share",
            self.idempotency_given_up.clone(),
        );
    }

    fn register_clients(&mut self) {
        let r = &mut self.registry;
        r.register(
            "connected",
            "Connections ever welcomed",
            self.connected.clone(),
        );
        r.register(
            "resumed",
            "Connections that took a lost one's place",
            self.resumed.clone(),
        );
        r.register(
            "closes",
            "Connections ended, by close code",
            self.closes.clone(),
        );
        r.register(
            "refusals",
            "Handshakes and calls turned away, by reason",
            self.refused.clone(),
        );
        r.register(
            "log_lines_dropped",
            "Log lines dropped because whoever reads the log was too slow",
            self.log_lines_dropped.clone(),
        );
        r.register(
            "client_messages",
            "Messages that clients sent",
            self.messages.clone(),
        );
        r.register(
            "client_refusals",
            "Messages of clients that were refused, by reason",
            self.client_refusals.clone(),
        );
        r.register(
            "member_notices",
            "Frames built to tell members of each other",
            self.notices.clone(),
        );
        r.register(
            "jwks_fetches",
            "Fetches of public keys, by result",
            self.jwks_fetches.clone(),
        );
    }

    fn register_gauges(&mut self) {
        let r = &mut self.registry;
        r.register("connections", "Open connections", self.by_app.clone());
        r.register("channels", "Channels with members", self.channels.clone());
        r.register(
            "memberships",
            "Members of all channels",
            self.memberships.clone(),
        );
        r.register(
            "bulk_in_flight",
            "Large publications not yet offered everywhere",
            self.bulk_in_flight.clone(),
        );
        r.register(
            "small_in_flight",
            "Small publications not yet offered everywhere",
            self.small_in_flight.clone(),
        );
        r.register(
            "refused_bytes",
            "Bytes that sockets refused, shared bytes once",
            self.refused_bytes.clone(),
        );
        r.register(
            "blocked_connections",
            "Connections whose socket refuses",
            self.blocked.clone(),
        );
        r.register(
            "log_frames",
            "Frames in the shards' logs",
            self.log_frames.clone(),
        );
        r.register("peers", "Other nodes that hold a lease", self.peers.clone());
        r.register(
            "bus_unknown_version",
            "Messages of nodes of another version, which were skipped",
            self.bus_unknown_version.clone(),
        );
        r.register(
            "bus_skipped",
            "Messages of the bus that this node could not use",
            self.bus_skipped.clone(),
        );
        r.register(
            "bus_recovered",
            "Kept events fetched since the bus did not bring them",
            self.bus_recovered.clone(),
        );
        r.register(
            "cached_filters",
            "Compiled filters in the caches",
            self.cached_filters.clone(),
        );
        r.register(
            "jwks_keys",
            "Public keys that were fetched and are in use",
            self.jwks_keys.clone(),
        );
        r.register(
            "history_events",
            "Events kept for channels and users",
            self.history_events.clone(),
        );
        r.register(
            "history_bytes",
            "Memory that kept events take",
            self.history_bytes.clone(),
        );
    }

    fn register_times(&mut self) {
        let r = &mut self.registry;
        let unit = || Unit::Seconds;
        r.register_with_unit(
            "filter_compile",
            "Compiling one filter",
            unit(),
            self.filter_compile.clone(),
        );
        r.register_with_unit(
            "filter_evaluate",
            "Matching one filtered publication",
            unit(),
            self.filter_evaluate.clone(),
        );
        r.register_with_unit(
            "handshake",
            "Accepted socket to welcome",
            unit(),
            self.handshake.clone(),
        );
        r.register_with_unit(
            "delivery",
            "Admission to the last socket's offer",
            unit(),
            self.delivery.clone(),
        );
        r.register_with_unit(
            "http_request",
            "Head of a request to its answer",
            unit(),
            self.http.clone(),
        );
    }

    /// The numbers of app `name`; the same counters at every call.
    pub fn app(&self, name: &str) -> AppMetrics {
        let app: Arc<str> = name.into();
        let label = AppLabel { app: app.clone() };
        let drops = DropReason::ALL.map(|reason| {
            self.drops.get_or_create_owned(&DropLabels {
                app: app.clone(),
                reason: reason.name(),
            })
        });
        AppMetrics {
            closes: self.closes.clone(),
            client_refusals: self.client_refusals.clone(),
            drops,
            connections: self.by_app.get_or_create_owned(&label),
            connected: self.connected.get_or_create_owned(&label),
            accepted: self.accepted.get_or_create_owned(&label),
            encodings: self.encodings.get_or_create_owned(&label),
            deliveries: self.deliveries.get_or_create_owned(&label),
            filter_errors: self.filter_errors.get_or_create_owned(&label),
            messages: self.messages.get_or_create_owned(&label),
            channels: self.channels.get_or_create_owned(&label),
            memberships: self.memberships.get_or_create_owned(&label),
            notices: self.notices.get_or_create_owned(&label),
            replayed: self.replayed.get_or_create_owned(&label),
            dispatch_malformed: self.dispatch_malformed.get_or_create_owned(&label),
            dispatch_lost: self.dispatch_lost.get_or_create_owned(&label),
            resumed: self.resumed.get_or_create_owned(&label),
            app,
        }
    }

    /// Counts a handshake or a call turned away.
    pub fn refused(&self, why: Refusal) {
        self.refused
            .get_or_create(&ReasonLabel { reason: why.name() })
            .inc();
    }

    /// Counts a fetch of public keys for app `name`: how many there are now, or `None` where it failed.
    pub fn fetched_keys(&self, name: &Arc<str>, keys: Option<usize>) {
        let result = if keys.is_some() { "ok" } else { "failed" };
        self.jwks_fetches
            .get_or_create(&FetchLabels {
                app: name.clone(),
                result,
            })
            .inc();
        // Shown from the first fetch on, be it a failure.
        let gauge = self
            .jwks_keys
            .get_or_create_owned(&AppLabel { app: name.clone() });
        if let Some(keys) = keys {
            gauge.set(keys as i64);
        }
    }

    /// All numbers in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &self.process);
        let _ = encode_eof(&mut text);
        text
    }

    /// The numbers that are of the app `name` alone, in the same format.
    pub fn render_app(&self, name: &str) -> String {
        only_of(name, &self.render())
    }
}

/// What of `text` is of the app `name`: its samples, each with the lines that describe its metric.
fn only_of(name: &str, text: &str) -> String {
    let label = format!("app=\"{name}\"");
    let is_of_app = |line: &str| {
        // No other label has a value that callers or clients choose, so this is the label and not a part of one.
        let labels = line.split_once('{').map_or("", |(_, labels)| labels);
        labels.starts_with(&label) || labels.contains(&format!(",{label}"))
    };
    let (mut shown, mut description) = (String::new(), String::new());
    let mut described = false;
    for line in text.split_inclusive('\n') {
        if line.starts_with('#') {
            if described {
                description.clear();
                described = false;
            }
            description.push_str(line);
        } else {
            described = true;
            if is_of_app(line) {
                shown.push_str(&std::mem::take(&mut description));
                shown.push_str(line);
            }
        }
    }
    shown.push_str("# EOF\n");
    shown
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_shown_its_own_numbers_and_nothing_else() {
        let metrics = Metrics::new();
        let (a, ab) = (metrics.app("a"), metrics.app("a-b"));
        a.connected.inc_by(3);
        ab.connected.inc_by(5);
        ab.closed(4001);
        a.dropped(DropReason::Slow, 2);
        let text = metrics.render_app("a");

        assert!(
            text.contains("fanfare_connected_total{app=\"a\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE fanfare_connected counter\n"),
            "{text}"
        );
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for sample in samples {
            assert!(sample.contains("app=\"a\""), "{sample}");
            count += 1;
        }
        assert!(count > 10, "{text}");
        assert!(
            !text.contains("fanfare_http_request") && !text.contains("4001"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));

        // Every metric is described right before its samples.
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if let Some(described) = line.strip_prefix("# HELP ") {
                let metric = described.split(' ').next().unwrap();
                assert!(
                    lines[at + 2].starts_with(metric) || lines[at + 3].starts_with(metric),
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn every_refusal_has_its_place_and_a_name_of_its_own() {
        let mut names: Vec<&str> = Refusal::ALL.map(Refusal::name).to_vec();
        for (place, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place, "{why:?}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
