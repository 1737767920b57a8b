//! Every link of the documents leads somewhere: to a file of the repository, and to a heading in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// Folders that hold other people's documents, or none.
const SKIPPED: [&str; 5] = [".git", "node_modules", "python_modules", "runs", "target"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file below `folder`.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();

        if path.is_dir() && !SKIPPED.contains(&name) {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines of `text` outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    })
}

/// `line` without its code spans, in which brackets are no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The anchor that GitHub gives a heading.
fn slug(heading: &str) -> String {
    // A link in a heading counts by its text.
    let mut text = heading.to_owned();
    while let Some(start) = text.find("](") {
        let end = text[start..]
            .find(')')
            .map_or(text.len(), |at| start + at + 1);
        text.replace_range(start..end, "");
    }

    let kept = text.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The anchors of a document. A heading that comes again gets a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = prose(text).filter_map(|line| {
        let hashes = line.len() - line.trim_start_matches('#').len();
        line[hashes..].strip_prefix(' ').filter(|_| hashes > 0)
    });

    let mut anchors = BTreeSet::new();
    for heading in headings {
        let slug = slug(heading);
        let count = seen.entry(slug.clone()).or_default();
        anchors.insert(match *count {
            0 => slug,
            n => format!("{slug}-{n}"),
        });
        *count += 1;
    }
    anchors
}

/// The destinations of all inline links.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text).map(without_code) {
        let mut rest = line.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

/// `path` without `..`, so that a link cannot leave the repository unnoticed.
fn normalized(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Why `link` in `document` leads nowhere, if it does.
fn broken(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }

    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        document.to_owned()
    } else {
        normalized(&document.parent().unwrap().join(path))
    };
    let shown = document.strip_prefix(root()).unwrap().display();
    if !target.starts_with(root()) || !target.exists() {
        return Some(format!("{shown}: there is no file for the link {link}"));
    }
    if anchor.is_empty() || target.extension().is_none_or(|extension| extension != "md") {
        return None;
    }

    let headings = anchors(&fs::read_to_string(&target).unwrap());
    (!headings.contains(anchor))
        .then(|| format!("{shown}: there is no heading for the link {link}"))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut files = Vec::new();
    documents(&root(), &mut files);
    assert!(files.len() > 10, "the documents are where they were");

    let problems: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            links(&text)
                .into_iter()
                .filter_map(|link| broken(file, &link))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let docs = root().join("docs");
    let mut pages = Vec::new();
    documents(&docs, &mut pages);
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = links(&summary)
        .iter()
        .map(|link| docs.join(link))
        .chain([docs.join("SUMMARY.md")])
        .collect();
    assert_eq!(listed, pages.into_iter().collect());
}

#[test]
fn headings_have_the_anchors_that_a_reader_expects() {
    let text = "# A title\n## Client keys (`apps.NAME.client_keys`)\n```sh\n# a comment\n```\n## Members\n### Members";
    let expected = [
        "a-title",
        "client-keys-appsnameclient_keys",
        "members",
        "members-1",
    ];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
    assert_eq!(
        links("[a](b.md#c) and `[x](y)` and [d](e)"),
        ["b.md#c", "e"]
    );
}
