//! What holds for a channel by its name.

use std::time::Duration;

use crate::{
    auth,
    config::{ChannelRule, Presence, UserEvents},
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
#[allow(dead_code, reason = "channels read it")]
pub(crate) struct Rule {
    /// What is kept of it, if anything.
    pub(crate) keep: Option<Kept>,
    pub(crate) presence: Presence,
}

/// How much is kept, of a channel or for a user, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "histories read it")]
pub(crate) struct Kept {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) ttl: Duration,
}

impl ChannelRules {
    pub(super) fn new(rules: &[ChannelRule]) -> Self {
        let rules = rules.iter().map(|rule| (rule.pattern.as_str().into(), Rule::from(rule)));
        Self { rules: rules.collect(), otherwise: Rule::default() }
    }

    /// The first rule whose pattern matches `channel`, or that nothing is kept and who asks is told.
    #[allow(dead_code, reason = "channels ask for it")]
    pub(super) fn of(&self, channel: &str) -> &Rule {
        let first = self.rules.iter().find(|(pattern, _)| auth::matches(pattern, channel));
        first.map_or(&self.otherwise, |(_, rule)| rule)
    }
}

impl From<&ChannelRule> for Rule {
    fn from(rule: &ChannelRule) -> Self {
        let kept = Kept { events: rule.history_size, bytes: rule.history_bytes, ttl: rule.history_ttl };
        Self { keep: (rule.history_size > 0).then_some(kept), presence: rule.presence }
    }
}

impl From<&UserEvents> for Kept {
    fn from(kept: &UserEvents) -> Self {
        Self { events: kept.size, bytes: kept.bytes, ttl: kept.ttl }
    }
}
