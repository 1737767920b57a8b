//! The server inside another program.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::*;
use fanfare::{
    EmitError, NodeError, Server, StartError, Target, To, config::ChannelRule, predicate::Value,
};
use serde_json::{Value as Json, json};

/// The same decision as a filter, in Rust.
type Picks = fn(&Json) -> bool;

/// Runs one call of the library to its end, on a runtime of the embedding program.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn every_verb_reaches_who_it_means() {
    let server = server();
    let mut ann = server.client("ann", &json!({"team": "a"}));
    let mut bob = server.client("bob", &json!({"team": "b"}));
    let mut all = |event: &str, to_ann: bool, to_bob: bool| {
        for (client, meant) in [(&mut ann, to_ann), (&mut bob, to_bob)] {
            if meant {
                assert_eq!(client.json()["event"], event);
            } else {
                client.expect_nothing();
            }
        }
    };
    let handle = &server.0;
    run(async {
        assert_eq!(
            handle
                .emit("emit", 1, "auth.team == 'a'")
                .await
                .unwrap()
                .queued,
            1
        );
        all("emit", true, false);
        assert_eq!(
            handle.publish("bob", "publish", "x").await.unwrap().queued,
            1
        );
        all("publish", false, true);
        assert_eq!(
            handle
                .broadcast("broadcast", json!({}))
                .await
                .unwrap()
                .queued,
            2
        );
        all("broadcast", true, true);
        assert_eq!(
            handle
                .dispatch(&["*"], &["ann"], "dispatch", ())
                .await
                .unwrap()
                .queued,
            1
        );
        all("dispatch", false, true);
        let team = |team: &'static str| {
            move |c: &fanfare::Connection| c.attributes.auth.get("team") == &Value::from(team)
        };
        let receipt = handle.emit_where("where", 1, team("b")).await.unwrap();
        assert_eq!((receipt.matched, receipt.filter_errors), (1, 0));
        all("where", false, true);
        let to = Some(To {
            users: vec!["ann".into()],
            ..To::default()
        });
        handle
            .emit_to(
                "to",
                1,
                Target {
                    to,
                    ..Target::default()
                },
            )
            .await
            .unwrap();
        all("to", true, false);
    });
}

#[test]
fn bytes_are_sent_as_they_are() {
    let server = server();
    let mut ann = server.client("ann", &json!({}));
    let mut bob = server.client("bob", &json!({}));
    let receipt = run(server
        .0
        .emit_bytes("e", [0, 255], Target::users(vec!["ann".into()])))
    .unwrap();
    assert_eq!((receipt.matched, receipt.queued), (1, 1));
    assert_eq!(
        ann.message(),
        Received::Binary([&[1, 0, 13][..], br#"{"event":"e"}"#, &[0, 255]].concat())
    );
    bob.expect_nothing();
}

#[test]
fn a_program_puts_connections_into_channels_sends_to_them_and_takes_them_out() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels = vec![ChannelRule::new("kept", 10)];
    });
    let mut ann = server.client("ann", &json!({}));
    let mut bob = server.client("bob", &json!({}));
    let handle = &server.0;
    run(async {
        let all = || Target {
            filter: Some("true".into()),
            ..Target::default()
        };
        let joins = handle
            .join("kept", Target::users(vec!["ann".into()]))
            .await
            .unwrap();
        assert_eq!((joins.joined, joins.already, joins.full), (1, 0, 0));
        let joins = handle.join("kept", all()).await.unwrap();
        assert_eq!((joins.joined, joins.already, joins.full), (1, 1, 0));
        let receipt = handle.send("kept", "e", [1]).await.unwrap();
        assert_eq!((receipt.matched, receipt.stored), (2, 1));
        assert_eq!(
            (
                &*receipt.publications[0].channel,
                receipt.publications[0].offset
            ),
            ("kept", 1)
        );
        assert_eq!(
            handle
                .leave("kept", Target::users(vec!["bob".into()]))
                .await
                .unwrap(),
            1
        );
        assert_eq!(
            handle
                .leave("kept", Target::users(vec!["bob".into()]))
                .await
                .unwrap(),
            0
        );
        assert_eq!(handle.send("kept", "last", 2).await.unwrap().matched, 1);
        assert!(matches!(
            handle.send("a b", "e", 1).await.unwrap_err(),
            EmitError::Event(_)
        ));
        assert!(matches!(
            handle.join("a b", all()).await.unwrap_err(),
            EmitError::Event(_)
        ));
    });
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.json()["op"], "joined");
        assert_eq!(
            client.text(),
            r#"{"event":"e","channel":"kept","data":[1],"offset":1}"#
        );
    }
    assert_eq!(ann.json()["event"], "last");
    assert_eq!(bob.json()["op"], "left");
    bob.expect_nothing();
}

#[test]
fn a_closure_that_panics_counts_as_an_error_of_that_connection_only() {
    let server = server();
    let mut ann = server.client("ann", &json!({}));
    let mut bob = server.client("bob", &json!({}));
    let receipt = run(server.0.emit_where("e", 1, |c| match c.user() {
        Some("ann") => panic!("a defect of the embedding program"),
        user => user == Some("bob"),
    }));
    let receipt = receipt.unwrap();
    assert_eq!(
        (receipt.matched, receipt.queued, receipt.filter_errors),
        (1, 1, 1)
    );
    assert_eq!(bob.json()["event"], "e");
    ann.expect_nothing();
}

#[test]
fn errors_are_told_apart_and_nothing_is_sent() {
    let server = server();
    let mut client = server.connect("");
    let handle = &server.0;
    run(async {
        let filter = handle.emit("e", 1, "auth.team = 'a'").await.unwrap_err();
        assert!(
            matches!(filter, EmitError::Node(NodeError::Filter { .. })),
            "{filter}"
        );
        assert!(matches!(
            handle.broadcast("", 1).await.unwrap_err(),
            EmitError::Event(_)
        ));
        assert!(matches!(
            handle.broadcast("fanfare:x", 1).await.unwrap_err(),
            EmitError::Event(_)
        ));
        let map = std::collections::BTreeMap::from([(vec![1], 1)]);
        assert!(matches!(
            handle.broadcast("e", map).await.unwrap_err(),
            EmitError::Data(_)
        ));
    });
    client.expect_nothing();
    assert!(handle.for_app("nobody's").is_none());
}

#[test]
fn a_call_after_shutdown_says_so() {
    let server = Server::start(config()).unwrap();
    run(server.shutdown());
    assert!(matches!(
        run(server.broadcast("e", 1)).unwrap_err(),
        EmitError::Stopped
    ));
    run(server.shutdown());
}

#[test]
fn a_second_server_on_the_same_port_is_told_which() {
    let first = server();
    let mut second = config();
    second.listen = first.address();
    let error = Server::start(second).unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(
        error.to_string().contains(&first.address().to_string()),
        "{error}"
    );
}

#[test]
fn one_emit_to_a_thousand_is_encoded_once_and_reaches_exactly_those_a_closure_picks() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.index = vec!["auth.team".into()];
    });
    let mut clients: Vec<(Json, Client)> = (0..1000)
        .map(|n| {
            let claims = json!({"team": format!("t{}", n % 10), "level": n % 7, "n": n});
            (
                claims.clone(),
                server.client(&format!("u{}", n % 300), &claims),
            )
        })
        .collect();
    let encodings = server.metric("fanfare_encodings_total", "");
    let filters: [(&str, Picks); 4] = [
        ("auth.level >= 3", |c| c["level"].as_i64() >= Some(3)),
        ("auth.team == 't3' && auth.n % 3 == 1", |c| {
            c["team"] == "t3" && c["n"].as_i64().unwrap() % 3 == 1
        }),
        ("auth.team in ['t1', 't2'] || auth.n < 5", |c| {
            c["team"] == "t1" || c["team"] == "t2" || c["n"].as_i64() < Some(5)
        }),
        ("true", |_| true),
    ];
    for (sent, (filter, picks)) in filters.into_iter().enumerate() {
        let receipt = server.call(
            "/v1/emit",
            &json!({"event": "e", "data": {"sent": sent}, "filter": filter}),
        );
        let expected = clients.iter().filter(|(claims, _)| picks(claims)).count();
        assert_eq!(receipt["queued"], json!(expected), "{filter}");
        let expected_text = format!(r#"{{"event":"e","data":{{"sent":{sent}}}}}"#);
        for (claims, client) in &mut clients {
            if picks(claims) {
                assert_eq!(client.text(), expected_text, "{filter} {claims}");
            } else {
                client.expect_nothing();
            }
        }
    }
    assert_eq!(
        server.metric("fanfare_encodings_total", "") - encodings,
        filters.len() as f64,
        "one per event"
    );
}

#[test]
fn the_closure_sees_each_connection_once() {
    let server = server();
    let _clients: Vec<Client> = (0..150).map(|_| server.connect("")).collect();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let receipt = run(server.0.emit_where("e", 1, move |_| {
        count.fetch_add(1, SeqCst).is_multiple_of(2)
    }))
    .unwrap();
    assert_eq!((seen.load(SeqCst), receipt.matched), (150, 75));
}

#[test]
fn who_comes_while_the_node_scans_as_much_as_it_may_is_told_to_come_back_and_nothing_is_sent() {
    let server = server_with(|config| {
        config.limits.scans = 1;
        config.limits.admission_wait = Duration::from_millis(50);
    });
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect("")).collect();
    let release = Arc::new(AtomicBool::new(false));
    let (handle, released) = (server.0.clone(), release.clone());
    let scanning = std::thread::spawn(move || {
        run(handle.emit_where("held", 1, move |_| {
            if !released.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            false
        }))
    });
    eventually("the scan holds its leave", || {
        let answer = server.post(
            "/v1/emit",
            &json!({"event": "e", "filter": "user == null || 1 == 1"}),
        );
        answer.status == 503 && answer.code() == "busy" && answer.header("retry-after").is_some()
    });
    release.store(true, SeqCst);
    assert_eq!(scanning.join().unwrap().unwrap().matched, 0);
    assert!(server.metric("fanfare_admission_refused_total", "") >= 1.0);
    let receipt = server.call("/v1/broadcast", &json!({"event": "last"}));
    assert_eq!(receipt["queued"], json!(300));
    // Those that were refused have reached nobody; any that came before the scan have reached everyone.
    let events: Vec<Vec<String>> = clients
        .iter_mut()
        .map(|client| {
            let mut events = vec![client.json()["event"].as_str().unwrap().to_owned()];
            while events.last().unwrap() != "last" {
                events.push(client.json()["event"].as_str().unwrap().to_owned());
            }
            events
        })
        .collect();
    assert!(
        events.iter().all(|one| *one == events[0]),
        "{:?}",
        events[0]
    );
}
