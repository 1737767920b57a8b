//! Medians, and how far they can be trusted, without a word on how values are distributed.

use serde::Serialize;

/// What intervals hold the true median with, where there are values enough: at least this.
const LEVEL: f64 = 0.95;

/// An interval that holds the true median less often than this decides nothing.
const WORTH_SAYING: f64 = 0.75;

/// The middle of some values, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// How many values there are.
    pub(super) count: usize,
}

/// Where the true median lies, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
    /// How often such an interval holds the true median: 0.979 for 97.9 %.
    pub(super) level: f64,
}

/// Whether something is at most what was aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// All of the interval is.
    Met,
    /// The median is.
    MetByMedian,
    /// The median is not.
    Missed,
    /// Nobody knows: no round has all that it takes.
    Unmeasured,
}

impl Verdict {
    /// In words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::MetByMedian => "met by the median",
            Self::Missed => "missed",
            Self::Unmeasured => "not measured",
        }
    }
}

/// The spread of `values`; `None` if there are none.
pub(super) fn spread(values: &[f64]) -> Option<Spread> {
    let sorted = sorted(values);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Spread {
        median,
        least,
        most,
        count: sorted.len(),
    })
}

/// The narrowest interval between two of `values`, equally far from both ends, that holds the true median with at
/// least 95 %; from the least to the most where they are too few for that. `None` where they are too few to say much.
pub(super) fn interval(values: &[f64]) -> Option<Interval> {
    let sorted = sorted(values);
    let all = sorted.len();
    let holds = |place: usize| 1.0 - 2.0 * at_most_heads(place, all);
    let place = (1..all / 2)
        .take_while(|&place| holds(place) >= LEVEL)
        .last()
        .unwrap_or(0);
    let level = holds(place);
    (level >= WORTH_SAYING).then(|| Interval {
        low: sorted[place],
        high: sorted[all - 1 - place],
        level,
    })
}

/// Whether `values` are at most `bound`.
pub(super) fn judge(values: &[f64], bound: f64) -> Verdict {
    match (spread(values), interval(values)) {
        (None, _) => Verdict::Unmeasured,
        (_, Some(interval)) if interval.high <= bound => Verdict::Met,
        (Some(spread), _) if spread.median <= bound => Verdict::MetByMedian,
        _ => Verdict::Missed,
    }
}

/// How likely `flips` flips of a coin show heads at most `heads` times.
fn at_most_heads(heads: usize, flips: usize) -> f64 {
    let mut exactly = 0.5_f64.powi(flips as i32);
    let mut sum = exactly;
    for n in 1..=heads {
        exactly *= (flips + 1 - n) as f64 / n as f64;
        sum += exactly;
    }
    sum
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(count: u32) -> Vec<f64> {
        (1..=count).rev().map(f64::from).collect()
    }

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                least: 1.0,
                most: 3.0,
                count: 3
            })
        );
        assert_eq!(
            spread(&[4.0, 1.0, 2.0, 3.0]),
            Some(Spread {
                median: 2.5,
                least: 1.0,
                most: 4.0,
                count: 4
            })
        );
    }

    /// The places and levels of the published tables of the sign test.
    #[test]
    fn intervals_are_those_of_the_tables() {
        for (count, low, level) in [
            (3, 1.0, 0.75),
            (5, 1.0, 0.9375),
            (6, 1.0, 0.968_75),
            (8, 1.0, 0.992_187_5),
            (9, 2.0, 0.960_937_5),
            (10, 2.0, 0.978_515_625),
            (12, 3.0, 0.961_425_781_25),
            (20, 6.0, 0.958_610_534_667_968_8),
            (100, 40.0, 0.964_799_799_782_895_5),
        ] {
            let found = interval(&first(count)).unwrap();
            assert_eq!(
                (found.low, found.high),
                (low, f64::from(count) + 1.0 - low),
                "of {count}"
            );
            assert!(
                (found.level - level).abs() < 1e-9,
                "of {count}: {}",
                found.level
            );
        }
    }

    #[test]
    fn too_few_values_have_no_interval() {
        for count in 0..3 {
            assert_eq!(interval(&first(count)), None);
        }
    }

    #[test]
    fn an_interval_holds_the_median_as_often_as_it_says() {
        // Every outcome of ten values that lie on either side of the true median, 0, with the same likelihood.
        let outcomes = 0..1_u32 << 10;
        let holding = outcomes.clone().filter(|outcome| {
            let side = |n: u32| if outcome >> n & 1 == 1 { 1.0 } else { -1.0 };
            let values: Vec<f64> = (0..10).map(|n| side(n) * f64::from(n + 1)).collect();
            let found = interval(&values).unwrap();
            found.low < 0.0 && found.high > 0.0
        });
        let share = holding.count() as f64 / outcomes.len() as f64;
        assert!((share - 0.978_515_625).abs() < 1e-9, "{share}");
    }

    #[test]
    fn a_goal_is_met_by_the_whole_interval_or_by_the_median_or_not() {
        let ten = first(10);
        assert_eq!(judge(&ten, 9.0), Verdict::Met);
        assert_eq!(judge(&ten, 8.9), Verdict::MetByMedian);
        assert_eq!(judge(&ten, 5.5), Verdict::MetByMedian);
        assert_eq!(judge(&ten, 5.4), Verdict::Missed);
        assert_eq!(
            judge(&[1.0], 2.0),
            Verdict::MetByMedian,
            "one value has no interval"
        );
        assert_eq!(judge(&[], 2.0), Verdict::Unmeasured);
    }
}
