//! What one node may ask of another, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{relocations::Relocation, revoked::Changes};
use crate::{
    limits::{LISTED_BYTES, PAGE_BYTES},
    protocol::envelope::{Share, UserShare, WireTarget},
};

/// Something that another node is to look up or to do, for its own connections.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The node that asks has just come; nothing is to be answered.
    Hello,
    /// The node that asks has these rules for its apps, as digests; nothing is to be answered.
    Rules {
        node: String,
        apps: BTreeMap<String, String>,
    },
    /// What one node was to do of a program's message is done; nothing is to be answered.
    Done {
        digest: String,
    },
    /// The same of several messages, to nodes of version 2 and later.
    DoneTogether {
        digests: Vec<String>,
    },
    /// Notices may have been lost for any channel; nothing is to be answered.
    LookAgain,
    /// What became of a publication.
    Receipt {
        id: Uuid,
    },
    Disconnect {
        // Its name between nodes is older than the one in the code, and stays.
        #[serde(rename = "aim")]
        wire_target: WireTarget,
        code: u16,
        reason: String,
    },
    Join {
        channel: String,
        #[serde(rename = "aim")]
        wire_target: WireTarget,
    },
    Leave {
        channel: String,
        #[serde(rename = "aim")]
        wire_target: WireTarget,
    },
    User {
        user: String,
    },
    Count {
        channel: String,
    },
    /// The same of many channels. The answer may break off, and has one at least.
    Counts {
        channels: Vec<String>,
        /// For a node that watches them: how often each user is there, instead of the users' names.
        #[serde(default)]
        shares: bool,
    },
    Channels {
        prefix: String,
        after: Option<String>,
        limit: usize,
    },
    Members {
        channel: String,
        from: Option<String>,
        limit: usize,
        max_bytes: usize,
    },
    Connections {
        #[serde(rename = "aim")]
        wire_target: WireTarget,
        from: Option<String>,
        limit: usize,
        /// A node of an earlier version does not say it.
        #[serde(default = "page_bytes")]
        max_bytes: usize,
    },
    Connection {
        id: String,
    },
    /// What a lost connection had, for a client who comes back to another node.
    Recall {
        id: String,
        user: Option<String>,
        device: Option<String>,
        /// If it has been taken over on the node that is asked, and its client may not know that: what the connection had that did.
        /// A node of an earlier version does not ask that.
        #[serde(default)]
        or_successor: bool,
    },
    /// It goes on there in these channels, and has left the others.
    Settle {
        id: String,
        taken: Vec<String>,
    },
    /// How often users are in a channel. Only nodes of version 1 ask that.
    Tallies {
        channel: String,
        users: Vec<String>,
    },
    /// Tokens of users are refused.
    Revoke {
        users: Vec<RevokedUser>,
        changes: Changes,
    },
    /// A user has these claims, and rights where they are there, instead of those of its tokens.
    Claims {
        user: String,
        claims: Box<RawValue>,
        can: Option<Box<RawValue>>,
        at: u64,
    },
}

/// A user whose tokens are refused. It is written as a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "(String, u64, u64)", into = "(String, u64, u64)")]
pub(super) struct RevokedUser {
    pub(super) user: String,
    /// Tokens are refused that were issued before this.
    pub(super) before: u64,
    /// They are over by then.
    pub(super) until: u64,
}

impl From<(String, u64, u64)> for RevokedUser {
    fn from((user, before, until): (String, u64, u64)) -> Self {
        Self {
            user,
            before,
            until,
        }
    }
}

impl From<RevokedUser> for (String, u64, u64) {
    fn from(revoked: RevokedUser) -> Self {
        (revoked.user, revoked.before, revoked.until)
    }
}

/// How often each user that was asked about is in the channel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tallies {
    pub(super) tallies: Vec<u64>,
}

/// What became of a publication on one node.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct ReceiptPart {
    pub(super) matched: u64,
    pub(super) queued: u64,
    pub(super) filter_errors: u64,
}

/// How many were meant, or are there.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Number {
    pub(super) n: u64,
}

/// How many a node has taken out of a channel, and where it has handed places of the channel over shortly before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Leavers {
    pub(super) n: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) moved: Vec<Relocation>,
    /// It is about to end: what its clients come back to elsewhere may be in Redis already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) departs: bool,
}

/// What became of a joining.
#[expect(clippy::struct_field_names, reason = "they are the API's names")]
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Joined {
    pub(super) joined: u64,
    pub(super) already: u64,
    pub(super) full: u64,
}

/// Who is in a channel on one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Present {
    pub(super) connections: u64,
    pub(super) users: u64,
    /// The users themselves where they are few, so that one on several nodes counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) names: Option<Vec<String>>,
    /// The same for a node that watches the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<Share>,
}

impl Present {
    /// What it counts for in an answer, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let names = self.names.iter().flatten();
        let share = self.share.iter();
        let tallies = share.filter_map(|share| share.tallies.as_ref()).flatten();
        LISTED_BYTES
            // JSON adds quotes and commas to each, and two numbers for a share.
            + names.map(|name| name.len() + 3).sum::<usize>()
            + tallies.map(|tally| tally.0.len() + 9).sum::<usize>()
    }

    /// What the node has in the channel, as far as a node of version 1 says it: its users, and not how often each is
    /// there.
    pub(super) fn into_share(self) -> Share {
        let tally = |name: String| UserShare(name.into(), 1, 0);
        self.share.unwrap_or(Share {
            at: 0,
            connections: self.connections,
            users: self.users,
            tallies: self
                .names
                .map(|names| names.into_iter().map(tally).collect()),
            is_whole: true,
        })
    }
}

/// A channel on one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) channel: String,
    #[serde(flatten)]
    pub(super) present: Present,
    /// Whether the list breaks off after it, since no more fits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) more: bool,
}

fn page_bytes() -> usize {
    PAGE_BYTES
}

/// A page of one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) items: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cursor: Option<String>,
}

impl Page {
    /// How many bytes its items have.
    pub(super) fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.get().len() + 1).sum()
    }
}

/// An order that could not be carried out.
#[derive(Debug, Serialize, Deserialize)]
// Each answer is tried as a refusal first, so that no other kind may pass for one.
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    pub(super) error: String,
}
