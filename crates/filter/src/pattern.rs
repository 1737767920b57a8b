//! Regular expressions: bounded in what compiling takes, in what they hold, and in what a search may cost.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use regex_automata::{Input, meta};
use regex_syntax::{
    ast::{self, Ast, ClassPerlKind, ClassSetBinaryOp, ClassSetItem, Flag, Flags},
    hir::{self, Class, Hir, HirKind},
};

use super::{
    error::{FilterError, FilterErrorKind, Span},
    tally,
};
use crate::limits;

/// A compiled regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: meta::Regex,
    /// Unique over the process's life.
    id: u64,
    /// What one byte of text is charged.
    byte_work: usize,
    /// What it holds, in bytes.
    bytes: usize,
    /// What compiling it took; see [`limits::REGEX_POINTS`].
    points: u32,
}

/// The id of the next pattern.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the patterns of one filter may come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    patterns: usize,
    bytes: usize,
    points: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            patterns: limits::FILTER_PATTERNS,
            bytes: limits::REGEX_BYTES,
            points: limits::REGEX_POINTS,
        }
    }
}

impl Allowance {
    /// Compiles a pattern, within what is left.
    pub(super) fn compile(&mut self, text: &str, span: Span) -> Result<Arc<Pattern>, FilterError> {
        let pattern = Arc::new(Pattern::compile(text, self.points, span)?);
        self.take(&pattern, span)?;
        Ok(pattern)
    }

    /// Takes what a compiled pattern needs from what is left.
    pub(super) fn take(&mut self, pattern: &Pattern, span: Span) -> Result<(), FilterError> {
        let too_many = format!("a filter has at most {} patterns", limits::FILTER_PATTERNS);
        let too_large = format!(
            "the patterns of this filter take more than {} bytes when compiled",
            limits::REGEX_BYTES
        );
        let left = |left: Option<usize>, message| left.ok_or_else(|| refused(span, message));
        self.patterns = left(self.patterns.checked_sub(1), too_many)?;
        self.bytes = left(self.bytes.checked_sub(pattern.bytes), too_large)?;
        let points = self.points.checked_sub(pattern.points);
        self.points = points.ok_or_else(|| refused(span, WIDE_CLASSES))?;
        Ok(())
    }
}

thread_local! {
    /// What the last few patterns of this thread search with, the newest first: it does not grow with the patterns there are.
    static SCRATCHES: RefCell<Vec<(u64, Box<meta::Cache>)>> = const { RefCell::new(Vec::new()) };
}

const WIDE_CLASSES: &str = "the classes of this pattern have too many characters: where it ignores case, each character of \
                            a class is looked up. Put large classes outside of (?i:…), or use ASCII";

fn refused(span: Span, message: impl Into<String>) -> FilterError {
    FilterError::new(FilterErrorKind::BadRegex, span, message)
}

impl Pattern {
    fn compile(text: &str, points: u32, span: Span) -> Result<Self, FilterError> {
        if text.len() > limits::REGEX_TEXT_BYTES {
            let message = format!(
                "this pattern has {} bytes; at most {} are taken",
                text.len(),
                limits::REGEX_TEXT_BYTES
            );
            return Err(refused(span, message));
        }

        // Everything that classes may take is known from the syntax, before any is built.
        let ast = ast::parse::ParserBuilder::new()
            .nest_limit(limits::FILTER_DEPTH as u32)
            .build()
            .parse(text)
            .map_err(|error| unreadable(&error, span))?;

        let taken = ast::visit(&ast, Classes::default()).unwrap_or(u32::MAX);
        if taken > points {
            return Err(refused(span, WIDE_CLASSES));
        }

        let hir = hir::translate::TranslatorBuilder::new()
            .build()
            .translate(text, &ast)
            .map_err(|error| unreadable(&error, span))?;

        let config = meta::Config::new()
            .nfa_size_limit(Some(limits::REGEX_BYTES))
            .hybrid_cache_capacity(limits::REGEX_SCRATCH_BYTES)
            // Both answer questions that no filter asks: where groups match.
            .onepass(false)
            .backtrack(false);

        let built = meta::Builder::new().configure(config).build_from_hir(&hir);
        let regex = built.map_err(|error| match error.size_limit() {
            Some(limit) => refused(
                span,
                format!("this pattern is larger than {limit} bytes when compiled"),
            ),
            None => refused(span, format!("not a regular expression: {error}")),
        })?;

        Ok(Self {
            byte_work: positions(&hir).saturating_mul(limits::REGEX_POSITION_WORK),
            bytes: regex.memory_usage() + size_of::<Self>(),
            // A thread's tables are found by it. An address could be another pattern's by then.
            id: NEXT.fetch_add(1, Relaxed),
            points: taken,
            regex,
        })
    }

    /// What a search in a text of so many bytes is charged.
    #[inline]
    pub(super) fn work(&self, text: usize) -> usize {
        limits::REGEX_SEARCH_WORK + text.saturating_mul(self.byte_work)
    }

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is found in `text`.
    pub(super) fn is_in(&self, text: &str) -> bool {
        tally::add(40 + text.len() * self.byte_work);
        // A search needs room that grows with the pattern. Making it for each connection would cost
        // more than the search.
        SCRATCHES.with_borrow_mut(|scratches| {
            // The newest first, so that the one that goes was unused for longest.
            if let Some(at) = scratches.iter().position(|(id, _)| *id == self.id) {
                scratches[..=at].rotate_right(1);
            } else {
                scratches.truncate(limits::REGEX_SCRATCHES - 1);
                scratches.insert(0, (self.id, Box::new(self.regex.create_cache())));
            }
            // The first byte that decides ends the search: where the longest match ends is of no
            // use.
            let input = Input::new(text).earliest(true);
            self.regex
                .search_half_with(&mut scratches[0].1, &input)
                .is_some()
        })
    }
}

fn unreadable(error: &impl ToString, span: Span) -> FilterError {
    let text = error.to_string();
    let reason = text
        .lines()
        .last()
        .unwrap_or("")
        .trim_start_matches("error: ");
    refused(span, format!("not a regular expression: {reason}"))
}

/// The characters and classes that a match goes through at most, repetitions written out: a search keeps track of as many
/// places in the pattern at the same time.
fn positions(hir: &Hir) -> usize {
    let all = |parts: &[Hir]| parts.iter().map(positions).fold(0, usize::saturating_add);
    match hir.kind() {
        HirKind::Empty => 0,
        HirKind::Literal(literal) => literal.0.len(),
        // A search goes byte by byte, and these characters have several.
        HirKind::Class(Class::Unicode(class)) if !class.is_ascii() => 2,
        HirKind::Class(_) | HirKind::Look(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            positions(&repetition.sub).saturating_mul(times as usize)
        }
        HirKind::Capture(capture) => positions(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => all(parts),
    }
}

/// Adds up what building the classes of a pattern takes: a unit is a range of characters, or where case is ignored a
/// character.
#[derive(Default)]
struct Classes {
    points: u64,
    folds: bool,
    /// Whether case was ignored outside of the groups around this place.
    outer: Vec<bool>,
    /// How often what is at this place is gone through: once for each bracket around it, and twice for each operation
    /// of sets.
    times: u64,
}

/// Ranges of a class such as `\p{L}` or `\w`.
const RANGES: u64 = 1000;
/// Characters of `\w`.
const WORD_CHARACTERS: u64 = 140_000;
/// Characters in all.
const CHARACTERS: u64 = 1_114_112;

impl Classes {
    fn flags(&mut self, flags: Option<&Flags>) {
        if let Some(folds) = flags.and_then(|flags| flags.flag_state(Flag::CaseInsensitive)) {
            self.folds = folds;
        }
    }

    /// Adds a class of `characters`, which are gone through one by one where case is ignored.
    fn add(&mut self, characters: u64) {
        let once = if self.folds { characters } else { RANGES };
        self.points += once * self.times.max(1);
    }

    fn perl(&mut self, class: &ast::ClassPerl) {
        match (class.negated, &class.kind) {
            // By themselves they have both cases already.
            _ if self.times == 0 => self.points += RANGES,
            (true, _) => self.add(CHARACTERS),
            (false, ClassPerlKind::Word) => self.add(WORD_CHARACTERS),
            (false, ClassPerlKind::Digit | ClassPerlKind::Space) => self.add(RANGES),
        }
    }
}

impl ast::Visitor for Classes {
    type Output = u32;
    type Err = ();

    fn finish(self) -> Result<u32, ()> {
        u32::try_from(self.points).map_err(|_| ())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), ()> {
        match ast {
            Ast::Flags(set) => self.flags(Some(&set.flags)),
            Ast::Group(group) => {
                self.outer.push(self.folds);
                self.flags(group.flags());
            }
            Ast::ClassUnicode(_) => self.add(CHARACTERS),
            Ast::ClassPerl(class) => self.perl(class),
            Ast::ClassBracketed(_) => self.times += 1,
            _ => {}
        }
        Ok(())
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), ()> {
        match ast {
            Ast::Group(_) => self.folds = self.outer.pop().unwrap_or_default(),
            Ast::ClassBracketed(_) => self.times -= 1,
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), ()> {
        match item {
            ClassSetItem::Range(range) if self.folds => {
                let (start, end) = (u64::from(range.start.c), u64::from(range.end.c));
                self.add(end.saturating_sub(start) + 1);
            }
            ClassSetItem::Unicode(_) => self.add(CHARACTERS),
            ClassSetItem::Perl(class) => self.perl(class),
            ClassSetItem::Ascii(class) if class.negated => self.add(CHARACTERS),
            ClassSetItem::Bracketed(class) => {
                self.times += 1;
                if class.negated {
                    self.add(CHARACTERS);
                }
            }
            _ => self.points += self.times,
        }

        Ok(())
    }

    fn visit_class_set_item_post(&mut self, item: &ClassSetItem) -> Result<(), ()> {
        if matches!(item, ClassSetItem::Bracketed(_)) {
            self.times -= 1;
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), ()> {
        self.times += 2;
        Ok(())
    }

    fn visit_class_set_binary_op_post(&mut self, _: &ClassSetBinaryOp) -> Result<(), ()> {
        self.times -= 2;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Result<Arc<Pattern>, String> {
        let compiled = Allowance::default().compile(text, Span::default());
        compiled.map_err(|error| error.message)
    }

    #[test]
    fn a_search_is_charged_for_the_pattern_as_it_is_written_out() {
        let work = |text: &str| compile(text).unwrap().work(100) - limits::REGEX_SEARCH_WORK;
        let place = 100 * limits::REGEX_POSITION_WORK;
        for (text, places) in [
            ("", 0),
            ("abc", 3),
            ("^a+$", 3),
            ("(a|bc)*d", 4),
            ("a{5}", 5),
            ("a{2,7}", 7),
            ("(ab{3}){10}", 40),
            ("[a-z]é", 3),
            (r"\w", 2),
            ("(?:){9}", 0),
        ] {
            assert_eq!(work(text), places * place, "{text}");
        }
        assert!(work("a[ab]{300}[cd]") > 300 * place, "14 bytes of text");
    }

    #[test]
    fn common_patterns_are_taken_and_find_what_they_say() {
        for (text, hit, miss) in [
            ("^u[0-9]+$", "u17", "v17"),
            (
                r"(?i)^[\w.+-]+@example\.com$",
                "Ann.Ö@EXAMPLE.com",
                "ann@example.org",
            ),
            (r"\bword\b", "a word here", "swords"),
            (r"^[A-Z]{2,3}-\d{4,}$", "AB-1234", "AB-123"),
            (r"^\p{Lu}\p{L}*$", "Ähre", "ähre"),
            ("(?i)straße|gasse", "STRASSE GASSE", "weg"),
            ("^(a+)+$", "aaa", "aab"),
        ] {
            let pattern = compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(pattern.is_in(hit) && !pattern.is_in(miss), "{text}");
        }
        assert!(compile("").unwrap().is_in(""));
    }

    #[test]
    fn patterns_that_take_long_to_compile_are_refused_before_they_do() {
        for text in [
            "a".repeat(limits::REGEX_TEXT_BYTES + 1),
            r"(?i)\p{L}".to_owned(),
            r"(?i)[\w.]".repeat(4),
            r"(?i)[[[[\w]]]]".to_owned(),
            r"(?i)[\w--a--b--c--d]".to_owned(),
            r"(?i)[^\W]".to_owned(),
            r"(?i)[\x{0}-\x{ffff}[^a]]".to_owned(),
            "(a{1000}){1000}".to_owned(),
        ] {
            assert!(compile(&text).is_err(), "{text}");
        }
        // Beside the group that ignores case, large classes are fine.
        for text in [r"(?i:abc)\p{L}+", r"(?i)abc(?-i)\p{L}+"] {
            assert!(compile(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_patterns_of_a_filter_are_bounded_together() {
        let mut allowance = Allowance::default();
        let small = compile("abc").unwrap();
        for _ in 0..limits::FILTER_PATTERNS {
            allowance.take(&small, Span::default()).unwrap();
        }
        let error = allowance.take(&small, Span::default()).unwrap_err();
        assert_eq!(error.message, "a filter has at most 8 patterns");

        let mut allowance = Allowance::default();
        let mut taken = 0;
        let error = loop {
            match allowance.compile("[ab]{300}", Span::default()) {
                Ok(pattern) => taken += pattern.bytes(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "bad_regex");
        assert!((1..=limits::REGEX_BYTES).contains(&taken), "{taken}");
    }

    #[test]
    fn what_a_thread_keeps_does_not_grow_with_the_patterns() {
        let patterns: Vec<_> = (0..100)
            .map(|n| compile(&format!("^{n}$")).unwrap())
            .collect();
        for _ in 0..2 {
            for (n, pattern) in patterns.iter().enumerate() {
                assert!(pattern.is_in(&n.to_string()) && !pattern.is_in("x"));
            }
        }
        let scratches = SCRATCHES
            .with_borrow(|scratches| scratches.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let last: Vec<u64> = patterns.iter().rev().map(|pattern| pattern.id).collect();
        assert_eq!(scratches, last[..limits::REGEX_SCRATCHES]);
    }
}
