//! Text to tokens (CEL specification, "Syntax").

use super::error::{FilterError, FilterErrorKind, Span};

/// One token with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// A name, reserved words included: they may follow a dot.
    Name(String),
    /// The magnitude of an int; its sign is the parser's, so that the least int can be written.
    Int(u64),
    Double(f64),
    String(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    End,
}

/// Longest first where one begins another.
const SYMBOLS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "?", ":", ".", ",", "+", "-", "*", "/", "%",
    "(", ")", "[", "]", "{", "}", "=",
];

/// Operators of other languages, and what is written in their place.
const OTHER_OPERATORS: [(&str, &str); 6] = [
    ("===", "did you mean \"==\"?"),
    ("!==", "did you mean \"!=\"?"),
    ("<>", "did you mean \"!=\"?"),
    ("=~", "did you mean text.matches(pattern)?"),
    ("?.", "write \".\": a member that is missing is null"),
    (
        "??",
        "a member that is missing is null: write a != null ? a : b",
    ),
];

/// Splits a filter into tokens, ending with [`TokenKind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, FilterError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::with_capacity(source.len() / 4 + 1);
    loop {
        let token = lexer.next()?;
        let ended = token.kind == TokenKind::End;
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

/// What becomes of the escapes in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    Read,
    /// They stay as they are: the string is raw.
    Raw,
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error<T>(&self, from: usize, message: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError::new(
            FilterErrorKind::Syntax,
            Span::new(from, self.at),
            message,
        ))
    }

    fn unsupported<T>(&self, from: usize, message: &str) -> Result<T, FilterError> {
        Err(FilterError::new(
            FilterErrorKind::Unsupported,
            Span::new(from, self.at),
            message,
        ))
    }

    fn take_while(&mut self, mut accept: impl FnMut(char) -> bool) -> &'s str {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            if !self.rest().starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn next(&mut self) -> Result<Token, FilterError> {
        self.skip_blank();
        let from = self.at;
        let kind = match self.peek() {
            None => TokenKind::End,
            Some('0'..='9') => self.number()?,
            Some('.') if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.number()?
            }
            Some('"' | '\'') => self.string(Escapes::Read)?,
            Some('a'..='z' | 'A'..='Z' | '_') => self.name_or_prefixed_string()?,
            // Before the symbols: `===` begins with one of them.
            Some(_) if let Some((wrong, right)) = self.foreign_operator() => {
                self.at += wrong.len();
                return self.error(from, format!("unexpected \"{wrong}\"; {right}"));
            }
            Some(c) => match SYMBOLS
                .iter()
                .find(|symbol| self.rest().starts_with(**symbol))
            {
                Some(&"=") => {
                    self.at += 1;
                    return self.error(from, "unexpected \"=\"; did you mean \"==\"?");
                }
                Some(symbol) => {
                    self.at += symbol.len();
                    TokenKind::Symbol(symbol)
                }
                None => {
                    self.at += c.len_utf8();
                    let hint = match c {
                        '&' => "; and is \"&&\"",
                        '|' => "; or is \"||\"",
                        '$' | '@' | '#' => "; a param is written params.name",
                        '`' | '“' | '”' | '‘' | '’' => "; strings are in \" or '",
                        _ => "",
                    };
                    return self.error(from, format!("unexpected {c:?}{hint}"));
                }
            },
        };

        Ok(Token {
            kind,
            span: Span::new(from, self.at),
        })
    }

    /// The operator of another language that comes next, and what is written here.
    fn foreign_operator(&self) -> Option<(&'static str, &'static str)> {
        let found = OTHER_OPERATORS
            .iter()
            .find(|(wrong, _)| self.rest().starts_with(wrong))?;
        // `a ?.5 : b` is a number.
        let is_number =
            found.0 == "?." && self.rest()[2..].starts_with(|c: char| c.is_ascii_digit());
        (!is_number).then_some(*found)
    }

    fn name_or_prefixed_string(&mut self) -> Result<TokenKind, FilterError> {
        let from = self.at;
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if self.rest().starts_with(['"', '\'']) {
            let is = |words: &[&str]| words.iter().any(|word| name.eq_ignore_ascii_case(word));
            if is(&["r"]) {
                return self.string(Escapes::Raw);
            }
            if is(&["b", "rb", "br"]) {
                // Read to its end, so that the error marks all of it.
                let is_raw = !is(&["b"]);
                let escapes = if is_raw { Escapes::Raw } else { Escapes::Read };
                self.string(escapes)?;
                return self.unsupported(from, "bytes literals are left out; JSON has no bytes");
            }
        }

        Ok(TokenKind::Name(name.to_owned()))
    }

    fn number(&mut self) -> Result<TokenKind, FilterError> {
        let from = self.at;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.at += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            return self.int(from, digits, 16);
        }

        let digits = self.take_while(|c| c.is_ascii_digit());
        let mut double = false;
        let rest = self.rest();

        // A dot without a digit after it selects a member of the int.
        if rest.starts_with('.') && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            double = true;
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }

        let rest = self.rest();
        if rest.starts_with(['e', 'E']) {
            let unsigned = rest[1..].strip_prefix(['+', '-']).unwrap_or(&rest[1..]);
            if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
                double = true;
                self.at += rest.len() - unsigned.len();
                self.take_while(|c| c.is_ascii_digit());
            }
        }

        if !double {
            return self.int(from, digits, 10);
        }

        self.number_ends(from)?;
        match self.source[from..self.at].parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(TokenKind::Double(value)),
            _ => self.error(from, "this number is beyond the range of a double"),
        }
    }

    fn int(&mut self, from: usize, digits: &str, radix: u32) -> Result<TokenKind, FilterError> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            self.number_ends(from)?;
            return self.unsupported(from, "uint literals are left out; write an int");
        }

        self.number_ends(from)?;
        if digits.is_empty() {
            return self.error(from, "\"0x\" wants hexadecimal digits");
        }

        match u64::from_str_radix(digits, radix) {
            // One more than the largest int is the magnitude of the least one.
            Ok(value) if value <= 1 << 63 => Ok(TokenKind::Int(value)),
            _ => self.error(from, "this int does not fit 64 bits"),
        }
    }

    fn number_ends(&mut self, from: usize) -> Result<(), FilterError> {
        // So that `5min` is not read as a number and a name after it.
        if self
            .take_while(|c| c.is_ascii_alphanumeric() || c == '_')
            .is_empty()
        {
            return Ok(());
        }
        self.error(from, "not a number")
    }

    fn string(&mut self, escapes: Escapes) -> Result<TokenKind, FilterError> {
        let from = self.at;
        let quote = if self.rest().starts_with('"') {
            "\""
        } else {
            "'"
        };

        let triple = quote.repeat(3);
        let multiline = self.rest().starts_with(&*triple);
        let close = if multiline { &*triple } else { quote };
        self.at += close.len();
        let mut text = String::new();

        loop {
            if self.rest().starts_with(close) {
                self.at += close.len();
                return Ok(TokenKind::String(text));
            }

            match self.peek() {
                None => {
                    return self.error(
                        from,
                        format!("this string does not end; {close} is missing"),
                    );
                }
                Some('\n' | '\r') if !multiline => {
                    let message = "a string may span lines only in triple quotes";
                    return self.error(from, message);
                }
                Some('\\') if escapes == Escapes::Read => text.push(self.escape()?),
                Some('\\') if self.rest()[1..].starts_with(quote) => {
                    // In a raw string a backslash keeps the quote from ending it, and stays.
                    text.push('\\');
                    text.push_str(quote);
                    self.at += 1 + quote.len();
                }
                Some(c) => {
                    text.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, FilterError> {
        let from = self.at;
        self.at += 1;
        let Some(c) = self.peek() else {
            return self.error(from, "an escape is cut off");
        };

        self.at += c.len_utf8();
        let digits = match c {
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'f' => return Ok('\x0c'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\x0b'),
            '\\' | '?' | '"' | '\'' | '`' => return Ok(c),
            'x' | 'X' => 2,
            'u' => 4,
            'U' => 8,
            // The first digit belongs to the number.
            '0'..='3' => {
                self.at = from + 1;
                3
            }
            _ => return self.error(from, "no such escape; a backslash is written \\\\"),
        };

        let radix = if c.is_ascii_digit() { 8 } else { 16 };
        let start = self.at;
        let mut left = digits;

        let code = self.take_while(|c| {
            let accepted = left > 0 && c.is_digit(radix);
            left -= usize::from(accepted);
            accepted
        });

        if self.at - start < digits {
            return self.error(from, format!("this escape wants {digits} digits"));
        }

        let code = u32::from_str_radix(code, radix)
            .ok()
            .and_then(char::from_u32);
        code.map_or_else(
            || self.error(from, "this escape is not a Unicode character"),
            Ok,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<TokenKind> {
        tokens(source)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    fn string(source: &str) -> String {
        match kinds(source).swap_remove(0) {
            TokenKind::String(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_of_every_form() {
        use TokenKind::{Double, End, Int, Name, Symbol};
        assert_eq!(
            kinds("0 0x1F .5 1.5e3 2E-1 9223372036854775808"),
            [
                Int(0),
                Int(31),
                Double(0.5),
                Double(1500.0),
                Double(0.2),
                Int(1 << 63),
                End
            ]
        );
        assert_eq!(kinds("1.e"), [Int(1), Symbol("."), Name("e".into()), End]);
    }

    #[test]
    fn strings_of_every_form() {
        assert_eq!(string(r#""a\n\x41\u00fc\U0001F431\101\"""#), "a\nAü🐱A\"");
        assert_eq!(string(r"r'\n\''"), r"\n\'");
        assert_eq!(string("'''a'\n''b'''"), "a'\n''b");
        assert_eq!(string(r#"R"""\d"x""""#), r#"\d"x"#);
        assert_eq!(string("'' // nothing"), "");
    }

    #[test]
    fn mistakes_are_placed() {
        let at = |source: &str| {
            tokens(source)
                .map_err(|e| (e.code(), e.span.of(source).to_owned()))
                .unwrap_err()
        };
        let syntax = |text: &str| ("filter_syntax", text.to_owned());
        assert_eq!(at("a = b"), syntax("="));
        let error = tokens("a = b").unwrap_err();
        assert_eq!(error.message, r#"unexpected "="; did you mean "=="?"#);
        assert_eq!(at("a & b"), syntax("&"));
        assert_eq!(at("x == 'abc"), syntax("'abc"));
        assert_eq!(at(r"'a\qb'"), syntax(r"\q"));
        assert_eq!(at(r"'\ud800'"), syntax(r"\ud800"));
        assert_eq!(at(r"'\x4'"), syntax(r"\x4"));
        assert_eq!(at("'a\nb'"), syntax("'a"));
        assert_eq!(at("99999999999999999999"), syntax("99999999999999999999"));
        assert_eq!(at("1e999"), syntax("1e999"));
        assert_eq!(at("12abc"), syntax("12abc"));
        assert_eq!(at("x == 1u"), ("filter_unsupported", "1u".to_owned()));
        assert_eq!(at("x == b'a'"), ("filter_unsupported", "b'a'".to_owned()));
    }
}
