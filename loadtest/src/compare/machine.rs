//! The machine that a comparison ran on.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::report;

/// What figures depend on, without what would tell whose machine it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let report::Machine {
            cpu, cores, kernel, ..
        } = report::Machine::here();
        Self {
            cpu,
            cores,
            memory_bytes: memory().unwrap_or(0),
            kernel,
        }
    }

    /// A short name for folders: `2-core-xeon-8481c`.
    pub(super) fn short_name(&self) -> String {
        format!("{}-core-{}", self.cores, short(&self.cpu))
    }

    /// One line.
    pub(super) fn words(&self) -> String {
        let Self {
            cpu,
            cores,
            memory_bytes,
            kernel,
        } = self;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        format!("{cores} cores of {cpu}, {gib:.0} GiB, {kernel}")
    }
}

fn memory() -> Option<u64> {
    let all = fs::read_to_string("/proc/meminfo").ok()?;
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Words of processors' names that tell none apart.
const NOISE: &[&str] = &[
    "intel",
    "amd",
    "r",
    "tm",
    "cpu",
    "processor",
    "core",
    "platinum",
    "gold",
    "silver",
    "bronze",
    "with",
    "radeon",
    "graphics",
    "gen",
    "virtual",
    "family",
];

/// What is left of a processor's name without them.
fn short(cpu: &str) -> String {
    let name = cpu.to_lowercase();
    let name = name.split(" @ ").next().unwrap_or_default();
    let words = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let told: Vec<&str> = words.filter(|word| !NOISE.contains(word)).collect();
    if told.is_empty() {
        "unknown".to_owned()
    } else {
        told.join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_short_names() {
        for (processor, name) in [
            (
                "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
                "xeon-8481c",
            ),
            ("AMD EPYC 7B13", "epyc-7b13"),
            ("AMD EPYC", "epyc"),
            ("aarch64", "aarch64"),
            ("", "unknown"),
        ] {
            assert_eq!(short(processor), name);
        }
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let machine = Machine::this();
        assert!(
            machine.cores > 0 && machine.memory_bytes > 1 << 20,
            "{machine:?}"
        );
        assert!(
            machine
                .short_name()
                .starts_with(&format!("{}-core-", machine.cores))
        );
    }
}
