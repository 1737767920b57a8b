//! Clients call functions of the program that embeds the server.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use fanfare::{Call, CallError, Config, Server, ServerBuilder, StartError, Value as Attribute};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::*;

/// A server with functions, configured by `change`.
fn serving(
    change: impl FnOnce(&mut Config),
    functions: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> TestServer {
    let mut config = config();
    config.drain_delay = Some(Duration::ZERO);
    change(&mut config);
    TestServer(functions(config.into()).start().expect("the server starts"))
}

fn call(name: &str, data: &Value) -> Value {
    json!({"op": "call", "name": name, "data": data})
}

/// The `data` of the ack of a call.
fn returned(client: &mut Client, name: &str, data: &Value) -> Value {
    let answer = client.acked(&call(name, data));
    let fields = answer.as_object().unwrap().keys();
    assert_eq!(fields.collect::<Vec<_>>(), ["data", "id", "op"], "{answer}");
    answer["data"].clone()
}

/// The code and message of the error that a call gets.
fn refused(client: &mut Client, message: &Value) -> (String, String) {
    let answer = client.ask(message);
    assert_eq!(answer["op"], "error", "{message}: {answer}");
    let text = |field: &str| answer[field].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

/// A binary message with `header`.
fn binary(header: &Value, bytes: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let length = (header.len() as u16).to_be_bytes();
    [&[1], &length[..], header.as_bytes(), bytes].concat()
}

/// Functions that wait until they are let on, and say when they begin and how they end.
struct Waiting {
    gate: Arc<Semaphore>,
    begun: SyncSender<i64>,
    ended: SyncSender<&'static str>,
}

/// How a [`Waiting`] function ended, noted when it is dropped.
struct Noted(SyncSender<&'static str>, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(self.1);
    }
}

/// What a test has in hand of a [`Waiting`] function.
struct Held {
    gate: Arc<Semaphore>,
    begun: Receiver<i64>,
    ended: Receiver<&'static str>,
}

/// Adds the function `wait`, which returns its argument once it is let on.
fn with_waiting(builder: ServerBuilder) -> (ServerBuilder, Held) {
    let gate = Arc::new(Semaphore::new(0));
    let ((begun, was_begun), (ended, was_ended)) = (mpsc::sync_channel(64), mpsc::sync_channel(64));
    let waiting = Arc::new(Waiting {
        gate: gate.clone(),
        begun,
        ended,
    });
    let builder = builder.on_call("wait", move |call: Call| {
        let waiting = waiting.clone();
        async move {
            let mut noted = Noted(waiting.ended.clone(), "dropped");
            let number: i64 = call.parse()?;
            waiting.begun.send(number).unwrap();
            waiting.gate.acquire().await.unwrap().forget();
            noted.1 = "returned";
            Ok(number)
        }
    });
    let held = Held {
        gate,
        begun: was_begun,
        ended: was_ended,
    };
    (builder, held)
}

fn waiting(change: impl FnOnce(&mut Config)) -> (TestServer, Held) {
    let mut held = None;
    let server = serving(change, |builder| {
        let (builder, of_test) = with_waiting(builder);
        held = Some(of_test);
        builder
    });
    (server, held.unwrap())
}

#[test]
fn a_function_gets_the_data_as_it_came_and_its_value_is_the_ack() {
    let server = serving(
        |_| {},
        |builder| {
            builder
                .on_call("add", |call: Call| async move {
                    let (a, b): (i64, i64) = call.parse()?;
                    Ok(a + b)
                })
                .on_call("text", |call: Call| async move {
                    Ok(call.json().map(ToOwned::to_owned))
                })
                .on_call("bytes", |call: Call| async move {
                    Ok(call.bytes().map(<[u8]>::to_vec))
                })
        },
    );
    let mut client = server.connect("");
    assert_eq!(returned(&mut client, "add", &json!([20, 22])), 42);
    client.frame(
        0x81,
        br#"{"op":"call","id":7,"name":"text","data":{"b":1.00,  "a":"\u0041"}}"#,
    );
    assert_eq!(
        client.json(),
        json!({"op": "ack", "id": 7, "data": r#"{"b":1.00,  "a":"\u0041"}"#})
    );
    client.send(&json!({"op": "call", "id": 8, "name": "text"}));
    assert_eq!(client.json()["data"], "null");
    assert_eq!(returned(&mut client, "bytes", &json!([1])), json!(null));

    let header = |name: &str| json!({"op": "call", "id": 9, "name": name});
    client.frame(0x82, &binary(&header("bytes"), &[0, 255]));
    assert_eq!(client.json()["data"], json!([0, 255]));
    client.frame(0x82, &binary(&header("text"), &[0]));
    assert_eq!(client.json()["data"], json!(null));
    client.frame(0x82, &binary(&header("add"), b"[1,2]"));
    let refusal = client.json();
    assert_eq!(
        (&refusal["code"], &refusal["message"]),
        (
            &json!("bad_data"),
            &json!("data: this function takes JSON, not bytes")
        )
    );

    // Without an id there is no ack.
    client.send(&call("add", &json!([1, 2])));
    assert_eq!(returned(&mut client, "add", &json!([3, 4])), 7);
    assert_eq!(server.count("fanfare_calls_total", "default"), 9);
    assert_eq!(server.metric("fanfare_call_seconds_count", ""), 9.0);
}

#[test]
fn a_function_knows_its_caller_and_sends_events() {
    let server = serving(
        |_| {},
        |builder| {
            builder
                .on_call("who", |call: Call| async move {
                    let caller = call.caller();
                    let team = match caller.claim("team") {
                        Attribute::String(team) => team.to_string(),
                        other => panic!("{other:?}"),
                    };
                    let status = caller
                        .profile()
                        .map(|profile| profile.get("status").clone());
                    let is_here = status == Some(Attribute::from("here"));
                    let channels: Vec<String> = caller.channels().map(ToOwned::to_owned).collect();
                    Ok(json!([
                        call.app(),
                        call.name(),
                        caller.id().to_string(),
                        call.user(),
                        team,
                        is_here,
                        channels
                    ]))
                })
                .on_call("say", |call: Call| async move {
                    let text: String = call.parse()?;
                    let receipt = call
                        .server()?
                        .send("room", "said", (call.user(), text))
                        .await?;
                    Ok(receipt.queued)
                })
                .on_call("shout", |call: Call| async move {
                    call.server()?.broadcast("fanfare:shout", 1).await?;
                    Ok(())
                })
        },
    );
    let mut ann = server.client("ann", &json!({"team": "red"}));
    ann.acked(&json!({"op": "update", "data": {"status": "here"}}));
    ann.join("room");
    let who = returned(&mut ann, "who", &json!(null));
    assert_eq!(
        who,
        json!(["default", "who", ann.id, "ann", "red", true, ["room"]])
    );

    let (events, said) = ann.ask_amid(&call("say", &json!("hello")));
    assert_eq!(said["data"], 1);
    assert_eq!(
        events,
        [json!({"event": "said", "channel": "room", "data": ["ann", "hello"]})]
    );
    let (code, _) = refused(&mut ann, &call("shout", &json!(null)));
    assert_eq!(code, "event_name_reserved", "as if the client had sent it");
}

#[test]
fn a_function_may_use_all_of_tokio() {
    let server = serving(
        |_| {},
        |builder| {
            builder.on_call("use", |_: Call| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let here = tokio::spawn(async { thread::current().name().map(ToOwned::to_owned) });
                let blocked = tokio::task::spawn_blocking(|| 5).await.unwrap();
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                Ok(json!([
                    here.await.unwrap(),
                    blocked,
                    socket.local_addr().is_ok()
                ]))
            })
        },
    );
    let used = returned(&mut server.connect(""), "use", &json!(null));
    assert_eq!(used, json!(["fanfare-calls", 5, true]));
}

#[test]
fn an_error_is_told_with_its_own_code_and_a_panic_ends_nothing() {
    let server = serving(
        |_| {},
        |builder| {
            builder
                .on_call("fail", |_: Call| async move {
                    Err::<(), _>(CallError::new("out_of_stock", "no more \"hats\""))
                })
                .on_call("panic", |_: Call| async move {
                    assert!(tokio::task::try_id().is_none(), "made to panic by a test");
                    Ok(())
                })
                .on_call(
                    "panic-first",
                    |_: Call| -> std::future::Ready<Result<(), CallError>> {
                        panic!("made to panic by a test")
                    },
                )
                .on_call("key", |_: Call| async move {
                    Ok(std::collections::HashMap::from([((1, 2), 3)]))
                })
                .on_call(
                    "fill",
                    |call: Call| async move { Ok("x".repeat(call.parse()?)) },
                )
        },
    );
    let mut client = server.connect("");
    let told = |code: &str, message: &str| (code.to_owned(), message.to_owned());
    let mut refused = |name: &str, data: Value| refused(&mut client, &call(name, &data));
    assert_eq!(
        refused("fail", json!(1)),
        told("out_of_stock", "no more \"hats\"")
    );
    for name in ["panic", "panic-first"] {
        assert_eq!(
            refused(name, json!(1)),
            told("internal", "the function failed")
        );
    }
    let unwritable = "the function's answer cannot be written as JSON";
    assert_eq!(refused("key", json!(1)), told("internal", unwritable));
    assert_eq!(refused("fill", json!(256 * 1024 - 1)).0, "answer_too_large");
    assert_eq!(refused("fill", json!("x")).0, "bad_data");
    let unknown = refused(&"n".repeat(50), json!(1));
    assert_eq!(unknown.0, "no_functions");
    assert!(unknown.1.ends_with(&format!("\"{}\"", "n".repeat(40))));

    // An answer that just fits, and a failure without an id.
    let fits = returned(&mut client, "fill", &json!(256 * 1024 - 2));
    assert_eq!(fits.as_str().unwrap().len(), 256 * 1024 - 2);
    client.send(&call("fail", &json!(1)));
    assert_eq!(
        client.json(),
        json!({"op": "error", "code": "out_of_stock", "message": "no more \"hats\""})
    );
    client.expect_nothing();
    let metric = "fanfare_client_refusals_total";
    for (reason, count) in [
        ("call_failed", 4),
        ("internal", 2),
        ("no_functions", 1),
        ("answer_too_large", 1),
    ] {
        assert_eq!(server.count(metric, reason), count, "{reason}");
    }
}

#[test]
fn a_call_needs_the_right_and_a_token_where_one_is_needed() {
    let server = serving(
        |config| {
            let app = config.apps.values_mut().next().unwrap();
            app.tokens.push(token_key(SECRET));
            app.keys.push(api_key("all", KEY, fanfare::Scopes::ALL));
        },
        |builder| builder.on_call("one", |_: Call| async move { Ok(1) }),
    );
    let can =
        |list: Value| signed(&json!({"sub": "ann", "exp": unix_now() + 60, "can": {"call": list}}));
    let mut client = server.connect(&format!("token={}", can(json!(["two"]))));
    let (code, message) = refused(&mut client, &call("one", &json!(null)));
    assert_eq!(code, "forbidden");
    assert!(message.contains("\"call\" for \"one\""), "{message}");
    client.acked(&json!({"op": "auth", "token": can(json!(["o*"]))}));
    assert_eq!(returned(&mut client, "one", &json!(null)), 1);

    let mut pending = server.open("");
    assert_eq!(
        refused(&mut pending, &call("one", &json!(null))).0,
        "unauthorized"
    );
}

#[test]
fn calls_run_together_and_the_connection_goes_on() {
    let (server, held) = waiting(|config| {
        config.limits.heartbeat = Duration::from_secs(3);
        config.limits.heartbeat_wait = Duration::from_millis(2900);
    });
    let mut client = server.connect("");
    for number in 0..16 {
        let message = json!({"op": "call", "id": number, "name": "wait", "data": number});
        client.send(&message);
    }
    let begun: Vec<i64> = held.begun.iter().take(16).collect();
    assert_eq!(begun, (0..16).collect::<Vec<_>>(), "in order");
    let seventeenth = call("wait", &json!(16));
    assert_eq!(refused(&mut client, &seventeenth).0, "too_many_calls");
    // Another connection has its own.
    let mut other = server.connect("");
    other.send(&call("wait", &json!(17)));
    assert_eq!(held.begun.recv(), Ok(17));

    // Its pongs are read meanwhile, or the second ping would not come.
    for _ in 0..2 {
        let Received::Ping(payload) = client.next() else {
            panic!("no ping");
        };
        client.frame(0x8a, &payload);
    }
    client.acked(&json!({"op": "ping"}));

    held.gate.add_permits(17);
    let mut answered: Vec<i64> = (0..16)
        .map(|_| {
            let answer = client.json();
            assert_eq!(answer["id"], answer["data"], "{answer}");
            answer["data"].as_i64().unwrap()
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..16).collect::<Vec<_>>());
    held.gate.add_permits(1);
    assert_eq!(
        returned(&mut client, "wait", &json!(18)),
        18,
        "its places are free"
    );
}

#[test]
fn a_node_runs_so_many_calls_and_refuses_more() {
    let (server, held) = waiting(|config| config.limits.calls = 1);
    let (mut one, mut other) = (server.connect(""), server.connect(""));
    one.send(&call("wait", &json!(1)));
    assert_eq!(held.begun.recv(), Ok(1));
    assert_eq!(refused(&mut other, &call("wait", &json!(2))).0, "busy");
    held.gate.add_permits(2);
    assert_eq!(held.ended.recv(), Ok("returned"));
    // The place is free just after the function has returned.
    eventually("the place is free", || {
        other.ask(&call("wait", &json!(3)))["op"] == "ack"
    });
}

#[test]
fn a_function_that_takes_too_long_is_dropped() {
    let (server, held) = waiting(|config| config.limits.call = Duration::from_millis(100));
    let mut client = server.connect("");
    let (code, message) = refused(&mut client, &call("wait", &json!(1)));
    assert_eq!(
        (&*code, &*message),
        ("call_timeout", "the function did not answer within 0.1 s")
    );
    assert_eq!(held.ended.recv(), Ok("dropped"));
    // A busy machine may need longer than that for one that waits for nothing.
    held.gate.add_permits(1000);
    eventually("another is answered", || {
        client.ask(&call("wait", &json!(2)))["data"] == 2
    });
}

#[test]
fn a_function_that_blocks_holds_up_calls_and_nothing_else() {
    let (go, until) = mpsc::sync_channel::<()>(1);
    let until = Arc::new(Mutex::new(until));
    let (begun, has_begun) = mpsc::sync_channel(1);
    let server = serving(
        |config| {
            config.limits.call = Duration::from_millis(100);
            config.shards = 1;
        },
        |builder| {
            builder
                .on_call("block", move |_: Call| {
                    let (until, begun) = (until.clone(), begun.clone());
                    async move {
                        begun.send(()).unwrap();
                        until.lock().unwrap().recv().unwrap();
                        Ok(())
                    }
                })
                .on_call("one", |_: Call| async move { Ok(1) })
        },
    );
    let mut client = server.connect("");
    client.send(&call("block", &json!(null)));
    has_begun.recv().unwrap();
    // The shard's thread serves, and tells the time to those who wait.
    let (mut before, answer) = client.ask_amid(&json!({"op": "ping"}));
    assert_eq!(answer["op"], "ack");
    let (more, answer) = client.ask_amid(&call("one", &json!(null)));
    before.extend(more);
    let codes = [&before[0]["code"], &answer["code"]];
    assert_eq!(codes, [&json!("call_timeout"); 2], "{before:?} {answer}");
    assert_eq!(before.len(), 1);
    go.send(()).unwrap();
    eventually("calls are answered again", || {
        client.ask(&call("one", &json!(null)))["op"] == "ack"
    });
}

#[test]
fn a_function_goes_on_when_its_client_has_left() {
    let (server, held) = waiting(|_| {});
    let mut client = server.connect("");
    client.send(&call("wait", &json!(1)));
    assert_eq!(held.begun.recv(), Ok(1));
    drop(client);
    eventually("its socket is closed", || {
        server.metric("fanfare_connections", "default") == 0.0
    });
    held.gate.add_permits(1);
    assert_eq!(held.ended.recv(), Ok("returned"));
}

#[test]
fn a_server_ends_without_waiting_for_functions() {
    let (server, held) = waiting(|_| {});
    let mut client = server.connect("");
    client.send(&call("wait", &json!(1)));
    assert_eq!(held.begun.recv(), Ok(1));
    let closed = thread::spawn(move || client.closed());
    drop(server);
    assert_eq!(closed.join().unwrap(), 4200);
    assert_eq!(held.ended.recv(), Ok("dropped"));
    // With them goes the last of what they hold.
    assert!(held.ended.recv().is_err());
}

#[test]
fn two_functions_of_one_name_are_a_mistake() {
    let one = |_: Call| async move { Ok(1) };
    let error = Server::builder()
        .on_call("f", one)
        .on_call("f", one)
        .start()
        .unwrap_err();
    let StartError::Config(error) = error else {
        panic!("{error}");
    };
    let problems: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["on_call: there are two functions called \"f\""]);
}
