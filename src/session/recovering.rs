//! Clients that come back by themselves and know no ids of connections, as those of Socket.IO: they name what they
//! were given the first time, however often they come back, and the last stored event that they got.

use std::{cell::OnceCell, rc::Rc};

use smol_str::SmolStr;

use super::{ConnectOptions, client::Client, dialect::Recovery};
use crate::{
    history::Key,
    hub::Connection,
    limits::RECOVERY_NAME_BYTES,
    node::{LocalResume, Named, ResumeState, Standing, first_name},
    protocol::{event::channel_name, native::Since},
};

/// How a client goes on for an earlier connection.
#[derive(Debug)]
pub(super) struct Recovering {
    /// What it named.
    offered: Option<SmolStr>,
    /// The connection that it names. Its device is random if the client chose none, and nobody else knows it.
    named: OnceCell<Named>,
    /// The name means the client's connection as long as this is there.
    standing: OnceCell<Standing>,
    /// The channel of the last stored event that it got, and its position there.
    last: Option<(String, Since)>,
}

impl Client {
    /// Notes how the client goes on for an earlier connection, and asks for that if it names one. Which one it is,
    /// [`Client::find_named`] finds.
    pub(super) fn recovers(&mut self, recovery: Recovery, options: &mut ConnectOptions) {
        // The client chooses it, and it takes memory as long as the connection lasts.
        let is_short = |name: &SmolStr| name.len() <= RECOVERY_NAME_BYTES;
        let offered = recovery.offered.filter(is_short);
        if let Some(offered) = &offered {
            options.resume = Some(offered.to_string());
        }

        let last = recovery.last.as_deref().and_then(|last| {
            let (offset, channel) = last.split_once('@')?;
            channel_name(channel).ok()?;
            let since = Since {
                epoch: None,
                // It names no epoch, so the present one is taken for it.
                offset: offset.parse().ok()?,
            };
            Some((channel.to_owned(), since))
        });

        self.recovery = Some(Rc::new(Recovering {
            offered,
            named: OnceCell::new(),
            standing: OnceCell::new(),
            last,
        }));
    }

    /// The connection that a client asks to go on for by `resume`, which is an id, or what was noted by [`Client::recovers`].
    pub(super) async fn find_named(&self, resume: Option<String>) -> Option<String> {
        let resume = resume?;
        let Some(recovering) = &self.recovery else {
            return Some(resume);
        };
        let named = self.node.named(self.app, &resume).await?;
        Some(recovering.named.get_or_init(|| named).id.to_string())
    }

    /// The name that a client which cannot name its connection is given for when it comes back; `is_recovered` if it
    /// has missed nothing that it could have got.
    pub(super) fn recovery_name(&self, own: &Connection, is_recovered: bool) -> Option<String> {
        let recovering = self.recovery.as_ref()?;
        let device = own.device()?;
        let offered = recovering.offered.as_deref().zip(recovering.named.get());
        let Some((name, named)) = offered.filter(|_| is_recovered) else {
            return Some(first_name(own.id(), device));
        };
        // The client keeps the name, which means this connection from now on.
        let now = named.next(own.id(), device);
        let stands = || self.node.stands_for(self.app, name, now);
        recovering.standing.get_or_init(stands);
        Some(name.to_owned())
    }

    /// Whether a client misses nothing that comes back, as `own`, for a connection that had one of these. Of the
    /// channels that have a history, it can name its position in only one.
    pub(super) async fn misses_nothing(
        &self,
        own: &Connection,
        local_resume: Option<&LocalResume>,
        resume_state: Option<&ResumeState>,
    ) -> bool {
        let channels: Vec<(&str, bool)> = match (local_resume, resume_state) {
            (Some(local_resume), _) => {
                let was_allowed = |name: &str| local_resume.lost.rights.may_join(name);
                let names = local_resume.left().map(|channel| &*channel.name);
                names.map(|name| (name, was_allowed(name))).collect()
            }
            (None, Some(resume_state)) => {
                let channels = resume_state.channels.iter();
                channels.map(|one| (&*one.name, one.was_allowed)).collect()
            }
            (None, None) => return false,
        };

        let last = self
            .recovery
            .as_ref()
            .and_then(|recovering| recovering.last.as_ref());
        // A client must not find out what is in the histories of channels that it may not join.
        let last = last.filter(|(last, _)| {
            let mut back = channels.iter().filter(|(name, _)| name == last);
            back.any(|(name, was_allowed)| may_come_back(own, name, *was_allowed))
        });

        let named = last.map(|(channel, _)| &**channel);
        let has_history = |name: &str| self.app().rule(name).retention.is_some();
        let mut others = channels.iter().filter(|(name, _)| Some(*name) != named);
        // Of these nobody knows what the client has seen.
        if others.any(|(name, _)| has_history(name)) {
            return false;
        }

        match last {
            Some((channel, since)) => self.reaches_back(channel, since).await,
            None => true,
        }
    }

    /// Whether the history of `channel` still has everything that came after `since`.
    async fn reaches_back(&self, channel: &str, since: &Since) -> bool {
        if self.app().rule(channel).retention.is_none() {
            return true;
        }

        let key = Key::channel(self.app, channel.into());
        // The events themselves are fetched when the client joins.
        match self.node.history.page(&key, since.offset, 1).await {
            Ok(Some(page)) => match page.entries.first() {
                // If the first event after `since` is not the next one, some were removed in
                // between.
                Some(next) => next.offset - 1 == since.offset,
                None => page.position.offset == since.offset,
            },
            Ok(None) => since.offset == 0,
            // The store does not say, so the client learns that it may have missed something.
            Err(_) => false,
        }
    }

    /// From where `channel` is to be replayed to a client that comes back to it.
    pub(super) fn since(&self, channel: &str) -> Option<Since> {
        let (last, since) = self.recovery.as_ref()?.last.as_ref()?;
        (last == channel).then(|| since.clone())
    }

    /// The device that proves to be that of the connection for which the client goes on.
    pub(super) fn proving_device<'c>(&'c self, own: &'c Connection) -> Option<&'c str> {
        let recovering = self.recovery.as_ref();
        let named = recovering.and_then(|recovering| recovering.named.get());
        named.map(|named| &*named.device).or(own.device())
    }
}

/// Whether a client that is `own` now may be in the channel `name` in place of its lost connection. If that was never allowed to
/// join it, it was put into it, and stays if it is a user: a device proves nothing.
pub(super) fn may_come_back(own: &Connection, name: &str, was_allowed: bool) -> bool {
    own.rights.may_join(name) || (own.user().is_some() && !was_allowed)
}
