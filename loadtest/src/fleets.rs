//! The test's hold on its client processes.

use std::{
    ops::Range,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token};

use crate::{
    client::{Arrival, Connect, Heard, Link, Notice, Order, Stormed},
    clock,
    driver::Api,
    error::{Doing, Result, failed},
    progress::Progress,
};

/// Connections of one client process; a process may open 20,000 descriptors here.
const PER_PROCESS: usize = 18_000;

/// The first of the tokens that fleets are watched by; everything below is the publisher's.
const FIRST_TOKEN: usize = usize::MAX / 2;

/// How long an answer to an order may take.
const ANSWER: Duration = Duration::from_secs(40);

/// What connections have less of than they might.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Only the first so many of each fleet connect.
    pub(crate) connections: Option<usize>,
    /// The kernel keeps about so many bytes of what each has not read.
    pub(crate) receive_buffer: Option<usize>,
}

/// One client process.
#[derive(Debug)]
struct Fleet {
    child: Child,
    link: Link,
    count: usize,
    /// How many of these it was told to connect.
    open: usize,
    /// Measurements pass it over: what its connections get is not counted.
    is_aside: bool,
}

/// Client processes, and the event loop that hears them.
#[derive(Debug)]
pub(crate) struct Fleets {
    pub(crate) poll: Poll,
    members: Vec<Fleet>,
    sources: u16,
}

/// How one fleet's users lie among all.
pub(crate) type Users = Range<usize>;

impl Fleets {
    /// No fleet yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new().doing("no event loop")?,
            members: Vec::new(),
            sources: clock::now() as u16,
        })
    }

    /// Starts as many processes as `connections` need; answers which. Those that go `first` do
    /// so before all other processes.
    pub(crate) fn start(&mut self, connections: usize, first: bool) -> Result<Range<usize>> {
        let from = self.members.len();
        let processes = connections.div_ceil(PER_PROCESS).max(1);
        for process in 0..processes {
            let count = connections / processes + usize::from(process < connections % processes);
            let fleet = spawn(count, first)?;
            self.members.push(fleet);
            let at = self.members.len() - 1;
            let link = &mut self.members[at].link;
            self.poll
                .registry()
                .register(
                    &mut link.socket,
                    Token(FIRST_TOKEN + at),
                    Interest::READABLE,
                )
                .doing("cannot watch a client process")?;
        }
        Ok(from..self.members.len())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Those that measurements count.
    pub(crate) fn counted(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|&at| !self.members[at].is_aside)
            .collect()
    }

    /// Has measurements pass the fleets `which` over.
    pub(crate) fn set_aside(&mut self, which: &Range<usize>) {
        self.members[which.clone()]
            .iter_mut()
            .for_each(|fleet| fleet.is_aside = true);
    }

    /// The users of the fleets `which`; numbers run through all fleets.
    pub(crate) fn users(&self, which: &Range<usize>) -> Users {
        let before = |at: usize| {
            self.members[..at]
                .iter()
                .map(|fleet| fleet.count)
                .sum::<usize>()
        };
        before(which.start)..before(which.end)
    }

    /// Those of the fleet `at` that are connected.
    pub(crate) fn connected(&self, at: usize) -> Users {
        let first = self.users(&(at..at)).start;
        first..first + self.members[at].open
    }

    /// Connects the fleets `which`, one after another: where, how many a second at most.
    pub(crate) fn connect(
        &mut self,
        which: Range<usize>,
        to: (&Api, u32),
        limits: Limits,
        progress: &Progress,
    ) -> Result<()> {
        for at in which {
            let order = self.connection_order(at, to, limits);
            let count = order.count as u64;
            self.tell(at, &Order::Connect(order))?;
            let patience = Duration::from_secs(20 + count * 2 / u64::from(to.1));
            progress.begin(format!("connecting {count}"), count);
            self.hear([at], patience, |_, notice| {
                if let Notice::Connecting(open) = notice {
                    progress.at(open as u64);
                }
                matches!(notice, Notice::Connected)
            })?;
        }
        Ok(())
    }

    /// Has the fleets `which` connect and disconnect all their connections again and again, until they are calmed.
    pub(crate) fn storm(&mut self, which: &Range<usize>, (api, rate): (&Api, u32)) -> Result<()> {
        // They storm at the same time, and share the rate.
        let rate = rate.div_ceil(which.len().max(1) as u32);
        which.clone().try_for_each(|at| {
            let order = self.connection_order(at, (api, rate), Limits::default());
            self.tell(at, &Order::Storm(order))
        })
    }

    /// Ends the storms of the fleets `which` once they have come and gone; answers what they brought.
    pub(crate) fn calm(&mut self, which: &Range<usize>) -> Result<Vec<Stormed>> {
        self.ask(which, &Order::Calm, |notice| match notice {
            Notice::Calm(stormed) => Some(*stormed),
            _ => None,
        })
    }

    /// Has the fleets `which` connect at `rate`, each connection when it is due, while the test does something else.
    pub(crate) fn arrive(&mut self, which: &Range<usize>, (api, rate): (&Api, u32)) -> Result<()> {
        let rate = rate.div_ceil(which.len().max(1) as u32);
        which.clone().try_for_each(|at| {
            let order = self.connection_order(at, (api, rate), Limits::default());
            self.tell(
                at,
                &Order::Connect(Connect {
                    is_open_loop: true,
                    ..order
                }),
            )
        })
    }

    /// How the fleets `which` came in, once they have, or have not within `patience`.
    pub(crate) fn arrivals(
        &mut self,
        which: &Range<usize>,
        patience: Duration,
    ) -> Result<Vec<Arrival>> {
        let mut all = Vec::new();
        self.hear(which.clone(), patience, |_, notice| {
            let is_last = matches!(notice, Notice::Connected);
            if let Notice::Arrived(arrivals) = notice {
                all.extend(arrivals);
            }
            is_last
        })?;
        Ok(all)
    }

    /// Resets all connections of the fleets `which` at once.
    pub(crate) fn reset(&mut self, which: &Range<usize>) -> Result<()> {
        let gone = |notice| matches!(notice, Notice::Disconnected).then_some(());
        self.ask(which, &Order::Reset, gone).map(|_| ())
    }

    /// Kills the processes of the fleets `which`; the kernel closes their connections. Nothing can be asked of them
    /// any more.
    pub(crate) fn kill(&mut self, which: &Range<usize>) -> Result<()> {
        for fleet in &mut self.members[which.clone()] {
            let unwatched = self.poll.registry().deregister(&mut fleet.link.socket);
            unwatched
                .and_then(|()| fleet.child.kill())
                .doing("cannot end a client process")?;
            fleet
                .child
                .wait()
                .doing("cannot wait for a client process")?;
            fleet.open = 0;
        }
        Ok(())
    }

    /// Has the connections of the fleets `which` stop reading.
    pub(crate) fn deafen(&mut self, which: &Range<usize>) -> Result<()> {
        let deaf = |notice| matches!(notice, Notice::Deaf).then_some(());
        self.ask(which, &Order::Deafen, deaf).map(|_| ())
    }

    /// Has them read again; answers what became of them, given what the server took of each stream of `round`.
    pub(crate) fn undeafen(
        &mut self,
        which: &Range<usize>,
        round: u16,
        sent: &[u32],
    ) -> Result<Vec<Heard>> {
        let order = Order::Hear {
            round,
            sent: sent.to_vec(),
            patience_ms: 2000,
        };
        self.ask(which, &order, |notice| match notice {
            Notice::Heard(heard) => Some(heard),
            _ => None,
        })
    }

    /// Closes all connections of the fleets `which`.
    pub(crate) fn disconnect(&mut self, which: &Range<usize>) -> Result<()> {
        let closed = |notice| matches!(notice, Notice::Disconnected).then_some(());
        self.ask(which, &Order::Disconnect, closed).map(|_| ())
    }

    /// Gives an order to the fleets `which`; answers what each says of it.
    fn ask<T>(
        &mut self,
        which: &Range<usize>,
        order: &Order,
        answer: impl Fn(Notice) -> Option<T>,
    ) -> Result<Vec<T>> {
        which.clone().try_for_each(|at| self.tell(at, order))?;
        let mut answers = Vec::new();
        self.hear(which.clone(), ANSWER, |_, notice| {
            let answer = answer(notice);
            let is_one = answer.is_some();
            answers.extend(answer);
            is_one
        })?;
        Ok(answers)
    }

    fn connection_order(&mut self, at: usize, (api, rate): (&Api, u32), limits: Limits) -> Connect {
        let (first, source) = (self.users(&(at..at)).start, self.sources);
        // Ports of closed connections wait for a minute, so the next ones come from other addresses.
        self.sources = self.sources.wrapping_add(64);
        let Limits {
            connections,
            receive_buffer,
        } = limits;
        let count = connections.map_or(self.members[at].count, |limit| {
            limit.min(self.members[at].count)
        });
        self.members[at].open = count;
        let (to, driver) = (api.address, api.driver.clone());
        Connect {
            to,
            first,
            count,
            driver,
            source,
            rate,
            is_open_loop: false,
            receive_buffer,
        }
    }

    /// Tells the fleet `at` what to do.
    pub(crate) fn tell(&mut self, at: usize, order: &Order) -> Result<()> {
        self.members[at].link.send(order)
    }

    /// What the fleet behind `token` has said; `None` if the token is no fleet's.
    pub(crate) fn receive(&mut self, token: Token) -> Option<Result<Vec<Notice>>> {
        let at = token.0.checked_sub(FIRST_TOKEN)?;
        let notices = self.members.get_mut(at)?.link.receive::<Notice>();
        Some(notices.and_then(|notices| {
            match notices.iter().find(|n| matches!(n, Notice::Failed(_))) {
                Some(Notice::Failed(why)) => failed(why.clone()),
                _ => Ok(notices),
            }
        }))
    }

    /// Waits until each of the fleets `which` has said something for which `accept` is true.
    pub(crate) fn hear(
        &mut self,
        which: impl IntoIterator<Item = usize>,
        patience: Duration,
        mut accept: impl FnMut(usize, Notice) -> bool,
    ) -> Result<()> {
        let until = clock::now() + clock::nanos(patience);
        let mut open: Vec<usize> = which.into_iter().collect();
        let mut events = Events::with_capacity(64);
        while !open.is_empty() {
            if clock::now() > until {
                return failed(format!("client processes said nothing for {patience:?}"));
            }
            match self
                .poll
                .poll(&mut events, Some(Duration::from_millis(100)))
            {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => other.doing("the event loop failed")?,
            }
            for event in &events {
                let Some(notices) = self.receive(event.token()) else {
                    continue;
                };
                let at = event.token().0 - FIRST_TOKEN;
                for notice in notices? {
                    if accept(at, notice) {
                        open.retain(|&other| other != at);
                    }
                }
            }
        }
        Ok(())
    }
}

fn spawn(count: usize, first: bool) -> Result<Fleet> {
    let (ours, theirs) = UnixStream::pair().doing("cannot make a socket between processes")?;
    let program = std::env::current_exe().doing("cannot find this program")?;
    let child = Command::new(program)
        .arg("fleet")
        .args(first.then_some("--first"))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .doing("cannot start a client process")?;
    Ok(Fleet {
        child,
        link: Link::new(ours)?,
        count,
        open: 0,
        is_aside: false,
    })
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // It has ended already, or ends now; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
