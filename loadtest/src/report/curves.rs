//! Which curves a report shows.

use super::{
    Measurement, Use,
    plot::{Axis, Line, Plot, short},
};

/// A plot, and what is to be known of it.
pub(super) struct Curves {
    pub(super) title: String,
    pub(super) note: &'static str,
    pub(super) plot: Plot,
}

/// All that the measurements give.
pub(super) fn curves(measurements: &[Measurement]) -> Vec<Curves> {
    let mut curves = vec![Curves {
        title: "Request to arrival by percentile".to_owned(),
        note: "From when an event was due, over all arrivals. Each repetition is a line.",
        plot: Plot {
            x: Axis::log("arrivals", percent),
            y: latency(),
            lines: percentiles(measurements),
        },
    }];
    curves.extend(over_time(measurements));
    curves.push(Curves {
        title: "Server CPU per delivery by repetition".to_owned(),
        note: "Processor time of the server's process until everything had come, over all that came.",
        plot: Plot { x: Axis::count("repetition"), y: Axis::linear("µs"), lines: costs(measurements) },
    });
    curves.extend([
        used(
            measurements,
            (
                "Server CPU per delivery over time",
                "Sampled, over what arrived since the sample before.",
            ),
            ("µs", |used| used.micros_per_delivery),
        ),
        used(
            measurements,
            (
                "Processors that the server keeps busy",
                "Sampled. Each repetition is a line.",
            ),
            ("processors", |used| Some(used.processors)),
        ),
        used(
            measurements,
            (
                "Server memory over time",
                "Resident, sampled. Each repetition is a line.",
            ),
            ("MiB", |used| Some(used.resident as f64 / 1_048_576.0)),
        ),
    ]);
    curves
}

/// A lane's name among others: that of its measurement, and its own where there are several.
fn lane_name(measurement: &Measurement, lane: &str) -> String {
    match measurement.lanes.len() {
        1 => measurement.name.clone(),
        _ => format!("{}: {lane}", measurement.name),
    }
}

fn percentiles(measurements: &[Measurement]) -> Vec<Line> {
    let mut lines = Vec::new();
    for measurement in measurements {
        for lane in &measurement.lanes {
            // What is slower than all but one of n is as far right as one in n goes.
            let most = lane.deliveries.max(1) as f64;
            let place = |quantile: f64| (1.0 / (1.0 - quantile)).min(most);
            let points = lane
                .percentiles
                .iter()
                .map(|&(quantile, ms)| (place(quantile), ms))
                .collect();
            lines.push(Line {
                name: lane_name(measurement, lane.name),
                points,
            });
        }
    }
    lines
}

/// One plot for each lane of each thing that was measured.
fn over_time(measurements: &[Measurement]) -> Vec<Curves> {
    let mut curves: Vec<Curves> = Vec::new();
    for measurement in measurements {
        for lane in &measurement.lanes {
            let title = format!(
                "Request to arrival over time: {}",
                lane_name(measurement, lane.name)
            );
            let at = curves
                .iter()
                .position(|curves| curves.title == title)
                .unwrap_or_else(|| {
                    let note = "By the time of arrival. Each repetition is a line of each colour.";
                    let plot = Plot {
                        x: Axis::linear("s"),
                        y: latency(),
                        lines: Vec::new(),
                    };
                    curves.push(Curves { title, note, plot });
                    curves.len() - 1
                });
            let mut line = |name: &str, value: fn(&crate::publisher::Point) -> f64| {
                let points = lane
                    .timeline
                    .iter()
                    .map(|point| (point.seconds, value(point)))
                    .collect();
                curves[at].plot.lines.push(Line {
                    name: name.to_owned(),
                    points,
                });
            };
            line("p50", |point| point.p50);
            line("p99", |point| point.p99);
            line("max", |point| point.max);
        }
    }
    curves
}

fn costs(measurements: &[Measurement]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for measurement in measurements {
        let Some(micros) = measurement.micros_per_delivery else {
            continue;
        };
        let point = (measurement.repetition as f64, micros);
        match lines.iter_mut().find(|line| line.name == measurement.name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name: measurement.name.clone(),
                points: vec![point],
            }),
        }
    }
    lines
}

fn used(
    measurements: &[Measurement],
    (title, note): (&str, &'static str),
    (unit, value): (&'static str, fn(&Use) -> Option<f64>),
) -> Curves {
    let line = |measurement: &Measurement| Line {
        name: measurement.name.clone(),
        points: measurement
            .server
            .iter()
            .filter_map(|used| Some((used.seconds, value(used)?)))
            .collect(),
    };
    let lines = measurements
        .iter()
        .map(line)
        .filter(|line| !line.points.is_empty())
        .collect();
    let plot = Plot {
        x: Axis::linear("s"),
        y: Axis::linear(unit),
        lines,
    };
    Curves {
        title: title.to_owned(),
        note,
        plot,
    }
}

fn latency() -> Axis {
    Axis::log("ms", short)
}

/// `10` is where 90 % have arrived, `100` where 99 % have.
fn percent(one_in: f64) -> String {
    let decimals = (one_in.log10() - 2.0).ceil().max(0.0) as usize;
    format!("{:.decimals$} %", 100.0 - 100.0 / one_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_told_as_exactly_as_it_needs() {
        assert_eq!(
            [1.0, 10.0, 100.0, 1000.0, 1e5].map(percent),
            ["0 %", "90 %", "99 %", "99.9 %", "99.999 %"]
        );
    }
}
