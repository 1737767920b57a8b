//! The publishing calls: emit and its thin forms, one by one or in a batch.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    access::Caller,
    body,
    idempotency::{Claim, KeyError, Scope, Store, digest},
    problem::Problem,
    shape::{Kind, Shape, field},
    verbs::{Fields, Verb},
};
use crate::{
    limits::{BATCH_ITEMS, IDEMPOTENCY_KEY_BYTES, ONCE_WAIT},
    node::{Node, NodeError, Once},
    time_slice::TimeSlice,
};

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

impl Publishing {
    /// One call; answers its JSON.
    ///
    /// # Errors
    /// A [`Problem`]; nothing was delivered then.
    pub(crate) async fn one(self, verb: Verb, body: Bytes) -> Result<Bytes, Problem> {
        match self.scope()? {
            None => self.publish(verb, parse(&body, verb)?).await,
            Some(scope) => {
                self.once(scope, body.clone(), move |this| async move {
                    this.publish(verb, parse(&body, verb)?).await
                })
                .await
            }
        }
    }

    /// Up to 100 calls, one after another; answers each one's result or problem, in order.
    ///
    /// # Errors
    /// A [`Problem`] where the batch itself is wrong.
    pub(crate) async fn batch(self, body: Bytes) -> Result<Bytes, Problem> {
        let items = items(&body)?;
        let scope = self.scope()?;
        // Holds the key for this body; each item is kept under a key of its own, so that a repeat runs what failed.
        let marker = match &scope {
            Some(scope) => {
                match self
                    .answers
                    .claim(scope.clone(), &body, Instant::now() + ONCE_WAIT)
                    .await?
                {
                    Claim::First(marker) => Some(marker),
                    Claim::Answered(_) => None,
                }
            }
            None => None,
        };
        let mut succeeded = false;
        let mut results: Vec<Box<RawValue>> = Vec::with_capacity(items.len());
        // Each item may bring a filter that has to be compiled, or params that are bound.
        let mut slice = TimeSlice::begin();
        for (at, item) in items.iter().enumerate() {
            let item = Bytes::copy_from_slice(item.get().as_bytes());
            let result = match &scope {
                None => self.item(&item).await,
                Some(scope) => {
                    let run = item.clone();
                    self.clone()
                        .once(scope.item(at), item, move |this| async move {
                            this.item(&run).await
                        })
                        .await
                }
            };
            succeeded |= result.is_ok();
            results.push(item_result(result));
            slice.rest().await;
        }
        if let (true, Some(marker)) = (succeeded, marker) {
            marker.succeed(Bytes::new());
        }
        Ok(serde_json::to_vec(&Results { results })
            .unwrap_or_default()
            .into())
    }

    async fn item(&self, item: &[u8]) -> Result<Bytes, Problem> {
        let (verb, fields) = Fields::item(item)?;
        self.publish(verb, fields).await
    }

    async fn publish(&self, verb: Verb, fields: Fields<'_>) -> Result<Bytes, Problem> {
        let order = fields.order(verb)?;
        let app = self.caller.app;
        if verb == Verb::Publish && !self.node.live().access(app).has_users() {
            return Err(NodeError::NoUsers.into());
        }
        let mut publications = order.publications();
        let receipt = match (publications.pop(), publications.is_empty()) {
            (Some(only), true) => self.node.publish(app, only).await?,
            (last, _) => {
                publications.extend(last);
                self.node.publish_all(app, publications).await?
            }
        };
        Ok(serde_json::to_vec(&receipt).unwrap_or_default().into())
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

    /// Runs `call` unless its key was answered before. It runs in a task of its own, so that the answer is kept even
    /// where the caller hangs up.
    async fn once<F>(
        self,
        scope: Scope,
        body: Bytes,
        call: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<Bytes, Problem>
    where
        F: Future<Output = Result<Bytes, Problem>> + Send + 'static,
    {
        let (app, name, deadline) = (scope.app, scope.digest(), Instant::now() + ONCE_WAIT);
        let running = match self.answers.claim(scope, &body, deadline).await? {
            Claim::Answered(answer) => return Ok(answer),
            Claim::First(running) => running,
        };
        let task = tokio::spawn(async move {
            let claimed = match self
                .node
                .once(app, &name, digest(&[&body]).as_bytes(), deadline)
                .await?
            {
                Some(Once::Answered(answer)) => {
                    running.succeed(answer.clone());
                    return Ok(answer);
                }
                Some(Once::OtherBody) => return Err(KeyError::OtherBody.into()),
                Some(Once::Running) => return Err(KeyError::Running.into()),
                Some(Once::First(claimed)) => Some(claimed),
                None => None,
            };
            let window = self.node.config.limits.idempotency_window;
            let answer = call(self).await;
            match (&answer, claimed) {
                (Ok(answer), Some(claimed)) => claimed.succeed(answer.clone(), window).await,
                (Err(_), Some(claimed)) => claimed.fail().await,
                (_, None) => {}
            }
            let answer = answer?;
            running.succeed(answer.clone());
            Ok(answer)
        });
        task.await.unwrap_or_else(|_| {
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the call ended early",
            ))
        })
    }
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
    let Batch { items } = body::parse(body, &BATCH)?;
    if items.len() > BATCH_ITEMS {
        let detail = format!(
            "a batch holds at most {BATCH_ITEMS} items, not {}",
            items.len()
        );
        return Err(Problem::bad_request("too_many_items", detail));
    }
    Ok(items)
}

fn parse(body: &[u8], verb: Verb) -> Result<Fields<'_>, Problem> {
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
