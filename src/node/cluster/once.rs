//! Answers kept in Redis for `Idempotency-Key`s: a repeat gets the first answer, whichever node it comes to.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use uuid::Uuid;

use super::super::{Node, NodeError};
use crate::{
    broker::{Bus, BusError, Script, Topic},
    id::AppId,
    limits::{ONCE_LOOK, ONCE_RUNNING},
};

/// Claims a key for a body, or says what became of it: 0 first, 1 answered, 2 running, 3 used with another body.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local was = redis.call('HMGET', KEYS[1], 'body', 'answer')
     if not was[1] then
       redis.call('HSET', KEYS[1], 'body', ARGV[1], 'by', ARGV[2])
       redis.call('PEXPIRE', KEYS[1], ARGV[3])
       return {0}
     end
     if was[1] ~= ARGV[1] then return {3} end
     if was[2] then return {1, was[2]} end
     return {2}",
    )
});

/// Keeps the answer of who has claimed the key.
static ANSWER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'by') ~= ARGV[1] then return 0 end
     redis.call('HSET', KEYS[1], 'answer', ARGV[2])
     return redis.call('PEXPIRE', KEYS[1], ARGV[3])",
    )
});

/// Frees the key of who has claimed it.
static FREE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'by') ~= ARGV[1] then return 0 end
     return redis.call('DEL', KEYS[1])",
    )
});

/// What to do with a request that carries a key.
#[derive(Debug)]
pub(crate) enum Once {
    /// It is the first: do it, and report.
    First(Claimed),
    /// It was done: this was the answer.
    Answered(Bytes),
    /// The key came before with another body.
    OtherBody,
}

/// The first request with its key, over all nodes. Where its node ends before it reports, the key is free again after
/// [`ONCE_RUNNING`].
#[derive(Debug)]
pub(crate) struct Claimed {
    bus: Arc<Bus>,
    home: Topic,
    token: Bytes,
}

impl Claimed {
    /// Keeps the answer of a success for `window`.
    pub(crate) async fn succeed(self, answer: Bytes, window: Duration) {
        let args = vec![self.token.clone(), answer, millis(window)];
        let kept = self.bus.eval(&ANSWER, &self.home, keys(&self.bus, &self.home), args).await;
        note(kept);
    }

    /// Frees the key, since there is no success to keep.
    pub(crate) async fn fail(self) {
        let freed = self.bus.eval(&FREE, &self.home, keys(&self.bus, &self.home), vec![self.token]).await;
        note(freed);
    }
}

impl Node {
    /// Claims the key that `name` stands for, for a request whose body `body` stands for; `None` where this node is
    /// alone. While another request with the key runs, this waits for it.
    ///
    /// # Errors
    /// [`NodeError::Away`] where Redis does not say: the request may have been made before.
    pub(crate) async fn once(&self, app: AppId, name: &str, body: &[u8]) -> Result<Option<Once>, NodeError> {
        let Some(cluster) = self.cluster_up()? else { return Ok(None) };
        // Any topic's home would do; this spreads the keys over a cluster.
        let home = Topic::User(app, name.into());
        let token: Bytes = Uuid::new_v4().into_bytes().to_vec().into();
        loop {
            let args = vec![Bytes::copy_from_slice(body), token.clone(), millis(ONCE_RUNNING)];
            let claimed = cluster.bus.eval(&CLAIM, &home, keys(&cluster.bus, &home), args).await;
            let claimed = claimed.map_err(|error| NodeError::Away { reason: error.to_string().into() })?;
            let (state, answer) = read(&claimed)?;
            match state {
                0 => return Ok(Some(Once::First(Claimed { bus: cluster.bus.clone(), home, token }))),
                1 => return Ok(Some(Once::Answered(answer.unwrap_or_default()))),
                3 => return Ok(Some(Once::OtherBody)),
                _ => tokio::time::sleep(ONCE_LOOK).await,
            }
        }
    }
}

fn read(claimed: &redis::Value) -> Result<(i64, Option<Bytes>), NodeError> {
    let redis::Value::Array(parts) = claimed else { return Err(NodeError::Failed) };
    match &parts[..] {
        [redis::Value::Int(state)] => Ok((*state, None)),
        [redis::Value::Int(state), redis::Value::BulkString(answer)] => {
            Ok((*state, Some(Bytes::copy_from_slice(answer))))
        }
        _ => Err(NodeError::Failed),
    }
}

fn note(result: Result<redis::Value, BusError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "an Idempotency-Key holds no answer in Redis; a repeat may be carried out again");
    }
}

fn keys(bus: &Bus, home: &Topic) -> Vec<Vec<u8>> {
    vec![bus.key(home, "once")]
}

fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}
