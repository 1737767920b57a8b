//! Messages of programs that act straight through Redis, by a plain `PUBLISH` of one JSON document.
//!
//! Every node gets each message, and delivers it to its own connections. What has to be done once is done by the node
//! that leads the app: storing an event, and so everything for a channel with history. The others hold the message
//! until that node says that it is done. The node that leads next does what is left.

mod pending;
mod mesa;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::MissedTickBehavior,
};

use self::{
    mesa::Lead,
    pending::{Message, PendingDispatches},
};
use crate::{
    http::{
        body,
        idempotency::digest,
        inspect,
        problem::Problem,
        verbs::{PublishCall, Verb, VerbFields},
    },
    hub::LongStep,
    id::AppId,
    limits::{LONG_BODY, PROGRAM_MESSAGES, PROGRAMS_AT_ONCE, PROGRAMS_AT_ONCE_BYTES},
    log_limit::{Limited, Line},
    node::{ClusterScope, Node, Program, Publication},
    time_slice::TimeSlice,
};

/// How often a node that leads an app looks for what another one left undone.
const LOOK: Duration = Duration::from_millis(250);

/// What is done of one message, of which one node does something for all.
type Done = (Bytes, String, Result<(), Problem>);

/// What programs say of one app. Apps do not wait for each other.
struct Work {
    node: Arc<Node>,
    app: AppId,
    pending: PendingDispatches,
    /// The same of Mesa's dispatchers.
    mesa: PendingDispatches,
    /// Whether this node may decide about those, and how often it has taken the lead for that.
    lead: Lead,
    leads_taken: u64,
    /// Messages that are being done, each begun when all that it stores of the one before is on its way.
    under_way: JoinSet<Done>,
    /// Their bytes.
    bytes: usize,
    /// By kind of mistake, of which there are only so many.
    complained: AHashMap<&'static str, Limited>,
}

/// Carries out what programs say, of each app one after another, until nothing more can come.
pub(crate) async fn serve(node: Arc<Node>, mut messages: mpsc::Receiver<Program>) {
    let mut workers = JoinSet::new();
    let mut apps: AHashMap<AppId, mpsc::Sender<Program>> = AHashMap::new();
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            Some(Err(error)) = workers.join_next() => match error.try_into_panic() {
                // As if all was one task, which the server cannot go on without.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => continue,
            },
        };

        let Some(message) = message else { return };
        let app = message.app();
        let worker = apps.entry(app).or_insert_with(|| {
            let (sender, messages) = mpsc::channel(PROGRAM_MESSAGES);
            workers.spawn_local(Work::new(node.clone(), app).serve(messages));
            sender
        });

        // It does not wait: an app whose messages take long must not hold up those of the others.
        if worker.try_send(message).is_err() {
            node.metrics.bus_skipped.inc();
            if let Some(others) = node.lines().note(Line::ProgramsOverflow) {
                tracing::warn!(others, "a message of a program was dropped: too many wait");
            }
        }
    }
}

impl Work {
    fn new(node: Arc<Node>, app: AppId) -> Self {
        Self {
            node,
            app,
            pending: PendingDispatches::default(),
            mesa: PendingDispatches::default(),
            lead: Lead::default(),
            leads_taken: 0,
            under_way: JoinSet::new(),
            bytes: 0,
            complained: AHashMap::new(),
        }
    }

    async fn serve(mut self, mut messages: mpsc::Receiver<Program>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => return,
                },
                Some(done) = self.under_way.join_next() => self.note_done(done),
                _ = ticks.tick() => {}
            }
            // After everything: this node may lead since then, or a message that is done has made
            // room for the next.
            self.catch_up().await;
            self.settle_mesa().await;
        }
    }

    async fn take(&mut self, message: Program) {
        match message {
            Program::Said {
                message,
                // Not dropped before the message is carried out, so that what is at work counts as
                // well.
                room: _room,
                ..
            } => self.hear(message).await,
            Program::Mesa {
                channel,
                payload,
                room: _room,
                ..
            } => self.hear_mesa(channel, payload).await,
            Program::TooLong { bytes, .. } => self.refuse(&too_long(&self.node, bytes)),
            Program::Done { digests, .. } => {
                let now = Instant::now();
                for digest in digests {
                    self.pending.done(digest, now);
                }
            }
        }
    }

    async fn hear(&mut self, text: Bytes) {
        match carry_out(&self.node, self.app, &text).await {
            Ok(false) => {}
            Ok(true) => {
                let digest = digest(&[self.node.app(self.app).name.as_bytes(), &text]);
                let message = Message::new(text, digest, Instant::now());
                for _ in self.pending.hold(message) {
                    self.lose("too much waits for a node to take the lead");
                }
            }
            Err(problem) => self.refuse(&problem),
        }
    }

    /// Begins what is held, if this node leads the app. Several messages are under way at the same time, and what they store is
    /// stored in their order.
    async fn catch_up(&mut self) {
        while self.under_way.len() < PROGRAMS_AT_ONCE
            && self.bytes < PROGRAMS_AT_ONCE_BYTES
            && self.node.leads(self.app)
            && let Some(Message { text, digest, .. }) = self.pending.next()
        {
            let (has_begun, begun) = oneshot::channel();
            let (node, app) = (self.node.clone(), self.app);
            self.bytes += text.len();
            self.under_way.spawn_local(async move {
                let done = keep(&node, app, &text, has_begun).await;
                (text, digest, done)
            });
            // Nothing is sent: its end is dropped then, or with the task.
            let _ = begun.await;
        }

        while !self.node.leads(self.app)
            && let Some(_late) = self.pending.next_late(Instant::now())
        {
            self.lose("no node has led for half a minute");
        }
    }

    /// Notifies the other nodes of what is done, all that has ended by now together.
    fn note_done(&mut self, first: Result<Done, JoinError>) {
        let mut ended = vec![first];
        while let Some(done) = self.under_way.try_join_next() {
            ended.push(done);
        }

        let mut digests = Vec::with_capacity(ended.len());
        for (text, digest, done) in ended.into_iter().flatten() {
            self.bytes -= text.len();
            digests.push(digest);
            match done {
                Ok(()) => {}
                Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE.as_u16() => {
                    self.lose(problem.detail());
                }
                Err(problem) => self.refuse(&problem),
            }
        }

        if self.under_way.is_empty() {
            // Also if one of them has panicked.
            self.bytes = 0;
        }

        if !digests.is_empty()
            && let Some(cluster) = &self.node.cluster
        {
            cluster.rpc.notify_done(self.app, digests);
        }
    }

    /// Counts a message that cannot be understood or carried out.
    fn refuse(&mut self, problem: &Problem) {
        self.node.app(self.app).metrics.dispatch_malformed.inc();
        if let Some(others) = self.note(problem.code()) {
            let (name, code, detail) = (self.name(), problem.code(), problem.detail());
            tracing::warn!(app = %name, code, detail, others, "a message on the dispatch channel was refused");
        }
    }

    /// Counts a message that was good, and whose events are stored nowhere.
    fn lose(&mut self, why: &str) {
        self.node.app(self.app).metrics.dispatch_lost.inc();
        if let Some(others) = self.note("lost") {
            tracing::warn!(app = %self.name(), why, others, "a message on the dispatch channel is not stored");
        }
    }

    /// Whether to say it, and how many others were not logged: a program that is wrong is wrong often.
    fn note(&mut self, what: &'static str) -> Option<u64> {
        let complained = self.complained.entry(what).or_default();
        complained.note(Instant::now())
    }

    fn name(&self) -> &str {
        &self.node.app(self.app).name
    }
}

/// A message that is longer than the body of a call may be.
fn too_long(node: &Node, bytes: usize) -> Problem {
    let most = node.runtime_config().config.limits.body_bytes;
    let detail = format!("the message has {bytes} bytes; {most} are allowed (limits.body_bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// What a message of a program says, as a call.
async fn read<'m>(node: &Node, app: AppId, message: &'m [u8]) -> Result<Dispatch<'m>, Problem> {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow, default)]
        call: Option<std::borrow::Cow<'a, str>>,
    }

    // Parsing a long one takes long, so it waits until no other long step runs on this shard.
    if message.len() >= LONG_BODY {
        node.queue_long_step(app, LongStep::Body).await;
    }

    let call = serde_json::from_slice::<Called<'_>>(message)
        .ok()
        .and_then(|called| called.call);
    let call = call.as_deref().unwrap_or("dispatch");
    if call == "disconnect" {
        return Ok(Dispatch::Disconnect);
    }

    let verb = Verb::named(call).ok_or_else(|| {
        let call: String = call.chars().take(64).collect();
        let detail = format!(
            "unknown call \"{call}\"; use emit, publish, send, broadcast, dispatch or disconnect"
        );
        Problem::bad_request("unknown_call", detail)
    })?;

    let mut fields: VerbFields<'_> = body::parse(message, verb.item_shape())?;
    fields.call = None;
    Ok(Dispatch::Publish(fields.into_call(verb)?))
}

/// What a program says.
enum Dispatch<'m> {
    Publish(PublishCall<'m>),
    Disconnect,
}

/// Carries out what every node does of a message, for its own connections. Returns whether one node has to do the rest.
async fn carry_out(node: &Arc<Node>, app: AppId, message: &[u8]) -> Result<bool, Problem> {
    let call = match read(node, app, message).await? {
        Dispatch::Publish(call) => call,
        Dispatch::Disconnect => return disconnect(node, app, message).await.map(|()| false),
    };

    let (mut is_durable, mut slice) = (false, TimeSlice::begin());
    for publication in call.publications() {
        slice.rest().await;
        // The leader does it, once for all nodes.
        if node.is_durable(app, &publication)? {
            is_durable = true;
            continue;
        }
        // Every node gets the message, so none passes it on.
        let here = Publication {
            scope: ClusterScope::Node,
            receipt: ClusterScope::Node,
            ..publication
        };
        node.publish(app, here).await?;
    }

    Ok(is_durable)
}

/// Stores what is to be stored of a message, for all nodes. `has_begun` is dropped when all of it is on its way.
async fn keep(
    node: &Arc<Node>,
    app: AppId,
    message: &[u8],
    has_begun: oneshot::Sender<()>,
) -> Result<(), Problem> {
    let Dispatch::Publish(call) = read(node, app, message).await? else {
        return Ok(());
    };

    let mut publications = Vec::new();
    let mut slice = TimeSlice::begin();
    for publication in call.publications() {
        slice.rest().await;
        if node.is_durable(app, &publication)? {
            publications.push(Publication {
                scope: ClusterScope::Cluster,
                receipt: ClusterScope::Node,
                ..publication
            });
        }
    }

    node.publish_in_order(app, publications, has_begun).await?;
    Ok(())
}

async fn disconnect(node: &Arc<Node>, app: AppId, message: &[u8]) -> Result<(), Problem> {
    // Each member as it came, less the one that says what is to be done.
    let mut members: serde_json::Map<String, serde_json::Value> =
        body::parse(message, &inspect::DISCONNECT)?;
    members.remove("call");
    let message = serde_json::to_vec(&members).unwrap_or_default();
    let (target, close) = inspect::disconnection(&message)?;
    node.disconnect(app, target, close).await?;
    Ok(())
}
