//! The server inside another program.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::Poll,
    time::Duration,
};

use crate::support::*;
use fanfare::{
    ChannelRule, Config, EmitError, NodeError, Server, SignTokenError, StartError, Target, To,
    Value, block_on,
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
        // Clients that are not looked at meanwhile answer no pings.
        config.limits.heartbeat = Duration::from_mins(10);
    });
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect("")).collect();
    let release = Arc::new(AtomicBool::new(false));
    let (handle, released) = (server.0.clone(), release.clone());
    let scanning = std::thread::spawn(move || {
        loop {
            let seen = released.clone();
            let scanned = run(handle.emit_where("held", 1, move |_| {
                // The thread serves others after each of these.
                if !seen.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                false
            }));
            // It scans again and again until the machine has let a request come beside it, and until it has had its
            // turn: the scans below may have the leave at first, for longer than this one waits.
            if released.load(SeqCst) && scanned.is_ok() {
                return scanned;
            }
        }
    });
    eventually("the scan holds its leave", || {
        let answer = server.post(
            "/v1/emit",
            &json!({"event": "e", "filter": "user == null || 1 == 1"}),
        );
        let is_refused = answer.status == 503
            && answer.code() == "busy"
            && answer.header("retry-after").is_some();
        if !is_refused {
            // The leave is free for as long, or the scan would never have it on a busy machine.
            std::thread::sleep(Duration::from_millis(200));
        }
        is_refused
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

#[test]
fn the_default_configuration_serves_one_app() {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    };
    let server = TestServer(Server::start(config).unwrap());
    let mut client = server.connect("");
    assert_eq!(run(server.0.broadcast("e", 1)).unwrap().queued, 1);
    assert_eq!(client.json()["event"], "e");
}

#[test]
fn a_configuration_without_an_app_is_refused() {
    let config = Config {
        apps: std::collections::BTreeMap::new(),
        ..config()
    };
    let error = Server::start(config).unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
    assert!(error.to_string().contains("apps is empty"), "{error}");
}

#[test]
fn a_server_is_built_in_a_few_words() {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .shards(1)
        .api_key(KEY)
        .token_secret(SECRET)
        .index("auth.team")
        .channel_history("room-*", 10)
        .limits(|limits| limits.auth = Duration::from_millis(50))
        .configure(|config| config.drain_delay = Some(Duration::ZERO))
        .start()
        .unwrap();
    let server = TestServer(server);
    assert_eq!(server.open("").closed(), 4001, "a secret is set");
    let signed = server
        .0
        .sign_token("ann", json!({"team": "red"}))
        .can(json!({"join": ["room-*"]}))
        .ttl(Duration::from_mins(5))
        .sign()
        .unwrap();
    let mut ann = server.connect(&format!("token={}", signed.token));
    ann.join("room-1");
    let receipt = run(server.0.emit("e", 1, r#"auth.team == "red""#)).unwrap();
    assert_eq!(receipt.queued, 1);
    assert_eq!(run(server.0.send("room-1", "e", 1)).unwrap().stored, 1);
    assert_eq!(server.get_as(KEY, "/v1/channels").status, 200);
    assert_eq!(server.get("/v1/channels").status, 401);
}

#[test]
fn a_token_that_cannot_be_signed_says_why() {
    let server = server();
    let sign = |claims: Json| server.0.sign_token("ann", claims).sign();
    assert!(sign(json!({})).is_ok(), "with the secret of development");
    assert!(matches!(
        sign(json!([])).unwrap_err(),
        SignTokenError::Sign(_)
    ));
    assert!(matches!(
        sign(json!({"sub": "bob"})).unwrap_err(),
        SignTokenError::Sign(_)
    ));
    let none = server_with(|config| {
        config.apps.values_mut().next().unwrap().client_auth = Some(fanfare::ClientAuth::Off);
    });
    let refused = none.0.sign_token("ann", json!({})).sign().unwrap_err();
    assert!(matches!(refused, SignTokenError::NoSecret), "{refused}");
}

/// Whether a server holds `address`.
fn is_listening(address: std::net::SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_err()
}

#[test]
fn the_last_handle_that_is_dropped_ends_the_server_and_frees_its_port() {
    let config = Config {
        admin_listen: Some(([127, 0, 0, 1], 0).into()),
        ..config()
    };
    let server = Server::start(config).unwrap();
    let (address, admin) = (server.address(), server.admin_address().unwrap());
    let mut client = Client::open(address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    let second = server.for_app("default").unwrap();
    drop(server);
    assert!(is_listening(address), "a handle is left");
    assert_eq!(run(second.broadcast("e", 1)).unwrap().queued, 1);
    assert_eq!(client.json()["event"], "e");

    drop(second);
    for address in [address, admin] {
        assert!(
            !is_listening(address),
            "the port is free when the handle is gone"
        );
    }
    assert_eq!(client.next(), Received::End, "there is no goodbye");
}

#[test]
fn a_server_ends_with_its_last_handle_inside_a_runtime_too() {
    let server = Server::start(config()).unwrap();
    let address = server.address();
    let mut client = Client::open(address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    let go_on = run(async {
        let receipt = server.broadcast("e", 1).await.unwrap();
        assert_eq!(receipt.matched, 1);

        // A thread of the server is held up, so this would not end if the handle waited for it.
        let (go_on, wait) = mpsc::sync_channel::<()>(0);
        let (running, is_running) = mpsc::sync_channel(1);
        let (running, wait) = (Mutex::new(running), Mutex::new(wait));
        let mut call = Box::pin(server.emit_where("e", 1, move |_| {
            running.lock().unwrap().send(()).unwrap();
            wait.lock().unwrap().recv().is_ok()
        }));
        std::future::poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        is_running.recv().unwrap();
        drop(call);
        drop(server);
        go_on
    });
    drop(go_on);
    client.closed();
    eventually("the port is free", || !is_listening(address));
}

#[test]
fn a_server_ends_on_a_thread_of_its_own_too() {
    let server = Server::start(config()).unwrap();
    let address = server.address();
    let mut client = Client::open(address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    let last = server.clone();
    let (running, is_running) = mpsc::sync_channel(1);
    let (go_on, wait) = mpsc::sync_channel::<()>(0);
    let (running, wait) = (Mutex::new(running), Mutex::new(wait));
    let mut call = Box::pin(server.emit_where("e", 1, move |_| {
        running.lock().unwrap().send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
        last.address() == address
    }));
    run(std::future::poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    }));
    is_running.recv().unwrap();

    // The closure, which the server itself runs, has the last handle.
    drop(call);
    drop(server);
    assert!(is_listening(address));
    drop(go_on);
    client.closed();
    eventually("the port is free", || !is_listening(address));
}

#[test]
fn a_shutdown_that_nobody_waits_for_goes_on_and_the_last_handle_cuts_it_short() {
    let server = Server::start(Config {
        drain_delay: Some(Duration::from_mins(10)),
        drain_timeout: Duration::from_mins(20),
        ..config()
    })
    .unwrap();
    let address = server.address();
    let mut client = Client::open(address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    run(async {
        let leaving = tokio::time::timeout(Duration::from_millis(20), server.shutdown());
        assert!(leaving.await.is_err(), "it waits for the delay");
    });
    eventually("it goes on leaving", || {
        request(address, "GET", "/readyz", &[], None).status == 503
    });
    drop(server);
    assert_eq!(client.closed(), 1006);
    assert!(!is_listening(address));
}

#[test]
fn without_a_runtime_calls_are_waited_for_by_the_thread() {
    let server = Server::start(config()).unwrap();
    let mut client = Client::open(server.address(), "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    assert_eq!(block_on(server.broadcast("e", 1)).unwrap().queued, 1);
    assert_eq!(client.json()["event"], "e");
    let (first, second) = (server.clone(), server.clone());
    let both = [first, second].map(|one| std::thread::spawn(move || block_on(one.shutdown())));
    for one in both {
        one.join().unwrap();
    }
    assert!(matches!(
        block_on(server.broadcast("e", 1)).unwrap_err(),
        EmitError::Stopped
    ));
    assert!(
        !is_listening(server.address()),
        "before the last handle is dropped"
    );
}
