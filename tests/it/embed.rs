//! The server in programs of others: the example, and one with every feature of tokio.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use crate::{running::Running, support::*};
use serde_json::json;

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where Cargo puts the programs of the profile that the tests are built with.
fn folder() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_fanfare"));
    program.parent().unwrap().to_owned()
}

/// Runs Cargo without a network, in the folder that holds what is built already; answers what the program it ran said.
fn cargo(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(words)
        .args(["--offline", "--target-dir"])
        .arg(folder().parent().unwrap())
        .current_dir(ROOT);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "cargo {words:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// When the newest file under `folder` was written.
fn newest(folder: &Path) -> SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let times = entries.map(|entry| {
        if entry.path().is_dir() {
            newest(&entry.path())
        } else {
            entry.metadata().unwrap().modified().unwrap()
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The example, which `cargo test` builds with the tests. Only a run of this test alone has to build it.
fn example() -> PathBuf {
    let program = folder().join("examples/embed");
    let sources = ["src", "examples"].map(|name| newest(&Path::new(ROOT).join(name)));
    let built = fs::metadata(&program).and_then(|found| found.modified());
    if built.map_or(true, |built| sources.iter().any(|source| *source > built)) {
        cargo(&["build", "--locked", "--example", "embed"]);
    }
    program
}

#[test]
fn the_example_sends_to_whom_it_says_and_leaves_well() {
    let mut running = Running::shell(&format!("exec {} 127.0.0.1:0", example().display()));
    let line = running.line();
    let (address, path) = line
        .strip_prefix("ws://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or_else(|| panic!("{line}"));
    let address = address.parse().unwrap();
    let mut ann = Client::open(address, &format!("/{path}"), &[]).unwrap();
    assert_eq!(ann.json()["user"], "ann");
    let mut stranger = Client::open(address, "/v1/connect", &[]).unwrap();
    assert_eq!(stranger.json()["user"], json!(null));

    // Both events are for ann alone, and come again and again.
    let events = [(); 4].map(|()| ann.json()["event"].as_str().unwrap().to_owned());
    for event in ["tick", "level-up"] {
        assert!(events.iter().any(|one| one == event), "{events:?}");
    }
    stranger.expect_nothing();

    let greet = json!({"op": "call", "name": "greet", "data": "Hello"});
    assert_eq!(ann.ask_amid(&greet).1["data"], "Hello, ann!");
    assert_eq!(stranger.ask(&greet)["code"], "stranger");

    running.interrupt();
    for client in [&mut ann, &mut stranger] {
        assert_eq!(client.closed(), 4200);
    }
    // Their sockets end here, so the server need not wait for them.
    drop((ann, stranger));
    let ended = running.finish();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.ends_with("all clients have gone\n"), "{ended:?}");
}

#[test]
fn a_program_with_every_feature_of_tokio_embeds_it() {
    // The versions that are tested, and that are here without a network; Cargo leaves out what it does not need.
    let package = Path::new(ROOT).join("tests/embed-full");
    fs::copy(
        Path::new(ROOT).join("Cargo.lock"),
        package.join("Cargo.lock"),
    )
    .unwrap();
    let manifest = package.join("Cargo.toml").display().to_string();
    let said = cargo(&["run", "--quiet", "--manifest-path", &manifest]);
    assert_eq!(said, "embedded\n");
}
