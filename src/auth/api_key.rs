//! API keys: who presents one, and what it allows.

use std::collections::BTreeMap;

use super::{Scope, Scopes};
use crate::{
    config::{AppConfig, KeyHash},
    id::AppId,
};

/// One key, known by its hash only.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// What logs and metrics call it; unique in its app.
    pub name: Box<str>,
    /// The app that it belongs to.
    pub app: AppId,
    /// What it may do.
    pub scopes: Scopes,
    hash: KeyHash,
}

impl ApiKey {
    /// Whether the key may make calls of `scope`.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }
}

/// The API keys of all apps.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    keys: Vec<ApiKey>,
}

impl ApiKeys {
    /// The keys of `apps`; an app's id is its place in their order.
    pub fn new(apps: &BTreeMap<String, AppConfig>) -> Self {
        let mut keys = Vec::new();
        for (n, app) in apps.values().enumerate() {
            keys.extend(app.keys.iter().map(|key| ApiKey {
                name: key.name.as_str().into(),
                app: AppId(n as u16),
                scopes: key.scopes,
                hash: key.hash,
            }));
        }
        Self { keys }
    }

    /// Whether there are none, and so nobody can be asked for one.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key that `presented` is, if it is one.
    ///
    /// Compares its hash with every key's, each in constant time, so that the time taken reveals neither how much of
    /// a guess was right nor which key it was. Costs one SHA-256 and a few ns per key.
    pub fn authenticate(&self, presented: &str) -> Option<&ApiKey> {
        self.find(KeyHash::of(presented))
    }

    /// The key with this hash, if it is still one: found as [`ApiKeys::authenticate`] does.
    pub fn find(&self, hash: KeyHash) -> Option<&ApiKey> {
        // Goes on after the key is found: the time must not show which one it was.
        self.keys.iter().fold(
            None,
            |found, key| if key.hash == hash { Some(key) } else { found },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiKeyConfig, Secret};

    fn app(keys: &[(&str, &str, &[Scope])]) -> AppConfig {
        let key = |(name, key, scopes): &(&str, &str, &[Scope])| {
            ApiKeyConfig::from_plain(name, &Secret::from(*key), scopes.iter().copied().collect())
                .unwrap()
        };
        AppConfig {
            keys: keys.iter().map(key).collect(),
            ..AppConfig::default()
        }
    }

    #[test]
    fn a_key_opens_its_own_app_with_its_own_scopes() {
        let keys = ApiKeys::new(&BTreeMap::from([
            (
                "a".to_owned(),
                app(&[("one", "first-key-of-app-a", &[Scope::Publish])]),
            ),
            (
                "b".to_owned(),
                app(&[
                    ("one", "first-key-of-app-b", &[]),
                    ("two", "second-key-of-app-b", &Scope::ALL),
                ]),
            ),
        ]));
        let found = keys.authenticate("first-key-of-app-a").unwrap();
        assert_eq!((&*found.name, found.app), ("one", AppId(0)));
        assert!(found.may(Scope::Publish) && !found.may(Scope::Tokens));
        let found = keys.authenticate("second-key-of-app-b").unwrap();
        assert_eq!(
            (&*found.name, found.app, found.scopes),
            ("two", AppId(1), Scopes::ALL)
        );
        for stranger in [
            "",
            "first-key-of-app-",
            "first-key-of-app-a ",
            "First-key-of-app-a",
        ] {
            assert!(keys.authenticate(stranger).is_none(), "{stranger}");
        }
    }

    #[test]
    fn without_keys_nobody_is_authenticated() {
        assert!(ApiKeys::default().is_empty());
        assert!(ApiKeys::default().authenticate("").is_none());
    }
}
