//! Fanfare.

pub mod close;
pub mod id;
pub mod limits;
pub mod predicate;
