//! Who connected users are, once that is no longer what their tokens said: revoked tokens, and claims that are replaced.

use std::{num::NonZeroU32, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::{Node, NodeError, target::check_names};
use crate::{
    auth::{Revocations, Revoked, Rights, claims_of, unix_now},
    close::{self, Close},
    config::Presence,
    filter::Value,
    hub::{Connection, Hub, Recipients, Selection, SlotRef, Table, user_key},
    id::AppId,
    limits::{CHANNEL_WORK, REVOCATIONS_AT_ONCE, USER_BYTES},
    protocol::native,
};

/// The reason that a client gets whose token was revoked.
pub(crate) const REVOKED: &str = "the token was revoked";

/// What became of a revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RevokeReceipt {
    /// Connections that were closed.
    pub disconnected: u64,
    /// Tokens that were issued before this are refused, in Unix seconds.
    pub before: u64,
    /// Until when they are, in Unix seconds.
    pub kept_until: u64,
    /// Nodes that have done it.
    pub nodes: u32,
    /// Nodes that did not answer in time. With Redis they learn of it within a second of reaching it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_nodes: Vec<String>,
}

/// What became of replacing a user's claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplaceReceipt {
    /// Connections whose claims were replaced.
    pub connections: u64,
    /// Nodes that have done it.
    pub nodes: u32,
    /// Nodes that did not answer in time. They may have done it, or not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_nodes: Vec<String>,
}

/// Claims and rights in place of those of a user's tokens, checked.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    pub(crate) user: SmolStr,
    auth: Value,
    rights: Option<Arc<Rights>>,
    at: NonZeroU32,
}

impl Node {
    /// Whether the token that a connection came with was revoked.
    pub(crate) fn is_revoked(&self, connection: &Connection, now: u64) -> bool {
        is_revoked(&self.revocations, connection, now)
    }

    /// The time at which a token for `user` is signed now: the next second, if those of this one were just revoked.
    pub(crate) fn signing_time(&self, app: AppId, user: &str) -> u64 {
        unix_now().max(self.revocations.good_from(app, user))
    }

    /// Refuses names that no user of `app` has.
    ///
    /// # Errors
    /// [`NodeError::NoUsers`], [`NodeError::TooManyNames`], [`NodeError::NameTooLong`] and [`NodeError::EmptyName`].
    pub(super) fn check_users(&self, app: AppId, users: &[String]) -> Result<(), NodeError> {
        if !self.runtime_config().access(app).has_users() {
            return Err(NodeError::NoUsers);
        }
        check_names("users", users, USER_BYTES)?;
        if users.iter().any(String::is_empty) {
            return Err(NodeError::EmptyName);
        }
        Ok(())
    }

    /// Remembers revocations in the data directory, if there is one: before connections are closed, so that none comes back
    /// after a restart.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(crate) async fn keep_revoked_on_disk(
        &self,
        app: AppId,
        revoked: &[Revoked],
    ) -> Result<(), NodeError> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        // The directory replaces what it had for a user, so it gets both.
        let both = |(user, revocation): &Revoked| {
            let known = self.revocations.of(app, user);
            (user.clone(), revocation.and(known.unwrap_or(*revocation)))
        };
        Ok(disk.revoke(app, revoked.iter().map(both).collect()).await?)
    }
    /// What is to be the claims and rights of `user` from the time `now` on; without `can` the rights stay.
    ///
    /// # Errors
    /// [`NodeError::Claims`] and [`NodeError::UnfitClaims`].
    pub(crate) fn replaced(
        &self,
        app: AppId,
        user: &str,
        (claims, can): (&RawValue, Option<&RawValue>),
        now: u64,
    ) -> Result<Replaced, NodeError> {
        let runtime_config = self.runtime_config();
        let limits = &runtime_config.config.limits;
        let text = claims_of(user, Some(claims), can, now, limits.claims_bytes)?;

        let auth = self
            .app(app)
            .claims(&text, limits)
            .map_err(|error| NodeError::UnfitClaims(error.to_string()))?;
        let rights = can.map(|can| Rights::parse(can.get())).transpose();
        let rights = rights.map_err(|error| NodeError::Claims(error.into()))?;

        // Tokens count whole seconds: one of this second may have been issued before.
        let at = u32::try_from(now.saturating_add(1)).unwrap_or(u32::MAX);
        Ok(Replaced {
            user: user.into(),
            auth,
            rights: rights.map(Arc::new),
            at: NonZeroU32::new(at).unwrap_or(NonZeroU32::MIN),
        })
    }

    /// Replaces claims and rights of a user's open connections on this node, each in one step with its index entries and
    /// channels. Returns how many there were.
    pub(crate) async fn replace_claims(&self, app: AppId, replaced: &Replaced) -> u64 {
        let selection = Selection {
            recipients: Some(Recipients::user(&replaced.user)),
            ..Selection::everyone(app)
        };

        let mut done = 0;
        let replace_one = |table: &mut Table, slot| {
            let (Some(at), Some(was)) =
                (table.reference(slot), table.open_connection(slot).cloned())
            else {
                return;
            };

            // Of two calls that cross on their way to this node, the later one holds.
            if was.replaced_at.is_some_and(|at| at > replaced.at) {
                return;
            }

            let mut connection = Connection::clone(&was);
            connection.attributes.auth = replaced.auth.clone();
            connection.replaced_at = Some(replaced.at);
            if let Some(rights) = &replaced.rights {
                connection.rights = rights.clone();
            }

            let rights = connection.rights.clone();
            if table.open(at, connection) {
                self.drop_what_is_not_allowed(table, at, &was, &rights);
                done += 1;
            }
        };

        self.hub.scan(&selection, replace_one).await;
        done
    }

    /// Takes an open connection out of the channels that its new rights no longer allow, and stops its notices of
    /// members that it may not see. Channels that its old rights did not allow either, the API put it into, and it
    /// stays.
    pub(crate) fn drop_what_is_not_allowed(
        &self,
        table: &mut Table,
        at: SlotRef,
        was: &Connection,
        rights: &Rights,
    ) {
        let is_lost = |channel: &&str| was.rights.may_join(channel) && !rights.may_join(channel);
        for channel in table.leave_those(at, |channel| is_lost(&channel)) {
            table.place_own(at, native::left(&channel));
        }

        let is_blinded = |channel: &&str| {
            // Where every member hears of the others, that takes no right.
            let tells_all = self.app(was.app).rule(channel).presence == Presence::All;
            was.rights.may_see_members(channel) && !rights.may_see_members(channel) && !tells_all
        };

        for channel in was.channels().filter(is_blinded) {
            table.unwatch(at, channel);
        }

        // Each was looked at in both rights.
        let scan = was.channels().count() as u32;
        table.charge(CHANNEL_WORK.saturating_mul(scan));
    }
}

/// Whether the token that a connection came with was revoked.
pub(super) fn is_revoked(revocations: &Revocations, connection: &Connection, now: u64) -> bool {
    connection.user().is_some_and(|user| {
        let issued_at = connection.token_issued_at();
        revocations.refuses(connection.app, user, issued_at, now)
    })
}

/// Refuses tokens on this node, and closes the connections that came with them. Returns how many there were.
pub(super) async fn refuse_tokens(
    hub: &Hub,
    revocations: &Revocations,
    app: AppId,
    revoked: &[Revoked],
) -> u64 {
    // Noted first: a client that is let in after its shard was looked through finds it there.
    revocations.note(app, revoked);

    let close = Close::new(close::UNAUTHORIZED, REVOKED);
    let (now, mut closed) = (unix_now(), 0);
    for some in revoked.chunks(REVOCATIONS_AT_ONCE) {
        let users = some.iter().map(|(user, _)| user_key(user)).collect();
        let named = Recipients {
            users,
            ..Recipients::default()
        };

        let selection = Selection {
            recipients: Some(named),
            ..Selection::everyone(app)
        };

        let close_one = |table: &mut Table, slot| {
            let connection = table.open_connection(slot);
            let is_revoked =
                connection.is_some_and(|connection| is_revoked(revocations, connection, now));
            if is_revoked && let Some(at) = table.reference(slot) {
                closed += u64::from(table.close(at, None, &close));
            }
        };

        hub.scan(&selection, close_one).await;
    }

    closed
}
