//! An event to send: the arguments that the publishing commands share, and what the server says it reached.

use std::{fmt::Write as _, io::Read as _};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    Failure,
    json::{self, Data, Json},
    output::{self, FAINT, STRONG, WARNING},
    remote::{Remote, RemoteArgs, RequestError},
    target::Target,
    variables::Variables,
};

/// What is sent, and by which server.
#[derive(Args, Debug)]
pub(super) struct EventArgs {
    /// The event's name
    event: String,
    /// JSON, or - to read it from stdin [default: null]
    // A negative number is JSON too.
    #[arg(value_parser = json::data, allow_hyphen_values = true)]
    data: Option<Data>,
    /// Send this text as the data: a JSON string without writing its quotes
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "data",
        allow_hyphen_values = true
    )]
    text: Option<String>,
    /// Count the connections of all nodes, or only of the node that takes the call [default: node]
    #[arg(long, value_name = "EXTENT", value_parser = ["cluster", "node"])]
    receipt: Option<String>,
    /// Reach the connections of all nodes, or only of the node that takes the call [default: cluster]
    #[arg(long, value_name = "EXTENT", value_parser = ["cluster", "node"])]
    scope: Option<String>,
    /// Refuse the event if it cannot be stored; with =false, do not store it [default: store it where that is set up]
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    store: Option<bool>,
    /// Send the event once, however often this is repeated with the same key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// The body of a publishing call.
#[derive(Serialize)]
struct Body<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(flatten)]
    whom: Whom<'a>,
}

/// To whom an event goes: the fields that differ from call to call.
#[derive(Serialize)]
pub(super) struct Whom<'a> {
    /// The target of `publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<&'a str>>,
    /// The target of `send`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<&'a str>,
    #[serde(flatten)]
    pub(super) target: Target<'a>,
}

impl<'a> From<Target<'a>> for Whom<'a> {
    fn from(target: Target<'a>) -> Self {
        Self {
            users: None,
            channel: None,
            target,
        }
    }
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
    nodes: u64,
    #[serde(default)]
    missing_nodes: Vec<String>,
}

impl EventArgs {
    /// Sends the event by the call at `path`, and prints the receipt; under it `hint`, for people.
    ///
    /// # Errors
    /// When nothing was sent: wrong arguments, no server, or its refusal.
    pub(super) async fn send(
        self,
        path: &str,
        whom: Whom<'_>,
        hint: Option<&str>,
        variables: &Variables,
    ) -> Result<(), Failure> {
        let data = match (self.data, &self.text) {
            (Some(Data::Given(json)), _) => Some(json),
            (Some(Data::Stdin), _) => Some(from_stdin()?),
            (None, Some(text)) => Some(json::string(text).map_err(Failure::Usage)?),
            (None, None) => None,
        };

        let body = Body {
            event: &self.event,
            data,
            receipt: self.receipt.as_deref(),
            scope: self.scope.as_deref(),
            store: self.store,
            whom,
        };

        let remote = Remote::new(self.remote, variables)?;
        let key = self.idempotency_key.as_deref();
        let answer = answer(remote.post_once(path, &body, key).await, self.json)?;

        if !self.json {
            let mut shown = shown(&remote.parse(&answer)?);
            if let Some(hint) = hint {
                // Writing to a String cannot fail.
                let _ = writeln!(shown, "{FAINT}{hint}{FAINT:#}");
            }
            output::print(&shown)?;
        }

        Ok(())
    }
}

/// What the server answered. With `as_json` it is printed as it came, whether it is good or a refusal.
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
        nodes,
        missing_nodes,
    } = receipt;

    let mut shown =
        format!("{STRONG}matched {matched}{STRONG:#}, queued {queued}, dropped {dropped}");
    if *stored > 0 {
        // Writing to a String cannot fail, here and below.
        let _ = write!(shown, ", stored {stored}");
    }

    // One node counts its own connections, and there may be others.
    let whose = if *nodes > 1 {
        format!("on {nodes} nodes")
    } else {
        "on this node".to_owned()
    };

    let _ = writeln!(shown, "  ({whose}; id {})", output::harmless(id));
    let mut warn = |text: &str| {
        let _ = writeln!(shown, "{WARNING}{text}{WARNING:#}");
    };

    if *dropped > 0 {
        warn(&format!(
            "{dropped} did not get it, as they read too slowly"
        ));
    }

    if *filter_errors > 0 {
        let plural = if *filter_errors == 1 { "" } else { "s" };
        warn(&format!(
            "the filter ended in an error for {filter_errors} connection{plural}; \
             `fanfare explain FILTER --connection ID` shows where"
        ));
    }

    if !missing_nodes.is_empty() {
        warn(&missing(missing_nodes));
    }
    shown
}

/// Names the nodes that an answer does not count.
pub(super) fn missing(nodes: &[String]) -> String {
    format!(
        "not counted, as they did not answer: {}",
        output::harmless(&nodes.join(", "))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_whose_connections_it_counts() {
        let of = |nodes: &str| {
            let json = format!(r#"{{"id":"x","matched":0,"queued":0,"dropped":0{nodes}}}"#);
            shown(&serde_json::from_str(&json).unwrap())
        };
        for (nodes, end) in [
            (r#","nodes":3"#, "  (on 3 nodes; id x)\n"),
            (r#","nodes":1"#, "  (on this node; id x)\n"),
            // Servers of earlier versions do not say.
            ("", "  (on this node; id x)\n"),
        ] {
            let shown = of(nodes);
            assert!(shown.ends_with(end), "{shown}");
        }
    }
}
