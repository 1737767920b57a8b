//! The upgrade from polling: a WebSocket that is probed first, and then takes over.

use std::{io, sync::Arc, time::Duration};

use hyper::{Request, Response, body::Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Call,
    polling::{TakenOver, Transport},
    refused,
};
use crate::{
    http::{
        ResponseBody, access,
        connect::{self, RawSocket},
        problem::Problem,
    },
    limits::{READ_BUFFER, RELAY_PAUSE, RELAY_PAUSE_MAX, UPGRADE_TIME},
    metrics::Refusal,
    node::Occupancy,
    protocol::{
        decoder::{Decoder, Message, Role},
        engineio::{self, Refused},
    },
    session::handover::{Far, Offered, Outcome, read_all},
};

/// Longest message on a WebSocket that has yet to take over.
const PROBE_BYTES: usize = 125;

/// Grants the handshake of a WebSocket that wants to take over from polling.
///
/// # Errors
/// Those of a handshake, and 503 if the node has no place for one more socket. The client goes on polling then.
pub(super) fn begin(
    call: &Call<'_>,
    request: &mut Request<Incoming>,
    sid: String,
    transport: Arc<Transport>,
) -> Result<Response<ResponseBody>, Problem> {
    connect::check_handshake(request)?;
    // Beside it the sockets of the session stay open.
    let Some(place) = Occupancy::take(&call.edge.node) else {
        let full = Problem::unavailable("connection_limit", "this node is full");
        let app = Some(call.served.app);
        return Err(access::Refused::new(Refusal::Connections, app, full).logged(&call.edge.node));
    };

    if let Err(error) = transport.probe() {
        return Ok(refused(error));
    }
    let Ok((response, socket)) = connect::raw_upgrade(request) else {
        transport.probe_failed();
        return Ok(refused(Refused::BadRequest));
    };

    let (node, polls) = (call.edge.node.clone(), call.edge.polls.clone());
    tokio::task::spawn_local(async move {
        let _place = place;
        let Some(raw) = socket.await else {
            return transport.probe_failed();
        };
        let RawSocket {
            mut socket,
            granted,
            leftover,
        } = raw;

        let mut heard = leftover.to_vec();
        let probing = async {
            socket.write_all(&granted).await?;
            probe(&mut socket, &mut heard, &transport).await
        };

        if !matches!(timeout(UPGRADE_TIME, probing).await, Ok(Ok(()))) {
            return transport.probe_failed();
        }

        let ended = match transport.take_over(UPGRADE_TIME).await {
            Some(TakenOver {
                unsaid,
                far: Some(far),
            }) => carry(&transport, &far, socket, heard, unsaid).await,
            // It no longer polls.
            Some(TakenOver { unsaid, far: None }) => say_last(socket, &unsaid),
            None => Err(io::ErrorKind::TimedOut.into()),
        };

        if let Err(error) = ended {
            tracing::debug!(node = %node.name, %error, "an upgraded client is lost");
            transport.close();
        }

        // It no longer polls.
        polls.remove(&sid);
    });

    Ok(response.map(|_| ResponseBody::default()))
}

/// Answers the probe, and waits until the client says that it has stopped polling. What came after that stays in `heard`.
///
/// # Errors
/// The socket failed, or the session ended before the probe was answered: the client learns that from its next poll. After the
/// answer it polls no more, so it can learn that only from this socket once it listens there.
async fn probe(
    socket: &mut TcpStream,
    heard: &mut Vec<u8>,
    transport: &Transport,
) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut decoder = Decoder::new(Role::Server, PROBE_BYTES);
    let mut was_probed = false;

    loop {
        let mut rest = &mut heard[..];
        let mut is_probed = false;
        let is_upgraded = loop {
            match decoder.next(&mut rest) {
                Ok(None) => break false,
                Ok(Some(Message::Text(engineio::PROBE))) => {
                    is_probed = true;
                    break false;
                }
                // This packet is the upgrade of Engine.IO. Before a probe, the client would still
                // poll.
                Ok(Some(Message::Text("5"))) if was_probed => break true,
                Ok(Some(Message::Ping(_) | Message::Pong(_))) => {}
                Ok(Some(_)) | Err(_) => return Err(wrong()),
            }
        };

        let left = rest.len();
        heard.drain(..heard.len() - left);
        if is_upgraded {
            return Ok(());
        }

        if is_probed {
            // It is a whole frame of text, without a mask, as servers send them (RFC 6455, section
            // 5.1).
            let answer = [&[0x81, engineio::PROBED.len() as u8], engineio::PROBED].concat();
            socket.write_all(&answer).await?;
            transport.probe_worked();
            was_probed = true;
            continue;
        }

        let read = tokio::select! {
            read = socket.read_buf(heard) => read?,
            () = transport.handover.ended(), if !was_probed => 0,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Carries the session's bytes over the WebSocket until the session takes it, or ends.
async fn carry(
    transport: &Transport,
    far: &Arc<Far>,
    mut socket: TcpStream,
    mut heard: Vec<u8>,
    mut unsaid: Vec<u8>,
) -> io::Result<()> {
    let mut pause = RELAY_PAUSE;
    loop {
        // The socket leaves this thread's runtime: the session may run on another one.
        let offered = Offered {
            socket: socket.into_std()?,
            heard: std::mem::take(&mut heard),
            unsaid: std::mem::take(&mut unsaid),
            far: far.clone(),
        };

        let offered = match transport.handover.offer(offered).await {
            Outcome::Taken => return Ok(()),
            Outcome::Lost => return Err(io::ErrorKind::ConnectionReset.into()),
            Outcome::NotNow(offered) => offered,
        };

        socket = TcpStream::from_std(offered.socket)?;
        (heard, unsaid) = (offered.heard, offered.unsaid);
        if transport.handover.is_over() {
            // The read fails after the last of it, if the session left something unread.
            let _ = read_all(&**far, &mut unsaid);
            return say_last(socket, &unsaid);
        }

        tokio::select! {
            relayed = relay(far, &mut socket, &mut heard, &mut unsaid, pause) => relayed?,
            () = transport.handover.ended() => {}
        }
        // A session whose outbox is blocked may refuse for long, so it is asked less and less
        // often.
        pause = (pause * 2).min(RELAY_PAUSE_MAX);
    }
}

/// Says what a session said before it ended, as far as the socket takes it without waiting.
fn say_last(socket: TcpStream, unsaid: &[u8]) -> io::Result<()> {
    let socket = socket.into_std()?;
    let _ = io::Write::write(&mut &socket, unsaid)?;
    // Unread bytes would let the kernel throw away what was just written.
    let _ = read_all(&socket, &mut Vec::new());
    socket.shutdown(std::net::Shutdown::Write)
}

/// Carries bytes in both directions for `time`. Cancel-safe: what has been read and not written is in `heard` and `unsaid`.
///
/// # Errors
/// The client's socket failed. If the session's has, nothing more is carried to it or from it: what it said before is there.
async fn relay(
    far: &Far,
    socket: &mut TcpStream,
    heard: &mut Vec<u8>,
    unsaid: &mut Vec<u8>,
    time: Duration,
) -> io::Result<()> {
    let over = sleep(time);
    tokio::pin!(over);
    let (mut says_more, mut hears_more) = (true, true);
    loop {
        tokio::select! {
            () = &mut over => return Ok(()),
            ready = far.writable(), if hears_more && !heard.is_empty() => {
                let written = ready.and_then(|()| forward(far.try_write(heard), heard));
                hears_more = written.is_ok();
            }

            ready = socket.writable(), if !unsaid.is_empty() => {
                ready?;
                forward(socket.try_write(unsaid), unsaid)?;
            }

            // Each direction reads no further while it has so much to write, so the slower side
            // slows the other.
            ready = far.readable(), if says_more && unsaid.len() < READ_BUFFER => {
                let read = ready.and_then(|()| gather(far.try_read_buf(unsaid)));
                says_more = read.is_ok();
            }

            ready = socket.readable(), if heard.len() < READ_BUFFER => {
                ready?;
                gather(socket.try_read_buf(heard))?;
            }
        }
    }
}

/// Takes what was written out of `from`.
fn forward(written: io::Result<usize>, from: &mut Vec<u8>) -> io::Result<()> {
    match written {
        Ok(n) => drop(from.drain(..n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether a read has found something, or nothing yet.
fn gather(read: io::Result<usize>) -> io::Result<()> {
    match read {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::{id::AppId, session::handover::Handover};

    #[tokio::test]
    async fn a_session_that_takes_nothing_more_is_still_heard_to_its_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, (mut socket, _)) = (client.unwrap(), accepted.unwrap());

        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let far = Far::new(far, None);
        near.try_write(b"last").unwrap();
        rustix::net::shutdown(&near, rustix::net::Shutdown::Both).unwrap();
        let (mut heard, mut unsaid) = (b"unheard".to_vec(), Vec::new());
        relay(&far, &mut socket, &mut heard, &mut unsaid, RELAY_PAUSE)
            .await
            .unwrap();

        drop(socket);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "last");
    }

    #[tokio::test]
    async fn what_a_session_says_last_reaches_a_client_whose_websocket_it_has_yet_to_take() {
        // Whether the end or the words are noticed first differs from run to run.
        for _ in 0..32 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (socket, _) = listener.accept().await.unwrap();

            let (near, far) = tokio::net::UnixStream::pair().unwrap();
            let (far, handover) = (Arc::new(Far::new(far, None)), Arc::<Handover>::default());
            let (_, unused) = tokio::net::UnixStream::pair().unwrap();
            let transport = Transport::new(
                AppId(0),
                Far::new(unused, None),
                handover.clone(),
                Arc::<AtomicUsize>::default(),
            );

            let transport_far = far.clone();
            let session = async {
                tokio::task::yield_now().await;
                near.try_write(b" last").unwrap();
                // Closed over something unread, it fails for whoever reads after the last of it.
                transport_far.try_write(b"unread").unwrap();
                drop(near);
                handover.end();
            };
            let unsaid = b"first,".to_vec();
            let carried = carry(&transport, &far, socket, b"unheard".to_vec(), unsaid);
            let (carried, ()) = tokio::join!(carried, session);
            carried.unwrap();

            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "first, last");
        }
    }
}
