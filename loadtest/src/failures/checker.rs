//! Judges what one subscriber saw of one channel against what was published on it: lost, repeated, out of order, told.

use std::{
    collections::{HashMap, HashSet},
    ops::AddAssign,
};

use serde::Serialize;

use super::record::{Attempt, Fate, Log, Seen};

/// How long before a member's end an event must have been answered to be expected of a channel that keeps nothing.
const ON_THE_WAY: u64 = 200_000_000;

/// What the subscribers of some channels saw, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Events that a subscriber should have had.
    pub(super) expected: u64,
    /// Of those, how many never came, and nobody said so.
    pub(super) lost: u64,
    /// Of those, how many never came, but the subscriber was told of a gap, or the publisher of missing nodes.
    pub(super) told: u64,
    /// Events that came again.
    pub(super) duplicated: u64,
    /// Events that came behind a later one of their publisher, or behind a greater offset.
    pub(super) reordered: u64,
    /// Events that came although they had been refused.
    pub(super) phantom: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.expected += other.expected;
        self.lost += other.lost;
        self.told += other.told;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.phantom += other.phantom;
    }
}

/// Publisher and number.
type Name = (usize, u32);

/// What came to one subscriber on one channel, and when first.
#[derive(Debug, Default)]
pub(super) struct Arrivals(HashMap<Name, u64>);

impl Arrivals {
    pub(super) fn of(log: &Log) -> Self {
        let mut first = HashMap::new();
        for (at, seen) in &log.seen {
            if let Seen::Event {
                publisher,
                sequence,
                ..
            } = seen
            {
                first.entry((*publisher, *sequence)).or_insert(*at);
            }
        }
        Self(first)
    }

    /// When it came first.
    pub(super) fn when(&self, attempt: &Attempt) -> Option<u64> {
        self.0.get(&(attempt.publisher, attempt.sequence)).copied()
    }
}

/// Whether the subscriber of `log` should have had the event of `attempt`.
pub(super) fn is_expected(log: &Log, attempt: &Attempt) -> bool {
    if attempt.channel != log.channel || !matches!(attempt.fate, Fate::Accepted | Fate::Incomplete)
    {
        return false;
    }
    let mut since = None;
    for (at, seen) in &log.seen {
        match seen {
            // Whoever comes back gets what was missed: only what was sent before the first time is not for it.
            Seen::Joined { .. } if log.keeps => return *at <= attempt.sent,
            Seen::Joined { .. } => since = Some(*at),
            Seen::Ended => {
                let was_member = since.take().is_some_and(|since| since <= attempt.sent);
                if was_member && attempt.answered + ON_THE_WAY <= *at {
                    return true;
                }
            }
            Seen::Event { .. } | Seen::Gap => {}
        }
    }
    since.is_some_and(|since| since <= attempt.sent)
}

/// How many events a member was not given that got a later one of the same publisher before it went. Unlike what is missing at the
/// end of a stay, that is no question of time.
pub(super) fn passed_over(attempts: &[Attempt], log: &Log) -> usize {
    let (mut count, mut since) = (0, None);
    let mut came: HashMap<usize, HashSet<u32>> = HashMap::new();
    let end = (u64::MAX, Seen::Ended);
    for (at, seen) in log.seen.iter().chain([&end]) {
        match seen {
            Seen::Joined { .. } => since = since.or(Some(*at)),
            Seen::Event {
                publisher,
                sequence,
                ..
            } => drop(came.entry(*publisher).or_default().insert(*sequence)),
            Seen::Gap => {}
            Seen::Ended => {
                let stay = std::mem::take(&mut came);
                let Some(since) = since.take() else { continue };
                let is_missing = |attempt: &&Attempt| {
                    let own = stay.get(&attempt.publisher);
                    attempt.channel == log.channel
                        && matches!(attempt.fate, Fate::Accepted | Fate::Incomplete)
                        && attempt.sent >= since
                        && own.is_some_and(|own| {
                            !own.contains(&attempt.sequence)
                                && own.iter().any(|later| *later > attempt.sequence)
                        })
                };
                count += attempts.iter().filter(is_missing).count();
            }
        }
    }
    count
}

/// Judges one log; `attempts` may be of other channels too.
pub(super) fn check(attempts: &[Attempt], log: &Log) -> Counts {
    let own: Vec<&Attempt> = attempts
        .iter()
        .filter(|attempt| attempt.channel == log.channel)
        .collect();
    let fates: HashMap<Name, Fate> = own
        .iter()
        .map(|attempt| ((attempt.publisher, attempt.sequence), attempt.fate))
        .collect();
    let (mut counts, gaps) = order(log, &fates);
    let arrivals = Arrivals::of(log);
    counts.phantom = arrivals
        .0
        .keys()
        .filter(|name| matches!(fates.get(name), Some(Fate::Refused) | None))
        .count() as u64;
    for attempt in own.iter().filter(|attempt| is_expected(log, attempt)) {
        counts.expected += 1;
        if arrivals.when(attempt).is_some() {
            continue;
        }
        if attempt.fate == Fate::Incomplete || gaps.iter().any(|gap| gap.covers(attempt)) {
            counts.told += 1;
        } else {
            counts.lost += 1;
        }
    }
    counts
}

/// A moment at which the subscriber was told that something may be missing.
#[derive(Debug)]
struct Gap {
    at: u64,
    /// By publisher: the greatest number that had come before.
    before: HashMap<usize, u32>,
}

impl Gap {
    /// Whether it tells of this event: it was sent before, and nothing later of its publisher had come before, which
    /// would have shown that it was lost without a word.
    fn covers(&self, attempt: &Attempt) -> bool {
        let passed_over = self
            .before
            .get(&attempt.publisher)
            .is_some_and(|&greatest| greatest > attempt.sequence);
        attempt.sent <= self.at && !passed_over
    }
}

/// What came again or out of order, and the gaps that were told. After a told gap, what is kept may come once more.
fn order(log: &Log, fates: &HashMap<Name, Fate>) -> (Counts, Vec<Gap>) {
    let (mut counts, mut gaps) = (Counts::default(), Vec::new());
    let mut had: HashSet<Name> = HashSet::new();
    let mut greatest: HashMap<usize, u32> = HashMap::new();
    let mut highest: HashMap<usize, u32> = HashMap::new();
    let (mut last_offset, mut last_epoch) = (None, None);
    for (at, seen) in &log.seen {
        match seen {
            Seen::Event {
                publisher,
                sequence,
                offset,
            } => {
                let name = (*publisher, *sequence);
                let top = greatest.entry(*publisher).or_insert(*sequence);
                // What had no answer may be overtaken: its publisher did not wait for it.
                let has_place = fates.get(&name) != Some(&Fate::Unknown);
                let is_behind =
                    (*sequence < *top && has_place) || offset.is_some() && *offset < last_offset;
                if !had.insert(name) {
                    counts.duplicated += 1;
                } else if is_behind {
                    counts.reordered += 1;
                }
                *top = (*top).max(*sequence);
                last_offset = last_offset.max(*offset);
                let top = highest.entry(*publisher).or_insert(*sequence);
                *top = (*top).max(*sequence);
            }
            Seen::Gap | Seen::Joined { .. } => {
                let epoch = match seen {
                    Seen::Joined { epoch, .. } => Some(epoch),
                    _ => None,
                };
                // Where nothing is missing, a new epoch excuses nothing.
                let is_whole = matches!(
                    seen,
                    Seen::Joined {
                        recovered: Some(true),
                        ..
                    }
                );
                let is_new_epoch = log.keeps
                    && !is_whole
                    && epoch.is_some()
                    && last_epoch.is_some()
                    && epoch != last_epoch;
                let is_told = matches!(
                    seen,
                    Seen::Gap
                        | Seen::Joined {
                            recovered: Some(false),
                            ..
                        }
                );
                if epoch.is_some() && epoch != last_epoch {
                    // Another numbering may begin with any offset, also where nothing is missing before it.
                    last_offset = None;
                }
                last_epoch = epoch.or(last_epoch);
                if is_told || is_new_epoch {
                    gaps.push(Gap {
                        at: *at,
                        before: highest.clone(),
                    });
                    had.clear();
                    greatest.clear();
                    last_offset = None;
                }
            }
            Seen::Ended => {}
        }
    }
    (counts, gaps)
}

/// How often two subscribers saw different events at the same place of a channel.
pub(super) fn disagreements(logs: &[Log]) -> u64 {
    let mut places: HashMap<(usize, &str, u64), Name> = HashMap::new();
    let mut count = 0;
    for log in logs.iter().filter(|log| log.keeps) {
        let mut current = "";
        for (_, seen) in &log.seen {
            match seen {
                Seen::Joined { epoch, .. } => current = epoch,
                Seen::Event {
                    publisher,
                    sequence,
                    offset: Some(offset),
                } => {
                    let name = (*publisher, *sequence);
                    let first = places
                        .entry((log.channel, current, *offset))
                        .or_insert(name);
                    count += u64::from(*first != name);
                }
                _ => {}
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attempts 0, 1, 2, … of publisher 0 on channel 0: each is sent at its number times 1,000 ms.
    fn attempts(fates: &[Fate]) -> Vec<Attempt> {
        let attempt = |(at, fate): (usize, &Fate)| {
            let sent = second(at as u64);
            let (publisher, channel, sequence) = (0, 0, at as u32);
            Attempt {
                publisher,
                channel,
                sequence,
                sent,
                answered: sent + 1,
                fate: *fate,
            }
        };
        fates.iter().enumerate().map(attempt).collect()
    }

    fn accepted(count: usize) -> Vec<Attempt> {
        attempts(&vec![Fate::Accepted; count])
    }

    fn second(number: u64) -> u64 {
        number * 1_000_000_000
    }

    /// What is seen half a second behind the sending of the attempt `at`.
    fn behind(at: u64, seen: Seen) -> (u64, Seen) {
        (second(at) + 500_000_000, seen)
    }

    fn event(sequence: u32) -> Seen {
        Seen::Event {
            publisher: 0,
            sequence,
            offset: None,
        }
    }

    fn kept(sequence: u32, offset: u64) -> Seen {
        Seen::Event {
            publisher: 0,
            sequence,
            offset: Some(offset),
        }
    }

    fn joined(recovered: Option<bool>) -> Seen {
        Seen::Joined {
            node: 0,
            epoch: "a".into(),
            recovered,
        }
    }

    fn log(keeps: bool, seen: impl IntoIterator<Item = (u64, Seen)>) -> Log {
        let mut all = vec![(0, joined(None))];
        all.extend(seen);
        Log {
            channel: 0,
            keeps,
            seen: all,
        }
    }

    fn live(sequences: &[u32]) -> Log {
        log(
            false,
            sequences
                .iter()
                .enumerate()
                .map(|(at, &sequence)| behind(at as u64, event(sequence))),
        )
    }

    fn expect(attempts: &[Attempt], log: &Log, counts: Counts) {
        assert_eq!(check(attempts, log), counts);
    }

    #[test]
    fn what_comes_once_and_in_order_is_no_complaint() {
        expect(
            &accepted(3),
            &live(&[0, 1, 2]),
            Counts {
                expected: 3,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_never_comes_is_lost() {
        expect(
            &accepted(4),
            &live(&[0, 2]),
            Counts {
                expected: 4,
                lost: 2,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_is_missing_before_a_later_one_was_passed_over() {
        let all = accepted(8);
        assert_eq!(passed_over(&all, &live(&[0, 1, 2])), 0);
        assert_eq!(passed_over(&all, &live(&[0, 3])), 2);
        // 2 and 3 were sent at the end of a stay and after it, 5 within another.
        let stays = [
            behind(0, event(0)),
            behind(1, event(1)),
            behind(2, Seen::Ended),
            behind(3, joined(None)),
            behind(4, event(4)),
            behind(6, event(6)),
        ];
        assert_eq!(passed_over(&all, &log(false, stays)), 1);
    }

    #[test]
    fn what_comes_again_is_a_duplicate_and_not_out_of_order() {
        expect(
            &accepted(3),
            &live(&[0, 1, 2, 1]),
            Counts {
                expected: 3,
                duplicated: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_comes_behind_a_later_one_is_out_of_order() {
        expect(
            &accepted(3),
            &live(&[0, 2, 1]),
            Counts {
                expected: 3,
                reordered: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn publishers_have_an_order_of_their_own() {
        let mut attempts = accepted(2);
        attempts.extend(accepted(2).into_iter().map(|attempt| Attempt {
            publisher: 1,
            ..attempt
        }));
        let other = |sequence| Seen::Event {
            publisher: 1,
            sequence,
            offset: None,
        };
        let seen = [event(0), event(1), other(0), other(1)].map(|seen| behind(5, seen));
        expect(
            &attempts,
            &log(false, seen),
            Counts {
                expected: 4,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_was_refused_may_never_come() {
        let attempts = attempts(&[Fate::Accepted, Fate::Refused, Fate::Accepted]);
        expect(
            &attempts,
            &live(&[0, 2]),
            Counts {
                expected: 2,
                ..Counts::default()
            },
        );
        expect(
            &attempts,
            &live(&[0, 1, 2]),
            Counts {
                expected: 2,
                phantom: 1,
                ..Counts::default()
            },
        );
        let invented = live(&[0, 2, 7]);
        expect(
            &attempts,
            &invented,
            Counts {
                expected: 2,
                phantom: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_had_no_answer_may_come_or_not_whenever() {
        let attempts = attempts(&[Fate::Accepted, Fate::Unknown, Fate::Accepted]);
        let fine = Counts {
            expected: 2,
            ..Counts::default()
        };
        for seen in [&[0, 2][..], &[0, 1, 2], &[0, 2, 1]] {
            expect(&attempts, &live(seen), fine);
        }
        expect(
            &attempts,
            &live(&[0, 1, 2, 1]),
            Counts {
                duplicated: 1,
                ..fine
            },
        );
    }

    #[test]
    fn nodes_that_were_named_as_missing_are_told() {
        let attempts = attempts(&[Fate::Accepted, Fate::Incomplete, Fate::Accepted]);
        expect(
            &attempts,
            &live(&[0, 2]),
            Counts {
                expected: 3,
                told: 1,
                ..Counts::default()
            },
        );
        expect(
            &attempts,
            &live(&[0, 1, 2]),
            Counts {
                expected: 3,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn who_was_away_misses_only_what_is_not_kept() {
        let away = [
            behind(0, event(0)),
            behind(1, Seen::Ended),
            behind(3, joined(None)),
            behind(4, event(4)),
        ];
        // 1 was sent before the end and answered long before it, 2 and 3 while it was away.
        expect(
            &accepted(5),
            &log(false, away),
            Counts {
                expected: 3,
                lost: 1,
                ..Counts::default()
            },
        );
        let kept_away = [
            behind(0, kept(0, 1)),
            behind(1, Seen::Ended),
            behind(3, joined(Some(true))),
            behind(3, kept(1, 2)),
            behind(3, kept(2, 3)),
            behind(4, kept(4, 5)),
        ];
        expect(
            &accepted(5),
            &log(true, kept_away),
            Counts {
                expected: 5,
                lost: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn what_was_sent_before_the_first_join_is_not_expected() {
        let late = Log {
            channel: 0,
            keeps: true,
            seen: vec![behind(1, joined(None)), behind(2, kept(2, 3))],
        };
        expect(
            &accepted(3),
            &late,
            Counts {
                expected: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn a_gap_that_was_told_covers_what_was_sent_before_it_and_not_passed_over() {
        let seen = [
            behind(0, kept(0, 1)),
            behind(2, kept(2, 3)),
            behind(4, joined(Some(false))),
            behind(6, kept(6, 2)),
        ];
        // 1 was passed over without a word, 3 and 4 are told, 5 came to nobody behind the gap.
        let counts = Counts {
            expected: 7,
            lost: 2,
            told: 2,
            ..Counts::default()
        };
        expect(&accepted(7), &log(true, seen), counts);
    }

    #[test]
    fn behind_a_told_gap_what_is_kept_may_come_again() {
        let again = |gap| {
            [
                behind(0, kept(0, 1)),
                behind(1, kept(1, 2)),
                behind(1, gap),
                behind(1, kept(0, 1)),
                behind(1, kept(1, 2)),
            ]
        };
        let fine = Counts {
            expected: 2,
            ..Counts::default()
        };
        expect(&accepted(2), &log(true, again(Seen::Gap)), fine);
        expect(
            &accepted(2),
            &log(true, again(joined(Some(true)))),
            Counts {
                duplicated: 2,
                ..fine
            },
        );
    }

    #[test]
    fn a_new_epoch_is_a_told_gap() {
        let new = Seen::Joined {
            node: 0,
            epoch: "b".into(),
            recovered: None,
        };
        let seen = [behind(0, kept(0, 9)), behind(2, new), behind(3, kept(3, 1))];
        expect(
            &accepted(4),
            &log(true, seen),
            Counts {
                expected: 4,
                told: 2,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn a_new_epoch_of_which_nothing_is_missing_is_no_gap() {
        let new = Seen::Joined {
            node: 0,
            epoch: "b".into(),
            recovered: Some(true),
        };
        let seen = [behind(0, kept(0, 1)), behind(2, new), behind(3, kept(3, 2))];
        expect(
            &accepted(4),
            &log(true, seen),
            Counts {
                expected: 4,
                lost: 2,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn offsets_rise() {
        let mut attempts = accepted(2);
        attempts.extend(accepted(1).into_iter().map(|attempt| Attempt {
            publisher: 1,
            ..attempt
        }));
        let other = Seen::Event {
            publisher: 1,
            sequence: 0,
            offset: Some(1),
        };
        let seen = [
            behind(0, kept(0, 2)),
            behind(1, other),
            behind(1, kept(1, 3)),
        ];
        expect(
            &attempts,
            &log(true, seen),
            Counts {
                expected: 3,
                reordered: 1,
                ..Counts::default()
            },
        );
    }

    #[test]
    fn a_new_numbering_may_begin_with_a_smaller_offset() {
        let new = Seen::Joined {
            node: 0,
            epoch: "b".into(),
            recovered: Some(true),
        };
        let counts = |sequences: [u32; 2]| {
            let [first, second] = sequences;
            let (before, after) = (kept(first, 9), kept(second, 1));
            let seen = [behind(1, before), behind(1, new.clone()), behind(1, after)];
            check(&accepted(2), &log(true, seen))
        };
        assert_eq!(counts([0, 1]).reordered, 0);
        assert_eq!(counts([1, 0]).reordered, 1, "nothing is missing before it");
    }

    #[test]
    fn subscribers_agree_on_what_stands_where() {
        let one = log(true, [behind(0, kept(0, 1)), behind(1, kept(1, 2))]);
        let other = log(true, [behind(0, kept(1, 1)), behind(1, kept(0, 2))]);
        assert_eq!(disagreements(&[one.clone(), one.clone()]), 0);
        assert_eq!(disagreements(&[one.clone(), other.clone()]), 2);
        let elsewhere = Log {
            channel: 1,
            ..other
        };
        assert_eq!(disagreements(&[one, elsewhere]), 0);
    }

    #[test]
    fn what_is_of_another_channel_is_nothing_to_it() {
        let attempts = accepted(2).into_iter().map(|attempt| Attempt {
            channel: 1,
            ..attempt
        });
        expect(&attempts.collect::<Vec<_>>(), &live(&[]), Counts::default());
    }
}
