//! What has become of many members, gathered by channel until it is sent.

use ahash::{AHashMap, RandomState};

use crate::{
    id::AppId,
    limits::{NOTIFIED_BYTES, NOTIFIED_CHANNELS, NOTIFIED_TOGETHER},
    protocol::{
        envelope::MemberNotice,
        native::{Changes, MemberKind},
    },
};

/// What has become of members of one channel.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Nothing where they are more than may be sent by name.
    pub(super) named: Option<Vec<MemberNotice>>,
    pub(super) counts: Changes,
}

pub(super) type Groups = AHashMap<(AppId, String), Group>;

/// What has become of many members, by channel: as counts where they are more than may be sent by name. It is to be
/// sent whenever it has grown to [`NOTIFIED_TOGETHER`].
#[derive(Debug)]
pub(super) struct NoticeGroups {
    named_at_most: u32,
    groups: Groups,
    bytes: usize,
    /// Members of each channel so far, those that were sent included, by a digest of the channel.
    members: AHashMap<u64, u32>,
    hasher: RandomState,
}

impl NoticeGroups {
    /// Nothing yet, for channels that name `named_at_most` members.
    pub(super) fn new(named_at_most: u32) -> Self {
        Self {
            named_at_most,
            groups: Groups::new(),
            bytes: 0,
            members: AHashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Adds one. Returns what is to be sent now.
    pub(super) fn add(
        &mut self,
        app: AppId,
        channel: &str,
        notice: MemberNotice,
    ) -> Option<Groups> {
        if self.members.len() >= NOTIFIED_CHANNELS {
            // A channel that is forgotten here may name as many members once more.
            self.members.clear();
        }

        // A digest, since there may be a million names. If two have the same, one of them names
        // fewer members.
        let digest = self.hasher.hash_one((app, channel));
        let before = self.members.entry(digest).or_default();
        let may_be_named = *before < self.named_at_most;
        *before += 1;

        let key = (app, channel.to_owned());
        let group = self.groups.entry(key).or_insert_with(|| {
            self.bytes += NOTIFIED_BYTES + channel.len();
            Group {
                named: Some(Vec::new()),
                ..Group::default()
            }
        });

        match notice.kind {
            MemberKind::Joined => group.counts.joined += 1,
            MemberKind::Left => group.counts.left += 1,
            MemberKind::Updated => group.counts.updated += 1,
        }

        if let Some(named) = &mut group.named {
            if may_be_named {
                self.bytes += bytes_of(&notice);
                named.push(notice);
            } else {
                self.bytes -= named.iter().map(bytes_of).sum::<usize>();
                group.named = None;
            }
        }

        (self.bytes >= NOTIFIED_TOGETHER).then(|| self.take())
    }

    pub(super) fn take(&mut self) -> Groups {
        self.bytes = 0;
        std::mem::take(&mut self.groups)
    }
}

/// What a member takes until it is sent.
fn bytes_of(notice: &MemberNotice) -> usize {
    let user = notice.user.as_ref().map_or(0, String::len);
    let data = notice.data.as_ref().map_or(0, |data| data.get().len());
    NOTIFIED_BYTES + notice.id.len() + user + data
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    const APP: AppId = AppId(0);

    fn notice(n: usize, data: usize) -> MemberNotice {
        MemberNotice {
            kind: MemberKind::Left,
            id: n.to_string(),
            user: None,
            data: RawValue::from_string(format!("\"{}\"", "x".repeat(data))).ok(),
            previous: None,
            is_inherited: false,
            tally: 0,
        }
    }

    #[test]
    fn more_members_than_may_be_named_are_a_number_and_take_no_room() {
        let mut notices = NoticeGroups::new(20);
        for n in 0..20 {
            assert!(notices.add(APP, "few", notice(n, 1)).is_none());
        }
        let bytes = notices.bytes;
        for n in 0..100_000 {
            assert!(notices.add(APP, "many", notice(n, 8000)).is_none());
        }
        assert!(notices.bytes < bytes + 2 * NOTIFIED_BYTES);
        let groups = notices.take();
        let few = &groups[&(APP, "few".to_owned())];
        assert_eq!(few.named.as_ref().map(Vec::len), Some(20));
        let many = &groups[&(APP, "many".to_owned())];
        assert_eq!((many.named.is_none(), many.counts.left), (true, 100_000));
        assert_eq!(notices.bytes, 0);
    }

    #[test]
    fn no_more_are_named_of_a_channel_that_was_told_in_part() {
        let mut notices = NoticeGroups::new(20);
        let named = |groups: &Groups| {
            let of = |group: &Group| group.named.as_ref().map_or(0, Vec::len);
            groups.values().map(of).sum::<usize>()
        };
        let (mut names, mut left) = (0, 0);
        for round in 0..4 {
            for n in 0..15 {
                assert!(notices.add(APP, "c", notice(n, 1)).is_none());
            }
            let groups = notices.take();
            names += named(&groups);
            left += groups.values().map(|group| group.counts.left).sum::<u64>();
            assert_eq!(names, 15, "{round}");
        }
        assert_eq!(left, 60);
    }

    #[test]
    fn what_is_held_before_it_is_told_is_bounded() {
        let mut notices = NoticeGroups::new(20);
        let (mut most, mut members) = (0, 0);
        for n in 0..10_000 {
            let full = notices.add(APP, &n.to_string(), notice(n, 4000));
            most = most.max(notices.bytes);
            members += full.map_or(0, |full| full.len());
        }
        members += notices.take().len();
        assert_eq!(members, 10_000);
        assert!(most < NOTIFIED_TOGETHER, "{most}");
    }
}
