//! The resident memory of a server, looked at again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{error::Result, process::Process};

/// Between two looks. What is taken and given back within is not seen.
const PERIOD: Duration = Duration::from_millis(20);

/// Looks at it until it is dropped.
#[derive(Debug)]
pub(super) struct Sampler {
    process: Process,
    peak: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(super) fn start(process: Process) -> Self {
        let (peak, is_over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = thread::spawn({
            let (peak, is_over) = (peak.clone(), is_over.clone());
            move || {
                while !is_over.load(Relaxed) {
                    peak.fetch_max(process.resident().unwrap_or(0), Relaxed);
                    thread::sleep(PERIOD);
                }
            }
        });
        Self {
            process,
            peak,
            is_over,
            thread: Some(thread),
        }
    }

    /// What is resident now, exactly.
    pub(super) fn now(&self) -> Result<u64> {
        let resident = self.process.memory()?.resident;
        self.peak.fetch_max(resident, Relaxed);
        Ok(resident)
    }

    /// The most that was seen.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
