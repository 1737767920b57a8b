//! Looking at what is connected, and steering it.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};

use super::{
    access::Caller,
    body::{self, Whom},
    problem::Problem,
    query::Query,
};
use crate::{
    auth::unix_now,
    close::{self, Close},
    hub::{Connection, Snapshot},
    id::ConnectionId,
    limits::PAGE_DEFAULT,
    node::{Node, Target, read_cursor, write_cursor},
    predicate::{Access, Bound, Value},
};

/// What a hidden attribute shows.
const REDACTED: &str = "[redacted]";

/// `GET /v1/connections`: who is connected, a page at a time.
///
/// # Errors
/// 400 for a bad query or filter.
pub(crate) async fn connections(node: &Node, caller: &Caller, query: &str) -> Result<Json, Problem> {
    let query = Query::parse(query, &["filter", "params", "cursor", "limit"])?;
    let (from, limit) = (query.cursor(read_cursor)?.unwrap_or_default(), query.limit(PAGE_DEFAULT)?);
    let params = query.get("params").map(body::params).transpose()?;
    let filter = query.get("filter").map(str::to_owned);
    let target = Target { filter, params, ..Target::default() };
    let (page, next) = node.connections(caller.app, target, from, limit).await?;
    let live = node.live();
    let shown: Vec<Json> = page.iter().map(|connection| show(connection, &live.config.redact)).collect();
    let mut answer = json!({ "connections": shown });
    if let Some(next) = next {
        answer["cursor"] = json!(write_cursor(next));
    }
    Ok(answer)
}

/// `GET /v1/connections/{id}`.
///
/// # Errors
/// 404 where there is no such connection.
pub(crate) fn connection(node: &Node, caller: &Caller, id: &str) -> Result<Json, Problem> {
    let connection = find(node, caller, id)?;
    Ok(show(&connection, &node.live().config.redact))
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
    let Fields { to, filter, params, except, .. } = fields;
    let target = Whom { to, filter, params, except }.target()?;
    let code = fields.code.unwrap_or(close::DISCONNECTED);
    if code != close::NORMAL && !(3000..5000).contains(&code) {
        let detail = format!("`code` must be 1000, or 3000 to 4999, not {code}");
        return Err(Problem::bad_request("bad_field", detail));
    }
    let reason = fields.reason.unwrap_or_else(|| "disconnected".to_owned());
    if reason.len() > 123 {
        return Err(Problem::bad_request("bad_field", "`reason` fits a close frame only up to 123 bytes"));
    }
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
        answer["values"] = values(&explanation.bound, &connection, &node.live().config.redact);
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
    let live = node.live();
    let signer = live.access(caller.app).tokens.signer().ok_or_else(|| {
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
        "profile": attributes.profile,
        "channels": attributes.channels,
    });
    for path in redact {
        hide(&mut shown, path.trim_start_matches("connection."));
    }
    shown
}

/// Hides what stands at `path` of a shown connection, if anything does.
pub(crate) fn hide(shown: &mut Json, path: &str) {
    if let Some(value) = shown.pointer_mut(&format!("/{}", path.replace('.', "/")))
        && !value.is_null()
    {
        *value = Json::from(REDACTED);
    }
}
