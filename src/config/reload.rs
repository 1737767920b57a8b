//! What of a new configuration a running server can take, and what only a restart can change.

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, time::Duration};

use super::{ApiKeyConfig, AppConfig, ClientKeyConfig, Config, DataConfig, RedisConfig};
use crate::limits::Limits;

/// Bounds that are looked up where they are used. The others size what is built at the start.
pub(super) const LIVE_LIMITS: [&str; 13] = [
    "auth",
    "body_bytes",
    "claims_bytes",
    "connections",
    "jwks_refresh",
    "message_burst",
    "message_bytes",
    "messages_per_second",
    "reconnect_max",
    "reconnect_min",
    "revocation_ttl",
    "revocations",
    "token_ttl",
];

/// What a reload did: one line for each setting that differs, with its name first, then those lines of
/// [`Config::summary`] that differ. No line holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Holds from now on.
    pub applied: Vec<String>,
    /// Stays as it was until a restart.
    pub needs_restart: Vec<String>,
}

impl ReloadReport {
    /// Whether nothing differs from what runs.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.needs_restart.is_empty()
    }

    fn live(&mut self, name: &str, old: &impl Display, new: &impl Display) {
        self.applied.push(format!("{name}: {old} -> {new}"));
    }

    fn fixed(&mut self, name: &str, old: &impl Display, new: &impl Display) {
        self.needs_restart.push(format!("{name}: {old} -> {new}"));
    }
}

/// What `new` makes of a server that runs with `running`: the settings it goes on with, and what differs.
///
/// `log` and `log_format` belong to the program that set up the logger, and are in neither list.
pub(crate) fn merge(running: &Config, new: Config) -> (Config, ReloadReport) {
    let mut report = ReloadReport::default();
    report_fixed(running, &new, &mut report);
    report_live(running, &new, &mut report);

    // Every setting is named, so that a new one cannot be forgotten here.
    let Config {
        listen: _,
        admin_listen: _,
        shards: _,
        node_name: _,
        log,
        log_format: _,
        trusted_proxies,
        redact,
        drain_delay,
        drain_timeout,
        redis: _,
        data: _,
        namespace: _,
        limits,

        apps,
    } = new;

    let limits = merge_limits(&running.limits, &limits, &mut report);
    let apps = merge_apps(&running.apps, apps, &mut report);
    let merged = Config {
        log,
        trusted_proxies,
        redact,
        drain_delay,
        drain_timeout,
        limits,
        apps,
        listen: running.listen,
        admin_listen: running.admin_listen,
        shards: running.shards,
        node_name: running.node_name.clone(),
        log_format: running.log_format,
        redis: running.redis.clone(),
        data: running.data.clone(),

        namespace: running.namespace.clone(),
    };

    // These are what the changes mean together: a first key for tokens, say, also keeps clients
    // without a token out.
    let before = running.summary();
    let now = merged.summary().into_iter();
    report
        .applied
        .extend(now.filter(|line| !before.contains(line)));

    (merged, report)
}

/// Notes how those settings of the server itself differ that only a restart changes.
fn report_fixed(running: &Config, new: &Config, report: &mut ReloadReport) {
    if !is_same_address(running.listen, new.listen) {
        report.fixed("listen", &running.listen, &new.listen);
    }

    if new.admin_listen != running.admin_listen {
        report.fixed(
            "admin_listen",
            &or_none(running.admin_listen),
            &or_none(new.admin_listen),
        );
    }

    if new.shards != running.shards {
        report.fixed("shards", &running.shards, &new.shards);
    }

    if new.node_name != running.node_name {
        report.fixed(
            "node_name",
            &or_none(running.node_name.as_ref()),
            &or_none(new.node_name.as_ref()),
        );
    }

    if new.redis != running.redis {
        let shown = |redis: &Option<RedisConfig>| {
            // Its text has no password, and the certificates are left out as well.
            or_none(redis.as_ref().map(|redis| redis.url.to_string()))
        };
        report.fixed("redis", &shown(&running.redis), &shown(&new.redis));
    }

    if new.data != running.data {
        let shown = |data: &Option<DataConfig>| {
            or_none(data.as_ref().map(|data| data.dir.display().to_string()))
        };
        report.fixed("data", &shown(&running.data), &shown(&new.data));
    }

    if new.namespace != running.namespace {
        report.fixed("namespace", &running.namespace, &new.namespace);
    }
}

/// Notes how those settings of the server itself differ that hold from now on.
fn report_live(running: &Config, new: &Config, report: &mut ReloadReport) {
    if new.trusted_proxies != running.trusted_proxies {
        report.live(
            "trusted_proxies",
            &list(&running.trusted_proxies),
            &list(&new.trusted_proxies),
        );
    }

    if new.redact != running.redact {
        report.live("redact", &list(&running.redact), &list(&new.redact));
    }

    if new.drain_delay != running.drain_delay {
        report.live(
            "drain_delay",
            &duration(running.drain_delay),
            &duration(new.drain_delay),
        );
    }

    if new.drain_timeout != running.drain_timeout {
        report.live(
            "drain_timeout",
            &duration(Some(running.drain_timeout)),
            &duration(Some(new.drain_timeout)),
        );
    }
}

/// Port 0 means whichever port was free.
fn is_same_address(running: SocketAddr, new: SocketAddr) -> bool {
    running == new || (new.port() == 0 && running.ip() == new.ip())
}

/// Goes through the form that the file has, so that a new bound needs nothing here but its place in the list.
fn merge_limits(running: &Limits, new: &Limits, report: &mut ReloadReport) -> Limits {
    let table = |limits: &Limits| toml::Table::try_from(limits).unwrap_or_default();
    let (mut merged, new) = (table(running), table(new));
    for (name, value) in &mut merged {
        let Some(new) = new.get(name).filter(|new| *new != value) else {
            continue;
        };
        let place = format!("limits.{name}");
        if LIVE_LIMITS.contains(&name.as_str()) {
            report.live(&place, value, new);
            *value = new.clone();
        } else {
            report.fixed(&place, value, new);
        }
    }

    // Both came from such tables.
    merged.try_into().unwrap_or_else(|_| running.clone())
}

fn merge_apps(
    running: &BTreeMap<String, AppConfig>,
    mut new: BTreeMap<String, AppConfig>,
    report: &mut ReloadReport,
) -> BTreeMap<String, AppConfig> {
    let mut merged = BTreeMap::new();
    for (name, app) in running {
        let app = if let Some(new) = new.remove(name) {
            merge_app(name, app, new, report)
        } else {
            // It has connections, and the ids of the apps after it follow from its place.
            report.needs_restart.push(format!(
                "apps.{name}: removed; until then its keys stay good"
            ));
            app.clone()
        };
        merged.insert(name.clone(), app);
    }

    report
        .needs_restart
        .extend(new.keys().map(|name| format!("apps.{name}: added")));
    merged
}

fn merge_app(
    name: &str,
    running: &AppConfig,
    new: AppConfig,
    report: &mut ReloadReport,
) -> AppConfig {
    report_app(name, running, &new, report);

    let AppConfig {
        index: _,
        origins,
        client_auth,
        slow_consumer: _,
        default_can,
        channels: _,
        user_events: _,
        max_stored_bytes: _,
        client_keys,
        keys,
        tokens,
        require_exp,
        issuer,
        audience,
        jwks_url,

        protocols: _,
    } = new;

    AppConfig {
        origins,
        client_auth,
        default_can,
        client_keys,
        keys,
        tokens,
        require_exp,
        issuer,
        audience,
        jwks_url,
        index: running.index.clone(),
        slow_consumer: running.slow_consumer,
        channels: running.channels.clone(),
        user_events: running.user_events,
        max_stored_bytes: running.max_stored_bytes,

        protocols: running.protocols.clone(),
    }
}

/// Notes how the settings of an app differ.
fn report_app(name: &str, running: &AppConfig, new: &AppConfig, report: &mut ReloadReport) {
    let place = |key: &str| format!("apps.{name}.{key}");
    let fixed = [
        ("index", new.index != running.index),
        ("slow_consumer", new.slow_consumer != running.slow_consumer),
        ("channels", new.channels != running.channels),
        ("user_events", new.user_events != running.user_events),
        (
            "max_stored_bytes",
            new.max_stored_bytes != running.max_stored_bytes,
        ),
        ("protocols", new.protocols != running.protocols),
    ];

    for (key, _) in fixed.iter().filter(|(_, differs)| *differs) {
        report
            .needs_restart
            .push(format!("{}: changed", place(key)));
    }

    if new.keys != running.keys {
        let (old, now) = (named(&running.keys, api_key), named(&new.keys, api_key));
        report
            .applied
            .push(format!("{}: {}", place("keys"), difference(&old, &now)));
    }

    if new.client_keys != running.client_keys {
        let (old, now) = (
            named(&running.client_keys, client_key),
            named(&new.client_keys, client_key),
        );
        report.applied.push(format!(
            "{}: {}",
            place("client_keys"),
            difference(&old, &now)
        ));
    }

    // These keys need no names, so only how many there are is said.
    if new.tokens != running.tokens {
        report.live(
            &place("tokens"),
            &count(running.tokens.len()),
            &count(new.tokens.len()),
        );
    }

    let live = [
        ("origins", new.origins != running.origins),
        ("client_auth", new.client_auth != running.client_auth),
        ("default_can", new.default_can != running.default_can),
        ("require_exp", new.require_exp != running.require_exp),
        ("issuer", new.issuer != running.issuer),
        ("audience", new.audience != running.audience),
    ];

    for (key, _) in live.iter().filter(|(_, differs)| *differs) {
        report.applied.push(format!("{}: changed", place(key)));
    }

    if new.jwks_url != running.jwks_url {
        report.live(
            &place("jwks_url"),
            &or_none(running.jwks_url.as_ref()),
            &or_none(new.jwks_url.as_ref()),
        );
    }
}

/// Keys by their names, each with what shows whether it is still the same.
type Named<'k, K> = BTreeMap<&'k str, &'k K>;

fn named<K>(keys: &[K], name: impl Fn(&K) -> &str) -> Named<'_, K> {
    keys.iter().map(|key| (name(key), key)).collect()
}

fn api_key(key: &ApiKeyConfig) -> &str {
    &key.name
}

fn client_key(key: &ClientKeyConfig) -> &str {
    &key.name
}

fn difference<K: PartialEq>(old: &Named<'_, K>, new: &Named<'_, K>) -> String {
    let added = new
        .keys()
        .filter(|name| !old.contains_key(*name))
        .map(|name| format!("\"{name}\" added"));
    let removed = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| format!("\"{name}\" removed"));
    let changed = new
        .iter()
        .filter(|(name, key)| old.get(*name).is_some_and(|old| old != *key));
    let changed = changed.map(|(name, _)| format!("\"{name}\" changed"));
    let all: Vec<String> = added.chain(removed).chain(changed).collect();

    // The lists differ, although they have the same keys.
    if all.is_empty() {
        "in another order".to_owned()
    } else {
        all.join(", ")
    }
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("[{}]", values.join(", "))
}

fn duration(value: Option<Duration>) -> String {
    value.map_or_else(
        || "the default".to_owned(),
        |value| humantime::format_duration(value).to_string(),
    )
}

fn count(keys: usize) -> String {
    if keys == 1 {
        "1 key".to_owned()
    } else {
        format!("{keys} keys")
    }
}
