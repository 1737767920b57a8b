//! What `make` says on a machine without Rust, or with one that is too old: never by installing Debian's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder of programs, as the only place where the shell finds any but its own; deleted when dropped.
struct Programs(PathBuf);

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Programs {
    /// With a `cargo` that prints `says` and ends with `code`, if there is to be one.
    fn new(cargo: Option<(&str, i32)>) -> Self {
        let folder = std::env::temp_dir().join(format!("fanfare-setup-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join(".cargo/bin")).unwrap();
        if let Some((says, code)) = cargo {
            program(
                &folder.join("cargo"),
                &format!("echo '{says}'; exit {code}"),
            );
        }
        Self(folder)
    }

    /// What `.ci/rust` says of it, and whether it is content.
    fn checked(&self) -> (bool, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/rust");
        let done = Command::new(script)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.display()))
            .env("HOME", &self.0)
            .arg(if self.0.join("cargo").exists() {
                "cargo"
            } else {
                "cargo-of-no-one"
            })
            .output()
            .unwrap();
        assert!(done.stdout.is_empty());
        (
            done.status.success(),
            String::from_utf8(done.stderr).unwrap(),
        )
    }
}

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_rust_that_is_new_enough_is_taken() {
    for version in ["1.95.0", "1.95.1", "1.100.0", "2.0.0", "1.96.0-nightly"] {
        let programs = Programs::new(Some((
            &format!("cargo {version} (f2d3ce0bd 2026-03-21)"),
            0,
        )));
        assert_eq!(programs.checked(), (true, String::new()), "{version}");
    }
}

#[test]
fn an_old_rust_is_refused_with_the_way_to_a_new_one() {
    for version in ["1.65.0", "1.94.1", "0.66.0"] {
        let programs = Programs::new(Some((&format!("cargo {version}"), 0)));
        let (content, says) = programs.checked();
        assert!(!content, "{version}");
        let found = format!(
            "Fanfare needs Rust 1.95 or later, and {}/cargo is version {version}.",
            programs.0.display()
        );
        assert!(says.contains(&found) && says.contains("rustup"), "{says}");
    }
}

#[test]
fn a_missing_rust_is_said_with_the_way_to_it() {
    let programs = Programs::new(None);
    let (content, says) = programs.checked();
    assert!(!content);
    assert!(
        says.contains("Fanfare needs Rust 1.95 or later") && says.contains("rustup"),
        "{says}"
    );

    // Rustup is installed, and the shell was started before it was.
    program(&programs.0.join(".cargo/bin/cargo"), "exit 0");
    let (content, says) = programs.checked();
    assert!(
        !content && says.contains(". \"$HOME/.cargo/env\""),
        "{says}"
    );
}

#[test]
fn a_toolchain_that_rustup_cannot_provide_is_said() {
    let (content, says) = Programs::new(Some(("", 1))).checked();
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
