//! Which Redis joins the nodes, and how it is reached.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};

use super::{Secret, problems::Problems};

/// Redis's usual port.
const PORT: u16 = 6379;

/// A Sentinel's usual port.
const SENTINEL_PORT: u16 = 26379;

/// The table `[redis]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// The servers, and the user as which Fanfare connects.
    pub url: RedisUrl,
    /// Where that is to be read from; loading the configuration replaces it by `url`.
    pub url_file: Option<PathBuf>,
    /// The name under which the Sentinels know the primary, if the URL does not have it.
    pub sentinel_master: Option<String>,
    /// The user for the Sentinels; `None`: the one that is called `default`.
    pub sentinel_user: Option<String>,
    /// The password for the Sentinels; `None`: none, and the one for Redis where a Sentinel asks for one.
    pub sentinel_password: Option<Secret>,
    /// Where that is to be read from; loading the configuration replaces it by `sentinel_password`.
    pub sentinel_password_file: Option<PathBuf>,
    /// Authorities that sign the servers' certificates, in PEM; `None`: those that the system trusts.
    pub ca: Option<PemFile>,
    /// Fanfare's own certificate for the servers, in PEM.
    pub cert: Option<PemFile>,
    /// Its key, in PEM.
    pub key: Option<PemFile>,
}

impl RedisConfig {
    /// The name of the primary for the Sentinels.
    pub fn master(&self) -> Option<&str> {
        self.sentinel_master
            .as_deref()
            .or(self.url.master.as_deref())
    }

    /// What does not go together.
    pub(super) fn check(&self, problems: &mut Problems) {
        let url = &self.url;
        if url.servers.is_empty() {
            problems.pair(
                "redis.url",
                "[redis] is set without redis.url or redis.url_file; give --redis or FANFARE_REDIS"
                    .to_owned(),
            );
            return;
        }

        let files = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        for (name, _) in files.iter().filter(|(_, file)| file.is_some() && !url.tls) {
            problems.pair(format!("redis.{name}"), format!(
                "redis.{name} is for TLS, but redis.url does not use TLS; write rediss:// in place of redis://"
            ));
        }

        if self.cert.is_some() != self.key.is_some() {
            let message = "redis.cert and redis.key belong together; set both or neither";
            let set = if self.cert.is_some() {
                "redis.cert"
            } else {
                "redis.key"
            };
            problems.pair(set, message.to_owned());
        }

        if self.sentinel_user.is_some() && self.sentinel_password.is_none() {
            problems.pair(
                "redis.sentinel_user",
                "redis.sentinel_user is set without redis.sentinel_password; set both".to_owned(),
            );
        }

        if self.sentinel_password.is_some() && url.kind != RedisKind::Sentinel {
            problems.pair(
                "redis.sentinel_password",
                "redis.sentinel_password is set, but redis.url does not name Sentinels; write redis+sentinel://"
                    .to_owned(),
            );
        }

        match (url.kind, &self.sentinel_master, &url.master) {
            (RedisKind::Sentinel, None, None) => problems.pair(
                "redis.url",
                "redis.url names Sentinels, but not the primary; end it with /name, or set redis.sentinel_master"
                    .to_owned(),
            ),
            (RedisKind::Sentinel, Some(one), Some(other)) if one != other => problems.pair("redis.sentinel_master", format!(
                "redis.sentinel_master = \"{one}\", but redis.url ends with \"{other}\"; give only one"
            )),
            (RedisKind::Standalone | RedisKind::Cluster, Some(_), _) => problems.pair(
                "redis.sentinel_master",
                "redis.sentinel_master is set, but redis.url does not name Sentinels; write redis+sentinel://"
                    .to_owned(),
            ),
            _ => {}
        }
    }
}

/// What the addresses lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    #[default]
    Standalone,
    /// Sentinels, which know the primary.
    Sentinel,
    /// Some nodes of a Redis Cluster, which know the others.
    Cluster,
}

/// `redis://user:password@host:port/0` and its variants. The password is never shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisUrl {
    /// What the addresses lead to.
    pub kind: RedisKind,
    /// Whether connections are made with TLS.
    pub tls: bool,
    /// The user of Redis's ACL; `None`: the one that is called `default`.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Hosts and ports, in the order given. Empty only where nothing was set.
    pub servers: Vec<(String, u16)>,
    /// The number of the database.
    pub database: u32,
    /// The primary's name for the Sentinels.
    pub master: Option<String>,
}

/// The text is not an address of Redis; says why without repeating the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedisUrl {
    /// No `scheme://`.
    #[error(
        "an address of Redis starts with redis:// or rediss:// (with TLS), such as redis://127.0.0.1:6379; Sentinels with \
         redis+sentinel://, and Redis Cluster with redis+cluster://"
    )]
    NoScheme,
    /// An unknown one.
    #[error(
        "\"{0}://\" is not one of redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, \
         rediss+cluster://"
    )]
    Scheme(String),
    /// Addresses that are not of one kind.
    #[error("all addresses must have the same scheme; one has {0}:// and another {1}://")]
    Schemes(String, String),
    /// Nothing between the commas, or before the port.
    #[error("address {0} has no host")]
    NoHost(usize),
    /// Not the number of a port.
    #[error("the port of address {0} is not a number from 1 to 65535")]
    Port(usize),
    /// Several that differ.
    #[error(
        "the addresses have different users or passwords; Fanfare uses the same for all of them"
    )]
    Users,
    /// Half of what proves who Fanfare is.
    #[error("the user has no password; write user:password@host")]
    Password,
    /// Bytes that are not text.
    #[error(
        "the user or password cannot be read; write @ : / , ? # and % in it as %xx, such as %40 for @"
    )]
    Encoding,
    /// `?…` or `#…`.
    #[error("options after ? or # are not supported; write ? and # in a password as %3F and %23")]
    Options,
    /// A path that means nothing.
    #[error(
        "what follows the address is not the number of a database, as in redis://127.0.0.1:6379/0"
    )]
    Database,
    /// A database of a cluster.
    #[error("Redis Cluster has only database 0")]
    ClusterDatabase,
    /// It has more than a name and a number.
    #[error(
        "after the Sentinels comes the name of the primary, then a database if wanted, as in /mymaster/0"
    )]
    Master,
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<Self, BadRedisUrl> {
        let mut url = Self::default();
        let (mut scheme, mut path, mut count) = ("", "", 0);
        let mut who: Option<&str> = None;

        for (n, part) in text.split(',').map(str::trim).enumerate() {
            let rest = match part.split_once("://") {
                Some((of, rest)) if n == 0 || of == scheme => {
                    scheme = of;
                    rest
                }
                Some((of, _)) => return Err(BadRedisUrl::Schemes(shown(scheme), shown(of))),
                None if n == 0 => return Err(BadRedisUrl::NoScheme),
                // Only the first address has to have a scheme.
                None => part,
            };

            if rest.contains(['?', '#']) {
                return Err(BadRedisUrl::Options);
            }

            let (authority, of) = rest.split_once('/').unwrap_or((rest, ""));
            // A password with a / in it that was not encoded.
            if of.contains('@') {
                return Err(BadRedisUrl::Encoding);
            }

            // A list has its path at the end, but each address may repeat it.
            path = if of.is_empty() { path } else { of };
            // The last one: many write a password with an "@" in it as it is.
            let host = match authority.rsplit_once('@') {
                Some((user, host)) if who.is_none_or(|who| who == user) => {
                    who = Some(user);
                    host
                }
                Some(_) => return Err(BadRedisUrl::Users),
                None => authority,
            };

            url.servers
                .push(server(host, n + 1, scheme.ends_with("+sentinel"))?);
            count = n + 1;
        }

        (url.kind, url.tls) = match scheme {
            // One server has one address.
            "redis" | "rediss" if count > 1 => (RedisKind::Cluster, scheme == "rediss"),
            "redis" | "rediss" => (RedisKind::Standalone, scheme == "rediss"),
            "redis+sentinel" | "rediss+sentinel" => {
                (RedisKind::Sentinel, scheme.starts_with("rediss"))
            }
            "redis+cluster" | "rediss+cluster" => {
                (RedisKind::Cluster, scheme.starts_with("rediss"))
            }
            other => return Err(BadRedisUrl::Scheme(shown(other))),
        };

        url.set_user(who.unwrap_or_default())?;
        url.set_path(path)?;
        Ok(url)
    }
}

impl RedisUrl {
    fn set_user(&mut self, who: &str) -> Result<(), BadRedisUrl> {
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(String::from)
                .map_err(|_| BadRedisUrl::Encoding)
        };

        // The first one: a password may hold others.
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        self.user = Some(decode(user)?).filter(|user| !user.is_empty());
        self.password = Some(decode(password)?)
            .filter(|word| !word.is_empty())
            .map(Secret::from);

        if self.user.is_some() && self.password.is_none() {
            Err(BadRedisUrl::Password)
        } else {
            Ok(())
        }
    }

    fn set_path(&mut self, path: &str) -> Result<(), BadRedisUrl> {
        let path = path.trim_end_matches('/');
        let (master, database) = match self.kind {
            RedisKind::Sentinel => path.split_once('/').unwrap_or((path, "")),
            RedisKind::Standalone | RedisKind::Cluster => ("", path),
        };

        let wrong = if master.is_empty() {
            BadRedisUrl::Database
        } else {
            BadRedisUrl::Master
        };

        if !database.is_empty() {
            self.database = database.parse().map_err(|_| wrong)?;
        }

        if self.kind == RedisKind::Cluster && self.database != 0 {
            return Err(BadRedisUrl::ClusterDatabase);
        }

        self.master = Some(master.to_owned()).filter(|name| !name.is_empty());
        Ok(())
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::text::deserialize(from, "an address of Redis in quotes", str::parse)
    }
}

/// The servers, as a log may show them.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RedisKind::Standalone => "",
            RedisKind::Sentinel => "+sentinel",
            RedisKind::Cluster => "+cluster",
        };

        write!(f, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        for (n, (host, port)) in self.servers.iter().enumerate() {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            write!(f, "{}{host}:{port}", if n == 0 { "" } else { "," })?;
        }

        Ok(())
    }
}

/// A scheme as a message may repeat it; nothing that may be a password in its place.
fn shown(scheme: &str) -> String {
    let is_scheme = scheme.len() <= 16
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'+');
    if is_scheme { scheme } else { "…" }.to_owned()
}

fn server(text: &str, n: usize, sentinel: bool) -> Result<(String, u16), BadRedisUrl> {
    let usual = if sentinel { SENTINEL_PORT } else { PORT };
    // An IPv6 address has colons itself, and so stands in brackets.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (
            host,
            Some(port.strip_prefix(':').ok_or(BadRedisUrl::Port(n))?),
        ),
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };

    if host.is_empty() {
        return Err(BadRedisUrl::NoHost(n));
    }

    let port = port
        .map_or(Ok(usual), str::parse)
        .ok()
        .filter(|port| *port != 0);
    Ok((host.to_owned(), port.ok_or(BadRedisUrl::Port(n))?))
}

/// A file of certificates or of a key; its content is read when the configuration is loaded, and not shown.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(from = "PathBuf")]
pub struct PemFile {
    /// Where it is; relative to the configuration file that names it.
    pub path: PathBuf,
    /// What is in it; empty until read.
    pub pem: Vec<u8>,
}

impl From<PathBuf> for PemFile {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            pem: Vec::new(),
        }
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemFile({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_address_says_what_stands_behind_it() {
        let one = url("redis://h");
        assert_eq!(
            (one.kind, one.tls, one.database),
            (RedisKind::Standalone, false, 0)
        );
        assert_eq!(one.servers, [("h".to_owned(), 6379)]);
        let one = url("rediss://ann:p%40%2Cs@[::1]:7000/3");
        assert_eq!(
            (one.tls, one.user.as_deref(), one.database),
            (true, Some("ann"), 3)
        );
        assert_eq!(one.password, Some(Secret::from("p@,s")));
        assert_eq!(one.servers, [("::1".to_owned(), 7000)]);
        assert_eq!(one.to_string(), "rediss://[::1]:7000");
        let many = url("redis://:pw@a:1,b:2, redis://:pw@c");
        assert_eq!(
            (many.kind, many.user.as_deref()),
            (RedisKind::Cluster, None)
        );
        assert_eq!(
            many.servers,
            [
                ("a".to_owned(), 1),
                ("b".to_owned(), 2),
                ("c".to_owned(), 6379)
            ]
        );
        assert_eq!(url("rediss+cluster://a").kind, RedisKind::Cluster);
        let sentinel = url("redis+sentinel://u:p@a,b:5/mymaster/2");
        assert_eq!((sentinel.kind, sentinel.database), (RedisKind::Sentinel, 2));
        assert_eq!(sentinel.master.as_deref(), Some("mymaster"));
        assert_eq!(
            sentinel.servers,
            [("a".to_owned(), 26379), ("b".to_owned(), 5)]
        );
        assert_eq!(url("redis+sentinel://a").master, None);
    }

    #[test]
    fn what_is_no_address_is_told_without_its_password() {
        use BadRedisUrl as Bad;
        let cases = [
            ("127.0.0.1:6379", Bad::NoScheme),
            ("", Bad::NoScheme),
            ("http://h", Bad::Scheme("http".to_owned())),
            ("redis+unix://x", Bad::Scheme("redis+unix".to_owned())),
            (
                "redis://a,rediss://b",
                Bad::Schemes("redis".to_owned(), "rediss".to_owned()),
            ),
            ("redis://", Bad::NoHost(1)),
            ("redis://a,,b", Bad::NoHost(2)),
            ("redis://a:0", Bad::Port(1)),
            ("redis://a,b:99999", Bad::Port(2)),
            ("redis://[::1]7", Bad::Port(1)),
            ("redis://::1", Bad::NoHost(1)),
            ("redis://u:secret@a,v:secret@b", Bad::Users),
            ("redis://u@a", Bad::Password),
            ("redis://u:%ff@a", Bad::Encoding),
            ("redis://u:sec#ret@a", Bad::Options),
            ("redis://a?protocol=3", Bad::Options),
            ("redis://a/x", Bad::Database),
            ("redis+cluster://a/1", Bad::ClusterDatabase),
            ("redis+sentinel://a/m/x", Bad::Master),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<RedisUrl>(), Err(error), "{text}");
        }
        for text in [
            "redis://u:secret",
            "u:secret@a://x",
            "redis://a,secret://b",
            "redis://u:se/cret@a",
        ] {
            let error = text
                .parse::<RedisUrl>()
                .err()
                .map(|error| error.to_string());
            assert!(!error.unwrap_or_default().contains("u:secret"), "{text}");
        }
        let shown = format!("{:?}", url("redis://u:secret@a"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
