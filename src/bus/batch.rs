//! Calls of a script that takes several together: those that wait one after another go to Redis as one EVALSHA.
//!
//! `KEYS` are the keys that all calls share, then those of each run; `ARGV` are the arguments that all share, then those of each
//! run, how many calls it has, and the arguments of each. A run is calls with the same keys and arguments of the run, in their
//! order. Calls of one run go before those of another that came between them: a script is atomic, and none of them was answered.
//! The script answers each run: by an array, or by one text if none of its calls was carried out, which is the error.

use ahash::AHashMap;
use bytes::Bytes;
use redis::{Cmd, Script, Value};

use super::command_queue::{Payload, QueuedCommand, ScriptAt};
use crate::limits::{BUS_BATCH_CALLS, BUS_PIPELINE_BYTES};

/// What calls may have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallPart {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) args: Vec<Bytes>,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    /// The same for every call of the script in a partition: those of the first one are taken.
    pub(crate) shared: CallPart,
    pub(crate) run: CallPart,
    /// Arguments of the run that go before the others, and that need not be the same: those of the first call are taken.
    pub(crate) hint: Vec<Bytes>,
    pub(crate) args: Vec<Bytes>,
}

/// Calls of one topic.
struct Run<'a> {
    first: &'a Call,
    calls: Vec<&'a [Bytes]>,
}

impl CallPart {
    fn bytes(&self) -> usize {
        // About 16 bytes are what the protocol of Redis puts around each.
        let keys = self.keys.iter().map(|key| key.len() + 16).sum::<usize>();
        keys + self.args.iter().map(|arg| arg.len() + 16).sum::<usize>()
    }
}

impl Call {
    /// About how many bytes it is alone.
    pub(super) fn bytes(&self) -> usize {
        let own = self.args.iter().map(|arg| arg.len() + 16).sum::<usize>();
        let hint = self.hint.iter().map(|arg| arg.len() + 16).sum::<usize>();
        self.shared.bytes() + self.run.bytes() + hint + own + 80
    }
}

/// Where the answer to an item is among those of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyPlace {
    /// Which reply.
    pub(super) reply: usize,
    /// Where it is in the reply, for one of calls that were sent as one.
    pub(super) run: Option<PlaceInRun>,
}

/// Where the answer to a call is among those of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlaceInRun {
    /// Which run it is in.
    pub(super) run: usize,
    /// How many calls of the run come after it.
    pub(super) after: usize,
}

/// A call of a batch.
#[derive(Clone, Copy, Debug)]
struct BatchedCall {
    /// Which run it is in.
    run: usize,
    /// Which of the run's calls it is.
    number: usize,
}

/// Calls that go as one.
pub(super) struct Batch<'a> {
    script: &'static Script,
    partition: Option<u16>,
    shared: &'a CallPart,
    runs: Vec<Run<'a>>,
    /// The last run of each topic, by its keys.
    last: AHashMap<&'a [Vec<u8>], usize>,
    calls: Vec<BatchedCall>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    /// The calls that `items` begin with, and that may go as one: of one script, and of one partition if it `is_tagged`. Nothing if
    /// they begin with something else.
    pub(super) fn of(items: &'a [QueuedCommand], is_tagged: bool) -> Option<Self> {
        let first = items.first()?;
        let (at, call) = call_of(first)?;
        let partition = |at: ScriptAt| is_tagged.then_some(at.partition);
        let mut batch = Self {
            script: at.script,
            partition: partition(at),
            shared: &call.shared,
            runs: Vec::new(),
            last: AHashMap::new(),
            calls: Vec::new(),
            bytes: 0,
        };

        for item in items {
            let Some((at, call)) = call_of(item) else {
                break;
            };

            let is_other = at.script.get_hash() != batch.script.get_hash()
                || partition(at) != batch.partition
                || item.again != first.again;
            // The first call goes in any case, however long it is.
            let is_full = batch.calls.len() >= BUS_BATCH_CALLS
                || batch.bytes > 0 && batch.bytes + item.bytes > BUS_PIPELINE_BYTES;
            if is_other || is_full {
                break;
            }

            batch.add(call, item.bytes);
        }

        Some(batch)
    }

    fn add(&mut self, call: &'a Call, bytes: usize) {
        self.bytes += bytes;
        let last = self.last.get(&call.run.keys[..]).copied();
        // The same topic with other arguments of its run, such as no channel to publish to, is another run.
        let last = last.filter(|&run| self.runs[run].first.run == call.run);

        let run = last.unwrap_or_else(|| {
            self.last.insert(&call.run.keys, self.runs.len());
            self.runs.push(Run {
                first: call,
                calls: Vec::new(),
            });
            self.runs.len() - 1
        });

        self.calls.push(BatchedCall {
            run,
            number: self.runs[run].calls.len(),
        });
        self.runs[run].calls.push(&call.args);
    }

    /// How many items it is.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The command, whose reply is at `reply`, and where in it each call finds its answer.
    pub(super) fn command(&self, reply: usize, places: &mut Vec<ReplyPlace>) -> Cmd {
        let mut command = Cmd::with_capacity(3 + self.calls.len() * 8, self.bytes);
        let keys = self.runs.iter().flat_map(|run| &run.first.run.keys);
        let keys: Vec<&Vec<u8>> = self.shared.keys.iter().chain(keys).collect();

        command
            .arg("EVALSHA")
            .arg(self.script.get_hash())
            .arg(keys.len());
        for key in keys {
            command.arg(&key[..]);
        }

        for arg in &self.shared.args {
            command.arg(&arg[..]);
        }

        for Run { first, calls } in &self.runs {
            for arg in first.hint.iter().chain(&first.run.args) {
                command.arg(&arg[..]);
            }
            command.arg(calls.len());
            for arg in calls.iter().copied().flatten() {
                command.arg(&arg[..]);
            }
        }

        places.extend(self.calls.iter().map(|call| {
            let in_run = PlaceInRun {
                run: call.run,
                after: self.runs[call.run].calls.len() - call.number - 1,
            };
            ReplyPlace {
                reply,
                run: Some(in_run),
            }
        }));

        command
    }
}

fn call_of(item: &QueuedCommand) -> Option<(ScriptAt, &Call)> {
    match &item.payload {
        Payload::Call(call) => Some((item.script?, call)),
        Payload::Command(_) => None,
    }
}

/// An error of Redis.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisFault {
    pub(super) code: String,
    pub(super) text: String,
}

impl RedisFault {
    fn new(code: &str, text: &str) -> Self {
        Self {
            code: code.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// What became of one call of a run: the answer to the run, and how many of its calls came after it.
pub(super) fn answer(reply: &Value, place: PlaceInRun) -> Result<Value, RedisFault> {
    let malformed = || RedisFault::new("ERR", "its answer has no such run");
    let Value::Array(runs) = reply else {
        return Err(malformed());
    };

    match runs.get(place.run) {
        Some(Value::Array(parts)) => match &parts[..] {
            [Value::BulkString(error)] => {
                let error = String::from_utf8_lossy(error);
                let (code, text) = error.split_once(' ').unwrap_or(("ERR", &error));
                Err(RedisFault::new(code, text))
            }
            parts => {
                // The run has one answer, that of its last call. With the number of calls after it,
                // each caller can work out its own offset.
                let mut parts = parts.to_vec();
                parts.push(Value::Int(place.after as i64));
                Ok(Value::Array(parts))
            }
        },
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, sync::LazyLock};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        bus::{
            command_queue::{CommandQueue, Earlier},
            connection::Address,
        },
        limits::Limits,
        metrics::Metrics,
    };

    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new("return 1"));

    fn part(name: &str) -> CallPart {
        CallPart {
            keys: vec![format!("key {name}").into()],
            args: vec![format!("arg {name}").into()],
        }
    }

    fn items(of: &[(u16, &str)]) -> Vec<QueuedCommand> {
        let queue = Arc::new(CommandQueue::new(
            Address::new("h", 1),
            &Limits::default(),
            Arc::new(Metrics::new()),
        ));
        queue.open();
        for (n, (partition, run)) in of.iter().enumerate() {
            let payload = if run.is_empty() {
                Payload::Command(Cmd::new())
            } else {
                Payload::Call(Box::new(Call {
                    shared: part("shared"),
                    run: part(run),
                    hint: vec![format!("hint {n}").into()],
                    args: vec![n.to_string().into()],
                }))
            };
            let script = Some(ScriptAt {
                script: &SCRIPT,
                partition: *partition,
            });
            drop(queue.send(payload, 1, script));
        }
        queue.take(Instant::now(), Earlier::HaveEnded).unwrap()
    }

    fn words(command: &Cmd) -> Vec<String> {
        let words = command.args_iter().skip(2);
        let text = |word| match word {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        words.map(text).collect()
    }

    #[test]
    fn calls_that_follow_each_other_go_as_one_in_their_order() {
        let items = items(&[(1, "a"), (1, "a"), (2, "b"), (1, "a"), (1, ""), (1, "a")]);
        let mut places = Vec::new();
        let batch = Batch::of(&items, false).unwrap();
        assert_eq!(batch.len(), 4, "a command is between");
        let command = batch.command(7, &mut places);
        let expected = "3|key shared|key a|key b|arg shared|hint 0|arg a|3|0|1|3|hint 2|arg b|1|2";
        assert_eq!(words(&command).join("|"), expected);
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.reply, place.run))
            .collect();
        let runs = [(0, 2), (0, 1), (1, 0), (0, 0)];
        let runs = runs.map(|(run, after)| PlaceInRun { run, after });
        assert_eq!(found, runs.map(|run| (7, Some(run))));

        assert_eq!(
            Batch::of(&items, true).unwrap().len(),
            2,
            "of one partition"
        );
        assert!(Batch::of(&items[4..], true).is_none());
    }

    #[test]
    fn each_call_has_the_answer_of_its_run() {
        let text = |text: &str| Value::BulkString(text.into());
        let run = Value::Array(vec![text("epoch"), Value::Int(5)]);
        let error = Value::Array(vec![text("OOM no memory left")]);
        let reply = Value::Array(vec![run, error]);
        let expected = Value::Array(vec![text("epoch"), Value::Int(5), Value::Int(3)]);
        let at = |run, after| PlaceInRun { run, after };
        assert_eq!(answer(&reply, at(0, 3)), Ok(expected));
        let expected = RedisFault::new("OOM", "no memory left");
        assert_eq!(answer(&reply, at(1, 0)), Err(expected));
        assert!(answer(&reply, at(2, 0)).is_err());
    }
}
