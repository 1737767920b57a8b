//! Messages of programs that act straight through Redis, by a plain `PUBLISH` of one JSON document.
//!
//! Every node gets each message, and delivers it to its own connections. What has to be done once is done by the node
//! that leads: keeping an event, and so everything for a channel with history.

use std::{sync::Arc, time::Instant};

use ahash::AHashMap;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    http::{
        body, inspect,
        problem::Problem,
        verbs::{Fields, Verb},
    },
    id::AppId,
    limits::PROGRAM_COMPLAINTS,
    node::{Extent, Node, Publication},
};

/// Carries out what programs say, one after another, until nothing more can come.
pub(crate) async fn serve(node: Arc<Node>, mut messages: mpsc::Receiver<(AppId, Bytes)>) {
    let mut complained: AHashMap<(AppId, &'static str), Instant> = AHashMap::new();
    while let Some((app, message)) = messages.recv().await {
        let Err(problem) = obey(&node, app, &message).await else { continue };
        node.app(app).metrics.dispatch_malformed.inc();
        // A program that is wrong is wrong often.
        let (code, now) = (problem.code(), Instant::now());
        if complained.get(&(app, code)).is_none_or(|at| now.duration_since(*at) > PROGRAM_COMPLAINTS) {
            complained.insert((app, code), now);
            let name = &node.app(app).name;
            let detail = problem.detail();
            tracing::warn!(app = %name, code, detail, "a message on the dispatch channel was refused");
        }
    }
}

async fn obey(node: &Arc<Node>, app: AppId, message: &[u8]) -> Result<(), Problem> {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow, default)]
        call: Option<std::borrow::Cow<'a, str>>,
    }
    let call = serde_json::from_slice::<Called<'_>>(message).ok().and_then(|called| called.call);
    let call = call.as_deref().unwrap_or("dispatch");
    if call == "disconnect" {
        return disconnect(node, app, message).await;
    }
    let verb = Verb::named(call).ok_or_else(|| {
        let call: String = call.chars().take(64).collect();
        let detail = format!(
            "there is no call \"{call}\" here; use emit, publish, send, broadcast, dispatch or disconnect"
        );
        Problem::bad_request("unknown_call", detail)
    })?;
    let mut fields: Fields<'_> = body::parse(message, verb.fields())?;
    fields.call = None;
    for publication in fields.order(verb)?.publications() {
        let kept = node.keeps(app, &publication)?;
        if kept && !node.leads() {
            continue;
        }
        let scope = if kept { Extent::Cluster } else { Extent::Node };
        node.publish(app, Publication { scope, receipt: Extent::Node, ..publication }).await?;
    }
    Ok(())
}

async fn disconnect(node: &Arc<Node>, app: AppId, message: &[u8]) -> Result<(), Problem> {
    // Each member as it came, less the one that says what is to be done.
    let mut members: serde_json::Map<String, serde_json::Value> = body::parse(message, &[])?;
    members.remove("call");
    let message = serde_json::to_vec(&members).unwrap_or_default();
    let (target, close) = inspect::disconnection(&message)?;
    node.disconnect(app, target, close).await?;
    Ok(())
}
