//! The reasons that label numbers: why an event was lost, a caller refused, a connection closed.

use crate::close;

/// Why an event that was placed for a connection, or stored for a user, did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The client read too slowly and was closed.
    Slow,
    /// The client read too slowly and lost its oldest events, as configured.
    Oldest,
    /// The connection ended first.
    Gone,
    /// It was stored for a user who did not come in time, and made room for newer events.
    StoredOver,
    /// It was stored for a user who did not come in time, and became too old.
    StoredExpired,
}

impl DropReason {
    pub(super) const ALL: [Self; 5] = [
        Self::Slow,
        Self::Oldest,
        Self::Gone,
        Self::StoredOver,
        Self::StoredExpired,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow_consumer",
            Self::Oldest => "oldest",
            Self::Gone => "connection_gone",
            Self::StoredOver => "stored_over_bound",
            Self::StoredExpired => "stored_expired",
        }
    }
}

/// Why a handshake, or a call, was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node holds as many connections as it may.
    Connections,
    /// Too many connections from one address.
    Address,
    /// Handshakes came faster than the accept rate.
    AcceptRate,
    /// The node is leaving.
    Draining,
    /// The page's Origin is not allowed.
    Origin,
    /// Without API keys: the `Host` is not this machine.
    Host,
    /// Without API keys: a proxy passed the request on.
    Proxy,
    /// Without API keys: the request comes from another machine.
    Remote,
    /// Without API keys: a body that a page's form could have sent.
    ContentType,
    /// A page of another origin asked whether it may call (CORS).
    Preflight,
    /// The API key is missing or unknown.
    ApiKey,
    /// The API key lacks a scope.
    Scope,
    /// The client key is unknown.
    ClientKey,
    /// A client's token is bad.
    Token,
    /// A client's token has expired.
    TokenExpired,
    /// A client that must have a token sent none in time.
    TokenMissing,
    /// The keys that may verify a client's token cannot be fetched.
    TokenKeys,
    /// There is no such app.
    App,
    /// The query of a handshake cannot be read.
    Query,
    /// A WebSocket handshake on a path that takes none.
    Path,
    /// What came to `/v1/connect` is not a WebSocket handshake of RFC 6455.
    Handshake,
    /// The client offers only other protocols.
    Protocol,
}

impl Refusal {
    /// Every reason, each in its own place.
    pub const ALL: [Self; 22] = [
        Self::Connections,
        Self::Address,
        Self::AcceptRate,
        Self::Draining,
        Self::Origin,
        Self::Host,
        Self::Proxy,
        Self::Remote,
        Self::ContentType,
        Self::Preflight,
        Self::ApiKey,
        Self::Scope,
        Self::ClientKey,
        Self::Token,
        Self::TokenExpired,
        Self::TokenMissing,
        Self::TokenKeys,
        Self::App,
        Self::Query,
        Self::Path,
        Self::Handshake,
        Self::Protocol,
    ];

    /// The name in the label `reason`, and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "address",
            Self::AcceptRate => "accept_rate",
            Self::Draining => "draining",
            Self::Origin => "origin",
            Self::Host => "host",
            Self::Proxy => "proxy",
            Self::Remote => "remote",
            Self::ContentType => "content_type",
            Self::Preflight => "preflight",
            Self::ApiKey => "api_key",
            Self::Scope => "scope",
            Self::ClientKey => "client_key",
            Self::Token => "token",
            Self::TokenExpired => "token_expired",
            Self::TokenMissing => "token_missing",
            Self::TokenKeys => "token_keys",
            Self::App => "app",
            Self::Query => "query",
            Self::Path => "path",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
        }
    }

    /// Whether the node lacks room, and nothing is wrong with the client.
    pub fn is_capacity(self) -> bool {
        matches!(self, Self::Connections | Self::Address | Self::AcceptRate)
    }
}

/// Close codes that have a series of their own. A client, and a caller who closes one by the API, may take any other, and
/// each would be a series forever.
const CLOSE_CODES: [(u16, &str); 21] = [
    (1000, "1000"),
    (1001, "1001"),
    (1002, "1002"),
    (1003, "1003"),
    (1005, "1005"),
    (1006, "1006"),
    (1007, "1007"),
    (1008, "1008"),
    (1009, "1009"),
    (1011, "1011"),
    (close::UNAUTHORIZED, "4001"),
    (close::FORBIDDEN, "4003"),
    (close::EXPIRED, "4005"),
    (close::BAD_MESSAGE, "4009"),
    (close::DISCONNECTED, "4010"),
    (close::REPLACED, "4011"),
    (close::OVER_LIMIT, "4100"),
    (close::TOO_SLOW, "4101"),
    (close::RATE_LIMITED, "4102"),
    (close::DRAINING, "4200"),
    (close::HEARTBEAT_MISSED, "4201"),
];

/// The label of a close code.
pub(super) fn close_label(code: u16) -> &'static str {
    let known = CLOSE_CODES.iter().find(|(known, _)| *known == code);
    known.map_or("other", |(_, label)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_place_and_a_name_of_its_own() {
        let mut names: Vec<&str> = Refusal::ALL.map(Refusal::name).to_vec();
        for (place, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place, "{why:?}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
