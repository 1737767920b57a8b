//! Asking other nodes what they have in watched channels: what is to be asked, and what becomes of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashSet;
use serde_json::value::RawValue;
use smol_str::SmolStr;
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, timeout},
};

use super::{
    super::{
        notices::NoticeRelay,
        rpc_request::{Present, Request},
    },
    PeerCounts,
    watched::Watched,
};
use crate::{
    bus::Topic,
    id::{AppId, NodeId},
    limits::{COUNTED_TOGETHER, QUESTIONS_AT_ONCE},
    protocol::envelope::Share,
    time_slice::TimeSlice,
};

/// How often nodes are asked again that have not answered, and channels are forgotten that nobody watches.
const EVERY: Duration = Duration::from_secs(1);

/// What to ask other nodes.
#[derive(Debug)]
pub(super) struct Question {
    app: AppId,
    channels: Vec<SmolStr>,
    nodes: AHashSet<NodeId>,
    /// How often something had been missed by then.
    gaps: u64,
}

impl PeerCounts {
    /// What is to be asked next, if anything is.
    fn next_question(&self) -> Option<Question> {
        let mut state = self.state.lock();
        let app = state.due.front()?.0;
        let (mut channels, mut nodes) = (Vec::new(), AHashSet::new());

        while channels.len() < COUNTED_TOGETHER
            && state.due.front().is_some_and(|next| next.0 == app)
            && let Some(channel) = state.due.pop_front()
        {
            let Some(watched) = state.channels.get_mut(&channel) else {
                continue;
            };
            watched.is_due = false;
            for (node, unknown) in &mut watched.unknown {
                if !std::mem::replace(&mut unknown.is_asked, true) {
                    nodes.insert(*node);
                }
            }
            channels.push(channel.1);
        }

        Some(Question {
            app,
            channels,
            nodes,
            gaps: state.gaps,
        })
    }

    /// Notes what `node` answers. Returns the channels whose counts are to be sent again.
    fn answered(
        &self,
        question: &Question,
        node: NodeId,
        shares: impl Iterator<Item = Share>,
    ) -> Vec<SmolStr> {
        let mut news = Vec::new();
        let mut state = self.state.lock();

        // What came after the answer may have been missed since.
        let is_current = state.gaps == question.gaps;
        for (name, share) in question.channels.iter().zip(shares) {
            let channel = (question.app, name.clone());
            state.apply(&channel, node, &share);
            let known = |watched: &mut Watched| is_current && watched.known(node);
            if state.change(&channel, known) == Some(true) {
                news.push(name.clone());
            }
        }

        drop(state);
        self.settled.notify_waiters();
        news
    }

    /// Notes that those who were asked and have not answered are late. Returns the channels whose counts are to be sent
    /// without them, and again when they answer.
    fn late(&self, app: AppId, channels: &[SmolStr]) -> Vec<SmolStr> {
        let mut state = self.state.lock();
        let mut news = Vec::new();
        for name in channels {
            let Some(watched) = state.channels.get_mut(&(app, name.clone())) else {
                continue;
            };
            let mut is_any = false;
            for unknown in watched.unknown.values_mut() {
                is_any |= unknown.is_asked && !std::mem::replace(&mut unknown.is_late, true);
            }
            if is_any && watched.is_sent_without {
                news.push(name.clone());
            }
        }

        drop(state);
        self.settled.notify_waiters();
        news
    }

    /// Notes that a question is over: those that have not answered are to be asked again.
    fn over(&self, question: &Question) {
        let mut state = self.state.lock();
        for name in &question.channels {
            let channel = (question.app, name.clone());
            if let Some(watched) = state.channels.get_mut(&channel) {
                for unknown in watched.unknown.values_mut() {
                    unknown.is_asked = false;
                }
            }
            state.make_due(&channel);
        }
    }
}

impl NoticeRelay {
    /// Asks other nodes what they have in watched channels, and forgets channels that nobody watches any longer, until
    /// the runtime ends.
    pub(in crate::node::cluster) async fn run_peer_counts(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let room = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE));

        loop {
            tokio::select! {
                () = self.peer_counts.suspected.notified() => {}
                _ = ticks.tick() => self.forget_unwatched().await,
            }

            // With room first: what is asked for in the meantime is part of the question.
            while let Ok(permit) = room.clone().acquire_owned().await
                && let Some(question) = self.peer_counts.next_question()
            {
                let relay = self.clone();
                tokio::spawn(async move {
                    relay.ask_for_shares(&question).await;
                    relay.peer_counts.over(&question);
                    drop(permit);
                });
            }
        }
    }

    async fn forget_unwatched(&self) {
        let mut slice = TimeSlice::begin();
        for (channel, uses) in self.peer_counts.maybe_unwatched() {
            if !self.hub.presence(channel.0).is_watched(&channel.1) {
                self.peer_counts.unwatch(channel, uses);
            }
            slice.rest().await;
        }
    }

    /// Asks, and takes each answer in as it comes.
    async fn ask_for_shares(&self, question: &Question) {
        let Question {
            app,
            channels,
            nodes,
            ..
        } = question;

        // What changes after an answer has to come here.
        let until = Instant::now() + self.hub.context().limits.redis_timeout;
        let topics = channels.iter().map(|name| Topic::Watch(*app, name.clone()));
        for topic in topics.chain([Topic::Node(self.hub.context().node)]) {
            let within = until.saturating_duration_since(Instant::now());
            if let Err(error) = self.bus.interest().live(&topic, within).await {
                tracing::debug!(%error, "other nodes are asked later what they have in channels");
                return;
            }
        }

        let request = Request::Counts {
            channels: channels.iter().map(ToString::to_string).collect(),
            shares: true,
        };

        let answered = |node: NodeId, said: Option<&RawValue>| {
            let Some(said) = said else { return };
            let Ok(presents) = serde_json::from_str::<Vec<Present>>(said.get()) else {
                return;
            };
            let shares = presents.into_iter().map(Present::into_share);
            let news = self.peer_counts.answered(question, node, shares);
            self.notify_counts_of(*app, news);
        };

        let asking = self.rpc.call_each(*app, nodes, &request, answered);
        tokio::pin!(asking);
        let patience = self.hub.context().limits.node_call_timeout;

        match timeout(patience, &mut asking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "other nodes could not be asked"),
            Err(_) => {
                self.notify_counts_of(*app, self.peer_counts.late(*app, channels));
                // One that is slow may answer yet; one that is not there is asked again.
                let _ = timeout(patience, asking).await;
            }
        }
    }

    fn notify_counts_of(&self, app: AppId, channels: Vec<SmolStr>) {
        let channels = channels.into_iter().map(|channel| (app, channel));
        self.remote_notices.notify_counts(channels);
    }
}
