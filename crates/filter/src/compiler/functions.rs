//! Functions and arithmetic (CEL specification, "Standard Definitions").

use std::str::FromStr;

use smol_str::SmolStr;

use super::{AttributePath, Compiler, Evaluated, Term, Test, failed, owned, term, test, value_of};
use crate::limits::NUMBER_BYTES;
use crate::{
    ast::Binary,
    error::{EvalError, EvalErrorKind, Span},
    functions::Function,
    resolved::{Node, PatternUse},
    runtime::{ALLOCATION, Base, Frame, Tri},
    tally,
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
        // The check has counted them. This only spares a panic.
        let [text, part] = operands else {
            return test(move |frame| no_overload(frame, span));
        };

        if let (Some(place), Some(Value::String(part))) = (AttributePath::of(text), part.constant())
        {
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

    pub(super) fn matches(&mut self, text: &Node, pattern: &PatternUse, span: Span) -> Test {
        let text = self.term(text);
        let pattern = pattern.clone();
        test(move |frame| {
            let text = value_of!(frame, text(frame));
            let Value::String(text) = &*text else {
                return no_overload(frame, span);
            };

            let pattern = match &pattern {
                PatternUse::Literal(pattern) => Some(pattern),
                PatternUse::Param(slot) => frame.base.params[*slot].pattern.as_ref(),
            };

            let Some(pattern) = pattern else {
                return no_overload(frame, span);
            };

            value_of!(frame, frame.base.charge(pattern.work(text.len()), span));
            pattern.is_in(text).into()
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
                    // A double divided by zero is infinite or NaN (IEEE 754), and not an error.
                    Binary::Divide => owned(Value::Double(a / b)),
                    _ => failed(EvalErrorKind::NoOverload, span),
                },
                (Value::String(a), Value::String(b)) if operator == Binary::Add => {
                    frame.base.charge(ALLOCATION + a.len() + b.len(), span)?;
                    tally::add(ALLOCATION + a.len() + b.len());
                    owned(Value::String([&**a, &**b].concat().into()))
                }
                (Value::List(a), Value::List(b)) if operator == Binary::Add => {
                    let bytes = ALLOCATION + size_of::<Value>() * (a.len() + b.len());
                    frame.base.charge(bytes, span)?;
                    tally::add(bytes);
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
    // A search looks at both, and more than once where parts of the text are alike.
    let touched = if function == Function::Contains {
        2 * text.len() + part.len()
    } else {
        part.len()
    };

    value_of!(frame, frame.base.charge(touched, span));
    tally::add(touched);
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
        // The least int divided by -1 fits no int.
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
            tally::add(text.len());
            // The size of a text is that of its code points, so it has to be walked.
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
    base.charge(ALLOCATION + 2 * text.len(), span)?;
    tally::add(ALLOCATION + text.len());
    Ok(Value::String(text.to_ascii_lowercase().into()))
}

fn upper(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let Value::String(text) = value else {
        return failed(EvalErrorKind::NoOverload, span);
    };
    base.charge(ALLOCATION + 2 * text.len(), span)?;
    tally::add(ALLOCATION + text.len());
    Ok(Value::String(text.to_ascii_uppercase().into()))
}

fn to_int(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Int(_) => Ok(value.clone()),
        // CEL leaves out the least int too, which a double cannot distinguish from what is just below it.
        Value::Double(double) if *double > -BEYOND && *double < BEYOND => {
            // Rounds towards zero, as CEL does.
            Ok(Value::Int(*double as i64))
        }
        Value::Double(_) => failed(EvalErrorKind::Conversion, span),
        Value::String(text) => {
            base.charge(text.len().min(NUMBER_BYTES), span)?;
            number(text).map_or_else(
                || failed(EvalErrorKind::Conversion, span),
                |int| Ok(Value::Int(int)),
            )
        }
        _ => failed(EvalErrorKind::NoOverload, span),
    }
}

fn to_double(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    match value {
        Value::Double(_) => Ok(value.clone()),
        Value::Int(int) => Ok(Value::Double(*int as f64)),
        Value::String(text) => {
            // Of some, the digits are multiplied out.
            base.charge(8 * text.len().min(NUMBER_BYTES), span)?;
            number(text).map_or_else(
                || failed(EvalErrorKind::Conversion, span),
                |double| Ok(Value::Double(double)),
            )
        }
        _ => failed(EvalErrorKind::NoOverload, span),
    }
}

/// The number that a text says, unless it is longer than any number.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.len() > NUMBER_BYTES {
        return None;
    }
    tally::add(text.len());
    text.parse().ok()
}

fn to_string(base: &Base<'_>, value: &Value, span: Span) -> Applied {
    let text: SmolStr = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string().into(),
        Value::Int(value) => value.to_string().into(),
        Value::Double(value) => value.to_string().into(),
        _ => return failed(EvalErrorKind::NoOverload, span),
    };
    // Bounded by itself: a number is written with 330 characters at most.
    base.charge(ALLOCATION + 2 * text.len(), span)?;
    Ok(Value::String(text))
}
