//! HTTP on the sockets of one thread, until each ends or becomes a client's.

use std::{cell::Cell, rc::Rc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use tokio::{net::TcpStream, sync::mpsc};

use super::{accepting::Accepted, ending::Stop, threads::ThreadParts};
use crate::{
    http::{Edge, Peer, timeouts::ConnectionTimers},
    limits::{FIRST_REQUEST, REQUEST_HEAD_BYTES},
};

impl ThreadParts {
    /// Serves what is accepted, until no more is accepted and the last request is answered, or until all is to end now.
    pub(super) async fn serve_all(
        &self,
        edge: &Rc<Edge>,
        timers: &Rc<ConnectionTimers>,
        sockets: &mut mpsc::Receiver<Accepted>,
    ) {
        let mut serving = tokio::task::JoinSet::new();
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop == Stop::Now) => return,
                accepted = sockets.recv() => match accepted {
                    Some(accepted) => {
                        serving.spawn_local(self.clone().serve(edge.clone(), timers.clone(), accepted));
                    }
                    None => break,
                },
                Some(_) = serving.join_next() => {}
            }
        }

        // Without a word to stop, the task that accepts has failed. The supervisor ends the server for that, and not
        // for this thread.
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
            () = finish(serving) => {}
        }
    }

    /// Serves HTTP on one socket, until it ends or becomes a client's.
    async fn serve(self, edge: Rc<Edge>, timers: Rc<ConnectionTimers>, accepted: Accepted) {
        let Accepted {
            socket,
            ip,
            since,
            // Held until the socket ends, or is a client's.
            permit,
        } = accepted;

        let Ok(socket) = TcpStream::from_std(socket) else {
            return;
        };

        let timer = permit.timer().clone();
        let socket = timers.over(socket, timer.clone());
        let peer = Rc::new(Peer {
            ip,
            since,
            timer: timer.clone(),
        });

        let asked = Rc::new(Cell::new(false));
        let has_asked = asked.clone();
        let service = service_fn(move |request| {
            let (edge, peer) = (edge.clone(), peer.clone());
            has_asked.set(true);
            async move { Ok::<_, std::convert::Infallible>(edge.serve(request, &peer).await) }
        });

        let connection = http1::Builder::new()
            .max_buf_size(REQUEST_HEAD_BYTES)
            // Else a caller that hangs up after its body takes a request back that no handler has seen yet.
            .half_close(true)
            .writev(false)
            .serve_connection(socket, service)
            .with_upgrades();

        let mut connection = std::pin::pin!(connection);
        let mut stop = self.stop.subscribe();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = timer.over() => return tracing::debug!(%ip, "HTTP connection ended: it took too long, or made room"),
            _ = stop.wait_for(|stop| *stop != Stop::No) => {
                // The first request of a connection just accepted may be on its way.
                let first = if asked.get() { Duration::ZERO } else { FIRST_REQUEST };
                if let Ok(ended) = tokio::time::timeout(first, connection.as_mut()).await {
                    ended
                } else {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };

        if let Err(error) = ended {
            tracing::debug!(%error, %ip, "HTTP connection ended");
        }
    }
}

/// Lets requests that are being answered finish, for a second at most.
async fn finish(mut serving: tokio::task::JoinSet<()>) {
    let all = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(1), all)
        .await
        .is_err()
    {
        tracing::warn!("requests were cut off: they took too long to answer");
    }
}
