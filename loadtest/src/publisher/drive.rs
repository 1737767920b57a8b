//! One measurement: lanes at work for a bounded time, until everything has come.

use std::time::Duration;

use mio::{Events, Interest, Token, unix::SourceFd};

use super::{
    caller::{Caller, Flight},
    lane::{Lane, LaneOutcome, Pace, Running},
};
use crate::{
    client::{Expected, Notice, Order, Report, merge},
    clock::{self, Alarm},
    error::{Doing, Result, failed},
    fleets::Fleets,
    process::Process,
    stamp::Stamp,
};

const ALARM: Token = Token(usize::MAX / 2 - 1);

/// How long the last answers, and then the last events, may take.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// From the first request to the last answer or arrival.
    pub(crate) seconds: f64,
    /// Processor time of the server, until everything had come.
    pub(crate) cpu_micros: Option<u64>,
    /// All fleets together.
    pub(crate) report: Report,
    /// In the order of the lanes.
    pub(crate) lanes: Vec<LaneOutcome>,
}

/// Lets the lanes work until `bound`, waits until everything has come, and counts.
pub(crate) fn drive(
    fleets: &mut Fleets,
    lanes: &[Lane],
    bound: Bound,
    server: Option<Process>,
    round: u16,
) -> Result<Outcome> {
    let mut drive = Drive::new(fleets, lanes, round)?;
    let cpu = |server: Process| server.cpu_micros();
    let before = server.map(cpu).transpose()?;
    drive.run(bound)?;
    let answered = clock::now();
    let reports = drive.end()?;
    let after = server.map(cpu).transpose()?;
    let mut report = Report::default();
    for one in &reports {
        report.add(one);
        for running in &mut drive.lanes {
            let streams = running.stream..running.stream + Running::streams(&running.lane);
            for stream in streams {
                merge(&mut running.outcome.deliveries, &one.latencies[usize::from(stream)]);
            }
        }
    }
    let seconds = (answered.max(report.last) - drive.began) as f64 / 1e9;
    let cpu_micros = before.zip(after).map(|(before, after)| after - before);
    let lanes = drive.lanes.drain(..).map(|running| running.outcome).collect();
    Ok(Outcome { seconds, cpu_micros, report, lanes })
}

struct Drive<'f> {
    fleets: &'f mut Fleets,
    round: u16,
    began: u64,
    lanes: Vec<Running>,
    callers: Vec<Caller>,
    alarm: Alarm,
    stopping: bool,
}

impl<'f> Drive<'f> {
    fn new(fleets: &'f mut Fleets, lanes: &[Lane], round: u16) -> Result<Self> {
        let mut drive = Self {
            round,
            began: 0,
            lanes: Vec::new(),
            callers: Vec::new(),
            alarm: Alarm::new()?,
            stopping: false,
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
                drive.callers.push(Caller::connect(&lane.api, registry, token, at, stream)?);
            }
            let users = drive.fleets.users(&lane.fleets);
            drive.lanes.push(Running::new(lane, stream, users)?);
            stream += streams;
        }
        drive.begin(stream)?;
        drive.began = clock::now();
        for running in &mut drive.lanes {
            running.start(drive.began);
        }
        Ok(drive)
    }

    fn begin(&mut self, streams: u16) -> Result<()> {
        for at in 0..self.fleets.len() {
            let reaching = self.lanes.iter().filter(|running| running.lane.fleets.contains(&at));
            let watched = reaching.flat_map(Running::watched).collect();
            self.fleets.tell(at, &Order::Begin { round: self.round, streams, watched })?;
        }
        let all = 0..self.fleets.len();
        self.fleets.hear(all, PATIENCE, |_, notice| matches!(notice, Notice::Began))
    }

    fn run(&mut self, bound: Bound) -> Result<()> {
        let until = self.began + clock::nanos(bound.duration);
        let mut events = Events::with_capacity(256);
        loop {
            let now = clock::now();
            let enough = self.lanes.iter().any(|running| running.outcome.sent >= bound.events);
            self.stopping |= now >= until || enough;
            if !self.stopping {
                self.fire()?;
            } else if self.callers.iter().all(|caller| caller.flight.is_none()) {
                return Ok(());
            }
            if now > until + clock::nanos(PATIENCE) {
                let under_way = self.callers.iter().filter(|caller| caller.flight.is_some()).count();
                return failed(format!("{under_way} events were not answered, or not delivered to all"));
            }
            match self.fleets.poll.poll(&mut events, Some(Duration::from_millis(50))) {
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

    /// Lets every idle caller send whose lane is due, and sets the alarm for the next.
    fn fire(&mut self) -> Result<()> {
        for at in 0..self.callers.len() {
            if self.callers[at].flight.is_none() {
                self.fire_one(at)?;
            }
        }
        let paced = self.lanes.iter().filter(|running| matches!(running.lane.pace, Pace::PerSecond(_)));
        match paced.map(|running| running.due(0)).min() {
            Some(due) => self.alarm.set(due),
            None => Ok(()),
        }
    }

    fn fire_one(&mut self, at: usize) -> Result<()> {
        let caller = &mut self.callers[at];
        let running = &mut self.lanes[caller.lane];
        let now = clock::now();
        let due = running.due(now);
        if due > now {
            return Ok(());
        }
        let Some((recipients, sequence)) = running.next(now) else { return Ok(()) };
        let sequence = sequence.unwrap_or(caller.sequence);
        let stamp = Stamp { round: self.round, stream: caller.stream, sequence, at: due };
        let request = running.lane.api.emit(recipients, &stamp.data(running.lane.bytes));
        let fleets_waiting =
            if running.lane.pace == Pace::OnDelivery { running.lane.fleets.len() } else { 0 };
        caller.send(request, Flight { recipients, at: due, answered: false, fleets_waiting })
    }

    fn answer(&mut self, at: usize) -> Result<()> {
        let Some(caller) = self.callers.get_mut(at) else { return Ok(()) };
        caller.write()?;
        let (Some(taken), Some(flight)) = (caller.read()?, &mut caller.flight) else { return Ok(()) };
        self.lanes[caller.lane].answered(flight.recipients, flight.at, taken);
        flight.answered = true;
        caller.sequence += u32::from(taken);
        if !taken || flight.fleets_waiting == 0 {
            caller.flight = None;
        }
        Ok(())
    }

    fn heard(&mut self, notice: &Notice) {
        let Notice::Done(stream) = notice else { return };
        let Some(caller) = self.callers.iter_mut().find(|caller| caller.stream == *stream) else { return };
        let Some(flight) = &mut caller.flight else { return };
        flight.fleets_waiting = flight.fleets_waiting.saturating_sub(1);
        if flight.answered && flight.fleets_waiting == 0 {
            caller.flight = None;
        }
    }

    /// Waits until the fleets have everything, and takes their reports.
    fn end(&mut self) -> Result<Vec<Report>> {
        for at in 0..self.fleets.len() {
            let users = self.fleets.users(&(at..at + 1));
            let mut expected = Vec::new();
            for running in &self.lanes {
                let reached = running.lane.fleets.contains(&at);
                if running.watched().is_empty() {
                    expected.push(if reached { running.expected(&users) } else { Expected::Each(0) });
                    continue;
                }
                for stream in running.watched() {
                    let caller = self.callers.iter().find(|caller| caller.stream == stream);
                    let sent = caller.map_or(0, |caller| caller.sequence);
                    expected.push(Expected::Each(if reached { sent } else { 0 }));
                }
            }
            self.fleets.tell(at, &Order::End { expected, patience_ms: PATIENCE.as_millis() as u64 })?;
        }
        let mut reports = Vec::new();
        let patience = PATIENCE * 6;
        self.fleets.hear(0..self.fleets.len(), patience, |_, notice| match notice {
            Notice::Report(report) => {
                reports.push(*report);
                true
            }
            _ => false,
        })?;
        Ok(reports)
    }
}
