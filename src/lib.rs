//! Fanfare.

pub mod id;
pub mod limits;
pub mod close;
