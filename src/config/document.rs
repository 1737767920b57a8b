//! A TOML file, read as far as it can be: each mistake is noted and left out, so that all are reported together.
//!
//! There are two passes. The first blanks the lines that are not TOML, until the rest is. The second reads that as a
//! [`Config`]; where serde refuses an entry, the entry is taken out and the rest is read again. So serde's types stay
//! the only list of what there is, and each entry is judged on its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{Config, Problem, known_keys, renamed, words};

/// A file that was read as far as possible.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What was set and makes sense, over the defaults.
    pub(super) config: Config,
    /// Everything that is wrong, with its line.
    pub(super) problems: Vec<(usize, Problem)>,
    /// The line of each key that was read, by its path, such as `apps.default.channels[0].pattern`.
    pub(super) lines: BTreeMap<String, usize>,
    /// The settings that could not be read, by their paths without the places in lists; `""` where that may be any.
    pub(super) left_out: Vec<String>,
    /// The settings that were read under an old name.
    pub(super) warnings: Vec<String>,
}

/// Reads `text`, the content of the file at `path`.
pub(super) fn read(path: &Path, text: &str) -> Document {
    let mut reader = Reader {
        path,
        text,
        problems: Vec::new(),
        left_out: BTreeSet::new(),
        paths: Vec::new(),
    };

    let clean = reader.blank_bad_lines();
    // It is TOML by now.
    let mut table = DeTable::parse_recoverable(&clean).0;
    reader.refuse_lists(&mut table);
    let warnings = renamed::in_file(table.get_mut(), |offset| {
        format!("{}, line {}", path.display(), line_of(text, offset))
    });

    let config = reader.read_entries(&mut table);
    let mut lines = BTreeMap::new();
    note_lines(text, table.get_ref(), "", &mut lines);

    let (mut problems, left_out) = (reader.problems, reader.paths);
    problems.sort_by_key(|(line, _)| *line);
    Document {
        config,
        problems,
        lines,
        left_out,
        warnings,
    }
}

struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
    problems: Vec<(usize, Problem)>,
    /// Where what has been left out began, in bytes.
    left_out: BTreeSet<usize>,
    /// The settings that have been left out; see [`Document::left_out`].
    paths: Vec<String>,
}

impl Reader<'_> {
    fn report(&mut self, line: usize, message: String) {
        let problem = Problem::File {
            path: self.path.to_owned(),
            line,
            message,
        };
        self.problems.push((line, problem));
    }

    /// The text with spaces in place of each line that is not TOML, so that all offsets stay the same.
    fn blank_bad_lines(&mut self) -> String {
        let mut clean = self.text.to_owned();
        let mut is_first = true;
        loop {
            // Of the errors of one line only the first says what is wrong.
            let mut errors = BTreeMap::new();
            for error in DeTable::parse_recoverable(&clean).1 {
                let offset = error.span().map_or(0, |span| span.start);
                errors
                    .entry(line_of(self.text, offset))
                    .or_insert_with(|| error.message().to_owned());
            }

            if errors.is_empty() {
                return clean;
            }

            let mut has_changed = false;
            for (line, message) in errors {
                // An error that only shows once other lines are gone may be caused by them, and so may one under a
                // bad head.
                let range = line_range(self.text, line);
                if is_first && clean[range.clone()] == self.text[range] {
                    let message = words::not_toml(self.text, line, &message);
                    self.report(line, message);
                }
                has_changed |= self.blank(&mut clean, line);
            }

            is_first = false;
            if !has_changed {
                // The mistake is not in the line where it shows, such as a bracket that is never closed.
                self.left_out.insert(0);
                self.paths.push(String::new());
                return String::new();
            }
        }
    }

    /// Blanks one line; with the head of a table, also its content, which would fall to the table before.
    fn blank(&mut self, clean: &mut String, line: usize) -> bool {
        let range = line_range(self.text, line);
        let end = if is_header(&self.text[range.clone()]) {
            next_header(self.text, range.end)
        } else {
            range.end
        };

        let range = range.start..end;
        if clean[range.clone()].trim().is_empty() {
            return false;
        }

        let blank: String = clean[range.clone()]
            .bytes()
            .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
            .collect();
        clean.replace_range(range.clone(), &blank);
        self.left_out.insert(range.start);
        self.paths.push(path_of_line(self.text, line));

        true
    }

    /// Refuses a list in the place of a table: serde would take its items for the values of the first keys.
    fn refuse_lists(&mut self, table: &mut Spanned<DeTable<'_>>) {
        let mut noted = BTreeSet::new();
        while let Some(list) = list_for_table(table.get_ref()) {
            let Some(taken) = take_out(table.get_mut(), &list) else {
                return;
            };
            // Of a list of tables, one after another is taken out.
            if noted.insert(taken.path.clone()) {
                self.note(&taken, "invalid type: sequence, expected a table");
            }
            self.left_out.insert(taken.offset);
            self.paths.push(taken.path);
        }
    }

    fn read_entries(&mut self, table: &mut Spanned<DeTable<'_>>) -> Config {
        loop {
            // This takes a copy, since serde takes the table. This ends: each turn takes an entry
            // out.
            let error = match Config::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(config) => return config,
                Err(error) => error,
            };

            let taken = error
                .span()
                .and_then(|span| take_out(table.get_mut(), &span));
            let Some(taken) = taken else {
                // serde gives every error the place of an entry.
                self.report(1, error.message().to_owned());
                self.paths.push(String::new());
                return Config::default();
            };

            self.note(&taken, error.message());
            self.left_out.insert(taken.offset);
            self.paths.push(taken.path);
        }
    }

    /// Reports why serde refused what was taken out.
    fn note(&mut self, taken: &Taken, message: &str) {
        let line = line_of(self.text, taken.offset);
        if let Some((name, known)) = words::unknown_field(message) {
            let problem = words::unknown_key(self.path, line, name, &known, known_keys);
            return self.problems.push((line, problem));
        }
        if taken.is_table && self.is_incomplete(taken) {
            // The field that it lacks may be the one that was left out of it as wrong.
            return;
        }
        let value = &self.text[taken.value.clone()];
        let message = words::refused(&taken.path, taken.is_table, value, message);
        self.report(line, message);
    }

    /// Whether something of a table has been left out.
    fn is_incomplete(&self, table: &Taken) -> bool {
        let Range { start, end } = table.value;
        let end = if self.text[start..end].starts_with('{') {
            end
        } else {
            next_header(self.text, end)
        };
        self.left_out.range(start..end).next().is_some()
    }
}

/// Where there is a list in the place of a table that is not one of several.
fn list_for_table(table: &DeTable<'_>) -> Option<Range<usize>> {
    let is_list = |value: &Spanned<DeValue<'_>>| matches!(value.get_ref(), DeValue::Array(_));
    table
        .iter()
        .find_map(|(key, value)| match (&**key.get_ref(), value.get_ref()) {
            ("redis" | "limits" | "apps", DeValue::Array(_)) => Some(value.span()),
            ("apps", DeValue::Table(apps)) => {
                let list = apps.iter().find(|(_, app)| is_list(app));
                list.map(|(_, app)| app.span())
            }
            _ => None,
        })
}

/// An entry that serde refused.
struct Taken {
    /// The names that lead to it, such as `limits.heartbeat`.
    path: String,
    /// Where its key is, or the entry of a list.
    offset: usize,
    /// Where its value is; of a table its head.
    value: Range<usize>,
    is_table: bool,
}

impl Taken {
    fn of(name: &str, offset: usize, value: &Spanned<DeValue<'_>>) -> Self {
        Self {
            path: name.to_owned(),
            offset,
            value: value.span(),
            is_table: value.get_ref().is_table(),
        }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{name}.{}", self.path)
        };
        self
    }
}

/// Takes out what is at `span`: an entry by its key or its value, or an item of a list. The innermost, since a list
/// of tables has the place of its first one.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Taken> {
    for (key, value) in table.iter_mut() {
        let name = &**key.get_ref();
        let within = match value.get_mut() {
            DeValue::Table(table) => take_out(table, span),
            DeValue::Array(items) => take_item(items, span),
            _ => None,
        };
        if let Some(taken) = within {
            return Some(taken.within(name));
        }
    }

    let (key, value) = table
        .iter()
        .find(|(key, value)| key.span() == *span || value.span() == *span)?;
    let taken = Taken::of(key.get_ref(), key.span().start, value);
    let key = key.clone();
    table.remove(&key);

    Some(taken)
}

fn take_item(items: &mut DeArray<'_>, span: &Range<usize>) -> Option<Taken> {
    for item in items.iter_mut() {
        let within = match item.get_mut() {
            DeValue::Table(table) => take_out(table, span),
            DeValue::Array(items) => take_item(items, span),
            _ => None,
        };
        if within.is_some() {
            return within;
        }
    }

    let at = items.iter().position(|item| item.span() == *span)?;
    let taken = Taken::of("", span.start, &items[at]);
    // Built again without it, as a `DeArray` gives out no single item.
    let rest = items.iter().enumerate().filter(|(n, _)| *n != at);
    *items = rest.map(|(_, item)| item.clone()).collect();

    Some(taken)
}

fn note_lines(text: &str, table: &DeTable<'_>, within: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = format!("{within}{}", key.get_ref());
        lines.insert(path.clone(), line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(table) => note_lines(text, table, &format!("{path}."), lines),
            DeValue::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    let path = format!("{path}[{n}]");
                    lines.insert(path.clone(), line_of(text, item.span().start));
                    if let Some(table) = item.get_ref().as_table() {
                        note_lines(text, table, &format!("{path}."), lines);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The line of an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    1 + before.matches('\n').count()
}

/// Where a line is, without its end.
pub(super) fn line_range(text: &str, line: usize) -> Range<usize> {
    let mut start = 0;
    for (n, content) in text.split('\n').enumerate() {
        if n + 1 == line {
            return start..start + content.len();
        }
        start += content.len() + 1;
    }
    text.len()..text.len()
}

/// The path of the setting, or of the table, that is written in a line that is not TOML; `""` if that cannot be
/// known.
fn path_of_line(text: &str, line: usize) -> String {
    let own = &text[line_range(text, line)];
    let head = |line: &str| line.trim().trim_matches(['[', ']']).to_owned();
    let path = if is_header(own) {
        head(own)
    } else {
        let before = &text[..line_range(text, line).start];
        let table = before.lines().rev().find(|line| is_header(line)).map(head);
        // Such a line may be written as in YAML.
        let key = own.split(['=', ':', ' ']).next().unwrap_or_default().trim();
        match table {
            _ if key.is_empty() => String::new(),
            Some(table) => format!("{table}.{key}"),
            None => key.to_owned(),
        }
    };

    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    Some(path)
        .filter(|path| path.bytes().all(is_plain))
        .unwrap_or_default()
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// Where the next head of a table begins after `offset`, or the text ends.
fn next_header(text: &str, offset: usize) -> usize {
    let mut start = offset;
    for line in text[offset..].split_inclusive('\n') {
        if start > offset && is_header(line) {
            return start;
        }
        start += line.len();
    }
    text.len()
}
