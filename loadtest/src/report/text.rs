//! Findings for people.

use std::fmt;

use super::{Faults, Findings};

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(f, "{}: {}", self.scenario, settings.join(", "))?;
        let width = self
            .figures
            .iter()
            .map(|figure| figure.name.len())
            .max()
            .unwrap_or(0);
        for figure in &self.figures {
            let (least, most) = figure.range();
            write!(
                f,
                "  {:width$}  {:>12} {}",
                figure.name,
                figure.text(figure.median),
                figure.unit
            )?;
            if figure.values.len() > 1 {
                write!(f, "  ({} to {})", figure.text(least), figure.text(most))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  faults: {}", self.faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            duplicates,
            reordered,
            misdirected,
            stray,
            ..
        } = self;
        let Self {
            connections_ended,
            connections_left,
            refused,
            unsent,
            ..
        } = self;
        write!(
            f,
            "{lost} lost, {duplicates} repeated, {reordered} out of order, {misdirected} misdirected, \
             {stray} stray, {connections_ended} connections ended, {connections_left} left over; \
             {refused} refused (503), {unsent} due and unsent"
        )?;
        for (how, count) in &self.endings {
            write!(f, "; {count} {}", how.replace('_', " "))?;
        }
        Ok(())
    }
}

/// Three digits that count.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
