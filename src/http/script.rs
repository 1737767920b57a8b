//! The client for web pages, in one file: `sdk/typescript` as its `npm run bundle` makes it.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use ring::digest::{SHA256, digest};

use super::{ResponseBody, ops};

/// Where it is served, to everyone: it is public, and pages of any origin import it.
pub(super) const PATH: &str = "/fanfare.js";

const CLIENT: &str = include_str!("fanfare.js");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Names this build of the client.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let hash = digest(&SHA256, CLIENT.as_bytes());
    format!("\"{}\"", BASE64URL_NOPAD.encode(&hash.as_ref()[..12]))
});

/// The client, or that the browser has it.
pub(super) fn client(headers: &HeaderMap) -> Response<ResponseBody> {
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // The comparison is weak (RFC 9110, section 13.1.2), and a proxy that compresses makes tags
        // weak.
        .any(|tag| tag.trim().trim_start_matches("W/") == *TAG);

    let (status, body) = if known {
        (StatusCode::NOT_MODIFIED, "")
    } else {
        (StatusCode::OK, CLIENT)
    };

    let mut response = ops::response(status, "text/javascript; charset=utf-8", body);
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (RESOURCE_POLICY, "cross-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // A browser asks again after five minutes, so that a new server's client reaches its pages.
        (CACHE_CONTROL, "public, max-age=300"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }

    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        headers.insert(ETAG, tag);
    }
    response
}
