#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod altogic;
pub mod close;
pub mod decoder;
pub mod engineio;
pub mod envelope;
pub mod event;
pub mod frame;
pub mod limits;
pub mod mesa;
pub mod native;
pub mod socketio;
pub mod wire;
pub mod zexcore;
