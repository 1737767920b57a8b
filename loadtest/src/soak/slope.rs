//! Whether a figure grows: a straight line through the means of stretches of time, and how sure its slope is.
//!
//! Resident memory goes up and down by pages that come and go, and one value is like the one before. A line through all values
//! would so look surer than it is. Means of stretches are less alike, and what they still share with their neighbours (the
//! correlation of what the line leaves over) widens the interval.

use serde::Serialize;

/// Stretches that a measurement is cut into.
const STRETCHES: usize = 24;

/// Half the width of an interval of 95 % in standard errors, for 22 degrees of freedom (Student's t).
const WIDTH: f64 = 2.074;

/// The most that neighbours are taken to share: of more, a measurement says nothing at all.
const ALIKE: f64 = 0.9;

/// Growth per second, and the interval that holds the true one with 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Slope {
    pub(super) per_second: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Slope {
    /// The slope of `values` over `times`, which are in order; nothing where there are too few.
    pub(super) fn of(times: &[f64], values: &[f64]) -> Option<Self> {
        let size = times.len().min(values.len()) / STRETCHES;
        if size == 0 {
            return None;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let means = |values: &[f64]| -> Vec<f64> {
            values
                .chunks_exact(size)
                .take(STRETCHES)
                .map(mean)
                .collect()
        };
        let (x, y) = (means(times), means(values));

        // Least squares.
        let (mean_x, mean_y) = (mean(&x), mean(&y));
        let spread: f64 = x.iter().map(|x| (x - mean_x).powi(2)).sum();
        let common: f64 = x
            .iter()
            .zip(&y)
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        if spread <= 0.0 {
            return None;
        }
        let slope = common / spread;
        let left: Vec<f64> = x
            .iter()
            .zip(&y)
            .map(|(x, y)| y - mean_y - slope * (x - mean_x))
            .collect();
        let squares: f64 = left.iter().map(|left| left.powi(2)).sum();
        let error = (squares / (STRETCHES - 2) as f64 / spread).sqrt();

        // Neighbours that are alike count for less than they are.
        let neighbours: f64 = left.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let alike = if squares > 0.0 {
            (neighbours / squares).clamp(0.0, ALIKE)
        } else {
            0.0
        };
        let width = WIDTH * error * ((1.0 + alike) / (1.0 - alike)).sqrt();
        Some(Self {
            per_second: slope,
            least: slope - width,
            most: slope + width,
        })
    }

    /// Whether it is surely more than nothing.
    pub(super) fn grows(&self) -> bool {
        self.least > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 without a pattern.
    fn noise(count: usize) -> Vec<f64> {
        let mut state = 7u64;
        (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
            })
            .collect()
    }

    fn slope(value: impl Fn(f64, f64) -> f64) -> Slope {
        let times: Vec<f64> = (0..720).map(|n| f64::from(n) * 5.0).collect();
        let values: Vec<f64> = times
            .iter()
            .zip(noise(720))
            .map(|(&time, noise)| value(time, noise))
            .collect();
        Slope::of(&times, &values).unwrap()
    }

    #[test]
    fn growth_is_told_from_noise() {
        assert!(!slope(|_, noise| 1000.0 + 50.0 * noise).grows());
        assert!(slope(|time, noise| 1000.0 + 50.0 * noise + 0.1 * time).grows());
        assert!(!slope(|time, noise| 1000.0 + 50.0 * noise - 0.1 * time).grows());
        let exact = slope(|time, _| 3.0 * time);
        assert!((exact.per_second - 3.0).abs() < 1e-9 && exact.grows());
        assert!(!slope(|_, _| 1000.0).grows());
    }

    #[test]
    fn what_swings_slowly_does_not_grow() {
        let swing = |period: f64| slope(move |time, _| 1000.0 + 100.0 * (time / period).sin());
        assert!(!swing(100.0).grows());
        assert!(!swing(600.0).grows());
    }

    #[test]
    fn too_few_values_say_nothing() {
        assert_eq!(Slope::of(&[1.0; 20], &[1.0; 20]), None);
    }
}
