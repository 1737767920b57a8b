//! Fanfare.

pub mod close;
pub mod id;
pub mod limits;
pub mod metrics;
pub mod protocol {
    //! Bytes to types and back.
    pub mod event;
    pub mod frame;
}
