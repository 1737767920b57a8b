//! The cluster scenario and the failure matrix run, small, against Fanfare and real Redis servers.

mod support;

use std::process::Command;

use serde_json::Value;

use self::support::fanfare;

/// Runs the harness; answers its exit code and its JSON.
fn harness(args: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .args(args)
        .args(["--json", "--server-binary", fanfare()])
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let json =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code(), json)
}

fn figure(findings: &Value, name: &str) -> f64 {
    let figures = findings["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure
        .and_then(|figure| figure["median"].as_f64())
        .unwrap_or_else(|| panic!("no {name}: {findings}"))
}

#[test]
fn three_nodes_deliver_as_one_does() {
    let args = [
        "cluster",
        "-n",
        "30",
        "--depth",
        "3",
        "--duration",
        "200ms",
        "--repeat",
        "1",
    ];
    let (code, findings) = harness(&args);
    assert_eq!(code, Some(0), "{findings}");
    for name in [
        "one node, deliveries a second",
        "three nodes, deliveries a second",
    ] {
        assert!(figure(&findings, name) > 0.0, "{name}");
    }
    assert!(figure(&findings, "deliveries a second, three nodes over one node") > 0.0);
}

/// Runs failures, briefly; answers what is wrong with each. What was merely late is not: a busy machine alone can cause it.
fn matrix(only: &str) -> Vec<(String, Value)> {
    let args = [
        "failures", "--only", only, "--before", "1s", "--after", "6s",
    ];
    let (_, matrix) = harness(&args);
    let outcomes = matrix["outcomes"].as_array().expect("outcomes");
    outcomes
        .iter()
        .map(|outcome| {
            (
                outcome["failure"].as_str().expect("a name").to_owned(),
                outcome["wrong"].clone(),
            )
        })
        .collect()
}

#[test]
fn where_nothing_fails_nothing_is_wrong() {
    assert_eq!(
        matrix("calm"),
        [("calm".to_owned(), Value::Array(Vec::new()))]
    );
}

#[test]
fn short_failures_are_survived() {
    for (failure, wrong) in matrix("restart,kill-clients,frozen-connections") {
        assert_eq!(wrong, Value::Array(Vec::new()), "{failure}");
    }
}

#[test]
fn nobody_is_taken_for_dead_where_a_new_node_is_the_first_after_an_outage() {
    for (failure, wrong) in matrix("new-node-first") {
        assert_eq!(wrong, Value::Array(Vec::new()), "{failure}");
    }
}

#[test]
fn every_operation_of_a_cluster_has_its_cost() {
    let args = [
        "scale", "--nodes", "2", "--repeat", "5", "--settle", "500ms",
    ];
    let (code, findings) = harness(&args);
    assert_eq!(code, Some(0), "{findings}");
    let size = &findings["sizes"][0];
    assert_eq!(size["nodes"], 2);
    let costs = size["costs"].as_array().expect("costs");
    assert_eq!(costs.len(), 12);
    assert!(
        costs[0]["publications"].as_f64() >= Some(0.5),
        "an event for a user of the other node is published: {findings}"
    );
}

#[test]
fn clients_of_a_node_that_ends_are_back_and_lose_nothing() {
    for by in ["kill", "drain"] {
        let args = [
            "reconnect",
            "-n",
            "40",
            "--channels",
            "4",
            "--by",
            by,
            "--watch",
            "8s",
        ];
        let (code, findings) = harness(&args);
        assert_eq!(code, Some(0), "{findings}");
        let outcome = &findings["outcomes"][0];
        let counts = ["resumed", "put", "lost", "refused"].map(|name| outcome[name].as_u64());
        let expected = [40, 40, 0, 0].map(Some);
        assert_eq!(counts, expected, "{by}: {findings}");
        assert_eq!(
            outcome["noticed"],
            serde_json::json!([0, 0, 10]),
            "{by}: {findings}"
        );
    }
}
