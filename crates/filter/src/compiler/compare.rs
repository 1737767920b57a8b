//! `==`, `!=`, `<` and the like, `in`.

use std::cmp::Ordering;

use super::{AttributePath, Compiler, Test, test, value_of};
use crate::{
    ast::Binary,
    error::{EvalErrorKind, Span},
    planner::Fixed,
    resolved::Node,
    runtime::{FREE_TEXT, Frame, ITEM, ScalarSet, Tri},
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
    /// [`Binary::Equal`] or [`Binary::NotEqual`].
    pub(super) fn equality(
        &mut self,
        operator: Binary,
        left: &Node,
        right: &Node,
        span: Span,
    ) -> Test {
        let negate = operator == Binary::NotEqual;
        // The path may be on either side of `==`.
        for (variable, fixed) in [(left, right), (right, left)] {
            if let (Some(place), Some(fixed)) = (AttributePath::of(variable), Fixed::of(fixed)) {
                return place_equals(place, fixed, negate, span);
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
        // A constant on the left turns the operator round: `5 < auth.age` is `auth.age > 5`.
        for (variable, fixed, operator) in
            [(left, right, operator), (right, left, mirrored(operator))]
        {
            if let (Some(place), Some(Value::Int(fixed))) =
                (AttributePath::of(variable), fixed.constant())
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
        if let (Some(place), Some(fixed)) = (AttributePath::of(item), Fixed::of(list)) {
            return place_in(place, fixed, span);
        }
        if let (Some(fixed), Some(place)) = (Fixed::of(item), AttributePath::of(list)) {
            return place_contains(place, fixed, span);
        }

        if let Some(list) = list.constant().cloned()
            && let Some(set) = list.as_list().and_then(ScalarSet::new)
        {
            let item = self.term(item);
            return test(move |frame| {
                let item = value_of!(frame, item(frame));
                let found = frame.base.contains_hashed((&list, &set), &item, span);
                value_of!(frame, found).into()
            });
        }

        let (item, list) = (self.term(item), self.term(list));
        test(move |frame| {
            let item = value_of!(frame, item(frame));
            let list = value_of!(frame, list(frame));
            value_of!(frame, frame.base.contains(&list, &item, span)).into()
        })
    }
}

/// A path equals a literal or a param: by far the most common test.
fn place_equals(place: AttributePath, fixed: Fixed, negate: bool, span: Span) -> Test {
    match fixed {
        // Text so short is not charged, so this cannot fail.
        Fixed::Constant(Value::String(text)) if text.len() <= FREE_TEXT => {
            test(move |frame| match place.get(frame) {
                Some(Value::String(value)) => Tri::from((*value == text) != negate),
                // Values of different kinds are unequal, and not an error (CEL specification,
                // "Equality").
                Some(_) => negate.into(),
                None => place.lost(frame),
            })
        }
        Fixed::Constant(Value::Bool(flag)) => test(move |frame| match place.get(frame) {
            Some(Value::Bool(value)) => Tri::from((*value == flag) != negate),
            Some(_) => negate.into(),
            None => place.lost(frame),
        }),
        Fixed::Constant(constant) => test(move |frame| {
            let Some(value) = place.get(frame) else {
                return place.lost(frame);
            };
            let same = value_of!(frame, frame.base.equal(value, &constant, span));
            Tri::from(same != negate)
        }),
        Fixed::Param(slot) => test(move |frame| {
            let Some(value) = place.get(frame) else {
                return place.lost(frame);
            };
            let same = match (value, &frame.base.params[slot].value) {
                (Value::String(value), Value::String(text)) => {
                    frame.base.same_text(value, text, span)
                }
                (value, param) => frame.base.equal(value, param, span),
            };
            Tri::from(value_of!(frame, same) != negate)
        }),
    }
}

/// A path's value is in a literal or in a param.
fn place_in(place: AttributePath, fixed: Fixed, span: Span) -> Test {
    match fixed {
        Fixed::Constant(list) => {
            let set = list.as_list().and_then(ScalarSet::new);
            test(move |frame| {
                let Some(value) = place.get(frame) else {
                    return place.lost(frame);
                };
                let found = match &set {
                    Some(set) => frame.base.contains_hashed((&list, set), value, span),
                    None => frame.base.contains(&list, value, span),
                };
                value_of!(frame, found).into()
            })
        }
        Fixed::Param(slot) => test(move |frame| {
            let Some(value) = place.get(frame) else {
                return place.lost(frame);
            };
            let param = &frame.base.params[slot];
            let found = match &param.set {
                Some(set) => frame.base.contains_hashed((&param.value, set), value, span),
                None => frame.base.contains(&param.value, value, span),
            };
            value_of!(frame, found).into()
        }),
    }
}

/// A literal or a param is in a path's value.
fn place_contains(place: AttributePath, fixed: Fixed, span: Span) -> Test {
    match fixed {
        Fixed::Constant(Value::String(text)) if text.len() <= FREE_TEXT => {
            test(move |frame| match place.get(frame) {
                Some(Value::List(items)) => {
                    // For the whole list before the walk, which then checks nothing per item.
                    value_of!(frame, frame.base.charge(ITEM * items.len(), span));
                    items
                        .iter()
                        .any(|item| matches!(item, Value::String(item) if *item == text))
                        .into()
                }
                Some(Value::Map(map)) => map.find(&text).is_some().into(),
                Some(_) => frame.base.fail(EvalErrorKind::NoOverload, span),
                None => place.lost(frame),
            })
        }
        Fixed::Constant(constant) => test(move |frame| match place.get(frame) {
            Some(list) => value_of!(frame, frame.base.contains(list, &constant, span)).into(),
            None => place.lost(frame),
        }),
        Fixed::Param(slot) => test(move |frame| match place.get(frame) {
            Some(list) => {
                let item = &frame.base.params[slot].value;
                value_of!(frame, frame.base.contains(list, item, span)).into()
            }
            None => place.lost(frame),
        }),
    }
}

fn ordered(frame: Frame<'_>, operator: Binary, left: &Value, right: &Value, span: Span) -> Tri {
    if let (Value::String(a), Value::String(b)) = (left, right) {
        // A comparison ends with the shorter text at the latest.
        value_of!(frame, frame.base.charge(a.len().min(b.len()), span));
    }
    match left.order(right) {
        Ok(order) => order.is_some_and(|order| holds(operator, order)).into(),
        Err(_) => frame.base.fail(EvalErrorKind::NoOverload, span),
    }
}
