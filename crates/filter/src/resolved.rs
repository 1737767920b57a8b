//! An expression with its names and functions resolved: the tree that is compiled, planned and explained.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    ast::{Binary, Macro},
    attributes::ConnectionField,
    error::Span,
    functions::Function,
    pattern::Pattern,
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
    /// `params.name`, by its place in [`Checked::params`](super::check::Checked::params).
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

impl NodeKind {
    pub(super) fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_))
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
