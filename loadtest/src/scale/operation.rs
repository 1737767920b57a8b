//! What is done again and again, and what it costs.

use std::fmt;

use serde::Serialize;

use super::usage::{Span, Usage};

/// Something that clients, functions or operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Nothing for a second: what the cluster does by itself.
    Rest,
    PublishToUser,
    SendToChannel,
    SendToDurable,
    EmitToAll,
    JoinUnwatched,
    JoinWatched,
    JoinCounted,
    MembersPage,
    ChannelList,
    NodeStart,
    NodeCrash,
}

impl Operation {
    pub(super) const ALL: [Self; 12] = [
        Self::Rest,
        Self::PublishToUser,
        Self::SendToChannel,
        Self::SendToDurable,
        Self::EmitToAll,
        Self::JoinUnwatched,
        Self::JoinWatched,
        Self::JoinCounted,
        Self::MembersPage,
        Self::ChannelList,
        Self::NodeStart,
        Self::NodeCrash,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rest => "a second at rest",
            Self::PublishToUser => "publish to a user of another node",
            Self::SendToChannel => "send to a channel with a member on each node",
            Self::SendToDurable => "the same, to a channel with history",
            Self::EmitToAll => "emit to everyone",
            Self::JoinUnwatched => "join and leave a channel that nobody watches",
            Self::JoinWatched => "join and leave a channel that is watched on each node",
            Self::JoinCounted => "the same, where presence is counted",
            Self::MembersPage => "a page of members",
            Self::ChannelList => "the list of channels",
            Self::NodeStart => "a node starts",
            Self::NodeCrash => "a node crashes",
        }
    }

    /// Whether it is done only once: it takes seconds.
    pub(super) fn is_rare(self) -> bool {
        matches!(self, Self::NodeStart | Self::NodeCrash)
    }
}

/// What one operation costs beyond what the idle cluster does meanwhile.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    pub(super) commands: f64,
    pub(super) publications: f64,
    pub(super) kilobytes: f64,
    pub(super) redis_micros: f64,
    pub(super) nodes_micros: f64,
}

impl Cost {
    /// What each of `times` operations cost that were done in `span`, beside a cluster that uses `idle` by itself.
    pub(super) fn of(span: &Span, idle: &Span, times: u32) -> Self {
        let share = span.seconds / idle.seconds;
        let each = |used: f64, idle: f64| (used - idle * share).max(0.0) / f64::from(times);
        let (used, by_itself) = (&span.used, &idle.used);
        let micros = |used: std::time::Duration| used.as_secs_f64() * 1e6;
        Self {
            commands: each(used.commands, by_itself.commands),
            publications: each(used.publications, by_itself.publications),
            kilobytes: each(used.bytes, by_itself.bytes) / 1000.0,
            redis_micros: each(micros(used.redis), micros(by_itself.redis)),
            nodes_micros: each(micros(used.nodes), micros(by_itself.nodes)),
        }
    }
}

impl Cost {
    /// What a second costs in which nothing is done.
    pub(super) fn at_rest(idle: &Span) -> Self {
        let nothing = Span {
            used: Usage::default(),
            seconds: idle.seconds,
        };
        Self::of(idle, &nothing, 1).by(1.0 / idle.seconds)
    }

    fn by(self, factor: f64) -> Self {
        Self {
            commands: self.commands * factor,
            publications: self.publications * factor,
            kilobytes: self.kilobytes * factor,
            redis_micros: self.redis_micros * factor,
            nodes_micros: self.nodes_micros * factor,
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} commands, of them {:.1} publications; {:.1} kB; {:.0} µs of Redis, {:.0} µs of all nodes",
            self.commands, self.publications, self.kilobytes, self.redis_micros, self.nodes_micros
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_idle_cluster_does_is_not_counted() {
        let span = |commands: f64, seconds: f64| Span {
            used: Usage {
                commands,
                ..Usage::default()
            },
            seconds,
        };
        let cost = Cost::of(&span(250.0, 5.0), &span(20.0, 2.0), 10);
        assert_eq!(format!("{:.1}", cost.commands), "20.0");
        let less = Cost::of(&span(10.0, 5.0), &span(20.0, 2.0), 10);
        assert_eq!(format!("{:.1}", less.commands), "0.0");
        let rest = Cost::at_rest(&span(20.0, 2.0));
        assert_eq!(format!("{:.1}", rest.commands), "10.0");
    }
}
