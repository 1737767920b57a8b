//! The routing table: every path, what it asks of its caller, and which call it is.

use hyper::Method;

use super::{script, verbs::Verb};
use crate::{auth::Scope, limits::SUGGESTED_BYTES, nearest::nearest};

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: it gives nothing away.
    Open,
    /// Nothing on the admin address, and nothing of a request that comes straight from this machine; else a key with
    /// `inspect`.
    Admin,
    /// An API key with this scope.
    Key(Scope),
    /// A client's credentials, which its session looks at.
    Client,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Publish(Verb),
    Batch,
    Explain,
    Connections,
    Connection,
    User,
    Channels,
    Channel,
    Members,
    History,
    Join,
    Leave,
    Disconnect,
    Tokens,
    Revoke,
    Auth,
    Connect,
    Healthz,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Script,
    Page,
}

pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) call: Call,
}

const fn route(method: Method, path: &'static str, access: Access, call: Call) -> Route {
    Route {
        method,
        path,
        access,
        call,
    }
}

/// Where clients connect.
pub(super) const CONNECT_PATH: &str = "/v1/connect";

/// Every path of the server. A `{name}` stands for one segment.
pub(super) static ROUTES: [Route; 29] = [
    route(
        Method::POST,
        "/v1/emit",
        Access::Key(Scope::Publish),
        Call::Publish(Verb::Emit),
    ),
    route(
        Method::POST,
        "/v1/publish",
        Access::Key(Scope::Publish),
        Call::Publish(Verb::Publish),
    ),
    route(
        Method::POST,
        "/v1/send",
        Access::Key(Scope::Publish),
        Call::Publish(Verb::Send),
    ),
    route(
        Method::POST,
        "/v1/broadcast",
        Access::Key(Scope::Publish),
        Call::Publish(Verb::Broadcast),
    ),
    route(
        Method::POST,
        "/v1/dispatch",
        Access::Key(Scope::Publish),
        Call::Publish(Verb::Dispatch),
    ),
    route(
        Method::POST,
        "/v1/batch",
        Access::Key(Scope::Publish),
        Call::Batch,
    ),
    route(Method::GET, CONNECT_PATH, Access::Client, Call::Connect),
    route(
        Method::POST,
        "/v1/explain",
        Access::Key(Scope::Inspect),
        Call::Explain,
    ),
    route(
        Method::GET,
        "/v1/connections",
        Access::Key(Scope::Inspect),
        Call::Connections,
    ),
    route(
        Method::GET,
        "/v1/connections/{id}",
        Access::Key(Scope::Inspect),
        Call::Connection,
    ),
    route(
        Method::GET,
        "/v1/users/{user}",
        Access::Key(Scope::Inspect),
        Call::User,
    ),
    route(
        Method::GET,
        "/v1/channels",
        Access::Key(Scope::Inspect),
        Call::Channels,
    ),
    route(
        Method::GET,
        "/v1/channels/{channel}",
        Access::Key(Scope::Inspect),
        Call::Channel,
    ),
    route(
        Method::GET,
        "/v1/channels/{channel}/members",
        Access::Key(Scope::Inspect),
        Call::Members,
    ),
    route(
        Method::GET,
        "/v1/channels/{channel}/history",
        Access::Key(Scope::Inspect),
        Call::History,
    ),
    route(
        Method::POST,
        "/v1/join",
        Access::Key(Scope::Control),
        Call::Join,
    ),
    route(
        Method::POST,
        "/v1/leave",
        Access::Key(Scope::Control),
        Call::Leave,
    ),
    route(
        Method::POST,
        "/v1/disconnect",
        Access::Key(Scope::Control),
        Call::Disconnect,
    ),
    route(
        Method::POST,
        "/v1/tokens",
        Access::Key(Scope::Tokens),
        Call::Tokens,
    ),
    route(
        Method::POST,
        "/v1/revoke",
        Access::Key(Scope::Control),
        Call::Revoke,
    ),
    route(
        Method::POST,
        "/v1/auth",
        Access::Key(Scope::Tokens),
        Call::Auth,
    ),
    route(Method::GET, "/v1/openapi.json", Access::Open, Call::OpenApi),
    route(Method::GET, "/healthz", Access::Open, Call::Healthz),
    route(Method::GET, "/livez", Access::Open, Call::Livez),
    route(Method::GET, "/readyz", Access::Open, Call::Readyz),
    route(Method::GET, "/metrics", Access::Admin, Call::Metrics),
    route(Method::GET, script::PATH, Access::Open, Call::Script),
    route(Method::GET, "/", Access::Admin, Call::Page),
    route(Method::GET, "/favicon.ico", Access::Open, Call::Page),
];

impl Route {
    /// The segment that `{name}` stands for, `""` where there is none; `None` where the path does not match.
    pub(super) fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((before, rest)) = self.path.split_once('{') else {
            return (self.path == path).then_some("");
        };
        let behind = rest.split_once('}').map_or("", |(_, behind)| behind);
        let segment = path.strip_prefix(before)?.strip_suffix(behind)?;
        (!segment.is_empty() && !segment.contains('/')).then_some(segment)
    }

    /// The route's path with the names that `path` has in place of its own; `None` if the paths differ in length.
    fn at(&self, path: &str) -> Option<String> {
        let (own, given) = (self.path.split('/'), path.split('/'));
        if own.clone().count() != given.clone().count() {
            return None;
        }
        let segments = own.zip(given).map(
            |(own, given)| {
                if own.starts_with('{') { given } else { own }
            },
        );
        Some(segments.collect::<Vec<_>>().join("/"))
    }
}

/// The route that was probably meant by `path`, which no route takes.
pub(super) fn nearest_route(path: &str) -> Option<&'static Route> {
    if path.len() > SUGGESTED_BYTES {
        return None;
    }
    let path = path.trim_end_matches('/');
    nearest_to(path).or_else(|| nearest_to(&format!("/v1{path}")))
}

fn nearest_to(path: &str) -> Option<&'static Route> {
    let paths: Vec<(&Route, String)> = ROUTES
        .iter()
        .filter_map(|route| Some((route, route.at(path)?)))
        .collect();
    let known = paths.iter().map(|(route, path)| (*route, path.as_str()));
    nearest(path, known, |known| (known.len() / 4).min(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_stands_for_one_segment() {
        let segment = |pattern: &'static str, path: &'static str| {
            route(Method::GET, pattern, Access::Open, Call::Page).matches(path)
        };
        assert_eq!(segment("/v1/channels", "/v1/channels"), Some(""));
        assert_eq!(segment("/v1/channels", "/v1/channels/"), None);
        assert_eq!(
            segment("/v1/channels/{channel}", "/v1/channels/a%2Fb"),
            Some("a%2Fb")
        );
        assert_eq!(
            segment(
                "/v1/channels/{channel}/members",
                "/v1/channels/members/members"
            ),
            Some("members")
        );
        for path in [
            "/v1/channels/",
            "/v1/channels/a/",
            "/v1/channels/a/members",
            "/v1/channels",
        ] {
            assert_eq!(segment("/v1/channels/{channel}", path), None, "{path}");
        }
        for path in [
            "/v1/channels//members",
            "/v1/channels/members",
            "/v1/channels/a/b/members",
        ] {
            assert_eq!(
                segment("/v1/channels/{channel}/members", path),
                None,
                "{path}"
            );
        }
    }

    #[test]
    fn an_unknown_path_is_told_which_may_be_meant() {
        for (path, meant) in [
            ("/v1/emits", "POST /v1/emit"),
            ("/emit", "POST /v1/emit"),
            ("/v1/emit/", "POST /v1/emit"),
            ("/v1/boradcast", "POST /v1/broadcast"),
            ("/v1/user/ann", "GET /v1/users/{user}"),
            (
                "/v1/channels/room-1/histroy",
                "GET /v1/channels/{channel}/history",
            ),
            ("/channels/", "GET /v1/channels"),
            ("/metric", "GET /metrics"),
        ] {
            let route = nearest_route(path).unwrap();
            assert_eq!(format!("{} {}", route.method, route.path), meant, "{path}");
        }
        for path in [
            "/",
            "/wp-login.php",
            "/v1",
            "/v1/nothing",
            "/v2/nothing/x",
            "",
        ] {
            assert!(nearest_route(path).is_none(), "{path}");
        }
    }

    #[test]
    fn no_path_is_two_routes() {
        for route in &ROUTES {
            let path = route.path.replace(['{', '}'], "");
            let matching = ROUTES.iter().filter(|other| other.matches(&path).is_some());
            assert_eq!(matching.count(), 1, "{path}");
        }
    }
}
