//! `==`, `!=`, `<` and the like, `in`.

use std::cmp::Ordering;

use super::{Compiler, Place, Test, test, value_of};
use crate::predicate::{
    ast::Binary,
    check::Node,
    error::{EvalError, EvalErrorKind, Span},
    planner::Fixed,
    runtime::{Base, Frame, ScalarSet, Tri},
    value::Value,
};

pub(super) fn is_order(operator: Binary) -> bool {
    matches!(
        operator,
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual
    )
}

/// `a operator b` as `b operator a`.
fn mirrored(operator: Binary) -> Binary {
    match operator {
        Binary::Less => Binary::Greater,
        Binary::LessEqual => Binary::GreaterEqual,
        Binary::Greater => Binary::Less,
        Binary::GreaterEqual => Binary::LessEqual,
        other => other,
    }
}

#[inline]
fn holds(operator: Binary, order: Ordering) -> bool {
    match operator {
        Binary::Less => order.is_lt(),
        Binary::LessEqual => order.is_le(),
        Binary::Greater => order.is_gt(),
        _ => order.is_ge(),
    }
}

impl Compiler {
    pub(super) fn equality(&mut self, left: &Node, right: &Node, negate: bool, span: Span) -> Test {
        if !self.charged() {
            for (variable, fixed) in [(left, right), (right, left)] {
                if let (Some(place), Some(fixed)) = (Place::of(variable), Fixed::of(fixed)) {
                    return place_equals(place, fixed, negate);
                }
            }
        }
        let (left, right) = (self.term(left), self.term(right));
        test(move |frame| {
            let left = value_of!(frame, left(frame));
            let right = value_of!(frame, right(frame));
            Tri::from(value_of!(frame, frame.base.equal(&left, &right, span)) != negate)
        })
    }

    pub(super) fn order(
        &mut self,
        operator: Binary,
        left: &Node,
        right: &Node,
        span: Span,
    ) -> Test {
        for (variable, fixed, operator) in
            [(left, right, operator), (right, left, mirrored(operator))]
        {
            if let (Some(place), Some(Value::Int(fixed))) = (Place::of(variable), fixed.constant())
            {
                let (fixed, whole) = (*fixed, Value::Int(*fixed));
                return test(move |frame| match place.get(frame) {
                    Some(Value::Int(value)) => holds(operator, value.cmp(&fixed)).into(),
                    Some(value) => ordered(frame, operator, value, &whole, span),
                    None => place.lost(frame),
                });
            }
        }
        let (left, right) = (self.term(left), self.term(right));
        test(move |frame| {
            let left = value_of!(frame, left(frame));
            let right = value_of!(frame, right(frame));
            ordered(frame, operator, &left, &right, span)
        })
    }

    pub(super) fn membership(&mut self, item: &Node, list: &Node, span: Span) -> Test {
        let charged = self.charged();
        if let (Some(place), Some(fixed)) = (Place::of(item), Fixed::of(list))
            && !charged
        {
            return place_in(place, fixed, span);
        }
        if let (Some(fixed), Some(place)) = (Fixed::of(item), Place::of(list))
            && !charged
        {
            return place_contains(place, fixed, span);
        }
        let set = list
            .constant()
            .and_then(Value::as_list)
            .and_then(ScalarSet::new);
        let item = self.term(item);
        if let Some(set) = set {
            return test(move |frame| {
                let item = value_of!(frame, item(frame));
                let length = item.as_str().map_or(0, str::len);
                value_of!(frame, frame.base.charge(length, span));
                set.contains(&item).into()
            });
        }
        let list = self.term(list);
        test(move |frame| {
            let item = value_of!(frame, item(frame));
            let list = value_of!(frame, list(frame));
            match contains_charged(frame.base, &list, &item, span) {
                Ok(found) => found.into(),
                Err(error) => frame.base.record(error),
            }
        })
    }
}

/// A path equals a literal or a param: by far the most common test.
fn place_equals(place: Place, fixed: Fixed, negate: bool) -> Test {
    match fixed {
        Fixed::Constant(Value::String(text)) => test(move |frame| match place.get(frame) {
            Some(Value::String(value)) => Tri::from((*value == text) != negate),
            Some(_) => negate.into(),
            None => place.lost(frame),
        }),
        Fixed::Constant(Value::Bool(flag)) => test(move |frame| match place.get(frame) {
            Some(Value::Bool(value)) => Tri::from((*value == flag) != negate),
            Some(_) => negate.into(),
            None => place.lost(frame),
        }),
        Fixed::Constant(constant) => test(move |frame| match place.get(frame) {
            Some(value) => Tri::from((*value == constant) != negate),
            None => place.lost(frame),
        }),
        Fixed::Param(slot) => {
            test(
                move |frame| match (place.get(frame), &frame.base.params[slot].value) {
                    (Some(Value::String(value)), Value::String(text)) => {
                        Tri::from((value == text) != negate)
                    }
                    (Some(value), param) => Tri::from((value == param) != negate),
                    (None, _) => place.lost(frame),
                },
            )
        }
    }
}

/// A path's value is in a literal or in a param.
fn place_in(place: Place, fixed: Fixed, span: Span) -> Test {
    match fixed {
        Fixed::Constant(list) => {
            if let Some(set) = list.as_list().and_then(ScalarSet::new) {
                return test(move |frame| match place.get(frame) {
                    Some(value) => set.contains(value).into(),
                    None => place.lost(frame),
                });
            }
            test(move |frame| match place.get(frame) {
                Some(value) => contains(frame, &list, value, span),
                None => place.lost(frame),
            })
        }
        Fixed::Param(slot) => test(move |frame| {
            let Some(value) = place.get(frame) else {
                return place.lost(frame);
            };
            let param = &frame.base.params[slot];
            match &param.set {
                Some(set) => set.contains(value).into(),
                None => contains(frame, &param.value, value, span),
            }
        }),
    }
}

/// A literal or a param is in a path's value.
fn place_contains(place: Place, fixed: Fixed, span: Span) -> Test {
    match fixed {
        Fixed::Constant(Value::String(text)) => test(move |frame| match place.get(frame) {
            Some(Value::List(items)) => items
                .iter()
                .any(|item| matches!(item, Value::String(item) if *item == text))
                .into(),
            Some(Value::Map(map)) => map.find(&text).is_some().into(),
            Some(_) => frame.base.fail(EvalErrorKind::NoOverload, span),
            None => place.lost(frame),
        }),
        Fixed::Constant(constant) => test(move |frame| match place.get(frame) {
            Some(list) => contains(frame, list, &constant, span),
            None => place.lost(frame),
        }),
        Fixed::Param(slot) => test(move |frame| match place.get(frame) {
            Some(list) => contains(frame, list, &frame.base.params[slot].value, span),
            None => place.lost(frame),
        }),
    }
}

fn contains(frame: Frame<'_>, list: &Value, item: &Value, span: Span) -> Tri {
    match list {
        Value::List(items) => items.contains(item).into(),
        Value::Map(map) => map.find_value(item).is_some().into(),
        _ => frame.base.fail(EvalErrorKind::NoOverload, span),
    }
}

/// As [`contains`], charged for what is compared.
fn contains_charged(
    base: &Base<'_>,
    list: &Value,
    item: &Value,
    span: Span,
) -> Result<bool, EvalError> {
    match list {
        Value::List(items) => {
            for candidate in items.iter() {
                base.charge(8, span)?;
                if base.equal(candidate, item, span)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => {
            base.charge(16 + item.as_str().map_or(0, str::len), span)?;
            Ok(map.find_value(item).is_some())
        }
        _ => Err(EvalError {
            kind: EvalErrorKind::NoOverload,
            span,
        }),
    }
}

fn ordered(frame: Frame<'_>, operator: Binary, left: &Value, right: &Value, span: Span) -> Tri {
    if let (Value::String(a), Value::String(b)) = (left, right) {
        value_of!(frame, frame.base.charge(a.len().min(b.len()), span));
    }
    match left.order(right) {
        Ok(order) => order.is_some_and(|order| holds(operator, order)).into(),
        Err(_) => frame.base.fail(EvalErrorKind::NoOverload, span),
    }
}
