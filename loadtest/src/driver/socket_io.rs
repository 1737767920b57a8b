//! Socket.IO 5 over Engine.IO 4, by WebSocket alone, as `peers/socket.io` serves it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Dialect, Recipients, Step};
use crate::{http, token};

/// Nothing has to be known of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SocketIo;

const PING: &[u8] = b"2";
const PONG: &str = "3";
const CONNECT: &str = "40";

impl Dialect for SocketIo {
    fn handshake(&self, to: SocketAddr, user: usize) -> String {
        let path = format!(
            "/socket.io/?EIO=4&transport=websocket&user={}",
            token::name(user)
        );
        http::upgrade(to, &path, "")
    }

    fn open(&self, _: usize, _: &mut u8, frame: Option<&[u8]>) -> Step {
        match frame {
            Some(PING) => Step::Say(vec![PONG.into()]),
            Some([b'0', ..]) => Step::Say(vec![CONNECT.into()]),
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
        match recipients {
            Recipients::User(user) => {
                http::post(to, &format!("/emit?user={}", token::name(user)), "", data)
            }
            Recipients::Everyone | Recipients::Matching(_) => http::post(to, "/emit", "", data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(frame: &str) -> Step {
        SocketIo.open(1, &mut 0, Some(frame.as_bytes()))
    }

    #[test]
    fn a_client_joins_the_main_namespace_and_is_open_once_it_is_in() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let request = SocketIo.handshake(to, 4);
        assert!(
            request.starts_with("GET /socket.io/?EIO=4&transport=websocket&user=u4 HTTP/1.1\r\n")
        );
        assert_eq!(SocketIo.open(1, &mut 0, None), Step::Wait);
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
        assert_eq!(SocketIo.ping(b"2"), Some("3"));
        assert_eq!(SocketIo.ping(br#"42["load","~1"]"#), None);
    }

    #[test]
    fn an_emit_names_its_user_in_the_path() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        for (recipients, path) in [
            (Recipients::Everyone, "/emit"),
            (Recipients::User(2), "/emit?user=u2"),
        ] {
            let request = String::from_utf8(SocketIo.emit(to, recipients, "\"~\"")).unwrap();
            assert!(
                request.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
                "{request}"
            );
            assert!(request.ends_with("\r\n\r\n\"~\""), "{request}");
        }
    }
}
