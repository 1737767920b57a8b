//! Messages of Mesa's dispatchers.
//!
//! With sync one node decides about each message, the one that leads; see [`crate::node`]'s part on Mesa. The others hold it
//! until they hear what was decided, so that the node that leads next decides about what is left. That node may have yet to hear
//! what the one before has decided, so it waits first until it has ([`Lead`]).

use std::time::Instant;

use bytes::Bytes;

use super::{Work, pending::Message};
use crate::{
    http::{idempotency::digest, problem::Problem},
    limits::MESA_LEAD_AGAIN,
    node::{MesaApp, MesaChannel, MesaError, MesaNotSettled, MesaProgress, MesaSettled},
    protocol::mesa::Dispatched,
};

/// Whether this node may decide about messages.
///
/// ```text
/// Not ── it leads, and takes the lead in Redis ──► Taken ── it hears that ──► Sure
///  ▲                                                 │                         │
///  └────────────── it does not lead, or Redis says that another node decides ──┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lead {
    /// It does not, or has yet to take the lead.
    #[default]
    Not,
    /// It has yet to hear what was decided before. It hears that before any lead that it has taken from the `first` on.
    Taken { since: Instant, first: u64 },
    /// It has heard all of that.
    Sure,
}

impl Work {
    /// Does what was heard of Mesa's programs, or holds it.
    pub(super) async fn hear_mesa(&mut self, channel: MesaChannel, payload: Bytes) {
        let app = self.app;
        let done = match channel {
            MesaChannel::Portal => self.node.mesa.portal_said(app, &payload),
            MesaChannel::Settled => self.settled(&payload).await,
            MesaChannel::Dispatched => match Dispatched::read(&payload) {
                Err(wrong) => Err(MesaError::Unreadable(wrong)),
                Ok(_) if self.decides() => {
                    self.hold_mesa(&payload);
                    Ok(())
                }
                Ok(dispatched) => self.node.mesa.carry_out(app, &dispatched).await,
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
        let own = self.node.id();
        match settled.progress(own) {
            Some(MesaProgress::Done(digest)) => self.mesa.done(digest.to_owned(), Instant::now()),
            Some(MesaProgress::Part(digest, users)) => {
                self.mesa
                    .done_in_part(digest.to_owned(), users, Instant::now());
            }
            None => {}
        }
        if let Lead::Taken { first, .. } = self.lead
            && settled.takes_lead(own).is_some_and(|taken| taken >= first)
        {
            self.lead = Lead::Sure;
        }
        self.node.mesa.settled(self.app, settled).await
    }

    /// Decides about what is held, if this node leads.
    pub(super) async fn settle_mesa(&mut self) {
        // This is asked before each: the lead may pass to another node in between.
        while self.decides()
            && self.has_lead().await
            && let Some(mut message) = self.mesa.next()
        {
            let Message {
                text, digest, done, ..
            } = &message;
            let settled = self.node.mesa.settle(self.app, text, digest, *done);
            match settled.await {
                Ok(decided) if decided.full == 0 => {}
                Ok(decided) => match decided.over_quota {
                    Some(error) => self.lose(&error.to_string()),
                    None => self.lose("as much is stored for a user as may be"),
                },
                Err(MesaNotSettled::Superseded(done)) => {
                    // That node decides about it, unless it ends before that.
                    message.done = done;
                    self.mesa.put_back(message);
                    self.lead = Lead::Not;
                }
                Err(MesaNotSettled::Bus(error)) => self.lose(&error.to_string()),
            }
        }

        while let Some(_late) = self.mesa.next_late(Instant::now()) {
            self.lose("no node has led for half a minute");
        }
    }

    /// Whether this node leads and has heard what was decided before. Takes the lead if it is time for that.
    async fn has_lead(&mut self) -> bool {
        if !self.node.leads(self.app) {
            self.lead = Lead::Not;
            return false;
        }

        let first = match self.lead {
            Lead::Sure => return true,
            Lead::Taken { since, .. } if since.elapsed() < MESA_LEAD_AGAIN => return false,
            // Redis may have lost the publication. If it is only late, it counts.
            Lead::Taken { first, .. } => first,
            Lead::Not => self.leads_taken + 1,
        };

        self.leads_taken += 1;
        let taken = self.node.mesa.take_lead(self.app, self.leads_taken).await;
        if let Err(error) = taken {
            tracing::debug!(%error, "Redis does not know yet that this node decides about messages of Mesa's dispatchers");
            return false;
        }

        let since = Instant::now();
        self.lead = Lead::Taken { since, first };
        false
    }

    fn refuse_mesa(&mut self, error: &MesaError) {
        let problem = Problem::bad_request(error.code(), error.to_string());
        self.refuse(&problem);
    }
}
