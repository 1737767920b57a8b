//! Public keys that pages carry: they say whose clients connect, and prove nothing.

use serde::Deserialize;

use super::ClientAuth;

/// One client key: the app that its clients come to, and what differs for them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientKeyConfig {
    /// What logs and messages call the key.
    pub name: String,
    /// The key as `?key=` carries it; unique over all apps, since it names its app.
    pub key: String,
    /// Whether these clients must authenticate; `None`: as the app says.
    pub client_auth: Option<ClientAuth>,
    /// Origins from which browsers may connect with the key; `None`: those of the app.
    pub origins: Option<Vec<String>>,
    /// The rights of such a client whose token has no `can`; `None`: the app's `default_can`.
    pub can: Option<serde_json::Value>,
}
