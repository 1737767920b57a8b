//! `fanfare check`: would this configuration be served, and what does it mean?

use std::{fmt::Write as _, path::Path};

use clap::Args;

use super::{
    Failure, configuration,
    output::{self, STRONG},
};
use crate::{
    auth::Scope,
    config::{AppConfig, Config, ServeArgs},
};

/// Arguments of `fanfare check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Takes the flags and variables of `fanfare serve`, and does not listen. Prints every problem
with its line, or what was checked and what is set up.

Examples:
  fanfare check --config fanfare.toml
  fanfare check --config fanfare.toml && systemctl restart fanfare")]
pub(super) struct Check {
    #[command(flatten)]
    args: ServeArgs,
}

impl Check {
    /// Loads the configuration, and prints what it means.
    ///
    /// # Errors
    /// Every problem for which [`crate::Server::start`] would refuse it.
    pub(super) fn run(self) -> Result<(), Failure> {
        let (config, warnings) = configuration::load(&self.args)?;
        let file = configuration::file(&self.args);
        output::print(&summary(&config, file.as_deref()))?;
        for warning in warnings {
            output::note(&format!("warning: {warning}"));
        }
        Ok(())
    }
}

fn summary(config: &Config, file: Option<&Path>) -> String {
    let read = file.map_or_else(
        || "flags and variables (without a file)".to_owned(),
        |file| format!("{}, flags and variables", file.display()),
    );
    let mut text = format!(
        "{STRONG}ok{STRONG:#}: {read} were read, with every file that they name, and would be served\n\
         not tried: the addresses to listen on, Redis, key servers\n\
         listen  {}",
        config.listen
    );

    if config.is_development() {
        text.push_str("  (no API keys: development, this machine only)");
    }

    text.push('\n');
    if let Some(admin) = config.admin_listen {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "admin   {admin}");
    }

    if let Some(redis) = &config.redis {
        let _ = writeln!(
            text,
            "redis   {}  (namespace {})",
            redis.url, config.namespace
        );
    }

    for line in config.summary() {
        let _ = writeln!(text, "{line}");
    }

    for (name, app) in &config.apps {
        add_app(&mut text, config, name, app);
    }
    text
}

fn add_app(text: &mut String, config: &Config, name: &str, app: &AppConfig) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "app     {STRONG}{name}{STRONG:#}");
    let mut line = |name: &str, of: String| {
        let _ = writeln!(text, "  {name:<12}  {of}");
    };

    line("client auth", client_auth(config, app));
    for key in &app.keys {
        let scopes = key.scopes.iter().map(Scope::name).collect::<Vec<_>>();
        line("API key", format!("{} ({})", key.name, scopes.join(", ")));
    }

    for key in &app.tokens {
        let kid = key
            .kid
            .as_ref()
            .map_or_else(String::new, |kid| format!(" (kid {kid})"));
        line("token key", format!("{}{kid}", key.alg.name()));
    }

    if let Some(url) = &app.jwks_url {
        line("token keys", format!("from {url}"));
    }

    for key in &app.client_keys {
        line(
            "client key",
            format!("{} ({})", key.name, config.client_key_auth(app, key).name()),
        );
    }

    for rule in &app.channels {
        let (size, presence) = (rule.history_size, rule.presence.name());
        line(
            "channels",
            format!("{} (history {size}, presence {presence})", rule.pattern),
        );
    }

    if let Some(events) = &app.user_events {
        line("user events", format!("{} each", events.size));
    }

    for path in &app.index {
        line("index", path.clone());
    }

    if let Some(origins) = &app.origins {
        line(
            "origins",
            if origins.is_empty() {
                "none".to_owned()
            } else {
                origins.join(", ")
            },
        );
    }
}

fn client_auth(config: &Config, app: &AppConfig) -> String {
    let whether = config.client_auth(app).name();
    let secret = if config.has_ephemeral_secret(app) {
        " (a secret is made up at each start)"
    } else {
        ""
    };
    format!("{whether}{secret}")
}
