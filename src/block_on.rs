//! Waiting for a future on a thread that has nothing else to do.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a call of a [`Server`](crate::Server) to its end on this thread: for programs without an async runtime. Inside of
/// one, await the call instead.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use fanfare::{Server, block_on};
///
/// let server = Server::builder().listen("127.0.0.1:0").start()?;
/// let receipt = block_on(server.broadcast("alert", "Hello"))?;
/// assert_eq!(receipt.matched, 0);
/// block_on(server.shutdown());
/// # Ok(())
/// # }
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            // If it was woken in the meantime, this returns immediately.
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_another_thread_and_returns_what_comes() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = thread::spawn(move || sender.send(7));
        assert_eq!(block_on(receiver), Ok(7));
        other.join().unwrap().unwrap();
    }
}
