//! Tables for people: columns as wide as their longest cell, and no wider than the terminal.

use std::fmt::Write as _;

use super::output::{FAINT, harmless};
use crate::filter::columns;

/// Between two columns.
const GAP: usize = 2;

/// The last column is not cut below this.
const NARROWEST: usize = 10;

/// The width of the terminal, if stdout is one.
pub(super) fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Writes `rows` under `heads`, in columns. The last column is for the longest texts, and is cut at `width`.
/// Control characters are escaped, so that what others sent cannot drive the terminal.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| harmless(cell).into_owned()).collect())
        .collect();
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(n, head)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(n))
                .map(|cell| text_width(cell));
            cells.chain([head.len()]).max().unwrap_or_default()
        })
        .collect();

    let before_last: usize = widths
        .iter()
        .take(widths.len().saturating_sub(1))
        .map(|width| width + GAP)
        .sum();

    let last = width.map(|width| width.saturating_sub(before_last).max(NARROWEST));

    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();

    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "{FAINT}{}{FAINT:#}", line(&heads, &widths, last));
    for row in &rows {
        let _ = writeln!(text, "{}", line(row, &widths, last));
    }
    text
}

fn line(cells: &[String], widths: &[usize], last: Option<usize>) -> String {
    let mut line = String::new();
    for (n, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if n + 1 < cells.len() {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - text_width(cell) + GAP));
        } else {
            line.push_str(&last.map_or_else(|| cell.clone(), |last| cut(cell, last)));
        }
    }
    line.trim_end().to_owned()
}

fn text_width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// `text` in at most `width` columns.
fn cut(text: &str, width: usize) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    // One column is for the ellipsis.
    let mut room = width - 1;
    let fits = |c: &char| {
        let fits = columns(*c) <= room;
        room = room.saturating_sub(columns(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect()
    }

    fn plain(text: &str) -> String {
        text.replace(&format!("{FAINT}"), "")
            .replace(&format!("{FAINT:#}"), "")
    }

    #[test]
    fn columns_are_aligned_whatever_their_letters() {
        let rows = rows(&[&["日本", "x"], &["a", ""], &["ann", "y\u{1b}[2J"]]);
        let text = plain(&table(&["USER", "DATA"], &rows, None));
        assert_eq!(text, "USER  DATA\n日本  x\na\nann   y\\u001b[2J\n");
    }

    #[test]
    fn the_last_column_ends_where_the_terminal_does() {
        let rows = rows(&[&["a", "0123456789abcdef"], &["b", "日本日本日本日本"]]);
        let text = plain(&table(&["A", "B"], &rows, Some(15)));
        assert_eq!(text, "A  B\na  0123456789a…\nb  日本日本日…\n");
        let narrow = plain(&table(&["A", "B"], &rows, Some(3)));
        assert!(narrow.contains("a  012345678…"), "{narrow}");
    }
}
