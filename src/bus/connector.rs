//! How Redis is reached, from the configuration: as which user, TLS, and the pool of connections for commands.

use std::{convert::Infallible, io, sync::Arc};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, TlsCertificates,
    io::tcp::TcpSettings,
};
use tokio::sync::mpsc;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::connection::Address;
use crate::{
    config::{PemFile, RedisConfig, RedisKind, Secret},
    id::NodeId,
    limits,
};

/// Why the way to Redis cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// There is no address.
    #[error("the address of Redis is missing; give --redis or FANFARE_REDIS")]
    NoServer,
    /// A file of certificates or of a key is not one.
    #[error("{}: {reason}", file.display())]
    Pem {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing says which certificates to trust.
    #[error(
        "this system has no certificates to trust ({0}); set redis.ca, or install them (often: ca-certificates)"
    )]
    NoRoots(String),
    /// TLS cannot be used as it is set.
    #[error("TLS with Redis cannot be set up: {0}")]
    Tls(String),
    /// The system gives no thread.
    #[error("cannot start the thread for Redis: {0}")]
    Thread(#[from] io::Error),
}

/// Everything that a connection needs but the address.
pub(super) struct Connector {
    pub(super) kind: RedisKind,
    /// The addresses of the configuration: of Redis, or of Sentinels.
    pub(super) seeds: Vec<Address>,
    /// The primary's name for the Sentinels.
    pub(super) master: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// The same for the Sentinels.
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<Secret>,
    pub(super) database: u32,
    /// Shared by all connections, and so are its sessions.
    pub(super) tls: Option<TlsConnector>,
    /// The same for the connections of the pool, which make their own.
    certificates: Option<TlsCertificates>,
    /// What CLIENT LIST shows, before what the connection is for.
    pub(super) client_name: String,
}

impl Connector {
    pub(super) fn new(
        config: &RedisConfig,
        namespace: &str,
        node: NodeId,
    ) -> Result<Self, RedisSetupError> {
        let url = &config.url;
        if url.servers.is_empty() {
            return Err(RedisSetupError::NoServer);
        }

        let tls = url.tls.then(|| tls(config)).transpose()?;
        let certificates = url.tls.then(|| TlsCertificates {
            client_tls: config
                .cert
                .as_ref()
                .zip(config.key.as_ref())
                .map(|(cert, key)| ClientTlsConfig {
                    client_cert: cert.pem.clone(),
                    client_key: key.pem.clone(),
                }),
            root_cert: config.ca.as_ref().map(|ca| ca.pem.clone()),
        });

        Ok(Self {
            kind: url.kind,
            seeds: url
                .servers
                .iter()
                .map(|(host, port)| Address::new(host, *port))
                .collect(),

            master: config.master().unwrap_or_default().to_owned(),
            user: url.user.clone(),
            password: url.password.clone(),
            sentinel_user: config.sentinel_user.clone(),
            sentinel_password: config.sentinel_password.clone(),
            database: url.database,
            tls,
            certificates,

            client_name: format!("fanfare:{namespace}:{node}"),
        })
    }

    /// A pool of connections for commands to `address`. It connects when asked to.
    ///
    /// Answers have no deadline of the connection's own: their callers have one from the call on. `ended` gets a
    /// message when a connection ends.
    pub(super) fn pool(&self, address: &Address, ended: mpsc::Sender<()>) -> Result<Pool, String> {
        let (host, port) = (address.host.to_string(), address.port);
        let place = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        };

        // CLIENT SETINFO came with Redis 7.2, and the user may lack the right to it.
        let mut user = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(i64::from(self.database));
        if let Some(password) = &self.password {
            user = user
                .set_username(self.user.as_deref().unwrap_or("default"))
                .set_password(password.expose());
        }

        let text = |error: redis::RedisError| error.to_string();
        let mut info = place
            .into_connection_info()
            .map_err(text)?
            .set_redis_settings(user);
        if let Some(certificates) = &self.certificates {
            let client = Client::build_with_tls(info, certificates.clone()).map_err(text)?;
            info = client.get_connection_info().clone();
        }

        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(limits::BUS_CONNECT))
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    // One word of it is enough.
                    let _ = ended.try_send(());
                }
                Ok::<(), Infallible>(())
            })
            // A pipeline finds room immediately, so that they are written in the order in which they were begun.
            .set_pipeline_buffer_size(limits::BUS_PIPELINES * 4);

        let manager = Manager::new_with_config(info, config).map_err(text)?;
        // One connection, since two could change the order of the commands.
        Pool::builder(manager)
            .max_size(1)
            .wait_timeout(Some(limits::BUS_CONNECT))
            .create_timeout(Some(limits::BUS_CONNECT))
            .recycle_timeout(Some(limits::BUS_CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())
    }
}

fn tls(config: &RedisConfig) -> Result<TlsConnector, RedisSetupError> {
    let provider = Arc::new(ring::default_provider());
    // The pool's connections take that of the process, and end it where there is none.
    let _ = ring::default_provider().install_default();
    let broken = |error: tokio_rustls::rustls::Error| RedisSetupError::Tls(error.to_string());

    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(roots(config.ca.as_ref())?);
    let client = match config.cert.as_ref().zip(config.key.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let secret =
                PrivateKeyDer::from_pem_slice(&key.pem).map_err(|error| pem(key, &error))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(broken)?
        }
    };

    Ok(TlsConnector::from(Arc::new(client)))
}

fn roots(ca: Option<&PemFile>) -> Result<RootCertStore, RedisSetupError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| pem(ca, &error))?;
        }
        return Ok(roots);
    }

    let found = rustls_native_certs::load_native_certs();
    // Many systems have a certificate that rustls cannot read, and the others are still good.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(RedisSetupError::NoRoots(why));
    }

    Ok(roots)
}

fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, RedisSetupError> {
    let all = CertificateDer::pem_slice_iter(&file.pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| pem(file, &error))?;
    if all.is_empty() {
        return Err(pem(file, &"it holds no certificate in PEM"));
    }
    Ok(all)
}

fn pem(file: &PemFile, reason: &impl ToString) -> RedisSetupError {
    RedisSetupError::Pem {
        file: file.path.clone(),
        reason: reason.to_string(),
    }
}
