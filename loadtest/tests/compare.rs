//! A comparison measures in turn, keeps what it has measured, and says what came of it.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::support::fanfare;

/// A folder of a test's own, which is gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fanfare-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn only_child(&self) -> PathBuf {
        let mut children = fs::read_dir(&self.0)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path());
        let child = children.next().expect("a comparison's folder");
        assert!(children.next().is_none(), "one folder");
        child
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the system's folder for such.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn harness() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

fn lines(folder: &Path) -> Vec<Value> {
    let raw = fs::read_to_string(folder.join("raw.jsonl")).expect("raw data");
    raw.lines()
        .map(|line| serde_json::from_str(line).expect("JSON in every line"))
        .collect()
}

/// One of each kind of load, with the servers that are always there.
const ONLY: &str =
    "flood/5000,serial,paced/1000,targeted,mixed,filtered/scan-1,handshakes,idle,protocols/5000";

#[test]
fn a_quick_comparison_is_kept_and_summarized() {
    let folder = Folder::new("compare");
    let output = harness()
        .args([
            "compare",
            "--quick",
            "--other-rounds",
            "0",
            "--only",
            ONLY,
            "--name",
            "here",
            "--into",
        ])
        .arg(&folder.0)
        .arg("--server-binary")
        .arg(fanfare())
        .output()
        .expect("the harness runs");
    assert!(output.status.success(), "{}", said(&output));
    let made = folder.only_child();
    assert!(
        made.to_string_lossy().ends_with("-here"),
        "{}",
        made.display()
    );

    let (setup, measured) = (json(&made.join("setup.json")), lines(&made));
    assert_eq!(setup["planned"], measured.len());
    for one in &measured {
        assert!(
            one["findings"]["figures"][0]["name"].is_string() && one["error"].is_null(),
            "{one}"
        );
    }
    let summary = json(&made.join("summary.json"));
    assert_eq!(
        summary["faults"].as_array().map(Vec::len),
        Some(0),
        "{}",
        summary["faults"]
    );
    let growth = summary["goals"]
        .as_array()
        .expect("goals")
        .iter()
        .find(|goal| {
            goal["family"] == "serial"
                && goal["goal"]
                    .as_str()
                    .is_some_and(|text| text.contains("growth"))
        });
    assert!(
        growth.is_some_and(|growth| growth["values"].is_array()),
        "{summary}"
    );
    let page = fs::read_to_string(made.join("summary.md")).expect("a summary");
    for part in [
        "# Comparison of 2",
        "mean nothing",
        "## Goals",
        "## Flood: 128 B",
        "| Fanfare by Socket.IO |",
        "| Fanfare by Mesa |",
        "- uwebsockets: build ",
        "compare",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    nothing_tells_where_this_is(&made, Path::new(fanfare()));
    a_summary_can_be_made_again(&made, &page);
}

fn nothing_tells_where_this_is(made: &Path, program: &Path) {
    for name in ["setup.json", "raw.jsonl", "summary.json", "summary.md"] {
        let text = fs::read_to_string(made.join(name)).expect("a file");
        for path in [
            program,
            Path::new(env!("CARGO_BIN_EXE_fanfare-loadtest")),
            made,
        ] {
            assert!(
                !text.contains(&path.display().to_string()),
                "{name} has {}",
                path.display()
            );
        }
    }
}

fn a_summary_can_be_made_again(made: &Path, page: &str) {
    fs::remove_file(made.join("summary.md")).expect("it was there");
    let headline = harness()
        .arg("summarize")
        .arg(made)
        .arg("--headline")
        .output()
        .expect("it runs");
    assert!(
        said(&headline).contains("| load | connections | Fanfare | Fanfare over uWebSockets |"),
        "{}",
        said(&headline)
    );
    assert!(
        !made.join("summary.md").exists(),
        "--headline writes nothing"
    );
    let again = harness()
        .arg("summarize")
        .arg(made)
        .output()
        .expect("it runs");
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(
        fs::read_to_string(made.join("summary.md")).expect("a summary"),
        page
    );
}

#[test]
fn an_interrupted_comparison_says_what_it_has_measured() {
    let folder = Folder::new("compare-interrupted");
    let mut comparing = harness()
        .args([
            "compare",
            "--rounds",
            "50",
            "--other-rounds",
            "0",
            "--duration",
            "200ms",
        ])
        .args([
            "--only",
            "serial/1000",
            "--server-binary",
            "/nowhere/fanfare",
            "--into",
        ])
        .arg(&folder.0)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the harness runs");
    let until = Instant::now() + Duration::from_mins(1);
    let has_measured = || {
        let made = fs::read_dir(&folder.0)
            .ok()
            .and_then(|mut made| made.next()?.ok());
        made.is_some_and(|made| {
            fs::metadata(made.path().join("raw.jsonl")).is_ok_and(|raw| raw.len() > 0)
        })
    };
    while !has_measured() {
        assert!(Instant::now() < until, "nothing was measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&comparing), Signal::INT).expect("it still runs");
    let status = comparing.wait().expect("it ends");
    assert_eq!(status.code(), Some(2));
    let made = folder.only_child();
    let page = fs::read_to_string(made.join("summary.md")).expect("a summary");
    assert!(page.contains("Ended early: "), "{page}");
    assert!(
        page.contains("- fanfare: cannot start PATH/fanfare"),
        "{page}"
    );
    assert!(lines(&made).len() < 50);
}

#[test]
fn what_cannot_be_measured_is_named() {
    let folder = Folder::new("compare-nothing");
    for (arguments, why) in [
        (&["--only", "flod"][..], "there is no phase flod"),
        (
            &[
                "--only",
                "mixed",
                "--other-rounds",
                "0",
                "--server-binary",
                "/nowhere",
            ],
            "skipped: mixed/15000: it is for",
        ),
        (&["--quick", "--rounds", "3"], "cannot be used with"),
        (&["--name", "../there"], "letters, digits"),
    ] {
        let output = harness()
            .arg("compare")
            .args(arguments)
            .arg("--into")
            .arg(&folder.0)
            .output()
            .expect("it runs");
        assert!(
            output.status.code() == Some(2) && said(&output).contains(why),
            "{why}: {}",
            said(&output)
        );
    }
}
