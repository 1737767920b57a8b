//! Hearing of a topic before anyone is notified that they are in it: an event sent right after must find its way
//! here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::{Cluster, notices::NoticeRelay, peer_counts::WatchGuard};
use crate::{
    bus::{Bus, Health, Interest, Topic},
    hub::Watching,
    id::AppId,
};

/// Topics that the node listens to for a client that is about to come in; let go when dropped, when they hold by
/// themselves.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionGuard {
    interest: Option<Arc<Interest>>,
    topics: SmallVec<[Topic; 2]>,
    /// The client that is about to come in will watch the channel.
    watch: Option<WatchGuard>,
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        if let Some(interest) = &self.interest {
            for topic in &self.topics {
                interest.remove(topic);
            }
        }
    }
}

impl Cluster {
    /// Listens to what everyone of `app` and `user` get. Immediately where the node listens already; past
    /// `limits.redis_timeout` it goes on without, and the bus catches up.
    pub(in crate::node) async fn subscribe_user(
        &self,
        app: AppId,
        user: Option<&SmolStr>,
    ) -> SubscriptionGuard {
        let topics = [
            Some(Topic::App(app)),
            user.map(|user| Topic::User(app, user.clone())),
        ];
        subscribe(&self.bus, topics.into_iter().flatten(), self.patience).await
    }

    /// Listens to what members of `channel` get, as [`Cluster::subscribe_user`] does, and to what those get who watch it.
    pub(in crate::node) async fn subscribe_channel(
        &self,
        app: AppId,
        channel: &str,
        watching: Watching,
    ) -> SubscriptionGuard {
        let topics = [Topic::Channel(app, channel.into())].into_iter();
        let guard = subscribe(&self.bus, topics, self.patience);
        if watching == Watching::No {
            return guard.await;
        }
        let watch = self.notices.subscribe_watch(app, channel);
        // Boxed for those who do not watch: thousands of them may wait to join.
        let both = Box::pin(async { tokio::join!(guard, watch) });
        let (mut guard, watch) = both.await;
        guard.watch = Some(watch);
        guard
    }
}

impl NoticeRelay {
    /// Listens to what those get who watch `channel`.
    pub(super) async fn subscribe_watch(&self, app: AppId, channel: &str) -> WatchGuard {
        let watch = self.watch(app, channel);
        let topics = [Topic::Watch(app, channel.into())].into_iter();
        drop(subscribe(&self.bus, topics, self.hub.context().limits.redis_timeout).await);
        watch
    }
}

/// Listens to `topics`, and waits until they are subscribed to, for `within` at most.
async fn subscribe(
    bus: &Bus,
    topics: impl Iterator<Item = Topic>,
    within: Duration,
) -> SubscriptionGuard {
    let interest = bus.interest().clone();
    let topics: SmallVec<[Topic; 2]> = topics.collect();
    for topic in &topics {
        // All of them are begun first, so that Redis confirms them in one round trip.
        interest.add(topic.clone());
    }

    let guard = SubscriptionGuard {
        interest: Some(interest.clone()),
        topics,
        watch: None,
    };

    let until = Instant::now() + within;
    for topic in &guard.topics {
        // While what serves it is away nothing comes, and nobody needs to wait for it.
        if bus.health_of(topic) != Health::Up {
            continue;
        }
        if let Err(error) = interest
            .live(topic, until.saturating_duration_since(Instant::now()))
            .await
        {
            tracing::debug!(%error, "someone comes in before Redis brings what they are to get");
        }
    }

    guard
}
