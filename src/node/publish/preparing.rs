//! Settling what a publication means: whom its target names, for whom it is stored, and its encoding. Nothing is done
//! for it yet.

use std::sync::Arc;

use ahash::AHashSet;
use smol_str::SmolStr;
use uuid::Uuid;

use super::{Author, Publication};
use crate::{
    filter::Bound,
    history::{EchoOmission, Key, Omit, Retention},
    hub::Selection,
    id::AppId,
    limits::{HISTORY_EVENT_BYTES, HISTORY_NAME_BYTES},
    node::{
        ClusterScope, Node, NodeError, Target,
        cluster::{Message, Outgoing},
    },
    protocol::event::{Draft, Marks},
};

/// For whom an event is stored.
#[derive(Debug)]
pub(super) enum Durability {
    Transient,
    Channel(SmolStr, Key, Retention),
    Users(Vec<SmolStr>, Retention),
}

/// A publication whose meaning is settled, and which nothing has been done for yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) id: Uuid,
    pub(super) selection: Selection,
    pub(super) draft: Draft,
    pub(super) durability: Durability,
    pub(super) omit: Option<Arc<Omit>>,
    /// What the other nodes get.
    pub(super) message: Option<Message>,
}

/// What a publication takes in the store.
struct ToStore {
    copies: usize,
    /// What each copy counts for.
    bytes: usize,
}

impl Prepared {
    /// What it takes in the store.
    fn to_store(&self) -> ToStore {
        let copies = match &self.durability {
            Durability::Transient => 0,
            Durability::Channel(..) => 1,
            Durability::Users(users, _) => users.len(),
        };
        let omit = self.omit.as_deref();
        let names = omit.map_or(0, |omit| omit.bytes() + omit.names() * HISTORY_NAME_BYTES);
        ToStore {
            copies,
            bytes: self.draft.len() + HISTORY_EVENT_BYTES + names,
        }
    }

    /// Whether this node, too, places it when it comes back over the bus.
    pub(crate) fn comes_by_bus(&self) -> bool {
        matches!(self.message, Some(Message::Durable(_)))
    }
}

impl Node {
    /// Whether the event is stored for anyone.
    ///
    /// # Errors
    /// [`NodeError::CannotStore`].
    pub(crate) fn is_durable(
        &self,
        app: AppId,
        publication: &Publication<'_>,
    ) -> Result<bool, NodeError> {
        let Publication {
            target,
            store,
            scope,
            ..
        } = publication;
        Ok(!matches!(
            self.durability(app, target, *store, *scope)?,
            Durability::Transient
        ))
    }

    /// Settles what a publication means, and encodes it: after this its caller's buffers may go.
    ///
    /// # Errors
    /// As [`Node::select`], [`NodeError::CannotStore`] and [`NodeError::TooMuchToStore`].
    pub(crate) fn prepare(
        &self,
        app: AppId,
        publication: Publication<'_>,
    ) -> Result<Prepared, NodeError> {
        self.prepare_with(app, publication, None)
    }

    /// The same with a filter that takes long compiled by the background thread.
    ///
    /// # Errors
    /// As [`Node::prepare`].
    pub(crate) async fn prepare_aside(
        &self,
        app: AppId,
        publication: Publication<'_>,
    ) -> Result<Prepared, NodeError> {
        let bound = self.compile_aside(app, &publication.target).await?;
        self.prepare_with(app, publication, bound)
    }

    /// The same with the filter of its target, where that is `bound` already.
    pub(super) fn prepare_with(
        &self,
        app: AppId,
        publication: Publication<'_>,
        bound: Option<Arc<Bound>>,
    ) -> Result<Prepared, NodeError> {
        let Publication {
            event,
            target,
            store,
            author,
            scope,
            receipt,
        } = publication;

        target.check()?;
        let id = Uuid::now_v7();
        let durability = self.durability(app, &target, store, scope)?;

        let marks = Marks {
            channel: target.one_channel(),
            from: author.as_ref().map(|author| &author.sender),
            // Clients confirm stored events of users, and know a repeat by its id. In channels,
            // offsets do that.
            id: matches!(durability, Durability::Users(..)).then_some(id),
        };

        let draft = event.draft(&marks);
        let omit = omitted(&durability, &target, author.as_ref());
        let own = author
            .filter(|author| !author.echo)
            .map(|author| author.sender.connection);
        let is_durable = !matches!(durability, Durability::Transient);

        let message = match &self.cluster {
            Some(cluster) if scope == ClusterScope::Cluster => {
                let outgoing = Outgoing {
                    id,
                    draft: &draft,
                    is_durable,
                    own,
                };
                Some(cluster.sender.message(app, &target, &outgoing, receipt)?)
            }
            _ => None,
        };

        let mut selection = self.select(app, target, bound)?;
        selection.except.connections.extend(own);
        let prepared = Prepared {
            id,
            selection,
            draft,
            durability,
            omit,
            message,
        };

        self.check_store([&prepared])?;
        Ok(prepared)
    }

    /// Refuses what would take more room in the store than one call may, before anything of it is stored.
    pub(super) fn check_store<'p>(
        &self,
        publications: impl IntoIterator<Item = &'p Prepared>,
    ) -> Result<(), NodeError> {
        let (mut bytes, mut event, mut copies) = (0_usize, 0, 0);
        for one in publications.into_iter().map(Prepared::to_store) {
            bytes = bytes.saturating_add(one.copies.saturating_mul(one.bytes));
            copies += one.copies;
            event = if one.copies > 0 {
                event.max(one.bytes)
            } else {
                event
            };
        }

        // A store in memory that has less room than that would only push out its own.
        let limits = &self.config.limits;
        let most = match self.cluster {
            Some(_) => limits.stored_publication_bytes,
            None => limits.stored_publication_bytes.min(limits.history_bytes),
        };

        // A single copy is bounded already by what one event may have.
        if bytes > most && copies > 1 {
            return Err(NodeError::TooMuchToStore {
                bytes,
                event,
                copies,
                most,
            });
        }

        Ok(())
    }

    /// For whom an event with this target is stored.
    ///
    /// Among several nodes nothing is stored of what is for one node's connections only: its members would have
    /// another history than the rest.
    fn durability(
        &self,
        app: AppId,
        target: &Target,
        store: Option<bool>,
        scope: ClusterScope,
    ) -> Result<Durability, NodeError> {
        let settings = self.app(app);
        let is_apart = self.cluster.is_some() && scope == ClusterScope::Node;
        let durability = if target.filter.is_some() || store == Some(false) || is_apart {
            Durability::Transient
        } else if let Some(channel) = target.one_channel() {
            let retention = settings.rule(channel).retention;
            let name: SmolStr = channel.into();
            retention.map_or(Durability::Transient, |retention| {
                Durability::Channel(name.clone(), Key::channel(app, name), retention)
            })
        } else if let (Some(users), Some(retention)) = (target.only_users(), settings.user_events())
        {
            let except: AHashSet<&str> = target.except.users.iter().map(String::as_str).collect();
            let excepted = |user: &&String| !except.contains(user.as_str());
            let mut users: Vec<SmolStr> = users
                .iter()
                .filter(excepted)
                .map(|user| user.as_str().into())
                .collect();
            // Two events for one user would be stored as two.
            users.sort_unstable();
            users.dedup();
            Durability::Users(users, retention)
        } else {
            Durability::Transient
        };

        match (store, &durability) {
            (Some(true), Durability::Transient) => Err(NodeError::CannotStore {
                hint: if is_apart {
                    ""
                } else {
                    store_hint(target, settings.user_events().is_some())
                },
            }),
            _ => Ok(durability),
        }
    }
}

/// The readers that are left out when a stored event is replayed: those whom the caller excepted, and a
/// sender without echo.
fn omitted(durability: &Durability, target: &Target, author: Option<&Author>) -> Option<Arc<Omit>> {
    if matches!(durability, Durability::Transient) {
        return None;
    }

    let names = |list: &[String]| list.iter().map(|name| name.as_str().into()).collect();
    let omit = Omit {
        users: names(&target.except.users),
        devices: names(&target.except.devices),
        connections: target
            .except
            .connections
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect(),

        sender: author
            .filter(|author| !author.echo)
            .map(|author| EchoOmission {
                user: author.sender.user.clone(),
                device: author.device.clone(),
                connection: author.sender.connection,
            }),
    };

    (omit != Omit::default()).then(|| Arc::new(omit))
}

/// What to set so that an event for `target` can be stored; empty if that would not help.
fn store_hint(target: &Target, has_user_events: bool) -> &'static str {
    if target.filter.is_some() {
        ""
    } else if target.only_users().is_some() && !has_user_events {
        "; set user_events or --store-user-events"
    } else if target.one_channel().is_some() {
        "; give the channel a history, for example by --channel-history 'room-*=100'"
    } else {
        ""
    }
}
