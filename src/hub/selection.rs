//! Which connections a publication means, resolved to what a shard can look up.

use std::sync::Arc;

use ahash::AHashSet;
use smol_str::SmolStr;

use super::connection::Connection;
use crate::{
    filter::{Access, Bound, IndexKey, IndexRef, Judged, KeyKind, LookupKey, Value, Verdict, View},
    id::{AppId, ConnectionId},
};

/// What looking a name up among others counts for in the work of a hold; see [`crate::limits::SCAN_WORK`].
const NAME_WORK: u32 = 32;

/// A Rust closure over a connection, for programs that embed the server.
pub(crate) type Closure = Arc<dyn Fn(&Connection) -> bool + Send + Sync>;

/// The connections of one app that are named or everyone, narrowed by a filter, less the exceptions.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// No selection reaches beyond its app.
    pub(crate) app: AppId,
    /// The union of what is named; `None` is everyone.
    pub(crate) recipients: Option<Recipients>,
    /// The compiled filter, its params bound.
    pub(crate) filter: Option<Arc<Bound>>,
    /// Taken out last.
    pub(crate) except: Except,
}

/// Connections named one by one, by their users or by their channels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recipients {
    /// All connections of these users.
    pub(crate) users: AHashSet<LookupKey>,
    /// The members of these channels.
    pub(crate) channels: AHashSet<LookupKey>,
    /// These connections.
    pub(crate) connections: AHashSet<ConnectionId>,
}

impl Recipients {
    /// All connections of `user`.
    pub(crate) fn user(user: &str) -> Self {
        Self {
            users: AHashSet::from([user_key(user)]),
            ..Self::default()
        }
    }

    /// The members of `channel`.
    pub(crate) fn channel(channel: &str) -> Self {
        Self {
            channels: AHashSet::from([channel_key(channel)]),
            ..Self::default()
        }
    }

    fn has(&self, connection: &Connection) -> bool {
        let in_channel = |name: &SmolStr| {
            self.channels
                .contains(&element_key(IndexKey::String(name.clone())))
        };

        let user = || IndexKey::of(&connection.attributes.user);
        self.connections.contains(&connection.id())
            || (!self.channels.is_empty() && connection.channel_names().any(in_channel))
            || (!self.users.is_empty()
                && user().is_some_and(|key| {
                    self.users.contains(&LookupKey {
                        kind: KeyKind::Value,
                        key,
                    })
                }))
    }
}

/// Who is left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Except {
    /// All connections of these users.
    pub(crate) users: AHashSet<Box<str>>,
    /// These connections.
    pub(crate) connections: AHashSet<ConnectionId>,
    /// Connections that named one of these devices.
    pub(crate) devices: AHashSet<Box<str>>,
}

impl Except {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.connections.is_empty() && self.devices.is_empty()
    }

    pub(super) fn has(&self, connection: &Connection) -> bool {
        !self.is_empty()
            && (self.connections.contains(&connection.id())
                || connection
                    .user()
                    .is_some_and(|user| self.users.contains(user))
                || connection
                    .device()
                    .is_some_and(|device| self.devices.contains(device)))
    }
}

/// Where a shard finds the candidates of a selection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// Nobody can match.
    Nobody,
    /// Every connection of the app.
    Everyone,
    /// The named ones.
    Recipients(&'a Recipients),
    /// What an index has under the plan's keys.
    Plan(&'a Access),
}

/// One thing by which a shard finds candidates.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    /// Every connection of the app.
    Everyone,
    /// All connections of a user.
    User(&'a LookupKey),
    /// The members of a channel.
    Channel(&'a LookupKey),
    Connection(&'a ConnectionId),
    /// What an index has under a key.
    Key(IndexRef, &'a LookupKey),
}

impl<'a> Source<'a> {
    /// What the candidates are found by, one after another.
    pub(super) fn names(self) -> Box<dyn Iterator<Item = Name<'a>> + Send + 'a> {
        match self {
            Self::Nobody | Self::Plan(Access::Nobody) => Box::new(std::iter::empty()),
            Self::Everyone | Self::Plan(Access::Everyone) => {
                Box::new(std::iter::once(Name::Everyone))
            }
            Self::Recipients(named) => {
                let users = named.users.iter().map(Name::User);
                let channels = named.channels.iter().map(Name::Channel);
                let connections = named.connections.iter().map(Name::Connection);
                Box::new(users.chain(channels).chain(connections))
            }
            Self::Plan(Access::Lookup { index, keys }) => {
                Box::new(keys.iter().map(|key| Name::Key(*index, key)))
            }
        }
    }
}

impl Selection {
    /// Everyone of `app`.
    pub(crate) fn everyone(app: AppId) -> Self {
        Self {
            app,
            recipients: None,
            filter: None,
            except: Except::default(),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        // Names are more selective than an index, so the filter is evaluated for the named ones.
        match (&self.recipients, &self.filter) {
            (Some(named), _) => Source::Recipients(named),
            (None, Some(filter)) => match &filter.plan().access {
                Access::Everyone => Source::Everyone,
                Access::Nobody => Source::Nobody,
                access @ Access::Lookup { .. } => Source::Plan(access),
            },
            (None, None) => Source::Everyone,
        }
    }

    /// Whether every connection of the app has to be evaluated.
    pub(crate) fn is_scan(&self) -> bool {
        self.filter.is_some() && matches!(self.source(), Source::Everyone)
    }

    /// Whether its filter may take long for one connection, beside what an index answers.
    pub(crate) fn is_heavy(&self) -> bool {
        let is_heavy = |filter: &Arc<Bound>| match self.recipients {
            // Named candidates did not come from the index, so no part of the filter is answered.
            Some(_) => filter.is_heavy(),
            None => filter.is_residual_heavy(),
        };
        self.filter.as_ref().is_some_and(is_heavy)
    }

    /// Whether it means every connection of the app, except for exceptions.
    pub(crate) fn is_for_all(&self) -> bool {
        self.filter.is_none() && self.recipients.is_none()
    }

    /// Decides by the whole filter, for those who bring candidates of their own.
    pub(super) fn judge_whole(&self, connection: &Connection) -> Judged {
        if self.except.has(connection) {
            return Judged::free(Verdict::NoMatch);
        }
        let filter = self.filter.as_ref();
        filter.map_or(Judged::free(Verdict::Match), |filter| {
            filter.judge(&connection.attributes)
        })
    }

    /// Decides about a candidate that the source gave, and that may have changed since.
    pub(super) fn still_admits(&self, connection: &Connection) -> Judged {
        let Some(named) = &self.recipients else {
            return self.judge_whole(connection);
        };

        let mut judged = if named.has(connection) {
            self.judge_whole(connection)
        } else {
            Judged::free(Verdict::NoMatch)
        };

        // Each of its channels was looked up among those that are named.
        if !named.channels.is_empty() {
            let channels = connection.attributes.channels.as_list();
            judged.work += NAME_WORK * channels.map_or(0, <[Value]>::len) as u32;
        }

        judged
    }

    /// Decides about a connection as this was when it was open.
    pub(crate) fn means(&self, connection: &Connection) -> Judged {
        if connection.app == self.app {
            self.still_admits(connection)
        } else {
            Judged::free(Verdict::NoMatch)
        }
    }

    /// Decides about a candidate that the source gave, whose claims are `auth`.
    #[inline]
    pub(super) fn admits(&self, connection: &Connection, auth: &Value) -> Judged {
        if self.except.has(connection) {
            return Judged::free(Verdict::NoMatch);
        }
        let seen = View {
            auth,
            attributes: &connection.attributes,
        };
        match &self.filter {
            None => Judged::free(Verdict::Match),
            Some(filter) if self.recipients.is_some() => filter.judge(seen),
            Some(filter) => filter.judge_residual(seen),
        }
    }
}

/// The key under which the index of channels has `channel`.
pub(crate) fn channel_key(channel: &str) -> LookupKey {
    element_key(IndexKey::String(channel.into()))
}

fn element_key(key: IndexKey) -> LookupKey {
    LookupKey {
        kind: KeyKind::Element,
        key,
    }
}

/// The key under which the index of users has `user`.
pub(crate) fn user_key(user: &str) -> LookupKey {
    LookupKey {
        kind: KeyKind::Value,
        key: IndexKey::String(user.into()),
    }
}
