//! The dialects of other protocols.

pub(crate) mod altogic;
pub(crate) mod mesa;
pub(crate) mod socketio;
pub(crate) mod zexcore;
