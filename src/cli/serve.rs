//! `fanfare serve`: the server as a process, from its configuration to its last signal.

use std::{fmt::Write as _, io, process::ExitCode};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Failure, configuration,
    failure::cannot_listen,
    logging::Logging,
    output::{self, FAINT, STRONG},
    reload::reload,
};
use crate::{
    config::{self, AppConfig, Config, KeyMaterial, ServeArgs},
    server::Server,
};

/// Arguments of `fanfare serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every flag can also be set by a variable, FANFARE_ and its name in capitals, and in the file.
Without --listen, FANFARE_LISTEN and listen, the variable PORT gives the port: of all IPv4
interfaces if there is an API key, otherwise of this machine. `[::]:7070` listens on IPv6 too.

On SIGTERM or Ctrl-C the server drains: it disconnects clients gradually, and then ends. A
second signal ends it immediately. On SIGHUP it reads the configuration again, and applies
what can change while it serves.

Examples:
  fanfare serve
  fanfare serve --listen 8080
  fanfare serve --index auth.email --index auth.tenant
  FANFARE_API_KEY=… FANFARE_TOKEN_SECRET=… fanfare serve --listen 0.0.0.0:7070")]
pub(super) struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

impl Serve {
    /// Serves until a signal. 0 after a drain, 1 if that was cut short or the server could not listen, 2 for a
    /// configuration that cannot be served.
    pub(super) fn run(self) -> ExitCode {
        let (config, warnings) = match configuration::load(&self.args) {
            Ok(loaded) => loaded,
            Err(failure) => return failure.report(),
        };

        let logging = Logging::start(&config);
        for warning in warnings {
            tracing::warn!("{warning}");
        }

        let ended = self.serve(config, &logging);
        logging.finish();
        match ended {
            Ok(code) => code,
            Err(failure) => {
                let code = failure.code();
                // stderr may be stuck.
                output::in_time(move || {
                    let _ = failure.report();
                });
                code
            }
        }
    }

    fn serve(self, config: Config, logging: &Logging) -> Result<ExitCode, Failure> {
        // First: the server takes as many connections as it has descriptors.
        raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Runtime)?;
        let code = runtime.block_on(until_signal(&self.args, config, logging));
        // After a second signal nothing is waited for.
        runtime.shutdown_background();
        code
    }
}

async fn until_signal(
    args: &ServeArgs,
    mut config: Config,
    logging: &Logging,
) -> Result<ExitCode, Failure> {
    // Before the server is up, so that anyone who sees it listen may already end it.
    let mut signals = Signals::new().map_err(Failure::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::Runtime)?;
    let started = Server::start(config.clone());

    if let Ok(server) = &started {
        logging.count_in(server.inner.node.metrics.log_lines_dropped.clone());
        // This comes before the first line of the log, which begins with what the server says of
        // itself. A closed stdout is no reason not to serve.
        let welcome = welcome(&config, server);
        output::in_time(move || drop(output::print(&welcome)));
    }

    logging.write().map_err(Failure::Runtime)?;
    let server = started.map_err(|error| cannot_listen(error, &config))?;
    loop {
        tokio::select! {
            () = signals.next() => break,
            ended = server.wait() => ended?,
            _ = hangup.recv() => reload(&server, args, &mut config, logging),
        }
    }

    tracing::info!("ending; a second signal ends it immediately");
    tokio::select! {
        () = server.shutdown() => {
            server.wait().await?;
            Ok(ExitCode::SUCCESS)
        }
        () = signals.next() => {
            tracing::warn!("a second signal: ending immediately");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Every connection takes a descriptor, and the soft limit is often 1,024, for programs that use select(2).
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// This program as it was called, so that what is printed can be run even if it is not on the `PATH`.
pub(super) fn program() -> String {
    std::env::args()
        .next()
        .filter(|name| !name.contains(char::is_whitespace))
        .unwrap_or_else(|| "fanfare".to_owned())
}

/// What to look at, and in development what to try.
fn welcome(config: &Config, server: &Server) -> String {
    let address = server.address();
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("Fanfare {version} serves {STRONG}http://{address}{STRONG:#}");
    if config.is_development() {
        text.push_str(" (no API keys: development, this machine only)");
    }

    text.push('\n');
    if let Some(admin) = server.admin_address() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "Health and metrics: http://{admin}");
    }

    if !config.is_development() {
        return text;
    }

    let url = format!("http://{address}");
    let option = if url == "http://127.0.0.1:7070" {
        String::new()
    } else {
        format!(" --url {url}")
    };

    // These examples must work as they are, and without tokens there are no users.
    let (who, filter, whom) = if config
        .apps
        .values()
        .next()
        .is_some_and(|app| can_sign(config, app))
    {
        let filter = r#""filter":"user == params.who","params":{"who":"ann"}"#;
        (" --user ann", filter, "the user ann")
    } else {
        ("", r#""filter":"user == null""#, "every anonymous client")
    };

    let mut step = |what: &str, command: &str| {
        let _ = writeln!(text, "\n  {FAINT}# {what}{FAINT:#}\n  {command}");
    };

    step("a page to try everything", &format!("{url}/"));
    step(
        "a client that prints its events",
        &format!("{} listen{option}{who}", program()),
    );
    let body = format!(r#"{{"event":"alert","data":{{"text":"Hello"}},{filter}}}"#);

    step(
        &format!("in another terminal: an event for {whom}"),
        &format!("curl {url}/v1/emit -H 'Content-Type: application/json' -d '{body}'"),
    );
    text.push('\n');
    text
}

/// Whether `POST /v1/tokens` gives tokens that `app` looks at.
fn can_sign(config: &Config, app: &AppConfig) -> bool {
    let has_secret = app
        .tokens
        .iter()
        // A public key verifies tokens, and signs none.
        .any(|key| matches!(key.key, KeyMaterial::Secret(_)));
    config.client_auth(app) != config::ClientAuth::Off
        && (has_secret || config.has_ephemeral_secret(app))
}
