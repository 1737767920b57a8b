//! Messages of Mesa's dispatchers.
//!
//! With sync one node decides about each message, the one that leads; see [`crate::node`]'s part on Mesa. The others hold it
//! until they hear what was decided, so that the node that leads next decides about what is left.

use std::time::Instant;

use bytes::Bytes;

use super::{Work, pending::Message};
use crate::{
    http::{idempotency::digest, problem::Problem},
    node::{MesaApp, MesaChannel, MesaError, MesaSettled},
    protocol::mesa::Dispatched,
};

impl Work {
    /// Does what was heard of Mesa's programs, or holds it.
    pub(super) async fn hear_mesa(&mut self, channel: MesaChannel, payload: Bytes) {
        let app = self.app;
        let done = match channel {
            MesaChannel::Portal => self.node.portal_said(app, &payload),
            MesaChannel::Settled => self.settled(&payload).await,
            MesaChannel::Dispatched => match Dispatched::read(&payload) {
                Err(wrong) => Err(MesaError::Unreadable(wrong)),
                Ok(_) if self.decides() => {
                    self.hold_mesa(&payload);
                    Ok(())
                }
                Ok(dispatched) => self.node.mesa_carry_out(app, &dispatched).await,
            },
        };

        if let Err(error) = done {
            self.refuse_mesa(&error);
        }
    }

    /// Whether a node decides about messages before they are delivered.
    fn decides(&self) -> bool {
        self.node.mesa.get(self.app).is_some_and(MesaApp::has_sync)
    }

    fn hold_mesa(&mut self, payload: &Bytes) {
        let digest = digest(&[b"mesa", self.node.app(self.app).name.as_bytes(), payload]);
        let message = Message::new(payload.clone(), digest, Instant::now());
        for _ in self.mesa.hold(message) {
            self.lose("too much waits for a node to take the lead");
        }
    }

    async fn settled(&mut self, payload: &[u8]) -> Result<(), MesaError> {
        let settled = MesaSettled::read(payload)
            .ok_or_else(|| MesaError::Unreadable("it was not published by a node".to_owned()))?;
        if let Some(digest) = settled.done(self.node.id()) {
            self.mesa.done(digest, Instant::now());
        }
        self.node.mesa_settled(self.app, settled).await
    }

    /// Decides about what is held, if this node leads.
    pub(super) async fn settle_mesa(&mut self) {
        // This is asked before each: the lead may pass to another node in between.
        while self.node.leads(self.app)
            && let Some(Message { text, digest, .. }) = self.mesa.next()
        {
            match self.node.mesa_settle(self.app, &text, &digest).await {
                Ok(decided) if decided.full == 0 => {}
                Ok(decided) => match decided.over_quota {
                    Some(error) => self.lose(&error.to_string()),
                    None => self.lose("as much is stored for a user as may be"),
                },
                Err(error) => self.lose(&error.to_string()),
            }
        }

        while let Some(_late) = self.mesa.next_late(Instant::now()) {
            self.lose("no node has led for half a minute");
        }
    }

    fn refuse_mesa(&mut self, error: &MesaError) {
        let problem = Problem::bad_request(error.code(), error.to_string());
        self.refuse(&problem);
    }
}
