//! The filter language: CEL over a connection's attributes, compiled once, answered from an index where possible.
//!
//! Text goes through `lexer`, `parser` (a tree as written), `check` (names resolved) and `compiler` (closures);
//! `planner` finds what an index can answer. A [`Filter`] is compiled once per text and kept by a [`FilterCache`]; a
//! request binds its params to it and gets a [`Bound`], whose [`Plan`] says where candidates come from and which
//! evaluates them.
//!
//! Everything here is pure: no I/O, and no locks except those of the cache and of [`Layouts`]. No input makes it
//! panic, and every input ends within the bounds of [`limits`](crate::limits).

mod ast;
mod attributes;
mod cache;
mod check;
mod compiler;
#[cfg(test)]
mod costs;
mod error;
mod explain;
mod filter;
mod index;
mod json;
mod layout;
mod lexer;
mod parser;
mod pattern;
mod planner;
#[cfg(test)]
mod reference;
mod runtime;
mod suggest;
mod tally;
mod value;

pub use attributes::{Attributes, Facts, View};
pub use cache::{Cached, FilterCache};
pub(crate) use error::columns;
pub use error::{EvalError, EvalErrorKind, FilterError, FilterErrorKind, Span};
pub use explain::{Explained, Warning};
pub use filter::{Bound, Explanations, Filter, Judged, Verdict};
pub use index::{IndexKey, IndexRef, KeyKind, LookupKey, Schema, index_entries};
pub use json::JsonError;
pub use layout::{Key, Layout, Layouts, Map};
pub use planner::{Access, Plan};
pub use value::Value;
