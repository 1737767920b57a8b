//! Fanfare is a realtime event server for code that cannot hold connections: clients keep a WebSocket to it, and a function sends
//! one HTTP request to reach every connection for which a filter is true.
//!
//! This crate is the server as a library. A program that embeds it runs the server beside its own work, emits events without
//! HTTP, and serves its clients' calls with functions of its own.
//!
//! ```rust
//! use fanfare::{Call, CallError, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # fanfare::block_on(async {
//! let server = Server::builder()
//!     .listen("127.0.0.1:0")
//!     .on_call("add", |call: Call| async move {
//!         let (a, b): (i64, i64) = call.parse()?;
//!         a.checked_add(b).ok_or_else(|| CallError::new("overflow", "the sum is too large"))
//!     })
//!     .start()?;
//! println!("clients connect to ws://{}/v1/connect", server.address());
//!
//! // To every connection whose token has this claim.
//! let receipt = server.emit("alert", "Hello", r#"auth.email == "ann@example.com""#).await?;
//! println!("it reached {} connections", receipt.queued);
//!
//! server.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! Start here:
//!
//! - [`Server`] has a method for each verb: [`emit`](Server::emit), [`publish`](Server::publish), [`send`](Server::send),
//!   [`broadcast`](Server::broadcast), [`dispatch`](Server::dispatch), [`join`](Server::join) and [`leave`](Server::leave).
//! - [`Server::builder`] starts a server with a configuration of [`config`]; [`Call`] is what a client asks of a function.
//! - [`Dispatcher`] emits to a cluster of servers through Redis, from a program that is not one of them.
//! - [`filter`] is the language of filters: it can be compiled and evaluated without a server.
//!
//! The server needs Linux and brings threads of its own, so it works with every flavour of tokio's runtime, and without one.
//! The guide to embedding, the protocol and all settings are in the repository's `docs`. `ARCHITECTURE.md` says how it is built.

#![forbid(unsafe_code)]

// Its programs are tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/guides/embedding.md")]
struct Embedding;

#[cfg(doctest)]
#[doc = include_str!("../docs/protocols/zexcore.md")]
struct ZexcoreGuide;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "Fanfare is for Linux: it accepts by accept4, and writes to many by memfd and sendfile"
);

// The list is the layer diagram, bottom up: a module may use what is above it here, and nothing below.
pub mod id;
pub mod limits;
mod time_slice;
pub mod metrics;
mod log_limit;
mod refusals;
mod supervisor;
mod outbound;
pub mod config;
pub mod auth;
mod bus;
mod history;
mod hub;
mod calls;
mod connection_limiter;
mod rates;
mod app;
mod node;
mod key_fetch;
mod event_loop;
mod session;
mod http;
mod dispatch_consumer;
mod drain;
mod block_on;
mod server;
mod reload;
mod emit;
mod dispatcher;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod fuzzing;
pub mod cli;

pub use fanfare_filter as filter;
use fanfare_filter::nearest;
pub use fanfare_filter::{FilterError, Value};
pub use fanfare_protocol as protocol;
pub use fanfare_protocol::close;

pub use crate::{
    app::SetupError,
    auth::{SignError, Signed},
    block_on::block_on,
    bus::RedisSetupError,
    calls::CallError,
    config::{
        ApiKeyConfig, AppConfig, ChannelRule, ClientAuth, ClientKeyConfig, Config, ConfigError,
        DEFAULT_APP, DataConfig, DataSync, KeyMaterial, Presence, ProtocolKind, ProtocolsConfig,
        RedisConfig, ReloadReport, Scope, Scopes, Secret, SlowConsumer, TokenAlgorithm,
        TokenKeyConfig, UserEvents,
    },
    dispatcher::{DispatchError, Dispatcher},
    emit::EmitError,
    history::{DataError, HistoryError},
    hub::{Busy, Connection},
    limits::Limits,
    node::{
        Exceptions, Joins, NodeError, Placement, Receipt, ReplaceReceipt, RevokeReceipt, Target, To,
    },
    protocol::event::EventError,
    reload::ReloadError,
    server::{Call, Server, ServerBuilder, SignTokenError, StartError, TokenRequest},
    supervisor::TaskFailed,
};
/// The text of names, in [`Placement`] and in values: up to 23 bytes of it lie in place.
pub use smol_str::SmolStr;
