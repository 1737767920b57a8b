//! Stored answers for `Idempotency-Key`s: a repeat gets the first answer and sends nothing.

use std::{
    collections::VecDeque,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    id::AppId,
    limits::{
        IDEMPOTENCY_ENTRY_BYTES, IDEMPOTENCY_EXPIRED_AT_ONCE, IDEMPOTENCY_KEY_BYTES,
        IDEMPOTENCY_RUNNING_BYTES, Limits, TICK,
    },
    metrics::Metrics,
};

/// The part of the bytes that is kept free for answers of requests that run.
const SPARE_PART: usize = 16;

/// Why a request with an `Idempotency-Key` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// The key is empty or too long.
    #[error("Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES} bytes long, not {0}")]
    Length(usize),
    /// The key came before with another body.
    #[error("this Idempotency-Key was used with another body")]
    OtherBody,
    /// The first with the key has not ended in time.
    #[error("the first request with this Idempotency-Key still runs; try again")]
    Running,
    /// No room for one more answer.
    #[error("the store of answers for Idempotency-Keys is full; try again")]
    Full,
}

/// What a key is scoped to: whose it is, where it was sent, and which item of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) app: AppId,
    pub(crate) api_key: Box<str>,
    pub(crate) path: &'static str,
    pub(crate) key: Box<str>,
    pub(crate) item: Option<u32>,
}

impl Scope {
    /// The same key for one item of a batch.
    pub(crate) fn item(&self, item: usize) -> Self {
        Self {
            item: Some(item as u32),
            ..self.clone()
        }
    }

    /// A name for it that is safe to keep elsewhere: nobody reads an API key from it.
    pub(crate) fn digest(&self) -> String {
        let item = self.item.map(|item| item.to_string()).unwrap_or_default();
        digest(&[
            self.api_key.as_bytes(),
            self.path.as_bytes(),
            self.key.as_bytes(),
            item.as_bytes(),
        ])
    }
}

/// A digest of `parts`, each separated from the next by its length.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    data_encoding::HEXLOWER.encode(context.finish().as_ref())
}

#[derive(Debug)]
enum Entry {
    Running {
        body: u64,
        done: watch::Receiver<()>,
    },
    Done {
        body: u64,
        answer: Bytes,
        /// It is stored for a window from here on. Past that it counts as absent, whether or not it was removed yet.
        since: Instant,
    },
}

impl Entry {
    fn body(&self) -> u64 {
        match self {
            Self::Running { body, .. } | Self::Done { body, .. } => *body,
        }
    }

    /// What it counts for under `scope`.
    fn weight(&self, scope: &Scope) -> usize {
        let answer = match self {
            // How long its answer will be is not known yet.
            Self::Running { .. } => IDEMPOTENCY_RUNNING_BYTES,
            Self::Done { answer, .. } => answer.len(),
        };
        IDEMPOTENCY_ENTRY_BYTES + scope.api_key.len() + scope.key.len() + answer
    }
}

/// What is stored of one app.
#[derive(Debug, Default)]
struct Share {
    entries: AHashMap<Arc<Scope>, Entry>,
    /// Finished answers by age; all are stored equally long. One whose key was claimed again after its window, before
    /// it was removed, is still here, and has no entry.
    ages: VecDeque<(Instant, Arc<Scope>)>,
    bytes: usize,
}

impl Share {
    fn insert(&mut self, scope: Arc<Scope>, entry: Entry) {
        self.remove(&scope);
        self.bytes += entry.weight(&scope);
        self.entries.insert(scope, entry);
    }

    fn remove(&mut self, scope: &Scope) {
        if let Some(entry) = self.entries.remove(scope) {
            self.bytes -= entry.weight(scope);
        }
    }

    /// Removes the oldest finished answer. Returns since when it was stored, if there was one.
    fn remove_oldest(&mut self) -> Option<Instant> {
        let (stored_since, scope) = self.ages.pop_front()?;
        // An entry of another time belongs to a later request with the same key, whose answer is
        // newer.
        let is_stored =
            |entry: &Entry| matches!(entry, Entry::Done { since, .. } if *since == stored_since);
        if !self.entries.get(&scope).is_some_and(is_stored) {
            return None;
        }
        self.remove(&scope);
        Some(stored_since)
    }

    /// Removes up to `most` answers that are past their time. Returns how many more it might have removed.
    fn expire(&mut self, window: Duration, mut most: usize) -> usize {
        while most > 0
            && let Some((since, _)) = self.ages.front()
            && since.elapsed() >= window
        {
            self.remove_oldest();
            most -= 1;
        }
        most
    }
}

/// A bound in two units.
#[derive(Clone, Copy, Debug)]
struct Bound {
    entries: usize,
    bytes: usize,
}

impl Bound {
    /// How much of it is used, in thousandths; over 1,000 is too much.
    fn used(self, entries: usize, bytes: usize) -> usize {
        // It is rounded up, so that one entry too many is over 1,000.
        let part = |n: usize, of: usize| n.saturating_mul(1000).div_ceil(of.max(1));
        part(entries, self.entries).max(part(bytes, self.bytes))
    }
}

/// The answers of one node, bounded in number, bytes and time.
///
/// Each app has an equal share of the room, and within it no answer is given up before its time. An app may use more while
/// there is room. When another one needs that, the oldest answer of the app that is furthest over its share gives way. An
/// app that has its share, or more, is refused further keys while the store is full, rather than that an answer of its own
/// is given up: a repeat would be carried out again.
#[derive(Debug)]
pub(crate) struct Store {
    /// By `AppId`.
    shares: Mutex<Box<[Share]>>,
    hasher: RandomState,
    all: Bound,
    one: Bound,
    window: Duration,
    metrics: Arc<Metrics>,
}

/// What to do with a request that carries a key.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is the first: do it, and report.
    First(Running),
    /// It was done: this was the answer.
    Answered(Bytes),
}

impl Store {
    /// A store for `apps` apps.
    pub(crate) fn new(limits: &Limits, apps: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let all = Bound {
            entries: limits.idempotency_entries,
            bytes: limits.idempotency_bytes,
        };

        Arc::new(Self {
            shares: Mutex::new((0..apps).map(|_| Share::default()).collect()),
            hasher: RandomState::new(),
            one: Bound {
                entries: (all.entries / apps.max(1)).max(1),
                bytes: all.bytes / apps.max(1),
            },
            all,
            window: limits.idempotency_window,
            metrics,
        })
    }

    /// Claims `scope` for a request with `body`. While another with the same key runs, this waits for it until `deadline`; if
    /// that one fails, this one is the first again.
    ///
    /// # Errors
    /// [`KeyError::OtherBody`], [`KeyError::Full`] and [`KeyError::Running`].
    pub(crate) async fn claim(
        self: &Arc<Self>,
        scope: Scope,
        body: &[u8],
        deadline: Instant,
    ) -> Result<Claim, KeyError> {
        // A hash is enough to distinguish two bodies: a collision concerns only the caller's own
        // key.
        let (scope, body) = (Arc::new(scope), self.hasher.hash_one(body));
        loop {
            let mut done = match self.look(&scope, body)? {
                Look::Claim(claim) => return Ok(claim),
                Look::Wait(done) => done,
            };
            // An error within says that the runner is gone, which is what is waited for.
            if tokio::time::timeout_at(deadline.into(), done.changed())
                .await
                .is_err()
            {
                return Err(KeyError::Running);
            }
        }
    }

    /// Removes answers that are past their time, until the server ends. Each look for a key removes some as well, but keys may
    /// stop coming.
    pub(crate) async fn expire_on_time(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            while !self.expire_some(&mut self.shares.lock(), 0) {
                // The lock is free in the meantime, since every request with a key needs it.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Removes up to [`IDEMPOTENCY_EXPIRED_AT_ONCE`] answers that are past their time, those of the app `first` before others.
    /// True if none is left.
    fn expire_some(&self, shares: &mut [Share], first: usize) -> bool {
        // Bounded, since every request with a key needs the lock that is held.
        let mut most = IDEMPOTENCY_EXPIRED_AT_ONCE;
        let (before, from) = shares.split_at_mut(first);
        for share in from.iter_mut().chain(before) {
            most = share.expire(self.window, most);
        }
        most > 0
    }

    fn look(self: &Arc<Self>, scope: &Arc<Scope>, body: u64) -> Result<Look, KeyError> {
        let mut shares = self.shares.lock();
        let at = usize::from(scope.app.0);
        self.expire_some(&mut shares, at);

        match shares[at].entries.get(scope) {
            // Past its time; it is replaced below.
            Some(Entry::Done { since, .. }) if since.elapsed() >= self.window => {}
            Some(entry) if entry.body() != body => return Err(KeyError::OtherBody),
            Some(Entry::Running { done, .. }) => return Ok(Look::Wait(done.clone())),
            Some(Entry::Done { answer, .. }) => {
                return Ok(Look::Claim(Claim::Answered(answer.clone())));
            }
            None => {}
        }

        let (sender, done) = watch::channel(());
        let entry = Entry::Running { body, done };
        let (entries, bytes) = (shares[at].entries.len(), shares[at].bytes);
        let is_within = self.one.used(entries + 1, bytes + entry.weight(scope)) <= 1000;

        // The last part of the room is for the answers of what runs, which may be longer than is thought.
        let spare = self.all.bytes / SPARE_PART;
        // An app within its share gets in although the store is full: what others have over theirs
        // gives way.
        if !self.has_room(&shares, 1, entry.weight(scope) + spare) && !is_within {
            return Err(KeyError::Full);
        }

        shares[at].insert(scope.clone(), entry);
        // This comes after the insert, so that the new entry counts as well.
        self.make_room(&mut shares);
        let running = Running {
            store: self.clone(),
            scope: Some(scope.clone()),
            body,
            _done: sender,
        };

        Ok(Look::Claim(Claim::First(running)))
    }

    /// Whether `entries` more fit, of `bytes` together.
    fn has_room(&self, shares: &[Share], entries: usize, bytes: usize) -> bool {
        let held: usize = shares.iter().map(|share| share.entries.len()).sum();
        let weight: usize = shares.iter().map(|share| share.bytes).sum();
        self.all.used(held + entries, weight + bytes) <= 1000
    }

    /// Gives up the oldest answers of the app that is furthest over its share, until all are within the bound. What
    /// runs is not given up: there is no more of it than there are requests at the same time.
    fn make_room(&self, shares: &mut [Share]) {
        while !self.has_room(shares, 0, 0) {
            let used = |share: &Share| self.one.used(share.entries.len(), share.bytes);
            let furthest = shares
                .iter_mut()
                .filter(|share| !share.ages.is_empty())
                .max_by_key(|share| used(share));
            match furthest {
                Some(share) if used(share) > 1000 => {
                    let removed = share.remove_oldest();
                    if removed.is_some_and(|since| since.elapsed() < self.window) {
                        self.metrics.idempotency_evicted.inc();
                    }
                }
                // Nobody is over its share, or all that is left still runs.
                _ => return,
            }
        }
    }
}

enum Look {
    Claim(Claim),
    Wait(watch::Receiver<()>),
}

/// The first request with its key. Dropped without an answer, the key is free again.
#[derive(Debug)]
pub(crate) struct Running {
    store: Arc<Store>,
    scope: Option<Arc<Scope>>,
    body: u64,
    /// Wakes those who wait when it is dropped.
    _done: watch::Sender<()>,
}

impl Running {
    /// Keeps the answer of a success.
    pub(crate) fn succeed(mut self, answer: &Bytes) {
        if let Some(scope) = self.scope.take() {
            let since = Instant::now();
            let entry = Entry::Done {
                body: self.body,
                // A copy has no spare room, and keeps nothing else.
                answer: Bytes::copy_from_slice(answer),
                since,
            };

            let mut shares = self.store.shares.lock();
            let share = &mut shares[usize::from(scope.app.0)];
            share.insert(scope.clone(), entry);
            share.ages.push_back((since, scope));
            self.store.make_room(&mut shares);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            self.store.shares.lock()[usize::from(scope.app.0)].remove(&scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(key: &str) -> Scope {
        of_app(0, key)
    }

    fn of_app(app: u16, key: &str) -> Scope {
        Scope {
            app: AppId(app),
            api_key: "k".into(),
            path: "/v1/emit",
            key: key.into(),
            item: None,
        }
    }

    fn store(entries: usize, window: Duration) -> Arc<Store> {
        store_of(1, entries, usize::MAX / 1000, window)
    }

    fn store_of(apps: usize, entries: usize, bytes: usize, window: Duration) -> Arc<Store> {
        let limits = Limits {
            idempotency_entries: entries,
            idempotency_bytes: bytes,
            idempotency_window: window,
            ..Limits::default()
        };
        Store::new(&limits, apps, Arc::new(Metrics::new()))
    }

    /// Claims a key, and keeps `answer` for it.
    async fn keep(store: &Arc<Store>, scope: Scope, answer: &[u8]) -> Result<(), KeyError> {
        match store.claim(scope, b"", soon()).await? {
            Claim::First(running) => running.succeed(&Bytes::copy_from_slice(answer)),
            Claim::Answered(_) => panic!("answered before"),
        }
        audit(store);
        Ok(())
    }

    async fn is_stored(store: &Arc<Store>, scope: Scope) -> bool {
        let claim = store.claim(scope, b"", soon()).await;
        matches!(claim, Ok(Claim::Answered(_)))
    }

    /// Holds what is counted against what is there.
    fn audit(store: &Store) {
        for share in &*store.shares.lock() {
            let weights = share
                .entries
                .iter()
                .map(|(scope, entry)| entry.weight(scope));
            assert_eq!(share.bytes, weights.sum::<usize>());
            let is_done = |entry: &&Entry| matches!(entry, Entry::Done { .. });
            assert!(share.ages.len() >= share.entries.values().filter(is_done).count());
        }
    }

    /// Makes every answer as old as `by` more.
    fn age_all(store: &Store, by: Duration) {
        for share in &mut *store.shares.lock() {
            for (since, _) in &mut share.ages {
                *since -= by;
            }
            for entry in share.entries.values_mut() {
                if let Entry::Done { since, .. } = entry {
                    *since -= by;
                }
            }
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test]
    async fn a_repeat_gets_the_first_answer_and_another_body_is_refused() {
        let store = store(10, Duration::from_mins(1));
        let Ok(Claim::First(running)) = store.claim(scope("a"), b"1", soon()).await else {
            panic!("not the first")
        };
        running.succeed(&Bytes::from_static(b"answer"));
        assert!(
            matches!(store.claim(scope("a"), b"1", soon()).await, Ok(Claim::Answered(a)) if a == "answer")
        );
        assert_eq!(
            store.claim(scope("a"), b"2", soon()).await.unwrap_err(),
            KeyError::OtherBody
        );
        assert!(matches!(
            store.claim(scope("a").item(0), b"2", soon()).await,
            Ok(Claim::First(_))
        ));
    }

    #[tokio::test]
    async fn one_that_comes_while_the_first_runs_waits_for_it_and_takes_over_if_it_fails() {
        let store = store(10, Duration::from_mins(1));
        let Ok(Claim::First(running)) = store.claim(scope("a"), b"1", soon()).await else {
            panic!("not the first")
        };
        let second = tokio::spawn({
            let store = store.clone();
            async move { store.claim(scope("a"), b"1", soon()).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        let late = store.claim(scope("a"), b"1", Instant::now()).await;
        assert_eq!(late.unwrap_err(), KeyError::Running);
        drop(running);
        assert!(matches!(second.await.unwrap(), Ok(Claim::First(_))));
    }

    #[tokio::test]
    async fn a_full_store_says_so_until_answers_age() {
        let window = Duration::from_mins(1);
        let store = store(1, window);
        let Ok(Claim::First(running)) = store.claim(scope("a"), b"1", soon()).await else {
            panic!("not the first")
        };
        running.succeed(&Bytes::new());
        let full = store.claim(scope("b"), b"1", soon()).await;
        assert!(matches!(full, Err(KeyError::Full)));
        age_all(&store, window);
        assert!(matches!(
            store.claim(scope("b"), b"1", soon()).await,
            Ok(Claim::First(_))
        ));
    }

    #[tokio::test]
    async fn answers_past_their_time_are_removed_a_few_at_a_time_and_count_as_absent_until_then() {
        let window = Duration::from_mins(1);
        let store = store_of(2, 10_000, usize::MAX / 1000, window);
        let held = |store: &Store| -> usize {
            let shares = store.shares.lock();
            shares.iter().map(|share| share.entries.len()).sum()
        };
        let all = 4 * IDEMPOTENCY_EXPIRED_AT_ONCE;
        for n in 0..all {
            let app = (n % 2) as u16;
            keep(&store, of_app(app, &n.to_string()), b"old")
                .await
                .unwrap();
        }
        age_all(&store, window);

        // The newest of all: it is there still, and its key is free.
        let newest = of_app(1, &(all - 1).to_string());
        keep(&store, newest.clone(), b"new").await.unwrap();
        assert_eq!(held(&store), all - IDEMPOTENCY_EXPIRED_AT_ONCE);
        while !store.expire_some(&mut store.shares.lock(), 0) {
            audit(&store);
        }
        assert_eq!(held(&store), 1);
        assert!(
            is_stored(&store, newest).await,
            "what came in its place stays"
        );
    }

    #[tokio::test]
    async fn room_that_is_taken_by_answers_past_their_time_is_room() {
        let window = Duration::from_mins(1);
        let store = store(10, window);
        for n in 0..10 {
            keep(&store, scope(&n.to_string()), b"").await.unwrap();
        }
        assert_eq!(keep(&store, scope("more"), b"").await, Err(KeyError::Full));
        age_all(&store, window);
        assert_eq!(keep(&store, scope("more"), b"").await, Ok(()));
        assert_eq!(store.metrics.idempotency_evicted.get(), 0);
    }

    #[tokio::test]
    async fn an_app_that_fills_the_store_keeps_nobody_elses_key_out() {
        let store = store_of(2, 10, usize::MAX / 1000, Duration::from_mins(1));
        for n in 0..10 {
            keep(&store, of_app(0, &n.to_string()), b"").await.unwrap();
        }
        let full = keep(&store, of_app(0, "more"), b"").await;
        assert_eq!(full, Err(KeyError::Full), "it has more than its share");

        // The other's share is there for it, and the oldest of what was beyond the first one's gives way.
        for n in 0..5 {
            keep(&store, of_app(1, &n.to_string()), b"").await.unwrap();
        }
        assert!(!is_stored(&store, of_app(0, "4")).await);
        assert_eq!(store.metrics.idempotency_evicted.get(), 5);
        for n in 5..10 {
            assert!(is_stored(&store, of_app(0, &n.to_string())).await, "{n}");
        }
        let full = keep(&store, of_app(1, "more"), b"").await;
        assert_eq!(full, Err(KeyError::Full));
        for n in 0..5 {
            assert!(is_stored(&store, of_app(1, &n.to_string())).await, "{n}");
        }
    }

    #[tokio::test]
    async fn answers_are_bounded_in_bytes_too() {
        let bound = 100_000;
        let store = store_of(2, 100_000, bound, Duration::from_mins(1));
        let bytes =
            |store: &Store| -> usize { store.shares.lock().iter().map(|share| share.bytes).sum() };
        let answer = vec![b'x'; 1000];
        let mut count = 0;
        while keep(&store, of_app(0, &count.to_string()), &answer)
            .await
            .is_ok()
        {
            count += 1;
            assert!(bytes(&store) <= bound && count < 100);
        }
        assert!(count >= 50, "{count}");
        for n in 0..20 {
            keep(&store, of_app(1, &n.to_string()), &answer)
                .await
                .unwrap();
            assert!(bytes(&store) <= bound, "{n}");
        }
        for n in 0..20 {
            assert!(is_stored(&store, of_app(1, &n.to_string())).await, "{n}");
        }
    }

    #[tokio::test]
    async fn a_request_that_failed_leaves_no_bytes_behind() {
        let store = store(10, Duration::from_mins(1));
        let claim = store.claim(scope("a"), b"1", soon()).await;
        assert!(store.shares.lock()[0].bytes > 0);
        drop(claim);
        assert_eq!(store.shares.lock()[0].bytes, 0);
        audit(&store);
    }
}
