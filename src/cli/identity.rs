//! `fanfare revoke` and `auth`: refuse users' tokens, and replace the claims of a user's connections.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Failure,
    event::{answer, missing},
    json::{self, Json},
    output::{self, STRONG},
    remote::{Remote, RemoteArgs},
    variables::Variables,
};

/// Arguments of `fanfare revoke`.
#[derive(Args, Debug)]
#[command(after_help = "\
Tokens without iat count as issued before. The users' connections that came with such a token are
closed with 4001, and clients do not come back by themselves. A token that is issued later is good.

Examples:
  fanfare revoke ann
  fanfare revoke ann bob --before 2026-07-28T12:00:00Z")]
pub(super) struct Revoke {
    /// The users whose tokens are refused
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
    /// Only tokens that were issued before this, in Unix seconds or as 2026-07-28T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `fanfare auth`.
#[derive(Args, Debug)]
#[command(after_help = "\
The claims are all that filters see under auth, beside sub and iat. They hold until the connection
ends, or its client renews it with a token that was issued later.

Examples:
  fanfare auth ann --claims '{\"plan\":\"pro\"}'
  fanfare auth ann --claims '{\"plan\":\"free\"}' --can '{\"join\":[\"lobby\"]}'")]
pub(super) struct Auth {
    /// The user whose connections are changed
    user: String,
    /// The claims, which filters see under auth
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    claims: Json,
    /// What the clients may do [default: as before]
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    can: Option<Json>,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct RevokeBody<'a> {
    users: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Before<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Before<'a> {
    Seconds(u64),
    Text(&'a str),
}

#[derive(Serialize)]
struct AuthBody<'a> {
    user: &'a str,
    claims: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    can: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Revoked {
    disconnected: u64,
    before: u64,
    kept_until: u64,
    #[serde(default)]
    missing_nodes: Vec<String>,
}

#[derive(Deserialize)]
struct Replaced {
    connections: u64,
    #[serde(default)]
    missing_nodes: Vec<String>,
}

impl Revoke {
    /// Refuses tokens, and prints how many connections were closed.
    ///
    /// # Errors
    /// Wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let remote = Remote::new(self.remote, variables)?;
        let before = self
            .before
            .as_deref()
            // A number is in seconds. The server reads everything else, and says what is wrong with
            // it.
            .map(|time| time.parse().map_or(Before::Text(time), Before::Seconds));
        let body = RevokeBody {
            users: &self.users,
            before,
        };

        let answer = answer(remote.post("/v1/revoke", &body).await, self.json)?;
        if !self.json {
            let Revoked {
                disconnected,
                before,
                kept_until,
                missing_nodes,
            } = remote.parse(&answer)?;
            let (before, until) = (time(before), time(kept_until));
            output::print(&format!(
                "revoked the tokens issued before {before}, until {until}; {STRONG}disconnected {disconnected}{STRONG:#}\n"
            ))?;
            note_missing(&missing_nodes);
        }

        Ok(())
    }
}

impl Auth {
    /// Replaces claims, and prints for how many connections.
    ///
    /// # Errors
    /// As [`Revoke::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let remote = Remote::new(self.remote, variables)?;
        let body = AuthBody {
            user: &self.user,
            claims: &self.claims,
            can: self.can.as_deref(),
        };

        let answer = answer(remote.post("/v1/auth", &body).await, self.json)?;
        if !self.json {
            let Replaced {
                connections,
                missing_nodes,
            } = remote.parse(&answer)?;
            let plural = if connections == 1 { "" } else { "s" };
            output::print(&format!(
                "replaced the claims of {STRONG}{connections}{STRONG:#} connection{plural}\n"
            ))?;
            note_missing(&missing_nodes);
        }

        Ok(())
    }
}

fn note_missing(nodes: &[String]) {
    if !nodes.is_empty() {
        output::note(&missing(nodes));
    }
}

/// A time in Unix seconds as people read it.
fn time(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    // A time past the year 9999 has no such form.
    let readable = time.filter(|_| seconds < 253_402_300_800);
    readable.map_or_else(
        || seconds.to_string(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}
