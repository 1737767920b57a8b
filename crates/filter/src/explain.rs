//! What a filter's author may want to know: the values of its parts, and what it may not mean.

use std::fmt;

use super::{
    ast::Binary,
    attributes::ConnectionField,
    error::{EvalError, Span},
    index::path_of,
    resolved::{Node, NodeKind, Root},
    runtime::Param,
    value::Value,
};

/// One sub-expression and its value for one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Where it is.
    pub span: Span,
    /// Its text.
    pub text: String,
    /// Its value.
    pub value: Result<Value, EvalError>,
    /// Of an operation that has no meaning, what it was given: `null >= int has no meaning`.
    pub detail: Option<String>,
}

/// Something that can be evaluated, but may not mean what it seems to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable, for programs: `client_controlled`, `null_equals_null` or `wrong_type`.
    pub code: &'static str,
    /// The sub-expression it is about.
    pub span: Span,
    /// For people.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Everything outside macros that is not a literal, each node before the nodes under it.
pub(super) fn sub_expressions(root: &Node) -> Vec<&Node> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        if node.kind.is_constant() {
            continue;
        }
        found.push(node);
        let children = match &node.kind {
            // The body and the condition have no value of their own: it differs from item to item.
            NodeKind::Macro { range, .. } => vec![&**range],
            _ => node.children(),
        };
        // The stack gives the last one first.
        open.extend(children.into_iter().rev());
    }

    found
}

/// Which operation `node` is, in the kinds of its operands, such as `null >= int`. `kind_of` evaluates one of them.
pub(super) fn operation<'n>(
    node: &'n Node,
    kind_of: impl Fn(&'n Node) -> Option<&'static str>,
) -> Option<String> {
    // A macro's body has no value outside of it.
    if matches!(node.kind, NodeKind::Macro { .. }) {
        return None;
    }

    let kinds: Option<Vec<_>> = node.children().into_iter().map(kind_of).collect();
    match (&node.kind, &kinds?[..]) {
        (NodeKind::Binary(operator, ..), [left, right]) => {
            Some(format!("{left} {} {right}", operator.symbol()))
        }
        (NodeKind::Negate(_), [operand]) => Some(format!("-{operand}")),
        (NodeKind::Index(..), [from, index]) => Some(format!("{from}[{index}]")),
        (NodeKind::Call(function, _), operands) => {
            Some(format!("{}({})", function.name(), operands.join(", ")))
        }
        (NodeKind::Matches(..), [text]) => Some(format!("{text}.matches(…)")),
        _ => None,
    }
}

/// The warnings of a filter with its params, in the order of the text.
pub(super) fn warnings(root: &Node, params: &[Param], source: &str) -> Vec<Warning> {
    let mut warnings = Vec::new();
    collect(root, params, source, &mut warnings);
    warnings.sort_by_key(|warning| (warning.span.offset, warning.code));
    warnings.dedup();
    warnings
}

fn collect(node: &Node, params: &[Param], source: &str, warnings: &mut Vec<Warning>) {
    let text = node.span.of(source);
    if let Some(what) = client_controlled(node) {
        let message = format!("{text}: the client chooses {what}, so anyone may match");
        warnings.push(Warning {
            code: "client_controlled",
            span: node.span,
            message,
        });
        // The nodes below are parts of the same path, and would say the same again.
        return;
    }

    if let NodeKind::Binary(operator @ (Binary::Equal | Binary::In), left, right) = &node.kind
        && let Some(why) = null_equals_null(*operator, left, right, params)
    {
        let message = format!("{text}: {why}, and null equals null");
        warnings.push(Warning {
            code: "null_equals_null",
            span: node.span,
            message,
        });
    }

    if let Some(why) = wrong_type(node) {
        warnings.push(Warning {
            code: "wrong_type",
            span: node.span,
            message: format!("{text}: {why}"),
        });
    }

    for child in node.children() {
        collect(child, params, source, warnings);
    }
}

fn client_controlled(node: &Node) -> Option<&'static str> {
    match &node.kind {
        NodeKind::ConnectionField(ConnectionField::Device) => Some("its device id"),
        _ => path_of(node)
            .filter(|(root, _)| *root == Root::Profile)
            .map(|_| "its profile"),
    }
}

/// Why a part of a filter has a value for nobody, whatever the claims are.
fn wrong_type(node: &Node) -> Option<&'static str> {
    match &node.kind {
        NodeKind::Binary(Binary::In, _, list) => match list.constant()? {
            Value::List(_) | Value::Map(_) => None,
            Value::String(_) => {
                Some("in looks in a list or a map, not in a text; write text.contains(part)")
            }
            _ => Some("in looks in a list or a map"),
        },
        NodeKind::Select(from, _) | NodeKind::Has(from, _) => match from.kind {
            NodeKind::Root(Root::User) => Some("user is the user's name, which has no members"),
            NodeKind::Root(Root::Channels) => {
                Some("channels is a list of names; write \"name\" in channels")
            }
            _ => None,
        },
        _ => None,
    }
}

/// Why both sides may be null, if they may.
fn null_equals_null(
    operator: Binary,
    left: &Node,
    right: &Node,
    params: &[Param],
) -> Option<&'static str> {
    let param = |node: &Node| match &node.kind {
        NodeKind::Param(slot) => params.get(*slot).map(|param| &param.value),
        _ => None,
    };

    if operator == Binary::In {
        let nulls = match &right.kind {
            NodeKind::Param(slot) => params.get(*slot).is_some_and(Param::has_null),
            _ => false,
        };
        return (nulls && may_be_absent(left))
            .then_some("the list holds null, and an absent attribute is null");
    }

    let null_param = |node: &Node| param(node).is_some_and(Value::is_null);
    if (null_param(left) && may_be_absent(right)) || (null_param(right) && may_be_absent(left)) {
        return Some("the param is null, and so is an absent attribute");
    }
    (may_be_absent(left) && may_be_absent(right)).then_some("both sides may be absent")
}

fn may_be_absent(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Root(Root::Channels) => false,
        NodeKind::Root(_)
        | NodeKind::Select(..)
        | NodeKind::ConnectionField(ConnectionField::Device) => true,
        NodeKind::Index(from, _) => !matches!(from.kind, NodeKind::Root(Root::Channels)),
        _ => false,
    }
}
