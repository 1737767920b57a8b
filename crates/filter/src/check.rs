//! Names and functions resolved: what CEL leaves to run time, but no connection could decide, is refused here.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    ast::{Binary, Expr, ExprKind, Macro},
    attributes::ConnectionField,
    error::{FilterError, FilterErrorKind, Span, suggestion},
    layout::{Map, MapKey},
    pattern::{Allowance, Pattern},
    value::Value,
};
use crate::limits;

/// A resolved expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) span: Span,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Constant(Value),
    Root(Root),
    Connection,
    ConnectionField(ConnectionField),
    /// `params.name`, by its place in [`Checked::params`].
    Param(usize),
    /// A macro's variable: 0 is the innermost.
    Local(usize),
    /// A variable of the schema.
    Variable(usize),
    Select(Box<Node>, SmolStr),
    Has(Box<Node>, SmolStr),
    Index(Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, PatternUse),
    Macro {
        kind: Macro,
        range: Box<Node>,
        condition: Option<Box<Node>>,
        body: Box<Node>,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Conditional(Box<Node>, Box<Node>, Box<Node>),
}

/// A variable that is held as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Auth,
    User,
    Profile,
    Channels,
}

/// The pattern of a `matches`.
#[derive(Clone, Debug)]
pub(super) enum PatternUse {
    Literal(Arc<Pattern>),
    Param(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
    Int,
    Double,
    String,
}

impl Function {
    /// Its name in the language.
    pub(super) fn name(self) -> &'static str {
        let of = |signature: &&Signature| signature.function == Some(self);
        SIGNATURES
            .iter()
            .find(of)
            .map_or("", |signature| signature.name)
    }
}

/// How a function is written: arguments as a function, and as a method of a receiver.
struct Signature {
    name: &'static str,
    function: Option<Function>,
    plain: Option<usize>,
    method: Option<usize>,
    usage: &'static str,
}

const fn signature(
    name: &'static str,
    function: Option<Function>,
    plain: Option<usize>,
    method: Option<usize>,
    usage: &'static str,
) -> Signature {
    Signature {
        name,
        function,
        plain,
        method,
        usage,
    }
}

static SIGNATURES: [Signature; 10] = [
    signature(
        "size",
        Some(Function::Size),
        Some(1),
        Some(0),
        "size(x) or x.size()",
    ),
    signature(
        "startsWith",
        Some(Function::StartsWith),
        None,
        Some(1),
        "text.startsWith(prefix)",
    ),
    signature(
        "endsWith",
        Some(Function::EndsWith),
        None,
        Some(1),
        "text.endsWith(suffix)",
    ),
    signature(
        "contains",
        Some(Function::Contains),
        None,
        Some(1),
        "text.contains(part)",
    ),
    signature("matches", None, Some(2), Some(1), "text.matches(pattern)"),
    signature(
        "lowerAscii",
        Some(Function::LowerAscii),
        None,
        Some(0),
        "text.lowerAscii()",
    ),
    signature(
        "upperAscii",
        Some(Function::UpperAscii),
        None,
        Some(0),
        "text.upperAscii()",
    ),
    signature("int", Some(Function::Int), Some(1), None, "int(x)"),
    signature("double", Some(Function::Double), Some(1), None, "double(x)"),
    signature("string", Some(Function::String), Some(1), None, "string(x)"),
];

/// The names of functions and macros.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let functions = SIGNATURES.iter().map(|signature| signature.name);
    functions.chain(Macro::NAMES.iter().map(|(name, _)| *name))
}

/// Functions of CEL that have no meaning over JSON values.
const LEFT_OUT: [&str; 18] = [
    "uint",
    "bytes",
    "bool",
    "timestamp",
    "duration",
    "type",
    "dyn",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "proto",
];

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
                self.scopes.push(variable.clone());
                let condition = condition
                    .as_ref()
                    .map(|condition| self.boxed(condition))
                    .transpose();
                let body = self.boxed(body);
                // Also after an error: its hint is looked for in the scopes that are left.
                self.scopes.pop();
                NodeKind::Macro {
                    kind: *kind,
                    range,
                    condition: condition?,
                    body: body?,
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
    let message = format!("there is no variable \"{name}\"{hint}");
    FilterError::new(FilterErrorKind::UndeclaredName, span, message)
}

/// Whether `key` can be written after a dot.
fn is_name(key: &str) -> bool {
    key.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && !key.is_empty()
}

/// Most bytes of an expression that a hint repeats.
const HINT_BYTES: usize = 80;

/// What is written in place of a function of another language; nothing if it is not a usual one.
fn other_function(name: &str, receiver: Option<&Expr>, arguments: &[Expr]) -> Option<String> {
    let instead = match (name.to_ascii_lowercase().as_str(), receiver) {
        ("includes" | "indexof" | "has" | "containskey", Some(list)) => {
            let written = arguments.first().map(|item| format!("{item} in {list}"));
            let written = written.filter(|written| written.len() <= HINT_BYTES);
            return Some(format!(
                "write {}",
                written.as_deref().unwrap_or("item in list")
            ));
        }
        ("like" | "test" | "match" | "regex", _) => "matches",
        ("len" | "length" | "count", _) => "size",
        ("lower" | "tolower" | "tolowercase" | "lowercase", _) => "lowerAscii",
        ("upper" | "toupper" | "touppercase" | "uppercase", _) => "upperAscii",
        ("any" | "some", Some(_)) => "exists",
        ("every", Some(_)) => "all",
        ("number" | "parseint", None) => "int",
        ("tostring" | "str", _) => "string",
        _ => return None,
    };

    Some(format!("did you mean \"{instead}\"?"))
}

fn unknown_function(
    name: &str,
    receiver: Option<&Expr>,
    arguments: &[Expr],
    at: Span,
) -> FilterError {
    if LEFT_OUT.contains(&name) {
        let message = format!("{name}() is left out: values are those of JSON");
        return FilterError::new(FilterErrorKind::Unsupported, at, message);
    }

    let method = receiver.is_some();
    let macros = Macro::NAMES
        .iter()
        .filter(|_| method)
        .map(|(name, _)| *name);
    let plain = ["has"].into_iter().filter(|_| !method);

    let near = suggestion(
        name,
        SIGNATURES
            .iter()
            .map(|signature| signature.name)
            .chain(macros)
            .chain(plain),
    );

    // A word of another language says more than a name that only looks alike.
    let near = match other_function(name, receiver, arguments) {
        Some(hint) => format!("; {hint}"),
        None => near,
    };

    let what = if method { "method" } else { "function" };
    FilterError::new(
        FilterErrorKind::UnknownFunction,
        at,
        format!("there is no {what} {name}(){near}"),
    )
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

impl Node {
    pub(super) fn constant(&self) -> Option<&Value> {
        match &self.kind {
            NodeKind::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// The nodes right below this one.
    pub(super) fn children(&self) -> Vec<&Node> {
        match &self.kind {
            NodeKind::Select(a, _)
            | NodeKind::Has(a, _)
            | NodeKind::Matches(a, _)
            | NodeKind::Not(a)
            | NodeKind::Negate(a) => vec![a],
            NodeKind::Index(a, b) | NodeKind::Binary(_, a, b) => vec![a, b],
            NodeKind::Conditional(a, b, c) => vec![a, b, c],
            NodeKind::Call(_, items)
            | NodeKind::List(items)
            | NodeKind::And(items)
            | NodeKind::Or(items) => items.iter().collect(),
            NodeKind::Map(entries) => entries
                .iter()
                .flat_map(|(key, value)| [key, value])
                .collect(),
            NodeKind::Macro {
                range,
                condition,
                body,
                ..
            } => [Some(range), condition.as_ref(), Some(body)]
                .into_iter()
                .flatten()
                .map(|node| &**node)
                .collect(),
            NodeKind::Constant(_)
            | NodeKind::Root(_)
            | NodeKind::Connection
            | NodeKind::ConnectionField(_)
            | NodeKind::Param(_)
            | NodeKind::Local(_)
            | NodeKind::Variable(_) => Vec::new(),
        }
    }

    /// Whether evaluating this may take long, whatever the params are: a list is walked, a pattern searched for, a value
    /// built or converted. Plain comparisons of members do not.
    pub(super) fn is_heavy(&self) -> bool {
        let heavy = match &self.kind {
            NodeKind::Macro { .. }
            | NodeKind::Matches(..)
            | NodeKind::Connection
            | NodeKind::List(_)
            | NodeKind::Map(_)
            | NodeKind::Binary(Binary::Add, ..) => true,
            NodeKind::Call(function, _) => !matches!(
                function,
                Function::Size | Function::StartsWith | Function::EndsWith
            ),
            _ => false,
        };

        heavy || self.children().into_iter().any(Self::is_heavy)
    }

    /// The steps that evaluating this takes, except for what texts, lists and macros in it are charged by themselves.
    pub(super) fn steps(&self) -> u32 {
        let own = match &self.kind {
            // A long name is compared with others of its map.
            NodeKind::Select(_, key) | NodeKind::Has(_, key) => 1 + key.len() as u32 / 16,
            // A variable of an outer macro is found by going through those between.
            NodeKind::Local(depth) => 1 + *depth as u32 / 4,
            _ => 1,
        };
        own + self.children().into_iter().map(Self::steps).sum::<u32>()
    }

    /// About how many bytes this holds, with what is compiled from it.
    pub(super) fn bytes(&self) -> usize {
        let own = match &self.kind {
            NodeKind::Constant(value) => value.bytes(),
            NodeKind::Matches(_, PatternUse::Literal(pattern)) => pattern.bytes(),
            _ => 0,
        };
        let children = self.children().into_iter().map(Self::bytes);
        limits::FILTER_NODE_BYTES + own + children.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parser::parse, *};

    fn refused(source: &str) -> (&'static str, String, String) {
        let error = parse(source)
            .and_then(|expr| check(&expr, &[]))
            .and_then(|checked| require_bool(&checked.root));
        let error = error.unwrap_err();
        (
            error.code(),
            error.span.of(source).to_owned(),
            error.message,
        )
    }

    #[test]
    fn unknown_names_come_with_a_suggestion_also_beside_or() {
        let is =
            |code: &'static str, at: &str, message: &str| (code, at.to_owned(), message.to_owned());
        assert_eq!(
            refused("true || usr == 'a'"),
            is(
                "undeclared_name",
                "usr",
                "there is no variable \"usr\"; did you mean \"user\"?"
            )
        );
        assert_eq!(
            refused("connection.devise == 'a'"),
            is(
                "undeclared_name",
                "connection.devise",
                "connection has no \"devise\"; did you mean \"device\"?"
            )
        );
        assert_eq!(
            refused("true || user.startWith('a')"),
            is(
                "unknown_function",
                "startWith",
                "there is no method startWith(); did you mean \"startsWith\"?"
            )
        );
        assert_eq!(refused("channels.exist(c, true)").0, "unknown_function");
        assert_eq!(refused("x.exists(x, x)").0, "undeclared_name");
    }

    #[test]
    fn a_name_without_auth_or_without_quotes_is_told_so() {
        for (source, at, message) in [
            (
                "tenant == params.t",
                "tenant",
                "there is no variable \"tenant\"; a claim of the token is auth.tenant",
            ),
            (
                "params.t == tenant",
                "tenant",
                "there is no variable \"tenant\"; a claim of the token is auth.tenant",
            ),
            (
                "token.tenant == params.t",
                "token",
                "there is no variable \"token\"; a claim of the token is auth.tenant",
            ),
            (
                "claims['time zone'] == 'x'",
                "claims",
                "there is no variable \"claims\"; claims of the token are in auth",
            ),
            (
                "auth.tenant == acme",
                "acme",
                "there is no variable \"acme\"; a text is in quotes: \"acme\"",
            ),
            (
                "user != ann",
                "ann",
                "there is no variable \"ann\"; a text is in quotes: \"ann\"",
            ),
            (
                "admin in auth.roles",
                "admin",
                "there is no variable \"admin\"; a text is in quotes: \"admin\"",
            ),
            (
                "auth.vip == True",
                "True",
                "there is no variable \"True\"; did you mean \"true\"?",
            ),
            (
                "auth.vip != None",
                "None",
                "there is no variable \"None\"; did you mean \"null\"?",
            ),
        ] {
            let (code, span, said) = refused(source);
            assert_eq!(
                (code, &*span, &*said),
                ("undeclared_name", at, message),
                "{source}"
            );
        }
    }

    #[test]
    fn functions_of_other_languages_are_told_what_they_are_here() {
        for (source, hint) in [
            (
                "auth.roles.includes('admin')",
                "; write \"admin\" in auth.roles",
            ),
            ("len(channels) > 2", "; did you mean \"size\"?"),
            (
                "user.toLowerCase() == 'a'",
                "; did you mean \"lowerAscii\"?",
            ),
            ("channels.some(c, true)", "; did you mean \"exists\"?"),
            ("not(user == 'a')", "; not is \"!\""),
        ] {
            let (_, _, said) = refused(source);
            assert!(said.ends_with(hint), "{source}: {said}");
        }
        let long = format!("auth.{}.includes('a')", "x".repeat(2000));
        assert!(refused(&long).2.ends_with("; write item in list"));
    }

    #[test]
    fn functions_want_their_own_arguments() {
        for source in [
            "size()",
            "size(user, user)",
            "startsWith(user, 'a')",
            "user.startsWith()",
            "user.int()",
        ] {
            assert_eq!(refused(source).0, "wrong_arguments", "{source}");
        }
        for source in [
            "timestamp('x') < 1",
            "uint(1) == 1",
            "type(user) == 1",
            "user.getHours() == 1",
        ] {
            assert_eq!(refused(source).0, "filter_unsupported", "{source}");
        }
    }

    #[test]
    fn params_are_named_one_by_one() {
        for source in [
            "params == 1",
            "params[user]",
            "has(params.x)",
            "params.exists(p, true)",
            "user in params",
        ] {
            assert_eq!(refused(source).0, "bad_params", "{source}");
        }
        let expr = parse("params.a == params['b'] && params.a").unwrap();
        let names: Vec<_> = check(&expr, &[])
            .unwrap()
            .params
            .iter()
            .map(|param| param.name.to_string())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert!(check(&parse("[1].exists(params, params == 1)").unwrap(), &[]).is_ok());
    }

    #[test]
    fn what_is_never_a_bool_is_no_filter() {
        for source in [
            "1 + 1",
            "'x'",
            "user",
            "auth",
            "[1]",
            "channels.map(c, c)",
            "true ? 1 : 'a'",
            "-auth.x",
        ] {
            assert_eq!(refused(source).0, "not_boolean", "{source}");
        }
        for source in ["auth.x", "true ? auth.x : 1", "params.x", "channels[0]"] {
            let checked = check(&parse(source).unwrap(), &[]).unwrap();
            assert!(require_bool(&checked.root).is_ok(), "{source}");
        }
    }

    #[test]
    fn patterns_are_bounded_and_constant() {
        for source in [
            "user.matches(auth.p)",
            "user.matches('(')",
            "user.matches('(a{1000}){1000}')",
        ] {
            assert_eq!(refused(source).0, "bad_regex", "{source}");
        }
    }
}
