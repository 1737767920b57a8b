//! What a web page of another origin may read: in development a token, and nothing else.

use crate::support::*;
use serde_json::json;

const PAGE: &str = "http://localhost:3000";

/// What a browser asks before it sends JSON for a page of `origin`.
fn preflight(server: &TestServer, path: &str, origin: &str) -> Answer {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type"),
    ];
    server.request("OPTIONS", path, &headers, None)
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn in_development_a_page_of_localhost_gets_a_token() {
    let server = server();
    for page in [PAGE, "http://127.0.0.1:8090", "https://[::1]"] {
        let answer = preflight(&server, "/v1/tokens", page);
        assert_eq!((answer.status, &*answer.text), (204, ""), "{answer:?}");
        assert_eq!(allowed(&answer), Some(page));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("content-type")
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);

        let body = json!({"user": "ann"}).to_string();
        let answer = server.request(
            "POST",
            "/v1/tokens",
            &[("Origin", page)],
            Some(body.as_bytes()),
        );
        assert_eq!((answer.status, allowed(&answer)), (200, Some(page)));
        assert_eq!(answer.header("vary"), Some("Origin"));
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        let client = server.try_open(&format!("token={token}"), &[("Origin", page)]);
        assert_eq!(client.unwrap().json()["user"], "ann");
    }
}

#[test]
fn a_page_reads_why_it_gets_no_token() {
    let server = server();
    let answer = server.request("POST", "/v1/tokens", &[("Origin", PAGE)], Some(b"{}"));
    assert_eq!((answer.status, allowed(&answer)), (400, Some(PAGE)));
}

#[test]
fn pages_of_other_hosts_are_refused_and_may_read_nothing() {
    let server = server();
    for page in [
        "https://evil.example",
        "http://localhost.evil.example",
        "null",
    ] {
        let answer = preflight(&server, "/v1/tokens", page);
        assert_eq!((answer.status, allowed(&answer)), (403, None), "{page}");
        let answer = server.request("POST", "/v1/tokens", &[("Origin", page)], Some(b"{}"));
        assert_eq!((answer.status, allowed(&answer)), (403, None), "{page}");
        assert_eq!(
            answer.header("vary"),
            Some("Origin"),
            "a cache keeps them apart"
        );
    }
}

#[test]
fn every_other_path_is_closed_to_pages_and_says_why() {
    let server = server();
    for path in [
        "/v1/emit",
        "/v1/connections",
        "/v1/openapi.json",
        "/metrics",
    ] {
        let answer = preflight(&server, path, PAGE);
        assert_eq!((answer.status, allowed(&answer)), (405, None), "{path}");
        assert_eq!(answer.code(), "method_not_allowed", "{path}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("CORS") && detail.contains("POST /v1/tokens alone"),
            "{detail}"
        );
        assert!(answer.header("allow").is_some());
        let answer = server.request("GET", path, &[("Origin", PAGE)], None);
        assert_eq!(allowed(&answer), None, "{path}");
    }
    // Without a page there is no preflight, and a method that the path does not take is only that.
    for path in ["/v1/tokens", "/v1/emit"] {
        let answer = server.request("OPTIONS", path, &[], None);
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("POST")),
            "{path}"
        );
        assert!(!answer.text.contains("CORS"), "{answer:?}");
    }
    assert_eq!(
        server.request("OPTIONS", "/v1/nothing", &[], None).status,
        404
    );
}

#[test]
fn with_api_keys_nothing_is_open_to_pages() {
    let server = keyed_server(|_| {});
    let authorization = format!("Bearer {KEY}");
    let headers = [("Origin", PAGE), ("Authorization", &*authorization)];
    for path in ["/v1/tokens", "/v1/emit"] {
        let answer = preflight(&server, path, PAGE);
        assert_eq!((answer.status, allowed(&answer)), (405, None), "{path}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("an API key must never be in a page"),
            "{detail}"
        );
        let body = json!({"user": "ann", "event": "e"}).to_string();
        let answer = server.request("POST", path, &headers, Some(body.as_bytes()));
        assert_eq!(allowed(&answer), None, "{path}");
    }
    assert_eq!(
        server.count("fanfare_refusals_total", "reason=\"preflight\""),
        2
    );
}
