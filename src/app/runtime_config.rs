//! What a reload may change, as one whole: code that takes it sees one configuration, and not half of another.

use std::sync::Arc;

use super::{App, ClientKeys, ClientPage, ClientPolicy, SetupError, policy};
use crate::{
    auth::{ApiKeys, KeySource, Rights, Tokens},
    config::{AppConfig, ClientAuth, Config},
    id::AppId,
    limits::Limits,
};

/// The configuration as it holds now, and what is made of it.
#[derive(Debug)]
pub(crate) struct RuntimeConfig {
    pub(crate) config: Config,
    pub(crate) keys: ApiKeys,
    pub(crate) client_keys: ClientKeys,
    access: Vec<Access>,
}

/// Who may come to one app.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    /// The app's own, then those of client keys. A key's policy keeps its place over reloads, since connections name it
    /// by that.
    policies: Vec<ClientPolicy>,
    /// The client keys of the policies after the first.
    client_keys: Vec<Box<str>>,
}

impl RuntimeConfig {
    /// What `config` makes of `apps`, which are those that it names, in its order. Keys that were fetched, and the places
    /// of policies, are taken over from `before`.
    ///
    /// # Errors
    /// Everything that cannot be used, of all apps.
    pub(crate) fn new(
        config: Config,
        apps: &[App],
        before: Option<&Self>,
    ) -> Result<Self, Vec<SetupError>> {
        let (mut access, mut errors) = (Vec::new(), Vec::new());
        for app in apps {
            match Access::new(app, &config, before.map(|before| before.access(app.id))) {
                Ok(one) => access.push(one),
                Err(error) => errors.push(error),
            }
        }

        // All or nothing: a reload must not change some apps and leave others.
        if !errors.is_empty() {
            return Err(errors);
        }

        let keys = ApiKeys::new(&config.apps);
        let client_keys = ClientKeys::new(&config.apps, |app, key| {
            access[usize::from(app.0)].place_of(key)
        });

        Ok(Self {
            config,
            keys,
            client_keys,
            access,
        })
    }

    pub(crate) fn access(&self, app: AppId) -> &Access {
        &self.access[usize::from(app.0)]
    }

    /// The addresses that keys are fetched from, and for which app.
    pub(crate) fn key_sources(&self) -> impl Iterator<Item = (AppId, &Arc<KeySource>)> {
        let sources = self.access.iter().enumerate();
        sources.filter_map(|(at, access)| Some((AppId(at as u16), access.tokens.source()?)))
    }
}

/// Everything for which no [`Access`] can be made of the app `name`: all of it, so that it can be mended in one go.
pub(super) fn problems(name: &str, app: &AppConfig, limits: &Limits) -> Vec<SetupError> {
    let named = || name.to_owned();
    let mut errors = Vec::new();
    // One at a time, since making all of them stops at the first that is wrong.
    for key in &app.tokens {
        let alone = AppConfig {
            tokens: vec![key.clone()],
            ..AppConfig::default()
        };
        let error = Tokens::new(&alone, None, limits).err();
        errors.extend(error.map(|error| SetupError::TokenKey {
            app: named(),
            error,
        }));
    }

    let default_can = app.default_can.as_ref().map(Rights::from_value);
    let error = default_can.and_then(Result::err);
    errors.extend(error.map(|error| SetupError::Rights {
        app: named(),
        error,
    }));

    for key in &app.client_keys {
        errors.extend(
            policy::rights(key)
                .err()
                .map(|error| SetupError::ClientKey {
                    app: named(),
                    key: key.name.clone(),
                    error,
                }),
        );
    }

    errors
}

impl Access {
    pub(super) fn new(
        app: &App,
        config: &Config,
        before: Option<&Self>,
    ) -> Result<Self, SetupError> {
        let settings = &config.apps[&*app.name];
        let limits = &config.limits;
        let tokens = if config.has_ephemeral_secret(settings) {
            Tokens::ephemeral(settings, app.ephemeral.clone(), limits)
        } else {
            // The same address keeps the keys that were fetched: a reload must not refuse good
            // tokens until the next fetch.
            let known = before.and_then(|before| before.tokens.source());
            let source = settings.jwks_url.as_ref().map(|url| match known {
                Some(known) if known.url() == url => known.clone(),
                _ => Arc::new(KeySource::new(url.clone())),
            });
            Tokens::new(settings, source, limits)
        };

        let tokens = tokens.map_err(|error| SetupError::TokenKey {
            app: app.name.to_string(),
            error,
        })?;

        // They are only added to, since connections name a policy by its place.
        let mut client_keys = before
            .map(|before| before.client_keys.clone())
            .unwrap_or_default();
        for key in &settings.client_keys {
            if !client_keys.iter().any(|known| **known == *key.key) {
                client_keys.push(key.key.as_str().into());
            }
        }

        let own = ClientPolicy::own(&app.name, settings, config)?;
        let mut policies = vec![own.clone()];
        for known in &client_keys {
            // A client that came with a key that is gone stays, and is from then on like one that came without.
            let policy = match settings.client_keys.iter().find(|key| *key.key == **known) {
                Some(key) => ClientPolicy::of_key(&app.name, settings, key, &own, config)?,
                None => own.clone(),
            };
            policies.push(policy);
        }

        Ok(Self {
            tokens,
            policies,
            client_keys,
        })
    }

    /// What holds for clients that come with the client key at `index`, as [`ClientKeys::find`] gives it; 0 is for those
    /// without one.
    pub(crate) fn policy(&self, index: usize) -> &ClientPolicy {
        &self.policies[index]
    }

    /// Whether there are client keys, and so a client can be asked for one.
    pub(crate) fn has_client_keys(&self) -> bool {
        !self.client_keys.is_empty()
    }

    /// Whether some client from a page of `origin` may connect, with the right credentials.
    pub(crate) fn may_any(&self, origin: &str, development: bool) -> bool {
        let page = ClientPage {
            origin,
            has_token: true,
            is_development: development,
        };
        self.policies.iter().any(|policy| policy.allows(&page))
    }

    /// Why no client from a page of `origin` may connect, whatever its credentials.
    pub(crate) fn every_page_refusal(&self, origin: &str) -> String {
        let own = self.policies[0].page_refusal(origin, "a token");
        if self.policies.len() > 1 {
            own + ", nor in those of a client key"
        } else {
            own
        }
    }

    /// Whether any client can authenticate, and so be a user.
    pub(crate) fn has_users(&self) -> bool {
        self.policies
            .iter()
            .any(|policy| policy.client_auth != ClientAuth::Off)
    }

    fn place_of(&self, key: &str) -> usize {
        // The app's own policy comes first.
        self.client_keys
            .iter()
            .position(|known| **known == *key)
            .map_or(0, |at| at + 1)
    }
}
