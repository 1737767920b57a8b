//! The sending side: callers on kept HTTP connections, in lanes, on the test's own event loop.

mod caller;
mod drive;
mod lane;
mod sampler;
mod timeline;

pub(crate) use self::{
    drive::{Bound, Outcome, drive},
    lane::{Aim, Lane, LaneOutcome, Pace},
    sampler::Sample,
    timeline::Point,
};
