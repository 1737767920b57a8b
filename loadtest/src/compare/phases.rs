//! What is measured, and what is hoped for: one table.
//!
//! A family is a kind of load; its cases differ by how many connections there are, or by a flag. Names of figures are
//! those of the scenarios' JSON.

use super::contender::{CORE, Contender, GENERAL, OURS, PAIR, PROTOCOLS};

/// A kind of load.
#[derive(Debug)]
pub(super) struct Family {
    /// As it stands in files and behind `--only`.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What is special about it, for readers of the tables; may be empty.
    pub(super) note: &'static str,
    /// The command of this program that measures it.
    pub(super) scenario: &'static str,
    pub(super) arguments: &'static [&'static str],
    /// More arguments where the whole comparison is a quick one.
    pub(super) when_quick: &'static [&'static str],
    /// Events are sent as fast as one was found to take them.
    pub(super) paced_as: Option<Pacemaker>,
    pub(super) cases: &'static [Case],
    /// How long one takes besides connecting: seconds, and how often the time that a measurement lasts.
    pub(super) takes: (f64, f64),
    /// In so many rounds at most, those of [`CORE`], and the others.
    pub(super) rounds: (usize, usize),
    /// What is read from the findings, in the order of the tables' columns.
    pub(super) figures: &'static [Figure],
    pub(super) goals: &'static [Goal],
}

/// One load.
#[derive(Debug)]
pub(super) struct Case {
    /// Its name within the family.
    pub(super) label: &'static str,
    pub(super) connections: usize,
    pub(super) arguments: &'static [&'static str],
    /// Arguments that are parts of the connections, and get smaller with them.
    pub(super) parts: &'static [(&'static str, usize)],
    pub(super) servers: &'static [Contender],
}

/// Where the rate of a load comes from: a figure of another family's same case in the same round.
#[derive(Debug)]
pub(super) struct Pacemaker {
    pub(super) family: &'static str,
    pub(super) server: Contender,
    pub(super) figure: &'static str,
}

/// A figure of a scenario's findings.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// The head of its column.
    pub(super) column: &'static str,
}

/// A bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    /// What is compared.
    pub(super) text: &'static str,
    pub(super) quantity: Quantity,
    pub(super) at_most: f64,
    /// What it is measured in; nothing for a ratio.
    pub(super) unit: &'static str,
    /// The cases that it is about; all of the family's if none is named.
    pub(super) cases: &'static [&'static str],
}

impl Goal {
    /// Whether it is about this case.
    pub(super) fn is_about(&self, case: &Case) -> bool {
        self.cases.is_empty() || self.cases.contains(&case.label)
    }
}

/// What is bounded; one number a round, all of it from that round.
#[derive(Clone, Copy, Debug)]
pub(super) enum Quantity {
    /// Our figure as it is.
    Ours(&'static str),
    /// Our figure over theirs.
    Over(&'static str, Contender),
    /// The figure of the first, which is ours by another protocol, over that of the second.
    ByProtocol(&'static str, Contender, Contender),
    /// How many times our figure grows from the first case to the last, over the same of theirs.
    GrowthOver(&'static str, Contender),
}

const PER_DELIVERY: &str = "server CPU per delivery";
const PER_EVENT: &str = "server CPU per event";
const P99: &str = "request to arrival p99";
const BESIDE_SCANS: &str = "p99 with scans over p99 alone";
const OVER_ALONE: &str = "CPU per event, filtered over alone";
const PER_HANDSHAKE: &str = "server CPU per handshake";
const RESIDENT: &str = "resident memory per connection";

const TO_EVERYONE: &[Figure] = &[
    Figure {
        name: PER_DELIVERY,
        column: "CPU per delivery, µs",
    },
    Figure {
        name: "deliveries a second",
        column: "deliveries a second",
    },
    Figure {
        name: "request to arrival p50",
        column: "p50, ms",
    },
    Figure {
        name: P99,
        column: "p99, ms",
    },
];

const TO_ONE: &[Figure] = &[
    Figure {
        name: PER_EVENT,
        column: "CPU per event, µs",
    },
    Figure {
        name: "events a second",
        column: "events a second",
    },
    Figure {
        name: "request to arrival p50",
        column: "p50, ms",
    },
    Figure {
        name: P99,
        column: "p99, ms",
    },
];

const MEMORY: &[Figure] = &[
    Figure {
        name: RESIDENT,
        column: "resident memory per connection, bytes",
    },
    Figure {
        name: "anonymous memory per connection",
        column: "of it anonymous, bytes",
    },
];

/// So few clients are sent more than they can read, unless each event waits for the last one's arrival.
const UNHURRIED: &[&str] = &["--until", "delivered"];

/// In every round, and in all of those that the others take part in.
const ALWAYS: (usize, usize) = (usize::MAX, usize::MAX);

const fn by_connections(servers: [&'static [Contender]; 3]) -> [Case; 3] {
    [
        of("1000", 1000, servers[0]),
        of("5000", 5000, servers[1]),
        of("15000", 15_000, servers[2]),
    ]
}

const fn of(label: &'static str, connections: usize, servers: &'static [Contender]) -> Case {
    Case {
        label,
        connections,
        arguments: &[],
        parts: &[],
        servers,
    }
}

const fn over(text: &'static str, figure: &'static str, whose: Contender, at_most: f64) -> Goal {
    Goal {
        text,
        quantity: Quantity::Over(figure, whose),
        at_most,
        unit: "",
        cases: &[],
    }
}

const fn ours(
    text: &'static str,
    figure: &'static str,
    at_most: f64,
    unit: &'static str,
    cases: &'static [&'static str],
) -> Goal {
    Goal {
        text,
        quantity: Quantity::Ours(figure),
        at_most,
        unit,
        cases,
    }
}

/// CPU per delivery of our server by the clients of another system, over that of its own server.
const fn by_protocol(text: &'static str, ours: Contender, theirs: Contender, at_most: f64) -> Goal {
    Goal {
        text,
        quantity: Quantity::ByProtocol(PER_DELIVERY, ours, theirs),
        at_most,
        unit: "",
        cases: &[],
    }
}

const P99_GOAL: Goal = over("p99, over uWebSockets'", P99, Contender::UWebSockets, 1.0);
/// Where every event is a write of its own.
const COST_GOALS: [Goal; 2] = [
    over(
        "CPU per delivery, over the bare loop's",
        PER_DELIVERY,
        Contender::Floor,
        1.05,
    ),
    over(
        "CPU per delivery, over uWebSockets'",
        PER_DELIVERY,
        Contender::UWebSockets,
        1.0,
    ),
];

/// Everything, in the order of a round.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "flood",
        title: "Flood: 128 B to everyone, 16 publishes in flight",
        note: "Servers may join what is waiting for a connection into one write.",
        scenario: "flood",
        arguments: &["--depth", "16", "--bytes", "128"],
        when_quick: UNHURRIED,
        paced_as: None,
        cases: &by_connections([GENERAL, GENERAL, GENERAL]),
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[
            over(
                "CPU per delivery, over uWebSockets'",
                PER_DELIVERY,
                Contender::UWebSockets,
                0.35,
            ),
            P99_GOAL,
        ],
    },
    Family {
        name: "carried",
        title: "Latency at the load that uWebSockets can just carry",
        note: "128 B to everyone, at the rate that uWebSockets reached in the same round's flood.",
        scenario: "paced",
        arguments: &["--bytes", "128"],
        when_quick: &[],
        paced_as: Some(Pacemaker {
            family: "flood",
            server: Contender::UWebSockets,
            figure: "events a second",
        }),
        cases: &by_connections([PAIR, PAIR, PAIR]),
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[P99_GOAL],
    },
    Family {
        name: "flood-1k",
        title: "Flood: 1 KiB to everyone, 16 publishes in flight",
        note: "",
        scenario: "flood",
        arguments: &["--depth", "16", "--bytes", "1024"],
        when_quick: UNHURRIED,
        paced_as: None,
        cases: &by_connections([CORE, GENERAL, CORE]),
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[
            over(
                "CPU per delivery, over uWebSockets'",
                PER_DELIVERY,
                Contender::UWebSockets,
                0.45,
            ),
            P99_GOAL,
        ],
    },
    Family {
        name: "serial",
        title: "Serial: 128 B to everyone, the next when all have it",
        note: "There is nothing to join: the kernel's send path is nearly all of it.",
        scenario: "serial",
        arguments: &["--bytes", "128"],
        when_quick: &[],
        paced_as: None,
        cases: &by_connections([GENERAL, GENERAL, GENERAL]),
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[
            COST_GOALS[0],
            COST_GOALS[1],
            P99_GOAL,
            Goal {
                text: "CPU per delivery, growth from 1,000 to 15,000 connections, over the bare loop's",
                quantity: Quantity::GrowthOver(PER_DELIVERY, Contender::Floor),
                at_most: 1.0,
                unit: "",
                cases: &["15000"],
            },
        ],
    },
    Family {
        name: "paced",
        title: "Paced: 128 B to everyone, at a rate that all can carry",
        note: "50 events a second to 1,000 connections, 10 to 5,000, 3 to 15,000.",
        scenario: "paced",
        arguments: &["--bytes", "128"],
        when_quick: &[],
        paced_as: None,
        cases: &[
            Case {
                arguments: &["--rate", "50"],
                ..of("1000", 1000, GENERAL)
            },
            Case {
                arguments: &["--rate", "10"],
                ..of("5000", 5000, GENERAL)
            },
            Case {
                arguments: &["--rate", "3"],
                ..of("15000", 15_000, GENERAL)
            },
        ],
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[COST_GOALS[0], COST_GOALS[1], P99_GOAL],
    },
    Family {
        name: "targeted",
        title: "Targeted: one HTTP request to one of 5,000 users, 16 in flight",
        note: "Fanfare checks an API key and parses JSON; the bare loop and uWebSockets take a plain body.",
        scenario: "targeted",
        arguments: &["--depth", "16", "--bytes", "128"],
        when_quick: &[],
        paced_as: None,
        cases: &[of("5000", 5000, GENERAL)],
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_ONE,
        goals: &[
            over(
                "CPU per event, over uWebSockets' plain POST",
                PER_EVENT,
                Contender::UWebSockets,
                1.2,
            ),
            over(
                "p99, over uWebSockets' plain POST",
                P99,
                Contender::UWebSockets,
                2.0,
            ),
        ],
    },
    Family {
        name: "mixed",
        title: "Mixed: targeted emits beside a scan that reaches 15,000 connections",
        note: "1,000 single events a second, alone and beside a filter that scans everyone.",
        scenario: "mixed",
        arguments: &["--no-calibration"],
        when_quick: &[],
        paced_as: None,
        cases: &[Case {
            parts: &[("--probes", 500)],
            ..of("15000", 15_000, OURS)
        }],
        takes: (5.0, 2.0),
        rounds: ALWAYS,
        figures: &[
            Figure {
                name: "alone, request to arrival p99",
                column: "p99 alone, ms",
            },
            Figure {
                name: "with scans, request to arrival p99",
                column: "p99 beside scans, ms",
            },
            Figure {
                name: BESIDE_SCANS,
                column: "beside over alone",
            },
            Figure {
                name: "with scans, scans a second",
                column: "scans a second",
            },
        ],
        goals: &[ours(
            "p99 beside a scan of 15,000, over p99 alone",
            BESIDE_SCANS,
            2.0,
            "",
            &[],
        )],
    },
    Family {
        name: "filtered",
        title: "Filtered: an event to the part of 15,000 connections that a filter matches",
        note: "One event at a time, beside the same event to as many connections by themselves. scan-50: the filter \
               matches 50 %, and no index can narrow it; index-50: an index answers it.",
        scenario: "filtered",
        arguments: &["--bytes", "128"],
        when_quick: &[],
        paced_as: None,
        cases: &[
            Case {
                arguments: &["--by", "scan", "--match", "1"],
                ..of("scan-1", 15_000, OURS)
            },
            Case {
                arguments: &["--by", "index", "--match", "1"],
                ..of("index-1", 15_000, OURS)
            },
            Case {
                arguments: &["--by", "scan", "--match", "50"],
                ..of("scan-50", 15_000, OURS)
            },
            Case {
                arguments: &["--by", "index", "--match", "50"],
                ..of("index-50", 15_000, OURS)
            },
            Case {
                arguments: &["--by", "scan", "--match", "100"],
                ..of("scan-100", 15_000, OURS)
            },
        ],
        takes: (4.0, 2.0),
        rounds: ALWAYS,
        figures: &[
            Figure {
                name: "filtered, server CPU per event",
                column: "CPU per event, µs",
            },
            Figure {
                name: "alone, server CPU per event",
                column: "the same alone, µs",
            },
            Figure {
                name: OVER_ALONE,
                column: "filtered over alone",
            },
            Figure {
                name: "filtered, request to arrival p99",
                column: "p99, ms",
            },
            Figure {
                name: "alone, request to arrival p99",
                column: "p99 alone, ms",
            },
        ],
        goals: &[
            ours(
                "a scan that matches 1 %: CPU over that 1 % alone",
                OVER_ALONE,
                2.0,
                "",
                &["scan-1"],
            ),
            ours(
                "an index that matches 1 %: CPU over that 1 % alone",
                OVER_ALONE,
                1.1,
                "",
                &["index-1"],
            ),
        ],
    },
    Family {
        name: "handshakes",
        title: "Handshakes: 15,000 connections come",
        note: "Fanfare checks a token (HS256) with three claims; the bare loop and uWebSockets check nothing.",
        scenario: "idle",
        arguments: &["--settle", "200ms"],
        when_quick: &[],
        paced_as: None,
        cases: &[of("15000", 15_000, GENERAL)],
        takes: (3.5, 0.0),
        rounds: ALWAYS,
        figures: &[Figure {
            name: PER_HANDSHAKE,
            column: "CPU per handshake, µs",
        }],
        goals: &[over(
            "CPU per handshake, over uWebSockets' bare one",
            PER_HANDSHAKE,
            Contender::UWebSockets,
            1.75,
        )],
    },
    Family {
        name: "idle",
        title: "Memory: 15,000 connections that do nothing",
        note: "How much the process has grown by; the kernel's memory for sockets is not in it.",
        scenario: "idle",
        arguments: &[],
        when_quick: &["--settle", "50ms"],
        paced_as: None,
        cases: &[of("15000", 15_000, GENERAL)],
        takes: (27.0, 0.0),
        // Half a minute each.
        rounds: (3, 1),
        figures: MEMORY,
        goals: &[ours(
            "resident memory per idle connection with three claims",
            RESIDENT,
            1536.0,
            "bytes",
            &[],
        )],
    },
    Family {
        name: "protocols",
        title: "Clients of other systems: flood of 128 B to everyone, 16 publishes in flight",
        note: "The same clients of Socket.IO and of Mesa, over WebSocket, connect to those systems' own servers and to \
               Fanfare. Fanfare alone is by clients of its own.",
        scenario: "flood",
        arguments: &["--depth", "16", "--bytes", "128"],
        when_quick: UNHURRIED,
        paced_as: None,
        cases: &[of("1000", 1000, PROTOCOLS), of("5000", 5000, PROTOCOLS)],
        takes: (1.5, 1.0),
        rounds: ALWAYS,
        figures: TO_EVERYONE,
        goals: &[by_protocol(
            "CPU per delivery by clients of Socket.IO, over Socket.IO's server",
            Contender::FanfareSocketIo,
            Contender::SocketIo,
            0.1,
        )],
    },
    Family {
        name: "protocols-idle",
        title: "Clients of other systems: memory of those that do nothing",
        note: "How much the process has grown by; the kernel's memory for sockets is not in it. Fanfare and Mesa are \
               shown tokens, of which Fanfare keeps three claims.",
        scenario: "idle",
        arguments: &[],
        when_quick: &["--settle", "50ms"],
        paced_as: None,
        cases: &[of("1000", 1000, PROTOCOLS), of("5000", 5000, PROTOCOLS)],
        takes: (27.0, 0.0),
        // Half a minute each.
        rounds: (3, 1),
        figures: MEMORY,
        goals: &[],
    },
];

/// A case, with the family that it is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) family: &'static Family,
    pub(super) case: &'static Case,
}

/// All phases, in the order of a round.
pub(super) fn phases() -> impl Iterator<Item = Phase> {
    FAMILIES
        .iter()
        .flat_map(|family| family.cases.iter().map(move |case| Phase { family, case }))
}

impl Phase {
    /// As it stands in files: the family's name and the case's.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.family.name, self.case.label)
    }

    /// The phase of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        phases().find(|phase| phase.name() == name)
    }

    /// Whether `--only NAME` means it: a family or one of its cases.
    pub(super) fn is_called(&self, name: &str) -> bool {
        name == self.family.name || name == self.name()
    }

    /// The phase that says how fast this one's events are sent, and by what.
    pub(super) fn pacemaker(&self) -> Option<(Self, &'static Pacemaker)> {
        let pacemaker = self.family.paced_as.as_ref()?;
        Some((
            Self::find(&format!("{}/{}", pacemaker.family, self.case.label))?,
            pacemaker,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for phase in phases() {
            let found = Phase::find(&phase.name()).unwrap();
            assert!(std::ptr::eq(found.case, phase.case), "{}", phase.name());
        }
    }

    #[test]
    fn goals_are_about_figures_and_servers_that_their_phases_have() {
        for family in FAMILIES {
            let has = |figure: &str| family.figures.iter().any(|known| known.name == figure);
            for goal in family.goals {
                let (figure, ours, other) = match goal.quantity {
                    Quantity::Ours(figure) => (figure, Contender::Fanfare, Contender::Fanfare),
                    Quantity::Over(figure, other) | Quantity::GrowthOver(figure, other) => {
                        (figure, Contender::Fanfare, other)
                    }
                    Quantity::ByProtocol(figure, ours, other) => (figure, ours, other),
                };
                assert!(has(figure), "{}: {}", family.name, goal.text);
                let cases = || family.cases.iter().filter(|case| goal.is_about(case));
                assert!(cases().count() > 0, "{}: {}", family.name, goal.text);
                assert!(
                    cases().all(|case| {
                        [ours, other]
                            .iter()
                            .all(|server| case.servers.contains(server))
                    }),
                    "{}: {}",
                    family.name,
                    goal.text
                );
            }
        }
    }

    #[test]
    fn what_sets_a_rate_is_measured_before() {
        for (at, phase) in phases().enumerate() {
            if phase.family.paced_as.is_none() {
                continue;
            }
            let (before, pacemaker) = phase.pacemaker().unwrap();
            assert!(phases().take(at).any(|other| other.name() == before.name()));
            assert!(before.case.servers.contains(&pacemaker.server));
        }
    }
}
