//! Health, readiness, metrics and the API's description.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::{
    ResponseBody,
    access::Caller,
    problem::Problem,
    query::{Query, bad},
};
use crate::{
    limits::{LIVE_SILENCE, READY_SILENCE},
    metrics::Metrics,
    node::{Node, Phase},
};

const OPENAPI: &str = include_str!("../../docs/openapi.json");

pub(super) fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Alive: the process answers.
pub(super) fn health() -> Response<ResponseBody> {
    response(
        StatusCode::OK,
        "application/json",
        json!({ "status": "ok" }).to_string(),
    )
}

/// Whether the process works, or should be started again, with reasons if the asker `may_know` them. A node that leaves
/// works.
pub(super) fn live(node: &Node, may_know: bool) -> Response<ResponseBody> {
    let mut reasons = silent(
        node.hub.shards().iter().map(|shard| shard.silence()),
        LIVE_SILENCE,
    );
    reasons.extend(node.supervisor.failure().map(|failed| failed.to_string()));
    if reasons.is_empty() {
        return health();
    }

    let mut body = json!({ "status": "stuck" });
    if may_know {
        body["reasons"] = json!(reasons);
    }

    response(
        StatusCode::SERVICE_UNAVAILABLE,
        "application/json",
        body.to_string(),
    )
}

/// The shards of which nothing was seen for `too_long`.
fn silent(silences: impl Iterator<Item = Duration>, too_long: Duration) -> Vec<String> {
    silences
        .enumerate()
        .filter(|(_, silence)| *silence >= too_long)
        .map(|(at, silence)| {
            let seconds = silence.as_secs();
            format!("shard {at} has not been seen at work for {seconds} s")
        })
        .collect()
}

/// Fit for traffic, with reasons when not, if the asker `may_know` them. With `scope=node` it is asked of this node alone:
/// what keeps it from the others is a warning then.
///
/// # Errors
/// 400 for a bad query.
pub(super) fn ready(
    node: &Node,
    query: &str,
    may_know: bool,
) -> Result<Response<ResponseBody>, Problem> {
    let query = Query::parse(query, &["scope"])?;
    let alone = match query.get("scope") {
        None | Some("cluster") => false,
        Some("node") => true,
        Some(_) => return Err(bad("\"scope\" must be \"cluster\" or \"node\"")),
    };

    let (mut reasons, mut warnings) = (unfit(node), Vec::new());
    let cluster = node.cluster.as_ref();
    let apart = cluster.and_then(|cluster| cluster.apart());

    if alone {
        warnings.extend(apart);
    } else {
        match apart {
            Some(apart) => reasons.push(apart),
            None => warnings.extend(cluster.and_then(|cluster| cluster.degraded())),
        }
    }

    let ready = reasons.is_empty();
    let mut body = json!({ "ready": ready });
    if may_know {
        for (name, lines) in [("reasons", reasons), ("warnings", warnings)] {
            if !lines.is_empty() {
                body[name] = json!(lines);
            }
        }
    }

    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };

    Ok(response(status, "application/json", body.to_string()))
}

/// Why this node itself is not fit for traffic.
fn unfit(node: &Node) -> Vec<String> {
    let mut reasons = Vec::new();
    if node.phase() != Phase::Serving {
        reasons.push("draining: this node is leaving".to_owned());
    }
    let silences = node.hub.shards().iter().map(|shard| shard.silence());
    reasons.extend(silent(silences, READY_SILENCE));
    reasons.extend(node.supervisor.failure().map(|failed| failed.to_string()));
    let trouble = node.disk.as_ref().and_then(|disk| disk.trouble());
    reasons.extend(trouble.map(|why| format!("the data directory cannot be used: {why}")));
    reasons
}

/// The numbers of the node. An app that asks with its key gets its own alone, unless it is the only one: what the others
/// do, and what the node does for all of them, is not its business.
pub(super) fn metrics(node: &Node, caller: Option<&Caller>) -> Response<ResponseBody> {
    node.hub.note_queues();
    note_state(node);
    let app = caller.filter(|_| node.apps.len() > 1);
    let text = match app {
        Some(caller) => node.metrics.render_app(&node.app(caller.app).name),
        None => node.metrics.render(),
    };
    response(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text,
    )
}

/// Brings the gauges up to date that nothing else moves.
fn note_state(node: &Node) {
    let Metrics {
        ready,
        draining,
        connections_limit,
        max_fds,
        ..
    } = &*node.metrics;

    let cluster = node.cluster.as_ref();
    let apart = cluster.and_then(|cluster| cluster.apart());
    let is_ready = unfit(node).is_empty() && apart.is_none();
    ready.set(i64::from(is_ready));
    draining.set(i64::from(node.phase() != Phase::Serving));

    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    connections_limit.set(number(
        node.runtime_config().config.limits.connections as u64,
    ));

    // Without a limit there is no number to show.
    if let Some(most) = getrlimit(Resource::Nofile).current {
        max_fds.set(number(most));
    }
}

pub(super) fn openapi() -> Response<ResponseBody> {
    response(StatusCode::OK, "application/json", OPENAPI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_is_silent_for_half_a_minute_is_to_be_started_again() {
        let silences = || [0, 29, 30, 31].map(Duration::from_secs).into_iter();
        assert_eq!(
            silent(silences(), LIVE_SILENCE),
            [
                "shard 2 has not been seen at work for 30 s",
                "shard 3 has not been seen at work for 31 s"
            ]
        );
        assert_eq!(silent(silences(), READY_SILENCE).len(), 3);
    }

    #[test]
    fn the_description_has_exactly_the_routes() {
        let api: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described: Vec<String> = Vec::new();
        for (path, methods) in api["paths"].as_object().unwrap() {
            let methods = methods
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters");
            described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        let hidden = |path: &str| path == "/favicon.ico";
        let routes = super::super::ROUTES
            .iter()
            .filter(|route| !hidden(route.path));
        let mut routed: Vec<String> = routes
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
    }
}
