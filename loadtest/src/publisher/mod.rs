//! The sending side: callers on kept HTTP connections, in lanes, on the test's own event loop.

mod caller;
mod drive;
mod lane;

pub(crate) use self::{
    drive::{Bound, Outcome, drive},
    lane::{Aim, Lane, Pace},
};
