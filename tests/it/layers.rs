//! Folders are layers: a module uses what `src/lib.rs` lists above it, and nothing below.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> PathBuf {
    root().join("src")
}

/// The modules in the order of `src/lib.rs`, which is the layer diagram.
fn layers() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let modules = text.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?
            .strip_suffix(';')
            .map(str::to_owned)
    });
    modules.collect()
}

/// The first names of the paths in a group, of which `group` is what follows the brace.
fn group_members(group: &str) -> Vec<String> {
    let (mut depth, mut members, mut name, mut in_first) = (1, Vec::new(), String::new(), true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                members.push(std::mem::take(&mut name));
                in_first = true;
            }
            ':' if depth == 1 => in_first = false,
            c if depth == 1 && in_first && (c.is_alphanumeric() || c == '_') => name.push(c),
            _ => {}
        }
    }
    members.push(name);
    members
}

/// Every module of the crate that `text` names by `crate::…`, alone or in a group.
fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let boundary = text[..at].chars().next_back();
        if boundary.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_members(group));
        } else {
            found.insert(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found
}

fn files(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, to);
        } else if path.extension().is_some_and(|e| e == "rs") {
            to.push(path);
        }
    }
}

fn violations(layers: &[String], module: &str, text: &str) -> Vec<String> {
    let place = |name: &str| layers.iter().position(|layer| layer == name);
    let own = place(module).unwrap_or_else(|| panic!("{module} is not in src/lib.rs"));
    uses(text)
        .into_iter()
        .filter(|used| place(used).is_some_and(|used| used > own))
        .collect()
}

#[test]
fn nothing_imports_upward() {
    let layers = layers();
    assert!(layers.len() > 10, "{layers:?}");
    let mut all = Vec::new();
    files(&source(), &mut all);
    let mut wrong = Vec::new();
    for file in &all {
        let relative = file.strip_prefix(source()).unwrap();
        let module = relative
            .iter()
            .next()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        for used in violations(&layers, &module, &text) {
            wrong.push(format!("{} uses {used}", relative.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_upward_import_is_seen() {
    let layers = layers();
    assert_eq!(
        violations(&layers, "hub", "use crate::node::Node;"),
        ["node"]
    );
    assert_eq!(
        violations(
            &layers,
            "hub",
            "use crate::{\n    limits,\n    http::{Edge, limits},\n};"
        ),
        ["http"]
    );
    assert_eq!(
        violations(&layers, "hub", "fn f() { crate::server::Server }"),
        ["server"]
    );
    assert!(
        violations(
            &layers,
            "http",
            "use crate::{node::Node, hub::{Hub, State}};"
        )
        .is_empty()
    );
}

/// Components of the cluster that had the node would know everything again. Requests of other nodes are calls of the node, and so
/// is what this node does on all of them.
#[test]
fn of_the_cluster_only_what_carries_out_calls_has_the_node() {
    let mut all = Vec::new();
    files(&source().join("node/cluster"), &mut all);
    let has_node = |file: &&PathBuf| fs::read_to_string(file).unwrap().contains("Arc<Node>");
    let name = |file: &PathBuf| file.file_name().unwrap().to_owned();
    let names: BTreeSet<_> = all.iter().filter(has_node).map(name).collect();
    assert!(
        names
            .iter()
            .eq(["leaving.rs", "receive.rs", "rpc_handler.rs"]),
        "{names:?}"
    );
}

/// The same holds for [`Mesa`](../../src/node/mesa/mod.rs), which the node has. Only its comments name the node.
#[test]
fn what_concerns_mesa_does_not_have_the_node() {
    let mut all = Vec::new();
    files(&source().join("node/mesa"), &mut all);
    assert!(all.len() > 5, "{all:?}");
    for file in all {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(str::trim_start);
        let code = lines.filter(|line| !line.starts_with("//"));
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let names_node = |line: &&str| line.split(|c| !is_name(c)).any(|word| word == "Node");
        let found: Vec<&str> = code.filter(names_node).collect();
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn only_the_configuration_reads_the_environment_and_nothing_is_unsafe() {
    let mut all = Vec::new();
    for folder in ["src", "crates/filter/src", "crates/protocol/src"] {
        files(&root().join(folder), &mut all);
    }
    for file in all {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(root()).unwrap().display().to_string();
        // Tests may be told which Redis server to start, and how much to try.
        let may_read = relative.starts_with("src/config/")
            || relative == "src/bus/tests/server.rs"
            || relative == "src/history/disk/faults.rs";
        assert!(
            may_read || !text.contains("env::var"),
            "{relative} reads the environment"
        );
        assert!(
            !text.contains("unsafe {") && !text.contains("allow(unsafe"),
            "{relative} has unsafe code"
        );
    }
}
