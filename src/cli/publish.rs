//! `fanfare publish`, `send` and `broadcast`: send an event to a user, to a channel and to everyone.

use clap::Args;

use super::{
    Failure,
    event::{EventArgs, Whom},
    target::{ExceptArgs, FilterArgs, Target},
    variables::Variables,
};

/// Arguments of `fanfare publish`.
#[derive(Args, Debug)]
#[command(after_help = "\
Reaches all connections of the user. If the app stores events for users, the event also waits
for a user who is away.

Examples:
  fanfare publish ann alert --text Hello
  fanfare publish ann alert --text Hello --user bob --user cid
  fanfare publish ann alert '{\"level\":3}' --filter 'connection.device != \"laptop\"'")]
pub(super) struct Publish {
    /// The user
    #[arg(value_name = "USER")]
    first: String,
    #[command(flatten)]
    event: EventArgs,
    /// Send it to this user too; may be repeated
    #[arg(long = "user", value_name = "USER")]
    others: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    except: ExceptArgs,
}

/// Arguments of `fanfare send`.
#[derive(Args, Debug)]
#[command(after_help = "\
Reaches all members of the channel. If the channel has a history, the event is stored in it.

Examples:
  fanfare send room-1 message '{\"text\":\"Hello\"}'
  fanfare send room-1 typing --except-user ann")]
pub(super) struct Send {
    /// The channel
    channel: String,
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    except: ExceptArgs,
}

/// Arguments of `fanfare broadcast`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare broadcast news '{\"headline\":\"Hello\"}'
  fanfare broadcast news --text Hello --except-user ann")]
pub(super) struct Broadcast {
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    except: ExceptArgs,
}

impl Publish {
    /// Sends the event and prints the receipt.
    ///
    /// # Errors
    /// When nothing was sent: wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let others = self.others.iter().map(String::as_str);
        let whom = Whom {
            users: Some(std::iter::once(self.first.as_str()).chain(others).collect()),
            ..Target::new(&self.filter, &self.except).into()
        };
        self.event.send("/v1/publish", whom, None, variables).await
    }
}

impl Send {
    /// Sends the event and prints the receipt.
    ///
    /// # Errors
    /// As [`Publish::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let whom = Whom {
            channel: Some(&self.channel),
            ..Target::new(&self.filter, &self.except).into()
        };
        self.event.send("/v1/send", whom, None, variables).await
    }
}

impl Broadcast {
    /// Sends the event and prints the receipt.
    ///
    /// # Errors
    /// As [`Publish::run`].
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let everyone = FilterArgs::default();
        let whom = Target::new(&everyone, &self.except).into();
        self.event
            .send("/v1/broadcast", whom, None, variables)
            .await
    }
}
