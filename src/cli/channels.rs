//! `fanfare channels`, `members` and `history`: which channels there are, who is in one, and what it keeps.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Deserialize;

use super::{
    Failure,
    json::Json,
    output,
    paging::{List, ListArgs},
    remote::encoded,
    variables::Variables,
};

/// Arguments of `fanfare channels`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows the channels that have members: their connections, and how many users those are of.

Examples:
  fanfare channels
  fanfare channels room-
  fanfare channels --json | jq -r .channel")]
pub(super) struct Channels {
    /// Only channels whose name begins with this
    prefix: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `fanfare members`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare members room-1
  fanfare members room-1 --json | jq -r .user")]
pub(super) struct Members {
    /// The channel
    channel: String,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `fanfare history`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows the stored events, oldest first. A channel has a history if a rule of its app says so:
fanfare serve --channel-history 'room-*=100'

Examples:
  fanfare history room-1
  fanfare history room-1 --after 10 --json | jq .data")]
pub(super) struct History {
    /// The channel
    channel: String,
    /// Only events after this offset [default: 0]
    #[arg(long, value_name = "OFFSET")]
    after: Option<u64>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Deserialize)]
struct Channel {
    #[serde(rename = "channel")]
    name: String,
    connections: u64,
    users: u64,
}

#[derive(Deserialize)]
struct Member {
    id: String,
    user: Option<String>,
    data: Option<Json>,
}

#[derive(Deserialize)]
struct Stored {
    offset: u64,
    at: u64,
    event: String,
    data: Option<Json>,
    data_base64: Option<String>,
    from: Option<Sender>,
}

#[derive(Deserialize)]
struct Sender {
    connection: String,
    user: Option<String>,
}

impl Channels {
    /// Prints the channels.
    ///
    /// # Errors
    /// No server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let list = List {
            path: "/v1/channels",
            query: self
                .prefix
                .map(|prefix| ("prefix", prefix))
                .into_iter()
                .collect(),
            cursor: "cursor",
            items: "channels",
            heads: &["CONNECTIONS", "USERS", "CHANNEL"],
        };

        let row = |channel: Channel| {
            vec![
                channel.connections.to_string(),
                channel.users.to_string(),
                channel.name,
            ]
        };

        self.list.print(list, row, variables).await
    }
}

impl Members {
    /// Prints a channel's members.
    ///
    /// # Errors
    /// As [`Channels::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let list = List {
            // Encoded, whatever was typed: the server is to refuse a wrong name, and not to take a
            // part of it for another path.
            path: &format!("/v1/channels/{}/members", encoded(&self.channel)),
            query: Vec::new(),
            cursor: "cursor",
            items: "members",
            heads: &["ID", "USER", "PROFILE"],
        };

        let row = |member: Member| {
            vec![
                member.id,
                member.user.unwrap_or_else(|| "-".to_owned()),
                member.data.as_ref().map_or_else(String::new, one_line),
            ]
        };

        self.list.print(list, row, variables).await
    }
}

impl History {
    /// Prints the events that a channel keeps.
    ///
    /// # Errors
    /// As [`Channels::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let list = List {
            path: &format!("/v1/channels/{}/history", encoded(&self.channel)),
            query: self
                .after
                .map(|after| ("after", after.to_string()))
                .into_iter()
                .collect(),
            // Its pages go on after an offset. Other lists have a cursor.
            cursor: "after",
            items: "events",
            heads: &["OFFSET", "TIME", "EVENT", "FROM", "DATA"],
        };

        let row = |stored: Stored| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(stored.at);
            let from = stored.from.map(|from| from.user.unwrap_or(from.connection));
            let bytes = stored.data_base64.map(|base64| format!("base64 {base64}"));

            vec![
                stored.offset.to_string(),
                humantime::format_rfc3339_seconds(at).to_string(),
                stored.event,
                from.unwrap_or_else(|| "-".to_owned()),
                stored
                    .data
                    .as_ref()
                    .map(one_line)
                    .or(bytes)
                    .unwrap_or_default(),
            ]
        };

        self.list.print(list, row, variables).await
    }
}

fn one_line(json: &Json) -> String {
    output::one_line(json.get()).into_owned()
}
