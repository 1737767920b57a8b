//! What is wrong with a file, in the words of the people who write it.
//!
//! serde and the TOML parser report mistakes as texts, and in no other form. Those texts are translated here.

use std::path::Path;

use toml::de::DeValue;

use super::{
    Problem, ProtocolKind,
    document::line_range,
    error::{hint, nearest},
};

/// Parts of the names of keys whose value is not repeated in a message, as it is a secret or may hold one.
const SECRETS: [&str; 7] = ["key", "secret", "hash", "password", "token", "url", "redis"];

/// The longest value that a message repeats.
const SHOWN: usize = 60;

const LISTEN: &str = "write listen = \"127.0.0.1:7070\" above the first [table]";

/// The lists of tables, each of which is written with two brackets.
const LISTS_OF_TABLES: [&str; 4] = ["keys", "tokens", "client_keys", "channels"];

/// Names that are flags, or settings of other servers, and what the file has in their place.
const FLAGS: [(&str, &str); 8] = [
    ("port", LISTEN),
    ("host", LISTEN),
    ("bind", LISTEN),
    ("address", LISTEN),
    (
        "api_key",
        "write [[apps.default.keys]] with name and key under it",
    ),
    (
        "token_secret",
        "write [[apps.default.tokens]] with alg = \"HS256\" and secret under it",
    ),
    (
        "channel_history",
        "write [[apps.default.channels]] with pattern and history_size under it",
    ),
    ("store_user_events", "write [apps.default.user_events]"),
];

/// The names in serde's "unknown field `a`, expected one of `b`, `c`": which field, and which are known.
///
/// serde gives them in no other form, and knows them for every table without a second list to keep in step.
pub(super) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    message.strip_prefix("unknown field ").map(names)
}

/// The first name in backticks, and the others.
fn names(text: &str) -> (&str, Vec<&str>) {
    let mut names = text.split('`').skip(1).step_by(2);
    (names.next().unwrap_or_default(), names.collect())
}

/// A key that its table does not have. `keys_of` lists those of another one.
pub(super) fn unknown_key(
    path: &Path,
    line: usize,
    name: &str,
    known: &[&str],
    keys_of: impl Fn(&str) -> Vec<String>,
) -> Problem {
    let refused = |what: String| Problem::File {
        path: path.to_owned(),
        line,
        message: format!("unknown key \"{name}\"; {what}"),
    };

    if let Some((_, instead)) = FLAGS.iter().find(|(flag, _)| *flag == name) {
        return refused((*instead).to_owned());
    }

    let unknown = |nearest: Option<String>| Problem::Unknown {
        place: format!("{}:{line}", path.display()),
        kind: "key",
        nearest,
        name: name.to_owned(),
    };

    // `history` is the beginning of `history_size`, and nearer to a key of its own table than to the same one of another.
    let longer = known.iter().find(|key| {
        let rest = key.strip_prefix(name);
        rest.is_some_and(|rest| rest == "s" || rest.starts_with('_'))
    });

    if let Some(longer) = longer {
        return unknown(Some((*longer).to_owned()));
    }

    let has = |table: &str| keys_of(table).iter().any(|key| key == name);
    if let Some(table) = ["[limits]", "[apps.default]", "[redis]"]
        .into_iter()
        .find(|table| has(table))
    {
        return refused(format!("it belongs under {table}"));
    }

    if has("") {
        return refused("it belongs above the first [table]".to_owned());
    }
    unknown(nearest(name, known.iter().copied()))
}

/// Why serde refused the entry at `path`, whose value is written as `value`.
pub(super) fn refused(path: &str, is_table: bool, value: &str, message: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or_default();
    // A value in the place of a table that holds keys may be a key, and is not repeated.
    let holds_keys =
        path == "apps" || (path.starts_with("apps.") && path.matches('.').count() == 1);
    let value = if holds_keys { "" } else { value };
    if let Some(what) = other_brackets(path, is_table, value, message) {
        return what;
    }

    if is_table {
        let head = value.lines().next().unwrap_or_default();
        let head = if head.starts_with('[') { head } else { path };
        return match message.strip_prefix("missing field ") {
            Some(field) => format!("{head} needs the key \"{}\"", names(field).0),
            None => format!("{head}: {}", expected(name, value, message)),
        };
    }

    let why = expected(name, value, message);
    if is_shown(name, value) {
        format!("{path} = {value}: {why}")
    } else {
        format!("{path}: {why}")
    }
}

/// What is written in place of a table, a list of tables, or a value in the place of a table, for the usual mistakes.
fn other_brackets(path: &str, is_table: bool, value: &str, message: &str) -> Option<String> {
    let (found, wanted) = message
        .strip_prefix("invalid type: ")?
        .rsplit_once(", expected ")?;
    let name = path.rsplit('.').next().unwrap_or_default();
    let is_list = wanted == "a sequence";

    if is_table && is_list && LISTS_OF_TABLES.contains(&name) {
        return Some(format!(
            "{path}: write [[{path}]] with two brackets, since there may be several"
        ));
    }

    if is_table && found == "sequence" && path != "apps" {
        return Some(format!("{path}: write [{path}] with one bracket"));
    }
    if is_list || (is_table && path != "apps") {
        return None;
    }

    match path.split('.').collect::<Vec<_>>()[..] {
        // The value may be a secret of an app.
        ["apps"] | ["apps", _] => Some(format!(
            "{path}: settings of an app are under [apps.<name>], such as [apps.default]"
        )),
        ["apps", app, "protocols", ..] => {
            let named = value.trim_matches(['"', '\'', '[', ']', ' ']);
            let kind: Option<ProtocolKind> = named.parse().or_else(|_| name.parse()).ok();
            let kind = kind.unwrap_or(ProtocolKind::SocketIo);
            Some(format!(
                "{path}: write the table [apps.{app}.protocols.{kind}]"
            ))
        }
        _ => None,
    }
}

/// What a value should have been. Also for flags, whose `value` is what was given.
pub(super) fn expected(name: &str, value: &str, message: &str) -> String {
    if let Some(variants) = message.strip_prefix("unknown variant ") {
        return one_of(variants);
    }

    let wanted = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|kind| message.strip_prefix(kind))
        .and_then(|rest| rest.rsplit_once(", expected "));
    let Some((found, wanted)) = wanted else {
        return if message == "wanted string or table" {
            in_quotes(name, value)
        } else {
            message.to_owned()
        };
    };

    match wanted {
        "a string" | "string" | "path string" if is_scalar(found) => in_quotes(name, value),
        "a string" | "string" | "path string" => "a text in quotes is expected".to_owned(),
        "usize" | "u64" | "u32" | "u16" | "u8" => a_number(name, value),
        "a sequence" if is_scalar(found) && is_shown(name, value) => {
            format!("a list is expected: {name} = [{value}]")
        }
        "a sequence" => "a list in square brackets is expected".to_owned(),
        "struct RedisConfig" => {
            "write the table [redis], with url and the like under it".to_owned()
        }
        _ if wanted == "a map" || wanted.starts_with("struct ") || wanted == "a table" => {
            "a table is expected".to_owned()
        }
        _ => format!("{wanted} is expected"),
    }
}

/// "`requird`, expected one of `off`, `optional`, `required`", as a person says it.
fn one_of(variants: &str) -> String {
    let (name, known) = names(variants);
    let nearest = nearest(name, known.iter().copied());
    let quoted: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
    let list = match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    };
    format!("it must be {list}{}", hint(nearest.as_deref()))
}

fn in_quotes(name: &str, value: &str) -> String {
    if is_shown(name, value) && !value.contains('"') {
        format!("put the value in quotes: {name} = \"{value}\"")
    } else {
        "put the value in quotes".to_owned()
    }
}

fn a_number(name: &str, value: &str) -> String {
    let bare = value.trim_matches(['"', '\'']);
    if bare != value && bare.parse::<u64>().is_ok() {
        format!("write the number without quotes: {name} = {bare}")
    } else {
        "a whole number is expected, 0 or more".to_owned()
    }
}

/// Whether serde describes one value, not a list or a table.
fn is_scalar(found: &str) -> bool {
    !found.starts_with("sequence") && !found.starts_with("map")
}

fn is_shown(name: &str, value: &str) -> bool {
    let is_secret = SECRETS.iter().any(|part| name.contains(part));
    !is_secret && !value.is_empty() && value.len() <= SHOWN && !value.contains('\n')
}

/// Why a line is not TOML. `message` is the parser's, for what is not a usual mistake.
pub(super) fn not_toml(text: &str, line: usize, message: &str) -> String {
    let content = without_comment(&text[line_range(text, line)]);
    let shown = content.split(['"', '\'']).next().unwrap_or_default();
    if message == "duplicate key" {
        return match content.split_once('=') {
            Some((key, _)) => format!("\"{}\" is set twice in its table; keep one", key.trim()),
            None => format!("{shown} is there twice; join the two tables"),
        };
    }

    if content.starts_with('[') && !content.contains('=') {
        return format!("{shown}: a table is written [name], and one of several [[name]]");
    }
    let Some((key, value)) = content.split_once('=') else {
        return without_equals(content, message);
    };

    let (key, value) = (key.trim(), value.trim());
    let name = key.rsplit('.').next().unwrap_or_default();
    if value.is_empty() {
        return format!("{key}: the value is missing, as in {key} = …");
    }

    let opens = value.starts_with(['"', '\'', '[', '{']);
    if opens && !value.starts_with(['[', '{']) {
        return format!(
            "{key}: the closing quote is missing, or the text holds a quote or a \\ (write \\\" and \\\\)"
        );
    }

    let quoted = format!("\"{value}\"");
    if !opens && DeValue::parse(value).is_err() && DeValue::parse(&quoted).is_ok() {
        let tables = text.lines().take(line).filter(|line| line.starts_with('['));
        // A value in the place of an app's table may be one of its keys, and is not repeated.
        let in_apps = tables.last().is_some_and(|table| table.trim() == "[apps]");
        let value = if in_apps || key == "apps" { "" } else { value };
        return format!("{key}: {}", in_quotes(name, value));
    }

    format!("{key}: this is not TOML: {message}")
}

fn without_equals(content: &str, message: &str) -> String {
    match content.split_once(':') {
        Some((key, _)) if !key.contains(['"', ' ', '[', '{']) => {
            format!("{key}: a setting is written key = value, with = and not with :")
        }
        _ if content.is_empty() => {
            format!("a bracket or a quote is not closed here or above ({message})")
        }
        _ if content
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) =>
        {
            format!("{content}: write key = value; the = and the value are missing")
        }
        _ if content.contains(char::is_whitespace) && !content.contains(['"', '[', '{']) => {
            "a setting is written key = value; the = is missing".to_owned()
        }
        _ => format!("this is not TOML: {message}"),
    }
}

/// A line without its comment, which begins with a `#` outside of quotes.
fn without_comment(line: &str) -> &str {
    // An escaped quote ends the text too early here. That makes a message less exact, and nothing
    // else.
    let mut quote = None;
    for (at, char) in line.char_indices() {
        match (quote, char) {
            (None, '#') => return line[..at].trim(),
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            _ => {}
        }
    }
    line.trim()
}
