//! Runs a program to its end, with all that it starts, or ends it.

use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::{Doing, Result};

/// How long a program that is asked to end may take.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, which was not sent here.
    Killed(i32),
    /// It took too long.
    TooLate,
    /// All was called off.
    Stopped,
}

/// What a program did.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) ended: Ended,
    pub(super) output: String,
    pub(super) errors: String,
}

impl Run {
    /// What a scenario says last of why it failed; it, and a server that it starts, may have said much before.
    pub(super) fn reason(&self) -> &str {
        let mut lines = self
            .errors
            .lines()
            .rev()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let last = lines.clone().next().unwrap_or_default();
        lines
            .find_map(|line| line.strip_prefix("error: "))
            .unwrap_or(last)
    }
}

/// Runs `command` until it ends, or ends it after `limit` or when `stop` is set. Nothing that it has started is left
/// when this returns, as long as it stays in its process group.
pub(super) fn run(mut command: Command, limit: Duration, stop: &AtomicBool) -> Result<Run> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        // An interrupt from the terminal is for this process alone, which then decides.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(format!("cannot start {name}"))?;
    // Pipes are emptied all the time: a full one would stop the program.
    let (output, errors) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let group = Pid::from_child(&child);
    let why = wait(group, Instant::now() + limit, Some(stop))?;
    if why.is_some() {
        // Fails only where nobody is left.
        let _ = kill_process_group(group, Signal::TERM);
        wait(group, Instant::now() + GRACE, None)?;
    }
    // It is waited for only after this, so that its number still stands for its group.
    let _ = kill_process_group(group, Signal::KILL);
    let status = reap(&mut child, &name)?;
    Ok(Run {
        ended: why.unwrap_or(ended(status)),
        output: text(output),
        errors: text(errors),
    })
}

/// Waits until the process has ended, without taking its status; says why it did not.
fn wait(process: Pid, until: Instant, stop: Option<&AtomicBool>) -> Result<Option<Ended>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(process), options) {
            Ok(Some(_)) => return Ok(None),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).doing("cannot wait for a program"),
        }
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(Some(Ended::Stopped));
        }
        if Instant::now() > until {
            return Ok(Some(Ended::TooLate));
        }
        std::thread::sleep(TICK);
    }
}

fn reap(child: &mut Child, name: &str) -> Result<ExitStatus> {
    child.wait().doing(format!("cannot wait for {name}"))
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or(0)),
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is kept.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

fn text(collecting: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&collecting.join().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, stop: bool) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit, &AtomicBool::new(stop)).unwrap()
    }

    #[test]
    fn what_a_program_says_and_how_it_ends_is_known() {
        let run = shell(
            "echo said; echo wrong >&2; exit 2",
            Duration::from_secs(10),
            false,
        );
        assert_eq!(
            (run.ended, run.output.as_str(), run.errors.as_str()),
            (Ended::Exited(2), "said\n", "wrong\n")
        );
        assert_eq!(
            shell("kill -9 $$", Duration::from_secs(10), false).ended,
            Ended::Killed(9)
        );
    }

    #[test]
    fn the_reason_is_the_error_and_not_what_a_server_says() {
        let run = shell(
            "echo 'error: this; that' >&2; echo 'WARN it ends' >&2",
            Duration::from_secs(10),
            false,
        );
        assert_eq!(run.reason(), "this; that");
        assert_eq!(
            shell("echo one >&2; echo two >&2", Duration::from_secs(10), false).reason(),
            "two"
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        // The inner one keeps the pipe open, and takes no hint.
        let script = "(trap '' TERM; echo inner; sleep 600; sleep 600) & sleep 600";
        let began = Instant::now();
        // On a busy machine it takes a while until it has said anything.
        let run = (0..8)
            .map(|n| shell(script, Duration::from_millis(300 << n), false))
            .find(|run| !run.output.is_empty())
            .unwrap();
        assert_eq!(
            (run.ended, run.output.as_str()),
            (Ended::TooLate, "inner\n")
        );
        assert!(began.elapsed() < Duration::from_mins(5));
    }

    #[test]
    fn a_program_ends_when_all_is_called_off() {
        assert_eq!(
            shell("sleep 60", Duration::from_mins(1), true).ended,
            Ended::Stopped
        );
    }
}
