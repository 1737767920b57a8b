//! When delivery worked, by the evidence of publishers and subscribers, and whether readiness said so at that moment.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    checker::{Arrivals, is_expected},
    record::{Attempt, Fate, Log},
};

/// How long an event may take before delivery counts as not working at that moment.
pub(super) const LATE: u64 = 1_000_000_000;

/// Time is looked at in pieces of this length.
pub(super) const PIECE: u64 = 100_000_000;

/// What `/readyz` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Ready,
    /// Ready, but for a part of Redis that is out of reach.
    Partly,
    NotReady,
    /// No answer, which keeps traffic away just as well.
    Nothing,
}

/// What one node said, in order.
pub(super) type Sayings = Vec<(u64, Said)>;

/// How well readiness and delivery agreed.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Truth {
    /// Seconds in which something that was taken was lost or late, and every node that may be the cause said that it
    /// was ready.
    pub(super) ready_while_deaf: f64,
    /// Seconds in which a node said without reserve that it was ready and did not take what it was asked to publish.
    pub(super) ready_while_refusing: f64,
    /// Seconds in which a node said that it was not ready, and all that it had to do with was delivered; of the node
    /// with the most.
    pub(super) unready_while_working: f64,
}

/// An attempt, and which nodes may be to blame for it; nobody where all was well.
#[derive(Debug)]
struct Judged {
    sent: u64,
    /// The nodes that it had to do with.
    involved: BTreeSet<usize>,
    blamed: BTreeSet<usize>,
    /// Its publisher was told that it was not taken, or was told nothing.
    is_refused: bool,
    /// When it had come to everyone; of what was well.
    done: u64,
    publisher: usize,
    channel: usize,
}

/// Every attempt, judged.
#[derive(Debug)]
pub(super) struct Judgement(Vec<Judged>);

impl Judgement {
    /// Judges the attempts of nodes that were alive; `logs` are those of all subscribers and channels.
    pub(super) fn new(attempts: &[Attempt], logs: &[Log]) -> Self {
        let mut by_channel: BTreeMap<usize, Vec<(&Log, Arrivals)>> = BTreeMap::new();
        for log in logs {
            by_channel
                .entry(log.channel)
                .or_default()
                .push((log, Arrivals::of(log)));
        }
        let none = Vec::new();
        let judge = |attempt| judge(attempt, by_channel.get(&attempt.channel).unwrap_or(&none));
        Self(attempts.iter().map(judge).collect())
    }

    /// Seconds from `healed` until every event of every publisher was taken and reached everyone in time, for good;
    /// `None` if that never came. `publishers` are those who still publish.
    pub(super) fn recovery(&self, healed: u64, publishers: &BTreeSet<usize>) -> Option<f64> {
        let after = || {
            self.0
                .iter()
                .filter(|one| one.sent >= healed && publishers.contains(&one.publisher))
        };
        let pairs: BTreeSet<(usize, usize)> =
            after().map(|one| (one.publisher, one.channel)).collect();
        if publishers
            .iter()
            .any(|publisher| !pairs.iter().any(|(other, _)| other == publisher))
        {
            return None;
        }
        let mut works_at = healed;
        for pair in pairs {
            let own: Vec<&Judged> = after()
                .filter(|one| (one.publisher, one.channel) == pair)
                .collect();
            let good_from = own
                .iter()
                .rposition(|one| !one.blamed.is_empty())
                .map_or(0, |last| last + 1);
            works_at = works_at.max(own.get(good_from)?.done);
        }
        Some((works_at - healed) as f64 / 1e9)
    }

    /// Holds what the nodes said against what was delivered.
    pub(super) fn truth(&self, nodes: &[Sayings]) -> Truth {
        let said = |node: usize, moment: u64| {
            let before = nodes[node].partition_point(|(at, _)| *at <= moment);
            nodes[node]
                .get(before.checked_sub(1)?)
                .map(|(_, said)| *said)
        };
        let (mut deaf, mut refusing) = (BTreeSet::new(), BTreeSet::new());
        for one in self.0.iter().filter(|one| !one.blamed.is_empty()) {
            // What is said at the end of the piece counts: a failure begins before anybody can know.
            let piece = one.sent / PIECE;
            let moment = (piece + 1) * PIECE;
            let says = |is_untrue: fn(Said) -> bool| {
                let mut blamed = one.blamed.iter();
                blamed.all(|&node| said(node, moment).is_some_and(is_untrue))
            };
            if one.is_refused && says(|said| said == Said::Ready) {
                refusing.insert(piece);
            } else if !one.is_refused && says(|said| matches!(said, Said::Ready | Said::Partly)) {
                deaf.insert(piece);
            }
        }
        let alarms = (0..nodes.len())
            .map(|node| self.false_alarms(node, &nodes[node]))
            .max()
            .unwrap_or(0);
        let seconds = |pieces: usize| pieces as f64 * PIECE as f64 / 1e9;
        Truth {
            ready_while_deaf: seconds(deaf.len()),
            ready_while_refusing: seconds(refusing.len()),
            unready_while_working: seconds(alarms),
        }
    }

    /// Pieces of time in which `node` said that it was not ready, while everything around worked.
    fn false_alarms(&self, node: usize, sayings: &Sayings) -> usize {
        let mut works: BTreeMap<u64, bool> = BTreeMap::new();
        for one in self.0.iter().filter(|one| one.involved.contains(&node)) {
            *works.entry(one.sent / PIECE).or_insert(true) &= one.blamed.is_empty();
        }
        let around = |piece: u64| {
            let mut near = works
                .range(piece.saturating_sub(5)..=piece + 5)
                .map(|(_, works)| *works)
                .peekable();
            near.peek().is_some() && near.all(|works| works)
        };
        let unready = sayings
            .iter()
            .filter(|(_, said)| *said == Said::NotReady)
            .map(|(at, _)| at / PIECE);
        unready
            .collect::<BTreeSet<u64>>()
            .into_iter()
            .filter(|&piece| around(piece))
            .count()
    }
}

fn judge(attempt: &Attempt, logs: &[(&Log, Arrivals)]) -> Judged {
    let origin = attempt.publisher;
    let (mut involved, mut blamed) = (BTreeSet::from([origin]), BTreeSet::new());
    let mut done = attempt.answered;
    if attempt.fate == Fate::Accepted {
        let mut others = BTreeSet::new();
        for (log, arrivals) in logs.iter().filter(|(log, _)| is_expected(log, attempt)) {
            // Who was away gets it late, and by nobody's fault.
            let Some(node) = log.node_at(attempt.sent) else {
                continue;
            };
            involved.insert(node);
            others.insert(node);
            match arrivals.when(attempt) {
                Some(at) if at <= attempt.sent + LATE => done = done.max(at),
                _ => drop(blamed.insert(node)),
            }
        }
        others.remove(&origin);
        // Where it came to nobody else, its own node may just as well be the one that fails.
        if !blamed.is_empty() && others.iter().all(|node| blamed.contains(node)) {
            blamed.insert(origin);
        }
    } else {
        blamed.insert(origin);
    }
    let (publisher, channel) = (attempt.publisher, attempt.channel);
    let is_refused = attempt.fate != Fate::Accepted;
    Judged {
        sent: attempt.sent,
        involved,
        blamed,
        is_refused,
        done,
        publisher,
        channel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::record::Seen;

    const MS: u64 = 1_000_000;

    fn attempt(publisher: usize, sequence: u32, at: u64, fate: Fate) -> Attempt {
        let sent = at * MS;
        Attempt {
            publisher,
            channel: 0,
            sequence,
            sent,
            answered: sent + MS,
            fate,
        }
    }

    /// A member on `node` that gets these numbers of publisher 0 at these milliseconds.
    fn log(node: usize, came: &[(u32, u64)]) -> Log {
        let mut seen = vec![(
            0,
            Seen::Joined {
                node,
                epoch: String::new(),
                recovered: None,
            },
        )];
        let event = |&(sequence, at): &(u32, u64)| {
            (
                at * MS,
                Seen::Event {
                    publisher: 0,
                    sequence,
                    offset: None,
                },
            )
        };
        seen.extend(came.iter().map(event));
        Log {
            channel: 0,
            keeps: false,
            seen,
        }
    }

    /// Ten attempts of publisher 0, one each 100 ms from 100 ms on.
    fn ten() -> Vec<Attempt> {
        (0..10)
            .map(|n| attempt(0, n, 100 + u64::from(n) * 100, Fate::Accepted))
            .collect()
    }

    fn all_but(missing: &[u32]) -> Vec<(u32, u64)> {
        (0..10)
            .filter(|n| !missing.contains(n))
            .map(|n| (n, 105 + u64::from(n) * 100))
            .collect()
    }

    fn says(said: impl Fn(u64) -> Said) -> Sayings {
        (0..12).map(|n| (n * PIECE, said(n))).collect()
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn where_all_works_and_all_are_ready_nobody_lies() {
        let logs = [log(0, &all_but(&[])), log(1, &all_but(&[]))];
        let truth =
            Judgement::new(&ten(), &logs).truth(&[says(|_| Said::Ready), says(|_| Said::Ready)]);
        assert!(
            near(truth.ready_while_deaf, 0.0) && near(truth.unready_while_working, 0.0),
            "{truth:?}"
        );
    }

    #[test]
    fn a_node_that_misses_events_must_not_say_that_it_is_ready() {
        let logs = [
            log(0, &all_but(&[])),
            log(1, &all_but(&[3, 4])),
            log(2, &all_but(&[])),
        ];
        let judgement = Judgement::new(&ten(), &logs);
        let ready = || says(|_| Said::Ready);
        assert!(near(
            judgement
                .truth(&[ready(), ready(), ready()])
                .ready_while_deaf,
            0.2
        ));
        let honest = says(|n| {
            if (4..=6).contains(&n) {
                Said::NotReady
            } else {
                Said::Ready
            }
        });
        assert!(near(
            judgement
                .truth(&[ready(), honest, ready()])
                .ready_while_deaf,
            0.0
        ));
        let wrong_one = says(|_| Said::NotReady);
        assert!(near(
            judgement
                .truth(&[wrong_one, ready(), ready()])
                .ready_while_deaf,
            0.2
        ));
    }

    #[test]
    fn what_reaches_nobody_else_may_be_the_fault_of_either_side() {
        let logs = [
            log(0, &all_but(&[])),
            log(1, &all_but(&[3])),
            log(2, &all_but(&[3])),
        ];
        let judgement = Judgement::new(&ten(), &logs);
        for silent in 0..3 {
            let node = |at| {
                if at == silent {
                    says(|_| Said::Nothing)
                } else {
                    says(|_| Said::Ready)
                }
            };
            let truth = judgement.truth(&[node(0), node(1), node(2)]);
            assert!(
                near(truth.ready_while_deaf, 0.0),
                "node {silent} said so: {truth:?}"
            );
        }
    }

    #[test]
    fn what_is_late_or_refused_is_broken() {
        let mut attempts = ten();
        attempts[2].fate = Fate::Refused;
        let mut late = all_but(&[2, 5]);
        late.push((5, 600 + 1001));
        let logs = [log(0, &all_but(&[2])), log(1, &late)];
        let truth =
            Judgement::new(&attempts, &logs).truth(&[says(|_| Said::Ready), says(|_| Said::Ready)]);
        assert!(
            near(truth.ready_while_deaf, 0.1) && near(truth.ready_while_refusing, 0.1),
            "{truth:?}"
        );
    }

    #[test]
    fn who_names_a_part_that_is_away_may_refuse_and_may_not_be_deaf() {
        let mut attempts = ten();
        attempts[2].fate = Fate::Refused;
        let logs = [log(0, &all_but(&[2])), log(1, &all_but(&[2, 5]))];
        let partly = || says(|_| Said::Partly);
        let truth = Judgement::new(&attempts, &logs).truth(&[partly(), partly()]);
        assert!(
            near(truth.ready_while_deaf, 0.1) && near(truth.ready_while_refusing, 0.0),
            "{truth:?}"
        );
    }

    #[test]
    fn who_is_not_ready_for_nothing_is_told() {
        let logs = [log(0, &all_but(&[])), log(1, &all_but(&[]))];
        let judgement = Judgement::new(&ten(), &logs);
        let anxious = says(|n| {
            if (3..=4).contains(&n) {
                Said::NotReady
            } else {
                Said::Ready
            }
        });
        let truth = judgement.truth(&[says(|_| Said::Ready), anxious]);
        assert!(near(truth.unready_while_working, 0.2), "{truth:?}");
        let broken = [log(0, &all_but(&[])), log(1, &all_but(&[4]))];
        let anxious = says(|n| {
            if (3..=4).contains(&n) {
                Said::NotReady
            } else {
                Said::Ready
            }
        });
        let truth = Judgement::new(&ten(), &broken).truth(&[says(|_| Said::Ready), anxious]);
        assert!(near(truth.unready_while_working, 0.0), "{truth:?}");
    }

    #[test]
    fn delivery_works_again_once_nothing_is_missing_any_more() {
        let everyone = BTreeSet::from([0]);
        let logs = [log(0, &all_but(&[])), log(1, &all_but(&[3, 5]))];
        let judgement = Judgement::new(&ten(), &logs);
        // The last that is missing is number 5; number 6 came at 705 ms.
        let recovery = judgement.recovery(200 * MS, &everyone);
        assert!(
            recovery.is_some_and(|seconds| near(seconds, 0.505)),
            "{recovery:?}"
        );
        let calm = judgement.recovery(650 * MS, &everyone);
        assert!(calm.is_some_and(|seconds| near(seconds, 0.055)), "{calm:?}");
        let deaf = Judgement::new(&ten(), &[log(0, &all_but(&[])), log(1, &all_but(&[9]))]);
        assert_eq!(deaf.recovery(200 * MS, &everyone), None);
        assert_eq!(
            judgement.recovery(200 * MS, &BTreeSet::from([0, 1])),
            None,
            "one never published"
        );
    }

    #[test]
    fn every_channel_of_every_publisher_must_work() {
        let mut attempts = ten();
        let never = |attempt: Attempt| Attempt {
            channel: 1,
            fate: Fate::Refused,
            ..attempt
        };
        attempts.extend(ten().into_iter().map(never));
        let judgement = Judgement::new(&attempts, &[log(1, &all_but(&[]))]);
        assert_eq!(judgement.recovery(0, &BTreeSet::from([0])), None);
    }
}
