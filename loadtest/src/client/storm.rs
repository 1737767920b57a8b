//! Connections that come all at once, go all at once, and come again.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    connection::Connection,
    control::Connect,
    latencies::{Counted, counted, histogram},
};
use crate::{
    clock,
    error::{Result, failed},
};

/// How long the server may take to answer the close frames of one storm.
const PATIENCE: u64 = 10_000_000_000;

/// Source addresses that one storm takes.
const SOURCES: u16 = 64;

/// What storms brought.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stormed {
    /// Connections that had their welcome.
    pub(crate) handshakes: u64,
    /// Of those, how many the server ended before they went.
    pub(crate) cut: u64,
    /// From the first dial until the last was gone.
    pub(crate) seconds: f64,
    /// From a connection's dial to its welcome, in nanoseconds.
    pub(crate) welcomes: Counted,
}

/// One storm after another, until they are to stop.
#[derive(Debug)]
pub(super) struct Storm {
    order: Connect,
    begun: u64,
    welcomes: Histogram<u64>,
    stormed: Stormed,
    pub(super) is_stopping: bool,
    /// Connections whose close frame the server has not answered, once they are going.
    going: Option<usize>,
    gone_since: u64,
}

/// What is to be done when all of a storm have gone.
pub(super) enum Next {
    /// Some have not.
    Wait,
    /// Connect anew.
    Connect(Connect),
    /// Report.
    Calm(Stormed),
}

impl Storm {
    pub(super) fn new(order: Connect) -> Result<Self> {
        let now = clock::now();
        Ok(Self {
            order,
            begun: now,
            welcomes: histogram()?,
            stormed: Stormed::default(),
            is_stopping: false,
            going: None,
            gone_since: now,
        })
    }

    /// Counts a connection that took so long to its welcome.
    pub(super) fn welcomed(&mut self, nanos: u64) {
        self.stormed.handshakes += 1;
        self.welcomes.saturating_record(nanos.max(1));
    }

    /// Counts a connection that the server has ended, or whose goodbye it has answered.
    pub(super) fn ended(&mut self) {
        match &mut self.going {
            Some(going) => *going = going.saturating_sub(1),
            None => self.stormed.cut += 1,
        }
    }

    /// Sends all away: every other one with a close frame that the server is to answer, the others by a reset.
    pub(super) fn scatter(&mut self, connections: &mut [Option<Connection>]) -> Result<()> {
        for (at, slot) in connections.iter_mut().enumerate() {
            if at % 2 == 1
                && let Some(connection) = slot.take()
            {
                connection.reset()?;
            }
        }
        let left = connections.iter_mut().flatten();
        self.going = Some(left.map(Connection::say_goodbye).count());
        self.gone_since = clock::now();
        Ok(())
    }

    /// What to do now.
    pub(super) fn next(&mut self) -> Result<Next> {
        let now = clock::now();
        match self.going {
            Some(0) => {}
            Some(going) if now - self.gone_since > PATIENCE => {
                return failed(format!("the server has not answered {going} close frames"));
            }
            _ => return Ok(Next::Wait),
        }
        self.going = None;
        if self.is_stopping {
            self.stormed.seconds = (now - self.begun) as f64 / 1e9;
            self.stormed.welcomes = counted(&self.welcomes);
            return Ok(Next::Calm(std::mem::take(&mut self.stormed)));
        }
        self.order.source = self.order.source.wrapping_add(SOURCES);
        Ok(Next::Connect(self.order.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Driver;

    #[test]
    fn storms_follow_each_other_from_other_addresses_until_they_are_to_stop() {
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let (driver, receive_buffer) = (Driver::floor(), None);
        let (rate, is_open_loop) = (1, false);
        let order = Connect {
            to,
            first: 0,
            count: 0,
            driver,
            source: 3,
            rate,
            is_open_loop,
            receive_buffer,
        };
        let mut storm = Storm::new(order).unwrap();
        assert!(
            matches!(storm.next().unwrap(), Next::Wait),
            "they are coming"
        );
        storm.welcomed(5);
        storm.ended();
        storm.scatter(&mut []).unwrap();
        assert!(
            matches!(storm.next().unwrap(), Next::Connect(order) if order.source == 3 + SOURCES)
        );
        storm.is_stopping = true;
        assert!(
            matches!(storm.next().unwrap(), Next::Wait),
            "the last one has yet to go"
        );
        storm.scatter(&mut []).unwrap();
        let Next::Calm(stormed) = storm.next().unwrap() else {
            panic!("all are gone")
        };
        assert_eq!(
            (stormed.handshakes, stormed.cut, stormed.welcomes),
            (1, 1, vec![(5, 1)])
        );
    }
}
