//! How many clients may come in a second, and from where.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;

use crate::limits::Limits;

/// What addresses that open few may open beyond the rate, as a part of it.
const RESERVE_PART: u32 = 8;

/// Openings in a second that are few for an address: a household whose pages come back together.
const FEW: u32 = 8;

/// Over how many places addresses are spread to count their openings.
const OPENINGS: usize = 4096;

const SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

type Addresses = Arc<Mutex<AHashMap<IpAddr, usize>>>;

/// Bounds the rate of connections that begin, and the connections of one address.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    rate: Rate,
    /// Of those that are let in only to learn why they may not stay.
    hopeless: Rate,
    /// Beyond `rate`, for those whose addresses have opened few: one address that opens as many as it can keeps no other out.
    reserve: Rate,
    /// How many each address opens. Some share a place, by chance.
    openings: Box<[Rate]>,
    hasher: RandomState,
    per_address: usize,
    addresses: Addresses,
}

/// A number in a second, and as many at the same time: the generic cell rate algorithm. Each one moves the time at which
/// the next is due; one is refused if that time is a second ahead.
#[derive(Debug)]
struct Rate {
    start: Instant,
    /// Nanoseconds between two.
    interval: u64,
    /// When the next one is due, in nanoseconds since `start`.
    due: AtomicU64,
}

impl Rate {
    fn per_second(rate: u32) -> Self {
        Self {
            start: Instant::now(),
            interval: SECOND / u64::from(rate.max(1)),
            due: AtomicU64::new(0),
        }
    }

    fn take(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let taken = self.due.fetch_update(Relaxed, Relaxed, |due| {
            let next = due.max(now) + self.interval;
            (next <= now + SECOND).then_some(next)
        });
        taken.is_ok()
    }
}

/// One connection's place among those of its address; given back when dropped.
#[derive(Debug)]
pub(crate) struct IpPermit(Option<Box<(Addresses, IpAddr)>>);

/// The address has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

/// Whether a connection may be let in, as far as its handshake says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prospects {
    Some,
    /// It will be refused.
    None,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            rate: Rate::per_second(limits.accepts_per_second),
            hopeless: Rate::per_second(limits.accepts_per_second),
            reserve: Rate::per_second(limits.accepts_per_second / RESERVE_PART),
            openings: (0..OPENINGS).map(|_| Rate::per_second(FEW)).collect(),
            hasher: RandomState::new(),
            per_address: limits.connections_per_address,
            addresses: Arc::default(),
        }
    }

    /// Whether one more connection, from `ip`, keeps the rate. Those without prospects, which anybody can make up, have a rate
    /// of their own, so that they keep nobody else out.
    pub(crate) fn may_upgrade(&self, prospects: Prospects, ip: IpAddr) -> bool {
        let now = Instant::now();
        if prospects == Prospects::None {
            return self.hopeless.take(now);
        }
        // It also counts while the rate has room, so that who has opened few is known once it has
        // none.
        let place = self.hasher.hash_one(network(ip)) as usize % OPENINGS;
        let is_few = self.openings[place].take(now);
        self.rate.take(now) || (is_few && self.reserve.take(now))
    }

    /// Takes a place for a connection from `ip`.
    ///
    /// # Errors
    /// [`TooMany`] where the address has as many as it may.
    pub(crate) fn enter(&self, ip: IpAddr) -> Result<IpPermit, TooMany> {
        // No limit is set, so nothing need be counted.
        if self.per_address == 0 {
            return Ok(IpPermit(None));
        }
        let key = network(ip);
        let mut addresses = self.addresses.lock();
        let count = addresses.entry(key).or_insert(0);
        if *count >= self.per_address {
            return Err(TooMany);
        }
        *count += 1;
        drop(addresses);
        Ok(IpPermit(Some(Box::new((self.addresses.clone(), key)))))
    }
}

impl Drop for IpPermit {
    fn drop(&mut self) {
        let Some((addresses, key)) = self.0.as_deref() else {
            return;
        };
        let mut addresses = addresses.lock();
        if let Some(count) = addresses.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                // Addresses come and go, and the map must not grow with all that ever came.
                addresses.remove(key);
            }
        }
    }
}

/// One household has one IPv4 address, or one IPv6 /64.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(v4) => IpAddr::V4(v4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_in_as_many_as_its_rate() {
        let rate = Rate::per_second(10);
        let at = |millis| rate.start + Duration::from_millis(millis);
        let taken = |millis| (0..100).filter(|_| rate.take(at(millis))).count();

        // There is a burst at first, then one for each tenth of a second.
        assert_eq!(taken(0), 10);
        assert_eq!(taken(99), 0);
        assert_eq!(taken(100), 1);
        assert_eq!(taken(550), 4);
        assert_eq!(taken(60_000), 10, "what was not used is not saved up");

        // A clock that another thread read earlier takes nothing back.
        assert_eq!(taken(59_000), 0);
    }

    #[test]
    fn who_cannot_stay_takes_nobody_elses_place() {
        let limiter = ConnectionLimiter::new(&Limits {
            accepts_per_second: 5,
            ..Limits::default()
        });
        let ip = IpAddr::from([192, 0, 2, 1]);
        let let_in = |prospects| {
            (0..100)
                .filter(|_| limiter.may_upgrade(prospects, ip))
                .count()
        };
        let hopeless = let_in(Prospects::None);
        assert!((5..100).contains(&hopeless), "they have a bound too");
        assert!(let_in(Prospects::Some) >= 5);
    }

    #[test]
    fn an_address_that_opens_many_keeps_no_other_out() {
        let limiter = ConnectionLimiter::new(&Limits {
            accepts_per_second: 100,
            ..Limits::default()
        });
        let from = |last: u8| limiter.may_upgrade(Prospects::Some, IpAddr::from([192, 0, 2, last]));
        let crowd = (0..10_000).filter(|_| from(1)).count();
        assert!((100..2000).contains(&crowd), "{crowd}");
        assert!((2..10).any(from), "unless all of them share its place");
    }

    #[test]
    fn an_address_has_its_places_back_when_connections_end() {
        let limiter = ConnectionLimiter::new(&Limits {
            connections_per_address: 2,
            ..Limits::default()
        });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [
            limiter.enter(ip("2001:db8::1")).unwrap(),
            limiter.enter(ip("2001:db8::2")).unwrap(),
        ];
        assert!(limiter.enter(ip("2001:db8::3")).is_err());
        assert!(limiter.enter(ip("2001:db8:0:1::1")).is_ok(), "another /64");
        assert!(limiter.enter(ip("192.0.2.1")).is_ok());
        drop(held);
        assert!(limiter.enter(ip("2001:db8::3")).is_ok());
        assert!(limiter.addresses.lock().is_empty());
    }
}
