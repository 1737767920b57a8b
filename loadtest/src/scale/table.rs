//! The tables for the documentation, and how fast each operation's cost grows.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    Size,
    operation::{Cost, Operation},
    usage::Held,
};

/// One of the figures of a cost, and when it counts as growing no faster than the nodes.
struct Figure {
    title: &'static str,
    of: fn(&Cost) -> f64,
    growth: fn(&Growth) -> f64,
    /// A figure that grows as this power of the number of nodes still counts as linear: what is measured is noisy, times
    /// more so than counts.
    most: f64,
    /// An operation that costs less costs so little that its growth is noise.
    little: f64,
    /// The same for what is done only once: it takes seconds, in which the cluster does more by itself.
    little_at_once: f64,
}

const FIGURES: [Figure; 4] = [
    Figure {
        title: "Commands of Redis",
        of: |cost| cost.commands,
        growth: |growth| growth.commands,
        most: 1.2,
        little: 2.0,
        little_at_once: 200.0,
    },
    Figure {
        title: "Kilobytes into and out of Redis",
        of: |cost| cost.kilobytes,
        growth: |growth| growth.kilobytes,
        most: 1.2,
        little: 0.5,
        little_at_once: 200.0,
    },
    Figure {
        title: "CPU time of Redis, µs",
        of: |cost| cost.redis_micros,
        growth: |growth| growth.redis_micros,
        most: 1.5,
        little: 100.0,
        little_at_once: 20_000.0,
    },
    Figure {
        title: "CPU time of all nodes, µs",
        of: |cost| cost.nodes_micros,
        growth: |growth| growth.nodes_micros,
        most: 1.5,
        little: 500.0,
        little_at_once: 100_000.0,
    },
];

/// As which power of the number of nodes an operation's cost grows, from the fewest nodes to the most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Growth {
    commands: f64,
    kilobytes: f64,
    redis_micros: f64,
    nodes_micros: f64,
}

impl Growth {
    /// Of each operation, in their order.
    pub(super) fn of(sizes: &[Size]) -> Vec<Self> {
        let (Some(few), Some(many)) = (sizes.first(), sizes.last()) else {
            return Vec::new();
        };
        let nodes = (many.nodes as f64 / few.nodes as f64).ln();
        let costs = few.costs.iter().zip(&many.costs).zip(Operation::ALL);
        let grows = |((few, many), operation): ((&Cost, &Cost), Operation)| {
            let power = |figure: &Figure| {
                let least = if operation.is_rare() {
                    figure.little_at_once
                } else {
                    figure.little
                };
                let (few, many) = ((figure.of)(few).max(least), (figure.of)(many).max(least));
                if nodes > 0.0 && many > few {
                    (many / few).ln() / nodes
                } else {
                    0.0
                }
            };
            let [commands, kilobytes, redis_micros, nodes_micros] = FIGURES.each_ref().map(power);
            Self {
                commands,
                kilobytes,
                redis_micros,
                nodes_micros,
            }
        };
        costs.map(grows).collect()
    }
}

/// A line for each figure of an operation that grows faster than the nodes.
pub(super) fn steep(growth: &[Growth]) -> Vec<String> {
    let mut lines = Vec::new();
    for (operation, growth) in Operation::ALL.iter().zip(growth) {
        for figure in &FIGURES {
            let (power, most) = ((figure.growth)(growth), figure.most);
            if power > most {
                let (name, title) = (operation.name(), figure.title);
                lines.push(format!(
                    "{name}: {title}: grows as nodes to the power of {power:.2}, more than {most}"
                ));
            }
        }
    }
    lines
}

/// All of it in Markdown.
pub(super) fn markdown(sizes: &[Size], growth: &[Growth]) -> String {
    let mut tables: Vec<String> = FIGURES
        .iter()
        .map(|figure| table(figure, sizes, growth))
        .collect();
    tables.push(held(sizes));
    tables.join("\n")
}

fn table(figure: &Figure, sizes: &[Size], growth: &[Growth]) -> String {
    let mut text = head(figure.title, "operation", sizes);
    text += " grows as nodes to the power of |";
    let _ = writeln!(text, "\n| --- |{}", " ---: |".repeat(sizes.len() + 1));

    for (at, operation) in Operation::ALL.iter().enumerate() {
        let _ = write!(text, "| {} |", operation.name());
        for size in sizes {
            let _ = write!(text, " {} |", shown((figure.of)(&size.costs[at])));
        }
        if let Some(growth) = growth.get(at) {
            let _ = write!(text, " {:.2} |", (figure.growth)(growth));
        }
        text.push('\n');
    }
    text
}

/// What is held with so many nodes.
fn held(sizes: &[Size]) -> String {
    type Row = (&'static str, fn(&Held) -> f64);

    let mut text = head("Memory and connections", "held", sizes);
    let _ = writeln!(text, "\n| --- |{}", " ---: |".repeat(sizes.len()));
    let rows: [Row; 3] = [
        ("memory of a node, MB", |held| held.node_megabytes),
        ("memory of all Redis servers, MB", |held| {
            held.redis_megabytes
        }),
        ("connections to Redis, for each node", |held| {
            held.connections
        }),
    ];
    for (name, of) in rows {
        let _ = write!(text, "| {name} |");
        for size in sizes {
            let _ = write!(text, " {} |", shown(of(&size.held)));
        }
        text.push('\n');
    }
    text
}

/// The title of a table and the beginning of its first line.
fn head(title: &str, first: &str, sizes: &[Size]) -> String {
    let mut text = format!("### {title}\n\n| {first} |");
    for size in sizes {
        // Writing to a String cannot fail, here and elsewhere.
        let _ = write!(text, " {} nodes |", size.nodes);
    }
    text
}

/// Three digits.
fn shown(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(nodes: usize, commands: f64, micros: f64) -> Size {
        let cost = Cost {
            commands,
            publications: 0.0,
            kilobytes: 0.5,
            redis_micros: micros,
            nodes_micros: 1.0,
        };
        Size {
            nodes,
            held: Held {
                node_megabytes: 5.0,
                redis_megabytes: 2.0,
                connections: 2.0,
            },
            costs: vec![cost; Operation::ALL.len()],
        }
    }

    /// How many figures of how many operations grow too fast.
    fn steep_of(few: Size, many: Size) -> usize {
        steep(&Growth::of(&[few, many])).len()
    }

    #[test]
    fn what_grows_faster_than_the_nodes_is_told() {
        let all = Operation::ALL.len();
        let rare = Operation::ALL
            .iter()
            .filter(|operation| operation.is_rare());
        let often = all - rare.count();
        for (commands, steep) in [(10.0, 0), (100.0, 0), (250.0, often), (9000.0, all)] {
            let few = size(3, 10.0, 1.0);
            assert_eq!(steep_of(few, size(30, commands, 1.0)), steep, "{commands}");
        }
        assert_eq!(
            steep_of(size(3, 0.1, 1.0), size(30, 1.9, 1.0)),
            0,
            "so few commands say nothing"
        );
        let slow = steep_of(size(3, 1.0, 1000.0), size(30, 1.0, 100_000.0));
        assert_eq!(slow, often, "times are judged too");
    }

    #[test]
    fn the_tables_have_a_row_for_each_operation() {
        let sizes = [size(3, 10.0, 1.0), size(9, 30.0, 1.0)];
        let table = markdown(&sizes, &Growth::of(&sizes));
        for operation in Operation::ALL {
            assert_eq!(table.matches(operation.name()).count(), FIGURES.len());
        }
        assert!(table.contains("| 3 nodes | 9 nodes | grows"), "{table}");
        assert!(table.contains("| 10.0 | 30.0 | 1.00 |"), "{table}");
        assert!(
            table.contains("| memory of a node, MB | 5.00 | 5.00 |"),
            "{table}"
        );
    }
}
