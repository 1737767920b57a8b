//! Other servers are driven for real, small, and nothing is lost on the way. What Node needs is installed by
//! `make setup-test`; Sockudo and Centrifugo are left out where they are not on the PATH.

mod support;

use std::process::{Command, Output};

use serde_json::Value;

use self::support::fanfare;

fn loadtest(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .args(args)
        .output()
        .expect("the harness runs")
}

/// Runs every scenario that `server` can be measured by, for a fifth of a second each.
fn every_scenario(server: &str, named: &[&str]) {
    for (scenario, more) in [
        // So few clients would be sent more than they can read, and closed for it.
        ("flood", &["--depth", "4", "--until", "delivered"][..]),
        ("serial", &[]),
        ("targeted", &["--depth", "8"]),
        ("idle", &["--settle", "10ms"]),
    ] {
        let short = [
            "--repeat",
            "1",
            "--duration",
            "200ms",
            "--json",
            "-n",
            "30",
            "--server",
            server,
        ];
        let output = loadtest(&[&[scenario], &short[..], named, more].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{server}, {scenario}: {text}{said}"
        );
        let found: Value = serde_json::from_str(&text).expect("a report in JSON");
        let sum: i64 = found["faults"]
            .as_object()
            .expect("faults")
            .values()
            .filter_map(Value::as_i64)
            .sum();
        assert_eq!(sum, 0, "{server}, {scenario}: {text}");
    }
}

/// As above, if `server` is on the PATH.
fn every_scenario_where_there_is(server: &str) {
    let output = loadtest(&["servers"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.starts_with(server))
        .expect("a line for each server");
    if line.ends_with("yes") {
        every_scenario(server, &[]);
    } else {
        println!("skipped: {line}");
    }
}

#[test]
fn ws_is_driven() {
    every_scenario("ws", &[]);
}

#[test]
fn socket_io_is_driven() {
    every_scenario("socket.io", &[]);
}

#[test]
fn mesa_is_driven() {
    every_scenario("mesa", &[]);
}

#[test]
fn fanfare_is_driven_by_clients_of_socket_io() {
    every_scenario("fanfare-socketio", &["--server-binary", fanfare()]);
}

#[test]
fn fanfare_is_driven_by_clients_of_mesa() {
    every_scenario("fanfare-mesa", &["--server-binary", fanfare()]);
}

#[test]
fn a_plain_server_is_driven_by_paths_and_arguments() {
    let script = concat!(
        "--server-arg=",
        env!("CARGO_MANIFEST_DIR"),
        "/peers/ws/server.js"
    );
    every_scenario(
        "plain",
        &["--server-binary", "node", script, "--server-arg={port}"],
    );
}

#[test]
fn centrifugo_is_driven_where_there_is_one() {
    every_scenario_where_there_is("centrifugo");
}

#[test]
fn sockudo_is_driven_where_there_is_one() {
    every_scenario_where_there_is("sockudo");
}
