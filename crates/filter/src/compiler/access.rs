//! Reaching values: variables, members, items, and the literals that hold expressions.

use smol_str::SmolStr;

use super::{Compiler, Evaluated, Term, Test, failed, owned, term, test, value_of};
use crate::{
    error::{EvalError, EvalErrorKind, Span},
    layout::{Map, MapKey, Step},
    resolved::{Node, NodeKind, Root},
    runtime::{ALLOCATION, Frame, ITEM, Operand, Tri, halvings},
    tally,
    value::{NULL, Value, double_as_int},
};

/// A path from a variable through named members: found without building or cloning anything.
pub(crate) struct AttributePath {
    origin: Origin,
    steps: Box<[Step]>,
    span: Span,
}

#[derive(Clone, Copy)]
enum Origin {
    Root(Root),
    Param(usize),
    Variable(usize),
    Local(usize),
}

impl AttributePath {
    /// The place that a node names, if it is one.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        let mut steps = Vec::new();
        let mut at = node;
        let origin = loop {
            match &at.kind {
                NodeKind::Select(from, key) => {
                    steps.push(Step::new(key.clone()));
                    at = from;
                }
                NodeKind::Root(root) => break Origin::Root(*root),
                NodeKind::Param(slot) => break Origin::Param(*slot),
                NodeKind::Variable(at) => break Origin::Variable(*at),
                NodeKind::Local(depth) => break Origin::Local(*depth),
                _ => return None,
            }
        };

        // The walk went from the last member to the variable.
        steps.reverse();
        Some(Self {
            origin,
            steps: steps.into(),
            span: node.span,
        })
    }

    /// The value there; `None` if the path selects from something that has no members, which is an error.
    #[inline]
    pub(super) fn get<'f>(&self, frame: Frame<'f>) -> Option<&'f Value> {
        let attributes = frame.base.attributes;
        let mut value = match self.origin {
            Origin::Root(Root::Auth) => frame.base.auth,
            Origin::Root(Root::User) => &attributes.user,
            Origin::Root(Root::Profile) => &attributes.profile,
            Origin::Root(Root::Channels) => &attributes.channels,
            Origin::Param(slot) => &frame.base.params[slot].value,
            Origin::Variable(at) => frame.base.variables.get(at).unwrap_or(&NULL),
            Origin::Local(depth) => frame.local(depth),
        };

        for step in &self.steps {
            match value {
                Value::Map(map) => value = step.get(map),
                // Every member of null is null, so that a filter needs no guard for claims that are
                // missing.
                Value::Null => return Some(&NULL),
                _ => return None,
            }
        }

        Some(value)
    }

    #[cold]
    pub(super) fn error(&self) -> EvalError {
        EvalError {
            kind: EvalErrorKind::NotAMap,
            span: self.span,
        }
    }

    /// The test's result for a path that leads nowhere.
    #[cold]
    pub(super) fn lost(&self, frame: Frame<'_>) -> Tri {
        frame.base.record(self.error())
    }

    pub(super) fn into_term(self) -> Term {
        term(move |frame| {
            self.get(frame)
                .map(Operand::Borrowed)
                .ok_or_else(|| self.error())
        })
    }
}

impl Compiler {
    pub(super) fn select(&mut self, from: &Node, key: &SmolStr, span: Span) -> Term {
        let from = self.term(from);
        let key = key.clone();
        term(move |frame| member(from(frame)?, |map| map.find(&key), span))
    }

    pub(super) fn index(&mut self, from: &Node, index: &Node, span: Span) -> Term {
        let (from, index) = (self.term(from), self.term(index));
        term(move |frame| {
            let (from, index) = (from(frame)?, index(frame)?);
            if let Value::Map(map) = &*from {
                if matches!(&*index, Value::Null | Value::List(_) | Value::Map(_)) {
                    return failed(EvalErrorKind::BadKey, span);
                }
                frame.base.charge_look_up(map, &index, span)?;
            }

            match &*from {
                Value::List(items) => {
                    let at = match &*index {
                        Value::Int(at) => Some(*at),
                        Value::Double(at) => double_as_int(*at),
                        _ => return failed(EvalErrorKind::NoOverload, span),
                    };
                    let at = at
                        .and_then(|at| usize::try_from(at).ok())
                        .filter(|at| *at < items.len());
                    let Some(at) = at else {
                        return failed(EvalErrorKind::OutOfRange, span);
                    };
                    Ok(match from {
                        // An owned list ends with this evaluation, so its item has to be cloned.
                        Operand::Borrowed(Value::List(items)) => Operand::Borrowed(&items[at]),
                        _ => Operand::Owned(items[at].clone()),
                    })
                }
                _ => member(from, |map| map.find_value(&index), span),
            }
        })
    }

    /// `has(from.key)`: whether the key is there, be its value null.
    pub(super) fn has(&mut self, from: &Node, key: &SmolStr, span: Span) -> Test {
        if let Some(place) = AttributePath::of(from) {
            let step = Step::new(key.clone());
            return test(move |frame| match place.get(frame) {
                Some(Value::Map(map)) => step.find(map).is_some().into(),
                Some(Value::Null) => Tri::False,
                Some(_) => frame.base.fail(EvalErrorKind::NotAMap, span),
                None => place.lost(frame),
            });
        }

        let from = self.term(from);
        let key = key.clone();
        test(move |frame| match &*value_of!(frame, from(frame)) {
            Value::Map(map) => map.find(&key).is_some().into(),
            Value::Null => Tri::False,
            _ => frame.base.fail(EvalErrorKind::NotAMap, span),
        })
    }

    pub(super) fn list(&mut self, items: &[Node], span: Span) -> Term {
        let items: Vec<Term> = items.iter().map(|item| self.term(item)).collect();
        term(move |frame| {
            // Charged before it is built, here as everywhere: macros may ask for it thousands of
            // times.
            let bytes = ALLOCATION + size_of::<Value>() * items.len();
            frame.base.charge(bytes, span)?;
            tally::add(bytes);
            let values: Result<Vec<Value>, _> = items
                .iter()
                .map(|item| Ok(item(frame)?.into_owned()))
                .collect();
            owned(values?.into())
        })
    }

    pub(super) fn map(&mut self, entries: &[(Node, Node)], span: Span) -> Term {
        let entries: Vec<(Term, Term)> = entries
            .iter()
            .map(|(key, value)| (self.term(key), self.term(value)))
            .collect();
        term(move |frame| {
            // Keys, values and layout are pieces of memory of their own.
            let bytes = 4 * ALLOCATION + 2 * size_of::<Value>() * entries.len();
            frame.base.charge(bytes, span)?;
            let mut members = Vec::with_capacity(entries.len());

            for (key, value) in &entries {
                let key = key(frame)?;
                // CEL allows no double as a key of a map literal.
                let key = if matches!(&*key, Value::Double(_)) {
                    None
                } else {
                    MapKey::from_value(&key)
                };

                let Some(key) = key else {
                    return failed(EvalErrorKind::BadKey, span);
                };

                // Sorting compares each key with about so many others.
                let compared = (ITEM + key.len()).saturating_mul(halvings(entries.len()));
                frame.base.charge(compared, span)?;
                members.push((key, value(frame)?.into_owned()));
            }

            let map = Map::new(members, None);
            if map.len() < entries.len() {
                return failed(EvalErrorKind::RepeatedKey, span);
            }
            owned(Value::Map(map))
        })
    }
}

/// A member of a map or null, or null if it is missing; an error for anything else.
fn member<'f>(
    from: Operand<'f>,
    find: impl for<'m> Fn(&'m Map) -> Option<&'m Value>,
    span: Span,
) -> Evaluated<'f> {
    match from {
        Operand::Borrowed(Value::Map(map)) => Ok(Operand::Borrowed(find(map).unwrap_or(&NULL))),
        Operand::Owned(Value::Map(map)) => owned(find(&map).cloned().unwrap_or_default()),
        Operand::Borrowed(Value::Null) | Operand::Owned(Value::Null) => owned(Value::Null),
        _ => failed(EvalErrorKind::NotAMap, span),
    }
}
