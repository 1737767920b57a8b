//! Which answers a web page of another origin may read (CORS, as the Fetch standard has it).
//!
//! One call is open, and only in development: a page that a developer serves on localhost may ask `POST /v1/tokens` for a
//! token. With API keys nothing is open, since a key in a page is a key for everyone who opens the page.

use hyper::{
    Method, Request, Response, StatusCode,
    body::Body,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
    },
};

use super::{ResponseBody, access};

/// The call that is open.
pub(super) const OPEN: &str = "/v1/tokens";

/// How long a browser may remember a preflight's answer, in seconds.
const MAX_AGE: &str = "600";

/// What the answer to a request on [`OPEN`] in development says to browsers.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// The page that asks, if it is one of this machine.
    origin: Option<HeaderValue>,
    preflight: bool,
}

impl Opening {
    /// What `request` is answered with beside its answer; nothing if its path is closed to pages.
    pub(super) fn of<B: Body>(request: &Request<B>, development: bool) -> Option<Self> {
        if !development || request.uri().path() != OPEN {
            return None;
        }
        // A browser sends one. A request with two names no page.
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let origin = origins.next().filter(|origin| {
            let is_local = origin.to_str().is_ok_and(access::is_loopback_origin);
            is_local && origins.next().is_none()
        });
        Some(Self {
            preflight: origin.is_some() && is_preflight(request),
            origin: origin.cloned(),
        })
    }

    /// The answer to a preflight, if that is what the request is.
    pub(super) fn preflight(&self) -> Option<Response<ResponseBody>> {
        if !self.preflight {
            return None;
        }

        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();

        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }

        Some(response)
    }

    /// Lets the page read `response`, and keeps caches from giving it to another page.
    pub(super) fn mark(self, response: &mut Response<ResponseBody>) {
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }
}

/// Whether a browser asks for a page, before a request, whether it may send it.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What the answer to a preflight on a path that is closed to pages says, beside which method the path takes.
pub(super) fn closed(development: bool) -> &'static str {
    if development {
        "no page of another origin may call it (CORS); in development POST /v1/tokens alone is open to pages on localhost"
    } else {
        "no page of another origin may call it (CORS): an API key must never be in a page, so call it from your own backend"
    }
}
