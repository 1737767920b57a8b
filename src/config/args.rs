//! The flags of `fanfare serve` and `fanfare check`; through their names also the variables.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use ipnet::IpNet;

use super::{
    ApiKeyConfig, AppConfig, ChannelRule, ClientAuth, Config, DEFAULT_APP, DataSync, KeyMaterial,
    Layer, ListenAddress, LogFormat, PemFile, Problem, ProtocolKind, RedisConfig, Scopes, Secret,
    TokenAlgorithm, TokenKeyConfig,
    error::nearest,
    file::{both, read_secret},
    listen, log, network, renamed, words,
};
use crate::limits::{self, Limits};

/// Flags of the server. Each can also be set as `FANFARE_` and its name in capitals, lists separated by commas.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Read further settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve clients and the HTTP API here: ADDRESS:PORT, PORT for this machine only, or :PORT for all IPv4 interfaces
    /// [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<ListenAddress>,
    /// Serve health, metrics and pages here instead, without keys
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<ListenAddress>,
    /// Threads that hold connections; 0 means one per core, less one [default: 0]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub shards: Option<usize>,
    /// What logs and metrics call this node [default: a random id]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// What to log: error, warn, info, debug, trace, or directives [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = log::parse)]
    pub log: Option<String>,
    /// The form of log lines [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Trust X-Forwarded-For from this network, such as 10.0.0.0/8
    #[arg(long = "trusted-proxy", value_name = "NETWORK", value_delimiter = ',', value_parser = network::parse)]
    pub trusted_proxies: Vec<IpNet>,
    /// Hide this attribute where the API shows connections
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub redact: Vec<String>,
    /// Keep serving for this long after SIGTERM, while readiness fails [default: 5s; 0s in loopback development]
    #[arg(long, value_name = "DURATION", value_parser = limits::duration::parse)]
    pub drain_delay: Option<Duration>,
    /// How long draining may take, the delay included [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = limits::duration::parse)]
    pub drain_timeout: Option<Duration>,
    /// Join nodes through this Redis: redis://, redis+sentinel:// or redis+cluster://, with rediss for TLS
    #[arg(long, value_name = "URL[,URL...]")]
    pub redis: Option<Secret>,
    /// Read the address of Redis from this file, in place of --redis
    #[arg(long, value_name = "FILE")]
    pub redis_file: Option<PathBuf>,
    /// Keep histories, stored events and revocations of this one node in this directory, without Redis
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// When what is written there is made to survive a power loss [default: interval]
    #[arg(long, value_name = "WHEN")]
    pub data_sync: Option<DataSync>,
    /// Separate deployments that share one Redis [default: default]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Trust these authorities for Redis's certificates, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
    /// Show Redis this certificate, in PEM
    #[arg(long, value_name = "FILE")]
    pub redis_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE")]
    pub redis_key: Option<PathBuf>,
    /// The name under which the Sentinels know the primary, if the URL does not end with it
    #[arg(long, value_name = "NAME")]
    pub redis_sentinel_master: Option<String>,
    /// The user for the Sentinels, if they have users of their own [default: default]
    #[arg(long, value_name = "USER")]
    pub redis_sentinel_user: Option<String>,
    /// The password for the Sentinels, if it differs from that for Redis
    #[arg(long, value_name = "PASSWORD")]
    pub redis_sentinel_password: Option<Secret>,
    /// Read the password for the Sentinels from this file
    #[arg(long, value_name = "FILE")]
    pub redis_sentinel_password_file: Option<PathBuf>,
    /// An API key of the default app, with all scopes
    #[arg(long = "api-key", value_name = "KEY", value_delimiter = ',')]
    pub api_keys: Vec<Secret>,
    /// Read an API key of the default app from this file, in place of --api-key
    #[arg(long = "api-key-file", value_name = "FILE", value_delimiter = ',')]
    pub api_key_files: Vec<PathBuf>,
    /// The secret that signs client tokens of the default app (HS256)
    #[arg(long, value_name = "SECRET")]
    pub token_secret: Option<Secret>,
    /// Read that secret from this file, in place of --token-secret
    #[arg(long, value_name = "FILE")]
    pub token_secret_file: Option<PathBuf>,
    /// Refuse client tokens of the default app that have no exp
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub require_exp: Option<bool>,
    /// Whether clients of the default app authenticate [default: required with a key for tokens, else optional]
    #[arg(long, value_name = "WHETHER")]
    pub client_auth: Option<ClientAuth>,
    /// Let browsers connect to the default app from this origin; * is any
    #[arg(long = "origin", value_name = "ORIGIN", value_delimiter = ',')]
    pub origins: Vec<String>,
    /// Index this attribute of the default app's connections, such as auth.email
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub index: Vec<String>,
    /// Store this many events of each channel of the default app that matches the pattern, such as room-*=100
    #[arg(long, value_name = "PATTERN=SIZE", value_delimiter = ',')]
    pub channel_history: Vec<HistorySetting>,
    /// Store events for users of the default app until one of their connections has confirmed them
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub store_user_events: Option<bool>,
    /// Serve clients of another protocol for the default app: socketio, altogic, agnost, mesa or zexcore
    #[arg(long = "protocol", value_name = "NAME", value_delimiter = ',')]
    pub protocols: Vec<ProtocolKind>,
    /// Set a limit by its name in the file, such as `message_bytes=16KiB`
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    pub limits: Vec<LimitSetting>,
}

/// One bound by its name, as `--limit` and `FANFARE_LIMIT_*` set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSetting {
    /// A field of [`Limits`].
    pub name: String,
    /// Its value, as the file would have it, without quotes.
    pub value: String,
}

impl FromStr for LimitSetting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text
            .split_once('=')
            .ok_or("write NAME=VALUE, such as message_bytes=16KiB")?;
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// How much of some channels is stored, as `--channel-history` and `FANFARE_CHANNEL_HISTORY` set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySetting {
    /// The channels, by pattern.
    pub pattern: String,
    /// Events stored of each.
    pub size: usize,
}

impl FromStr for HistorySetting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A channel's name may have a `=` itself.
        let (pattern, size) = text
            .rsplit_once('=')
            .ok_or("write PATTERN=SIZE, such as room-*=100")?;
        let size = size
            .parse()
            .map_err(|_| "the size of a history is a whole number of events, such as room-*=100")?;
        Ok(Self {
            pattern: pattern.to_owned(),
            size,
        })
    }
}

fn count(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .map_err(|_| "a whole number is expected, 0 or more")
}

/// Lays what is set in `args` over `config`. `prefix` names the layer in problems.
pub(super) fn apply(
    args: &ServeArgs,
    prefix: &str,
    config: &mut Config,
    problems: &mut Vec<Problem>,
) {
    let mut args = args.clone();
    // This comes first, so that a secret counts the same wherever it comes from.
    read_files(&mut args, prefix, problems);
    apply_redis(&args, prefix, &mut config.redis, problems);
    apply_to_server(args.clone(), prefix, config, problems);

    // Put back only if it was there or something sets it: a file may have other apps alone.
    let mut app = config.apps.remove(DEFAULT_APP);
    apply_to_default_app(args, prefix, &mut app, problems);
    config
        .apps
        .extend(app.map(|app| (DEFAULT_APP.to_owned(), app)));
}

/// Lays what is set in `args` of the server itself over `config`.
fn apply_to_server(
    args: ServeArgs,
    prefix: &str,
    config: &mut Config,
    problems: &mut Vec<Problem>,
) {
    let listen = args.listen.map(|address| address.or_port(listen::PORT));
    set(&mut config.listen, listen);
    set(&mut config.shards, args.shards);
    set(&mut config.log, args.log);
    set(&mut config.log_format, args.log_format);
    set(&mut config.drain_timeout, args.drain_timeout);
    if let Some(address) = args.admin_listen {
        config.admin_listen = Some(address.or_port(listen::ADMIN_PORT));
    }

    config.node_name = args.node_name.or(config.node_name.take());
    config.drain_delay = args.drain_delay.or(config.drain_delay);
    set_list(&mut config.trusted_proxies, args.trusted_proxies);
    set_list(&mut config.redact, args.redact);

    for limit in &args.limits {
        if let Err(problem) = set_limit(&mut config.limits, limit, prefix) {
            problems.push(problem);
        }
    }

    set(&mut config.namespace, args.namespace);
    if let Some(dir) = args.data {
        // Unlike what a file names, what a flag names is relative to the working directory.
        config.data.get_or_insert_default().dir = std::path::absolute(&dir).unwrap_or(dir);
    }

    if let Some(sync) = args.data_sync {
        config.data.get_or_insert_default().sync = sync;
    }
}

/// Lays what is set in `args` of the app [`DEFAULT_APP`] over `app`, which begins to be if something is.
fn apply_to_default_app(
    args: ServeArgs,
    prefix: &str,
    app: &mut Option<AppConfig>,
    problems: &mut Vec<Problem>,
) {
    if !args.api_keys.is_empty() {
        app.get_or_insert_default().keys = api_keys(&args.api_keys, prefix, problems);
    }

    if let Some(secret) = args.token_secret {
        let key = KeyMaterial::Secret(secret);
        // In place of the keys of a lower layer, as with every list.
        app.get_or_insert_default().tokens = vec![TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::HS256,
            key,
        }];
    }

    if let Some(require_exp) = args.require_exp {
        app.get_or_insert_default().require_exp = require_exp;
    }

    if let Some(client_auth) = args.client_auth {
        app.get_or_insert_default().client_auth = Some(client_auth);
    }

    if !args.origins.is_empty() {
        app.get_or_insert_default().origins = Some(args.origins);
    }

    if !args.index.is_empty() {
        app.get_or_insert_default().index = args.index;
    }

    for HistorySetting { pattern, size } in args.channel_history {
        let rules = &mut app.get_or_insert_default().channels;
        // The rule of the file for this pattern stays, with another size.
        match rules.iter_mut().find(|rule| rule.pattern == pattern) {
            Some(rule) => rule.history_size = size,
            None => rules.push(ChannelRule::new(&pattern, size)),
        }
    }

    for kind in args.protocols {
        app.get_or_insert_default().protocols.enable(kind);
    }

    if let Some(store) = args.store_user_events {
        let events = &mut app.get_or_insert_default().user_events;
        *events = store.then(|| events.unwrap_or_default());
    }
}

/// The settings of these layers that configure the app [`DEFAULT_APP`], by their names there.
pub(super) fn of_default(layers: &[Layer<'_>]) -> Vec<String> {
    let set = |args: &ServeArgs| {
        [
            ("api-key", !args.api_keys.is_empty()),
            ("api-key-file", !args.api_key_files.is_empty()),
            ("token-secret", args.token_secret.is_some()),
            ("token-secret-file", args.token_secret_file.is_some()),
            ("require-exp", args.require_exp.is_some()),
            ("client-auth", args.client_auth.is_some()),
            ("origin", !args.origins.is_empty()),
            ("index", !args.index.is_empty()),
            ("channel-history", !args.channel_history.is_empty()),
            ("store-user-events", args.store_user_events.is_some()),
            ("protocol", !args.protocols.is_empty()),
        ]
    };

    let all = layers.iter().flat_map(|(args, prefix)| {
        let set = set(args).into_iter().filter(|(_, is_set)| *is_set);
        set.map(|(flag, _)| named(prefix, flag))
    });

    all.collect()
}

/// A message about a setting, with the name that the setting has in the layer that set it.
pub(super) fn named_by_layer(message: String, layers: &[Layer<'_>]) -> String {
    let Some(rest) = message.strip_prefix("namespace: ") else {
        return message;
    };
    let layer = layers.iter().find(|(args, _)| args.namespace.is_some());
    match layer {
        Some((_, prefix)) => format!("{}: {rest}", named(prefix, "namespace")),
        None => message,
    }
}

/// Reads the secrets that are given by files as if they were given themselves.
fn read_files(args: &mut ServeArgs, prefix: &str, problems: &mut Vec<Problem>) {
    let ones = [
        (&mut args.redis, args.redis_file.take(), "redis"),
        (
            &mut args.redis_sentinel_password,
            args.redis_sentinel_password_file.take(),
            "redis-sentinel-password",
        ),
        (
            &mut args.token_secret,
            args.token_secret_file.take(),
            "token-secret",
        ),
    ];

    for (secret, path, flag) in ones {
        let Some(path) = path else { continue };
        let setting = named(prefix, &format!("{flag}-file"));
        if secret.is_some() {
            problems.push(both(&named(prefix, flag), &setting));
        } else {
            *secret = read_secret(&setting, &path, problems);
        }
    }

    let files = std::mem::take(&mut args.api_key_files);
    let setting = named(prefix, "api-key-file");
    if !files.is_empty() && !args.api_keys.is_empty() {
        problems.push(both(&named(prefix, "api-key"), &setting));
        return;
    }

    for path in files {
        args.api_keys.extend(read_secret(&setting, &path, problems));
    }
}

fn apply_redis(
    args: &ServeArgs,
    prefix: &str,
    redis: &mut Option<RedisConfig>,
    problems: &mut Vec<Problem>,
) {
    if let Some(url) = &args.redis {
        match url.expose().parse() {
            Ok(url) => {
                let redis = redis.get_or_insert_default();
                redis.url = url;
                // The file of a lower layer would count as a second address.
                redis.url_file = None;
            }
            Err(error) => {
                problems.push(Problem::Value {
                    place: named(prefix, "redis"),
                    message: error.to_string(),
                });
                // Without this one the others would be reported as incomplete, and the reason is
                // reported already.
                redis.take();
                return;
            }
        }
    }

    if let Some(name) = &args.redis_sentinel_master {
        redis.get_or_insert_default().sentinel_master = Some(name.clone());
    }

    if let Some(user) = &args.redis_sentinel_user {
        redis.get_or_insert_default().sentinel_user = Some(user.clone());
    }

    if let Some(password) = &args.redis_sentinel_password {
        let redis = redis.get_or_insert_default();
        redis.sentinel_password = Some(password.clone());
        redis.sentinel_password_file = None;
    }

    // Unlike what a file names, what a flag names is relative to the working directory.
    let file = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| PemFile::from(std::path::absolute(path).unwrap_or_else(|_| path.clone())))
    };

    if let Some(ca) = file(&args.redis_ca) {
        redis.get_or_insert_default().ca = Some(ca);
    }

    if let Some(cert) = file(&args.redis_cert) {
        redis.get_or_insert_default().cert = Some(cert);
    }

    if let Some(key) = file(&args.redis_key) {
        redis.get_or_insert_default().key = Some(key);
    }
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

fn set_list<T>(setting: &mut Vec<T>, values: Vec<T>) {
    if !values.is_empty() {
        *setting = values;
    }
}

fn api_keys(keys: &[Secret], prefix: &str, problems: &mut Vec<Problem>) -> Vec<ApiKeyConfig> {
    let mut configured = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        // Flags give keys no names, and logs and metrics need some.
        match ApiKeyConfig::from_plain(&format!("key-{}", n + 1), key, Scopes::ALL) {
            Ok(key) => configured.push(key),
            Err(error) => {
                problems.push(Problem::Value {
                    place: named(prefix, "api-key"),
                    message: error.to_string(),
                });
            }
        }
    }

    configured
}

/// A setting's name in the layer of `prefix`.
pub(super) fn named(prefix: &str, flag: &str) -> String {
    if prefix == "--" {
        format!("--{flag}")
    } else {
        format!("{prefix}{}", flag.to_uppercase().replace('-', "_"))
    }
}

/// Sets one bound through the form that the file has, so that a new field of [`Limits`] needs nothing here.
fn set_limit(limits: &mut Limits, limit: &LimitSetting, prefix: &str) -> Result<(), Problem> {
    let place = named(prefix, "limit");
    let bad = |message: String| Problem::Value {
        place: if prefix == "--" {
            format!("{place} {}", limit.name)
        } else {
            named(prefix, &format!("limit_{}", limit.name))
        },
        message,
    };

    let mut table = toml::Table::try_from(&*limits).map_err(|error| bad(error.to_string()))?;
    let Some(current) = table.get_mut(renamed::limit(&limit.name).unwrap_or(&limit.name)) else {
        let nearest = nearest(&limit.name, table.keys().map(String::as_str));
        return Err(Problem::Unknown {
            place,
            kind: "limit",
            name: limit.name.clone(),
            nearest,
        });
    };

    // Sizes and durations are texts in the file, such as 16KiB.
    *current = match limit.value.replace('_', "").parse::<i64>() {
        Ok(number) => toml::Value::Integer(number),
        Err(_) => toml::Value::String(limit.value.clone()),
    };

    *limits = table.try_into().map_err(|error: toml::de::Error| {
        let why = words::expected(&limit.name, &limit.value, error.message());
        bad(format!("\"{}\": {why}", limit.value))
    })?;

    Ok(())
}
