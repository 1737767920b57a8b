//! What holds for a channel by its name.

use std::time::Duration;

use crate::{
    auth,
    config::{ChannelRule, Presence, UserEvents},
    history::Retention,
};

/// The rules of one app, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct ChannelRules {
    rules: Vec<(Box<str>, Rule)>,
    /// For channels that no pattern matches.
    otherwise: Rule,
}

/// What holds for one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What is stored of it, if anything.
    pub(crate) retention: Option<Retention>,
    pub(crate) presence: Presence,
    /// How long a member that closed its connection itself is still counted.
    pub(crate) leave_after: Duration,
}

impl ChannelRules {
    pub(super) fn new(rules: &[ChannelRule]) -> Self {
        let rules = rules
            .iter()
            .map(|rule| (rule.pattern.as_str().into(), Rule::from(rule)));
        Self {
            rules: rules.collect(),
            otherwise: Rule::default(),
        }
    }

    /// The first rule whose pattern matches `channel`. Without one, nothing is stored, and members who ask are
    /// notified.
    // A list in order, and no map: rules are few, and the first of several that match has to win.
    pub(super) fn of(&self, channel: &str) -> &Rule {
        let first = self
            .rules
            .iter()
            .find(|(pattern, _)| auth::matches(pattern, channel));
        first.map_or(&self.otherwise, |(_, rule)| rule)
    }
}

impl From<&ChannelRule> for Rule {
    fn from(rule: &ChannelRule) -> Self {
        let retention = Retention {
            events: rule.history_size,
            bytes: rule.history_bytes,
            ttl: rule.history_ttl,
        };
        Self {
            retention: (rule.history_size > 0).then_some(retention),
            presence: rule.presence,
            leave_after: rule.leave_after,
        }
    }
}

/// How much of a user's events is stored.
pub(super) fn retention_of(events: &UserEvents) -> Retention {
    Retention {
        events: events.size,
        bytes: events.bytes,
        ttl: events.ttl,
    }
}
