//! What is logged: a level, or directives for single modules.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::error::nearest;

/// The levels, from nothing to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Words of other programs for a level.
const SYNONYMS: [(&str, &str); 8] = [
    ("all", "trace"),
    ("critical", "error"),
    ("fatal", "error"),
    ("none", "off"),
    ("quiet", "off"),
    ("silent", "off"),
    ("verbose", "debug"),
    ("warning", "warn"),
];

/// Reads a level such as `info`, or directives such as `info,fanfare::hub=debug`, and returns them without spaces.
///
/// The subscriber would take any word for the name of a module, and then log nothing at all. So a word alone must be a
/// level, or name a module of this crate.
///
/// # Errors
/// Says which levels there are.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let directives: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();

    if directives.is_empty() {
        return Err(not_a_level(text, false));
    }

    for directive in &directives {
        check(directive)?;
    }

    let text = directives.join(",");
    match EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!(
            "\"{text}\" is not a list of directives such as info,fanfare::hub=debug"
        )),
    }
}

fn check(directive: &str) -> Result<(), String> {
    // Spans and their fields are the subscriber's to judge.
    if directive.contains('[') {
        return Ok(());
    }
    match directive.split_once('=') {
        Some((_, level)) if is_level(level) => Ok(()),
        Some((_, level)) => Err(not_a_level(level, false)),
        None if is_level(directive) || directive == "fanfare" || directive.contains("::") => Ok(()),
        None => Err(not_a_level(directive, true)),
    }
}

fn is_level(word: &str) -> bool {
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

/// `may_be_module` says that the word is alone, where a module needs a level.
fn not_a_level(word: &str, may_be_module: bool) -> String {
    let lower = word.to_lowercase();
    let meant = SYNONYMS
        .iter()
        .find(|(synonym, _)| *synonym == lower)
        .map(|(_, level)| (*level).to_owned())
        .or_else(|| nearest(&lower, LEVELS));

    let hint = match meant {
        Some(level) => format!("; did you mean \"{level}\"?"),
        None if may_be_module => format!("; for one module, write {word}=debug"),
        None => String::new(),
    };

    format!(
        "\"{word}\" is not a log level; the levels are {}{hint}",
        LEVELS.join(", ")
    )
}

/// Reads the key `log`.
pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    super::text::deserialize(from, "a log level in quotes, such as \"info\"", parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_read() {
        for (text, expected) in [
            ("info", "info"),
            ("WARN", "WARN"),
            ("off", "off"),
            ("info, fanfare::hub=debug", "info,fanfare::hub=debug"),
            ("warn,some_crate=trace", "warn,some_crate=trace"),
            ("fanfare::hub", "fanfare::hub"),
            ("fanfare", "fanfare"),
            ("info,fanfare[client]=debug", "info,fanfare[client]=debug"),
        ] {
            assert_eq!(parse(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn other_words_are_refused_with_the_levels() {
        for (text, says) in [
            (
                "verbose",
                "\"verbose\" is not a log level; the levels are off, error, warn, info, debug, trace; did you mean \"debug\"?",
            ),
            ("inof", "did you mean \"info\"?"),
            ("info,fanfare::hub=loud", "\"loud\" is not a log level"),
            ("fanfare=", "\"\" is not a log level"),
            ("", "\"\" is not a log level"),
            ("postgres", "for one module, write postgres=debug"),
            ("info,[=", "is not a list of directives"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
