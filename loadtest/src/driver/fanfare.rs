//! Fanfare's dialect, which the floor speaks too.

use std::{net::SocketAddr, process::Command};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dialect, Recipients, Step};
use crate::{
    cli::Target,
    http,
    token::{self, Signer},
};

/// What a Fanfare server wants of its clients and callers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fanfare {
    /// Signs the clients' tokens.
    secret: String,
    /// Its API key, if it has any.
    key: Option<String>,
}

impl Fanfare {
    pub(super) fn new(target: &Target) -> Self {
        Self { secret: target.token_secret.clone(), key: target.api_key.clone() }
    }

    /// The header line that a caller is let in by.
    pub(super) fn authorization(&self) -> String {
        self.key.as_ref().map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"))
    }

    pub(super) fn floor() -> Self {
        Self { secret: "the floor checks nothing".into(), key: None }
    }
}

/// Fanfare's program, unless another is named.
pub(super) const PROGRAM: &str = "fanfare";

/// What starts it on `address`.
pub(super) fn command(target: &Target, address: SocketAddr) -> Command {
    let mut command = Command::new(target.place().program_or(PROGRAM));
    let limits = ["--limit", "accepts_per_second=1000000"];
    // By its variable, so that a --server-arg may say otherwise.
    command.env("FANFARE_LOG", "warn");
    command.args(["serve", "--token-secret", &target.token_secret]).args(limits);
    command.args(&target.server_arg);
    if let Some(key) = &target.api_key {
        command.args(["--api-key", key]);
    }
    command.args(["--listen", &address.to_string()]);
    command
}

impl Dialect for Fanfare {
    fn handshake(&self, to: SocketAddr, user: usize) -> String {
        let path = format!("/v1/connect?token={}", Signer::new(&self.secret).sign(user));
        http::upgrade(to, &path, "Sec-WebSocket-Protocol: fanfare.v1\r\n")
    }

    fn open(&self, _: usize, _: &mut u8, frame: Option<&[u8]>) -> Step {
        let is_welcome = frame.is_some_and(|frame| frame.starts_with(br#"{"op":"welcome""#));
        if is_welcome { Step::Open } else { Step::Wait }
    }

    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        let target = match recipients {
            Recipients::User(user) => format!(r#","to":{{"users":["{}"]}}"#, token::name(user)),
            Recipients::Everyone => String::new(),
            Recipients::Matching(filter) => format!(r#","filter":{}"#, Value::from(filter.text())),
        };
        let body = format!(r#"{{"event":"load","data":{data}{target}}}"#);
        http::post(to, "/v1/emit", &self.authorization(), &body)
    }

    fn knows_filters(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    fn fanfare() -> Fanfare {
        Fanfare { secret: "0123456789abcdef0123456789abcdef".into(), key: Some("k".into()) }
    }

    #[test]
    fn every_emit_has_a_body_of_json() {
        let matching = Recipients::Matching(Filter::SCAN_ALL);
        for recipients in [Recipients::User(3), Recipients::Everyone, matching] {
            let request = fanfare().emit(([127, 0, 0, 1], 1).into(), recipients, "\"d\"");
            let request = String::from_utf8(request).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("Authorization: Bearer k\r\n"), "{head}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["data"], "d");
        }
    }

    #[test]
    fn a_client_is_open_with_its_welcome() {
        let (fanfare, mut heard) = (fanfare(), 0);
        assert_eq!(fanfare.open(1, &mut heard, None), Step::Wait);
        assert_eq!(fanfare.open(1, &mut heard, Some(br#"{"op":"members"}"#)), Step::Wait);
        assert_eq!(fanfare.open(1, &mut heard, Some(br#"{"op":"welcome","id":"c"}"#)), Step::Open);
    }
}
