//! The publishing calls: emit and its thin forms, one by one or in a batch.

mod run;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::{Response, StatusCode, header::HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::run::Run;
use super::{
    ResponseBody,
    access::Caller,
    body,
    idempotency::{Claim, KeyError, Scope, Store, digest},
    ops,
    problem::Problem,
    shape::{Kind, Shape, field},
    verbs::{PublishCall, Verb, VerbFields},
};
use crate::{
    history::StoredAnswer,
    hub::LongStep,
    limits::{BATCH_ITEMS, IDEMPOTENCY_KEY_BYTES, IDEMPOTENCY_WAIT, LONG_BODY},
    node::{IdempotencyClaim, IdempotentCall, Node, NodeError, Prepared, Receipt},
    time_slice::TimeSlice,
};

/// The header of an answer that was given before.
const REPLAYED: &str = "idempotency-replayed";

/// The body of a batch.
pub(super) static BATCH: Shape = Shape {
    fields: &[field("items", Kind::Objects)],
    required: &[&["items"]],
};

#[derive(Serialize)]
struct Results {
    results: Vec<Box<RawValue>>,
}

/// What a publishing call needs besides its body.
#[derive(Clone, Debug)]
pub(crate) struct Publishing {
    pub(crate) node: Arc<Node>,
    pub(crate) answers: Arc<Store>,
    pub(crate) caller: Caller,
    pub(crate) path: &'static str,
    /// The `Idempotency-Key`, if there is one.
    pub(crate) key: Option<String>,
}

/// What a publishing call answers.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// The answer's JSON.
    json: Bytes,
    /// Whether it is the answer to an earlier request with the same `Idempotency-Key`, and nothing was sent now.
    is_replay: bool,
}

/// What the items of a batch have come to.
struct PublishedBatch {
    published: Published,
    /// At least one of them has.
    has_succeeded: bool,
}

impl Published {
    fn now(json: Bytes) -> Self {
        Self {
            json,
            is_replay: false,
        }
    }

    fn earlier(json: Bytes) -> Self {
        Self {
            json,
            is_replay: true,
        }
    }

    /// The answer as it is sent; a replay says that it is one.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        let mut response = ops::response(StatusCode::OK, "application/json", self.json);
        if self.is_replay {
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

impl Publishing {
    /// Carries out one call.
    ///
    /// # Errors
    /// A [`Problem`]; nothing was delivered then.
    pub(crate) async fn one(self, verb: Verb, body: Bytes) -> Result<Published, Problem> {
        match self.scope()? {
            None => {
                let answer = self.publish(verb, parse(&body, verb)?).await?;
                Ok(Published::now(answer))
            }
            Some(scope) => {
                self.once(scope, body.clone(), move |this| async move {
                    this.publish(verb, parse(&body, verb)?).await
                })
                .await
            }
        }
    }

    /// Up to 100 calls, in order; answers each one's result or problem. Stored events that follow each other go to Redis together,
    /// unless the batch has a key. The answer is a replay if every item's is.
    ///
    /// # Errors
    /// A [`Problem`] where the batch itself is wrong.
    pub(crate) async fn batch(self, body: Bytes) -> Result<Published, Problem> {
        let Some(scope) = self.scope()? else {
            // No answer has to be stored, so the batch may end with its caller's connection.
            return self.all(None, &body).await.map(|batch| batch.published);
        };
        // A malformed batch must not take its key.
        items(&body)?;
        run_detached(self.batch_once(scope, body)).await
    }

    /// The same with a key. It is held for this body on every node, by an answer that is empty; each item is stored
    /// under a key of its own, so that a repeat runs what failed.
    async fn batch_once(self, scope: Scope, body: Bytes) -> Result<Published, Problem> {
        let (name, deadline) = (scope.digest(), Instant::now() + IDEMPOTENCY_WAIT);
        let claim = self.answers.claim(scope.clone(), &body, deadline).await?;
        let Claim::First(running) = claim else {
            return self
                .all(Some(&scope), &body)
                .await
                .map(|batch| batch.published);
        };

        let claimed = match self.cluster_claim(&name, &body, deadline).await? {
            Elsewhere::First(claimed) => claimed,
            // Another node had this batch before. Its items answer for themselves: what succeeded
            // is a replay, and what failed is tried again.
            Elsewhere::Answered(_) => {
                drop(running);
                return self
                    .all(Some(&scope), &body)
                    .await
                    .map(|batch| batch.published);
            }
        };

        let (results, has_succeeded) = match self.all(Some(&scope), &body).await {
            Ok(batch) => (Ok(batch.published), batch.has_succeeded),
            Err(problem) => (Err(problem), false),
        };

        let window = self.node.config.limits.idempotency_window;
        match (has_succeeded, claimed) {
            (true, Some(claimed)) => claimed.succeed(Bytes::new(), window).await,
            (false, Some(claimed)) => claimed.fail().await,
            (_, None) => {}
        }

        if has_succeeded {
            self.keep_answer(&name, &body, &Bytes::new()).await;
            running.succeed(&Bytes::new());
        }

        results
    }

    /// Carries out the items of a batch, each under a key of its own where the batch has one.
    async fn all(&self, scope: Option<&Scope>, body: &[u8]) -> Result<PublishedBatch, Problem> {
        let items = items(body)?;
        let results = match scope {
            None => Run::new(self).carry_out(&items).await,
            Some(scope) => self.all_once(scope, &items).await,
        };

        let has_succeeded = results.iter().any(Result::is_ok);
        let mut is_replay = !results.is_empty();
        let mut written: Vec<Box<RawValue>> = Vec::with_capacity(results.len());
        for result in results {
            is_replay &= result.as_ref().is_ok_and(|published| published.is_replay);
            written.push(item_result(result.map(|published| published.json)));
        }

        let results = Results { results: written };
        let json = serde_json::to_vec(&results).unwrap_or_default().into();
        Ok(PublishedBatch {
            published: Published { json, is_replay },
            has_succeeded,
        })
    }

    /// Carries out the items of a batch with a key, one after another.
    async fn all_once(
        &self,
        scope: &Scope,
        items: &[&RawValue],
    ) -> Vec<Result<Published, Problem>> {
        let mut results = Vec::with_capacity(items.len());
        let mut slice = TimeSlice::begin();

        for (at, item) in items.iter().enumerate() {
            self.queue_long(item).await;
            let item = Bytes::copy_from_slice(item.get().as_bytes());
            let run = item.clone();
            let once = self
                .clone()
                .once(scope.item(at), item, move |this| async move {
                    let (verb, fields) = VerbFields::item(&run)?;
                    this.publish(verb, fields).await
                });

            results.push(once.await);
            slice.rest().await;
        }

        results
    }

    /// Waits for the turn of an item that is long.
    async fn queue_long(&self, item: &RawValue) {
        if item.get().len() >= LONG_BODY {
            let app = self.caller.app;
            self.node.queue_long_step(app, LongStep::Body).await;
        }
    }

    /// Claims the key that `name` stands for on all nodes.
    ///
    /// # Errors
    /// 422 for another body, and 503 while the first request runs or Redis does not say.
    async fn cluster_claim(
        &self,
        name: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Result<Elsewhere, Problem> {
        let body = digest(&[body]);
        let Some(cluster) = &self.node.cluster else {
            return self.recall(name, &body).await;
        };
        let keys = &cluster.idempotency;
        let claim = keys.once(self.caller.app, name, body.as_bytes(), deadline);
        match claim.await? {
            IdempotentCall::Answered(answer) => Ok(Elsewhere::Answered(answer)),
            IdempotentCall::OtherBody => Err(KeyError::OtherBody.into()),
            IdempotentCall::Running => Err(KeyError::Running.into()),
            IdempotentCall::First(claimed) => Ok(Elsewhere::First(Some(claimed))),
        }
    }

    /// What the data directory, if there is one, knows of the key that `name` stands for: an answer from before the last
    /// restart.
    async fn recall(&self, name: &str, body: &str) -> Result<Elsewhere, Problem> {
        let Some(disk) = &self.node.disk else {
            return Ok(Elsewhere::First(None));
        };
        let stored = disk.answer(self.caller.app, name).await;
        match stored.map_err(NodeError::from)? {
            None => Ok(Elsewhere::First(None)),
            Some(stored) if *stored.body == *body => Ok(Elsewhere::Answered(stored.answer)),
            Some(_) => Err(KeyError::OtherBody.into()),
        }
    }

    /// Stores an answer in the data directory, if there is one.
    async fn keep_answer(&self, name: &str, body: &[u8], answer: &Bytes) {
        let Some(disk) = &self.node.disk else {
            return;
        };
        let stored = StoredAnswer {
            body: digest(&[body]).into(),
            answer: answer.clone(),
        };
        let window = self.node.config.limits.idempotency_window;
        let stored = disk.keep_answer(self.caller.app, name, stored, window);
        if let Err(error) = stored.await {
            tracing::debug!(%error, "an answer was not stored: after a restart a repeat would be carried out again");
        }
    }

    async fn publish(&self, verb: Verb, fields: VerbFields<'_>) -> Result<Bytes, Problem> {
        let call = self.prepare(verb, fields).await?;
        self.carry_out(call).await
    }

    /// Settles what a call means.
    async fn prepare<'a>(
        &self,
        verb: Verb,
        mut fields: VerbFields<'a>,
    ) -> Result<Call<'a>, Problem> {
        let app = self.caller.app;
        if let Some(json) = fields.long_params() {
            fields.built = Some(body::params_aside(&self.node, app, json).await?);
        }

        let call = fields.into_call(verb)?;
        if verb == Verb::Publish && !self.node.runtime_config().access(app).has_users() {
            return Err(NodeError::NoUsers.into());
        }

        let mut publications = call.publications();
        let (Some(only), true) = (publications.pop(), publications.is_empty()) else {
            drop(publications);
            return Ok(Call::Several(Box::new(call)));
        };
        let prepared = self.node.prepare_aside(app, only).await.map_err(refused)?;
        Ok(Call::One(Box::new(prepared)))
    }

    async fn carry_out(&self, call: Call<'_>) -> Result<Bytes, Problem> {
        let receipt = match call {
            Call::One(prepared) => self.node.deliver(*prepared).await,
            Call::Several(call) => {
                let publications = call.publications();
                self.node.publish_all(self.caller.app, publications).await
            }
        };
        receipt.map_err(refused).map(|receipt| written(&receipt))
    }

    fn scope(&self) -> Result<Option<Scope>, Problem> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES {
            return Err(KeyError::Length(key.len()).into());
        }

        Ok(Some(Scope {
            app: self.caller.app,
            api_key: self.caller.key.clone(),
            path: self.path,
            key: key.as_str().into(),
            item: None,
        }))
    }

    /// Runs `call` unless its key was answered before. It runs in a task of its own, so that the answer is stored
    /// even where the caller hangs up.
    async fn once<F>(
        self,
        scope: Scope,
        body: Bytes,
        call: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<Published, Problem>
    where
        F: Future<Output = Result<Bytes, Problem>> + Send + 'static,
    {
        let (name, deadline) = (scope.digest(), Instant::now() + IDEMPOTENCY_WAIT);
        let running = match self.answers.claim(scope, &body, deadline).await? {
            Claim::Answered(answer) => return Ok(Published::earlier(answer)),
            Claim::First(running) => running,
        };

        run_detached(async move {
            let claimed = match self.cluster_claim(&name, &body, deadline).await? {
                Elsewhere::First(claimed) => claimed,
                Elsewhere::Answered(answer) => {
                    // It stays where it was found, and no longer than that.
                    drop(running);
                    return Ok(Published::earlier(answer));
                }
            };

            let window = self.node.config.limits.idempotency_window;
            let keeper = self.clone();
            let answer = call(self).await;

            // The other nodes and the data directory come before this node's own store. Once a
            // repeat is answered here, a restart or another node would answer it too.
            match (&answer, claimed) {
                (Ok(answer), Some(claimed)) => claimed.succeed(answer.clone(), window).await,
                (Err(_), Some(claimed)) => claimed.fail().await,
                (_, None) => {}
            }

            let answer = answer?;
            keeper.keep_answer(&name, &body, &answer).await;
            running.succeed(&answer);

            Ok(Published::now(answer))
        })
        .await
    }
}

/// A publishing call that has been read.
enum Call<'a> {
    /// It is one event, for one target.
    One(Box<Prepared>),
    /// It is one event for several targets.
    Several(Box<PublishCall<'a>>),
}

/// What a publishing call answers, as JSON.
fn written(receipt: &Receipt) -> Bytes {
    serde_json::to_vec(receipt).unwrap_or_default().into()
}

/// Why nothing was published; without the other nodes there is still one way.
fn refused(error: NodeError) -> Problem {
    let is_away = matches!(error, NodeError::Away { .. });
    let problem = Problem::from(error);
    if is_away {
        problem.but("scope \"node\" reaches this node's connections")
    } else {
        problem
    }
}

/// What the other nodes know of a key.
enum Elsewhere {
    /// It is new. The claim must be completed with the outcome of the request. It is absent if this node is alone.
    First(Option<IdempotencyClaim>),
    /// It was done: this was the answer.
    Answered(Bytes),
}

/// Runs a call in a task of its own, so that it is not left half done if the caller hangs up.
async fn run_detached(
    call: impl Future<Output = Result<Published, Problem>> + Send + 'static,
) -> Result<Published, Problem> {
    let ended = tokio::spawn(call).await;
    ended.unwrap_or_else(|_| Err(Problem::internal("the call ended early")))
}

/// The items of a batch, unread.
///
/// # Errors
/// 400 for a wrong body, and for too many items.
pub(super) fn items(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }

    let Batch { items } = body::parse(body, &BATCH).map_err(|problem| {
        if body.trim_ascii_start().starts_with(b"[") {
            problem.but("write {\"items\":[…]}")
        } else {
            problem
        }
    })?;

    if items.len() > BATCH_ITEMS {
        let detail = format!(
            "a batch holds at most {BATCH_ITEMS} items, not {}",
            items.len()
        );
        return Err(Problem::bad_request("too_many_items", detail));
    }

    Ok(items)
}

fn parse(body: &[u8], verb: Verb) -> Result<VerbFields<'_>, Problem> {
    body::parse(body, verb.shape())
}

/// `{"status":200, …}` or `{"status":4xx,"error":{…}}`.
fn item_result(result: Result<Bytes, Problem>) -> Box<RawValue> {
    let text = match result {
        Ok(answer) => format!(
            "{{\"status\":200,\"result\":{}}}",
            String::from_utf8_lossy(&answer)
        ),
        Err(problem) => {
            serde_json::json!({ "status": problem.status(), "error": problem }).to_string()
        }
    };
    // Both are valid JSON by construction.
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_place_of_a_batch_is_told_what_to_write() {
        let problem = items(br#" [{"call":"broadcast","event":"e"}]"#).unwrap_err();
        assert_eq!(
            problem.detail(),
            r#"a JSON object is required, not a list; write {"items":[…]}"#
        );
        let other = items(br#"{"items":[1]}"#).map(|items| items.len());
        assert!(!other.is_err_and(|problem| problem.detail().contains("write {")));
    }
}
