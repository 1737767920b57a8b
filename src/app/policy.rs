//! Who may come to an app, and with what rights: by its own settings, or by those of a client key.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;

use super::SetupError;
use crate::{
    auth::{Rights, RightsError},
    close,
    config::{AppConfig, ClientAuth, ClientKeyConfig, Config, OriginPattern},
    id::AppId,
};

/// What holds for the clients of an app that come without a key, or with one of its client keys.
#[derive(Clone, Debug)]
pub(crate) struct ClientPolicy {
    pub(crate) client_auth: ClientAuth,
    /// The rights of a client whose token has no `can`.
    pub(crate) default_rights: Arc<Rights>,
    origins: Option<Vec<OriginPattern>>,
    /// Whose the origins are, in messages.
    whose: Arc<str>,
}

/// Of an Origin, so many characters are shown in messages. A close frame has room for 123 bytes.
const ORIGIN_CHARS: usize = 48;

/// The page that a client comes from, and how it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientPage<'a> {
    pub(crate) origin: &'a str,
    /// The client has a token.
    pub(crate) has_token: bool,
    pub(crate) is_development: bool,
}

impl ClientPolicy {
    /// What holds for clients without a client key.
    pub(super) fn own(name: &str, app: &AppConfig, config: &Config) -> Result<Self, SetupError> {
        let default_rights = match &app.default_can {
            Some(can) => Rights::from_value(can).map_err(|error| SetupError::Rights {
                app: name.to_owned(),
                error,
            })?,
            None if config.is_development() => Rights::everything(),
            None => Rights::nothing(),
        };

        Ok(Self {
            client_auth: config.client_auth(app),
            default_rights: Arc::new(default_rights),
            origins: app.origins.as_deref().map(patterns),
            whose: format!("app \"{name}\"").into(),
        })
    }

    /// What holds for clients with `key`: what it says, else what the app's `own` policy does.
    pub(super) fn of_key(
        name: &str,
        app: &AppConfig,
        key: &ClientKeyConfig,
        own: &Self,
        config: &Config,
    ) -> Result<Self, SetupError> {
        let rights = rights(key).map_err(|error| SetupError::ClientKey {
            app: name.to_owned(),
            key: key.name.clone(),
            error,
        })?;

        Ok(Self {
            client_auth: config.client_key_auth(app, key),
            default_rights: rights.map_or_else(|| own.default_rights.clone(), Arc::new),
            origins: key
                .origins
                .as_deref()
                .map(patterns)
                .or_else(|| own.origins.clone()),
            whose: match key.origins {
                Some(_) => format!("client key \"{}\"", key.name).into(),
                None => own.whose.clone(),
            },
        })
    }

    /// Whether a client of `page` may connect. Where the configuration says nothing, any page may with a token, since
    /// the token is the proof, and none without one, except in development, which pages of other hosts cannot reach.
    pub(crate) fn allows(&self, page: &ClientPage<'_>) -> bool {
        match &self.origins {
            Some(origins) => origins.iter().any(|allowed| allowed.matches(page.origin)),
            None => page.is_development || (page.has_token && self.client_auth != ClientAuth::Off),
        }
    }

    /// Why a page of `origin` may not connect, and what to do. `token` says how its client would send a token.
    pub(crate) fn page_refusal(&self, origin: &str, token: &str) -> String {
        let whose = &self.whose;
        let origin: String = origin.chars().take(ORIGIN_CHARS).collect();
        match (&self.origins, self.client_auth) {
            (Some(_), _) => format!(
                "{}{origin:?} is not in origins of {whose}",
                close::ORIGIN_REFUSED
            ),
            (None, ClientAuth::Off) => format!(
                "{}{origin:?} is not in origins of {whose}, which has none",
                close::ORIGIN_REFUSED
            ),
            (None, _) => format!(
                "{}may not connect: send {token} (or list the page in origins: {origin:?})",
                close::PAGE_WITHOUT_TOKEN
            ),
        }
    }
}

/// The configuration refuses what is not an origin. Here it lets in nobody.
fn patterns(origins: &[String]) -> Vec<OriginPattern> {
    origins
        .iter()
        .filter_map(|origin| origin.parse().ok())
        .collect()
}

/// The rights that come with `key`, if it says any.
pub(super) fn rights(key: &ClientKeyConfig) -> Result<Option<Rights>, RightsError> {
    key.can
        .as_ref()
        .map(|can| Rights::parse(&can.to_string()))
        .transpose()
}

/// The client keys of all apps: which app a key names, and which of its policies.
#[derive(Debug)]
pub(crate) struct ClientKeys(AHashMap<Box<str>, (AppId, usize)>);

impl ClientKeys {
    /// The keys of `apps`; an app's id is its place in their order, and `place` that of a key's policy.
    pub(crate) fn new(
        apps: &BTreeMap<String, AppConfig>,
        place: impl Fn(AppId, &str) -> usize,
    ) -> Self {
        // Keys differ between all apps, which the configuration checks.
        let mut keys = AHashMap::new();
        for (at, app) in apps.values().enumerate() {
            let id = AppId(at as u16);
            for key in &app.client_keys {
                keys.insert(key.key.as_str().into(), (id, place(id, &key.key)));
            }
        }
        Self(keys)
    }

    /// The app that `key` names, and the place of its policy there.
    pub(crate) fn find(&self, key: &str) -> Option<(AppId, usize)> {
        // A client key is public, as part of each page that uses it. So it is not compared in
        // constant time, as secrets are.
        self.0.get(key).copied()
    }
}
