//! Coming back after the node of the lost connection has ended, by a crash or by a drain: its list of members in Redis says what the
//! connection had.
//!
//! The list has one field for each place in a channel, and one for each connection, which says to whom it belongs and
//! in which channels it may have places. So a client is found by one look, whatever else is in the list. A place is
//! taken by removing its field: one client at most has it, and the node that reaps the other does not report that it
//! has left. That makes no new version of the list: if its node lives after all, it goes on with what is left of it.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;

use super::{
    resume::{ResumeChannel, ResumeState, Settled},
    roster::{Listed, Roster},
    unreadable,
};
use crate::{
    auth::unix_now,
    bus::{BusError, Script, Topic},
    hub::Snapshot,
    id::{AppId, ConnectionId, NodeId},
};

/// The version of records that this node writes. One that it does not know it leaves alone: the client then starts afresh.
const VERSION: u8 = 1;

/// Finds a connection in the list, or in the one that was being written in its place: its record, then each channel in which it has
/// a place, with what the list says of that.
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, list in ipairs(KEYS) do
           local record = redis.call('HGET', list, ARGV[1])
           local is_read, read = pcall(cjson.decode, record or '')
           if is_read and type(read) == 'table' and type(read.channels) == 'table' then
             local found = {record}
             for _, name in ipairs(read.channels) do
               local place = redis.call('HGET', list, ARGV[2] .. ' ' .. name .. ' ' .. ARGV[1])
               if place then
                 found[#found + 1] = name
                 found[#found + 1] = place
               end
             end
             return found
           end
         end
         return {}",
    )
});

/// Takes a connection out of both lists. Answers whether it was in one, and in which of these channels it had a place.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local known, taken = 0, {}
         for _, list in ipairs(KEYS) do known = known + redis.call('HDEL', list, ARGV[1]) end
         for n = 3, #ARGV do
           local place, had = ARGV[2] .. ' ' .. ARGV[n] .. ' ' .. ARGV[1], 0
           for _, list in ipairs(KEYS) do had = had + redis.call('HDEL', list, place) end
           if had > 0 then taken[#taken + 1] = ARGV[n] end
         end
         return {known, taken}",
    )
});

/// A connection as the list has it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u8,
    app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// When its token was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// Where it may have places.
    channels: Vec<String>,
    /// Its profile, if it has no place that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

impl Record {
    /// Whether a client of `user` and `device` may stand in for the connection.
    fn is_of_client(&self, app: &str, user: Option<&str>, device: Option<&str>) -> bool {
        // Any other connection may have neither, so without both nothing is proven.
        let is_known = user.is_some() || device.is_some();
        let is_same = self.user.as_deref() == user && self.device.as_deref() == device;
        self.v == VERSION && is_known && is_same && self.app == app
    }
}

/// What the list says of a connection: with `more`, a channel that it is about to be in.
pub(super) fn record(app: &str, connection: &Snapshot, more: Option<&SmolStr>) -> Vec<u8> {
    let more = more.filter(|more| !connection.is_in(more));
    let channels: Vec<String> = connection
        .channel_names()
        .chain(more)
        .map(ToString::to_string)
        .collect();

    let profile = connection.profile().filter(|_| channels.is_empty());
    let record = Record {
        v: VERSION,
        app: app.to_owned(),
        user: connection.user().map(ToOwned::to_owned),
        device: connection.device().map(ToOwned::to_owned),
        iat: connection.token_issued_at(),
        channels,
        data: profile.and_then(|profile| to_raw_value(profile).ok()),
    };

    // Texts and JSON always serialize.
    serde_json::to_vec(&record).unwrap_or_default()
}

impl Roster {
    /// Finds what the connection `id` of a node that does not answer had, for a client who proves to be the same by user and
    /// device. Its places are to be taken by [`Roster::take_from_list`].
    pub(super) async fn resume_from_list(
        &self,
        app: AppId,
        id: &ConnectionId,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<ResumeState> {
        let name = self.apps.get(app).name.clone();
        let args = vec![
            id.to_string().into(),
            Bytes::copy_from_slice(name.as_bytes()),
        ];
        let found = self.ask_list(id.node, &LOOK, args).await;

        let found: Vec<String> = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, connection = %id, "what it had on a node that has gone is not known");
                return None;
            }
        };

        let (record, places) = found.split_first()?;
        let record: Record = serde_json::from_str(record).ok()?;
        let revocations = &self.revocations;
        let is_revoked =
            // The record is as old as the connection, and the token may have been revoked since.
            user.is_some_and(|user| revocations.refuses(app, user, record.iat, unix_now()));
        if !record.is_of_client(&name, user, device) || is_revoked {
            return None;
        }

        let (mut channels, mut profile) = (Vec::new(), record.data);
        for place in places.chunks_exact(2) {
            let listed: Listed = serde_json::from_str(&place[1]).ok()?;
            channels.push(ResumeChannel {
                name: place[0].clone(),
                watched: listed.watched,
                was_allowed: !listed.was_put,
            });
            profile = listed.data.or(profile);
        }

        if channels.is_empty() && profile.is_none() {
            return None;
        }

        let profile = profile.or_else(|| to_raw_value(&()).ok())?;
        Some(ResumeState::listed(profile, channels))
    }

    /// Takes the places of the connection `id` in `channels` out of the list of its node. Nothing if it is not known whether that was
    /// done.
    pub(super) async fn take_from_list(
        &self,
        app: AppId,
        id: &ConnectionId,
        channels: &[String],
    ) -> Option<Settled> {
        let name = &self.apps.get(app).name;
        let mut args = vec![
            id.to_string().into(),
            Bytes::copy_from_slice(name.as_bytes()),
        ];
        args.extend(channels.iter().cloned().map(Bytes::from));

        match self
            .ask_list::<(u64, Vec<String>)>(id.node, &TAKE, args)
            .await
        {
            // Without its record: it was reaped, or another client has taken its place.
            Ok((0, taken)) if taken.is_empty() => Some(Settled::Held(false)),
            Ok((_, taken)) => Some(Settled::Claimed(taken)),
            Err(error) => {
                tracing::debug!(%error, connection = %id, "its places may still be listed for a node that has gone");
                None
            }
        }
    }

    async fn ask_list<T: redis::FromRedisValue>(
        &self,
        node: NodeId,
        script: &'static Script,
        args: Vec<Bytes>,
    ) -> Result<T, BusError> {
        let home = Topic::Node(node);
        let lists = self.list_keys(&home).into();
        let answer = self.bus.eval(script, &home, lists, args).await?;
        redis::from_redis_value(answer).map_err(|error| unreadable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As each version has written it: a node reads all of them.
    const RECORDED: [&str; 1] = [
        r#"{"v":1,"app":"default","user":"ann","device":"d","iat":1700000000,"channels":["room","lobby"]}"#,
    ];

    #[test]
    fn recorded_versions_are_read_and_proved_by_user_and_device() {
        for text in RECORDED {
            let record: Record = serde_json::from_str(text).unwrap();
            assert_eq!(record.channels, ["room", "lobby"]);
            let of = |app, user, device| record.is_of_client(app, user, device);
            assert!(of("default", Some("ann"), Some("d")));
            assert!(!of("other", Some("ann"), Some("d")));
            assert!(!of("default", Some("ann"), None));
            assert!(!of("default", None, Some("d")));
        }
        let later = r#"{"v":2,"app":"default","user":"ann","channels":[]}"#;
        let later: Record = serde_json::from_str(later).unwrap();
        assert!(!later.is_of_client("default", Some("ann"), None));
    }

    #[test]
    fn nobody_proves_to_be_a_client_without_a_name() {
        let nobody = r#"{"v":1,"app":"default","channels":["room"]}"#;
        let nobody: Record = serde_json::from_str(nobody).unwrap();
        assert!(!nobody.is_of_client("default", None, None));
    }

    #[test]
    fn a_channel_is_recorded_before_its_member_is_in_it_and_once() {
        let connection = std::sync::Arc::new(crate::hub::tests::unconnected("d", 3));
        let written = record("default", &connection, Some(&"room".into()));
        let read: Record = serde_json::from_slice(&written).unwrap();
        assert_eq!(
            (read.v, &*read.channels),
            (VERSION, &["room".to_owned()][..])
        );
        assert!(read.is_of_client("default", None, Some("d")));
    }
}
