//! The syntax tree, as written: names are not resolved yet.

use std::fmt;

use super::{error::Span, value::Value};

/// One expression with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub(super) kind: ExprKind,
    pub(super) span: Span,
    /// Levels below and including this one; bounded by `limits::FILTER_DEPTH`.
    pub(super) height: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum ExprKind {
    Literal(Value),
    Name(String),
    Select {
        from: Box<Expr>,
        key: String,
    },
    Has {
        from: Box<Expr>,
        key: String,
    },
    Index {
        from: Box<Expr>,
        index: Box<Expr>,
    },
    Call {
        receiver: Option<Box<Expr>>,
        function: String,
        at: Span,
        arguments: Vec<Expr>,
    },
    Macro {
        kind: Macro,
        range: Box<Expr>,
        variable: String,
        condition: Option<Box<Expr>>,
        body: Box<Expr>,
    },
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary {
        operator: Binary,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// All operands of a chain, so that a long one is not deep.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Conditional {
        condition: Box<Expr>,
        yes: Box<Expr>,
        no: Box<Expr>,
    },
}

/// The macros that walk a list or the keys of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

impl Macro {
    pub(super) const NAMES: [(&'static str, Self); 5] = [
        ("all", Self::All),
        ("exists", Self::Exists),
        ("exists_one", Self::ExistsOne),
        ("map", Self::Map),
        ("filter", Self::Filter),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(have, _)| *have == name)
            .map(|(_, kind)| *kind)
    }

    pub(super) fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

impl fmt::Display for Expr {
    /// Writes the expression so that it parses to the same tree, with parentheses around every operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Literal(value) => write_literal(f, value),
            ExprKind::Name(name) => f.write_str(name),
            ExprKind::Select { from, key } => write!(f, "{from}.{key}"),
            ExprKind::Has { from, key } => write!(f, "has({from}.{key})"),
            ExprKind::Index { from, index } => write!(f, "{from}[{index}]"),
            ExprKind::Call {
                receiver,
                function,
                arguments,
                ..
            } => {
                if let Some(receiver) = receiver {
                    write!(f, "{receiver}.")?;
                }
                write!(f, "{function}(")?;
                write_joined(f, arguments, ", ")?;
                f.write_str(")")
            }
            ExprKind::Macro {
                kind,
                range,
                variable,
                condition,
                body,
            } => {
                write!(f, "{range}.{}({variable}", kind.name())?;
                if let Some(condition) = condition {
                    write!(f, ", {condition}")?;
                }
                write!(f, ", {body})")
            }
            ExprKind::List(items) => {
                f.write_str("[")?;
                write_joined(f, items, ", ")?;
                f.write_str("]")
            }
            ExprKind::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            ExprKind::Not(operand) => write!(f, "(!{operand})"),
            // A space would not help: a minus before digits is part of the literal.
            ExprKind::Negate(operand) if matches!(operand.kind, ExprKind::Literal(_)) => {
                write!(f, "(-({operand}))")
            }
            ExprKind::Negate(operand) => write!(f, "(-{operand})"),
            ExprKind::Binary {
                operator,
                left,
                right,
            } => write!(f, "({left} {} {right})", operator.symbol()),
            ExprKind::And(operands) => write_chain(f, operands, " && "),
            ExprKind::Or(operands) => write_chain(f, operands, " || "),
            ExprKind::Conditional { condition, yes, no } => {
                write!(f, "({condition} ? {yes} : {no})")
            }
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, exprs: &[Expr], between: &str) -> fmt::Result {
    for (i, expr) in exprs.iter().enumerate() {
        write!(f, "{}{expr}", if i == 0 { "" } else { between })?;
    }
    Ok(())
}

fn write_chain(f: &mut fmt::Formatter<'_>, exprs: &[Expr], between: &str) -> fmt::Result {
    f.write_str("(")?;
    write_joined(f, exprs, between)?;
    f.write_str(")")
}

fn write_literal(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Bool(value) => write!(f, "{value}"),
        // The brackets keep a minus before it from being read as a part of it.
        Value::Int(value) if *value < 0 => write!(f, "({value})"),
        Value::Int(value) => write!(f, "{value}"),
        Value::Double(value) if value.is_sign_negative() => write!(f, "({value:e})"),
        // The exponent keeps it a double: without one, `3` would be read as an int.
        Value::Double(value) => write!(f, "{value:e}"),
        Value::String(text) => {
            f.write_str("\"")?;
            for c in text.chars() {
                match c {
                    '"' | '\\' => write!(f, "\\{c}")?,
                    c if c.is_control() => write!(f, "\\U{:08x}", c as u32)?,
                    c => write!(f, "{c}")?,
                }
            }
            f.write_str("\"")
        }
        // Lists and maps are not literals of the tree: they hold expressions.
        Value::Null | Value::List(_) | Value::Map(_) => f.write_str("null"),
    }
}
