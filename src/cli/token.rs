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
    limits::{self, Limits},
};

/// Arguments of `fanfare token`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --secret the token is signed here, and with FANFARE_TOKEN_SECRET too, unless --url or --key
is given. FANFARE_URL and FANFARE_API_KEY do not change that: they only say which server to ask,
and with which key. Otherwise the server signs it, and may shorten its life to limits.token_ttl
(1 day).

Examples:
  fanfare token ann
  fanfare token ann --claims '{\"email\":\"ann@example.com\"}' --ttl 15m
  fanfare token ann --can '{\"join\":[\"room-*\"]}'
  FANFARE_TOKEN_SECRET=… fanfare token ann")]
pub(super) struct Token {
    /// The user whose token it is
    user: String,
    /// Claims, which filters see under auth
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    claims: Option<Json>,
    /// What the client may do [default: what the app allows]
    #[arg(long, value_name = "OBJECT", value_parser = json::object)]
    can: Option<Json>,
    /// How long the token is good, such as 15m or 8h [default: 1h]
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
    match limits::duration::parse(text)? {
        // Tokens count whole seconds.
        duration if duration.as_secs() > 0 => Ok(duration),
        _ => Err("it must be at least 1s".to_owned()),
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
    /// When it cannot be signed.
    pub(super) async fn run(self, variables: &Variables) -> Result<(), Failure> {
        let is_remote = self.remote.url.is_some() || self.remote.key.is_some();
        let from_variable = variables.token_secret.clone().filter(|_| !is_remote);
        let token = if let Some(secret) = self.secret.clone().or(from_variable) {
            self.sign_here(secret)?
        } else {
            let remote = Remote::new(self.remote, variables)?;
            let signed = request(
                &remote,
                &self.user,
                self.claims.as_deref(),
                self.can.as_deref(),
                self.ttl,
            )
            .await?;

            if let Some(note) = shortened(self.ttl, signed.ttl) {
                output::note(&note);
            }
            signed.token
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

        // Anyone who has the secret may sign for any time.
        let limits = Limits {
            token_ttl: self.ttl.unwrap_or(limits::TOKEN_TTL_DEFAULT),
            ..Limits::default()
        };

        let tokens = Tokens::new(&app, None, &limits)?;
        let signer = tokens
            .signer()
            .ok_or_else(|| Failure::Usage("the secret cannot sign".to_owned()))?;
        let (claims, can) = (self.claims.as_deref(), self.can.as_deref());

        Ok(signer
            .sign(&self.user, claims, can, self.ttl, unix_now())?
            .token)
    }
}

/// What to say of a token that is good for less time than was asked for.
fn shortened(asked: Option<Duration>, granted: Option<u64>) -> Option<String> {
    let (asked, granted) = (asked?, Duration::from_secs(granted?));
    // A token counts whole seconds, so a fraction that was asked for is no loss.
    let whole = Duration::from_secs(asked.as_secs());
    (granted < whole).then(|| {
        let (asked, granted) = (
            humantime::format_duration(whole),
            humantime::format_duration(granted),
        );
        format!(
            "the token is good for {granted}, not for {asked}: that is the server's bound. To raise it, start the \
             server with --limit token_ttl={}",
            asked.to_string().replace(' ', "")
        )
    })
}

/// A token as the server signed it.
#[derive(Deserialize)]
pub(super) struct Signed {
    pub(super) token: String,
    /// How many seconds it is good; servers of earlier versions do not say.
    ttl: Option<u64>,
}

/// A token for `user`, signed by the server.
///
/// # Errors
/// When the server refuses, or cannot be reached.
pub(super) async fn request(
    remote: &Remote,
    user: &str,
    claims: Option<&RawValue>,
    can: Option<&RawValue>,
    ttl: Option<Duration>,
) -> Result<Signed, RequestError> {
    let body = Body {
        user,
        claims,
        can,
        ttl: ttl.map(|ttl| ttl.as_secs()),
    };
    let answer = remote.post("/v1/tokens", &body).await?;
    remote.parse(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shortened_life_is_told() {
        let month = Duration::from_hours(30 * 24);
        let note = shortened(Some(month), Some(24 * 3600)).unwrap();
        assert!(
            note.starts_with("the token is good for 1day, not for 30days")
                && note.ends_with("--limit token_ttl=30days"),
            "{note}"
        );
        let millis = Duration::from_millis(1500);
        for (asked, granted) in [
            (Some(month), Some(month.as_secs())),
            (Some(millis), Some(1)),
            (None, Some(3600)),
            (Some(month), None),
        ] {
            assert_eq!(shortened(asked, granted), None);
        }
    }
}
