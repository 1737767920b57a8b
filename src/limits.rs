//! Every bound of the server, in one place, each with the reason for its default.
//!
//! What a deployment may want to change is a field of [`Limits`] (the `[limits]` table of the configuration);
//! what only the code's own soundness asks for is a constant. There is a file for each subject, and each bound is named
//! `limits::NAME` wherever it is.

mod admission;
mod auth;
mod bus;
mod clients;
mod cluster;
mod data;
pub mod duration;
mod engineio;
mod history;
mod http;
mod idempotency;
mod members;
mod names;
mod process;
mod programs;
mod resume;
mod settings;
pub mod size;
mod slices;
mod sockets;

// The filter language and the protocols have bounds of their own: `fanfare_filter::limits`, `fanfare_protocol::limits`.
pub use fanfare_filter::limits::{DATA_DEPTH, FILTER_STEP_WORK, SUGGESTED_BYTES, TARGET_NAMES};
pub use fanfare_protocol::limits::{
    CHANNEL_NAME_BYTES, EVENT_NAME_BYTES, EXPIRED_RECONNECT, MESSAGE_FRAGMENTS,
    SOCKETIO_ATTACHMENTS, SOCKETIO_NAMESPACES, USER_BYTES,
};

pub use self::admission::*;
pub use self::auth::*;
pub use self::bus::*;
pub use self::clients::*;
pub use self::cluster::*;
pub use self::data::*;
pub use self::engineio::*;
pub use self::history::*;
pub use self::http::*;
pub use self::idempotency::*;
pub use self::members::*;
pub use self::names::*;
pub use self::process::*;
pub use self::programs::*;
pub use self::resume::*;
pub use self::settings::Limits;
pub use self::slices::*;
pub use self::sockets::*;
