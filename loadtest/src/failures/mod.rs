//! The failure matrix: three nodes over Redis, publishers and subscribers on all of them, and one thing that goes wrong.
//!
//! Every publisher numbers what it sends to each channel, and every subscriber notes what it gets. From these, and from
//! what readiness said meanwhile, the checker works out what was lost, repeated, out of order or untrue.

mod args;
mod checker;
mod failure;
mod node;
mod outcome;
mod plan;
mod presence;
mod publisher;
mod readiness;
mod record;
mod subscriber;
mod truth;

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::Ordering::Relaxed,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use clap::ValueEnum;

pub(crate) use self::args::Failures;
use self::{
    checker::{Counts, check, disagreements},
    failure::{Failure, Rig},
    outcome::{Outcome, Table, markdown},
    plan::{NODES, Scene},
    presence::Presence,
    record::{Attempt, Fate, Log},
    subscriber::Present,
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

/// Lets one failure after another happen; true if nothing is wrong with any.
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
    Ok(outcomes.iter().all(|outcome| outcome.wrong.is_empty()))
}

/// All that was noted of one failure.
struct Evidence {
    attempts: Vec<Attempt>,
    logs: Vec<Log>,
    sayings: Vec<Sayings>,
    /// From when on all had to work again.
    back: u64,
    presence: Presence,
}

fn run(args: &Failures, failure: Failure, round: u16) -> Result<Outcome> {
    let mut rig = Rig::start(failure, &args.program(), args.logs.as_deref())?;
    let mut nodes = rig.nodes.iter().map(|node| node.address);
    let nodes = std::array::from_fn(|_| nodes.next().unwrap_or_else(|| ([127, 0, 0, 1], 0).into()));
    let scene = Scene::new(round, nodes, args.rate, failure == Failure::LaggingFailover);
    await_ready(&scene)?;
    let evidence = gather(args, &scene, failure, &mut rig)?;
    let publishers = (0..NODES).filter(|&node| !scene.is_dead(node)).collect();
    let mut outcome = weigh(failure, &evidence, &publishers);
    outcome.judge(failure);
    Ok(outcome)
}

fn await_ready(scene: &Scene) -> Result<()> {
    let until = Instant::now() + START;
    for (at, &node) in scene.nodes.iter().enumerate() {
        loop {
            let answer = socket::get(node, "/readyz", Duration::from_secs(1));
            if matches!(answer, Ok((200, _))) {
                break;
            }
            if Instant::now() > until {
                let why = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
                return failed(format!("node {at} is not ready within {START:?}: {why:?}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
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
        let back = rig.inject(failure, scene)?;
        thread::sleep(args.after);
        scene.is_published.store(true, Relaxed);
        let attempts = join(publishing)?;
        thread::sleep(SETTLE);
        let until = clock::now() + clock::nanos(args.presence);
        let presence = presence::look(scene, present, until);
        drop(curtain);
        let presence = presence.after(&ended(watching)?);
        let sayings = sampling.into_iter().map(ended).collect::<Result<_>>()?;
        Ok(Evidence {
            attempts,
            logs: join(subscribing)?,
            sayings,
            back,
            presence,
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
        back,
        presence,
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
        recovered_after: judgement.recovery(*back, publishers),
        kept,
        live,
        disagreements: disagreements(logs),
        accepted: fates(Fate::Accepted),
        incomplete: fates(Fate::Incomplete),
        refused: fates(Fate::Refused),
        unanswered: fates(Fate::Unknown),
        truth: judgement.truth(sayings),
        presence: *presence,
        wrong: Vec::new(),
    }
}
