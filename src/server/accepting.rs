//! Listening and accepting: sockets are handed round to the threads as plain descriptors.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream as StdStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::SocketFlags;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{self, error::TrySendError},
};

use super::{StartError, ending::Stop, threads::ThreadParts};
use crate::{
    http::sockets::SocketPermit,
    limits::{ACCEPT_QUEUE, HTTP_SOCKETS_ENDED},
    log_limit::Line,
};

/// A socket as the kernel gave it, with its peer's address.
type FromKernel = (StdStream, IpAddr);

/// A socket that was let in.
pub(super) struct Accepted {
    pub(super) socket: StdStream,
    pub(super) ip: IpAddr,
    pub(super) since: Instant,
    pub(super) permit: SocketPermit,
}

impl ThreadParts {
    /// Accepts until the server stops, and hands the sockets round. Those that the kernel has let in by then are served
    /// too: closed unread, they would look to a load balancer as if their requests might have been delivered.
    pub(super) async fn accept(
        self,
        listener: Arc<TcpListener>,
        senders: Vec<mpsc::Sender<Accepted>>,
    ) {
        #[expect(
            deprecated,
            reason = "what replaces it is `unsafe`; an `Arc` of a `TcpListener` keeps to what that asks"
        )]
        let listener = match AsyncFd::with_interest(listener, Interest::READABLE) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot watch the listening socket"),
        };

        let mut stop = self.stop.subscribe();
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                // First: a socket that was shut accepts no more, which is not an error then.
                _ = stop.wait_for(|stop| *stop != Stop::No) => break,
                accepted = listener.async_io(Interest::READABLE, |socket| accept_one(socket)) => accepted,
            };

            match accepted {
                Ok(accepted) => {
                    let Some(accepted) = self.let_in(accepted) else {
                        continue;
                    };
                    next = (next + 1) % senders.len();
                    if !hand_over(&senders, next, accepted).await {
                        return;
                    }
                }
                Err(error) => self.cannot_accept(&error).await,
            }
        }

        if *stop.borrow() == Stop::Now {
            return;
        }

        // Bounded, since clients may connect as fast as this accepts them, and the stop would not
        // end.
        for sender in senders.iter().cycle().take(ACCEPT_QUEUE) {
            // What tokio knows of the listener is a moment old.
            let Ok(accepted) = accept_one(listener.get_ref()) else {
                return;
            };
            let Some(accepted) = self.let_in(accepted) else {
                continue;
            };
            if sender.send(accepted).await.is_err() {
                return;
            }
        }
    }

    /// Takes a place for a socket among those of the node. Nothing where each of them is busy, which ends the socket.
    fn let_in(&self, (socket, ip): FromKernel) -> Option<Accepted> {
        let runtime_config = self.node.runtime_config();
        let is_proxy = runtime_config
            .config
            .trusted_proxies
            .iter()
            .any(|proxy| proxy.contains(&ip));

        let permit = self.sockets.enter(ip, is_proxy, self.node.occupied())?;
        Some(Accepted {
            socket,
            ip,
            since: Instant::now(),
            permit,
        })
    }

    /// Makes room after the kernel gave no socket. The process is out of descriptors, most likely, and sockets that wait for
    /// requests hold some of them.
    async fn cannot_accept(&self, error: &io::Error) {
        if let Some(others) = self.node.lines().note(Line::CannotAccept) {
            tracing::error!(others, %error, "cannot accept; raise the limit of open files (ulimit -n) or lower limits.connections");
        }
        let ended = self.sockets.end_some(HTTP_SOCKETS_ENDED);
        let most = Duration::from_millis(if ended > 0 { 10 } else { 100 });

        // Clients free descriptors too, and say nothing.
        let _ = tokio::time::timeout(most, self.sockets.freed()).await;
    }
}

/// Accepts without registering the socket with this thread's runtime, as tokio's listener would: it may be another's.
fn accept_one(listener: &TcpListener) -> io::Result<FromKernel> {
    let (socket, address) =
        rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((
        socket.into(),
        SocketAddr::try_from(address)?.ip().to_canonical(),
    ))
}

/// Listens; a port that another process has is an error, since only the address is reused, not the port.
///
/// What is set here is inherited by every accepted socket.
pub(super) fn listen(
    address: SocketAddr,
    send_buffer: usize,
) -> Result<(Arc<TcpListener>, SocketAddr), StartError> {
    let listen = || -> io::Result<(Arc<TcpListener>, SocketAddr)> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;

        // Without it a restart fails while connections of the last server are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(send_buffer)?;

        // The kernel doubles what it grants, and says nothing when that is less.
        let granted = socket.send_buffer_size()? / 2;
        if granted < send_buffer {
            tracing::warn!(
                send_buffer,
                granted,
                "the kernel grants a smaller send buffer than limits.send_buffer; raise net.core.wmem_max, or lower \
                 limits.send_buffer"
            );
        }

        socket.bind(&address.into())?;
        // The clients of a node that has ended come back together. Linux lowers this to
        // `net.core.somaxconn`.
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;

        Ok((Arc::new(listener), address))
    };

    listen().map_err(|error| StartError::Listen { address, error })
}

/// Gives a socket to a shard, beginning with `first`: one whose thread is busy does not keep the others' clients out. False
/// if the server has ended.
async fn hand_over(
    senders: &[mpsc::Sender<Accepted>],
    first: usize,
    mut accepted: Accepted,
) -> bool {
    for n in 0..senders.len() {
        match senders[(first + n) % senders.len()].try_send(accepted) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) => accepted = back,
            Err(TrySendError::Closed(_)) => return false,
        }
    }
    // All are busy. While this waits, further clients stay in the kernel's queue, which costs
    // nothing here.
    senders[first].send(accepted).await.is_ok()
}
