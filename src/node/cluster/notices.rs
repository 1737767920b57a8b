//! Notices of members over all nodes: what is told here goes to those who watch elsewhere, and theirs to those who watch
//! here.

use std::{sync::Arc, time::Duration};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    super::Node,
    Cluster,
    gather::Overall,
    order::{Order, Tallies},
};
use crate::{
    broker::{BusError, Topic},
    hub::{About, Count, Notice, Tidings, Watching},
    id::{AppId, ConnectionId, NodeId},
    limits::{NOTICES_TOGETHER, NOTICES_WAITING, RECOVER_AGAIN, TALLY_TIMEOUT},
    predicate::Value,
    protocol::{
        envelope::{self, Notices, Told},
        native::{self, Changes, Member, MemberKind},
    },
    time_slice::TimeSlice,
};

/// What other nodes say of their members, on its way to those who watch here.
#[derive(Debug)]
pub(super) struct Mail {
    sender: mpsc::Sender<Notices>,
    end: Mutex<Option<mpsc::Receiver<Notices>>>,
    /// Some were lost: whoever keeps a list has to fetch it anew.
    lost: Notify,
    /// Channels of which counts were told without some nodes.
    uncounted: Mutex<AHashSet<(AppId, String)>>,
    recount: Notify,
}

impl Mail {
    pub(super) fn new() -> Self {
        let (sender, end) = mpsc::channel(NOTICES_WAITING);
        Self {
            sender,
            end: Mutex::new(Some(end)),
            lost: Notify::new(),
            uncounted: Mutex::default(),
            recount: Notify::new(),
        }
    }

    /// Takes notices in; false if too many wait, and those who watch will be told that there were some.
    pub(super) fn push(&self, notices: Notices) -> bool {
        let taken = self.sender.try_send(notices).is_ok();
        if !taken {
            self.lose();
        }
        taken
    }

    /// Has the counts of `channels` told once more, when all nodes can be counted.
    fn count_again(&self, app: AppId, channels: &[SmolStr]) {
        let channels = channels.iter().map(|channel| (app, channel.to_string()));
        self.uncounted.lock().extend(channels);
        self.recount.notify_one();
    }

    /// Notes that notices may have been lost.
    pub(super) fn lose(&self) {
        self.lost.notify_one();
    }
}

/// What was said of one channel, together.
#[derive(Debug, Default)]
struct Said {
    /// Each with the node that says it.
    told: Vec<(NodeId, Told)>,
    changes: Option<Changes>,
}

impl Said {
    /// That there may have been something.
    fn nothing() -> Self {
        Self {
            changes: Some(Changes::default()),
            ..Self::default()
        }
    }

    fn add(&mut self, notices: Notices) {
        let origin = NodeId(notices.origin);
        self.told
            .extend(notices.members.into_iter().map(|told| (origin, told)));
        if let Some(Changes {
            joined,
            left,
            updated,
        }) = notices.changes
        {
            let changes = self.changes.get_or_insert_default();
            changes.joined += joined;
            changes.left += left;
            changes.updated += updated;
        }
    }

    /// Tells no names any more.
    fn fold(&mut self) {
        let changes = self.changes.get_or_insert_default();
        for (_, told) in self.told.drain(..) {
            match told.kind {
                MemberKind::Joined => changes.joined += 1,
                MemberKind::Left => changes.left += 1,
                MemberKind::Updated => changes.updated += 1,
            }
        }
    }
}

impl Node {
    /// Tells the nodes where someone may watch what has become of members here.
    pub(in super::super) fn tell_elsewhere(&self, app: AppId, tidings: &Tidings) {
        let Some(cluster) = &self.cluster else { return };
        let told = |notice: &Notice| Told {
            kind: notice.kind,
            id: notice.member.id().to_string(),
            user: notice.member.user().map(ToOwned::to_owned),
            data: notice
                .member
                .profile()
                .and_then(|profile| to_raw_value(profile).ok()),
            previous: notice.previous.map(|id| id.to_string()),
            tally: notice.user_connections,
        };
        let notices = Notices {
            origin: self.id().0,
            app: self.app(app).name.to_string(),
            channel: tidings.channel.to_string(),
            members: tidings.notices.iter().map(told).collect(),
            changes: tidings.counted.as_ref().map(|(changes, _)| *changes),
        };
        let sent = Self::publish_notices(cluster, app, &notices);
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "notices to other nodes were lost");
            }
        });
    }

    /// Puts notices on their way at once.
    pub(super) fn publish_notices(
        cluster: &Cluster,
        app: AppId,
        notices: &Notices,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        let topic = Topic::Channel(app, notices.channel.as_str().into());
        cluster.bus.publish(&topic, envelope::notices(notices))
    }

    /// Whether anyone here is to hear of the members of `channel`.
    pub(in super::super) fn is_heard(&self, app: AppId, channel: &str) -> bool {
        self.hub.presence(app).is_watched(channel)
            || self
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.captures.is_waiting(app, channel))
    }

    /// Adds what the other nodes have to what is about to be told here of channels of one app.
    pub(in super::super) async fn count_elsewhere(&self, app: AppId, tidings: &mut [Tidings]) {
        let counted = tidings.iter().filter(|one| one.counted.is_some());
        let channels: Vec<SmolStr> = counted.map(|one| one.channel.clone()).collect();
        if !channels.is_empty()
            && let Ok(overall) = self.counts_everywhere(app, &channels).await
        {
            if let Some(cluster) = self
                .cluster
                .as_ref()
                .filter(|_| !overall.missing.is_empty())
            {
                cluster.mail.count_again(app, &channels);
            }
            let counted = tidings.iter_mut().filter_map(|one| one.counted.as_mut());
            for ((_, count), now) in counted.zip(overall.value) {
                *count = now;
            }
        }
        for one in tidings {
            self.tally_elsewhere(app, one).await;
        }
    }

    /// Adds how often users are there on other nodes to notices that are about to be told here.
    async fn tally_elsewhere(&self, app: AppId, tidings: &mut Tidings) {
        let mut notices: Vec<&mut Notice> = tidings
            .notices
            .iter_mut()
            .filter(|notice| notice.member.user().is_some())
            .collect();
        let users = notices
            .iter()
            .filter_map(|notice| notice.member.user().map(ToOwned::to_owned))
            .collect();
        let there = self.tallies_elsewhere(app, &tidings.channel, users).await;
        for (at, notice) in notices.iter_mut().enumerate() {
            notice.user_connections += sum(&there, at, None);
        }
    }

    /// How often each user is in the channel, node by node. A node that does not say so in time is left out: one that has gone
    /// must not hold up every notice.
    async fn tallies_elsewhere(
        &self,
        app: AppId,
        channel: &str,
        users: Vec<String>,
    ) -> Vec<(NodeId, Vec<u64>)> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| !users.is_empty()) else {
            return Vec::new();
        };
        let order = Order::Tallies {
            channel: channel.to_owned(),
            users,
        };
        let gathered = self.ask_heard(cluster, app, &order, TALLY_TIMEOUT).await;
        gathered
            .read_named()
            .map(|(node, Tallies { tallies })| (node, tallies))
            .collect()
    }

    /// Tells this node's watchers what other nodes say of their members, in the order in which each says it, until the
    /// runtime ends. What has gathered meanwhile is told together.
    pub(crate) async fn pass_notices_on(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let Some(mut mail) = cluster.mail.end.lock().take() else {
            return;
        };
        let (mut batch, mut untold) = (Vec::new(), AHashSet::new());
        // When those who may have missed something are told next: nothing that comes meanwhile puts it off.
        let mut next = Instant::now();
        loop {
            tokio::select! {
                n = mail.recv_many(&mut batch, NOTICES_TOGETHER) => if n == 0 { return },
                () = cluster.mail.lost.notified() => untold.extend(self.watched_channels()),
                () = cluster.mail.recount.notified() => {
                    if untold.is_empty() {
                        next = Instant::now() + self.config.limits.ask_timeout;
                    }
                    untold.extend(std::mem::take(&mut *cluster.mail.uncounted.lock()));
                }
                () = tokio::time::sleep_until(next), if !untold.is_empty() => {
                    let Some((app, channel)) = untold.iter().next().cloned() else { continue };
                    let again = self.pass_on(app, &channel, Said::nothing()).await;
                    next = Instant::now() + again.unwrap_or_default();
                    if again.is_none() {
                        untold.remove(&(app, channel));
                    }
                }
            }
            let mut channels: AHashMap<(AppId, String), Said> = AHashMap::new();
            for mut notices in batch.drain(..) {
                if let Some(app) = cluster.app_named(&notices.app) {
                    let channel = std::mem::take(&mut notices.channel);
                    channels.entry((app, channel)).or_default().add(notices);
                }
            }
            for ((app, channel), said) in channels {
                if self.pass_on(app, &channel, said).await.is_some() {
                    untold.insert((app, channel));
                }
            }
        }
    }

    fn watched_channels(&self) -> Vec<(AppId, String)> {
        let of = |app: &crate::app::App| {
            let app = app.id;
            self.hub
                .presence(app)
                .watched_channels()
                .into_iter()
                .map(move |channel| (app, channel.to_string()))
        };
        self.apps.iter().flat_map(of).collect()
    }

    /// Tells those who are to hear of `channel`. Where counts were to be told, and could not be had of every node, returns after
    /// which time to try it again.
    async fn pass_on(&self, app: AppId, channel: &str, mut said: Said) -> Option<Duration> {
        if !self.is_heard(app, channel) {
            return None;
        }
        // Who may see only counts, or would see too many, is told no names.
        let only_counts = self.watching(app, channel, true) == Watching::Counts;
        if only_counts || said.told.len() > self.config.limits.presence_notices as usize {
            said.fold();
        }
        let users: Vec<String> = said
            .told
            .iter()
            .filter_map(|(_, told)| told.user.clone())
            .collect();
        let here = self.hub.presence(app).tallies(channel, &users);
        let there = self.tallies_elsewhere(app, channel, users).await;
        let mut frames: Vec<About> = Vec::with_capacity(said.told.len() + 1);
        let mut at = 0;
        for (origin, told) in said.told {
            let mut more = 0;
            if told.user.is_some() {
                // The node that says it has counted its own.
                more = here.get(at).copied().unwrap_or(0) + sum(&there, at, Some(origin));
                at += 1;
            }
            frames.extend(frame_of(channel, &told, told.tally + more));
        }
        let mut again = None;
        if let Some(changes) = said.changes {
            match self.counts_everywhere(app, &[channel.into()]).await {
                Ok(Overall { value, missing }) => {
                    // One that does not answer is not waited for, and all are told once more in each round.
                    again = (!missing.is_empty()).then_some(self.config.limits.ask_timeout);
                    let Count { connections, users } = value.first().copied().unwrap_or_default();
                    frames.push((
                        None,
                        native::members_changed(channel, &changes, connections, users),
                    ));
                }
                Err(_) => again = Some(RECOVER_AGAIN),
            }
        }
        self.tell_here(app, channel, &frames, &mut TimeSlice::begin())
            .await;
        again
    }
}

/// How often the user numbered `at` is there on all nodes but `except`.
fn sum(tallies: &[(NodeId, Vec<u64>)], at: usize, except: Option<NodeId>) -> u64 {
    let others = tallies.iter().filter(|(node, _)| Some(*node) != except);
    others.filter_map(|(_, tallies)| tallies.get(at)).sum()
}

/// A notice of another node's member, as this node's clients get it.
fn frame_of(channel: &str, told: &Told, user_connections: u64) -> Option<About> {
    let id: ConnectionId = told.id.parse().ok()?;
    let data = told
        .data
        .as_ref()
        .and_then(|data| Value::from_json(&mut data.get().as_bytes().to_vec(), None).ok());
    let member = Member {
        id,
        user: told.user.as_deref(),
        data: data.as_ref(),
    };
    let previous = told.previous.as_ref().and_then(|id| id.parse().ok());
    Some((
        Some(id),
        native::member(told.kind, channel, &member, user_connections, previous),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notices(origin: u32, kinds: &[MemberKind], changes: Option<Changes>) -> Notices {
        let told = |(n, &kind): (usize, &MemberKind)| Told {
            kind,
            id: n.to_string(),
            user: None,
            data: None,
            previous: None,
            tally: 0,
        };
        let members = kinds.iter().enumerate().map(told).collect();
        Notices {
            origin,
            app: String::new(),
            channel: String::new(),
            members,
            changes,
        }
    }

    #[test]
    fn what_several_nodes_say_stays_in_order_and_adds_up() {
        let mut said = Said::default();
        said.add(notices(1, &[MemberKind::Joined, MemberKind::Left], None));
        said.add(notices(
            2,
            &[MemberKind::Updated],
            Some(Changes {
                joined: 2,
                left: 0,
                updated: 1,
            }),
        ));
        said.add(notices(
            1,
            &[MemberKind::Joined],
            Some(Changes {
                joined: 0,
                left: 3,
                updated: 0,
            }),
        ));
        let order: Vec<_> = said
            .told
            .iter()
            .map(|(node, told)| (node.0, told.kind))
            .collect();
        let expected = [
            (1, MemberKind::Joined),
            (1, MemberKind::Left),
            (2, MemberKind::Updated),
            (1, MemberKind::Joined),
        ];
        assert_eq!(order, expected);
        said.fold();
        assert!(said.told.is_empty());
        assert_eq!(
            said.changes,
            Some(Changes {
                joined: 4,
                left: 4,
                updated: 2
            })
        );
    }

    #[test]
    fn who_has_told_its_tally_is_not_counted_twice() {
        let there = [
            (NodeId(1), vec![1, 2]),
            (NodeId(2), vec![10, 20]),
            (NodeId(3), vec![]),
        ];
        assert_eq!(sum(&there, 1, Some(NodeId(2))), 2);
        assert_eq!(sum(&there, 0, None), 11);
    }
}
