//! What can be wrong with a filter, and what can go wrong for one connection.

use std::fmt::Write;

use crate::{limits, nearest::nearest};

/// A stretch of a filter's text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub offset: u32,
    /// How long it is.
    pub length: u32,
}

impl Span {
    pub(super) fn new(from: usize, to: usize) -> Self {
        Self {
            // Filters are bounded far below 4 GiB (`limits::FILTER_BYTES`).
            offset: from as u32,
            length: to.saturating_sub(from) as u32,
        }
    }

    pub(super) fn to(self, end: Self) -> Self {
        Self {
            offset: self.offset,
            length: (end.offset + end.length).saturating_sub(self.offset),
        }
    }

    /// The text it covers; empty if it does not fit `source`.
    pub fn of(self, source: &str) -> &str {
        let from = self.offset as usize;
        source.get(from..from + self.length as usize).unwrap_or("")
    }
}

/// The kinds of refusal; [`FilterErrorKind::code`] names each for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterErrorKind {
    /// The text is not an expression.
    Syntax,
    /// CEL knows it, filters do not: uint and bytes literals, timestamps, durations, messages.
    Unsupported,
    /// No function or method has this name.
    UnknownFunction,
    /// A function exists, with other arguments.
    WrongArguments,
    /// No variable, or no member of `connection`, has this name.
    UndeclaredName,
    /// A filter names a param that the request does not bind.
    UnboundParam,
    /// `params` is not an object, or is used other than as `params.name`.
    BadParams,
    /// A regular expression does not compile, is too large, or is neither a literal nor a param.
    BadRegex,
    /// The expression can never be a bool, so it decides nothing.
    NotBoolean,
    /// Longer than [`limits::FILTER_BYTES`].
    TooLong,
    /// More nodes than [`limits::FILTER_NODES`].
    TooLarge,
    /// Nested deeper than [`limits::FILTER_DEPTH`].
    TooDeep,
    /// A literal list has more items than [`limits::FILTER_LIST_ITEMS`].
    ListTooLong,
    /// An index was declared on a path that has none.
    BadIndexPath,
}

impl FilterErrorKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Syntax,
        Self::Unsupported,
        Self::UnknownFunction,
        Self::WrongArguments,
        Self::UndeclaredName,
        Self::UnboundParam,
        Self::BadParams,
        Self::BadRegex,
        Self::NotBoolean,
        Self::TooLong,
        Self::TooLarge,
        Self::TooDeep,
        Self::ListTooLong,
        Self::BadIndexPath,
    ];

    /// The stable name of the kind, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "filter_syntax",
            Self::Unsupported => "filter_unsupported",
            Self::UnknownFunction => "unknown_function",
            Self::WrongArguments => "wrong_arguments",
            Self::UndeclaredName => "undeclared_name",
            Self::UnboundParam => "unbound_param",
            Self::BadParams => "bad_params",
            Self::BadRegex => "bad_regex",
            Self::NotBoolean => "not_boolean",
            Self::TooLong => "filter_too_long",
            Self::TooLarge => "filter_too_large",
            Self::TooDeep => "filter_too_deep",
            Self::ListTooLong => "filter_list_too_long",
            Self::BadIndexPath => "bad_index_path",
        }
    }
}

/// Why a filter is refused, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// What kind of mistake.
    pub kind: FilterErrorKind,
    /// The stretch of text to blame; may be empty at the end of the text.
    pub span: Span,
    /// For people: short and exact, without the position.
    pub message: String,
}

impl FilterError {
    pub(super) fn new(kind: FilterErrorKind, span: Span, message: impl Into<String>) -> Self {
        Self {
            kind,
            span,
            message: message.into(),
        }
    }

    pub(super) fn too_deep(span: Span) -> Self {
        let message = format!("nested deeper than {} levels", limits::FILTER_DEPTH);
        Self::new(FilterErrorKind::TooDeep, span, message)
    }

    /// The stable name of the mistake, for programs.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Where the mistake begins, in bytes of the text.
    pub fn offset(&self) -> usize {
        self.span.offset as usize
    }

    /// How many bytes it covers.
    pub fn length(&self) -> usize {
        self.span.length as usize
    }

    /// The line of `source` that holds the mistake, with carets under it on a second line. A long line is cut
    /// around the mistake. Never fails, whatever `source` is.
    pub fn excerpt(&self, source: &str) -> String {
        excerpt(source, self.offset(), self.length())
    }
}

/// Columns of an excerpt, at most.
const EXCERPT_COLUMNS: usize = 100;

fn excerpt(source: &str, offset: usize, length: usize) -> String {
    let at = source.floor_char_boundary(offset.min(source.len()));
    let end = source.ceil_char_boundary((at + length).min(source.len()));
    let is_break = |c: char| c == '\n' || c == '\r';
    let line_start = source[..at].rfind(is_break).map_or(0, |i| i + 1);
    let line_end = source[at..].find(is_break).map_or(source.len(), |i| at + i);
    // Only one line is shown, so the carets end with it.
    let end = end.clamp(at, line_end);

    // Grows from the mistake to both sides while there is room, so that the mistake's beginning is always in view.
    let (mut from, mut to) = (at, at);
    let mut room = EXCERPT_COLUMNS;
    let mut forward = true;

    while room > 0 && (from > line_start || to < line_end) {
        let grow_right = to < line_end && (forward || from == line_start);
        let next = if grow_right {
            source[to..].chars().next()
        } else {
            source[..from].chars().next_back()
        };

        let Some(c) = next else { break };
        room = room.saturating_sub(columns(c));
        if grow_right {
            to += c.len_utf8();
        } else {
            from -= c.len_utf8();
        }

        forward = !forward;
    }

    let mut text = String::new();
    let mut under = String::new();
    if from > line_start {
        text.push('…');
        under.push(' ');
    }

    for (i, c) in source[from..to].char_indices() {
        let mark = if (at..end).contains(&(from + i)) {
            '^'
        } else {
            ' '
        };
        text.push(if c.is_control() { ' ' } else { c });
        if from + i < end.max(at) {
            under.extend(std::iter::repeat_n(mark, columns(c)));
        }
    }

    if to < line_end {
        text.push('…');
    }

    // At the end of a line, or on characters without width, there is still something to see.
    if !under.contains('^') {
        under.push('^');
    }

    let mut excerpt = text;
    let _ = write!(excerpt, "\n{under}");
    excerpt
}

/// Terminal columns of a character: two for East Asian wide forms and emoji, none for combining marks.
#[doc(hidden)]
pub fn columns(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The nearest of `known` to what someone wrote, phrased as the end of a message; empty if none is near.
pub(super) fn suggestion<'k>(wrote: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let known = known.into_iter().map(|name| (name, name));
    // One mistake in a short name, and more in a longer one: else each short name would be near.
    let near = nearest(wrote, known, |name| 1 + name.len().min(wrote.len()) / 4);
    near.map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

/// Why an evaluation ended without a value, for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EvalErrorKind {
    /// The operation has no meaning for these kinds of value.
    #[error("no such operation for these values")]
    NoOverload,
    /// A condition, or an operand of `!`, `&&`, `||`, is not a bool.
    #[error("not a bool")]
    NotBool,
    /// A member was selected from something that has none.
    #[error("only maps have members")]
    NotAMap,
    /// A list has no item of this index.
    #[error("index out of range")]
    OutOfRange,
    /// A value of this kind can be no key.
    #[error("not a key: keys are strings, ints and bools")]
    BadKey,
    /// A map literal has a key twice.
    #[error("a key is repeated")]
    RepeatedKey,
    /// The divisor of ints is zero.
    #[error("division by zero")]
    DivisionByZero,
    /// An int does not fit 64 bits.
    #[error("integer overflow")]
    Overflow,
    /// The value does not convert.
    #[error("cannot be converted")]
    Conversion,
    /// More than [`limits::FILTER_STEPS`].
    #[error("took more than {} steps", limits::FILTER_STEPS)]
    Steps,
    /// More than [`limits::FILTER_WORK_BYTES`].
    #[error("touched more than {} bytes", limits::FILTER_WORK_BYTES)]
    Bytes,
}

/// An evaluation that ended without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct EvalError {
    /// What happened.
    pub kind: EvalErrorKind,
    /// The sub-expression that failed.
    pub span: Span,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_points_at_the_mistake() {
        assert_eq!(excerpt("a == b", 5, 1), "a == b\n     ^");
        assert_eq!(excerpt("a ==", 4, 0), "a ==\n    ^");
        assert_eq!(excerpt("a &&\n\tfoo() ||\nb", 6, 3), " foo() ||\n ^^^");
        assert_eq!(excerpt("'日本' + x", 11, 1), "'日本' + x\n         ^");
        assert_eq!(excerpt("", 0, 0), "\n^");
        assert_eq!(excerpt("ü", 1, 9), "ü\n^");
        assert_eq!(excerpt("\u{fe00}", 0, 3), "\u{fe00}\n^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let source = format!("{} ? {}", "a".repeat(500), "b".repeat(500));
        let cut = excerpt(&source, 501, 1);
        let (text, under) = cut.split_once('\n').unwrap();
        assert!(
            text.starts_with('…')
                && text.ends_with('…')
                && text.chars().count() <= EXCERPT_COLUMNS + 2
        );
        let caret = under.chars().position(|c| c == '^').unwrap();
        assert_eq!(text.chars().nth(caret), Some('?'));
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(
            suggestion("startWith", ["endsWith", "startsWith"]),
            "; did you mean \"startsWith\"?"
        );
        assert_eq!(suggestion("zzz", ["auth", "user"]), "");
        let long = "a".repeat(4000);
        assert_eq!(suggestion(&long, ["a"; 3]), "");
    }

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::HashSet<_> =
            FilterErrorKind::ALL.iter().map(|k| k.code()).collect();
        assert_eq!(codes.len(), FilterErrorKind::ALL.len());
    }
}
