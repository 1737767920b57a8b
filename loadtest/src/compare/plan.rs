//! What is measured when.

use super::{
    args::Extent,
    contender::Contender,
    phases::{Pacemaker, Phase, phases},
    setup::Skipped,
};
use crate::error::{Result, failed};

/// One measurement to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// From 1 on.
    pub(super) round: usize,
    pub(super) phase: Phase,
    pub(super) server: Contender,
}

/// A phase with those that take part in it.
#[derive(Debug)]
struct Part {
    phase: Phase,
    servers: Vec<Contender>,
}

/// All measurements in their order, and what is left out for want of servers: every round has every phase that is
/// called for by `only`, and within a phase one server follows directly on another.
pub(super) fn plan(
    extent: Extent,
    present: &[Contender],
    only: &[String],
) -> Result<(Vec<Step>, Vec<Skipped>)> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !phases().any(|phase| phase.is_called(name)))
    {
        let mut families: Vec<_> = phases().map(|phase| phase.family.name).collect();
        families.dedup();
        return failed(format!(
            "there is no phase {unknown}; the families are {}",
            families.join(", ")
        ));
    }
    let (parts, skipped) = parts(present, only);
    let mut steps = Vec::new();
    for round in 1..=extent.rounds {
        for part in &parts {
            let phase = part.phase;
            let (core, others) = phase.family.rounds;
            let most = |server: &Contender| {
                if server.is_core() {
                    core
                } else {
                    extent.other_rounds.min(others)
                }
            };
            let servers: Vec<_> = part
                .servers
                .iter()
                .copied()
                .filter(|server| round <= most(server))
                .collect();
            steps.extend(in_turn(&servers, round).into_iter().map(|server| Step {
                round,
                phase,
                server,
            }));
        }
    }
    Ok((steps, skipped))
}

/// Whether a server takes part in a phase that is called for by `only`, or sets the rate of one.
pub(super) fn is_wanted(server: Contender, only: &[String]) -> bool {
    let is_called =
        |phase: &Phase| only.is_empty() || only.iter().any(|name| phase.is_called(name));
    phases().filter(is_called).any(|phase| {
        let paces = |(_, by): (Phase, &Pacemaker)| by.server == server;
        phase.case.servers.contains(&server) || phase.pacemaker().is_some_and(paces)
    })
}

fn parts(present: &[Contender], only: &[String]) -> (Vec<Part>, Vec<Skipped>) {
    let is_called =
        |phase: &Phase| only.is_empty() || only.iter().any(|name| phase.is_called(name));
    let (mut parts, mut skipped) = (Vec::new(), Vec::new());
    for phase in phases() {
        let mut servers = phase.case.servers.to_vec();
        servers.retain(|server| present.contains(server));
        if is_called(&phase) {
            match why_not(&phase, &servers, present) {
                Some(why) => skipped.push(Skipped {
                    what: phase.name(),
                    why,
                }),
                None => parts.push(Part { phase, servers }),
            }
            continue;
        }
        // What sets the rate of a phase that is called for is measured for that alone.
        servers.retain(|server| {
            let mut pacemakers = phases()
                .filter(is_called)
                .filter_map(|called| called.pacemaker());
            pacemakers.any(|(leader, by)| leader.name() == phase.name() && by.server == *server)
        });
        if !servers.is_empty() {
            parts.push(Part { phase, servers });
        }
    }
    (parts, skipped)
}

/// Why a phase cannot be measured, if it cannot.
fn why_not(phase: &Phase, servers: &[Contender], present: &[Contender]) -> Option<String> {
    if let Some(pacemaker) = &phase.family.paced_as
        && !present.contains(&pacemaker.server)
    {
        return Some(format!(
            "its rate is that of {}, which takes no part",
            pacemaker.server.title()
        ));
    }
    let names: Vec<_> = phase
        .case
        .servers
        .iter()
        .map(|server| server.title())
        .collect();
    servers
        .is_empty()
        .then(|| format!("it is for {}, which takes no part", names.join(", ")))
}

/// `servers` in the order of this round. Another one is first from round to round, and once each was, they go backwards
/// for as many rounds: in the end each has followed on each of the others as often.
fn in_turn(servers: &[Contender], round: usize) -> Vec<Contender> {
    let (mut servers, all) = (servers.to_vec(), servers.len().max(1));
    servers.rotate_left((round - 1) % all);
    if !((round - 1) / all).is_multiple_of(2) {
        servers.reverse();
    }
    servers
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::{
        super::contender::{ALL, CORE, PAIR},
        *,
    };

    const EXTENT: Extent = Extent {
        rounds: 10,
        other_rounds: 3,
        duration: Duration::from_secs(2),
        divisor: 1,
    };

    fn steps(present: &[Contender], only: &[&str]) -> Vec<Step> {
        let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
        plan(EXTENT, present, &only).unwrap().0
    }

    #[test]
    fn six_rounds_of_three_have_every_order() {
        let orders: BTreeSet<_> = (1..=6).map(|round| in_turn(&CORE[..3], round)).collect();
        assert_eq!(orders.len(), 6);
        let first = (1..=10).filter(|&round| in_turn(&PAIR[..2], round)[0] == Contender::Fanfare);
        assert_eq!(
            first.count(),
            5,
            "and both orders of two come equally often"
        );
    }

    #[test]
    fn every_round_has_every_phase_and_the_others_are_there_at_first() {
        let steps = steps(ALL, &[]);
        let count = |phase: &str, server: Contender| {
            let of = |step: &&Step| step.phase.name() == phase && step.server == server;
            steps
                .iter()
                .filter(of)
                .map(|step| step.round)
                .collect::<BTreeSet<_>>()
                .len()
        };
        assert_eq!(
            (
                count("flood/5000", Contender::Fanfare),
                count("flood/5000", Contender::Ws)
            ),
            (10, 3)
        );
        assert_eq!(
            (
                count("idle/15000", Contender::Floor),
                count("idle/15000", Contender::Ws)
            ),
            (3, 1)
        );
        assert_eq!(
            (
                count("carried/1000", Contender::Floor),
                count("mixed/15000", Contender::Fanfare)
            ),
            (0, 10)
        );
        assert!(steps.windows(2).all(|pair| pair[0].round <= pair[1].round));
    }

    #[test]
    fn a_rate_is_found_out_even_where_only_its_user_is_called_for() {
        let steps = steps(ALL, &["carried/5000"]);
        let first: Vec<_> = steps
            .iter()
            .take(3)
            .map(|step| (step.phase.name(), step.server))
            .collect();
        let named = |phase: &str, server| (phase.to_owned(), server);
        assert_eq!(first[0], named("flood/5000", Contender::UWebSockets));
        assert_eq!(first[1], named("carried/5000", Contender::Fanfare));
        assert_eq!(first[2], named("carried/5000", Contender::UWebSockets));
    }

    #[test]
    fn servers_are_wanted_where_a_phase_has_them() {
        let wanted = |server, only: &[&str]| {
            let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
            is_wanted(server, &only)
        };
        assert!(ALL.iter().all(|&server| wanted(server, &[])));
        assert!(wanted(Contender::UWebSockets, &["carried"]));
        assert!(wanted(Contender::FanfareMesa, &["protocols/1000"]));
        assert!(!wanted(Contender::FanfareMesa, &["flood", "idle"]));
        assert!(!wanted(Contender::UWebSockets, &["protocols"]));
    }

    #[test]
    fn what_cannot_be_measured_is_named() {
        let (steps, skipped) = plan(EXTENT, &[Contender::Fanfare], &[]).unwrap();
        assert!(steps.iter().all(|step| step.server == Contender::Fanfare));
        assert!(
            skipped.iter().any(|skipped| skipped.what == "carried/1000"),
            "{skipped:?}"
        );
        let (steps, skipped) = plan(EXTENT, &[Contender::Ws], &["mixed".into()]).unwrap();
        assert!(steps.is_empty());
        assert_eq!(
            skipped[0].why,
            "it is for Fanfare, Fanfare before, which takes no part"
        );
        assert!(
            plan(EXTENT, ALL, &["flod".into()])
                .unwrap_err()
                .to_string()
                .contains("flood-1k")
        );
    }
}
