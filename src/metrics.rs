//! Every number the server shows about itself, in the text format of Prometheus.
//!
//! Counters are plain atomics that their users hold, so that counting costs one addition and no look-up.

mod bus;
mod of_app;
mod reasons;

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

pub use self::{
    bus::{BusMetrics, Sent},
    reasons::{DropReason, Refusal},
};
use self::{of_app::only_of, reasons::close_label};

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FetchLabels {
    app: Arc<str>,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Makes a table of metrics to fields, their registration and their start values.
///
/// A row is a field, its type, its name in the text format (after `fanfare_`), and its description there.
macro_rules! metrics {
    (
        app {$(
            $(#[$app_doc:meta])*
            $app:ident: $app_kind:ident = $app_name:literal, $app_help:literal;
        )*}
        node {$(
            $(#[$doc:meta])*
            $field:ident: $kind:ident = $name:literal, $help:literal;
        )*}
        seconds {$(
            $(#[$time_doc:meta])*
            $time:ident = $time_name:literal, $time_help:literal;
        )*}
    ) => {
        /// The numbers of one app.
        #[derive(Debug)]
        pub struct AppMetrics {
            app: Arc<str>,
            closes: Family<CloseLabels, Counter>,
            client_refusals: Family<ClientRefusalLabels, Counter>,
            drops: [Counter; 5],
            $( $(#[$app_doc])* pub $app: $app_kind, )*
        }

        /// The numbers of all apps, by the label `app`.
        #[derive(Debug, Default)]
        struct Apps {
            $( $app: Family<AppLabel, $app_kind>, )*
        }

        impl Apps {
            fn register(&self, r: &mut Registry) {
                $( r.register($app_name, $app_help, self.$app.clone()); )*
            }
        }

        /// The numbers of the node. Names start with `fanfare_`, and with `process_` where Prometheus has them for any program.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            process: Registry,
            apps: Apps,
            drops: Family<DropLabels, Counter>,
            closes: Family<CloseLabels, Counter>,
            client_refusals: Family<ClientRefusalLabels, Counter>,
            refused: Family<ReasonLabel, Counter>,
            jwks_fetches: Family<FetchLabels, Counter>,
            jwks_keys: Family<AppLabel, Gauge>,
            /// The most files and sockets that the process may open.
            pub max_fds: Gauge,
            /// What goes to other nodes and comes from them.
            pub bus: BusMetrics,
            $( $(#[$doc])* pub $field: $kind, )*
            $( $(#[$time_doc])* pub $time: Histogram, )*
        }

        impl Metrics {
            /// A fresh set, all zero.
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("fanfare");
                let bus = BusMetrics::new(&mut registry);
                let mut metrics = Self {
                    registry,
                    process: Registry::with_prefix("process"),
                    apps: Apps::default(),
                    drops: Family::default(),
                    closes: Family::default(),
                    client_refusals: Family::default(),
                    refused: Family::default(),
                    jwks_fetches: Family::default(),
                    jwks_keys: Family::default(),
                    max_fds: Gauge::default(),
                    bus,
                    $( $field: $kind::default(), )*

                    $( $time: seconds(), )*
                };

                metrics.register_process();
                metrics.register_labelled();
                let r = &mut metrics.registry;
                metrics.apps.register(r);
                $( r.register($name, $help, metrics.$field.clone()); )*
                $( r.register_with_unit($time_name, $time_help, Unit::Seconds, metrics.$time.clone()); )*

                metrics
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
                    $( $app: self.apps.$app.get_or_create_owned(&label), )*
                    app,
                }
            }
        }
    };
}

metrics! {
    app {
        /// Connections that are open now.
        connections: Gauge = "connections", "Open connections";
        /// Connections that were ever welcomed.
        connected: Counter = "connected", "Connections ever welcomed";
        /// Publications that were admitted.
        accepted: Counter = "events_accepted", "Publications that were admitted";
        /// Frames built for events; compare with `deliveries`.
        encodings: Counter = "encodings", "Frames built for events";
        /// Event frames written to sockets, whole.
        deliveries: Counter = "deliveries", "Event frames written to sockets, whole";
        /// Evaluations of filters that ended in an error.
        filter_errors: Counter = "filter_errors", "Evaluations of filters that ended in an error";
        /// Messages that clients sent.
        messages: Counter = "client_messages", "Messages that clients sent";
        /// Channels with members.
        channels: Gauge = "channels", "Channels with members";
        /// Members of all channels.
        memberships: Gauge = "memberships", "Members of all channels";
        /// Whether this node leads the app.
        leader: Gauge = "leader", "1 if this node stores what programs publish for the app, else 0";
        /// Frames built to notify members of each other.
        notices: Counter = "member_notices", "Frames built to tell members of each other";
        /// Kept events placed again for who missed them.
        replayed: Counter = "replayed", "Kept events placed again for who missed them";
        /// Messages of programs on the dispatch channel that could not be taken.
        dispatch_malformed: Counter = "dispatch_malformed", "Messages on the dispatch channel that could not be taken";
        /// Messages of programs that were to be stored, and are not.
        dispatch_lost: Counter = "dispatch_lost", "Messages on the dispatch channel that were to be stored, and are not";
        /// Connections that took a lost one's place.
        resumed: Counter = "resumed", "Connections that took a lost one's place";
        /// Calls of clients that a function of the embedding program took.
        calls: Counter = "calls", "Calls of clients that a function of the embedding program took";
        /// Bytes that the app stores, where it may store only so many.
        stored_bytes: Gauge = "stored_bytes", "Bytes of histories and stored events of an app that may keep only so many";
        /// Events that were not stored since it stores as many bytes as it may.
        storage_refused: Counter = "storage_refused", "Events that were not stored, as the app stores as many bytes as it may";
    }
    node {
        /// 1 while readiness succeeds, over all nodes; as of the last look.
        ready: Gauge = "ready", "1 while readiness succeeds, over all nodes";
        /// 1 from SIGTERM on; as of the last look.
        draining: Gauge = "draining", "1 once the node has been asked to stop";
        /// The most connections that the node takes.
        connections_limit: Gauge = "connections_limit", "The most connections that the node takes";
        /// Configurations that a reload refused.
        reloads_refused: Counter = "reloads_refused", "Configurations that a reload refused";
        /// Requests that admission refused with 503.
        admission_refused: Counter = "admission_refused", "Requests that admission refused with 503";
        /// Sockets of HTTP that are open.
        http_sockets: Gauge = "http_sockets", "Sockets of HTTP that are open";
        /// Sockets of HTTP that were closed to make room for others.
        http_sockets_ended: Counter = "http_sockets_ended", "Sockets of HTTP closed while they waited for a request, to make room for others";
        /// Answers for `Idempotency-Key`s that were given up before their time, to make room for those of other apps.
        idempotency_evicted: Counter = "idempotency_evicted", "Answers for Idempotency-Keys given up before their time, by apps that stored more than their share";
        /// Large publications that waited because most connections refused.
        backpressure_waits: Counter = "backpressure_waits", "Large publications that waited because most connections refused";
        /// Large publications between admission and their last offer.
        bulk_in_flight: Gauge = "bulk_in_flight", "Large publications not yet offered everywhere";
        /// Small publications between admission and their last offer.
        small_in_flight: Gauge = "small_in_flight", "Small publications not yet offered everywhere";
        /// Bytes that sockets refused, shared bytes once.
        refused_bytes: Gauge = "refused_bytes", "Bytes that sockets refused, shared bytes once";
        /// Connections whose socket refuses now.
        blocked: Gauge = "blocked_connections", "Connections whose socket refuses";
        /// Frames in the shards' logs.
        log_frames: Gauge = "log_frames", "Frames in the shards' logs";
        /// Other nodes that hold a lease.
        peers: Gauge = "peers", "Other nodes that hold a lease";
        /// The version of messages and records that this node writes.
        bus_version: Gauge = "bus_version", "The version of messages and records that this node writes, which every node reads";
        /// Messages of the bus that this node could not use.
        bus_skipped: Counter = "bus_skipped", "Messages of the bus that this node could not use";
        /// Messages of nodes of another version, which were skipped.
        bus_unknown_version: Counter = "bus_unknown_version", "Messages of nodes of another version, which were skipped";
        /// Kept events that the bus did not bring, and that were fetched.
        bus_recovered: Counter = "bus_recovered", "Kept events fetched since the bus did not bring them";
        /// Compiled filters in the caches.
        cached_filters: Gauge = "cached_filters", "Compiled filters in the caches";
        /// Events stored for channels and users.
        history_events: Gauge = "history_events", "Events stored for channels and users";
        /// Memory they take, as their bound counts it.
        history_bytes: Gauge = "history_bytes", "Memory that stored events take";
        /// Kept events that this version could not read.
        history_unreadable: Counter = "history_unreadable", "Kept events skipped because this version cannot read them";
        /// Log lines that the reader of the log did not take in time.
        log_lines_dropped: Counter = "log_lines_dropped", "Log lines dropped because the reader of the log was too slow";
    }
    seconds {
        /// Time to compile a filter that the cache did not have.
        filter_compile = "filter_compile", "Compiling one filter";
        /// Time to match and place one publication that names a filter.
        filter_evaluate = "filter_evaluate", "Matching one filtered publication";
        /// Time from the accepted socket to the welcome.
        handshake = "handshake", "Accepted socket to welcome";
        /// Time from admission to the moment when every socket was offered the event.
        delivery = "delivery", "Admission to the last socket's offer";
        /// Time from a request's head to its answer.
        http = "http_request", "Head of a request to its answer";
        /// Time from a client's call to the answer of the function that took it.
        call = "call", "A client's call to the answer of its function";
    }
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

    /// Connections that ended with `code` so far, or with any that has no series of its own if it has none.
    pub fn closes(&self, code: u16) -> u64 {
        self.closes
            .get_or_create(&CloseLabels {
                app: self.app.clone(),
                code: close_label(code),
            })
            .get()
    }
}

fn seconds() -> Histogram {
    // 10 µs to 40 s in steps of 2: from one targeted emit to a stall.
    Histogram::new(exponential_buckets(10e-6, 2.0, 23))
}

impl Metrics {
    fn register_process(&mut self) {
        let r = &mut self.registry;
        let built = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("BUILT_FROM")),
        ];
        r.register("build", "What is running", Info::new(built));

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

    fn register_labelled(&mut self) {
        let r = &mut self.registry;
        r.register(
            "drops",
            "Events lost for a connection or a user, by reason",
            self.drops.clone(),
        );

        r.register(
            "closes",
            "Connections ended, by close code",
            self.closes.clone(),
        );

        r.register(
            "client_refusals",
            "Messages of clients that were refused, by reason",
            self.client_refusals.clone(),
        );

        r.register(
            "refusals",
            "Handshakes and calls turned away, by reason",
            self.refused.clone(),
        );

        r.register(
            "jwks_fetches",
            "Fetches of public keys, by result",
            self.jwks_fetches.clone(),
        );

        r.register(
            "jwks_keys",
            "Public keys that were fetched and are in use",
            self.jwks_keys.clone(),
        );
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
