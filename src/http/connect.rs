//! `GET /v1/connect`: from an HTTP request to a client's session.

use std::{net::IpAddr, rc::Rc, time::Instant};

use data_encoding::BASE64;
use fastwebsockets::upgrade;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{
        HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION,
    },
};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use smol_str::SmolStr;
use tokio::net::TcpStream;

use super::{
    Edge, Peer, ResponseBody,
    access::{self, Refused},
    problem::Problem,
    shape::shown,
    timeouts::TimedSocket,
};
use crate::{
    app::{App, ClientPage, RuntimeConfig},
    auth::has_form,
    close,
    config::DEFAULT_APP,
    connection_limiter::Prospects,
    event_loop::EventLoop,
    id::{AppId, ConnectionId},
    limits::{DEVICE_BYTES, SUGGESTED_BYTES},
    log_limit::Line,
    metrics::Refusal,
    nearest::nearest,
    node::{Node, Occupancy, Phase},
    protocol::native,
    session::{Arrival, ConnectOptions, Foreign, Session},
};

/// The query of a connect request.
#[derive(Debug)]
struct Query {
    token: Option<String>,
    key: Option<String>,
    app: Option<String>,
    device: Option<String>,
    echo: bool,
    store: bool,
    options: ConnectOptions,
    /// The first name that resembles a parameter's but is not one, with the parameter that is probably meant.
    stray: Option<Stray>,
}

/// A parameter of an address that has no effect.
#[derive(Debug)]
struct Stray {
    /// Its name, cut.
    name: String,
    meant: &'static str,
}

/// The parameters of an address.
const PARAMETERS: [&str; 8] = [
    "token", "key", "app", "device", "echo", "store", "resume", "channel",
];

/// What other servers call them.
const OTHER_PARAMETERS: [(&str, &str); 9] = [
    ("access_token", "token"),
    ("accesstoken", "token"),
    ("auth_token", "token"),
    ("authtoken", "token"),
    ("auth", "token"),
    ("jwt", "token"),
    ("client_key", "key"),
    ("room", "channel"),
    // Only a token says which user it is.
    ("user", "token"),
];

impl Stray {
    /// The parameter that is probably meant by `name`, which is not one. Clients may have parameters of their own.
    fn of(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let other = OTHER_PARAMETERS.iter().find(|(other, _)| *other == lower);
        let near = || {
            let known = PARAMETERS.map(|known| (known, known));
            nearest(&lower, known, |known| known.len() / 4)
        };
        let meant = other.map(|(_, meant)| *meant).or_else(near)?;
        let name = name.chars().take(STRAY_CHARS).collect();
        Some(Self { name, meant })
    }
}

/// Most characters that a message repeats of a parameter's name.
const STRAY_CHARS: usize = 24;

/// Refuses a device whose name is too long, and more channels than a client may name.
fn check_lengths(
    device: Option<&str>,
    channels: usize,
    most_channels: usize,
) -> Result<(), Problem> {
    if device.is_some_and(|device| device.len() > DEVICE_BYTES) {
        return Err(bad_query(format!("`device` is over {DEVICE_BYTES} bytes")));
    }

    if channels > most_channels {
        return Err(bad_query(format!(
            "`channel` comes {channels} times; at most {most_channels} fit"
        )));
    }

    Ok(())
}

impl Query {
    /// Reads what is known of `query`. Except for `channel`, a name that comes twice counts once, the first time.
    fn parse(query: &str, most_channels: usize) -> Result<Self, Problem> {
        let (mut token, mut key, mut app, mut device) = (None, None, None, None);
        let (mut echo, mut store, mut resume, mut channels) = (None, None, None, Vec::new());
        let mut stray = None;

        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let field = match name {
                "token" => &mut token,
                "key" => &mut key,
                "app" => &mut app,
                "device" => &mut device,
                "echo" => &mut echo,
                "store" => &mut store,
                "resume" => &mut resume,
                // Gathered below: a client may name several.
                "channel" => &mut None,
                other if other.len() <= SUGGESTED_BYTES && stray.is_none() => {
                    stray = Stray::of(other);
                    continue;
                }
                _ => continue,
            };

            let value = decoded(name, value)?;
            if name == "channel" {
                channels.push(value);
            } else if !value.is_empty() || name == "token" {
                // An empty token counts: its client meant to send one, and must not be let in without
                // a user by mistake. Any other empty value means that the parameter is absent.
                field.get_or_insert(value);
            }
        }

        check_lengths(device.as_deref(), channels.len(), most_channels)?;
        let (echo, store) = (
            switch("echo", echo.as_deref())?,
            switch("store", store.as_deref())?,
        );
        let is_token_misnamed =
            token.is_none() && stray.as_ref().is_some_and(|stray| stray.meant == "token");
        Ok(Self {
            token,
            key,
            app,
            device,
            echo,
            store,

            options: ConnectOptions {
                channels,
                resume,
                is_app_guessed: false,
                is_token_misnamed,
            },

            stray,
        })
    }
}

fn bad_query(detail: String) -> Problem {
    Problem::bad_request("bad_query", detail)
}

/// The value of the parameter `name`, as its client meant it.
fn decoded(name: &str, value: &str) -> Result<String, Problem> {
    // `URLSearchParams` writes spaces so.
    let value = value.replace('+', " ");
    let value = percent_decode_str(&value).decode_utf8();
    let value = value.map_err(|_| bad_query(format!("`{name}` is not UTF-8")))?;
    Ok(value.into_owned())
}

/// A parameter that is true where it is absent.
fn switch(name: &str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(bad_query(format!("`{name}` must be true or false"))),
    }
}

impl Query {
    /// Logs a parameter that has no effect.
    fn log_stray(&self, node: &Node, app: &App) {
        if let Some(Stray { name, meant }) = &self.stray
            && let Some(others) = node.lines().note(Line::StrayParameter)
        {
            let app = &app.name;
            tracing::info!(
                others,
                %app,
                "a client's address has the parameter {name:?}, which has no effect; did you mean {meant:?}?"
            );
        }
    }

    /// How a token is given, for a client whose token was not.
    fn token_parameter(&self) -> String {
        match &self.stray {
            Some(Stray { name, .. }) if self.options.is_token_misnamed => {
                format!("?token=, not {name:?}")
            }
            _ => "?token=".to_owned(),
        }
    }

    /// Refuses what only native clients can ask for by their address, to a client of another protocol on a path of `app`. It
    /// may have names of its own for other things: only what would count for a native client is refused.
    fn check_foreign(&self, node: &Node, app: AppId) -> Result<(), Problem> {
        let bad = |detail: String| Err(bad_query(detail));
        let named = self.app.as_deref().and_then(|name| node.app_named(name));
        if let Some(other) = named.filter(|named| named.id != app) {
            let own = &node.app(app).name;
            return bad(format!(
                "this path is of app \"{own}\"; app \"{}\" has its own",
                other.name
            ));
        }

        if !self.options.channels.is_empty() {
            let detail =
                "only native clients name a `channel` in the address; join it by a message";
            return bad(detail.to_owned());
        }

        let resume = self.options.resume.as_deref();
        if resume.is_some_and(|id| id.parse::<ConnectionId>().is_ok()) {
            let detail = "only native clients name a connection to `resume` in the address";
            return bad(detail.to_owned());
        }

        Ok(())
    }
}

/// Where a client wants to go, and what holds for it there.
struct Destination<'n> {
    app: &'n App,
    /// Which of the app's policies.
    policy: usize,
    /// Why it may not stay. It learns that by a close frame: a browser could not read a status.
    refusal: Option<&'static str>,
    /// Whether the client named no app, and there are several.
    is_guessed: bool,
}

impl<'n> Destination<'n> {
    /// The app that `query` names by itself or by its client key.
    ///
    /// # Errors
    /// 404 for an unknown app, 400 where key and app name different ones.
    fn of(node: &'n Node, runtime_config: &RuntimeConfig, query: &Query) -> Result<Self, Refused> {
        let unknown_app = |name: &str| {
            let detail = format!("unknown app \"{}\"", shown(name));
            let problem = Problem::not_found("unknown_app", detail);
            Refused::new(Refusal::App, None, problem)
        };

        let named = query
            .app
            .as_deref()
            .map(|name| node.app_named(name).ok_or_else(|| unknown_app(name)))
            .transpose()?;

        let found = query
            .key
            .as_ref()
            .map(|key| runtime_config.client_keys.find(key));
        match found {
            Some(Some((app, _))) if named.is_some_and(|named| named.id != app) => {
                let detail = "`key` is of another app than `app`";
                let problem = Problem::bad_request("bad_query", detail);
                Err(Refused::new(Refusal::ClientKey, Some(app), problem))
            }
            Some(Some((app, policy))) => Ok(Self {
                app: node.app(app),
                policy,
                refusal: None,
                is_guessed: false,
            }),
            // A wrong key is not refused here: only a close frame can say so to a browser. Until
            // then the client belongs to the app that it would be in without the key.
            unknown => {
                let first = node.apps.first();
                let app = named.or(first).ok_or_else(|| unknown_app(DEFAULT_APP))?;
                Ok(Self {
                    app,
                    policy: 0,
                    refusal: unknown.map(|_| close::KEY_UNKNOWN),
                    is_guessed: named.is_none() && node.apps.len() > 1,
                })
            }
        }
    }
}

/// Upgrades a request and starts its session on this thread.
///
/// # Errors
/// 400 for what is not a WebSocket handshake, 403 for a page's Origin that may not connect, 404 for an unknown app,
/// 503 if there is no room or the node is leaving.
pub(super) fn connect(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    event_loop: Rc<EventLoop>,
    mut request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<ResponseBody>, Problem> {
    let node = &edge.node;
    let admitted =
        admit(edge, runtime_config, &request, peer.ip).map_err(|refused| refused.logged(node))?;
    let names_us = admitted.protocol;
    let mut response = begin(edge, event_loop, &mut request, peer, admitted, None)?;
    // A client fails the connection if it is answered with a protocol that it did not offer (RFC
    // 6455, section 4.1).
    if names_us {
        response.headers_mut().insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(native::NAME),
        );
    }
    Ok(response)
}

/// Upgrades a request of a client that speaks another protocol. What it says of itself comes with its messages. Of its
/// query, `token`, `device`, `echo` and `store` count as for native clients, and `key` if the app has client keys.
///
/// # Errors
/// As [`connect`], less those about the Origin, which is looked at when the client is let in.
pub(super) fn connect_foreign(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    event_loop: Rc<EventLoop>,
    mut request: Request<Incoming>,
    peer: &Peer,
    app: AppId,
    mut foreign: Foreign,
) -> Result<Response<ResponseBody>, Problem> {
    check_handshake(&request).map_err(|problem| {
        Refused::new(Refusal::Handshake, Some(app), problem).logged(&edge.node)
    })?;
    let admitted = admit_foreign(edge, runtime_config, &request, peer, app, &mut foreign)?;
    let foreign = Some(Box::new(foreign));
    begin(edge, event_loop, &mut request, peer, admitted, foreign)
}

/// Takes a place for a client that speaks another protocol.
///
/// # Errors
/// As [`connect_foreign`], less those about the handshake.
pub(super) fn admit_foreign(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    request: &Request<Incoming>,
    peer: &Peer,
    app: AppId,
    foreign: &mut Foreign,
) -> Result<Admitted, Problem> {
    let logged = |refused: Refused| refused.logged(&edge.node);
    let refused = |problem| logged(Refused::new(Refusal::Query, Some(app), problem));
    let most_channels = edge.node.config.limits.channels_per_connection;
    let query =
        Query::parse(request.uri().query().unwrap_or(""), most_channels).map_err(refused)?;
    query.check_foreign(&edge.node, app).map_err(refused)?;
    let headers = request.headers();
    let ip = access::client_address(headers, peer.ip, &runtime_config.config.trusted_proxies);
    let bearer = access::bearer(headers).map(str::to_owned);
    foreign.token = query.token.clone().or(bearer);
    // Without client keys, `key` may mean something else in the other protocol.
    let has_keys = runtime_config.access(app).has_client_keys();
    foreign.key = query.key.clone().filter(|_| has_keys);
    let occupancy = take_place(edge, ip, Prospects::Some)
        .map_err(|(why, problem)| logged(Refused::new(why, Some(app), problem)))?;

    Ok(Admitted {
        app,
        policy: 0,
        refusal: None,
        ip,
        token: None,
        query,
        protocol: false,
        occupancy,
    })
}

/// A socket taken back from hyper.
pub(super) struct RawSocket {
    pub(super) socket: TcpStream,
    /// The answer that grants its handshake, which is yet to be written.
    pub(super) granted: Vec<u8>,
    /// What was read beyond the handshake.
    pub(super) leftover: bytes::Bytes,
}

/// Grants a handshake; returns the answer, and the socket once that is through.
///
/// # Errors
/// 400 for what is not a handshake.
pub(super) fn raw_upgrade(
    request: &mut Request<Incoming>,
) -> Result<
    (
        Response<http_body_util::Empty<bytes::Bytes>>,
        impl Future<Output = Option<RawSocket>> + use<>,
    ),
    Problem,
> {
    let (response, upgraded) = upgrade::upgrade(request)
        .map_err(|error| Problem::bad_request("bad_handshake", error.to_string()))?;
    Ok((
        response,
        async move { upgraded.await.ok().and_then(raw_socket) },
    ))
}

/// Grants a handshake, and starts the client's session on this thread once it is through.
fn begin(
    edge: &Edge,
    event_loop: Rc<EventLoop>,
    request: &mut Request<Incoming>,
    peer: &Peer,
    admitted: Admitted,
    foreign: Option<Box<Foreign>>,
) -> Result<Response<ResponseBody>, Problem> {
    let node = edge.node.clone();
    let app = admitted.app;
    let (response, socket) = raw_upgrade(request)
        .map_err(|problem| Refused::new(Refusal::Handshake, Some(app), problem).logged(&node))?;
    let since = peer.since;

    tokio::task::spawn_local(async move {
        // The client has hung up, and `admitted` gives its places back.
        let Some(raw) = socket.await else {
            return;
        };
        let RawSocket {
            socket,
            granted,
            leftover,
        } = raw;

        let arrival = Arrival {
            granted,
            leftover,
            ..admitted.arrival(socket, foreign, since)
        };

        // A task of its own, so that the handshake's larger one is freed.
        if let Some(session) = Session::begin(node, event_loop.clone(), arrival) {
            event_loop.run_client(session.run());
        }
    });

    Ok(response.map(|_| ResponseBody::default()))
}

/// A handshake that may be granted.
pub(super) struct Admitted {
    app: AppId,
    policy: usize,
    /// As [`Destination::refusal`].
    refusal: Option<&'static str>,
    ip: IpAddr,
    token: Option<String>,
    query: Query,
    /// Whether the client names our protocol, and so hears it back.
    protocol: bool,
    occupancy: Occupancy,
}

impl Admitted {
    /// The client with its socket, which was accepted at `since`.
    pub(super) fn arrival(
        self,
        socket: TcpStream,
        foreign: Option<Box<Foreign>>,
        since: Instant,
    ) -> Arrival {
        let Query {
            device,
            echo,
            store,
            options,
            ..
        } = self.query;

        Arrival {
            app: self.app,
            policy: self.policy,
            refusal: self.refusal,
            socket,
            granted: Vec::new(),
            leftover: bytes::Bytes::new(),
            ip: self.ip,
            device: device.map(SmolStr::from),
            token: self.token,
            echo,
            store,
            options,
            since,
            occupancy: self.occupancy,

            foreign,
        }
    }
}

/// Looks at everything that a handshake says of itself, and takes a place for its connection.
fn admit(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    request: &Request<Incoming>,
    peer: IpAddr,
) -> Result<Admitted, Refused> {
    let node = &edge.node;
    let headers = request.headers();
    let most_channels = node.config.limits.channels_per_connection;
    let mut query = Query::parse(request.uri().query().unwrap_or(""), most_channels)
        .map_err(|problem| Refused::new(Refusal::Query, None, problem))?;

    let Destination {
        app,
        policy,
        refusal,
        is_guessed,
    } = Destination::of(node, runtime_config, &query)?;

    query.options.is_app_guessed = is_guessed;
    query.log_stray(node, app);
    let app = app.id;
    let refused = |why, problem| Refused::new(why, Some(app), problem);

    // An empty one counts only where there is no other, and lets no page in.
    let named = query.token.take();
    let token = named
        .clone()
        .filter(|token| !token.is_empty())
        .or_else(|| access::bearer(headers).map(str::to_owned))
        .or(named);

    let has_token = token.as_ref().is_some_and(|token| !token.is_empty());
    if let Some(origin) = headers.get(ORIGIN) {
        let page = ClientPage {
            origin: origin.to_str().unwrap_or(""),
            has_token,
            is_development: runtime_config.config.is_development(),
        };
        let policy = runtime_config.access(app).policy(policy);

        if !policy.allows(&page) {
            let detail = policy.page_refusal(&access::lossy(origin), &query.token_parameter());
            let problem = Problem::new(StatusCode::FORBIDDEN, "origin_refused", detail);
            return Err(refused(Refusal::Origin, problem));
        }
    }

    check_handshake(request).map_err(|problem| refused(Refusal::Handshake, problem))?;
    let protocol =
        chosen_protocol(headers).map_err(|problem| refused(Refusal::Protocol, problem))?;

    let ip = access::client_address(headers, peer, &runtime_config.config.trusted_proxies);
    // These clients come back in loops and can be made up by anyone. They have a rate of their own,
    // so that they keep nobody else out.
    let prospects = prospects(refusal, token.as_deref());
    let occupancy =
        take_place(edge, ip, prospects).map_err(|(why, problem)| refused(why, problem))?;

    Ok(Admitted {
        app,
        policy,
        refusal,
        ip,
        token,
        query,
        protocol,
        occupancy,
    })
}

/// Refuses what is not a whole handshake (RFC 6455, section 4.2.1), before any room is taken for it.
pub(super) fn check_handshake<B>(request: &Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let is_13 = only(headers, SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if request.method() != Method::GET || !is_13 || !upgrade::is_upgrade_request(request) {
        let detail = "this path takes WebSocket handshakes (RFC 6455, version 13) only; \
                      does a proxy remove `Upgrade`?";
        let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
        return Err(problem);
    }

    if request.version() < Version::HTTP_11 {
        let detail = "a WebSocket handshake needs HTTP/1.1; set that version in the proxy \
                      (nginx: proxy_http_version 1.1)";
        return Err(Problem::bad_request("bad_handshake", detail));
    }

    let key = only(headers, SEC_WEBSOCKET_KEY).map(|key| BASE64.decode(key.as_bytes()));
    if !matches!(key, Some(Ok(key)) if key.len() == 16) {
        let detail = "the handshake needs one Sec-WebSocket-Key, 16 bytes in base64";
        return Err(Problem::bad_request("bad_handshake", detail));
    }

    Ok(())
}

/// The value of a header that comes once.
fn only(headers: &hyper::HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Whether the client names our protocol.
///
/// # Errors
/// 400 if it names only others: it would not understand us.
fn chosen_protocol(headers: &hyper::HeaderMap) -> Result<bool, Problem> {
    let mut offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().peekable();
    if offered.peek().is_none() {
        return Ok(false);
    }

    let known = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == native::NAME);
    if !known {
        let detail = format!(
            "Sec-WebSocket-Protocol must offer {}, or be left out",
            native::NAME
        );
        return Err(Problem::bad_request("unknown_protocol", detail));
    }

    Ok(true)
}

/// Whether a connection with `token` may be let in, if there is no `refusal`.
fn prospects(refusal: Option<&str>, token: Option<&str>) -> Prospects {
    let is_hopeless = refusal.is_some() || token.is_some_and(|token| !has_form(token));
    if is_hopeless {
        Prospects::None
    } else {
        Prospects::Some
    }
}

/// A place for one more connection. The rate comes last, since what does not become a connection must not use it up.
fn take_place(
    edge: &Edge,
    ip: IpAddr,
    prospects: Prospects,
) -> Result<Occupancy, (Refusal, Problem)> {
    let refuse = |why, code, detail: &str| (why, Problem::unavailable(code, detail));
    if edge.node.phase() == Phase::Draining {
        let detail = "this node is leaving; connect to another";
        return Err(refuse(Refusal::Draining, "draining", detail));
    }

    let occupancy = Occupancy::take(&edge.node).ok_or_else(|| {
        refuse(
            Refusal::Connections,
            "connection_limit",
            "this node is full",
        )
    })?;

    let place = edge.limiter.enter(ip).map_err(|_| {
        refuse(
            Refusal::Address,
            "address_limit",
            "too many connections from this address",
        )
    })?;

    if !edge.limiter.may_upgrade(prospects, ip) {
        let detail = "too many clients connect at the same time";
        return Err(refuse(Refusal::AcceptRate, "accept_rate", detail));
    }

    Ok(occupancy.at(place))
}

/// Takes the socket back from hyper, with the answer that was held back, and what was read beyond the handshake.
fn raw_socket(
    upgraded: fastwebsockets::WebSocket<TokioIo<hyper::upgrade::Upgraded>>,
) -> Option<RawSocket> {
    // Every socket is given to hyper as a `TimedSocket`, so this fails for none.
    let parts = upgraded
        .into_inner()
        .into_inner()
        .downcast::<TimedSocket>()
        .ok()?;
    let (socket, granted) = parts.io.into_socket();
    Some(RawSocket {
        socket,
        granted,
        leftover: parts.read_buf,
    })
}
