//! What concerns clients of Mesa, and users whom Mesa's programs reach.

use super::{Foreign, client::Client};
use crate::{
    config::ProtocolKind,
    hub::Connection,
    id::AppId,
    node::{MesaArrival, MesaTake, Node, PortalNews},
    protocol::{
        event::Data,
        frame::Frame,
        mesa::{self, STORED_PING},
        wire::Out,
    },
};

/// A client of Mesa.
#[derive(Clone, Copy, Debug)]
pub(super) struct MesaSide {
    /// Whether it gets its user object when it has authenticated.
    sends_user_object: bool,
}

impl MesaSide {
    /// `None` for a client of another protocol. Portals learn that it has connected.
    pub(super) fn of(node: &Node, app: AppId, foreign: Option<&Foreign>) -> Option<Self> {
        foreign.filter(|foreign| foreign.protocol == ProtocolKind::Mesa.name())?;
        let config = &node.mesa.get(app)?.config;
        node.mesa.notify_portal(app, &PortalNews::Connected);
        Some(Self {
            sends_user_object: config.send_user_object,
        })
    }
}

impl Client {
    /// Takes what Mesa's dispatchers have stored for a user who comes, if there may be any.
    pub(super) async fn arrive_for_mesa(&self, connection: &Connection) -> Option<MesaArrival> {
        let take = match (self.mesa, self.store) {
            (Some(_), true) => MesaTake::Numbered,
            (Some(_), false) => MesaTake::Drop,
            (None, true) => MesaTake::Events,
            (None, false) => MesaTake::Leave,
        };
        self.node.mesa.arrive(connection, take).await
    }

    /// The frame by which a client of Mesa learns that it has authenticated.
    pub(super) fn authenticated_for_mesa(&self, connection: &Connection) -> Option<Frame> {
        let side = self.mesa?;
        let user = connection.user()?;
        let claims = side
            .sends_user_object
            .then_some(&connection.attributes.auth);
        let mut out = Out::default();
        mesa::authenticated(&mut out, user, claims);
        Some(out.into_frame())
    }

    /// Notifies a portal that a client of Mesa has authenticated.
    pub(super) fn has_authenticated_for_mesa(&self) {
        let Some(connection) = self.mesa.and_then(|_| self.connection()) else {
            return;
        };
        if let Some(user) = connection.user() {
            let news = PortalNews::Authenticated { user };
            self.node.mesa.notify_portal(self.app, &news);
        }
    }

    /// Whether `payload` answers the ping after what dispatchers had stored: the client has it then.
    pub(super) fn confirm_mesa(&self, payload: &[u8]) -> bool {
        // Any client may send such a pong. It counts if this connection was asked for one.
        payload == STORED_PING
            && self.connection().is_some_and(|connection| {
                let user = connection.user().unwrap_or_default();
                self.node.mesa.confirm(self.app, user, connection.id())
            })
    }

    /// Passes on to a portal what the client says; false if there is none.
    pub(super) fn notify_portal(
        &self,
        connection: &Connection,
        name: &str,
        data: &Data<'_>,
    ) -> bool {
        // Mesa has no bytes.
        let Data::Json(data) = data else { return false };
        let user = connection.user();
        let news = PortalNews::Message { user, name, data };
        self.mesa.is_some() && self.node.mesa.notify_portal(self.app, &news)
    }

    /// Notes that the client has gone.
    pub(super) fn leave_mesa(&self, connection: &Connection) {
        let user = connection.user();
        if let Some(user) = user {
            self.node.mesa.leave(self.app, user, connection.id());
        }
        if self.mesa.is_some() {
            self.node
                .mesa
                .notify_portal(self.app, &PortalNews::Disconnected { user });
        }
    }
}
