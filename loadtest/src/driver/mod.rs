//! Drivers: how each kind of server is started and spoken to. One file per dialect.

mod centrifugo;
mod fanfare;
mod mesa;
mod node;
mod peer;
mod plain;
mod program;
mod pusher;
mod socket_io;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub(crate) use self::program::{command, floor, list};
use self::{
    centrifugo::Centrifugo, fanfare::Fanfare, mesa::Mesa, plain::Plain, pusher::Pusher,
    socket_io::SocketIo,
};
use crate::{
    cli::{Kind, Target},
    error::{Result, failed},
    filter::Filter,
    http,
};

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// The user of this number.
    User(usize),
    /// Every connection.
    Everyone,
    /// The users that match a filter. Only Fanfare's dialect knows filters.
    Matching(Filter),
}

/// What a client does next that is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It waits for more.
    Wait,
    /// It says this, a text frame each.
    Say(Vec<String>),
    /// It is open: events reach it from now on.
    Open,
    /// It gives up; in the server's words.
    Refused(String),
}

/// What a server says to an emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It took the event.
    Taken,
    /// It has no room for the event.
    Full,
    /// It does not understand, or does not like, the request.
    Refused,
}

/// How a kind of server is spoken to.
pub(crate) trait Dialect {
    /// The upgrade request of the client for `user`.
    fn handshake(&self, to: SocketAddr, user: usize) -> String;

    /// What the client does when the upgrade is granted (`None`), and then on each text frame until it is open.
    /// `heard` is the dialect's own; it is 0 at first.
    fn open(&self, user: usize, heard: &mut u8, frame: Option<&[u8]>) -> Step;

    /// What to answer if a text frame on an open connection holds a ping, be it beside events. Runs once per frame, and
    /// so must be cheap.
    fn ping(&self, frame: &[u8]) -> Option<&'static str> {
        let _ = frame;
        None
    }

    /// The whole request that emits an event with `data` (JSON text without escapes) to `recipients`, on a connection
    /// that is kept. A scan may be taken for everyone where filters are not known.
    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8>;

    /// What the server says to an emit.
    fn answer(&self, answer: &http::Message<'_>) -> Answer {
        match answer.status() {
            200 | 202 | 204 => Answer::Taken,
            503 => Answer::Full,
            _ => Answer::Refused,
        }
    }

    /// Whether an event can go to whoever a filter is true for.
    fn knows_filters(&self) -> bool {
        false
    }
}

/// A dialect with what it needs to know of one server; client processes are sent one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Driver {
    /// Fanfare's, which the floor speaks too.
    Fanfare(Fanfare),
    /// None: events are text frames.
    Plain(Plain),
    /// Centrifugo's.
    Centrifugo(Centrifugo),
    /// Pusher's.
    Pusher(Pusher),
    /// Socket.IO's.
    SocketIo(SocketIo),
    /// Mesa's.
    Mesa(Mesa),
}

impl Driver {
    /// The driver for what the command line names.
    pub(crate) fn new(target: &Target) -> Result<Self> {
        Ok(match target.kind() {
            Kind::Fanfare | Kind::Floor => Self::Fanfare(Fanfare::new(target)),
            Kind::Ws => Self::Plain(Plain::default()),
            Kind::Centrifugo => Self::Centrifugo(Centrifugo::new(target)),
            Kind::SocketIo => Self::SocketIo(SocketIo::default()),
            Kind::FanfareSocketIo => Self::SocketIo(SocketIo::of(Fanfare::new(target))),
            Kind::Mesa => Self::Mesa(Mesa::default()),
            Kind::FanfareMesa => Self::Mesa(Mesa::of(Fanfare::new(target))),
            Kind::Sockudo => Self::Pusher(Pusher::new(target)?),
            Kind::Plain => Self::Plain(Plain::new(target)),
        })
    }

    /// The driver for the floor, which takes any secret and any key.
    pub(crate) fn floor() -> Self {
        Self::Fanfare(Fanfare::floor())
    }

    /// What its callers say, if the server is Fanfare.
    fn fanfare(&self) -> Option<&Fanfare> {
        match self {
            Self::Fanfare(fanfare) => Some(fanfare),
            Self::SocketIo(dialect) => dialect.fanfare(),
            Self::Mesa(dialect) => dialect.fanfare(),
            Self::Plain(_) | Self::Centrifugo(_) | Self::Pusher(_) => None,
        }
    }

    /// How to speak.
    pub(crate) fn dialect(&self) -> &dyn Dialect {
        match self {
            Self::Fanfare(dialect) => dialect,
            Self::Plain(dialect) => dialect,
            Self::SocketIo(dialect) => dialect,
            Self::Mesa(dialect) => dialect,
            Self::Centrifugo(dialect) => dialect,
            Self::Pusher(dialect) => dialect,
        }
    }
}

/// An error, unless the server that the command line names can send an event to whoever a filter is true for.
pub(crate) fn need_filters(target: &Target) -> Result<()> {
    if Driver::new(target)?.dialect().knows_filters() {
        return Ok(());
    }
    failed(format!(
        "{} knows no filters: this scenario measures fanfare and floor only",
        target.kind().name()
    ))
}

/// Where emits are sent.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// The server.
    pub(crate) address: SocketAddr,
    /// How it is spoken to.
    pub(crate) driver: Driver,
}

impl Api {
    /// The header line of a caller who asks the server something, where it has such; else nothing.
    pub(crate) fn authorization(&self) -> String {
        let fanfare = self.driver.fanfare();
        fanfare.map_or_else(String::new, Fanfare::authorization)
    }

    /// The same server, where Fanfare's clients join one of so many channels, and half of them hear who comes and goes
    /// there.
    pub(crate) fn in_channels(&self, channels: usize) -> Self {
        let driver = match &self.driver {
            Driver::Fanfare(fanfare) => Driver::Fanfare(fanfare.in_channels(channels)),
            other => other.clone(),
        };
        Self {
            address: self.address,
            driver,
        }
    }

    /// The whole request that emits an event with `data` (JSON text) to `recipients`, on a connection that is kept.
    pub(crate) fn emit(&self, recipients: Recipients, data: &str) -> Vec<u8> {
        self.driver.dialect().emit(self.address, recipients, data)
    }
}
