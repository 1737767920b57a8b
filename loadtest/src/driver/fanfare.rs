//! Fanfare's dialect, which the floor speaks too.

use std::{net::SocketAddr, process::Command};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dialect, Recipients, Step};
use crate::{
    cli::{Kind, Target},
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
    /// Over how many channels the clients spread, each a member of one; none join without it.
    channels: Option<usize>,
}

impl Fanfare {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            secret: target.token_secret.clone(),
            key: target.api_key.clone(),
            channels: None,
        }
    }

    /// The token of the client for `user`.
    pub(super) fn token(&self, user: usize) -> String {
        Signer::new(&self.secret).sign(user)
    }

    /// The header line that a caller is let in by.
    pub(super) fn authorization(&self) -> String {
        self.key.as_ref().map_or_else(String::new, |key| {
            format!("Authorization: Bearer {key}\r\n")
        })
    }

    /// The same, but clients join one of so many channels, and half of them hear who comes and goes there.
    pub(super) fn in_channels(&self, channels: usize) -> Self {
        Self {
            channels: Some(channels.max(1)),
            ..self.clone()
        }
    }

    pub(super) fn floor() -> Self {
        Self {
            secret: "the floor checks nothing".into(),
            key: None,
            channels: None,
        }
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
    command
        .args(["serve", "--token-secret", &target.token_secret])
        .args(limits);
    match target.kind() {
        Kind::FanfareSocketIo => command.args(["--protocol", "socketio"]),
        Kind::FanfareMesa => command.args(["--protocol", "mesa"]),
        _ => &mut command,
    };
    command.args(&target.server_arg);
    if let Some(key) = &target.api_key {
        command.args(["--api-key", key]);
    }
    command.args(["--listen", &address.to_string()]);
    command
}

impl Dialect for Fanfare {
    fn handshake(&self, to: SocketAddr, user: usize) -> String {
        let path = format!("/v1/connect?token={}", self.token(user));
        http::upgrade(to, &path, "Sec-WebSocket-Protocol: fanfare.v1\r\n")
    }

    fn open(&self, user: usize, heard: &mut u8, frame: Option<&[u8]>) -> Step {
        const WELCOMED: u8 = 1;
        let awaited: &[u8] = if *heard == WELCOMED {
            br#"{"op":"ack""#
        } else {
            br#"{"op":"welcome""#
        };
        let refusal = frame.filter(|frame| frame.starts_with(br#"{"op":"error""#));
        match (
            frame.is_some_and(|frame| frame.starts_with(awaited)),
            self.channels,
        ) {
            (true, Some(channels)) if *heard != WELCOMED => {
                *heard = WELCOMED;
                let (channel, members) = (user % channels, (user / channels).is_multiple_of(2));
                Step::Say(vec![format!(
                    r#"{{"op":"join","id":1,"channel":"load-{channel}","members":{members}}}"#
                )])
            }
            (true, _) => Step::Open,
            (false, _) => match refusal {
                Some(frame) => Step::Refused(String::from_utf8_lossy(frame).into_owned()),
                None => Step::Wait,
            },
        }
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
        Fanfare {
            secret: "0123456789abcdef0123456789abcdef".into(),
            key: Some("k".into()),
            channels: None,
        }
    }

    #[test]
    fn every_emit_has_a_body_of_json() {
        let matching = Recipients::Matching(Filter::SCAN_ALL);
        for recipients in [Recipients::User(3), Recipients::Everyone, matching] {
            let request = fanfare().emit(([127, 0, 0, 1], 1).into(), recipients, "\"d\"");
            let request = String::from_utf8(request).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("Authorization: Bearer k\r\n"), "{head}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(body).unwrap()["data"],
                "d"
            );
        }
    }

    #[test]
    fn a_client_is_open_with_its_welcome() {
        let (fanfare, mut heard) = (fanfare(), 0);
        assert_eq!(fanfare.open(1, &mut heard, None), Step::Wait);
        assert_eq!(
            fanfare.open(1, &mut heard, Some(br#"{"op":"members"}"#)),
            Step::Wait
        );
        assert_eq!(
            fanfare.open(1, &mut heard, Some(br#"{"op":"welcome","id":"c"}"#)),
            Step::Open
        );
    }

    #[test]
    fn a_client_that_joins_is_open_with_the_answer() {
        let (fanfare, mut heard) = (fanfare().in_channels(10), 0);
        let welcome: &[u8] = br#"{"op":"welcome","id":"c"}"#;
        let Step::Say(said) = fanfare.open(13, &mut heard, Some(welcome)) else {
            panic!("it joins")
        };
        assert_eq!(
            said,
            [r#"{"op":"join","id":1,"channel":"load-3","members":false}"#]
        );
        assert_eq!(
            fanfare.open(13, &mut heard, Some(br#"{"op":"member","kind":"joined"}"#)),
            Step::Wait
        );
        let refused: &[u8] = br#"{"op":"error","id":1,"code":"forbidden"}"#;
        assert!(matches!(
            fanfare.open(13, &mut heard, Some(refused)),
            Step::Refused(_)
        ));
        assert_eq!(
            fanfare.open(13, &mut heard, Some(br#"{"op":"ack","id":1}"#)),
            Step::Open
        );
        let Step::Say(said) = fanfare.open(2, &mut 0, Some(welcome)) else {
            panic!("it joins")
        };
        assert!(
            said[0].ends_with(r#""channel":"load-2","members":true}"#),
            "{said:?}"
        );
    }
}
