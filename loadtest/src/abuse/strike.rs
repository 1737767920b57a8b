//! An attacking process, as the harness sees it: started, told to begin, read to its end.

use std::{
    io::{BufRead, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use super::{
    arms::{Deeds, GO, READY},
    attack::Attack,
    victim::Victim,
};
use crate::error::{Doing, Result, failed};

/// How long an attack may prepare itself. A debug build of the server needs most of it.
const PREPARE: Duration = Duration::from_secs(90);

/// How long it may go on after its time is over: answers that it waits for come late, or never.
const OVERTIME: Duration = Duration::from_secs(30);

/// Lines that wait to be read: an attack says two.
const LINES: usize = 16;

/// A process that attacks; killed when dropped.
#[derive(Debug)]
pub(super) struct Strike {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    duration: Duration,
}

impl Strike {
    /// Starts it, and waits until it is prepared.
    pub(super) fn prepare(
        attack: &Attack,
        victim: &Victim,
        duration: Duration,
        is_small: bool,
    ) -> Result<Self> {
        let program = std::env::current_exe().doing("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["attack", attack.name]);
        for (flag, value) in [
            ("--address", victim.address.to_string()),
            ("--admin", victim.admin.to_string()),
            ("--pid", victim.process().0.to_string()),
            ("--duration", format!("{}ms", duration.as_millis())),
        ] {
            command.args([flag, &value]);
        }
        if is_small {
            command.arg("--small");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().doing("cannot start an attack")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return failed("an attack has no pipes");
        };

        let (sender, lines) = mpsc::sync_channel(LINES);
        thread::spawn(move || {
            for line in BufReader::new(stdout)
                .lines()
                .map_while(std::result::Result::ok)
            {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let strike = Self {
            child,
            stdin,
            lines,
            duration,
        };
        match strike.lines.recv_timeout(PREPARE) {
            Ok(line) if line == READY => Ok(strike),
            Ok(line) => failed(format!("the attack says {line:?}")),
            Err(error) => failed(format!("the attack is not prepared: {error}")),
        }
    }

    /// Lets it begin.
    pub(super) fn begin(&mut self) -> Result<()> {
        writeln!(self.stdin, "{GO}").doing("cannot let an attack begin")
    }

    /// What it did, once it has ended.
    pub(super) fn end(mut self) -> Result<Deeds> {
        let line = match self.lines.recv_timeout(self.duration + OVERTIME) {
            Ok(line) => line,
            Err(error) => return failed(format!("the attack does not end: {error}")),
        };
        let _ = self.child.wait();
        serde_json::from_str(&line)
            .map_err(std::io::Error::from)
            .doing(format!("the attack says {line:?}"))
    }
}

impl Drop for Strike {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
