//! Hearing of a topic before anyone is told that they are in it: an event sent right after must find its way here.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::super::Node;
use crate::{
    broker::{Health, Interest, Topic},
    id::AppId,
};

/// Topics that the node listens to for someone who is about to come in; let go when dropped, when they hold by
/// themselves.
#[derive(Debug, Default)]
pub(crate) struct Attending {
    interest: Option<Arc<Interest>>,
    topics: SmallVec<[Topic; 2]>,
}

impl Drop for Attending {
    fn drop(&mut self) {
        if let Some(interest) = &self.interest {
            for topic in &self.topics {
                interest.remove(topic);
            }
        }
    }
}

impl Node {
    /// Listens to what everyone of `app` and `user` get. At once where the node is alone or listens already; past
    /// `limits.redis_timeout` it goes on without, and the bus catches up.
    pub(crate) async fn attend_user(&self, app: AppId, user: Option<&SmolStr>) -> Attending {
        let topics = [
            Some(Topic::App(app)),
            user.map(|user| Topic::User(app, user.clone())),
        ];
        self.attend(topics.into_iter().flatten()).await
    }

    /// Listens to what members of `channel` get, as [`Node::attend_user`] does.
    pub(crate) async fn attend_channel(&self, app: AppId, channel: &str) -> Attending {
        self.attend([Topic::Channel(app, channel.into())].into_iter())
            .await
    }

    async fn attend(&self, topics: impl Iterator<Item = Topic>) -> Attending {
        let Some(cluster) = &self.cluster else {
            return Attending::default();
        };
        let interest = cluster.bus.interest().clone();
        let topics: SmallVec<[Topic; 2]> = topics.collect();
        for topic in &topics {
            interest.add(topic.clone());
        }
        let attending = Attending {
            interest: Some(interest.clone()),
            topics,
        };
        // While Redis is away nothing comes, and nobody needs to wait for it.
        if !matches!(cluster.bus.health(), Health::Up) {
            return attending;
        }
        let until = Instant::now() + self.config.limits.redis_timeout;
        for topic in &attending.topics {
            if let Err(error) = interest
                .live(topic, until.saturating_duration_since(Instant::now()))
                .await
            {
                tracing::debug!(%error, "someone comes in before Redis brings what they are to get");
            }
        }
        attending
    }
}
