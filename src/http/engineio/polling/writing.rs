//! Writing whole frames to a session, which may take none for a while.

use std::{future::poll_fn, io, pin::pin, task::Poll::Ready};

use tokio::time::timeout;

use crate::{
    event_loop::Unfinished, limits::MESSAGE_TIME, protocol::engineio::Refused,
    session::handover::Far,
};

/// Memory that waits for a session to take a post, among what waits on this thread.
pub(super) struct Held<'h> {
    pub(super) all: &'h Unfinished,
    pub(super) bytes: usize,
}

/// Writes whole frames to a session. Where that has to wait, `held` is counted, and given up if all that waits is too much.
pub(super) async fn write(
    far: &Far,
    mut bytes: &[u8],
    held: Option<Held<'_>>,
) -> Result<(), Refused> {
    while !bytes.is_empty() {
        match far.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_writable(far, held.as_ref()).await?;
            }
            Err(_) => return Err(Refused::UnknownSession),
        }
    }
    Ok(())
}

async fn wait_writable(far: &Far, held: Option<&Held<'_>>) -> Result<(), Refused> {
    let mut writable = pin!(far.writable());
    let mut noted = None;
    let waited = poll_fn(|cx| {
        if let Some(Held { all, bytes }) = held {
            let noted = noted.get_or_insert_with(|| {
                let noted = all.begin(cx.waker());
                noted.holds(*bytes);
                noted
            });
            if noted.given_up().is_some() {
                return Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
        }
        writable.as_mut().poll(cx)
    });

    match timeout(MESSAGE_TIME, waited).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Refused::BadRequest),
    }
}
