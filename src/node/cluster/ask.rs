//! Asking other nodes: a request by the bus, answers by the bus, and a time after which those that are missing are named.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::{
    Cluster, Node,
    leases::Peer,
    order::{Order, Refusal},
};
use crate::{
    broker::{BusError, Topic},
    id::{AppId, NodeId},
    limits::ANSWERS_WAITING,
    log_limit::Line,
    protocol::envelope::{self, Answer, Request},
};

/// A node's answer as it came.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) node: NodeId,
    pub(super) result: Box<RawValue>,
}

/// What several nodes answered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) said: Vec<Said>,
    /// Those that answered that they did not do it.
    pub(super) refused: Vec<NodeId>,
    /// The names of those, and of those that hold a lease and did not answer in time.
    pub(super) missing: Vec<String>,
    /// Nobody was asked, since Redis did not take the question.
    pub(super) is_unsent: bool,
}

/// Requests that wait for answers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The one before the next. What expects no answer has the number 0.
    last: AtomicU64,
    waiting: Mutex<AHashMap<u64, mpsc::Sender<Said>>>,
}

/// A request under way; forgotten when dropped.
struct Waiting<'a> {
    asked: &'a Asked,
    id: u64,
    answers: mpsc::Receiver<Said>,
}

impl Asked {
    fn begin(&self) -> Waiting<'_> {
        let id = self.last.fetch_add(1, Relaxed) + 1;
        let (sender, answers) = mpsc::channel(ANSWERS_WAITING);
        self.waiting.lock().insert(id, sender);
        Waiting {
            asked: self,
            id,
            answers,
        }
    }

    /// Hands an answer to who waits for it. One that comes too late is for nobody.
    pub(super) fn answered(&self, answer: &Answer<'_>) {
        let waiting = self.waiting.lock().get(&answer.id).cloned();
        if let Some(waiting) = waiting {
            let said = Said {
                node: NodeId(answer.origin),
                result: answer.result.to_owned(),
            };
            // Fails only if the asker has just stopped waiting, or more nodes than there can be have answered.
            let _ = waiting.try_send(said);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.asked.waiting.lock().remove(&self.id);
    }
}

/// Takes answers until each of the `expected` nodes, which then are those that have not answered, has done its part or said that
/// it does not. `refused` is told why.
async fn gather(
    answers: &mut mpsc::Receiver<Said>,
    expected: &mut Vec<Peer>,
    gathered: &mut Gathered,
    refused: impl Fn(NodeId, String),
) {
    while !expected.is_empty() {
        let Some(said) = answers.recv().await else {
            return;
        };
        let at = expected.iter().position(|peer| peer.id == said.node);
        let peer = at.map(|at| expected.remove(at));
        if let Ok(Refusal { error }) = serde_json::from_str(said.result.get()) {
            gathered.refused.push(said.node);
            let name = peer.map(|peer| peer.name.to_string());
            gathered.missing.extend(name);
            refused(said.node, error);
            continue;
        }
        gathered.said.push(said);
    }
}

impl Node {
    /// Asks every other node that holds a lease, and waits for their answers for `limits.ask_timeout` at most.
    pub(super) async fn ask_all(&self, cluster: &Cluster, app: AppId, order: &Order) -> Gathered {
        let all = (&Topic::Nodes, cluster.peers.all());
        self.ask_within(cluster, app, all, order, self.config.limits.ask_timeout)
            .await
    }

    /// Asks one node; `None` where it does not answer in time.
    pub(super) async fn ask_one(
        &self,
        cluster: &Cluster,
        app: AppId,
        node: NodeId,
        order: &Order,
    ) -> Option<Box<RawValue>> {
        let peer = Peer {
            id: node,
            name: node.to_string().into(),
        };
        let one = (&Topic::Node(node), vec![peer]);
        let mut gathered = self
            .ask_within(cluster, app, one, order, self.config.limits.ask_timeout)
            .await;
        gathered.said.pop().map(|said| said.result)
    }

    /// Asks by `topic`, and waits for those who are expected to answer.
    pub(super) async fn ask_within(
        &self,
        cluster: &Cluster,
        app: AppId,
        (topic, mut expected): (&Topic, Vec<Peer>),
        order: &Order,
        patience: Duration,
    ) -> Gathered {
        let mut gathered = Gathered::default();
        if expected.is_empty() {
            return gathered;
        }
        // Structs of texts always serialize.
        let Ok(order) = to_raw_value(order) else {
            return gathered;
        };
        let mut waiting = cluster.asked.begin();
        let app = (&*self.app(app).name).into();
        let request = Request {
            origin: self.id().0,
            id: waiting.id,
            app,
            order: &order,
        };
        let sent = cluster.bus.publish(topic, envelope::request(&request));
        let all = async {
            if sent.await.is_err() {
                gathered.is_unsent = true;
                return;
            }
            gather(
                &mut waiting.answers,
                &mut expected,
                &mut gathered,
                |node, error| {
                    if let Some(others) = self.lines().note(Line::NotDone) {
                        tracing::warn!(others, %node, error, "a node did not do its part");
                    }
                },
            )
            .await;
        };
        // What has come by then counts; who is missing is named.
        let _ = tokio::time::timeout(patience, all).await;
        let silent = expected.iter().map(|peer| peer.name.to_string());
        gathered.missing.extend(silent);
        gathered
    }

    /// Asks every other node that holds a lease, for what is told to clients: nodes that did not answer lately are not waited
    /// for, and named as missing.
    pub(super) async fn ask_heard(
        &self,
        cluster: &Cluster,
        app: AppId,
        order: &Order,
        patience: Duration,
    ) -> Gathered {
        let (silent, expected): (Vec<Peer>, Vec<Peer>) = cluster
            .peers
            .all()
            .into_iter()
            .partition(|peer| cluster.silent.holds(peer.id, patience));
        let asked: Vec<NodeId> = expected.iter().map(|peer| peer.id).collect();
        let all = (&Topic::Nodes, expected);
        if asked.is_empty() && !silent.is_empty() {
            // Asked all the same: an answer, however late, says that they are back. The question is on its way when this returns.
            drop(self.tell_nodes(cluster, app, order));
        }
        let mut gathered = self.ask_within(cluster, app, all, order, patience).await;
        if gathered.is_unsent {
            // That says nothing of the others.
            let silent = silent.iter().map(|peer| peer.name.to_string());
            gathered.missing.extend(silent);
            return gathered;
        }

        let answered = |node: &NodeId| {
            let said = gathered.said.iter().map(|said| said.node);
            said.chain(gathered.refused.iter().copied())
                .any(|other| other == *node)
        };
        let unheard = asked.into_iter().filter(|node| !answered(node));
        let unheard: Vec<NodeId> = unheard.collect();
        let lease = self.config.limits.node_lease;
        cluster.silent.note(unheard.into_iter(), patience, lease);
        let silent = silent.iter().filter(|peer| !answered(&peer.id));
        let silent: Vec<String> = silent.map(|peer| peer.name.to_string()).collect();
        gathered.missing.extend(silent);
        gathered
    }

    /// Tells every other node something that none answers. It is on its way when this returns.
    pub(super) fn tell_nodes(
        &self,
        cluster: &Cluster,
        app: AppId,
        order: &Order,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        self.tell_at(cluster, &Topic::Nodes, app, order)
    }

    /// The same by `topic`.
    pub(super) fn tell_at(
        &self,
        cluster: &Cluster,
        topic: &Topic,
        app: AppId,
        order: &Order,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        // Structs of texts always serialize.
        let order = to_raw_value(order).unwrap_or_default();
        let request = Request {
            origin: self.id().0,
            id: 0,
            app: (&*self.app(app).name).into(),
            order: &order,
        };
        cluster.bus.publish(topic, envelope::request(&request))
    }

    /// Tells the other nodes that what one was to do of a program's message is done.
    pub(crate) fn tell_done(&self, app: AppId, digest: String) {
        let Some(cluster) = &self.cluster else { return };
        let told = self.tell_nodes(cluster, app, &Order::Done { digest });
        tokio::spawn(async move {
            if let Err(error) = told.await {
                tracing::debug!(%error, "other nodes do not know that a program's message is done");
            }
        });
    }

    /// Answers a request of another node.
    pub(super) async fn answer(&self, cluster: &Cluster, to: NodeId, id: u64, result: &RawValue) {
        let answer = Answer {
            origin: self.id().0,
            id,
            result,
        };
        if let Err(error) = cluster
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

    fn said(node: u32, result: &str) -> Said {
        let result = RawValue::from_string(result.to_owned()).unwrap();
        Said {
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
        let (mut expected, mut gathered) = (vec![peer(1), peer(2)], Gathered::default());
        sender.try_send(said(2, r#"{"error":"too much"}"#)).unwrap();
        sender.try_send(said(1, r#"{"n":3}"#)).unwrap();

        let refused = Mutex::new(Vec::new());
        {
            let gather = gather(&mut answers, &mut expected, &mut gathered, |node, error| {
                refused.lock().push((node, error));
            });
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert_eq!(pin!(gather).poll(&mut cx), Poll::Ready(()));
        }
        assert!(expected.is_empty());
        assert_eq!(gathered.missing, ["n2"]);
        assert_eq!(gathered.said.len(), 1);
        assert_eq!(*refused.lock(), [(NodeId(2), "too much".to_owned())]);
    }
}
