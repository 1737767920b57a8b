//! What compiled closures run on: the variables of one evaluation, and its budgets.

use std::cell::Cell;

use ahash::AHashSet;
use regex::Regex;
use smol_str::SmolStr;
use std::sync::Arc;

use super::{
    attributes::{Attributes, View},
    error::{EvalError, EvalErrorKind, Span},
    value::{Value, double_as_int},
};
use crate::limits;

/// A truth value, or neither: an error that `&&`, `||`, `all` and `exists` may absorb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tri {
    False,
    True,
    Error,
}

impl From<bool> for Tri {
    #[inline]
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl std::ops::Not for Tri {
    type Output = Self;

    #[inline]
    fn not(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::True => Self::False,
            Self::Error => Self::Error,
        }
    }
}

/// A param as bound: its value, and what was prepared from it.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) value: Value,
    /// The items of a long list, if all are scalars.
    pub(super) set: Option<ScalarSet>,
    pub(super) regex: Option<Regex>,
}

/// Text that is compared in less time than a member is found.
const SHORT_TEXT: usize = 1024;

impl Param {
    /// Whether comparing something with it may take long. Hashed items are looked up.
    pub(super) fn is_heavy(&self) -> bool {
        match &self.value {
            Value::String(text) => text.len() > SHORT_TEXT,
            Value::List(items) => self.set.is_none() && items.len() > SHORT_LIST,
            Value::Map(map) => map.len() > SHORT_LIST,
            _ => false,
        }
    }
}

/// One evaluation for one connection.
pub(super) struct Base<'f> {
    pub(super) auth: &'f Value,
    pub(super) attributes: &'f Attributes,
    pub(super) params: &'f [Param],
    pub(super) constants: &'f [Value],
    pub(super) variables: &'f [Value],
    steps: Cell<u32>,
    bytes: Cell<u32>,
    /// The last error that a test met; absorbed ones included.
    error: Cell<Option<EvalError>>,
    spent: Cell<bool>,
}

impl<'f> Base<'f> {
    #[inline]
    pub(super) fn new(
        View { auth, attributes }: View<'f>,
        params: &'f [Param],
        constants: &'f [Value],
        variables: &'f [Value],
    ) -> Self {
        Self {
            auth,
            attributes,
            params,
            constants,
            variables,
            steps: Cell::new(limits::FILTER_STEPS),
            bytes: Cell::new(limits::FILTER_WORK_BYTES),
            error: Cell::new(None),
            spent: Cell::new(false),
        }
    }

    #[inline]
    pub(super) fn frame(&'f self) -> Frame<'f> {
        Frame {
            base: self,
            local: None,
        }
    }

    /// With `bytes` left to compare, search or build.
    pub(super) fn with_bytes(self, bytes: u32) -> Self {
        self.bytes.set(bytes);
        self
    }

    /// The bytes that may still be compared, searched or built.
    pub(super) fn bytes_left(&self) -> u32 {
        self.bytes.get()
    }

    /// What was charged so far, in units of work; see [`limits::FILTER_STEP_WORK`].
    #[inline]
    pub(super) fn work(&self) -> u32 {
        let steps = limits::FILTER_STEPS - self.steps.get();
        let bytes = limits::FILTER_WORK_BYTES.saturating_sub(self.bytes.get());
        steps * limits::FILTER_STEP_WORK + bytes
    }

    /// Whether a budget ran out; the evaluation then is an error, whatever absorbed it.
    #[inline]
    pub(super) fn spent(&self) -> bool {
        self.spent.get()
    }

    pub(super) fn last_error(&self) -> Option<EvalError> {
        self.error.get()
    }

    /// Records why a test gives no truth value.
    #[cold]
    pub(super) fn fail(&self, kind: EvalErrorKind, span: Span) -> Tri {
        self.record(EvalError { kind, span })
    }

    #[cold]
    pub(super) fn record(&self, error: EvalError) -> Tri {
        if !self.spent.get() {
            self.error.set(Some(error));
        }
        Tri::Error
    }

    fn exhaust(&self, kind: EvalErrorKind, span: Span) -> EvalError {
        let error = EvalError { kind, span };
        if !self.spent.replace(true) {
            self.error.set(Some(error));
        }
        // The result is settled, so nothing more is worth any work.
        self.steps.set(0);
        self.bytes.set(0);
        error
    }

    /// Takes from the steps that one evaluation may make. What stands outside macros is bounded by the filter's
    /// size and costs none.
    #[inline]
    pub(super) fn step(&self, steps: u32, span: Span) -> Result<(), EvalError> {
        match self.steps.get().checked_sub(steps) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(self.exhaust(EvalErrorKind::Steps, span)),
        }
    }

    /// Takes from the bytes that one evaluation may compare, search or build.
    #[inline]
    pub(super) fn charge(&self, bytes: usize, span: Span) -> Result<(), EvalError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => {
                self.bytes.set(left);
                Ok(())
            }
            None => Err(self.exhaust(EvalErrorKind::Bytes, span)),
        }
    }

    /// `a == b`, charged for what is compared. Values that macros build may share parts so often that comparing
    /// them would not end; this does.
    pub(super) fn equal(&self, a: &Value, b: &Value, span: Span) -> Result<bool, EvalError> {
        match (a, b) {
            (Value::String(a), Value::String(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                self.charge(a.len(), span)?;
                Ok(a == b)
            }
            (Value::List(a), Value::List(b)) => {
                Ok(a.len() == b.len() && self.all_equal(a.iter().zip(&**b), span)?)
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                self.charge(16 * a.len(), span)?;
                let values = a.iter().zip(b.iter()).map(|((_, a), (_, b))| (a, b));
                Ok(
                    (Arc::ptr_eq(a.layout(), b.layout()) || a.keys() == b.keys())
                        && self.all_equal(values, span)?,
                )
            }
            _ => Ok(a == b),
        }
    }

    fn all_equal<'v>(
        &self,
        pairs: impl Iterator<Item = (&'v Value, &'v Value)>,
        span: Span,
    ) -> Result<bool, EvalError> {
        for (a, b) in pairs {
            self.charge(8, span)?;
            if !self.equal(a, b, span)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Charges for all that a value holds: before it is handed out, where its size counts as written out.
    pub(super) fn measure(&self, value: &Value, span: Span) -> Result<(), EvalError> {
        match value {
            Value::String(text) => self.charge(text.len(), span),
            Value::List(items) => items.iter().try_for_each(|item| {
                self.charge(8, span)?;
                self.measure(item, span)
            }),
            Value::Map(map) => map.iter().try_for_each(|(_, item)| {
                self.charge(16, span)?;
                self.measure(item, span)
            }),
            _ => Ok(()),
        }
    }
}

/// Where a closure runs: in an evaluation, within macros.
#[derive(Clone, Copy)]
pub(super) struct Frame<'f> {
    pub(super) base: &'f Base<'f>,
    pub(super) local: Option<&'f Local<'f>>,
}

/// A macro's variable.
pub(super) struct Local<'f> {
    pub(super) value: &'f Value,
    pub(super) outer: Option<&'f Local<'f>>,
}

impl<'f> Frame<'f> {
    pub(super) fn local(self, depth: usize) -> &'f Value {
        let mut local = self.local;
        for _ in 0..depth {
            local = local.and_then(|local| local.outer);
        }
        local.map_or(&super::value::NULL, |local| local.value)
    }
}

/// A value that stands somewhere already, or was made.
pub(super) enum Operand<'f> {
    Borrowed(&'f Value),
    Owned(Value),
}

impl std::ops::Deref for Operand<'_> {
    type Target = Value;

    #[inline]
    fn deref(&self) -> &Value {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

impl Operand<'_> {
    pub(super) fn into_owned(self) -> Value {
        match self {
            Self::Borrowed(value) => value.clone(),
            Self::Owned(value) => value,
        }
    }
}

/// The scalars of a list, hashed: `in` costs one look-up, with the equality of values.
#[derive(Clone, Debug, Default)]
pub(super) struct ScalarSet {
    strings: AHashSet<SmolStr>,
    ints: AHashSet<i64>,
    /// Doubles that equal no int, by their bits.
    doubles: AHashSet<u64>,
    null: bool,
    yes: bool,
    no: bool,
}

/// Items up to which a list is walked rather than hashed.
const SHORT_LIST: usize = 8;

impl ScalarSet {
    /// A set for a list that is worth one, or `None` if it is short or holds a list or a map.
    pub(super) fn new(items: &[Value]) -> Option<Self> {
        let scalar = |item: &Value| !matches!(item, Value::List(_) | Value::Map(_));
        if items.len() <= SHORT_LIST || !items.iter().all(scalar) {
            return None;
        }
        let mut set = Self::default();
        for item in items {
            match item {
                Value::Null => set.null = true,
                Value::Bool(true) => set.yes = true,
                Value::Bool(false) => set.no = true,
                Value::Int(int) => _ = set.ints.insert(*int),
                Value::Double(double) => match double_as_int(*double) {
                    Some(int) => _ = set.ints.insert(int),
                    // NaN equals nothing, itself included.
                    None if double.is_nan() => {}
                    None => _ = set.doubles.insert(double.to_bits()),
                },
                Value::String(text) => _ = set.strings.insert(text.clone()),
                Value::List(_) | Value::Map(_) => return None,
            }
        }
        Some(set)
    }

    #[inline]
    pub(super) fn contains(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.strings.contains(&**text),
            Value::Int(int) => self.ints.contains(int),
            Value::Double(double) => match double_as_int(*double) {
                Some(int) => self.ints.contains(&int),
                None => self.doubles.contains(&double.to_bits()),
            },
            Value::Null => self.null,
            Value::Bool(true) => self.yes,
            Value::Bool(false) => self.no,
            Value::List(_) | Value::Map(_) => false,
        }
    }
}
