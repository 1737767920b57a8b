//! Admission: how much work is accepted and not yet offered to every socket.
//!
//! Two pools that never mix: small publications (up to 100 deliveries) and large ones. The decision falls before any
//! shard is touched, by an upper bound of the deliveries. A permit is held by every reference to a frame that no
//! socket was offered yet; a frame that a socket refused gives its permit back, so no client can hold admission.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    pace::Pace,
    scan_limit::{ScanPermit, Scans},
};
use crate::{
    id::AppId,
    limits::{
        ADMITTED_LEAST_PAGED, ADMITTED_PART, ADMITTED_UNIT, ADMITTED_UNIT_PAGED, Limits,
        PAGED_SOCKETS, SMALL_DELIVERIES,
    },
    metrics::Metrics,
};

/// Shares one admission: admission gets its place back when the last clone is dropped.
pub(crate) type Permit = Arc<HeldPermit>;

/// The node has accepted as much as it may; nothing was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// The sockets were not yet offered what was accepted before.
    #[error("the node has accepted as much as it can offer to its sockets; try again")]
    Sockets,
    /// As many heavy filters of the app run as may.
    #[error(
        "as many heavy filters of this app run as may; try again, or let an index answer more of the filter"
    )]
    Filters,
}

/// Bounds what the node has accepted and not yet offered.
#[derive(Debug)]
pub(crate) struct Admission {
    small: Pool,
    bulk: Pool,
    scans: Arc<Scans>,
    wait: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Pool {
    publications: Semaphore,
    pace: Pace,
    deliveries: Semaphore,
    bytes: Semaphore,
    max_deliveries: u32,
    max_bytes: u32,
    /// The most that one admission takes of the publications, which are counted in bytes.
    max_places: usize,
}

/// What one admission takes of a pool.
#[derive(Clone, Copy, Debug)]
struct Weight {
    places: u32,
    deliveries: u32,
    bytes: u32,
}

impl Pool {
    fn new(publications: usize, part: usize, deliveries: usize, bytes: usize) -> Self {
        // A semaphore panics if it is given more permits than it can count.
        let publications = publications
            .max(1)
            .saturating_mul(ADMITTED_UNIT)
            .min(Semaphore::MAX_PERMITS);
        let cap = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX / 2);
        Self {
            publications: Semaphore::new(publications),
            pace: Pace::new(publications),
            deliveries: Semaphore::new(cap(deliveries) as usize),
            bytes: Semaphore::new(cap(bytes) as usize),
            max_deliveries: cap(deliveries),
            max_bytes: cap(bytes),
            max_places: (publications / part).clamp(ADMITTED_UNIT, u32::MAX as usize),
        }
    }

    /// What one admission takes: never more than the pool has, so that what is huge passes alone.
    fn weigh(&self, deliveries: usize, bytes: usize) -> Weight {
        let cut = |n: usize, max: u32| u32::try_from(n).map_or(max, |n| n.min(max));
        // They are written as pages, of which a longer write is cheaper, so they count for less.
        let (least, counted) = if (SMALL_DELIVERIES + 1..=PAGED_SOCKETS).contains(&deliveries) {
            (
                ADMITTED_LEAST_PAGED,
                bytes.saturating_mul(ADMITTED_UNIT) / ADMITTED_UNIT_PAGED,
            )
        } else {
            (ADMITTED_UNIT, bytes)
        };

        Weight {
            places: counted.clamp(least, self.max_places) as u32,
            deliveries: cut(deliveries, self.max_deliveries),
            bytes: cut(bytes, self.max_bytes),
        }
    }

    fn try_take(&self, weight: Weight) -> bool {
        let Ok(places) = self.publications.try_acquire_many(weight.places) else {
            return false;
        };
        let Ok(deliveries) = self.deliveries.try_acquire_many(weight.deliveries) else {
            return false;
        };
        let Ok(bytes) = self.bytes.try_acquire_many(weight.bytes) else {
            return false;
        };

        // Together, once all three are had: one that was refused by the last has taken nothing.
        places.forget();
        deliveries.forget();
        bytes.forget();

        true
    }

    /// First come, first served: one that waits for deliveries or bytes holds back those that come later.
    async fn take(&self, weight: Weight) -> bool {
        let Ok(places) = self.publications.acquire_many(weight.places).await else {
            return false;
        };
        let Ok(deliveries) = self.deliveries.acquire_many(weight.deliveries).await else {
            return false;
        };
        let Ok(bytes) = self.bytes.acquire_many(weight.bytes).await else {
            return false;
        };

        places.forget();
        deliveries.forget();
        bytes.forget();

        true
    }

    fn give_back(&self, weight: Weight) {
        // The reverse of the order in which they are taken, so that one that gets the first of them
        // finds the others.
        self.bytes.add_permits(weight.bytes as usize);
        self.deliveries.add_permits(weight.deliveries as usize);
        self.publications
            .add_permits(self.pace.give_back(weight.places as usize));
    }
}

impl Admission {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let small_deliveries = limits.small_publications.saturating_mul(SMALL_DELIVERIES);
        Arc::new(Self {
            small: Pool::new(
                limits.small_publications,
                usize::MAX,
                small_deliveries,
                limits.admitted_bytes / 4,
            ),

            bulk: Pool::new(
                limits.bulk_publications,
                ADMITTED_PART,
                limits.bulk_deliveries,
                limits.admitted_bytes,
            ),

            scans: Scans::new(limits.scans),
            wait: limits.admission_wait,
            metrics,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Self> {
        Self::new(&Limits::default(), Arc::new(Metrics::new()))
    }

    /// Whether there is room for one more large publication at most.
    pub(crate) fn is_full(&self) -> bool {
        self.bulk.publications.available_permits() < 2 * ADMITTED_UNIT
    }

    /// Notes that a shard has sockets that wait for large publications, or no longer has any.
    pub(super) fn note_writing(&self, writing: bool) {
        self.bulk
            .publications
            .add_permits(self.bulk.pace.turn(writing));
    }

    /// Notes that `written` of `waiting` such sockets of a shard were written.
    pub(super) fn note_written(&self, written: usize, waiting: usize) {
        self.bulk
            .publications
            .add_permits(self.bulk.pace.written(written, waiting));
    }

    fn pool(&self, small: bool) -> &Pool {
        if small { &self.small } else { &self.bulk }
    }

    /// Admits what may reach up to `reach` connections with a frame of `bytes`, if there is room now.
    pub(crate) fn try_admit(self: &Arc<Self>, reach: usize, bytes: usize) -> Option<Permit> {
        let small = reach <= SMALL_DELIVERIES;
        let weight = self.pool(small).weigh(reach, bytes);
        self.pool(small)
            .try_take(weight)
            .then(|| self.permit(small, weight))
    }

    /// Admits as [`Admission::try_admit`] does, waiting for room up to the configured time.
    ///
    /// Cancel-safe: dropped while it waits, it has taken nothing.
    ///
    /// # Errors
    /// [`Busy`] when no room came in time.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        reach: usize,
        bytes: usize,
    ) -> Result<Permit, Busy> {
        // Most find room, and need no timer.
        if let Some(permit) = self.try_admit(reach, bytes) {
            return Ok(permit);
        }
        let small = reach <= SMALL_DELIVERIES;
        let weight = self.pool(small).weigh(reach, bytes);
        if let Ok(true) = tokio::time::timeout(self.wait, self.pool(small).take(weight)).await {
            return Ok(self.permit(small, weight));
        }
        self.metrics.admission_refused.inc();
        Err(Busy::Sockets)
    }

    /// Waits for a permit to run a heavy filter of `app`. No app waits for another one; see [`super::scan_limit`].
    ///
    /// # Errors
    /// [`Busy`] when none of the app's own heavy filters ended in time.
    pub(crate) async fn scan(&self, app: AppId) -> Result<ScanPermit, Busy> {
        let permit = self.scans.take(app, self.wait).await;
        permit.ok_or_else(|| {
            self.metrics.admission_refused.inc();
            Busy::Filters
        })
    }

    fn permit(self: &Arc<Self>, small: bool, weight: Weight) -> Permit {
        let in_flight = if small {
            &self.metrics.small_in_flight
        } else {
            &self.metrics.bulk_in_flight
        };

        in_flight.inc();
        Arc::new(HeldPermit {
            admission: self.clone(),
            small,
            weight,
            // Taken by the upper bound, and corrected when the true number is known.
            deliveries: AtomicU32::new(weight.deliveries),
            placings: AtomicU32::new(1),
            placed: AtomicU32::new(0),
            since: Instant::now(),
        })
    }
}

/// One publication's place at admission.
#[derive(Debug)]
pub(crate) struct HeldPermit {
    admission: Arc<Admission>,
    small: bool,
    weight: Weight,
    /// What it still holds of these.
    deliveries: AtomicU32,
    /// Publications that it stands for and that are yet to be placed.
    placings: AtomicU32,
    /// Deliveries of those that are.
    placed: AtomicU32,
    since: Instant,
}

impl HeldPermit {
    /// Lets it stand for several publications.
    pub(crate) fn serve(&self, publications: usize) {
        self.placings.store(publications as u32, Relaxed);
    }

    /// Whether it came in by the small pool, and so is flushed by the small list.
    pub(crate) fn is_small(&self) -> bool {
        self.small
    }

    /// Notes that a publication was placed; gives back what the upper bound took too much, once the true number of
    /// deliveries is known.
    pub(crate) fn correct(&self, deliveries: usize) {
        let placed = u32::try_from(deliveries).unwrap_or(u32::MAX);
        let actual = self
            .placed
            .fetch_add(placed, Relaxed)
            .saturating_add(placed);
        // Others that it stands for may deliver more yet.
        if self.placings.fetch_sub(1, Relaxed) != 1 {
            return;
        }

        let held = self.deliveries.fetch_min(actual, Relaxed);
        self.admission
            .pool(self.small)
            .deliveries
            .add_permits(held.saturating_sub(actual) as usize);
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        let metrics = &self.admission.metrics;
        let in_flight = if self.small {
            &metrics.small_in_flight
        } else {
            &metrics.bulk_in_flight
        };

        in_flight.dec();
        metrics.delivery.observe(self.since.elapsed().as_secs_f64());
        let deliveries = self.deliveries.load(Relaxed);

        self.admission.pool(self.small).give_back(Weight {
            deliveries,
            ..self.weight
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(limits: &Limits) -> Arc<Admission> {
        Admission::new(limits, Arc::new(Metrics::new()))
    }

    #[test]
    fn large_publications_never_take_the_share_of_small_ones() {
        let admission = admission(&Limits {
            bulk_publications: 2,
            small_publications: 2,
            ..Limits::default()
        });
        let bulk: Vec<_> = (0..3).map(|_| admission.try_admit(101, 10)).collect();
        assert_eq!(bulk.iter().flatten().count(), 2);
        let small: Vec<_> = (0..3).map(|_| admission.try_admit(100, 10)).collect();
        assert_eq!(small.iter().flatten().count(), 2);
        drop((bulk, small));
        assert!(admission.try_admit(101, 10).is_some() && admission.try_admit(1, 10).is_some());
    }

    #[test]
    fn large_frames_take_more_places_but_never_all() {
        let admission = admission(&Limits {
            bulk_publications: 16,
            ..Limits::default()
        });
        let admitted = |reach: usize, bytes: usize| {
            let permits: Vec<_> = (0..30)
                .map_while(|_| admission.try_admit(reach, bytes))
                .collect();
            permits.len()
        };
        let many = [100, 640, 1280, 1_000_000].map(|bytes| admitted(PAGED_SOCKETS + 1, bytes));
        assert_eq!(many, [16, 16, 8, 8]);
        let some = [100, 852, 960, 1920, 1_000_000].map(|bytes| admitted(PAGED_SOCKETS, bytes));
        assert_eq!(
            some,
            [18, 18, 16, 8, 8],
            "longer writes of pages are worth their wait"
        );
    }

    #[test]
    fn what_is_larger_than_the_gate_passes_alone() {
        let admission = admission(&Limits {
            bulk_deliveries: 1000,
            ..Limits::default()
        });
        let huge = admission.try_admit(1_000_000, 10).unwrap();
        assert!(admission.try_admit(500, 10).is_none());
        huge.correct(200);
        assert!(admission.try_admit(500, 10).is_some());
        drop(huge);
        assert!(admission.try_admit(1000, 10).is_some());
    }

    #[test]
    fn one_admission_may_stand_for_several_publications() {
        let admission = admission(&Limits {
            bulk_deliveries: 1000,
            ..Limits::default()
        });
        let both = admission.try_admit(900, 10).unwrap();
        both.serve(2);
        both.correct(300);
        assert!(
            admission.try_admit(200, 10).is_none(),
            "the second is yet to be placed"
        );
        both.correct(200);
        assert!(admission.try_admit(500, 10).is_some());
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_takes_nothing() {
        let wait = Duration::from_millis(20);
        let admission = admission(&Limits {
            bulk_publications: 1,
            admission_wait: wait,
            ..Limits::default()
        });
        let held = admission.try_admit(1000, 10).unwrap();
        assert_eq!(admission.admit(1000, 10).await.err(), Some(Busy::Sockets));
        drop(held);
        assert!(admission.admit(1000, 10).await.is_ok());
    }
}
