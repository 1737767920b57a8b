//! Whether the whole of a configuration makes sense, and is safe to serve.

use std::collections::BTreeSet;

use tracing_subscriber::EnvFilter;

use super::{AppConfig, ClientAuth, Config, ConfigError, KeyMaterial, Problem, TokenAlgorithm};
use crate::limits;

impl Config {
    /// Refuses what would start an unsafe or a useless server; binds nothing and reads nothing.
    ///
    /// # Errors
    /// Every rule that is broken, each with what to do about it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut rules = Vec::new();
        self.check_exposure(&mut rules);
        self.check_node(&mut rules);
        self.check_limits(&mut rules);
        for (name, app) in &self.apps {
            check_app(name, app, &mut rules);
            self.check_client_auth(name, app, &mut rules);
        }
        self.check_key_names(&mut rules);
        ConfigError::unless_empty(rules.into_iter().map(Problem::Rule).collect())
    }

    /// Without keys whoever reaches the server drives it, so only this machine may.
    fn check_exposure(&self, rules: &mut Vec<String>) {
        if !self.is_development() {
            return;
        }
        let admin = self.admin_listen.filter(|address| !address.ip().to_canonical().is_loopback());
        let exposed =
            [("listen", Some(self.listen).filter(|_| !self.is_loopback())), ("admin_listen", admin)];
        for (name, address) in exposed {
            if let Some(address) = address {
                rules.push(format!(
                    "{name} = \"{address}\" is not loopback, and there is no API key; set --api-key or FANFARE_API_KEY"
                ));
            }
        }
    }

    fn check_client_auth(&self, name: &str, app: &AppConfig, rules: &mut Vec<String>) {
        if self.is_loopback() || !app.tokens.is_empty() {
            return;
        }
        let why = match app.client_auth {
            Some(ClientAuth::Off) => return,
            Some(ClientAuth::Required) => {
                "client_auth is \"required\", and there is no key to verify tokens with"
            }
            Some(ClientAuth::Optional) => {
                "client_auth is \"optional\", and there is no key to verify tokens with"
            }
            None => "there is no key to verify client tokens with",
        };
        rules.push(format!(
            "app \"{name}\": {why}; set --token-secret, FANFARE_TOKEN_SECRET or [[apps.{name}.tokens]], or \
             client_auth = \"off\""
        ));
    }

    fn check_node(&self, rules: &mut Vec<String>) {
        if self.admin_listen == Some(self.listen) && self.listen.port() != 0 {
            rules
                .push(format!("admin_listen and listen are both {}; give them different ports", self.listen));
        }
        // A connection's id has one byte for its shard.
        if self.shards > 256 {
            rules.push(format!("shards = {} is over 256; 0 is one per core", self.shards));
        }
        if let Some(name) = &self.node_name
            && !is_name(name, 64, |byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        {
            rules.push(format!(
                "node_name = \"{name}\" is not 1 to 64 letters, digits, \"_\", \".\" or \"-\""
            ));
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log) {
            rules.push(format!("log = \"{}\" is no level such as \"info\": {error}", self.log));
        }
        if self.drain_delay() >= self.drain_timeout {
            rules.push(format!(
                "drain_delay = \"{}\" must be shorter than drain_timeout = \"{}\"",
                humantime::format_duration(self.drain_delay()),
                humantime::format_duration(self.drain_timeout)
            ));
        }
        for path in self.redact.iter().filter(|path| !is_path(path, &["auth", "profile", "connection"])) {
            rules.push(format!("redact: \"{path}\" is no path such as \"auth.email\" or \"connection.ip\""));
        }
    }

    fn check_limits(&self, rules: &mut Vec<String>) {
        let table = toml::Table::try_from(&self.limits).unwrap_or_default();
        for (name, value) in &table {
            let zero = value.as_integer() == Some(0) || value.as_str() == Some("0s");
            if zero && !["connections", "connections_per_address"].contains(&name.as_str()) {
                rules.push(format!("limits.{name} = 0 would let nothing through; it must be at least 1"));
            }
        }
        let limits = &self.limits;
        let ordered = [
            ("body_bytes", limits.body_bytes, "outbox_bytes", limits.outbox_bytes),
            ("message_bytes", limits.message_bytes, "outbox_bytes", limits.outbox_bytes),
            ("body_bytes", limits.body_bytes, "admitted_bytes", limits.admitted_bytes),
            ("outbox_bytes", limits.outbox_bytes, "refused_bytes", limits.refused_bytes),
        ];
        for (small, small_value, large, large_value) in ordered {
            if small_value > large_value {
                rules.push(format!(
                    "limits.{small} = {small_value} is over limits.{large} = {large_value}; the largest would never fit"
                ));
            }
        }
    }

    /// A name stands for one key in logs and in the store of answers, and a key for one app.
    fn check_key_names(&self, rules: &mut Vec<String>) {
        let keys: Vec<_> = self
            .apps
            .iter()
            .flat_map(|(app, config)| config.keys.iter().map(move |key| (app, key)))
            .collect();
        for (n, (app, key)) in keys.iter().enumerate() {
            for (other_app, other) in &keys[..n] {
                if key.hash == other.hash {
                    rules.push(format!(
                        "API keys \"{}\" of app \"{other_app}\" and \"{}\" of app \"{app}\" are the same key; \
                         a key belongs to one app, under one name",
                        other.name, key.name
                    ));
                } else if app == other_app && key.name == other.name {
                    rules.push(format!("app \"{app}\": two API keys are named \"{}\"", key.name));
                }
            }
        }
    }
}

fn check_app(name: &str, app: &AppConfig, rules: &mut Vec<String>) {
    if !is_name(name, 64, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
    {
        rules.push(format!("app \"{name}\": a name is 1 to 64 lower-case letters, digits, \"_\" or \"-\""));
    }
    for path in app.index.iter().filter(|path| !is_path(path, &["auth", "profile"])) {
        rules.push(format!(
            "app \"{name}\": index \"{path}\" is no path such as \"auth.email\" or \"profile.status\""
        ));
    }
    for origin in app.origins.iter().flatten().filter(|origin| !is_origin(origin)) {
        rules.push(format!(
            "app \"{name}\": \"{origin}\" is no origin; write \"*\", or scheme and host in lower case without a path, such \
             as \"https://example.com\""
        ));
    }
    for key in app.keys.iter().filter(|key| !is_name(&key.name, 64, |byte| byte.is_ascii_graphic())) {
        rules.push(format!("app \"{name}\": API key name {:?} is not 1 to 64 visible characters", key.name));
    }
    let mut kids = BTreeSet::new();
    for key in &app.tokens {
        if let Some(kid) = &key.kid
            && !kids.insert(kid)
        {
            rules.push(format!("app \"{name}\": two token keys have kid \"{kid}\""));
        }
        if let (TokenAlgorithm::HS256, KeyMaterial::Secret(secret)) = (key.alg, &key.key)
            && secret.expose().len() < limits::TOKEN_SECRET_BYTES
        {
            rules.push(format!(
                "app \"{name}\": the token secret has {} bytes, and HS256 needs at least {} (make one with: openssl rand \
                 -hex 32)",
                secret.expose().len(),
                limits::TOKEN_SECRET_BYTES
            ));
        }
    }
}

fn is_name(name: &str, longest: usize, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=longest).contains(&name.len()) && name.bytes().all(allowed)
}

/// `root.name.name`, each name as the filter language has it.
fn is_path(path: &str, roots: &[&str]) -> bool {
    let mut names = path.split('.');
    let root = names.next().is_some_and(|root| roots.contains(&root));
    let mut rest = names.peekable();
    root && rest.peek().is_some()
        && rest.all(|name| {
            is_name(name, 128, |byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !name.starts_with(|first: char| first.is_ascii_digit())
        })
}

/// What a browser may send as `Origin` (RFC 6454, section 6.2), or the wildcard.
fn is_origin(origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return origin == "*" };
    let is_lower =
        |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/?#@*,".contains(&byte);
    is_name(scheme, 32, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
        && is_name(host, 255, is_lower)
}
