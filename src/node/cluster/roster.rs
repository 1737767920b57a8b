//! The list of this node's members in Redis, which outlives a node that ends without a word.
//!
//! It lives as long as the node's lease. Whoever finds a list without a lease tells the channels that these members have
//! left, and takes it away; so nobody stays who is not there. Where no node comes any more, it goes by itself.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ahash::AHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{super::Node, Cluster, leases::millis};
use crate::{
    broker::{BusError, Script, Topic},
    hub::{Change, Snapshot, State},
    id::{AppId, NodeId},
    limits::{MEMBERS_AT_ONCE, NOTICES_TOGETHER, ROSTER_OUTLIVES},
    protocol::{
        envelope::{Notices, Told},
        native::{Changes, MemberKind},
    },
};

/// The fields of a list that change, by name; those without a value go.
type Fields = AHashMap<String, Option<Vec<u8>>>;

/// How long the list waits before it is written again after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// What the list is called, and one that is being written in its place.
const LIST: &str = "members";
const NEW_LIST: &str = "members.new";

/// Gives keys a time to live, those that are there.
static OUTLIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end return 1")
});

/// A member as the list has it: enough to say that it has left.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

impl Node {
    /// Keeps this node's list of members in step with its channels, until the runtime ends.
    pub(crate) async fn keep_list(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let Some(mut changes) = cluster.changes.lock().take() else {
            return;
        };
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                n = changes.recv_many(&mut batch, MEMBERS_AT_ONCE) => if n == 0 { return },
                () = cluster.relist.notified() => {}
            }
            let stale = cluster.relist_due();
            let written = if stale {
                self.write_list(cluster).await
            } else {
                self.change_list(cluster, &batch).await
            };
            batch.clear();
            if let Err(error) = written {
                tracing::debug!(%error, "the list of members in Redis is behind");
                tokio::time::sleep(AGAIN).await;
                cluster.relist();
            }
        }
    }

    /// Gives the list its whole time anew, and one that is being written.
    pub(super) async fn renew_list(&self, cluster: &Cluster) {
        let home = Topic::Node(self.id());
        let lists = [LIST, NEW_LIST]
            .map(|list| cluster.bus.key(&home, list))
            .into();
        if let Err(error) = cluster
            .bus
            .eval(&OUTLIVE, &home, lists, vec![millis(ROSTER_OUTLIVES)])
            .await
        {
            tracing::debug!(%error, "the list of members was not given its time anew");
        }
    }

    async fn change_list(&self, cluster: &Cluster, batch: &[Change]) -> Result<(), BusError> {
        let mut fields = Fields::new();
        for change in batch {
            let gone = change.kind == MemberKind::Left;
            let field = self.field(change.app, &change.channel, &change.member);
            fields.insert(field, (!gone).then(|| listed(&change.member)));
            if let Some(previous) = change.previous {
                let field = format!(
                    "{} {} {previous}",
                    self.app(change.app).name,
                    change.channel
                );
                fields.entry(field).or_insert(None);
            }
        }
        self.write_fields(cluster, LIST, fields).await
    }

    async fn write_fields(
        &self,
        cluster: &Cluster,
        list: &str,
        fields: Fields,
    ) -> Result<(), BusError> {
        let home = Topic::Node(self.id());
        let key = cluster.bus.key(&home, list);
        let (mut set, mut delete) = (redis::cmd("HSET"), redis::cmd("HDEL"));
        set.arg(&key);
        delete.arg(&key);
        let (mut sets, mut deletes) = (false, false);
        for (field, value) in fields {
            if let Some(value) = value {
                set.arg(field).arg(value);
                sets = true;
            } else {
                delete.arg(field);
                deletes = true;
            }
        }
        let set = sets.then(|| cluster.bus.command(&home, set));
        let delete = deletes.then(|| cluster.bus.command(&home, delete));
        if let Some(set) = set {
            set.await?;
        }
        if let Some(delete) = delete {
            delete.await?;
        }
        Ok(())
    }

    /// Writes the whole list anew, beside the one that is there, and puts it in its place.
    async fn write_list(&self, cluster: &Cluster) -> Result<(), BusError> {
        let home = Topic::Node(self.id());
        let (list, new) = (
            cluster.bus.key(&home, LIST),
            cluster.bus.key(&home, NEW_LIST),
        );
        let mut members = self.all_members();
        // Those who may come back are to leave too if the node does not live to see that they do not.
        members.extend(self.hub.context().limbo.all().await);
        let of = |member: &Snapshot| -> Fields {
            let named = |channel: &str| {
                (
                    self.field(member.app, channel, member),
                    Some(listed(member)),
                )
            };
            member.channels().map(named).collect()
        };
        cluster
            .bus
            .command(&home, command("UNLINK", &[&new]))
            .await?;
        let (mut fields, mut is_empty) = (Fields::new(), true);
        for member in &members {
            fields.extend(of(member));
            is_empty &= fields.is_empty();
            if fields.len() >= MEMBERS_AT_ONCE {
                self.write_fields(cluster, NEW_LIST, std::mem::take(&mut fields))
                    .await?;
            }
        }
        self.write_fields(cluster, NEW_LIST, fields).await?;
        // Renamed over, it would be freed while everyone waits. Whoever reaps looks at both.
        cluster
            .bus
            .command(&home, command("UNLINK", &[&list]))
            .await?;
        if !is_empty {
            cluster
                .bus
                .command(&home, command("RENAME", &[&new, &list]))
                .await?;
        }
        Ok(())
    }

    /// Tells other nodes' watchers of all members here: they were taken for gone.
    pub(super) fn announce_members(self: &Arc<Self>) {
        let mut channels: AHashMap<(AppId, String), Vec<Told>> = AHashMap::new();
        for member in self.all_members() {
            for channel in member.channels() {
                let user: Vec<String> = member.user().map(ToOwned::to_owned).into_iter().collect();
                let tally = self.hub.presence(member.app).tallies(channel, &user);
                let told = Told {
                    kind: MemberKind::Joined,
                    id: member.id().to_string(),
                    user: user.first().cloned(),
                    data: member
                        .profile()
                        .and_then(|profile| to_raw_value(profile).ok()),
                    previous: None,
                    tally: tally.first().copied().unwrap_or(1),
                };
                channels
                    .entry((member.app, channel.to_owned()))
                    .or_default()
                    .push(told);
            }
        }
        let node = self.clone();
        tokio::spawn(async move {
            if let Err(error) = node.tell_all(node.id(), channels).await {
                tracing::debug!(%error, "other nodes do not know yet that the members here are there");
            }
        });
    }

    /// Tells the nodes of what has become of many members of the node `origin`, as counts where they are more than may be
    /// told by name.
    async fn tell_all(
        &self,
        origin: NodeId,
        channels: AHashMap<(AppId, String), Vec<Told>>,
    ) -> Result<(), BusError> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let mut sent = VecDeque::new();
        for ((app, channel), mut members) in channels {
            if sent.len() >= NOTICES_TOGETHER
                && let Some(first) = sent.pop_front()
            {
                first.await?;
            }
            let many = members.len() > self.config.limits.presence_notices as usize;
            let changes = many.then(|| {
                let of = |kind| members.iter().filter(|told| told.kind == kind).count() as u64;
                Changes {
                    joined: of(MemberKind::Joined),
                    left: of(MemberKind::Left),
                    updated: 0,
                }
            });
            if many {
                members.clear();
            }
            let (origin, app_name) = (origin.0, self.app(app).name.to_string());
            let notices = Notices {
                origin,
                app: app_name,
                channel,
                members,
                changes,
            };
            sent.push_back(Self::publish_notices(cluster, app, &notices));
        }
        for last in sent {
            last.await?;
        }
        Ok(())
    }

    /// Connections that are in a channel.
    fn all_members(&self) -> Vec<Snapshot> {
        let mut members = Vec::new();
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.own(|table| {
                    let (tenants, rest) = table.tenants(from);
                    for at in tenants {
                        if table.state(at) == State::Open
                            && let Some(connection) = table.connection(at)
                            && connection.channels().next().is_some()
                        {
                            members.push(connection);
                        }
                    }
                    rest
                });
            }
        }
        members
    }

    fn field(&self, app: AppId, channel: &str, member: &Snapshot) -> String {
        format!("{} {channel} {}", self.app(app).name, member.id())
    }

    /// Tells the channels of a node that has ended without a word that its members have left, and forgets them. Done by
    /// one node for each that ended, and again by another where it does not get through.
    pub(super) async fn reap(self: Arc<Self>, dead: NodeId) {
        let done = self.reap_now(dead).await;
        if let Err(error) = done {
            tracing::warn!(node = %dead, %error, "members of a node that has gone stay for now, and leave later");
        }
    }

    async fn reap_now(&self, dead: NodeId) -> Result<(), BusError> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let home = Topic::Node(dead);
        let (list, new) = (
            cluster.bus.key(&home, LIST),
            cluster.bus.key(&home, NEW_LIST),
        );
        let mut members = self.read_list(cluster, &home, &list).await?;
        members.extend(self.read_list(cluster, &home, &new).await?);
        tracing::warn!(node = %dead, members = members.len(), "a node has gone without a word; its members leave");
        let mut channels: AHashMap<(AppId, String), Vec<Told>> = AHashMap::new();
        for (field, value) in members {
            let mut parts = field.splitn(3, ' ');
            let (Some(app), Some(channel), Some(id)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let (Some(app), Ok(listed)) = (cluster.app_named(app), serde_json::from_slice(&value))
            else {
                continue;
            };
            let Listed { user, data } = listed;
            let (kind, id) = (MemberKind::Left, id.to_owned());
            let told = Told {
                kind,
                id,
                user,
                data,
                previous: None,
                tally: 0,
            };
            channels
                .entry((app, channel.to_owned()))
                .or_default()
                .push(told);
        }
        // As the one who is gone, so that this node hears it as well.
        self.tell_all(dead, channels).await?;
        cluster
            .bus
            .command(&home, command("UNLINK", &[&list, &new]))
            .await?;
        self.reaped(cluster, dead).await
    }

    /// Reads a list bit by bit: others use the same Redis meanwhile.
    async fn read_list(
        &self,
        cluster: &Cluster,
        home: &Topic,
        list: &[u8],
    ) -> Result<AHashMap<String, Vec<u8>>, BusError> {
        let (mut members, mut cursor) = (AHashMap::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(list).arg(cursor).arg("COUNT").arg(MEMBERS_AT_ONCE);
            let answer = cluster.bus.command(home, scan).await?;
            let (next, some): (u64, Vec<(String, Vec<u8>)>) = redis::from_redis_value(answer)
                .map_err(|error| BusError::Refused {
                    code: "unreadable".to_owned(),
                    message: error.to_string(),
                })?;
            members.extend(some);
            cursor = next;
            if cursor == 0 {
                return Ok(members);
            }
        }
    }
}

fn command(name: &str, keys: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(keys);
    command
}

fn listed(member: &Snapshot) -> Vec<u8> {
    let data = member
        .profile()
        .and_then(|profile| to_raw_value(profile).ok());
    let listed = Listed {
        user: member.user().map(ToOwned::to_owned),
        data,
    };
    // Texts and JSON always serialize.
    serde_json::to_vec(&listed).unwrap_or_default()
}
