//! This node among others: what goes over the bus, what comes from it, and who is there.
//!
//! Without a bus nothing of this exists, and the node is the whole cluster.
//!
//! [`Cluster`] has one component for each subject. Each owns its fields, has handles to what it needs, and not the node; its
//! doc comment says who calls it. An arrow leads from a component to those whose handles it has:
//!
//! ```text
//! EnvelopeSender ───────────┐      Replicator ──► UserEventSync
//! Handover ──► Roster ──► NoticeRelay ──► Rpc ──► Membership ◄── RevocationSync
//! ```
//!
//! | component | file | owns |
//! | --- | --- | --- |
//! | [`Membership`] | `leases`, `renewal`, `leadership` | this node's lease, the other nodes, who leads an app |
//! | [`Rpc`] | `rpc`, `rpc_request` | requests that wait for answers |
//! | [`NoticeRelay`] | `notices`, `unsent_notices`, `peer_counts`, `notice_buffer` | notices of members, and what other nodes have in watched channels |
//! | [`Roster`] | `roster`, `resume_from_list` | the list of members in Redis |
//! | [`EnvelopeSender`] | `send` | nothing; it sends publications |
//! | [`Replicator`] | `durable`, `watermarks`, `arrivals`, `replays` | how far durable channels are placed, and events that wait |
//! | [`UserEventSync`] | `stored` | which stored events of users may have been missed |
//! | [`Handover`] | `resume`, `relocations` | places of lost connections that move between nodes |
//! | [`RemovalRecords`] | `removed` | nothing; Redis has who was taken out of a channel while connected nowhere |
//! | [`RevocationSync`] | `revoked` | which revocations in Redis are known here |
//! | [`IdempotencyStore`] | `idempotency` | nothing; Redis has the answers |
//!
//! Beside these, [`Mesa`](super::Mesa) of the node has a handle to [`Membership`], and to the bus.
//!
//! The task that hears the bus (`receive`) gives each component what concerns it. It alone has the whole node, because what other
//! nodes request (`rpc_handler`) are calls of the node. Calls over all nodes (`gather`, `leaving`) are the node's own, and ask by [`Rpc`].
//! What was missed (`missed`) concerns several components, so [`Cluster`] sees to it, as it does to what a renewal of the lease shows.

mod arrivals;
mod rpc;
mod subscribe;
mod notice_buffer;
mod gather;
mod resume_from_list;
mod durable;
mod leadership;
mod leases;
mod leaving;
mod missed;
mod relocations;
mod notices;
mod rpc_handler;
mod idempotency;
mod rpc_request;
mod unsent_notices;
mod peer_counts;
mod receive;
mod removed;
mod renewal;
mod replays;
mod resume;
mod revoked;
mod call_limit;
mod roster;
mod rules;
mod send;
mod stored;
mod watermarks;

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

pub(super) use self::{
    durable::{Appending, EchoTimeout, JoinLock, Replicator},
    leases::Membership,
    notice_buffer::NoticeBuffers,
    send::{EnvelopeSender, Message, Outgoing, Sent},
    subscribe::SubscriptionGuard,
};
pub(crate) use self::{
    gather::{ListedChannels, PageStart},
    idempotency::{IdempotencyClaim, IdempotencyStore, IdempotentCall},
    notice_buffer::NoticeBuffer,
    receive::{Program, hear},
    resume::{Handover, ResumeChannel, ResumeState},
    send::ClusterScope,
    stored::{CatchUpHandler, UserEventSync},
};
use self::{
    leases::PeerChanges, notices::NoticeRelay, removed::RemovalRecords, revoked::RevocationSync,
    roster::Roster, rpc::Rpc, rpc_request::Request, rules::RuleDigests,
};
use super::{Node, NodeError, topic_locks::TopicLocks};
pub(crate) use crate::bus::SubscriptionState;
use crate::{
    app::{App, Apps, SetupError},
    auth::Revocations,
    bus::{Bus, BusError, Health, Inbox, Topic},
    config::Config,
    history::History,
    hub::{Change, Hub, Register},
    id::{AppId, NodeId},
    metrics::Metrics,
    supervisor::Supervisor,
};

/// The components of a node that has others beside it. It makes them, runs their tasks, and does what concerns several of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) bus: Arc<Bus>,
    node: NodeId,
    pub(super) membership: Arc<Membership>,
    pub(crate) rpc: Arc<Rpc>,
    rules: RuleDigests,
    pub(super) sender: EnvelopeSender,
    pub(super) replicator: Arc<Replicator>,
    pub(crate) stored: Arc<UserEventSync>,
    /// Changes when Redis may have lost which of Mesa's users are here, or this node which of its portals are there.
    mesa_missed: watch::Sender<()>,
    pub(super) revoked: RevocationSync,
    pub(crate) handover: Arc<Handover>,
    removals: Arc<RemovalRecords>,
    pub(crate) idempotency: IdempotencyStore,
    pub(crate) roster: Arc<Roster>,
    pub(crate) notices: Arc<NoticeRelay>,
    apps: Arc<Apps>,
    /// How long what the bus is to bring is waited for.
    patience: Duration,
}

/// What the components of a cluster may have of their node. Each takes what it needs when it is made, and none has the node.
pub(super) struct Handles<'a> {
    pub(super) bus: Arc<Bus>,
    pub(super) hub: &'a Arc<Hub>,
    pub(super) apps: &'a Arc<Apps>,
    pub(super) history: &'a Arc<dyn History>,
    pub(super) topic_locks: &'a Arc<TopicLocks>,
    pub(super) revocations: &'a Arc<Revocations>,
    pub(super) name: &'a Arc<str>,
    pub(super) config: &'a Config,
}

/// Starts the bus, if one is configured. Does not wait for it.
///
/// # Errors
/// [`SetupError::Redis`].
pub(super) fn start_bus(
    config: &Config,
    node: NodeId,
    apps: &[App],
    metrics: &Arc<Metrics>,
    supervisor: &Supervisor,
) -> Result<Option<(Arc<Bus>, Inbox)>, SetupError> {
    let Some(redis) = &config.redis else {
        return Ok(None);
    };

    let names = apps.iter().map(|app| app.name.clone()).collect();
    let started = Bus::start(
        redis,
        &config.namespace,
        names,
        node,
        &config.limits,
        metrics.clone(),
        supervisor.clone(),
    )?;

    Ok(Some(started))
}

impl Cluster {
    /// Makes the components. All `changes` of who is in a channel here come out at the end of their register.
    pub(super) fn new(handles: Handles<'_>, changes: (Register, mpsc::Receiver<Change>)) -> Self {
        let membership = Arc::new(Membership::new(&handles));
        let rpc = Arc::new(Rpc::new(&handles, &membership));
        let notices = Arc::new(NoticeRelay::new(&handles, &membership, &rpc));
        let roster = Roster::new(&handles, changes, &membership, &notices);
        let roster = Arc::new(roster);
        let sender = EnvelopeSender::new(&handles, &membership, &rpc);
        let stored = Arc::new(UserEventSync::new(&handles));
        let replicator = Arc::new(Replicator::new(&handles, &stored));
        let revoked = RevocationSync::new(&handles, &membership);
        let removals = Arc::new(RemovalRecords::new(&handles, &membership));
        let handover = Handover::new(&handles, &rpc, &roster, &notices, &removals);
        let handover = Arc::new(handover);
        let idempotency = IdempotencyStore::new(&handles);
        let rules = RuleDigests::new(&handles);
        let Handles { bus, hub, apps, .. } = handles;
        let node = hub.context().node;

        Self {
            roster,
            notices,
            bus,
            node,
            membership,
            rpc,
            rules,
            sender,
            replicator,
            stored,
            mesa_missed: watch::Sender::default(),
            revoked,
            handover,
            removals,
            idempotency,
            apps: apps.clone(),

            patience: hub.context().limits.redis_timeout,
        }
    }

    /// Takes part: holds this node's lease, notes what it listens to, `topics` too, and keeps up with revoked tokens,
    /// until the runtime ends.
    pub(crate) async fn run_membership(self: Arc<Self>, topics: Vec<Topic>) {
        let interest = self.bus.interest();
        interest.add(Topic::Nodes);
        interest.add(Topic::Node(self.node));
        for app in self.apps.iter() {
            interest.add(Topic::Dispatch(app.id));
        }
        for topic in topics {
            interest.add(topic);
        }
        tokio::join!(self.run_lease(), self.revoked.run_revocations());
        if self.membership.has_left() {
            // The server may have more to do before it ends, and until then this has not failed.
            std::future::pending::<()>().await;
        }
    }

    /// Why this node does not reach the others, or they are about to take it for gone, if that is so.
    pub(crate) fn apart(&self) -> Option<String> {
        match self.bus.health_of(&Topic::Nodes) {
            Health::Down { since, reason } => Some(format!(
                "Redis has been out of reach for {} s: {reason}",
                since.elapsed().as_secs()
            )),
            Health::Up => self.membership.fault().or_else(|| {
                let lacks = self.revoked.lacks_revoked();
                lacks.then(|| "this node has not read yet which tokens were revoked".to_owned())
            }),
        }
    }

    /// What of Redis is out of reach though this node reaches the others, if anything is: publications, joins and requests that
    /// need it are refused, and all others go on.
    pub(crate) fn degraded(&self) -> Option<String> {
        match self.bus.health() {
            Health::Up => None,
            Health::Down { since, reason } => Some(format!(
                "a part of Redis has been out of reach for {} s: {reason}",
                since.elapsed().as_secs()
            )),
        }
    }

    /// Renews the lease, and acts on what that shows of the other nodes, until the lease is given up.
    async fn run_lease(&self) {
        let mut renewals = self.membership.renewals();
        while renewals.is_due().await {
            // The list of members lives as long as the lease.
            let (renewed, ()) = tokio::join!(renewals.renew(), self.roster.renew_list());
            let Ok(leases) = renewals.note(renewed) else {
                continue;
            };

            if let Some(leases) = leases {
                if leases.is_lapsed {
                    // The members here may have been reported as left.
                    self.roster.restore();
                }
                let changes = renewals.take_over(leases).await;
                self.act_on(changes);
            }

            if !self.membership.belongs() {
                // So that the others need not find out.
                let greeted = self.rpc.notify_nodes(AppId(0), &Request::Hello).await;
                self.membership.note_greeted(greeted.is_ok());
            }
        }
    }

    fn act_on(&self, changes: PeerChanges) {
        for gone in changes.dead {
            tokio::spawn(self.roster.clone().reap(gone));
        }
        for peer in changes.came {
            self.rules.notify(&self.rpc, peer.id);
            self.notices.met(peer.id);
        }
        for peer in changes.went {
            self.notices.gone(peer.id);
        }
    }

    /// What the components do until the runtime ends, by name.
    pub(crate) fn tasks(self: &Arc<Self>) -> impl Iterator<Item = (&'static str, Task)> {
        let own: [(_, Task); 1] = [("gaps", Box::pin(self.clone().run_gap_checks()))];
        own.into_iter()
            .chain(self.roster.tasks())
            .chain(self.notices.tasks())
            .chain(self.replicator.tasks())
    }

    /// Changes when what Redis has of Mesa's users, or this node of its portals, may no longer be true.
    pub(super) fn mesa_missed(&self) -> watch::Receiver<()> {
        self.mesa_missed.subscribe()
    }
}

/// What a component does until the runtime ends. Runs on a `LocalSet`.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Checks that what serves `topics` is in reach. Other parts of Redis may be away.
///
/// # Errors
/// [`NodeError::Away`] if it is not.
fn check_reach<'t>(
    bus: &Bus,
    topics: impl IntoIterator<Item = &'t Topic>,
) -> Result<(), NodeError> {
    for topic in topics {
        if let Health::Down { reason, .. } = bus.health_of(topic) {
            return Err(NodeError::Away { reason });
        }
    }
    Ok(())
}

/// Redis answered what no node has written.
fn unreadable(error: &redis::ParsingError) -> BusError {
    BusError::Refused {
        code: "unreadable".to_owned(),
        message: error.to_string(),
    }
}

impl Node {
    /// The other nodes, unless this one is alone by configuration, if they can be asked and can answer.
    ///
    /// # Errors
    /// [`NodeError::Away`] while the bus does not bring that: nothing was sent.
    pub(super) fn cluster_up(&self) -> Result<Option<&Cluster>, NodeError> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        cluster.rpc.check_reach()?;
        Ok(Some(cluster))
    }

    /// Whether this node acts for all in what concerns `app`, where one has to: at most one does at a time.
    pub(crate) fn leads(&self, app: AppId) -> bool {
        self.cluster
            .as_ref()
            .is_none_or(|cluster| cluster.membership.leads(app))
    }

    /// Its random id.
    pub(crate) fn id(&self) -> NodeId {
        self.hub.context().node
    }

    /// Gives this node's lease up, so that the others need not wait for its end. The last node leaves users of Mesa's programs who
    /// are away to dispatchers: before that, since it decides about what they have just published until then; or after that, if
    /// several nodes leave at the same time.
    pub(crate) async fn depart(&self) {
        // Its clients have gone, and no message comes to this node for them any more.
        self.mesa
            .give_all_back(self.config.limits.redis_timeout)
            .await;
        let was_last = self.mesa.leave_to_dispatchers().await;
        if let Some(cluster) = &self.cluster {
            cluster.membership.give_up_lease().await;
        }
        // Several nodes that leave together may each have found the others still there.
        if !was_last {
            self.mesa.leave_to_dispatchers().await;
        }
    }
}
