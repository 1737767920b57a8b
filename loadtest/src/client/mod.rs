//! The receiving side: a process of many connections on one event loop, told what to do over a socket.

mod connection;
mod control;
mod fleet;
pub(crate) mod frames;
mod latencies;
mod slow;
mod storm;
mod tally;

pub(crate) use self::{
    control::{Arrival, Connect, Link, Notice, Order},
    fleet::run,
    latencies::{Seen, coarse, histogram, merge},
    slow::Heard,
    storm::Stormed,
    tally::{Expected, Report, Stream},
};
