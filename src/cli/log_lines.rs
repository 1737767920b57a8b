//! Log lines on their way to a stream whose reader may be slow, or stuck for good.
//!
//! `write(2)` on a full pipe, on a stopped terminal or on a disk that hangs waits as long as the other side likes. So
//! the server's threads only append to a bounded queue, and a thread that nobody waits for writes. Lines that do not
//! fit are dropped and counted. Once the reader is back, one line says how many.

use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use rustix::io::Errno;

use crate::limits::{LOG_BYTES, LOG_FAREWELL};

/// How long to wait for a stream that another program has set to refuse instead of to wait.
const REFUSED: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this thread is reporting how many lines were dropped, for which there is always
    /// room.
    static IS_REPORTING: Cell<bool> = const { Cell::new(false) };
}

/// The queue. It is filled from the start; nothing is written before [`LogLines::write_to`].
#[derive(Debug, Default)]
pub(super) struct LogLines {
    state: Mutex<State>,
    /// Something waits, or no more will come.
    filled: Condvar,
    /// Everything was written after [`State::is_over`] was set.
    written: Condvar,
    /// The metric, once there is a server.
    counter: OnceLock<Counter>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines dropped since the start.
    dropped: u64,
    /// Those of them that no line has mentioned.
    unmentioned: u64,
    /// Whether the writer is to end when nothing waits.
    is_over: bool,
    has_ended: bool,
}

impl LogLines {
    /// Appends one line, or drops it. Never waits for the reader.
    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.waiting.len() + line.len() > LOG_BYTES && !IS_REPORTING.get() {
            self.drop_lines(&mut state, 1);
            return;
        }
        append_escaped(&mut state.waiting, line);
        drop(state);
        self.filled.notify_one();
    }

    fn drop_lines(&self, state: &mut State, lines: u64) {
        state.dropped += lines;
        state.unmentioned += lines;
        if let Some(counter) = self.counter.get() {
            counter.inc_by(lines);
        }
    }

    /// Counts dropped lines in `counter` too, those so far included. Only the first counter is taken.
    pub(super) fn count_in(&self, counter: Counter) {
        let state = self.state.lock();
        if self.counter.get().is_none() {
            counter.inc_by(state.dropped);
            // Nobody else sets it under this lock.
            let _ = self.counter.set(counter);
        }
    }

    /// Starts the thread that writes to `stream`. It calls `report` with the number of lines that were dropped, after
    /// what was before them is written.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn write_to(
        self: &Arc<Self>,
        stream: impl AsFd + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let lines = self.clone();
        thread::Builder::new()
            .name("fanfare-log".to_owned())
            .spawn(move || lines.work(&stream, &report))
            .map(drop)
    }

    fn work(&self, stream: &impl AsFd, report: &impl Fn(u64)) {
        while let Some(bytes) = self.next() {
            // Without the lock: the server's threads append while the reader is slow.
            let lost = write(stream, &bytes);
            let mut state = self.state.lock();
            let unmentioned = if lost == 0 {
                mem::take(&mut state.unmentioned)
            } else {
                // A reader that is gone for good is not notified of it again and again.
                self.drop_lines(&mut state, lost);
                0
            };

            drop(state);
            if unmentioned > 0 {
                IS_REPORTING.set(true);
                report(unmentioned);
                IS_REPORTING.set(false);
            }
        }

        self.state.lock().has_ended = true;
        self.written.notify_all();
    }

    /// Waits for lines, and takes all of them. Nothing is left to come after `None`.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.is_over {
                return None;
            }
            self.filled.wait(&mut state);
        }
        Some(mem::take(&mut state.waiting))
    }

    /// Waits until everything is written, but not for a reader that is stuck.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + LOG_FAREWELL;
        let mut state = self.state.lock();
        state.is_over = true;
        self.filled.notify_one();
        while !state.has_ended {
            if self.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

/// One call is one line: the subscriber formats each as a whole.
impl Write for &LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends `line` as one line, whatever it says: texts of strangers must not make lines of their own.
fn append_escaped(to: &mut Vec<u8>, line: &[u8]) {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    to.reserve(text.len() + 1);
    for (n, part) in text.split(|byte| *byte == b'\n').enumerate() {
        if n > 0 {
            to.extend_from_slice(b"\\n");
        }
        for (n, part) in part.split(|byte| *byte == b'\r').enumerate() {
            if n > 0 {
                to.extend_from_slice(b"\\r");
            }
            to.extend_from_slice(part);
        }
    }

    to.push(b'\n');
}

/// Writes all of `bytes`, however long that takes. Returns how many lines are lost because the stream is broken.
fn write(stream: &impl AsFd, mut bytes: &[u8]) -> u64 {
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => thread::sleep(REFUSED),
            Err(_) => break,
        }
    }
    // One that was written in part counts as well: its reader cannot use it.
    bytes.split(|byte| *byte == b'\n').skip(1).count() as u64
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::OwnedFd};

    use super::*;

    fn pipe() -> (File, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        (OwnedFd::from(reader).into(), writer.into())
    }

    /// Lines of 100 bytes, numbered.
    fn line(n: usize) -> String {
        format!("{n:099}\n")
    }

    fn mentioned(lines: &Arc<LogLines>) -> impl Fn(u64) + Send + 'static {
        let lines = lines.clone();
        move |count| lines.push(format!("dropped {count}\n").as_bytes())
    }

    #[test]
    fn what_a_stuck_reader_does_not_take_is_dropped_counted_and_told_once() {
        const MANY: usize = 3 * LOG_BYTES / 100;
        const PIPE: usize = 64 * 1024;
        let lines = Arc::new(LogLines::default());
        let (mut reader, writer) = pipe();
        lines.write_to(writer, mentioned(&lines)).unwrap();
        for n in 0..MANY {
            lines.push(line(n).as_bytes());
        }
        let counter = Counter::default();
        lines.count_in(counter.clone());
        let dropped = counter.get() as usize;
        // One queue waits, another one at most is being written, and the pipe has what it takes.
        assert!(
            dropped >= MANY - (2 * LOG_BYTES + PIPE) / 100 - 1,
            "{dropped}"
        );
        assert!(dropped <= MANY - LOG_BYTES / 100, "{dropped}");
        assert!(lines.state.lock().waiting.len() <= LOG_BYTES);

        // The reader is back.
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        // Longer than this test waits for a reader that is there.
        while counter.get() as usize == dropped && lines.state.lock().unmentioned > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        lines.push(b"after\n");
        lines.finish();
        let text = reading.join().unwrap().unwrap();
        let said: Vec<&str> = text.lines().collect();
        let written = MANY - dropped;
        assert_eq!(said.len(), written + 2);
        // Whatever the writer took while the queue was full made room for later ones.
        let numbers: Vec<usize> = said[..written]
            .iter()
            .map(|said| said.parse().unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "in order");
        for (n, said) in numbers.iter().zip(&said) {
            assert_eq!(*said, line(*n).trim_end(), "whole");
        }
        assert_eq!(said[written..], [&*format!("dropped {dropped}"), "after"]);
    }

    #[test]
    fn lines_wait_for_the_stream_and_the_end_waits_for_the_lines() {
        let lines = Arc::new(LogLines::default());
        (&*lines).write_all(b"first\n").unwrap();
        let (mut reader, writer) = pipe();
        lines.write_to(writer, mentioned(&lines)).unwrap();
        (&*lines).write_all(b"second\n").unwrap();
        lines.finish();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first\nsecond\n");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_is_stuck() {
        let lines = Arc::new(LogLines::default());
        let (_reader, writer) = pipe();
        lines.write_to(writer, mentioned(&lines)).unwrap();
        for n in 0..10_000 {
            lines.push(line(n).as_bytes());
        }
        lines.finish();
        assert!(!lines.state.lock().has_ended);
    }

    #[test]
    fn a_reader_that_is_gone_costs_its_lines_and_nothing_else() {
        let lines = Arc::new(LogLines::default());
        let (reader, writer) = pipe();
        drop(reader);
        lines.push(b"one\n");
        lines.push(b"two\n");
        lines.write_to(writer, mentioned(&lines)).unwrap();
        lines.finish();
        let state = lines.state.lock();
        assert!(state.has_ended && state.waiting.is_empty(), "{state:?}");
        assert_eq!(state.dropped, 2);
    }

    #[test]
    fn one_line_stays_one_line() {
        let mut line = Vec::new();
        append_escaped(&mut line, b"refused: a\nERROR forged\r\nb\n");
        assert_eq!(line, b"refused: a\\nERROR forged\\r\\nb\n");
        let mut line = Vec::new();
        append_escaped(&mut line, b"no end");
        assert_eq!(line, b"no end\n");
    }
}
