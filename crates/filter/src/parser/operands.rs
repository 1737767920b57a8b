//! What operators stand between: literals, names, members, calls, macros, lists and maps.

use super::{Parsed, Parser};
use crate::{
    ast::{Expr, ExprKind, Macro},
    error::{FilterError, FilterErrorKind, Span},
    lexer::TokenKind,
    limits,
    value::Value,
};

const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];

/// Names that CEL keeps for the languages that embed it; they may follow a dot.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

impl Parser {
    pub(super) fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            if self.accept(".") {
                expr = self.after_dot(expr)?;
            } else if self.accept("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let span = expr.span.to(self.previous_span());
                let below = expr.height.max(index.height);

                expr = self.node(
                    ExprKind::Index {
                        from: expr.into(),
                        index: index.into(),
                    },
                    span,
                    below,
                )?;
            } else if self.sees("{") {
                // In CEL a name before a brace begins a message, such as `Type{field: 1}`.
                let message = "messages are left out; a map is written {\"key\": value}";
                return Err(FilterError::new(
                    FilterErrorKind::Unsupported,
                    expr.span.to(self.span()),
                    message,
                ));
            } else {
                return Ok(expr);
            }
        }
    }

    fn after_dot(&mut self, from: Expr) -> Parsed {
        let at = self.span();
        let TokenKind::Name(name) = self.peek().clone() else {
            return Err(self.unexpected("a name"));
        };
        if KEYWORDS.contains(&name.as_str()) {
            let message = format!("\"{name}\" is a keyword; write [\"{name}\"]");
            return Err(FilterError::new(FilterErrorKind::Syntax, at, message));
        }

        self.at += 1;
        if !self.accept("(") {
            let (span, below) = (from.span.to(at), from.height);
            return self.node(
                ExprKind::Select {
                    from: from.into(),
                    key: name,
                },
                span,
                below,
            );
        }

        let arguments = self.items(")")?;
        let span = from.span.to(self.previous_span());
        if let Some(kind) = Macro::named(&name) {
            return self.walk(kind, from, arguments, at, span);
        }

        let below = tallest(&arguments).max(from.height);
        self.node(
            ExprKind::Call {
                receiver: Some(from.into()),
                function: name,
                at,
                arguments,
            },
            span,
            below,
        )
    }

    fn walk(
        &mut self,
        kind: Macro,
        range: Expr,
        mut arguments: Vec<Expr>,
        at: Span,
        span: Span,
    ) -> Parsed {
        // `map` has a second form, with a condition before the result.
        let counts = if kind == Macro::Map { 2..=3 } else { 2..=2 };
        if !counts.contains(&arguments.len()) {
            let wants = if kind == Macro::Map { "2 or 3" } else { "2" };
            let (name, count) = (kind.name(), arguments.len());
            let message =
                format!("{name}() takes a name and an expression: {wants} arguments, not {count}");
            return Err(FilterError::new(
                FilterErrorKind::WrongArguments,
                at,
                message,
            ));
        }

        let below = tallest(&arguments).max(range.height);
        // From the last to the first: the body, the condition if there is one, the name.
        let (body, condition) = (
            arguments.pop(),
            (arguments.len() == 2).then(|| arguments.pop()).flatten(),
        );
        let (Some(body), Some(first)) = (body, arguments.pop()) else {
            return Err(self.unexpected("arguments"));
        };

        let ExprKind::Name(variable) = first.kind else {
            let message = format!(
                "the first argument of {}() is a new name for the item",
                kind.name()
            );
            return Err(FilterError::new(
                FilterErrorKind::Syntax,
                first.span,
                message,
            ));
        };

        let (range, condition, body) = (range.into(), condition.map(Box::new), body.into());
        self.node(
            ExprKind::Macro {
                kind,
                range,
                variable,
                condition,
                body,
            },
            span,
            below,
        )
    }

    fn primary(&mut self) -> Parsed {
        let span = self.span();
        if let Some(value) = self.literal()? {
            return self.node(ExprKind::Literal(value), span.to(self.previous_span()), 0);
        }

        if self.accept("(") {
            let inner = self.expression()?;
            self.expect(")")?;
            // Brackets have no node of their own: the shape of the tree says what they say.
            return Ok(inner);
        }

        if self.accept("[") {
            let items = self.items("]")?;
            if items.len() > limits::FILTER_LIST_ITEMS {
                let message = format!(
                    "{} items; a list may have {}. Long lists of values belong in params",
                    items.len(),
                    limits::FILTER_LIST_ITEMS
                );
                let span = span.to(self.previous_span());
                return Err(FilterError::new(
                    FilterErrorKind::ListTooLong,
                    span,
                    message,
                ));
            }

            let below = tallest(&items);
            return self.node(ExprKind::List(items), span.to(self.previous_span()), below);
        }

        if self.accept("{") {
            return self.map_literal(span);
        }
        self.name()
    }

    fn name(&mut self) -> Parsed {
        let span = self.span();
        let name = match self.peek() {
            // `in` is the only operator that the lexer reads as a name.
            TokenKind::Name(name) if name != "in" => name.clone(),
            _ => return Err(self.unexpected("a value")),
        };

        if RESERVED.contains(&name.as_str()) {
            let message = format!("\"{name}\" is a reserved word");
            return Err(FilterError::new(FilterErrorKind::Syntax, span, message));
        }
        // It is a name like any other, unless a value comes after it.
        if name.eq_ignore_ascii_case("not") && self.precedes_a_value() {
            let message = format!("unexpected \"{name}\"; not is \"!\"");
            return Err(FilterError::new(FilterErrorKind::Syntax, span, message));
        }

        self.at += 1;
        if !self.accept("(") {
            return self.node(ExprKind::Name(name), span, 0);
        }

        let mut arguments = self.items(")")?;
        let whole = span.to(self.previous_span());
        // A macro of CEL: what it is given is not evaluated, so it has to be written as a member.
        if name == "has" && arguments.len() == 1 {
            let Some(Expr {
                kind: ExprKind::Select { from, key },
                height,
                ..
            }) = arguments.pop()
            else {
                let message = "has() wants a member: has(auth.email)";
                return Err(FilterError::new(
                    FilterErrorKind::WrongArguments,
                    whole,
                    message,
                ));
            };

            return self.node(ExprKind::Has { from, key }, whole, height);
        }

        let below = tallest(&arguments);
        self.node(
            ExprKind::Call {
                receiver: None,
                function: name,
                at: span,
                arguments,
            },
            whole,
            below,
        )
    }

    /// Whether a value comes after the next token, where only an operator could.
    fn precedes_a_value(&self) -> bool {
        match self.peek_second() {
            TokenKind::Name(name) => name != "in",
            TokenKind::Int(_) | TokenKind::Double(_) | TokenKind::String(_) => true,
            TokenKind::Symbol(symbol) => *symbol == "(",
            TokenKind::End => false,
        }
    }

    /// The literal that comes next, if one does; its minus sign is part of it.
    fn literal(&mut self) -> Result<Option<Value>, FilterError> {
        let from = self.span();
        let negative = self.sees("-")
            && matches!(self.peek_second(), TokenKind::Int(_) | TokenKind::Double(_));
        self.at += usize::from(negative);

        let value = match self.peek() {
            TokenKind::Int(magnitude) => {
                let value = if negative {
                    0_i64.checked_sub_unsigned(*magnitude)
                } else {
                    i64::try_from(*magnitude).ok()
                };
                let Some(value) = value else {
                    let span = from.to(self.span());
                    return Err(FilterError::new(
                        FilterErrorKind::Syntax,
                        span,
                        "this int does not fit 64 bits",
                    ));
                };
                Value::Int(value)
            }
            TokenKind::Double(value) => Value::Double(if negative { -value } else { *value }),
            TokenKind::String(text) => Value::from(text.as_str()),
            TokenKind::Name(name) => match name.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                _ => return Ok(None),
            },
            TokenKind::Symbol(_) | TokenKind::End => return Ok(None),
        };

        self.at += 1;
        Ok(Some(value))
    }

    /// Expressions with commas between, up to `close`; a comma may precede it.
    fn items(&mut self, close: &str) -> Result<Vec<Expr>, FilterError> {
        let mut items = Vec::new();
        while !self.accept(close) {
            let (start, span) = (self.at, self.span());
            match self.literal()? {
                // An item that is a literal alone is not counted as a node.
                Some(value) if close == "]" && (self.sees(",") || self.sees("]")) => {
                    let span = span.to(self.previous_span());
                    items.push(Expr {
                        kind: ExprKind::Literal(value),
                        span,
                        height: 1,
                    });
                }
                _ => {
                    // More follows the literal, such as in `1 + 2`: read again as an expression.
                    self.at = start;
                    items.push(self.expression()?);
                }
            }

            if !self.accept(",") && !self.sees(close) {
                return Err(self.unexpected(&format!("\",\" or \"{close}\"")));
            }
        }

        Ok(items)
    }

    fn map_literal(&mut self, span: Span) -> Parsed {
        let mut entries = Vec::new();
        let mut below = 0;
        while !self.accept("}") {
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            below = below.max(key.height).max(value.height);
            entries.push((key, value));
            if !self.accept(",") && !self.sees("}") {
                return Err(self.unexpected("\",\" or \"}\""));
            }
        }

        self.node(ExprKind::Map(entries), span.to(self.previous_span()), below)
    }
}

fn tallest(exprs: &[Expr]) -> usize {
    exprs.iter().map(|expr| expr.height).max().unwrap_or(0)
}
