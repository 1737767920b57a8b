//! `fanfare explain`: how a filter is answered, which connections match, and the value of each part for one of them.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Failure,
    event::answer,
    json::{self, Json},
    output::{self, FAINT, STRONG, WARNING},
    remote::{Remote, RemoteArgs},
    variables::Variables,
};

/// Arguments of `fanfare explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare explain 'auth.email == params.e' --param e='\"ann@example.com\"'
  fanfare explain 'auth.age >= 18' --connection yn2f9kr000001bv7hxg15c23y4")]
pub(super) struct Explain {
    /// The filter
    filter: String,
    /// Bind params.NAME of the filter; may be repeated
    #[arg(long = "param", value_name = "NAME=JSON", value_parser = json::param)]
    params: Vec<(String, Json)>,
    /// Also show the value of every part of the filter for this connection
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// Print the server's answer as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Body<'a> {
    filter: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<BTreeMap<&'a str, &'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
}

#[derive(Deserialize)]
struct Explanation {
    plan: Plan,
    looked_at: u64,
    matched: u64,
    errored: u64,
    sample: Vec<String>,
    warnings: Vec<Warning>,
    suggested_index: Option<String>,
    values: Option<Vec<FilterPart>>,
}

#[derive(Deserialize)]
struct Plan {
    description: String,
}

#[derive(Deserialize)]
struct Warning {
    message: String,
}

#[derive(Deserialize)]
struct FilterPart {
    text: String,
    value: Option<Json>,
    error: Option<String>,
}

impl Explain {
    /// Asks the server and prints what it says.
    ///
    /// # Errors
    /// Wrong arguments, no server, or its refusal.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let remote = Remote::new(self.remote, variables)?;
        let body = Body {
            filter: &self.filter,
            params: json::params(&self.params),
            connection: self.connection.as_deref(),
        };
        let answer = answer(remote.post("/v1/explain", &body).await, self.json)?;
        if !self.json {
            output::print(&shown(&remote.parse(&answer)?))?;
        }
        Ok(())
    }
}

fn shown(explanation: &Explanation) -> String {
    let Explanation {
        plan,
        looked_at,
        matched,
        errored,
        sample,
        warnings,
        suggested_index,
        values,
    } = explanation;

    let mut shown = String::new();
    let mut line = |name: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "{FAINT}{name:<8}{FAINT:#}  {text}");
    };

    line("plan", &output::harmless(&plan.description));
    if let Some(path) = suggested_index {
        let path = output::harmless(path);
        line(
            "hint",
            &format!("an index on {path} would make this a look-up (--index {path})"),
        );
    }

    let errors = if *errored > 0 {
        format!(", {WARNING}{errored} errored{WARNING:#}")
    } else {
        String::new()
    };

    line(
        "matches",
        &format!("{STRONG}{matched}{STRONG:#} of {looked_at} looked at{errors}"),
    );
    if *errored > 0 && values.is_none() {
        line(
            "",
            "--connection ID (fanfare connections lists them) shows where it fails",
        );
    }

    for (n, id) in sample.iter().enumerate() {
        line(if n == 0 { "such as" } else { "" }, &output::harmless(id));
    }

    for warning in warnings {
        line(
            "warning",
            &format!("{WARNING}{}{WARNING:#}", output::harmless(&warning.message)),
        );
    }

    for (n, part) in values.iter().flatten().enumerate() {
        line(
            if n == 0 { "values" } else { "" },
            &format!("{} = {}", one_line(&part.text), value(part)),
        );
    }

    shown
}

/// A part of a filter, whose line breaks mean nothing.
fn one_line(text: &str) -> String {
    output::harmless(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

fn value(part: &FilterPart) -> String {
    match (&part.error, &part.value) {
        (Some(error), _) => format!("{WARNING}error: {}{WARNING:#}", output::harmless(error)),
        (None, Some(json)) => format!("{STRONG}{}{STRONG:#}", output::one_line(json.get())),
        (None, None) => "null".to_owned(),
    }
}
