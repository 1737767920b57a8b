//! Whether keys are what they must be: each of one app, under one name, and no secret made public.

use std::collections::BTreeSet;

use super::{
    AppConfig, ClientAuth, ClientKeyConfig, Config, KeyHash, KeyMaterial, TokenAlgorithm,
    form::is_name, problems::Problems,
};
use crate::limits::{CLIENT_KEY_BYTES, CLIENT_KEY_BYTES_MIN, TOKEN_SECRET_BYTES, TOKEN_TRIES};

/// What is wrong with a name.
const KEY_NAME: &str = "is not 1 to 64 visible characters";

impl Config {
    /// Clients that may have to authenticate need a key to be verified with.
    pub(super) fn check_client_auth(&self, name: &str, app: &AppConfig, problems: &mut Problems) {
        let setting = |key: &str| format!("apps.{name}.{key}");
        if app.user_events.is_some() && !self.has_users(app) {
            let needs = [setting("client_auth"), setting("client_keys")];
            problems.needing(setting("user_events"), needs, format!(
                "app \"{name}\": user_events keeps events for users, and with client_auth = \"off\" no client is one; leave \
                 user_events (--store-user-events) out, or set client_auth = \"optional\""
            ));
        }

        // On loopback a secret is made up at the start, if there is no other key.
        if self.is_loopback() || app.has_token_keys() {
            return;
        }

        let needs = ["tokens", "jwks_url", "client_auth"].map(setting);
        let needs = [&needs[..], &["listen".to_owned()]].concat();
        for (n, key) in app.client_keys.iter().enumerate() {
            if let Some(client_auth @ (ClientAuth::Required | ClientAuth::Optional)) =
                key.client_auth
            {
                let setting = setting(&format!("client_keys[{n}].client_auth"));
                problems.needing(setting, needs.clone(), format!(
                    "app \"{name}\", client key \"{}\": client_auth is \"{}\", but no key is set that verifies \
                     tokens; set [[apps.{name}.tokens]] or jwks_url, or client_auth = \"off\" for the key too",
                    key.name,
                    client_auth.name()
                ));
            }
        }

        let (key, why) = match app.client_auth {
            Some(ClientAuth::Off) => return,
            Some(set) => {
                let why = format!(
                    "client_auth is \"{}\", but no key is set that verifies tokens",
                    set.name()
                );
                (setting("client_auth"), why)
            }
            None => (
                format!("apps.{name}"),
                "no key is set that verifies client tokens".to_owned(),
            ),
        };

        problems.needing(key, needs, format!(
            "app \"{name}\": {why}; set --token-secret, FANFARE_TOKEN_SECRET, [[apps.{name}.tokens]] or \
             jwks_url, or client_auth = \"off\""
        ));
    }

    /// A name stands for one key in logs and in the store of answers, and a key for one app.
    pub(super) fn check_key_names(&self, problems: &mut Problems) {
        let keys: Vec<_> = self
            .apps
            .iter()
            .flat_map(|(app, config)| {
                let keys = config.keys.iter().enumerate();
                keys.map(move |(n, key)| (app, format!("apps.{app}.keys[{n}]"), key))
            })
            .collect();

        for (n, (app, setting, key)) in keys.iter().enumerate() {
            if key.key_file.is_some() {
                problems.value(format!("{setting}.key_file"), format!(
                    "app \"{app}\": key_file of API key \"{}\" was not read; only Config::load reads files",
                    key.name
                ));
            }

            if !is_key_name(&key.name) {
                problems.value(
                    format!("{setting}.name"),
                    format!("app \"{app}\": API key name {:?} {KEY_NAME}", key.name),
                );
            }

            // With those before it only, so that two that are the same are one problem.
            for (other_app, _, other) in &keys[..n] {
                // Keys whose files could not be read are not the same.
                if key.hash == other.hash && key.hash != KeyHash::NONE {
                    problems.value(setting.as_str(), format!(
                        "API keys \"{}\" of app \"{other_app}\" and \"{}\" of app \"{app}\" are the same key; \
                         a key belongs to one app, under one name",
                        other.name, key.name
                    ));
                } else if app == other_app && key.name == other.name {
                    problems.value(
                        format!("{setting}.name"),
                        format!("app \"{app}\": two API keys are named \"{}\"", key.name),
                    );
                }
            }
        }
    }

    /// A client key names one app, and anyone who opens the page can read it.
    pub(super) fn check_client_keys(&self, problems: &mut Problems) {
        let keys: Vec<_> = self
            .apps
            .iter()
            .flat_map(|(app, config)| {
                let keys = config.client_keys.iter().enumerate();
                keys.map(move |(n, key)| (app, format!("apps.{app}.client_keys[{n}]"), key))
            })
            .collect();

        for (n, (app, setting, key)) in keys.iter().enumerate() {
            check_form(app, setting, key, problems);
            for (other_app, _, other) in &keys[..n] {
                if key.key == other.key {
                    problems.value(format!("{setting}.key"), format!(
                        "client keys \"{}\" of app \"{other_app}\" and \"{}\" of app \"{app}\" are the same key; a \
                         key names one app, under one name",
                        other.name, key.name
                    ));
                } else if app == other_app && key.name == other.name {
                    problems.value(
                        format!("{setting}.name"),
                        format!("app \"{app}\": two client keys are named \"{}\"", key.name),
                    );
                }
            }

            if let Some(secret) = self.secret_equal_to(&key.key) {
                problems.value(format!("{setting}.key"), format!(
                    "app \"{app}\": client key \"{}\" is {secret}; a client key is public, so make another",
                    key.name
                ));
            }
        }
    }

    /// The secret, of whichever app, that `public` gives away.
    fn secret_equal_to(&self, public: &str) -> Option<String> {
        // Of an API key only the hash is known.
        let hash = KeyHash::of(public);
        self.apps.iter().find_map(|(app, config)| {
            let api_key = config.keys.iter().find(|key| key.hash == hash);
            if let Some(key) = api_key {
                return Some(format!("API key \"{}\" of app \"{app}\" too", key.name));
            }
            let signs =
                |key: &KeyMaterial| matches!(key, KeyMaterial::Secret(secret) if secret.expose() == public);
            let signer = config.tokens.iter().any(|token| signs(&token.key));
            signer.then(|| format!("the token secret of app \"{app}\" too"))
        })
    }
}

pub(super) fn check_token_keys(name: &str, app: &AppConfig, problems: &mut Problems) {
    let setting = |key: &str| format!("apps.{name}.{key}");
    if app.jwks_url.is_some() && app.issuer.is_none() && app.audience.is_none() {
        let needs = ["issuer", "audience"].map(setting);
        problems.needing(setting("jwks_url"), needs, format!(
            "app \"{name}\": jwks_url without issuer or audience would take every token that is signed there, also \
             those for others; set at least one of the two"
        ));
    }

    // Not for HS256: trying a shared secret costs so little that it is not bounded.
    for alg in [
        TokenAlgorithm::RS256,
        TokenAlgorithm::ES256,
        TokenAlgorithm::EdDSA,
    ] {
        let unnamed = app
            .tokens
            .iter()
            .filter(|key| key.alg == alg && key.kid.is_none())
            .count();

        if unnamed > TOKEN_TRIES {
            problems.value(setting("tokens"), format!(
                "app \"{name}\": {unnamed} token keys of {} have no kid, and at most {TOKEN_TRIES} are tried for a token; \
                 set kid",
                alg.name()
            ));
        }
    }

    let mut kids = BTreeSet::new();
    for (n, key) in app.tokens.iter().enumerate() {
        if let Some(kid) = &key.kid
            && !kids.insert(kid)
        {
            let message = format!("app \"{name}\": two token keys have kid \"{kid}\"");
            problems.value(setting(&format!("tokens[{n}].kid")), message);
        }

        if let (TokenAlgorithm::HS256, KeyMaterial::Secret(secret)) = (key.alg, &key.key)
            && secret.expose().len() < TOKEN_SECRET_BYTES
        {
            problems.value(setting(&format!("tokens[{n}].secret")), format!(
                "app \"{name}\": the token secret has {} bytes, and HS256 needs at least {} (make one with: openssl rand \
                 -hex 32)",
                secret.expose().len(),
                TOKEN_SECRET_BYTES
            ));
        }
    }
}

/// `setting` is the path of the key.
fn check_form(app: &str, setting: &str, key: &ClientKeyConfig, problems: &mut Problems) {
    if !is_key_name(&key.name) {
        problems.value(
            format!("{setting}.name"),
            format!("app \"{app}\": client key name {:?} {KEY_NAME}", key.name),
        );
    }

    let plain = |byte: u8| byte.is_ascii_graphic() && !b"&=+%#".contains(&byte);
    if key.key.len() < CLIENT_KEY_BYTES_MIN || !is_name(&key.key, CLIENT_KEY_BYTES, plain) {
        problems.value(format!("{setting}.key"), format!(
            "app \"{app}\": client key \"{}\" must be {CLIENT_KEY_BYTES_MIN} to {CLIENT_KEY_BYTES} visible ASCII \
             characters without & = + % #, so that it needs no escaping in an address",
            key.name
        ));
    }
}

fn is_key_name(name: &str) -> bool {
    is_name(name, 64, |byte| byte.is_ascii_graphic())
}
