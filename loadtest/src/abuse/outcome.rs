//! What an attack came to, and whether that is as it should be.

use serde::{Deserialize, Serialize};

use super::{
    arms::Deeds,
    attack::{Allowance, Attack, MIB},
    waits::{Seen, View, worst},
    witness::Lane,
};

/// How much longer others may wait than while the same attack hits another process of the same machine.
pub(super) const RATIO: f64 = 2.0;

/// Waits in milliseconds up to which all are alike, since the machine's own scheduling makes as much: for the 99th percentile, for the
/// longest, and for a new client, which takes several round trips.
pub(super) const FLOOR: f64 = 5.0;
pub(super) const LONGEST_FLOOR: f64 = 20.0;
pub(super) const NEWCOMER_FLOOR: f64 = 500.0;

/// Resident memory of the server, in bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Memory {
    pub(super) before: u64,
    pub(super) peak: u64,
    /// Absent where the server has ended.
    pub(super) after: Option<u64>,
}

/// One attack's results.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) attack: &'static str,
    pub(super) does: &'static str,
    pub(super) against: &'static str,
    /// While the same attack hit another process.
    pub(super) control: View,
    /// While it hit the server.
    pub(super) attacked: View,
    pub(super) memory: Memory,
    pub(super) peak_allowed: u64,
    pub(super) after_allowed: u64,
    pub(super) why: [&'static str; 2],
    pub(super) deeds: Deeds,
    /// What is not well afterwards.
    pub(super) aftermath: Vec<String>,
    /// What must not be, in words.
    pub(super) wrong: Vec<String>,
}

impl Outcome {
    pub(super) fn new(attack: &Attack) -> Self {
        Self {
            attack: attack.name,
            does: attack.does,
            against: attack.against,
            peak_allowed: attack.peak.bytes,
            after_allowed: attack.after.bytes,
            why: [attack.peak.why, attack.after.why],
            ..Self::default()
        }
    }

    /// That of an attack which could not be carried out, and why.
    pub(super) fn impossible(attack: &Attack, why: String) -> Self {
        Self {
            wrong: vec![why],
            ..Self::new(attack)
        }
    }

    /// Holds the figures against the goals; those that depend on time only where `is_timed`.
    pub(super) fn judge(&mut self, attack: &Attack, is_timed: bool) {
        let mut wrong = self.aftermath.clone();
        wrong.extend(self.deeds.faults.iter().take(3).cloned());
        self.judge_memory(attack, &mut wrong);
        if !attack.drains {
            self.judge_other_app(is_timed, &mut wrong);
        }
        if is_timed {
            self.judge_waits(&mut wrong);
            self.judge_answers(attack, &mut wrong);
        }
        self.wrong = wrong;
    }

    fn judge_memory(&self, attack: &Attack, wrong: &mut Vec<String>) {
        let Memory {
            before,
            peak,
            after,
        } = self.memory;
        let mut hold = |bytes: u64, allowed: Allowance, when: &str| {
            let added = bytes.saturating_sub(before);
            if added > allowed.bytes {
                wrong.push(format!(
                    "{} MiB more {when}, where {} are allowed",
                    added / MIB,
                    allowed.bytes / MIB
                ));
            }
        };
        hold(peak, attack.peak, "at the peak");
        if let Some(after) = after {
            hold(after, attack.after, "afterwards");
        }
    }

    /// The other app may neither be refused nor be slower.
    fn judge_other_app(&self, is_timed: bool, wrong: &mut Vec<String>) {
        let Some(seen) = self.attacked.get(&Lane::Other) else {
            return;
        };
        // A debug build that is busy refuses for the time that it takes.
        let is_meant = |why: &str| is_timed || (why.starts_with('5') && !why.contains("busy"));
        for (why, times) in seen.refusals.iter().filter(|(why, _)| is_meant(why)) {
            wrong.push(format!("the other app was refused {times} times: {why}"));
        }
        if is_timed {
            let ratio = self.ratio(Lane::Other, |seen| seen.p99, FLOOR);
            if ratio > RATIO {
                wrong.push(format!("the other app waits {ratio:.1} times as long"));
            }
        }
    }

    fn judge_waits(&self, wrong: &mut Vec<String>) {
        let [p99, longest] = self.ratios();
        if p99 > RATIO {
            wrong.push(format!("p99 is {p99:.1} times that of the control"));
        }
        if longest > RATIO {
            wrong.push(format!(
                "the longest wait is {longest:.1} times that of the control"
            ));
        }
    }

    /// What the witness of the attacked app and new clients were answered.
    fn judge_answers(&self, attack: &Attack, wrong: &mut Vec<String>) {
        if attack.drains {
            return;
        }
        for lane in [Lane::Ping, Lane::Emit, Lane::Health] {
            let Some(seen) = self.attacked.get(&lane) else {
                continue;
            };
            // An app that sends more than there is room for may be told so itself.
            let is_meant = |why: &str| lane != Lane::Emit || !why.contains("busy");
            for (why, times) in seen.refusals.iter().filter(|(why, _)| is_meant(why)) {
                wrong.push(format!("{lane:?} was refused {times} times: {why}"));
            }
        }
        if attack.keeps_out.is_some() {
            return;
        }
        let newcomers = self.attacked.get(&Lane::Newcomer);
        for (why, times) in newcomers.iter().flat_map(|seen| &seen.refusals) {
            wrong.push(format!("{times} new clients did not get in: {why}"));
        }
        let ratio = self.ratio(Lane::Newcomer, |seen| seen.longest, NEWCOMER_FLOOR);
        if ratio > RATIO {
            let longest = newcomers.map_or(0.0, |seen| seen.longest);
            wrong.push(format!("a new client waited {longest:.0} ms"));
        }
    }

    /// How much longer the witness waited than in the control: p99, and longest.
    pub(super) fn ratios(&self) -> [f64; 2] {
        let ratio = |figure: fn(&Seen) -> f64, floor: f64| {
            worst(&self.attacked, figure).max(floor) / worst(&self.control, figure).max(floor)
        };
        [
            ratio(|seen| seen.p99, FLOOR),
            ratio(|seen| seen.longest, LONGEST_FLOOR),
        ]
    }

    fn ratio(&self, lane: Lane, figure: fn(&Seen) -> f64, floor: f64) -> f64 {
        let of = |view: &View| view.get(&lane).map_or(0.0, figure).max(floor);
        of(&self.attacked) / of(&self.control)
    }

    pub(super) fn is_green(&self) -> bool {
        self.wrong.is_empty()
    }

    /// What became of the other app, in a word or two.
    fn other_app(&self) -> String {
        let Some(seen) = self.attacked.get(&Lane::Other) else {
            return "–".to_owned();
        };
        let refused: u64 = seen.refusals.values().sum();
        let control = self.control.get(&Lane::Other).map_or(0.0, |seen| seen.p99);
        format!("{refused} refused, {:.1} / {control:.1} ms", seen.p99)
    }

    /// Its cells in a table, with how each column is called.
    pub(super) fn cells(&self) -> [(&'static str, String); 9] {
        let waits = |view: &View| {
            format!(
                "{:.1} / {:.1} ms",
                worst(view, |seen| seen.p99),
                worst(view, |seen| seen.longest)
            )
        };
        let mib = |bytes: u64| format!("{}", bytes.div_ceil(MIB));
        let [p99, longest] = self.ratios();
        let Memory {
            before,
            peak,
            after,
        } = self.memory;
        let after = after.map_or_else(|| "ended".to_owned(), mib);
        [
            ("attack", self.attack.to_owned()),
            ("waits, p99 / longest", waits(&self.attacked)),
            ("control", waits(&self.control)),
            ("ratios", format!("{p99:.1} / {longest:.1}")),
            ("MiB before", mib(before)),
            ("at the peak", mib(peak)),
            ("after", after),
            ("other app: refused, p99 / control", self.other_app()),
            (
                "verdict",
                if self.is_green() { "green" } else { "red" }.to_owned(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn seen(p99: f64, longest: f64) -> Seen {
        Seen {
            count: 200,
            median: 0.5,
            p99,
            longest,
            refusals: BTreeMap::new(),
        }
    }

    fn view(p99: f64, longest: f64) -> View {
        Lane::ALL.map(|lane| (lane, seen(p99, longest))).into()
    }

    fn good(attack: &Attack) -> Outcome {
        Outcome {
            control: view(4.0, 18.0),
            attacked: view(9.0, 39.0),
            memory: Memory {
                before: 20 * MIB,
                peak: 60 * MIB,
                after: Some(40 * MIB),
            },
            ..Outcome::new(attack)
        }
    }

    fn wrong(attack: &Attack, is_timed: bool, change: impl FnOnce(&mut Outcome)) -> Vec<String> {
        let mut outcome = good(attack);
        change(&mut outcome);
        outcome.judge(attack, is_timed);
        outcome.wrong
    }

    fn refuse(outcome: &mut Outcome, lane: Lane, why: &str) {
        let seen = outcome.attacked.get_mut(&lane).expect("a lane");
        seen.refusals.insert(why.to_owned(), 3);
    }

    #[test]
    fn twice_the_control_is_green_and_more_is_red() {
        let attack = Attack::PLAIN;
        assert_eq!(wrong(&attack, true, |_| {}), Vec::<String>::new());
        let slow: [fn(&mut Outcome); 4] = [
            |outcome| outcome.attacked.get_mut(&Lane::Ping).unwrap().p99 = 10.1,
            |outcome| outcome.attacked.get_mut(&Lane::Health).unwrap().longest = 40.1,
            |outcome| outcome.attacked.get_mut(&Lane::Other).unwrap().p99 = 10.1,
            |outcome| outcome.attacked.get_mut(&Lane::Newcomer).unwrap().longest = 1001.0,
        ];
        for (at, change) in slow.into_iter().enumerate() {
            assert_eq!(wrong(&attack, true, change).len(), 1, "change {at}");
            assert_eq!(
                wrong(&attack, false, change).len(),
                0,
                "change {at}, untimed"
            );
        }
    }

    #[test]
    fn memory_faults_and_what_is_not_well_are_red_in_both_forms() {
        let attack = Attack::PLAIN;
        let bad: [fn(&mut Outcome); 5] = [
            |outcome| outcome.memory.peak = 69 * MIB,
            |outcome| outcome.memory.after = Some(45 * MIB),
            |outcome| outcome.deeds.faults.push("a fault".to_owned()),
            |outcome| outcome.aftermath.push("not ready".to_owned()),
            |outcome| refuse(outcome, Lane::Other, "503 idempotency_store_full"),
        ];
        for (at, change) in bad.into_iter().enumerate() {
            for is_timed in [false, true] {
                assert_eq!(wrong(&attack, is_timed, change).len(), 1, "change {at}");
            }
        }
    }

    #[test]
    fn who_may_be_refused_is_said() {
        let attack = Attack::PLAIN;
        let busy = |lane| move |outcome: &mut Outcome| refuse(outcome, lane, "503 busy");
        assert_eq!(wrong(&attack, true, busy(Lane::Other)).len(), 1);
        assert_eq!(wrong(&attack, false, busy(Lane::Other)).len(), 0);
        assert_eq!(wrong(&attack, true, busy(Lane::Emit)).len(), 0);
        assert_eq!(wrong(&attack, true, busy(Lane::Newcomer)).len(), 1);
        let closed = Attack {
            keeps_out: Some("a bound says so"),
            ..Attack::PLAIN
        };
        assert_eq!(wrong(&closed, true, busy(Lane::Newcomer)).len(), 0);
    }
}
