//! An emit reaches exactly the connections that its target means.

use crate::support::*;
use serde_json::json;

#[test]
fn an_emit_with_a_filter_reaches_who_matches_and_nobody_else() {
    let server = server();
    let mut ann = server.client(
        "ann",
        &json!({"email": "ann@example.com", "roles": ["admin"]}),
    );
    let mut bob = server.client("bob", &json!({"email": "bob@example.com"}));
    let mut anonymous = server.connect("");
    let receipt = server.call(
        "/v1/emit",
        &json!({"event": "alert", "data": "Hello", "filter": "auth.email == params.e", "params": {"e": "ann@example.com"}}),
    );
    assert_eq!(
        (&receipt["matched"], &receipt["queued"], &receipt["dropped"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(ann.text(), r#"{"event":"alert","data":"Hello"}"#);
    bob.expect_nothing();
    anonymous.expect_nothing();
}
