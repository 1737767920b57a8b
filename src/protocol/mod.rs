//! Bytes to types and back: WebSocket frames, client messages. No I/O in here.

pub mod decoder;
pub(crate) mod envelope;
pub mod event;
pub mod frame;
pub mod native;
