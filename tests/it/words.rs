//! The documents keep to plain English, as CONTRIBUTING.md describes it: no banned word, no sentence without a subject, no
//! semicolon between statements, and lines that fit on a screen. What the program says has no banned word either.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// What is not written, and what is written instead.
const BANNED: [(&str, &str); 15] = [
    (r"\banew\b", "again"),
    (r"\bany more\b", "no longer"),
    (r"\bat once\b", "immediately, or at the same time"),
    (r"\bbehind\b", "after"),
    (r"\bbut for\b", "except for"),
    (r"\bby the bus\b", "over the bus"),
    (r"\bdoes as well\b", "also works"),
    (r"\bfor ever\b", "forever"),
    (r"\blies\b", "is"),
    (r"\bmeanwhile\b", "in the meantime"),
    (r"\bstands\b", "is"),
    (r"\btold\b", "notified"),
    (r"\bwhoever\b", "anyone who"),
    (r"\b(is|are|was|were) none\b", "is not a"),
    (
        r"\b(a|an|it|one|that|this|which|who) (is|was) no (?:[a-z]+)",
        "is not a",
    ),
];

/// Pages that the load generator writes, with a line for each attack or failure.
const GENERATED: [&str; 2] = ["docs/internals/abuse.md", "docs/internals/failures.md"];

/// Good English all the same, and names of columns.
const ALLOWED: [&str; 15] = [
    "*told*",
    "any more than",
    "behind a load balancer",
    "behind-a-load-balancer",
    "behind nginx",
    "behind the client is trusted",
    "behind these figures",
    "events meanwhile:",
    "is no longer",
    "leave behind",
    "leaves behind",
    "stands for",
    "stands still",
    "told, kept",
    "was no longer",
];

/// Good English in messages, and what other programs call it.
const ALLOWED_IN_MESSAGES: [&str; 2] = ["is no longer", "stands for"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["node_modules", "python_modules"].contains(&name) {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// A line of prose: its number, as it is, and without code.
struct Line {
    number: usize,
    full: String,
    plain: String,
}

/// The prose of each document, with its name.
fn prose() -> Vec<(String, Vec<Line>)> {
    let mut files: Vec<PathBuf> = [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "SECURITY.md",
        "deploy/README.md",
        "examples/README.md",
        "sdk/python/README.md",
        "sdk/typescript/README.md",
    ]
    .map(|name| root().join(name))
    .into();
    pages(&root().join("docs"), &mut files);

    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap();
        let mut text = fs::read_to_string(&file).unwrap();
        // Released versions stay as they were.
        if name == "CHANGELOG.md" {
            let start = text.find("## Unreleased").unwrap();
            text = text[start..].to_owned();
            let end = text[3..].find("\n## ").map_or(text.len(), |at| at + 3);
            text.truncate(end);
        }

        let mut is_fenced = false;
        let mut is_measured = false;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // What the load generator wrote between its marks.
            if line.starts_with("<!-- goals") || line.starts_with("<!-- comparison") {
                is_measured = true;
            }
            if line.starts_with("<!-- end of") {
                is_measured = false;
            }
            let is_fence = line.trim_start().starts_with("```");
            is_fenced ^= is_fence;
            if !is_fence && !is_fenced && !is_measured {
                let plain = line
                    .split('`')
                    .enumerate()
                    .map(|(at, part)| if at % 2 == 0 { part } else { "`code`" });
                lines.push(Line {
                    number: number + 1,
                    full: line.to_owned(),
                    plain: plain.collect(),
                });
            }
        }
        found.push((name.to_owned(), lines));
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

fn is_table(line: &str) -> bool {
    line.trim_start().starts_with('|')
}

/// The text of `code` with its comments and its tests taken out, and what its strings say: the number of the line on which
/// each begins, and its text on one line.
fn messages(code: &str) -> Vec<(usize, String)> {
    // A comment and a character may hold a quote, so they are read as well.
    let token = Regex::new(
        r##"(?s)//[^\n]*|'(?:[^'\\\n]|\\.[^'\n]*)'|r#"(.*?)"#|r"([^"]*)"|"((?:[^"\\]|\\.)*)""##,
    );
    let token = token.unwrap();
    let broken = Regex::new(r"\\\n\s*").unwrap();

    let end = code.find("#[cfg(test)]\nmod tests").unwrap_or(code.len());
    let code = &code[..end];
    let mut found = Vec::new();
    for captures in token.captures_iter(code) {
        let Some(text) = captures.iter().skip(1).flatten().next() else {
            continue;
        };
        let number = code[..text.start()].lines().count();
        found.push((number, broken.replace_all(text.as_str(), "").into_owned()));
    }
    found
}

/// The sources of the program, without those that are only tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests.rs"
        {
            found.push(path);
        }
    }
}

fn banned() -> Vec<(Regex, &'static str)> {
    BANNED
        .iter()
        .map(|(word, instead)| (Regex::new(&format!("(?i){word}")).unwrap(), *instead))
        .collect()
}

#[test]
fn messages_have_no_banned_word() {
    let banned = banned();
    let mut files = Vec::new();
    for folder in ["src", "crates/filter/src", "crates/protocol/src"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 200, "{}", files.len());

    let mut problems = Vec::new();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().display();
        for (number, message) in messages(&fs::read_to_string(&file).unwrap()) {
            // A name of one word, such as that of a field, is not a message.
            let mut plain = message.to_lowercase();
            for allowed in ALLOWED_IN_MESSAGES {
                plain = plain.replace(allowed, "");
            }

            for (word, instead) in &banned {
                if plain.contains(' ')
                    && let Some(found) = word.find(&plain)
                {
                    let found = found.as_str();
                    problems.push(format!("{name}:{number}: {found:?}; write: {instead}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn messages_are_found_among_comments_characters_and_tests() {
    let code = r##"
        // "a comment"
        let quote = '"';
        let escaped = ('\\', '\'', 'a');
        fn f<'a>(raw: &'a str) { say("one \"word\"", r#"and "another" one"#); }
        say("a long \
             one");
    "##;
    let code = code.to_owned() + "#[cfg(test)]\nmod tests { \"of a test\" }";
    let texts: Vec<_> = messages(&code).into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        texts,
        [r#"one \"word\""#, r#"and "another" one"#, "a long one"]
    );
}

#[test]
fn no_banned_word_is_used() {
    let banned = banned();
    let mut problems = Vec::new();
    for (name, lines) in prose() {
        for Line { number, plain, .. } in lines {
            let mut plain = plain.to_lowercase();
            for allowed in ALLOWED {
                plain = plain.replace(allowed, "");
            }
            for (word, instead) in &banned {
                if let Some(found) = word.find(&plain) {
                    let found = found.as_str();
                    problems.push(format!("{name}:{number}: {found:?}; write: {instead}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn sentences_have_subjects_and_one_statement() {
    let headless =
        Regex::new(r"(^|[.!?:] |\*\* |^ *- )(Who|Whoever|What) [a-z][^?]*\.( |$)").unwrap();
    let joined = Regex::new(r"[a-z`)]; [a-z]").unwrap();
    let mut problems = Vec::new();
    for (name, lines) in prose() {
        if name == "CHANGELOG.md" {
            continue;
        }
        for Line {
            number,
            plain: line,
            ..
        } in lines
        {
            // Tables have fragments, in which a semicolon separates.
            if line.starts_with('#') || is_table(&line) {
                continue;
            }
            if headless.is_match(&line) {
                problems.push(format!("{name}:{number}: name the subject: {line}"));
            }
            if joined.is_match(&line) {
                problems.push(format!("{name}:{number}: two sentences: {line}"));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn lines_fit_on_a_screen() {
    let mut problems = Vec::new();
    for (name, lines) in prose() {
        if name == "CHANGELOG.md" || GENERATED.contains(&&*name) {
            continue;
        }
        for Line {
            number, full: line, ..
        } in lines
        {
            // An address cannot be broken.
            if line.chars().count() > 120 && !is_table(&line) && !line.contains("](") {
                problems.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "over 120 columns:\n{}",
        problems.join("\n")
    );
}
