//! `fanfare emit`: sends an event through the HTTP API, and says whom it reached.

use std::{collections::BTreeMap, fmt::Write as _, io::Read as _};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Failure,
    json::{self, Data, Json},
    output::{self, STRONG, WARNING},
    remote::{Remote, RemoteArgs, RequestError},
    variables::Variables,
};

/// Arguments of `fanfare emit`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare emit alert '\"Hello\"'
  fanfare emit alert '{\"level\":3}' --filter '\"admin\" in auth.roles'
  fanfare emit price 12.50 --filter 'auth.tenant == params.t' --param t='\"acme\"'
  fanfare emit report - --user ann --user bob < report.json
  fanfare emit message '\"Hello\"' --channel room-1")]
pub(super) struct Emit {
    /// The event's name
    event: String,
    /// JSON, or - to read it from stdin [default: null]
    #[arg(value_parser = json::data, allow_hyphen_values = true)]
    data: Option<Data>,
    /// Only to connections for which this is true
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Bind params.NAME of the filter
    #[arg(long = "param", value_name = "NAME=JSON", value_parser = json::param)]
    params: Vec<(String, Json)>,
    /// Only to this user's connections
    #[arg(long = "user", value_name = "USER")]
    users: Vec<String>,
    /// Only to this channel's members
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Only to this connection
    #[arg(long = "connection", value_name = "ID")]
    connections: Vec<String>,
    /// Not to this user's connections
    #[arg(long = "except-user", value_name = "USER")]
    except_users: Vec<String>,
    /// Print the answer as the server gave it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Body<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<BTreeMap<&'a str, &'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<To<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<Except<'a>>,
}

#[derive(Serialize)]
struct To<'a> {
    users: &'a [String],
    channels: &'a [String],
    connections: &'a [String],
}

#[derive(Serialize)]
struct Except<'a> {
    users: &'a [String],
}

#[derive(Deserialize)]
struct Receipt {
    id: String,
    matched: u64,
    queued: u64,
    dropped: u64,
    #[serde(default)]
    stored: u64,
    #[serde(default)]
    filter_errors: u64,
    #[serde(default)]
    missing_nodes: Vec<String>,
}

impl Emit {
    /// Sends the event and prints the receipt.
    ///
    /// # Errors
    /// When nothing was delivered: wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let data = match &self.data {
            None => None,
            Some(Data::Given(json)) => Some(json.clone()),
            Some(Data::Stdin) => Some(from_stdin()?),
        };
        let Self {
            users,
            channels,
            connections,
            ..
        } = self;
        let is_addressed = [&users, &channels, &connections]
            .iter()
            .any(|names| !names.is_empty());
        let body = Body {
            event: &self.event,
            data: data.as_deref(),
            filter: self.filter.as_deref(),
            params: json::params(&self.params),
            to: is_addressed.then_some(To {
                users: &users,
                channels: &channels,
                connections: &connections,
            }),
            except: (!self.except_users.is_empty()).then_some(Except {
                users: &self.except_users,
            }),
        };
        let remote = Remote::new(self.remote, variables)?;
        let answer = answer(remote.post("/v1/emit", &body).await, self.json)?;
        if !self.json {
            output::print(&shown(&remote.parse(&answer)?))?;
        }
        Ok(())
    }
}

/// What the server answered. With `as_json` it is printed as it came, be it good or a refusal.
///
/// # Errors
/// As `result`, and [`Failure::Printed`] in place of a refusal that was printed.
pub(super) fn answer(
    result: Result<String, RequestError>,
    as_json: bool,
) -> Result<String, Failure> {
    match result {
        Ok(answer) => {
            if as_json {
                output::print_raw(&output::one_line(&answer))?;
            }
            Ok(answer)
        }
        Err(RequestError::Refused(refusal)) if as_json => {
            output::print_raw(&output::one_line(&refusal.document))?;
            Err(Failure::Printed)
        }
        Err(error) => Err(error.into()),
    }
}

fn from_stdin() -> Result<Json, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read DATA from stdin: {error}")))?;
    json::value(&text).map_err(|error| Failure::Usage(format!("DATA from stdin: {error}")))
}

fn shown(receipt: &Receipt) -> String {
    let Receipt {
        id,
        matched,
        queued,
        dropped,
        stored,
        filter_errors,
        missing_nodes,
    } = receipt;
    let mut shown =
        format!("{STRONG}matched {matched}{STRONG:#}, queued {queued}, dropped {dropped}");
    if *stored > 0 {
        // Writing to a String cannot fail, here and below.
        let _ = write!(shown, ", stored {stored}");
    }
    let _ = writeln!(shown, "  (id {})", output::harmless(id));
    let mut warn = |text: &str| {
        let _ = writeln!(shown, "{WARNING}{text}{WARNING:#}");
    };
    if *dropped > 0 {
        warn(&format!("{dropped} were too slow to be given it"));
    }
    if *filter_errors > 0 {
        let hint = "`fanfare explain FILTER --connection ID` shows where";
        warn(&format!(
            "the filter ended in an error for {filter_errors} ({hint})"
        ));
    }
    if !missing_nodes.is_empty() {
        warn(&format!(
            "not counted, since they did not answer: {}",
            output::harmless(&missing_nodes.join(", "))
        ));
    }
    shown
}
