//! The list of this node's members in Redis, which outlives a node that ends without a word.
//!
//! It lives as long as the node's lease. Whoever finds a list without a lease tells the channels, bit by bit, that these members
//! have left, and takes it away; so nobody stays who is not there. Where no node comes any more, it goes by itself.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ahash::{AHashMap, RandomState};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{super::Node, Cluster, leases::millis, unreadable};
use crate::{
    broker::{BusError, Script, Topic},
    hub::{Change, Snapshot, State},
    id::{AppId, NodeId},
    limits::{
        MEMBERS_AT_ONCE, NOTICES_TOGETHER, ROSTER_OUTLIVES, TOLD_BYTES, TOLD_CHANNELS,
        TOLD_TOGETHER,
    },
    protocol::{
        envelope::{Notices, Told},
        native::{Changes, MemberKind},
    },
    time_slice::TimeSlice,
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
        // First of all, so that nothing is gathered while Redis is away.
        cluster
            .bus
            .command(&home, command("UNLINK", &[&new]))
            .await?;
        let mut members = self.all_members().await;
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
        let (mut fields, mut is_empty) = (Fields::new(), true);
        let mut slice = TimeSlice::begin();
        for member in &members {
            slice.rest().await;
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
        let node = self.clone();
        tokio::spawn(async move {
            if let Err(error) = node.announce().await {
                tracing::debug!(%error, "other nodes do not know yet that the members here are there");
            }
        });
    }

    async fn announce(&self) -> Result<(), BusError> {
        let mut telling = Telling::new(self.config.limits.presence_notices);
        let mut slice = TimeSlice::begin();
        for member in self.all_members().await {
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
                if let Some(full) = telling.add(member.app, channel, told) {
                    self.tell_all(self.id(), full).await?;
                }
                slice.rest().await;
            }
        }
        self.tell_all(self.id(), telling.take()).await
    }

    /// Tells the nodes of what has become of members of the node `origin`.
    async fn tell_all(&self, origin: NodeId, channels: Groups) -> Result<(), BusError> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let mut sent = VecDeque::new();
        let mut slice = TimeSlice::begin();
        for ((app, channel), Group { named, counts }) in channels {
            if sent.len() >= NOTICES_TOGETHER
                && let Some(first) = sent.pop_front()
            {
                first.await?;
            }
            let changes = named.is_none().then_some(counts);
            let notices = Notices {
                origin: origin.0,
                app: self.app(app).name.to_string(),
                channel,
                members: named.unwrap_or_default(),
                changes,
            };
            sent.push_back(Self::publish_notices(cluster, app, &notices));
            slice.rest().await;
        }
        for last in sent {
            last.await?;
        }
        Ok(())
    }

    /// Connections that are in a channel.
    async fn all_members(&self) -> Vec<Snapshot> {
        let mut members = Vec::new();
        let mut slice = TimeSlice::begin();
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
                slice.rest().await;
            }
        }
        members
    }

    fn field(&self, app: AppId, channel: &str, member: &Snapshot) -> String {
        format!("{} {channel} {}", self.app(app).name, member.id())
    }

    /// Tells the channels of a node that has ended that its members have left, and forgets them. Done by one node for each that
    /// ended, and again by another where it does not get through.
    pub(super) async fn reap(self: Arc<Self>, dead: Gone) {
        match self.reap_now(dead.id).await {
            Ok(members) if dead.is_planned => {
                tracing::debug!(node = %dead.name, members, "members that a node has left behind have left");
            }
            Ok(members) => {
                tracing::warn!(node = %dead.name, members, "a node has gone without a word; its members have left");
            }
            Err(error) => {
                tracing::warn!(node = %dead.name, %error, "members of a node that has gone stay for now, and leave later");
            }
        }
    }

    /// Returns how many memberships there were. They are read and told bit by bit: they may be more than this node has room for,
    /// and others use the same Redis meanwhile.
    async fn reap_now(&self, dead: NodeId) -> Result<u64, BusError> {
        let Some(cluster) = &self.cluster else {
            return Ok(0);
        };
        let home = Topic::Node(dead);
        let (list, new) = (
            cluster.bus.key(&home, LIST),
            cluster.bus.key(&home, NEW_LIST),
        );
        let mut telling = Telling::new(self.config.limits.presence_notices);
        let (mut members, mut slice) = (0, TimeSlice::begin());
        for at in [&list, &new] {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let (mut page, next) = Self::read_page(cluster, &home, at, from).await?;
                if at == &new {
                    // The node ended while it wrote the list anew; these were told.
                    page = Self::without_listed(cluster, &home, &list, page).await?;
                }
                cursor = next;
                for (field, value) in page {
                    slice.rest().await;
                    let Some((app, channel, told)) = left(cluster, &field, &value) else {
                        continue;
                    };
                    members += 1;
                    if let Some(full) = telling.add(app, channel, told) {
                        // As the one who is gone, so that this node hears it as well.
                        self.tell_all(dead, full).await?;
                    }
                }
            }
        }
        self.tell_all(dead, telling.take()).await?;
        cluster
            .bus
            .command(&home, command("UNLINK", &[&list, &new]))
            .await?;
        self.reaped(cluster, dead).await?;
        Ok(members)
    }

    /// Reads some of a list, and where the rest begins.
    async fn read_page(
        cluster: &Cluster,
        home: &Topic,
        list: &[u8],
        from: u64,
    ) -> Result<(Page, Option<u64>), BusError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(list).arg(from).arg("COUNT").arg(MEMBERS_AT_ONCE);
        let answer = cluster.bus.command(home, scan).await?;
        let (next, page): (u64, Page) =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        Ok((page, Some(next).filter(|next| *next > 0)))
    }

    /// The members of `page` that are not in `list`.
    async fn without_listed(
        cluster: &Cluster,
        home: &Topic,
        list: &[u8],
        page: Page,
    ) -> Result<Page, BusError> {
        if page.is_empty() {
            return Ok(page);
        }
        let mut get = redis::cmd("HMGET");
        get.arg(list);
        for (field, _) in &page {
            get.arg(field);
        }
        let answer = cluster.bus.command(home, get).await?;
        let listed: Vec<Option<Vec<u8>>> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let new = page.into_iter().zip(listed);
        Ok(new
            .filter_map(|(member, listed)| listed.is_none().then_some(member))
            .collect())
    }
}

/// A part of a list: fields and values.
type Page = Vec<(String, Vec<u8>)>;

/// A node that has gone.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) id: NodeId,
    /// Its id, where nobody here knew it.
    pub(super) name: Arc<str>,
    /// It has said so.
    pub(super) is_planned: bool,
}

/// What has become of members of one channel.
#[derive(Debug, Default)]
struct Group {
    /// Nothing where they are more than may be told by name.
    named: Option<Vec<Told>>,
    counts: Changes,
}

type Groups = AHashMap<(AppId, String), Group>;

/// What has become of many members, by channel: as counts where they are more than may be told by name. It is to be told whenever
/// it has grown to [`TOLD_TOGETHER`].
#[derive(Debug)]
struct Telling {
    named_at_most: u32,
    groups: Groups,
    bytes: usize,
    /// Members of each channel so far, those that were told included, by a digest of the channel.
    members: AHashMap<u64, u32>,
    hasher: RandomState,
}

impl Telling {
    /// Nothing yet, for channels that tell `named_at_most` members by name.
    fn new(named_at_most: u32) -> Self {
        Self {
            named_at_most,
            groups: Groups::new(),
            bytes: 0,
            members: AHashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Adds one. Returns what is to be told now.
    fn add(&mut self, app: AppId, channel: &str, told: Told) -> Option<Groups> {
        if self.members.len() >= TOLD_CHANNELS {
            self.members.clear();
        }
        let digest = self.hasher.hash_one((app, channel));
        let before = self.members.entry(digest).or_default();
        let may_be_named = *before < self.named_at_most;
        *before += 1;

        let key = (app, channel.to_owned());
        let group = self.groups.entry(key).or_insert_with(|| {
            self.bytes += TOLD_BYTES + channel.len();
            Group {
                named: Some(Vec::new()),
                ..Group::default()
            }
        });
        match told.kind {
            MemberKind::Joined => group.counts.joined += 1,
            MemberKind::Left => group.counts.left += 1,
            MemberKind::Updated => group.counts.updated += 1,
        }
        if let Some(named) = &mut group.named {
            if may_be_named {
                self.bytes += bytes_of(&told);
                named.push(told);
            } else {
                self.bytes -= named.iter().map(bytes_of).sum::<usize>();
                group.named = None;
            }
        }
        (self.bytes >= TOLD_TOGETHER).then(|| self.take())
    }

    fn take(&mut self) -> Groups {
        self.bytes = 0;
        std::mem::take(&mut self.groups)
    }
}

/// What a member takes until it is told.
fn bytes_of(told: &Told) -> usize {
    let user = told.user.as_ref().map_or(0, String::len);
    let data = told.data.as_ref().map_or(0, |data| data.get().len());
    TOLD_BYTES + told.id.len() + user + data
}

/// That a listed member has left; nothing for an app that is not served here.
fn left<'f>(cluster: &Cluster, field: &'f str, value: &[u8]) -> Option<(AppId, &'f str, Told)> {
    let mut parts = field.splitn(3, ' ');
    let (app, channel, id) = (parts.next()?, parts.next()?, parts.next()?);
    let app = cluster.app_named(app)?;
    let Listed { user, data } = serde_json::from_slice(value).ok()?;
    let told = Told {
        kind: MemberKind::Left,
        id: id.to_owned(),
        user,
        data,
        previous: None,
        tally: 0,
    };
    Some((app, channel, told))
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

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(0);

    fn told(n: usize, data: usize) -> Told {
        Told {
            kind: MemberKind::Left,
            id: n.to_string(),
            user: None,
            data: RawValue::from_string(format!("\"{}\"", "x".repeat(data))).ok(),
            previous: None,
            tally: 0,
        }
    }

    #[test]
    fn more_members_than_may_be_named_are_a_number_and_take_no_room() {
        let mut telling = Telling::new(20);
        for n in 0..20 {
            assert!(telling.add(APP, "few", told(n, 1)).is_none());
        }
        let bytes = telling.bytes;
        for n in 0..100_000 {
            assert!(telling.add(APP, "many", told(n, 8000)).is_none());
        }
        assert!(telling.bytes < bytes + 2 * TOLD_BYTES);
        let groups = telling.take();
        let few = &groups[&(APP, "few".to_owned())];
        assert_eq!(few.named.as_ref().map(Vec::len), Some(20));
        let many = &groups[&(APP, "many".to_owned())];
        assert_eq!((many.named.is_none(), many.counts.left), (true, 100_000));
        assert_eq!(telling.bytes, 0);
    }

    #[test]
    fn no_more_are_named_of_a_channel_that_was_told_in_part() {
        let mut telling = Telling::new(20);
        let named = |groups: &Groups| {
            let of = |group: &Group| group.named.as_ref().map_or(0, Vec::len);
            groups.values().map(of).sum::<usize>()
        };
        let (mut names, mut left) = (0, 0);
        for round in 0..4 {
            for n in 0..15 {
                assert!(telling.add(APP, "c", told(n, 1)).is_none());
            }
            let groups = telling.take();
            names += named(&groups);
            left += groups.values().map(|group| group.counts.left).sum::<u64>();
            assert_eq!(names, 15, "{round}");
        }
        assert_eq!(left, 60);
    }

    #[test]
    fn what_is_held_before_it_is_told_is_bounded() {
        let mut telling = Telling::new(20);
        let (mut most, mut members) = (0, 0);
        for n in 0..10_000 {
            let full = telling.add(APP, &n.to_string(), told(n, 4000));
            most = most.max(telling.bytes);
            members += full.map_or(0, |full| full.len());
        }
        members += telling.take().len();
        assert_eq!(members, 10_000);
        assert!(most < TOLD_TOGETHER, "{most}");
    }
}
