//! Calls of clients to functions of the program that embeds the server.
//!
//! Functions run on a thread and a runtime that serve no client ([`Calls::serve`]), as one task for each call. The session
//! that began a call goes on reading: a function may take longer than a client has to answer a ping.
//!
//! A function runs to its end whether or not its client is still there, at most for `limits.call`. Until it has ended it
//! holds a place among the calls of its connection, and one among those of its app or of the node.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    hub::Snapshot,
    id::AppId,
    limits::{CALLS_OF_CONNECTION, Limits},
    protocol::event::Data,
};

/// Why a function does not answer a call with a value: what the client's `error` says.
///
/// A handler returns one, often by `?`.
///
/// ```
/// use fanfare::CallError;
///
/// fn divide(a: f64, b: f64) -> Result<f64, CallError> {
///     if b == 0.0 {
///         return Err(CallError::new("division_by_zero", "b must not be 0"));
///     }
///     Ok(a / b)
/// }
/// assert_eq!(divide(1.0, 0.0).unwrap_err().code(), "division_by_zero");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    code: String,
    message: String,
}

impl CallError {
    /// An error with a `code` for programs and a `message` for people. The client gets both, so neither may hold a secret.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }

    /// The code, for programs.
    pub fn code(&self) -> &str {
        &self.code
    }
}

/// What a client gave its call.
#[derive(Clone, Debug)]
pub(crate) enum Argument {
    /// JSON text as it came.
    Json(Box<RawValue>),
    Bytes(Vec<u8>),
}

impl Argument {
    /// Reads it as JSON.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        let read = match self {
            Self::Json(json) => serde_json::from_str(json.get()).map_err(|error| error.to_string()),
            Self::Bytes(_) => Err("this function takes JSON, not bytes".to_owned()),
        };
        read.map_err(|error| CallError::new("bad_data", format!("data: {error}")))
    }
}

impl From<Data<'_>> for Argument {
    fn from(data: Data<'_>) -> Self {
        match data {
            Data::Json(json) => Self::Json(json.to_owned()),
            Data::Bytes(bytes) => Self::Bytes(bytes.into_owned()),
        }
    }
}

/// One call on its way to its function.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) name: Arc<str>,
    /// The app of the caller.
    pub(crate) app: Arc<str>,
    /// The caller, as it was when it called.
    pub(crate) caller: Snapshot,
    pub(crate) argument: Argument,
}

/// What a function makes of a call.
type CallResult = Result<Box<RawValue>, CallError>;

/// A function of the embedding program.
pub(crate) type Function =
    Arc<dyn Fn(Invocation) -> Pin<Box<dyn Future<Output = CallResult> + Send>> + Send + Sync>;

/// The functions of the embedding program, by name.
#[derive(Default)]
pub(crate) struct Functions(HashMap<Arc<str>, Function>);

impl Functions {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a function; false if there is one of that name.
    pub(crate) fn add(&mut self, name: &str, function: Function) -> bool {
        match self.0.entry(name.into()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(function);
                true
            }
        }
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a call was not begun, or has no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no function is set up to take the call \"{0}\"")]
    NoFunction(String),
    #[error(
        "{CALLS_OF_CONNECTION} calls of this connection are running; wait for one to be answered"
    )]
    TooMany,
    #[error("the node is running as many calls as it may; try again")]
    Busy,
    #[error("the function did not answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error("the function failed")]
    Panicked,
    #[error("the function's answer is over {0} bytes (a quarter of limits.outbox_bytes)")]
    TooLong(usize),
    #[error(transparent)]
    Failed(#[from] CallError),
}

impl Unanswered {
    /// The code in the client's `error`.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Failed(error) => error.code(),
            other => other.reason(),
        }
    }

    /// The same as a label: a function can make up as many codes as it likes.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoFunction(_) => "no_functions",
            Self::TooMany => "too_many_calls",
            Self::Busy => "busy",
            Self::Late(_) => "call_timeout",
            Self::Panicked => "internal",
            Self::TooLong(_) => "answer_too_large",
            Self::Failed(_) => "call_failed",
        }
    }
}

/// The calls of one connection that are running; made with its first call.
#[derive(Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_OF_CONNECTION)))
    }
}

/// Places for all calls of a node. Half of them belong to the apps in equal shares, so that no app's calls keep out another's.
#[derive(Debug)]
struct Shares {
    apps: Box<[Arc<Semaphore>]>,
    common: Arc<Semaphore>,
}

impl Shares {
    /// `all` places for so many apps. Each app has one of its own at least, if there are as many.
    fn new(all: usize, apps: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        let share = (all / 2 / apps.max(1)).max(usize::from(all >= apps));
        let of = |places| Arc::new(Semaphore::new(places));
        Self {
            apps: (0..apps).map(|_| of(share)).collect(),
            common: of(all - share * apps),
        }
    }

    /// A place for a call of `app`, until it is dropped; nothing if there is none.
    fn take(&self, app: AppId) -> Option<OwnedSemaphorePermit> {
        let own = self.apps.get(usize::from(app.0))?.clone();
        let place = own.try_acquire_owned();
        place
            .or_else(|_| self.common.clone().try_acquire_owned())
            .ok()
    }
}

/// What runs the functions of one node, if its program has any.
#[derive(Debug, Default)]
pub(crate) struct Calls(OnceLock<Serving>);

#[derive(Debug)]
struct Serving {
    functions: Functions,
    /// Where functions run.
    runtime: Handle,
    /// Places for all calls of the node.
    places: Shares,
    /// How long a call may take.
    wait: Duration,
    /// Bytes of an answer.
    answer_bytes: usize,
}

impl Calls {
    /// Lets clients of so many `apps` call `functions`, which run on `runtime`. Called at most once.
    pub(crate) fn serve(
        &self,
        functions: Functions,
        runtime: Handle,
        apps: usize,
        limits: &Limits,
    ) {
        let serving = Serving {
            functions,
            runtime,
            places: Shares::new(limits.calls, apps),
            wait: limits.call,
            answer_bytes: limits.outbox_bytes / 4,
        };
        // The server that is being started is the only one that sets it.
        let _ = self.0.set(serving);
    }

    /// Begins a call of `caller`, whose running calls hold `places`. Functions begin in the order of the calls.
    pub(crate) fn begin(
        &self,
        name: &str,
        (id, app): (AppId, &Arc<str>),
        caller: &Snapshot,
        data: Data<'_>,
        places: &Places,
    ) -> Result<Running, Unanswered> {
        let unknown = || Unanswered::NoFunction(name.chars().take(40).collect());
        let serving = self.0.get().ok_or_else(unknown)?;
        let known = serving.functions.0.get_key_value(name);
        let (name, function) = known.ok_or_else(unknown)?;
        // The connection's own place comes first, so that one client that calls too much takes none
        // of the others' places.
        let own = places.0.clone().try_acquire_owned();
        let own = own.map_err(|_| Unanswered::TooMany)?;
        let shared = serving.places.take(id).ok_or(Unanswered::Busy)?;

        let invocation = Invocation {
            name: name.clone(),
            app: app.clone(),
            caller: caller.clone(),
            argument: data.into(),
        };

        let function = function.clone();
        let task = serving.runtime.spawn(async move {
            // Held by the function and not by its caller, who may be gone long before it ends.
            let _held = (own, shared);
            // Called in the task, so that a panic before its first await is caught as well.
            function(invocation).await
        });

        Ok(Running {
            task,
            wait: serving.wait,
            answer_bytes: serving.answer_bytes,
        })
    }
}

/// A call that has begun. Dropping it lets the function go on.
#[derive(Debug)]
pub(crate) struct Running {
    task: JoinHandle<CallResult>,
    wait: Duration,
    answer_bytes: usize,
}

impl Running {
    /// Waits for the answer, and ends a function that takes too long.
    ///
    /// The time is taken on the caller's thread: a function that blocks the thread of functions holds up their timers too.
    pub(crate) async fn answer(mut self) -> Result<Box<RawValue>, Unanswered> {
        let Ok(ended) = timeout(self.wait, &mut self.task).await else {
            // It ends at its next await. A function that has none goes on, and holds its places as
            // long.
            self.task.abort();
            return Err(Unanswered::Late(self.wait));
        };
        // It fails if the function has panicked, or if the server ends.
        let answer = ended.map_err(|_| Unanswered::Panicked)??;
        // It goes into one client's outbox, which must not be full of one answer.
        if answer.get().len() > self.answer_bytes {
            return Err(Unanswered::TooLong(self.answer_bytes));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places as `app` gets.
    fn all_of(shares: &Shares, app: u16) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| shares.take(AppId(app))).collect()
    }

    #[test]
    fn an_app_that_takes_all_it_gets_leaves_others_their_share() {
        let shares = Shares::new(12, 3);
        let first = all_of(&shares, 0);
        let second = all_of(&shares, 1);
        let third = all_of(&shares, 2);
        assert_eq!((first.len(), second.len(), third.len()), (8, 2, 2));

        // What the first gives back of the common half is for any.
        drop(first);
        assert_eq!(all_of(&shares, 1).len(), 6);
    }

    #[test]
    fn there_are_as_many_places_as_are_set() {
        for (all, apps) in [(2048, 1), (2048, 7), (7, 7), (8, 7), (3, 7), (1, 1), (0, 2)] {
            let shares = Shares::new(all, apps);
            let taken: Vec<_> = (0..apps as u16).map(|app| all_of(&shares, app)).collect();
            assert_eq!(taken.iter().map(Vec::len).sum::<usize>(), all);
            let least = taken.iter().map(Vec::len).min();
            assert!(all < apps || least >= Some(1), "{all} for {apps}");
        }
    }
}
