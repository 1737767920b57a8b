//! Checked expressions to closures.
//!
//! A test gives a truth value, a term any value. Common forms (a path compared with a literal or a param, membership,
//! text methods on a path) have closures of their own that build and clone nothing; everything else is composed of
//! the general ones.

mod access;
mod compare;
mod functions;
mod macros;

use super::{
    ast::{Binary, Macro},
    attributes::ConnectionInfo,
    error::{EvalError, EvalErrorKind, Span},
    resolved::{Node, NodeKind},
    runtime::{Frame, Operand, Tri},
    value::Value,
};
pub(super) use access::AttributePath;

/// A compiled truth value.
pub(super) type Test = Box<dyn for<'f> Fn(Frame<'f>) -> Tri + Send + Sync>;

/// A compiled value.
pub(super) type Term = Box<dyn for<'f> Fn(Frame<'f>) -> Evaluated<'f> + Send + Sync>;

/// What a term gives.
pub(super) type Evaluated<'f> = Result<Operand<'f>, EvalError>;

/// Boxes a closure as a test; the bound lets the compiler see its lifetimes.
fn test<F: for<'f> Fn(Frame<'f>) -> Tri + Send + Sync + 'static>(closure: F) -> Test {
    Box::new(closure)
}

fn term<F: for<'f> Fn(Frame<'f>) -> Evaluated<'f> + Send + Sync + 'static>(closure: F) -> Term {
    Box::new(closure)
}

#[expect(clippy::unnecessary_wraps, reason = "it ends terms, which may fail")]
fn owned<'f>(value: Value) -> Evaluated<'f> {
    Ok(Operand::Owned(value))
}

fn failed<T>(kind: EvalErrorKind, span: Span) -> Result<T, EvalError> {
    Err(EvalError { kind, span })
}

/// Unwraps a term's value inside a test, or makes its error the test's.
macro_rules! value_of {
    ($frame:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $frame.base.record(error),
        }
    };
}
use value_of;

/// Compiles nodes, collecting the constants that closures refer to.
#[derive(Default)]
pub(super) struct Compiler {
    pub(super) constants: Vec<Value>,
}

impl Compiler {
    fn constant(&mut self, value: &Value) -> usize {
        self.constants.push(value.clone());
        self.constants.len() - 1
    }

    /// Compiles a truth value.
    pub(super) fn test(&mut self, node: &Node) -> Test {
        let span = node.span;
        match &node.kind {
            NodeKind::Constant(Value::Bool(value)) => {
                let value = Tri::from(*value);
                test(move |_| value)
            }
            NodeKind::And(nodes) => self.chain(nodes, Tri::False),
            NodeKind::Or(nodes) => self.chain(nodes, Tri::True),
            NodeKind::Not(operand) => {
                let operand = self.test(operand);
                test(move |frame| !operand(frame))
            }
            // Only the branch that is taken is evaluated, so an error of the other one does not
            // count.
            NodeKind::Conditional(condition, yes, no) => {
                let (condition, yes, no) = (self.test(condition), self.test(yes), self.test(no));
                test(move |frame| match condition(frame) {
                    Tri::True => yes(frame),
                    Tri::False => no(frame),
                    Tri::Error => Tri::Error,
                })
            }
            NodeKind::Binary(operator @ (Binary::Equal | Binary::NotEqual), left, right) => {
                self.equality(*operator, left, right, span)
            }
            NodeKind::Binary(Binary::In, item, list) => self.membership(item, list, span),
            NodeKind::Binary(operator, left, right) if compare::is_order(*operator) => {
                self.order(*operator, left, right, span)
            }
            NodeKind::Has(from, key) => self.has(from, key, span),
            NodeKind::Call(function, operands) if functions::is_test(*function) => {
                self.text_test(*function, operands, span)
            }
            NodeKind::Matches(text, pattern) => self.matches(text, pattern, span),
            NodeKind::Macro {
                kind, range, body, ..
            } if is_quantifier(*kind) => self.quantifier(*kind, range, body, span),
            _ => {
                // Whether it gives a bool is known only when it is evaluated.
                let value = self.term(node);
                test(move |frame| match *value_of!(frame, value(frame)) {
                    Value::Bool(value) => value.into(),
                    _ => frame.base.fail(EvalErrorKind::NotBool, span),
                })
            }
        }
    }

    /// A chain of `&&` or `||`: `decides` ends it, and an error counts only if nothing does.
    fn chain(&mut self, nodes: &[Node], decides: Tri) -> Test {
        let mut tests: Vec<Test> = nodes.iter().map(|node| self.test(node)).collect();
        // Most chains have two operands, which need no loop.
        if tests.len() == 2
            && let (Some(right), Some(left)) = (tests.pop(), tests.pop())
        {
            return test(move |frame| {
                let first = left(frame);
                if first == decides {
                    return decides;
                }
                let second = right(frame);
                // An error on the left counts only if the right does not decide (CEL specification,
                // "Logical Operators").
                if second == decides || first != Tri::Error {
                    second
                } else {
                    Tri::Error
                }
            });
        }

        test(move |frame| {
            let mut result = !decides;
            for test in &tests {
                match test(frame) {
                    Tri::Error => result = Tri::Error,
                    value if value == decides => return decides,
                    _ => {}
                }
            }
            result
        })
    }

    /// Compiles a value of any kind.
    pub(super) fn term(&mut self, node: &Node) -> Term {
        let span = node.span;
        // A path is tried first, since it is found without building or cloning anything.
        if let Some(place) = AttributePath::of(node) {
            return place.into_term();
        }

        match &node.kind {
            NodeKind::Constant(value) => {
                let at = self.constant(value);
                term(move |frame| Ok(Operand::Borrowed(&frame.base.constants[at])))
            }
            NodeKind::Connection => term(move |frame| {
                frame.base.charge(ConnectionInfo::WORK, span)?;
                owned(frame.base.attributes.connection.to_value())
            }),
            NodeKind::ConnectionField(fact) => {
                let fact = *fact;
                term(move |frame| {
                    frame.base.charge(fact.work(), span)?;
                    owned(frame.base.attributes.connection.get(fact))
                })
            }
            NodeKind::Select(from, key) => self.select(from, key, span),
            NodeKind::Index(from, index) => self.index(from, index, span),
            NodeKind::Call(function, operands) if !functions::is_test(*function) => {
                self.call(*function, operands, span)
            }
            NodeKind::Macro {
                kind,
                range,
                condition,
                body,
            } if !is_quantifier(*kind) => {
                self.transform(*kind, range, condition.as_deref(), body, span)
            }
            NodeKind::List(items) => self.list(items, span),
            NodeKind::Map(entries) => self.map(entries, span),
            NodeKind::Negate(operand) => self.negate(operand, span),
            NodeKind::Binary(operator, left, right) if functions::is_arithmetic(*operator) => {
                self.arithmetic(*operator, left, right, span)
            }
            NodeKind::Conditional(condition, yes, no) => {
                let (condition, yes, no) = (self.test(condition), self.term(yes), self.term(no));
                term(move |frame| {
                    if truth(frame, &condition, span)? {
                        yes(frame)
                    } else {
                        no(frame)
                    }
                })
            }
            _ => {
                let value = self.test(node);
                term(move |frame| owned(Value::Bool(truth(frame, &value, span)?)))
            }
        }
    }
}

fn is_quantifier(kind: Macro) -> bool {
    matches!(kind, Macro::All | Macro::Exists | Macro::ExistsOne)
}

/// Runs a test inside a term: its error is the one that was recorded last.
fn truth(frame: Frame<'_>, test: &Test, span: Span) -> Result<bool, EvalError> {
    match test(frame) {
        Tri::True => Ok(true),
        Tri::False => Ok(false),
        Tri::Error => Err(frame.base.last_error().unwrap_or(EvalError {
            kind: EvalErrorKind::NoOverload,
            span,
        })),
    }
}
