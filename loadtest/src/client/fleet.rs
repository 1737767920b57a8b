//! A client process: its connections, its event loop, its obedience.

use std::{
    collections::BTreeMap,
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, event::Event};

use super::{
    connection::{Connection, Listener, Readout, Stage},
    control::{Arrival, Connect, Link, Notice, Order},
    slow::Slow,
    storm::{Next, Storm},
    tally::{Expected, Tally},
};
use crate::{
    clock,
    driver::Driver,
    error::{Doing, Error, Result, failed},
    priority,
    stamp::Stamp,
};

const CONTROL: Token = Token(usize::MAX);

/// Handshakes under way at once.
const DIALS: usize = 64;

/// How often the test hears how many are connected, in nanoseconds.
const TELL: u64 = 100_000_000;

/// How long no handshake may make progress.
const DIAL_PATIENCE: u64 = 15_000_000_000;

/// How long nothing may come after the last event expected: what comes then came twice.
const AFTERMATH: u64 = 20_000_000;

/// Runs a client process over its standard input, a socket, until the test hangs up.
///
/// With `first` it goes before all other processes, where the system permits that.
pub(crate) fn run(first: bool) -> Result<()> {
    let is_first = !first || priority::go_first();
    let control = rustix::stdio::stdin().as_fd().try_clone_to_owned();
    let mut fleet = Fleet::new(Link::new(UnixStream::from(
        control.doing("no standard input")?,
    ))?)?;
    let served = if is_first {
        fleet.serve()
    } else {
        failed("a client process may not go first")
    };
    match served {
        Ok(()) => Ok(()),
        // The test says it; if it is gone, nobody is interested.
        Err(error) => fleet.control.send(&Notice::Failed(error.to_string())),
    }
}

/// Connections that are being made.
struct Dialing {
    order: Connect,
    begun: u64,
    progress: u64,
    under_way: usize,
    /// How each has come in; open when it is not yet.
    arrivals: Vec<Arrival>,
    /// When the test is to hear next how far it has come.
    tell: u64,
}

/// A measurement that is about to end.
struct Ending {
    expected: Vec<Expected>,
    patience: u64,
    seen: u64,
    since: u64,
}

struct Fleet {
    poll: Poll,
    control: Link,
    connections: Vec<Option<Connection>>,
    /// How their server speaks, once it is known.
    driver: Option<Driver>,
    /// The first one's user.
    first: usize,
    /// Connections that ended by themselves since connecting.
    ended: u64,
    /// How many of them by which close code; 0 where there was no close frame.
    ended_by: BTreeMap<u16, u64>,
    pings: u64,
    buffer: Vec<u8>,
    tally: Tally,
    dialing: Option<Dialing>,
    ending: Option<Ending>,
    storm: Option<Storm>,
    slow: Option<Slow>,
    hung_up: bool,
}

impl Fleet {
    fn new(mut control: Link) -> Result<Self> {
        let poll = Poll::new().doing("no event loop")?;
        poll.registry()
            .register(&mut control.socket, CONTROL, Interest::READABLE)
            .doing("cannot watch the test")?;
        Ok(Self {
            poll,
            control,
            connections: Vec::new(),
            driver: None,
            first: 0,
            ended: 0,
            ended_by: BTreeMap::new(),
            pings: 0,
            buffer: vec![0; 64 * 1024],
            tally: Tally::default(),
            dialing: None,
            ending: None,
            storm: None,
            slow: None,
            hung_up: false,
        })
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.hung_up {
            self.dial()?;
            self.end()?;
            self.blow()?;
            self.heard()?;
            let waiting =
                self.storm.is_some() || self.slow.as_ref().is_some_and(|slow| !slow.is_deaf());
            let busy = waiting || self.dialing.is_some() || self.ending.is_some();
            let timeout = busy.then_some(Duration::from_millis(1));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.doing("the event loop failed")?,
            }
            for event in &events {
                match event.token() {
                    CONTROL => self.obey()?,
                    Token(index) => self.handle(index, event)?,
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self) -> Result<()> {
        let Ok(orders) = self.control.receive::<Order>() else {
            self.hung_up = true;
            return Ok(());
        };
        for order in orders {
            match order {
                Order::Connect(order) => self.connect(order),
                Order::Storm(order) => {
                    self.storm = Some(Storm::new(order.clone())?);
                    self.connect(order);
                }
                Order::Calm => self
                    .storm
                    .iter_mut()
                    .for_each(|storm| storm.is_stopping = true),
                Order::Begin {
                    round,
                    interval,
                    streams,
                } => {
                    self.tally = Tally::new(round, interval, &streams, self.connections.len())?;
                    self.control.send(&Notice::Began)?;
                }
                Order::End {
                    expected,
                    patience_ms,
                } => {
                    let patience = clock::nanos(Duration::from_millis(patience_ms));
                    let (seen, since) = (self.tally.deliveries(), clock::now());
                    self.ending = Some(Ending {
                        expected,
                        patience,
                        seen,
                        since,
                    });
                }
                Order::Deafen => {
                    self.slow = Some(Slow::new(self.connections.len()));
                    self.control.send(&Notice::Deaf)?;
                }
                Order::Hear {
                    round,
                    sent,
                    patience_ms,
                } => self.hear(round, sent, patience_ms)?,
                Order::Disconnect => {
                    self.connections
                        .iter_mut()
                        .flatten()
                        .for_each(Connection::say_goodbye);
                    self.connections.clear();
                    self.control.send(&Notice::Disconnected)?;
                }
                Order::Reset => {
                    self.connections
                        .drain(..)
                        .flatten()
                        .try_for_each(Connection::reset)?;
                    self.control.send(&Notice::Disconnected)?;
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, order: Connect) {
        let (begun, arrivals) = (clock::now(), Vec::new());
        self.connections.clear();
        self.ended = 0;
        self.ended_by.clear();
        self.first = order.first;
        self.driver = Some(order.driver.clone());
        let tell = begun + TELL;
        self.dialing = Some(Dialing {
            order,
            begun,
            progress: begun,
            under_way: 0,
            arrivals,
            tell,
        });
    }

    /// Keeps handshakes under way, within their rate.
    fn dial(&mut self) -> Result<()> {
        let Some(dialing) = &mut self.dialing else {
            return Ok(());
        };
        let order = &dialing.order;
        let now = clock::now();
        let due = (now - dialing.begun) as f64 / 1e9 * f64::from(order.rate);
        let is_stopping = self.storm.as_ref().is_some_and(|storm| storm.is_stopping);
        let wanted = if is_stopping {
            self.connections.len()
        } else {
            order.count
        };
        let most = if order.is_open_loop {
            usize::MAX
        } else {
            DIALS
        };
        while dialing.under_way < most
            && self.connections.len() < wanted
            && self.connections.len() <= due as usize
        {
            let index = self.connections.len();
            let due = dialing.begun + (index as f64 / f64::from(order.rate) * 1e9) as u64;
            dialing.arrivals.push(Arrival {
                due,
                dialed: clock::now(),
                open: 0,
            });
            let mut connection = Connection::dial(order, index)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut connection.socket, Token(index), both)
                .doing("cannot watch a socket")?;
            self.connections.push(Some(connection));
            dialing.under_way += 1;
            dialing.progress = now;
        }
        if dialing.under_way == 0 && self.connections.len() >= wanted {
            if order.is_open_loop {
                self.control
                    .send(&Notice::Arrived(std::mem::take(&mut dialing.arrivals)))?;
            }
            self.dialing = None;
            return match &mut self.storm {
                Some(storm) => storm.scatter(&mut self.connections),
                None => self.control.send(&Notice::Connected),
            };
        }
        if now > dialing.tell && self.storm.is_none() {
            dialing.tell = now + TELL;
            self.control.send(&Notice::Connecting(
                self.connections.len() - dialing.under_way,
            ))?;
        }
        if now - dialing.progress > DIAL_PATIENCE {
            return failed(format!("{} handshakes make no progress", dialing.under_way));
        }
        Ok(())
    }

    /// Lets the next storm begin once the one before has gone.
    fn blow(&mut self) -> Result<()> {
        let Some(storm) = &mut self.storm else {
            return Ok(());
        };
        match storm.next()? {
            Next::Wait => {}
            Next::Connect(order) => self.connect(order),
            Next::Calm(stormed) => {
                self.storm = None;
                self.control.send(&Notice::Calm(Box::new(stormed)))?;
            }
        }
        Ok(())
    }

    /// Reads again what was left unread; what comes later wakes the loop.
    fn hear(&mut self, round: u16, sent: Vec<u32>, patience_ms: u64) -> Result<()> {
        let Some(slow) = &mut self.slow else {
            return Ok(());
        };
        slow.hear(
            round,
            sent,
            clock::nanos(Duration::from_millis(patience_ms)),
        );
        (0..self.connections.len()).try_for_each(|index| self.read(index, true))
    }

    fn heard(&mut self) -> Result<()> {
        let heard = self.slow.as_ref().and_then(|slow| slow.heard(clock::now()));
        let Some(heard) = heard else { return Ok(()) };
        self.slow = None;
        self.control.send(&Notice::Heard(heard))
    }

    fn handle(&mut self, index: usize, ready: &Event) -> Result<()> {
        if self.slow.as_ref().is_some_and(Slow::is_deaf) {
            return Ok(());
        }
        if let (true, Some(Some(connection))) =
            (ready.is_writable(), self.connections.get_mut(index))
        {
            connection.writable()?;
        }
        self.read(index, ready.is_read_closed())
    }

    /// Reads what has come on a connection, on which the server may have ended its side.
    fn read(&mut self, index: usize, has_ended: bool) -> Result<()> {
        let (Some(Some(connection)), Some(driver)) =
            (self.connections.get_mut(index), &self.driver)
        else {
            return Ok(());
        };
        let before = connection.stage;
        let now = clock::now();
        let (tally, control, slow) = (&mut self.tally, &mut self.control, &mut self.slow);
        let mut told: Result<()> = Ok(());
        let (dialect, user) = (driver.dialect(), self.first + index);
        let mut listener = Listener {
            dialect,
            user,
            pings: &mut self.pings,
        };
        let readout = connection.readable(has_ended, &mut self.buffer, &mut listener, |frame| {
            for stamp in Stamp::all(frame) {
                if let Some(slow) = slow {
                    slow.note(index, stamp, now);
                } else if let Some(stream) = tally.note(index, stamp, now)
                    && told.is_ok()
                {
                    told = control.send(&Notice::Done(stream));
                }
            }
        })?;
        told?;
        let opened = before != Stage::Open && connection.stage == Stage::Open;
        if readout == Readout::Ended {
            if connection.stage != Stage::Open {
                return Err(Error::Failed(
                    "the server hung up on a handshake".to_owned(),
                ));
            }
            let code = connection.close_code;
            self.slow
                .iter_mut()
                .for_each(|slow| slow.ended(index, code, now));
            self.storm.iter_mut().for_each(Storm::ended);
            self.connections[index] = None;
            self.ended += 1;
            *self.ended_by.entry(code.unwrap_or(0)).or_default() += 1;
        }
        if let (true, Some(dialing)) = (opened, &mut self.dialing) {
            dialing.under_way -= 1;
            dialing.progress = now;
            let arrival = &mut dialing.arrivals[index];
            arrival.open = now;
            let waited = now.saturating_sub(arrival.dialed);
            self.storm
                .iter_mut()
                .for_each(|storm| storm.welcomed(waited));
        }
        Ok(())
    }

    /// Reports when everything has come, or nothing comes any more.
    fn end(&mut self) -> Result<()> {
        let Some(ending) = &mut self.ending else {
            return Ok(());
        };
        let (now, seen) = (clock::now(), self.tally.deliveries());
        if seen != ending.seen {
            (ending.seen, ending.since) = (seen, now);
        }
        let complete = self.tally.is_complete(&ending.expected);
        let patience = if complete { AFTERMATH } else { ending.patience };
        if now - ending.since < patience {
            return Ok(());
        }
        let mut report = self.tally.finish(&ending.expected);
        (report.ended, report.pings) = (self.ended, self.pings);
        report.ended_by = self.ended_by.clone();
        self.ending = None;
        self.control.send(&Notice::Report(Box::new(report)))
    }
}
