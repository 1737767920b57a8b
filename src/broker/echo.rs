//! Whether what programs publish comes here, wherever on a Redis Cluster they publish it.
//!
//! A plain publication goes from one node of a cluster to all, and each link between two of them can fail alone, without a
//! word. So messages to oneself are published by way of every primary in turn.

use std::{collections::BTreeSet, time::Instant};

use redis::Cmd;
use tokio::sync::oneshot;

use super::{Context, line::Answer, link::Address};

/// The messages of one connection to itself.
pub(super) struct Echo {
    pub(super) channel: String,
    count: u64,
    flight: Option<Flight>,
    /// The primaries whose last message did not come, which was told.
    deaf: BTreeSet<Address>,
}

struct Flight {
    via: Address,
    since: Instant,
    /// What that primary says to it; `None` once it was good.
    answer: Option<oneshot::Receiver<Answer>>,
    is_back: bool,
}

impl Echo {
    pub(super) fn new(channel: String) -> Self {
        Self {
            channel,
            count: 0,
            flight: None,
            deaf: BTreeSet::new(),
        }
    }

    /// A message has come on the channel.
    pub(super) fn on_message(&mut self, payload: &[u8]) {
        if *payload == self.count.to_be_bytes()
            && let Some(flight) = &mut self.flight
        {
            flight.is_back = true;
        }
    }

    /// Judges the last message, and sends the next by the next primary, unless one is still on its way. `here` is where this
    /// connection is.
    pub(super) fn beat(&mut self, cx: &Context, here: &Address) {
        if self
            .flight
            .as_mut()
            .is_some_and(|flight| flight.is_on_its_way(cx))
        {
            return;
        }
        if let Some(Flight {
            via,
            answer: None,
            is_back,
            ..
        }) = self.flight.take()
        {
            if is_back {
                if self.deaf.remove(&via) {
                    tracing::info!(%via, %here, "messages that programs publish there come again");
                }
            } else {
                cx.metrics.bus.echoes_lost.inc();
            }
            if !is_back && self.deaf.insert(via.clone()) {
                tracing::warn!(
                    %via,
                    %here,
                    "what programs publish at one node of the Redis Cluster does not come: it does not pass it on to the \
                     one that this node listens to; look at the cluster's links (CLUSTER NODES, CLUSTER LINKS)"
                );
            }
        }
        self.fly(cx);
    }

    fn fly(&mut self, cx: &Context) {
        let mut lines = cx
            .routes
            .read()
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>();
        lines.sort_by(|one, other| one.address.cmp(&other.address));
        lines.dedup_by(|one, other| one.address == other.address);
        self.count += 1;
        let Some(line) = lines.get(self.count as usize % lines.len().max(1)) else {
            return;
        };
        let mut command = Cmd::new();
        command
            .arg("PUBLISH")
            .arg(&self.channel)
            .arg(&self.count.to_be_bytes());
        if let Ok(answer) = line.send(command, self.channel.len() + 32, None) {
            let (via, since) = (line.address.clone(), Instant::now());
            self.flight = Some(Flight {
                via,
                since,
                answer: Some(answer),
                is_back: false,
            });
        }
    }
}

impl Flight {
    /// Whether it is too early to judge. What was not published well is of no account.
    fn is_on_its_way(&mut self, cx: &Context) -> bool {
        if let Some(answer) = &mut self.answer {
            match answer.try_recv() {
                Ok(Ok(_)) => self.answer = None,
                Err(oneshot::error::TryRecvError::Empty) => return true,
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => return false,
            }
        }
        !self.is_back && self.since.elapsed() < cx.limits.bus_canary_timeout
    }
}
