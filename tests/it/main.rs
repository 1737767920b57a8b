//! One node without Redis, as its clients, its callers and its operators use it: a module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a panic is how a test fails, and counters are whole"
)]

mod auth;
mod cel_conformance;
mod channels;
mod cli;
mod cors;
mod decoder;
mod deploy;
mod drain;
mod drops;
mod embed;
mod emit;
mod features;
mod history;
mod hostile;
mod http;
mod jwks;
mod layers;
mod library;
mod links;
mod page;
mod predicate_properties;
mod refusals;
mod reload;
mod rights;
mod slow_consumers;
mod stored;
mod websocket;

#[path = "../support/kept.rs"]
mod kept;
#[path = "../support/running.rs"]
mod running;
#[path = "../support/mod.rs"]
mod support;
