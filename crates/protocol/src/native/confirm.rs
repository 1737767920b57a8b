//! Pings that confirm stored events: a client that answers one has taken what was written before it.

use crate::frame::Frame;

const PREFIX: &[u8] = b"stored:";

/// A WebSocket ping to place after the stored event at `offset`; every client answers it by itself.
pub fn confirm_ping(offset: u64) -> Frame {
    Frame::ping(&[PREFIX, &offset.to_be_bytes()].concat())
}

/// The offset that a pong with `payload` confirms; `None` where it answers another ping.
pub fn confirmed(payload: &[u8]) -> Option<u64> {
    let offset = payload.strip_prefix(PREFIX)?.try_into().ok()?;
    Some(u64::from_be_bytes(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_says_what_its_ping_stood_behind() {
        for offset in [0, 1, u64::MAX] {
            assert_eq!(confirmed(confirm_ping(offset).payload()), Some(offset));
        }
        for other in [
            &b""[..],
            b"stored:",
            b"stored:1234567",
            b"stored:123456789",
            b"other::12345678",
        ] {
            assert_eq!(confirmed(other), None);
        }
    }
}
