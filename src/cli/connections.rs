//! `fanfare connections` and `fanfare user`: who is connected.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Deserialize;

use super::{
    Failure,
    event::{answer, missing},
    json::{self, Json},
    output::{self, FAINT, STRONG, harmless},
    paging::{List, ListArgs},
    remote::{Remote, RemoteArgs, encoded},
    target::FilterArgs,
    variables::Variables,
};

/// Arguments of `fanfare connections`.
#[derive(Args, Debug)]
#[command(after_help = "\
With an ID all attributes of that connection are shown, and --json prints them as one line.

Examples:
  fanfare connections
  fanfare connections --filter 'auth.tenant == params.t' --param t='\"acme\"'
  fanfare connections yn2f9kr000001bv7hxg15c23y4
  fanfare connections --json | jq -r .user")]
pub(super) struct Connections {
    /// Show this connection only
    #[arg(conflicts_with_all = ["filter", "params", "limit"])]
    id: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `fanfare user`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare user ann
  fanfare user ann --json")]
pub(super) struct User {
    /// The user
    #[arg(value_name = "USER")]
    name: String,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Deserialize)]
struct Connection {
    id: String,
    user: Option<String>,
    device: Option<String>,
    ip: String,
    protocol: String,
    connected_at: u64,
    node: String,
    auth: Option<Json>,
    profile: Option<Json>,
    channels: Vec<String>,
}

impl Connections {
    /// Prints the connections, or one of them.
    ///
    /// # Errors
    /// Wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        if let Some(id) = self.id {
            let as_json = self.list.json;
            let remote = Remote::new(self.list.remote, variables)?;
            let path = format!("/v1/connections/{}", encoded(&id));
            let answer = answer(remote.get(&path, &[]).await, as_json)?;
            if !as_json {
                output::print(&shown(&remote.parse(&answer)?))?;
            }
            return Ok(());
        }

        let FilterArgs { filter, params } = &self.filter;
        let mut query = Vec::new();
        query.extend(filter.clone().map(|filter| ("filter", filter)));

        if let Some(params) = json::params(params) {
            let params = serde_json::to_string(&params).map_err(|error| {
                Failure::Usage(format!("the params cannot be written as JSON: {error}"))
            })?;
            query.push(("params", params));
        }

        let list = List {
            path: "/v1/connections",
            query,
            cursor: "cursor",
            items: "connections",
            heads: &["ID", "USER", "IP", "CONNECTED", "CHANNELS"],
        };

        let row = |connection: Connection| {
            vec![
                connection.id,
                connection.user.unwrap_or_else(|| "-".to_owned()),
                connection.ip,
                since(connection.connected_at),
                connection.channels.join(" "),
            ]
        };

        self.list.print(list, row, variables).await
    }
}

impl User {
    /// Prints whether the user is online.
    ///
    /// # Errors
    /// No server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Presence {
            online: bool,
            connections: u64,
            #[serde(default)]
            missing_nodes: Vec<String>,
        }

        let remote = Remote::new(self.remote, variables)?;
        let path = format!("/v1/users/{}", encoded(&self.name));
        let answer = answer(remote.get(&path, &[]).await, self.json)?;
        if self.json {
            return Ok(());
        }

        let presence: Presence = remote.parse(&answer)?;
        let user = harmless(&self.name);
        let text = match (presence.online, presence.connections) {
            (false, _) => format!("{user} is {STRONG}offline{STRONG:#}\n"),
            (true, 1) => format!("{user} is {STRONG}online{STRONG:#}, with 1 connection\n"),
            (true, n) => format!("{user} is {STRONG}online{STRONG:#}, with {n} connections\n"),
        };

        output::print(&text)?;
        if !presence.missing_nodes.is_empty() {
            output::note(&missing(&presence.missing_nodes));
        }
        Ok(())
    }
}

/// Everything about one connection.
fn shown(connection: &Connection) -> String {
    let json = |value: &Option<Json>| {
        value.as_ref().map_or_else(
            || "null".to_owned(),
            |json| output::one_line(json.get()).into_owned(),
        )
    };

    let or_none = |text: &Option<String>| text.as_deref().map_or("-", |text| text).to_owned();
    let connected_at = SystemTime::UNIX_EPOCH + Duration::from_secs(connection.connected_at);
    let lines = [
        ("id", connection.id.clone()),
        ("user", or_none(&connection.user)),
        ("device", or_none(&connection.device)),
        ("ip", connection.ip.clone()),
        ("protocol", connection.protocol.clone()),
        (
            "connected",
            humantime::format_rfc3339_seconds(connected_at).to_string(),
        ),
        ("node", connection.node.clone()),
        ("auth", json(&connection.auth)),
        ("profile", json(&connection.profile)),
        ("channels", connection.channels.join(" ")),
    ];

    let mut text = String::new();
    for (name, value) in lines {
        let line = format!("{FAINT}{name:<9}{FAINT:#}  {}", harmless(&value));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }

    text
}

/// How long ago something was, in its largest unit: `3h`.
fn since(unix: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // Another machine's clock may be ahead.
    ago(now.saturating_sub(unix))
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_largest_unit() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7199, "1h"),
            (86_400, "1d"),
            (1_000_000, "11d"),
        ] {
            assert_eq!(ago(seconds), expected);
        }
    }
}
