//! The TOML file, and the files of keys that it names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Config, KeyMaterial, Problem,
    document::{self, Document},
    words,
};

/// Reads the file at `path` over the defaults.
pub(super) fn read(path: &Path) -> Result<Document, Problem> {
    let text = fs::read_to_string(path).map_err(|error| Problem::Unreadable {
        path: path.to_owned(),
        error,
    })?;
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
