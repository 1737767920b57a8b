//! Taking a new configuration while serving.

use crate::{
    app::SetupError,
    config::{self, Config, ConfigError, Problem, ReloadReport},
    server::{Server, connections_by_descriptors},
};

/// Why a new configuration is not taken. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It contradicts itself, or what cannot change without a restart.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys or rights of apps cannot be used.
    #[error("{}", lines(.0))]
    Setup(Vec<SetupError>),
}

fn lines(errors: &[SetupError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

impl Server {
    /// Goes on with `config`, as far as that is possible without a restart: API keys, keys for tokens, client keys,
    /// origins, rights, trusted proxies, drain times, and those bounds that are looked up where they are used.
    ///
    /// It takes effect as a whole: no request sees half of it. Connections keep what they have until they renew their
    /// token. What cannot change stays as it is, and is in the report; the whole as it then runs must be as safe as any
    /// configuration, so keys that are taken away where `listen` moves to loopback, say, are refused.
    ///
    /// It may be called from any thread, and waits for another reload that is under way. The level of the log is the
    /// embedding program's to set.
    ///
    /// # Errors
    /// [`ReloadError`], with all problems; then nothing has changed.
    pub fn reload(&self, config: Config) -> Result<ReloadReport, ReloadError> {
        self.take(config).inspect_err(|_| {
            self.inner.node.metrics.reloads_refused.inc();
        })
    }

    fn take(&self, mut config: Config) -> Result<ReloadReport, ReloadError> {
        config.check()?;
        if config.limits.connections == 0 {
            config.limits.connections = connections_by_descriptors();
        }
        // One after another: each is merged with what runs, and would undo what another one has
        // just changed.
        let _one = self.inner.reloading.lock();
        let node = &self.inner.node;
        let (merged, report) = config::merge(&node.runtime_config().config, config);
        // Both may be good by themselves, and not together.
        merged.check().map_err(|error| until_restart(&error))?;
        node.reload(merged).map_err(ReloadError::Setup)?;
        // This comes last, since it looks at what the node now uses.
        self.inner.key_fetchers.update(node, &self.inner.handle);
        Ok(report)
    }
}

/// The problems of a configuration that is good by itself, together with what stays as it is.
fn until_restart(error: &ConfigError) -> ConfigError {
    let problems = error.problems.iter();
    let described = |problem: &Problem| Problem::Rule(format!("without a restart: {problem}"));
    ConfigError {
        problems: problems.map(described).collect(),
    }
}
