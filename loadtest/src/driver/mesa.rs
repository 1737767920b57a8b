//! Mesa's frames: as `peers/mesa` serves them, and as Fanfare does.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Dialect, Fanfare, Recipients, Step, peer::Peer};
use crate::{http, token::Signer};

/// What a server wants of its clients and callers: a token that nobody checks, unless it is Fanfare.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mesa(Peer);

impl Mesa {
    /// The clients are those of Mesa, and the callers those of Fanfare.
    pub(super) fn of(fanfare: Fanfare) -> Self {
        Self(Peer::of(fanfare))
    }

    /// What Fanfare wants, if it is the server.
    pub(super) fn fanfare(&self) -> Option<&Fanfare> {
        self.0.fanfare()
    }

    /// What a client says to be known.
    fn authenticate(&self, user: usize) -> String {
        let token = self.fanfare().map_or_else(
            || Signer::new(UNCHECKED).sign(user),
            |fanfare| fanfare.token(user),
        );
        format!(r#"{{"op":2,"d":{{"token":"{token}","shouldSync":true}}}}"#)
    }
}

/// Signs tokens for the peer, which reads their user and checks nothing.
const UNCHECKED: &str = "the peer checks nothing";

const HELLO: &[u8] = br#"{"op":10,"#;
const AUTHENTICATED: &[u8] = br#"{"op":22,"#;
const HEARTBEAT: &[u8] = br#"{"op":1,"#;
const ALIVE: &str = r#"{"op":11,"d":{}}"#;

impl Dialect for Mesa {
    fn handshake(&self, to: SocketAddr, _: usize) -> String {
        http::upgrade(to, "/mesa", "")
    }

    fn open(&self, user: usize, _: &mut u8, frame: Option<&[u8]>) -> Step {
        match frame {
            Some(frame) if frame.starts_with(HELLO) => Step::Say(vec![self.authenticate(user)]),
            Some(frame) if frame.starts_with(HEARTBEAT) => Step::Say(vec![ALIVE.into()]),
            Some(frame) if frame.starts_with(AUTHENTICATED) => Step::Open,
            _ => Step::Wait,
        }
    }

    fn ping(&self, frame: &[u8]) -> Option<&'static str> {
        frame.starts_with(HEARTBEAT).then_some(ALIVE)
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
    use crate::token;

    #[test]
    fn a_client_authenticates_on_the_hello_and_is_open_once_it_is_known() {
        for dialect in [Mesa::default(), Mesa::of(Fanfare::floor())] {
            let open = |frame: &str| dialect.open(7, &mut 0, Some(frame.as_bytes()));
            assert_eq!(dialect.open(7, &mut 0, None), Step::Wait);
            let Step::Say(said) = open(r#"{"op":10,"d":{"rules":[]}}"#) else {
                panic!("it authenticates")
            };
            let said: serde_json::Value = serde_json::from_str(&said[0]).unwrap();
            assert_eq!(said["op"], 2);
            let token = said["d"]["token"].as_str().unwrap();
            assert_eq!(token::subject(token).as_deref(), Some("u7"));
            assert_eq!(open(r#"{"op":1,"d":{}}"#), Step::Say(vec![ALIVE.into()]));
            assert_eq!(open(r#"{"op":22,"d":{"id":"u7"}}"#), Step::Open);
        }
    }

    #[test]
    fn heartbeats_are_told_from_other_messages() {
        let ping = |frame: &str| Mesa::default().ping(frame.as_bytes());
        assert_eq!(ping(r#"{"op":1,"d":{"tries":1,"max":3}}"#), Some(ALIVE));
        assert_eq!(ping(r#"{"op":11,"d":{}}"#), None);
        assert_eq!(ping(r#"{"op":0,"d":"~1","t":"load"}"#), None);
    }
}
