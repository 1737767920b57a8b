//! The configuration of the commands that speak of the server itself.

use std::path::PathBuf;

use super::Failure;
use crate::{
    app::{self, SetupError},
    auth::TokenKeyError,
    config::{self, Config, KeyMaterial, ServeArgs, TokenKeyConfig},
};

/// The file that `args` or the environment name, if they do.
pub(super) fn file(args: &ServeArgs) -> Option<PathBuf> {
    let named = || {
        let variable = config::environment().find(|(name, _)| name == "FANFARE_CONFIG");
        variable.map(|(_, path)| PathBuf::from(path))
    };
    args.config
        .clone()
        .or_else(named)
        .filter(|path| !path.as_os_str().is_empty())
}

/// Reads flags, environment and file. With the configuration comes what is probably not meant as it is.
///
/// # Errors
/// Everything for which no server would start with it.
pub(super) fn load(args: &ServeArgs) -> Result<(Config, Vec<String>), Failure> {
    let mut loaded = Config::read(args, config::environment());
    let can_be_read = loaded.problems.is_empty();
    for error in app::problems(&loaded.config) {
        let key = setting(&loaded.config, &error);
        // The rules have said the same of these already.
        let is_known = match &error {
            SetupError::TokenKey { error, .. } => matches!(error, TokenKeyError::Short(_)),
            SetupError::Index { .. } => true,
            _ => false,
        };

        // Other settings may look wrong only for what has been left out.
        if can_be_read || (key.is_some() && !is_known) {
            let problem = loaded.problem(&key.unwrap_or_default(), error.to_string());
            loaded.problems.push(problem);
        }
    }

    let warnings = std::mem::take(&mut loaded.warnings);
    Ok((loaded.into_result()?, warnings))
}

/// The setting that cannot be used, if only the file has it.
fn setting(config: &Config, error: &SetupError) -> Option<String> {
    match error {
        SetupError::Rights { app, .. } => Some(format!("apps.{app}.default_can")),
        SetupError::ClientKey { app, key, .. } => {
            let keys = &config.apps.get(app)?.client_keys;
            let n = keys.iter().position(|other| other.name == *key)?;
            Some(format!("apps.{app}.client_keys[{n}].can"))
        }
        SetupError::TokenKey {
            app,
            error: TokenKeyError::PublicKey { kid, alg, .. },
        } => {
            let keys = &config.apps.get(app)?.tokens;
            // That a file could not be read has been said already.
            let is_it = |key: &TokenKeyConfig| {
                key.kid == *kid
                    && key.alg.name() == *alg
                    && matches!(key.key, KeyMaterial::Public(_))
            };
            let n = keys.iter().position(is_it)?;
            Some(format!("apps.{app}.tokens[{n}].public_key"))
        }
        SetupError::Index { app, .. } => Some(format!("apps.{app}.index")),
        _ => None,
    }
}
