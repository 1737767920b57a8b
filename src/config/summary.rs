//! What a configuration means to those who reach the server, in one line for each question.

use super::{AppConfig, ClientAuth, Config, ProtocolKind};

impl Config {
    /// Who can connect, who can call, at which paths, and what is lost at a restart: one line each, and one per app where there are
    /// several. `fanfare check` prints them, and the server logs them when it starts.
    pub fn summary(&self) -> Vec<String> {
        let is_one = self.apps.len() == 1;
        let of = |name: &str| {
            if is_one {
                String::new()
            } else {
                format!(" of app \"{name}\"")
            }
        };

        let apps = || self.apps.iter();

        let clients =
            apps().map(|(name, app)| format!("clients{}: {}", of(name), self.clients(app)));
        let mut lines: Vec<String> = clients.collect();
        if self.is_development() {
            lines.push("callers: everyone on this machine (no API key is set)".to_owned());
        } else {
            lines
                .extend(apps().map(|(name, app)| format!("callers{}: {}", of(name), callers(app))));
        }

        lines
            .extend(apps().map(|(name, app)| format!("protocols{}: {}", of(name), protocols(app))));
        // Tokens of a secret that is made up at each start end with the server.
        let with_keys = apps().filter(|(_, app)| app.has_token_keys() && self.has_users(app));
        lines.extend(
            with_keys.map(|(name, app)| format!("tokens{}: {}", of(name), self.tokens(app))),
        );
        lines.extend(apps().map(|(name, app)| format!("kept{}: {}", of(name), self.stored(app))));

        lines
    }

    fn clients(&self, app: &AppConfig) -> String {
        let answer = |auth, origins| format!("{}; {}", self.who(auth), self.pages(auth, origins));
        let own = answer(self.client_auth(app), app.origins.as_deref());
        let keys = app.client_keys.iter().filter_map(|key| {
            let origins = key.origins.as_deref().or(app.origins.as_deref());
            let of_key = answer(self.client_key_auth(app, key), origins);
            (of_key != own).then(|| format!("; with client key \"{}\": {of_key}", key.name))
        });
        let keys: String = keys.collect();
        own + &keys
    }

    fn who(&self, auth: ClientAuth) -> String {
        let everyone = if self.is_loopback() {
            "everyone on this machine"
        } else {
            "everyone"
        };
        match auth {
            ClientAuth::Required => "only with a token (client_auth = \"required\")".to_owned(),
            ClientAuth::Optional => {
                format!("{everyone}, with or without a token (client_auth = \"optional\")")
            }
            ClientAuth::Off => format!("{everyone}, without a name (client_auth = \"off\")"),
        }
    }

    /// From which pages a browser may connect.
    fn pages(&self, auth: ClientAuth, origins: Option<&[String]>) -> String {
        match (origins, auth) {
            // Without API keys only requests of this machine are served, whatever the list says.
            _ if self.is_development() => "pages on localhost only".to_owned(),
            (Some([]), _) | (None, ClientAuth::Off) => "no page (set origins)".to_owned(),
            (Some(list), _) if list.iter().any(|origin| origin == "*") => {
                "pages of every origin".to_owned()
            }
            (Some(list), _) => format!("pages of {}", list.join(", ")),
            (None, ClientAuth::Required) => "pages of every origin".to_owned(),
            (None, ClientAuth::Optional) => "pages only with a token (set origins)".to_owned(),
        }
    }

    /// Which tokens are refused, and for how long that holds.
    fn tokens(&self, app: &AppConfig) -> String {
        let lives = if app.require_exp {
            "refused without exp (require_exp)"
        } else {
            "good without exp (set require_exp to refuse them)"
        };

        let revoked = if self.redis.is_some() {
            "revocations are kept in Redis"
        } else if self.data.is_some() {
            "revocations are kept in the data directory"
        } else {
            "revocations are in memory only: a restart loses them (set data or redis)"
        };

        format!("{lives}; {revoked}")
    }

    fn stored(&self, app: &AppConfig) -> String {
        let histories = app.channels.iter().any(|rule| rule.history_size > 0);
        let stored: Vec<&str> = [
            (histories, "channel histories"),
            (app.user_events.is_some(), "events for users"),
        ]
        .into_iter()
        .filter_map(|(is_on, what)| is_on.then_some(what))
        .collect();

        if stored.is_empty() {
            return "nothing (no channel has a history, and no events are stored for users)"
                .to_owned();
        }

        let stored = stored.join(" and ");
        if self.redis.is_some() {
            format!("{stored}, in Redis")
        } else if let Some(data) = &self.data {
            format!("{stored}, in {}; {}", data.dir.display(), data.loss())
        } else {
            format!("{stored}, in memory only: a restart loses them (set data or redis)")
        }
    }
}

fn callers(app: &AppConfig) -> String {
    match app.keys.len() {
        0 => "nobody (the app has no API key)".to_owned(),
        1 => "only with the API key".to_owned(),
        keys => format!("only with one of {keys} API keys"),
    }
}

/// Which clients are served, and where they connect.
fn protocols(app: &AppConfig) -> String {
    let native = "fanfare.v1 at /v1/connect".to_owned();
    let others = app.protocols.paths().map(|(kind, path)| {
        let hosts = match app.protocols.hosts(kind) {
            [] => String::new(),
            hosts => format!(" of {}", hosts.join(", ")),
        };
        let namespaces = match &app.protocols.socketio {
            Some(socketio) if kind == ProtocolKind::SocketIo => {
                format!(" (namespaces {})", socketio.namespaces.join(", "))
            }
            _ => String::new(),
        };
        format!("{kind} at {path}{hosts}{namespaces}")
    });

    let all: Vec<String> = std::iter::once(native).chain(others).collect();
    match all.len() {
        1 => format!("{} only (--protocol adds others)", all.join("")),
        _ => all.join("; "),
    }
}
