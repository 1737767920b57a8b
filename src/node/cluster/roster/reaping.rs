//! What becomes of the list of a node that has ended: its members have left, and the list goes.

use std::sync::Arc;

use super::{
    super::{leases::Gone, unreadable},
    Listed, Roster, command,
    notice_groups::NoticeGroups,
};
use crate::{
    app::Apps,
    bus::{BusError, Topic},
    id::{AppId, NodeId},
    limits::MEMBERS_AT_ONCE,
    protocol::{envelope::MemberNotice, native::MemberKind},
    time_slice::TimeSlice,
};

/// A part of a list: fields and values.
type Page = Vec<(String, Vec<u8>)>;

impl Roster {
    /// Notifies the channels of a node that has ended that its members have left, and forgets them. Done by one node
    /// for each that ended, and again by another where it does not get through.
    pub(in crate::node::cluster) async fn reap(self: Arc<Self>, dead: Gone) {
        match self.reap_now(dead.id).await {
            Ok(members) if dead.is_planned => {
                tracing::debug!(node = %dead.name, members, "members of a node that has ended have left");
            }
            Ok(members) => {
                tracing::warn!(node = %dead.name, members, "a node has gone without a word; its members have left");
            }
            Err(error) => {
                tracing::warn!(node = %dead.name, %error, "members of a node that has gone stay for now, and leave later");
            }
        }
    }

    /// Returns how many memberships there were. They are read and reported bit by bit: they may be more than this node
    /// has room for, and others use the same Redis in the meantime.
    async fn reap_now(&self, dead: NodeId) -> Result<u64, BusError> {
        let home = Topic::Node(dead);
        let [list, new] = self.list_keys(&home);
        let mut notices = NoticeGroups::new(self.hub.context().limits.presence_notices);
        let (mut members, mut slice) = (0, TimeSlice::begin());

        for at in [&list, &new] {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let (mut page, next) = self.read_page(&home, at, from).await?;
                if at == &new {
                    // The node ended while it wrote the list again; these were sent.
                    page = self.without_listed(&home, &list, page).await?;
                }

                cursor = next;
                for (field, value) in page {
                    slice.rest().await;
                    let Some((app, channel, notice)) = left(&self.apps, &field, &value) else {
                        continue;
                    };
                    members += 1;
                    if let Some(full) = notices.add(app, channel, notice) {
                        // As the one who is gone, so that this node hears it as well.
                        self.notify_all(dead, full).await?;
                    }
                }
            }
        }

        self.notify_all(dead, notices.take()).await?;
        // This comes last: if this node ends before, another one finds the lists and begins again.
        self.bus
            .command(&home, command("UNLINK", &[&list, &new]))
            .await?;
        self.membership.reaped(dead).await?;

        Ok(members)
    }

    /// Reads some of a list, and where the rest begins.
    async fn read_page(
        &self,
        home: &Topic,
        list: &[u8],
        from: u64,
    ) -> Result<(Page, Option<u64>), BusError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(list).arg(from).arg("COUNT").arg(MEMBERS_AT_ONCE);
        let answer = self.bus.command(home, scan).await?;
        let (next, page): (u64, Page) =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        Ok((page, Some(next).filter(|next| *next > 0)))
    }

    /// The members of `page` that are not in `list`.
    async fn without_listed(
        &self,
        home: &Topic,
        list: &[u8],
        page: Page,
    ) -> Result<Page, BusError> {
        if page.is_empty() {
            return Ok(page);
        }

        let mut get = redis::cmd("HMGET");
        get.arg(list);
        for (field, _) in &page {
            get.arg(field);
        }

        let answer = self.bus.command(home, get).await?;
        let listed: Vec<Option<Vec<u8>>> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let new = page.into_iter().zip(listed);

        Ok(new
            .filter_map(|(member, listed)| listed.is_none().then_some(member))
            .collect())
    }
}

/// That a listed member has left; nothing for an app that is not served here, and for the record of a connection.
fn left<'f>(apps: &Apps, field: &'f str, value: &[u8]) -> Option<(AppId, &'f str, MemberNotice)> {
    let mut parts = field.splitn(3, ' ');
    let (app, channel, id) = (parts.next()?, parts.next()?, parts.next()?);
    let app = apps.id_of(app)?;
    let Listed { user, data, .. } = serde_json::from_slice(value).ok()?;

    let notice = MemberNotice {
        kind: MemberKind::Left,
        id: id.to_owned(),
        user,
        data,
        previous: None,
        is_inherited: false,
        tally: 0,
    };

    Some((app, channel, notice))
}
