//! What publishers did and what subscribers saw: the evidence that the checker judges. Moments are those of
//! [`crate::clock::now`].

use std::ops::AddAssign;

/// What became of one request to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was taken.
    Accepted,
    /// It was taken, and the answer named nodes that may not have it.
    Incomplete,
    /// It was refused, so that nobody may ever have it.
    Refused,
    /// No answer came: it may have been delivered or not.
    Unknown,
}

/// One request to publish. Each has a number of its own, whatever became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Who published, which is also the node that was asked.
    pub(super) publisher: usize,
    pub(super) channel: usize,
    /// The place among all attempts of this publisher on this channel: 0, 1, 2, …
    pub(super) sequence: u32,
    pub(super) sent: u64,
    /// When the answer came, or was given up.
    pub(super) answered: u64,
    pub(super) fate: Fate,
}

/// What a subscriber saw of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is a member from now on, on this node.
    Joined {
        node: usize,
        epoch: String,
        recovered: Option<bool>,
    },
    /// An event, with its offset where the channel keeps events.
    Event {
        publisher: usize,
        sequence: u32,
        offset: Option<u64>,
    },
    /// It was told that something may be missing.
    Gap,
    /// Its connection ended.
    Ended,
}

/// How a subscriber came back, where it is to resume.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returns {
    /// How often it was sent away.
    pub(super) sent_away: usize,
    /// How often it came back and asked for what its connection before had.
    pub(super) asked: usize,
    /// How often of that it got it.
    pub(super) resumed: usize,
    /// Members whom it saw come back without their profiles.
    pub(super) without_profile: usize,
}

impl AddAssign for Returns {
    fn add_assign(&mut self, other: Self) {
        self.sent_away += other.sent_away;
        self.asked += other.asked;
        self.resumed += other.resumed;
        self.without_profile += other.without_profile;
    }
}

/// All that one subscriber saw of one channel, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) channel: usize,
    /// Whether the channel keeps its events.
    pub(super) keeps: bool,
    pub(super) seen: Vec<(u64, Seen)>,
}

impl Log {
    /// Where the subscriber was a member at `moment`, if anywhere.
    pub(super) fn node_at(&self, moment: u64) -> Option<usize> {
        let mut node = None;
        for (at, seen) in self.seen.iter().take_while(|(at, _)| *at <= moment) {
            match seen {
                Seen::Joined { node: joined, .. } => node = Some((*joined, *at)),
                Seen::Ended => node = None,
                Seen::Event { .. } | Seen::Gap => {}
            }
        }
        node.map(|(node, _)| node)
    }
}
