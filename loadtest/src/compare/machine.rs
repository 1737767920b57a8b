//! The machine that a comparison ran on.

use std::fs;

use serde::{Deserialize, Serialize};

/// What figures depend on, without what would tell whose machine it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The processor's name, as it gives it.
    pub(super) processor: String,
    /// How many of its cores this process may use.
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
    pub(super) architecture: String,
}

impl Machine {
    /// This one. What the system does not say is empty or 0: nothing is measured by it.
    pub(super) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory.unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
        }
    }

    /// A short name for folders: `2-core-xeon-8481c`.
    pub(super) fn short_name(&self) -> String {
        format!("{}-core-{}", self.cores, short(&self.processor).unwrap_or_else(|| self.architecture.clone()))
    }

    /// One line.
    pub(super) fn words(&self) -> String {
        let Self { processor, cores, memory_bytes, kernel, architecture } = self;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        let processor = if processor.is_empty() { architecture } else { processor };
        format!("{cores} cores of {processor}, {gib:.0} GiB, Linux {kernel}")
    }
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

/// What is left of a processor's name, if anything.
fn short(processor: &str) -> Option<String> {
    let name = processor.to_lowercase();
    let name = name.split(" @ ").next().unwrap_or_default();
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let told: Vec<&str> = words.filter(|word| !NOISE.contains(word)).collect();
    (!told.is_empty()).then(|| told.join("-"))
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_short_names() {
        for (processor, name) in [
            ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "xeon-8481c"),
            ("AMD EPYC 7B13", "epyc-7b13"),
            ("AMD EPYC", "epyc"),
            ("Neoverse-N1", "neoverse-n1"),
        ] {
            assert_eq!(short(processor).as_deref(), Some(name));
        }
        assert_eq!(short(""), None);
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.short_name().starts_with(&format!("{}-core-", machine.cores)));
    }
}
