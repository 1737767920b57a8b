//! One write for many frames.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use crate::{limits::WRITE_VECTORS, protocol::frame::Frame};

/// The buffers of one write; connections with the same run share one list.
pub(super) type Buffers<'a> = SmallVec<[IoSlice<'a>; WRITE_VECTORS]>;

/// The first buffers of `frames`, without the `skip` bytes that are written already.
pub(super) fn buffers(frames: &[Frame], skip: usize) -> Buffers<'_> {
    let mut buffers: Buffers<'_> =
        frames.iter().take(WRITE_VECTORS).map(|frame| IoSlice::new(frame.bytes())).collect();
    if let Some(first) = buffers.first_mut() {
        first.advance(skip);
    }
    buffers
}

/// Writes `frames`, of which `skip` bytes are written already, until the socket refuses; answers the bytes it took.
///
/// `first` are the buffers of the first write, as [`buffers`] makes them.
///
/// # Errors
/// Those of the socket, other than its refusal.
pub(super) fn write(
    socket: &TcpStream,
    frames: &[Frame],
    skip: usize,
    first: &[IoSlice<'_>],
) -> io::Result<usize> {
    let total = frames.iter().map(Frame::len).sum::<usize>() - skip;
    let Some(mut taken) = send(socket, first)? else { return Ok(0) };
    while taken < total {
        let (whole, begun) = split(frames, skip + taken);
        match send(socket, &buffers(&frames[whole..], begun))? {
            Some(more) => taken += more,
            None => break,
        }
    }
    Ok(taken)
}

/// How many whole frames `bytes` make, and the bytes of the next.
pub(super) fn split(frames: &[Frame], mut bytes: usize) -> (usize, usize) {
    for (at, frame) in frames.iter().enumerate() {
        if bytes < frame.len() {
            return (at, bytes);
        }
        bytes -= frame.len();
    }
    (frames.len(), 0)
}

/// One system call; `None` when the socket refuses.
///
/// The descriptor is used directly, which saves tokio's readiness look-up. Only a refusal goes through tokio, so that
/// it learns of it and a later `writable` waits.
fn send(socket: &TcpStream, buffers: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = match buffers {
        [one] => rustix::net::send(socket.as_fd(), one, flags),
        many => rustix::net::sendmsg(socket.as_fd(), many, &mut SendAncillaryBuffer::default(), flags),
    };
    let sent = match sent {
        Ok(n) => Ok(n),
        Err(rustix::io::Errno::AGAIN) => socket.try_write_vectored(buffers),
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    };
    match sent {
        Ok(n) => Ok(Some(n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
