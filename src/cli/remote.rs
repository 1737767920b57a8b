//! A server as the client commands see it: its HTTP API.

use std::{io, time::Duration};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_rustls::rustls;

use super::{Failure, address::Address, output, variables::Variables};
use crate::{config::Secret, outbound};

/// How long an answer may take. The server bounds its own waiting well below.
const PATIENCE: Duration = Duration::from_mins(1);

/// Largest answer that is read.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

const AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));

/// The heading under which the help shows the flags that name the server.
const HEADING: &str = "Server";

/// Which server to talk to.
#[derive(Args, Clone, Debug)]
pub(super) struct RemoteArgs {
    /// `--url`
    // The heading is that of each argument: one of the command would also stand above whatever follows.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "URL",
        help = "The server's address [env: FANFARE_URL] [default: http://127.0.0.1:7070]"
    )]
    pub(super) url: Option<Address>,
    /// `--key`
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "KEY",
        help = "The API key, if the server has keys [env: FANFARE_API_KEY]"
    )]
    pub(super) key: Option<Secret>,
}

/// A server that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) address: Address,
    key: Option<Secret>,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// Nothing there.
    #[error("cannot reach {address}: {error}{}", if error.kind() == io::ErrorKind::ConnectionRefused {
        " (is `fanfare serve` running there?)"
    } else { "" })]
    Unreachable {
        /// The server.
        address: Address,
        /// What the system says.
        error: io::Error,
    },
    /// TLS was spoken to a server that does not know it.
    #[error("the server at {} speaks plain HTTP; use {}", .0.authority, .0.with_tls(false))]
    PlainHttp(Address),
    /// Plain HTTP was spoken to a server that wants TLS.
    #[error("the server at {} speaks TLS; use {}", .0.authority, .0.with_tls(true))]
    Tls(Address),
    /// The answer broke off, or is not HTTP.
    #[error("{address} did not answer properly: {error}")]
    Http {
        /// The server.
        address: Address,
        /// What is wrong with it.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not one of Fanfare's.
    #[error("{address} answered {status}, but not as a Fanfare server does. Is the address right?")]
    Stranger {
        /// The server.
        address: Address,
        /// Its answer.
        status: StatusCode,
    },
    /// A problem document.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

/// A problem document (RFC 9457) as the server sends it.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    title: String,
    pub(super) status: u16,
    detail: String,
    #[serde(default)]
    code: String,
    excerpt: Option<String>,
    /// The whole document as it came.
    #[serde(skip)]
    pub(super) document: String,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The param that a filter uses and that was not given.
    fn unbound_param(&self) -> Option<&str> {
        // The document has the name only in its text for people.
        let (_, rest) = self.detail.split_once("params.")?;
        let name = rest
            .split(|char: char| !char.is_alphanumeric() && char != '_')
            .next();
        name.filter(|name| !name.is_empty() && self.code == "unbound_param")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            output::harmless(&self.title),
            self.status,
            output::harmless(&self.detail)
        )?;

        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            f.write_str("\n  give the API key with --key or FANFARE_API_KEY")?;
        }

        if let Some(name) = self.unbound_param() {
            write!(f, "\n  bind it with --param {name}=VALUE")?;
        }

        for line in self.excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
            write!(f, "\n  {}", output::harmless(line))?;
        }
        Ok(())
    }
}

impl Remote {
    /// The server that flags, else variables, name.
    ///
    /// # Errors
    /// When `FANFARE_URL` is not an address.
    pub(super) fn new(args: RemoteArgs, variables: &Variables) -> Result<Self, Failure> {
        let address = match args.url {
            Some(address) => address,
            None => variables.address()?.unwrap_or_default(),
        };
        Ok(Self {
            address,
            key: args.key.or_else(|| variables.key.clone()),
        })
    }

    /// Gets `path` with `query`, and returns the answer's JSON as it came.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(super) async fn get(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<String, RequestError> {
        let path = self.address.path(&format!("{path}{}", query_of(query)));
        let request = Request::get(path)
            .body(Full::default())
            .map_err(|error| self.broken(error))?;
        self.ask(request).await
    }

    /// Posts `body`, and returns the answer's JSON as it came.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<String, RequestError> {
        self.post_once(path, body, None).await
    }

    /// Posts `body` as [`Remote::post`] does. With an `Idempotency-Key`, a call that is repeated is carried out once.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(super) async fn post_once(
        &self,
        path: &str,
        body: &impl Serialize,
        key: Option<&str>,
    ) -> Result<String, RequestError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        let mut request =
            Request::post(self.address.path(path)).header(CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .body(Full::from(body))
            .map_err(|error| self.broken(error))?;
        self.ask(request).await
    }

    /// Sends one request with the API key.
    async fn ask(&self, mut request: Request<Full<Bytes>>) -> Result<String, RequestError> {
        if let Some(key) = &self.key {
            let value = bearer(key.expose()).map_err(|error| self.broken(error))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.send(request).await?;
        if response.status().is_success() {
            self.text(response).await
        } else {
            Err(self.refusal(response).await)
        }
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer; here, any answer will do.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RequestError> {
        let host = self
            .address
            .authority
            .parse::<HeaderValue>()
            .map_err(|error| self.broken(error))?;

        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let sent = timeout(PATIENCE, async {
            let mut connection = self.open().await?;
            match connection.send_request(request).await {
                Ok(response) => Ok(response),
                Err(_) if self.wants_tls().await => Err(RequestError::Tls(self.address.clone())),
                Err(error) => Err(self.broken(error)),
            }
        });

        sent.await
            .map_err(|_| self.broken(format!("no answer within {} s", PATIENCE.as_secs())))?
    }

    /// Whether the server wants TLS, although plain HTTP was spoken to it: it may answer with bytes that are not HTTP, with
    /// nothing, or with an error of its own, so the only way to know is to try.
    async fn wants_tls(&self) -> bool {
        let Address {
            host, port, secure, ..
        } = &self.address;

        if *secure {
            return false;
        }

        match outbound::connect(host, *port, true).await {
            Ok(_) => true,
            // A certificate that is not trusted is one all the same.
            Err(error) => matches!(
                tls_error(&error),
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            ),
        }
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, RequestError> {
        let Address {
            host, port, secure, ..
        } = &self.address;

        let stream =
            outbound::connect(host, *port, *secure)
                .await
                .map_err(|error| match tls_error(&error) {
                    Some(rustls::Error::InvalidMessage(_)) => {
                        RequestError::PlainHttp(self.address.clone())
                    }
                    _ => RequestError::Unreachable {
                        address: self.address.clone(),
                        error,
                    },
                })?;

        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        // A failure of the connection also ends the request, which reports it.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// What an answer that is not the expected one means.
    pub(super) async fn refusal(&self, response: Response<Incoming>) -> RequestError {
        let status = response.status();
        let document = match self.text(response).await {
            Ok(document) => document,
            Err(error) => return error,
        };

        match serde_json::from_str::<Refusal>(&document) {
            Ok(refusal) => RequestError::Refused(Box::new(Refusal {
                document,
                ..refusal
            })),
            // Many servers that want TLS answer plain HTTP with 400 and a page of their own.
            Err(_) if status == StatusCode::BAD_REQUEST && self.wants_tls().await => {
                RequestError::Tls(self.address.clone())
            }
            Err(_) => RequestError::Stranger {
                address: self.address.clone(),
                status,
            },
        }
    }

    async fn text(&self, response: Response<Incoming>) -> Result<String, RequestError> {
        let body = timeout(
            PATIENCE,
            Limited::new(response.into_body(), ANSWER_BYTES).collect(),
        )
        .await;
        let body = body
            .map_err(|error| self.broken(error))?
            .map_err(|error| self.broken(error))?;
        String::from_utf8(body.to_bytes().into()).map_err(|error| self.broken(error))
    }

    /// Reads an answer's fields.
    ///
    /// # Errors
    /// When it lacks them.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&self, answer: &'a str) -> Result<T, RequestError> {
        serde_json::from_str(answer).map_err(|error| self.broken(error))
    }

    fn broken(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RequestError {
        RequestError::Http {
            address: self.address.clone(),
            error: error.into(),
        }
    }
}

/// What TLS itself refused, if it was TLS.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    // tokio-rustls has it inside of an `io::Error`.
    error.get_ref()?.downcast_ref()
}

/// `?name=value&…`, or nothing.
pub(super) fn query_of(query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

/// `text` as one part of a path or a query.
pub(super) fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// An `Authorization` header that logs do not show.
///
/// # Errors
/// When the credential holds what no header may.
pub(super) fn bearer(credential: &str) -> Result<HeaderValue, hyper::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {credential}"))?;
    value.set_sensitive(true);
    Ok(value)
}
