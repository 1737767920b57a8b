//! SIGHUP: the configuration is read again, and the server goes on with what of it can change.

use super::logging::Logging;
use crate::{
    ReloadError,
    config::{self, Config, ConfigError, ServeArgs},
    server::Server,
};

/// Reads flags, environment and file again, and says line by line what changed, and what could not. A bad configuration
/// changes nothing.
pub(super) fn reload(server: &Server, args: &ServeArgs, running: &mut Config, logging: &Logging) {
    let config = match Config::load(args, config::environment()) {
        Ok(config) => config,
        Err(error) => {
            // `Server::reload` counts only what it refuses itself.
            server.inner.node.metrics.reloads_refused.inc();
            return refuse(&error);
        }
    };

    let report = match server.reload(config.clone()) {
        Ok(report) => report,
        Err(ReloadError::Config(error)) => return refuse(&error),
        Err(ReloadError::Setup(errors)) => {
            return errors
                .iter()
                .for_each(|error| tracing::error!("reload refused, nothing has changed: {error}"));
        }
    };

    let log = config.log != running.log;
    let log_format = config.log_format != running.log_format;
    if report.is_empty() && !log && !log_format {
        tracing::info!("reload: nothing has changed");
    }

    for line in &report.applied {
        tracing::info!("reload: {line}");
    }

    if log {
        tracing::info!("reload: log: {} -> {}", running.log, config.log);
    }

    if log_format {
        tracing::warn!("reload: needs a restart: log_format: changed");
    }

    for line in &report.needs_restart {
        tracing::warn!("reload: needs a restart: {line}");
    }

    // Last, so that the lines above are logged as before.
    if log {
        logging.change(&config.log);
        running.log = config.log;
    }
}

fn refuse(error: &ConfigError) {
    for problem in &error.problems {
        tracing::error!("reload refused, nothing has changed: {problem}");
    }
}
