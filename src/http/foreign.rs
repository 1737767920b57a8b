//! Where clients of other protocols come in: by a WebSocket on the path of their protocol.

use std::rc::Rc;

use hyper::{
    Request, Response,
    body::Incoming,
    header::{HOST, ORIGIN},
};

use super::{
    Edge, Peer, ResponseBody, access::Refused, connect, engineio, problem::Problem, shape::shown,
};
use crate::{
    app::RuntimeConfig,
    config::ProtocolKind,
    event_loop::EventLoop,
    metrics::Refusal,
    node::ServedProtocol,
    protocol::wire::Form,
    session::{
        Foreign,
        dialect::Dialect,
        dialects::{
            altogic::Altogic,
            mesa,
            socketio::{Setup, SocketIo},
            zexcore,
        },
    },
};

/// The name of a server in a `Host` header: without a port, and without the dot at the end of a full name.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // An address of IPv6 has colons of its own.
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// The protocol whose clients make `request`, if it is one of theirs.
///
/// # Errors
/// 404 if apps share the path, and the host is not one of theirs.
pub(super) fn served<'e>(
    edge: &'e Edge,
    request: &Request<Incoming>,
) -> Result<Option<&'e ServedProtocol>, Problem> {
    let path = request.uri().path();
    let header = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());

    // Only the second version of HTTP has it in the address.
    let host = request.uri().host().or(header).unwrap_or_default();
    let host = name_of(host);
    let protocols = &edge.node.protocols;

    match protocols.at(path, host) {
        None if protocols.is_path(path) => {
            let detail = format!(
                "no app has the host \"{}\" for this path; it is set by `hosts` of a protocol",
                shown(host)
            );
            let problem = Problem::not_found("unknown_app", detail);
            Err(Refused::new(Refusal::App, None, problem).logged(&edge.node))
        }
        served => Ok(served),
    }
}

/// Answers a request for the path of a protocol that an app serves.
///
/// # Errors
/// Those of [`connect::connect_foreign`], and 404 on the admin address, which takes no clients.
pub(super) async fn serve(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    served: &ServedProtocol,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<ResponseBody>, Problem> {
    let Some(event_loop) = edge.event_loop.clone() else {
        let detail = "clients connect to the main address (listen), not to admin_listen";
        let problem = Problem::not_found("unknown_path", detail);
        return Err(Refused::new(Refusal::Path, None, problem).logged(&edge.node));
    };

    let limits = &runtime_config.config.limits;
    let dialect: Box<dyn Dialect> = match served.kind {
        ProtocolKind::Zexcore => Box::<zexcore::Zexcore>::default(),
        ProtocolKind::Mesa => {
            let mesa = edge.node.mesa.get(served.app);
            let config = mesa.map(|mesa| mesa.config.clone()).unwrap_or_default();
            Box::new(mesa::Mesa::new(&config, limits))
        }
        ProtocolKind::SocketIo | ProtocolKind::Altogic | ProtocolKind::Agnost => {
            let call = engineio::Call {
                edge,
                runtime_config,
                event_loop,
                served,
                peer,
            };
            let dialect = |open| over_engine_io(served, limits.message_bytes, open);
            return call.answer(request, dialect).await;
        }
    };
    upgrade(
        edge,
        runtime_config,
        event_loop,
        served,
        request,
        peer,
        dialect,
    )
}

/// The dialect of a client that speaks Socket.IO, and is sent `open` first. Its packets have at most `limit` bytes.
fn over_engine_io(served: &ServedProtocol, limit: usize, open: Vec<u8>) -> Box<dyn Dialect> {
    if served.kind == ProtocolKind::SocketIo {
        let setup = Setup {
            namespaces: served.namespaces.clone(),
            forms: served.forms.clone(),
            limit,
        };
        return Box::new(SocketIo::new(setup, open));
    }
    let inside = served.forms.get(1).copied().unwrap_or(Form::NATIVE);
    Box::new(Altogic::new(inside, limit, open))
}

/// Makes a WebSocket of a request, whose client speaks `dialect` and gets the protocol's first form.
fn upgrade(
    edge: &Edge,
    runtime_config: &RuntimeConfig,
    event_loop: Rc<EventLoop>,
    served: &ServedProtocol,
    request: Request<Incoming>,
    peer: &Peer,
    dialect: Box<dyn Dialect>,
) -> Result<Response<ResponseBody>, Problem> {
    let origin = request.headers().get(ORIGIN);
    let foreign = Foreign {
        dialect,
        protocol: served.kind.name(),
        form: served.forms.first().copied().unwrap_or(Form::NATIVE),
        origin: origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()),
        token: None,
        key: None,
        device: None,
        handover: None,
        api_key: None,
    };

    connect::connect_foreign(
        edge,
        runtime_config,
        event_loop,
        request,
        peer,
        served.app,
        foreign,
    )
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn the_name_of_a_server_has_no_port_and_no_dot_at_its_end() {
        for (host, name) in [
            ("one.example", "one.example"),
            ("one.example:7070", "one.example"),
            ("one.example.", "one.example"),
            ("one.example.:7070", "one.example"),
            ("[::1]", "[::1]"),
            ("[::1]:7070", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(name_of(host), name);
        }
    }
}
