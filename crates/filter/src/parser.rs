//! Tokens to a syntax tree (CEL specification, "Syntax"), within the bounds of `limits`.
//!
//! Recursion ends at `limits::FILTER_DEPTH`, whatever the text; chains of `!`, `&&` and `||` take no recursion.

mod cursor;
mod operands;
#[cfg(test)]
mod tests;

use super::{
    ast::{Binary, Expr, ExprKind},
    error::{FilterError, FilterErrorKind, Span},
    lexer::{Token, TokenKind, tokens},
};
use crate::limits;

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
}
