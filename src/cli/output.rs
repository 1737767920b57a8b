//! What goes to the terminal. Colours are kept only if the stream is a terminal and `NO_COLOR` is not set.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    sync::mpsc,
    thread,
};

use clap::builder::styling::{AnsiColor, Style};

use crate::limits::LOG_FAREWELL;

/// What matters most on its line.
pub(super) const STRONG: Style = Style::new().bold();
/// What most readers skip.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What should be looked into.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default();

/// Writes `text` to stdout, with its styles if they can be seen, and flushes it.
///
/// # Errors
/// When stdout is closed, most likely.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints something from a thread of its own, and waits for that only so long: a server must not stand still because
/// nobody reads what it prints.
pub(super) fn in_time(print: impl FnOnce() + Send + 'static) {
    let (done, printed) = mpsc::sync_channel(1);
    let printing = thread::Builder::new()
        .name("fanfare-print".to_owned())
        .spawn(move || {
            print();
            // It fails where nobody waits by now.
            let _ = done.send(());
        });
    if printing.is_ok() {
        let _ = printed.recv_timeout(LOG_FAREWELL);
    }
}

/// Writes `bytes` to stdout as they are.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes one line to stdout as it is, and flushes it.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_raw(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Says something beside the output, on stderr.
pub(super) fn note(text: &str) {
    // A note that nobody can see is not a reason to stop.
    let _ = writeln!(anstream::stderr().lock(), "{FAINT}{text}{FAINT:#}");
}

/// `text` without control characters, each written as JSON escapes it: what others sent must not drive the terminal.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }

    let mut harmless = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if char.is_control() {
            // Writing to a String cannot fail; every control character is in the basic plane.
            let _ = write!(harmless, "\\u{:04x}", u32::from(char));
        } else {
            harmless.push(char);
        }
    }

    Cow::Owned(harmless)
}

/// Valid JSON on one line, with the same meaning: line breaks stand only between its parts, and other control characters
/// only inside its strings, where an escape means the same.
pub(super) fn one_line(json: &str) -> Cow<'_, str> {
    if !json.contains(char::is_control) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(harmless(&json.replace(['\n', '\r', '\t'], " ")).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_sent_cannot_drive_the_terminal() {
        assert_eq!(harmless("plain ünïcode"), "plain ünïcode");
        assert_eq!(
            harmless("a\u{1b}[2Jb\u{9b}1m\n"),
            "a\\u001b[2Jb\\u009b1m\\u000a"
        );
    }

    #[test]
    fn json_on_one_line_means_the_same() {
        let json = "{\r\n\t\"a\": [1,\n 2],\"b\":\"\u{7f}\u{9b}x\"}";
        let line = one_line(json);
        assert!(!line.contains(char::is_control), "{line:?}");
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&line), parse(json));
    }
}
