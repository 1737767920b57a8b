//! Bytes to types and back: WebSocket frames, client messages, envelopes between nodes. No I/O in here.

pub mod decoder;
