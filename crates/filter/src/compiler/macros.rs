//! `all`, `exists`, `exists_one`, `map`, `filter` (CEL specification, "Macros").

use super::{Compiler, Term, Test, failed, owned, term, test, truth, value_of};
use crate::{
    ast::Macro,
    error::{EvalError, EvalErrorKind, Span},
    resolved::Node,
    runtime::{ALLOCATION, Frame, Local, Tri},
    tally,
    value::Value,
};

impl Compiler {
    pub(super) fn quantifier(
        &mut self,
        kind: Macro,
        range: &Node,
        body: &Node,
        span: Span,
    ) -> Test {
        // It is known when compiling, so each item is charged before it is visited.
        let cost = body.steps();
        let range = self.term(range);
        let body = self.test(body);
        // `exists` is `||` over all items, and `all` is `&&`: an item that decides ends it, and
        // absorbs the errors before it.
        let decides = Tri::from(kind == Macro::Exists);

        if kind == Macro::ExistsOne {
            return test(move |frame| {
                // All items are visited, since a second match or an error further on decides too.
                let mut found = 0;
                let range = value_of!(frame, range(frame));
                let walked = walk(frame, &range, cost, span, |inner, _| {
                    found += usize::from(truth(inner, &body, span)?);
                    Ok(true)
                });
                value_of!(frame, walked);
                (found == 1).into()
            });
        }

        test(move |frame| {
            let mut result = !decides;
            let range = value_of!(frame, range(frame));
            let walked = walk(frame, &range, cost, span, |inner, _| {
                match body(inner) {
                    Tri::Error => result = Tri::Error,
                    value if value == decides => {
                        result = decides;
                        return Ok(false);
                    }
                    _ => {}
                }
                Ok(true)
            });

            value_of!(frame, walked);
            result
        })
    }

    pub(super) fn transform(
        &mut self,
        kind: Macro,
        range: &Node,
        condition: Option<&Node>,
        body: &Node,
        span: Span,
    ) -> Term {
        let cost = body.steps() + condition.map_or(0, Node::steps);
        let range = self.term(range);
        // Unlike in `exists`, an error in one item is an error of the whole.
        if kind == Macro::Filter {
            let body = self.test(body);
            return term(move |frame| {
                frame.base.charge(ALLOCATION, span)?;
                let mut found = Vec::new();
                walk(frame, &*range(frame)?, cost, span, |inner, item| {
                    if truth(inner, &body, span)? {
                        inner.base.charge(size_of::<Value>(), span)?;
                        found.push(item.clone());
                    }
                    Ok(true)
                })?;
                owned(found.into())
            });
        }

        let condition = condition.map(|condition| self.test(condition));
        let body = self.term(body);
        term(move |frame| {
            frame.base.charge(ALLOCATION, span)?;
            let mut made = Vec::new();
            walk(frame, &*range(frame)?, cost, span, |inner, _| {
                let wanted = condition
                    .as_ref()
                    .map_or(Ok(true), |condition| truth(inner, condition, span))?;
                if wanted {
                    inner.base.charge(size_of::<Value>(), span)?;
                    made.push(body(inner)?.into_owned());
                }
                Ok(true)
            })?;

            owned(made.into())
        })
    }
}

/// Visits the items of a list, or the keys of a map, until `visit` says no more or a budget is spent.
fn walk(
    frame: Frame<'_>,
    range: &Value,
    cost: u32,
    span: Span,
    mut visit: impl FnMut(Frame<'_>, &Value) -> Result<bool, EvalError>,
) -> Result<(), EvalError> {
    let mut visit = |item: &Value| {
        frame.base.step(cost, span)?;
        tally::add(5 * cost as usize);
        visit(
            Frame {
                base: frame.base,
                local: Some(&Local {
                    value: item,
                    outer: frame.local,
                }),
            },
            item,
        )
    };

    match range {
        Value::List(items) => {
            for item in items.iter() {
                if !visit(item)? {
                    break;
                }
            }
        }
        Value::Map(map) => {
            // The macros of CEL walk the keys of a map, not its values.
            for key in map.keys() {
                if !visit(&key.to_value())? {
                    break;
                }
            }
        }
        _ => return failed(EvalErrorKind::NoOverload, span),
    }

    Ok(())
}
