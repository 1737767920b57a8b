//! `fanfare emit`: sends an event to every connection that a target describes.

use clap::Args;

use super::{Failure, event::EventArgs, target::TargetArgs, variables::Variables};

/// Arguments of `fanfare emit`.
#[derive(Args, Debug)]
#[command(after_help = "\
--user, --channel and --connection add up; --filter narrows them. Without any of these the
event goes to every connection. `fanfare publish` is shorter for one user, `fanfare send` for
one channel.

Examples:
  fanfare emit alert '\"Hello\"'
  fanfare emit alert --text Hello --filter '\"admin\" in auth.roles'
  fanfare emit price 12.50 --filter 'auth.tenant == params.t' --param t='\"acme\"'
  fanfare emit report - --user ann --user bob < report.json
  fanfare emit message '{\"text\":\"Hello\"}' --channel room-1")]
pub(super) struct Emit {
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// Said if no target was given, since that is often a mistake.
const TO_EVERYONE: &str = "sent to every connection; `fanfare publish USER` and `fanfare send CHANNEL` reach fewer, \
                           and so does --filter";

impl Emit {
    /// Sends the event and prints the receipt.
    ///
    /// # Errors
    /// When nothing was sent: wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let hint = self.target.is_everyone().then_some(TO_EVERYONE);
        let whom = self.target.fields().into();
        self.event.send("/v1/emit", whom, hint, variables).await
    }
}
