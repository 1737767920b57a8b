//! Connections that this program opens: TCP, with TLS where asked for.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// How long connecting may take, TLS included.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bytes to and from a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to `host`, a name or an address without brackets.
///
/// # Errors
/// When it cannot be reached in time, or its certificate is not one that this system trusts.
pub(crate) async fn connect(host: &str, port: u16, secure: bool) -> io::Result<Box<dyn Stream>> {
    timeout(PATIENCE, open(host, port, secure))
        .await
        .map_err(|_| {
            let text = format!("no answer within {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })?
}

async fn open(host: &str, port: u16, secure: bool) -> io::Result<Box<dyn Stream>> {
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(|error| unknown_host(host, &error))?
        .collect();
    let socket = TcpStream::connect(&addresses[..]).await?;
    // Requests are short, and must not wait for the answer to the last packet.
    socket.set_nodelay(true)?;
    if !secure {
        return Ok(Box::new(socket));
    }

    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    // Reading the system's certificates takes milliseconds, in which a shard's clients would wait.
    let connector = tokio::task::spawn_blocking(connector)
        .await
        .map_err(io::Error::other)??;
    Ok(Box::new(connector.connect(name, socket).await?))
}

/// Names the host, which the system's error does not.
fn unknown_host(host: &str, error: &io::Error) -> io::Error {
    let text = error.to_string();
    // The standard library begins it in the same way.
    let why = text.trim_start_matches("failed to lookup address information: ");
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("the host name \"{host}\" cannot be resolved ({why})"),
    )
}

/// Trusts what the system trusts, so that a company's own authority works as it does for other programs.
fn connector() -> io::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);

    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none was found".to_owned(), ToString::to_string);
        let text = format!(
            "this system has no certificates to trust ({why}); install them (often: ca-certificates)"
        );
        return Err(io::Error::other(text));
    }

    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();

    Ok(TlsConnector::from(Arc::new(config)))
}
