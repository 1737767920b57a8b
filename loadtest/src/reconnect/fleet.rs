//! All clients, on one event loop.

use std::{net::SocketAddr, time::Duration};

use mio::{Events, Interest, Poll, Token};

use super::client::{Client, Way};
use crate::{
    clock,
    error::{Doing, Result, failed},
    token::Signer,
};

/// Handshakes that may begin in one look of the loop: an accept queue holds some thousands.
const DIALS: usize = 256;

/// How often the loop looks at who is due.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Fleet {
    poll: Poll,
    events: Events,
    pub(super) clients: Vec<Client>,
    /// Where they connect to, in turn.
    pub(super) nodes: Vec<SocketAddr>,
    signer: Signer,
    buffer: Vec<u8>,
}

impl Fleet {
    pub(super) fn new(clients: Vec<Client>, nodes: Vec<SocketAddr>, secret: &str) -> Result<Self> {
        Ok(Self {
            poll: Poll::new().doing("no event loop")?,
            events: Events::with_capacity(1024),
            clients,
            nodes,
            signer: Signer::new(secret),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Lets the clients work until `is_done` says so, or fails after `patience`.
    pub(super) fn until(
        &mut self,
        what: &str,
        patience: Duration,
        is_done: impl Fn(&[Client]) -> bool,
    ) -> Result<()> {
        let until = clock::now() + clock::nanos(patience);
        while !is_done(&self.clients) {
            if clock::now() > until {
                return failed(format!("the clients wait in vain until {what}"));
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Lets the clients work until this moment.
    pub(super) fn work(&mut self, until: u64) -> Result<()> {
        while clock::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    /// Begins a way back for each client.
    pub(super) fn begin(&mut self) {
        for client in &mut self.clients {
            client.way = Way::default();
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.dial()?;
        match self.poll.poll(&mut self.events, Some(LOOK)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            polled => polled.doing("the event loop fails")?,
        }
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            let mut lives = true;
            if event.is_writable() {
                lives = client.connected(&self.signer).is_ok();
                if let Some(socket) = &mut client.socket {
                    let registry = self.poll.registry();
                    let watched = registry.reregister(socket, event.token(), Interest::READABLE);
                    watched.doing("cannot watch a socket")?;
                }
            }
            if lives && (event.is_readable() || event.is_read_closed()) {
                lives = client.read(&mut self.buffer);
            }
            if !lives || event.is_error() {
                client.ended();
            }
        }
        Ok(())
    }

    fn dial(&mut self) -> Result<()> {
        let now = clock::now();
        let due = |client: &&mut Client| client.due().is_some_and(|due| due <= now);
        for client in self.clients.iter_mut().filter(due).take(DIALS) {
            if client.dial(&self.nodes).is_err() {
                client.ended();
                continue;
            }
            let token = Token(client.number);
            if let Some(socket) = &mut client.socket {
                let registry = self.poll.registry();
                let watched = registry.register(socket, token, Interest::WRITABLE);
                watched.doing("cannot watch a socket")?;
            }
        }
        Ok(())
    }
}
