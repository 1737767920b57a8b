//! Starting a server step by step, for programs that embed it.

use std::net::{SocketAddr, ToSocketAddrs};

use serde::Serialize;

use super::{Call, Server, StartError, call::Registered};
use crate::{
    calls::CallError,
    config::{
        ApiKeyConfig, AppConfig, ChannelRule, ClientAuth, Config, ConfigError, DEFAULT_APP,
        KeyMaterial, Problem, ProtocolKind, Scopes, TokenAlgorithm, TokenKeyConfig,
    },
    limits::Limits,
};

/// Settings of a server that is yet to start: everything that `fanfare serve` takes by flags, under the same names.
///
/// What concerns an app is set for [`DEFAULT_APP`]; [`ServerBuilder::configure`] reaches everything else. Nothing reads
/// the environment or a file. [`ServerBuilder::start`] reports everything that is wrong, all of it together.
///
/// ```no_run
/// # fn example(api_key: &str, token_secret: &str) -> Result<(), fanfare::StartError> {
/// let server = fanfare::Server::builder()
///     .listen("0.0.0.0:7070")
///     .api_key(api_key)
///     .token_secret(token_secret)
///     .redis("redis://127.0.0.1:6379")
///     .index("auth.tenant")
///     .channel_history("room-*", 100)
///     .limits(|limits| limits.message_bytes = 16 * 1024)
///     .start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct ServerBuilder {
    config: Config,
    registered: Registered,
    problems: Vec<Problem>,
}

impl Server {
    /// A server that is yet to start, with the settings of [`Config::default`]: for this machine only, without keys.
    pub fn builder() -> ServerBuilder {
        Config::default().into()
    }
}

impl From<Config> for ServerBuilder {
    fn from(config: Config) -> Self {
        Self {
            config,
            registered: Registered::default(),
            problems: Vec::new(),
        }
    }
}

impl ServerBuilder {
    /// Where clients and functions connect, such as `"0.0.0.0:7070"`; port 0 is any that is free. Without it, loopback and
    /// port 7070.
    pub fn listen(mut self, address: impl ToSocketAddrs) -> Self {
        if let Some(address) = self.resolve("listen", address) {
            self.config.listen = address;
        }
        self
    }

    /// Where health, metrics and pages are served instead, without keys.
    pub fn admin_listen(mut self, address: impl ToSocketAddrs) -> Self {
        self.config.admin_listen = self.resolve("admin_listen", address);
        self
    }

    /// Threads that hold connections; without it, one per core, less one.
    pub fn shards(mut self, shards: usize) -> Self {
        self.config.shards = shards;
        self
    }

    /// Adds an API key with all scopes, of at least 16 bytes. With one, others than this machine may be served.
    pub fn api_key(mut self, key: &str) -> Self {
        let name = format!("key-{}", self.app().keys.len() + 1);
        match ApiKeyConfig::from_plain(&name, &key.into(), Scopes::ALL) {
            Ok(key) => self.app().keys.push(key),
            Err(error) => self.problem("api_key", error.to_string()),
        }
        self
    }

    /// The secret that signs client tokens (HS256), of at least 32 bytes. With one, clients without a token are refused,
    /// unless [`ServerBuilder::client_auth`] says otherwise.
    pub fn token_secret(mut self, secret: &str) -> Self {
        self.app().tokens = vec![TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::HS256,
            key: KeyMaterial::Secret(secret.into()),
        }];
        self
    }

    /// Whether clients must have a token.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.app().client_auth = Some(client_auth);
        self
    }

    /// Adds an origin from which pages may connect, such as `"https://example.com"`; `"*"` is any.
    pub fn origin(mut self, origin: &str) -> Self {
        let origins = self.app().origins.get_or_insert_default();
        origins.push(origin.to_owned());
        self
    }

    /// Serves clients of another protocol as well, with its default settings.
    pub fn protocol(mut self, kind: ProtocolKind) -> Self {
        self.app().protocols.enable(kind);
        self
    }

    /// Adds an attribute with an index, such as `"auth.tenant"`.
    pub fn index(mut self, path: &str) -> Self {
        self.app().index.push(path.to_owned());
        self
    }

    /// Stores the last `size` events of each channel that matches `pattern`, such as `"room-*"`.
    pub fn channel_history(mut self, pattern: &str, size: usize) -> Self {
        self.app().channels.push(ChannelRule::new(pattern, size));
        self
    }

    /// Stores events for users until a connection of theirs has confirmed them.
    pub fn store_user_events(mut self) -> Self {
        self.app().user_events.get_or_insert_default();
        self
    }

    /// The Redis that joins this node with others, as `--redis` takes it.
    pub fn redis(mut self, url: &str) -> Self {
        match url.parse() {
            Ok(url) => self.config.redis.get_or_insert_default().url = url,
            Err(error) => self.problem("redis", error.to_string()),
        }
        self
    }

    /// Separates deployments that share one Redis.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.config.namespace);
        self
    }

    /// Adds a function that clients of every app call by `name`, if they have the right `call` for it. Its value is the
    /// `data` of the client's `ack`, and its [`CallError`] is the client's `error`.
    ///
    /// ```no_run
    /// use fanfare::{Call, CallError, Server};
    ///
    /// # fn example() -> Result<(), fanfare::StartError> {
    /// let server = Server::builder()
    ///     .on_call("add", |call: Call| async move {
    ///         let (a, b): (i64, i64) = call.parse()?;
    ///         a.checked_add(b).ok_or_else(|| CallError::new("overflow", "the sum is too large"))
    ///     })
    ///     .on_call("say", |call: Call| async move {
    ///         let user = call.user().ok_or_else(|| CallError::new("anonymous", "log in first"))?;
    ///         let text: String = call.parse()?;
    ///         call.server()?.send("room", "said", (user, text)).await?;
    ///         Ok(())
    ///     })
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Functions run outside every lock, on one thread that serves no client, with a tokio runtime of its own. So the program
    /// needs no runtime, and a function may use tokio's timers, sockets and tasks. Calls run at the same time, and those of
    /// one connection begin in its order. A function that computes for long, or that blocks, holds up the other calls; it
    /// should do so in `tokio::task::spawn_blocking`, or in a task of the program's own runtime by its `Handle`.
    ///
    /// A function that takes longer than `limits.call` is dropped at its next await, and the client gets the error
    /// `call_timeout`. One that panics is an error to its client (`internal`), and nothing else ends. A client that leaves
    /// does not end the function that it called.
    pub fn on_call<F, R, T>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, CallError>> + Send + 'static,
        T: Serialize,
    {
        if !self.registered.add(name, function) {
            self.problem(
                "on_call",
                format!("there are two functions called \"{name}\""),
            );
        }
        self
    }

    /// Changes bounds.
    pub fn limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        self.configure(|config| change(&mut config.limits))
    }

    /// Changes anything in the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the server; see [`Server::start`].
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(self) -> Result<Server, StartError> {
        let Self {
            config,
            registered,
            mut problems,
        } = self;

        if problems.is_empty() {
            return Server::start_with(config, registered);
        }

        // With what the rest lacks, so that all can be repaired in one go.
        problems.extend(
            config
                .check()
                .err()
                .into_iter()
                .flat_map(|error| error.problems),
        );

        Err(ConfigError { problems }.into())
    }

    fn app(&mut self) -> &mut AppConfig {
        self.config.apps.entry(DEFAULT_APP.to_owned()).or_default()
    }

    fn resolve(&mut self, setting: &str, address: impl ToSocketAddrs) -> Option<SocketAddr> {
        let found = address.to_socket_addrs().map(|mut found| found.next());
        match found {
            Ok(Some(address)) => return Some(address),
            Ok(None) => self.problem(setting, "no address has this name".to_owned()),
            Err(error) => self.problem(setting, format!("not an address and a port: {error}")),
        }
        None
    }

    fn problem(&mut self, setting: &str, message: String) {
        self.problems.push(Problem::Value {
            place: setting.to_owned(),
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(builder: ServerBuilder) -> Vec<String> {
        match builder.start() {
            Err(StartError::Config(error)) => {
                error.problems.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_said_together_and_nothing_listens() {
        let found = problems(
            Server::builder()
                .listen("0.0.0.0:0")
                .api_key("short")
                .token_secret("short")
                .redis("http://redis"),
        );
        let starts = [
            "api_key: API key",
            "redis: ",
            "listen = ",
            "app \"default\": the token secret",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for start in starts {
            assert!(
                found.iter().any(|line| line.starts_with(start)),
                "{start}: {found:#?}"
            );
        }
        let found = problems(Server::builder().listen("nonsense"));
        assert!(
            found[0].starts_with("listen: not an address and a port"),
            "{found:?}"
        );
    }

    #[test]
    fn settings_are_those_of_the_default_app() {
        let builder = Server::builder()
            .api_key("an-api-key-for-tests")
            .api_key("another-api-key-for-tests")
            .token_secret("a-token-secret-of-thirty-two-bytes-or-more")
            .origin("https://a.example")
            .origin("https://b.example")
            .index("auth.tenant")
            .channel_history("room-*", 7)
            .store_user_events()
            .limits(|limits| limits.scans = 1);
        let (config, app) = (&builder.config, &builder.config.apps[DEFAULT_APP]);
        config.check().unwrap();
        let names: Vec<&str> = app.keys.iter().map(|key| &*key.name).collect();
        assert_eq!(names, ["key-1", "key-2"]);
        assert_eq!(config.client_auth(app), ClientAuth::Required);
        assert_eq!(app.origins.as_ref().map(Vec::len), Some(2));
        assert_eq!((config.limits.scans, app.channels[0].history_size), (1, 7));
        assert!(app.user_events.is_some() && app.index == ["auth.tenant"]);
    }
}
