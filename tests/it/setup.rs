//! What `make` says on a machine without Rust, or with one that is too old: never by installing Debian's.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

/// A folder with a `cargo` that prints `FAKE_SAYS` and ends with `FAKE_CODE`.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake-cargo");

/// What `.ci/rust` says of `cargo`, and whether it is content.
fn checked(cargo: &str, home: &Path, says: &str, code: i32) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/rust");
    let done = Command::new(script)
        .arg(cargo)
        .env_clear()
        .env("PATH", format!("{FAKE}:/usr/bin:/bin"))
        .env("HOME", home)
        .env("FAKE_SAYS", says)
        .env("FAKE_CODE", code.to_string())
        .output()
        .unwrap();
    assert!(done.stdout.is_empty());
    (
        done.status.success(),
        String::from_utf8(done.stderr).unwrap(),
    )
}

fn nowhere() -> &'static Path {
    Path::new("/nonexistent")
}

#[test]
fn a_rust_that_is_new_enough_is_taken() {
    for version in ["1.95.0", "1.95.1", "1.100.0", "2.0.0", "1.96.0-nightly"] {
        let says = format!("cargo {version} (f2d3ce0bd 2026-03-21)");
        let found = checked("cargo", nowhere(), &says, 0);
        assert_eq!(found, (true, String::new()), "{version}");
    }
}

#[test]
fn an_old_rust_is_refused_with_the_way_to_a_new_one() {
    for version in ["1.65.0", "1.94.1", "0.66.0"] {
        let (content, says) = checked("cargo", nowhere(), &format!("cargo {version}"), 0);
        assert!(!content, "{version}");
        let found =
            format!("Fanfare needs Rust 1.95 or later, and {FAKE}/cargo is version {version}.");
        assert!(says.contains(&found) && says.contains("rustup"), "{says}");
    }
}

#[test]
fn a_missing_rust_is_reported_with_the_way_to_it() {
    let missing = "cargo-of-no-one";
    let (content, says) = checked(missing, nowhere(), "", 0);
    assert!(!content);
    assert!(
        says.contains("Fanfare needs Rust 1.95 or later") && says.contains("rustup"),
        "{says}"
    );

    // Rustup is installed, and the shell was started before it was.
    let home = std::env::temp_dir().join(format!("fanfare-setup-{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(home.join(".cargo/bin")).unwrap();
    symlink(Path::new(FAKE).join("cargo"), home.join(".cargo/bin/cargo")).unwrap();
    let (content, says) = checked(missing, &home, "", 0);
    fs::remove_dir_all(&home).unwrap();
    assert!(
        !content && says.contains(". \"$HOME/.cargo/env\""),
        "{says}"
    );
}

#[test]
fn a_toolchain_that_rustup_cannot_provide_is_reported() {
    let (content, says) = checked("cargo", nowhere(), "", 1);
    assert!(!content && says.contains("rust-toolchain.toml"), "{says}");
}

#[test]
fn rustup_is_asked_for_exactly_one_version() {
    let file = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::read_to_string(path)
            .unwrap()
            .parse::<toml::Table>()
            .unwrap()
    };
    let toolchain = file("rust-toolchain.toml");
    let toolchain = toolchain["toolchain"].as_table().unwrap();
    let names: Vec<&String> = toolchain.keys().collect();
    assert_eq!(
        names,
        ["channel"],
        "components and targets would be fetched"
    );

    // All of it, since "1.95" is another toolchain to rustup than "1.95.0".
    let channel = toolchain["channel"].as_str().unwrap();
    assert_eq!(channel.split('.').count(), 3, "{channel}");
    let least = &file("Cargo.toml")["workspace"]["package"]["rust-version"];
    assert!(
        channel.starts_with(least.as_str().unwrap()),
        "{channel} {least}"
    );

    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/Dockerfile");
    assert!(
        fs::read_to_string(dockerfile)
            .unwrap()
            .contains(&format!("FROM rust:{channel}-"))
    );
}
