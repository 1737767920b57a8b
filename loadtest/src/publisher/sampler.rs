//! The server's processor time and memory while a measurement runs.

use std::time::Duration;

use crate::{error::Result, process::Process};

/// How far apart samples are, in nanoseconds.
const APART: u64 = 250_000_000;

/// What a process had used at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The moment, by [`crate::clock::now`].
    pub(crate) at: u64,
    /// Processor time since the process began.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
}

/// Looks at a process from time to time.
#[derive(Debug)]
pub(super) struct Sampler {
    process: Option<Process>,
    next: u64,
    pub(super) samples: Vec<Sample>,
}

impl Sampler {
    /// Looks at nothing where there is no process.
    pub(super) fn new(process: Option<Process>) -> Self {
        Self {
            process,
            next: 0,
            samples: Vec::new(),
        }
    }

    /// Takes a sample if one is due; answers whether one was.
    pub(super) fn look(&mut self, now: u64) -> Result<bool> {
        if now < self.next {
            return Ok(false);
        }
        self.next = now + APART;
        self.take(now).map(|()| true)
    }

    /// Takes a sample.
    pub(super) fn take(&mut self, now: u64) -> Result<()> {
        let Some(process) = self.process else {
            return Ok(());
        };
        let (cpu, resident) = (process.cpu()?, process.resident()?);
        self.samples.push(Sample {
            at: now,
            cpu,
            resident,
        });
        Ok(())
    }
}
