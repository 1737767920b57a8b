//! What a test is doing, for whoever waits before a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// A bar on standard error; nothing where that is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// How many measurements there are, and which one is under way.
    measurements: usize,
    measuring: usize,
}

/// Drawing takes time from what is measured.
const DRAWS_A_SECOND: u8 = 5;

impl Progress {
    /// Of a test of so many measurements.
    pub(crate) fn new(measurements: usize) -> Self {
        let style = ProgressStyle::with_template("{msg:28} {bar:40} {percent:>3} %");
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND);
        let bar = ProgressBar::with_draw_target(Some(1), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_finish(ProgressFinish::AndClear);
        Self {
            bar,
            measurements,
            measuring: 0,
        }
    }

    /// Begins with something that is done at `length`.
    pub(crate) fn begin(&self, what: impl Into<String>, length: u64) {
        self.bar.set_position(0);
        self.bar.set_length(length.max(1));
        self.bar.set_message(what.into());
    }

    /// Begins with the next measurement, of this length.
    pub(crate) fn begin_measurement(&mut self, duration: Duration) {
        self.measuring += 1;
        let what = format!("measuring {} of {}", self.measuring, self.measurements);
        self.begin(what, duration.as_millis() as u64);
    }

    /// It has come so far.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Sleeps.
    pub(crate) fn sleep(&self, what: &str, duration: Duration) {
        const STEPS: u32 = 50;
        self.begin(what, STEPS.into());
        for step in 0..STEPS {
            self.at(step.into());
            std::thread::sleep(duration / STEPS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_counted() {
        let mut progress = Progress::new(3);
        for _ in 0..2 {
            progress.begin_measurement(Duration::from_secs(2));
        }
        assert_eq!(
            (progress.bar.message(), progress.bar.length()),
            ("measuring 2 of 3".into(), Some(2000))
        );
    }
}
