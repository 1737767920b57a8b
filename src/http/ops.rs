//! Health, readiness, metrics, the API's description and the page.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
    },
};
use serde_json::json;

use super::{
    Answer,
    problem::Problem,
    query::{Query, bad},
};
use crate::node::{Node, Phase};

/// A shard that was not seen at work for this long is stuck: its ticks come ten times a second.
const STUCK: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("page.html");
/// What the page's root has where its clients connect to its own address.
const PAGE_PORT: &str = "data-port=\"\"";
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The page has its script and style inside and loads nothing from anywhere; it talks to this server only.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Answer> {
    let mut response = Response::new(Answer::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Alive: the process answers.
pub(super) fn health() -> Response<Answer> {
    response(
        StatusCode::OK,
        "application/json",
        json!({ "status": "ok" }).to_string(),
    )
}

/// Fit for traffic, with reasons when not, to those who may know them. With `scope=node` it is asked of this node alone:
/// what keeps it from the others is a warning then.
///
/// # Errors
/// 400 for a bad query.
pub(super) fn ready(node: &Node, query: &str, admin: bool) -> Result<Response<Answer>, Problem> {
    let query = Query::parse(query, &["scope"])?;
    let alone = match query.get("scope") {
        None | Some("cluster") => false,
        Some("node") => true,
        Some(_) => return Err(bad("\"scope\" must be \"cluster\" or \"node\"")),
    };
    let (mut reasons, mut warnings) = (unfit(node), Vec::new());
    let apart = node.apart();
    if alone {
        warnings.extend(apart);
    } else {
        reasons.extend(apart);
    }
    let ready = reasons.is_empty();
    let mut body = json!({ "ready": ready });
    if admin || node.config.is_loopback() {
        for (name, told) in [("reasons", reasons), ("warnings", warnings)] {
            if !told.is_empty() {
                body[name] = json!(told);
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
    for (at, shard) in node.hub.shards().iter().enumerate() {
        if shard.silence() > STUCK {
            reasons.push(format!(
                "shard {at} has not been seen at work for {} s",
                shard.silence().as_secs()
            ));
        }
    }
    reasons
}

pub(super) fn metrics(node: &Node) -> Response<Answer> {
    node.hub.note_queues();
    response(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        node.metrics.render(),
    )
}

pub(super) fn openapi() -> Response<Answer> {
    response(StatusCode::OK, "application/json", OPENAPI)
}

/// The page; on the admin address it is told the `port` where clients connect.
pub(super) fn page(path: &str, port: Option<u16>) -> Response<Answer> {
    if path != "/" {
        // Browsers ask for an icon; the page has one inside.
        return response(StatusCode::NO_CONTENT, "image/x-icon", "");
    }
    let page = match port {
        None => Bytes::from_static(PAGE.as_bytes()),
        Some(port) => PAGE
            .replacen(PAGE_PORT, &format!("data-port=\"{port}\""), 1)
            .into(),
    };
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", page);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_the_port_of_clients() {
        assert_eq!(PAGE.matches(PAGE_PORT).count(), 1);
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
