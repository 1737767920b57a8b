//! The client side of a WebSocket (RFC 6455), of which only the server is expected to speak.

use std::{fmt, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use fastwebsockets::{
    FragmentCollector, Frame, OpCode, Payload, Role, WebSocket, WebSocketError,
    handshake::generate_key,
};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{
        AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::time::timeout;

use super::super::remote::{Remote, RequestError, bearer, query_of};
use crate::{
    close::{self, Close},
    protocol::native,
};

/// What every WebSocket key is answered with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How long a server may be silent before its heartbeat is known.
const SILENCE: Duration = Duration::from_mins(2);

/// How long the server has to take a close frame.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection to the server.
pub(super) struct Socket {
    frames: FragmentCollector<TokioIo<Upgraded>>,
    silence: Duration,
    bye: Option<u64>,
}

/// A message of the server.
#[derive(Debug)]
pub(super) enum Message {
    Text(String),
    Binary(Vec<u8>),
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The close code; 1006 if there was none.
    pub(super) code: u16,
    /// The close frame's reason, or what broke.
    pub(super) reason: String,
    /// `reconnect_in_ms` of the server's goodbye.
    pub(super) bye: Option<u64>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection closed: {}", self.code)?;
        if self.reason.is_empty() {
            Ok(())
        } else {
            write!(f, ", {}", super::output::harmless(&self.reason))
        }
    }
}

impl Socket {
    /// Connects, and speaks the handshake of `fanfare.v1`.
    ///
    /// # Errors
    /// When the server is not there, or refuses by HTTP.
    pub(super) async fn connect(
        remote: &Remote,
        token: Option<&str>,
        query: &[(&str, String)],
    ) -> Result<Self, RequestError> {
        let key = generate_key();
        let query = query_of(query);
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| RequestError::Http {
            address: remote.address.clone(),
            error,
        };

        let mut request = Request::get(remote.address.path(&format!("/v1/connect{query}")))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key)
            .header(SEC_WEBSOCKET_PROTOCOL, native::NAME)
            .body(Full::<Bytes>::default())
            .map_err(|error| broken(error.into()))?;

        if let Some(token) = token {
            // In a header, since what logs URLs would log a token in the query.
            let value = bearer(token).map_err(|error| broken(error.into()))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }

        let response = remote.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(remote.refusal(response).await);
        }

        if !is_accepted(&response, &key) {
            return Err(broken(
                "this is not a WebSocket server (Sec-WebSocket-Accept is wrong)".into(),
            ));
        }

        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| broken(error.into()))?;
        let mut socket = WebSocket::after_handshake(TokioIo::new(upgraded), Role::Client);

        // Pings are answered here, where they count as signs of life.
        socket.set_auto_pong(false);
        Ok(Self {
            frames: FragmentCollector::new(socket),
            silence: SILENCE,
            bye: None,
        })
    }

    /// Expects a sign of life every `heartbeat`, or at least every other one.
    pub(super) fn expect_heartbeat(&mut self, heartbeat: Duration) {
        self.silence = heartbeat * 2 + Duration::from_secs(10);
    }

    /// Takes note of a goodbye, for the end that follows.
    pub(super) fn note_bye(&mut self, reconnect_in_ms: Option<u64>) {
        self.bye = reconnect_in_ms;
    }

    /// The next message; pings are answered.
    ///
    /// # Errors
    /// How the connection ended.
    pub(super) async fn next(&mut self) -> Result<Message, Ended> {
        loop {
            let read = timeout(self.silence, self.frames.read_frame()).await;
            let frame = match read {
                Ok(Ok(frame)) => frame,
                Ok(Err(WebSocketError::UnexpectedEOF)) => {
                    return Err(self.broken("the server hung up"));
                }
                Ok(Err(error)) => return Err(self.broken(&error.to_string())),
                Err(_) => {
                    return Err(
                        self.broken(&format!("no sign of life for {} s", self.silence.as_secs()))
                    );
                }
            };

            match frame.opcode {
                OpCode::Text => {
                    return Ok(Message::Text(
                        String::from_utf8_lossy(&frame.payload).into_owned(),
                    ));
                }
                OpCode::Binary => return Ok(Message::Binary(frame.payload.to_vec())),
                OpCode::Close => return Err(self.closed(&frame.payload)),
                OpCode::Ping => {
                    let pong = Frame::pong(Payload::Owned(frame.payload.to_vec()));
                    if let Err(error) = self.frames.write_frame(pong).await {
                        return Err(self.broken(&error.to_string()));
                    }
                }
                OpCode::Pong | OpCode::Continuation => {}
            }
        }
    }

    /// Says goodbye; does not wait for the answer.
    pub(super) async fn close(&mut self, close: &Close) {
        // A server that does not take it sees the socket end instead.
        let frame = Frame::close(close.code, close.reason.as_bytes());
        let _ = timeout(FAREWELL, self.frames.write_frame(frame)).await;
    }

    fn closed(&self, payload: &[u8]) -> Ended {
        let (code, reason) = match payload {
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
            _ => (close::NO_STATUS, &[][..]),
        };
        Ended {
            code,
            reason: String::from_utf8_lossy(reason).into_owned(),
            bye: self.bye,
        }
    }

    fn broken(&self, why: &str) -> Ended {
        Ended {
            code: close::ABNORMAL,
            reason: why.to_owned(),
            bye: self.bye,
        }
    }
}

/// Whether the answer is to our key (RFC 6455, section 4.1), and so not one out of a cache.
fn is_accepted(response: &Response<Incoming>, key: &str) -> bool {
    // The protocol demands SHA-1. Nothing secret depends on it.
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        &[key.as_bytes(), GUID].concat(),
    );
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
    accept.is_some_and(|accept| accept.as_bytes() == BASE64.encode(hash.as_ref()).as_bytes())
}
