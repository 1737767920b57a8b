//! A server of the harness's own under `peers`, or Fanfare in its place for the same clients.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Dialect, Fanfare, Recipients};
use crate::{http, token};

/// Which of both it is, and how callers speak to it: the harness's own want nothing of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Peer(Option<Fanfare>);

impl Peer {
    /// Fanfare, with what it wants of its callers.
    pub(super) fn of(fanfare: Fanfare) -> Self {
        Self(Some(fanfare))
    }

    /// What Fanfare wants, if it is the server.
    pub(super) fn fanfare(&self) -> Option<&Fanfare> {
        self.0.as_ref()
    }

    /// The request that emits an event; see [`Dialect::emit`].
    pub(super) fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        match (self.fanfare(), recipients) {
            (Some(fanfare), _) => fanfare.emit(to, recipients, data),
            (None, Recipients::User(user)) => {
                http::post(to, &format!("/emit?user={}", token::name(user)), "", data)
            }
            (None, Recipients::Everyone | Recipients::Matching(_)) => {
                http::post(to, "/emit", "", data)
            }
        }
    }

    /// Whether events can go to whoever a filter is true for.
    pub(super) fn knows_filters(&self) -> bool {
        self.fanfare().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emit_names_its_user_in_the_path_or_goes_to_fanfare() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let line = |peer: &Peer, recipients| {
            let request = String::from_utf8(peer.emit(to, recipients, "\"~\"")).unwrap();
            request.lines().next().unwrap().to_owned()
        };
        let (own, fanfare) = (Peer::default(), Peer::of(Fanfare::floor()));
        for (peer, recipients, expected) in [
            (&own, Recipients::User(2), "POST /emit?user=u2 HTTP/1.1"),
            (&own, Recipients::Everyone, "POST /emit HTTP/1.1"),
            (&fanfare, Recipients::User(2), "POST /v1/emit HTTP/1.1"),
        ] {
            assert_eq!(line(peer, recipients), expected);
        }
        assert!(fanfare.knows_filters() && !own.knows_filters());
    }
}
