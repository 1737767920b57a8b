//! The TOML file, and the files of keys that it names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    ApiKeyConfig, Config, KeyMaterial, Problem, Secret,
    document::{self, Document},
    words,
};

/// Reads the file at `path`, which `setting` names, over the defaults.
pub(super) fn read(setting: &str, path: &Path) -> Result<Document, Problem> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(setting, path, &error))?;
    Ok(document::read(path, &text))
}

/// The keys of a table by its head, such as `[limits]`, as serde knows them.
pub(super) fn known_keys(table: &str) -> Vec<String> {
    // A key that no table has is refused with a list of all that it has.
    let Err(error) = toml::from_str::<Config>(&format!("{table}\n\"?\" = 1")) else {
        return Vec::new();
    };
    words::unknown_field(error.message()).map_or_else(Vec::new, |(_, known)| {
        known.into_iter().map(str::to_owned).collect()
    })
}

/// Reads the keys and certificates that the configuration names by their files, relative to `folder`.
pub(super) fn read_keys(config: &mut Config, folder: Option<&Path>, problems: &mut Vec<Problem>) {
    let place = |path: &PathBuf| {
        folder.map_or_else(
            || path.clone(),
            |folder: &Path| -> PathBuf { folder.join(path) },
        )
    };

    let place = &place;
    if let Some(data) = &mut config.data
        && !data.dir.as_os_str().is_empty()
    {
        // Beside the file that names it, as all relative paths are.
        data.dir = place(&data.dir);
    }

    for (setting, file) in config.redis.iter_mut().flat_map(|redis| {
        [
            ("redis.ca", &mut redis.ca),
            ("redis.cert", &mut redis.cert),
            ("redis.key", &mut redis.key),
        ]
    }) {
        let Some(file) = file else { continue };
        file.path = place(&file.path);
        match fs::read(&file.path) {
            Ok(pem) => file.pem = pem,
            Err(error) => problems.push(unreadable(setting, &file.path, &error)),
        }
    }

    for (name, app) in &mut config.apps {
        for (n, key) in app.tokens.iter_mut().enumerate() {
            if let KeyMaterial::PublicFile(path) = &key.key {
                let path = place(path);
                let setting = format!("apps.{name}.tokens[{n}].public_key_file");
                match fs::read_to_string(&path) {
                    Ok(pem) => key.key = KeyMaterial::Public(pem),
                    Err(error) => problems.push(unreadable(&setting, &path, &error)),
                }
            }
        }
    }

    read_redis_secrets(config, place, problems);
    read_app_secrets(config, place, problems);
}

fn read_redis_secrets(
    config: &mut Config,
    place: impl Fn(&PathBuf) -> PathBuf,
    problems: &mut Vec<Problem>,
) {
    let Some(redis) = &mut config.redis else {
        return;
    };

    if let Some(path) = redis.url_file.take() {
        let setting = "redis.url_file";
        // A URL that nobody has set has no servers.
        if !redis.url.servers.is_empty() {
            problems.push(both("redis.url", setting));
        } else if let Some(text) = read_secret(setting, &place(&path), problems) {
            match text.expose().parse() {
                Ok(url) => redis.url = url,
                Err(error) => problems.push(Problem::Value {
                    place: setting.to_owned(),
                    message: format!("the file's content: {error}"),
                }),
            }
        }
    }

    if let Some(path) = redis.sentinel_password_file.take() {
        let setting = "redis.sentinel_password_file";
        if redis.sentinel_password.is_some() {
            problems.push(both("redis.sentinel_password", setting));
        } else {
            redis.sentinel_password = read_secret(setting, &place(&path), problems);
        }
    }
}

fn read_app_secrets(
    config: &mut Config,
    place: impl Fn(&PathBuf) -> PathBuf,
    problems: &mut Vec<Problem>,
) {
    for (name, app) in &mut config.apps {
        for (n, key) in app.keys.iter_mut().enumerate() {
            // Taken even if it cannot be read: what is left would be a second problem of the same file.
            let Some(path) = key.key_file.take() else {
                continue;
            };

            let setting = format!("apps.{name}.keys[{n}].key_file");
            let Some(text) = read_secret(&setting, &place(&path), problems) else {
                continue;
            };

            match ApiKeyConfig::from_plain(&key.name, &text, key.scopes) {
                Ok(read) => *key = read,
                Err(error) => problems.push(Problem::Value {
                    place: setting,
                    message: error.to_string(),
                }),
            }
        }

        for (n, key) in app.tokens.iter_mut().enumerate() {
            if let KeyMaterial::SecretFile(path) = &key.key {
                let setting = format!("apps.{name}.tokens[{n}].secret_file");
                if let Some(secret) = read_secret(&setting, &place(path), problems) {
                    key.key = KeyMaterial::Secret(secret);
                }
            }
        }
    }
}

/// The problem of a file that `setting` names. What is secret is read by [`read_secret`].
fn unreadable(setting: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::Value {
        place: setting.to_owned(),
        message: format!("cannot read {}: {}", path.display(), reason(error)),
    }
}

/// Why a file cannot be read.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// The secret in the file at `path`: all that is in it, less the line break at its end.
///
/// Nothing that is said of it repeats the path: a secret that is given in its place must not be shown.
pub(super) fn read_secret(
    setting: &str,
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Secret> {
    let mut refuse = |message: String| {
        problems.push(Problem::Value {
            place: setting.to_owned(),
            message,
        });
        None
    };

    match fs::read_to_string(path) {
        // Only the line break goes that editors and `echo` add. Spaces may be part of the secret.
        Ok(text) => match text.trim_end_matches(['\n', '\r']) {
            "" => refuse("the file is empty; write the secret into it".to_owned()),
            secret => Some(secret.into()),
        },
        Err(error) => refuse(format!(
            "cannot read the file: {}; name a file that holds the secret, not the secret itself",
            reason(&error)
        )),
    }
}

/// A secret that is given in two forms.
pub(super) fn both(one: &str, other: &str) -> Problem {
    Problem::Rule(format!("{one} and {other} are both set; keep one of them"))
}

/// A duration that may be absent; see [`crate::limits::duration`].
pub(super) mod optional_duration {
    use std::time::Duration;

    use serde::Deserializer;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        crate::limits::duration::deserialize(from).map(Some)
    }
}
