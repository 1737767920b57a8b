//! The tokens that are next, and what is said of one that is not expected.

use super::Parser;
use crate::{
    error::{FilterError, FilterErrorKind, Span},
    lexer::{Token, TokenKind},
};

impl Parser {
    fn token(&self) -> &Token {
        // The last token is `End`, and nothing steps over it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub(super) fn peek(&self) -> &TokenKind {
        &self.token().kind
    }

    pub(super) fn peek_second(&self) -> &TokenKind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn span(&self) -> Span {
        self.token().span
    }

    pub(super) fn previous_span(&self) -> Span {
        self.tokens[self.at.saturating_sub(1)].span
    }

    pub(super) fn sees(&self, symbol: &str) -> bool {
        matches!(self.peek(), TokenKind::Symbol(have) if *have == symbol)
    }

    pub(super) fn accept(&mut self, symbol: &str) -> bool {
        let sees = self.sees(symbol);
        self.at += usize::from(sees);
        sees
    }

    pub(super) fn expect(&mut self, symbol: &str) -> Result<(), FilterError> {
        if self.accept(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("\"{symbol}\"")))
        }
    }

    pub(super) fn unexpected(&self, wanted: &str) -> FilterError {
        let found = match self.peek() {
            TokenKind::End => "the end".to_owned(),
            TokenKind::Name(name) => {
                let hint = self.word_of_another_language(name);
                let message = format!("expected {wanted}, found \"{name}\"{hint}");
                return FilterError::new(FilterErrorKind::Syntax, self.span(), message);
            }
            TokenKind::Int(_) | TokenKind::Double(_) => "a number".to_owned(),
            TokenKind::String(_) => "a string".to_owned(),
            TokenKind::Symbol(symbol) => format!("\"{symbol}\""),
        };

        FilterError::new(
            FilterErrorKind::Syntax,
            self.span(),
            format!("expected {wanted}, found {found}"),
        )
    }

    /// What is written in place of the word `name`, which is where an operator should be.
    fn word_of_another_language(&self, name: &str) -> &'static str {
        let is_before_in =
            matches!(self.peek_second(), TokenKind::Name(next) if next.eq_ignore_ascii_case("in"));
        match name.to_ascii_lowercase().as_str() {
            "and" => "; and is \"&&\"",
            "or" => "; or is \"||\"",
            "not" if is_before_in => "; write !(item in list)",
            "not" => "; not is \"!\"",
            "is" | "eq" | "equals" => "; did you mean \"==\"?",
            "ne" => "; did you mean \"!=\"?",
            "in" if name != "in" => "; did you mean \"in\"?",
            "contains" | "includes" | "has" => "; write item in list, or text.contains(part)",
            "like" | "ilike" => {
                "; write text.startsWith(prefix), text.contains(part) or text.matches(pattern)"
            }
            _ => "",
        }
    }
}
