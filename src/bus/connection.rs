//! A connection to Redis of Fanfare's own: for subscriptions, and for questions about who is primary.

use std::{fmt, io, sync::Arc};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    connector::Connector,
    resp::{self, Frame, Malformed, Reply},
};
use crate::{config::Secret, limits};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a connection cannot be used, or no longer. The text is for people: what happened, and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot connect to Redis at {0}: {1}")]
    Connect(Address, io::Error),
    #[error("Redis at {0} does not answer: nothing came within {1:?} of connecting")]
    Silent(Address, std::time::Duration),
    #[error("Redis at {0} refuses: {1}{hint}", hint = hint_of(.1))]
    Refused(Address, String),
    #[error("the Sentinel at {0} refuses: {1}{hint}", hint = sentinel_hint(.1))]
    Sentinel(Address, String),
    #[error("the connection to Redis at {0} broke: {1}")]
    Broken(Address, io::Error),
    #[error("{0} does not speak as Redis does: {1}")]
    Malformed(Address, Malformed),
    #[error(
        "Redis at {0} gave an answer that means nothing here; is it Redis 7 or later, or Valkey?"
    )]
    Strange(Address),
    #[error("Redis at {0} is a replica; only a primary can join nodes")]
    Replica(Address),
    #[error("Redis at {0} is {1}; write its address as {2}")]
    Kind(Address, &'static str, &'static str),
    #[error("messages do not come back from Redis at {0} although it answers; connecting again")]
    Deaf(Address),
    #[error("Redis at {0} has stopped answering; connecting again")]
    Frozen(Address),
    #[error("Redis at {0} has moved a subscription elsewhere; looking where")]
    Moved(Address),
    #[error("{0}")]
    Topology(String),
}

/// What usually is the matter where a Sentinel refuses.
fn sentinel_hint(text: &str) -> &'static str {
    match text.split(' ').next() {
        Some("NOAUTH" | "WRONGPASS") => {
            " (set redis.sentinel_password, and redis.sentinel_user if it is not the user default)"
        }
        Some("NOPERM") => " (the user there has to be allowed +hello +sentinel|master)",
        Some("ERR") if text.contains("without any password") => {
            " (it has no password; take redis.sentinel_password away)"
        }
        _ => "",
    }
}

fn hint_of(text: &str) -> &'static str {
    let (code, message) = text.split_once(' ').unwrap_or((text, ""));
    hint(code, message)
}

/// What usually is the matter where Redis refuses with `code` and `message`.
pub(super) fn hint(code: &str, message: &str) -> &'static str {
    match code {
        "NOAUTH" => " (give a password: redis://:password@host)",
        "WRONGPASS" => " (is the user or the password wrong?)",
        "NOPERM" => FEW_RIGHTS,
        // What a script may not do.
        "ERR"
            if message.contains("ACL failure") || message.contains("user executing the script") =>
        {
            FEW_RIGHTS
        }
        "ERR" if message.contains("unknown command") => {
            " (Fanfare needs Redis 7 or later, or Valkey)"
        }
        "ERR" if message.contains("AUTH") && message.contains("without any password") => {
            " (it has no password; take it out of the address)"
        }
        "DENIED" => " (protected mode: set a password, or protected-mode no)",
        "NOREPLICAS" => " (too few replicas follow it; see min-replicas-to-write)",
        "MISCONF" => " (it cannot write to its disk; its log says why)",
        "OOM" => " (its memory is full; see maxmemory)",
        _ => "",
    }
}

const FEW_RIGHTS: &str = " (the user's ACL has to allow the commands that docs/guides/redis.md lists, and the keys and channels fanfare:*; ACL LOG has \
     what was denied)";

/// The bytes to and from a server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A greeted connection.
pub(super) struct RedisConnection {
    pub(super) address: Address,
    pub(super) stream: Box<dyn Stream>,
    /// What was read and not understood yet.
    pub(super) input: BytesMut,
}

/// What a server says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) is_primary: bool,
    pub(super) kind: Kind,
}

/// What a server is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Standalone,
    Cluster,
    Sentinel,
}

impl Greeting {
    /// Reads an answer to HELLO. Its role is that of ROLE, which needs a right that many users have not.
    pub(super) fn read(reply: &Reply) -> Option<Self> {
        let kind = match reply.get("mode").and_then(Reply::text) {
            Some("cluster") => Kind::Cluster,
            Some("sentinel") => Kind::Sentinel,
            _ => Kind::Standalone,
        };

        match reply.get("role").and_then(Reply::text) {
            Some("master") => Some(Self {
                is_primary: true,
                kind,
            }),
            Some(_) => Some(Self {
                is_primary: false,
                kind,
            }),
            // A Sentinel leaves out its role. Anything else that has none is not Redis.
            None => (kind == Kind::Sentinel).then_some(Self {
                is_primary: false,
                kind,
            }),
        }
    }
}

impl RedisConnection {
    /// Connects to `address`, and greets it as the user of `connector`, in [`limits::BUS_CONNECT`] at most.
    pub(super) async fn connect(
        connector: &Connector,
        address: &Address,
        purpose: &str,
    ) -> Result<(Self, Greeting), Fault> {
        // One deadline for connecting, TLS and the greeting: a server that accepts and then says
        // nothing costs no more time than one that is not there.
        let connected = timeout(limits::BUS_CONNECT, async {
            let stream = open(connector, address)
                .await
                .map_err(|error| Fault::Connect(address.clone(), error))?;
            let mut connection = Self {
                address: address.clone(),
                stream,
                input: BytesMut::new(),
            };
            let greeting = connection.greet(connector, purpose).await?;
            Ok((connection, greeting))
        });

        connected
            .await
            .unwrap_or_else(|_| Err(Fault::Silent(address.clone(), limits::BUS_CONNECT)))
    }

    async fn greet(&mut self, connector: &Connector, purpose: &str) -> Result<Greeting, Fault> {
        let name = format!("{}:{purpose}", connector.client_name);
        let redis = (&connector.user, &connector.password);
        let own = if purpose == SENTINEL {
            (&connector.sentinel_user, &connector.sentinel_password)
        } else {
            redis
        };

        let reply = match self.hello(own, &name).await {
            // Many Sentinels have no password, and refuse one; many have that of Redis.
            Err(Fault::Refused(_, text))
                if own.1.is_none() && redis.1.is_some() && text.starts_with("NOAUTH") =>
            {
                self.hello(redis, &name).await?
            }
            reply => reply?,
        };

        Greeting::read(&reply).ok_or_else(|| Fault::Strange(self.address.clone()))
    }

    async fn hello(
        &mut self,
        (user, password): (&Option<String>, &Option<Secret>),
        name: &str,
    ) -> Result<Reply, Fault> {
        // A server with a password refuses HELLO as well until it is given, so AUTH is part of it.
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = password {
            let user = user.as_deref().unwrap_or("default");
            words.extend([b"AUTH", user.as_bytes(), password.expose().as_bytes()]);
        }
        words.extend([b"SETNAME", name.as_bytes()]);
        self.ask(&words).await
    }

    /// Sends one command, and waits for its answer. The caller bounds the time.
    ///
    /// # Errors
    /// Also for an answer that is an error.
    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Reply, Fault> {
        let broken = |error| Fault::Broken(self.address.clone(), error);
        let mut out = BytesMut::new();
        resp::command(&mut out, words);
        self.stream.write_all(&out).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;

        loop {
            match resp::decode(&mut self.input) {
                Ok(Some(Frame::Reply(Reply::Error(text)))) => {
                    return Err(Fault::Refused(self.address.clone(), text));
                }
                Ok(Some(Frame::Reply(reply))) => return Ok(reply),
                // A push may come before the answer.
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.input.reserve(4096);
                    if self
                        .stream
                        .read_buf(&mut self.input)
                        .await
                        .map_err(broken)?
                        == 0
                    {
                        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => return Err(Fault::Malformed(self.address.clone(), error)),
            }
        }
    }
}

/// What a connection to a Sentinel is for.
pub(super) const SENTINEL: &str = "sentinel";

async fn open(connector: &Connector, address: &Address) -> io::Result<Box<dyn Stream>> {
    let socket = TcpStream::connect((&*address.host, address.port)).await?;
    // A command must not wait for the acknowledgement of the one before.
    socket.set_nodelay(true)?;
    let Some(tls) = &connector.tls else {
        return Ok(Box::new(socket));
    };
    let name = ServerName::try_from(address.host.to_string()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, socket).await?))
}
