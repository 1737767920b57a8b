//! Log lines on stderr.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    sync::Arc,
    thread,
};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;

use super::log_lines::LogLines;
use crate::config::{Config, LogFormat};

type Set = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error>>;

/// The log of this process. Its filter can change while the program runs.
pub(super) struct Logging {
    set: Set,
    lines: Arc<LogLines>,
}

impl Logging {
    /// Logs in the configured form from now on. The lines wait until [`Logging::write`].
    pub(super) fn start(config: &Config) -> Self {
        let lines = Arc::new(LogLines::default());
        let format = tracing_subscriber::fmt()
            .with_env_filter(filter(&config.log))
            // It would write to stderr by itself, and wait for it.
            .log_internal_errors(false)
            .with_writer(lines.clone());

        // Setting it fails only where this process has a logger already, which then is the one to use.
        let set: Set = match config.log_format {
            LogFormat::Text => {
                let format = format.with_ansi(has_colours()).with_filter_reloading();
                let handle = format.reload_handle();
                let _ = format.try_init();
                Box::new(move |filter| handle.reload(filter))
            }
            LogFormat::Json => {
                let format = format.json().with_filter_reloading();
                let handle = format.reload_handle();
                let _ = format.try_init();
                Box::new(move |filter| handle.reload(filter))
            }
        };

        // The standard library would print a panic to stderr itself, and wait for that on the thread that has
        // panicked.
        panic::set_hook(Box::new(log_panic));
        Self { set, lines }
    }

    /// Counts lines that are dropped in `counter`.
    pub(super) fn count_in(&self, counter: Counter) {
        self.lines.count_in(counter);
    }

    /// Writes what is logged to stderr from now on, and what was logged before.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn write(&self) -> io::Result<()> {
        self.lines.write_to(io::stderr(), |lines| {
            tracing::warn!(
                lines,
                "log lines were dropped: the reader of the log was too slow"
            );
        })
    }

    /// Waits until the last line is written, but not for a reader that is stuck.
    pub(super) fn finish(&self) {
        self.lines.finish();
    }

    /// Logs what `log` says from now on.
    pub(super) fn change(&self, log: &str) {
        if let Err(error) = (self.set)(filter(log)) {
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

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = info.location().map(ToString::to_string);
    // It is captured only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(thread, location, backtrace, "panic: {message}");
}
