//! Fanfare.

pub mod close;
pub mod id;
pub mod limits;

pub mod auth;
pub mod config;
pub mod protocol;
