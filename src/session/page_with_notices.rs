//! A page of members over all nodes, with the notices that come while it is gathered.

use crate::{
    node::{NoticeBuffer, PageStart},
    protocol::{
        frame::Frame,
        native::{MembersBuilder, MembersPage},
    },
};

/// A page, where it began, and the notices since then. Sent after the page, they complete it: each change is on the
/// page, or in a notice after it, or both.
#[derive(Debug)]
pub(super) struct PageWithNotices {
    pub(super) page: MembersPage,
    pub(super) from: PageStart,
    pub(super) buffer: Option<NoticeBuffer>,
}

impl PageWithNotices {
    /// The page, and the notices to send after it. If these were too many, a page of nobody, with a cursor that says to
    /// begin there again. Call this under the lock of the connection's shard.
    pub(super) fn take(self) -> (MembersPage, Vec<Frame>) {
        let Self { page, from, buffer } = self;
        match buffer
            .as_ref()
            .map_or_else(|| Some(Vec::new()), NoticeBuffer::take)
        {
            Some(notices) => (page, notices),
            None => (
                MembersPage {
                    count: page.count,
                    users: page.users,
                    ..no_page(from.write())
                },
                Vec::new(),
            ),
        }
    }
}

/// No member, and where the page begins that was asked for.
pub(super) fn no_page(cursor: String) -> MembersPage {
    let members = MembersBuilder::new(0).finish();
    MembersPage {
        members,
        count: 0,
        users: 0,
        cursor: Some(cursor),
    }
}
