//! Bytes to types and back: WebSocket frames, client messages, and how other protocols write both. No I/O in here.

pub mod altogic;
pub mod decoder;
pub mod engineio;
pub(crate) mod envelope;
pub mod event;
pub mod frame;
pub mod mesa;
pub mod native;
pub mod socketio;
pub mod wire;
pub mod zexcore;
