//! The soak's clients: those that stay, those that come and go, those that do not read, and those with bad tokens.

use std::{
    io,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::Scene;
use crate::{
    abuse::victim::ATTACKED,
    client::frames::GOODBYE,
    socket::{Heard, WebSocket},
};

/// Users of the soak. Half of them have clients that stay.
pub(super) const USERS: u64 = 200;

/// Channels that clients come to.
const CHANNELS: u64 = 500;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client, connected and not yet welcomed.
fn connect(scene: &Scene, query: &str) -> io::Result<WebSocket> {
    let path = format!("/v1/connect?app={ATTACKED}{query}");
    WebSocket::open(scene.address, &path, PATIENCE)
}

/// A token of user number `user`, which ends in `ttl` seconds.
fn token(scene: &Scene, user: u64, ttl: u64) -> String {
    let exp = super::unix_now() + ttl;
    let tenant = user % 10;
    scene.signer.sign_claims(&format!(
        r#"{{"sub":"u{user}","exp":{exp},"tenant":"t{tenant}"}}"#
    ))
}

/// Clients that answer whatever comes, for as long as they are kept.
#[derive(Debug, Default)]
struct Kept(Vec<(WebSocket, Option<Instant>)>);

impl Kept {
    /// Keeps a client, until a moment if there is one.
    fn keep(&mut self, socket: WebSocket, until: Option<Instant>) -> io::Result<()> {
        socket.set_nonblocking()?;
        self.0.push((socket, until));
        Ok(())
    }

    /// Reads what has come to all, and lets go of those that have ended or whose time is over.
    fn read(&mut self) {
        let now = Instant::now();
        self.0.retain_mut(|(socket, until)| {
            loop {
                match socket.next() {
                    Heard::Text(_) => {}
                    Heard::Nothing => break,
                    Heard::Ended => return false,
                }
            }
            until.is_none_or(|until| until > now)
        });
    }
}

/// Clients that stay: each in a channel with history, in one that is watched, and in one of all.
pub(super) fn stay(scene: &Scene, count: u64) -> io::Result<()> {
    let mut kept = Kept::default();
    for n in 0..count {
        let token = token(scene, n % (USERS / 2), 30 * 24 * 3600);
        let query = format!(
            "&token={token}&channel=all&channel=kept-{}&channel=watched-{}",
            n % 20,
            n % 5
        );
        kept.keep(connect(scene, &query)?, None)?;
        scene.ledger.came();
    }
    scene.arrived();
    while !scene.is_over() {
        kept.read();
        thread::sleep(Duration::from_millis(20));
    }
    // Gone all at the same moment, without a word.
    Ok(())
}

/// Clients that come ten times a second, do a few things, and end in one of four ways.
pub(super) fn come_and_go(scene: &Scene) {
    let mut kept = Kept::default();
    scene.every(Duration::from_millis(100), |n| {
        kept.read();
        let ttl = if n % 4 == 3 { 3 } else { 30 * 24 * 3600 };
        let token = token(scene, n * 7 % USERS, ttl);
        let channel = n * 13 % CHANNELS;
        let query = format!("&token={token}&device=d{n}&channel=room-{channel}");
        let Ok(mut socket) = connect(scene, &query) else {
            return;
        };
        scene.ledger.came();
        for text in [
            format!(r#"{{"op":"update","data":{{"round":{n},"tags":["a{n}","b"]}}}}"#),
            format!(
                r#"{{"op":"join","id":1,"channel":"watched-{}","members":true}}"#,
                n % 5
            ),
            format!(
                r#"{{"op":"join","id":2,"channel":"kept-{}","since":{{"offset":0}}}}"#,
                n % 20
            ),
            format!(r#"{{"op":"join","channel":"once-{n}"}}"#),
            format!(r#"{{"op":"leave","channel":"room-{channel}"}}"#),
            r#"{"op":"ping","id":3}"#.to_owned(),
        ] {
            let _ = socket.send(&text);
        }
        let now = Instant::now();
        let kept = &mut kept;
        let _ = match n % 4 {
            // Lost without a word, after a while.
            0 => kept.keep(socket, Some(now + Duration::from_secs(2))),
            1 => socket.send_raw(&GOODBYE),
            // By a reset, or by the end of its token.
            2 => {
                crate::abuse::reset(&socket.into_parts().0);
                Ok(())
            }
            _ => kept.keep(socket, Some(now + Duration::from_secs(6))),
        };
    });
}

/// Clients that do not read, three at a time for ten seconds, while events go to everyone.
pub(super) fn stall(scene: &Scene) {
    let mut stalled: Vec<TcpStream> = Vec::new();
    scene.every(Duration::from_secs(10), |n| {
        stalled.clear();
        for at in 0..3 {
            let token = token(scene, (n + at) % USERS, 3600);
            if let Ok(socket) = connect(scene, &format!("&token={token}&channel=all")) {
                scene.ledger.came();
                stalled.push(socket.into_parts().0);
            }
        }
    });
}

/// Clients with tokens that are none, five times a second.
pub(super) fn be_refused(scene: &Scene) {
    scene.every(Duration::from_millis(200), |n| {
        if let Ok(mut socket) = connect(scene, &format!("&token=x.{n}.z")) {
            let until = Instant::now() + Duration::from_secs(1);
            while socket.next() != Heard::Ended && Instant::now() < until {}
        }
    });
}
