//! What is set per app: keys, client authentication, indexes, origins, channels.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

use super::{
    ChannelRule, ClientKeyConfig, JwksUrl, KeyHash, ProtocolsConfig, Scopes, Secret, UserEvents,
    text,
};
use crate::limits;

/// The app that flags and variables configure, and the only one unless the file names others.
pub const DEFAULT_APP: &str = "default";

/// Settings of one app: one `[apps.<name>]` table of the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppConfig {
    /// Attributes with an index, as paths such as `auth.email`; `user`, `connection.id` and `channels` always have one.
    pub index: Vec<String>,
    /// Origins from which browsers may connect; `["*"]` is any. `None`: any with a token, none without
    /// one where the app has keys for tokens.
    pub origins: Option<Vec<String>>,
    /// Whether clients must authenticate; `None` means what [`super::Config::client_auth`] returns.
    pub client_auth: Option<ClientAuth>,
    /// What happens to a client that reads too slowly.
    pub slow_consumer: SlowConsumer,
    /// The rights of a client whose token has no `can`: the same object as the claim. `None` outside of
    /// loopback development: no rights.
    pub default_can: Option<serde_json::Value>,
    /// Rules for channels; the first whose pattern matches a channel's name holds.
    pub channels: Vec<ChannelRule>,
    /// What is stored for users until a connection of theirs has confirmed it. `None`: nothing.
    pub user_events: Option<UserEvents>,
    /// Bytes of histories and events for users that are stored together before more are refused. `None`: any number.
    #[serde(deserialize_with = "a_size")]
    pub max_stored_bytes: Option<usize>,
    /// Public keys that pages carry.
    pub client_keys: Vec<ClientKeyConfig>,
    /// API keys of the app.
    pub keys: Vec<ApiKeyConfig>,
    /// Keys that client tokens are verified with.
    pub tokens: Vec<TokenKeyConfig>,
    /// Whether a token without `exp` is refused: it would be good forever.
    pub require_exp: bool,
    /// The `iss` that a token must have, if set.
    pub issuer: Option<String>,
    /// The `aud` that a token must have, or have among others, if set.
    pub audience: Option<String>,
    /// Where further public keys for client tokens are fetched from.
    pub jwks_url: Option<JwksUrl>,
    /// The protocols of other systems whose clients are served.
    pub protocols: ProtocolsConfig,
}

impl AppConfig {
    /// Whether there is, or will be, any key that tokens are verified with.
    pub fn has_token_keys(&self) -> bool {
        !self.tokens.is_empty() || self.jwks_url.is_some()
    }
}

fn a_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    // serde calls this for a key that is there. One that is not has the default of the struct.
    limits::size::deserialize(deserializer).map(Some)
}

/// Whether clients must authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Clients are anonymous; a token is not looked at.
    Off,
    /// A client with a token is a user, one without is anonymous.
    Optional,
    /// No client without a token.
    Required,
}

impl ClientAuth {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// What happens to a client that reads too slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowConsumer {
    /// It is closed with 4101.
    #[default]
    Disconnect,
    /// It loses the oldest of what waits for it.
    DropOldest,
}

/// One API key. The key itself is forgotten once its hash is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyConfig {
    /// What logs and metrics call the key.
    pub name: String,
    /// What presented keys are compared with.
    pub hash: KeyHash,
    /// What the key may do.
    pub scopes: Scopes,
    /// Where the key is to be read from; loading the configuration replaces it by the hash.
    pub key_file: Option<PathBuf>,
}

impl ApiKeyConfig {
    /// A key from its plain text.
    ///
    /// # Errors
    /// When it is shorter than [`limits::API_KEY_BYTES`].
    pub fn from_plain(name: &str, key: &Secret, scopes: Scopes) -> Result<Self, BadKey> {
        let len = key.expose().len();
        if len < limits::API_KEY_BYTES {
            return Err(BadKey::Short {
                name: name.to_owned(),
                len,
            });
        }

        Ok(Self {
            name: name.to_owned(),
            hash: KeyHash::of(key.expose()),
            scopes,
            key_file: None,
        })
    }
}

/// A key in the configuration that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// An API key that could be guessed.
    #[error(
        "API key \"{name}\" has {len} bytes, and needs at least {} (make one with: openssl rand -hex 24)",
        limits::API_KEY_BYTES
    )]
    Short {
        /// The key's name.
        name: String,
        /// Its length.
        len: usize,
    },
    /// The settings exclude each other, and none of them is set, or several are.
    #[error("{0} needs exactly one of {1}")]
    OneOf(String, &'static str),
    /// The hash cannot be read.
    #[error("API key \"{0}\": {1}")]
    Hash(String, super::secret::BadKeyHash),
    /// A key without scopes could do nothing.
    #[error(
        "API key \"{0}\" has no scopes; leave `scopes` out for all, or name some of publish, inspect, control, tokens"
    )]
    NoScopes(String),
    /// The kind of key does not go with the algorithm.
    #[error("a token key for {0} needs {1}")]
    Kind(&'static str, &'static str),
}

/// An API key as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyFile {
    name: String,
    key: Option<Secret>,
    key_file: Option<PathBuf>,
    hash: Option<String>,
    scopes: Option<Scopes>,
}

impl<'de> Deserialize<'de> for ApiKeyConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text::deserialize_table::<D, ApiKeyFile, Self>(from)
    }
}

impl TryFrom<ApiKeyFile> for ApiKeyConfig {
    type Error = BadKey;

    fn try_from(file: ApiKeyFile) -> Result<Self, BadKey> {
        let scopes = file.scopes.unwrap_or(Scopes::ALL);
        if scopes.is_empty() {
            return Err(BadKey::NoScopes(file.name));
        }

        match (&file.key, file.key_file, &file.hash) {
            (Some(key), None, None) => Self::from_plain(&file.name, key, scopes),
            (None, Some(path), None) => Ok(Self {
                name: file.name,
                // No key has this hash: until its file is read, the entry lets nobody in.
                hash: KeyHash::NONE,
                scopes,
                key_file: Some(path),
            }),
            (None, None, Some(hash)) => match hash.parse() {
                Ok(hash) => Ok(Self {
                    name: file.name,
                    hash,
                    scopes,
                    key_file: None,
                }),
                Err(error) => Err(BadKey::Hash(file.name, error)),
            },
            _ => Err(BadKey::OneOf(
                format!("API key \"{}\"", file.name),
                "`key`, `key_file` and `hash`",
            )),
        }
    }
}

/// One key that client tokens are verified with.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenKeyConfig {
    /// The `kid` by which tokens name the key; a key without one is tried for every token of its algorithm.
    pub kid: Option<String>,
    /// The only algorithm that the key is used with.
    pub alg: TokenAlgorithm,
    /// The key.
    pub key: KeyMaterial,
}

/// A signature algorithm of client tokens (RFC 7518, section 3.1; RFC 8037 for Ed25519).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256 and a shared secret.
    HS256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl TokenAlgorithm {
    /// The name in a token's header and in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// Where a token key comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyMaterial {
    /// A secret shared with the signer.
    Secret(Secret),
    /// The path of one; loading the configuration replaces it by [`KeyMaterial::Secret`].
    SecretFile(PathBuf),
    /// A public key in PEM.
    Public(String),
    /// The path of one; loading the configuration replaces it by [`KeyMaterial::Public`].
    PublicFile(PathBuf),
}

/// A token key as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenKeyFile {
    kid: Option<String>,
    alg: TokenAlgorithm,
    secret: Option<Secret>,
    secret_file: Option<PathBuf>,
    public_key: Option<String>,
    public_key_file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for TokenKeyConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text::deserialize_table::<D, TokenKeyFile, Self>(from)
    }
}

impl TryFrom<TokenKeyFile> for TokenKeyConfig {
    type Error = BadKey;

    fn try_from(file: TokenKeyFile) -> Result<Self, BadKey> {
        let given = (
            file.secret,
            file.secret_file,
            file.public_key,
            file.public_key_file,
        );

        let key = match given {
            (Some(secret), None, None, None) => KeyMaterial::Secret(secret),
            (None, Some(path), None, None) => KeyMaterial::SecretFile(path),
            (None, None, Some(pem), None) => KeyMaterial::Public(pem),
            (None, None, None, Some(path)) => KeyMaterial::PublicFile(path),
            _ => {
                let what = "`secret`, `secret_file`, `public_key` and `public_key_file`";
                return Err(BadKey::OneOf("a token key".to_owned(), what));
            }
        };

        // A public key is known to everyone. Taken as the secret of HS256, it would let anyone
        // sign.
        match (file.alg, &key) {
            (TokenAlgorithm::HS256, KeyMaterial::Secret(_) | KeyMaterial::SecretFile(_)) => {}
            (TokenAlgorithm::HS256, _) => {
                return Err(BadKey::Kind("HS256", "`secret` or `secret_file`"));
            }
            (alg, KeyMaterial::Secret(_) | KeyMaterial::SecretFile(_)) => {
                return Err(BadKey::Kind(
                    alg.name(),
                    "`public_key` or `public_key_file`",
                ));
            }
            _ => {}
        }

        Ok(Self {
            kid: file.kid,
            alg: file.alg,
            key,
        })
    }
}
