//! Messages that came to this node for users whom they did not reach, on their way back to Redis.
//!
//! They go back in their order, one batch after another. A batch is sent again until Redis says that it has it, or too much time
//! has passed. By its number Redis knows a batch that it has already, of which only the answer was lost.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};

use super::{ClusterHandles, Mesa, MesaApp, arg, delivering::head, run_all, script::GIVE_BACK};
use crate::{
    bus::BusError,
    id::AppId,
    limits::{
        MESA_GIVEN_BACK_AGAIN, MESA_GIVEN_BACK_BYTES, MESA_GIVEN_BACK_FOR,
        MESA_GIVEN_BACK_TOGETHER, MESA_SETTLED_TOGETHER, MESA_STORED_BYTES,
    },
    log_limit::Line,
};

/// What becomes of messages in Redis.
#[derive(Debug)]
pub(super) enum GoesTo {
    /// They are stored before what is stored.
    Front,
    /// They are stored after what is stored.
    Back,
    /// The user has gone from here. The message goes where the user is now, unless it has also come there, or is stored.
    User {
        message: Bytes,
        /// Where it came to.
        places: Vec<String>,
    },
}

/// Messages for one user.
#[derive(Debug)]
pub(super) struct GivenBack {
    pub(super) user: SmolStr,
    /// As they are stored.
    pub(super) list: Bytes,
    pub(super) goes_to: GoesTo,
}

impl GivenBack {
    fn bytes(&self) -> usize {
        let more = match &self.goes_to {
            GoesTo::Front | GoesTo::Back => 0,
            GoesTo::User { message, places } => {
                message.len() + places.iter().map(String::len).sum::<usize>()
            }
        };
        self.user.len() + self.list.len() + more
    }

    /// As arguments of [`GIVE_BACK`].
    fn args(&self) -> impl Iterator<Item = Bytes> {
        let none = (Bytes::new(), &[][..]);
        let (kind, (message, places)) = match &self.goes_to {
            GoesTo::Front => ("front", none),
            GoesTo::Back => ("back", none),
            GoesTo::User { message, places } => ("user", (message.clone(), &places[..])),
        };
        let count = Bytes::from(places.len().to_string());
        let fixed = [
            arg(&self.user),
            arg(kind),
            self.list.clone(),
            message,
            count,
        ];
        fixed
            .into_iter()
            .chain(places.iter().map(|place| arg(place)))
    }
}

/// What one app gives back.
#[derive(Debug, Default)]
pub(super) struct GivingBack {
    queue: Mutex<Queue>,
    /// Something waits.
    due: Notify,
    /// How many are no longer in the queue, counted since the start.
    done: watch::Sender<u64>,
}

/// What waits to be given back: the batch that is under way, then the rest.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Instant, GivenBack)>,
    bytes: usize,
    /// How many came, counted since the start.
    came: u64,
    /// How many of the first are under way together. They stay together, since they may be in Redis already.
    under_way: usize,
    /// Numbers the batch.
    number: u64,
}

impl Queue {
    /// Appends one; false if there is no room.
    fn push(&mut self, one: GivenBack, now: Instant) -> bool {
        let bytes = one.bytes();
        if self.bytes + bytes > MESA_GIVEN_BACK_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.came += 1;
        self.waiting.push_back((now, one));
        true
    }

    /// The batch that is to be given back: the one before, unless that is done. Nothing if nothing waits.
    fn batch(&mut self) -> Option<(u64, impl Iterator<Item = &GivenBack>)> {
        if self.under_way == 0 {
            let mut bytes = 0;
            let fits = |(_, one): &&(Instant, GivenBack)| {
                bytes += one.bytes();
                bytes <= MESA_GIVEN_BACK_TOGETHER
            };
            let fit = self
                .waiting
                .iter()
                .take(MESA_SETTLED_TOGETHER)
                .take_while(fits);
            // One alone may be longer.
            self.under_way = fit.count().max(1).min(self.waiting.len());
            self.number += 1;
        }

        let batch = self.waiting.iter().take(self.under_way);
        (self.under_way > 0).then(|| (self.number, batch.map(|(_, one)| one)))
    }

    /// Since when the first waits.
    fn since(&self) -> Option<Instant> {
        self.waiting.front().map(|(since, _)| *since)
    }

    /// Takes the batch out; returns how many it had.
    fn take_batch(&mut self) -> u64 {
        let batch = self.waiting.drain(..std::mem::take(&mut self.under_way));
        let (mut count, mut bytes) = (0, 0);
        for (_, one) in batch {
            count += 1;
            bytes += one.bytes();
        }
        self.bytes -= bytes;
        count
    }
}

impl GivingBack {
    /// Takes the batch out of the queue.
    fn finish(&self) -> u64 {
        let count = self.queue.lock().take_batch();
        self.done.send_modify(|done| *done += count);
        count
    }

    /// Waits until nothing is left of what is in the queue now.
    async fn finished(&self) {
        // It does not wait for messages that come later: on a busy node that would not end.
        let came = self.queue.lock().came;
        let mut done = self.done.subscribe();
        // The sender is in `self`.
        let _ = done.wait_for(|done| *done >= came).await;
    }
}

impl Mesa {
    /// Has messages given back. It is lost, and said to be, if too much waits already.
    pub(super) fn give_back(&self, mesa: &MesaApp, one: GivenBack) {
        if mesa.giving_back.queue.lock().push(one, Instant::now()) {
            mesa.giving_back.due.notify_one();
        } else {
            self.lost(mesa.app, 1, "too much waits to be stored again");
        }
    }

    /// Gives back what there is of each app, until the runtime ends. Runs on a `LocalSet`.
    pub(super) async fn run_giving_back(self: Arc<Self>) {
        let apps = self.all().filter(|mesa| mesa.has_sync());
        run_all(apps.map(|mesa| self.clone().give_back_of(mesa.app))).await;
    }

    async fn give_back_of(self: Arc<Self>, app: AppId) {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return;
        };

        loop {
            match self.give_back_batch(mesa, cluster).await {
                None => mesa.giving_back.due.notified().await,
                Some(Ok(full)) => {
                    mesa.giving_back.finish();
                    self.lost(app, full, "as much is stored for a user as may be");
                }
                // The batch stays as it is, and goes again under the same number.
                Some(Err(error)) => {
                    tracing::debug!(%error, "messages that are to be stored again wait for Redis");
                    let since = mesa.giving_back.queue.lock().since();
                    if since.is_some_and(|since| since.elapsed() > MESA_GIVEN_BACK_FOR) {
                        let count = mesa.giving_back.finish();
                        self.lost(app, count, &error.to_string());
                    }
                    tokio::time::sleep(MESA_GIVEN_BACK_AGAIN).await;
                }
            }
        }
    }

    /// Gives one batch back; returns for how many there was no room. Nothing if nothing waits.
    async fn give_back_batch(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Option<Result<u64, BusError>> {
        let keys = cluster.keys(mesa.app);
        let given = {
            let mut queue = mesa.giving_back.queue.lock();
            let (number, batch) = queue.batch()?;
            let fixed: [Bytes; 7] = [
                number.to_string().into(),
                // Longer than it is tried.
                (2 * MESA_GIVEN_BACK_FOR.as_millis()).to_string().into(),
                keys.prefix(),
                cluster.bus.channel(&mesa.settled).into(),
                MESA_STORED_BYTES.to_string().into(),
                self.node_name(),
                head(self.id()),
            ];

            let args = fixed.into_iter().chain(batch.flat_map(GivenBack::args));
            let names = vec![
                mesa.undelivered.clone(),
                keys.nodes(),
                keys.users(self.id()),
                keys.given_back(self.id()),
            ];
            cluster
                .bus
                .eval(&GIVE_BACK, &keys.home, names, args.collect())
        };

        let full = given.await;
        Some(full.map(|full| redis::from_redis_value(full).unwrap_or(0)))
    }

    /// Waits until what `mesa` has to give back by now is given back, or lost.
    pub(super) async fn given_back(&self, mesa: &MesaApp) {
        mesa.giving_back.finished().await;
    }

    /// Waits until all that is to be given back is in Redis, before this node departs: for `patience` at most.
    pub(in crate::node) async fn give_all_back(&self, patience: Duration) {
        // One end for all apps, since the node has only so long to depart.
        let end = Instant::now() + patience;
        for mesa in self.all() {
            let finished = tokio::time::timeout_at(end.into(), mesa.giving_back.finished());
            if finished.await.is_err() {
                let count = mesa.giving_back.queue.lock().waiting.len() as u64;
                self.lost(
                    mesa.app,
                    count,
                    "Redis did not answer before this node ended",
                );
            }
        }
    }

    /// Counts messages of dispatchers that were to be stored, and are not.
    fn lost(&self, app: AppId, count: u64, reason: &str) {
        if count == 0 {
            return;
        }
        let app = self.app(app);
        app.metrics.dispatch_lost.inc_by(count);
        if let Some(others) = self.lines().note(Line::NotGivenBack) {
            tracing::warn!(others, app = %app.name, count, reason, "messages of Mesa's dispatchers are lost: they could not be stored for users who have gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(user: &str, list: &str) -> GivenBack {
        GivenBack {
            user: user.into(),
            list: Bytes::copy_from_slice(list.as_bytes()),
            goes_to: GoesTo::Back,
        }
    }

    /// The number of the batch, and whom it is for.
    fn batch(queue: &mut Queue) -> Option<(u64, Vec<String>)> {
        let (number, batch) = queue.batch()?;
        Some((number, batch.map(|one| one.user.to_string()).collect()))
    }

    #[test]
    fn a_batch_stays_as_it_is_until_it_is_done_and_the_next_has_another_number() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert!(batch(&mut queue).is_none());
        assert!(queue.push(one("a", "[1]"), now) && queue.push(one("b", "[2]"), now));
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let Some((number, first)) = batch(&mut queue) else {
            panic!("two wait")
        };
        assert_eq!(first, names(&["a", "b"]));

        assert!(queue.push(one("c", "[3]"), now));
        assert_eq!(
            batch(&mut queue),
            Some((number, first)),
            "it is tried again"
        );
        assert_eq!(queue.take_batch(), 2);
        assert_eq!(batch(&mut queue), Some((number + 1, names(&["c"]))));
        assert_eq!((queue.take_batch(), queue.bytes), (1, 0));
        assert!(batch(&mut queue).is_none());
    }

    #[test]
    fn what_waits_is_bounded_and_so_is_a_batch() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let list = " ".repeat(MESA_GIVEN_BACK_TOGETHER / 2 - 1);
        let fit = std::iter::from_fn(|| queue.push(one("a", &list), now).then_some(())).count();
        assert_eq!(fit, 2 * MESA_GIVEN_BACK_BYTES / MESA_GIVEN_BACK_TOGETHER);
        while let Some((_, users)) = batch(&mut queue) {
            assert_eq!(users.len(), 2);
            queue.take_batch();
        }

        let long = " ".repeat(2 * MESA_GIVEN_BACK_TOGETHER);
        assert!(queue.push(one("a", &long), now) && queue.push(one("b", "[]"), now));
        assert_eq!(batch(&mut queue).map(|(_, users)| users.len()), Some(1));
        queue.take_batch();
        for _ in 0..=MESA_SETTLED_TOGETHER {
            assert!(queue.push(one("c", "[]"), now));
        }
        assert_eq!(
            batch(&mut queue).map(|(_, users)| users.len()),
            Some(MESA_SETTLED_TOGETHER)
        );
    }
}
