//! The attacks and the soak run, small, against Fanfare: answers, memory and recovery are right. Time is not judged.

mod support;

use std::process::Command;

use serde_json::Value;

use self::support::fanfare;

/// Runs the harness; returns its exit code, what it printed and what it said.
fn harness(args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"))
        .args(args)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), output.stdout, said)
}

/// The names of all attacks.
fn attacks() -> Vec<String> {
    let (code, listed, said) = harness(&["abuse", "--list"]);
    assert_eq!(code, Some(0), "{said}");
    let listed = String::from_utf8(listed).expect("UTF-8");
    let names = listed.lines().filter_map(|line| line.split_once(": "));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Runs every fourth attack from `first` on: four tests share them, which run side by side.
fn hold(first: usize) {
    let names = attacks();
    assert!(names.len() >= 40, "{names:?}");
    let mine = names.iter().skip(first).step_by(4).map(|name| &**name);
    let mut args = vec!["abuse", "--small", "--json", "--server-binary", fanfare()];
    args.extend(mine.clone());
    let (_, json, said) = harness(&args);
    let matrix: Value =
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {said}"));
    let outcomes = matrix["outcomes"].as_array().expect("outcomes");
    assert_eq!(outcomes.len(), mine.count());
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome["wrong"] != Value::Array(Vec::new()))
        .map(|outcome| format!("{}: {}", outcome["attack"], outcome["wrong"]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn attacks_are_survived_first_part() {
    hold(0);
}

#[test]
fn attacks_are_survived_second_part() {
    hold(1);
}

#[test]
fn attacks_are_survived_third_part() {
    hold(2);
}

#[test]
fn attacks_are_survived_fourth_part() {
    hold(3);
}

#[test]
fn an_attack_that_there_is_not_is_an_error() {
    let (code, _, said) = harness(&["abuse", "kindness"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("there is no attack \"kindness\""), "{said}");
}

#[test]
fn a_short_soak_balances() {
    let args = [
        "soak",
        "--duration",
        "20s",
        "--connections",
        "20",
        "--json",
        "--server-binary",
        fanfare(),
    ];
    let (code, json, said) = harness(&args);
    let summary: Value =
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(summary["wrong"], Value::Array(Vec::new()));
    assert_eq!(code, Some(0));
    for counted in ["calls", "clients", "placed", "delivered", "closed"] {
        assert!(summary["counted"][counted].as_u64() > Some(0), "{counted}");
    }
}
