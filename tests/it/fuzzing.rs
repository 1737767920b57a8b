//! The corpus of the fuzz targets, replayed: what was found once stays fixed, and the seeds are inputs that mean something.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fanfare::fuzzing::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs that are kept for a target.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = fuzz().join("corpus").join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_input_of_the_corpus_keeps_the_promises() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 20, "{name} has {} inputs", inputs.len());
        for path in inputs {
            // A panic is caught by nobody: this line says which input it was.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_target_is_built_and_run() {
    let manifest: toml::Table = fs::read_to_string(fuzz().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let mut built: Vec<&str> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bin| bin["name"].as_str().unwrap())
        .collect();
    built.sort_unstable();
    let mut all = TARGETS.map(|(name, _)| name);
    all.sort_unstable();
    assert_eq!(built, all);

    for name in all {
        let source = fs::read_to_string(fuzz().join(format!("targets/{name}.rs"))).unwrap();
        assert!(
            source.contains(&format!("fanfare::fuzzing::{name}(data)")),
            "{name} runs something else"
        );
    }
}
