//! The HTTP edge: the routing table, who may call, and the calls.

pub(crate) mod access;
mod altogic;
mod astray;
mod audit;
pub(crate) mod body;
mod channels;
mod connect;
mod cors;
pub(crate) mod engineio;
mod foreign;
mod history;
pub(crate) mod idempotency;
pub(crate) mod identity;
pub(crate) mod inspect;
mod ops;
mod page;
pub(crate) mod problem;
mod publish;
mod query;
mod routes;
mod script;
pub(crate) mod shape;
pub(crate) mod sockets;
pub(crate) mod verbs;
pub(crate) mod timeouts;

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
};
use serde::Serialize;

use self::{
    access::{Caller, Refused, RequestBody},
    astray::is_handshake,
    cors::Opening,
    engineio::polling::Polls,
    idempotency::Store,
    problem::Problem,
    publish::Publishing,
    routes::{Access, CONNECT_PATH, Call, ROUTES, Route},
    timeouts::ConnectionTimer,
};
use crate::{
    app::RuntimeConfig,
    auth::Scope,
    connection_limiter::ConnectionLimiter,
    event_loop::EventLoop,
    hub::LongStep,
    limits::LONG_BODY,
    metrics::Refusal,
    node::{Node, Phase},
};

/// The body of every answer.
pub(crate) type ResponseBody = Full<Bytes>;

/// Where a request came in.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) node: Arc<Node>,
    pub(crate) answers: Arc<Store>,
    pub(crate) limiter: Arc<ConnectionLimiter>,
    /// Clients of the node that poll.
    pub(crate) polls: Arc<Polls>,
    /// The thread's sockets; `None` on the admin address, which takes no clients.
    pub(crate) event_loop: Option<Rc<EventLoop>>,
}

/// What is known of the connection a request came by.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) since: Instant,
    pub(crate) timer: Arc<ConnectionTimer>,
}

impl Edge {
    fn is_admin(&self) -> bool {
        self.event_loop.is_none()
    }

    /// Answers one request. Never fails: what is wrong becomes a problem document.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<ResponseBody> {
        let began = Instant::now();
        peer.timer.busy();
        if !peer.timer.begins_after_a_rest() {
            // hyper goes from one request to the next: a caller that pipelines many would keep the thread.
            tokio::task::yield_now().await;
        }

        // One configuration decides about the whole request, whatever is reloaded in the meantime.
        let runtime_config = self.node.runtime_config_owned();
        let opening = Opening::of(&request, runtime_config.config.is_development());
        let path = request.uri().path();
        let (is_handshake, is_ours) = (path == CONNECT_PATH, !self.node.protocols.is_path(path));

        let mut response = self
            .route(&runtime_config, request, peer, opening.as_ref())
            .await
            .unwrap_or_else(Problem::into_response);
        if let Some(opening) = opening {
            opening.mark(&mut response);
        }

        // A request that did not become a client has had its try: on the same socket, further tries
        // would cost it nothing.
        if (is_handshake || self.node.phase() == Phase::Draining)
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }

        // How long a poll waits says nothing of the server.
        if is_ours {
            let took = began.elapsed().as_secs_f64();
            self.node.metrics.http.observe(took);
        }

        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            peer.timer.upgrading();
        } else {
            peer.timer.idle();
        }

        response
    }

    async fn route(
        &self,
        runtime_config: &RuntimeConfig,
        request: Request<Incoming>,
        peer: &Peer,
        opening: Option<&Opening>,
    ) -> Result<Response<ResponseBody>, Problem> {
        // The client is public, and pages import it from servers of other origins.
        if runtime_config.config.is_development() && request.uri().path() != script::PATH {
            // A client of another protocol posts to a session whose id no other page can know.
            let is_ours = !self.node.protocols.is_path(request.uri().path());
            let body = if is_ours && !request.body().is_end_stream() {
                RequestBody::Some
            } else {
                RequestBody::None
            };
            access::development(request.headers(), peer.ip, body)
                .map_err(|refused| refused.logged(&self.node))?;
        }

        // After the rules of development, which hold for a page's question as well.
        if let Some(granted) = opening.and_then(Opening::preflight) {
            return Ok(granted);
        }

        let path = request.uri().path();
        let mut allowed = None;
        for route in &ROUTES {
            if route.matches(path).is_none() {
                continue;
            }
            if path != CONNECT_PATH && is_handshake(request.headers()) {
                // A page or a list would be no answer to a client that connects to the wrong path.
                return Err(self.astray(runtime_config, &request, None));
            }

            // HEAD is GET without the body, which hyper leaves out by itself.
            if route.method == request.method()
                || (route.method == Method::GET && request.method() == Method::HEAD)
            {
                return self.call(runtime_config, route, request, peer).await;
            }

            allowed = Some(if route.method == Method::GET {
                "GET"
            } else {
                "POST"
            });
        }

        // Any environment may be before the path of this call, so it is tried after the paths that
        // are fixed.
        if let Some(system) = altogic::called(self, path) {
            return Ok(altogic::get_members(self, runtime_config, system, request, peer).await);
        }

        if allowed.is_none()
            && let Some(served) = foreign::served(self, &request)?
        {
            return foreign::serve(self, runtime_config, served, request, peer).await;
        }

        Err(self.astray(runtime_config, &request, allowed))
    }

    async fn call(
        &self,
        runtime_config: &RuntimeConfig,
        route: &Route,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<Response<ResponseBody>, Problem> {
        let mut operator = None;
        match route.access {
            Access::Open | Access::Client => {}
            Access::Admin => {
                match self.admit_operator(runtime_config, request.headers(), peer.ip) {
                    Ok(admitted) => operator = admitted,
                    Err(problem) => {
                        return match route.call {
                            Call::Page => Ok(page::refused(problem, request.headers())),
                            _ => Err(problem),
                        };
                    }
                }
            }
            Access::Key(scope) => {
                return self
                    .api(runtime_config, route, scope, request, &peer.timer)
                    .await;
            }
        }

        match route.call {
            Call::Connect => {
                let Some(event_loop) = self.event_loop.clone() else {
                    let detail =
                        "clients connect to the main address (listen), not to admin_listen";
                    let problem = Problem::not_found("unknown_path", detail);
                    return Err(Refused::new(Refusal::Path, None, problem).logged(&self.node));
                };
                connect::connect(self, runtime_config, event_loop, request, peer)
            }
            Call::Livez => {
                let may_know = self.is_close(runtime_config, request.headers(), peer.ip);
                Ok(ops::live(&self.node, may_know))
            }
            Call::Readyz => {
                let query = request.uri().query().unwrap_or("");
                let may_know = self.is_close(runtime_config, request.headers(), peer.ip);
                ops::ready(&self.node, query, may_know)
            }
            Call::Metrics => Ok(ops::metrics(&self.node, operator.as_ref())),
            Call::OpenApi => Ok(ops::openapi()),
            Call::Script => Ok(script::client(request.headers())),
            Call::Page => Ok(page::page(
                route.path,
                self.is_admin().then_some(self.node.config.listen.port()),
            )),
            _ => Ok(ops::health()),
        }
    }

    /// Whether a request may have what is for operators. Returns the caller if that is an app with its key, and
    /// nothing if it is the operator of the node.
    ///
    /// # Errors
    /// 404 if it is served at the admin address instead; else 401 and 403 as in [`access::authorize`].
    fn admit_operator(
        &self,
        runtime_config: &RuntimeConfig,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Option<Caller>, Problem> {
        if !self.is_admin() && self.node.config.admin_listen.is_some() {
            let detail = "this path is served at the admin address (admin_listen)";
            return Err(Problem::not_found("unknown_path", detail));
        }
        if self.is_close(runtime_config, headers, peer) {
            return Ok(None);
        }
        access::authorize(&self.node, runtime_config, headers, Scope::Inspect).map(Some)
    }

    /// Whether a request needs no key for what is for operators: it came to the admin address, or straight from this
    /// machine. With a proxy on this machine everyone would, so the rules of development decide about that.
    fn is_close(&self, runtime_config: &RuntimeConfig, headers: &HeaderMap, peer: IpAddr) -> bool {
        let is_local = || {
            self.node.config.is_loopback()
                && access::bearer(headers).is_none()
                && access::development(headers, peer, RequestBody::None).is_ok()
        };
        // In development every request has passed the rules.
        self.is_admin() || runtime_config.config.is_development() || is_local()
    }

    async fn api(
        &self,
        runtime_config: &RuntimeConfig,
        route: &Route,
        scope: Scope,
        request: Request<Incoming>,
        timer: &ConnectionTimer,
    ) -> Result<Response<ResponseBody>, Problem> {
        // Before the body is read: a stranger must not make the server hold one.
        let caller = access::authorize(&self.node, runtime_config, request.headers(), scope)?;
        let node = &self.node;
        // In development nobody has shown a key, and every call is let in.
        if !runtime_config.config.is_development() {
            timer.know();
        }

        let key = idempotency_key(request.headers())?;
        let (parts, body) = request.into_parts();
        let (most, wait) = (
            runtime_config.config.limits.body_bytes,
            node.config.limits.handshake,
        );
        let body = match route.method {
            Method::POST => body::read(body, most, wait).await?,
            _ => Bytes::new(),
        };

        // Reading so much takes longer than a slice, so calls that do wait in line.
        if body.len() >= LONG_BODY {
            node.queue_long_step(caller.app, LongStep::Body).await;
        }

        let publishing = || Publishing {
            node: node.clone(),
            answers: self.answers.clone(),
            caller: caller.clone(),
            path: route.path,
            key,
        };

        let named = query::segment(route.matches(parts.uri.path()).unwrap_or(""))?;
        let query = parts.uri.query().unwrap_or("");
        let answer = match route.call {
            Call::Publish(verb) => return Ok(publishing().one(verb, body).await?.into_response()),
            Call::Batch => return Ok(publishing().batch(body).await?.into_response()),
            Call::Explain => json(&inspect::explain(node, &caller, &body).await?),
            Call::Connections => json(&inspect::connections(node, &caller, query).await?),
            Call::Connection => json(&inspect::connection(node, &caller, &named).await?),
            Call::User => json(&inspect::user(node, &caller, &named).await?),
            Call::Channels => json(&channels::list(node, &caller, query).await?),
            Call::Channel => json(&channels::one(node, &caller, &named).await?),
            Call::Members => json(&channels::members(node, &caller, &named, query).await?),
            Call::History => json(&history::page(node, &caller, &named, query).await?),
            Call::Join => json(&channels::join(node, &caller, &body).await?),
            Call::Leave => json(&channels::leave(node, &caller, &body).await?),
            Call::Disconnect => json(&inspect::disconnect(node, &caller, &body).await?),
            Call::Revoke => json(&identity::revoke(node, &caller, &body).await?),
            Call::Auth => json(&identity::auth(node, &caller, &body).await?),
            Call::Tokens => json(&inspect::tokens(node, runtime_config, &caller, &body)?),
            _ => return Err(Problem::not_found("unknown_path", "unknown call")),
        };

        Ok(ops::response(StatusCode::OK, "application/json", answer))
    }
}

/// The key by which a caller sends the same request again, if it has one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => Err(Problem::bad_request(
            "idempotency_key_length",
            "Idempotency-Key is not ASCII",
        )),
    }
}

/// An answer's bytes.
fn json(answer: &impl Serialize) -> Bytes {
    // Answers are structs and values with texts as keys, which always serialize.
    serde_json::to_vec(answer).unwrap_or_default().into()
}
