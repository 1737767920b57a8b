//! `fanfare listen`: a client that prints its events, and reconnects as the close codes say.

mod print;
mod retry;
mod socket;

use std::time::{Duration, Instant};

use clap::Args;

use self::{
    print::Printer,
    retry::{Backoff, Next},
    socket::{Ended, Message, Socket},
};
use super::{
    Failure,
    json::{self, Json},
    output,
    paging::at_least_one,
    remote::{Remote, RemoteArgs, RequestError},
    serve::Signals,
    token,
    variables::Variables,
};
use crate::close::{self, Close};

/// Arguments of `fanfare listen`.
#[derive(Args, Debug)]
#[command(after_help = "\
Events go to stdout, everything else to stderr. Exits with 0 after --count events or on Ctrl-C,
and with 1 if the server refuses for good; otherwise it reconnects by itself. Without --token
and --user the client is anonymous.

Examples:
  fanfare listen --user ann --claims '{\"email\":\"ann@example.com\",\"roles\":[\"admin\"]}'
  fanfare listen --token \"$TOKEN\" --json | jq .data
  fanfare listen --channel room-1 --channel room-2
  fanfare listen --url https://events.example.com --count 1")]
pub(super) struct Listen {
    /// `--token`
    #[arg(
        long,
        value_name = "TOKEN",
        help = "Connect with this token [env: FANFARE_TOKEN]"
    )]
    token: Option<String>,
    /// Connect as this user, with a token that the server signs
    #[arg(long, value_name = "USER", conflicts_with = "token")]
    user: Option<String>,
    /// Claims of --user, which filters see under auth
    #[arg(long, value_name = "OBJECT", value_parser = json::object, requires = "user")]
    claims: Option<Json>,
    /// Connect to this app [default: the first app of the server]
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Connect with this client key of the app
    #[arg(long, value_name = "KEY")]
    client_key: Option<String>,
    /// Join this channel; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
    /// Exit after this many events
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    count: Option<u64>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Who the client is.
enum Identity {
    Anonymous,
    Token(String),
    /// A token is fetched for each connection.
    User {
        name: String,
        claims: Option<Json>,
    },
}

impl Listen {
    /// Listens until it has seen `--count` events, or is refused for good.
    ///
    /// # Errors
    /// When the server cannot be reached at first, or refuses for good.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let mut signals = Signals::new().map_err(Failure::Runtime)?;
        let remote = Remote::new(self.remote, variables)?;
        let identity = match (self.user, self.token.or_else(|| variables.token.clone())) {
            // A flag wins over a variable. `--user` and `--token` together were refused already.
            (Some(name), _) => Identity::User {
                name,
                claims: self.claims,
            },
            (None, Some(token)) => Identity::Token(token),
            (None, None) => Identity::Anonymous,
        };

        let printer = Printer::new(self.json, self.count);
        let app = self.app.map(|app| ("app", app));
        let key = self.client_key.map(|key| ("key", key));

        let channels = self
            .channels
            .into_iter()
            .map(|channel| ("channel", channel));
        let query = app.into_iter().chain(key).chain(channels).collect();
        let client = Client {
            remote,
            identity,
            query,
            printer,
        };

        tokio::select! {
            ended = client.run() => ended,
            () = signals.next() => Ok(()),
        }
    }
}

struct Client {
    remote: Remote,
    identity: Identity,
    /// What the handshake asks for.
    query: Vec<(&'static str, String)>,
    printer: Printer,
}

impl Client {
    async fn run(mut self) -> Result<(), Failure> {
        let mut backoff = Backoff::default();
        let mut was_connected = false;
        loop {
            let since = Instant::now();
            let next = match self.connect().await {
                Ok(mut socket) => {
                    was_connected = true;
                    match self.serve(&mut socket).await? {
                        Some(ended) => {
                            backoff.note(since.elapsed());
                            output::note(&ended.to_string());
                            self.after(&ended)?
                        }
                        None => return Ok(()),
                    }
                }
                // If it never worked, the address is wrong more often than not.
                Err(error) if !was_connected || is_final(&error) => return Err(error.into()),
                Err(error) => {
                    output::note(&error.to_string());
                    Next::Backoff
                }
            };

            let pause = match next {
                Next::After(pause) => pause,
                Next::Backoff => backoff.next(),
            };

            output::note(&format!("reconnecting in {:.1} s", pause.as_secs_f64()));
            tokio::time::sleep(pause).await;
        }
    }

    async fn connect(&self) -> Result<Socket, RequestError> {
        let token = match &self.identity {
            Identity::Anonymous => None,
            Identity::Token(token) => Some(token.clone()),
            Identity::User { name, claims } => {
                let signed = token::request(&self.remote, name, claims.as_deref(), None, None);
                Some(signed.await?.token)
            }
        };
        Socket::connect(&self.remote, token.as_deref(), &self.query).await
    }

    /// Prints what comes. `None` when enough was seen.
    async fn serve(&mut self, socket: &mut Socket) -> Result<Option<Ended>, Failure> {
        loop {
            let printed = match socket.next().await {
                Ok(Message::Text(text)) => self.printer.text(&text, socket)?,
                Ok(Message::Binary(bytes)) => self.printer.binary(&bytes)?,
                Err(ended) => return Ok(Some(ended)),
            };
            if printed.is_break() {
                socket.close(&Close::new(close::NORMAL, "")).await;
                return Ok(None);
            }
        }
    }

    /// What an end means for the next attempt.
    fn after(&self, ended: &Ended) -> Result<Next, Failure> {
        // Each of its connections has a new token, so one that has expired does not end it.
        let refreshes = matches!(self.identity, Identity::User { .. });
        let reconnect_in = ended.bye.map(Duration::from_millis);
        retry::after(ended.code, refreshes, reconnect_in).ok_or_else(|| Failure::Closed {
            code: ended.code,
            reason: {
                let mut reason = if ended.reason.is_empty() {
                    String::new()
                } else {
                    format!(", {}", output::harmless(&ended.reason))
                };
                if matches!(self.identity, Identity::Anonymous) && ended.code == close::UNAUTHORIZED
                {
                    reason.push_str("; give --token or --user");
                }
                reason
            },
        })
    }
}

/// Whether asking again with the same arguments gives the same answer.
fn is_final(error: &RequestError) -> bool {
    match error {
        RequestError::Refused(refusal) => {
            // A timeout and a rate limit are over some time later.
            (400..500).contains(&refusal.status) && ![408, 429].contains(&refusal.status)
        }
        _ => false,
    }
}
