//! `getMembers` of the clients of Altogic and Agnost: all members of a channel, by a client key and a session.
//!
//! It is the only call of theirs that is not on their socket. Pages of other origins may make it, as they may connect.

use std::{net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
        AUTHORIZATION, HeaderValue, ORIGIN, VARY,
    },
};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::timeout;

use super::{Edge, Peer, ResponseBody, access, body, cors, ops};
use crate::{
    app::{ClientPage, RuntimeConfig},
    auth::{Rights, TokenError, Verified, lacking, unix_now},
    close,
    config::{ClientAuth, Presence, ProtocolKind},
    hub::LongStep,
    id::AppId,
    limits::{JWKS_WAIT, PAGE_BYTES, PAGE_COST_BYTES},
    metrics::Refusal,
    node::Node,
    protocol::{
        altogic::{Fault, System, code_of, escape, members},
        event::channel_name,
    },
    rates::{Allowance, Bucket, Payer},
};

/// How the path of the call ends, for each system. An environment may stand before it.
const ENDINGS: [(&str, System); 2] = [
    ("/_api/rest/v1/realtime/get-members", System::Altogic),
    ("/agnost/realtime/get-members", System::Agnost),
];

/// Headers that pages may send.
const HEADERS: &str = "content-type, authorization, session, x-client, x-client-key";

/// How long a browser may remember a preflight's answer, in seconds.
const MAX_AGE: &str = "600";

/// The system whose call `path` is.
fn system(path: &str) -> Option<System> {
    let is_one = |environment: &str| {
        // One segment such as `/env-1` may come before the ending, and no more than one.
        environment.is_empty() || environment.rfind('/') == Some(0) && environment.len() > 1
    };
    ENDINGS.iter().find_map(|(ending, system)| {
        let environment = path.strip_suffix(ending)?;
        is_one(environment).then_some(*system)
    })
}

/// The system whose call `path` is, if an app of this node serves its clients.
pub(super) fn called(edge: &Edge, path: &str) -> Option<System> {
    let system = system(path)?;
    let is_served =
        edge.event_loop.is_some() && edge.node.protocols.apps(kind(system)).next().is_some();
    is_served.then_some(system)
}

fn kind(system: System) -> ProtocolKind {
    match system {
        System::Altogic => ProtocolKind::Altogic,
        System::Agnost => ProtocolKind::Agnost,
    }
}

/// Why the call is refused: what is counted and logged, for which app, and the answer.
type TurnedAway = (Refusal, Option<AppId>, Refused);

/// Why the call is refused.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    fn unauthorized(system: System, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code_of(system, message), message)
    }

    fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// Writes it in the form that these clients read.
    fn into_response(self) -> Response<ResponseBody> {
        #[derive(Serialize)]
        struct Body<'a> {
            errors: [Fault<'a>; 1],
        }
        let fault = Body {
            errors: [Fault::new(self.code, &self.message)],
        };
        let body = serde_json::to_vec(&fault).unwrap_or_default();
        ops::response(self.status, "application/json", body)
    }
}

/// Answers the call, or a browser's question whether a page may make it.
pub(super) async fn get_members(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    system: System,
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<ResponseBody> {
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = if cors::is_preflight(&request) {
        preflight()
    } else if request.method() == Method::POST {
        let ip = access::client_address(
            request.headers(),
            peer.ip,
            &runtime_config.config.trusted_proxies,
        );
        let answer = answer(edge, runtime_config, system, request, ip).await;
        answer.unwrap_or_else(Refused::into_response)
    } else {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Refused::new(status, "method_not_allowed", "this path takes POST").into_response()
    };

    if let Some(origin) = origin {
        // What a page may not have is decided by its key. The answer to that is for it to read.
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }

    response
}

fn preflight() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn answer(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    system: System,
    request: Request<Incoming>,
    ip: IpAddr,
) -> Result<Response<ResponseBody>, Refused> {
    let node = &edge.node;
    let caller = caller(node, runtime_config, system, request.headers()).await;
    let caller = caller.map_err(|(why, app, refused)| {
        node.refusals().refuse(why, app, &*refused.message);
        refused
    })?;

    // Paid before the body is read, so that a caller over its rate costs no more than its head.
    caller.pay(node, runtime_config, ip, None)?;

    let (most, wait) = (
        runtime_config.config.limits.body_bytes,
        node.config.limits.handshake,
    );
    let body = body::read(request.into_body(), most, wait)
        .await
        .map_err(|problem| {
            let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_REQUEST);
            Refused::new(status, problem.code(), problem.detail())
        })?;

    let channel = channel(&body)?;
    if !caller.rights.may_see_members(&channel) {
        return Err(Refused::forbidden(
            "forbidden",
            lacking("members", &channel),
        ));
    }

    if node.app(caller.app).rule(&channel).presence == Presence::Off {
        let message = format!("channel \"{channel}\" does not show its members");
        return Err(Refused::forbidden("members_off", message));
    }

    node.queue_long_step(caller.app, LongStep::Client).await;
    let roster = node.roster(caller.app, &channel, PAGE_BYTES).await;
    let roster = roster.map_err(|error| {
        Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            error.to_string(),
        )
    })?;

    let Some(roster) = roster else {
        let message = format!(
            "channel \"{channel}\" has too many members for one answer; page through them with GET /v1/channels/{channel}/members"
        );
        return Err(Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_many_members",
            message,
        ));
    };

    // The cost of the answer is known only now. It delays the caller's next request.
    caller.pay(node, runtime_config, ip, Some(roster.get().len()))?;
    let list = members(&roster);
    Ok(ops::response(StatusCode::OK, "application/json", list))
}

/// The channel that the body names, as the server names it.
fn channel(body: &Bytes) -> Result<String, Refused> {
    #[derive(Deserialize)]
    struct ChannelBody {
        channel: String,
    }
    let refused =
        |message: String| Refused::new(StatusCode::BAD_REQUEST, "invalid_request_body", message);
    let fields: ChannelBody = serde_json::from_slice(body)
        .map_err(|_| refused("send a JSON object with channel, a string".to_owned()))?;
    // These clients name channels by any text. The server allows fewer characters.
    let channel = escape(&fields.channel).into_owned();
    channel_name(&channel).map_err(|error| refused(error.to_string()))?;
    Ok(channel)
}

/// The caller.
struct Caller {
    app: AppId,
    rights: Arc<Rights>,
    user: Option<SmolStr>,
}

impl Caller {
    /// Takes from the caller's rate what a message costs, or what an answer of so many bytes does beyond that.
    fn pay(
        &self,
        node: &Node,
        runtime_config: &RuntimeConfig,
        ip: IpAddr,
        bytes: Option<usize>,
    ) -> Result<(), Refused> {
        let limits = &runtime_config.config.limits;
        // Each request begins with a bucket of its own: the address is what counts.
        let mut bucket = Bucket::of_newcomer(limits);
        let payer = match &self.user {
            Some(user) => Payer::User(self.app, user),
            None => Payer::Anonymous(&mut bucket, ip),
        };

        if let Some(bytes) = bytes {
            node.rates
                .charge(payer, (bytes / PAGE_COST_BYTES) as u32, limits);
            return Ok(());
        }

        match node.rates.take(payer, limits) {
            Allowance::Go => Ok(()),
            Allowance::Refused | Allowance::Strike => Err(Refused::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "too many requests; slow down",
            )),
        }
    }
}

/// Finds the caller by the headers.
async fn caller(
    node: &Node,
    runtime_config: &RuntimeConfig,
    system: System,
    headers: &HeaderMap,
) -> Result<Caller, TurnedAway> {
    let text = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then_some(value)
    };

    let key = match system {
        System::Altogic => text("x-client-key"),
        System::Agnost => {
            text(AUTHORIZATION.as_str()).map(|key| key.strip_prefix("Bearer ").unwrap_or(key))
        }
    };

    let session = text("session");

    let (app, policy) = destination(node, runtime_config, system, key)
        .map_err(|refused| (Refusal::ClientKey, None, refused))?;
    let policy = runtime_config.access(app).policy(policy);
    if let Some(origin) = headers.get(ORIGIN) {
        // A header that is not text equals no origin that is allowed.
        let origin = origin.to_str().unwrap_or("");
        let page = ClientPage {
            origin,
            has_token: session.is_some(),
            is_development: runtime_config.config.is_development(),
        };
        if !policy.allows(&page) {
            let reason = policy.page_refusal(origin, "a session token");
            let refused = Refused::forbidden(code_of(system, &reason), reason);
            return Err((Refusal::Origin, Some(app), refused));
        }
    }

    let anonymous = Caller {
        app,
        rights: policy.default_rights.clone(),
        user: None,
    };

    match (policy.client_auth, session) {
        (ClientAuth::Off, _) | (ClientAuth::Optional, None) => Ok(anonymous),
        (ClientAuth::Required, None) => {
            let refused = Refused::unauthorized(system, close::TOKEN_MISSING);
            Err((Refusal::TokenMissing, Some(app), refused))
        }
        (_, Some(token)) => {
            let verified = verified(node, runtime_config, app, token).await;
            let verified = verified.map_err(|error| {
                let refused = Refused::unauthorized(system, &error.to_string());
                (refusal_of(&error), Some(app), refused)
            })?;
            Ok(Caller {
                rights: verified.rights.unwrap_or(anonymous.rights),
                user: Some(verified.user),
                app,
            })
        }
    }
}

/// The app that a client key names, and which of its policies. An app without client keys takes any, if it is the only one that
/// serves the system's clients.
fn destination(
    node: &Node,
    runtime_config: &RuntimeConfig,
    system: System,
    key: Option<&str>,
) -> Result<(AppId, usize), Refused> {
    let kind = kind(system);
    let found = key.and_then(|key| runtime_config.client_keys.find(key));
    // A key of an app that does not serve these clients counts as unknown.
    if let Some(found) = found.filter(|(app, _)| node.protocols.apps(kind).any(|one| one == *app)) {
        return Ok(found);
    }
    let mut apps = node.protocols.apps(kind);
    match (apps.next(), apps.next(), key) {
        (Some(app), None, _) if !runtime_config.access(app).has_client_keys() => Ok((app, 0)),
        (_, _, None) => Err(Refused::unauthorized(system, close::KEY_MISSING)),
        _ => Err(Refused::unauthorized(system, close::KEY_UNKNOWN)),
    }
}

/// What is counted for a token that is refused for `error`.
fn refusal_of(error: &TokenError) -> Refusal {
    match error {
        TokenError::KeysOutOfReach => Refusal::TokenKeys,
        TokenError::Expired => Refusal::TokenExpired,
        _ => Refusal::Token,
    }
}

/// Verifies the token of a session. A key that is yet to be fetched for it is waited for.
async fn verified(
    node: &Node,
    runtime_config: &RuntimeConfig,
    app: AppId,
    token: &str,
) -> Result<Verified, TokenError> {
    let tokens = &runtime_config.access(app).tokens;
    let mut verified = tokens.verify(token, unix_now());
    if let Err(TokenError::UnknownKey | TokenError::KeysOutOfReach) = verified
        && let Some(news) = tokens
            .source()
            .and_then(|source| source.ask(Instant::now()))
    {
        // Whether or not keys have come in time, the token is verified by those that are there.
        let _ = timeout(JWKS_WAIT, news).await;
        // The fetched keys are in the configuration that holds by now, which a reload may have
        // replaced.
        verified = node
            .runtime_config()
            .access(app)
            .tokens
            .verify(token, unix_now());
    }

    let verified = verified?;
    // Before the signature was checked, both were nothing but claims.
    let (user, issued_at) = (&verified.user, verified.issued_at);
    if node.revocations.refuses(app, user, issued_at, unix_now()) {
        return Err(TokenError::Revoked);
    }

    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_may_stand_before_the_call() {
        for (path, expected) in [
            ("/_api/rest/v1/realtime/get-members", Some(System::Altogic)),
            (
                "/e:env1/_api/rest/v1/realtime/get-members",
                Some(System::Altogic),
            ),
            ("/agnost/realtime/get-members", Some(System::Agnost)),
            ("/env-1/agnost/realtime/get-members", Some(System::Agnost)),
            ("//agnost/realtime/get-members", None),
            ("/a/b/agnost/realtime/get-members", None),
            ("x/agnost/realtime/get-members", None),
            ("/agnost/realtime/get-members/", None),
            ("/realtime/get-members", None),
        ] {
            assert_eq!(system(path), expected, "{path}");
        }
    }

    #[test]
    fn a_body_names_a_channel_by_any_text() {
        let read = |text: &'static str| channel(&Bytes::from(text));
        assert_eq!(
            read(r#"{"channel":"Room #1","more":1}"#).unwrap(),
            "Room=20=231"
        );
        for wrong in ["", "{}", "[]", r#"{"channel":5}"#, r#"{"channel":""}"#] {
            let refused = read(wrong).unwrap_err();
            assert_eq!(refused.code, "invalid_request_body", "{wrong}");
        }
    }
}
