//! Every scenario runs, small, and finds nothing wrong: against the bare server where that can carry it out, and
//! else against Fanfare.

#[path = "../../tests/support/redis/port.rs"]
mod port;
mod support;

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::{port::free_port, support::fanfare};

fn loadtest(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .args(args)
        .output()
        .expect("the harness runs")
}

/// A server that was not started by the harness.
struct Running {
    address: String,
    child: Child,
}

impl Running {
    /// Starts `program` with `args` and where to listen; anew if something else took the port meanwhile.
    fn start(program: &str, args: &[&str]) -> Self {
        for _ in 0..5 {
            let free = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a port")));
            let address = free.to_string();
            let mut command = Command::new(program);
            let child = command
                .args(args)
                .args(["--listen", &address])
                .stdout(Stdio::null())
                .spawn();
            let mut running = Self {
                address,
                child: child.expect("it runs"),
            };
            while matches!(running.child.try_wait(), Ok(None)) {
                if TcpStream::connect(free).is_ok() {
                    return running;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("{program} {args:?} does not start");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one scenario for a fifth of a second; answers its findings.
fn findings(scenario: &str, more: &[&str]) -> Value {
    findings_of(scenario, "200ms", more)
}

fn findings_of(scenario: &str, duration: &str, more: &[&str]) -> Value {
    let short = ["--repeat", "1", "--duration", duration, "--json"];
    let output = loadtest(&[&[scenario], &short[..], more].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{scenario}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&text).expect("a report in JSON")
}

fn figure(findings: &Value, name: &str) -> f64 {
    let figures = findings["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("no {name} in {findings}"))["median"]
        .as_f64()
        .expect("a number")
}

#[test]
fn events_to_everyone_are_counted_and_timed() {
    for (scenario, more) in [
        ("flood", &["--depth", "4"][..]),
        ("serial", &[]),
        ("paced", &["--rate", "300"]),
    ] {
        let found = findings(scenario, &[&["--floor", "-n", "40"], more].concat());
        assert!(figure(&found, "deliveries a second") > 40.0);
        assert!(figure(&found, "request to arrival p99") > 0.0);
        assert_eq!(found["faults"]["lost"], 0);
    }
}

#[test]
fn a_report_has_what_its_figures_were_made_of() {
    let args = [
        "--floor",
        "-n",
        "10",
        "--repeat",
        "2",
        "--rate",
        "100",
        "--duration",
        "600ms",
    ];
    let output = loadtest(
        &[
            &[
                "paced",
                "--json",
                "--token-secret",
                "not-to-be-told-to-anybody-else",
            ],
            &args[..],
        ]
        .concat(),
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains("not-to-be-told"));
    let found: Value = serde_json::from_str(&text).expect("a report in JSON");
    assert_eq!(found["command"][1], "paced");
    assert!(found["machine"]["cores"].as_u64() > Some(0));
    let measurements = found["measurements"].as_array().expect("measurements");
    assert_eq!(measurements.len(), 2);
    for (n, measurement) in measurements.iter().enumerate() {
        assert_eq!(
            (&measurement["name"], &measurement["repetition"]),
            (&"paced".into(), &(n + 1).into())
        );
        let lane = &measurement["lanes"][0];
        let count = |point: &Value| point["count"].as_u64().expect("a count");
        let timeline = lane["timeline"].as_array().expect("a timeline");
        assert_eq!(
            timeline.iter().map(count).sum::<u64>(),
            600,
            "60 events to 10 connections"
        );
        assert_eq!(
            (&lane["sent"], &lane["deliveries"]),
            (&60.into(), &600.into())
        );
        assert!(
            !lane["percentiles"]
                .as_array()
                .expect("percentiles")
                .is_empty()
        );
        assert!(measurement["server"].as_array().expect("samples").len() >= 2);
    }
}

#[test]
fn a_page_has_figures_and_curves_and_needs_nothing_else() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    let shown = path.to_str().expect("a path in UTF-8");
    let more = [
        "--floor",
        "-n",
        "20",
        "--probes",
        "5",
        "--no-calibration",
        "--report",
        shown,
    ];
    let output = loadtest(
        &[
            &["mixed", "--repeat", "2", "--duration", "600ms"],
            &more[..],
        ]
        .concat(),
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("report: {shown}")));
    let page = std::fs::read_to_string(&path).expect("a page");
    for part in [
        "<h1>mixed</h1>",
        "2 times 600ms",
        "p99 with scans over p99 alone",
        "over time: alone</h2>",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(page.matches("<svg").count() >= 6);
    assert!(
        !["<script", "<link", "src=", "url(", "@import"]
            .iter()
            .any(|from| page.contains(from))
    );
}

#[test]
fn a_stall_of_the_server_counts_for_everything_that_was_due() {
    let floor = Running::start(env!("CARGO_BIN_EXE_fanfare-loadtest"), &["floor"]);
    let pid = Pid::from_raw(floor.child.id() as i32).expect("a process");
    let paced = ["--url", &floor.address, "-n", "20", "--rate", "100"];
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
    // It stands still most of the time; had sending waited for it, most events would have been fast.
    assert!(figure(&found, "request to arrival p50") > 5.0, "{found}");
    assert_eq!(found["faults"]["unsent"], 0);
}

#[test]
fn events_to_single_users_are_counted_and_timed() {
    let found = findings("targeted", &["--floor", "-n", "20", "--depth", "8"]);
    assert!(figure(&found, "events a second") > 20.0);
    let found = findings("targeted", &["--floor", "-n", "20", "--rate", "200"]);
    // A busy machine is late with some, and none come before they are due.
    let rate = figure(&found, "events a second");
    assert!(rate > 20.0 && rate < 260.0, "{found}");
}

#[test]
fn single_events_are_timed_beside_scans() {
    // Long enough for a scan between events even on a busy machine.
    let more = ["--floor", "-n", "60", "--probes", "10", "--rate", "200"];
    let found = findings_of("mixed", "1s", &more);
    assert!(figure(&found, "p99 with scans over p99 alone") > 0.0);
    assert!(figure(&found, "floor: with scans, scans a second") > 0.0);
}

#[test]
fn events_through_a_filter_are_held_against_as_many_connections_alone() {
    for (share, by) in [
        ("1", "index"),
        ("50", "scan"),
        ("100", "scan"),
        ("100", "index"),
    ] {
        let more = [
            "--server-binary",
            fanfare(),
            "-n",
            "100",
            "--match",
            share,
            "--by",
            by,
        ];
        let found = findings("filtered", &more);
        assert!(figure(&found, "filtered, server CPU per event") >= 0.0);
        assert!(figure(&found, "p99 to arrival, filtered over alone") > 0.0);
    }
}

#[test]
fn a_filter_that_is_answered_otherwise_than_asked_ends_the_test() {
    let output = loadtest(&["filtered", "--floor"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the floor knows no filters"));
    let secret = ["--token-secret", "load-test-secret-0123456789abcdef"];
    let bare = Running::start(
        fanfare(),
        &[&["serve", "--log", "warn"], &secret[..]].concat(),
    );
    let output = loadtest(&["filtered", "--url", &bare.address, "-n", "100"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("start it with --index auth.tenant"), "{said}");
    let more = ["--url", &bare.address, "-n", "100", "--by", "scan"];
    let found = findings("filtered", &more);
    assert!(figure(&found, "filtered, request to arrival p99") > 0.0);
    assert!(
        !found.to_string().contains("alone"),
        "there is no server for it"
    );
}

#[test]
fn connections_that_stay_lose_nothing_while_others_come_and_go() {
    for server in [&["--floor"][..], &["--server-binary", fanfare()]] {
        let found = findings(
            "churn",
            &[server, &["-n", "20", "--storm", "15", "--rate", "100"]].concat(),
        );
        assert!(figure(&found, "storm alone, handshakes a second") > 0.0);
        assert!(figure(&found, "with storms, dial to welcome p99") > 0.0);
        assert!(figure(&found, "p99 with storms over p99 calm") > 0.0);
        assert_eq!(found["faults"]["connections_left"], 0);
    }
}

#[test]
fn new_connections_come_in_while_others_drop() {
    let servers: [&[&str]; 3] = [
        &["--floor"],
        &["--server-binary", fanfare(), "--by", "kill"],
        &[
            "--server-binary",
            fanfare(),
            "--redis",
            "--ordinary-priority",
        ],
    ];
    for server in servers {
        let more = [
            "-n",
            "60",
            "--channels",
            "3",
            "--rate",
            "100",
            "--resume-window",
            "1s",
        ];
        let found = findings("drops", &[server, &more].concat());
        for when in [
            "in the second of the drop",
            "in the second in which they are given up",
        ] {
            assert!(figure(&found, &format!("{when}, accepted a second")) > 0.0);
            assert!(figure(&found, &format!("p99 {when}, over before")) > 0.0);
        }
        assert_eq!(found["faults"]["connections_left"], 0);
        assert_eq!(found["faults"]["connections_ended"], 0);
    }
    let found = findings(
        "drops",
        &[
            "--server-binary",
            fanfare(),
            "-n",
            "20",
            "--resume-window",
            "100ms",
        ],
    );
    assert!(figure(&found, "forgotten by the server after") > 0.0);
}

#[test]
fn connections_that_read_lose_nothing_to_those_that_do_not() {
    let slow = |server: &[&str], bytes: &str| {
        let more = [
            "-n", "10", "--slow", "4", "--rate", "200", "--settle", "10ms", "--bytes", bytes,
        ];
        findings("slow", &[server, &more, &["--stall", "1s"]].concat())
    };
    let found = slow(&["--floor"], "128");
    assert!(figure(&found, "p99 with slow ones over p99 without") > 0.0);
    assert_eq!(
        figure(&found, "slow ones still open, with all events") as u64,
        4
    );
    // Over 3 MB for each of them, of which the server keeps 1 MiB.
    let found = slow(&["--server-binary", fanfare()], "16384");
    assert_eq!(
        figure(&found, "slow ones closed with 4101, as the server counts") as u64,
        4
    );
    assert_eq!(
        figure(&found, "slow ones still open, with all events") as u64,
        0
    );
    assert!(figure(&found, "events dropped for them, as the server counts") > 0.0);
}

#[test]
fn idle_connections_are_weighed() {
    // More than those that warm the server up, who connect alone at first.
    let found = findings("idle", &["--floor", "-n", "1100", "--settle", "10ms"]);
    assert!(figure(&found, "server CPU per handshake") >= 0.0);
    assert_eq!(found["faults"]["connections_ended"], 0);
}

#[test]
fn each_server_has_a_line_that_says_what_it_lacks() {
    let output = loadtest(&["servers"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    let says = |kind: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(name, _)| *name == kind);
        found.map_or("", |(_, said)| said.trim_start())
    };
    assert_eq!(says("floor"), "yes", "{text}");
    assert!(says("plain").starts_with("no: name its program"), "{text}");
}

#[test]
fn what_cannot_be_carried_out_says_why() {
    for (args, why) in [
        (&["flood", "--server", "plain"][..], "name its program"),
        (
            &["flood", "--floor", "--server", "plain"],
            "cannot be used with",
        ),
        (
            &["mixed", "--server", "plain", "--url", "127.0.0.1:1"],
            "plain knows no filters",
        ),
        (
            &["flood", "--server", "ws", "--peers", "/nowhere"],
            "/nowhere/ws has no server.js",
        ),
        (&["flood", "--url", "127.0.0.1:1"], "cannot connect"),
        (
            &["flood", "--server-binary", "/nowhere"],
            "cannot start /nowhere",
        ),
        (&["mixed", "--floor", "--probes", "0"], "--probes must be"),
        (&["drops", "--floor", "--redis"], "a node of Fanfare alone"),
    ] {
        let output = loadtest(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && said.contains(why),
            "{args:?}: {said}"
        );
    }
}
