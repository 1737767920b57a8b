//! How long a shard's lock is held, for the bench that shows it. Without the feature `holds` nothing is measured.

#[cfg(feature = "holds")]
mod measured {
    use std::{
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Duration,
    };

    use rustix::time::{ClockId, clock_gettime};

    /// The longest hold since the last look, in nanoseconds of the thread that held the lock.
    static LONGEST: AtomicU64 = AtomicU64::new(0);

    fn now() -> u64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    /// One hold of a lock, until it is dropped.
    #[derive(Debug)]
    pub(in crate::hub) struct Hold(u64);

    impl Hold {
        pub(in crate::hub) fn begin() -> Self {
            Self(now())
        }
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            LONGEST.fetch_max(now() - self.0, Relaxed);
        }
    }

    /// The longest hold since the last call.
    pub(crate) fn take_longest() -> Duration {
        Duration::from_nanos(LONGEST.swap(0, Relaxed))
    }
}

#[cfg(not(feature = "holds"))]
mod measured {
    /// One hold of a lock, of which nothing is noted.
    #[derive(Debug)]
    pub(in crate::hub) struct Hold;

    impl Hold {
        pub(in crate::hub) fn begin() -> Self {
            Self
        }
    }
}

pub(super) use measured::Hold;
#[cfg(feature = "holds")]
pub(crate) use measured::take_longest;
