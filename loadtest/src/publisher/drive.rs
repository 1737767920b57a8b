//! One measurement: lanes at work for a bounded time, until everything has come.

use std::time::Duration;

use mio::{Events, Interest, Token, unix::SourceFd};

use super::{
    caller::{Caller, Flight},
    lane::{Lane, LaneOutcome, Pace, Running},
    sampler::{Sample, Sampler},
    timeline,
};
use crate::{
    client::{Expected, Notice, Order, Report, Stream, merge},
    clock::{self, Alarm},
    error::{Doing, Result, failed},
    fleets::Fleets,
    process::{Memory, Process},
    progress::Progress,
    stamp::Stamp,
};

const ALARM: Token = Token(usize::MAX / 2 - 1);

/// How long the last answers, and then the last events, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after the end what was due before is still sent, late. A server that was slow is not spared it.
const BACKLOG: Duration = Duration::from_secs(5);

/// How long a caller's connection may have been idle to be used again; a server may be about to close it.
const IDLE: Duration = Duration::from_secs(4);

/// How long the loop sleeps at most where nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// When a measurement stops sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// After this time.
    pub(crate) duration: Duration,
    /// After so many events of one lane.
    pub(crate) events: u64,
}

/// What a measurement saw.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When it began, by [`clock::now`].
    pub(crate) began: u64,
    /// From the first request to the last answer or arrival.
    pub(crate) seconds: f64,
    /// What the server had used, from the beginning until everything had come; empty where it is not known.
    pub(crate) samples: Vec<Sample>,
    /// The server's memory then.
    pub(crate) memory: Option<Memory>,
    /// Events that the server took, by stream.
    pub(crate) sent: Vec<u32>,
    /// All fleets together.
    pub(crate) report: Report,
    /// In the order of the lanes.
    pub(crate) lanes: Vec<LaneOutcome>,
}

impl Outcome {
    /// Processor time of the server, until everything had come.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let (first, last) = (self.samples.first()?, self.samples.last()?);
        Some(last.cpu.saturating_sub(first.cpu))
    }

    /// The same in microseconds, for one of `count`.
    pub(crate) fn cpu_micros_per(&self, count: u64) -> Option<f64> {
        self.cpu()
            .map(|cpu| cpu.as_secs_f64() * 1e6 / count.max(1) as f64)
    }
}

/// Lets the lanes work until `bound`, waits until everything has come, and counts.
pub(crate) fn drive(
    fleets: &mut Fleets,
    lanes: &[Lane],
    bound: Bound,
    server: Option<Process>,
    round: u16,
    progress: &Progress,
) -> Result<Outcome> {
    let interval = timeline::interval(bound.duration);
    let mut drive = Drive::new(fleets, lanes, (round, interval), server)?;
    drive.run(bound, progress)?;
    let answered = clock::now();
    let reports = drive.end()?;
    drive.sampler.take(clock::now())?;
    let mut report = Report::default();
    for one in &reports {
        report.add(one);
        for (running, seen) in drive.lanes.iter_mut().zip(&one.lanes) {
            merge(&mut running.outcome.deliveries, &seen.all);
            running.outcome.timeline.merge(seen)?;
        }
    }
    Ok(Outcome {
        began: drive.began,
        seconds: (answered.max(report.last) - drive.began) as f64 / 1e9,
        samples: std::mem::take(&mut drive.sampler.samples),
        memory: server.map(Process::memory).transpose()?,
        sent: drive.sent(),
        report,
        lanes: drive
            .lanes
            .drain(..)
            .map(|running| running.outcome)
            .collect(),
    })
}

struct Drive<'f> {
    fleets: &'f mut Fleets,
    round: u16,
    /// Length of the timeline's intervals, in nanoseconds.
    interval: u64,
    began: u64,
    /// When sending ends.
    until: u64,
    lanes: Vec<Running>,
    callers: Vec<Caller>,
    /// Since when each caller has been free, or was last.
    free: Vec<u64>,
    alarm: Alarm,
    /// What the alarm is set to.
    alarm_at: u64,
    sampler: Sampler,
}

impl<'f> Drive<'f> {
    fn new(
        fleets: &'f mut Fleets,
        lanes: &[Lane],
        (round, interval): (u16, u64),
        server: Option<Process>,
    ) -> Result<Self> {
        let mut drive = Self {
            round,
            interval,
            began: 0,
            until: u64::MAX,
            lanes: Vec::new(),
            callers: Vec::new(),
            free: Vec::new(),
            alarm: Alarm::new()?,
            alarm_at: 0,
            sampler: Sampler::new(server),
            fleets,
        };
        let registry = drive.fleets.poll.registry();
        registry
            .register(&mut SourceFd(&drive.alarm.raw()), ALARM, Interest::READABLE)
            .doing("cannot watch a timer")?;
        let mut stream = 0;
        for (at, lane) in lanes.iter().enumerate() {
            let streams = Running::streams(lane);
            for n in 0..lane.callers {
                let token = Token(drive.callers.len());
                let stream = stream + (n as u16).min(streams - 1);
                drive
                    .callers
                    .push(Caller::connect(&lane.api, registry, token, at, stream)?);
            }
            let users = drive.fleets.users(&lane.fleets);
            drive.lanes.push(Running::new(lane, stream, users)?);
            stream += streams;
        }
        drive.begin()?;
        drive.began = clock::now();
        drive.free = vec![drive.began; drive.callers.len()];
        drive.sampler.look(drive.began)?;
        for running in &mut drive.lanes {
            running.start(drive.began, interval);
        }
        Ok(drive)
    }

    fn begin(&mut self) -> Result<()> {
        let counted = self.fleets.counted();
        for &at in &counted {
            let users = self.fleets.connected(at);
            let mut streams = Vec::new();
            for (lane, running) in self.lanes.iter_mut().enumerate() {
                let here = running.lane.fleets.contains(&at);
                let reach = running.reach(&users).filter(|_| here).unwrap_or(0) as u64;
                running.fleets_reached += usize::from(reach > 0);
                let stream = Stream { lane, reach };
                streams.extend(std::iter::repeat_n(
                    stream,
                    Running::streams(&running.lane).into(),
                ));
            }
            let order = Order::Begin {
                round: self.round,
                interval: self.interval,
                streams,
            };
            self.fleets.tell(at, &order)?;
        }
        self.fleets.hear(counted, PATIENCE, |_, notice| {
            matches!(notice, Notice::Began)
        })
    }

    fn run(&mut self, bound: Bound, progress: &Progress) -> Result<()> {
        self.until = self.began + clock::nanos(bound.duration);
        let mut events = Events::with_capacity(256);
        loop {
            let now = clock::now();
            if self
                .lanes
                .iter()
                .any(|running| running.outcome.sent >= bound.events)
            {
                self.until = self.until.min(now);
            }
            if now > self.until + clock::nanos(BACKLOG) {
                self.lanes
                    .iter_mut()
                    .for_each(|running| running.give_up(self.until));
            }
            self.fire(now)?;
            if self.sampler.look(now)? {
                progress.at((now - self.began) / 1_000_000);
            }
            if self.is_over(now)? {
                return Ok(());
            }
            let pause = match Duration::from_nanos(self.until.saturating_sub(now)) {
                Duration::ZERO => TICK,
                left => left.clamp(Duration::from_millis(1), TICK),
            };
            match self.fleets.poll.poll(&mut events, Some(pause)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.doing("the event loop failed")?,
            }
            for event in &events {
                let token = event.token();
                if let Some(notices) = self.fleets.receive(token) {
                    notices?.iter().for_each(|notice| self.heard(notice));
                } else if token != ALARM {
                    self.answer(token.0)?;
                }
            }
        }
    }

    /// Whether all that was due has been sent and answered.
    fn is_over(&self, now: u64) -> Result<bool> {
        let under_way = self
            .callers
            .iter()
            .filter(|caller| caller.flight.is_some())
            .count();
        if now > self.until + clock::nanos(PATIENCE) {
            return failed(format!(
                "{under_way} events were not answered, or not delivered to all"
            ));
        }
        let sent = self
            .lanes
            .iter()
            .all(|running| running.due(now, self.until).is_none());
        Ok(now >= self.until && sent && under_way == 0)
    }

    /// Lets every idle caller send whose lane is due, and sets the alarm for the next.
    fn fire(&mut self, now: u64) -> Result<()> {
        for at in 0..self.callers.len() {
            if self.callers[at].flight.is_none() {
                self.fire_one(at, now)?;
            }
        }
        let paced = self.lanes.iter().filter(|running| running.is_paced());
        // What is due already waits for a caller, and an answer wakes the loop.
        let due = paced
            .filter_map(|running| running.due(now, self.until))
            .filter(|&due| due > now)
            .min();
        match due {
            Some(due) if due != self.alarm_at => {
                self.alarm_at = due;
                self.alarm.set(due)
            }
            _ => Ok(()),
        }
    }

    fn fire_one(&mut self, at: usize, now: u64) -> Result<()> {
        let caller = &mut self.callers[at];
        let running = &mut self.lanes[caller.lane];
        let Some(due) = running.due(now, self.until).filter(|&due| due <= now) else {
            return Ok(());
        };
        let exact = clock::now();
        let due = if running.is_paced() { due } else { exact };
        let Some((recipients, sequence)) = running.next(exact, self.free[at]) else {
            return Ok(());
        };
        if now.saturating_sub(self.free[at]) > clock::nanos(IDLE) {
            caller.renew();
        }
        let sequence = sequence.unwrap_or(caller.sequence);
        let stamp = Stamp {
            round: self.round,
            stream: caller.stream,
            sequence,
            at: due,
        };
        let request = running
            .lane
            .api
            .emit(recipients, &stamp.data(running.lane.bytes));
        let waits = running.lane.pace == Pace::OnDelivery;
        let fleets_waiting = if waits { running.fleets_reached } else { 0 };
        caller.send(
            request,
            Flight {
                recipients,
                at: due,
                answered: false,
                fleets_waiting,
            },
        )
    }

    fn answer(&mut self, at: usize) -> Result<()> {
        let Some(caller) = self.callers.get_mut(at) else {
            return Ok(());
        };
        caller.write()?;
        let (Some(taken), Some(flight)) = (caller.read()?, &mut caller.flight) else {
            return Ok(());
        };
        self.lanes[caller.lane].answered(flight.recipients, flight.at, taken);
        flight.answered = true;
        caller.sequence += u32::from(taken);
        if !taken || flight.fleets_waiting == 0 {
            caller.flight = None;
            self.free[at] = clock::now();
        }
        Ok(())
    }

    fn heard(&mut self, notice: &Notice) {
        let Notice::Done(stream) = notice else { return };
        let Some(at) = self
            .callers
            .iter()
            .position(|caller| caller.stream == *stream)
        else {
            return;
        };
        let Some(flight) = &mut self.callers[at].flight else {
            return;
        };
        flight.fleets_waiting = flight.fleets_waiting.saturating_sub(1);
        if flight.answered && flight.fleets_waiting == 0 {
            self.callers[at].flight = None;
            self.free[at] = clock::now();
        }
    }

    /// By stream: how many events its caller had taken.
    fn sent(&self) -> Vec<u32> {
        let streams = self
            .lanes
            .iter()
            .map(|running| usize::from(Running::streams(&running.lane)))
            .sum();
        let mut sent = vec![0; streams];
        self.callers
            .iter()
            .for_each(|caller| sent[usize::from(caller.stream)] += caller.sequence);
        sent
    }

    /// Waits until the fleets have everything, and takes their reports.
    fn end(&mut self) -> Result<Vec<Report>> {
        let (counted, sent) = (self.fleets.counted(), self.sent());
        for &at in &counted {
            let users = self.fleets.connected(at);
            let mut expected = Vec::new();
            for running in &self.lanes {
                let reached = running.lane.fleets.contains(&at);
                for stream in running.stream..running.stream + Running::streams(&running.lane) {
                    let here = running.expected(&users, sent[usize::from(stream)]);
                    expected.push(if reached { here } else { Expected::Each(0) });
                }
            }
            self.fleets.tell(
                at,
                &Order::End {
                    expected,
                    patience_ms: PATIENCE.as_millis() as u64,
                },
            )?;
        }
        let mut reports = Vec::new();
        let patience = PATIENCE * 6;
        self.fleets
            .hear(counted, patience, |_, notice| match notice {
                Notice::Report(report) => {
                    reports.push(*report);
                    true
                }
                _ => false,
            })?;
        Ok(reports)
    }
}
