//! Bytes that many sockets get, handed to the kernel once.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create, sendfile},
    io::{Errno, pwrite},
};
/// A file in memory that holds one run, which `sendfile` puts into a socket's queue by reference to its pages.
///
/// A socket keeps the pages that it was sent for as long as it needs them: the file is cut before it is written
/// again, and gets others.
#[derive(Debug, Default)]
pub(super) struct Pages {
    file: Option<OwnedFd>,
    /// The system has none to give, or cannot send from it.
    unusable: bool,
    held: usize,
}

impl Pages {
    /// Holds `bytes` instead of what it held, if the system can.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held = 0;
        if self.unusable {
            return;
        }
        match self.write(bytes) {
            Ok(()) => self.held = bytes.len(),
            Err(error) => self.give_up(error),
        }
    }

    /// Holds nothing of use from now on.
    pub(super) fn forget(&mut self) {
        self.held = 0;
    }

    fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => memfd_create("fanfare-run", MemfdFlags::CLOEXEC)?,
        };
        let file = self.file.insert(file);
        ftruncate(&*file, 0)?;
        let mut written = 0;
        while written < bytes.len() {
            written += pwrite(&*file, &bytes[written..], written as u64)?;
        }
        Ok(())
    }

    fn give_up(&mut self, error: Errno) {
        tracing::debug!(%error, "runs are copied for each socket");
        *self = Self {
            unusable: true,
            ..Self::default()
        };
    }

    /// Sends what it holds; returns how many bytes the socket took, 0 if it is to be sent otherwise.
    ///
    /// A socket whose client is gone raises SIGPIPE here, which a Rust program ignores unless it asks for it.
    ///
    /// # Errors
    /// Those of the socket, other than its refusal.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(file) = self.file.as_ref().filter(|_| self.held > 0) else {
            return Ok(0);
        };
        // With an offset of its own, since the position of the file is shared by all that send it.
        match sendfile(socket, file, Some(&mut 0), self.held) {
            Ok(taken) => Ok(taken),
            // Left to `send`: a socket that refuses, and a system that has no such call for it.
            Err(Errno::AGAIN | Errno::INTR | Errno::INVAL | Errno::NOSYS | Errno::PERM) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd};

    use super::*;

    #[tokio::test]
    async fn a_socket_keeps_what_it_was_sent_when_the_file_holds_something_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let mut pages = Pages::default();
        assert_eq!(
            pages.send(socket.as_fd()).unwrap(),
            0,
            "it holds nothing yet"
        );
        // Neither is a whole number of pages: what lies behind the first one's end must not be seen either.
        let runs = [vec![b'a'; 10_000], vec![b'b'; 5_000], vec![b'c'; 9_000]];
        for run in &runs {
            pages.hold(run);
            assert_eq!(pages.send(socket.as_fd()).unwrap(), run.len());
        }
        pages.forget();
        assert_eq!(pages.send(socket.as_fd()).unwrap(), 0);
        let mut seen = vec![0; 24_000];
        client.read_exact(&mut seen).unwrap();
        assert_eq!(seen, runs.concat());
    }

    #[tokio::test]
    async fn a_socket_takes_what_it_has_room_for_and_then_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let mut pages = Pages::default();
        let run: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        pages.hold(&run);
        let mut sent = Vec::new();
        loop {
            let taken = pages.send(socket.as_fd()).unwrap();
            sent.extend_from_slice(&run[..taken]);
            if taken < run.len() {
                break;
            }
        }
        drop(socket);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).unwrap();
        assert!(seen == sent, "{} of {} bytes", seen.len(), sent.len());
    }
}
