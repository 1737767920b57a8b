//! Asking other nodes ([`Rpc`]): a request over the bus, answers over the bus, and a time after which those that are
//! missing are named.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::{
    super::NodeError,
    Handles, check_reach,
    leases::{Membership, Peer},
    rpc_request::{Refusal, Request},
};
use crate::{
    app::Apps,
    bus::{Bus, BusError, Topic},
    id::{AppId, NodeId},
    limits::ANSWERS_WAITING,
    log_limit::{Line, Lines},
    protocol::envelope::{self, Answer, WireRequest},
};

/// A node's answer as it came.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) node: NodeId,
    pub(super) result: Box<RawValue>,
}

/// What several nodes answered.
#[derive(Debug, Default)]
pub(super) struct Responses {
    pub(super) received: Vec<Response>,
    /// The names of those that refused, and of those that hold a lease and did not answer in time.
    pub(super) missing: Vec<String>,
}

/// Requests that wait for answers.
#[derive(Debug, Default)]
pub(super) struct PendingCalls {
    /// The one before the next. What expects no answer has the number 0.
    last: AtomicU64,
    waiting: Mutex<AHashMap<u64, mpsc::Sender<Response>>>,
}

/// A request under way; forgotten when dropped.
struct Waiting<'a> {
    calls: &'a PendingCalls,
    id: u64,
    answers: mpsc::Receiver<Response>,
}

impl PendingCalls {
    fn begin(&self) -> Waiting<'_> {
        let id = self.last.fetch_add(1, Relaxed) + 1;
        let (sender, answers) = mpsc::channel(ANSWERS_WAITING);
        self.waiting.lock().insert(id, sender);
        Waiting {
            calls: self,
            id,
            answers,
        }
    }

    /// Hands an answer to who waits for it. One that comes too late is for nobody.
    fn answered(&self, answer: &Answer<'_>) {
        // A copy, so that the lock is let go of before the answer is sent.
        let waiting = self.waiting.lock().get(&answer.id).cloned();
        if let Some(waiting) = waiting {
            let response = Response {
                node: NodeId(answer.origin),
                result: answer.result.to_owned(),
            };
            // Fails only if the asker has just stopped waiting, or more nodes than there can be have answered.
            let _ = waiting.try_send(response);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.waiting.lock().remove(&self.id);
    }
}

/// Takes answers until each of the `expected` nodes, which then are those that have not answered, has done its part or
/// said that it does not. `refused` gets the reason.
async fn gather(
    answers: &mut mpsc::Receiver<Response>,
    expected: &mut Vec<Peer>,
    responses: &mut Responses,
    refused: impl Fn(NodeId, String),
) {
    while !expected.is_empty() {
        let Some(response) = answers.recv().await else {
            return;
        };

        // A node whose lease is not known yet may answer too. That counts, but is not waited for.
        let at = expected.iter().position(|peer| peer.id == response.node);
        let peer = at.map(|at| expected.remove(at));
        if let Ok(Refusal { error }) = serde_json::from_str(response.result.get()) {
            let name = peer.map(|peer| peer.name.to_string());
            responses.missing.extend(name);
            refused(response.node, error);
            continue;
        }

        responses.received.push(response);
    }
}

/// Requests between nodes, over the bus.
///
/// It owns the requests of this node that wait for answers. Any component of the cluster asks and notifies other nodes
/// by it, and so do the calls of [`Node`](super::Node) that look or act on all nodes. Only the task that hears the bus
/// gives it the answers of others, and answers their requests by it.
#[derive(Debug)]
pub(crate) struct Rpc {
    bus: Arc<Bus>,
    node: NodeId,
    apps: Arc<Apps>,
    membership: Arc<Membership>,
    lines: Arc<Lines>,
    /// How long an answer is waited for.
    node_call_timeout: Duration,
    calls: PendingCalls,
}

/// Whom a request is for.
pub(super) struct Called<'t> {
    /// It goes there.
    pub(super) topic: &'t Topic,
    /// They are expected to answer.
    pub(super) nodes: Vec<Peer>,
}

impl Rpc {
    pub(super) fn new(handles: &Handles<'_>, membership: &Arc<Membership>) -> Self {
        let context = handles.hub.context();
        Self {
            bus: handles.bus.clone(),
            node: context.node,
            apps: handles.apps.clone(),
            membership: membership.clone(),
            lines: context.lines.clone(),
            node_call_timeout: context.limits.node_call_timeout,
            calls: PendingCalls::default(),
        }
    }

    /// Checks that the other nodes can be asked, and can answer.
    ///
    /// # Errors
    /// [`NodeError::Away`] while the bus does not bring that.
    pub(super) fn check_reach(&self) -> Result<(), NodeError> {
        check_reach(&self.bus, &[Topic::Nodes, Topic::Node(self.node)])
    }

    /// Hands an answer to who waits for it.
    pub(super) fn answered(&self, answer: &Answer<'_>) {
        self.calls.answered(answer);
    }

    /// Asks every other node that holds a lease and serves `app`, and waits for their answers for `limits.node_call_timeout` at most.
    pub(super) async fn call_all(&self, app: AppId, request: &Request) -> Responses {
        let all = Called {
            topic: &Topic::Nodes,
            nodes: self.membership.peers().serving(app),
        };
        self.call_within(app, all, request, self.node_call_timeout)
            .await
    }

    /// Asks one node; `None` where it does not answer in time.
    pub(super) async fn call_one(
        &self,
        app: AppId,
        node: NodeId,
        request: &Request,
    ) -> Option<Box<RawValue>> {
        let peer = Peer {
            id: node,
            name: node.to_string().into(),
        };
        let one = Called {
            topic: &Topic::Node(node),
            nodes: vec![peer],
        };
        let mut responses = self
            .call_within(app, one, request, self.node_call_timeout)
            .await;
        responses.received.pop().map(|response| response.result)
    }

    /// Asks nodes, and waits for their answers.
    pub(super) async fn call_within(
        &self,
        app: AppId,
        called: Called<'_>,
        request: &Request,
        patience: Duration,
    ) -> Responses {
        let Called {
            topic,
            nodes: mut expected,
        } = called;
        let mut responses = Responses::default();
        if expected.is_empty() {
            return responses;
        }

        // Structs of texts always serialize.
        let Ok(request) = to_raw_value(request) else {
            return responses;
        };

        let mut waiting = self.calls.begin();
        let app = (&*self.apps.get(app).name).into();
        let request = WireRequest {
            origin: self.node.0,
            id: waiting.id,
            app,
            order: &request,
        };

        let sent = self.bus.publish(topic, envelope::request(&request));
        let all = async {
            match sent.await {
                // Nobody hears what is said to a node that has ended.
                Ok(0) if matches!(topic, Topic::Node(_)) => return,
                Err(_) => return,
                Ok(_) => {}
            }

            gather(
                &mut waiting.answers,
                &mut expected,
                &mut responses,
                |node, error| {
                    if let Some(others) = self.lines.note(Line::NotDone) {
                        tracing::warn!(others, %node, error, "a node did not do its part");
                    }
                },
            )
            .await;
        };

        // What has come by then counts; who is missing is named.
        let _ = tokio::time::timeout(patience, all).await;
        let silent = expected.iter().map(|peer| peer.name.to_string());
        responses.missing.extend(silent);

        responses
    }

    /// Asks `nodes`, and hands on what each of them says as it comes, nothing for one that refuses, until all have answered.
    pub(super) async fn call_each(
        &self,
        app: AppId,
        nodes: &AHashSet<NodeId>,
        request: &Request,
        response: impl Fn(NodeId, Option<&RawValue>),
    ) -> Result<(), BusError> {
        let mut expected = nodes.clone();
        // Structs of texts always serialize.
        let request = to_raw_value(request).unwrap_or_default();
        let mut waiting = self.calls.begin();

        let request = WireRequest {
            origin: self.node.0,
            id: waiting.id,
            app: (&*self.apps.get(app).name).into(),
            order: &request,
        };

        // A node that is asked alone is asked on its own topic, which spares the others.
        let one = expected.iter().next().filter(|_| expected.len() == 1);
        let topic = one.map_or(Topic::Nodes, |node| Topic::Node(*node));
        if expected.is_empty() {
            return Ok(());
        }

        self.bus
            .publish(&topic, envelope::request(&request))
            .await?;
        while !expected.is_empty()
            && let Some(Response { node, result }) = waiting.answers.recv().await
        {
            expected.remove(&node);
            let is_refusal = serde_json::from_str::<Refusal>(result.get()).is_ok();
            response(node, (!is_refusal).then_some(&*result));
        }

        Ok(())
    }

    /// Notifies every other node of something that none answers. It is on its way when this
    /// returns.
    pub(super) fn notify_nodes(
        &self,
        app: AppId,
        request: &Request,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        self.notify_topic(&Topic::Nodes, app, request)
    }

    /// The same by `topic`.
    pub(super) fn notify_topic(
        &self,
        topic: &Topic,
        app: AppId,
        request: &Request,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        // Structs of texts always serialize.
        let request = to_raw_value(request).unwrap_or_default();
        let request = WireRequest {
            origin: self.node.0,
            id: 0,
            app: (&*self.apps.get(app).name).into(),
            order: &request,
        };
        self.bus.publish(topic, envelope::request(&request))
    }

    /// Notifies the other nodes that what one was to do of programs' messages is done.
    pub(crate) fn notify_done(&self, app: AppId, digests: Vec<String>) {
        let requests = if self.membership.peers().version() >= envelope::DONE_TOGETHER {
            vec![Request::DoneTogether { digests }]
        } else {
            let done = |digest| Request::Done { digest };
            digests.into_iter().map(done).collect()
        };

        let sent: Vec<_> = requests
            .iter()
            .map(|request| self.notify_nodes(app, request))
            .collect();
        tokio::spawn(async move {
            for sent in sent {
                if let Err(error) = sent.await {
                    tracing::debug!(%error, "other nodes do not know that a program's message is done");
                }
            }
        });
    }

    /// Answers a request of another node.
    pub(super) async fn answer(&self, to: NodeId, id: u64, result: &RawValue) {
        let answer = Answer {
            origin: self.node.0,
            id,
            result,
        };
        if let Err(error) = self
            .bus
            .publish(&Topic::Node(to), envelope::answer(&answer))
            .await
        {
            tracing::debug!(%error, "an answer to another node was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    fn response(node: u32, result: &str) -> Response {
        let result = RawValue::from_string(result.to_owned()).unwrap();
        Response {
            node: NodeId(node),
            result,
        }
    }

    #[test]
    fn a_node_that_refuses_is_missing_and_not_waited_for() {
        let peer = |node: u32| Peer {
            id: NodeId(node),
            name: format!("n{node}").into(),
        };
        let (sender, mut answers) = mpsc::channel(8);
        let (mut expected, mut responses) = (vec![peer(1), peer(2)], Responses::default());
        sender
            .try_send(response(2, r#"{"error":"too much"}"#))
            .unwrap();
        sender.try_send(response(1, r#"{"n":3}"#)).unwrap();

        let refused = Mutex::new(Vec::new());
        {
            let gather = gather(
                &mut answers,
                &mut expected,
                &mut responses,
                |node, error| {
                    refused.lock().push((node, error));
                },
            );
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert_eq!(pin!(gather).poll(&mut cx), Poll::Ready(()));
        }
        assert!(expected.is_empty());
        assert_eq!(responses.missing, ["n2"]);
        assert_eq!(responses.received.len(), 1);
        assert_eq!(*refused.lock(), [(NodeId(2), "too much".to_owned())]);
    }
}
