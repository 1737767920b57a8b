//! Keys that are fetched: which there are now, and when they are wanted again. Fetching them is another's work.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::{TokenError, key::TokenKey, key_set::KeySet};
use crate::{config::JwksUrl, limits::JWKS_ASKED_SPACING};

/// The keys at one address.
#[derive(Debug)]
pub struct KeySource {
    url: JwksUrl,
    keys: ArcSwap<Vec<TokenKey>>,
    state: watch::Sender<State>,
    wanted: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// A fetch is under way, or about to be.
    fetching: bool,
    /// The last fetch brought keys.
    good: bool,
    /// When a token last asked for a fetch.
    asked: Option<Instant>,
}

impl KeySource {
    /// The keys at `url`, of which none is known yet: a token that asks before the first fetch waits for it.
    pub fn new(url: JwksUrl) -> Self {
        Self {
            url,
            keys: ArcSwap::default(),
            state: watch::Sender::new(State {
                fetching: true,
                good: false,
                asked: None,
            }),
            wanted: Notify::new(),
        }
    }

    /// Where the keys are.
    pub fn url(&self) -> &JwksUrl {
        &self.url
    }

    pub(super) fn keys(&self) -> Arc<Vec<TokenKey>> {
        self.keys.load_full()
    }

    /// What to say to a token whose key is not here.
    pub(super) fn lacks(&self) -> TokenError {
        if self.state.borrow().good {
            TokenError::UnknownKey
        } else {
            TokenError::KeysOutOfReach
        }
    }

    /// Asks for a fetch because a token names a key that is not here. The future is done when the fetch is; `None`
    /// where the last one that a token asked for is less than [`JWKS_ASKED_SPACING`] before `now`.
    pub fn ask(&self, now: Instant) -> Option<impl Future<Output = ()> + use<>> {
        let mut allowed = false;
        // One step under the lock of the state: of several tokens that ask at the same time, one
        // has the keys fetched.
        self.state.send_if_modified(|state| {
            let due = state
                .asked
                .is_none_or(|asked| now.duration_since(asked) >= JWKS_ASKED_SPACING);
            // A fetch under way is for all who ask, whatever its spacing.
            allowed = state.fetching || due;
            if state.fetching || !due {
                return false;
            }
            (state.fetching, state.asked) = (true, Some(now));
            self.wanted.notify_one();
            true
        });

        let mut state = self.state.subscribe();
        allowed.then_some(async move {
            // An error says that the source is used no longer.
            let _ = state.wait_for(|state| !state.fetching).await;
        })
    }

    /// Waits until a token asks for a fetch. Cancel-safe.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Notes that a fetch begins.
    pub(crate) fn begin(&self) {
        self.state.send_modify(|state| state.fetching = true);
    }

    /// Notes that the fetch ended: with keys that replace the others, or without, and the last good ones stay.
    pub(crate) fn end(&self, set: Option<KeySet>) {
        let good = set.is_some();
        // The keys first: tokens that wait for the end of the fetch are verified then.
        if let Some(set) = set {
            self.keys.store(Arc::new(set.keys));
        }
        self.state
            .send_modify(|state| (state.fetching, state.good) = (false, good));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::JWKS_ASKED_SPACING;

    fn source() -> KeySource {
        KeySource::new(JwksUrl::try_from("https://id.example/keys".to_owned()).unwrap())
    }

    #[test]
    fn tokens_ask_at_a_bounded_rate_and_whoever_comes_while_keys_are_fetched_waits() {
        let (source, began) = (source(), Instant::now());
        assert!(source.ask(began).is_some(), "the first fetch is to come");
        source.end(None);
        assert_eq!(source.lacks(), TokenError::KeysOutOfReach);
        assert!(source.ask(began).is_some());
        assert!(source.ask(began).is_some(), "it is under way");
        source.end(Some(KeySet::parse(br#"{"keys":[]}"#).unwrap()));
        assert_eq!(source.lacks(), TokenError::UnknownKey);
        assert!(source.ask(began + JWKS_ASKED_SPACING / 2).is_none());
        assert!(source.ask(began + JWKS_ASKED_SPACING).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_fetch_is_over() {
        let source = source();
        let news = source.ask(Instant::now()).unwrap();
        source.end(None);
        news.await;
        let news = source.ask(Instant::now()).unwrap();
        source.wanted().await;
        source.begin();
        drop(source);
        news.await;
    }
}
