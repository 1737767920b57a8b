//! Answers stored in Redis for `Idempotency-Key`s: a repeat gets the first answer, whichever node it comes to.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::{super::NodeError, Handles, check_reach};
use crate::{
    bus::{Bus, BusError, Health, Script, Topic},
    id::AppId,
    limits::{
        IDEMPOTENCY_AGAIN, IDEMPOTENCY_LONGEST, IDEMPOTENCY_LOOK, IDEMPOTENCY_RUNNING,
        IDEMPOTENCY_TRIES,
    },
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

/// Has a claim hold on, while its request runs.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local was = redis.call('HMGET', KEYS[1], 'by', 'answer')
     if was[1] ~= ARGV[1] or was[2] then return 0 end
     return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
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
pub(crate) enum IdempotentCall {
    /// It is the first: do it, and report.
    First(IdempotencyClaim),
    /// It was done: this was the answer.
    Answered(Bytes),
    /// The key came before with another body.
    OtherBody,
    /// The first runs, and has not ended in time.
    Running,
}

/// The first request with its key, over all nodes. Its claim is renewed until it reports, for [`IDEMPOTENCY_LONGEST`] at most. If its
/// node ends before that, the key is free again after [`IDEMPOTENCY_RUNNING`].
#[derive(Debug)]
pub(crate) struct IdempotencyClaim {
    bus: Arc<Bus>,
    home: Topic,
    token: Bytes,
    renewing: Option<Renewing>,
}

/// The task that renews a claim. It ends with this.
#[derive(Debug)]
struct Renewing(AbortHandle);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl IdempotencyClaim {
    /// Renews the claim, once in each `time`, until it is dropped.
    fn renew_every(&mut self, time: Duration) {
        let (bus, home, token) = (self.bus.clone(), self.home.clone(), self.token.clone());
        let end = Instant::now() + IDEMPOTENCY_LONGEST;
        let renewing = tokio::spawn(async move {
            while Instant::now() < end {
                tokio::time::sleep(time).await;
                let args = vec![token.clone(), millis(IDEMPOTENCY_RUNNING)];
                if let Err(error) = bus.eval(&RENEW, &home, keys(&bus, &home), args).await {
                    tracing::debug!(%error, "the claim on an Idempotency-Key was not renewed");
                }
            }
        });
        self.renewing = Some(Renewing(renewing.abort_handle()));
    }

    /// Keeps the answer of a success for `window`. Where Redis does not take it now, that is tried again in the background.
    pub(crate) async fn succeed(self, answer: Bytes, window: Duration) {
        let args = vec![self.token.clone(), answer, millis(window)];
        if self.run(&ANSWER, args.clone()).await.is_err() {
            // The caller has its answer already, and does not wait for Redis to learn it.
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
        if self.run(&FREE, vec![self.token.clone()]).await.is_err() {
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
        let (mut wait, mut tries, mut missed) = (IDEMPOTENCY_AGAIN, 0, 0);
        while tries < IDEMPOTENCY_TRIES && missed < most {
            tokio::time::sleep(wait).await;
            // While Redis is away no attempt counts: an outage may last longer than all of them
            // together.
            if self.bus.health() != Health::Up {
                wait = IDEMPOTENCY_AGAIN;
                continue;
            }

            tries += 1;
            wait *= 2;
            match self.run(script, args.clone()).await {
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
    async fn run(
        &self,
        script: &'static Script,
        args: Vec<Bytes>,
    ) -> Result<redis::Value, BusError> {
        self.bus
            .eval(script, &self.home, keys(&self.bus, &self.home), args)
            .await
    }
}

/// The `Idempotency-Key`s of all nodes, and the answers to the requests that came with them.
///
/// It owns nothing but its way to Redis, which has them: a claim is its caller's. The HTTP edge alone calls it.
#[derive(Debug)]
pub(crate) struct IdempotencyStore {
    bus: Arc<Bus>,
}

impl IdempotencyStore {
    pub(super) fn new(handles: &Handles<'_>) -> Self {
        Self {
            bus: handles.bus.clone(),
        }
    }

    /// Claims the key that `name` stands for, for a request whose body `body` stands for. While another request with the key runs, this waits for it until `deadline`.
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
    ) -> Result<IdempotentCall, NodeError> {
        // Any topic's home would do; this spreads the keys over a cluster.
        let home = Topic::User(app, name.into());
        check_reach(&self.bus, [&home])?;
        let token: Bytes = Uuid::new_v4().into_bytes().to_vec().into();

        let mut claim = IdempotencyClaim {
            bus: self.bus.clone(),
            home,
            token,
            renewing: None,
        };

        loop {
            let args = vec![
                Bytes::copy_from_slice(body),
                claim.token.clone(),
                millis(IDEMPOTENCY_RUNNING),
            ];

            let claimed = match claim.run(&CLAIM, args).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    // Redis may have claimed the key all the same. Nobody would answer under it,
                    // and each repeat would wait for that.
                    if error == BusError::Unanswered {
                        claim.give_back();
                    }
                    return Err(NodeError::Away {
                        reason: error.to_string().into(),
                    });
                }
            };

            match Claimed::read(&claimed)? {
                Claimed::First => {
                    // Several times, so that one that fails is made up for by the next.
                    claim.renew_every(IDEMPOTENCY_RUNNING / 3);
                    return Ok(IdempotentCall::First(claim));
                }
                Claimed::Answered(answer) => return Ok(IdempotentCall::Answered(answer)),
                Claimed::OtherBody => return Ok(IdempotentCall::OtherBody),
                Claimed::Running if Instant::now() >= deadline => {
                    return Ok(IdempotentCall::Running);
                }
                Claimed::Running => tokio::time::sleep(IDEMPOTENCY_LOOK).await,
            }
        }
    }
}

/// What the script of a claim says of a key.
#[derive(Debug)]
enum Claimed {
    /// Nobody has it: it is claimed now.
    First,
    /// It was answered with this.
    Answered(Bytes),
    /// Another request with it runs.
    Running,
    /// It was used with another body.
    OtherBody,
}

impl Claimed {
    fn read(claimed: &redis::Value) -> Result<Self, NodeError> {
        let redis::Value::Array(parts) = claimed else {
            return Err(NodeError::Failed);
        };

        let (state, answer) = match &parts[..] {
            [redis::Value::Int(state)] => (*state, Bytes::new()),
            [redis::Value::Int(state), redis::Value::BulkString(answer)] => {
                (*state, Bytes::copy_from_slice(answer))
            }
            _ => return Err(NodeError::Failed),
        };

        Ok(match state {
            0 => Self::First,
            1 => Self::Answered(answer),
            3 => Self::OtherBody,
            _ => Self::Running,
        })
    }
}

fn keys(bus: &Bus, home: &Topic) -> Vec<Vec<u8>> {
    vec![bus.key(home, "once")]
}

fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::tests::{
        bus_at,
        server::{PATIENCE, Server},
    };

    #[tokio::test]
    async fn a_claim_is_renewed_while_its_request_runs_and_an_answer_is_not() {
        let server = Server::start(&[]);
        let (bus, _inbox) = bus_at(&server.url()).await;
        let home = Topic::User(AppId(0), "order".into());
        let mut claimed = IdempotencyClaim {
            bus: bus.clone(),
            home: home.clone(),
            token: Bytes::from_static(b"token"),
            renewing: None,
        };
        // It would hold for an hour: a renewal is seen by the shorter time that it gives.
        let hour = millis(Duration::from_hours(1));
        let args = vec![Bytes::from_static(b"body"), claimed.token.clone(), hour];
        claimed.run(&CLAIM, args).await.unwrap();
        let lives_for = async || {
            let mut ttl = redis::cmd("PTTL");
            ttl.arg(&keys(&bus, &home)[0]);
            match bus.command(&home, ttl).await.unwrap() {
                redis::Value::Int(left) => Duration::from_millis(left.unsigned_abs()),
                other => panic!("{other:?}"),
            }
        };
        assert!(lives_for().await > IDEMPOTENCY_RUNNING);
        claimed.renew_every(Duration::from_millis(1));
        let start = Instant::now();
        while lives_for().await > IDEMPOTENCY_RUNNING {
            assert!(start.elapsed() < PATIENCE, "it is not renewed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        let token = claimed.token.clone();
        claimed
            .succeed(Bytes::from_static(b"answer"), Duration::from_hours(1))
            .await;
        let renewed = bus.eval(
            &RENEW,
            &home,
            keys(&bus, &home),
            vec![token, millis(IDEMPOTENCY_RUNNING)],
        );
        assert_eq!(renewed.await.unwrap(), redis::Value::Int(0));
        assert!(lives_for().await > IDEMPOTENCY_RUNNING);
        bus.stop();
    }
}
