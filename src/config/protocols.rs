//! The protocols of other systems whose clients an app serves: none, unless they are configured.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::Deserialize;

use super::{
    Config, MesaConfig,
    error::{hint, nearest},
    problems::Problems,
};
use crate::limits::SOCKETIO_NAMESPACES;

/// The other protocols of one app: the tables `[apps.<name>.protocols.<kind>]` of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtocolsConfig {
    /// Clients of Socket.IO.
    pub socketio: Option<SocketIoConfig>,
    /// Clients of Altogic.
    pub altogic: Option<AltogicConfig>,
    /// Clients and server libraries of Agnost.
    pub agnost: Option<AgnostConfig>,
    /// Clients of Mesa.
    pub mesa: Option<MesaConfig>,
    /// Clients of Zexcore RTM.
    pub zexcore: Option<ZexcoreConfig>,
}

/// Settings for clients of Socket.IO 5 over Engine.IO 4.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketIoConfig {
    /// Where they connect.
    pub path: String,
    /// The namespaces that they may be in.
    pub namespaces: Vec<String>,
    /// The names of this server for which the path is this app's; without any, it is for all that no other app has.
    pub hosts: Vec<String>,
}

/// Settings for clients of Altogic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AltogicConfig {
    /// Where they connect.
    pub path: String,
    /// The names of this server for which the path is this app's; without any, it is for all that no other app has.
    pub hosts: Vec<String>,
}

/// Settings for clients of Agnost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgnostConfig {
    /// Where they connect.
    pub path: String,
    /// Where server libraries connect.
    pub server_path: String,
    /// The names of this server for which the path is this app's; without any, it is for all that no other app has.
    pub hosts: Vec<String>,
}

/// Settings for clients of Zexcore RTM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZexcoreConfig {
    /// Where they connect.
    pub path: String,
}

impl Default for SocketIoConfig {
    fn default() -> Self {
        Self {
            path: "/socket.io/".to_owned(),
            namespaces: vec!["/".to_owned()],
            hosts: Vec::new(),
        }
    }
}

impl Default for AltogicConfig {
    fn default() -> Self {
        Self {
            path: "/socket.io/".to_owned(),
            hosts: Vec::new(),
        }
    }
}

impl Default for AgnostConfig {
    fn default() -> Self {
        Self {
            path: "/realtime/realtime/".to_owned(),
            server_path: "/realtime/".to_owned(),
            hosts: Vec::new(),
        }
    }
}

impl Default for ZexcoreConfig {
    fn default() -> Self {
        Self {
            path: "/rtm".to_owned(),
        }
    }
}

/// A protocol other than `fanfare.v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolKind {
    /// Socket.IO 5 over Engine.IO 4.
    SocketIo,
    /// Altogic's, over Socket.IO.
    Altogic,
    /// Agnost's, over Socket.IO.
    Agnost,
    /// Mesa's.
    Mesa,
    /// Zexcore RTM's.
    Zexcore,
}

impl ProtocolKind {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::SocketIo,
        Self::Altogic,
        Self::Agnost,
        Self::Mesa,
        Self::Zexcore,
    ];

    /// The name in the configuration and in `connection.protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SocketIo => "socketio",
            Self::Altogic => "altogic",
            Self::Agnost => "agnost",
            Self::Mesa => "mesa",
            Self::Zexcore => "zexcore",
        }
    }

    /// What its clients are called in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::SocketIo => "Socket.IO",
            Self::Altogic => "Altogic",
            Self::Agnost => "Agnost",
            Self::Mesa => "Mesa",
            Self::Zexcore => "Zexcore RTM",
        }
    }

    /// The first one whose clients connect to `path` unless they are configured otherwise.
    pub(crate) fn of_default_path(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        Self::ALL.into_iter().find(|kind| {
            // Only a protocol that is on has paths.
            let mut config = ProtocolsConfig::default();
            config.enable(*kind);
            config
                .paths()
                .any(|(_, default)| default.trim_end_matches('/') == path)
        })
    }
}

impl FromStr for ProtocolKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            // `Socket.IO` and `socket.io` are how people write it.
            let bare = text.to_ascii_lowercase().replace(['.', '-', '_'], "");
            match nearest(&bare, names) {
                Some(meant) => format!("unknown protocol {text:?}{}", hint(Some(&meant))),
                None => format!(
                    "unknown protocol {text:?}; choose one of {}",
                    names.join(", ")
                ),
            }
        })
    }
}

impl fmt::Display for ProtocolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ProtocolsConfig {
    /// Turns `kind` on with its default settings, unless it is on.
    pub fn enable(&mut self, kind: ProtocolKind) {
        match kind {
            ProtocolKind::SocketIo => drop(self.socketio.get_or_insert_default()),
            ProtocolKind::Altogic => drop(self.altogic.get_or_insert_default()),
            ProtocolKind::Agnost => drop(self.agnost.get_or_insert_default()),
            ProtocolKind::Mesa => drop(self.mesa.get_or_insert_default()),
            ProtocolKind::Zexcore => drop(self.zexcore.get_or_insert_default()),
        }
    }

    /// The protocols that are on, with the paths where their clients connect.
    pub fn paths(&self) -> impl Iterator<Item = (ProtocolKind, &str)> {
        let path = |kind| match kind {
            ProtocolKind::SocketIo => self.socketio.as_ref().map(|config| &config.path),
            ProtocolKind::Altogic => self.altogic.as_ref().map(|config| &config.path),
            ProtocolKind::Agnost => self.agnost.as_ref().map(|config| &config.path),
            ProtocolKind::Mesa => self.mesa.as_ref().map(|config| &config.path),
            ProtocolKind::Zexcore => self.zexcore.as_ref().map(|config| &config.path),
        };

        let server = |kind| match kind {
            ProtocolKind::Agnost => self.agnost.as_ref().map(|config| &config.server_path),
            _ => None,
        };

        let kinds = ProtocolKind::ALL.into_iter();
        kinds.flat_map(move |kind| {
            let paths = [path(kind), server(kind)].into_iter().flatten();
            paths.map(move |path| (kind, path.as_str()))
        })
    }

    /// The names of the server under which clients of `kind` reach the app, in protocols whose clients have one path for every app.
    pub fn hosts(&self, kind: ProtocolKind) -> &[String] {
        let hosts = match kind {
            ProtocolKind::SocketIo => self.socketio.as_ref().map(|config| &config.hosts),
            ProtocolKind::Altogic => self.altogic.as_ref().map(|config| &config.hosts),
            ProtocolKind::Agnost => self.agnost.as_ref().map(|config| &config.hosts),
            ProtocolKind::Mesa | ProtocolKind::Zexcore => None,
        };
        hosts.map_or(&[], Vec::as_slice)
    }

    /// What the setting is called that has `path` for clients of `kind`.
    fn setting(&self, kind: ProtocolKind, path: &str) -> &'static str {
        match (kind, &self.agnost) {
            (ProtocolKind::Agnost, Some(agnost)) if agnost.path != path => "server_path",
            _ => "path",
        }
    }
}

/// Paths of the server's own begin with one of these.
pub(crate) const OWN_PATHS: [&str; 7] = [
    "/v1/",
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/fanfare.js",
    "/favicon.ico",
];

impl Config {
    /// Refuses what is not a path, paths that are the server's own, and those that two protocols share for the same
    /// host.
    pub(super) fn check_protocols(&self, problems: &mut Problems) {
        let mut taken = BTreeMap::new();
        for (name, app) in &self.apps {
            for (kind, path) in app.protocols.paths() {
                if let (ProtocolKind::SocketIo, Some(socketio)) = (kind, &app.protocols.socketio) {
                    check_namespaces(name, &socketio.namespaces, problems);
                }

                let of = app.protocols.setting(kind, path);
                let setting = format!("apps.{name}.protocols.{kind}.{of}");
                let place = format!("app \"{name}\": protocol {kind}: {of} \"{path}\"");

                if path.len() < 2
                    || !path.starts_with('/')
                    || !path.bytes().all(|byte| byte.is_ascii_graphic())
                    || path.contains(['?', '#'])
                {
                    problems.value(
                        setting,
                        format!("{place} is not a path such as \"/socket.io/\""),
                    );
                    continue;
                }

                // It has one slash at its end: `/rtm` and `/rtm/` are the same path, and `/v1` is
                // below `/v1/`.
                let slashed = format!("{}/", path.trim_end_matches('/'));
                if let Some(own) = OWN_PATHS.iter().find(|own| slashed.starts_with(**own)) {
                    problems.value(setting, format!("{place} is the server's own ({own})"));
                    continue;
                }

                let hosts = app.protocols.hosts(kind);
                if of == "path" {
                    // Once for a protocol that has two paths.
                    check_hosts((name, kind), hosts, problems);
                }

                // Names of hosts have no case (RFC 9110, section 4.2.3).
                let mut keys: Vec<_> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
                if keys.is_empty() {
                    // Stands for every host that no other app has.
                    keys.push(String::new());
                }

                let others = keys
                    .into_iter()
                    .filter_map(|host| taken.insert((slashed.clone(), host), (name, kind)))
                    .collect::<Vec<_>>();
                if let Some((app, other)) = others.first() {
                    problems.pair(
                        setting,
                        format!(
                            "{place} is also that of protocol {other} of app \"{app}\"; set another path or other hosts for one of them"
                        ),
                    );
                }
            }
        }
    }
}

/// Refuses hosts that no client could ask for.
fn check_hosts((app, kind): (&str, ProtocolKind), hosts: &[String], problems: &mut Problems) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    for host in hosts {
        if host.is_empty() || !host.bytes().all(is_part) {
            problems.value(
                format!("apps.{app}.protocols.{kind}.hosts"),
                format!(
                    "app \"{app}\": protocol {kind}: \"{host}\" is not the name of a host such as \"realtime.example.com\", without a port"
                ),
            );
        }
    }
}

/// Refuses namespaces of Socket.IO whose channels could not have a name, and too many of them.
fn check_namespaces(app: &str, namespaces: &[String], problems: &mut Problems) {
    let setting = format!("apps.{app}.protocols.socketio.namespaces");
    let place = format!("app \"{app}\": protocol socketio: namespaces");
    if namespaces.is_empty() || namespaces.len() > SOCKETIO_NAMESPACES {
        let problem = format!("{place} must name 1 to {SOCKETIO_NAMESPACES} of them");
        return problems.value(setting, problem);
    }

    for (at, namespace) in namespaces.iter().enumerate() {
        // Without its slash it becomes a text that is refused below.
        let bare = namespace.strip_prefix('/').unwrap_or("-/-");
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !bare.bytes().all(is_plain) || bare.len() > 64 {
            let problem = format!(
                "{place}: \"{namespace}\" is not a namespace such as \"/chat\", of up to 64 letters, digits, \".\", \"_\" and \"-\""
            );
            problems.value(setting.clone(), problem);
        } else if namespaces[..at].contains(namespace) {
            problems.value(
                setting.clone(),
                format!("{place}: \"{namespace}\" is there twice"),
            );
        }
    }
}
