//! What is in the list, and how it is written: change by change, or as a whole.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, LazyLock},
};

use ahash::AHashMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;

use super::{super::resume_from_list::record, LIST, NEW_LIST, Roster, command};
use crate::{
    bus::{BusError, Script, Topic},
    filter::Value,
    hub::{Change, Listing, Snapshot, State, channel_key},
    id::{AppId, ConnectionId},
    limits::MEMBERS_AT_ONCE,
    time_slice::TimeSlice,
};

/// The fields of a list that change, by name; those without a value go.
type ListFields = AHashMap<String, Option<Vec<u8>>>;

/// The field of the list that says which of its versions it is. Neither a member's field nor a connection's has this form.
const VERSION: &str = "version";

/// Changes a list, if it is of the version that it is to be changed from.
/// KEYS: the list. ARGV: that version, none if there was no list; the version after; then fields with their values. A field
/// without a value goes.
static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
         if #ARGV == 2 then return 1 end
         local gone, set = {}, {'version', ARGV[2]}
         for at = 3, #ARGV, 2 do
           if ARGV[at + 1] == '' then
             gone[#gone + 1] = ARGV[at]
           else
             set[#set + 1] = ARGV[at]
             set[#set + 1] = ARGV[at + 1]
           end
         end
         if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
         redis.call('HSET', KEYS[1], unpack(set))
         return 1",
    )
});

/// A member as the list has it: enough to say that it has left, and to bring its client back.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::node::cluster) struct Listed {
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::node::cluster) data: Option<Box<RawValue>>,
    /// It hears of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::node::cluster) watched: bool,
    /// Its rights did not allow it to join by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::node::cluster) was_put: bool,
}

/// A connection with the channels in which it hears of the others.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) connection: Snapshot,
    watched: Vec<SmolStr>,
}

impl Watcher {
    /// Adds the channels of another part of the same connection.
    fn join(&mut self, part: Self) {
        let more = part.connection.channel_names();
        let mut more = more
            .filter(|name| !self.connection.is_in(name))
            .cloned()
            .peekable();
        if more.peek().is_some() {
            let names = self.connection.channel_names().cloned();
            let names = names.chain(more).map(Value::String).collect();
            Arc::make_mut(&mut self.connection).attributes.channels = Value::List(names);
        }
        self.watched.extend(part.watched);
    }
}

impl Roster {
    /// Makes changes to the list, if Redis has version `before` of it. Returns the version that Redis has then; nothing if it has
    /// lost the list.
    pub(super) async fn change_list(
        &self,
        batch: &[Change],
        before: String,
        now: String,
    ) -> Result<Option<String>, BusError> {
        // Sent even if nothing changes: it shows whether Redis still has the list.
        let fields = self.changed_fields(batch);
        let now = if fields.is_empty() {
            before.clone()
        } else {
            now
        };

        let mut args: Vec<Bytes> = vec![before.into(), now.clone().into()];
        for (field, value) in fields {
            args.push(field.into());
            args.push(value.unwrap_or_default().into());
        }

        let home = Topic::Node(self.node);
        let keys = vec![self.bus.key(&home, LIST)];
        let changed = self.bus.eval(&CHANGE, &home, keys, args).await?;

        Ok((changed == redis::Value::Int(1)).then_some(now))
    }

    /// What changes make of the list: places in channels, and to whom each connection belongs.
    fn changed_fields(&self, batch: &[Change]) -> ListFields {
        let mut fields = ListFields::new();
        let mut records: AHashMap<ConnectionId, Option<&Change>> = AHashMap::new();
        // A closed connection may wait in some channels longer than in others, or without them. The last of them takes its record away.
        let waits = |id: &ConnectionId| self.hub.context().resume_table.waits(id);

        for change in batch {
            let Change {
                app,
                channel,
                member,
                listing,
            } = change;

            let field = self.field(*app, channel, member.id());
            match listing {
                Listing::In { watches, previous } => {
                    fields.insert(field, Some(listed(member, channel, *watches)));
                    // The last one of a connection names all of its channels. It may name some that were left since.
                    records.insert(member.id(), Some(change));
                    if let Some(previous) = *previous {
                        fields.insert(self.field(*app, channel, previous), None);
                        if !waits(&previous) {
                            records.insert(previous, None);
                        }
                    }
                }
                Listing::Out { is_over } => {
                    fields.insert(field, None);
                    let is_last = *is_over || member.channels().all(|other| other == channel);
                    if is_last && !waits(&member.id()) {
                        records.insert(member.id(), None);
                    }
                }
            }
        }

        for (id, change) in records {
            let record = |change: &Change| {
                let app = &self.apps.get(change.app).name;
                record(app, &change.member, Some(&change.channel))
            };
            fields.insert(id.to_string(), change.map(record));
        }

        fields
    }

    /// Lists those who may come back to a profile alone. If the list is written as a whole, they are in it as well.
    pub(super) async fn list_profiles(&self) -> Result<(), BusError> {
        let mut fields = Vec::new();
        let mut slice = TimeSlice::begin();
        for Watcher {
            connection: lost, ..
        } in self.all_lost().await
        {
            slice.rest().await;
            if lost.channels().next().is_none() {
                let record = record(&self.apps.get(lost.app).name, &lost, None);
                fields.push((lost.id().to_string(), record));
            }
            if fields.len() >= MEMBERS_AT_ONCE {
                self.write_fields(LIST, std::mem::take(&mut fields)).await?;
            }
        }

        self.write_fields(LIST, fields).await
    }

    /// Writes the whole list again as version `now`, beside the one that is there, and puts it in its
    /// place.
    pub(super) async fn write_list(&self, now: String) -> Result<String, BusError> {
        let home = Topic::Node(self.node);
        let [list, new] = self.list_keys(&home);

        // First of all, so that nothing is gathered while Redis is away.
        self.bus.command(&home, command("UNLINK", &[&new])).await?;
        self.hub.context().metrics.bus.lists_written.inc();
        let mut members = self.all_members().await;
        // Those who may come back, or are about to, are to leave too if the node does not live to see that they do not.
        members.extend(self.all_lost().await);
        // One that was lost meanwhile is among both.
        let members = joined(members).await;

        let mut fields = vec![(VERSION.to_owned(), now.clone().into_bytes())];
        let mut slice = TimeSlice::begin();
        for Watcher {
            connection,
            watched,
        } in &members
        {
            slice.rest().await;
            let place = |channel: &SmolStr| {
                let field = self.field(connection.app, channel, connection.id());
                (
                    field,
                    listed(connection, channel, watched.contains(channel)),
                )
            };

            fields.extend(connection.channel_names().map(place));
            let record = record(&self.apps.get(connection.app).name, connection, None);
            fields.push((connection.id().to_string(), record));

            if fields.len() >= MEMBERS_AT_ONCE {
                self.write_fields(NEW_LIST, std::mem::take(&mut fields))
                    .await?;
            }
        }

        self.write_fields(NEW_LIST, fields).await?;
        // Renamed over, it would be freed while everyone waits. A node that reaps looks at both.
        self.bus.command(&home, command("UNLINK", &[&list])).await?;
        self.bus
            .command(&home, command("RENAME", &[&new, &list]))
            .await?;

        Ok(now)
    }

    /// Connections that may come back, or whose clients are about to, each once.
    async fn all_lost(&self) -> Vec<Watcher> {
        let resume_table = &self.hub.context().resume_table;
        let lost = resume_table.all().await.into_iter();
        let lost = lost.map(|(connection, watched)| Watcher {
            connection,
            watched,
        });

        // In which channels these heard of the others is not known any more.
        let returning = resume_table.returning().into_iter();
        let own = returning.filter(|connection| connection.id().node == self.node);
        let own = own.map(|connection| Watcher {
            connection,
            watched: Vec::new(),
        });

        joined(lost.chain(own).collect()).await
    }

    /// Adds fields to `list`.
    async fn write_fields(
        &self,
        list: &str,
        fields: Vec<(String, Vec<u8>)>,
    ) -> Result<(), BusError> {
        if fields.is_empty() {
            return Ok(());
        }
        let home = Topic::Node(self.node);
        let mut set = redis::cmd("HSET");
        set.arg(self.bus.key(&home, list));
        for (field, value) in fields {
            set.arg(field).arg(value);
        }
        self.bus.command(&home, set).await.map(drop)
    }

    /// Connections that are in a channel.
    pub(super) async fn all_members(&self) -> Vec<Watcher> {
        let mut members = Vec::new();
        let mut slice = TimeSlice::begin();
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock(|table| {
                    let (tenants, rest) = table.tenants(from);
                    for at in tenants {
                        if table.state(at) == State::Open
                            && let Some(connection) = table.connection(at)
                            && connection.channels().next().is_some()
                        {
                            let app = connection.app;
                            let is_watched = |name: &&SmolStr| {
                                table.is_watching(app, &channel_key(name), at.slot)
                            };
                            let watched = connection.channel_names().filter(is_watched);
                            members.push(Watcher {
                                watched: watched.cloned().collect(),
                                connection,
                            });
                        }
                    }

                    rest
                });

                slice.rest().await;
            }
        }

        members
    }

    fn field(&self, app: AppId, channel: &str, member: ConnectionId) -> String {
        format!("{} {channel} {member}", self.apps.get(app).name)
    }
}

/// Makes one of those with the same connection. If its channels wait for different times, each has some of them, and the record of
/// a connection names all.
async fn joined(parts: Vec<Watcher>) -> Vec<Watcher> {
    let mut places: AHashMap<ConnectionId, usize> = AHashMap::with_capacity(parts.len());
    let mut all: Vec<Watcher> = Vec::with_capacity(parts.len());
    let mut slice = TimeSlice::begin();
    for part in parts {
        slice.rest().await;
        match places.entry(part.connection.id()) {
            Entry::Occupied(place) => all[*place.get()].join(part),
            Entry::Vacant(place) => {
                place.insert(all.len());
                all.push(part);
            }
        }
    }
    all
}

fn listed(member: &Snapshot, channel: &str, watched: bool) -> Vec<u8> {
    let data = member
        .profile()
        .and_then(|profile| to_raw_value(profile).ok());
    let listed = Listed {
        user: member.user().map(ToOwned::to_owned),
        data,
        watched,
        was_put: !member.rights.may_join(channel),
    };
    // Texts and JSON always serialize.
    serde_json::to_vec(&listed).unwrap_or_default()
}
