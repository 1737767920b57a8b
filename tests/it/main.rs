//! One node without Redis, as its clients, its callers and its operators use it: a module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::too_many_lines,
    reason = "a panic is how a test fails, counters are whole, and a table of cases is as long as it is"
)]

mod altogic;
mod auth;
mod blocks;
mod calls;
mod channels;
mod cli;
mod commands;
mod cors;
mod data;
mod decoder;
mod dependencies;
mod deploy;
mod drain;
mod drops;
mod embed;
mod emit;
mod examples;
mod features;
mod fuzzing;
mod history;
mod hostile;
mod http;
mod jwks;
mod layers;
mod library;
mod links;
mod logging;
mod mesa;
mod openapi;
mod page;
mod polling;
mod protocols;
mod refusals;
mod reload;
mod revoke;
mod rights;
mod setup;
mod slow_consumers;
mod stored;
mod websocket;
mod words;
mod zexcore;

#[path = "../support/kept.rs"]
mod kept;
#[path = "../support/redis/port.rs"]
mod port;
#[path = "../support/running.rs"]
mod running;
#[path = "../support/mod.rs"]
mod support;
