//! Tokens to a syntax tree (CEL specification, "Syntax"), within the bounds of `limits`.
//!
//! Recursion ends at `limits::FILTER_DEPTH`, whatever the text; chains of `!`, `&&` and `||` take no recursion.

use super::{
    ast::{Binary, Expr, ExprKind, Macro},
    error::{FilterError, FilterErrorKind, Span},
    lexer::{Token, TokenKind, tokens},
    value::Value,
};
use crate::limits;

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

/// Reads one expression.
pub(super) fn parse(source: &str) -> Result<Expr, FilterError> {
    // Before the lexer, whose work grows with the text.
    if source.len() > limits::FILTER_BYTES {
        let span = Span::new(
            source.floor_char_boundary(limits::FILTER_BYTES),
            source.len(),
        );
        let message = format!(
            "{} bytes of text; at most {} are allowed. Long lists of values belong in params",
            source.len(),
            limits::FILTER_BYTES
        );
        return Err(FilterError::new(FilterErrorKind::TooLong, span, message));
    }

    let tokens = tokens(source)?;
    if matches!(
        tokens[..],
        [Token {
            kind: TokenKind::End,
            ..
        }]
    ) {
        let message = "the filter is empty; leave \"filter\" out to reach everyone";
        let span = Span::new(source.len(), source.len());
        return Err(FilterError::new(FilterErrorKind::Syntax, span, message));
    }

    let mut parser = Parser {
        tokens,
        at: 0,
        nodes: 0,
        depth: 0,
    };

    let expr = parser.expression()?;
    match parser.peek() {
        TokenKind::End => Ok(expr),
        _ => Err(parser.unexpected("the end or an operator")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nodes: usize,
    depth: usize,
}

type Parsed = Result<Expr, FilterError>;

impl Parser {
    fn token(&self) -> &Token {
        // The last token is `End`, and nothing steps over it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &TokenKind {
        &self.token().kind
    }

    fn peek_second(&self) -> &TokenKind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn span(&self) -> Span {
        self.token().span
    }

    fn previous_span(&self) -> Span {
        self.tokens[self.at.saturating_sub(1)].span
    }

    fn sees(&self, symbol: &str) -> bool {
        matches!(self.peek(), TokenKind::Symbol(have) if *have == symbol)
    }

    fn accept(&mut self, symbol: &str) -> bool {
        let sees = self.sees(symbol);
        self.at += usize::from(sees);
        sees
    }

    fn expect(&mut self, symbol: &str) -> Result<(), FilterError> {
        if self.accept(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("\"{symbol}\"")))
        }
    }

    fn unexpected(&self, wanted: &str) -> FilterError {
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

    /// Counts a node and bounds the tree. `below` is the height of what is under it.
    fn node(&mut self, kind: ExprKind, span: Span, below: usize) -> Parsed {
        self.nodes += 1;
        if self.nodes > limits::FILTER_NODES {
            let message = format!("more than {} nodes", limits::FILTER_NODES);
            return Err(FilterError::new(FilterErrorKind::TooLarge, span, message));
        }
        if below >= limits::FILTER_DEPTH {
            return Err(FilterError::too_deep(span));
        }

        Ok(Expr {
            kind,
            span,
            height: below + 1,
        })
    }

    fn expression(&mut self) -> Parsed {
        // `node` bounds the height when the recursion is over. This bounds the recursion itself.
        if self.depth >= limits::FILTER_DEPTH {
            return Err(FilterError::too_deep(self.span()));
        }
        self.depth += 1;
        let expr = self.conditional();
        self.depth -= 1;
        expr
    }

    fn conditional(&mut self) -> Parsed {
        let condition = self.chain("||", ExprKind::Or, Self::conjunction)?;
        if !self.accept("?") {
            return Ok(condition);
        }

        // As in CEL, a conditional in this place needs brackets.
        let yes = self.chain("||", ExprKind::Or, Self::conjunction)?;
        self.expect(":")?;
        let no = self.expression()?;
        let span = condition.span.to(no.span);
        let below = condition.height.max(yes.height).max(no.height);

        let kind = ExprKind::Conditional {
            condition: condition.into(),
            yes: yes.into(),
            no: no.into(),
        };

        self.node(kind, span, below)
    }

    fn conjunction(&mut self) -> Parsed {
        self.chain("&&", ExprKind::And, Self::relation)
    }

    fn chain(
        &mut self,
        symbol: &str,
        join: fn(Vec<Expr>) -> ExprKind,
        operand: fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let first = operand(self)?;
        if !self.sees(symbol) {
            return Ok(first);
        }

        let mut operands = vec![first];
        while self.accept(symbol) {
            operands.push(operand(self)?);
        }

        let span = operands[0].span.to(self.previous_span());
        let below = operands
            .iter()
            .map(|operand| operand.height)
            .max()
            .unwrap_or(0);

        self.node(join(operands), span, below)
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let operator = match self.peek() {
                TokenKind::Symbol("==") => Binary::Equal,
                TokenKind::Symbol("!=") => Binary::NotEqual,
                TokenKind::Symbol("<") => Binary::Less,
                TokenKind::Symbol("<=") => Binary::LessEqual,
                TokenKind::Symbol(">") => Binary::Greater,
                TokenKind::Symbol(">=") => Binary::GreaterEqual,
                TokenKind::Name(name) if name == "in" => Binary::In,
                _ => return Ok(left),
            };

            self.at += 1;
            let right = self.sum()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                TokenKind::Symbol("+") => Binary::Add,
                TokenKind::Symbol("-") => Binary::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let operator = match self.peek() {
                TokenKind::Symbol("*") => Binary::Multiply,
                TokenKind::Symbol("/") => Binary::Divide,
                TokenKind::Symbol("%") => Binary::Remainder,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.unary()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn binary(&mut self, operator: Binary, left: Expr, right: Expr) -> Parsed {
        let span = left.span.to(self.previous_span());
        let below = left.height.max(right.height);
        self.node(
            ExprKind::Binary {
                operator,
                left: left.into(),
                right: right.into(),
            },
            span,
            below,
        )
    }

    fn unary(&mut self) -> Parsed {
        let mut operators: Vec<(Span, bool)> = Vec::new();
        loop {
            let span = self.span();
            let number = matches!(self.peek_second(), TokenKind::Int(_) | TokenKind::Double(_));
            // The sign belongs to the literal: the magnitude of the least int does not fit an int.
            if self.sees("-") && number {
                break;
            }

            if self.accept("!") {
                operators.push((span, true));
            } else if self.accept("-") {
                operators.push((span, false));
            } else {
                break;
            }
        }

        let mut expr = self.member()?;
        let end = self.previous_span();
        // The operator next to the operand is the innermost.
        for (span, not) in operators.into_iter().rev() {
            let below = expr.height;
            let kind = if not {
                ExprKind::Not(expr.into())
            } else {
                ExprKind::Negate(expr.into())
            };
            expr = self.node(kind, span.to(end), below)?;
        }

        Ok(expr)
    }

    fn member(&mut self) -> Parsed {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(source: &str) -> String {
        parse(source)
            .unwrap_or_else(|e| panic!("{source}: {e}\n{}", e.excerpt(source)))
            .to_string()
    }

    fn refused(source: &str) -> (&'static str, String, String) {
        let error = parse(source).map(|e| e.to_string()).unwrap_err();
        (
            error.code(),
            error.span.of(source).to_owned(),
            error.message,
        )
    }

    #[test]
    fn operators_bind_as_in_cel() {
        assert_eq!(
            printed("a || b && c == d + e * -f"),
            "(a || (b && (c == (d + (e * (-f))))))"
        );
        assert_eq!(printed("a ? b : c ? d : e"), "(a ? b : (c ? d : e))");
        assert_eq!(printed("a - b - c"), "((a - b) - c)");
        assert_eq!(
            printed("!a.b[0].c(1, x) in [1, 2,]"),
            "((!a.b[0].c(1, x)) in [1, 2])"
        );
        assert_eq!(
            printed("a.map(x, x > 1, {'k': -1})"),
            r#"a.map(x, (x > 1), {"k": (-1)})"#
        );
        assert_eq!(printed("-9223372036854775808"), "(-9223372036854775808)");
        assert_eq!(printed("--1"), "(-((-1)))");
        assert_eq!(printed("has(a.as)"), "has(a.as)");
    }

    #[test]
    fn mistakes_are_named_and_placed() {
        let syntax = |at: &str, message: &str| ("filter_syntax", at.to_owned(), message.to_owned());
        assert_eq!(
            refused("a =="),
            syntax("", "expected a value, found the end")
        );
        assert_eq!(
            refused("a and b"),
            syntax(
                "and",
                "expected the end or an operator, found \"and\"; and is \"&&\""
            )
        );
        assert_eq!(
            refused("[1 2]"),
            syntax("2", "expected \",\" or \"]\", found a number")
        );
        assert_eq!(
            refused("a.in"),
            syntax("in", "\"in\" is a keyword; write [\"in\"]")
        );
        assert_eq!(
            refused("while"),
            syntax("while", "\"while\" is a reserved word")
        );
        assert_eq!(refused("a.all(b.c, true)").1, "b.c");
        assert_eq!(refused("a.all(b)").0, "wrong_arguments");
        assert_eq!(refused("has(a)").0, "wrong_arguments");
        assert_eq!(refused("Foo{a: 1}").0, "filter_unsupported");
        assert_eq!(refused("9223372036854775808").0, "filter_syntax");
        assert_eq!(refused(")").0, "filter_syntax");
        let empty = "the filter is empty; leave \"filter\" out to reach everyone";
        for source in ["", " \n", "// nothing"] {
            assert_eq!(refused(source), syntax("", empty));
        }
    }

    #[test]
    fn what_other_languages_write_is_told_what_it_is_here() {
        for (source, at, hint) in [
            ("not user", "not", "not is \"!\""),
            ("NOT (user == 'a')", "NOT", "not is \"!\""),
            ("a == b && not has(c)", "not", "not is \"!\""),
            ("a not in b", "not", "write !(item in list)"),
            ("a OR b", "OR", "or is \"||\""),
            ("a is 'b'", "is", "did you mean \"==\"?"),
            ("a IN b", "IN", "did you mean \"in\"?"),
            (
                "a contains 'b'",
                "contains",
                "write item in list, or text.contains(part)",
            ),
            ("a LIKE 'b%'", "LIKE", "write text.startsWith(prefix)"),
            ("a <> b", "<>", "did you mean \"!=\"?"),
            ("a === b", "===", "did you mean \"==\"?"),
            ("a !== b", "!==", "did you mean \"!=\"?"),
            ("a =~ 'b'", "=~", "did you mean text.matches(pattern)?"),
            ("a = b", "=", "did you mean \"==\"?"),
            (
                "auth?.tenant == 'b'",
                "?.",
                "a member that is missing is null",
            ),
            ("(a ?? b) == c", "??", "a member that is missing is null"),
            ("a == $t", "$", "a param is written params.name"),
        ] {
            let (code, span, message) = refused(source);
            assert_eq!((code, &*span), ("filter_syntax", at), "{source}: {message}");
            assert!(message.contains(hint), "{source}: {message}");
        }
        // These are good CEL.
        for source in ["a ?.5 : b", "not in b", "not == 1", "a<b", "!a", "a!=b"] {
            assert!(parse(source).is_ok(), "{source}");
        }
    }

    #[test]
    fn every_bound_refuses() {
        let repeat = |part: &str, n: usize| part.repeat(n);
        assert_eq!(refused(&repeat("a ", 3000)).0, "filter_too_long");
        for deep in [
            format!("{}a{}", repeat("(", 65), repeat(")", 65)),
            format!("{}a{}", repeat("[", 65), repeat("]", 65)),
            format!("{}a", repeat("!", 64)),
            format!("{}a", repeat("-", 200)),
            format!("a{}", repeat(".b", 64)),
            format!("a{}", repeat("+a", 64)),
            format!("{}a", repeat("a ? a : ", 65)),
            format!("{}a{}", repeat("a[", 65), repeat("]", 65)),
        ] {
            assert_eq!(refused(&deep).0, "filter_too_deep", "{deep}");
        }
        assert!(parse(&format!("{}a", repeat("!", 63))).is_ok());
        assert!(parse(&format!("{}a", repeat("a || ", 200))).is_ok());
        assert_eq!(
            refused(&format!("{}a", repeat("a||", 256))).0,
            "filter_too_large"
        );
        assert!(parse(&format!("a in [{}]", repeat("1,", 1024))).is_ok());
        assert_eq!(
            refused(&format!("a in [{}]", repeat("1,", 1025))).0,
            "filter_list_too_long"
        );
        assert!(parse(&format!("a in [{}]", repeat("-1,", 1000))).is_ok());
    }

    #[test]
    fn what_is_printed_reads_as_the_same() {
        for source in [
            "a || b && (c || d) && e",
            "-(-1.5e300) - -2",
            "'\\u0001\\'\"'.size()",
            "(a && b) && c",
            "- - a",
        ] {
            let once = printed(source);
            assert_eq!(printed(&once), once);
        }
    }
}
