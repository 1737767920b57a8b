//! `fanfare join`, `leave` and `disconnect`: put connections into a channel, take them out of it, and close them.

use std::fmt::Write as _;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    Failure,
    event::{answer, missing},
    output::{self, STRONG, WARNING},
    remote::{Remote, RemoteArgs},
    target::{Target, TargetArgs},
    variables::Variables,
};

/// Which connections, and how the answer is printed.
#[derive(Args, Debug)]
struct SteerArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `fanfare join`.
#[derive(Args, Debug)]
#[command(after_help = "\
Name the connections with --user, --channel, --connection or --filter.

Examples:
  fanfare join room-1 --user ann --user bob
  fanfare join admins --filter '\"admin\" in auth.roles'")]
pub(super) struct Join {
    /// The channel that the connections join
    #[arg(value_name = "CHANNEL")]
    joined: String,
    #[command(flatten)]
    steer: SteerArgs,
}

/// Arguments of `fanfare leave`.
#[derive(Args, Debug)]
#[command(after_help = "\
Name the connections with --user, --channel, --connection or --filter.

Examples:
  fanfare leave room-1 --user ann
  fanfare leave room-1 --channel room-1")]
pub(super) struct Leave {
    /// The channel that the connections leave
    #[arg(value_name = "CHANNEL")]
    left: String,
    #[command(flatten)]
    steer: SteerArgs,
}

/// Arguments of `fanfare disconnect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Name the connections with --user, --channel, --connection or --filter. The code tells clients
whether to come back: 4000 to 4099 not with the same credentials, 4100 to 4199 after a pause,
4200 to 4299 immediately.

Examples:
  fanfare disconnect --user ann --reason 'signed out'
  fanfare disconnect --filter 'auth.tenant == \"acme\"' --code 4200")]
pub(super) struct Disconnect {
    /// The close code: 1000, or 3000 to 4999 [default: 4010]
    #[arg(long, value_name = "CODE")]
    code: Option<u16>,
    /// The close reason, at most 123 bytes [default: disconnected]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    steer: SteerArgs,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten)]
    target: Target<'a>,
}

/// The answers of all three calls; each has its own of the counts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Done {
    joined: u64,
    already: u64,
    full: u64,
    left: u64,
    disconnected: u64,
    missing_nodes: Vec<String>,
}

impl SteerArgs {
    /// Makes the call at `path`, and prints what `shown` says of the answer.
    async fn call(
        &self,
        path: &str,
        body: Body<'_>,
        shown: impl FnOnce(&Done) -> String,
        variables: &Variables,
    ) -> Result<(), Failure> {
        // The API takes a call without a target for everyone. Here the target was more likely
        // forgotten.
        if self.target.is_everyone() {
            let hint = "name the connections with --user, --channel, --connection or --filter";
            return Err(Failure::Usage(format!(
                "{hint}; --filter true means every one"
            )));
        }

        let remote = Remote::new(self.remote.clone(), variables)?;
        let answer = answer(remote.post(path, &body).await, self.json)?;
        if !self.json {
            let done: Done = remote.parse(&answer)?;
            output::print(&format!("{}\n", shown(&done)))?;
            if !done.missing_nodes.is_empty() {
                output::note(&missing(&done.missing_nodes));
            }
        }

        Ok(())
    }
}

impl Join {
    /// Puts connections into a channel, and prints how many.
    ///
    /// # Errors
    /// Wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let body = Body {
            channel: Some(&self.joined),
            code: None,
            reason: None,
            target: self.steer.target.fields(),
        };

        let shown = |done: &Done| {
            let mut text = format!("{STRONG}joined {}{STRONG:#}", done.joined);
            // Writing to a String cannot fail.
            if done.already > 0 {
                let _ = write!(text, ", {} were members already", done.already);
            }

            if done.full > 0 {
                let _ = write!(
                    text,
                    "{WARNING}, {} are in as many channels as limits.channels_per_connection allows{WARNING:#}",
                    done.full
                );
            }

            text
        };

        self.steer.call("/v1/join", body, shown, variables).await
    }
}

impl Leave {
    /// Takes connections out of a channel, and prints how many.
    ///
    /// # Errors
    /// As [`Join::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let body = Body {
            channel: Some(&self.left),
            code: None,
            reason: None,
            target: self.steer.target.fields(),
        };
        let shown = |done: &Done| format!("{STRONG}left {}{STRONG:#}", done.left);
        self.steer.call("/v1/leave", body, shown, variables).await
    }
}

impl Disconnect {
    /// Closes connections, and prints how many.
    ///
    /// # Errors
    /// As [`Join::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let body = Body {
            channel: None,
            code: self.code,
            reason: self.reason.as_deref(),
            target: self.steer.target.fields(),
        };
        let shown = |done: &Done| format!("{STRONG}disconnected {}{STRONG:#}", done.disconnected);
        self.steer
            .call("/v1/disconnect", body, shown, variables)
            .await
    }
}
