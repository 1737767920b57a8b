//! Fetching public keys for client tokens, again and again, from addresses in the configuration and from nowhere else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{ACCEPT, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{runtime::Handle, task::AbortHandle, time::timeout};

use crate::{
    auth::{KeySet, KeySetError, KeySource},
    config::JwksUrl,
    id::AppId,
    limits::{JWKS_BYTES, JWKS_RETRY, JWKS_RETRY_MAX, JWKS_WAIT, duration::short},
    log_limit,
    node::Node,
    outbound,
};

/// The tasks that keep keys fresh, one for each address in use.
#[derive(Debug, Default)]
pub(crate) struct KeyFetchers(Mutex<Vec<KeyFetcher>>);

#[derive(Debug)]
struct KeyFetcher {
    source: Arc<KeySource>,
    task: AbortHandle,
}

impl Drop for KeyFetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("cannot reach it: {0}")]
    Unreachable(#[from] std::io::Error),
    #[error("it gave no proper answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}{hint}", hint = if .0.is_redirection() { "; redirects are not followed" } else { "" })]
    Status(StatusCode),
    #[error("its answer is over {JWKS_BYTES} bytes")]
    TooBig,
    #[error("its answer broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("nothing came within {} s", JWKS_WAIT.as_secs())]
    Slow,
    #[error("its answer is {0}")]
    Set(#[from] KeySetError),
    #[error("it cannot be asked for: {0}")]
    Request(#[from] hyper::http::Error),
}

impl KeyFetchers {
    /// Sees to it that there is one task for each address that `node` uses, on the runtime of `handle`, and no other.
    pub(crate) fn update(&self, node: &Arc<Node>, handle: &Handle) {
        let runtime_config = node.runtime_config_owned();
        let mut fetchers = self.0.lock();
        // A reload keeps the source of an address that stays, so its task goes on.
        fetchers.retain(|fetcher| {
            runtime_config
                .key_sources()
                .any(|(_, used)| Arc::ptr_eq(used, &fetcher.source))
        });

        for (app, source) in runtime_config.key_sources() {
            if !fetchers
                .iter()
                .any(|fetcher| Arc::ptr_eq(source, &fetcher.source))
            {
                let name = format!("keys of {}", source.url());
                let keep = keep(node.clone(), app, source.clone());
                let task = handle
                    .spawn(node.supervisor.run(&name, keep))
                    .abort_handle();
                fetchers.push(KeyFetcher {
                    source: source.clone(),
                    task,
                });
            }
        }
    }
}

/// Fetches the keys of `source` now, whenever they are as old as they may be, and when tokens ask for it.
async fn keep(node: Arc<Node>, app: AppId, source: Arc<KeySource>) {
    let name = node.app(app).name.clone();
    let mut failures = 0_u32;
    let mut skipped = Vec::new();

    // Tokens with unknown keys ask for fetches.
    let useless = log_limit::Limited::new();
    loop {
        source.begin();
        let began = Instant::now();
        let fetched = timeout(JWKS_WAIT, fetch(source.url()))
            .await
            .unwrap_or(Err(FetchError::Slow));
        node.metrics
            .fetched_keys(&name, fetched.as_ref().ok().map(KeySet::len));

        match fetched {
            Ok(set) => {
                if failures > 0 {
                    tracing::info!(app = %name, url = %source.url(), keys = set.len(), "keys for tokens are fetched again");
                }
                // It is logged only when it has changed: fetches come every few minutes.
                if set.skipped() != skipped {
                    skipped = set.skipped().to_vec();
                    log_skipped(&name, source.url(), &skipped);
                }
                if set.is_empty()
                    && let Some(others) = useless.note(Instant::now())
                {
                    tracing::warn!(others, app = %name, url = %source.url(), "no key there verifies tokens");
                }
                tracing::debug!(app = %name, url = %source.url(), keys = set.len(), took = %short(began.elapsed()), "keys for tokens fetched");
                failures = 0;
                source.end(Some(set));
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(app = %name, url = %source.url(), %error, "cannot fetch keys for tokens; the last good ones stay");
                }
                failures = failures.saturating_add(1);
                source.end(None);
            }
        }

        let wait = match failures {
            0 => node.runtime_config().config.limits.jwks_refresh,
            failures => retry(failures),
        };

        tokio::select! {
            () = tokio::time::sleep(spread(wait)) => {}
            () = source.wanted() => {}
        }
    }
}

fn log_skipped(app: &str, url: &JwksUrl, skipped: &[String]) {
    for why in skipped {
        tracing::warn!(%app, %url, "a key there is not used: {why}");
    }
}

fn retry(failures: u32) -> Duration {
    JWKS_RETRY
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(JWKS_RETRY_MAX)
}

/// Up to a tenth less than `wait`, so that nodes do not all ask at the same time.
fn spread(wait: Duration) -> Duration {
    let part = uuid::Uuid::new_v4().as_u128() as u32;
    wait.mul_f64(1.0 - 0.1 * f64::from(part) / f64::from(u32::MAX))
}

/// Asks for the keys once, on a connection of its own.
async fn fetch(url: &JwksUrl) -> Result<KeySet, FetchError> {
    let stream = outbound::connect(url.host(), url.port(), url.is_secure()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path())
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("fanfare/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Full::<Bytes>::default())?;

    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }

        let body = Limited::new(response.into_body(), JWKS_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => FetchError::TooBig,
            Err(error) => FetchError::Body(error),
        })?;

        Ok(KeySet::parse(&body.to_bytes())?)
    };

    // The connection ends with the answer, or when the caller has waited as long as it would.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_followed_by_longer_and_longer_waits_up_to_a_bound() {
        assert_eq!([1, 2, 3].map(retry), [1, 2, 4].map(Duration::from_secs));
        assert_eq!([7, 60, u32::MAX].map(retry), [JWKS_RETRY_MAX; 3]);
        let waits: Vec<Duration> = (0..100).map(|_| spread(Duration::from_secs(100))).collect();
        assert!(
            waits
                .iter()
                .all(|wait| (90..=100).contains(&wait.as_secs()))
        );
    }
}
