//! Socket.IO 5 over Engine.IO 4, by WebSocket alone: as `peers/socket.io` serves it, and as Fanfare does.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Dialect, Fanfare, Recipients, Step, peer::Peer};
use crate::{http, token};

/// What a server wants of its clients and callers: nothing, unless it is Fanfare.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SocketIo(Peer);

impl SocketIo {
    /// The clients are those of Socket.IO, and the callers those of Fanfare.
    pub(super) fn of(fanfare: Fanfare) -> Self {
        Self(Peer::of(fanfare))
    }

    /// What Fanfare wants, if it is the server.
    pub(super) fn fanfare(&self) -> Option<&Fanfare> {
        self.0.fanfare()
    }

    /// What a client says to join the main namespace.
    fn connect(&self, user: usize) -> String {
        self.fanfare().map_or_else(
            || CONNECT.to_owned(),
            |fanfare| format!(r#"{CONNECT}{{"token":"{}"}}"#, fanfare.token(user)),
        )
    }
}

const PING: &[u8] = b"2";
const PONG: &str = "3";
const CONNECT: &str = "40";

impl Dialect for SocketIo {
    fn handshake(&self, to: SocketAddr, user: usize) -> String {
        let mut path = "/socket.io/?EIO=4&transport=websocket".to_owned();
        if self.fanfare().is_none() {
            path = format!("{path}&user={}", token::name(user));
        }
        http::upgrade(to, &path, "")
    }

    fn open(&self, user: usize, _: &mut u8, frame: Option<&[u8]>) -> Step {
        match frame {
            Some(PING) => Step::Say(vec![PONG.into()]),
            Some([b'0', ..]) => Step::Say(vec![self.connect(user)]),
            Some([b'4', b'0', ..]) => Step::Open,
            Some([b'4', b'4', why @ ..]) => {
                Step::Refused(String::from_utf8_lossy(why).into_owned())
            }
            _ => Step::Wait,
        }
    }

    fn ping(&self, frame: &[u8]) -> Option<&'static str> {
        (frame == PING).then_some(PONG)
    }

    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        self.0.emit(to, recipients, data)
    }

    fn knows_filters(&self) -> bool {
        self.0.knows_filters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(frame: &str) -> Step {
        SocketIo::default().open(1, &mut 0, Some(frame.as_bytes()))
    }

    #[test]
    fn a_client_joins_the_main_namespace_and_is_open_once_it_is_in() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let request = SocketIo::default().handshake(to, 4);
        assert!(
            request.starts_with("GET /socket.io/?EIO=4&transport=websocket&user=u4 HTTP/1.1\r\n")
        );
        assert_eq!(SocketIo::default().open(1, &mut 0, None), Step::Wait);
        assert_eq!(
            open(r#"0{"sid":"a","upgrades":[],"pingInterval":25000}"#),
            Step::Say(vec!["40".into()])
        );
        assert_eq!(open("2"), Step::Say(vec!["3".into()]));
        assert_eq!(open(r#"40{"sid":"b"}"#), Step::Open);
        assert_eq!(
            open(r#"44{"message":"no"}"#),
            Step::Refused(r#"{"message":"no"}"#.into())
        );
    }

    #[test]
    fn pings_are_told_from_events() {
        assert_eq!(SocketIo::default().ping(b"2"), Some("3"));
        assert_eq!(SocketIo::default().ping(br#"42["load","~1"]"#), None);
    }

    #[test]
    fn fanfare_gets_a_token_of_its_clients_and_emits_of_its_own() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let dialect = SocketIo::of(Fanfare::floor());
        let request = dialect.handshake(to, 4);
        assert!(request.starts_with("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"));
        let Step::Say(said) = dialect.open(4, &mut 0, Some(b"0{}")) else {
            panic!("it joins")
        };
        let auth = said[0].strip_prefix("40").expect("a packet that joins");
        let auth: serde_json::Value = serde_json::from_str(auth).unwrap();
        let token = auth["token"].as_str().unwrap();
        assert_eq!(token::subject(token).as_deref(), Some("u4"));
        let request = dialect.emit(to, Recipients::Everyone, "\"~\"");
        assert!(request.starts_with(b"POST /v1/emit HTTP/1.1\r\n"));
    }
}
