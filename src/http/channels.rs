//! Channels: which there are, who is in them, and putting connections into them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{
    Value as Json, json,
    value::{RawValue, to_raw_value},
};

use super::{
    access::Caller,
    body::{self, Whom},
    inspect::hide,
    problem::Problem,
    query::Query,
};
use crate::{
    hub::Count,
    limits::{MEMBERS_PAGE_DEFAULT, PAGE_BYTES, PAGE_DEFAULT},
    node::{Joins, MembersQuery, Node, Target, read_cursor},
    protocol::event::channel_name,
};

/// A channel as answered.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    channel: &'a str,
    connections: u64,
    users: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl<'a> Shown<'a> {
    fn new(channel: &'a str, Count { connections, users }: Count) -> Self {
        Self { channel, connections, users, epoch: None, offset: None }
    }
}

/// `GET /v1/channels`: channels that someone is in, by name, a page at a time.
///
/// # Errors
/// 400 for a bad query.
pub(crate) fn list(node: &Node, caller: &Caller, query: &str) -> Result<Json, Problem> {
    let query = Query::parse(query, &["prefix", "cursor", "limit"])?;
    let limit = query.limit(PAGE_DEFAULT)?;
    let after = query.cursor(|name| channel_name(name).ok().map(|()| name.to_owned()))?;
    let prefix = query.get("prefix").unwrap_or("");
    let mut found = node.hub.presence(caller.app).list(prefix, after.as_deref(), limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let shown: Vec<Shown<'_>> = found.iter().map(|(name, count)| Shown::new(name, *count)).collect();
    let mut answer = json!({ "channels": shown });
    if let (true, Some((last, _))) = (more, found.last()) {
        answer["cursor"] = json!(last);
    }
    Ok(answer)
}

/// `GET /v1/channels/{channel}`: how many are in a channel, and where its history stands.
///
/// # Errors
/// 400 for what is no channel's name, 503 where the history is out of reach.
pub(crate) async fn one<'a>(node: &Node, caller: &Caller, channel: &'a str) -> Result<Shown<'a>, Problem> {
    channel_name(channel)?;
    // Behind the newest event: nothing is wanted but where that is.
    let page = node.kept(caller.app, channel, u64::MAX, 1).await?;
    let (epoch, offset) = page.map(|page| (page.position.epoch.to_string(), page.position.offset)).unzip();
    Ok(Shown { epoch, offset, ..Shown::new(channel, node.count(caller.app, channel)) })
}

/// A page of members, as answered.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    members: Box<RawValue>,
    count: u64,
    users: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// `GET /v1/channels/{channel}/members`: who is in a channel, a page at a time.
///
/// # Errors
/// 400 for a bad query, and what is no channel's name.
pub(crate) fn members(node: &Node, caller: &Caller, channel: &str, query: &str) -> Result<Page, Problem> {
    channel_name(channel)?;
    let query = Query::parse(query, &["cursor", "limit"])?;
    let from = query.cursor(read_cursor)?.unwrap_or_default();
    let limit = query.limit(MEMBERS_PAGE_DEFAULT)?;
    let page = node.members(caller.app, channel, MembersQuery { from, limit, max_bytes: PAGE_BYTES });
    let members = redacted(page.members, &node.live().config.redact);
    Ok(Page { members, count: page.count, users: page.users, cursor: page.cursor })
}

/// Hides what of profiles is not to be shown.
fn redacted(members: Box<RawValue>, redact: &[String]) -> Box<RawValue> {
    // A member has its profile under `data`.
    let hidden = redact.iter().filter_map(|path| match path.strip_prefix("profile")? {
        "" => Some("data".to_owned()),
        rest => rest.starts_with('.').then(|| format!("data{rest}")),
    });
    let hidden: Vec<String> = hidden.collect();
    if hidden.is_empty() {
        return members;
    }
    let mut shown: Vec<Json> = serde_json::from_str(members.get()).unwrap_or_default();
    for member in &mut shown {
        for path in &hidden {
            hide(member, path);
        }
    }
    // What was read from JSON can be written as such.
    to_raw_value(&shown).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The body of `join` and of `leave`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    channel: String,
    #[serde(borrow, default, deserialize_with = "body::present")]
    to: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "body::present")]
    filter: Option<String>,
    #[serde(borrow, default, deserialize_with = "body::present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "body::present")]
    except: Option<&'a RawValue>,
}

impl Fields<'_> {
    fn parse(body: &[u8]) -> Result<(String, Target), Problem> {
        let fields: Fields<'_> = body::parse(body, &["channel", "to", "filter", "params", "except"])?;
        let Fields { channel, to, filter, params, except } = fields;
        Ok((channel, Whom { to, filter, params, except }.target()?))
    }
}

/// `POST /v1/join`: puts connections into a channel.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn join(node: &Arc<Node>, caller: &Caller, body: &[u8]) -> Result<Json, Problem> {
    let (channel, target) = Fields::parse(body)?;
    let Joins { joined, already, full } = node.join_all(caller.app, channel, target).await?;
    Ok(json!({ "joined": joined, "already": already, "full": full }))
}

/// `POST /v1/leave`: takes connections out of a channel.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn leave(node: &Arc<Node>, caller: &Caller, body: &[u8]) -> Result<Json, Problem> {
    let (channel, target) = Fields::parse(body)?;
    let left = node.leave_all(caller.app, channel, target).await?;
    Ok(json!({ "left": left }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_show_of_their_profiles_what_is_not_hidden() {
        let shown = |redact: &[&str]| {
            let members = r#"[{"id":"1","user":"u","data":{"a":1,"b":{"c":2}}},{"id":"2","user":null}]"#;
            let redact: Vec<String> = redact.iter().map(|&path| path.to_owned()).collect();
            let shown = redacted(RawValue::from_string(members.to_owned()).unwrap(), &redact);
            serde_json::from_str::<Json>(shown.get()).unwrap()
        };
        let data = |redact: &[&str]| shown(redact)[0]["data"].clone();
        assert_eq!(data(&["auth.a", "profiles.a"]), json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(data(&["profile.b.c"]), json!({"a": 1, "b": {"c": "[redacted]"}}));
        assert_eq!(data(&["profile"]), json!("[redacted]"));
        assert_eq!(shown(&["profile"])[1], json!({"id": "2", "user": null}));
    }
}
