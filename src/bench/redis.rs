//! Two nodes' buses on one Redis.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    bus::{Bus, Health, Inbox, Topic},
    config::RedisConfig,
    id::{AppId, NodeId},
    limits::Limits,
    metrics::Metrics,
    supervisor::Supervisor,
};

/// A bus that publishes, and one that listens.
pub struct BusPair {
    runtime: tokio::runtime::Runtime,
    from: Arc<Bus>,
    to: Arc<Bus>,
    inbox: Inbox,
    /// Keeps the publishing bus's inbox open.
    _other: Inbox,
}

const HEARD: Topic = Topic::App(AppId(0));
const UNHEARD: Topic = Topic::App(AppId(1));

impl BusPair {
    /// Both are up.
    ///
    /// # Panics
    /// When `url` is not an address of Redis.
    pub fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let start = || {
            let config = RedisConfig {
                url: url.parse().unwrap(),
                ..RedisConfig::default()
            };

            let limits = Limits {
                redis_timeout: Duration::from_secs(20),
                ..Limits::default()
            };

            let apps = vec!["default".into(), "other".into()];
            Bus::start(
                &config,
                "bench",
                apps,
                NodeId::random(),
                &limits,
                Arc::new(Metrics::new()),
                Supervisor::default(),
            )
            .unwrap()
        };

        let ((from, other), (to, inbox)) = (start(), start());
        while from.health() != Health::Up || to.health() != Health::Up {
            std::thread::sleep(Duration::from_millis(1));
        }

        to.interest().add(HEARD);
        runtime
            .block_on(to.interest().live(&HEARD, Duration::from_secs(20)))
            .unwrap();
        Self {
            runtime,
            from,
            to,
            inbox,
            _other: other,
        }
    }

    /// Publishes `count` times what nobody hears, and waits for every answer.
    ///
    /// # Panics
    /// When one fails.
    pub fn publish(&self, count: usize, payload: &Bytes) {
        let sent = (0..count)
            .map(|_| self.from.publish(&UNHEARD, payload.clone()))
            .collect::<Vec<_>>();
        self.runtime.block_on(async {
            for answer in sent {
                answer.await.unwrap();
            }
        });
    }

    /// Publishes `count` times, and waits until all has come to the other.
    ///
    /// # Panics
    /// When something is lost.
    pub fn exchange(&mut self, count: usize, payload: &Bytes) {
        for _ in 0..count {
            drop(self.from.publish(&HEARD, payload.clone()));
        }
        self.runtime.block_on(async {
            for _ in 0..count {
                assert!(self.inbox.next().await.is_some());
            }
        });
    }
}

impl Drop for BusPair {
    fn drop(&mut self) {
        self.from.stop();
        self.to.stop();
    }
}
