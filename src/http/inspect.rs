//! Looking at what is connected, and steering it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json, value::RawValue};

use super::{
    access::Caller,
    audit,
    body::{self, EXCEPT, TO, Whom},
    identity::unusable,
    problem::Problem,
    query::Query,
    shape::{Kind, Shape, Whole, field},
};
use crate::{
    app::RuntimeConfig,
    auth::SignError,
    close::{self, Close},
    filter::{Access, Bound, Explained, Value},
    hub::{Connection, Snapshot},
    id::ConnectionId,
    limits::{PAGE_DEFAULT, USER_BYTES},
    node::{Node, PageStart, Target, check_name, show},
    time_slice::TimeSlice,
};

/// A page of connections, as answered.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    connections: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// `GET /v1/connections`: who is connected, a page at a time.
///
/// # Errors
/// 400 for a bad query or filter.
pub(crate) async fn connections(
    node: &Node,
    caller: &Caller,
    query: &str,
) -> Result<Page, Problem> {
    let query = Query::parse(query, &["filter", "params", "cursor", "limit"])?;
    let (from, limit) = (query.cursor(PageStart::read)?, query.limit(PAGE_DEFAULT)?);
    let params = query.get("params").map(body::params).transpose()?;
    let filter = query.get("filter").map(str::to_owned);

    let target = Target {
        filter,
        params,
        ..Target::default()
    };

    let page = node
        .cluster_connections(caller.app, target, from, limit)
        .await?;
    Ok(Page {
        connections: page.value.items,
        cursor: page.value.cursor,
        missing_nodes: page.missing,
    })
}

/// `GET /v1/connections/{id}`.
///
/// # Errors
/// 404 where there is no such connection.
pub(crate) async fn connection(node: &Node, caller: &Caller, id: &str) -> Result<Json, Problem> {
    match find(node, caller, id) {
        Ok(connection) => Ok(show::connection(
            &connection,
            &node.runtime_config().config.redact,
        )),
        Err(problem) => {
            // No node has a connection whose id is malformed, so none is asked.
            let Ok(id) = id.parse() else {
                return Err(problem);
            };
            let found = node.remote_connection(caller.app, &id).await?;
            found
                .and_then(|found| serde_json::from_str(found.get()).ok())
                .ok_or(problem)
        }
    }
}

/// `GET /v1/users/{user}`: whether a user is connected, and how many times.
///
/// # Errors
/// 400 for a name that is too long to be anyone's, 503 while the other nodes are out of reach.
pub(crate) async fn user(node: &Node, caller: &Caller, user: &str) -> Result<Json, Problem> {
    check_name("user", user, USER_BYTES)?;
    let connections = node.cluster_user(caller.app, user).await?;
    let mut answer = json!({ "online": connections.value > 0, "connections": connections.value });
    name_missing(&mut answer, &connections.missing);
    Ok(answer)
}

/// Says which nodes an answer lacks, if any.
pub(super) fn name_missing(answer: &mut Json, missing: &[String]) {
    if !missing.is_empty() {
        answer["missing_nodes"] = json!(missing);
    }
}

/// `POST /v1/disconnect`.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn disconnect(
    node: &Arc<Node>,
    caller: &Caller,
    body: &Bytes,
) -> Result<Json, Problem> {
    let (target, close) = body::understand(node, caller.app, body, disconnection).await?;
    let whom = format!("{} with {}", audit::whom(&target), close.code);
    let disconnected = node.cluster_disconnect(caller.app, target, close).await?;
    audit::note(node, caller, "disconnect", &whom, disconnected.value);
    let mut answer = json!({ "disconnected": disconnected.value });
    name_missing(&mut answer, &disconnected.missing);
    Ok(answer)
}

/// The shape of the body of a disconnect.
pub(crate) static DISCONNECT: Shape = Shape {
    fields: &[
        field("to", Kind::Object(&TO)),
        field("filter", Kind::Text),
        field("params", Kind::Members),
        field("except", Kind::Object(&EXCEPT)),
        field("code", Kind::Whole("1000, or 3000 to 4999")),
        field("reason", Kind::Text),
    ],
    required: &[&["to", "filter"]],
};

/// Whom the body of a disconnect means, and the close frame that they get.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) fn disconnection(body: &[u8]) -> Result<(Target, Close), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct DisconnectBody<'a> {
        #[serde(borrow, default, deserialize_with = "body::present")]
        to: Option<&'a RawValue>,
        #[serde(default, deserialize_with = "body::present")]
        filter: Option<String>,
        #[serde(borrow, default, deserialize_with = "body::present")]
        params: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "body::present")]
        except: Option<&'a RawValue>,
        #[serde(default, deserialize_with = "body::present")]
        code: Option<Whole>,

        #[serde(default, deserialize_with = "body::present")]
        reason: Option<String>,
    }

    let fields: DisconnectBody<'_> = body::parse(body, &DISCONNECT)?;
    let DisconnectBody {
        to,
        filter,
        params,
        except,
        ..
    } = fields;

    let target = Whom {
        to,
        filter,
        params,
        except,
    }
    .target()?;

    let code = match fields.code {
        None => close::DISCONNECTED,
        Some(Whole(1000)) => close::NORMAL,
        Some(Whole(code @ 3000..5000)) => code as u16,
        Some(Whole(code)) => {
            let detail = format!("\"code\" must be 1000, or 3000 to 4999, not {code}");
            return Err(Problem::bad_request("bad_field", detail));
        }
    };

    let reason = fields.reason.unwrap_or_else(|| "disconnected".to_owned());
    // A close frame has 125 bytes, two of which are its code (RFC 6455, section 5.5).
    if reason.len() > 123 {
        return Err(Problem::bad_request(
            "bad_field",
            format!("\"reason\" must be at most 123 bytes, not {}", reason.len()),
        ));
    }

    Ok((target, Close::new(code, &reason)))
}

/// The shape of the body of `explain`.
pub(super) static EXPLAIN: Shape = Shape {
    fields: &[
        field("filter", Kind::Text),
        field("params", Kind::Members),
        field("connection", Kind::Text),
    ],
    required: &[&["filter"]],
};

/// What the body of `explain` asks.
#[derive(Debug)]
pub(super) struct Question {
    filter: String,
    params: Option<Value>,
    connection: Option<String>,
}

/// Reads the body of `explain`.
///
/// # Errors
/// 400 for a wrong body.
pub(super) fn question(body: &[u8]) -> Result<Question, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ExplainBody<'a> {
        filter: String,
        #[serde(borrow, default, deserialize_with = "body::present")]
        params: Option<&'a RawValue>,
        #[serde(default, deserialize_with = "body::present")]
        connection: Option<String>,
    }

    let fields: ExplainBody<'_> = body::parse(body, &EXPLAIN)?;
    let params = fields.params.map(|raw| body::params(raw.get()));
    Ok(Question {
        filter: fields.filter,
        params: params.transpose()?,
        connection: fields.connection,
    })
}

/// `POST /v1/explain`: how a filter is answered, and by whom; with `connection`, what every part of it is for that one.
///
/// # Errors
/// 400 for a wrong body or filter, 404 for a connection that is not there.
pub(crate) async fn explain(node: &Node, caller: &Caller, body: &Bytes) -> Result<Json, Problem> {
    let Question {
        filter,
        params,
        connection,
    } = body::understand(node, caller.app, body, question).await?;

    let one = connection.map(|id| find(node, caller, &id)).transpose()?;
    let explanation = node.explain(caller.app, filter, params).await?;
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
        "looked_at": explanation.scan.evaluated,
        "matched": explanation.scan.matched,
        "errored": explanation.scan.errors,
        "sample": sample,
        "warnings": warnings,
    });

    if let Some(path) = explanation.bound.suggested_index() {
        answer["suggested_index"] = json!(path);
    }

    if let Some(connection) = one {
        let redact = node.runtime_config().config.redact.clone();
        answer["values"] = values(&explanation.bound, &connection, &redact).await;
    }

    // Held until here: evaluating the parts of a filter is work that the permit bounds.
    drop(explanation.permit);
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
async fn values(bound: &Bound, connection: &Connection, redact: &[String]) -> Json {
    // A path can be written in other ways, and a map shows its members: only what is plainly another path is shown.
    let is_path = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };

    let within = |inner: &str, outer: &str| format!("{inner}.").starts_with(&format!("{outer}."));
    let hidden = |text: &str| {
        redact.iter().any(|path| {
            if is_path(text) {
                return within(text, path) || within(path, text);
            }
            text.contains(path.split('.').next().unwrap_or(path))
        })
    };

    let shown = |part: &Explained| {
        let mut one =
            json!({ "text": part.text, "offset": part.span.offset, "length": part.span.length });
        match &part.value {
            // Whether a part is true is what was asked, so it is shown of hidden values too.
            Ok(Value::Bool(value)) => one["value"] = json!(value),
            Ok(_) if hidden(&part.text) => one["value"] = json!(show::REDACTED),
            Ok(value) => one["value"] = json!(value),
            // What an operation was given says of hidden values which kind they are.
            Err(error) => match part.detail.as_ref().filter(|_| !hidden(&part.text)) {
                Some(detail) => one["error"] = json!(detail),
                None => one["error"] = json!(error.to_string()),
            },
        }

        one
    };

    let mut values = Vec::new();
    let mut slice = TimeSlice::begin();
    for part in bound.explain(&connection.attributes) {
        values.push(shown(&part));
        slice.rest().await;
    }

    values.into()
}

fn find(node: &Node, caller: &Caller, id: &str) -> Result<Snapshot, Problem> {
    let found = id
        .parse::<ConnectionId>()
        .ok()
        .and_then(|id| node.hub.find(caller.app, &id));
    found.ok_or_else(|| Problem::not_found("unknown_connection", "no connection has this id"))
}

/// The shape of the body of `tokens`.
pub(super) static TOKENS: Shape = Shape {
    fields: &[
        field("user", Kind::Text),
        field("claims", Kind::Members),
        field("can", Kind::Object(&CAN)),
        field("ttl", Kind::Whole("a whole number of seconds")),
    ],
    required: &[&["user"]],
};

/// The shape of a client's rights.
pub(super) static CAN: Shape = Shape {
    fields: &[
        field("join", Kind::Texts),
        field("send", Kind::Texts),
        field("members", Kind::Texts),
        field("call", Kind::Texts),
        field("broadcast", Kind::Flag),
        field("publish", Kind::Flag),
        field("update", Kind::Flag),
    ],
    required: &[],
};

/// The body of `tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest<'a> {
    user: String,
    #[serde(borrow, default, deserialize_with = "body::present")]
    claims: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "body::present")]
    can: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "body::present")]
    ttl: Option<Whole>,
}

/// Reads the body of `tokens`.
///
/// # Errors
/// 400 for a wrong body; what only the signer can know is not looked at.
pub(super) fn token_request(body: &[u8]) -> Result<TokenRequest<'_>, Problem> {
    body::parse(body, &TOKENS)
}

/// `POST /v1/tokens`: signs a client token.
///
/// # Errors
/// 400 for a wrong body, 409 where the app has no shared secret to sign with.
pub(crate) fn tokens(
    node: &Node,
    runtime_config: &RuntimeConfig,
    caller: &Caller,
    body: &[u8],
) -> Result<Json, Problem> {
    let fields = token_request(body)?;
    let signer = runtime_config
        .access(caller.app)
        .tokens
        .signer()
        .ok_or_else(|| {
            let detail = "this app has no shared secret to sign with; set a token key of HS256";
            Problem::new(StatusCode::CONFLICT, "no_token_secret", detail)
        })?;

    let ttl = fields
        .ttl
        .map(|Whole(seconds)| Duration::from_secs(seconds));
    let now = node.signing_time(caller.app, &fields.user);
    let signed = signer.sign(&fields.user, fields.claims, fields.can, ttl, now);
    let signed = signed.map_err(|error| unsigned(&error, fields.claims, fields.can))?;

    Ok(json!({ "token": signed.token, "expires_at": signed.expires_at, "ttl": signed.ttl }))
}

/// Why no token was signed, in the words of the API.
fn unsigned(error: &SignError, claims: Option<&RawValue>, can: Option<&RawValue>) -> Problem {
    let detail = unusable(error, claims, can).unwrap_or_else(|| error.to_string());
    Problem::bad_request("bad_token_request", detail)
}
