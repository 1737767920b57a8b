//! The numbers of the bus to other nodes.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{ResultLabel, seconds};

/// What became of something sent to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Redis answered.
    Answered,
    /// Redis answered with an error.
    Refused,
    /// There was no connection.
    Away,
    /// There was no answer in time.
    Unanswered,
    /// Too much waited to be sent.
    Full,
}

impl Sent {
    const ALL: [Self; 5] = [
        Self::Answered,
        Self::Refused,
        Self::Away,
        Self::Unanswered,
        Self::Full,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Away => "away",
            Self::Unanswered => "unanswered",
            Self::Full => "full",
        }
    }
}

/// One number for each result.
type ByResult = Family<ResultLabel, Counter>;

/// The numbers of the bus. All stay zero where there is none.
#[derive(Debug)]
pub struct BusMetrics {
    sent: [Counter; 5],
    /// 1 while the bus is up.
    pub up: Gauge,
    /// Subscriber connections that took the place of lost ones.
    pub reconnects: Counter,
    /// Messages that came.
    pub received: Counter,
    /// Messages that came and were too many.
    pub dropped: Counter,
    /// Times that messages may have been missed.
    pub gaps: Counter,
    /// Channels and users whose missed events were fetched, and where that failed.
    pub fetches: [Counter; 2],
    /// Times that this node's list of members was written as a whole.
    pub lists_written: Counter,
    /// Topics in the register.
    pub topics: Gauge,
    /// Time of a message to Redis and back.
    pub canary: Histogram,
    /// Renewals of this node's lease that Redis refused.
    pub renewals_refused: Counter,
}

impl BusMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let (metrics, published, fetches) = Self::zero();
        r.register(
            "bus_published",
            "Publications and commands for Redis, by result",
            published,
        );

        metrics.register_link(r);
        metrics.register_recovery(r, fetches);
        metrics
    }

    /// All numbers at zero, with the families of those that have one for each result.
    fn zero() -> (Self, ByResult, ByResult) {
        let (published, fetches) = (ByResult::default(), ByResult::default());
        let metrics = Self {
            sent: Sent::ALL.map(|sent| {
                published.get_or_create_owned(&ResultLabel {
                    result: sent.name(),
                })
            }),

            up: Gauge::default(),
            reconnects: Counter::default(),
            received: Counter::default(),
            dropped: Counter::default(),
            gaps: Counter::default(),
            fetches: ["answered", "failed"]
                .map(|result| fetches.get_or_create_owned(&ResultLabel { result })),
            lists_written: Counter::default(),
            topics: Gauge::default(),
            canary: seconds(),

            renewals_refused: Counter::default(),
        };

        (metrics, published, fetches)
    }

    /// Registers the numbers of the connection to Redis, and of what comes over it.
    fn register_link(&self, r: &mut Registry) {
        r.register(
            "bus_up",
            "Whether other nodes can be reached",
            self.up.clone(),
        );

        r.register(
            "bus_reconnects",
            "Subscriber connections made again",
            self.reconnects.clone(),
        );

        r.register(
            "bus_received",
            "Messages from other nodes",
            self.received.clone(),
        );

        r.register(
            "bus_dropped",
            "Messages from other nodes that were too many",
            self.dropped.clone(),
        );

        r.register(
            "bus_gaps",
            "Times that messages may have been missed",
            self.gaps.clone(),
        );

        r.register(
            "bus_topics",
            "Topics that this node needs",
            self.topics.clone(),
        );

        r.register(
            "lease_renewals_refused",
            "Renewals of this node's lease that Redis refused",
            self.renewals_refused.clone(),
        );

        r.register_with_unit(
            "bus_canary",
            "Time of a message to Redis and back",
            Unit::Seconds,
            self.canary.clone(),
        );
    }

    /// Registers what is done about messages that may have been missed.
    fn register_recovery(&self, r: &mut Registry, fetches: ByResult) {
        r.register(
            "bus_fetches",
            "Times that what was missed of a channel or a user was fetched, by result",
            fetches,
        );
        r.register(
            "member_lists_written",
            "Times that this node's list of members in Redis was written as a whole",
            self.lists_written.clone(),
        );
    }

    /// Counts `n` commands.
    pub fn sent(&self, what: Sent, n: u64) {
        if n > 0 {
            self.sent[what as usize].inc_by(n);
        }
    }

    /// Commands with this result so far.
    pub fn count(&self, what: Sent) -> u64 {
        self.sent[what as usize].get()
    }
}
