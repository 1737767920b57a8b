#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// Text goes through `lexer`, `parser` (a tree as written), `check` (names resolved) and `compiler` (closures);
// `planner` finds what an index can answer. No input makes any of them panic, and every input ends within the bounds of `limits`.
mod ast;
mod attributes;
mod cache;
mod check;
mod compiler;
#[cfg(test)]
mod costs;
mod error;
mod explain;
mod compiled;
mod functions;
pub mod id;
mod index;
mod json;
mod layout;
mod lexer;
pub mod limits;
#[doc(hidden)]
pub mod nearest;
mod parser;
mod pattern;
mod planner;
#[cfg(test)]
mod reference;
mod resolved;
mod runtime;
mod suggest;
mod tally;
mod value;

pub use attributes::{Attributes, ConnectionInfo, View};
pub use cache::{Cached, FilterCache};
pub use compiled::{Bound, Explanations, Filter, Judged, Verdict};
#[doc(hidden)]
pub use error::columns;
pub use error::{EvalError, EvalErrorKind, FilterError, FilterErrorKind, Span};
pub use explain::{Explained, Warning};
pub use index::{IndexKey, IndexRef, KeyKind, LookupKey, Schema, index_entries};
pub use json::JsonError;
pub use layout::{Layout, Layouts, Map, MapKey};
pub use planner::{Access, Plan};
pub use value::Value;
