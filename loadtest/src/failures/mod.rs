//! The failure matrix: three nodes over Redis, publishers and subscribers on all of them, and one thing that goes wrong.
//!
//! Every publisher numbers what it sends to each channel, and every subscriber notes what it gets. From these, and from
//! what readiness said meanwhile, the checker works out what was lost, repeated, out of order or untrue.

mod args;
mod checker;
mod eviction;
mod failure;
mod figure;
mod measure;
mod node;
mod outcome;
mod overflow;
mod plan;
mod presence;
mod present;
mod publisher;
mod readiness;
mod record;
mod rig;
mod storm;
mod subscriber;
mod truth;
mod view;
mod visitors;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use clap::ValueEnum;

pub(crate) use self::args::Failures;
use self::{
    checker::{Counts, check, disagreements},
    failure::Failure,
    outcome::{Outcome, Table, markdown},
    plan::{Manners, NODES, Scene},
    presence::Presence,
    present::Present,
    record::{Attempt, Fate, Log, Returns},
    rig::{Happened, Rig},
    truth::{Judgement, Sayings},
};
use crate::{
    clock,
    error::{Doing, Result, failed},
    report::{Machine, command_line},
    socket,
};

/// How long nodes and subscribers may take to begin.
const START: Duration = Duration::from_secs(30);

/// How long what is on its way may take after the last event was sent.
const SETTLE: Duration = Duration::from_secs(2);

/// What was found, for programs.
#[derive(serde::Serialize)]
struct Matrix<'m> {
    command: Vec<String>,
    machine: Machine,
    outcomes: &'m [Outcome],
}

/// Lets one failure after another happen; true if each met its goals.
pub(crate) fn failures(args: &Failures) -> Result<bool> {
    let all: &[Failure] = if args.only.is_empty() {
        Failure::value_variants()
    } else {
        &args.only
    };
    if let Some(folder) = &args.logs {
        fs::create_dir_all(folder).doing(format!("cannot make {}", folder.display()))?;
    }
    let machine = Machine::here();
    let mut outcomes = Vec::new();
    for (at, &failure) in all.iter().enumerate() {
        eprintln!(
            "{} of {}: {}: {}",
            at + 1,
            all.len(),
            failure.name(),
            failure.description()
        );
        // One that cannot be carried out says nothing of the others.
        let outcome = run(args, failure, at as u16 + 1);
        outcomes
            .push(outcome.unwrap_or_else(|error| Outcome::impossible(failure, error.to_string())));
    }
    if args.json {
        let matrix = Matrix {
            command: command_line(),
            machine,
            outcomes: &outcomes,
        };
        let json = serde_json::to_string_pretty(&matrix).map_err(std::io::Error::from);
        println!("{}", json.doing("cannot write JSON")?);
    } else {
        print!("{}", Table(&outcomes));
    }
    if let Some(path) = &args.markdown {
        fs::write(path, markdown(&outcomes)).doing(format!("cannot write {}", path.display()))?;
    }
    Ok(outcomes.iter().all(Outcome::is_met))
}

/// All that was noted of one failure.
struct Evidence {
    attempts: Vec<Attempt>,
    logs: Vec<Log>,
    sayings: Vec<Sayings>,
    returns: Returns,
    presence: Presence,
    /// Whom subscribers had wrong in the end.
    mistakes: String,
    /// How often a subscriber was told that a member has left, and how often of that it was connected.
    leaves: (usize, usize),
    happened: Happened,
}

fn run(args: &Failures, failure: Failure, round: u16) -> Result<Outcome> {
    let mut rig = Rig::start(failure, &args.program(), args.logs.as_deref())?;
    let mut nodes = rig.nodes.iter().map(|node| node.address);
    let nodes = std::array::from_fn(|_| nodes.next().unwrap_or_else(|| ([127, 0, 0, 1], 0).into()));
    let manners = Manners {
        rate: args.rate,
        is_confined: failure == Failure::LaggingFailover,
        do_resume: failure.is_deploy(),
        is_timed: failure == Failure::JoinStorm,
    };
    let scene = Scene::new(round, nodes, manners);
    for (at, &node) in scene.nodes.iter().enumerate() {
        await_ready(node, &format!("node {at}"))?;
    }
    let evidence = gather(args, &scene, failure, &mut rig)?;
    let publishers = (0..NODES).filter(|&node| !scene.is_dead(node)).collect();
    let mut outcome = weigh(failure, &evidence, &publishers);
    outcome.judge(failure);
    if let Some(folder) = &args.logs {
        let path = folder.join(format!("{}-missing.txt", failure.name()));
        let written = fs::write(&path, measure::evidence_of_losses(&evidence));
        written.doing(format!("cannot write {}", path.display()))?;
    }
    Ok(outcome)
}

/// Waits until `node`, which is called `name`, is ready.
fn await_ready(node: SocketAddr, name: &str) -> Result<()> {
    let until = Instant::now() + START;
    loop {
        let answer = socket::get(node, "/readyz", Duration::from_secs(1));
        if matches!(answer, Ok((200, _))) {
            return Ok(());
        }
        if Instant::now() > until {
            let why = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
            return failed(format!("{name} is not ready within {START:?}: {why:?}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ends all threads when it is dropped, be it by an error.
struct Curtain<'s>(&'s Scene);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.is_published.store(true, Relaxed);
        self.0.is_over.store(true, Relaxed);
    }
}

/// Lets it happen, and notes everything.
fn gather(args: &Failures, scene: &Scene, failure: Failure, rig: &mut Rig) -> Result<Evidence> {
    let present = &Present::default();
    let subscribers = args.subscribers.max(NODES);
    thread::scope(|scope| {
        let curtain = Curtain(scene);
        let subscribing: Vec<_> = (0..subscribers)
            .map(|number| scope.spawn(move || subscriber::subscribe(scene, present, number)))
            .collect();
        await_present(present, subscribers)?;
        let sampling: Vec<_> = (0..NODES)
            .map(|node| scope.spawn(move || readiness::sample(scene, node)))
            .collect();
        let publishing: Vec<_> = (0..NODES)
            .map(|node| scope.spawn(move || publisher::publish(scene, node)))
            .collect();
        thread::sleep(args.before);
        let watching = scope.spawn(move || presence::watch(scene, present));
        let happened = rig.inject(failure, scene, present)?;
        thread::sleep(args.after);
        scene.is_published.store(true, Relaxed);
        let attempts = join(publishing)?;
        thread::sleep(SETTLE);
        let until = clock::now() + clock::nanos(args.presence);
        let presence = presence::look(scene, present, until);
        let mistakes = present.mistakes();
        drop(curtain);
        let presence = presence.after(&ended(watching)?);
        let sayings = sampling.into_iter().map(ended).collect::<Result<_>>()?;
        let (mut logs, mut returns) = (Vec::new(), Returns::default());
        for thread in subscribing {
            let story = ended(thread)?;
            logs.extend(story.logs);
            returns += story.returns;
        }
        Ok(Evidence {
            attempts,
            logs,
            sayings,
            returns,
            presence,
            mistakes,
            leaves: present.leaves(),
            happened,
        })
    })
}

fn await_present(present: &Present, count: usize) -> Result<()> {
    let until = Instant::now() + START;
    while present.ids().len() < count {
        if Instant::now() > until {
            return failed(format!(
                "{} of {count} subscribers are in every channel",
                present.ids().len()
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn ended<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread
        .join()
        .or_else(|_| failed("a thread of the test panicked"))
}

fn join<T>(threads: Vec<ScopedJoinHandle<'_, Vec<T>>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for thread in threads {
        all.extend(ended(thread)?);
    }
    Ok(all)
}

/// What the evidence says.
fn weigh(failure: Failure, evidence: &Evidence, publishers: &BTreeSet<usize>) -> Outcome {
    let Evidence {
        attempts,
        logs,
        sayings,
        presence,
        leaves,
        happened,
        ..
    } = evidence;
    let (mut kept, mut live) = (Counts::default(), Counts::default());
    for log in logs {
        *(if log.keeps { &mut kept } else { &mut live }) += check(attempts, log);
    }
    let judgement = Judgement::new(attempts, logs);
    let fates = |fate| {
        attempts
            .iter()
            .filter(|attempt| attempt.fate == fate)
            .count()
    };
    Outcome {
        failure: failure.name(),
        description: failure.description(),
        recovered_after: judgement.recovery(happened.back, publishers),
        kept,
        live,
        disagreements: disagreements(logs),
        accepted: fates(Fate::Accepted),
        incomplete: fates(Fate::Incomplete),
        refused: fates(Fate::Refused),
        unanswered: fates(Fate::Unknown),
        truth: judgement.truth(sayings),
        presence: *presence,
        leaves: *leaves,
        figures: measure::figures(failure, evidence),
        wrong: Vec::new(),
        late: Vec::new(),
    }
}
