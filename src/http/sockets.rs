//! The HTTP sockets of the node: how many there may be, and which of them makes room for another.
//!
//! Anyone can open sockets and say nothing on them, so a socket that waits for a request is closed rather than a new one
//! turned away: first those on which nobody has shown an API key, of these those of an address that has many, of these
//! those that were hardly used, and of these the one that waits for longest. A socket whose request is being answered is
//! never closed for another.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::timeouts::ConnectionTimer;
use crate::{
    connection_limiter::network,
    limits::{
        DESCRIPTORS_SPARE, HTTP_SOCKETS_MAX, HTTP_SOCKETS_MIN, HTTP_SOCKETS_OF_ADDRESS, Limits,
    },
    metrics::Metrics,
};

/// After a look that found hardly any socket to close, the next one is this much later: each is a look at all of them.
const LOOK_SPACING: Duration = Duration::from_millis(10);

/// The part of all sockets that one look finds to be closed, one after another.
const LOOK_PART: usize = 16;

/// Requests from which on a stranger's socket counts as used. A burst of new sockets then closes its own first, and not that
/// of a load balancer which asks for the node's health on one that it keeps.
const USED: u32 = 4;

/// The HTTP sockets of a node, those of its admin address included.
#[derive(Debug)]
pub(crate) struct Sockets {
    most: usize,
    /// Of strangers, from one address; 0 is off.
    most_of_address: usize,
    descriptors: usize,
    /// Those that wait for clients' places, and are not counted.
    lent: Arc<AtomicUsize>,
    open: Mutex<Open>,
    /// Rings when a socket has ended.
    freed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Open {
    /// By number, with their addresses; without those that were asked to end.
    timers: AHashMap<u64, (Arc<ConnectionTimer>, Option<IpAddr>)>,
    last: u64,
    /// Sockets that are to be closed next, and since when each waits for a request. Those that have had a request
    /// since are skipped.
    next: VecDeque<(u64, Instant)>,
    /// When to look for more of them again, at the earliest.
    look_at: Option<Instant>,
    /// The sockets of each address.
    addresses: AHashMap<IpAddr, Vec<u64>>,
}

/// An HTTP socket's place among those of the node; given back when dropped.
#[derive(Debug)]
pub(crate) struct SocketPermit {
    sockets: Arc<Sockets>,
    number: u64,
    address: Option<IpAddr>,
    timer: Arc<ConnectionTimer>,
}

impl SocketPermit {
    pub(crate) fn timer(&self) -> &Arc<ConnectionTimer> {
        &self.timer
    }
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        let mut open = self.sockets.open.lock();
        open.timers.remove(&self.number);
        if let Some(address) = self.address
            && let Some(numbers) = open.addresses.get_mut(&address)
        {
            numbers.retain(|number| *number != self.number);
            if numbers.is_empty() {
                open.addresses.remove(&address);
            }
        }

        self.sockets.metrics.http_sockets.dec();
        // The task that wakes takes the lock first.
        drop(open);
        self.sockets.freed.notify_one();
    }
}

impl Sockets {
    /// As many as `limits` allow, in a process that may open `descriptors` descriptors.
    pub(crate) fn new(limits: &Limits, descriptors: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let most = match limits.http_sockets {
            0 => most_by_descriptors(descriptors),
            most => most,
        };

        let most_of_address = match limits.connections_per_address {
            0 => 0,
            most => most.max(HTTP_SOCKETS_OF_ADDRESS),
        };

        Arc::new(Self {
            most,
            most_of_address,
            descriptors,
            lent: Arc::default(),
            open: Mutex::default(),
            freed: Notify::new(),
            metrics,
        })
    }

    /// A place for a socket that was accepted from `ip`, beside `clients` sockets of clients. If there is none,
    /// another socket is asked to end; nothing if each of them is busy. The sockets of a proxy are many people's, and
    /// count for no address.
    pub(crate) fn enter(
        self: &Arc<Self>,
        ip: IpAddr,
        is_proxy: bool,
        clients: usize,
    ) -> Option<SocketPermit> {
        let now = Instant::now();
        let address = (!is_proxy).then(|| network(ip));
        let mut open = self.open.lock();

        // An address that is full makes room among its own sockets, never among those of others.
        if let Some(address) = address
            && self.most_of_address > 0
            && !open.has_room_for(address, self.most_of_address, &self.metrics)
        {
            return None;
        }

        // Clients may have left fewer descriptors than the bound.
        let left = self
            .descriptors
            .saturating_sub(clients.saturating_add(DESCRIPTORS_SPARE));
        let counted = open.timers.len().saturating_sub(self.lent.load(Relaxed));
        // There is always one, so that somebody can still look at a node that is full.
        if counted >= self.most.min(left.max(1)) && open.end_one(now, &self.metrics).is_none() {
            return None;
        }

        let timer = Arc::new(ConnectionTimer::new(self.lent.clone()));
        open.last += 1;
        let number = open.last;
        open.timers.insert(number, (timer.clone(), address));
        if let Some(address) = address {
            open.addresses.entry(address).or_default().push(number);
        }

        self.metrics.http_sockets.inc();
        Some(SocketPermit {
            sockets: self.clone(),
            number,
            address,
            timer,
        })
    }

    /// Asks up to `most` sockets that wait for requests to end; returns how many.
    pub(crate) fn end_some(&self, most: usize) -> usize {
        let mut open = self.open.lock();
        let now = Instant::now();
        (0..most)
            .take_while(|_| open.end_one(now, &self.metrics).is_some())
            .count()
    }

    /// Waits until a socket has ended, which may have been before the call. Cancel-safe.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Open {
    /// Ends the socket that can best be spared.
    fn end_one(&mut self, now: Instant, metrics: &Metrics) -> Option<()> {
        if let Some(number) = self.pop() {
            return self.end(number, metrics);
        }
        if self.look_at.is_some_and(|at| now < at) {
            return None;
        }
        self.look();
        let is_poor = self.next.len() < self.timers.len() / (4 * LOOK_PART);
        self.look_at = is_poor.then(|| now + LOOK_SPACING);
        let number = self.pop()?;
        self.end(number, metrics)
    }

    fn end(&mut self, number: u64, metrics: &Metrics) -> Option<()> {
        let (timer, _) = self.timers.remove(&number)?;
        timer.end();
        metrics.http_sockets_ended.inc();
        Some(())
    }

    /// The next socket that is to be closed and has had no request since it was found.
    fn pop(&mut self) -> Option<u64> {
        while let Some((number, since)) = self.next.pop_front() {
            let found = self.timers.get(&number);
            if found.is_some_and(|(timer, _)| timer.waits_since() == Some(since)) {
                return Some(number);
            }
        }
        None
    }

    /// Finds the sockets that are to be closed next.
    fn look(&mut self) {
        // A factor of two is a crowd; a few more are chance.
        let crowd = |address: &Option<IpAddr>| {
            let numbers = address.and_then(|address| self.addresses.get(&address));
            Reverse(numbers.map_or(0, |numbers| (numbers.len() + 1).ilog2()))
        };

        let waiting = self.timers.iter().filter_map(|(number, (timer, address))| {
            let since = timer.waits_since()?;
            let is_used = timer.answered() >= USED;
            Some((timer.is_known(), crowd(address), is_used, since, *number))
        });

        let mut waiting: Vec<_> = waiting.collect();
        let most = (waiting.len() / LOOK_PART).max(1);
        if waiting.len() > most {
            // Only the part that is wanted is sorted: there may be thousands of sockets.
            waiting.select_nth_unstable(most);
            waiting.truncate(most);
        }

        waiting.sort_unstable();
        self.next.extend(
            waiting
                .into_iter()
                .map(|(_, _, _, since, number)| (number, since)),
        );
    }

    /// Whether a stranger from `address` may have one more socket; the one that waits for longest makes room.
    fn has_room_for(&mut self, address: IpAddr, most: usize, metrics: &Metrics) -> bool {
        let Some(numbers) = self.addresses.get(&address) else {
            return true;
        };

        // A socket that has shown an API key is no longer a stranger's, and only the node's bound holds for it.
        let timers = &self.timers;
        let strangers = numbers.iter().filter_map(|number| {
            let (timer, _) = timers.get(number)?;
            (!timer.is_known()).then_some((timer, *number))
        });

        if strangers.clone().count() < most {
            return true;
        }

        let waiting = strangers.filter_map(|(timer, number)| Some((timer.waits_since()?, number)));
        let oldest = waiting.min().map(|(_, number)| number);
        oldest
            .and_then(|number| self.end(number, metrics))
            .is_some()
    }
}

/// A part of the descriptors: clients get most of them.
fn most_by_descriptors(descriptors: usize) -> usize {
    (descriptors / 4).clamp(HTTP_SOCKETS_MIN, HTTP_SOCKETS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: usize = 1 << 20;

    fn sockets(change: impl FnOnce(&mut Limits)) -> Arc<Sockets> {
        let mut limits = Limits::default();
        change(&mut limits);
        Sockets::new(&limits, PLENTY, Arc::new(Metrics::new()))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_ended(permit: &SocketPermit) -> bool {
        !permit
            .sockets
            .open
            .lock()
            .timers
            .contains_key(&permit.number)
    }

    fn enter(sockets: &Arc<Sockets>, last: u8) -> SocketPermit {
        sockets.enter(ip(last), false, 0).unwrap()
    }

    #[test]
    fn the_one_that_waits_for_longest_makes_room() {
        let sockets = sockets(|limits| limits.http_sockets = 3);
        let permits: Vec<SocketPermit> = (0..3).map(|_| enter(&sockets, 1)).collect();

        // The second has had a request since.
        permits[0].timer().busy();
        permits[1].timer().busy();
        permits[1].timer().idle();
        let fourth = enter(&sockets, 1);
        let ended = || permits.iter().map(is_ended).collect::<Vec<_>>();
        assert_eq!(ended(), [false, false, true]);
        let _fifth = enter(&sockets, 1);
        assert_eq!(ended(), [false, true, true]);

        // The fourth is next; what is being answered goes on.
        let _sixth = enter(&sockets, 1);
        assert!(is_ended(&fourth) && !is_ended(&permits[0]));
        assert_eq!(sockets.metrics.http_sockets_ended.get(), 3);
        drop(permits);
        assert_eq!(sockets.metrics.http_sockets.get(), 3);
    }

    #[test]
    fn strangers_make_room_before_who_has_shown_a_key() {
        let sockets = sockets(|limits| limits.http_sockets = 2);
        let function = enter(&sockets, 1);
        function.timer().busy();
        function.timer().know();
        function.timer().idle();
        let stranger = enter(&sockets, 2);
        let _new = enter(&sockets, 3);
        assert!(is_ended(&stranger) && !is_ended(&function));
    }

    #[test]
    fn what_is_hardly_used_makes_room_before_what_is_used() {
        let sockets = sockets(|limits| limits.http_sockets = 3);
        let balancer = enter(&sockets, 1);
        for _ in 0..USED {
            balancer.timer().busy();
            balancer.timer().idle();
        }
        let new: Vec<SocketPermit> = (0..5).map(|_| enter(&sockets, 1)).collect();
        assert!(!is_ended(&balancer), "it waits for longest");
        assert_eq!(new.iter().filter(|permit| !is_ended(permit)).count(), 2);
    }

    #[test]
    fn an_address_that_has_many_makes_room_before_others() {
        let sockets = sockets(|limits| limits.http_sockets = 10);
        let few: Vec<SocketPermit> = (1..=3).map(|last| enter(&sockets, last)).collect();
        let many: Vec<SocketPermit> = (0..100).map(|_| enter(&sockets, 9)).collect();
        assert!(
            !few.iter().any(is_ended),
            "they wait for longer, and are few"
        );
        assert_eq!(many.iter().filter(|permit| !is_ended(permit)).count(), 7);
        assert!(many[..93].iter().all(is_ended), "the oldest of them");
    }

    #[test]
    fn where_all_are_busy_a_new_one_is_turned_away_until_one_has_ended() {
        let sockets = sockets(|limits| limits.http_sockets = 2);
        let mut permits = vec![enter(&sockets, 1), enter(&sockets, 1)];
        for permit in &permits {
            permit.timer().busy();
        }
        assert!(sockets.enter(ip(2), false, 0).is_none());
        assert_eq!(sockets.end_some(10), 0);
        permits.pop();
        permits.push(enter(&sockets, 2));
        assert!(permits.iter().all(|permit| !is_ended(permit)));
    }

    #[test]
    fn what_waits_on_a_clients_place_takes_none_of_http() {
        let sockets = sockets(|limits| limits.http_sockets = 2);
        let permits = vec![enter(&sockets, 1), enter(&sockets, 1)];
        for permit in &permits {
            permit.timer().busy();
        }
        let lent = permits[0].timer().lend();
        let third = enter(&sockets, 2);
        third.timer().busy();
        drop(lent);
        assert!(sockets.enter(ip(2), false, 0).is_none());
        assert!(!permits.iter().any(is_ended));
    }

    #[test]
    fn strangers_from_one_address_have_a_bound_and_proxies_have_none() {
        let sockets = sockets(|limits| limits.connections_per_address = 5);
        let most = HTTP_SOCKETS_OF_ADDRESS;
        let permits: Vec<SocketPermit> = (0..2 * most).map(|_| enter(&sockets, 1)).collect();
        let open =
            |permits: &[SocketPermit]| permits.iter().filter(|permit| !is_ended(permit)).count();
        assert_eq!(open(&permits), most);
        assert!(permits[..most].iter().all(is_ended), "the oldest went");

        // Those with a key are not among them.
        for permit in &permits[most..] {
            permit.timer().know();
        }
        let more: Vec<SocketPermit> = (0..most).map(|_| enter(&sockets, 1)).collect();
        assert_eq!((open(&permits), open(&more)), (most, most));

        let of_proxy: Vec<SocketPermit> = (0..2 * most)
            .map(|_| sockets.enter(ip(9), true, 0).unwrap())
            .collect();
        assert_eq!(open(&of_proxy), 2 * most);
        drop((permits, more, of_proxy));
        assert!(sockets.open.lock().addresses.is_empty());
    }

    #[test]
    fn the_more_clients_there_are_the_fewer_sockets_are_for_http() {
        let sockets = Sockets::new(&Limits::default(), 1024, Arc::new(Metrics::new()));
        assert_eq!(sockets.most, 256);
        let clients = 1024 - DESCRIPTORS_SPARE - 10;
        let permits: Vec<SocketPermit> = (0..100)
            .map(|_| sockets.enter(ip(1), false, clients).unwrap())
            .collect();
        assert_eq!(
            permits.iter().filter(|permit| !is_ended(permit)).count(),
            10
        );
        let of = most_by_descriptors;
        assert_eq!([of(64), of(PLENTY)], [HTTP_SOCKETS_MIN, HTTP_SOCKETS_MAX]);
    }

    #[test]
    fn of_many_each_look_finds_many_and_the_oldest_go_first() {
        let sockets = sockets(|limits| limits.http_sockets = 1000);
        let old: Vec<SocketPermit> = (0..1000).map(|_| enter(&sockets, 1)).collect();
        let new: Vec<SocketPermit> = (0..1000).map(|_| enter(&sockets, 1)).collect();
        assert!(old.iter().all(is_ended) && !new.iter().any(is_ended));
        assert_eq!(sockets.open.lock().timers.len(), 1000);
    }
}
