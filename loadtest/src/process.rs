//! What a process has used, from `/proc`.

use std::{fs, time::Duration};

use crate::error::{Doing, Result, failed};

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Anonymous pages that are resident: heap and stacks.
    pub(crate) anonymous: u64,
    /// All resident pages.
    pub(crate) resident: u64,
}

impl Process {
    /// Processor time in all threads, user and system.
    ///
    /// Where the kernel keeps it by thread it is exact; but then threads that have ended are missing, which only the
    /// sum in steps of 10 ms has.
    pub(crate) fn cpu(self) -> Result<Duration> {
        Ok(self
            .cpu_in_steps()?
            .max(self.cpu_of_threads().unwrap_or_default()))
    }

    fn cpu_in_steps(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).doing(format!("cannot read {path}"))?;
        // The name in brackets may hold spaces; utime and stime are the 12th and 13th fields after it.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: Vec<u64> = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        let [user, system] = ticks[..] else {
            return failed(format!("{path} has no processor times"));
        };
        Ok(Duration::from_micros(
            (user + system) * 1_000_000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    fn cpu_of_threads(self) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).ok()?;
        let nanos = |thread: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Duration::from_nanos(threads.filter_map(nanos).sum()))
    }

    /// Resident memory now, in bytes, cheaply: some pages of each processor may be missing.
    pub(crate) fn resident(self) -> Result<u64> {
        let path = format!("/proc/{}/statm", self.0);
        let text = fs::read_to_string(&path).doing(format!("cannot read {path}"))?;
        let pages = text
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok());
        match pages {
            Some(pages) => Ok(pages * rustix::param::page_size() as u64),
            None => failed(format!("{path} has no resident pages")),
        }
    }

    /// Resident memory now, summed over mappings and so exact, unlike `VmRSS`.
    pub(crate) fn memory(self) -> Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).doing(format!("cannot read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .map(|kib| kib * 1024)
        };
        match (field("Anonymous:"), field("Rss:")) {
            (Some(anonymous), Some(resident)) => Ok(Memory {
                anonymous,
                resident,
            }),
            _ => failed(format!("{path} has no Rss or Anonymous")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let this = Process(std::process::id());
        let memory = this.memory().unwrap();
        assert!(memory.anonymous > 0 && memory.resident >= memory.anonymous);
        assert!(this.resident().unwrap() > 0);
        let steps = this.cpu_in_steps().unwrap();
        assert!(this.cpu().unwrap() >= steps);
    }
}
