//! Channels: which there are, who is in them, and putting connections into them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{
    Value as Json, json,
    value::{RawValue, to_raw_value},
};

use super::{
    access::Caller,
    audit,
    body::{self, EXCEPT, TO, Whom},
    inspect::name_missing,
    problem::Problem,
    query::Query,
    shape::{Kind, Shape, field},
};
use crate::{
    hub::Count,
    limits::{CHANNEL_NAME_BYTES, MEMBERS_PAGE_DEFAULT, PAGE_BYTES, PAGE_DEFAULT},
    node::{Joins, ListedChannels, Node, PageBounds, PageStart, Target, check_name, show},
    protocol::{event::channel_name, native::MembersPage},
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

impl<'a> Shown<'a> {
    fn new(channel: &'a str, Count { connections, users }: Count) -> Self {
        Self {
            channel,
            connections,
            users,
            epoch: None,
            offset: None,
            missing_nodes: Vec::new(),
        }
    }
}

/// `GET /v1/channels`: channels that someone is in, by name, a page at a time.
///
/// # Errors
/// 400 for a bad query.
pub(crate) async fn list(node: &Node, caller: &Caller, query: &str) -> Result<Json, Problem> {
    let query = Query::parse(query, &["prefix", "cursor", "limit"])?;
    let limit = query.limit(PAGE_DEFAULT)?;
    // The last name of the page before is the cursor, so channels may come and go between two
    // pages.
    let after = query.cursor(|name| channel_name(name).ok().map(|()| name.to_owned()))?;
    let prefix = query.get("prefix").unwrap_or("");
    check_name("prefix", prefix, CHANNEL_NAME_BYTES)?;
    let overall = node
        .cluster_channels(caller.app, prefix, after.as_deref(), limit)
        .await?;
    let ListedChannels { channels, has_more } = overall.value;

    let shown: Vec<Shown<'_>> = channels
        .iter()
        .map(|(name, count)| Shown::new(name, *count))
        .collect();
    let mut answer = json!({ "channels": shown });
    if let (true, Some((last, _))) = (has_more, channels.last()) {
        answer["cursor"] = json!(last);
    }

    name_missing(&mut answer, &overall.missing);
    Ok(answer)
}

/// `GET /v1/channels/{channel}`: how many are in a channel, and the position of its history.
///
/// # Errors
/// 400 for an invalid channel name, 503 if the history is out of reach.
pub(crate) async fn one<'a>(
    node: &Node,
    caller: &Caller,
    channel: &'a str,
) -> Result<Shown<'a>, Problem> {
    channel_name(channel)?;
    // After the newest event: only its position is wanted.
    let page = node.history_page(caller.app, channel, u64::MAX, 1).await?;
    let (epoch, offset) = page
        .map(|page| (page.position.epoch.to_string(), page.position.offset))
        .unzip();
    let count = node.cluster_count(caller.app, channel).await?;

    Ok(Shown {
        epoch,
        offset,
        missing_nodes: count.missing,
        ..Shown::new(channel, count.value)
    })
}

/// A page of members, as answered.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    members: Box<RawValue>,
    count: u64,
    users: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// `GET /v1/channels/{channel}/members`: who is in a channel, a page at a time.
///
/// # Errors
/// 400 for a bad query or channel name.
pub(crate) async fn members(
    node: &Node,
    caller: &Caller,
    channel: &str,
    query: &str,
) -> Result<Page, Problem> {
    channel_name(channel)?;
    let query = Query::parse(query, &["cursor", "limit"])?;
    let from = query.cursor(PageStart::read)?;
    let bounds = PageBounds {
        items: query.limit(MEMBERS_PAGE_DEFAULT)?,
        bytes: PAGE_BYTES,
    };
    let page = node
        .cluster_members_page(caller.app, channel, from, bounds, None)
        .await?;

    let MembersPage {
        members,
        count,
        users,
        cursor,
    } = page.value;

    let members = redacted(members, &node.runtime_config().config.redact);
    Ok(Page {
        members,
        count,
        users,
        cursor,
        missing_nodes: page.missing,
    })
}

/// Hides what of profiles is not to be shown.
fn redacted(members: Box<RawValue>, redact: &[String]) -> Box<RawValue> {
    // A member has its profile under `data`.
    let hidden = redact
        .iter()
        .filter_map(|path| match path.strip_prefix("profile")? {
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
            show::hide(member, path);
        }
    }

    // What was read from JSON can be written as such.
    to_raw_value(&shown).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The shape of the bodies of `join` and `leave`.
pub(super) static MEMBERSHIP: Shape = Shape {
    fields: &[
        field("channel", Kind::Text),
        field("to", Kind::Object(&TO)),
        field("filter", Kind::Text),
        field("params", Kind::Members),
        field("except", Kind::Object(&EXCEPT)),
    ],
    required: &[&["channel"], &["to", "filter"]],
};

/// The body of `join` and of `leave`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipBody<'a> {
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

/// The channel that the body of `join` or `leave` names, and whom it means.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(super) fn membership(body: &[u8]) -> Result<(String, Target), Problem> {
    let fields: MembershipBody<'_> = body::parse(body, &MEMBERSHIP)?;
    let MembershipBody {
        channel,
        to,
        filter,
        params,
        except,
    } = fields;

    let whom = Whom {
        to,
        filter,
        params,
        except,
    };

    Ok((channel, whom.target()?))
}

/// `POST /v1/join`: puts connections into a channel.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn join(node: &Arc<Node>, caller: &Caller, body: &Bytes) -> Result<Json, Problem> {
    let (channel, target) = body::understand(node, caller.app, body, membership).await?;
    let whom = format!("{} into {channel}", audit::whom(&target));
    let joins = node.cluster_join(caller.app, channel, target).await?;
    let Joins {
        joined,
        already,
        full,
    } = joins.value;
    audit::note(node, caller, "join", &whom, joined);
    let mut answer = json!({ "joined": joined, "already": already, "full": full });
    name_missing(&mut answer, &joins.missing);
    Ok(answer)
}

/// `POST /v1/leave`: takes connections out of a channel.
///
/// # Errors
/// 400 for a wrong body, or one that names nobody.
pub(crate) async fn leave(
    node: &Arc<Node>,
    caller: &Caller,
    body: &Bytes,
) -> Result<Json, Problem> {
    let (channel, target) = body::understand(node, caller.app, body, membership).await?;
    let whom = format!("{} out of {channel}", audit::whom(&target));
    let left = node.cluster_leave(caller.app, channel, target).await?;
    audit::note(node, caller, "leave", &whom, left.value);
    let mut answer = json!({ "left": left.value });
    name_missing(&mut answer, &left.missing);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_show_of_their_profiles_what_is_not_hidden() {
        let shown = |redact: &[&str]| {
            let members =
                r#"[{"id":"1","user":"u","data":{"a":1,"b":{"c":2}}},{"id":"2","user":null}]"#;
            let redact: Vec<String> = redact.iter().map(|&path| path.to_owned()).collect();
            let shown = redacted(RawValue::from_string(members.to_owned()).unwrap(), &redact);
            serde_json::from_str::<Json>(shown.get()).unwrap()
        };
        let data = |redact: &[&str]| shown(redact)[0]["data"].clone();
        assert_eq!(
            data(&["auth.a", "profiles.a"]),
            json!({"a": 1, "b": {"c": 2}})
        );
        assert_eq!(
            data(&["profile.b.c"]),
            json!({"a": 1, "b": {"c": "[redacted]"}})
        );
        assert_eq!(data(&["profile"]), json!("[redacted]"));
        let tags = r#"[{"id":"1","user":"u","data":{"tags":[{"x":1},{"x":2,"y":3}]}}]"#;
        let tags = RawValue::from_string(tags.to_owned()).unwrap();
        assert_eq!(
            redacted(tags, &["profile.tags.x".to_owned()]).get(),
            r#"[{"data":{"tags":[{"x":"[redacted]"},{"x":"[redacted]","y":3}]},"id":"1","user":"u"}]"#
        );
        assert_eq!(shown(&["profile"])[1], json!({"id": "2", "user": null}));
    }
}
