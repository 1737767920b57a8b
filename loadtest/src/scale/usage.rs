//! What Redis and the nodes have used so far.

use std::{
    ops::{AddAssign, Sub},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    error::{Doing, Result},
    process::Process,
    redis::{RedisServer, Reply},
};

/// Sums since the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Commands that Redis carried out, those of scripts among them.
    pub(crate) commands: f64,
    /// Of them, publications.
    pub(crate) publications: f64,
    /// Bytes that Redis read and wrote.
    pub(crate) bytes: f64,
    /// CPU time of Redis.
    pub(crate) redis: Duration,
    /// CPU time of all nodes.
    pub(crate) nodes: Duration,
}

impl Usage {
    pub(crate) fn now(servers: &[&RedisServer], nodes: &[Process]) -> Result<Self> {
        let mut usage = Self::default();
        for server in servers {
            usage += Self::of(server)?;
        }
        for node in nodes {
            usage.nodes += node.cpu()?;
        }
        Ok(usage)
    }

    fn of(server: &RedisServer) -> Result<Self> {
        let info = |section: &str| {
            let reply = server.call(&["INFO", section]);
            reply
                .map(|reply: Reply| reply.text())
                .doing("Redis does not say what it has used")
        };
        let (commands, stats, cpu) = (info("commandstats")?, info("stats")?, info("cpu")?);
        let mut usage = Self::default();
        for line in commands.lines() {
            let Some((name, rest)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            // Asking is not what is asked about.
            if name == "info" {
                continue;
            }
            let calls = number(rest, "calls=");
            usage.commands += calls;
            if matches!(name, "publish" | "spublish") {
                usage.publications += calls;
            }
        }
        usage.bytes =
            number(&stats, "total_net_input_bytes:") + number(&stats, "total_net_output_bytes:");
        let seconds = number(&cpu, "used_cpu_user:") + number(&cpu, "used_cpu_sys:");
        usage.redis = Duration::from_secs_f64(seconds);
        Ok(usage)
    }
}

/// What is held at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Held {
    /// Megabytes of a node's own, on average.
    pub(super) node_megabytes: f64,
    /// Megabytes of all Redis servers.
    pub(super) redis_megabytes: f64,
    /// Connections to Redis, for each node.
    pub(super) connections: f64,
}

impl Held {
    pub(super) fn now(servers: &[&RedisServer], nodes: &[Process]) -> Result<Self> {
        let mut anonymous = 0;
        for node in nodes {
            anonymous += node.memory()?.anonymous;
        }
        let (mut bytes, mut connections) = (0.0, 0.0);
        for server in servers {
            let info = |field| {
                let value = server.info(field);
                value.doing("Redis does not say what it holds")
            };
            bytes += number(&info("used_memory")?, "");
            // That which asks is one of them.
            connections += number(&info("connected_clients")?, "") - 1.0;
        }
        Ok(Self {
            node_megabytes: anonymous as f64 / 1e6 / nodes.len() as f64,
            redis_megabytes: bytes / 1e6,
            connections: connections / nodes.len() as f64,
        })
    }
}

/// The number behind `name`, up to what is none.
fn number(text: &str, name: &str) -> f64 {
    let rest = text.split_once(name).map_or("", |(_, rest)| rest);
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    rest[..end].parse().unwrap_or(0.0)
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.commands += other.commands;
        self.publications += other.publications;
        self.bytes += other.bytes;
        self.redis += other.redis;
        self.nodes += other.nodes;
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            commands: self.commands - other.commands,
            publications: self.publications - other.publications,
            bytes: self.bytes - other.bytes,
            redis: self.redis.saturating_sub(other.redis),
            nodes: self.nodes.saturating_sub(other.nodes),
        }
    }
}

/// What was used over a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) used: Usage,
    pub(super) seconds: f64,
}

impl Span {
    /// What is used while `act` runs.
    pub(super) fn of(
        servers: &[&RedisServer],
        nodes: &[Process],
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let (before, began) = (Usage::now(servers, nodes)?, Instant::now());
        act()?;
        Ok(Self {
            used: Usage::now(servers, nodes)? - before,
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_names() {
        let text = "used_cpu_sys:1.5\r\nused_cpu_user:20\r\ncmdstat_get:calls=12,usec=3\r\n";
        let names = ["used_cpu_sys:", "used_cpu_user:", "calls=", "other:"];
        let found = names.map(|name| number(text, name).to_string());
        assert_eq!(found, ["1.5", "20", "12", "0"]);
    }
}
