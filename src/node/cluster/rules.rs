//! Whether nodes have the same rules for an app's channels.
//!
//! Each node goes by its own: where one thinks that another stores an event, and that one does not, it is lost
//! without an error. So nodes compare digests of their rules when they meet.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{Handles, rpc::Rpc, rpc_request::Request};
use crate::{
    bus::Topic,
    config::AppConfig,
    id::{AppId, NodeId},
};

/// What a digest is of: everything that decides what is stored, and who is notified.
#[derive(Serialize)]
struct Rule<'c> {
    pattern: &'c str,
    size: usize,
    bytes: usize,
    ttl_ms: u128,
    presence: &'c str,
    leave_after_ms: u128,
}

/// A digest of an app's rules for channels, and of what it stores for users.
fn digest(app: &AppConfig) -> String {
    let rules = app.channels.iter().map(|rule| Rule {
        pattern: &rule.pattern,
        size: rule.history_size,
        bytes: rule.history_bytes,
        ttl_ms: rule.history_ttl.as_millis(),
        presence: rule.presence.name(),
        leave_after_ms: rule.leave_after.as_millis(),
    });

    let rules: Vec<Rule<'_>> = rules.collect();
    let users = app.user_events.as_ref();
    let users = users.map(|events| (events.size, events.bytes, events.ttl.as_millis()));

    // Texts and numbers always serialize.
    let text = serde_json::to_vec(&(rules, users)).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    // Half of it distinguishes rules well enough, and nobody gains anything by a collision.
    data_encoding::HEXLOWER.encode(&digest.as_ref()[..16])
}

/// The digests by apps.
fn digests(apps: &BTreeMap<String, AppConfig>) -> BTreeMap<String, String> {
    let of = |(name, app): (&String, &AppConfig)| (name.clone(), digest(app));
    apps.iter().map(of).collect()
}

/// The apps of both that have other rules there than here.
fn differing<'a>(
    here: &BTreeMap<String, String>,
    there: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = &'a str> {
    there
        .iter()
        // An app that only one of the two has is no mistake: nodes may serve different apps.
        .filter(|(name, other)| here.get(*name).is_some_and(|digest| digest != *other))
        .map(|(name, _)| name.as_str())
}

/// Digests of this node's rules, which do not change while it runs. They are sent to each node that comes, and
/// compared with what others send.
#[derive(Debug)]
pub(super) struct RuleDigests {
    /// What people call this node.
    node: Arc<str>,
    apps: BTreeMap<String, String>,
}

impl RuleDigests {
    pub(super) fn new(handles: &Handles<'_>) -> Self {
        Self {
            node: handles.name.clone(),
            apps: digests(&handles.config.apps),
        }
    }

    /// Notifies a node that has just been met of the rules here; it answers nothing.
    pub(super) fn notify(&self, rpc: &Rpc, to: NodeId) {
        let request = Request::Rules {
            node: self.node.to_string(),
            apps: self.apps.clone(),
        };
        let sent = rpc.notify_topic(&Topic::Node(to), AppId(0), &request);
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "another node does not know of the rules for channels here");
            }
        });
    }

    /// Warns of apps that have other rules on the node called `node` than here.
    pub(super) fn compare(&self, node: &str, apps: &BTreeMap<String, String>) {
        for app in differing(&self.apps, apps) {
            tracing::warn!(
                node,
                app,
                "the node has other rules for this app's channels or stored events than this one, so events may be lost; give all nodes the same"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChannelRule;

    #[test]
    fn apps_with_other_rules_are_named() {
        let with = |rules: &[ChannelRule]| AppConfig {
            channels: rules.to_vec(),
            ..AppConfig::default()
        };
        let (a, b) = (ChannelRule::new("a*", 5), ChannelRule::new("b*", 5));
        let more = ChannelRule::new("a*", 6);
        let named = |app: &str, rules: &[ChannelRule]| (app.to_owned(), with(rules));
        let here: BTreeMap<_, _> = [
            named("same", &[a.clone(), b.clone()]),
            named("order", &[a.clone(), b.clone()]),
            named("size", std::slice::from_ref(&a)),
            named("only-here", &[]),
        ]
        .into();
        let there: BTreeMap<_, _> = [
            named("same", &[a.clone(), b.clone()]),
            named("order", &[b, a.clone()]),
            named("size", &[more]),
            named("only-there", &[a]),
        ]
        .into();
        let there = digests(&there);
        let differing: Vec<&str> = differing(&digests(&here), &there).collect();
        assert_eq!(differing, ["order", "size"]);
    }
}
