//! Signing client tokens, for programs that embed the server.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Server;
use crate::auth::{SignError, Signed};

/// Why no token is signed.
#[derive(Debug, thiserror::Error)]
pub enum SignTokenError {
    /// The app has no shared secret.
    #[error("this app has no shared secret to sign with; set one (token_secret)")]
    NoSecret,
    /// Claims or rights cannot be written as JSON.
    #[error("the claims cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// No token can say this.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A client token that is yet to be signed; see [`Server::sign_token`].
#[derive(Debug)]
#[must_use = "nothing is signed until `sign`"]
pub struct TokenRequest<'s> {
    server: &'s Server,
    user: &'s str,
    claims: serde_json::Result<Box<RawValue>>,
    can: Option<serde_json::Result<Box<RawValue>>>,
    ttl: Option<Duration>,
}

impl Server {
    /// A token with which `user` connects to this handle's app, as `POST /v1/tokens` signs it. `claims` is an object,
    /// which filters see under `auth`.
    ///
    /// ```
    /// # fn example(server: &fanfare::Server) -> Result<(), fanfare::SignTokenError> {
    /// use serde_json::json;
    ///
    /// let signed = server
    ///     .sign_token("ann", json!({"email": "ann@example.com"}))
    ///     .can(json!({"join": ["room-*"], "send": ["room-*"]}))
    ///     .sign()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sign_token<'s>(&'s self, user: &'s str, claims: impl Serialize) -> TokenRequest<'s> {
        TokenRequest {
            server: self,
            user,
            claims: to_raw_value(&claims),
            can: None,
            ttl: None,
        }
    }
}

impl TokenRequest<'_> {
    /// The client's rights; without it, the app's `default_can`.
    pub fn can(mut self, can: impl Serialize) -> Self {
        self.can = Some(to_raw_value(&can));
        self
    }

    /// How long the token lives; without it, an hour. `limits.token_ttl` is the longest.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`SignTokenError`].
    pub fn sign(self) -> Result<Signed, SignTokenError> {
        let (claims, can) = (self.claims?, self.can.transpose()?);
        let (node, app) = (&self.server.inner.node, self.server.app);
        let runtime_config = node.runtime_config();
        let signer = runtime_config.access(app).tokens.signer();
        let signer = signer.ok_or(SignTokenError::NoSecret)?;
        Ok(signer.sign(
            self.user,
            Some(&claims),
            can.as_deref(),
            self.ttl,
            node.signing_time(app, self.user),
        )?)
    }
}
