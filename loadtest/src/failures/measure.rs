//! Figures of single failures that only all the evidence together gives.

use std::fmt::Write as _;

use super::{
    Evidence,
    checker::{Arrivals, check, is_expected, passed_over},
    failure::Failure,
    figure::Figure,
    plan::channel,
    record::{Attempt, Fate, Seen},
};

/// Milliseconds within which 99 of 100 events of other channels must come while thousands join one.
const ELSEWHERE: f64 = 50.0;

/// All figures that `failure` alone has.
pub(super) fn figures(failure: Failure, evidence: &Evidence) -> Vec<Figure> {
    let mut figures = evidence.happened.figures.clone();
    match failure {
        Failure::ClusterPartAway => figures.extend(elsewhere(evidence)),
        Failure::JoinStorm => figures.extend(latency(evidence)),
        Failure::RollingDeploy | Failure::RuleRollout => figures.extend(returns(evidence)),
        _ => {}
    }
    figures
}

/// Every event that did not come to a subscriber, and all that came to one which got something twice or out of order: what one looks
/// at first where a verdict is bad; and whom subscribers had wrong.
pub(super) fn evidence_of_losses(evidence: &Evidence) -> String {
    let mut text = evidence.mistakes.clone();
    let since = |moment: u64| (moment as f64 - evidence.happened.from as f64) / 1e9;
    for log in &evidence.logs {
        let before = text.len();
        let arrivals = Arrivals::of(log);
        let expected = evidence
            .attempts
            .iter()
            .filter(|attempt| is_expected(log, attempt));
        for attempt in expected.filter(|attempt| arrivals.when(attempt).is_none()) {
            let Attempt {
                publisher,
                sequence,
                sent,
                answered,
                fate,
                ..
            } = attempt;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{} {sequence} of publisher {publisher}, sent at {:.3} s, answered at {:.3} s ({fate:?}), to a member on {:?}",
                channel(log.channel),
                since(*sent),
                since(*answered),
                log.node_at(*sent),
            );
        }
        // What was repeated or out of order is seen among all that came; what is missing, by where the subscriber was.
        let counts = check(&evidence.attempts, log);
        let is_whole = counts.duplicated + counts.reordered > 0;
        let is_shown =
            |seen: &Seen| is_whole || text.len() > before && !matches!(seen, Seen::Event { .. });
        let shown: Vec<_> = log.seen.iter().filter(|(_, seen)| is_shown(seen)).collect();
        for (at, seen) in shown {
            let _ = writeln!(
                text,
                "  {} {:.3} s {seen:?}",
                channel(log.channel),
                since(*at)
            );
        }
    }
    text
}

/// What was sent while it happened, on channels that it has nothing to do with.
fn meanwhile(evidence: &Evidence) -> Vec<Attempt> {
    let Evidence {
        attempts, happened, ..
    } = evidence;
    let is_meant = |attempt: &&Attempt| {
        let is_elsewhere =
            happened.elsewhere.is_empty() || happened.elsewhere.contains(&attempt.channel);
        is_elsewhere && (happened.from..happened.back).contains(&attempt.sent)
    };
    attempts.iter().filter(is_meant).copied().collect()
}

/// That channels go on of which a failure has nothing.
fn elsewhere(evidence: &Evidence) -> [Figure; 3] {
    let attempts = meanwhile(evidence);
    let taken = attempts
        .iter()
        .filter(|attempt| attempt.fate == Fate::Accepted)
        .count();
    let logs = evidence.logs.iter();
    let lost: u64 = logs
        .map(|log| check(&attempts, log))
        .map(|counts| counts.lost + counts.told)
        .sum();
    [
        Figure::at_least("taken elsewhere", taken, 1),
        Figure::at_most("refused elsewhere", attempts.len() - taken, 0),
        Figure::at_most("lost elsewhere", lost as usize, 0),
    ]
}

/// How long events of other channels took.
fn latency(evidence: &Evidence) -> Vec<Figure> {
    let attempts = meanwhile(evidence);
    let mut times = Vec::new();
    for log in &evidence.logs {
        let arrivals = Arrivals::of(log);
        let expected = attempts.iter().filter(|attempt| is_expected(log, attempt));
        times.extend(expected.filter_map(|attempt| {
            let at = arrivals.when(attempt)?;
            Some(at.saturating_sub(attempt.sent))
        }));
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0);
    vec![
        Figure::at_least("events elsewhere", times.len(), 1),
        Figure::within("p99 elsewhere", p99 as f64 / 1e6, "ms", ELSEWHERE),
    ]
}

/// That clients which are sent away go on elsewhere, and nobody else notices.
fn returns(evidence: &Evidence) -> [Figure; 6] {
    let returns = evidence.returns;
    let live = evidence.logs.iter().filter(|log| !log.keeps);
    let passed_over = live.map(|log| passed_over(&evidence.attempts, log)).sum();
    let incomplete = evidence
        .attempts
        .iter()
        .filter(|attempt| attempt.fate == Fate::Incomplete)
        .count();
    [
        Figure::at_least("sent away", returns.sent_away, 1),
        Figure::at_least("resumed", returns.resumed, returns.asked.max(1)),
        Figure::at_most("live passed over", passed_over, 0),
        Figure::at_most("incomplete", incomplete, 0),
        // Nobody leaves for good.
        Figure::at_most("said to have left", evidence.leaves.0, 0),
        Figure::at_most("back without a profile", returns.without_profile, 0),
    ]
}
