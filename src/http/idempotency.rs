//! Answers kept for `Idempotency-Key`s: a repeat gets the first answer and sends nothing.

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
    limits::{IDEMPOTENCY_KEY_BYTES, Limits},
};

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
    #[error("as many answers are kept for Idempotency-Keys as may be; try again")]
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

/// A digest of `parts`, each told from the next by its length.
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
    },
}

#[derive(Debug, Default)]
struct Kept {
    entries: AHashMap<Scope, Entry>,
    /// Finished answers by age; all are kept equally long.
    ages: VecDeque<(Instant, Scope)>,
}

/// The answers of one node, bounded in number and time.
#[derive(Debug)]
pub(crate) struct Store {
    kept: Mutex<Kept>,
    hasher: RandomState,
    entries: usize,
    window: Duration,
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
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            hasher: RandomState::new(),
            entries: limits.idempotency_entries,
            window: limits.idempotency_window,
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
        let body = self.hasher.hash_one(body);
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

    fn look(self: &Arc<Self>, scope: &Scope, body: u64) -> Result<Look, KeyError> {
        let mut kept = self.kept.lock();
        kept.expire(self.window);
        match kept.entries.get(scope) {
            Some(Entry::Running { body: other, .. } | Entry::Done { body: other, .. })
                if *other != body =>
            {
                Err(KeyError::OtherBody)
            }
            Some(Entry::Running { done, .. }) => Ok(Look::Wait(done.clone())),
            Some(Entry::Done { answer, .. }) => Ok(Look::Claim(Claim::Answered(answer.clone()))),
            None if kept.entries.len() >= self.entries => Err(KeyError::Full),
            None => {
                let (sender, done) = watch::channel(());
                kept.entries
                    .insert(scope.clone(), Entry::Running { body, done });
                let store = self.clone();
                Ok(Look::Claim(Claim::First(Running {
                    store,
                    scope: Some(scope.clone()),
                    body,
                    _done: sender,
                })))
            }
        }
    }
}

enum Look {
    Claim(Claim),
    Wait(watch::Receiver<()>),
}

impl Kept {
    fn expire(&mut self, window: Duration) {
        while self
            .ages
            .front()
            .is_some_and(|(since, _)| since.elapsed() >= window)
        {
            if let Some((_, scope)) = self.ages.pop_front() {
                self.entries.remove(&scope);
            }
        }
    }
}

/// The first request with its key. Dropped without an answer, the key is free again.
#[derive(Debug)]
pub(crate) struct Running {
    store: Arc<Store>,
    scope: Option<Scope>,
    body: u64,
    /// Wakes those who wait when it is dropped.
    _done: watch::Sender<()>,
}

impl Running {
    /// Keeps the answer of a success.
    pub(crate) fn succeed(mut self, answer: Bytes) {
        if let Some(scope) = self.scope.take() {
            let mut kept = self.store.kept.lock();
            kept.entries.insert(
                scope.clone(),
                Entry::Done {
                    body: self.body,
                    answer,
                },
            );
            kept.ages.push_back((Instant::now(), scope));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            self.store.kept.lock().entries.remove(&scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(key: &str) -> Scope {
        Scope {
            app: AppId(0),
            api_key: "k".into(),
            path: "/v1/emit",
            key: key.into(),
            item: None,
        }
    }

    fn store(entries: usize, window: Duration) -> Arc<Store> {
        Store::new(&Limits {
            idempotency_entries: entries,
            idempotency_window: window,
            ..Limits::default()
        })
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
        running.succeed(Bytes::from_static(b"answer"));
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
        let store = store(1, Duration::from_millis(5));
        let Ok(Claim::First(running)) = store.claim(scope("a"), b"1", soon()).await else {
            panic!("not the first")
        };
        running.succeed(Bytes::new());
        let full = store.claim(scope("b"), b"1", soon()).await;
        assert!(matches!(full, Err(KeyError::Full)) || store.kept.lock().entries.is_empty());
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(matches!(
            store.claim(scope("b"), b"1", soon()).await,
            Ok(Claim::First(_))
        ));
    }
}
