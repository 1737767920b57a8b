//! `fanfare token`: a client token, signed by the server or here.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Failure,
    json::{self, Json},
    output,
    remote::{Remote, RemoteArgs, RequestError},
    variables::Variables,
};
use crate::{
    auth::{Tokens, unix_now},
    config::{AppConfig, KeyMaterial, Secret, TokenAlgorithm, TokenKeyConfig},
    limits::Limits,
};

/// Arguments of `fanfare token`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without --url, a secret signs here, and no server is asked; otherwise the server signs.

Examples:
  fanfare token ann
  fanfare token ann --claims '{\"email\":\"ann@example.com\"}' --ttl 15m
  fanfare token ann --can '{\"join\":[\"room-*\"]}'
  FANFARE_TOKEN_SECRET=… fanfare token ann")]
pub(super) struct Token {
    /// Whose token it is
    user: String,
    /// Claims, which filters see under auth
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    claims: Option<Json>,
    /// What the client may do [default: what the app allows]
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    can: Option<Json>,
    /// How long it is good; the server has an upper bound [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// `--secret`
    #[arg(long, value_name = "SECRET", conflicts_with_all = ["url", "key"])]
    #[arg(help = "Sign here with this secret (HS256) [env: FANFARE_TOKEN_SECRET]")]
    secret: Option<Secret>,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 => Ok(duration),
        Ok(_) => Err("it must be at least 1s".to_owned()),
        Err(error) => Err(format!("a duration is such as 15m or 1h: {error}")),
    }
}

#[derive(Serialize)]
struct Body<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    can: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl Token {
    /// Prints a token, and nothing else.
    ///
    /// # Errors
    /// When none can be signed.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let is_remote = self.remote.url.is_some() || self.remote.key.is_some();
        let from_variable = variables.token_secret.clone().filter(|_| !is_remote);
        let token = if let Some(secret) = self.secret.clone().or(from_variable) {
            self.sign_here(secret)?
        } else {
            let remote = Remote::new(self.remote, variables)?;
            request(
                &remote,
                &self.user,
                self.claims.as_deref(),
                self.can.as_deref(),
                self.ttl,
            )
            .await?
        };
        Ok(output::print_raw(&token)?)
    }

    fn sign_here(&self, secret: Secret) -> Result<String, Failure> {
        let key = TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::HS256,
            key: KeyMaterial::Secret(secret),
        };
        let app = AppConfig {
            tokens: vec![key],
            ..AppConfig::default()
        };
        let tokens = Tokens::new(&app, None, &Limits::default())?;
        let signer = tokens
            .signer()
            .ok_or_else(|| Failure::Usage("the secret cannot sign".to_owned()))?;
        let (claims, can) = (self.claims.as_deref(), self.can.as_deref());
        Ok(signer
            .sign(&self.user, claims, can, self.ttl, unix_now())?
            .token)
    }
}

/// A token for `user`, signed by the server.
///
/// # Errors
/// When the server refuses, or is not there.
pub(super) async fn request(
    remote: &Remote,
    user: &str,
    claims: Option<&RawValue>,
    can: Option<&RawValue>,
    ttl: Option<Duration>,
) -> Result<String, RequestError> {
    #[derive(Deserialize)]
    struct Answer {
        token: String,
    }
    let body = Body {
        user,
        claims,
        can,
        ttl: ttl.map(|ttl| ttl.as_secs()),
    };
    let answer = remote.post("/v1/tokens", &body).await?;
    Ok(remote.parse::<Answer>(&answer)?.token)
}
