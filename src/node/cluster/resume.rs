//! Coming back to another node than the one that was lost: that one hands the channels over.

use std::{collections::VecDeque, sync::Arc};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;

use super::{
    super::{LocalResume, Node},
    Handles,
    leases::Membership,
    notices::NoticeRelay,
    receive::Recent,
    relocations::Relocations,
    removed::RemovalRecords,
    roster::Roster,
    rpc::Rpc,
    rpc_request::Request,
};
use crate::{
    auth::Revocations,
    filter::Value,
    hub::{ClientKey, Hub, LostChannel, Snapshot},
    id::{AppId, ConnectionId, NodeId},
    limits::{HANDED_OVER, TAKEN_OVER},
    protocol::{
        envelope::{MemberNotice, Notices},
        native::MemberKind,
    },
};

/// What a lost connection had, as its node says it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResumeState {
    /// Its profile as JSON; `null` if none.
    pub(super) profile: Box<RawValue>,
    pub(crate) channels: Vec<ResumeChannel>,
    /// The connection that had it, if that has taken the place of the one that the client named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    /// It comes from the list of members of a node that does not answer.
    #[serde(skip)]
    pub(crate) is_listed: bool,
}

/// A channel that it was in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ResumeChannel {
    pub(crate) name: String,
    /// It heard of the others.
    pub(crate) watched: bool,
    /// Its rights allowed it to join by itself.
    pub(crate) was_allowed: bool,
}

impl ResumeState {
    /// What a lost connection had, as a list of members says it.
    pub(super) fn listed(profile: Box<RawValue>, channels: Vec<ResumeChannel>) -> Self {
        Self {
            profile,
            channels,
            successor: None,
            is_listed: true,
        }
    }

    /// See [`ResumeState::successor`].
    pub(crate) fn successor(&self) -> Option<ConnectionId> {
        self.successor.as_ref()?.parse().ok()
    }

    /// Its profile.
    pub(crate) fn profile(&self) -> Option<Value> {
        let profile = Value::from_json(&mut self.profile.get().as_bytes().to_vec(), None).ok()?;
        (!profile.is_null()).then_some(profile)
    }
}

/// What a node says that let go of a lost connection's places.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Settled {
    /// The channels in which it still had its place. It was taken out of the others.
    Claimed(Vec<String>),
    /// False: its time was over, and it has left them all. True is what a node of an earlier version says.
    Held(bool),
    /// [`IN_LIST`].
    Elsewhere(String),
}

/// What a node hands out of a lost connection. It is not read as such, since an untagged enum has no raw JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Handed {
    /// What it had; nothing if it is not known.
    Known(Option<ResumeState>),
    Moved(Moved),
    /// [`IN_LIST`].
    Elsewhere(String),
}

/// What a node says whose lost connection was taken over on another node. Its client may not know that.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Moved {
    moved_to: u32,
}

/// What a node says that departs: its list of members in Redis has what the connection had.
const IN_LIST: &str = "in the list";

/// The channels of another node's lost connection, on their way to the one here that takes its place. Their members are
/// notified that the lost one has left those that were not taken when this is dropped: its own node says nothing any
/// longer.
#[derive(Debug)]
pub(crate) struct RemoteResume {
    hub: Arc<Hub>,
    notices: Arc<NoticeRelay>,
    app: AppId,
    lost: ConnectionId,
    user: Option<SmolStr>,
    profile: Box<RawValue>,
    channels: VecDeque<ResumeChannel>,
}

impl RemoteResume {
    /// The next channel.
    pub(crate) fn next(&self) -> Option<ResumeChannel> {
        self.channels.front().cloned()
    }

    /// Notes that the next channel was taken over.
    pub(crate) fn taken(&mut self) {
        self.channels.pop_front();
    }

    /// Keeps the channels in which the lost connection still had its place. Returns those that it has left since its time was
    /// over.
    fn keep(&mut self, settled: &Settled) -> Vec<String> {
        let claimed: AHashSet<&str> = match settled {
            Settled::Claimed(claimed) => claimed.iter().map(String::as_str).collect(),
            // An earlier version does not say in which channels, so all of them are kept.
            Settled::Held(true) | Settled::Elsewhere(_) => return Vec::new(),
            Settled::Held(false) => AHashSet::new(),
        };

        let resume_table = &self.hub.context().resume_table;
        let all = std::mem::take(&mut self.channels);
        let (left, gone): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|channel| claimed.contains(&*channel.name));
        self.channels = left.into();
        for channel in &gone {
            resume_table.give_up(&self.lost, &channel.name);
        }

        let gone = gone.into_iter().map(|channel| channel.name);
        match settled {
            Settled::Held(_) => gone.collect(),
            // As on its own node: a channel that it was taken out of does not come back.
            Settled::Claimed(_) | Settled::Elsewhere(_) => Vec::new(),
        }
    }

    /// Gives up the channels that are in `removed`.
    fn leave(&mut self, removed: &[SmolStr]) {
        let is_removed =
            |channel: &ResumeChannel| removed.iter().any(|name| *name == *channel.name);
        // In front, where they are given up one after another.
        self.channels
            .make_contiguous()
            .sort_by_key(|channel| !is_removed(channel));
        while self.channels.front().is_some_and(is_removed) {
            self.give_up();
        }
    }

    /// Gives the next channel up.
    pub(crate) fn give_up(&mut self) {
        let Some(ResumeChannel { name, .. }) = self.channels.pop_front() else {
            return;
        };

        // It may have been claimed, or taken out of the channel: its members are notified here all the
        // same.
        self.hub.context().resume_table.give_up(&self.lost, &name);
        let user: Vec<String> = self.user.iter().map(ToString::to_string).collect();
        let tally = self
            .hub
            .presence(self.app)
            .tallies(&name, &user)
            .first()
            .copied()
            .unwrap_or(0);

        let notices = |tally: u64| Notices {
            members: vec![MemberNotice {
                kind: MemberKind::Left,
                id: self.lost.to_string(),
                user: user.first().cloned(),
                data: (self.profile.get() != "null").then(|| self.profile.clone()),
                previous: None,
                is_inherited: false,
                tally,
            }],
            share: Some(self.hub.presence(self.app).share(&name)),
            ..self.notices.notices_of(self.app, &name)
        };

        // This node's own watchers hear it as if another one said so, which adds what is here by itself.
        let own = Notices {
            share: None,
            ..notices(0)
        };

        if !self.notices.take_in_notices(own) {
            self.hub.context().metrics.bus_skipped.inc();
        }

        // Nobody else will ever report it.
        self.notices.publish_or_queue(self.app, &notices(tally));
    }
}

impl Drop for RemoteResume {
    fn drop(&mut self) {
        while !self.channels.is_empty() {
            self.give_up();
        }
    }
}

/// Places of lost connections whose clients come back to another node: from here to there, and from there to here.
///
/// It owns what was handed out and is not settled yet, and where places went. Sessions that resume call it, and the task that
/// hears the bus for other nodes. It takes what an ended node had from that node's list ([`Roster`]).
#[derive(Debug)]
pub(crate) struct Handover {
    hub: Arc<Hub>,
    revocations: Arc<Revocations>,
    membership: Arc<Membership>,
    rpc: Arc<Rpc>,
    roster: Arc<Roster>,
    notices: Arc<NoticeRelay>,
    removals: Arc<RemovalRecords>,
    /// Lost connections whose clients came back to other nodes, which are about to say to what.
    handed: Mutex<AHashMap<ConnectionId, LocalResume>>,
    /// The nodes to which the last of them came back.
    taken_by: Mutex<Recent<NodeId, ConnectionId>>,
    /// Where their places in channels went.
    pub(super) moved: Relocations,
}

impl Handover {
    pub(super) fn new(
        handles: &Handles<'_>,
        rpc: &Arc<Rpc>,
        roster: &Arc<Roster>,
        notices: &Arc<NoticeRelay>,
        removals: &Arc<RemovalRecords>,
    ) -> Self {
        Self {
            hub: handles.hub.clone(),
            revocations: handles.revocations.clone(),
            membership: notices.membership.clone(),
            rpc: rpc.clone(),
            roster: roster.clone(),
            notices: notices.clone(),
            removals: removals.clone(),
            handed: Mutex::default(),
            taken_by: Mutex::default(),
            moved: Relocations::default(),
        }
    }

    /// Finds the channels of the connection `id` of another node for a client who proves to be the same by user and
    /// device. That node holds them for [`HANDED_OVER`]: they are settled by [`Handover::settle_remote`], or left. What a node had
    /// that does not answer is taken from its list in Redis.
    pub(crate) async fn begin_remote_resume(
        &self,
        app: AppId,
        id: &ConnectionId,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<ResumeState> {
        let context = self.hub.context();
        if context.limits.resume_window.is_zero() {
            return None;
        }

        let mut node = id.node;
        if node == context.node {
            // This node knows its own, and looked there before.
            node = self.taken_by(id)?;
        }

        let request = Request::Recall {
            id: id.to_string(),
            user: user.map(ToOwned::to_owned),
            device: device.map(ToOwned::to_owned),
            or_successor: true,
        };

        for _ in 0..TAKEN_OVER {
            let said = self.rpc.call_one(app, node, &request).await;
            let said = said.as_ref().map_or("", |said| said.get());
            if let Ok(resume_state) = serde_json::from_str::<Option<ResumeState>>(said) {
                return resume_state;
            }

            match serde_json::from_str(said) {
                Ok(Moved { moved_to }) if moved_to != context.node.0 => node = NodeId(moved_to),
                // It is not there, or says that it departs.
                Err(_) if node == id.node => {
                    return self.roster.resume_from_list(app, id, user, device).await;
                }
                _ => return None,
            }
        }
        None
    }

    /// The node to which the client of the connection `id` of this node has come back, or that of its successor here.
    fn taken_by(&self, id: &ConnectionId) -> Option<NodeId> {
        let successor = self.hub.context().resume_table.successor(id);
        let taken_by = self.taken_by.lock();
        taken_by.get(&successor.unwrap_or(*id)).copied()
    }

    /// Notifies the node of the lost connection `id` which channels its client is about to come back to here, as `own`; the others
    /// are left. Returns the channels to come back to, and the names of those that it comes too late for.
    pub(crate) async fn settle_remote(
        self: &Arc<Self>,
        node: &Node,
        own: &Snapshot,
        id: ConnectionId,
        resume_state: ResumeState,
    ) -> (RemoteResume, Vec<String>) {
        let app = own.app;
        let names = resume_state.channels.iter().map(|channel| &channel.name);
        let taken: Vec<String> = names.cloned().collect();

        let mut remote_resume = RemoteResume {
            hub: self.hub.clone(),
            notices: self.notices.clone(),
            app,
            lost: id,
            user: own.user_name().cloned(),
            profile: resume_state.profile,
            channels: resume_state.channels.into(),
        };

        // This comes before that node lets go of the places: a call that takes connections out of
        // the channel finds them there or here.
        let mut lost = own.clone();
        Arc::make_mut(&mut lost).attributes.connection.id = id;
        let places: Vec<SmolStr> = taken.iter().map(SmolStr::from).collect();
        self.hub.context().resume_table.expect(&lost, &places);

        let mut settled = None;
        if !resume_state.is_listed {
            settled = self.settle_with(app, id, &taken).await;
        }

        let is_silent = !resume_state.is_listed && settled.is_none();
        let is_from_list = matches!(settled, None | Some(Settled::Elsewhere(_)));
        if is_from_list {
            // Else the node that reaps that node reports that the client has left.
            settled = self.roster.take_from_list(app, &id, &taken).await;
        }

        if is_silent {
            // It may have crashed since, and its client is not to lose its channels for that.
            settled = None;
        }

        let mut gone = settled.map_or_else(Vec::new, |settled| remote_resume.keep(&settled));
        if is_from_list {
            let names = remote_resume.channels.iter().map(|channel| &channel.name);
            let places: Vec<SmolStr> = names.map(SmolStr::from).collect();
            // After the places are expected here, or a call that takes it out in the meantime would find
            // neither.
            let removed = self.removals.removed_from(node, &lost, &places).await;
            remote_resume.leave(&removed);
            gone.extend(removed.iter().map(ToString::to_string));
        }

        (remote_resume, gone)
    }

    /// Notifies the node of the lost connection `id` which channels its client comes back to. Nothing if it does not answer.
    async fn settle_with(&self, app: AppId, id: ConnectionId, taken: &[String]) -> Option<Settled> {
        let request = Request::Settle {
            id: id.to_string(),
            taken: taken.to_vec(),
        };
        let said = self.rpc.call_one(app, id.node, &request).await;
        let settled = said.and_then(|said| serde_json::from_str::<Settled>(said.get()).ok());
        if settled.is_none() {
            tracing::debug!(connection = %id, "its node did not say that it handed its channels over");
        }
        settled
    }

    /// Hands out what this node has of a lost connection, or of the one that has taken its place since. If the node departs, answers
    /// once that is in the list.
    pub(super) async fn hand_out(
        self: &Arc<Self>,
        id: &str,
        client: ClientKey<'_>,
        or_successor: bool,
    ) -> Handed {
        // The list is what counts from here on. It may still be on its way to Redis.
        if self.membership.departs() {
            self.roster.list_finished().await;
            return Handed::Elsewhere(IN_LIST.to_owned());
        }

        let handed = self.hand_out_now(id, client, or_successor);
        let named = id.parse().ok().filter(|_| handed.is_none() && or_successor);
        match named.and_then(|named| self.taken_by(&named)) {
            Some(node) => Handed::Moved(Moved { moved_to: node.0 }),
            None => Handed::Known(handed),
        }
    }

    fn hand_out_now(
        self: &Arc<Self>,
        id: &str,
        client: ClientKey<'_>,
        or_successor: bool,
    ) -> Option<ResumeState> {
        let named: ConnectionId = id.parse().ok()?;
        let (hub, revocations) = (&self.hub, &self.revocations);
        let successor = || LocalResume::find_successor(hub, revocations, &named, client);
        let local_resume = LocalResume::find(hub, revocations, &named, client)
            .or_else(|| or_successor.then(successor).flatten())?;

        let id = local_resume.lost.id();
        let profile = local_resume.lost.profile();
        let profile = to_raw_value(&profile).ok()?;

        let channel = |channel: &LostChannel| ResumeChannel {
            name: channel.name.to_string(),
            watched: channel.watched,
            was_allowed: local_resume.lost.rights.may_join(&channel.name),
        };

        let channels = local_resume.left().map(channel).collect();
        // They are held until the other node settles it, so that no call takes the places for
        // abandoned.
        self.handed.lock().insert(id, local_resume);
        let handover = self.clone();

        tokio::spawn(async move {
            tokio::time::sleep(HANDED_OVER).await;
            // Whatever is not settled by now is left.
            let unsettled = handover.handed.lock().remove(&id);
            drop(unsettled);
        });

        Some(ResumeState {
            profile,
            channels,
            successor: (id != named).then(|| id.to_string()),
            is_listed: false,
        })
    }

    /// Lets go of what was handed out to the node `to`, where its client takes the places in the channels `taken`.
    pub(super) async fn settle(&self, id: &str, taken: &[String], to: NodeId) -> Settled {
        let id = id.parse::<ConnectionId>().ok();
        // First of all, so that it is not left while the list is waited for.
        let handed = id.and_then(|id| self.handed.lock().remove(&id));
        let Some(mut local_resume) = handed else {
            return Settled::Held(false);
        };

        if self.membership.departs() {
            // They are in the list. That node takes them from there.
            self.roster.list_finished().await;
            while local_resume.next().is_some() {
                local_resume.taken();
            }
            return Settled::Elsewhere(IN_LIST.to_owned());
        }

        self.taken_by.lock().insert(local_resume.lost.id(), to);
        let (app, taken) = (local_resume.lost.app, taken.iter().map(String::as_str));
        let taken: AHashSet<&str> = taken.collect();
        let mut claimed = Vec::new();

        while let Some(LostChannel { name: channel, .. }) = local_resume.next() {
            if !taken.contains(&*channel) {
                local_resume.give_up();
                continue;
            }

            // Before the place is gone from here: a call that no longer finds it learns where it
            // went.
            self.moved.note(app, &channel, to);
            if local_resume.hand_over() {
                // Before the other node reports its client: what is here counts there.
                let user = local_resume.lost.user_name();
                let notices = Notices {
                    share: Some(self.hub.presence(app).share_of(&channel, user)),
                    ..self.notices.notices_of(app, &channel)
                };
                self.notices.publish_or_queue(app, &notices);
                claimed.push(channel.to_string());
            }
        }

        Settled::Claimed(claimed)
    }
}
