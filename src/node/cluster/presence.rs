//! Members over all nodes: notices to those who watch elsewhere, and what outlives a node that ends without a word.
//!
//! Each node keeps a list of its members in Redis, which lives as long as its lease. Whoever finds a list without a lease
//! tells the channels that these members have left, and takes it away; so nobody stays who is not there.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::{
    super::{Node, presence::About},
    Cluster,
    gather::Overall,
    order::{Order, Tallies},
};
use crate::{
    broker::{BusError, Topic},
    hub::{Change, Count, Notice, Snapshot, State, Tidings, Watching},
    id::{AppId, ConnectionId, NodeId},
    limits::{MEMBERS_AT_ONCE, TALLY_TIMEOUT},
    predicate::Value,
    protocol::{
        envelope::{self, Notices, Told},
        native::{self, Member, MemberKind},
    },
};

/// How long the list waits before it is written again after a failure.
const AGAIN: Duration = Duration::from_millis(500);

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
        let Some(mut changes) = cluster.changes.lock().take() else { return };
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                n = changes.recv_many(&mut batch, MEMBERS_AT_ONCE) => if n == 0 { return },
                () = cluster.relist.notified() => {}
            }
            let stale = cluster.relist_due();
            let written =
                if stale { self.write_list(cluster).await } else { self.change_list(cluster, &batch).await };
            batch.clear();
            if let Err(error) = written {
                tracing::debug!(%error, "the list of members in Redis is behind");
                tokio::time::sleep(AGAIN).await;
                cluster.relist();
            }
        }
    }

    async fn change_list(&self, cluster: &Cluster, batch: &[Change]) -> Result<(), BusError> {
        let mut fields: AHashMap<String, Option<Vec<u8>>> = AHashMap::new();
        for change in batch {
            let gone = change.kind == MemberKind::Left;
            let field = self.field(change.app, &change.channel, &change.member);
            fields.insert(field, (!gone).then(|| listed(&change.member)));
            if let Some(previous) = change.previous {
                let field = format!("{} {} {previous}", self.app(change.app).name, change.channel);
                fields.entry(field).or_insert(None);
            }
        }
        self.write_fields(cluster, fields).await
    }

    async fn write_fields(
        &self,
        cluster: &Cluster,
        fields: AHashMap<String, Option<Vec<u8>>>,
    ) -> Result<(), BusError> {
        let home = Topic::Node(self.id());
        let key = cluster.bus.key(&home, "members");
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

    /// Writes the whole list anew.
    async fn write_list(&self, cluster: &Cluster) -> Result<(), BusError> {
        let home = Topic::Node(self.id());
        let mut delete = redis::cmd("DEL");
        delete.arg(cluster.bus.key(&home, "members"));
        cluster.bus.command(&home, delete).await?;
        for member in self.all_members() {
            let of = |channel: &str| (self.field(member.app, channel, &member), Some(listed(&member)));
            self.write_fields(cluster, member.channels().map(of).collect()).await?;
        }
        Ok(())
    }

    /// Tells other nodes' watchers of all members here: they were taken for gone.
    pub(super) fn announce_members(&self, cluster: &Cluster) {
        let mut channels: AHashMap<(AppId, String), Vec<Told>> = AHashMap::new();
        for member in self.all_members() {
            for channel in member.channels() {
                let user: Vec<String> = member.user().map(ToOwned::to_owned).into_iter().collect();
                let tally = self.hub.presence(member.app).tallies(channel, &user);
                let told = Told {
                    kind: MemberKind::Joined,
                    id: member.id().to_string(),
                    user: user.first().cloned(),
                    data: member.profile().and_then(|profile| to_raw_value(profile).ok()),
                    previous: None,
                    tally: tally.first().copied().unwrap_or(1),
                };
                channels.entry((member.app, channel.to_owned())).or_default().push(told);
            }
        }
        for ((app, channel), members) in channels {
            let (origin, name) = (self.id().0, self.app(app).name.to_string());
            Self::publish_notices(
                cluster,
                app,
                &Notices { origin, app: name, channel, members, changes: None },
            );
        }
    }

    /// Connections that are in a channel.
    fn all_members(&self) -> Vec<Snapshot> {
        let mut members = Vec::new();
        for shard in self.hub.shards() {
            shard.own(|table| {
                for at in table.tenants() {
                    if table.state(at) == State::Open
                        && let Some(connection) = table.connection(at)
                        && connection.channels().next().is_some()
                    {
                        members.push(connection);
                    }
                }
            });
        }
        members
    }

    fn field(&self, app: AppId, channel: &str, member: &Snapshot) -> String {
        format!("{} {channel} {}", self.app(app).name, member.id())
    }

    /// Tells the nodes where someone may watch what has become of members here.
    pub(in super::super) fn tell_elsewhere(&self, app: AppId, tidings: &Tidings) {
        let Some(cluster) = &self.cluster else { return };
        let told = |notice: &Notice| Told {
            kind: notice.kind,
            id: notice.member.id().to_string(),
            user: notice.member.user().map(ToOwned::to_owned),
            data: notice.member.profile().and_then(|profile| to_raw_value(profile).ok()),
            previous: notice.previous.map(|id| id.to_string()),
            tally: notice.user_connections,
        };
        Self::publish_notices(
            cluster,
            app,
            &Notices {
                origin: self.id().0,
                app: self.app(app).name.to_string(),
                channel: tidings.channel.to_string(),
                members: tidings.notices.iter().map(told).collect(),
                changes: tidings.counted.as_ref().map(|(changes, _)| *changes),
            },
        );
    }

    fn publish_notices(cluster: &Cluster, app: AppId, notices: &Notices) {
        let topic = Topic::Channel(app, notices.channel.as_str().into());
        let sent = cluster.bus.publish(&topic, envelope::notices(notices));
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "notices to other nodes were lost");
            }
        });
    }

    /// Adds what the other nodes have to counts that are about to be told here.
    pub(in super::super) async fn count_elsewhere(&self, app: AppId, tidings: &mut Tidings) {
        if self.cluster.is_none() {
            return;
        }
        if let Some((_, count)) = &mut tidings.counted
            && let Ok(overall) = self.count_everywhere(app, &tidings.channel).await
        {
            *count = overall.value;
        }
        let mut notices: Vec<&mut Notice> =
            tidings.notices.iter_mut().filter(|notice| notice.member.user().is_some()).collect();
        let users = notices.iter().filter_map(|notice| notice.member.user().map(ToOwned::to_owned)).collect();
        let sums = self.tallies_elsewhere(app, &tidings.channel, users, None).await;
        for (notice, sum) in notices.iter_mut().zip(sums) {
            notice.user_connections += sum;
        }
    }

    /// How often each user is in the channel on the other nodes, but for `except`, which has said so.
    async fn tallies_elsewhere(
        &self,
        app: AppId,
        channel: &str,
        users: Vec<String>,
        except: Option<NodeId>,
    ) -> Vec<u64> {
        let mut sums = vec![0; users.len()];
        let Some(cluster) = self.cluster.as_ref().filter(|_| !users.is_empty()) else { return sums };
        let order = Order::Tallies { channel: channel.to_owned(), users };
        let asked = self.ask_all(cluster, app, &order);
        let Ok(mut gathered) = tokio::time::timeout(TALLY_TIMEOUT, asked).await else { return sums };
        gathered.said.retain(|said| Some(said.node) != except);
        for Tallies { tallies } in gathered.read() {
            sums.iter_mut().zip(tallies).for_each(|(sum, tally)| *sum += tally);
        }
        sums
    }

    /// Tells this node's watchers what other nodes say of their members, one message after another, until the runtime
    /// ends.
    pub(crate) async fn pass_notices_on(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let Some(mut notices) = cluster.notices.take() else { return };
        while let Some(notices) = notices.recv().await {
            if let Some(app) = cluster.app_named(&notices.app) {
                self.pass_on(app, notices).await;
            }
        }
    }

    async fn pass_on(&self, app: AppId, notices: Notices) {
        let Notices { origin, channel, mut members, mut changes, .. } = notices;
        let presence = self.hub.presence(app);
        if !presence.is_watched(&channel) {
            return;
        }
        // Who may see only counts, or would see too many, is told no names.
        let only_counts = self.watching(app, &channel, true) == Watching::Counts;
        if only_counts || members.len() > self.config.limits.presence_notices as usize {
            let counted = changes.get_or_insert_default();
            for told in members.drain(..) {
                match told.kind {
                    MemberKind::Joined => counted.joined += 1,
                    MemberKind::Left => counted.left += 1,
                    MemberKind::Updated => counted.updated += 1,
                }
            }
        }
        let users: Vec<String> = members.iter().filter_map(|told| told.user.clone()).collect();
        let here = presence.tallies(&channel, &users);
        let there = self.tallies_elsewhere(app, &channel, users, Some(NodeId(origin))).await;
        let mut sums = here.into_iter().zip(there).map(|(here, there)| here + there);
        let mut frames: Vec<About> = Vec::with_capacity(members.len() + 1);
        for told in members {
            let more = if told.user.is_some() { sums.next().unwrap_or(0) } else { 0 };
            frames.extend(frame_of(&channel, &told, told.tally + more));
        }
        if let Some(changes) = changes
            && let Ok(Overall { value: Count { connections, users }, .. }) =
                self.count_everywhere(app, &channel).await
        {
            frames.push((None, native::members_changed(&channel, &changes, connections, users)));
        }
        self.tell_here(app, &channel, &frames).await;
    }

    /// Tells the channels of a node that has ended without a word that its members have left, and forgets them. Done by
    /// one node for each that ended.
    pub(super) async fn reap(self: Arc<Self>, dead: NodeId) {
        let Some(cluster) = &self.cluster else { return };
        let home = Topic::Node(dead);
        let key = cluster.bus.key(&home, "members");
        let mut read = redis::cmd("HGETALL");
        read.arg(&key);
        let members = match cluster.bus.command(&home, read).await {
            Ok(members) => redis::from_redis_value::<Vec<(String, Vec<u8>)>>(members).unwrap_or_default(),
            Err(error) => return tracing::warn!(%error, "members of a node that has gone stay for now"),
        };
        tracing::warn!(node = %dead, members = members.len(), "a node has gone without a word; its members leave");
        let mut channels: AHashMap<(AppId, String), Vec<(String, Listed)>> = AHashMap::new();
        for (field, value) in members {
            let mut parts = field.splitn(3, ' ');
            let (Some(app), Some(channel), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let (Some(app), Ok(listed)) = (cluster.app_named(app), serde_json::from_slice(&value)) else {
                continue;
            };
            channels.entry((app, channel.to_owned())).or_default().push((id.to_owned(), listed));
        }
        for ((app, channel), members) in channels {
            let told = |(id, Listed { user, data }): (String, Listed)| Told {
                kind: MemberKind::Left,
                id,
                user,
                data,
                previous: None,
                tally: 0,
            };
            let name = self.app(app).name.to_string();
            let members = members.into_iter().map(told).collect();
            // As the one who is gone, so that this node hears it as well.
            let notices = Notices { origin: dead.0, app: name, channel, members, changes: None };
            Self::publish_notices(cluster, app, &notices);
        }
        let mut delete = redis::cmd("DEL");
        delete.arg(&key);
        let forgotten = match cluster.bus.command(&home, delete).await {
            Ok(_) => self.reaped(cluster, dead).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::debug!(%error, "what a node left behind stays, and is told again");
        }
    }
}

/// A notice of another node's member, as this node's clients get it.
fn frame_of(channel: &str, told: &Told, user_connections: u64) -> Option<About> {
    let id: ConnectionId = told.id.parse().ok()?;
    let data =
        told.data.as_ref().and_then(|data| Value::from_json(&mut data.get().as_bytes().to_vec(), None).ok());
    let member = Member { id, user: told.user.as_deref(), data: data.as_ref() };
    let previous = told.previous.as_ref().and_then(|id| id.parse().ok());
    Some((Some(id), native::member(told.kind, channel, &member, user_connections, previous)))
}

fn listed(member: &Snapshot) -> Vec<u8> {
    let data = member.profile().and_then(|profile| to_raw_value(profile).ok());
    let listed = Listed { user: member.user().map(ToOwned::to_owned), data };
    // Texts and JSON always serialize.
    serde_json::to_vec(&listed).unwrap_or_default()
}

/// A queue whose end is taken once, by the task that works it off.
#[derive(Debug)]
pub(super) struct Queue<T> {
    sender: mpsc::Sender<T>,
    end: Mutex<Option<mpsc::Receiver<T>>>,
}

impl<T> Queue<T> {
    pub(super) fn new(bound: usize) -> Self {
        let (sender, end) = mpsc::channel(bound);
        Self { sender, end: Mutex::new(Some(end)) }
    }

    /// Adds to it; false if it is full.
    pub(super) fn push(&self, item: T) -> bool {
        self.sender.try_send(item).is_ok()
    }

    pub(super) fn take(&self) -> Option<mpsc::Receiver<T>> {
        self.end.lock().take()
    }
}
