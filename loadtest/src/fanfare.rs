//! Fanfare's dialect: what its clients and functions send, and what they look for.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{filter::Filter, token};

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// The user of this number.
    User(usize),
    /// Every connection.
    Everyone,
    /// The users that match a filter.
    Matching(Filter),
}

/// Where emits are sent.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Its API key, if it has any.
    pub(crate) key: Option<String>,
}

/// A client's upgrade request.
pub(crate) fn handshake(to: SocketAddr, token: &str) -> String {
    format!(
        "GET /v1/connect?token={token} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: fanfare.v1\r\n\r\n"
    )
}

/// Whether a text frame says that the connection is open.
pub(crate) fn is_welcome(frame: &[u8]) -> bool {
    frame.starts_with(br#"{"op":"welcome""#)
}

impl Api {
    /// The whole request that emits an event with `data` (JSON text) to `recipients`, on a connection that is kept.
    pub(crate) fn emit(&self, recipients: Recipients, data: &str) -> Vec<u8> {
        let target = match recipients {
            Recipients::User(user) => format!(r#","to":{{"users":["{}"]}}"#, token::name(user)),
            Recipients::Everyone => String::new(),
            Recipients::Matching(filter) => format!(r#","filter":{}"#, Value::from(filter.text())),
        };
        let body = format!(r#"{{"event":"load","data":{data}{target}}}"#);
        let key =
            self.key.as_ref().map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        format!(
            "POST /v1/emit HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_emit_has_a_body_of_json() {
        let api = Api { address: SocketAddr::from(([127, 0, 0, 1], 1)), key: Some("k".into()) };
        let matching = Recipients::Matching(Filter::SCAN_ALL);
        for recipients in [Recipients::User(3), Recipients::Everyone, matching] {
            let request = String::from_utf8(api.emit(recipients, "\"d\"")).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("Authorization: Bearer k\r\n"), "{head}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["data"], "d");
        }
    }
}
