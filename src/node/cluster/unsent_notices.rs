//! Notices that a node owes: it has not notified other nodes' watchers of a change yet, since Redis did not take the
//! message.
//!
//! Nobody else knows of the change, so its origin sends it until that succeeds. By then other changes may have
//! followed, so what it publishes in the end is that the members are to be looked at again.

use std::{sync::Arc, time::Duration};

use ahash::AHashSet;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::{sync::Notify, time::timeout};

use super::{notices::NoticeRelay, rpc_request::Request};
use crate::{
    bus::BusError,
    id::AppId,
    limits::{CHANNELS_OWED, NOTICES_TOGETHER, RECOVER_AGAIN},
    protocol::{envelope::Notices, native::Changes},
};

type Channel = (AppId, SmolStr);

/// The channels of which something is yet to be published, and how many messages are on their way.
#[derive(Debug, Default)]
pub(super) struct UnsentNotices {
    state: Mutex<State>,
    /// Something is owed.
    due: Notify,
    /// Nothing is owed or on its way any longer.
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    channels: AHashSet<Channel>,
    /// They are more than can be remembered: all watchers are to look again at all channels.
    is_all: bool,
    on_their_way: usize,
}

impl State {
    fn is_settled(&self) -> bool {
        self.channels.is_empty() && !self.is_all && self.on_their_way == 0
    }
}

/// What a message is about.
#[derive(Clone, Debug)]
enum Subject {
    Channel(Channel),
    AllChannels,
}

/// A message that is being published: unless [`InFlightNotice::published`] is called, it is owed.
#[derive(Debug)]
pub(super) struct InFlightNotice {
    unsent: Arc<UnsentNotices>,
    /// Absent once it is published.
    subject: Option<Subject>,
}

impl InFlightNotice {
    pub(super) fn published(mut self) {
        self.subject = None;
    }
}

impl Drop for InFlightNotice {
    fn drop(&mut self) {
        let mut state = self.unsent.state.lock();
        state.on_their_way -= 1;
        if let Some(subject) = self.subject.take() {
            state.owe(subject);
            self.unsent.due.notify_one();
        } else if state.is_settled() {
            self.unsent.settled.notify_waiters();
        }
    }
}

impl State {
    fn owe(&mut self, subject: Subject) {
        match subject {
            Subject::AllChannels => self.is_all = true,
            Subject::Channel(_) if self.is_all => return,
            Subject::Channel(channel) => {
                self.channels.insert(channel);
                // The set is bounded. Beyond that, all channels are looked at again, which needs no memory.
                self.is_all = self.channels.len() > CHANNELS_OWED;
            }
        }

        if self.is_all {
            self.channels.clear();
        }
    }
}

/// What is to be published now.
#[derive(Debug)]
enum Due {
    /// That these channels are to be looked at again.
    Channels(Vec<InFlightNotice>),
    /// That all of them are.
    All(InFlightNotice),
}

impl UnsentNotices {
    /// Notes that a message about `channel` is being published.
    pub(super) fn begin(self: &Arc<Self>, app: AppId, channel: &str) -> InFlightNotice {
        self.state.lock().on_their_way += 1;
        InFlightNotice {
            unsent: self.clone(),
            subject: Some(Subject::Channel((app, channel.into()))),
        }
    }

    /// Takes up to [`NOTICES_TOGETHER`] channels; nothing if none is owed.
    fn take(self: &Arc<Self>) -> Option<Due> {
        let mut state = self.state.lock();
        if state.is_all {
            // What changes from here on may come after the message, so it is owed again.
            state.is_all = false;
            state.on_their_way += 1;
            return Some(Due::All(InFlightNotice {
                unsent: self.clone(),
                subject: Some(Subject::AllChannels),
            }));
        }

        let some: Vec<Channel> = state
            .channels
            .iter()
            .take(NOTICES_TOGETHER)
            .cloned()
            .collect();

        for channel in &some {
            state.channels.remove(channel);
        }

        state.on_their_way += some.len();
        drop(state);
        let in_flight = |channel| InFlightNotice {
            unsent: self.clone(),
            subject: Some(Subject::Channel(channel)),
        };

        let some: Vec<InFlightNotice> = some.into_iter().map(in_flight).collect();
        (!some.is_empty()).then_some(Due::Channels(some))
    }

    /// Waits until nothing is owed or on its way.
    async fn settled(&self) {
        loop {
            // Heard from here on, before it is looked whether there is something left.
            let settled = self.settled.notified();
            if self.state.lock().is_settled() {
                return;
            }
            settled.await;
        }
    }
}

impl NoticeRelay {
    /// Publishes what this node owes, as soon as Redis takes it, until the runtime ends.
    pub(super) async fn run_unsent_notices(self: Arc<Self>) {
        loop {
            let Some(due) = self.unsent.take() else {
                self.unsent.due.notified().await;
                continue;
            };

            let paid = match due {
                Due::Channels(channels) => self.notify_look_again(channels).await,
                Due::All(in_flight) => {
                    let sent = self.rpc.notify_nodes(AppId(0), &Request::LookAgain).await;
                    sent.map(|_| in_flight.published())
                }
            };

            if let Err(error) = paid {
                tracing::debug!(%error, "notices to other nodes have to wait");
                tokio::time::sleep(RECOVER_AGAIN).await;
            }
        }
    }

    /// Asks other nodes' watchers of some channels to look again. What was not published is owed again.
    async fn notify_look_again(&self, channels: Vec<InFlightNotice>) -> Result<(), BusError> {
        let publish = |in_flight: InFlightNotice| {
            let Some(Subject::Channel((app, channel))) = in_flight.subject.clone() else {
                return None;
            };
            let notices = Notices {
                changes: Some(Changes::default()),
                share: Some(self.hub.presence(app).share(&channel)),
                ..self.notices_of(app, &channel)
            };
            Some((self.publish_notices(app, &notices), in_flight))
        };

        let sent: Vec<_> = channels.into_iter().filter_map(publish).collect();
        let mut failed = None;
        for (sent, in_flight) in sent {
            match sent.await {
                Ok(_) => in_flight.published(),
                Err(error) => failed = Some(error),
            }
        }

        failed.map_or(Ok(()), Err)
    }

    /// Publishes notices, now or, if that fails, later as "look again".
    pub(super) fn publish_or_queue(&self, app: AppId, notices: &Notices) {
        if !self.shows_members_of(app, &notices.channel) {
            return;
        }
        // Noted before it is sent: nobody may find this settled in between.
        let in_flight = self.unsent.begin(app, &notices.channel);
        let sent = self.publish_notices(app, notices);
        tokio::spawn(async move {
            match sent.await {
                Ok(_) => in_flight.published(),
                Err(error) => {
                    tracing::debug!(%error, "notices to other nodes have to be sent again");
                }
            }
        });
    }

    /// Notifies of all changes so far, those that were gathered as counts included, before this node departs: nobody
    /// else knows of them. Waits for Redis for `limits.redis_timeout` at most.
    pub(crate) async fn notify_all_changes(&self) {
        let patience: Duration = self.hub.context().limits.redis_timeout;
        let sent = async {
            self.hub.context().notices.flush().await;
            self.unsent.settled().await;
        };
        if timeout(patience, sent).await.is_err() {
            tracing::warn!(
                "some members of this node have left, and other nodes' clients were not notified: Redis took no message in time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(0);

    fn unsent(unsent: &Arc<UnsentNotices>) -> usize {
        match unsent.take() {
            None => 0,
            Some(Due::Channels(channels)) => channels.len(),
            Some(Due::All(_)) => usize::MAX,
        }
    }

    #[test]
    fn what_was_not_published_is_owed_once_for_each_channel() {
        let notices = Arc::new(UnsentNotices::default());
        notices.begin(APP, "a").published();
        assert!(notices.state.lock().is_settled());
        drop((notices.begin(APP, "b"), notices.begin(APP, "b")));
        assert!(!notices.state.lock().is_settled());

        let Some(Due::Channels(taken)) = notices.take() else {
            panic!()
        };
        assert_eq!((taken.len(), unsent(&notices)), (1, 0));
        // It failed again.
        drop(taken);
        let Some(Due::Channels(taken)) = notices.take() else {
            panic!()
        };
        taken.into_iter().for_each(InFlightNotice::published);
        assert!(notices.state.lock().is_settled());
    }

    #[test]
    fn more_channels_than_can_be_remembered_are_all() {
        let notices = Arc::new(UnsentNotices::default());
        for n in 0..=CHANNELS_OWED {
            drop(notices.begin(APP, &n.to_string()));
        }
        drop(notices.begin(APP, "one more"));
        assert!(notices.state.lock().channels.is_empty());
        assert_eq!(unsent(&notices), usize::MAX);
        // It failed, so it is owed again.
        let Some(Due::All(in_flight)) = notices.take() else {
            panic!()
        };
        in_flight.published();
        assert!(notices.state.lock().is_settled());
    }

    #[test]
    fn a_change_while_all_are_being_looked_at_is_owed_afterwards() {
        let notices = Arc::new(UnsentNotices::default());
        for n in 0..=CHANNELS_OWED {
            drop(notices.begin(APP, &n.to_string()));
        }
        let Some(Due::All(in_flight)) = notices.take() else {
            panic!()
        };
        drop(notices.begin(APP, "later"));
        in_flight.published();
        assert_eq!(unsent(&notices), 1);
    }

    #[tokio::test]
    async fn who_waits_for_all_to_be_published_goes_on_then() {
        let notices = Arc::new(UnsentNotices::default());
        let in_flight = notices.begin(APP, "a");
        let waiting = notices.settled();
        tokio::pin!(waiting);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        in_flight.published();
        waiting.await;
    }
}
