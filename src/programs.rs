//! Messages of programs that act straight through Redis, by a plain `PUBLISH` of one JSON document.
//!
//! Every node gets each message, and delivers it to its own connections. What has to be done once is done by the node
//! that leads: keeping an event, and so everything for a channel with history. The others hold it until that node says
//! that it is done; whoever takes the lead next does what is left.

mod held;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::held::{Held, Message};
use crate::{
    http::{
        body,
        idempotency::digest,
        inspect,
        problem::Problem,
        verbs::{Fields, Verb},
    },
    hub::LongStep,
    id::AppId,
    limits::LONG_BODY,
    log_limit::Limited,
    node::{Extent, Node, Program, Publication},
    time_slice::TimeSlice,
};

/// How often a node that leads looks for what another one left undone.
const LOOK: Duration = Duration::from_millis(250);

/// Which publications of a message are to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those that every node delivers to its own connections.
    Live,
    /// Those that one node keeps for all.
    Kept,
}

struct Work {
    node: Arc<Node>,
    held: Held,
    /// By app and kind of mistake, of which there are only so many.
    complained: AHashMap<(AppId, &'static str), Limited>,
}

/// Carries out what programs say, one after another, until nothing more can come.
pub(crate) async fn serve(node: Arc<Node>, mut messages: mpsc::Receiver<Program>) {
    let mut work = Work {
        node,
        held: Held::default(),
        complained: AHashMap::new(),
    };
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(Program::Said { app, message, room: _room }) => work.hear(app, message).await,
                Some(Program::TooLong { app, bytes }) => work.refuse(app, &too_long(&work.node, bytes)),
                Some(Program::Done { digest }) => work.held.done(digest, Instant::now()),
                None => return,
            },
            _ = ticks.tick() => {}
        }
        work.catch_up().await;
    }
}

impl Work {
    async fn hear(&mut self, app: AppId, text: Bytes) {
        match carry_out(&self.node, app, &text, Which::Live).await {
            Ok(false) => {}
            Ok(true) => {
                let digest = digest(&[self.node.app(app).name.as_bytes(), &text]);
                let lost = self
                    .held
                    .hold(Message::new(app, text, digest, Instant::now()));
                for message in lost {
                    self.lose(message.app, "too much waits for a node to take the lead");
                }
            }
            Err(problem) => self.refuse(app, &problem),
        }
    }

    /// Does what is held, if this node leads.
    async fn catch_up(&mut self) {
        while self.node.leads() {
            let Some(Message {
                app, text, digest, ..
            }) = self.held.next()
            else {
                return;
            };
            let done = carry_out(&self.node, app, &text, Which::Kept).await;
            self.node.tell_done(app, digest);
            match done {
                Ok(_) => {}
                Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE.as_u16() => {
                    self.lose(app, problem.detail());
                }
                Err(problem) => self.refuse(app, &problem),
            }
        }
        while let Some(message) = self.held.next_late(Instant::now()) {
            self.lose(message.app, "no node has led for half a minute");
        }
    }

    /// Counts a message that cannot be understood or carried out.
    fn refuse(&mut self, app: AppId, problem: &Problem) {
        self.node.app(app).metrics.dispatch_malformed.inc();
        if let Some(others) = self.note(app, problem.code()) {
            let (name, code, detail) = (&self.node.app(app).name, problem.code(), problem.detail());
            tracing::warn!(app = %name, code, detail, others, "a message on the dispatch channel was refused");
        }
    }

    /// Counts a message that was good, and whose events are kept nowhere.
    fn lose(&mut self, app: AppId, why: &str) {
        self.node.app(app).metrics.dispatch_lost.inc();
        if let Some(others) = self.note(app, "lost") {
            let name = &self.node.app(app).name;
            tracing::warn!(app = %name, why, others, "a message on the dispatch channel is not kept");
        }
    }

    /// Whether to say it, and how many others were not told: a program that is wrong is wrong often.
    fn note(&mut self, app: AppId, what: &'static str) -> Option<u64> {
        self.complained
            .entry((app, what))
            .or_default()
            .note(Instant::now())
    }
}

/// A message that is longer than the body of a call may be.
fn too_long(node: &Node, bytes: usize) -> Problem {
    let most = node.live().config.limits.body_bytes;
    let detail = format!("the message has {bytes} bytes; {most} are allowed (limits.body_bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// Carries out a part of a message; answers whether some of it is to be kept.
async fn carry_out(
    node: &Arc<Node>,
    app: AppId,
    message: &[u8],
    which: Which,
) -> Result<bool, Problem> {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow, default)]
        call: Option<std::borrow::Cow<'a, str>>,
    }
    if message.len() >= LONG_BODY {
        node.queue_long_step(app, LongStep::Body).await;
    }
    let call = serde_json::from_slice::<Called<'_>>(message)
        .ok()
        .and_then(|called| called.call);
    let call = call.as_deref().unwrap_or("dispatch");
    if call == "disconnect" {
        return disconnect(node, app, message).await.map(|()| false);
    }
    let verb = Verb::named(call).ok_or_else(|| {
        let call: String = call.chars().take(64).collect();
        let detail = format!(
            "there is no call \"{call}\" here; use emit, publish, send, broadcast, dispatch or disconnect"
        );
        Problem::bad_request("unknown_call", detail)
    })?;
    let mut fields: Fields<'_> = body::parse(message, verb.item_shape())?;
    fields.call = None;
    let mut is_kept = false;
    let mut slice = TimeSlice::begin();
    for publication in fields.order(verb)?.publications() {
        slice.rest().await;
        let kept = node.keeps(app, &publication)?;
        is_kept |= kept;
        let scope = match (which, kept) {
            (Which::Live, false) => Extent::Node,
            (Which::Kept, true) => Extent::Cluster,
            _ => continue,
        };
        node.publish(
            app,
            Publication {
                scope,
                receipt: Extent::Node,
                ..publication
            },
        )
        .await?;
    }
    Ok(is_kept)
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
