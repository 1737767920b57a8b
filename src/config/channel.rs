//! What is stored of channels and for users, and who is notified of members.

use std::time::Duration;

use serde::Deserialize;

use crate::limits;

/// One rule for channels: what is stored of them, and who is notified of their members.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRule {
    /// The names it is for; `*` stands for any run of characters.
    pub pattern: String,
    /// Events stored per channel; 0 stores none.
    #[serde(default)]
    pub history_size: usize,
    /// Bytes stored per channel.
    #[serde(default = "history_bytes", with = "crate::limits::size")]
    pub history_bytes: usize,
    /// How long an event is stored.
    #[serde(default = "history_ttl", with = "crate::limits::duration")]
    pub history_ttl: Duration,
    /// Who is notified of members that come and go.
    #[serde(default)]
    pub presence: Presence,
    /// How long a member that closed its connection itself, with 1001 or without a code, is still counted. For a page
    /// that is loaded again within this time there is one notice, `updated`. At most a minute; 0 is off.
    #[serde(default, with = "crate::limits::duration")]
    pub leave_after: Duration,
}

impl ChannelRule {
    /// A rule that says nothing but its pattern and what is stored.
    pub fn new(pattern: &str, history_size: usize) -> Self {
        Self {
            pattern: pattern.to_owned(),
            history_size,
            history_bytes: history_bytes(),
            history_ttl: history_ttl(),
            presence: Presence::default(),
            leave_after: Duration::ZERO,
        }
    }
}

fn history_bytes() -> usize {
    limits::HISTORY_BYTES_DEFAULT
}

fn history_ttl() -> Duration {
    limits::HISTORY_TTL_DEFAULT
}

/// Who is notified of members that come to a channel and leave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Members who asked when they joined.
    #[default]
    Asked,
    /// Every member.
    All,
    /// Members who asked, and only how many there are.
    Count,
    /// Nobody, and clients get no lists of members.
    Off,
}

impl Presence {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::All => "all",
            Self::Count => "count",
            Self::Off => "off",
        }
    }
}

/// What is stored for a user until one of its connections has confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserEvents {
    /// Events stored per user.
    pub size: usize,
    /// Bytes stored per user.
    #[serde(with = "crate::limits::size")]
    pub bytes: usize,
    /// How long an event is stored.
    #[serde(with = "crate::limits::duration")]
    pub ttl: Duration,
}

impl Default for UserEvents {
    fn default() -> Self {
        Self {
            size: limits::USER_EVENTS_DEFAULT,
            bytes: limits::HISTORY_BYTES_DEFAULT,
            ttl: limits::USER_EVENTS_TTL_DEFAULT,
        }
    }
}
