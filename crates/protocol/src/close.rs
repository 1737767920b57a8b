//! Close codes of the client protocol: the range says whether to come back.
//!
//! 4000–4099: not with the same credentials (4005: fetch a token, then come back). 4100–4199: with backoff.
//! 4200–4299: immediately, jittered. 1000–1015 are RFC 6455's own.

/// Why a connection is closed, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The close code on the wire.
    pub code: u16,
    /// A short text for people, at most 123 bytes (RFC 6455, section 5.5.1).
    pub reason: Box<str>,
}

impl Close {
    /// A close with `code`; `reason` is cut at 123 bytes, at a character's border.
    pub fn new(code: u16, reason: &str) -> Self {
        // A control frame has at most 125 bytes, and the code takes two of them.
        let mut end = reason.len().min(123);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            code,
            reason: reason[..end].into(),
        }
    }
}

/// Whether a client that is closed with `code` is not to come back with the same credentials.
pub fn is_final(code: u16) -> bool {
    (4000..4100).contains(&code)
}

/// The reason with [`UNAUTHORIZED`] for a client without a client key, in a protocol that asks for one.
pub const KEY_MISSING: &str = "a client key is required, but was not sent";
/// The reason for one with a client key that is not the app's.
pub const KEY_UNKNOWN: &str = "unknown client key";
/// The reason for a server library with an API key that is not the app's.
pub const API_KEY_UNKNOWN: &str = "unknown API key";
/// The reason for a client without a token, where one is required.
pub const TOKEN_MISSING: &str = "a token is required, but was not sent";
/// How the reason begins for a page that may not connect with any credentials.
pub const ORIGIN_REFUSED: &str = "the Origin ";
/// How the reason begins for a page that might connect with a token.
pub const PAGE_WITHOUT_TOKEN: &str = "a page without a token ";

/// Whether `reason` is that a page may not connect.
pub fn is_of_page(reason: &str) -> bool {
    reason.starts_with(ORIGIN_REFUSED) || reason.starts_with(PAGE_WITHOUT_TOKEN)
}

/// The client left by itself (RFC 6455, 7.4.1).
pub const NORMAL: u16 = 1000;
/// A violation of RFC 6455's framing.
pub const PROTOCOL: u16 = 1002;
/// No code was given; never on the wire.
pub const NO_STATUS: u16 = 1005;
/// The page was left, or loaded again (RFC 6455, section 7.4.1).
pub const GOING_AWAY: u16 = 1001;
/// The socket ended without a close frame; never on the wire.
pub const ABNORMAL: u16 = 1006;
/// A text message that is not UTF-8.
pub const NOT_UTF8: u16 = 1007;
/// A message over the size bound.
pub const TOO_BIG: u16 = 1009;
/// The token is missing where required, bad, or from elsewhere.
pub const UNAUTHORIZED: u16 = 4001;
/// Authenticated, and not allowed to connect.
pub const FORBIDDEN: u16 = 4003;
/// The token's time is over: it ran out without a renewal, or was over when the client connected.
pub const EXPIRED: u16 = 4005;
/// A message that is not JSON.
pub const BAD_MESSAGE: u16 = 4009;
/// Closed by `POST /v1/disconnect`.
pub const DISCONNECTED: u16 = 4010;
/// The client has resumed this connection by another one.
pub const REPLACED: u16 = 4011;
/// A limit found after the upgrade.
pub const OVER_LIMIT: u16 = 4100;
/// The client read too slowly.
pub const TOO_SLOW: u16 = 4101;
/// The client kept sending over its rate.
pub const RATE_LIMITED: u16 = 4102;
/// The node is leaving.
pub const DRAINING: u16 = 4200;
/// The client did not answer a ping.
pub const HEARTBEAT_MISSED: u16 = 4201;
