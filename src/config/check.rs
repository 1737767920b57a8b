//! Whether the whole of a configuration makes sense, and is safe to serve.

use super::{
    Config, ConfigError, DEFAULT_APP,
    check_app::check_app,
    check_keys::check_token_keys,
    form::{is_name, is_path},
    log,
    problems::Problems,
};

impl Config {
    /// Refuses what would start an unsafe or a useless server; binds nothing and reads nothing.
    ///
    /// # Errors
    /// Every rule that is broken, each with what to do about it.
    pub fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless_empty(self.rules().into_problems())
    }

    /// Every rule that is broken.
    pub(super) fn rules(&self) -> Problems {
        let mut problems = Problems::default();
        self.check_exposure(&mut problems);
        self.check_node(&mut problems);
        self.check_limits(&mut problems);
        self.check_redis(&mut problems);
        if let Some(data) = &self.data {
            data.check(self.redis.is_some(), &mut problems);
        }

        if self.apps.is_empty() {
            problems.push(format!(
                "apps is empty, and a server serves at least one app; add one, such as \"{DEFAULT_APP}\""
            ));
        }

        for (name, app) in &self.apps {
            check_app(name, app, &mut problems);
            check_token_keys(name, app, &mut problems);
            self.check_client_auth(name, app, &mut problems);
        }

        self.check_protocols(&mut problems);
        self.check_mesa(&mut problems);
        self.check_key_names(&mut problems);
        self.check_client_keys(&mut problems);

        problems
    }

    /// Without keys anyone who reaches the server drives it, so only this machine may.
    fn check_exposure(&self, problems: &mut Problems) {
        if !self.is_development() {
            return;
        }

        // In its canonical form, since `::ffff:127.0.0.1` is loopback too.
        let admin = self
            .admin_listen
            .filter(|address| !address.ip().to_canonical().is_loopback());
        let exposed = [
            ("listen", Some(self.listen).filter(|_| !self.is_loopback())),
            ("admin_listen", admin),
        ];
        for (name, address) in exposed {
            if let Some(address) = address {
                problems.pair(name, format!(
                    "{name} = \"{address}\" is not loopback, but no API key is set; set --api-key \
                     or FANFARE_API_KEY"
                ));
            }
        }
    }

    fn check_node(&self, problems: &mut Problems) {
        // Port 0 is another one for each of them.
        if self.admin_listen == Some(self.listen) && self.listen.port() != 0 {
            problems.pair(
                "admin_listen",
                format!(
                    "admin_listen and listen are both {}; give them different ports",
                    self.listen
                ),
            );
        }

        // A connection's id has one byte for its shard.
        if self.shards > 256 {
            problems.value(
                "shards",
                format!(
                    "shards = {} is over 256; 0 means one per core, less one",
                    self.shards
                ),
            );
        }

        if let Some(name) = &self.node_name
            && !is_name(name, 64, |byte| {
                byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
            })
        {
            problems.value(
                "node_name",
                format!(
                    "node_name = \"{name}\" is not 1 to 64 letters, digits, \"_\", \".\" or \"-\""
                ),
            );
        }

        if let Err(error) = log::parse(&self.log) {
            problems.value("log", format!("log = \"{}\": {error}", self.log));
        }

        if self.drain_delay() >= self.drain_timeout {
            problems.pair(
                "drain_delay",
                format!(
                    "drain_delay = \"{}\" must be shorter than drain_timeout = \"{}\"",
                    humantime::format_duration(self.drain_delay()),
                    humantime::format_duration(self.drain_timeout)
                ),
            );
        }

        for path in self
            .redact
            .iter()
            .filter(|path| !is_path(path, &["auth", "profile", "connection"]))
        {
            problems.value(
                "redact",
                format!(
                    "redact: \"{path}\" is not a path such as \"auth.email\" or \"connection.ip\""
                ),
            );
        }
    }

    fn check_redis(&self, problems: &mut Problems) {
        if !is_name(&self.namespace, 64, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
        }) {
            problems.value(
                "namespace",
                format!(
                    "namespace: \"{}\" must be 1 to 64 characters of a-z, 0-9, \"_\" and \"-\"",
                    self.namespace
                ),
            );
        }

        if let Some(redis) = &self.redis {
            redis.check(problems);
        }
    }
}
