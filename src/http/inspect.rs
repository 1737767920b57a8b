//! Looking at what is connected, and steering it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};

use super::{access::Caller, body, problem::Problem};
use crate::{
    auth::unix_now,
    close::{self, Close},
    hub::{Connection, Snapshot},
    id::ConnectionId,
    limits::{PAGE_DEFAULT, PAGE_MAX},
    node::{Node, Target},
    predicate::{Access, Bound, Value},
};

/// What a hidden attribute shows.
const REDACTED: &str = "[redacted]";

/// `GET /v1/connections`: who is connected, a page at a time.
///
/// # Errors
/// 400 for a bad query or filter.
pub(crate) async fn connections(node: &Node, caller: &Caller, query: &str) -> Result<Json, Problem> {
    let query = PageQuery::parse(query)?;
    let params = query.params.as_deref().map(body::params).transpose()?;
    let target = Target { filter: query.filter, params, ..Target::default() };
    let (page, next) = node.connections(caller.app, target, query.cursor, query.limit).await?;
    let shown: Vec<Json> = page.iter().map(|connection| show(connection, &node.config.redact)).collect();
    let mut answer = json!({ "connections": shown });
    if let Some((shard, slot)) = next {
        answer["cursor"] = json!(format!("{shard}.{slot}"));
    }
    Ok(answer)
}

/// `GET /v1/connections/{id}`.
///
/// # Errors
/// 404 where there is no such connection.
pub(crate) fn connection(node: &Node, caller: &Caller, id: &str) -> Result<Json, Problem> {
    let connection = find(node, caller, id)?;
    Ok(show(&connection, &node.config.redact))
}

/// `GET /v1/users/{user}`: whether a user is connected, and how many times.
pub(crate) fn user(node: &Node, caller: &Caller, user: &str) -> Json {
    let connections = node.user_connections(caller.app, user);
    json!({ "online": connections > 0, "connections": connections })
}

/// `POST /v1/disconnect`.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn disconnect(node: &Node, caller: &Caller, body: &[u8]) -> Result<Json, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields<'a> {
        #[serde(borrow, default, deserialize_with = "body::present")]
        to: Option<&'a RawValue>,
        #[serde(default, deserialize_with = "body::present")]
        filter: Option<String>,
        #[serde(borrow, default, deserialize_with = "body::present")]
        params: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "body::present")]
        except: Option<&'a RawValue>,
        #[serde(default)]
        code: Option<u16>,
        #[serde(default)]
        reason: Option<String>,
    }
    let fields: Fields<'_> = body::parse(body, &["to", "filter", "params", "except", "code", "reason"])?;
    if fields.to.is_none() && fields.filter.is_none() {
        let detail = "say whom to disconnect, by `to` or `filter`";
        return Err(Problem::bad_request("missing_field", detail));
    }
    let code = fields.code.unwrap_or(close::DISCONNECTED);
    if code != close::NORMAL && !(3000..5000).contains(&code) {
        let detail = format!("`code` must be 1000, or 3000 to 4999, not {code}");
        return Err(Problem::bad_request("bad_field", detail));
    }
    let reason = fields.reason.unwrap_or_else(|| "disconnected".to_owned());
    if reason.len() > 123 {
        return Err(Problem::bad_request("bad_field", "`reason` fits a close frame only up to 123 bytes"));
    }
    let target = Target {
        to: fields.to.map(body::to).transpose()?,
        filter: fields.filter,
        params: fields.params.map(|raw| body::params(raw.get())).transpose()?,
        except: fields.except.map(body::except).transpose()?.unwrap_or_default(),
    };
    let disconnected = node.disconnect(caller.app, target, Close::new(code, &reason)).await?;
    Ok(json!({ "disconnected": disconnected }))
}

/// `POST /v1/explain`: how a filter is answered, and by whom; with `connection`, what every part of it is for that one.
///
/// # Errors
/// 400 for a wrong body or filter, 404 for a connection that is not there.
pub(crate) async fn explain(node: &Node, caller: &Caller, body: &[u8]) -> Result<Json, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields<'a> {
        filter: String,
        #[serde(borrow, default)]
        params: Option<&'a RawValue>,
        #[serde(default)]
        connection: Option<String>,
    }
    let fields: Fields<'_> = body::parse(body, &["filter", "params", "connection"])?;
    let params = fields.params.map(|raw| body::params(raw.get())).transpose()?;
    let one = fields.connection.map(|id| find(node, caller, &id)).transpose()?;
    let explanation = node.explain(caller.app, fields.filter, params).await?;
    let warnings: Vec<Json> = explanation
        .bound
        .warnings()
        .iter()
        .map(|warning| {
            json!({
                "code": warning.code,
                "message": warning.message,
                "offset": warning.span.offset,
                "length": warning.span.length,
            })
        })
        .collect();
    let sample: Vec<String> = explanation.sample.iter().map(ToString::to_string).collect();
    let mut answer = json!({
        "plan": plan(&explanation.bound),
        "looked_at": explanation.looked.at,
        "matched": explanation.looked.matched,
        "errored": explanation.looked.errors,
        "sample": sample,
        "warnings": warnings,
    });
    if let Some(connection) = one {
        answer["values"] = values(&explanation.bound, &connection, &node.config.redact);
    }
    Ok(answer)
}

fn plan(bound: &Bound) -> Json {
    let plan = bound.plan();
    let access = match &plan.access {
        Access::Everyone => "scan",
        Access::Nobody => "nobody",
        Access::Lookup { .. } => "index",
    };
    json!({
        "access": access,
        "index": matches!(plan.access, Access::Lookup { .. }).then_some(&*plan.index_name),
        "keys": plan.key_count(),
        "residual": plan.residual,
        "description": plan.to_string(),
    })
}

/// The value of every sub-expression. Where paths are hidden, the values of sub-expressions that show them are, too.
fn values(bound: &Bound, connection: &Connection, redact: &[String]) -> Json {
    // A path can be written in other ways, and a map shows its members: only what is plainly another path is shown.
    let is_path = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    let within = |inner: &str, outer: &str| format!("{inner}.").starts_with(&format!("{outer}."));
    let hidden = |text: &str| {
        redact.iter().any(|path| {
            if is_path(text) {
                return within(text, path) || within(path, text);
            }
            text.contains(path.split('.').next().unwrap_or(path))
        })
    };
    let explained = bound.explain(&connection.attributes);
    let shown = explained.iter().map(|part| {
        let mut one = json!({ "text": part.text, "offset": part.span.offset, "length": part.span.length });
        match &part.value {
            Ok(Value::Bool(value)) => one["value"] = json!(value),
            Ok(_) if hidden(&part.text) => one["value"] = json!(REDACTED),
            Ok(value) => one["value"] = json!(value),
            Err(error) => one["error"] = json!(error.to_string()),
        }
        one
    });
    shown.collect()
}

fn find(node: &Node, caller: &Caller, id: &str) -> Result<Snapshot, Problem> {
    let found = id.parse::<ConnectionId>().ok().and_then(|id| node.hub.find(caller.app, &id));
    found.ok_or_else(|| Problem::not_found("unknown_connection", "there is no connection with this id"))
}

/// `POST /v1/tokens`: signs a client token.
///
/// # Errors
/// 400 for a wrong body, 409 where the app has no shared secret to sign with.
pub(crate) fn tokens(node: &Arc<Node>, caller: &Caller, body: &[u8]) -> Result<Json, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields<'a> {
        user: String,
        #[serde(borrow, default)]
        claims: Option<&'a RawValue>,
        #[serde(borrow, default)]
        can: Option<&'a RawValue>,
        #[serde(default)]
        ttl: Option<u64>,
    }
    let fields: Fields<'_> = body::parse(body, &["user", "claims", "can", "ttl"])?;
    let signer = node.app(caller.app).tokens.signer().ok_or_else(|| {
        let detail = "this app has no shared secret to sign with; set a token key of HS256";
        Problem::new(StatusCode::CONFLICT, "no_token_secret", detail)
    })?;
    let ttl = fields.ttl.map(Duration::from_secs);
    let signed = signer.sign(&fields.user, fields.claims, fields.can, ttl, unix_now())?;
    Ok(json!({ "token": signed.token, "expires_at": signed.expires_at }))
}

fn show(connection: &Connection, redact: &[String]) -> Json {
    let attributes = &connection.attributes;
    let facts = &attributes.connection;
    let mut shown = json!({
        "id": facts.id.to_string(),
        "user": attributes.user,
        "device": facts.device.as_deref(),
        "ip": facts.ip,
        "protocol": facts.protocol,
        "connected_at": facts.connected_at,
        "node": &*facts.node,
        "auth": attributes.auth,
    });
    for path in redact {
        let pointer = format!("/{}", path.trim_start_matches("connection.").replace('.', "/"));
        if let Some(value) = shown.pointer_mut(&pointer)
            && !value.is_null()
        {
            *value = Json::from(REDACTED);
        }
    }
    shown
}

/// The query of a paged look-up.
struct PageQuery {
    filter: Option<String>,
    params: Option<String>,
    cursor: (usize, u32),
    limit: usize,
}

impl PageQuery {
    fn parse(query: &str) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::bad_request("bad_query", detail);
        let mut parsed = Self { filter: None, params: None, cursor: (0, 0), limit: PAGE_DEFAULT };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| bad(format!("`{name}` is not UTF-8")))?
                .into_owned();
            match name {
                "filter" => parsed.filter = Some(value),
                "params" => parsed.params = Some(value),
                "cursor" => {
                    parsed.cursor =
                        cursor(&value).ok_or_else(|| bad("`cursor` is not one of ours".into()))?;
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                    parsed.limit = limit.ok_or_else(|| bad(format!("`limit` must be 1 to {PAGE_MAX}")))?;
                }
                _ => return Err(body::unknown_field(name, &["filter", "params", "cursor", "limit"])),
            }
        }
        Ok(parsed)
    }
}

fn cursor(text: &str) -> Option<(usize, u32)> {
    let (shard, slot) = text.split_once('.')?;
    Some((shard.parse().ok()?, slot.parse().ok()?))
}

/// Decodes a path's last segment.
///
/// # Errors
/// 400 where it is not UTF-8.
pub(crate) fn segment(raw: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(raw).decode_utf8();
    decoded.map(Into::into).map_err(|_| Problem::bad_request("bad_path", "the path is not UTF-8"))
}

/// An answer's bytes.
pub(crate) fn to_bytes(json: &Json) -> Bytes {
    json.to_string().into()
}
