//! Every block of code in the README and in docs/ runs: here, as a part of a file that is tested, or in a test that names the
//! page. What cannot run here is marked `not-run`, on the pages of a list.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use fanfare::config::{ChannelRule, UserEvents};
use serde_json::{Map, Value, json};

use crate::support::*;

/// Pages whose commands run in [`commands_of_a_page_succeed`].
const COMMANDS: [&str; 11] = [
    "README.md",
    "docs/guides/authentication.md",
    "docs/guides/channels.md",
    "docs/guides/filters.md",
    "docs/guides/history.md",
    "docs/guides/many-nodes.md",
    "docs/guides/troubleshooting.md",
    "docs/protocols/altogic.md",
    "docs/protocols/socketio.md",
    "docs/protocols/zexcore.md",
    "docs/reference/http.md",
];

/// How many blocks of a page cannot run here, and why.
const NOT_RUN: [(&str, usize, &str); 27] = [
    ("README.md", 1, "it builds the server"),
    ("docs/getting-started.md", 1, "it builds the server"),
    (
        "docs/guides/authentication.md",
        2,
        "they serve until stopped",
    ),
    ("docs/guides/data.md", 3, "they serve, or stop a server"),
    ("docs/guides/kubernetes.md", 3, "they need a cluster"),
    ("docs/guides/production.md", 1, "the file is for Prometheus"),
    ("docs/guides/tls.md", 5, "they need root, Caddy and a name"),
    (
        "docs/guides/troubleshooting.md",
        2,
        "ids and tokens are left out",
    ),
    ("docs/install.md", 4, "they need a release, Docker or root"),
    ("docs/internals/abuse.md", 1, "it runs for an hour"),
    ("docs/internals/failures.md", 1, "it runs for an hour"),
    ("docs/internals/performance.md", 1, "it runs for hours"),
    ("docs/internals/scale.md", 2, "they run for an hour"),
    ("docs/migrating/ably.md", 2, "another system"),
    ("docs/migrating/agnost.md", 2, "another system"),
    ("docs/migrating/altogic.md", 2, "another system"),
    ("docs/migrating/mesa.md", 2, "another system"),
    ("docs/migrating/pusher.md", 2, "another system"),
    ("docs/migrating/socketio.md", 2, "another system"),
    ("docs/migrating/supabase.md", 2, "another system"),
    ("docs/migrating/web-pubsub.md", 2, "another system"),
    ("docs/migrating/zexcore.md", 2, "another system"),
    (
        "docs/protocols/agnost.md",
        1,
        "the package is not published",
    ),
    ("docs/protocols/altogic.md", 1, "it serves until stopped"),
    (
        "docs/protocols/zexcore.md",
        1,
        "the package is not published",
    ),
    (
        "docs/reference/configuration.md",
        2,
        "a directory, and files of an orchestrator",
    ),
    ("docs/reference/http.md", 1, "it fetches a package"),
];

/// Tests that run the blocks of a language from the pages that they name.
const TESTS: [(&str, &str); 13] = [
    ("html", "sdk/typescript/test/getting-started.test.mjs"),
    ("js", "sdk/typescript/test/documents.test.mjs"),
    ("js", "sdk/typescript/test/getting-started.test.mjs"),
    ("js", "tests/clients/altogic/docs.test.mjs"),
    ("js", "tests/clients/mesa/docs.test.mjs"),
    ("js", "tests/clients/socketio/test/docs.test.mjs"),
    ("js", "tests/it/examples.rs"),
    ("rust", "src/lib.rs"),
    ("ts", "tests/it/openapi.rs"),
    ("sh", "deploy/dist/test.sh"),
    ("sh", "sdk/typescript/test/getting-started.test.mjs"),
    ("sh", "src/cli/mod.rs"),
    ("sh", "tests/clients/mesa/docs.test.mjs"),
];

/// Files and folders that tests run, so that a block may be a part of one.
const TESTED: [&str; 5] = [
    "deploy",
    "docs/examples",
    "docs/guides/embedding.md",
    "examples",
    "src",
];

struct Block {
    page: String,
    line: usize,
    /// The language, and `not-run` if it is marked.
    info: String,
    text: String,
}

impl Block {
    fn language(&self) -> &str {
        self.info.split(',').next().unwrap()
    }

    fn is_marked(&self) -> bool {
        self.info.split(',').any(|word| word == "not-run")
    }

    fn place(&self) -> String {
        format!("{}:{} ({})", self.page, self.line, self.info)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `at` that is part of the repository.
fn files(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_file() {
        found.push(at.to_owned());
        return;
    }
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if ![
            "node_modules",
            "python_modules",
            ".next",
            "package-lock.json",
        ]
        .contains(&name)
        {
            files(&path, found);
        }
    }
}

/// The blocks of every page of the book, and of the README.
fn blocks() -> Vec<Block> {
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), &mut pages);
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();

    let mut found = Vec::new();
    for page in pages {
        let name = page
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(&page).unwrap();
        let mut open: Option<(usize, Block)> = None;

        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(info)) => {
                    let block = Block {
                        page: name.clone(),
                        line: number + 1,
                        info: info.to_owned(),
                        text: String::new(),
                    };
                    open = Some((indent, block));
                }
                (Some(_), Some(_)) => found.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block
                        .text
                        .push_str(line.get(*indent..).unwrap_or("").trim_end());
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{name}: a block is not closed");
    }
    assert!(found.len() > 150, "{}", found.len());
    found
}

/// The lines of `text` without what only its place in a file asks for: indentation, and the mark of a comment.
fn bare(text: &str) -> String {
    let bare = |line: &str| line.trim().trim_start_matches("/// ").to_owned() + "\n";
    text.lines().map(bare).filter(|line| line != "\n").collect()
}

#[test]
fn every_block_runs_somewhere_or_is_marked() {
    let mut tested = Vec::new();
    for folder in TESTED {
        files(&root().join(folder), &mut tested);
    }
    let tested: Vec<String> = tested
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| bare(&text))
        .collect();
    let tests = TESTS.map(|(language, test)| (language, read(test)));

    let mut marked = BTreeMap::<String, usize>::new();
    let mut problems = Vec::new();
    for block in blocks() {
        if block.is_marked() {
            *marked.entry(block.page.clone()).or_default() += 1;
            continue;
        }
        let language = block.language();
        let runs = match language {
            // Text is what a program prints. The others have tests of their own below.
            "cel" | "json" | "text" | "toml" => true,
            "sh" if COMMANDS.contains(&&*block.page) => true,
            _ => {
                tested.iter().any(|file| file.contains(&bare(&block.text)))
                    || tests
                        .iter()
                        .any(|(of, test)| *of == language && test.contains(&block.page))
            }
        };
        if !runs {
            problems.push(block.place());
        }
    }
    assert!(
        problems.is_empty(),
        "no test runs these blocks:\n{}",
        problems.join("\n")
    );

    let allowed = NOT_RUN.map(|(page, count, _)| (page.to_owned(), count));
    assert_eq!(marked, BTreeMap::from(allowed));
}

#[test]
fn json_is_json() {
    for block in blocks().iter().filter(|block| block.language() == "json") {
        let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
        assert!(
            is_json(&block.text) || block.text.lines().all(is_json),
            "{}",
            block.place()
        );
    }
}

#[test]
fn filters_are_accepted_by_the_server() {
    let server = server();
    let mut count = 0;
    for block in blocks().iter().filter(|block| block.language() == "cel") {
        for filter in block.text.lines() {
            let mut params = Map::new();
            for part in filter.split("params.").skip(1) {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let name: String = part.chars().take_while(|c| is_part(*c)).collect();
                params.insert(name, Value::Null);
            }
            let answer = server.post("/v1/explain", &json!({"filter": filter, "params": params}));
            assert_eq!(
                answer.status,
                200,
                "{}: {filter}: {}",
                block.place(),
                answer.text
            );
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn configurations_are_good() {
    let folder = tempfile("blocks");
    for (number, block) in blocks().iter().enumerate() {
        if block.language() != "toml" {
            continue;
        }
        // A dependency for Cargo.
        if block.text.starts_with("fanfare = {") {
            assert!(
                block.text.parse::<toml::Table>().is_ok(),
                "{}",
                block.place()
            );
            continue;
        }
        let file = folder.join(format!("{number}.toml"));
        fs::write(&file, &block.text).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["check", "--config"])
            .arg(&file)
            .env("FANFARE_API_KEY", KEY)
            .env("FANFARE_TOKEN_SECRET", SECRET)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", block.place());
    }
    fs::remove_dir_all(folder).unwrap();
}

fn tempfile(name: &str) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn commands_of_a_page_succeed() {
    let blocks = blocks();
    for page in COMMANDS {
        let server = server_with(|config| {
            for app in config.apps.values_mut() {
                app.channels.push(ChannelRule::new("room-*", 100));
                app.user_events = Some(UserEvents::default());
            }
        });
        let url = format!("http://{}", server.address());
        let script: String = blocks
            .iter()
            .filter(|block| block.page == page && block.info == "sh")
            .map(|block| block.text.replace("http://127.0.0.1:7070", &url))
            .collect();
        assert!(!script.is_empty(), "{page} has no commands");

        let done = Command::new("bash")
            .args(["-c", &format!("{}\n{script}", include_str!("blocks.sh"))])
            .env("PROGRAM", env!("CARGO_BIN_EXE_fanfare"))
            .env("FANFARE_URL", &url)
            .env("FANFARE_API_KEY", KEY)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{page}: {}\n{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
