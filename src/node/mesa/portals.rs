//! Portals: programs that hear over Redis of clients and of what they say. Each piece of news is for one of them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClusterHandles, Mesa, MesaApp, MesaError};
use crate::{
    bus::BusError,
    id::AppId,
    limits::{MESA_PORTAL_BYTES, MESA_PORTALS},
};

/// The portals that are there. News goes to one after the other.
#[derive(Debug, Default)]
pub(super) struct Portals {
    ids: Vec<String>,
    next: usize,
}

/// The news of a client for a portal. `user` is its id, if it has authenticated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortalNews<'a> {
    /// It has connected.
    Connected,
    /// It has authenticated.
    Authenticated { user: &'a str },
    /// It has sent a message.
    Message {
        user: Option<&'a str>,
        name: &'a str,
        data: &'a RawValue,
    },
    /// It has gone.
    Disconnected { user: Option<&'a str> },
}

/// The same as portals read it.
#[derive(Serialize)]
struct SentNews<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<SentMessage<'a>>,
    #[serde(rename = "clientId", skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "portalId")]
    portal: &'a str,
}

#[derive(Serialize)]
struct SentMessage<'a> {
    op: u32,
    d: &'a RawValue,
    t: &'a str,
}

/// What a portal says when it comes or goes.
#[derive(Deserialize)]
struct Said {
    id: String,
    ready: bool,
}

impl Said {
    fn read(payload: &[u8]) -> Result<Self, MesaError> {
        let said: Self = serde_json::from_slice(payload)
            .map_err(|error| MesaError::Unreadable(format!("portal: {error}")))?;
        if !is_id(&said.id) {
            return Err(MesaError::Unreadable(format!(
                "portal: id has {} bytes; 1 to {MESA_PORTAL_BYTES} are taken",
                said.id.len()
            )));
        }
        Ok(said)
    }
}

fn is_id(id: &str) -> bool {
    (1..=MESA_PORTAL_BYTES).contains(&id.len())
}

impl Portals {
    fn note(&mut self, id: String, is_ready: bool) {
        self.ids.retain(|known| *known != id);
        // Anyone who can publish there can make up portals, so they are bounded.
        if is_ready && self.ids.len() < MESA_PORTALS {
            self.ids.push(id);
        }
    }

    /// Knows just `ids`, as far as they can be some.
    fn replace(&mut self, ids: Vec<String>) {
        let ids = ids.into_iter().filter(|id| is_id(id));
        // `next` may point past them now. `choose` puts that right.
        self.ids = ids.take(MESA_PORTALS).collect();
    }

    /// The next one.
    fn choose(&mut self) -> Option<&str> {
        // One after the other, so that each has its part of the news.
        self.next = (self.next + 1) % self.ids.len().max(1);
        self.ids.get(self.next).map(String::as_str)
    }
}

impl PortalNews<'_> {
    fn addressed_to<'t>(&'t self, portal: &'t str) -> SentNews<'t> {
        let (kind, user, message) = match self {
            Self::Connected => ("connection", None, None),
            Self::Authenticated { user } => ("authentication", Some(*user), None),
            Self::Message { user, name, data } => {
                let message = SentMessage {
                    op: 0,
                    d: data,
                    t: name,
                };
                ("message", *user, Some(message))
            }
            Self::Disconnected { user } => ("disconnection", *user, None),
        };

        SentNews {
            kind,
            message,
            user,
            portal,
        }
    }
}

impl Mesa {
    /// Sends a portal news of a client, if there is one and the app has portals. Returns whether there is.
    pub(crate) fn notify_portal(&self, app: AppId, news: &PortalNews<'_>) -> bool {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return false;
        };
        if !mesa.config.portal {
            return false;
        }

        let sent = {
            let mut portals = mesa.portals.lock();
            let chosen = portals.choose();
            chosen.and_then(|portal| serde_json::to_vec(&news.addressed_to(portal)).ok())
        };

        let Some(sent) = sent else { return false };
        // Queued immediately, whether or not it is waited for.
        drop(cluster.bus.publish(&mesa.portal, sent.into()));
        true
    }

    /// Notes that a portal comes or goes, as it has said.
    ///
    /// # Errors
    /// [`MesaError::Unreadable`] if that is not a message of a portal.
    pub(crate) fn portal_said(&self, app: AppId, payload: &[u8]) -> Result<(), MesaError> {
        let Said { id, ready } = Said::read(payload)?;
        if let Some(mesa) = self.get(app) {
            mesa.portals.lock().note(id, ready);
        }
        Ok(())
    }

    /// Reads which portals there are.
    pub(super) async fn read_portals(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Result<(), BusError> {
        if !mesa.config.portal {
            return Ok(());
        }
        let mut command = redis::cmd("SMEMBERS");
        command.arg(cluster.bus.channel(&mesa.pool));
        let answer = cluster
            .bus
            .command(&cluster.keys(mesa.app).home, command)
            .await?;
        let ids: Vec<String> = redis::from_redis_value(answer).unwrap_or_default();
        mesa.portals.lock().replace(ids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn portals_have_their_turns() {
        let mut portals = Portals::default();
        assert_eq!(portals.choose(), None);
        for id in ["a", "b", "a"] {
            portals.note(id.to_owned(), true);
        }
        let chosen: Vec<String> = (0..4)
            .filter_map(|_| portals.choose().map(str::to_owned))
            .collect();
        assert_eq!(chosen, ["a", "b", "a", "b"]);
        portals.note("a".to_owned(), false);
        assert_eq!(portals.choose(), Some("b"));
    }

    #[test]
    fn a_portal_whose_id_is_too_long_is_refused_and_passed_over() {
        let said = |id: &str| Said::read(json!({"id": id, "ready": true}).to_string().as_bytes());
        let (longest, longer) = (
            "p".repeat(MESA_PORTAL_BYTES),
            "p".repeat(MESA_PORTAL_BYTES + 1),
        );
        assert_eq!(said(&longest).unwrap().id, longest);
        let refused = said(&longer).err().unwrap().to_string();
        assert_eq!(refused, "portal: id has 129 bytes; 1 to 128 are taken");
        assert!(said("").is_err() && Said::read(b"{}").is_err());

        let mut portals = Portals::default();
        portals.replace(vec![longer, longest.clone(), String::new()]);
        assert_eq!(portals.ids, [longest]);
        let many = (0..=MESA_PORTALS).map(|nth| nth.to_string()).collect();
        portals.replace(many);
        assert_eq!(portals.ids.len(), MESA_PORTALS);
    }

    #[test]
    fn news_are_as_portals_read_them() {
        let data: &RawValue = serde_json::from_str("[1.0]").unwrap();
        let message = PortalNews::Message {
            user: Some("0"),
            name: "T",
            data,
        };
        let sent = |news: PortalNews<'_>| serde_json::to_value(news.addressed_to("p")).unwrap();
        assert_eq!(
            sent(message),
            json!({"type": "message", "message": {"op": 0, "d": [1.0], "t": "T"}, "clientId": "0", "portalId": "p"})
        );
        assert_eq!(
            sent(PortalNews::Connected),
            json!({"type": "connection", "portalId": "p"})
        );
        assert_eq!(
            sent(PortalNews::Authenticated { user: "0" })["type"],
            "authentication"
        );
        assert_eq!(
            sent(PortalNews::Disconnected { user: None }),
            json!({"type": "disconnection", "portalId": "p"})
        );
    }
}
