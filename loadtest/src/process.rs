//! What a process has used, from `/proc`.

use std::fs;

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
    /// Processor time in all threads, user and system, in microseconds. The kernel shows it in steps of 10 ms.
    pub(crate) fn cpu_micros(self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).doing(format!("cannot read {path}"))?;
        // The name in brackets may hold spaces; utime and stime are the 12th and 13th fields after it.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: Vec<u64> =
            after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        let [user, system] = ticks[..] else { return failed(format!("{path} has no processor times")) };
        Ok((user + system) * 1_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// Resident memory now, summed over mappings and so exact, unlike `VmRSS`.
    pub(crate) fn memory(self) -> Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).doing(format!("cannot read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib * 1024)
        };
        match (field("Anonymous:"), field("Rss:")) {
            (Some(anonymous), Some(resident)) => Ok(Memory { anonymous, resident }),
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
        assert!(this.cpu_micros().is_ok());
    }
}
