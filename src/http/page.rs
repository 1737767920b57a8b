//! The page for trying the server out, and what a browser is shown at an address that does not serve it.

use std::sync::LazyLock;

use bytes::Bytes;
use data_encoding::BASE64;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
        VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use ring::digest::{SHA256, digest};

use super::{ResponseBody, access, ops, problem::Problem};

const PAGE: &str = include_str!("page.html");
const NOT_HERE: &str = include_str!("page_not_here.html");

/// An attribute of the page's root. It is empty if clients connect to the page's own address.
const PORT: &str = "data-port=\"\"";

/// The same as [`NOT_HERE`], for programs.
const NEEDS_KEY: &str = "off loopback this page needs an API key in the Authorization header, which a browser's \
                         address bar cannot send; start the server with --admin-listen 127.0.0.1:7071 and open \
                         http://127.0.0.1:7071/ on its machine, or from yours through ssh -L 7071:127.0.0.1:7071 HOST";

static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(PAGE));
static NOT_HERE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(NOT_HERE));

/// The page. On the admin address it is given the `port` that clients connect to.
pub(super) fn page(path: &str, port: Option<u16>) -> Response<ResponseBody> {
    if path != "/" {
        // Browsers ask for an icon. The page has one inside.
        return ops::response(StatusCode::NO_CONTENT, "image/x-icon", "");
    }

    let html = match port {
        None => Bytes::from_static(PAGE.as_bytes()),
        Some(port) => PAGE
            .replacen(PORT, &format!("data-port=\"{port}\""), 1)
            .into(),
    };
    document(StatusCode::OK, html, &PAGE_POLICY)
}

/// The answer to a request for the page that `problem` refuses: to a browser a text for people, to a program a
/// problem document. Neither says more than the other, and the status is the same.
pub(super) fn refused(problem: Problem, headers: &HeaderMap) -> Response<ResponseBody> {
    // Only a program sends a key, and it knows what to do about a wrong one.
    if access::bearer(headers).is_some() {
        return problem.into_response();
    }

    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = if accepts_html(headers) {
        document(
            status,
            Bytes::from_static(NOT_HERE.as_bytes()),
            &NOT_HERE_POLICY,
        )
    } else if status == StatusCode::UNAUTHORIZED {
        Problem::new(status, problem.code(), NEEDS_KEY).into_response()
    } else {
        problem.into_response()
    };

    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }

    response
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter();
    accepted.any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("text/html"))
    })
}

fn document(status: StatusCode, html: Bytes, policy: &HeaderValue) -> Response<ResponseBody> {
    let mut response = ops::response(status, "text/html; charset=utf-8", html);
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }

    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    response
}

/// What a browser may run and load for `html`: its own script and style, which are named by their hashes, and calls to
/// this server. A client may connect to another address, which a person enters in the page.
fn policy(html: &str) -> HeaderValue {
    let hash = |tag: &str| match inside(html, tag) {
        Some(text) => format!(
            "'sha256-{}'",
            BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref())
        ),
        None => "'none'".to_owned(),
    };

    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self' ws: wss:; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style"),
    );

    // Base64 is always a valid value. If it were not, nothing would run.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The text of the only element `tag` of `html`.
fn inside<'h>(html: &'h str, tag: &str) -> Option<&'h str> {
    let (_, rest) = html.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_the_port_of_clients() {
        assert_eq!(PAGE.matches(PORT).count(), 1);
    }

    #[test]
    fn a_policy_names_the_only_script_and_the_only_style() {
        let html = "<style>a{}</style><script>1</script>";
        let policy = policy(html);
        let policy = policy.to_str().unwrap();
        // printf %s 1 | openssl dgst -sha256 -binary | base64
        let script = "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=';";
        assert!(policy.contains(script), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        for html in [PAGE, NOT_HERE] {
            assert_eq!(html.matches("<style").count(), 1);
            assert!(html.matches("<script").count() <= 1);
            assert!(!html.contains(" style=") && !html.contains(" onclick="));
        }
        let none = self::policy(NOT_HERE);
        assert!(none.to_str().unwrap().contains("script-src 'none'"));
    }

    #[test]
    fn the_documents_that_the_page_names_exist() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let is_document = |part: &&str| {
            let extension = std::path::Path::new(part).extension();
            extension.is_some_and(|extension| extension == "md")
        };
        let names = PAGE.split(['<', '>']).filter(is_document);
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= 4, "{names:?}");
        for name in names {
            assert!(root.join(name).is_file(), "{name}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for html in [PAGE, NOT_HERE] {
            let links = html
                .split(['"', '\'', ' ', '(', '<', '>', '`'])
                .filter(|part| part.starts_with("http://") || part.starts_with("https://"));
            for link in links {
                let host = link.split('/').nth(2).unwrap();
                assert!(
                    host.starts_with("127.0.0.1") || host == "www.w3.org",
                    "{link}"
                );
            }
        }
    }
}
