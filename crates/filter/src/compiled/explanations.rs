//! The values of a filter's parts for one connection, for people who ask why it matches or not.

use super::Bound;
use crate::{
    attributes::Attributes,
    compiler::Compiler,
    error::{EvalError, EvalErrorKind},
    explain::{Explained, operation, sub_expressions},
    limits,
    resolved::Node,
    runtime::{Base, Operand},
    value::Value,
};

impl Bound {
    /// The value of every sub-expression outside macros for one connection, from left to right, the larger before
    /// the parts it has; literals are left out. Compiles each again, so it is for people, not for traffic.
    ///
    /// Each step of the iterator takes a few evaluations, so a caller on an event loop yields between two.
    #[inline]
    pub fn explain<'b>(&'b self, attributes: &'b Attributes) -> Explanations<'b> {
        Explanations {
            bound: self,
            attributes,
            nodes: sub_expressions(&self.filter.root),
            next: 0,
            bytes: limits::FILTER_WORK_BYTES,
        }
    }

    /// The value of one node outside macros, compiled for this alone.
    fn value_of(&self, node: &Node, attributes: &Attributes) -> Result<Value, EvalError> {
        // Closures give no access to their parts, so each part is compiled as an expression of its
        // own.
        let mut compiler = Compiler::default();
        let term = compiler.term(node);
        let base = Base::new(attributes.into(), &self.params, &compiler.constants, &[]);
        term(base.frame()).map(Operand::into_owned)
    }
}

/// The values of a filter's parts for one connection, one after another; see [`Bound::explain`].
#[derive(Debug)]
pub struct Explanations<'b> {
    bound: &'b Bound,
    attributes: &'b Attributes,
    nodes: Vec<&'b Node>,
    next: usize,
    /// What may still be shown: one budget for all parts, so that the answer is bounded.
    bytes: u32,
}

impl Iterator for Explanations<'_> {
    type Item = Explained;

    fn next(&mut self) -> Option<Explained> {
        let node = *self.nodes.get(self.next)?;
        self.next += 1;

        // A value that is shown is measured as if an evaluation had built it, within what is left for
        // all parts.
        let shown = self
            .bound
            .base(self.attributes.into(), &[])
            .with_bytes(self.bytes);
        let value = self
            .bound
            .value_of(node, self.attributes)
            .and_then(|value| shown.measure(&value, node.span).map(|()| value));
        self.bytes = shown.bytes_left();

        let detail = value.as_ref().err().and_then(|error| self.detail(*error));
        Some(Explained {
            span: node.span,
            text: node.span.of(&self.bound.filter.source).into(),
            value,
            detail,
        })
    }
}

impl Explanations<'_> {
    /// What the operation that has no meaning was given.
    fn detail(&self, error: EvalError) -> Option<String> {
        if error.kind != EvalErrorKind::NoOverload {
            return None;
        }
        let failed = self.nodes.iter().find(|node| node.span == error.span)?;
        let kind_of = |operand| Some(self.bound.value_of(operand, self.attributes).ok()?.kind());
        let operation = operation(failed, kind_of)?;
        Some(format!("{operation} has no meaning"))
    }
}
