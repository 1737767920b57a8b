//! The attacks, by what they aim at.

mod bodies;
mod endings;
mod filters;
mod kept;
mod malformed;
mod operators;
mod protocols;
mod polling;
mod sessions;
mod sockets;

use super::attack::Attack;

pub(super) const FILTERS: &[Attack] = filters::ALL;
pub(super) const BODIES: &[Attack] = bodies::ALL;
pub(super) const KEPT: &[Attack] = kept::ALL;
pub(super) const SESSIONS: &[Attack] = sessions::ALL;
pub(super) const POLLING: &[Attack] = polling::ALL;
pub(super) const SOCKETS: &[Attack] = sockets::ALL;
pub(super) const PROTOCOLS: &[Attack] = protocols::ALL;
pub(super) const ENDINGS: &[Attack] = endings::ALL;
pub(super) const OPERATORS: &[Attack] = operators::ALL;
