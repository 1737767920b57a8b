//! Answers kept in Redis for `Idempotency-Key`s: a repeat gets the first answer, whichever node it comes to.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use uuid::Uuid;

use super::super::{Node, NodeError};
use crate::{
    broker::{Bus, BusError, Health, Script, Topic},
    id::AppId,
    limits::{ONCE_AGAIN, ONCE_LOOK, ONCE_RUNNING, ONCE_TRIES},
    log_limit::Limited,
};

/// Lines about answers that Redis does not have.
static UNANSWERED: Limited = Limited::new();

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
    /// The first runs, and has not ended in time.
    Running,
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
    /// Keeps the answer of a success for `window`. Where Redis does not take it now, that is tried again in the background.
    pub(crate) async fn succeed(self, answer: Bytes, window: Duration) {
        let args = vec![self.token.clone(), answer, millis(window)];
        if self.tell(&ANSWER, args.clone()).await.is_err() {
            tokio::spawn(async move {
                if !self.insist(&ANSWER, args, 1).await
                    && let Some(others) = UNANSWERED.note(Instant::now())
                {
                    tracing::warn!(
                        others,
                        "an Idempotency-Key holds no answer in Redis; a repeat may be carried out again"
                    );
                }
            });
        }
    }

    /// Frees the key, since there is no success to keep.
    pub(crate) async fn fail(self) {
        if self.tell(&FREE, vec![self.token.clone()]).await.is_err() {
            self.give_back();
        }
    }

    /// Frees the key as soon as Redis takes that. The claim itself may come to Redis after this, so that finding none says
    /// little the first time.
    fn give_back(self) {
        tokio::spawn(async move {
            let args = vec![self.token.clone()];
            self.insist(&FREE, args, 3).await;
        });
    }

    /// Runs a script of this claim until it has found the claim, or has `most` times found none; whether it has found it.
    async fn insist(&self, script: &'static Script, args: Vec<Bytes>, most: u32) -> bool {
        let (mut wait, mut tries, mut missed) = (ONCE_AGAIN, 0, 0);
        while tries < ONCE_TRIES && missed < most {
            tokio::time::sleep(wait).await;
            if self.bus.health() != Health::Up {
                wait = ONCE_AGAIN;
                continue;
            }
            tries += 1;
            wait *= 2;
            match self.tell(script, args.clone()).await {
                Ok(redis::Value::Int(0)) => missed += 1,
                Ok(_) => return true,
                Err(error) => {
                    tracing::debug!(%error, "Redis does not take what became of an Idempotency-Key");
                }
            }
        }
        false
    }

    /// Each of these scripts may run any number of times.
    async fn tell(
        &self,
        script: &'static Script,
        args: Vec<Bytes>,
    ) -> Result<redis::Value, BusError> {
        self.bus
            .eval(script, &self.home, keys(&self.bus, &self.home), args)
            .await
    }
}

impl Node {
    /// Claims the key that `name` stands for, for a request whose body `body` stands for; `None` where this node is
    /// alone. While another request with the key runs, this waits for it until `deadline`.
    ///
    /// Not to be dropped before it ends: the claim would hold until it lapses.
    ///
    /// # Errors
    /// [`NodeError::Away`] where Redis does not say: the request may have been made before. Nothing is claimed then.
    pub(crate) async fn once(
        &self,
        app: AppId,
        name: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Result<Option<Once>, NodeError> {
        let Some(cluster) = self.cluster_up()? else {
            return Ok(None);
        };
        // Any topic's home would do; this spreads the keys over a cluster.
        let home = Topic::User(app, name.into());
        let token: Bytes = Uuid::new_v4().into_bytes().to_vec().into();
        let claim = Claimed {
            bus: cluster.bus.clone(),
            home,
            token,
        };
        loop {
            let args = vec![
                Bytes::copy_from_slice(body),
                claim.token.clone(),
                millis(ONCE_RUNNING),
            ];
            let claimed = match claim.tell(&CLAIM, args).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    if error == BusError::Unanswered {
                        claim.give_back();
                    }
                    return Err(NodeError::Away {
                        reason: error.to_string().into(),
                    });
                }
            };
            let (state, answer) = read(&claimed)?;
            match state {
                0 => return Ok(Some(Once::First(claim))),
                1 => return Ok(Some(Once::Answered(answer.unwrap_or_default()))),
                3 => return Ok(Some(Once::OtherBody)),
                _ if Instant::now() >= deadline => return Ok(Some(Once::Running)),
                _ => tokio::time::sleep(ONCE_LOOK).await,
            }
        }
    }
}

fn read(claimed: &redis::Value) -> Result<(i64, Option<Bytes>), NodeError> {
    let redis::Value::Array(parts) = claimed else {
        return Err(NodeError::Failed);
    };
    match &parts[..] {
        [redis::Value::Int(state)] => Ok((*state, None)),
        [redis::Value::Int(state), redis::Value::BulkString(answer)] => {
            Ok((*state, Some(Bytes::copy_from_slice(answer))))
        }
        _ => Err(NodeError::Failed),
    }
}

fn keys(bus: &Bus, home: &Topic) -> Vec<Vec<u8>> {
    vec![bus.key(home, "once")]
}

fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}
