//! Log lines on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

type Set = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error>>;

/// What is logged, which can change while the program runs.
pub(super) struct Logging(Set);

impl Logging {
    /// Writes log lines to stderr from now on, in the configured form.
    pub(super) fn start(config: &Config) -> Self {
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter(&config.log))
            .with_writer(io::stderr);
        // Setting it fails only where this process has a logger already, which then is the one to use.
        match config.log_format {
            LogFormat::Text => {
                let lines = lines.with_ansi(has_colours()).with_filter_reloading();
                let handle = lines.reload_handle();
                let _ = lines.try_init();
                Self(Box::new(move |filter| handle.reload(filter)))
            }
            LogFormat::Json => {
                let lines = lines.json().with_filter_reloading();
                let handle = lines.reload_handle();
                let _ = lines.try_init();
                Self(Box::new(move |filter| handle.reload(filter)))
            }
        }
    }

    /// Logs what `log` says from now on.
    pub(super) fn change(&self, log: &str) {
        if let Err(error) = self.0(filter(log)) {
            tracing::error!(%error, "cannot change what is logged");
        }
    }
}

/// `Config::check` has parsed it before.
fn filter(log: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(log)
}

fn has_colours() -> bool {
    let stderr = io::stderr();
    stderr.is_terminal() && anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never
}
