//! Where and how a test was run.

use std::{fs, thread, time::SystemTime};

use serde::Serialize;

/// The machine of a test, and when it was used.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Its processor.
    pub(crate) cpu: String,
    /// How many threads it runs at once.
    pub(crate) cores: usize,
    /// Its kernel.
    pub(crate) kernel: String,
    /// When the test began, in UTC.
    pub(crate) date: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or_else(
                || std::env::consts::ARCH.to_owned(),
                |(_, model)| model.to_owned(),
            ),
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

/// The command line that ran the test, without its secrets.
pub(crate) fn command_line() -> Vec<String> {
    without_secrets(std::env::args())
}

fn without_secrets(args: impl Iterator<Item = String>) -> Vec<String> {
    let is_secret = |arg: &str| matches!(arg, "--token-secret" | "--api-key");
    let mut shown: Vec<String> = Vec::new();
    for arg in args {
        let arg = match arg.split_once('=') {
            _ if shown.last().is_some_and(|before| is_secret(before)) => "…".to_owned(),
            Some((name, _)) if is_secret(name) => format!("{name}=…"),
            _ => arg,
        };
        shown.push(arg);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_told() {
        let args = "loadtest flood --api-key k1 -n 5 --token-secret=s2 --json"
            .split(' ')
            .map(str::to_owned);
        assert_eq!(
            without_secrets(args).join(" "),
            "loadtest flood --api-key … -n 5 --token-secret=… --json"
        );
    }
}
