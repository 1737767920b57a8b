//! Functions and arithmetic (CEL specification, "Standard Definitions").

use smol_str::SmolStr;

use super::{Compiler, Evaluated, Place, Term, Test, failed, owned, term, test, value_of};
use crate::predicate::{
    ast::Binary,
    check::{Function, Node, Pattern},
    error::{EvalError, EvalErrorKind, Span},
    runtime::{Base, Frame, Tri},
    value::Value,
};

pub(super) fn is_test(function: Function) -> bool {
    matches!(
        function,
        Function::StartsWith | Function::EndsWith | Function::Contains
    )
}

pub(super) fn is_arithmetic(operator: Binary) -> bool {
    use Binary::{Add, Divide, Multiply, Remainder, Subtract};
    matches!(operator, Add | Subtract | Multiply | Divide | Remainder)
}

impl Compiler {
    pub(super) fn text_test(&mut self, function: Function, operands: &[Node], span: Span) -> Test {
        let [text, part] = operands else {
            return test(move |frame| no_overload(frame, span));
        };
        if let (Some(place), Some(Value::String(part))) = (Place::of(text), part.constant()) {
            let part = part.clone();
            return test(move |frame| match place.get(frame) {
                Some(Value::String(text)) => text_holds(frame, function, text, &part, span),
                Some(_) => no_overload(frame, span),
                None => place.lost(frame),
            });
        }
        let (text, part) = (self.term(text), self.term(part));
        test(move |frame| {
            let text = value_of!(frame, text(frame));
            let part = value_of!(frame, part(frame));
            match (&*text, &*part) {
                (Value::String(text), Value::String(part)) => {
                    text_holds(frame, function, text, part, span)
                }
                _ => no_overload(frame, span),
            }
        })
    }

    pub(super) fn matches(&mut self, text: &Node, pattern: &Pattern, span: Span) -> Test {
        let text = self.term(text);
        let pattern = pattern.clone();
        test(move |frame| {
            let text = value_of!(frame, text(frame));
            let Value::String(text) = &*text else {
                return no_overload(frame, span);
            };
            let (regex, length) = match &pattern {
                Pattern::Literal(regex, length) => (Some(regex), *length),
                Pattern::Param(slot) => {
                    let param = &frame.base.params[*slot];
                    (
                        param.regex.as_ref(),
                        param.value.as_str().map_or(0, str::len),
                    )
                }
            };
            let Some(regex) = regex else {
                return no_overload(frame, span);
            };
            // A search is linear in the text, times the pattern in the worst case.
            value_of!(
                frame,
                frame
                    .base
                    .charge(text.len().saturating_mul(1 + length / 16), span)
            );
            regex.is_match(text).into()
        })
    }

    pub(super) fn call(&mut self, function: Function, operands: &[Node], span: Span) -> Term {
        let [operand] = operands else {
            return term(move |_| failed(EvalErrorKind::NoOverload, span));
        };
        let operand = self.term(operand);
        let apply = match function {
            Function::Size => size,
            Function::LowerAscii => lower,
            Function::UpperAscii => upper,
            Function::Int => to_int,
            Function::Double => to_double,
            _ => to_string,
        };
        term(move |frame| {
            let operand = operand(frame)?;
            owned(apply(frame.base, &operand, span)?)
        })
    }

    pub(super) fn negate(&mut self, operand: &Node, span: Span) -> Term {
        let operand = self.term(operand);
        term(move |frame| match &*operand(frame)? {
            Value::Int(value) => int(value.checked_neg(), span),
            Value::Double(value) => owned(Value::Double(-value)),
            _ => failed(EvalErrorKind::NoOverload, span),
        })
    }

    pub(super) fn arithmetic(
        &mut self,
        operator: Binary,
        left: &Node,
        right: &Node,
        span: Span,
    ) -> Term {
        let (left, right) = (self.term(left), self.term(right));
        term(move |frame| {
            let (left, right) = (left(frame)?, right(frame)?);
            match (&*left, &*right) {
                (Value::Int(a), Value::Int(b)) => int_arithmetic(operator, *a, *b, span),
                (Value::Double(a), Value::Double(b)) => match operator {
                    Binary::Add => owned(Value::Double(a + b)),
                    Binary::Subtract => owned(Value::Double(a - b)),
                    Binary::Multiply => owned(Value::Double(a * b)),
                    Binary::Divide => owned(Value::Double(a / b)),
                    _ => failed(EvalErrorKind::NoOverload, span),
                },
                (Value::String(a), Value::String(b)) if operator == Binary::Add => {
                    frame.base.charge(a.len() + b.len(), span)?;
                    owned(Value::String([&**a, &**b].concat().into()))
                }
                (Value::List(a), Value::List(b)) if operator == Binary::Add => {
                    frame
                        .base
                        .charge(size_of::<Value>() * (a.len() + b.len()), span)?;
                    owned(Value::List(a.iter().chain(&**b).cloned().collect()))
                }
                _ => failed(EvalErrorKind::NoOverload, span),
            }
        })
    }
}

fn no_overload(frame: Frame<'_>, span: Span) -> Tri {
    frame.base.fail(EvalErrorKind::NoOverload, span)
}

#[inline]
fn text_holds(frame: Frame<'_>, function: Function, text: &str, part: &str, span: Span) -> Tri {
    let touched = if function == Function::Contains {
        text.len()
    } else {
        part.len()
    };
    value_of!(frame, frame.base.charge(touched, span));
    match function {
        Function::StartsWith => text.starts_with(part),
        Function::EndsWith => text.ends_with(part),
        _ => text.contains(part),
    }
    .into()
}

fn int<'f>(value: Option<i64>, span: Span) -> Evaluated<'f> {
    value.map_or_else(
        || failed(EvalErrorKind::Overflow, span),
        |value| owned(Value::Int(value)),
    )
}

fn int_arithmetic<'f>(operator: Binary, a: i64, b: i64, span: Span) -> Evaluated<'f> {
    if b == 0 && matches!(operator, Binary::Divide | Binary::Remainder) {
        return failed(EvalErrorKind::DivisionByZero, span);
    }
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    int(result, span)
}

type Applied = Result<Value, EvalError>;

fn size(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let size = match value {
        Value::String(text) => {
            base.charge(text.len(), span)?;
            text.chars().count()
        }
        Value::List(items) => items.len(),
        Value::Map(map) => map.len(),
        _ => return failed(EvalErrorKind::NoOverload, span),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn lower(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let Value::String(text) = value else {
        return failed(EvalErrorKind::NoOverload, span);
    };
    base.charge(text.len(), span)?;
    Ok(Value::String(text.to_ascii_lowercase().into()))
}

fn upper(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let Value::String(text) = value else {
        return failed(EvalErrorKind::NoOverload, span);
    };
    base.charge(text.len(), span)?;
    Ok(Value::String(text.to_ascii_uppercase().into()))
}

fn to_int(_: &Base<'_>, value: &Value, span: Span) -> Applied {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Int(_) => Ok(value.clone()),
        // CEL leaves out the least int too, which a double cannot tell from what lies just below it.
        Value::Double(double) if *double > -BEYOND && *double < BEYOND => {
            Ok(Value::Int(*double as i64))
        }
        Value::Double(_) => failed(EvalErrorKind::Conversion, span),
        Value::String(text) => text.parse().map_or_else(
            |_| failed(EvalErrorKind::Conversion, span),
            |int| Ok(Value::Int(int)),
        ),
        _ => failed(EvalErrorKind::NoOverload, span),
    }
}

fn to_double(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    match value {
        Value::Double(_) => Ok(value.clone()),
        Value::Int(int) => Ok(Value::Double(*int as f64)),
        Value::String(text) => {
            base.charge(text.len(), span)?;
            text.parse().map_or_else(
                |_| failed(EvalErrorKind::Conversion, span),
                |double| Ok(Value::Double(double)),
            )
        }
        _ => failed(EvalErrorKind::NoOverload, span),
    }
}

fn to_string(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let text: SmolStr = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string().into(),
        Value::Int(value) => value.to_string().into(),
        Value::Double(value) => value.to_string().into(),
        _ => return failed(EvalErrorKind::NoOverload, span),
    };
    base.charge(text.len(), span)?;
    Ok(Value::String(text))
}
