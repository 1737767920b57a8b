//! Licences and sources of all dependencies, from what cargo knows without a network.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn deny() -> toml::Table {
    file("deny.toml").parse().unwrap()
}

/// What `deny.toml` allows.
fn allowed() -> BTreeSet<String> {
    let deny = deny();
    let list = deny["licenses"]["allow"].as_array().unwrap();
    list.iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// Every package of the workspace, with all that it needs to build and to test on this platform.
fn packages() -> Vec<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let metadata: Value = serde_json::from_slice(&done.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether an SPDX expression can be met with licences out of `allowed`.
struct Expression<'t> {
    words: Vec<&'t str>,
    at: usize,
    allowed: &'t BTreeSet<String>,
}

impl<'t> Expression<'t> {
    fn is_met(text: &'t str, allowed: &'t BTreeSet<String>) -> bool {
        // Older packages write `MIT/Apache-2.0` for `MIT OR Apache-2.0`.
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let mut rest = word;
            while let Some(at) = rest.find(['(', ')', '/']) {
                words.extend((at > 0).then(|| &rest[..at]));
                words.push(&rest[at..=at]);
                rest = &rest[at + 1..];
            }
            words.extend((!rest.is_empty()).then_some(rest));
        }
        let mut expression = Self {
            words,
            at: 0,
            allowed,
        };
        let met = expression.any();
        met && expression.at == expression.words.len()
    }

    fn takes(&mut self, wanted: &[&str]) -> bool {
        let found = self
            .words
            .get(self.at)
            .is_some_and(|word| wanted.contains(word));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> bool {
        let mut met = self.all();
        while self.takes(&["OR", "/"]) {
            met |= self.all();
        }
        met
    }

    fn all(&mut self) -> bool {
        let mut met = self.one();
        while self.takes(&["AND"]) {
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        if self.takes(&["("]) {
            let met = self.any();
            return self.takes(&[")"]) && met;
        }
        let Some(&licence) = self.words.get(self.at) else {
            return false;
        };
        self.at += 1;

        // An exception only adds permissions.
        if self.takes(&["WITH"]) {
            self.at += 1;
        }
        self.allowed.contains(licence)
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let allowed = allowed();
    for package in packages() {
        let (name, licence) = (&package["name"], package["license"].as_str());
        let licence = licence.unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(
            Expression::is_met(licence, &allowed),
            "{name} is under {licence}, which deny.toml does not allow"
        );
    }
}

#[test]
fn everything_comes_from_one_registry() {
    let mut registries = BTreeSet::new();
    for package in packages() {
        let (name, source) = (&package["name"], package["source"].as_str());
        let is_own = name.as_str().unwrap().starts_with("fanfare");
        assert_eq!(is_own, source.is_none(), "the source of {name}: {source:?}");
        registries.extend(source.map(str::to_owned));
    }

    assert_eq!(registries.len(), 1, "{registries:?}");
    assert!(registries.iter().all(|one| one.starts_with("registry+")));
}

#[test]
fn what_deny_toml_bans_is_not_locked() {
    let lock: toml::Table = file("Cargo.lock").parse().unwrap();
    let locked = lock["package"].as_array().unwrap();
    for banned in deny()["bans"]["deny"].as_array().unwrap() {
        let banned = &banned["crate"];
        assert!(
            locked.iter().all(|package| &package["name"] != banned),
            "{banned}"
        );
    }
}

/// Domain names outside ASCII are looked up nowhere, and the tables for them take longer to build than all of Redis's
/// protocol: the lock file holds the version of this crate that has none.
#[test]
fn the_tables_of_domain_names_stay_out() {
    let lock: toml::Table = file("Cargo.lock").parse().unwrap();
    let adapter = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"].as_str() == Some("idna_adapter"));
    assert!(
        adapter.is_none_or(|adapter| adapter["version"].as_str() == Some("1.0.0")),
        "run: cargo update -p idna_adapter --precise 1.0.0"
    );
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed = BTreeSet::from(["MIT", "ISC"].map(str::to_owned));
    for (text, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND MIT", true),
        ("GPL-3.0 OR ISC AND MIT", true),
        ("(GPL-3.0 OR ISC) AND (MIT)", true),
        ("(GPL-3.0 AND ISC) OR Apache-2.0", false),
        ("MIT WITH LLVM-exception", true),
        ("(MIT", false),
        ("MIT ISC", false),
        ("", false),
    ] {
        assert_eq!(Expression::is_met(text, &allowed), met, "{text}");
    }
}
