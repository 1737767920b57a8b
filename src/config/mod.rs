//! Configuration: flags, then environment, then file, then defaults.
//!
//! [`Config::load`] merges the layers and checks the whole; [`Config::check`] checks one that a program made itself.
//! Nothing else in the crate reads the environment. A key of the file is a field of [`Config`], of [`AppConfig`] or of
//! [`Limits`]; a flag is a field of [`ServeArgs`]; a variable is a flag's name in capitals after `FANFARE_`.

mod app;
mod args;
mod channel;
mod check;
mod check_app;
mod check_keys;
mod check_limits;
mod client_key;
mod data;
mod document;
mod environment;
mod error;
mod file;
mod form;
mod redis;
mod jwks_url;
mod listen;
mod log;
mod network;
mod origin;
mod mesa;
mod protocols;
mod reload;
mod renamed;
mod problems;
mod scope;
mod secret;
mod summary;
mod text;
mod words;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Deserialize;

pub use self::{
    app::{
        ApiKeyConfig, AppConfig, BadKey, ClientAuth, DEFAULT_APP, KeyMaterial, SlowConsumer,
        TokenAlgorithm, TokenKeyConfig,
    },
    args::{HistorySetting, LimitSetting, ServeArgs},
    channel::{ChannelRule, Presence, UserEvents},
    client_key::ClientKeyConfig,
    data::{DataConfig, DataSync},
    environment::environment,
    error::{ConfigError, Problem},
    jwks_url::{BadJwksUrl, JwksUrl},
    listen::{BadListenAddress, ListenAddress},
    mesa::{MesaConfig, MesaSync},
    protocols::{
        AgnostConfig, AltogicConfig, ProtocolKind, ProtocolsConfig, SocketIoConfig, ZexcoreConfig,
    },
    redis::{BadRedisUrl, PemFile, RedisConfig, RedisKind, RedisUrl},
    reload::ReloadReport,
    scope::{Scope, Scopes},
    secret::{BadKeyHash, KeyHash, Secret},
};
use self::{document::Document, file::known_keys, problems::Problems};
pub(crate) use self::{origin::OriginPattern, reload::merge};
use crate::limits::Limits;

/// Everything that a deployment sets.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients and functions connect.
    #[serde(deserialize_with = "listen::deserialize")]
    pub listen: SocketAddr,
    /// Where health, metrics and pages are served apart, without keys; `None`: at `listen`.
    #[serde(deserialize_with = "listen::deserialize_admin")]
    pub admin_listen: Option<SocketAddr>,
    /// Shards, each one thread; 0 is one per core, less one.
    pub shards: usize,
    /// What logs, metrics and `connection.node` call this node; `None`: its random id.
    pub node_name: Option<String>,
    /// What is logged: a level, or directives such as `info,fanfare::hub=debug`.
    #[serde(deserialize_with = "log::deserialize")]
    pub log: String,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Networks whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "network::deserialize_list")]
    pub trusted_proxies: Vec<IpNet>,
    /// Paths of attributes that the API hides when it shows connections.
    pub redact: Vec<String>,
    /// How long all goes on after SIGTERM while readiness already fails; `None` means what [`Config::drain_delay`]
    /// returns.
    #[serde(with = "file::optional_duration")]
    pub drain_delay: Option<Duration>,
    /// How long leaving may take, the delay included; over half of what that leaves, clients are sent away.
    #[serde(with = "crate::limits::duration")]
    pub drain_timeout: Duration,
    /// The Redis that joins this node with others; `None`: it is alone.
    pub redis: Option<RedisConfig>,
    /// Where this node keeps what has to outlive it, without Redis; `None`: in memory only.
    pub data: Option<DataConfig>,
    /// Separates deployments that share one Redis.
    pub namespace: String,
    /// Every bound.
    pub limits: Limits,
    /// The apps by name; an app's [`crate::id::AppId`] is its place in this order. One, [`DEFAULT_APP`], by default, and
    /// at least one.
    pub apps: BTreeMap<String, AppConfig>,
}

/// A configuration as it was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What was set and can be used, over the defaults.
    pub(crate) config: Config,
    /// Everything that is wrong.
    pub(crate) problems: Vec<Problem>,
    /// What would be served, and is probably not meant.
    pub(crate) warnings: Vec<String>,
    path: Option<PathBuf>,
    /// The line of each key of the file.
    lines: BTreeMap<String, usize>,
}

impl Loaded {
    /// The configuration, if nothing is wrong with it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn into_result(self) -> Result<Config, ConfigError> {
        ConfigError::unless_empty(self.problems).map(|()| self.config)
    }

    /// A problem with the setting `key`, such as `apps.default.default_can`; with its line, if it is in the file.
    pub(crate) fn problem(&self, key: &str, message: String) -> Problem {
        match self.line(key) {
            Some(line) => self.problem_at(line, message),
            None => Problem::Rule(message),
        }
    }

    /// The line of the setting `key`. A setting that one of several tables lacks has the line where that table
    /// begins.
    fn line(&self, key: &str) -> Option<usize> {
        let table = key.rsplit_once('.').map(|(table, _)| table);
        let table = table.filter(|table| table.ends_with(']'));
        let line = self.lines.get(key);
        line.or_else(|| self.lines.get(table?)).copied()
    }

    /// Reads the keys that files hold, and notes everything that is wrong. `in_file` is what is known already of the file,
    /// and `of_file` the rules that it breaks by itself.
    fn judge(
        &mut self,
        mut in_file: Vec<(usize, Problem)>,
        of_file: &Problems,
        left_out: &[String],
        folder: Option<&Path>,
        layers: &[Layer<'_>],
    ) {
        let mut unread = Vec::new();
        file::read_keys(&mut self.config, folder, &mut unread);
        let mut others = Vec::new();

        for problem in unread {
            let line = match &problem {
                Problem::Value { place, .. } => self.line(place),
                _ => None,
            };
            match line {
                Some(line) => in_file.push((line, self.problem_at(line, problem.to_string()))),
                None => others.push(problem),
            }
        }

        for found_problem in self.config.rules() {
            if !found_problem.is_certain(left_out) {
                continue;
            }

            // A higher layer may have replaced what the file says.
            let key = found_problem.key.as_deref();
            match key
                .filter(|_| of_file.contains(&found_problem))
                .and_then(|key| self.line(key))
            {
                Some(line) => in_file.push((line, self.problem_at(line, found_problem.message))),
                None => others.push(Problem::Rule(args::named_by_layer(
                    found_problem.message,
                    layers,
                ))),
            }
        }

        // In the order of lines, since people go through the file once.
        in_file.sort_by_key(|(line, _)| *line);
        let in_file = in_file.into_iter().map(|(_, problem)| problem);
        self.problems.extend(in_file.chain(others));
    }

    /// Says where the app [`DEFAULT_APP`] comes from, which the file does not name beside its own.
    fn note_default(&mut self, layers: &[Layer<'_>]) {
        let settings = args::of_default(layers).join(" and ");
        let others: Vec<&String> = self
            .config
            .apps
            .keys()
            .filter(|name| *name != DEFAULT_APP)
            .collect();

        if settings.is_empty() || others.is_empty() {
            return;
        }

        let adds =
            format!("{settings} made the app \"{DEFAULT_APP}\", which the file does not name");
        let of_default = format!("app \"{DEFAULT_APP}\"");
        for problem in &mut self.problems {
            if let Problem::Rule(message) = problem
                // Rules name their app first. Nothing else says whose problem it is.
                && message.starts_with(&of_default)
            {
                *message = format!("{message} ({adds})");
            }
        }

        let others: Vec<String> = others.iter().map(|name| format!("\"{name}\"")).collect();
        self.warnings.push(format!(
            "{adds}: it is served besides {}. If that is not meant, leave out {settings} and set the keys of each app in \
             the file",
            others.join(", ")
        ));
    }

    fn problem_at(&self, line: usize, message: String) -> Problem {
        Problem::File {
            path: self.path.clone().unwrap_or_default(),
            line,
            message,
        }
    }
}

/// Flags, or variables as if they were flags, and what the names of these settings begin with.
type Layer<'a> = (&'a ServeArgs, &'static str);

/// The rules that the file breaks by itself.
fn problems_of_file(config: &Config, folder: Option<&Path>) -> Problems {
    let mut config = config.clone();
    // What cannot be read is reported once, after flags and variables have replaced what they set.
    file::read_keys(&mut config, folder, &mut Vec::new());
    config.rules()
}

/// The setting that is missing for a problem of a flag or a variable; `""` where that may be any.
fn left_out_by(problem: &Problem) -> String {
    let place = match problem {
        Problem::Value { place, .. } => place.as_str(),
        _ => "",
    };
    let is_limit = place.starts_with("--limit ") || place.starts_with("FANFARE_LIMIT_");
    if is_limit { "limits" } else { "" }.to_owned()
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], listen::PORT)),
            admin_listen: None,
            shards: 0,
            node_name: None,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            trusted_proxies: Vec::new(),
            redact: Vec::new(),
            drain_delay: None,
            drain_timeout: Duration::from_secs(30),
            redis: None,
            data: None,
            namespace: "default".to_owned(),
            limits: Limits::default(),

            apps: BTreeMap::from([(DEFAULT_APP.to_owned(), AppConfig::default())]),
        }
    }
}

impl Config {
    /// Merges flags over `environment` over the file that they name over the defaults; see [`environment()`].
    ///
    /// A list given by a higher layer replaces that of a lower one. An empty variable counts as not set.
    /// Files of keys and certificates are read, relative to the configuration file that names them.
    ///
    /// # Errors
    /// All problems found: a file that cannot be read, an unknown key or variable (with the nearest known
    /// one), a value that cannot be used, and what [`Config::check`] refuses.
    pub fn load(
        args: &ServeArgs,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::read(args, environment).into_result()
    }

    /// As [`Config::load`], and returns what could be made of it, whatever is wrong.
    pub(crate) fn read(
        args: &ServeArgs,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Loaded {
        let mut problems = Vec::new();
        let environment::Variables {
            args: variables,
            port,
        } = environment::read(environment, &mut problems);

        let (document, path) = Self::read_file(args, &variables, &mut problems);
        let Document {
            mut config,
            problems: in_file,
            lines,
            mut left_out,
            mut warnings,
        } = document;

        let folder = path.and_then(|path| path.parent());
        // What the file breaks by itself is reported with a line of the file; what only all layers
        // together break has none.
        let of_file = problems_of_file(&config, folder);
        let has_default = config.apps.contains_key(DEFAULT_APP);

        let has_listen = lines.contains_key("listen");
        // In this order: each layer replaces what the one before it has set.
        args::apply(&variables, "FANFARE_", &mut config, &mut problems);
        args::apply(args, "--", &mut config, &mut problems);

        if config.apps.is_empty() {
            config
                .apps
                .insert(DEFAULT_APP.to_owned(), AppConfig::default());
        }

        // Platforms set it for every program, so an address that is meant for Fanfare comes first.
        if let Some(port) = port
            && !(has_listen || args.listen.is_some() || variables.listen.is_some())
        {
            config.listen_on_port(&port, &mut problems);
        }

        // A rule about a setting that could not be read says nothing for certain.
        left_out.extend(problems.iter().map(left_out_by));

        let layers = [(args, "--"), (&variables, "FANFARE_")];
        warnings.extend(renamed::of_flags(&layers));
        let mut loaded = Loaded {
            config,
            problems,
            warnings,
            path: path.cloned(),
            lines,
        };

        loaded.judge(in_file, &of_file, &left_out, folder, &layers);
        if !has_default {
            loaded.note_default(&layers);
        }
        loaded
    }

    /// The file that a flag or a variable names, with its path. It is empty if none is named, or if it cannot be read.
    fn read_file<'a>(
        args: &'a ServeArgs,
        variables: &'a ServeArgs,
        problems: &mut Vec<Problem>,
    ) -> (Document, Option<&'a PathBuf>) {
        let (setting, path) = match &args.config {
            Some(path) => ("--config", Some(path)),
            None => ("FANFARE_CONFIG", variables.config.as_ref()),
        };

        let document = path.map_or_else(Document::default, |path| {
            file::read(setting, path).unwrap_or_else(|problem| {
                problems.push(problem);
                Document::default()
            })
        });

        (document, path)
    }

    /// Listens on the port that a platform gives by `PORT`: on all interfaces if API keys protect the server.
    fn listen_on_port(&mut self, port: &str, problems: &mut Vec<Problem>) {
        match ListenAddress::of_port(port, !self.is_development()) {
            Ok(address) => self.listen = address,
            Err(error) => problems.push(Problem::Value {
                place: environment::PORT.to_owned(),
                message: error.to_string(),
            }),
        }
    }

    /// Whether this is development: no API key in any app. Then only loopback is served, and clients without
    /// `can` may do everything.
    pub fn is_development(&self) -> bool {
        self.apps.values().all(|app| app.keys.is_empty())
    }

    /// Whether only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// The delay between SIGTERM and sending clients away: as set, else 5 s, else 0 in loopback development.
    pub fn drain_delay(&self) -> Duration {
        let default = if self.is_development() {
            Duration::ZERO
        } else {
            Duration::from_secs(5)
        };
        self.drain_delay.unwrap_or(default)
    }

    /// The client authentication of `app`: as set. Otherwise `required` where the configuration has a key for client
    /// tokens, and `optional` where it has none and a secret is made up for development.
    pub fn client_auth(&self, app: &AppConfig) -> ClientAuth {
        // Someone who sets up tokens expects strangers to be refused, not to get every broadcast.
        let default = if app.has_token_keys() {
            ClientAuth::Required
        } else {
            ClientAuth::Optional
        };
        app.client_auth.unwrap_or(default)
    }

    /// The client authentication of those who come to `app` with `key`: the key's, else the app's.
    pub fn client_key_auth(&self, app: &AppConfig, key: &ClientKeyConfig) -> ClientAuth {
        key.client_auth.unwrap_or_else(|| self.client_auth(app))
    }

    /// Whether any client of `app` can authenticate, be it with one of its client keys only.
    pub fn has_users(&self, app: &AppConfig) -> bool {
        self.client_auth(app) != ClientAuth::Off
            || app
                .client_keys
                .iter()
                .any(|key| self.client_key_auth(app, key) != ClientAuth::Off)
    }

    /// Whether `app` signs and verifies tokens by a secret that is made up at each start: on loopback, where it has no
    /// key for tokens and authentication is not off for all.
    pub fn has_ephemeral_secret(&self, app: &AppConfig) -> bool {
        self.is_loopback() && !app.has_token_keys() && self.has_users(app)
    }
}

#[cfg(test)]
mod tests;
