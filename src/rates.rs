//! How much clients may send: buckets of messages by user, by anonymous connection, and by address.
//!
//! A bucket fills at `messages_per_second` up to `message_burst`, and each message takes from it what it costs. A user has
//! one bucket for all its connections, which outlives them: connecting again gives nothing. An anonymous connection has
//! one of its own, which begins nearly empty, since anyone can have as many connections as they like.

use std::{hash::Hash, net::IpAddr, sync::OnceLock, time::Instant};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::{
    connection_limiter::network,
    id::AppId,
    limits::{ANONYMOUS_START, Limits, RATE_LIMIT_STRIKES, RATED_CLIENTS},
};

/// Buckets are spread over this many locks, so that shards rarely meet at one.
const STRIPES: usize = 16;

/// Buckets up to which a stripe is not looked through for full ones.
const STRIPE_FEW: usize = 64;

/// A moment in four bytes: milliseconds since the program first asked. Differences of up to 24 days are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn now() -> Self {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        Self(BEGAN.get_or_init(Instant::now).elapsed().as_millis() as u32)
    }

    /// The moment `ms` milliseconds after this one.
    #[cfg(test)]
    pub(crate) fn later(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }

    /// Milliseconds from `earlier` to this; 0 if another thread looked at the clock later.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        u32::try_from(self.0.wrapping_sub(earlier.0) as i32).unwrap_or(0)
    }
}

/// How a bucket fills.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// The rate of one client.
    fn of_client(limits: &Limits) -> Self {
        Self {
            per_second: limits.messages_per_second.into(),
            burst: limits.message_burst.into(),
        }
    }

    /// The rate of an address: that of as many clients as may come from there.
    fn of_address(limits: &Limits) -> Self {
        let clients = limits.connections_per_address as f64;
        let Self { per_second, burst } = Self::of_client(limits);
        Self {
            per_second: per_second * clients,
            burst: burst * clients,
        }
    }
}

/// Whether a client may send one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    Go,
    Refused,
    /// Refused so often in a row that the client is to be closed.
    Strike,
}

/// Messages that may still be sent; below zero after one that cost more than there was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    level: f64,
    seen: Moment,
    /// Messages refused since the last that was not.
    strikes: u32,
}

impl Bucket {
    /// The bucket of an anonymous connection that has just come.
    pub(crate) fn of_newcomer(limits: &Limits) -> Self {
        Self {
            level: f64::from(ANONYMOUS_START.min(limits.message_burst)),
            seen: Moment::now(),
            strikes: 0,
        }
    }

    fn full(rate: Rate, now: Moment) -> Self {
        Self {
            level: rate.burst,
            seen: now,
            strikes: 0,
        }
    }

    fn fill(&mut self, rate: Rate, now: Moment) {
        self.level = self.level_at(rate, now);
        self.seen = now;
    }

    fn level_at(&self, rate: Rate, now: Moment) -> f64 {
        let gained = f64::from(now.since(self.seen)) * rate.per_second / 1000.0;
        (self.level + gained).min(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Moment) -> Allowance {
        self.fill(rate, now);
        // Enough for a message to begin. What it costs beyond that is known at its end, and charged
        // then.
        if self.level < 1.0 {
            return self.strike();
        }
        self.level -= 1.0;
        self.strikes = 0;
        Allowance::Go
    }

    fn strike(&mut self) -> Allowance {
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes > RATE_LIMIT_STRIKES {
            Allowance::Strike
        } else {
            Allowance::Refused
        }
    }
}

/// Whose message it is.
#[derive(Debug)]
pub(crate) enum Payer<'a> {
    User(AppId, &'a SmolStr),
    /// A connection without a user, by its own bucket, from this address.
    Anonymous(&'a mut Bucket, IpAddr),
}

/// The buckets of a node that connections share.
#[derive(Debug)]
pub(crate) struct Rates {
    /// By app, so that the users of one cannot make those of another forgotten.
    users: Box<[Buckets<SmolStr>]>,
    addresses: Buckets<IpAddr>,
}

impl Rates {
    pub(crate) fn new(apps: usize) -> Self {
        Self {
            users: (0..apps).map(|_| Buckets::new()).collect(),
            addresses: Buckets::new(),
        }
    }

    /// Takes one message from whose it is.
    pub(crate) fn take(&self, payer: Payer<'_>, limits: &Limits) -> Allowance {
        let (rate, now) = (Rate::of_client(limits), Moment::now());
        match payer {
            Payer::User(app, user) => {
                self.users[usize::from(app.0)]
                    .with(user, rate, now, |bucket| bucket.take(rate, now))
            }
            Payer::Anonymous(own, ip) => {
                own.fill(rate, now);
                // A refusal of the address must not look like a message that went through.
                if own.level < 1.0 || !self.address_takes(ip, limits, now) {
                    return own.strike();
                }
                own.take(rate, now)
            }
        }
    }

    /// Takes what a message cost beyond the first, once that is known.
    pub(crate) fn charge(&self, payer: Payer<'_>, cost: u32, limits: &Limits) {
        if cost == 0 {
            return;
        }

        let (rate, now) = (Rate::of_client(limits), Moment::now());
        match payer {
            Payer::User(app, user) => {
                self.users[usize::from(app.0)].with(user, rate, now, |bucket| {
                    bucket.fill(rate, now);
                    bucket.level -= f64::from(cost);
                });
            }
            Payer::Anonymous(own, ip) => {
                own.level -= f64::from(cost);
                if limits.connections_per_address > 0 {
                    let rate = Rate::of_address(limits);
                    // The address pays as well, so that many connections from there cannot each go
                    // into debt.
                    self.addresses.with(&network(ip), rate, now, |bucket| {
                        bucket.fill(rate, now);
                        bucket.level -= f64::from(cost);
                    });
                }
            }
        }
    }

    /// Takes one message from an address, if addresses are bounded.
    fn address_takes(&self, ip: IpAddr, limits: &Limits, now: Moment) -> bool {
        // Without a bound of connections an address may be a proxy of any number of clients.
        if limits.connections_per_address == 0 {
            return true;
        }
        let rate = Rate::of_address(limits);
        let take = |bucket: &mut Bucket| bucket.take(rate, now) == Allowance::Go;
        self.addresses.with(&network(ip), rate, now, take)
    }
}

/// Buckets by their keys. One that is not here is full, so full ones need not be stored.
#[derive(Debug)]
struct Buckets<K> {
    stripes: [Mutex<Stripe<K>>; STRIPES],
    hasher: RandomState,
}

#[derive(Debug)]
struct Stripe<K> {
    buckets: AHashMap<K, Bucket>,
    /// How many there are when it is looked through the next time.
    sweep_at: usize,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new() -> Self {
        let stripe = || {
            Mutex::new(Stripe {
                buckets: AHashMap::new(),
                sweep_at: STRIPE_FEW,
            })
        };
        Self {
            stripes: std::array::from_fn(|_| stripe()),
            hasher: RandomState::new(),
        }
    }

    /// Calls `each` with the bucket of `key`. Costs two hashes and an uncontended lock.
    fn with<T>(&self, key: &K, rate: Rate, now: Moment, each: impl FnOnce(&mut Bucket) -> T) -> T {
        let at = self.hasher.hash_one(key) as usize % STRIPES;
        let mut stripe = self.stripes[at].lock();
        // First without `entry`, which would need a copy of the key.
        if let Some(bucket) = stripe.buckets.get_mut(key) {
            return each(bucket);
        }

        if stripe.buckets.len() >= stripe.sweep_at {
            stripe.sweep(rate, now);
        }

        each(
            stripe
                .buckets
                .entry(key.clone())
                .or_insert_with(|| Bucket::full(rate, now)),
        )
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let stripes = self.stripes.iter();
        stripes.map(|stripe| stripe.lock().buckets.len()).sum()
    }
}

impl<K: Hash + Eq> Stripe<K> {
    /// Forgets the buckets that are full again. Where most are not, those that lack least are forgotten too: what
    /// remains is bounded, and those who sent most are remembered longest.
    ///
    /// Costs a few nanoseconds a bucket, and comes after at least as many new ones as remained.
    fn sweep(&mut self, rate: Rate, now: Moment) {
        const MOST: usize = RATED_CLIENTS / STRIPES;
        let mut enough = rate.burst;
        loop {
            self.buckets
                .retain(|_, bucket| bucket.level_at(rate, now) < enough);
            if self.buckets.len() <= MOST / 2 {
                break;
            }
            // The next bound is lower: half of it while it is above one message, and below that
            // twice as deep in debt.
            enough = if enough >= 1.0 {
                enough / 2.0
            } else {
                2.0 * enough.min(-1.0)
            };
        }

        self.sweep_at = (2 * self.buckets.len()).clamp(STRIPE_FEW, MOST);
        // After a flood of users its memory is free again.
        self.buckets.shrink_to(self.sweep_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            messages_per_second: 10,
            message_burst: 40,
            ..Limits::default()
        }
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds_then_the_client_is_closed() {
        let rate = Rate::of_client(&limits());
        let start = Moment(u32::MAX - 100);
        let mut bucket = Bucket::full(rate, start);
        assert!((0..40).all(|_| bucket.take(rate, start) == Allowance::Go));
        assert_eq!(bucket.take(rate, start), Allowance::Refused);
        let later = start.later(250);
        assert!((0..2).all(|_| bucket.take(rate, later) == Allowance::Go));
        assert!((0..RATE_LIMIT_STRIKES).all(|_| bucket.take(rate, later) == Allowance::Refused));
        assert_eq!(bucket.take(rate, later), Allowance::Strike);
    }

    #[test]
    fn a_clock_that_another_thread_looked_at_later_gives_nothing() {
        assert_eq!(Moment(5).since(Moment(7)), 0);
        assert_eq!(Moment(5).since(Moment(u32::MAX)), 6);
    }

    #[test]
    fn a_user_has_one_rate_over_all_connections_and_apps_are_apart() {
        let (rates, limits) = (Rates::new(2), limits());
        let ann = SmolStr::from("ann");
        let take = |app| rates.take(Payer::User(AppId(app), &ann), &limits);
        assert!((0..40).all(|_| take(0) == Allowance::Go));
        let refused = (0..20).filter(|_| take(0) == Allowance::Refused).count();
        assert!(refused >= 19, "{refused}");
        assert_eq!(take(1), Allowance::Go);
        assert_eq!(
            rates.take(Payer::User(AppId(0), &"bob".into()), &limits),
            Allowance::Go
        );
    }

    #[test]
    fn what_a_message_costs_is_owed_by_the_ones_after_it() {
        let (rates, limits) = (Rates::new(1), limits());
        let ann = SmolStr::from("ann");
        let payer = || Payer::User(AppId(0), &ann);
        assert_eq!(rates.take(payer(), &limits), Allowance::Go);
        rates.charge(payer(), 1000, &limits);
        assert_eq!(rates.take(payer(), &limits), Allowance::Refused);

        let ip = IpAddr::from([192, 0, 2, 1]);
        let mut own = Bucket::of_newcomer(&limits);
        rates.charge(Payer::Anonymous(&mut own, ip), 1000, &limits);
        let allowance = rates.take(Payer::Anonymous(&mut own, ip), &limits);
        assert_eq!(allowance, Allowance::Refused);
    }

    #[test]
    fn an_anonymous_connection_begins_without_a_burst() {
        let (rates, limits) = (Rates::new(1), limits());
        let ip = IpAddr::from([192, 0, 2, 1]);
        let mut own = Bucket::of_newcomer(&limits);
        let mut take = || rates.take(Payer::Anonymous(&mut own, ip), &limits);
        assert!((0..ANONYMOUS_START).all(|_| take() == Allowance::Go));
        let refused = (0..20).filter(|_| take() == Allowance::Refused).count();
        assert!(refused >= 19, "{refused}");
    }

    #[test]
    fn an_address_sends_no_more_than_its_connections_may_however_often_they_come_back() {
        let limits = Limits {
            connections_per_address: 3,
            ..limits()
        };
        let rates = Rates::new(1);
        let send = |ip: [u8; 4]| {
            let mut own = Bucket::of_newcomer(&limits);
            let ip = IpAddr::from(ip);
            let take =
                |_: &u32| rates.take(Payer::Anonymous(&mut own, ip), &limits) == Allowance::Go;
            (0..ANONYMOUS_START).filter(take).count()
        };
        let passed: usize = (0..100).map(|_| send([192, 0, 2, 1])).sum();
        // These are 3 connections of 40 at the same time, and what they earned meanwhile.
        assert!((120..200).contains(&passed), "{passed}");
        assert_eq!(send([192, 0, 2, 2]), ANONYMOUS_START as usize);
    }

    #[test]
    fn full_buckets_are_forgotten_and_the_others_stay_bounded() {
        let (rate, now) = (Rate::of_client(&limits()), Moment(0));
        let buckets = Buckets::<SmolStr>::new();
        let spend = |key: String, times: usize, now: Moment| {
            buckets.with(&key.into(), rate, now, |bucket| {
                (0..times).all(|_| bucket.take(rate, now) == Allowance::Go)
            })
        };
        for n in 0..4 * RATED_CLIENTS {
            assert!(spend(n.to_string(), 1, now));
        }
        assert!(buckets.len() <= RATED_CLIENTS, "{}", buckets.len());

        // Who owes most is remembered among many who owe little.
        assert!(spend("greedy".into(), 40, now));
        for n in 0..2 * RATED_CLIENTS {
            assert!(spend(format!("b{n}"), 1, now));
        }
        assert!(!spend("greedy".into(), 1, now));

        // A hundred at a time owe something.
        for n in 0..2 * RATED_CLIENTS {
            let now = now.later(10_000 * (1 + n as u32 / 100));
            assert!(spend(format!("c{n}"), 1, now));
        }
        let few = STRIPES * STRIPE_FEW;
        assert!(buckets.len() <= few, "{} are kept", buckets.len());
    }

    #[test]
    fn users_who_all_owe_much_are_bounded_too() {
        let (rate, now) = (Rate::of_client(&limits()), Moment(0));
        let buckets = Buckets::<SmolStr>::new();
        for n in 0..2 * RATED_CLIENTS {
            buckets.with(&n.to_string().into(), rate, now, |bucket| {
                bucket.level = -100.0;
            });
        }
        assert!(buckets.len() <= RATED_CLIENTS);
    }
}
