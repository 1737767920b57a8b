//! Engine.IO over HTTP: what a request on its path asks for, and which answers pages may read.

pub(crate) mod polling;
mod upgrade;

use std::{borrow::Cow, os::fd::OwnedFd, rc::Rc, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
        CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, VARY,
    },
};
use smol_str::SmolStr;
use tokio::net::{TcpStream, UnixStream};

use self::polling::Transport;
use super::{
    Edge, Peer, ResponseBody, access, body, connect, cors, problem::Problem, shape::shown,
};
use crate::{
    app::RuntimeConfig,
    event_loop::EventLoop,
    id::base32,
    limits::{MESSAGE_TIME, PING_TIMEOUT},
    metrics::Refusal,
    node::{Occupancy, Phase, ServedProtocol},
    protocol::{
        engineio::{self, Open, Refused, parameter},
        wire::Form,
    },
    session::{
        Foreign, Session,
        dialect::Dialect,
        handover::{Far, Handover},
    },
};

/// What an Engine.IO request is about, with what answers it.
pub(super) struct Call<'e> {
    pub(super) edge: &'e Edge,
    pub(super) runtime_config: &'e RuntimeConfig,
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) served: &'e ServedProtocol,
    pub(super) peer: &'e Peer,
}

/// Bytes of a random name. Its text has 23 bytes, which a `SmolStr` holds without memory of its own.
const DEVICE_BYTES: usize = 14;

impl Call<'_> {
    /// Answers a request of a client whose side is what `dialect` makes for its first packet.
    ///
    /// # Errors
    /// As [`connect::connect_foreign`]. What Engine.IO itself refuses is answered in its own form.
    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
        dialect: impl FnOnce(Vec<u8>) -> Box<dyn Dialect>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let origin = request.headers().get(ORIGIN).cloned();
        if let Some(origin) = &origin
            && !self.may_read(origin)
        {
            let access = self.runtime_config.access(self.served.app);
            let detail = access.every_page_refusal(&access::lossy(origin));
            return Ok(self.turned_away(Refusal::Origin, Refused::Forbidden, &detail));
        }

        if cors::is_preflight(&request) {
            return Ok(marked(preflight(), origin));
        }

        let answer = self.route(request, dialect).await;
        Ok(marked(
            answer.unwrap_or_else(Problem::into_response),
            origin,
        ))
    }

    /// Counts and logs that a client may not connect for what `detail` says; returns the answer.
    fn turned_away(&self, why: Refusal, refusal: Refused, detail: &str) -> Response<ResponseBody> {
        let protocol = self.served.kind;
        let logged = format!("{detail} ({protocol})");
        let refusals = self.edge.node.refusals();
        refusals.refuse(why, Some(self.served.app), logged);
        match refusal {
            // Clients know the text of the others.
            Refused::Forbidden => refused_with(refusal, Some(detail)),
            _ => refused(refusal),
        }
    }

    /// Counts and logs that a client may not connect; the answer remains.
    fn logged(&self, why: Refusal, problem: Problem) -> Problem {
        access::Refused::new(why, Some(self.served.app), problem).logged(&self.edge.node)
    }

    /// Whether some client from a page of `origin` may connect. Which ones, is decided once they say who they are.
    fn may_read(&self, origin: &HeaderValue) -> bool {
        let named = origin.to_str().unwrap_or("");
        let access = self.runtime_config.access(self.served.app);
        access.may_any(named, self.runtime_config.config.is_development())
    }

    async fn route(
        self,
        mut request: Request<Incoming>,
        dialect: impl FnOnce(Vec<u8>) -> Box<dyn Dialect>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let query = request.uri().query().unwrap_or("");
        let version = parameter(query, "EIO");
        let transport = parameter(query, "transport");
        let sid = parameter(query, "sid").filter(|sid| !sid.is_empty());

        let is_polling = match transport.as_deref() {
            Some("polling") => true,
            Some("websocket") => false,
            other => {
                let detail = format!(
                    "transport={:?} is not \"polling\" or \"websocket\"",
                    shown(other.unwrap_or_default())
                );
                let why = Refused::UnknownTransport;
                return Ok(self.turned_away(Refusal::Handshake, why, &detail));
            }
        };

        let sid = sid.map(Cow::into_owned);
        let found = sid
            .as_ref()
            .map(|sid| self.edge.polls.find(sid, self.served.app));
        match (found, is_polling) {
            // A load balancer may know the node that has it.
            (Some(None), _) if self.edge.node.phase() == Phase::Draining => {
                let detail = "this node is leaving; connect to another";
                let problem = Problem::unavailable("draining", detail);
                Err(self.logged(Refusal::Draining, problem))
            }
            // It is of another node, has ended, or is made up. The client connects afresh.
            (Some(None), _) => Ok(refused(Refused::UnknownSession)),
            (Some(Some(transport)), true) => self.exchange(request, transport).await,
            (Some(Some(transport)), false) => {
                upgrade::begin(&self, &mut request, sid.unwrap_or_default(), transport)
            }
            // Only a first request has to say a version: a session that is known has one.
            (None, _) if version.as_deref() != Some(engineio::VERSION) => {
                let detail = unsupported(version.as_deref());
                let why = Refused::UnsupportedVersion;
                Ok(self.turned_away(Refusal::Protocol, why, &detail))
            }
            (None, true) if request.method() != Method::GET => {
                let why = Refused::BadHandshakeMethod;
                let detail = "a connection begins with GET";
                Ok(self.turned_away(Refusal::Handshake, why, detail))
            }
            (None, true) => {
                let transport = self.open(&request, dialect)?;
                Ok(self.poll(&transport).await)
            }
            (None, false) => self.connect(request, dialect),
        }
    }

    /// Begins a connection over a WebSocket.
    fn connect(
        self,
        request: Request<Incoming>,
        dialect: impl FnOnce(Vec<u8>) -> Box<dyn Dialect>,
    ) -> Result<Response<ResponseBody>, Problem> {
        // Nothing looks a WebSocket up by this name, but a first packet has to have one.
        let dialect = dialect(self.first_packet(&random_name(), &[]));
        let foreign = self.foreign(&request, dialect, None);
        let app = self.served.app;
        connect::connect_foreign(
            self.edge,
            self.runtime_config,
            self.event_loop,
            request,
            self.peer,
            app,
            foreign,
        )
    }

    /// Answers a poll with what the session says.
    async fn poll(&self, transport: &Arc<Transport>) -> Response<ResponseBody> {
        let refused_bytes = self.runtime_config.config.limits.refused_bytes;
        match transport.poll(refused_bytes, &self.peer.timer).await {
            Ok((payload, poll)) => {
                // This is noted before the answer goes to hyper: the poll learns from the socket
                // that all was written.
                self.peer.timer.expect(Box::new(poll), payload.len());
                text(StatusCode::OK, payload.into())
            }
            Err(error) => refused(error),
        }
    }

    /// Answers a request of a client that polls.
    async fn exchange(
        &self,
        request: Request<Incoming>,
        transport: Arc<Transport>,
    ) -> Result<Response<ResponseBody>, Problem> {
        if request.method() == Method::GET {
            return Ok(self.poll(&transport).await);
        }
        if request.method() != Method::POST {
            return Ok(refused(Refused::BadRequest));
        }

        let turn = match transport.post() {
            Ok(turn) => turn,
            Err(error) => return Ok(refused(error)),
        };

        let limit = self.runtime_config.config.limits.message_bytes;
        let body = match body::read(request.into_body(), limit, MESSAGE_TIME).await {
            Ok(body) => body,
            // The client may send less the next time.
            Err(problem) if problem.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                turn.finish();
                return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()));
            }
            Err(problem) => return Err(problem),
        };

        let Ok(checked) = turn.check(&body).await else {
            // The session ends when `turn` is dropped: after a malformed packet, nothing that follows means anything.
            let metrics = &self.edge.node.app(self.served.app).metrics;
            metrics.client_refused("bad_message");
            return Ok(refused(Refused::BadRequest));
        };

        let held = self.event_loop.held();
        match turn.say(checked, held).await {
            Ok(()) => {
                let mut ok = text(StatusCode::OK, Bytes::from_static(b"ok"));
                // Some browsers would offer plain text for download.
                let html = HeaderValue::from_static("text/html");
                ok.headers_mut().insert(CONTENT_TYPE, html);
                Ok(ok)
            }
            Err(error) => Ok(refused(error)),
        }
    }

    /// Starts the session of a client that polls, on this thread.
    fn open(
        &self,
        request: &Request<Incoming>,
        dialect: impl FnOnce(Vec<u8>) -> Box<dyn Dialect>,
    ) -> Result<Arc<Transport>, Problem> {
        let broken = |error: std::io::Error| {
            let detail = format!("no socket for a client that polls: {error}");
            Problem::unavailable("connection_limit", detail)
        };

        let sid = random_name();
        let handover = Arc::new(Handover::default());
        let dialect = dialect(self.first_packet(&sid, &["websocket"]));
        let mut foreign = self.foreign(request, dialect, Some(handover.clone()));
        let app = self.served.app;

        let admitted = connect::admit_foreign(
            self.edge,
            self.runtime_config,
            request,
            self.peer,
            app,
            &mut foreign,
        )?;

        // They are for the pair's other end, and for the socket on which the client polls.
        let Some(places) = Occupancy::take_some(&self.edge.node, 2) else {
            let full = Problem::unavailable("connection_limit", "this node is full");
            return Err(self.logged(Refusal::Connections, full));
        };

        let (near, far) = pair(self.runtime_config.config.limits.send_buffer)
            .map_err(|error| self.logged(Refusal::Connections, broken(error)))?;
        let far = Far::new(far, Some(places));
        let arrival = admitted.arrival(near, Some(Box::new(foreign)), self.peer.since);
        let polls = self.edge.polls.clone();
        let answers = polls.answers().clone();
        let transport = Arc::new(Transport::new(app, far, handover.clone(), answers));
        let node = self.edge.node.clone();

        let Some(session) = Session::begin(node, self.event_loop.clone(), arrival) else {
            return Err(Problem::unavailable(
                "connection_limit",
                "this node is full",
            ));
        };

        // Only now, so that a session that could not begin leaves no name behind.
        polls.insert(&sid, transport.clone());
        self.event_loop.run_client(async move {
            session.run().await;
            handover.end();
            polls.end(&sid);
        });

        Ok(transport)
    }

    fn first_packet(&self, sid: &str, upgrades: &[&str]) -> Vec<u8> {
        let limits = &self.runtime_config.config.limits;
        let open = Open {
            sid,
            upgrades,
            // A client gives up when no ping has come for the interval and the timeout together.
            ping_interval: limits.heartbeat.as_millis() as u64,
            ping_timeout: PING_TIMEOUT.as_millis() as u64,
            max_payload: limits.message_bytes,
        };
        open.packet()
    }

    fn foreign(
        &self,
        request: &Request<Incoming>,
        dialect: Box<dyn Dialect>,
        handover: Option<Arc<Handover>>,
    ) -> Foreign {
        let origin = request.headers().get(ORIGIN);
        Foreign {
            dialect,
            protocol: self.served.kind.name(),
            form: self.served.forms.first().copied().unwrap_or(Form::NATIVE),
            origin: origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()),
            token: None,
            key: None,
            // It is a part of the name by which the client comes back, so nobody may guess it.
            device: Some(SmolStr::from(random_name())),
            handover,
            api_key: None,
        }
    }
}

/// What is wrong with a client whose Engine.IO is `version`.
fn unsupported(version: Option<&str>) -> String {
    match version {
        Some("2" | "3") => {
            "this is a client of Socket.IO 2 (EIO=3); versions 3 and 4 are served".to_owned()
        }
        Some(other) => format!("EIO={:?} is not served; clients send EIO=4", shown(other)),
        None => "the query has no EIO; clients of Socket.IO send EIO=4".to_owned(),
    }
}

/// A name that nobody can guess.
fn random_name() -> String {
    base32().encode(&uuid::Uuid::new_v4().as_bytes()[16 - DEVICE_BYTES..])
}

/// Two ends of a stream: the session's as a socket like any other, and the one that polls read and write. Each holds as much as
/// the socket of a client.
fn pair(send_buffer: usize) -> std::io::Result<(TcpStream, UnixStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    for end in [&near, &far] {
        // Both ends are bounded, as a client's socket is: a client that does not poll is slow like
        // any other.
        socket2::SockRef::from(end).set_send_buffer_size(send_buffer)?;
    }
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    Ok((TcpStream::from_std(near)?, UnixStream::from_std(far)?))
}

fn text(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=UTF-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A refusal as clients of Engine.IO expect it.
fn refused(why: Refused) -> Response<ResponseBody> {
    refused_with(why, None)
}

/// The same with a `message` of our own.
fn refused_with(why: Refused, message: Option<&str>) -> Response<ResponseBody> {
    let status = match why {
        Refused::Forbidden => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = text(status, why.body(message).into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn preflight() -> Response<ResponseBody> {
    let mut response = text(StatusCode::NO_CONTENT, Bytes::new());
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets the page of `origin` read the answer, with the cookie of a load balancer if it has one.
fn marked(
    mut response: Response<ResponseBody>,
    origin: Option<HeaderValue>,
) -> Response<ResponseBody> {
    let headers = response.headers_mut();
    // It is there without an Origin too: a cache must not give this answer to a page.
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        // Browsers take no `*` together with credentials (Fetch standard), so the origin is
        // repeated.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    response
}
