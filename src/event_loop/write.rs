//! One write for many frames.

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::pages::Pages;
use crate::{
    hub::Forms,
    limits::{JOINED_BYTES, PAGED_AFTER, PAGED_BYTES, PAGED_SOCKETS, WRITE_VECTORS},
    protocol::{frame::Frame, wire::Form},
};

/// The buffers of one write.
pub(super) type Buffers<'a> = SmallVec<[IoSlice<'a>; WRITE_VECTORS]>;

/// A socket to write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sink<'a> {
    /// Taken out of the socket before a batch of writes begins, which fetches its memory.
    descriptor: BorrowedFd<'a>,
    /// What tokio knows of it, which only a refusal touches.
    socket: &'a TcpStream,
}

impl<'a> Sink<'a> {
    pub(super) fn new(socket: &'a TcpStream) -> Self {
        Self {
            descriptor: socket.as_fd(),
            socket,
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn finish(self) {
        // Fails only if the peer is gone already; the reader will see that.
        let _ = rustix::net::shutdown(self.descriptor, rustix::net::Shutdown::Write);
    }
}

/// Which bytes of some frames are to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwritten {
    /// Bytes of the first frame that are written already.
    pub(super) skip: usize,
    /// Bytes that are not.
    pub(super) left: usize,
}

/// Where a number of bytes ends in some frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Frames that it covers.
    pub(super) whole: usize,
    /// Bytes of the next one.
    pub(super) begun: usize,
}

/// What a run of the log is as one write, worked out once for all connections that have this run.
///
/// Its frames are copied into one buffer: the kernel takes one stretch of memory for less than it takes its pieces. A
/// run that some sockets get, but not very many, is given to the kernel as [`Pages`].
#[derive(Debug, Default)]
pub(super) struct PreparedWrite {
    first: u64,
    end: u64,
    joined: Vec<u8>,
    pages: Pages,
    /// Sockets that wait for runs.
    waiting: usize,
    /// Sockets that had this one.
    uses: usize,
    /// Bytes on the wire.
    pub(super) bytes: usize,
    /// Frames that carry an event.
    pub(super) events: u64,
}

impl PreparedWrite {
    /// The write of frames that no other connection has in this order.
    pub(super) fn of(frames: &[Frame]) -> Self {
        Self {
            bytes: frames.iter().map(Frame::len).sum(),
            events: events(frames),
            ..Self::default()
        }
    }

    /// Whether this is the write of the run `first..end`.
    fn is_of(&self, first: u64, end: u64) -> bool {
        (self.first, self.end) == (first, end)
    }

    /// Makes this the write of the run `first..end`, which is `frames`.
    fn select_run(&mut self, first: u64, end: u64, frames: &[Frame]) {
        if self.is_of(first, end) {
            self.uses += 1;
            if self.uses == PAGED_AFTER
                && self.waiting <= PAGED_SOCKETS
                && self.joined.len() >= PAGED_BYTES
            {
                self.pages.hold(&self.joined);
            }
            return;
        }

        let Self {
            joined,
            pages,
            waiting,
            ..
        } = std::mem::take(self);

        *self = Self {
            first,
            end,
            joined,
            pages,
            waiting,
            uses: 1,
            ..Self::of(frames)
        };

        self.joined.clear();
        self.pages.forget();
        // One frame is in one piece already, and a long run costs more to copy than its pieces cost
        // the kernel.
        if frames.len() > 1 && self.bytes <= JOINED_BYTES {
            for frame in frames {
                self.joined.extend_from_slice(frame.bytes());
            }
        }
    }

    /// Notes how many sockets wait for runs.
    fn note_waiting(&mut self, waiting: usize) {
        self.waiting = waiting;
    }

    /// Writes it, which is `frames`, as [`write()`] does.
    ///
    /// # Errors
    /// As [`write()`].
    pub(super) fn write(&self, sink: Sink<'_>, frames: &[Frame]) -> io::Result<usize> {
        if self.bytes == 0 {
            // Another protocol has no word for any of it.
            return Ok(0);
        }

        let taken = self.pages.send(sink.descriptor)?;
        if taken == 0 {
            let all = Unwritten {
                skip: 0,
                left: self.bytes,
            };
            return match self.whole(frames) {
                Some(bytes) => write(sink, frames, all, &[IoSlice::new(bytes)]),
                None => write(sink, frames, all, &buffers(frames, 0)),
            };
        }

        if taken == self.bytes {
            return Ok(taken);
        }

        let Cut { whole, begun } = split(frames, taken);
        let rest = &frames[whole..];
        let unwritten = Unwritten {
            skip: begun,
            left: self.bytes - taken,
        };
        Ok(taken + write(sink, rest, unwritten, &buffers(rest, begun))?)
    }

    /// All of it, where it is in one piece.
    fn whole<'a>(&'a self, frames: &'a [Frame]) -> Option<&'a [u8]> {
        match frames {
            [frame] => Some(frame.bytes()),
            _ => Some(&*self.joined).filter(|joined| !joined.is_empty()),
        }
    }
}

/// The runs of the log that are being written, in each form that a connection has.
#[derive(Debug, Default)]
pub(super) struct PreparedWrites {
    native: PreparedWrite,
    /// Few: as many as this shard's clients have protocols.
    others: Vec<EncodedWrite>,
    waiting: usize,
}

/// The frames of a run in the form of another protocol.
#[derive(Debug)]
struct EncodedWrite {
    form: Form,
    frames: Vec<Frame>,
    write: PreparedWrite,
}

impl PreparedWrites {
    /// Notes how many sockets wait for runs.
    pub(super) fn note_waiting(&mut self, waiting: usize) {
        self.waiting = waiting;
        self.native.note_waiting(waiting);
    }

    /// The frames of `run` by their numbers in the log, which are `frames` as they were placed, in `form`, and how they are
    /// written.
    pub(super) fn select_run<'a>(
        &'a mut self,
        form: Form,
        forms: &Forms,
        run: Range<u64>,
        frames: &'a [Frame],
    ) -> (&'a [Frame], &'a PreparedWrite) {
        let Range { start: first, end } = run;
        if form.is_native() {
            self.native.select_run(first, end, frames);
            return (frames, &self.native);
        }

        let known = self.others.iter().position(|other| other.form == form);
        let at = known.unwrap_or_else(|| {
            self.others.push(EncodedWrite {
                form,
                frames: Vec::new(),
                write: PreparedWrite::default(),
            });
            self.others.len() - 1
        });

        let other = &mut self.others[at];
        if !other.write.is_of(first, end) {
            other.frames.clear();
            let frames = frames.iter().map(|frame| forms.frame(form, frame));
            other.frames.extend(frames);
        }

        other.write.note_waiting(self.waiting);
        other.write.select_run(first, end, &other.frames);
        (&other.frames, &other.write)
    }

    /// Lets go of the frames of other protocols, which the log does not hold.
    pub(super) fn release(&mut self) {
        self.others.clear();
    }
}

/// How many of `frames` carry an event.
pub(super) fn events(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| u64::from(frame.is_event())).sum()
}

/// The first buffers of `frames`, without the `skip` bytes that are written already.
pub(super) fn buffers(frames: &[Frame], skip: usize) -> Buffers<'_> {
    let mut buffers: Buffers<'_> = frames
        .iter()
        .take(WRITE_VECTORS)
        .map(|frame| IoSlice::new(frame.bytes()))
        .collect();
    if let Some(first) = buffers.first_mut() {
        first.advance(skip);
    }
    buffers
}

/// Writes what of `frames` is `unwritten`, until the socket refuses; returns the bytes it took.
///
/// `first` are the buffers of the first write, as [`buffers`] makes them.
///
/// # Errors
/// Those of the socket, other than its refusal.
pub(super) fn write(
    sink: Sink<'_>,
    frames: &[Frame],
    Unwritten { skip, left }: Unwritten,
    first: &[IoSlice<'_>],
) -> io::Result<usize> {
    let Some(mut taken) = send(sink, first)? else {
        return Ok(0);
    };
    while taken < left {
        let Cut { whole, begun } = split(frames, skip + taken);
        match send(sink, &buffers(&frames[whole..], begun)) {
            Ok(Some(more)) => taken += more,
            // The bytes that it took are gone. A socket that has failed fails again at the next
            // write.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(taken)
}

/// Where `bytes` end in `frames`.
pub(super) fn split(frames: &[Frame], mut bytes: usize) -> Cut {
    for (at, frame) in frames.iter().enumerate() {
        if bytes < frame.len() {
            return Cut {
                whole: at,
                begun: bytes,
            };
        }
        bytes -= frame.len();
    }
    Cut {
        whole: frames.len(),
        begun: 0,
    }
}

/// One system call; `None` when the socket refuses.
///
/// The descriptor is used directly, which saves tokio's readiness look-up. Only a refusal goes through tokio, so that
/// it learns of it and a later `writable` waits.
fn send(sink: Sink<'_>, buffers: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = match buffers {
        [one] => rustix::net::send(sink.descriptor, one, flags),
        many => rustix::net::sendmsg(
            sink.descriptor,
            many,
            &mut SendAncillaryBuffer::default(),
            flags,
        ),
    };

    let sent = match sent {
        Ok(n) => Ok(n),
        Err(rustix::io::Errno::AGAIN) => sink.socket.try_write_vectored(buffers),
        // Nothing was taken, and the caller tries the same bytes again.
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    };

    match sent {
        Ok(n) => Ok(Some(n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_buffer_unless_it_is_one_frame_or_more_than_a_socket_takes() {
        let frames = |count: usize, bytes: usize| -> Vec<Frame> {
            (0..count)
                .map(|n| Frame::event_text(&[&vec![n as u8; bytes]]))
                .collect()
        };
        let mut write = PreparedWrite::default();
        for (run, (count, bytes, is_whole)) in
            [(3, 100, true), (1, 100, true), (3, JOINED_BYTES / 2, false)]
                .into_iter()
                .enumerate()
        {
            let frames = frames(count, bytes);
            let first = run as u64 * 10;
            write.select_run(first, first + count as u64, &frames);
            let all: Vec<u8> = frames
                .iter()
                .flat_map(|frame| frame.bytes().to_vec())
                .collect();
            assert_eq!((write.bytes, write.events), (all.len(), count as u64));
            assert_eq!(write.whole(&frames), is_whole.then_some(&*all));
        }
    }
}
