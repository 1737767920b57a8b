//! Revoked tokens, and claims that are replaced while their users are connected.

use fanfare::config::{ClientAuth, Scopes};
use serde_json::{Value, json};

use crate::support::*;

/// A token of `user` that was issued at `iat`.
fn issued(user: &str, iat: u64) -> String {
    signed(&json!({"sub": user, "iat": iat}))
}

fn revoke(server: &TestServer, body: &Value) -> Value {
    let answer = server.post_as(KEY, "/v1/revoke", body);
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.json()
}

fn replace(server: &TestServer, body: &Value) -> Value {
    let answer = server.post_as(KEY, "/v1/auth", body);
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.json()
}

/// What a client hears that connects with `token`: `welcome`, or the code and the reason that it is closed with.
fn heard(server: &TestServer, token: &str) -> Value {
    match server.open(&format!("token={token}")).next() {
        Received::Text(text) => serde_json::from_str::<Value>(&text).unwrap()["op"].clone(),
        Received::Close(code, reason) => json!([code, reason]),
        other => panic!("{other:?}"),
    }
}

fn refused() -> Value {
    json!([4001, "the token was revoked"])
}

fn matched(server: &TestServer, filter: &str) -> Value {
    let body = json!({"event": "e", "filter": filter});
    server.post_as(KEY, "/v1/emit", &body).json()["matched"].clone()
}

#[test]
fn revoked_tokens_are_refused_wherever_they_are_shown() {
    let server = keyed_server(|_| {});
    let now = unix_now();
    let (old, without) = (issued("ann", now - 10), signed(&json!({"sub": "ann"})));
    let mut lost = server.connect(&format!("token={old}&device=d"));
    let mut second = server.connect(&format!("token={without}"));
    let mut bob = server.connect(&format!("token={}", issued("bob", now - 10)));

    let answer = revoke(&server, &json!({"user": "ann"}));
    assert_eq!(
        (&answer["disconnected"], &answer["nodes"]),
        (&json!(2), &json!(1))
    );
    let before = answer["before"].as_u64().unwrap();
    assert!(
        before > now && answer["kept_until"].as_u64().unwrap() > before,
        "{answer}"
    );
    assert_eq!(answer.get("missing_nodes"), None);

    // No `bye` says to come back, and coming back does not help.
    for client in [&mut lost, &mut second] {
        assert_eq!(
            client.next(),
            Received::Close(4001, "the token was revoked".to_owned())
        );
    }
    for token in [&old, &without, &issued("ann", before - 1)] {
        assert_eq!(heard(&server, token), refused());
    }

    // A later token is good, but it does not take up what the revoked one had, and the old one does not renew it.
    let later = issued("ann", before);
    let mut ann = server.open(&format!("token={later}&device=d&resume={}", lost.id));
    let welcome = ann.json();
    assert_eq!(
        (&welcome["op"], &welcome["resumed"]),
        (&json!("welcome"), &json!(false))
    );
    ann.send(&json!({"op": "auth", "id": 1, "token": old}));
    let error = ann.json();
    assert_eq!(
        (&error["op"], &error["code"], &error["message"]),
        (
            &json!("error"),
            &json!("unauthorized"),
            &json!("the token was revoked")
        )
    );
    assert_eq!(matched(&server, "user == \"ann\""), 1);
    assert_eq!(ann.json()["event"], "e");
    bob.expect_nothing();
    assert_eq!(matched(&server, "user == \"bob\""), 1);
}

#[test]
fn a_lost_connection_whose_token_was_revoked_is_not_taken_up() {
    let server = keyed_server(|config| config.limits.resume_window = PATIENCE);
    let now = unix_now();
    let token = |user: &str, iat| signed(&json!({"sub": user, "iat": iat, "can": {"join": ["*"]}}));
    let lost = |user: &str| {
        let mut client = server.connect(&format!("token={}&device=d", token(user, now - 10)));
        client.join("room");
        client.id.clone()
    };
    let ids = [lost("ann"), lost("bob")];
    eventually("the ends are noticed", || {
        server.count("fanfare_closes_total", "1006") == 2
    });
    let answer = revoke(&server, &json!({"user": "ann", "before": now}));
    assert_eq!(answer["disconnected"], 0);

    let resumed = |user: &str, id: &str| {
        let query = format!("token={}&device=d&resume={id}", token(user, now));
        server.open(&query).json()["resumed"].clone()
    };
    assert_eq!(
        (resumed("ann", &ids[0]), resumed("bob", &ids[1])),
        (json!(false), json!(true))
    );
}

#[test]
fn only_what_was_issued_before_is_revoked() {
    let server = keyed_server(|_| {});
    let now = unix_now();
    let (old, new) = (issued("ann", now - 100), issued("ann", now - 10));
    let mut first = server.connect(&format!("token={old}"));
    let mut second = server.connect(&format!("token={new}"));
    let answer = revoke(
        &server,
        &json!({"users": ["ann", "eve"], "before": now - 50}),
    );
    assert_eq!(
        (&answer["disconnected"], &answer["before"]),
        (&json!(1), &json!(now - 50))
    );
    assert_eq!(first.closed(), 4001);
    assert_eq!(
        (heard(&server, &old), heard(&server, &new)),
        (refused(), json!("welcome"))
    );

    // The stricter of two holds, whichever comes first.
    revoke(
        &server,
        &json!({"user": "ann", "before": "2001-09-09T01:46:40Z"}),
    );
    assert_eq!(heard(&server, &old), refused());
    second.expect_nothing();
    revoke(&server, &json!({"user": "ann", "before": now - 10 + 1}));
    assert_eq!(second.closed(), 4001);
    let eve = issued("eve", now - 51);
    assert_eq!(
        (
            heard(&server, &eve),
            heard(&server, &issued("eve", now - 50))
        ),
        (refused(), json!("welcome"))
    );
}

#[test]
fn a_token_that_is_signed_right_after_is_good() {
    let server = keyed_server(|_| {});
    for _ in 0..3 {
        let before = revoke(&server, &json!({"user": "ann"}))["before"].clone();
        let signed = server
            .post_as(KEY, "/v1/tokens", &json!({"user": "ann"}))
            .json();
        let token = signed["token"].as_str().unwrap();
        assert_eq!(heard(&server, token), "welcome", "{before}");
        let embedded = server.0.sign_token("ann", json!({})).sign().unwrap();
        assert_eq!(heard(&server, &embedded.token), "welcome", "{before}");
    }
}

#[test]
fn a_revocation_is_forgotten_when_tokens_of_its_time_have_ended() {
    let server = keyed_server(|config| {
        config.limits.token_ttl = std::time::Duration::from_secs(6);
        config.limits.revocation_ttl = std::time::Duration::from_secs(6);
        config.limits.revocations = 1;
    });
    let old = issued("ann", 1000);
    // The leeway of token times counts: it is kept for 11 s after `before`.
    revoke(&server, &json!({"user": "ann", "before": unix_now() - 3}));
    assert_eq!(heard(&server, &old), refused());
    assert_eq!(
        server
            .post_as(KEY, "/v1/revoke", &json!({"user": "bob"}))
            .code(),
        "revocations_full"
    );
    eventually("it is forgotten", || heard(&server, &old) == "welcome");
    eventually("there is room again", || {
        server
            .post_as(KEY, "/v1/revoke", &json!({"user": "bob"}))
            .status
            == 200
    });
}

#[test]
fn revocations_are_bounded_and_a_refused_one_revokes_nothing() {
    let server = keyed_server(|config| config.limits.revocations = 2);
    revoke(&server, &json!({"users": ["a", "b"]}));
    let full = server.post_as(KEY, "/v1/revoke", &json!({"users": ["a", "c"]}));
    assert_eq!(
        (full.status, full.code().as_str()),
        (503, "revocations_full")
    );
    assert_eq!(heard(&server, &issued("c", 1000)), "welcome");
    revoke(&server, &json!({"user": "a"}));
}

#[test]
fn wrong_revocations_are_refused() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        let few = Scopes::from_iter([
            fanfare::config::Scope::Publish,
            fanfare::config::Scope::Tokens,
        ]);
        app.keys
            .push(api_key("few", "key-that-may-not-control", few));
    });
    for (body, status, code) in [
        (json!({}), 400, "missing_field"),
        (json!({"user": "a", "users": ["b"]}), 400, "bad_field"),
        (json!({"user": ""}), 400, "bad_field"),
        (json!({"user": "x".repeat(257)}), 400, "name_too_long"),
        (
            json!({"user": "a", "before": "yesterday"}),
            400,
            "bad_field",
        ),
        (json!({"user": "a", "before": -1}), 400, "bad_field"),
        (json!({"user": "a", "before": 1.5}), 400, "bad_field"),
        (
            json!({"user": "a", "before": unix_now() + 60}),
            400,
            "bad_field",
        ),
        (json!({"user": "a", "until": 1}), 400, "unknown_field"),
        (json!({"users": vec!["a"; 10_001]}), 400, "too_many_names"),
    ] {
        let answer = server.post_as(KEY, "/v1/revoke", &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{body}"
        );
    }
    assert_eq!(heard(&server, &issued("a", 1000)), "welcome");
    let denied = server.post_as(
        "key-that-may-not-control",
        "/v1/revoke",
        &json!({"user": "a"}),
    );
    assert_eq!(
        (denied.status, denied.code().as_str()),
        (403, "missing_scope")
    );
    assert_eq!(revoke(&server, &json!({"users": []}))["disconnected"], 0);

    let off = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.client_auth = Some(ClientAuth::Off);
    });
    for (path, body) in [
        ("/v1/revoke", json!({"user": "a"})),
        ("/v1/auth", json!({"user": "a", "claims": {}})),
    ] {
        let answer = off.post_as(KEY, path, &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (409, "no_users"),
            "{path}"
        );
    }
}

#[test]
fn a_reload_changes_how_long_and_how_many() {
    let mut config = None;
    let server = keyed_server(|changed| {
        changed.limits.revocations = 1;
        config = Some(changed.clone());
    });
    let mut config = config.unwrap();
    revoke(&server, &json!({"user": "a"}));
    config.limits.revocations = 2;
    config.limits.revocation_ttl *= 2;
    let report = server.0.reload(config).unwrap();
    assert!(report.needs_restart.is_empty(), "{report:?}");
    let answer = revoke(&server, &json!({"user": "b"}));
    let kept = answer["kept_until"].as_u64().unwrap() - answer["before"].as_u64().unwrap();
    assert!(kept > 13 * 24 * 3600, "{answer}");
}

// Claims

/// A server with an index on `auth.plan`.
fn indexed() -> TestServer {
    keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.index = vec!["auth.plan".to_owned()];
    })
}

#[test]
fn claims_are_replaced_in_filters_and_indexes() {
    let server = indexed();
    let token = |user: &str| signed(&json!({"sub": user, "plan": "free", "age": 7}));
    let mut ann = [
        server.connect(&format!("token={}", token("ann"))),
        server.connect(&format!("token={}", token("ann"))),
    ];
    let _bob = server.connect(&format!("token={}", token("bob")));
    let by_index = |plan: &str| matched(&server, &format!("auth.plan == \"{plan}\""));
    let by_scan = |plan: &str| matched(&server, &format!("auth.plan + \"\" == \"{plan}\""));
    assert_eq!((by_index("free"), by_scan("free")), (json!(3), json!(3)));
    for client in &mut ann {
        assert_eq!(
            (
                client.json()["event"].clone(),
                client.json()["event"].clone()
            ),
            (json!("e"), json!("e"))
        );
    }

    let answer = replace(&server, &json!({"user": "ann", "claims": {"plan": "pro"}}));
    assert_eq!(answer, json!({"connections": 2, "nodes": 1}));
    assert_eq!((by_index("pro"), by_scan("pro")), (json!(2), json!(2)));
    assert_eq!((by_index("free"), by_scan("free")), (json!(1), json!(1)));
    let one = server
        .get_as(KEY, &format!("/v1/connections/{}", ann[0].id))
        .json();
    assert_eq!(
        (
            &one["user"],
            &one["auth"]["sub"],
            &one["auth"]["plan"],
            &one["auth"]["age"]
        ),
        (&json!("ann"), &json!("ann"), &json!("pro"), &json!(null))
    );
    assert!(one["auth"]["iat"].is_u64(), "{one}");
    let nobody = replace(&server, &json!({"user": "nobody", "claims": {}}));
    assert_eq!(nobody["connections"], 0);

    // Who comes later has what the token says.
    let _third = server.connect(&format!("token={}", token("ann")));
    assert_eq!(by_index("pro"), 2);
}

#[test]
fn rights_are_replaced_with_the_claims_and_channels_that_they_do_not_allow_are_left() {
    let server = indexed();
    let can = json!({"join": ["room-*"], "members": ["room-*"]});
    let mut ann = server.connect(&format!(
        "token={}",
        signed(&json!({"sub": "ann", "can": can}))
    ));
    ann.join("room-1");
    let put = json!({"channel": "den", "to": {"users": ["ann"]}});
    server.post_as(KEY, "/v1/join", &put);
    assert_eq!(ann.json()["op"], "joined");

    // Without `can` the rights stay.
    replace(&server, &json!({"user": "ann", "claims": {"plan": "free"}}));
    ann.join("room-2");

    let new = json!({"user": "ann", "claims": {}, "can": {"join": ["room-2", "lobby"]}});
    assert_eq!(replace(&server, &new)["connections"], 1);
    assert_eq!(ann.json(), json!({"op": "left", "channel": "room-1"}));
    ann.send(&json!({"op": "join", "id": 1, "channel": "room-1"}));
    assert_eq!(ann.json()["code"], "forbidden");
    ann.join("lobby");
    let one = server
        .get_as(KEY, &format!("/v1/connections/{}", ann.id))
        .json();
    assert_eq!(one["channels"], json!(["den", "room-2", "lobby"]));
    assert_eq!(one["auth"]["can"], new["can"]);
}

#[test]
fn replaced_claims_hold_until_a_later_token_renews_them() {
    let server = indexed();
    let now = unix_now();
    let token = |iat: Option<u64>, plan: &str| {
        let mut claims = json!({"sub": "ann", "plan": plan});
        if let Some(iat) = iat {
            claims["iat"] = json!(iat);
        }
        signed(&claims)
    };
    let mut ann = server.connect(&format!("token={}", token(Some(now - 10), "free")));
    replace(&server, &json!({"user": "ann", "claims": {"plan": "pro"}}));
    for old in [
        token(Some(now - 10), "free"),
        token(Some(now - 1), "free"),
        token(None, "free"),
    ] {
        ann.send(&json!({"op": "auth", "id": 1, "token": old}));
        let error = ann.json();
        assert_eq!(
            (&error["op"], &error["code"]),
            (&json!("error"), &json!("token_superseded"))
        );
        assert_eq!(matched(&server, "auth.plan == \"pro\""), 1);
        assert_eq!(ann.json()["event"], "e");
    }
    ann.send(&json!({"op": "auth", "id": 2, "token": token(Some(now + 60), "team")}));
    assert_eq!(ann.json(), json!({"op": "ack", "id": 2, "user": "ann"}));
    assert_eq!(
        (
            matched(&server, "auth.plan == \"team\""),
            matched(&server, "auth.plan == \"pro\"")
        ),
        (json!(1), json!(0))
    );
    assert_eq!(ann.json()["event"], "e");

    // The token that it came with still decides whether it was revoked.
    replace(&server, &json!({"user": "ann", "claims": {}}));
    revoke(&server, &json!({"user": "ann", "before": now}));
    ann.expect_nothing();
}

#[test]
fn a_connection_with_replaced_claims_is_closed_when_its_token_is_revoked() {
    let server = keyed_server(|_| {});
    let now = unix_now();
    let mut ann = server.connect(&format!("token={}", issued("ann", now - 100)));
    replace(&server, &json!({"user": "ann", "claims": {"plan": "pro"}}));
    let answer = revoke(&server, &json!({"user": "ann", "before": now - 50}));
    assert_eq!(answer["disconnected"], 1);
    assert_eq!(ann.closed(), 4001);
}

#[test]
fn claims_that_no_token_could_bring_are_refused() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        let few = Scopes::from_iter([fanfare::config::Scope::Control]);
        app.keys.push(api_key("few", "key-that-may-not-sign", few));
    });
    let _ann = server.connect(&format!("token={}", issued("ann", 1000)));
    for (body, code, says) in [
        (json!({"user": "ann"}), "missing_field", "claims"),
        (json!({"claims": {}}), "missing_field", "user"),
        (json!({"user": "ann", "claims": []}), "bad_claims", "claims"),
        (
            json!({"user": "ann", "claims": null}),
            "bad_claims",
            "claims",
        ),
        (
            json!({"user": "ann", "claims": {"sub": "bob"}}),
            "bad_claims",
            "\"user\"",
        ),
        (
            json!({"user": "ann", "claims": {"can": {}}}),
            "bad_claims",
            "\"can\": {…}}",
        ),
        (
            json!({"user": "ann", "claims": {}, "can": {"jion": []}}),
            "bad_claims",
            "can.jion",
        ),
        (
            json!({"user": "ann", "claims": {}, "can": {"join": "a"}}),
            "bad_claims",
            "can.join",
        ),
        (
            json!({"user": "ann", "claims": {"x": "x".repeat(9000)}}),
            "bad_claims",
            "over 8192",
        ),
        (
            json!({"user": "", "claims": {}}),
            "bad_field",
            "must not be empty",
        ),
    ] {
        let answer = server.post_as(KEY, "/v1/auth", &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{body}: {answer:?}"
        );
        let detail = answer.json()["detail"].clone();
        assert!(detail.as_str().unwrap().contains(says), "{body}: {detail}");
    }
    let denied = server.post_as(
        "key-that-may-not-sign",
        "/v1/auth",
        &json!({"user": "ann", "claims": {}}),
    );
    assert_eq!(
        (denied.status, denied.code().as_str()),
        (403, "missing_scope")
    );
    assert_eq!(
        matched(&server, "auth.iat == 1000"),
        1,
        "nothing was replaced"
    );
}

#[test]
fn a_program_that_embeds_the_server_revokes_and_replaces_too() {
    let server = keyed_server(|_| {});
    let now = unix_now();
    let mut ann = server.connect(&format!("token={}", issued("ann", now - 10)));
    let replaced = fanfare::block_on(server.0.replace_claims("ann", json!({"plan": "pro"}), None));
    let replaced = replaced.unwrap();
    assert_eq!((replaced.connections, replaced.nodes), (1, 1));
    assert_eq!(matched(&server, "auth.plan == \"pro\""), 1);
    assert_eq!(ann.json()["event"], "e");
    let wrong = fanfare::block_on(server.0.replace_claims("ann", json!({"sub": "bob"}), None));
    assert!(matches!(
        wrong,
        Err(fanfare::EmitError::Node(fanfare::NodeError::Claims(_)))
    ));

    let early = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1500);
    let revoked = fanfare::block_on(server.0.revoke(&["ann"], Some(early))).unwrap();
    assert_eq!((revoked.before, revoked.disconnected), (2, 0));
    let revoked = fanfare::block_on(server.0.revoke(&["ann"], None)).unwrap();
    assert_eq!(revoked.disconnected, 1);
    assert_eq!(ann.closed(), 4001);
}
