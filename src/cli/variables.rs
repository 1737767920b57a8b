//! The variables that stand in for flags of the client commands.

use super::Failure;
use crate::config::{self, Secret};

/// What the environment says to the client commands. An empty variable counts as not set.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// `FANFARE_URL`.
    pub(super) url: Option<String>,
    /// `FANFARE_TOKEN`.
    pub(super) token: Option<String>,
    /// The first key of `FANFARE_API_KEY`: one variable serves a server and those who call it.
    pub(super) key: Option<Secret>,
    /// `FANFARE_TOKEN_SECRET`.
    pub(super) token_secret: Option<Secret>,
}

impl Variables {
    pub(super) fn read() -> Self {
        Self::from_pairs(config::environment())
    }

    fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut variables = Self::default();
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "FANFARE_URL" => variables.url = Some(value),
                "FANFARE_TOKEN" => variables.token = Some(value),
                "FANFARE_API_KEY" => variables.key = value.split(',').next().map(Secret::from),
                "FANFARE_TOKEN_SECRET" => variables.token_secret = Some(value.into()),
                _ => {}
            }
        }
        variables
    }

    /// The address that `FANFARE_URL` names, if it does.
    ///
    /// # Errors
    /// When it is not an address.
    pub(super) fn address(&self) -> Result<Option<super::address::Address>, Failure> {
        let parse = |url: &String| {
            url.parse()
                .map_err(|error| Failure::Usage(format!("FANFARE_URL: {error}")))
        };
        self.url.as_ref().map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set_and_of_several_keys_the_first_counts() {
        let pairs = [
            ("FANFARE_URL", ""),
            ("FANFARE_API_KEY", "first-key,second-key"),
            ("FANFARE_TOKEN", "t"),
        ];
        let variables =
            Variables::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(variables.url, None);
        assert_eq!(variables.key, Some(Secret::from("first-key")));
        assert_eq!(variables.token.as_deref(), Some("t"));
    }

    #[test]
    fn a_bad_url_names_its_variable() {
        let variables = Variables {
            url: Some("ftp://x".to_owned()),
            ..Variables::default()
        };
        let error = variables.address().unwrap_err().to_string();
        assert!(error.starts_with("FANFARE_URL: "), "{error}");
    }
}
