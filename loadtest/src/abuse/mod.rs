//! Attacks on a server, one after another, with a witness that looks on.
//!
//! Each attack is run twice by a process of its own: against another Fanfare process of the same machine, which is the control,
//! and against the server that the witness watches. What the witness waits for in the second case and not in the first is the
//! server's fault and not the machine's.

mod args;
mod arms;
mod attack;
mod attacks;
mod earlier;
mod memory;
mod outcome;
mod page;
mod recovery;
mod strike;
pub(crate) mod victim;
mod waits;
mod witness;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

pub(crate) use self::{
    args::{Abuse, Attack as AttackArgs},
    arms::reset,
};
use self::{
    arms::Arms,
    attack::Attack,
    memory::Sampler,
    outcome::{Memory, Outcome},
    page::{Table, markdown},
    strike::Strike,
    victim::{DRAIN, Setup, Victim},
    waits::Seen,
    witness::{Lane, Wait, Witness},
};
use crate::{
    clock,
    error::{Doing, Error, Result, failed},
    report::{Machine, command_line},
};

/// How long the witness looks on before and after an attack.
const CALM: Duration = Duration::from_secs(1);

/// How long each attack of the small form lasts.
const SMALL: Duration = Duration::from_millis(500);

/// Memory that was taken counts as given back when no more than this is left of it, in bytes.
const BACK: u64 = attack::MIB;

/// What was found, for programs.
#[derive(serde::Serialize)]
struct Matrix<'m> {
    command: Vec<String>,
    machine: Machine,
    outcomes: &'m [Outcome],
}

/// Carries out one attack after another; true if all are green.
pub(crate) fn abuse(args: &Abuse) -> Result<bool> {
    let chosen = chosen(&args.only)?;
    if args.list {
        for attack in &chosen {
            println!(
                "{}: {}. Against: {}.",
                attack.name, attack.does, attack.against
            );
        }
        return Ok(true);
    }
    if let Some(folder) = &args.logs {
        fs::create_dir_all(folder).doing(format!("cannot make {}", folder.display()))?;
    }

    let machine = Machine::here();
    let mut earlier = match &args.again {
        Some(path) => earlier::green(path)?,
        None => BTreeMap::new(),
    };
    let mut outcomes = Vec::new();
    for (at, attack) in chosen.iter().enumerate() {
        if let Some(outcome) = earlier.remove(attack.name) {
            outcomes.push(outcome);
            continue;
        }
        eprintln!(
            "{} of {}: {}: {}",
            at + 1,
            chosen.len(),
            attack.name,
            attack.does
        );
        // One that cannot be carried out says nothing of the others.
        let outcome = run(args, attack);
        let outcome =
            outcome.unwrap_or_else(|error| Outcome::impossible(attack, error.to_string()));
        if !outcome.is_green() {
            eprintln!("  red: {}", outcome.wrong.join("; "));
        }
        outcomes.push(outcome);
    }
    report(args, machine, &outcomes)?;
    Ok(outcomes.iter().all(Outcome::is_green))
}

/// The attacks of these names; all where none is named.
fn chosen(names: &[String]) -> Result<Vec<Attack>> {
    if names.is_empty() {
        return Ok(attack::all());
    }
    names
        .iter()
        .map(|name| {
            attack::named(name).ok_or_else(|| {
                Error::Failed(format!("there is no attack \"{name}\"; --list names them"))
            })
        })
        .collect()
}

fn report(args: &Abuse, machine: Machine, outcomes: &[Outcome]) -> Result<()> {
    if let Some(path) = &args.markdown {
        let seconds = [args.duration.as_secs(), args.settle.as_secs()];
        let page = markdown(outcomes, &machine, seconds);
        fs::write(path, page).doing(format!("cannot write {}", path.display()))?;
    }
    if !args.json {
        print!("{}", Table(outcomes));
        return Ok(());
    }
    let matrix = Matrix {
        command: command_line(),
        machine,
        outcomes,
    };
    let json = serde_json::to_string_pretty(&matrix).map_err(std::io::Error::from);
    println!("{}", json.doing("cannot write JSON")?);
    Ok(())
}

/// The attacking process: carries out one attack, and says what it did.
pub(crate) fn attack(args: &AttackArgs) -> Result<bool> {
    let Some(attack) = attack::named(&args.name) else {
        return failed(format!("there is no attack \"{}\"", args.name));
    };
    arms::give_way()?;
    let arms = Arms::new(args);
    (attack.body)(&arms)?;
    let deeds = serde_json::to_string(&arms.into_deeds()).map_err(std::io::Error::from);
    println!("{}", deeds.doing("cannot write JSON")?);
    Ok(true)
}

/// Moments between which an attack went on.
type Stretch = (u64, u64);

fn run(args: &Abuse, attack: &Attack) -> Result<Outcome> {
    let log: Option<PathBuf> = args
        .logs
        .as_ref()
        .map(|folder| folder.join(format!("{}.log", attack.name)));
    let setup = Setup {
        program: &args.server_binary,
        limits: attack.limits,
        descriptors: attack.descriptors,
        is_log_unread: attack.is_log_unread,
        log: log.as_deref(),
    };
    let mut victim = Victim::start(setup)?;
    let another = Victim::start(setup)?;
    let witness = Witness::start(victim.address)?;
    let mut outcome = Outcome::new(attack);

    let (control, _) = carry_out(args, attack, &another)?;
    drop(another);
    thread::sleep(CALM);

    let sampler = Sampler::start(victim.process());
    outcome.memory.before = sampler.now()?;
    let (attacked, deeds) = carry_out(args, attack, &victim)?;
    outcome.deeds = deeds;
    let waits = witness.end()?;
    let view = |(from, to): Stretch| {
        let seen = |(lane, waits): &(Lane, Vec<Wait>)| (*lane, Seen::between(waits, from, to));
        waits.iter().map(seen).collect()
    };
    outcome.control = view(control);
    outcome.attacked = view(attacked);

    settle(args, attack, &mut victim, &sampler, &mut outcome);
    outcome.judge(attack, !args.small);
    Ok(outcome)
}

/// Lets an attack hit a server; returns when it did, and what it did.
fn carry_out(args: &Abuse, attack: &Attack, server: &Victim) -> Result<(Stretch, arms::Deeds)> {
    let duration = if args.small { SMALL } else { args.duration };
    let mut strike = Strike::prepare(attack, server, duration, args.small)?;
    let from = clock::now();
    strike.begin()?;
    let deeds = strike.end()?;
    // Its connections are gone now, all at the same moment.
    thread::sleep(CALM);
    Ok(((from, clock::now()), deeds))
}

/// Waits until memory has had its time to return, and looks whether all is well.
fn settle(
    args: &Abuse,
    attack: &Attack,
    victim: &mut Victim,
    sampler: &Sampler,
    outcome: &mut Outcome,
) {
    let began = Instant::now();
    if attack.drains {
        let ended = victim.ends_within(DRAIN + Duration::from_secs(4));
        if !ended.is_some_and(|status| status.success()) {
            outcome
                .aftermath
                .push(format!("the server has not left in time: {ended:?}"));
        }
        outcome.memory.peak = sampler.peak();
        return;
    }

    // What is back already is not waited for. In the small form that is whatever is allowed.
    let before = outcome.memory.before;
    let enough = if args.small { attack.after.bytes } else { BACK };
    let is_back = |bytes: u64| bytes.saturating_sub(before) <= enough;
    let mut after = sampler.now().ok();
    while began.elapsed() < args.settle && !after.is_some_and(is_back) {
        thread::sleep(Duration::from_millis(100));
        after = sampler.now().ok();
    }
    outcome.memory = Memory {
        before,
        peak: sampler.peak(),
        after,
    };
    outcome.aftermath = recovery::examine(victim);
    outcome.aftermath.extend(recovery::leaves(victim));
}
