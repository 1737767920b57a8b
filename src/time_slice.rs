//! How long a task may work before the other tasks of its thread may run.

use std::time::{Duration, Instant};

use crate::limits::SLICE;

/// A stretch of a thread's time.
///
/// A shard is one thread: any work there keeps every client of the shard waiting. So a loop whose length depends on
/// clients or callers takes a slice, and rests between its steps.
#[derive(Debug)]
pub(crate) struct TimeSlice {
    length: Duration,
    end: Instant,
}

impl TimeSlice {
    /// A slice of [`SLICE`] that begins now.
    pub(crate) fn begin() -> Self {
        Self::of(SLICE)
    }

    /// A slice of `length` that begins now.
    pub(crate) fn of(length: Duration) -> Self {
        Self {
            length,
            end: Instant::now() + length,
        }
    }

    /// Whether its time is over. Costs a look at the clock.
    pub(crate) fn is_spent(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Lets the other tasks of the thread run if the slice is spent, and begins the next one then.
    ///
    /// Cancel-safe.
    pub(crate) async fn rest(&mut self) {
        if self.is_spent() {
            tokio::task::yield_now().await;
            self.end = Instant::now() + self.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    #[tokio::test]
    async fn a_task_rests_only_once_its_slice_is_spent() {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());

        let mut long = TimeSlice::of(Duration::from_hours(1));
        assert!(!long.is_spent());
        assert_eq!(pin!(long.rest()).poll(&mut cx), Poll::Ready(()));

        let mut spent = TimeSlice::of(Duration::ZERO);
        assert!(spent.is_spent());
        assert_eq!(pin!(spent.rest()).poll(&mut cx), Poll::Pending);

        // Once the others had their turn, the next slice begins.
        let mut next = TimeSlice {
            length: Duration::from_hours(1),
            end: Instant::now(),
        };
        next.rest().await;
        assert!(!next.is_spent());
    }
}
