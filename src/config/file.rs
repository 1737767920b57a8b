//! The TOML file, and the files of keys that it names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Config, KeyMaterial, Problem, error::nearest};

/// Reads the file at `path` over the defaults.
pub(super) fn read(path: &Path) -> Result<Config, Problem> {
    let text = fs::read_to_string(path).map_err(|error| Problem::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    parse(path, &text)
}

/// Reads `text`, the content of `path`, over the defaults.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, Problem> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text[..offset].matches('\n').count();
        match unknown_field(error.message()) {
            Some((name, known)) => Problem::Unknown {
                place: format!("{}:{line}", path.display()),
                kind: "key",
                nearest: nearest(name, known),
                name: name.to_owned(),
            },
            None => Problem::File {
                path: path.to_owned(),
                line,
                message: error.message().to_owned(),
            },
        }
    })
}

/// The names in serde's "unknown field `a`, expected one of `b`, `c`": which field, and which are known.
///
/// serde gives them in no other form, and knows them for every table without a second list to keep in step.
pub(super) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let names = message.strip_prefix("unknown field ")?;
    let mut names = names.split('`').skip(1).step_by(2);
    Some((names.next()?, names.collect()))
}

/// Reads the keys and certificates that the configuration names by their files, relative to `folder`.
pub(super) fn read_keys(config: &mut Config, folder: Option<&Path>, problems: &mut Vec<Problem>) {
    let place = |path: &PathBuf| {
        folder.map_or_else(
            || path.clone(),
            |folder: &Path| -> PathBuf { folder.join(path) },
        )
    };
    for file in config
        .redis
        .iter_mut()
        .flat_map(|redis| [&mut redis.ca, &mut redis.cert, &mut redis.key])
    {
        let Some(file) = file else { continue };
        file.path = place(&file.path);
        match fs::read(&file.path) {
            Ok(pem) => file.pem = pem,
            Err(error) => problems.push(Problem::Unreadable {
                path: file.path.clone(),
                error,
            }),
        }
    }
    for key in config.apps.values_mut().flat_map(|app| &mut app.tokens) {
        if let KeyMaterial::PublicFile(path) = &key.key {
            let path = place(path);
            match fs::read_to_string(&path) {
                Ok(pem) => key.key = KeyMaterial::Public(pem),
                Err(error) => problems.push(Problem::Unreadable { path, error }),
            }
        }
    }
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
