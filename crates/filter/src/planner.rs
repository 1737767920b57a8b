//! How to find the connections that match: through an index where a conjunct allows, else by a scan.
//!
//! Invariant: evaluating the residual for what the access finds matches exactly what evaluating the whole filter for
//! everyone would.

use std::{fmt, sync::Arc};

use super::{
    ast::Binary,
    attributes::ConnectionField,
    index::{IndexKey, IndexRef, KeyKind, LookupKey, Schema, path_of},
    resolved::{Node, NodeKind, Root},
    runtime::Param,
    value::Value,
};
use crate::limits::TARGET_NAMES;

/// Where the candidates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every connection.
    Everyone,
    /// No connection can match.
    Nobody,
    /// Those that an index holds under any of the keys; a connection may be under several.
    Lookup {
        /// Which index.
        index: IndexRef,
        /// What to look up; distinct, not empty.
        keys: Vec<LookupKey>,
    },
}

/// A filter's plan, with its params.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the candidates come from.
    pub access: Access,
    /// Whether [`Bound::residual`](super::Bound::residual) has anything to say about a candidate; without it,
    /// every candidate matches.
    pub residual: bool,
    /// The indexed path as a filter writes it; empty without an index.
    pub index_name: Arc<str>,
    /// The conjunct that the access answers.
    pub(super) answered: Option<usize>,
}

impl Plan {
    /// The values looked up; `"x" in auth.roles` looks one value up among elements and among map keys.
    pub fn key_count(&self) -> usize {
        match &self.access {
            Access::Lookup { keys, .. } => count(keys),
            Access::Everyone | Access::Nobody => 0,
        }
    }
}

fn count(keys: &[LookupKey]) -> usize {
    keys.iter()
        .filter(|key| key.kind != KeyKind::MapKey)
        .count()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.access, self.residual) {
            (Access::Nobody, _) => f.write_str("nobody can match"),
            (Access::Everyone, false) => f.write_str("everyone"),
            (Access::Everyone, true) => f.write_str("scan every connection"),
            (Access::Lookup { .. }, residual) => {
                let (count, name) = (self.key_count(), &self.index_name);
                let (plural, rest) = (
                    if count == 1 { "" } else { "s" },
                    if residual {
                        ", then evaluate the rest"
                    } else {
                        ""
                    },
                );
                write!(f, "index {name} ({count} key{plural}){rest}")
            }
        }
    }
}

/// A conjunct that an index may answer, depending on params.
#[derive(Debug)]
pub(super) enum Candidate {
    /// A conjunct that is literally false.
    Never,
    Indexed {
        index: IndexRef,
        form: Form,
        fixed: Fixed,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// `path == fixed`
    Equals,
    /// `path in fixed`
    In,
    /// `fixed in path`
    Contains,
}

/// An operand that is the same for every connection.
#[derive(Debug)]
pub(super) enum Fixed {
    Constant(Value),
    Param(usize),
}

impl Fixed {
    pub(super) fn of(node: &Node) -> Option<Self> {
        match &node.kind {
            NodeKind::Constant(value) => Some(Self::Constant(value.clone())),
            NodeKind::Param(slot) => Some(Self::Param(*slot)),
            _ => None,
        }
    }

    fn value<'v>(&'v self, params: &'v [Param]) -> Option<&'v Value> {
        match self {
            Self::Constant(value) => Some(value),
            Self::Param(slot) => params.get(*slot).map(|param| &param.value),
        }
    }
}

/// Splits a filter into what must all be true; literal `true`s are left out.
pub(super) fn conjuncts(root: &Node) -> Vec<&Node> {
    match &root.kind {
        NodeKind::And(nodes) => nodes.iter().flat_map(conjuncts).collect(),
        NodeKind::Constant(Value::Bool(true)) => Vec::new(),
        _ => vec![root],
    }
}

impl Candidate {
    /// What an index of the schema could answer of a conjunct.
    pub(super) fn of(node: &Node, schema: &Schema) -> Option<Self> {
        let (form, path, fixed) = match &node.kind {
            NodeKind::Constant(Value::Bool(false)) => return Some(Self::Never),
            NodeKind::Binary(Binary::Equal, a, b) if indexed(a, schema).is_some() => {
                (Form::Equals, a, b)
            }
            NodeKind::Binary(Binary::Equal, a, b) => (Form::Equals, b, a),
            NodeKind::Binary(Binary::In, a, b) if indexed(a, schema).is_some() => (Form::In, a, b),
            NodeKind::Binary(Binary::In, a, b) => (Form::Contains, b, a),
            _ => return None,
        };

        let index = indexed(path, schema)?;
        // `user` and `connection.id` are not lists, and `channels` is always one.
        let fits = match index {
            IndexRef::ConnectionId | IndexRef::User => !matches!(form, Form::Contains),
            IndexRef::Channels => matches!(form, Form::Contains),
            IndexRef::Declared(_) => true,
        };

        if !fits {
            return None;
        }

        Some(Self::Indexed {
            index,
            form,
            fixed: Fixed::of(fixed)?,
        })
    }

    /// Which index would answer it, and how many values are looked up: none for what nobody matches. `None` if no index
    /// can, as far as that is known without reading the values.
    fn keys(&self, params: &[Param]) -> Option<(Option<IndexRef>, usize)> {
        let Self::Indexed { index, form, fixed } = self else {
            return Some((None, 0));
        };
        let keys = match (form, fixed.value(params)?) {
            (Form::In, Value::List(items)) => items.len(),
            (Form::In, Value::Map(map)) => map.len(),
            // An error for each connection, which only evaluating counts.
            (Form::In, _) => return None,
            (Form::Equals | Form::Contains, _) => 1,
        };
        Some((Some(*index), keys))
    }

    /// The access that answers the conjunct with these params, or `None` if no index can.
    pub(super) fn access(&self, params: &[Param]) -> Option<Access> {
        let Self::Indexed { index, form, fixed } = self else {
            return Some(Access::Nobody);
        };

        let fixed = fixed.value(params)?;
        let mut keys = match form {
            Form::Equals => vec![LookupKey::value(scalar(fixed)?)],
            Form::Contains => {
                // One connection may have a list there, and another a map.
                let key = scalar(fixed)?;
                let in_map = LookupKey {
                    kind: KeyKind::MapKey,
                    key: key.clone(),
                };
                let mut keys = vec![LookupKey {
                    kind: KeyKind::Element,
                    key,
                }];
                // A connection's channels are always a list.
                keys.extend((*index != IndexRef::Channels).then_some(in_map));
                keys
            }
            Form::In => match fixed {
                Value::List(items) => {
                    // A list or a map among the items could equal a value that is under no key.
                    let keys: Option<Vec<_>> = items
                        .iter()
                        .map(|item| scalar(item).map(LookupKey::value))
                        .collect();
                    keys?
                }
                Value::Map(map) => {
                    let keys = map
                        .keys()
                        .iter()
                        .filter_map(|key| IndexKey::of(&key.to_value()));
                    keys.map(LookupKey::value).collect()
                }
                _ => return None,
            },
        };

        if *index == IndexRef::ConnectionId {
            keys = keys.iter().filter_map(connection_key).collect();
        }

        let mut seen = ahash::AHashSet::with_capacity(keys.len());
        keys.retain(|key| seen.insert(key.clone()));
        Some(if keys.is_empty() {
            Access::Nobody
        } else {
            Access::Lookup {
                index: *index,
                keys,
            }
        })
    }
}

/// The key of a scalar; `None` where an index cannot say which values equal this one.
fn scalar(value: &Value) -> Option<IndexKey> {
    IndexKey::of(value)
}

/// A connection's id is compared as text, so only the one text that it prints as finds it.
fn connection_key(key: &LookupKey) -> Option<LookupKey> {
    let IndexKey::String(text) = &key.key else {
        return None;
    };
    let id: crate::id::ConnectionId = text.parse().ok()?;
    (*id.to_string() == **text).then_some(LookupKey::value(IndexKey::Connection(id)))
}

fn indexed(node: &Node, schema: &Schema) -> Option<IndexRef> {
    if matches!(node.kind, NodeKind::ConnectionField(ConnectionField::Id)) {
        return Some(IndexRef::ConnectionId);
    }
    match path_of(node)? {
        (Root::User, keys) if keys.is_empty() => Some(IndexRef::User),
        (Root::Channels, keys) if keys.is_empty() => Some(IndexRef::Channels),
        (root, keys) => schema.find(root, &keys).map(IndexRef::Declared),
    }
}

/// Picks the conjunct whose access costs least, by `cost`; at the same cost, connection ids before users before
/// channels before declared paths.
///
/// Only that one's values are read, and only if they are at most [`TARGET_NAMES`]: params may hold a hundred thousand, and a
/// filter may name them in each of a hundred conjuncts.
pub(super) fn plan(
    candidates: &[Option<Candidate>],
    params: &[Param],
    schema: &Schema,
    cost: impl Fn(IndexRef, usize) -> usize,
) -> Plan {
    let rank = |index: Option<IndexRef>, keys: usize| match index.filter(|_| keys > 0) {
        None => (0, 0),
        Some(index @ IndexRef::ConnectionId) => (cost(index, keys), 0),
        Some(index @ IndexRef::User) => (cost(index, keys), 1),
        Some(index @ IndexRef::Channels) => (cost(index, keys), 2),
        Some(index @ IndexRef::Declared(_)) => (cost(index, keys), 3),
    };

    let mut ranked: Vec<_> = candidates
        .iter()
        .enumerate()
        .filter_map(|(at, candidate)| {
            let candidate = candidate.as_ref()?;
            let (index, keys) = candidate.keys(params)?;
            (keys <= TARGET_NAMES).then(|| (rank(index, keys), at, candidate))
        })
        .collect();

    // At the same cost the first conjunct wins, so that a filter with its params has one plan.
    ranked.sort_unstable_by_key(|(rank, at, _)| (*rank, *at));
    // The cheapest may still turn out to be one that no index answers, now that its values are
    // read.
    let found = ranked
        .into_iter()
        .find_map(|(_, at, candidate)| Some((at, candidate.access(params)?)));
    let Some((at, access)) = found else {
        let residual = !candidates.is_empty();
        return Plan {
            access: Access::Everyone,
            residual,
            index_name: Arc::from(""),
            answered: None,
        };
    };

    let index_name = match &access {
        Access::Lookup { index, .. } => schema.name(*index).into(),
        Access::Everyone | Access::Nobody => Arc::from(""),
    };

    // The access answers one conjunct. If it is the only one, nothing is left to evaluate.
    let residual = access != Access::Nobody && candidates.len() > 1;
    Plan {
        access,
        residual,
        index_name,
        answered: Some(at),
    }
}

/// The cost of a look-up when nothing is known about the index: how many keys there are.
pub(super) fn by_keys(_: IndexRef, keys: usize) -> usize {
    keys
}
