#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "Fanfare is for Linux: it accepts by accept4, and writes to many by memfd and sendfile"
);

// The list is the layer diagram, bottom up: a module may use what stands above it here, and nothing below.
pub mod close;
pub mod id;
pub mod limits;
mod nearest;
mod time_slice;
pub mod metrics;
mod log_limit;
mod refusals;
mod supervisor;
mod outbound;
pub mod config;
pub mod predicate;
pub mod protocol;
pub mod auth;
mod broker;
mod history;
mod hub;
mod door;
mod rates;
mod app;
mod node;
mod key_fetch;
mod event_loop;
mod session;
mod http;
mod programs;
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

pub use crate::{
    app::SetupError,
    auth::{SignError, Signed},
    block_on::block_on,
    broker::RedisSetupError,
    config::{
        ApiKeyConfig, AppConfig, ChannelRule, ClientAuth, ClientKeyConfig, Config, ConfigError,
        DEFAULT_APP, KeyMaterial, Presence, RedisConfig, ReloadReport, Scope, Scopes, Secret,
        SlowConsumer, TokenAlgorithm, TokenKeyConfig, UserEvents,
    },
    dispatcher::{DispatchError, Dispatcher},
    emit::EmitError,
    history::HistoryError,
    hub::{Busy, Connection},
    limits::Limits,
    node::{
        Exceptions, Joins, NodeError, Placement, Receipt, ReplaceReceipt, RevokeReceipt, Target, To,
    },
    predicate::{FilterError, Value},
    protocol::event::EventError,
    reload::ReloadError,
    server::{Server, ServerBuilder, SignTokenError, StartError, TokenRequest},
    supervisor::TaskFailed,
};
/// The text of names, in [`Placement`] and in values: up to 23 bytes of it lie in place.
pub use smol_str::SmolStr;
