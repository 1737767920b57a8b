//! Connections that have ended, in the order in which they did.
//!
//! Forgetting one takes about as long as letting one in. When thousands end at the same time, a client that comes in
//! would wait for all of them at each step of its handshake. So they are forgotten in slices, and what else is ready
//! goes in between.

use std::{cell::RefCell, collections::VecDeque, fmt, rc::Rc};

use tokio::sync::Notify;

use crate::{limits::SCAN_CHUNK, time_slice::TimeSlice};

/// The last that is done for a connection.
type Last = Box<dyn FnOnce()>;

/// Its length is bounded by the number of connections: each is here once.
#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Last>>,
    wake: Notify,
}

impl Queue {
    fn next(&self) -> Option<Last> {
        let mut waiting = self.waiting.borrow_mut();
        let next = waiting.pop_front();
        // Thousands may have waited here: their room is given back.
        if next.is_none() {
            waiting.shrink_to(SCAN_CHUNK);
        }
        next
    }
}

#[derive(Default)]
pub(super) struct DeferredDrops(Rc<Queue>);

impl fmt::Debug for DeferredDrops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeferredDrops")
            .field(&self.0.waiting.borrow().len())
            .finish()
    }
}

impl DeferredDrops {
    /// The task that works it off, which lives as long as the thread's runtime.
    pub(super) fn work(&self) -> impl Future<Output = ()> + use<> + 'static {
        Worker(self.0.clone()).work()
    }

    pub(super) fn push(&self, last: Last) {
        self.0.waiting.borrow_mut().push_back(last);
        self.0.wake.notify_one();
    }
}

struct Worker(Rc<Queue>);

impl Worker {
    async fn work(self) {
        loop {
            self.0.wake.notified().await;
            let mut slice = TimeSlice::begin();
            // Taken out before it is called: what it drops may add to the queue.
            while let Some(last) = self.0.next() {
                last();
                slice.rest().await;
            }
        }
    }
}

impl Drop for Worker {
    /// Drops that wait hold the thread's event loop, which holds the queue: left there, neither
    /// would ever be freed.
    fn drop(&mut self) {
        self.0.waiting.take();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Instant};

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::limits::SLICE;

    #[tokio::test]
    async fn many_that_leave_go_in_order_and_let_others_in_between() {
        const MANY: usize = 40;
        let (left, turns) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
        let (gone, counted) = (left.clone(), turns.clone());
        let all = async move {
            let deferred_drops = DeferredDrops::default();
            spawn_local(deferred_drops.work());
            for n in 0..MANY {
                let gone = gone.clone();
                deferred_drops.push(Box::new(move || {
                    // Each takes a slice by itself.
                    let begun = Instant::now();
                    while begun.elapsed() < SLICE {}
                    gone.borrow_mut().push(n);
                }));
            }
            let other = spawn_local(async move {
                while gone.borrow().len() < MANY {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            });
            other.await.unwrap();
        };
        LocalSet::new().run_until(all).await;
        assert_eq!(*left.borrow(), (0..MANY).collect::<Vec<_>>());
        assert!(turns.get() >= MANY / 2, "{} turns", turns.get());
    }
}
