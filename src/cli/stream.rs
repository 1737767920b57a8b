//! A byte stream to a server: TCP, with TLS where the address says so.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};

use super::address::Address;

/// How long connecting may take, TLS included.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bytes to and from a server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to `address`.
///
/// # Errors
/// When it cannot be reached in time, or its certificate is not one that this system trusts.
pub(super) async fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    timeout(PATIENCE, open(address)).await.map_err(|_| {
        let text = format!("no answer within {} s", PATIENCE.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?
}

async fn open(address: &Address) -> io::Result<Box<dyn Stream>> {
    let socket = TcpStream::connect((address.host.as_str(), address.port)).await?;
    socket.set_nodelay(true)?;
    if !address.secure {
        return Ok(Box::new(socket));
    }
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(connector()?.connect(name, socket).await?))
}

/// Trusts what the system trusts, so that a company's own authority works as it does for other programs.
fn connector() -> io::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        let text = format!(
            "this system has no certificates to trust ({why}); install them (often: ca-certificates)"
        );
        return Err(io::Error::other(text));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
