//! Curves as SVG text, to stand in a page.

use std::{fmt::Display, ops::Range};

use plotters::{
    coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    prelude::*,
};

use super::text::number;
use crate::error::{Result, failed};

/// Width and height, in pixels at full size.
const SIZE: (u32, u32) = (900, 280);

/// Told apart on black and on white.
const COLORS: [RGBColor; 6] = [
    RGBColor(38, 139, 210),
    RGBColor(203, 120, 22),
    RGBColor(211, 54, 130),
    RGBColor(90, 160, 60),
    RGBColor(125, 115, 215),
    RGBColor(170, 140, 20),
];

const GREY: RGBColor = RGBColor(128, 128, 128);

/// Marks of one axis, about.
const MARKS: f64 = 8.0;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// Whole numbers, from the first to the last.
    Count,
    /// By their powers of ten.
    Log,
}

/// One axis.
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    /// A mark's text.
    pub(super) mark: fn(f64) -> String,
}

/// One line of a plot; those of one name have one colour.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves over two axes.
pub(super) struct Plot {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// Each name and its colour, as CSS writes it.
    pub(super) fn names(&self) -> Vec<(&str, String)> {
        let mut names: Vec<(&str, String)> = Vec::new();
        for line in &self.lines {
            if names.iter().all(|(name, _)| *name != line.name) {
                let RGBColor(red, green, blue) = COLORS[names.len() % COLORS.len()];
                names.push((&line.name, format!("rgb({red},{green},{blue})")));
            }
        }
        names
    }

    /// The plot as SVG, or nothing where no line has a point.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return Ok(None);
        }
        let mut svg = String::new();
        match self.draw(&mut svg) {
            Ok(()) => Ok(Some(svg)),
            Err(why) => failed(format!("cannot draw the report's curves: {why}")),
        }
    }

    fn draw(&self, svg: &mut String) -> std::result::Result<(), Box<dyn Display>> {
        let told = |why: DrawingAreaErrorKind<std::io::Error>| Box::new(why) as Box<dyn Display>;
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let (x, y) = (
            self.x.spread(all().map(|point| point.0)),
            self.y.spread(all().map(|point| point.1)),
        );
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .margin_right(24)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(x, y)
            .map_err(told)?;
        chart
            .configure_mesh()
            .axis_style(GREY)
            .bold_line_style(GREY.mix(0.3))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 13))
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&|&value| (self.x.mark)(value))
            .y_label_formatter(&|&value| (self.y.mark)(value))
            .draw()
            .map_err(told)?;
        let names = self.names();
        for line in &self.lines {
            let known = names
                .iter()
                .position(|(name, _)| *name == line.name)
                .unwrap_or(0);
            let color = COLORS[known % COLORS.len()];
            // Few points are to be seen as such, and one is no line.
            let size = if line.points.len() < 5 { 3 } else { 1 };
            let series =
                LineSeries::new(line.points.iter().copied(), color.filled()).point_size(size);
            chart.draw_series(series).map_err(told)?;
        }
        area.present().map_err(told)
    }
}

impl Axis {
    pub(super) fn linear(label: &'static str) -> Self {
        Self {
            label,
            scale: Scale::Linear,
            mark: short,
        }
    }

    pub(super) fn count(label: &'static str) -> Self {
        Self {
            label,
            scale: Scale::Count,
            mark: short,
        }
    }

    pub(super) fn log(label: &'static str, mark: fn(f64) -> String) -> Self {
        Self {
            label,
            scale: Scale::Log,
            mark,
        }
    }

    /// Room for the values, and marks in it.
    fn spread(&self, values: impl Iterator<Item = f64>) -> Spread {
        let widen = |(least, most): (f64, f64), value: f64| (least.min(value), most.max(value));
        let places = values.map(|value| place(self.scale, value));
        let (least, most) = places.fold((f64::MAX, f64::MIN), widen);
        let (least, most) = match self.scale {
            Scale::Linear => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
            Scale::Count => (least - 0.5, most + 0.5),
            Scale::Log => (least - 0.02, most.max(least + 0.3) + 0.02),
        };
        let marks = match self.scale {
            Scale::Log => powers(least, most),
            Scale::Count => steps(least, most, step((most - least) / MARKS).max(1.0)),
            Scale::Linear => steps(least, most, step((most - least) / MARKS)),
        };
        Spread {
            scale: self.scale,
            least,
            most,
            marks,
        }
    }
}

/// An axis with its values.
struct Spread {
    scale: Scale,
    /// Places.
    least: f64,
    most: f64,
    /// Values.
    marks: Vec<f64>,
}

impl Ranged for Spread {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (place(self.scale, *value) - self.least) / (self.most - self.least);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        value(self.scale, self.least)..value(self.scale, self.most)
    }
}

/// Where a value lies.
fn place(scale: Scale, value: f64) -> f64 {
    if scale == Scale::Log {
        value.max(1e-9).log10()
    } else {
        value
    }
}

/// What lies there.
fn value(scale: Scale, place: f64) -> f64 {
    if scale == Scale::Log {
        10f64.powf(place)
    } else {
        place
    }
}

/// A mark's text: as many digits as it needs.
pub(super) fn short(value: f64) -> String {
    let text = number(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The next of 1, 2, 5, 10, 20, 50, …
fn step(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= at_least);
    factor.unwrap_or(10.0) * power
}

fn steps(least: f64, most: f64, step: f64) -> Vec<f64> {
    let first = (least / step).ceil() as i64;
    let last = (most / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// Powers of ten between two places, and twos and fives where there is room.
fn powers(least: f64, most: f64) -> Vec<f64> {
    let factors: &[f64] = if most - least > 3.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let all = (least.floor() as i32..=most.ceil() as i32)
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    all.filter(|value| (least..=most).contains(&value.log10()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, points: &[(f64, f64)]) -> Line {
        Line {
            name: name.to_owned(),
            points: points.to_vec(),
        }
    }

    #[test]
    fn every_pair_of_scales_is_drawn_and_lines_of_one_name_share_a_colour() {
        let axis = |scale| Axis {
            label: "x",
            scale,
            mark: short,
        };
        let scales = [Scale::Linear, Scale::Count, Scale::Log];
        for (x, y) in scales.into_iter().flat_map(|x| scales.map(|y| (x, y))) {
            let lines = vec![
                line("first", &[(1.0, 1.0), (2.0, 0.0)]),
                line("first", &[(1.0, 4.0)]),
                line("second", &[(9.0, 2.0)]),
            ];
            let plot = Plot {
                x: axis(x),
                y: axis(y),
                lines,
            };
            let svg = plot.svg().unwrap().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert_eq!(plot.names().len(), 2);
            assert!(svg.contains("#268BD2") && svg.contains("#CB7816"), "{svg}");
        }
        let empty = Plot {
            x: Axis::count("n"),
            y: Axis::linear("s"),
            lines: vec![line("none", &[])],
        };
        assert_eq!(empty.svg().unwrap(), None);
    }

    #[test]
    fn marks_are_round_and_few() {
        let steps_of = [0.13, 0.5, 3.0, 60.0].map(|at_least| short(step(at_least)));
        assert_eq!(steps_of, ["0.2", "0.5", "5", "100"]);
        assert_eq!(
            steps(0.0, 1.6, 0.5)
                .into_iter()
                .map(short)
                .collect::<Vec<_>>(),
            ["0", "0.5", "1", "1.5"]
        );
        let powers = powers(0.9f64.log10(), 30f64.log10());
        assert_eq!(
            powers.into_iter().map(short).collect::<Vec<_>>(),
            ["1", "2", "5", "10", "20"]
        );
        assert_eq!(
            [0.0, 0.5, 12.0, 0.05, 1500.0].map(short),
            ["0", "0.5", "12", "0.05", "1500"]
        );
    }
}
