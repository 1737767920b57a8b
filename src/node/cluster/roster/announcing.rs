//! Notifying other nodes of what has become of members: of those here after this node was taken for gone, and of those
//! of a node that has ended.

use std::{collections::VecDeque, sync::Arc};

use serde_json::value::to_raw_value;

use super::{
    super::unsent_notices::InFlightNotice,
    Roster,
    notice_groups::{Group, Groups, NoticeGroups},
    writing::Watcher,
};
use crate::{
    bus::BusError,
    id::NodeId,
    limits::NOTICES_TOGETHER,
    protocol::{
        envelope::{MemberNotice, Notices},
        native::MemberKind,
    },
    time_slice::TimeSlice,
};

impl Roster {
    /// Notifies other nodes' watchers of all members here: they were taken for gone.
    pub(super) fn announce_members(self: &Arc<Self>) {
        let roster = self.clone();
        tokio::spawn(async move {
            // What is not published is owed.
            drop(roster.announce().await);
        });
    }

    async fn announce(&self) -> Result<(), BusError> {
        let mut notices = NoticeGroups::new(self.hub.context().limits.presence_notices);
        let mut slice = TimeSlice::begin();
        for Watcher {
            connection: member, ..
        } in self.all_members().await
        {
            for channel in member.channels() {
                let user: Vec<String> = member.user().map(ToOwned::to_owned).into_iter().collect();
                let tally = self.hub.presence(member.app).tallies(channel, &user);
                let notice = MemberNotice {
                    kind: MemberKind::Joined,
                    id: member.id().to_string(),
                    user: user.first().cloned(),
                    data: member
                        .profile()
                        .and_then(|profile| to_raw_value(profile).ok()),
                    previous: None,
                    is_inherited: false,
                    tally: tally.first().copied().unwrap_or(1),
                };

                if let Some(full) = notices.add(member.app, channel, notice) {
                    self.notify_all(self.node, full).await?;
                }

                slice.rest().await;
            }
        }

        self.notify_all(self.node, notices.take()).await
    }

    /// Notifies the nodes of what has become of members of the node `origin`.
    pub(super) async fn notify_all(
        &self,
        origin: NodeId,
        channels: Groups,
    ) -> Result<(), BusError> {
        let is_own = origin == self.node;
        let mut sent = VecDeque::new();
        let mut slice = TimeSlice::begin();

        for ((app, channel), Group { named, counts }) in channels {
            // Bounded, since each holds its message until Redis has answered.
            if sent.len() >= NOTICES_TOGETHER
                && let Some((first, in_flight)) = sent.pop_front()
            {
                Self::finish(first, in_flight).await?;
            }

            if !self.notices.shows_members_of(app, &channel) {
                continue;
            }

            let in_flight = is_own.then(|| self.notices.unsent.begin(app, &channel));
            let changes = named.is_none().then_some(counts);
            let share = || self.hub.presence(app).share(&channel);

            let notices = Notices {
                origin: origin.0,
                members: named.unwrap_or_default(),
                changes,
                share: is_own.then(share),
                is_gone: !is_own,
                ..self.notices.notices_of(app, &channel)
            };

            sent.push_back((self.notices.publish_notices(app, &notices), in_flight));
            slice.rest().await;
        }

        for (last, in_flight) in sent {
            Self::finish(last, in_flight).await?;
        }
        Ok(())
    }

    /// Waits until notices are published. Those of this node's own members are owed if they are not, and the rest goes
    /// on; another node's are sent again from the beginning.
    async fn finish(
        sent: impl Future<Output = Result<u64, BusError>>,
        in_flight: Option<InFlightNotice>,
    ) -> Result<(), BusError> {
        match (sent.await, in_flight) {
            (Ok(_), Some(in_flight)) => in_flight.published(),
            (Err(_), Some(unsent)) => drop(unsent),
            (Ok(_), None) => {}
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }
}
