//! Settings for clients of Mesa, and for the programs that reach them through Redis.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{Config, RedisKind, file::optional_duration, problems::Problems};

/// Settings for clients of Mesa: the table `[apps.<name>.protocols.mesa]`. Those that Mesa's server has too mean the same here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of Mesa's server, which has them so"
)]
pub struct MesaConfig {
    /// Where they connect.
    pub path: String,
    /// Mesa's `namespace`: what the names in Redis end with, after a `_`.
    pub namespace: Option<String>,
    /// What becomes of messages for users who are away.
    pub sync: MesaSync,
    /// Whether the server's heartbeats are Mesa's own (op 1) and not WebSocket's.
    pub heartbeat: bool,
    /// After how long a client comes back by itself; `None`: it does not.
    #[serde(with = "optional_duration")]
    pub reconnect: Option<Duration>,
    /// Whether a client that has authenticated gets its user object: `id`, and the claims of its token.
    pub send_user_object: bool,
    /// Whether clients store what they send and receive.
    pub store_messages: bool,
    /// The version of Mesa that clients must have, if set. Others are closed with 1002.
    pub enforce_version: Option<String>,
    /// Whether portals in Redis are notified of clients and their messages.
    pub portal: bool,
}

/// What becomes of messages that a dispatcher sends to users who are away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MesaSync {
    /// Fanfare stores them. Known users stay in `connected_clients`, so that dispatchers leave the storing to it, which loses none.
    #[default]
    Full,
    /// Dispatchers store them, as with Mesa's server. `connected_clients` has the users who are connected.
    Dispatcher,
    /// They are not stored, and what was stored is not delivered.
    Off,
}

impl Default for MesaConfig {
    fn default() -> Self {
        Self {
            path: "/mesa".to_owned(),
            namespace: None,
            sync: MesaSync::default(),
            heartbeat: true,
            reconnect: None,
            send_user_object: true,
            store_messages: false,
            enforce_version: None,
            portal: false,
        }
    }
}

impl Config {
    /// Refuses what programs of Mesa could not work with.
    pub(super) fn check_mesa(&self, problems: &mut Problems) {
        let mut taken = BTreeMap::new();
        for (name, app) in &self.apps {
            let Some(mesa) = &app.protocols.mesa else {
                continue;
            };

            let setting = format!("apps.{name}.protocols.mesa.namespace");
            let namespace = mesa.namespace.as_deref();
            if namespace.is_some_and(|namespace| {
                namespace.is_empty()
                    || namespace.len() > 64
                    || !namespace.bytes().all(|byte| byte.is_ascii_graphic())
            }) {
                let message = format!(
                    "app \"{name}\": protocol mesa: namespace is not 1 to 64 visible ASCII characters"
                );
                problems.value(setting.clone(), message);
            }

            let Some(redis) = &self.redis else { continue };
            if redis.url.kind == RedisKind::Cluster {
                let message = format!(
                    "app \"{name}\": protocol mesa: the keys of Mesa lie in several slots of a Redis Cluster, \
                     where dispatchers cannot work; use one Redis, or Sentinels"
                );
                problems.pair(format!("apps.{name}.protocols.mesa"), message);
            }

            if let Some(other) = taken.insert(namespace.unwrap_or_default(), name) {
                let message = format!(
                    "apps \"{other}\" and \"{name}\": protocol mesa: both have the same namespace, \
                     so a dispatcher would mean both; give each one of its own"
                );
                problems.pair(setting, message);
            }
        }
    }
}
