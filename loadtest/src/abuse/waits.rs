//! What the witness's waits come to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::witness::{Lane, Wait};

/// Waits of one lane over a stretch of time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Seen {
    /// How many.
    pub(super) count: usize,
    /// In milliseconds, as all waits here.
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) longest: f64,
    /// How often the answer was another than it should be, by what it was.
    pub(super) refusals: BTreeMap<String, u64>,
}

impl Seen {
    /// Those of `waits` that were due between two moments.
    pub(super) fn between(waits: &[Wait], from: u64, to: u64) -> Self {
        let meant: Vec<_> = waits
            .iter()
            .filter(|wait| (from..to).contains(&wait.due))
            .collect();
        let mut nanos: Vec<u64> = meant.iter().map(|wait| wait.nanos).collect();
        nanos.sort_unstable();
        let mut refusals = BTreeMap::new();
        for refusal in meant.iter().filter_map(|wait| wait.refusal.clone()) {
            *refusals.entry(refusal).or_default() += 1;
        }
        let at = |part: f64| {
            let last = nanos.len().saturating_sub(1);
            let rank = (nanos.len() as f64 * part).ceil() as usize;
            nanos
                .get(rank.saturating_sub(1).min(last))
                .map_or(0.0, |&nanos| nanos as f64 / 1e6)
        };
        Self {
            count: meant.len(),
            median: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
            refusals,
        }
    }
}

/// What one phase looked like to all lanes.
pub(super) type View = BTreeMap<Lane, Seen>;

/// The worst of a figure over the lanes that a witness of the attacked app has.
pub(super) fn worst(view: &View, figure: impl Fn(&Seen) -> f64) -> f64 {
    [Lane::Ping, Lane::Emit, Lane::Health]
        .iter()
        .filter_map(|lane| view.get(lane))
        .map(figure)
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_of_what_was_due_in_its_time() {
        let waits: Vec<_> = (0..200)
            .map(|due| Wait {
                due,
                nanos: (due + 1) * 1_000_000,
                refusal: (due == 150).then(|| "503 busy".to_owned()),
            })
            .collect();
        let seen = Seen::between(&waits, 100, 200);
        assert_eq!((seen.count, seen.longest), (100, 200.0));
        assert_eq!((seen.median, seen.p99), (150.0, 199.0));
        assert_eq!(seen.refusals["503 busy"], 1);
        assert_eq!(Seen::between(&waits, 300, 400), Seen::default());
    }
}
