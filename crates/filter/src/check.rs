//! Names and functions resolved: what CEL leaves to run time, but no connection could decide, is refused here.

#[cfg(test)]
mod tests;

use smol_str::SmolStr;

use super::{
    ast::{Binary, Expr, ExprKind, Macro},
    attributes::ConnectionField,
    error::{FilterError, FilterErrorKind, Span, suggestion},
    functions::{Function, SIGNATURES, unknown_function},
    layout::{Map, MapKey},
    pattern::Allowance,
    resolved::{Node, NodeKind, PatternUse, Root},
    value::Value,
};

/// Variables by their names.
pub(super) const VARIABLES: [&str; 6] = [
    "auth",
    "user",
    "connection",
    "profile",
    "channels",
    "params",
];

/// What other languages call the constants, in any case of letters.
const OTHER_CONSTANTS: [(&str, &str); 6] = [
    ("true", "true"),
    ("false", "false"),
    ("null", "null"),
    ("none", "null"),
    ("nil", "null"),
    ("undefined", "null"),
];

/// A param that a filter names.
#[derive(Clone, Debug)]
pub(super) struct ParamUse {
    pub(super) name: SmolStr,
    pub(super) span: Span,
    /// Used as the pattern of `matches`.
    pub(super) pattern: bool,
    /// Used as the list of `in`.
    pub(super) searched: bool,
}

/// A checked expression and what it asks of its params.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) root: Node,
    pub(super) params: Vec<ParamUse>,
    /// What is left for patterns that are params.
    pub(super) allowance: Allowance,
}

/// Resolves an expression; `variables` are declared beside those of the filter language.
pub(super) fn check(expr: &Expr, variables: &[SmolStr]) -> Result<Checked, FilterError> {
    let mut checker = Checker {
        variables,
        scopes: Vec::new(),
        params: Vec::new(),
        allowance: Allowance::default(),
    };
    let root = checker.node(expr)?;
    Ok(Checked {
        root,
        params: checker.params,
        allowance: checker.allowance,
    })
}

/// Refuses an expression that gives a bool for nobody.
pub(super) fn require_bool(root: &Node) -> Result<(), FilterError> {
    let Some(what) = never_bool(root) else {
        return Ok(());
    };
    let message = format!("a filter must be true or false; this is {what}");
    Err(FilterError::new(
        FilterErrorKind::NotBoolean,
        root.span,
        message,
    ))
}

fn never_bool(node: &Node) -> Option<&'static str> {
    use Function::{Double, Int, LowerAscii, Size, String, UpperAscii};
    Some(match &node.kind {
        NodeKind::Constant(value) => match value {
            Value::Bool(_) => return None,
            Value::Null => "null",
            Value::Int(_) | Value::Double(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        },

        NodeKind::Negate(_)
        | NodeKind::Binary(
            Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder,
            ..,
        ) => "a number",
        NodeKind::List(_)
        | NodeKind::Root(Root::Channels)
        | NodeKind::Macro {
            kind: Macro::Map | Macro::Filter,
            ..
        } => "a list",

        NodeKind::Map(_) | NodeKind::Connection => "a map",
        NodeKind::Root(Root::User) => "a string or null",
        NodeKind::Root(Root::Auth | Root::Profile) => "a map or null",
        NodeKind::ConnectionField(ConnectionField::ConnectedAt) | NodeKind::Call(Size | Int, _) => {
            "an int"
        }

        NodeKind::Call(Double, _) => "a double",
        NodeKind::ConnectionField(_) | NodeKind::Call(LowerAscii | UpperAscii | String, _) => {
            "a string"
        }

        NodeKind::Binary(Binary::Add, ..) => "a number, a string or a list",
        NodeKind::Conditional(_, yes, no) => {
            return never_bool(yes).and_then(|what| never_bool(no).map(|_| what));
        }
        _ => return None,
    })
}

struct Checker<'v> {
    variables: &'v [SmolStr],
    scopes: Vec<String>,
    params: Vec<ParamUse>,
    allowance: Allowance,
}

impl Checker<'_> {
    fn nodes(&mut self, exprs: &[Expr]) -> Result<Vec<Node>, FilterError> {
        exprs.iter().map(|expr| self.node(expr)).collect()
    }

    fn boxed(&mut self, expr: &Expr) -> Result<Box<Node>, FilterError> {
        self.node(expr).map(Box::new)
    }

    fn node(&mut self, expr: &Expr) -> Result<Node, FilterError> {
        let kind = match &expr.kind {
            ExprKind::Literal(value) => NodeKind::Constant(value.clone()),
            ExprKind::Name(name) => self.name(name, expr.span)?,
            ExprKind::Select { from, key } => self.select(from, key, expr.span)?,
            ExprKind::Has { from, key } => self.has(from, key, expr.span)?,
            ExprKind::Index { from, index } => match &index.kind {
                ExprKind::Literal(Value::String(key)) => self.select(from, key, expr.span)?,
                // Params are resolved to places here, so their names must be in the text.
                _ if self.is_params(from) => return Err(bad_params(expr.span)),
                _ => NodeKind::Index(self.boxed(from)?, self.boxed(index)?),
            },
            ExprKind::Call {
                receiver,
                function,
                at,
                arguments,
            } => self.call(receiver.as_deref(), function, *at, arguments)?,
            ExprKind::Macro {
                kind,
                range,
                variable,
                condition,
                body,
            } => {
                let range = self.boxed(range)?;
                let (condition, body) = self.scoped(variable, condition.as_deref(), body)?;
                NodeKind::Macro {
                    kind: *kind,
                    range,
                    condition,
                    body,
                }
            }
            ExprKind::List(items) => list(self.nodes(items)?),
            ExprKind::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((self.node(key)?, self.node(value)?)));
                map(entries.collect::<Result<_, FilterError>>()?)
            }
            ExprKind::Not(operand) => NodeKind::Not(self.boxed(operand)?),
            ExprKind::Negate(operand) => NodeKind::Negate(self.boxed(operand)?),
            ExprKind::Binary {
                operator,
                left,
                right,
            } => {
                let (left, right) = self.operands(*operator, left, right)?;
                if let (Binary::In, NodeKind::Param(slot)) = (operator, &right.kind) {
                    self.params[*slot].searched = true;
                }
                NodeKind::Binary(*operator, left, right)
            }
            ExprKind::And(operands) => NodeKind::And(self.nodes(operands)?),
            ExprKind::Or(operands) => NodeKind::Or(self.nodes(operands)?),
            ExprKind::Conditional { condition, yes, no } => {
                NodeKind::Conditional(self.boxed(condition)?, self.boxed(yes)?, self.boxed(no)?)
            }
        };

        Ok(Node {
            kind,
            span: expr.span,
        })
    }

    /// The condition and the body of a macro, in which `variable` is the innermost name.
    fn scoped(
        &mut self,
        variable: &str,
        condition: Option<&Expr>,
        body: &Expr,
    ) -> Result<(Option<Box<Node>>, Box<Node>), FilterError> {
        self.scopes.push(variable.to_owned());
        let condition = condition.map(|condition| self.boxed(condition)).transpose();
        let body = self.boxed(body);
        // Also after an error: its hint is looked for in the scopes that are left.
        self.scopes.pop();
        Ok((condition?, body?))
    }

    fn name(&self, name: &str, span: Span) -> Result<NodeKind, FilterError> {
        // From the innermost, which hides the others.
        if let Some(depth) = self.scopes.iter().rev().position(|scope| scope == name) {
            return Ok(NodeKind::Local(depth));
        }

        if let Some(at) = self
            .variables
            .iter()
            .position(|variable| &**variable == name)
        {
            return Ok(NodeKind::Variable(at));
        }

        Ok(match name {
            "auth" => NodeKind::Root(Root::Auth),
            "user" => NodeKind::Root(Root::User),
            "profile" => NodeKind::Root(Root::Profile),
            "channels" => NodeKind::Root(Root::Channels),
            "connection" => NodeKind::Connection,
            "params" => return Err(bad_params(span)),

            _ => {
                let hint = match self.near(name) {
                    near if near.is_empty() => format!("; a claim of the token is auth.{name}"),
                    near => near,
                };
                return Err(undeclared(name, span, &hint));
            }
        })
    }

    /// The variable or the constant that was probably meant by `name`, as the end of a message.
    fn near(&self, name: &str) -> String {
        let is = |(other, _): &&(&str, &str)| other.eq_ignore_ascii_case(name);
        if let Some((_, constant)) = OTHER_CONSTANTS.iter().find(is) {
            return format!("; did you mean \"{constant}\"?");
        }
        let known = VARIABLES
            .into_iter()
            .chain(self.scopes.iter().map(String::as_str));
        suggestion(name, known)
    }

    /// Both sides of an operator. A name that is not declared, and is compared with a member, was meant to be a text.
    fn operands(
        &mut self,
        operator: Binary,
        left: &Expr,
        right: &Expr,
    ) -> Result<(Box<Node>, Box<Node>), FilterError> {
        let (item, place) = match operator {
            Binary::Equal | Binary::NotEqual => (right, left),
            Binary::In => (left, right),
            _ => return Ok((self.boxed(left)?, self.boxed(right)?)),
        };

        let is_member =
            matches!(&place.kind, ExprKind::Select { from, .. } if !self.is_params(from));
        let is_text = is_member || VARIABLES.iter().any(|name| self.is_variable(place, name));
        let both = self
            .boxed(left)
            .and_then(|left| Ok((left, self.boxed(right)?)));

        both.map_err(|error| match &item.kind {
            ExprKind::Name(name)
                if is_text
                    && error.kind == FilterErrorKind::UndeclaredName
                    && error.span == item.span
                    && self.near(name).is_empty() =>
            {
                undeclared(
                    name,
                    item.span,
                    &format!("; a text is in quotes: \"{name}\""),
                )
            }

            _ => error,
        })
    }

    /// Whether the expression is the variable `name` of the language, not one that hides it.
    fn is_variable(&self, expr: &Expr, name: &str) -> bool {
        matches!(&expr.kind, ExprKind::Name(have) if have == name)
            && !self.scopes.iter().any(|scope| scope == name)
            && !self.variables.iter().any(|variable| &**variable == name)
    }

    fn is_params(&self, expr: &Expr) -> bool {
        self.is_variable(expr, "params")
    }

    fn select(&mut self, from: &Expr, key: &str, span: Span) -> Result<NodeKind, FilterError> {
        if self.is_params(from) {
            return Ok(NodeKind::Param(self.param(key, span)));
        }
        if self.is_variable(from, "connection") {
            return fact(key, span).map(NodeKind::ConnectionField);
        }
        Ok(NodeKind::Select(self.holder(from, key)?, key.into()))
    }

    /// What a member `key` is selected from.
    fn holder(&mut self, from: &Expr, key: &str) -> Result<Box<Node>, FilterError> {
        self.boxed(from).map_err(|error| match &from.kind {
            // `token.tenant`
            ExprKind::Name(name)
                if error.kind == FilterErrorKind::UndeclaredName && self.near(name).is_empty() =>
            {
                let hint = if is_name(key) {
                    format!("; a claim of the token is auth.{key}")
                } else {
                    "; claims of the token are in auth".to_owned()
                };
                undeclared(name, from.span, &hint)
            }

            _ => error,
        })
    }

    fn has(&mut self, from: &Expr, key: &str, span: Span) -> Result<NodeKind, FilterError> {
        if self.is_params(from) {
            let message =
                "every param that a filter names must be bound, so has() would always be true";
            return Err(FilterError::new(FilterErrorKind::BadParams, span, message));
        }

        if self.is_variable(from, "connection") {
            // Each member of `connection` is there, so has() asks whether it is null.
            let fact = Node {
                kind: NodeKind::ConnectionField(fact(key, span)?),
                span,
            };
            let null = Node {
                kind: NodeKind::Constant(Value::Null),
                span,
            };
            return Ok(NodeKind::Binary(Binary::NotEqual, fact.into(), null.into()));
        }

        Ok(NodeKind::Has(self.holder(from, key)?, key.into()))
    }

    fn param(&mut self, name: &str, span: Span) -> usize {
        // A param has one place, however often it is named.
        if let Some(slot) = self.params.iter().position(|param| &*param.name == name) {
            return slot;
        }
        self.params.push(ParamUse {
            name: name.into(),
            span,
            pattern: false,
            searched: false,
        });
        self.params.len() - 1
    }

    fn call(
        &mut self,
        receiver: Option<&Expr>,
        name: &str,
        at: Span,
        arguments: &[Expr],
    ) -> Result<NodeKind, FilterError> {
        let Some(signature) = SIGNATURES.iter().find(|signature| signature.name == name) else {
            return Err(unknown_function(name, receiver, arguments, at));
        };

        let wanted = if receiver.is_some() {
            signature.method
        } else {
            signature.plain
        };

        if wanted != Some(arguments.len()) {
            let message = format!("{name} is written {}", signature.usage);
            return Err(FilterError::new(
                FilterErrorKind::WrongArguments,
                at,
                message,
            ));
        }

        let all: Vec<&Expr> = receiver.into_iter().chain(arguments).collect();
        if let Some(function) = signature.function {
            let operands = all
                .into_iter()
                .map(|expr| self.node(expr))
                .collect::<Result<_, _>>()?;
            return Ok(NodeKind::Call(function, operands));
        }

        // Only `matches` is left. Its pattern is compiled here, and not for each connection.
        let [text, pattern] = all[..] else {
            return Err(unknown_function(name, receiver, arguments, at));
        };

        let text = self.boxed(text)?;
        let pattern_node = self.node(pattern)?;
        match pattern_node.kind {
            NodeKind::Constant(Value::String(source)) => {
                let compiled = self.allowance.compile(&source, pattern.span)?;
                Ok(NodeKind::Matches(text, PatternUse::Literal(compiled)))
            }
            NodeKind::Param(slot) => {
                // A bad pattern is reported where it is used as one.
                self.params[slot].pattern = true;
                self.params[slot].span = pattern.span;
                Ok(NodeKind::Matches(text, PatternUse::Param(slot)))
            }
            _ => {
                let message = "the pattern must be a string literal or a param";
                Err(FilterError::new(
                    FilterErrorKind::BadRegex,
                    pattern.span,
                    message,
                ))
            }
        }
    }
}

fn bad_params(span: Span) -> FilterError {
    let message = "params are used by name: params.name or params[\"name\"]";
    FilterError::new(FilterErrorKind::BadParams, span, message)
}

fn fact(name: &str, span: Span) -> Result<ConnectionField, FilterError> {
    ConnectionField::named(name).ok_or_else(|| {
        let near = suggestion(name, ConnectionField::ALL.iter().map(|(known, _)| *known));
        let message = format!("connection has no \"{name}\"{near}");
        FilterError::new(FilterErrorKind::UndeclaredName, span, message)
    })
}

fn undeclared(name: &str, span: Span, hint: &str) -> FilterError {
    let message = format!("unknown variable \"{name}\"{hint}");
    FilterError::new(FilterErrorKind::UndeclaredName, span, message)
}

/// Whether `key` can be written after a dot.
fn is_name(key: &str) -> bool {
    key.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && !key.is_empty()
}

/// A list of constants is a constant.
fn list(items: Vec<Node>) -> NodeKind {
    let constants: Option<Vec<Value>> = items.iter().map(|item| item.constant().cloned()).collect();
    constants.map_or(NodeKind::List(items), |values| {
        NodeKind::Constant(values.into())
    })
}

/// A map of constants is a constant, unless its keys make it an error, which is for run time.
fn map(entries: Vec<(Node, Node)>) -> NodeKind {
    let constant = |(key, value): &(Node, Node)| match (key.constant()?, value.constant()?) {
        // CEL allows no double as a key of a map literal.
        (Value::Double(_), _) => None,
        (key, value) => Some((MapKey::from_value(key)?, value.clone())),
    };

    let Some(members) = entries.iter().map(constant).collect::<Option<Vec<_>>>() else {
        return NodeKind::Map(entries);
    };

    let map = Map::new(members, None);
    if map.len() < entries.len() {
        NodeKind::Map(entries)
    } else {
        NodeKind::Constant(Value::Map(map))
    }
}
