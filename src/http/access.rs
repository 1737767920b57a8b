//! Which requests may call: those with an API key. Without any key, only those from this machine and not from a web
//! page.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, FORWARDED, HOST, HeaderValue, ORIGIN, VIA},
};
use ipnet::IpNet;

use super::problem::Problem;
use crate::{
    app::RuntimeConfig,
    auth::{Scope, has_form},
    id::AppId,
    metrics::Refusal,
    node::Node,
};

/// Of a header, so much is shown in messages: any real Origin or Host.
const SHOWN_CHARS: usize = 128;

/// The caller: an app, by one of its keys.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) app: AppId,
    pub(crate) key: Box<str>,
}

/// A request that is turned away for what it is or where it comes from: what is counted and logged, and the answer.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    /// The app that it meant, once that is known.
    pub(crate) app: Option<AppId>,
    pub(crate) problem: Problem,
}

impl Refused {
    pub(crate) fn new(why: Refusal, app: Option<AppId>, problem: Problem) -> Self {
        Self { why, app, problem }
    }

    /// Counts and logs it; the answer remains.
    pub(crate) fn logged(self, node: &Node) -> Problem {
        node.refusals()
            .refuse(self.why, self.app, self.problem.detail());
        self.problem
    }
}

/// The caller of a request that needs `scope`.
///
/// Without any API key this is development: every call is the first app's, and [`development`] has been passed. Both are
/// decided by the same `live`, so that a reload in between lets nobody in by half of each.
///
/// # Errors
/// 401 for a missing or unknown key, 403 for one without the scope.
pub(crate) fn authorize(
    node: &Node,
    runtime_config: &RuntimeConfig,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<Caller, Problem> {
    caller(runtime_config, headers, scope).map_err(|refused| refused.logged(node))
}

fn caller(
    runtime_config: &RuntimeConfig,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<Caller, Refused> {
    if runtime_config.keys.is_empty() {
        return Ok(Caller {
            app: AppId(0),
            key: "".into(),
        });
    }

    let unauthorized = |detail: &str| {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        Refused::new(Refusal::ApiKey, None, problem)
    };

    let presented = bearer(headers)
        .filter(|key| !key.is_empty())
        .ok_or_else(|| unauthorized("send Authorization: Bearer <api key>"))?;
    let key = runtime_config
        .keys
        .authenticate(presented)
        .ok_or_else(|| unauthorized(unknown_key(presented)))?;
    if !key.may(scope) {
        let detail = format!("the API key \"{}\" lacks the scope {scope}", key.name);
        let problem = Problem::new(StatusCode::FORBIDDEN, "missing_scope", detail);
        return Err(Refused::new(Refusal::Scope, Some(key.app), problem));
    }

    Ok(Caller {
        app: key.app,
        key: key.name.clone(),
    })
}

/// The message for a key that is not one of the server's.
fn unknown_key(presented: &str) -> &'static str {
    // Both are long and random to the eye, so the one is often set where the other belongs.
    if has_form(presented) {
        "this is a client token, not an API key"
    } else {
        "the API key is not known"
    }
}

/// The credentials of an `Authorization: Bearer` header (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    // The space after the scheme of an empty credential is cut off on the way.
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Whether a request has a body that the rules of development are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestBody {
    Some,
    None,
}

/// The rules for a server without API keys, so that no web page and no proxy left open can drive it.
///
/// # Errors
/// 403 for a foreign `Host`, `Origin`, or a request that a proxy passed on; 415 for a body that a page's form could
/// have sent.
pub(crate) fn development(
    headers: &HeaderMap,
    peer: IpAddr,
    body: RequestBody,
) -> Result<(), Refused> {
    let refuse = |why, what: &str| {
        let detail =
            format!("{what}; a server without API keys serves this machine only (set --api-key)");
        let problem = Problem::new(StatusCode::FORBIDDEN, "development_only", detail);
        Err(Refused::new(why, None, problem))
    };

    // A socket on `::` sees this machine's clients of IPv4 as `::ffff:127.0.0.1`.
    if !peer.to_canonical().is_loopback() {
        return refuse(Refusal::Remote, "the request comes from another machine");
    }

    // A proxy on this machine makes every request come from loopback, wherever its client is.
    let passed_on = [FORWARDED, VIA]
        .iter()
        .any(|name| headers.contains_key(name))
        || headers
            .keys()
            .any(|name| name.as_str().starts_with("x-forwarded-"));

    if passed_on {
        return refuse(Refusal::Proxy, "the request was passed on by a proxy");
    }

    // A foreign page can reach this port under a name of its own that resolves to 127.0.0.1 (DNS
    // rebinding). The browser takes that for the page's own origin, so only the Host gives it away.
    let mut hosts = headers.get_all(HOST).iter();
    // Two of them are refused as well: a proxy may have looked at the other one (RFC 9112, section
    // 3.2).
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.to_str().is_ok_and(is_loopback_host) => {}
        (host, _) => {
            let host = host.map_or_else(|| "that is missing".to_owned(), shown);
            let what = format!("the Host {host} is not localhost, 127.0.0.1 or [::1]");
            return refuse(Refusal::Host, &what);
        }
    }

    let foreign = headers
        .get_all(ORIGIN)
        .iter()
        .find(|origin| !origin.to_str().is_ok_and(is_loopback_origin));
    if let Some(origin) = foreign {
        // Browsers say "null" for what has no address of its own.
        let why = if origin == "null" {
            " (the page was opened as a file or in a sandboxed frame: serve it on localhost)"
        } else {
            ""
        };
        let what = format!(
            "the Origin {} is not localhost, 127.0.0.1 or [::1]{why}",
            shown(origin)
        );
        return refuse(Refusal::Origin, &what);
    }

    // The form of any page can post without a preflight, but not with this type.
    if body == RequestBody::Some && !is_json(headers) {
        let detail = "send Content-Type: application/json";
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", detail);
        return Err(Refused::new(Refusal::ContentType, None, problem));
    }

    Ok(())
}

/// A header's value as text, whatever is in it.
pub(crate) fn lossy(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// A header's value in quotes, for a message; what is long is cut.
pub(crate) fn shown(value: &HeaderValue) -> String {
    let text = lossy(value);
    format!("{:?}", text.chars().take(SHOWN_CHARS).collect::<String>())
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|v| v.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

pub(crate) fn is_loopback_origin(origin: &str) -> bool {
    origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        .is_some_and(is_loopback_host)
}

/// Whether `host`, with or without a port, is one of the names of this machine.
fn is_loopback_host(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(at) if !host.ends_with(']') => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    };
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok());
    port_ok && (name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]")
}

/// The client's address: the rightmost hop of `X-Forwarded-For` that is not a trusted proxy, if the peer is one.
pub(crate) fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    let mut address = peer.to_canonical();
    if !is_trusted(address) {
        return address;
    }

    // Bytes, not text: what a client wrote into the line before its proxy did must not hide what follows.
    let lines: Vec<&HeaderValue> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = lines
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // Empty elements of a list mean nothing (RFC 9110, section 5.6.1.2).
        .filter(|hop| !hop.is_empty());

    for hop in hops {
        // A trusted proxy writes addresses only, so the last address that is known counts.
        let Some(ip) = hop_address(hop) else {
            return address;
        };
        address = ip.to_canonical();
        if !is_trusted(address) {
            return address;
        }
    }

    address
}

/// The address of one hop, in the forms that proxies write: with and without a port, and IPv6 with and without brackets.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches('"');
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_server_without_keys_serves_this_machine_and_no_page_of_another() {
        let json = ("content-type", "application/json; charset=utf-8");
        let passes: &[&[(&str, &str)]] = &[
            &[("host", "localhost:7070"), json],
            &[
                ("host", "[::1]:7070"),
                json,
                ("origin", "http://localhost:3000"),
            ],
            &[
                ("host", "127.0.0.1"),
                json,
                ("origin", "https://[::1]:8443"),
            ],
        ];
        for pairs in passes {
            assert!(
                development(&headers(pairs), LOCAL, RequestBody::Some).is_ok(),
                "{pairs:?}"
            );
        }
        let refused: &[&[(&str, &str)]] = &[
            &[("host", "evil.example"), json],
            &[("host", "localhost.evil.example"), json],
            &[("host", "localhost:evil"), json],
            &[
                ("host", "127.0.0.1:7070"),
                json,
                ("origin", "http://evil.example"),
            ],
            &[("host", "127.0.0.1:7070"), json, ("origin", "null")],
            &[
                ("host", "127.0.0.1:7070"),
                json,
                ("origin", "http://localhost@evil.example"),
            ],
            &[("host", "localhost"), json, ("x-forwarded-for", "10.0.0.1")],
            &[("host", "localhost"), json, ("x-forwarded-proto", "https")],
            &[("host", "localhost"), json, ("via", "1.1 proxy")],
            &[("host", "localhost"), ("host", "evil.example"), json],
            &[json],
            &[("host", "localhost")],
            &[("host", "localhost"), ("content-type", "text/plain")],
            &[
                ("host", "localhost"),
                ("content-type", "application/x-www-form-urlencoded"),
            ],
        ];
        for pairs in refused {
            assert!(
                development(&headers(pairs), LOCAL, RequestBody::Some).is_err(),
                "{pairs:?}"
            );
        }
        assert!(
            development(
                &headers(passes[0]),
                IpAddr::from([192, 0, 2, 1]),
                RequestBody::Some
            )
            .is_err()
        );
    }

    #[test]
    fn a_credential_may_be_empty_and_is_not_absent_then() {
        for (value, credential) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", Some("")),
            ("Bearer", Some("")),
            ("Basic abc", None),
            ("", None),
        ] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(bearer(&headers), credential, "{value:?}");
        }
        assert_eq!(bearer(&headers(&[])), None);
    }

    #[test]
    fn an_address_is_believed_only_as_far_as_proxies_are_trusted() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let of = |value: &str, peer| {
            client_address(&headers(&[("x-forwarded-for", value)]), peer, &trusted)
        };
        assert_eq!(
            of("1.2.3.4, 5.6.7.8, 10.0.0.2", proxy),
            IpAddr::from([5, 6, 7, 8])
        );
        assert_eq!(
            of("1.2.3.4", IpAddr::from([192, 0, 2, 1])),
            IpAddr::from([192, 0, 2, 1])
        );
        assert_eq!(of("nonsense, 10.0.0.3", proxy), IpAddr::from([10, 0, 0, 3]));
        assert_eq!(of("10.0.0.9", proxy), IpAddr::from([10, 0, 0, 9]));
    }

    #[test]
    fn an_address_is_read_in_every_form_that_proxies_write() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let of = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = HeaderValue::from_bytes(line).unwrap();
                headers.append("x-forwarded-for", line);
            }
            client_address(&headers, proxy, &trusted).to_string()
        };
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"203.0.113.7:51234"], "203.0.113.7"),
            (&[b"2001:db8::9"], "2001:db8::9"),
            (&[b"[2001:db8::9]"], "2001:db8::9"),
            (&[b"[2001:db8::9]:443"], "2001:db8::9"),
            (&[b"\"203.0.113.7:51234\""], "203.0.113.7"),
            (&[b"::ffff:203.0.113.7"], "203.0.113.7"),
            (&[b"[::ffff:203.0.113.7]:1"], "203.0.113.7"),
            (&[b" 203.0.113.7\t, 10.0.0.2:80 "], "203.0.113.7"),
            // What a client wrote before its proxy did.
            (&[b"\xff, 203.0.113.7"], "203.0.113.7"),
            (&[b"\xff,203.0.113.7:51234"], "203.0.113.7"),
            (&[b"\xe2\x80\xa8, 203.0.113.7"], "203.0.113.7"),
            (&[b"\xff", b"203.0.113.7"], "203.0.113.7"),
            (&[b"1.1.1.1", b"203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            (&[b"1.1.1.1", b"203.0.113.7,", b""], "203.0.113.7"),
            (&[b", ,203.0.113.7,,"], "203.0.113.7"),
            // Nothing that a trusted proxy would write: it is the last address that is known.
            (&[b"203.0.113.7, \xff"], "10.0.0.1"),
            (&[b"203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
            (&[b"203.0.113.7:http"], "10.0.0.1"),
            (&[b"203.0.113.7:99999"], "10.0.0.1"),
            (&[b"[2001:db8::9"], "10.0.0.1"),
            (&[b"2001:db8::9]:443"], "10.0.0.1"),
            (&[b"203.0.113.7 10.0.0.2"], "10.0.0.1"),
            (&[b""], "10.0.0.1"),
        ];
        for (lines, expected) in cases {
            let shown: Vec<_> = lines
                .iter()
                .map(|line| line.escape_ascii().to_string())
                .collect();
            assert_eq!(of(lines), *expected, "{shown:?}");
        }
    }
}
