//! What compiled closures run on: the variables of one evaluation, and its budgets.

use std::cell::Cell;

use ahash::AHashSet;
use smol_str::SmolStr;
use std::sync::Arc;

use super::{
    attributes::{Attributes, View},
    error::{EvalError, EvalErrorKind, Span},
    layout::{Map, MapKey},
    pattern::Pattern,
    tally,
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
    /// The scalars of a long list that something is searched in.
    pub(super) set: Option<ScalarSet>,
    pub(super) pattern: Option<Arc<Pattern>>,
}

/// What going through one item of a list is charged.
pub(super) const ITEM: usize = 8;

/// The same for one member of a map.
pub(super) const MEMBER: usize = 16;

/// What a value that is built takes beside its bytes: memory is asked for, and given back.
pub(super) const ALLOCATION: usize = 48;

/// Text that is compared in no more time than a step takes.
pub(super) const FREE_TEXT: usize = 64;

/// Text of a param that is compared so quickly that it needs no permit.
const SHORT_TEXT: usize = 1024;

/// How often so many sorted keys are halved until one is found.
pub(super) fn halvings(keys: usize) -> usize {
    (usize::BITS - keys.leading_zeros()) as usize
}

impl Param {
    /// Whether comparing something with it may take long. Hashed items are looked up.
    pub(super) fn is_heavy(&self) -> bool {
        match &self.value {
            Value::String(text) => text.len() > SHORT_TEXT,
            Value::List(items) => {
                let is_hashed = self.set.as_ref().is_some_and(|set| !set.has_others);
                items.len() > SHORT_LIST && !is_hashed
            }
            Value::Map(map) => map.len() > SHORT_LIST,
            _ => false,
        }
    }
}

impl Param {
    /// Whether it is a list that holds null.
    pub(super) fn has_null(&self) -> bool {
        match (&self.set, &self.value) {
            (Some(set), _) => set.has_null(),
            (None, Value::List(items)) => items.iter().any(Value::is_null),
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
        // After a budget ran out, every error is only a consequence of that.
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

    /// Takes from the steps that one evaluation may make. Expressions outside macros are bounded by the filter's
    /// size and cost none.
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
        // What does not fit is over every budget.
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
            (Value::String(a), Value::String(b)) => self.same_text(a, b, span),
            (Value::List(a), Value::List(b)) => {
                Ok(a.len() == b.len() && self.all_equal(a.iter().zip(&**b), span)?)
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                self.charge(MEMBER * a.len(), span)?;
                let values = a.iter().zip(b.iter()).map(|((_, a), (_, b))| (a, b));
                Ok(self.same_keys(a, b, span)? && self.all_equal(values, span)?)
            }
            _ => Ok(a == b),
        }
    }

    /// Whether two texts are the same. Comparing short ones takes no longer than the step that does it.
    #[inline]
    pub(super) fn same_text(
        &self,
        a: &SmolStr,
        b: &SmolStr,
        span: Span,
    ) -> Result<bool, EvalError> {
        if a.len() != b.len() {
            return Ok(false);
        }
        if a.len() > FREE_TEXT {
            self.charge(a.len(), span)?;
        }
        tally::add(a.len());
        Ok(a == b)
    }

    /// Whether two maps of the same length have the same keys.
    fn same_keys(&self, a: &Map, b: &Map, span: Span) -> Result<bool, EvalError> {
        // Maps of the same keys share a layout, unless a filter has built one of them.
        if Arc::ptr_eq(a.layout(), b.layout()) {
            return Ok(true);
        }

        // Both are sorted, so equal keys are at equal places.
        for (a, b) in a.keys().iter().zip(b.keys()) {
            let same = match (a, b) {
                (MapKey::String(a), MapKey::String(b)) => self.same_text(a, b, span)?,
                _ => a == b,
            };
            if !same {
                return Ok(false);
            }
        }

        Ok(true)
    }

    /// Charges for looking `key` up among the sorted keys of `map`.
    pub(super) fn charge_look_up(
        &self,
        map: &Map,
        key: &Value,
        span: Span,
    ) -> Result<(), EvalError> {
        let text = key.as_str().map_or(0, str::len);
        self.charge((ITEM + text).saturating_mul(halvings(map.len())), span)
    }

    /// Whether `item` is an element of a list or a key of a map, charged for what is compared.
    pub(super) fn contains(
        &self,
        list: &Value,
        item: &Value,
        span: Span,
    ) -> Result<bool, EvalError> {
        match list {
            Value::List(items) => {
                // Each item is charged as it is reached: a long list may have its match at the
                // front.
                for candidate in items.iter() {
                    self.charge(ITEM, span)?;
                    if self.equal(candidate, item, span)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Map(map) => {
                self.charge_look_up(map, item, span)?;
                Ok(map.find_value(item).is_some())
            }
            _ => Err(EvalError {
                kind: EvalErrorKind::NoOverload,
                span,
            }),
        }
    }

    /// As [`Base::contains`], with `set` for the scalars of the list.
    #[inline]
    pub(super) fn contains_hashed(
        &self,
        (list, set): (&Value, &ScalarSet),
        item: &Value,
        span: Span,
    ) -> Result<bool, EvalError> {
        match item {
            // Hashing a text reads all of it.
            Value::String(text) if text.len() > FREE_TEXT => self.charge(text.len(), span)?,
            // The set has only scalars.
            Value::List(_) | Value::Map(_) if set.has_others => {
                return self.contains(list, item, span);
            }
            _ => {}
        }
        Ok(set.contains(item))
    }

    fn all_equal<'v>(
        &self,
        pairs: impl Iterator<Item = (&'v Value, &'v Value)>,
        span: Span,
    ) -> Result<bool, EvalError> {
        for (a, b) in pairs {
            self.charge(ITEM, span)?;
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
                self.charge(ITEM, span)?;
                self.measure(item, span)
            }),
            Value::Map(map) => map.iter().try_for_each(|(key, item)| {
                self.charge(MEMBER + key.len(), span)?;
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

/// A value that exists somewhere already, or was made.
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
    has_null: bool,
    /// Whether false is among them, and whether true is.
    bools: [bool; 2],
    /// Whether the list holds lists or maps as well, which are not in here.
    has_others: bool,
}

/// Items up to which a list is walked rather than hashed.
const SHORT_LIST: usize = 8;

impl ScalarSet {
    /// A set for a list that is worth one, or `None` if it is short.
    pub(super) fn new(items: &[Value]) -> Option<Self> {
        if items.len() <= SHORT_LIST {
            return None;
        }

        let mut set = Self::default();
        for item in items {
            match item {
                Value::Null => set.has_null = true,
                Value::Bool(which) => set.bools[usize::from(*which)] = true,
                Value::Int(int) => _ = set.ints.insert(*int),
                Value::Double(double) => match double_as_int(*double) {
                    // It goes among the ints, so that an equal int finds it.
                    Some(int) => _ = set.ints.insert(int),
                    // NaN equals nothing, itself included.
                    None if double.is_nan() => {}
                    None => _ = set.doubles.insert(double.to_bits()),
                },
                Value::String(text) => _ = set.strings.insert(text.clone()),
                Value::List(_) | Value::Map(_) => set.has_others = true,
            }
        }

        Some(set)
    }

    /// Whether null is among them.
    pub(super) fn has_null(&self) -> bool {
        self.has_null
    }

    /// Whether a scalar is among them.
    #[inline]
    fn contains(&self, value: &Value) -> bool {
        tally::add(4 + value.as_str().map_or(0, str::len));
        match value {
            Value::String(text) => self.strings.contains(&**text),
            Value::Int(int) => self.ints.contains(int),
            Value::Double(double) => match double_as_int(*double) {
                Some(int) => self.ints.contains(&int),
                None => self.doubles.contains(&double.to_bits()),
            },
            Value::Null => self.has_null,
            Value::Bool(which) => self.bools[usize::from(*which)],
            Value::List(_) | Value::Map(_) => false,
        }
    }
}
