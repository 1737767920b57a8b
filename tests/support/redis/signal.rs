//! Processes that are stopped for a while.

use std::io;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Stops the execution of a child: its connections stay open, and nothing is answered. When this returns, none of its
/// threads runs; without the wait some would still, for as long as the one that takes the signal waits for a processor.
pub fn pause_process(child: Pid) -> io::Result<()> {
    kill_process(child, Signal::STOP)?;
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(child), stopped)
        .map(|_| ())
        .map_err(io::Error::from)
}
