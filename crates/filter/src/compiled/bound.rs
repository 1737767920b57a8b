//! A filter with the params of a request: what it says about a connection, and how the connections are found.

use std::sync::Arc;

use super::{Filter, Program};
use crate::{
    attributes::{Attributes, View},
    compiler::Test,
    error::{EvalError, EvalErrorKind},
    explain::{Warning, warnings},
    index::IndexRef,
    planner::{Access, Plan, plan},
    runtime::{Base, Operand, Param, Tri},
    value::Value,
};

/// What a filter says about one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// True.
    Match,
    /// False.
    NoMatch,
    /// Neither: the evaluation ended in an error, which does not match and is counted.
    Error,
}

impl From<Tri> for Verdict {
    #[inline]
    fn from(tri: Tri) -> Self {
        match tri {
            Tri::True => Self::Match,
            Tri::False => Self::NoMatch,
            Tri::Error => Self::Error,
        }
    }
}

/// A verdict, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What the filter says.
    pub verdict: Verdict,
    /// The work that was charged for it, in units of about a nanosecond: bytes, and steps of macros, each of which counts
    /// for [`limits::FILTER_STEP_WORK`](crate::limits::FILTER_STEP_WORK).
    pub work: u32,
}

impl Judged {
    /// A verdict that cost nothing to speak of.
    #[inline]
    pub fn free(verdict: Verdict) -> Self {
        Self { verdict, work: 0 }
    }
}

/// A filter with its params and its plan. Cheap to clone; evaluates on any thread.
#[derive(Clone, Debug)]
pub struct Bound {
    pub(super) filter: Arc<Filter>,
    pub(super) params: Arc<[Param]>,
    pub(super) plan: Arc<Plan>,
}

impl Bound {
    /// Evaluates the whole filter for one connection, in bounded time.
    #[inline]
    pub fn matches<'a>(&self, seen: impl Into<View<'a>>) -> Verdict {
        self.judge(seen).verdict
    }

    /// As [`matches`](Self::matches), with what it cost.
    #[inline]
    pub fn judge<'a>(&self, seen: impl Into<View<'a>>) -> Judged {
        self.verdict(seen.into(), None)
    }

    /// Evaluates what the plan leaves over for a connection that its access found; [`Verdict::Match`] if that is
    /// nothing.
    #[inline]
    pub fn residual<'a>(&self, seen: impl Into<View<'a>>) -> Verdict {
        self.judge_residual(seen).verdict
    }

    /// As [`residual`](Self::residual), with what it cost.
    #[inline]
    pub fn judge_residual<'a>(&self, seen: impl Into<View<'a>>) -> Judged {
        if !self.plan.residual {
            return Judged::free(if self.plan.access == Access::Nobody {
                Verdict::NoMatch
            } else {
                Verdict::Match
            });
        }
        self.verdict(seen.into(), self.plan.answered)
    }

    fn verdict(&self, seen: View<'_>, skip: Option<usize>) -> Judged {
        let base = self.base(seen, &[]);
        let tri = match &self.filter.program {
            Program::Conjuncts(tests) => all(tests, &base, skip),
            Program::Expression(term) => match term(base.frame()).as_deref() {
                Ok(Value::Bool(value)) => (*value).into(),
                _ => Tri::Error,
            },
        };

        // Even if `||` has absorbed the error: nothing after it was evaluated.
        let verdict = if base.spent() {
            Verdict::Error
        } else {
            tri.into()
        };

        Judged {
            verdict,
            work: base.work(),
        }
    }

    pub(super) fn base<'f>(&'f self, seen: View<'f>, variables: &'f [Value]) -> Base<'f> {
        Base::new(seen, &self.params, &self.filter.constants, variables)
    }

    /// The value of the expression for one connection.
    ///
    /// # Errors
    /// What the evaluation met, and where; also a value that is larger than one evaluation may build.
    #[inline]
    pub fn evaluate(&self, attributes: &Attributes) -> Result<Value, EvalError> {
        self.evaluate_with(attributes, &[])
    }

    /// As [`evaluate`](Self::evaluate), with values for the variables of
    /// [`Schema::with_variables`](crate::Schema::with_variables), in their order.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    #[doc(hidden)]
    pub fn evaluate_with(
        &self,
        attributes: &Attributes,
        variables: &[Value],
    ) -> Result<Value, EvalError> {
        let base = self.base(attributes.into(), variables);
        let span = self.filter.root.span;
        let value = match &self.filter.program {
            Program::Conjuncts(tests) => match all(tests, &base, None) {
                Tri::True => Ok(Value::Bool(true)),
                Tri::False => Ok(Value::Bool(false)),
                Tri::Error => Err(None),
            },
            Program::Expression(term) => term(base.frame()).map(Operand::into_owned).map_err(Some),
        };

        let unknown = EvalError {
            kind: EvalErrorKind::NoOverload,
            span,
        };

        // A budget that ran out explains every error that came after.
        let spent = || base.last_error().filter(|_| base.spent());
        match value {
            Ok(value) => match spent() {
                Some(error) => Err(error),
                None => base.measure(&value, span).map(|()| value),
            },
            Err(error) => Err(spent().or(error).or(base.last_error()).unwrap_or(unknown)),
        }
    }

    /// Whether evaluating it may take long for one connection: it walks lists, searches for patterns, builds or converts
    /// values, or compares with a large param.
    #[inline]
    pub fn is_heavy(&self) -> bool {
        self.filter.is_heavy || self.params.iter().any(Param::is_heavy)
    }

    /// The same for what the plan leaves over.
    #[inline]
    pub fn is_residual_heavy(&self) -> bool {
        self.plan.residual && self.is_heavy()
    }

    /// How the connections that match are found.
    #[inline]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The same, planned again with what the caller knows: `cost` estimates how many connections a look-up of so many keys
    /// gives. Every candidate of the filter is asked about.
    #[must_use]
    #[inline]
    pub fn planned_by(&self, cost: impl Fn(IndexRef, usize) -> usize) -> Self {
        let plan = plan(
            &self.filter.candidates,
            &self.params,
            &self.filter.schema,
            cost,
        );
        Self {
            plan: plan.into(),
            ..self.clone()
        }
    }

    pub(crate) fn params(&self) -> &[Param] {
        &self.params
    }

    /// The filter that was bound.
    #[inline]
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// What the author should think about again: it can be evaluated, but may not mean what it seems to.
    #[inline]
    pub fn warnings(&self) -> Vec<Warning> {
        warnings(&self.filter.root, &self.params, &self.filter.source)
    }
}

#[inline]
fn all(tests: &[Test], base: &Base<'_>, skip: Option<usize>) -> Tri {
    let mut result = Tri::True;
    for (at, test) in tests.iter().enumerate() {
        if Some(at) == skip {
            continue;
        }
        // An error counts only if no conjunct is false, as in CEL.
        match test(base.frame()) {
            Tri::True => {}
            Tri::False => return Tri::False,
            Tri::Error => result = Tri::Error,
        }
    }
    result
}
