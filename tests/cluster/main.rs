//! Several nodes over one Redis: what the contract promises of them, a module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a panic is how a test fails, and a scenario is as long as it is"
)]

mod acl;
mod apps;
mod away;
mod batches;
mod clients;
mod coming_from;
mod crash;
mod delivery;
mod dispatch;
mod examples;
mod gaps;
mod history;
mod idempotency;
mod interest;
mod leases;
mod lineage;
mod load_balancer;
mod logs;
mod looking;
mod mesa;
mod missed;
mod presence;
mod receipts;
mod recovering;
mod redis_support;
mod refused;
mod resume;
mod returning;
mod revoke;
mod rollout;
mod steering;
mod stored;
mod topologies;
mod upgrade;
mod waiting;
mod watching;
mod zexcore;

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/kept.rs"]
mod kept;
#[path = "../support/redis/mod.rs"]
mod redis;
#[path = "../support/running.rs"]
mod running;
#[path = "../support/mod.rs"]
mod support;

/// Counts messages from the bus of a version that this node does not know.
const UNKNOWN_VERSION: &str = "fanfare_bus_unknown_version_total";

/// Counts messages of programs that cannot be carried out.
const MALFORMED: &str = "fanfare_dispatch_malformed_total";
