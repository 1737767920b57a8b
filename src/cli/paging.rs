//! Lists of the API: all pages of one, up to a bound.

use clap::Args;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{
    Failure,
    event::missing,
    output::{self, FAINT},
    remote::{Remote, RemoteArgs, RequestError},
    table::{table, terminal_width},
    variables::Variables,
};
use crate::limits::PAGE_MAX;

/// How much of a list is shown, and how.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Show at most this many
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    #[arg(value_parser = at_least_one)]
    limit: u64,
    /// Print each item as one line of JSON, as the server gave it
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
}

/// Reads a count of at least 1.
///
/// # Errors
/// When it is something else.
pub(super) fn at_least_one(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("it must be a whole number of at least 1".to_owned()),
    }
}

/// A list of the API.
pub(super) struct List<'a> {
    pub(super) path: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    /// The parameter that takes the `cursor` of the page before.
    pub(super) cursor: &'static str,
    /// What the items are called.
    pub(super) items: &'static str,
    pub(super) heads: &'static [&'static str],
}

/// A page of any list.
#[derive(Deserialize)]
struct Page {
    // Each list has its items under a name of its own.
    #[serde(
        alias = "connections",
        alias = "channels",
        alias = "members",
        alias = "events"
    )]
    items: Vec<Box<RawValue>>,
    cursor: Option<Value>,
    #[serde(default)]
    missing_nodes: Vec<String>,
}

impl ListArgs {
    /// Prints the list: a table whose rows `row` makes of the items, or the items themselves.
    ///
    /// # Errors
    /// No server, its refusal, or an answer that is not such a list.
    pub(super) async fn print<T: DeserializeOwned>(
        self,
        list: List<'_>,
        row: impl Fn(T) -> Vec<String>,
        variables: &Variables,
    ) -> Result<(), Failure> {
        let remote = Remote::new(self.remote, variables)?;
        let mut rows = Vec::new();
        let as_json = self.json;

        let end = walk(&remote, &list, self.limit, |item| {
            // Items are printed as they come. A table needs all of them for its widths.
            if as_json {
                output::print_raw(&output::one_line(item.get()))?;
            } else {
                rows.push(row(remote.parse(item.get())?));
            }
            Ok(())
        })
        .await;

        let end = match end {
            // As for every call, the refusal is the answer then.
            Err(Failure::Request(RequestError::Refused(refusal))) if as_json => {
                output::print_raw(&output::one_line(&refusal.document))?;
                return Err(Failure::Printed);
            }
            end => end?,
        };

        if !as_json {
            let text = if rows.is_empty() {
                format!("{FAINT}no {}{FAINT:#}\n", list.items)
            } else {
                table(list.heads, &rows, terminal_width())
            };
            output::print(&text)?;
        }

        if end.has_more {
            output::note(&format!(
                "there are more {}; show them with a higher --limit",
                list.items
            ));
        }

        if !end.missing_nodes.is_empty() {
            output::note(&missing(&end.missing_nodes));
        }
        Ok(())
    }
}

/// How a walk ended.
#[derive(Default)]
struct End {
    has_more: bool,
    missing_nodes: Vec<String>,
}

/// Gives each item of all pages to `each`, up to `limit` of them.
async fn walk(
    remote: &Remote,
    list: &List<'_>,
    limit: u64,
    mut each: impl FnMut(&RawValue) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let mut end = End::default();
    let mut left = limit;
    let mut cursor = None;

    loop {
        let size = left.min(PAGE_MAX as u64);
        let mut query = list.query.clone();
        query.push(("limit", size.to_string()));
        query.extend(cursor.take().map(|cursor| (list.cursor, cursor)));
        let answer = remote.get(list.path, &query).await?;
        let page: Page = remote.parse(&answer)?;

        for item in &page.items {
            each(item)?;
        }

        for node in page.missing_nodes {
            if !end.missing_nodes.contains(&node) {
                end.missing_nodes.push(node);
            }
        }

        left = left.saturating_sub(page.items.len() as u64);
        // A number in a history, a text elsewhere.
        cursor = page.cursor.map(|cursor| match cursor {
            Value::String(text) => text,
            other => other.to_string(),
        });

        if cursor.is_none() || left == 0 {
            end.has_more = cursor.is_some();
            return Ok(end);
        }
    }
}
