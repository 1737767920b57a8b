//! `GET /v1/connect`: from an HTTP request to a client's session.

use std::{net::IpAddr, rc::Rc};

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
    Answer, Edge, Peer,
    access::{self, Refused},
    problem::Problem,
    shape::shown,
    watch::Watched,
};
use crate::{
    app::{App, Live},
    auth::has_form,
    config::DEFAULT_APP,
    event_loop::EventLoop,
    id::AppId,
    limits::DEVICE_BYTES,
    metrics::Refusal,
    node::{Node, Occupancy, Phase},
    protocol::native,
    session::{Arrival, Entrance, Session},
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
    entrance: Entrance,
}

impl Query {
    /// Reads what is known of `query`; but for `channel`, a name that comes twice counts once, the first time.
    fn parse(query: &str, most_channels: usize) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::bad_request("bad_query", detail);
        let (mut token, mut key, mut app, mut device) = (None, None, None, None);
        let (mut echo, mut store, mut resume, mut channels) = (None, None, None, Vec::new());
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
                "channel" => &mut None,
                _ => continue,
            };
            // As `URLSearchParams` writes spaces.
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| bad(format!("`{name}` is not UTF-8")))?;
            if name == "channel" {
                channels.push(value.into_owned());
            } else if !value.is_empty() || name == "token" {
                field.get_or_insert_with(|| value.into_owned());
            }
        }
        if device
            .as_ref()
            .is_some_and(|device: &String| device.len() > DEVICE_BYTES)
        {
            return Err(bad(format!("`device` is over {DEVICE_BYTES} bytes")));
        }
        if channels.len() > most_channels {
            return Err(bad(format!(
                "`channel` comes {} times; at most {most_channels} fit",
                channels.len()
            )));
        }
        let switch = |name: &str, value: Option<String>| match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(bad(format!("`{name}` must be true or false"))),
        };
        let (echo, store) = (switch("echo", echo)?, switch("store", store)?);
        Ok(Self {
            token,
            key,
            app,
            device,
            echo,
            store,
            entrance: Entrance {
                channels,
                resume,
                is_app_guessed: false,
            },
        })
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
    fn of(node: &'n Node, live: &Live, query: &Query) -> Result<Self, Refused> {
        let unknown_app = |name: &str| {
            let detail = format!("there is no app \"{}\"", shown(name));
            let problem = Problem::not_found("unknown_app", detail);
            Refused::new(Refusal::App, None, problem)
        };
        let named = query
            .app
            .as_deref()
            .map(|name| node.app_named(name).ok_or_else(|| unknown_app(name)))
            .transpose()?;
        let found = query.key.as_ref().map(|key| live.client_keys.find(key));
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
            unknown => {
                let first = node.apps.first();
                let app = named.or(first).ok_or_else(|| unknown_app(DEFAULT_APP))?;
                Ok(Self {
                    app,
                    policy: 0,
                    refusal: unknown.map(|_| "unknown client key"),
                    is_guessed: named.is_none() && node.apps.len() > 1,
                })
            }
        }
    }
}

/// Upgrades a request and starts its session on this thread.
///
/// # Errors
/// 400 for what is no WebSocket handshake, 403 for a page's Origin that may not connect, 404 for an unknown app, 503
/// where there is no room or the node is leaving.
pub(super) fn connect(
    edge: &Edge,
    live: &Live,
    event_loop: Rc<EventLoop>,
    mut request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<Answer>, Problem> {
    let node = edge.node.clone();
    let Admitted {
        app,
        policy,
        refusal,
        ip,
        token,
        query,
        protocol,
        occupancy,
    } = admit(edge, live, &request, peer.ip).map_err(|refused| refused.told(&node))?;
    let (mut response, upgraded) = upgrade::upgrade(&mut request).map_err(|error| {
        let problem = Problem::bad_request("bad_handshake", error.to_string());
        Refused::new(Refusal::Handshake, Some(app), problem).told(&node)
    })?;
    if protocol {
        response.headers_mut().insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(native::NAME),
        );
    }
    let device = query.device.map(SmolStr::from);
    let since = peer.since;
    let Query {
        echo,
        store,
        entrance,
        ..
    } = query;
    tokio::task::spawn_local(async move {
        let Some((socket, granted, leftover)) = upgraded.await.ok().and_then(raw_socket) else {
            return;
        };
        let arrival = Arrival {
            app,
            policy,
            refusal,
            socket,
            granted,
            leftover,
            ip,
            device,
            token,
            echo,
            store,
            entrance,
            since,
            occupancy,
        };
        // A task of its own, so that the handshake's larger one is freed.
        if let Some(session) = Session::begin(node, event_loop, arrival) {
            tokio::task::spawn_local(session.run());
        }
    });
    Ok(response.map(|_| Answer::default()))
}

/// A handshake that may be granted.
struct Admitted {
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

/// Looks at everything that a handshake says of itself, and takes a place for its connection.
fn admit(
    edge: &Edge,
    live: &Live,
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
    } = Destination::of(node, live, &query)?;
    query.entrance.is_app_guessed = is_guessed;
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
        let named = origin.to_str().unwrap_or("");
        let development = live.config.is_development();
        let policy = live.access(app).policy(policy);
        if !policy.allows_origin(named, has_token, development) {
            return Err(refused(Refusal::Origin, origin_refused(origin)));
        }
    }

    check_handshake(request).map_err(|problem| refused(Refusal::Handshake, problem))?;
    let protocol =
        chosen_protocol(headers).map_err(|problem| refused(Refusal::Protocol, problem))?;

    let ip = access::client_address(headers, peer, &live.config.trusted_proxies);
    let hopeless = refusal.is_some() || token.as_deref().is_some_and(|token| !has_form(token));
    let occupancy =
        take_place(edge, ip, hopeless).map_err(|(why, problem)| refused(why, problem))?;
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
fn check_handshake<B>(request: &Request<B>) -> Result<(), Problem> {
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

fn origin_refused(origin: &HeaderValue) -> Problem {
    let detail = format!(
        "the Origin {} is refused: if `origins` of the app or the client key is set, it must be in that list; \
         otherwise a page must bring its token as ?token= ([\"*\"] allows every page)",
        access::shown(origin)
    );
    Problem::new(StatusCode::FORBIDDEN, "origin_refused", detail)
}

/// Whether the client names our protocol.
///
/// # Errors
/// 400 where it names only others: it would not understand us.
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

/// A place for one more connection. The rate comes last, since what does not become a connection must not use it up.
fn take_place(edge: &Edge, ip: IpAddr, hopeless: bool) -> Result<Occupancy, (Refusal, Problem)> {
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
    let place = edge.door.enter(ip).map_err(|_| {
        refuse(
            Refusal::Address,
            "address_limit",
            "too many connections from this address",
        )
    })?;
    if !edge.door.may_upgrade(hopeless, ip) {
        let detail = "too many clients connect at once";
        return Err(refuse(Refusal::AcceptRate, "accept_rate", detail));
    }
    Ok(occupancy.at(place))
}

/// Takes the socket back from hyper, with the answer that was held back, and what was read beyond the handshake.
fn raw_socket(
    upgraded: fastwebsockets::WebSocket<TokioIo<hyper::upgrade::Upgraded>>,
) -> Option<(TcpStream, Vec<u8>, bytes::Bytes)> {
    let parts = upgraded
        .into_inner()
        .into_inner()
        .downcast::<Watched>()
        .ok()?;
    let (socket, granted) = parts.io.into_socket();
    Some((socket, granted, parts.read_buf))
}
