//! Who a client is, how long, and which pages may connect; what a server without keys refuses.

use std::time::Duration;

use crate::support::*;
use fanfare::config::{AppConfig, ClientAuth, ClientKeyConfig, Config, Scopes};
use serde_json::{Value, json};

fn required(config: &mut Config) {
    config
        .apps
        .values_mut()
        .for_each(|app| app.client_auth = Some(ClientAuth::Required));
}

fn shown(server: &TestServer, id: &str) -> Value {
    server.get_as(KEY, &format!("/v1/connections/{id}")).json()
}

fn matched(server: &TestServer, body: &Value) -> Value {
    let answer = server.post_as(KEY, "/v1/emit", body).json();
    answer
        .get("matched")
        .unwrap_or_else(|| panic!("{answer}"))
        .clone()
}

// Where the token comes from

#[test]
fn a_token_may_come_by_query_by_header_or_by_message() {
    let server = keyed_server(|_| {});
    let token = signed(&json!({"sub": "ann", "team": "red"}));
    let mut by_query = server.open(&format!("token={token}"));
    let mut by_header = server
        .try_open("", &[("Authorization", &format!("Bearer {token}"))])
        .unwrap();
    assert_eq!(by_query.json()["user"], "ann");
    assert_eq!(by_header.json()["user"], "ann");
    let mut by_message = server.open("");
    assert_eq!(by_message.json()["user"], json!(null));
    by_message.send(&json!({"op": "auth", "id": 1, "token": token}));
    assert_eq!(
        by_message.json(),
        json!({"op": "ack", "id": 1, "user": "ann"})
    );
    assert_eq!(
        matched(
            &server,
            &json!({"event": "e", "filter": "auth.team == \"red\" && user == \"ann\""})
        ),
        3
    );
}

#[test]
fn where_required_nothing_comes_before_authentication() {
    let server = keyed_server(required);
    let mut client = server.open("");
    client.expect_nothing();
    assert_eq!(matched(&server, &json!({"event": "early"})), 0);
    assert_eq!(
        matched(&server, &json!({"event": "early", "filter": "true"})),
        0
    );
    let listed = server.get_as(KEY, "/v1/connections").json();
    assert_eq!(listed["connections"], json!([]));
    let closed = server
        .post_as(KEY, "/v1/disconnect", &json!({"filter": "true"}))
        .json();
    assert_eq!(closed["disconnected"], 0);
    client.send(&json!({"op": "auth", "id": 1, "token": signed(&json!({"sub": "ann"}))}));
    let welcome = client.json();
    assert_eq!(
        (&welcome["op"], &welcome["user"]),
        (&json!("welcome"), &json!("ann"))
    );
    assert_eq!(client.json()["op"], "ack");
    assert_eq!(matched(&server, &json!({"event": "late"})), 1);
    assert_eq!(client.json()["event"], "late");
    let mut at_once = server.open(&format!("token={}", signed(&json!({"sub": "bob"}))));
    assert_eq!(at_once.json()["op"], "welcome");
}

#[test]
fn where_required_who_does_not_authenticate_in_time_is_closed() {
    let server = keyed_server(|config| {
        required(config);
        config.limits.auth = Duration::from_secs(2);
    });
    let mut client = server.open("");
    client.send(&json!({"op": "ping", "id": 1}));
    assert_eq!(client.json()["op"], "ack");
    assert_eq!(
        client.message(),
        Received::Close(
            4001,
            "no token came in time; connect with ?token=, or send op \"auth\" first".into()
        )
    );
    let mut timely = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    std::thread::sleep(Duration::from_secs(3));
    timely.expect_nothing();
}

#[test]
fn before_the_welcome_a_bad_token_ends_the_connection_and_after_it_does_not() {
    let server = keyed_server(required);
    let mut client = server.open("");
    client.send(&json!({"op": "auth", "id": 1, "token": "nonsense"}));
    assert_eq!(client.closed(), 4001);
    let mut client = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    client.send(&json!({"op": "auth", "id": 1, "token": "nonsense"}));
    let error = client.json();
    assert_eq!(
        (&error["op"], &error["id"], &error["code"]),
        (&json!("error"), &json!(1), &json!("unauthorized"))
    );
    assert_eq!(
        matched(&server, &json!({"event": "e", "to": {"users": ["ann"]}})),
        1
    );
    assert_eq!(client.json()["event"], "e");
}

// Bad tokens

/// A token that is good for issuer `me` and audience `chat`.
fn for_me() -> Value {
    json!({"sub": "ann", "iss": "me", "aud": ["web", "chat"]})
}

/// What is wrong with a token, and the token.
fn bad_tokens() -> Vec<(&'static str, String)> {
    let with = |name: &str, value: Value| {
        let mut claims = for_me();
        claims[name] = value;
        signed(&claims)
    };
    let (good, now) = (for_me(), unix_now());
    let hs256 = json!({"alg": "HS256"});
    let unsigned = jwt(SECRET, &json!({"alg": "none"}), &good);
    let (unsigned_head, _) = unsigned.rsplit_once('.').unwrap();
    let valid = signed(&good);
    vec![
        ("nonsense", "nonsense".to_owned()),
        ("no signature", valid.rsplit_once('.').unwrap().0.to_owned()),
        ("another signature", format!("{valid}A")),
        ("alg none, unsigned", format!("{unsigned_head}.")),
        ("alg none, signed", unsigned.clone()),
        (
            "alg RS256 over the secret",
            jwt(SECRET, &json!({"alg": "RS256"}), &good),
        ),
        ("alg HS512", jwt(SECRET, &json!({"alg": "HS512"}), &good)),
        (
            "crit",
            jwt(SECRET, &json!({"alg": "HS256", "crit": ["b64"]}), &good),
        ),
        (
            "foreign key",
            jwt("another-secret-of-more-than-32-bytes", &hs256, &good),
        ),
        ("empty key", jwt("", &hs256, &good)),
        (
            "expired and signed by another key",
            jwt(
                "another-secret-of-more-than-32-bytes",
                &hs256,
                &json!({"sub": "ann", "iss": "me", "aud": "chat", "exp": now - 60}),
            ),
        ),
        (
            "expired and of another issuer",
            signed(&json!({"sub": "ann", "iss": "you", "aud": "chat", "exp": now - 60})),
        ),
        ("not yet", with("nbf", json!(now + 600))),
        ("exp is text", with("exp", json!("tomorrow"))),
        ("another issuer", with("iss", json!("you"))),
        ("another audience", with("aud", json!("mail"))),
        ("no user", with("sub", json!(null))),
        ("an empty user", with("sub", json!(""))),
        ("a user that is a number", with("sub", json!(7))),
        ("wrong rights", with("can", json!({"dance": true}))),
        ("claims too big", with("big", json!("x".repeat(9000)))),
    ]
}

#[test]
fn a_bad_token_is_upgraded_and_then_closed_with_4001() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.issuer = Some("me".to_owned());
        app.audience = Some("chat".to_owned());
    });
    let valid = signed(&for_me());
    assert_eq!(server.open(&format!("token={valid}")).json()["user"], "ann");
    for (what, token) in bad_tokens() {
        let mut client = server.open(&format!("token={token}"));
        match client.message() {
            Received::Close(4001, reason) => {
                assert!(
                    !reason.is_empty() && !reason.contains("nonsense"),
                    "{what}: {reason}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
        let mut by_header = server
            .try_open("", &[("Authorization", &format!("Bearer {token}"))])
            .unwrap();
        assert_eq!(by_header.closed(), 4001, "{what}");
    }
    assert_eq!(
        matched(&server, &json!({"event": "e", "filter": "user != \"ann\""})),
        0
    );
}

#[test]
fn a_token_in_milliseconds_is_refused_wherever_it_comes_from() {
    let server = keyed_server(required);
    let in_ms = |claim: &str| {
        let mut claims = json!({"sub": "ann"});
        claims[claim] = json!(unix_now() * 1000);
        signed(&claims)
    };
    let reason =
        |claim| format!("the token's \"{claim}\" is in milliseconds; it must be in seconds");
    for claim in ["exp", "iat", "nbf"] {
        let token = in_ms(claim);
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str())];
        let mut by_message = server.open("");
        by_message.send(&json!({"op": "auth", "token": token}));
        for mut client in [
            server.open(&format!("token={token}")),
            server.try_open("", &headers).unwrap(),
            by_message,
        ] {
            assert_eq!(client.next(), Received::Close(4001, reason(claim)));
        }
        let mut client = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
        client.send(&json!({"op": "auth", "id": 1, "token": token}));
        let error = client.json();
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!("unauthorized"), &json!(reason(claim)))
        );

        // What the server signs, or replaces claims by, cannot have it either.
        let body = json!({"user": "ann", "claims": {claim: unix_now() * 1000}});
        for path in ["/v1/tokens", "/v1/auth"] {
            let answer = server.post_as(KEY, path, &body);
            assert_eq!(answer.status, 400, "{path} {claim}: {answer:?}");
        }
    }
}

#[test]
fn what_is_no_token_is_told_what_a_token_is() {
    let server = keyed_server(required);
    for (query, reason) in [
        ("token=".to_owned(), "the token is empty".to_owned()),
        (
            format!("token={KEY}"),
            "not a JSON Web Token: a token has three parts separated by dots".to_owned(),
        ),
        (
            format!("token=Bearer+{}", signed(&json!({"sub": "ann"}))),
            "not a JSON Web Token: leave out \"Bearer\"; a token has three parts separated by dots"
                .to_owned(),
        ),
        (
            format!(
                "token={}",
                jwt(SECRET, &json!({"alg": "HS512"}), &json!({"sub": "ann"}))
            ),
            "the token's algorithm is HS512; this app takes HS256".to_owned(),
        ),
        (
            format!(
                "token={}",
                signed(&json!({"sub": "ann", "can": {"jion": ["a"]}}))
            ),
            "the token: unknown field \"can.jion\"; did you mean \"can.join\"?".to_owned(),
        ),
    ] {
        assert_eq!(
            server.open(&query).next(),
            Received::Close(4001, reason),
            "{query}"
        );
    }
    let token = signed(&json!({"sub": "ann"}));
    let answer = server
        .post_as(&token, "/v1/emit", &json!({"event": "e"}))
        .json();
    assert_eq!(answer["detail"], "this is a client token, not an API key");
}

#[test]
fn where_the_app_was_not_named_a_refused_token_names_the_one_that_was_taken() {
    let server = keyed_server(|config| {
        required(config);
        let app = AppConfig {
            tokens: vec![token_key("the-secret-of-the-blog-32-bytes-or-more")],
            ..AppConfig::default()
        };
        config.apps.insert("blog".to_owned(), app);
    });
    let token = signed(&json!({"sub": "ann"}));
    let wrong = "the token's signature is wrong";
    let guessed = format!("{wrong} for app \"blog\" (no app= was given)");
    for (query, reason) in [
        (format!("token={token}"), guessed.as_str()),
        (format!("token={token}&channel=room"), &guessed),
        (format!("token={token}&app=blog"), wrong),
    ] {
        let closed = Received::Close(4001, reason.to_owned());
        assert_eq!(server.open(&query).next(), closed, "{query}");
    }
    let mut client = server.open("");
    client.send(&json!({"op": "auth", "token": token}));
    assert_eq!(client.next(), Received::Close(4001, guessed));
    let good = server.open(&format!("token={token}&app=default")).json();
    assert_eq!(good["user"], "ann");

    let answer = server.try_open("app=shop", &[]).err().unwrap().json();
    assert_eq!(answer["detail"], "unknown app \"shop\"");
}

#[test]
fn claims_that_nest_too_deep_are_neither_signed_nor_accepted() {
    let server = keyed_server(|_| {});
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let body = format!(r#"{{"user":"ann","claims":{{"deep":{nested}}}}}"#);
    let authorization = format!("Bearer {KEY}");
    let headers = [("Authorization", authorization.as_str())];
    let answer = server.request("POST", "/v1/tokens", &headers, Some(body.as_bytes()));
    if answer.status == 200 {
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        panic!(
            "a token was signed that connecting answers by {}",
            server.open(&format!("token={token}")).closed()
        );
    }
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_token_request")
    );
}

#[test]
fn a_token_that_has_merely_expired_closes_with_4005_wherever_it_comes_from() {
    let server = keyed_server(required);
    let expired = signed(&json!({"sub": "ann", "exp": unix_now() - 60}));
    let by_query = server.open(&format!("token={expired}"));
    let by_header = server
        .try_open("", &[("Authorization", &format!("Bearer {expired}"))])
        .unwrap();
    let mut by_message = server.open("");
    by_message.send(&json!({"op": "auth", "id": 1, "token": expired}));
    for mut client in [by_query, by_header, by_message] {
        expect_expiry(&mut client, "the token has expired");
    }
    assert_eq!(matched(&server, &json!({"event": "e"})), 0);
}

/// Expects the end of a token: first when to come back, then the close frame.
fn expect_expiry(client: &mut Client, reason: &str) {
    let bye = client.json();
    assert_eq!(
        (&bye["op"], &bye["code"], &bye["reason"]),
        (&json!("bye"), &json!(4005), &json!(reason))
    );
    let wait = bye["reconnect_in_ms"].as_u64().unwrap();
    assert!((500..1000).contains(&wait), "{bye}");
    assert_eq!(client.message(), Received::Close(4005, reason.into()));
}

// Who may come without a token

#[test]
fn once_a_secret_is_set_a_client_without_a_token_is_refused() {
    let server = keyed_server(|config| {
        config.apps.values_mut().for_each(|app| {
            app.client_auth = None;
            app.default_can = Some(json!({"join": ["*"]}));
        });
        config.limits.auth = Duration::from_millis(500);
    });
    let mut stranger = server.open("channel=room");
    assert_eq!(matched(&server, &json!({"event": "e"})), 0);
    assert_eq!(
        matched(
            &server,
            &json!({"event": "e", "filter": "auth.banned != true"})
        ),
        0
    );
    assert_eq!(stranger.closed(), 4001);
    let mut ann = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    assert_eq!(matched(&server, &json!({"event": "e"})), 1);
    assert_eq!(ann.json()["event"], "e");
}

#[test]
fn the_secret_of_development_is_not_a_configured_one() {
    let server = server_with(|config| config.limits.auth = Duration::from_millis(1));
    let mut anonymous = server.connect("");
    server.call("/v1/broadcast", &json!({"event": "e"}));
    assert_eq!(anonymous.json()["event"], "e");
}

// Renewal and expiry

#[test]
fn a_renewal_with_an_expired_token_asks_for_another_and_changes_nothing() {
    let server = keyed_server(|_| {});
    let mut client = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    let expired = signed(&json!({"sub": "ann", "exp": unix_now() - 60}));
    let error = client.ask(&json!({"op": "auth", "token": expired}));
    assert_eq!(
        (&error["op"], &error["code"]),
        (&json!("error"), &json!("token_expired"))
    );
    let forged = jwt(
        "another-secret-of-more-than-32-bytes",
        &json!({"alg": "HS256"}),
        &json!({"sub": "ann", "exp": unix_now() - 60}),
    );
    let error = client.ask(&json!({"op": "auth", "token": forged}));
    assert_eq!(error["code"], "unauthorized");
    client.acked(&json!({"op": "auth", "token": signed(&json!({"sub": "ann"}))}));
}

#[test]
fn a_renewal_replaces_claims_and_index_entries_in_one_step() {
    let server = keyed_server(|config| {
        config
            .apps
            .values_mut()
            .for_each(|app| app.index = vec!["auth.team".to_owned()]);
    });
    let token = |team: &str| signed(&json!({"sub": "ann", "team": team}));
    let mut client = server.connect(&format!("token={}", token("red")));
    let by_index = |team: &str| json!({"event": team, "filter": "auth.team == params.t", "params": {"t": team}});
    let by_scan = |team: &str| json!({"event": team, "filter": "auth.team + \"\" == params.t", "params": {"t": team}});
    assert_eq!(
        (
            matched(&server, &by_index("red")),
            matched(&server, &by_index("blue"))
        ),
        (json!(1), json!(0))
    );
    assert_eq!(client.json()["event"], "red");
    client.send(&json!({"op": "auth", "id": "r", "token": token("blue")}));
    assert_eq!(
        client.json(),
        json!({"op": "ack", "id": "r", "user": "ann"})
    );
    for body in [by_index("red"), by_scan("red")] {
        assert_eq!(matched(&server, &body), 0, "{body}");
    }
    for body in [
        by_index("blue"),
        by_scan("blue"),
        json!({"event": "blue", "to": {"users": ["ann"]}}),
    ] {
        assert_eq!(matched(&server, &body), 1, "{body}");
        assert_eq!(client.json()["event"], "blue");
    }
    assert_eq!(shown(&server, &client.id)["auth"]["team"], "blue");
    assert_eq!(server.count("fanfare_connections", "default"), 1);
}

#[test]
fn a_renewal_by_another_user_is_refused_and_what_was_holds() {
    let server = keyed_server(|_| {});
    let mut client = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    client.send(&json!({"op": "auth", "id": 1, "token": signed(&json!({"sub": "bob"}))}));
    let error = client.json();
    assert_eq!(
        (&error["op"], &error["code"]),
        (&json!("error"), &json!("forbidden"))
    );
    assert_eq!(
        matched(&server, &json!({"event": "e", "to": {"users": ["bob"]}})),
        0
    );
    assert_eq!(
        matched(&server, &json!({"event": "e", "to": {"users": ["ann"]}})),
        1
    );
}

#[test]
fn an_anonymous_client_becomes_a_user_once() {
    let server = keyed_server(|_| {});
    let mut client = server.connect("");
    let auth = |client: &mut Client, user: &str| {
        client.send(&json!({"op": "auth", "id": user, "token": signed(&json!({"sub": user}))}));
        client.json()["op"].clone()
    };
    assert_eq!(auth(&mut client, "ann"), "ack");
    assert_eq!(auth(&mut client, "bob"), "error");
    assert_eq!(auth(&mut client, "ann"), "ack");
    assert_eq!(
        matched(&server, &json!({"event": "e", "filter": "user == null"})),
        0
    );
    assert_eq!(server.get_as(KEY, "/v1/users/ann").json()["connections"], 1);
}

#[test]
fn a_token_that_ends_closes_with_4005() {
    let server = keyed_server(|_| {});
    let exp = unix_now() + 4;
    let mut client = server.connect(&format!(
        "token={}",
        signed(&json!({"sub": "ann", "exp": exp}))
    ));
    expect_expiry(&mut client, "token expired");
    assert!(unix_now() >= exp);
    assert_eq!(matched(&server, &json!({"event": "e"})), 0);
}

#[test]
fn a_renewal_in_time_prevents_the_end() {
    let server = keyed_server(|_| {});
    let until = |exp: u64| signed(&json!({"sub": "ann", "exp": exp}));
    let first = unix_now() + 5;
    let mut client = server.connect(&format!("token={}", until(first)));
    client.send(&json!({"op": "auth", "id": 1, "token": until(first + 3600)}));
    assert_eq!(
        client.json(),
        json!({"op": "ack", "id": 1, "user": "ann", "expires_at": first + 3600})
    );
    while unix_now() < first + 2 {
        std::thread::sleep(Duration::from_millis(100));
    }
    client.expect_nothing();
    // A renewal can also bring the end nearer.
    client.send(&json!({"op": "auth", "id": 2, "token": until(unix_now() + 1)}));
    assert_eq!(client.json()["op"], "ack");
    assert_eq!(client.closed(), 4005);
}

#[test]
fn a_token_without_exp_is_refused_where_one_is_required() {
    let required = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.require_exp = true;
    });
    let forever = signed(&json!({"sub": "ann"}));
    let hour = signed(&json!({"sub": "ann", "exp": unix_now() + 3600}));
    let mut refused = required.open(&format!("token={forever}"));
    assert_eq!(refused.closed(), 4001);
    let mut client = required.connect(&format!("token={hour}"));
    client.send(&json!({"op": "auth", "id": 1, "token": forever}));
    let answer = client.json();
    assert_eq!(
        (&answer["op"], &answer["code"]),
        (&json!("error"), &json!("unauthorized"))
    );
    assert!(
        answer["message"].as_str().unwrap().contains("require_exp"),
        "{answer}"
    );
    assert!(
        keyed_server(|_| {})
            .connect(&format!("token={forever}"))
            .id
            .len()
            == 26
    );
}

// Origins

fn may_connect(server: &TestServer, query: &str, origin: &str) -> bool {
    match server.try_open(query, &[("Origin", origin)]) {
        Ok(_) => true,
        Err(answer) => {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "origin_refused"),
                "{origin}"
            );
            false
        }
    }
}

#[test]
fn without_a_list_any_page_connects_with_a_token_and_none_without() {
    let server = keyed_server(|_| {});
    let token = format!("token={}", signed(&json!({"sub": "ann"})));
    assert!(may_connect(&server, &token, "https://any.example"));
    assert!(!may_connect(&server, "", "https://any.example"));
    assert!(!may_connect(&server, "token=", "https://any.example"));
    assert!(!may_connect(&server, "", "null"));
    assert!(server.try_open("", &[]).is_ok(), "no page");
    assert_eq!(server.count("fanfare_refusals_total", "origin"), 3);
}

#[test]
fn with_a_list_only_its_pages_connect() {
    let listed = |origins: &[&str]| {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        keyed_server(|config| {
            config
                .apps
                .values_mut()
                .for_each(|app| app.origins = Some(origins.clone()));
        })
    };
    let server = listed(&["https://example.com"]);
    let token = format!("token={}", signed(&json!({"sub": "ann"})));
    assert!(may_connect(&server, "", "https://example.com"));
    assert!(may_connect(&server, &token, "https://example.com"));
    for origin in [
        "http://example.com",
        "https://example.com:8443",
        "https://example.com.evil.example",
        "null",
    ] {
        assert!(!may_connect(&server, "", origin), "{origin}");
        assert!(!may_connect(&server, &token, origin), "{origin}");
    }
    assert!(may_connect(&server, "", "https://example.com:443"));
    assert!(may_connect(&server, "", "HTTPS://Example.com"));
    assert!(may_connect(&listed(&["*"]), "", "https://any.example"));
    let server = listed(&["https://*.example.com", "http://localhost:80"]);
    for origin in [
        "https://a.example.com",
        "https://a.b.example.com:443",
        "http://localhost",
    ] {
        assert!(may_connect(&server, "", origin), "{origin}");
    }
    for origin in [
        "https://example.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://evilexample.com",
    ] {
        assert!(!may_connect(&server, "", origin), "{origin}");
    }
    assert!(!may_connect(&listed(&[]), &token, "https://any.example"));
}

#[test]
fn a_client_key_chooses_the_app_and_its_origins() {
    let server = keyed_server(|config| {
        let app = AppConfig {
            client_auth: Some(ClientAuth::Off),
            keys: vec![api_key("shop", "another-api-key-for-tests", Scopes::ALL)],
            client_keys: vec![ClientKeyConfig {
                name: "web".to_owned(),
                key: "pk_live_web".to_owned(),
                client_auth: None,
                origins: Some(vec!["https://shop.example".to_owned()]),
                can: None,
            }],
            ..AppConfig::default()
        };
        config.apps.insert("shop".to_owned(), app);
    });
    let _client = server.connect("key=pk_live_web");
    let count = |key| {
        server
            .post_as(key, "/v1/broadcast", &json!({"event": "e"}))
            .json()["matched"]
            .clone()
    };
    assert_eq!(
        (count("another-api-key-for-tests"), count(KEY)),
        (json!(1), json!(0))
    );
    assert!(may_connect(
        &server,
        "key=pk_live_web",
        "https://shop.example"
    ));
    assert!(may_connect(
        &server,
        "key=pk_live_web&app=shop",
        "https://shop.example"
    ));
    assert!(!may_connect(
        &server,
        "key=pk_live_web",
        "https://any.example"
    ));
    assert!(
        !may_connect(&server, "app=shop", "https://shop.example"),
        "the app itself has no list"
    );
    assert_eq!(
        server.open("key=pk_live_we").closed(),
        4001,
        "a page could not read a status"
    );
    for (query, status, code) in [
        ("key=pk_live_web&app=default", 400, "bad_query"),
        ("key=pk_live_web&app=none", 404, "unknown_app"),
    ] {
        let answer = server.try_open(query, &[]).err().unwrap();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{query}"
        );
    }
}

#[test]
fn a_token_ends_its_connection_although_one_without_an_end_was_shown_before() {
    let server = keyed_server(|_| {});
    let ends = |at: u64| signed(&json!({"sub": "ann", "exp": at}));
    let first = unix_now() + 4;
    let mut client = server.connect(&format!("token={}", ends(first)));
    let mut renew = |token: &str| {
        client.send(&json!({"op": "auth", "id": 1, "token": token}));
        assert_eq!(client.json()["op"], "ack");
    };
    renew(&signed(&json!({"sub": "ann"})));
    while unix_now() < first + 2 {
        std::thread::sleep(Duration::from_millis(100));
    }
    renew(&ends(unix_now() + 1));
    assert_eq!(client.closed(), 4005);
}

// A server without keys against pages and proxies

/// Every path that takes a POST, with a body that works.
const POSTS: &[(&str, &str)] = &[
    ("/v1/emit", r#"{"event":"hostile"}"#),
    ("/v1/publish", r#"{"event":"hostile","user":"ann"}"#),
    ("/v1/broadcast", r#"{"event":"hostile"}"#),
    ("/v1/dispatch", r#"{"event":"hostile","recipients":["*"]}"#),
    (
        "/v1/batch",
        r#"{"items":[{"call":"broadcast","event":"hostile"}]}"#,
    ),
    ("/v1/explain", r#"{"filter":"true"}"#),
    ("/v1/disconnect", r#"{"filter":"true"}"#),
    ("/v1/tokens", r#"{"user":"ann"}"#),
];

/// What a page of another origin, a rebound name, or a proxy left open would send.
const HOSTILE: &[(&str, &str)] = &[
    ("Host", "evil.example"),
    ("Host", "evil.example:7070"),
    ("Host", "localhost.evil.example"),
    ("Host", "127.0.0.1.evil.example"),
    ("Host", "192.0.2.1"),
    ("Host", ""),
    ("Origin", "https://evil.example"),
    ("Origin", "http://localhost.evil.example"),
    ("Origin", "http://evil.example:7070"),
    ("Origin", "null"),
    ("Origin", "file://"),
    ("Forwarded", "for=203.0.113.9"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Host", "localhost"),
    ("X-Forwarded-Proto", "https"),
    ("Via", "1.1 proxy"),
];

#[test]
fn no_page_and_no_proxy_drives_a_server_without_keys() {
    let server = server();
    let mut client = server.client("ann", &json!({}));
    for (path, body) in POSTS {
        for header in HOSTILE {
            let answer = server.request("POST", path, &[*header], Some(body.as_bytes()));
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "development_only"),
                "{path} {header:?}"
            );
            assert!(
                answer.text.contains("--api-key"),
                "the refusal says to set keys: {answer:?}"
            );
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "application/jsonp",
        ] {
            let answer = server.request(
                "POST",
                path,
                &[("Content-Type", kind)],
                Some(body.as_bytes()),
            );
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (415, "content_type"),
                "{path} {kind}"
            );
        }
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let headers = [
            ("Content-Type", "text/plain"),
            ("Transfer-Encoding", "chunked"),
        ];
        assert_eq!(
            server
                .request("POST", path, &headers, Some(chunked.as_bytes()))
                .status,
            415,
            "{path}"
        );
    }
    for path in [
        "/v1/connections",
        "/v1/users/ann",
        "/metrics",
        "/",
        "/healthz",
        "/livez",
        "/readyz",
        "/v1/openapi.json",
    ] {
        for header in HOSTILE {
            assert_eq!(
                server.request("GET", path, &[*header], None).status,
                403,
                "{path} {header:?}"
            );
        }
    }
    for header in HOSTILE {
        let answer = server
            .try_open("", &[*header])
            .err()
            .unwrap_or_else(|| panic!("{header:?} connects"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "development_only"),
            "{header:?}"
        );
    }
    client.expect_nothing();
}

#[test]
fn two_hosts_are_no_host() {
    let server = server();
    let headers = [("Host", "localhost"), ("Host", "evil.example")];
    let answer = server.request("POST", "/v1/emit", &headers, Some(br#"{"event":"e"}"#));
    assert!(matches!(answer.status, 400 | 403), "{answer:?}");
}

#[test]
fn pages_of_this_machine_drive_a_server_without_keys() {
    let server = server();
    for origin in [
        "http://localhost:3000",
        "http://127.0.0.1",
        "https://[::1]:8443",
        "http://LOCALHOST",
    ] {
        let answer = server.request(
            "POST",
            "/v1/emit",
            &[("Origin", origin)],
            Some(br#"{"event":"e"}"#),
        );
        assert_eq!(answer.status, 200, "{origin}");
        assert!(
            server.try_open("", &[("Origin", origin)]).is_ok(),
            "{origin}"
        );
    }
    for host in [
        "localhost",
        "localhost:9",
        "127.0.0.1:7070",
        "[::1]",
        "[::1]:7070",
    ] {
        let kind = ("Content-Type", "Application/JSON; charset=utf-8");
        let answer = server.request(
            "POST",
            "/v1/emit",
            &[("Host", host), kind],
            Some(br#"{"event":"e"}"#),
        );
        assert_eq!(answer.status, 200, "{host}");
    }
}
