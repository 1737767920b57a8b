//! The answer to a request that no route takes: what is probably meant, and what is missing for it.

use hyper::{
    HeaderMap, Request,
    body::Incoming,
    header::{SEC_WEBSOCKET_KEY, UPGRADE},
};

use super::{Edge, access::Refused, cors, problem::Problem, routes::nearest_route};
use crate::{app::RuntimeConfig, config::ProtocolKind, metrics::Refusal};

impl Edge {
    /// The answer to a request that no route takes; `allowed` is the method that its path takes, if there is such a path.
    pub(super) fn astray(
        &self,
        runtime_config: &RuntimeConfig,
        request: &Request<Incoming>,
        allowed: Option<&'static str>,
    ) -> Problem {
        let refused = |why, problem| Refused::new(why, None, problem).logged(&self.node);
        match allowed {
            Some(allow) if cors::is_preflight(request) => {
                let closed = cors::closed(runtime_config.config.is_development());
                refused(Refusal::Preflight, Problem::method(allow).but(closed))
            }
            Some(allow) => Problem::method(allow),
            None => {
                let path = request.uri().path();
                if let Some(detail) = self.foreign_path(path) {
                    return refused(Refusal::Path, Problem::not_found("unknown_path", detail));
                }
                if request.headers().contains_key(UPGRADE) {
                    let detail = "this path takes no WebSocket; clients connect to /v1/connect";
                    return refused(Refusal::Path, Problem::not_found("unknown_path", detail));
                }
                let hint = nearest_route(path).map_or_else(
                    || "see /v1/openapi.json".to_owned(),
                    |route| format!("did you mean {} {}?", route.method, route.path),
                );
                let detail = format!("unknown path; {hint}");
                Problem::not_found("unknown_path", detail)
            }
        }
    }

    /// What is missing where clients of another protocol connect to `path`, which is theirs by default. Browsers say nothing
    /// of it.
    fn foreign_path(&self, path: &str) -> Option<String> {
        // `socket.io.js`, `socket.io.min.js`, `socket.io.esm.min.js`
        if path.starts_with("/socket.io/socket.io.") {
            let detail = "Fanfare does not serve the client of Socket.IO: take it from npm \
                          (socket.io-client/dist/socket.io.min.js) or from a CDN";
            return Some(detail.to_owned());
        }

        let kind = ProtocolKind::of_default_path(path)?;
        let title = kind.title();
        if let Some(other) = self.node.protocols.path_of(kind) {
            return Some(format!(
                "clients of {title} connect to \"{other}\" here: set their path, or that of the app's protocols.{kind}"
            ));
        }

        let altogic = match kind {
            ProtocolKind::SocketIo => " (or altogic)",
            _ => "",
        };

        Some(format!(
            "no app serves clients of {title} here: start the server with --protocol {kind}{altogic}"
        ))
    }
}

/// Whether a request is a client's that wants a WebSocket. A proxy may send `Upgrade` with every request, but not the key.
pub(super) fn is_handshake(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && headers.contains_key(SEC_WEBSOCKET_KEY)
}
