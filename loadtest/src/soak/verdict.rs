//! What a soak came to.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{Sample, Soak, ledger::Ledger, slope::Slope};
use crate::{
    abuse::victim::Metrics,
    report::{Machine, command_line},
};

/// What is left out at the beginning, while caches and histories fill: at most this, and a sixth of a shorter soak.
const WARM_UP: Duration = Duration::from_mins(10);

/// Soaks that are shorter say nothing of growth, since histories still fill.
const LONG_ENOUGH: Duration = Duration::from_mins(20);

const MIB: f64 = 1024.0 * 1024.0;

/// A soak's results.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    command: Vec<String>,
    machine: Machine,
    seconds: f64,
    /// Growth of resident memory after the warm-up, in bytes a second.
    slope: Option<Slope>,
    is_slope_judged: bool,
    /// Resident memory, in bytes.
    before: u64,
    after: u64,
    /// Its least and its most after the warm-up.
    range: [u64; 2],
    /// Part of one processor that the server used.
    cpu: f64,
    pub(super) counted: Counted,
    samples: Vec<Sample>,
    /// What must not be, in words.
    pub(super) wrong: Vec<String>,
}

/// The two sides of the balance.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counted {
    calls: u64,
    refused: u64,
    unanswered: u64,
    defects: u64,
    clients: u64,
    /// Events that answers said were placed, and kept ones that were placed again.
    placed: u64,
    replayed: u64,
    /// Events that the server counts as written and as lost.
    delivered: u64,
    dropped: u64,
    opened: u64,
    closed: u64,
}

impl Summary {
    pub(super) fn new(
        args: &Soak,
        samples: Vec<Sample>,
        ledger: &Ledger,
        quiet: &Metrics,
        [before, after]: [u64; 2],
    ) -> Self {
        let warm_up = WARM_UP.min(args.duration / 6).as_secs_f64();
        let warm: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.at > warm_up)
            .collect();
        let times: Vec<f64> = warm.iter().map(|sample| sample.at).collect();
        let resident: Vec<f64> = warm.iter().map(|sample| sample.resident as f64).collect();
        let least = warm.iter().map(|sample| sample.resident).min();
        let most = warm.iter().map(|sample| sample.resident).max();
        let cpu = samples.last().map_or(0.0, |last| last.cpu / last.at);
        let mut summary = Self {
            command: command_line(),
            machine: Machine::here(),
            seconds: args.duration.as_secs_f64(),
            slope: Slope::of(&times, &resident),
            is_slope_judged: args.duration >= LONG_ENOUGH,
            before,
            after,
            range: [least.unwrap_or(0), most.unwrap_or(0)],
            cpu,
            counted: Counted::new(ledger, quiet),
            samples,
            wrong: Vec::new(),
        };
        summary.judge(quiet);
        summary
    }

    fn judge(&mut self, quiet: &Metrics) {
        let mut wrong = self.counted.wrong();
        for gauge in [
            "fanfare_connections",
            "fanfare_channels",
            "fanfare_memberships",
            "fanfare_blocked_connections",
            "fanfare_refused_bytes",
            "fanfare_log_frames",
            "fanfare_bulk_in_flight",
            "fanfare_small_in_flight",
        ] {
            let left = quiet.sum(gauge);
            if left > 0 {
                wrong.push(format!("{gauge} is {left} after all have left"));
            }
        }
        match self.slope {
            Some(slope) if self.is_slope_judged && slope.grows() => wrong.push(format!(
                "memory grows by {:.0} KiB an hour or more",
                slope.least * 3600.0 / 1024.0
            )),
            None if self.is_slope_judged => wrong.push("memory was not looked at".to_owned()),
            _ => {}
        }
        if self.after > self.range[1] {
            wrong.push("more memory is in use after all have left than before".to_owned());
        }
        self.wrong = wrong;
    }
}

impl Counted {
    fn new(ledger: &Ledger, quiet: &Metrics) -> Self {
        // What was stored for a user who did not confirm it was placed for nobody.
        let lost = ["slow_consumer", "oldest", "connection_gone"];
        let dropped = lost
            .iter()
            .map(|reason| quiet.sum_of("fanfare_drops_total", &format!("reason=\"{reason}\"")));
        Self {
            calls: ledger.calls(),
            refused: ledger.refused(),
            unanswered: ledger.unanswered(),
            defects: ledger.defects(),
            clients: ledger.clients(),
            placed: ledger.placed(),
            replayed: quiet.sum("fanfare_replayed_total"),
            delivered: quiet.sum("fanfare_deliveries_total"),
            dropped: dropped.sum(),
            opened: quiet.sum("fanfare_connected_total"),
            closed: quiet.sum("fanfare_closes_total"),
        }
    }

    /// What does not balance.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let Self {
            placed,
            replayed,
            delivered,
            dropped,
            opened,
            closed,
            ..
        } = *self;
        if self.calls == 0 || placed == 0 || self.clients == 0 {
            wrong.push("nothing was done".to_owned());
        }
        if self.defects > 0 {
            wrong.push(format!("{} calls were answered by 500", self.defects));
        }
        // A call that was not answered may have placed what nobody counted.
        if self.unanswered > 0 {
            wrong.push(format!("{} calls were not answered", self.unanswered));
        } else if placed + replayed != delivered + dropped {
            wrong.push(format!(
                "{placed} events were placed and {replayed} placed again, but {delivered} delivered and {dropped} lost"
            ));
        }
        // Clients with bad tokens are closed without ever having been let in.
        if opened > closed {
            wrong.push(format!(
                "{opened} connections were opened, and {closed} closed"
            ));
        }
        if opened < self.clients {
            wrong.push(format!(
                "{} clients came, and {opened} are counted",
                self.clients
            ));
        }
        wrong
    }
}

/// The summary for people.
pub(super) fn markdown(summary: &Summary) -> String {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / MIB);
    let Summary {
        machine, counted, ..
    } = summary;
    let slope = summary.slope.map_or_else(
        || "not measured".to_owned(),
        |slope| {
            let an_hour = |bytes: f64| bytes * 3600.0 / 1024.0;
            format!(
                "{:+.0} KiB an hour (95 %: {:+.0} to {:+.0}){}",
                an_hour(slope.per_second),
                an_hour(slope.least),
                an_hour(slope.most),
                if summary.is_slope_judged {
                    ""
                } else {
                    ", not judged: too short"
                }
            )
        },
    );
    let rows = [
        ("lasted", format!("{:.0} s", summary.seconds)),
        (
            "calls",
            format!("{}, of which {} refused", counted.calls, counted.refused),
        ),
        (
            "clients",
            format!("{} welcomed, {} closed", counted.opened, counted.closed),
        ),
        (
            "events",
            format!(
                "{} placed, {} placed again; {} delivered, {} lost",
                counted.placed, counted.replayed, counted.delivered, counted.dropped
            ),
        ),
        ("processor", format!("{:.0} % of one", summary.cpu * 100.0)),
        ("memory before", mib(summary.before)),
        (
            "memory after the warm-up",
            format!("{} to {}", mib(summary.range[0]), mib(summary.range[1])),
        ),
        ("growth after the warm-up", slope),
        ("memory after all have left", mib(summary.after)),
        (
            "verdict",
            if summary.wrong.is_empty() {
                "green".to_owned()
            } else {
                format!("red: {}", summary.wrong.join("; "))
            },
        ),
    ];
    let mut page = "| soak | |\n| --- | --- |\n".to_owned();
    for (name, value) in rows {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    let day = machine.date.get(..10).unwrap_or(&machine.date);
    let _ = writeln!(
        page,
        "\nMeasured on {day} on {} cores ({}), {}.",
        machine.cores, machine.cpu, machine.kernel
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced() -> Counted {
        Counted {
            calls: 10,
            clients: 5,
            placed: 90,
            replayed: 10,
            delivered: 95,
            dropped: 5,
            opened: 5,
            closed: 8,
            ..Counted::default()
        }
    }

    #[test]
    fn what_does_not_balance_is_named() {
        assert_eq!(balanced().wrong(), Vec::<String>::new());
        let changes: [fn(&mut Counted); 6] = [
            |counted| counted.delivered = 94,
            |counted| counted.dropped = 6,
            |counted| counted.closed = 4,
            |counted| counted.clients = 6,
            |counted| counted.defects = 1,
            |counted| counted.unanswered = 1,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut counted = balanced();
            change(&mut counted);
            assert_eq!(counted.wrong().len(), 1, "change {at}");
        }
    }
}
