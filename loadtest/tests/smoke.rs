//! Every scenario runs, small and against the bare server, and finds nothing wrong.

use std::{
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn loadtest(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest")).args(args).output().expect("the harness runs")
}

/// Runs one scenario for a fifth of a second; answers its findings.
fn findings(scenario: &str, more: &[&str]) -> Value {
    findings_of(scenario, "200ms", more)
}

fn findings_of(scenario: &str, duration: &str, more: &[&str]) -> Value {
    let short = ["--repeat", "1", "--duration", duration, "--json"];
    let output = loadtest(&[&[scenario], &short[..], more].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{scenario}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).expect("a report in JSON")
}

fn figure(findings: &Value, name: &str) -> f64 {
    let figures = findings["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("no {name} in {findings}"))["median"].as_f64().expect("a number")
}

#[test]
fn events_to_everyone_are_counted_and_timed() {
    for (scenario, more) in [("flood", &["--depth", "4"][..]), ("serial", &[]), ("paced", &["--rate", "300"])]
    {
        let found = findings(scenario, &[&["--floor", "-n", "40"], more].concat());
        assert!(figure(&found, "deliveries a second") > 40.0);
        assert!(figure(&found, "request to arrival p99") > 0.0);
        assert_eq!(found["faults"]["lost"], 0);
    }
}

#[test]
fn a_stall_of_the_server_counts_for_everything_that_was_due() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let mut floor = Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .args(["floor", "--listen", &port.to_string()])
        .spawn()
        .expect("the floor runs");
    while std::net::TcpStream::connect(port).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = Pid::from_raw(floor.id() as i32).expect("a process");
    let address = port.to_string();
    let paced = ["--url", &address, "-n", "20", "--rate", "100"];
    let found = std::thread::scope(|scope| {
        let run = scope.spawn(|| findings_of("paced", "1s", &paced));
        while !run.is_finished() {
            for (signal, pause) in [(Signal::STOP, 300), (Signal::CONT, 100)] {
                kill_process(pid, signal).expect("it lives");
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
        run.join().expect("it finds something")
    });
    floor.kill().and_then(|()| floor.wait()).expect("the floor ends");
    // It stands still most of the time; had sending waited for it, most events would have been fast.
    assert!(figure(&found, "request to arrival p50") > 5.0, "{found}");
    assert_eq!(found["faults"]["unsent"], 0);
}

#[test]
fn events_to_single_users_are_counted_and_timed() {
    let found = findings("targeted", &["--floor", "-n", "20", "--depth", "8"]);
    assert!(figure(&found, "events a second") > 20.0);
    let found = findings("targeted", &["--floor", "-n", "20", "--rate", "200"]);
    assert!((figure(&found, "events a second") - 200.0).abs() < 60.0, "{found}");
}

#[test]
fn single_events_are_timed_beside_scans() {
    let found = findings("mixed", &["--floor", "-n", "60", "--probes", "10", "--rate", "200"]);
    assert!(figure(&found, "p99 with scans over p99 alone") > 0.0);
    assert!(figure(&found, "floor: with scans, scans a second") > 0.0);
}

#[test]
fn idle_connections_are_weighed() {
    let found = findings("idle", &["--floor", "-n", "50", "--settle", "10ms"]);
    assert!(figure(&found, "server CPU per handshake") >= 0.0);
    assert_eq!(found["faults"]["connections_ended"], 0);
}

#[test]
fn what_cannot_be_carried_out_says_why() {
    for (args, why) in [
        (&["flood"][..], "name a server"),
        (&["flood", "--url", "127.0.0.1:1"], "cannot connect"),
        (&["flood", "--server-binary", "/nowhere"], "cannot start /nowhere"),
        (&["mixed", "--floor", "--probes", "0"], "--probes must be"),
    ] {
        let output = loadtest(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{args:?}: {said}");
    }
}
