//! Functions of the embedding program that clients call.

use std::{
    fmt, mem,
    sync::{Arc, OnceLock, Weak},
};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use super::{Inner, Server, StartError, ending::Stop, threads::spawn};
use crate::{
    calls::{Argument, CallError, Functions, Invocation},
    hub::Connection,
    node::Node,
};

/// A client's call, as the function that takes it sees it; see [`ServerBuilder::on_call`](super::ServerBuilder::on_call).
#[derive(Debug)]
pub struct Call {
    invocation: Invocation,
    server: Weak<Inner>,
}

impl Call {
    /// The name that the client called.
    pub fn name(&self) -> &str {
        &self.invocation.name
    }

    /// The connection that calls, as it was then: its id, user, claims, profile and channels.
    pub fn caller(&self) -> &Connection {
        &self.invocation.caller
    }

    /// The authenticated user who calls, if any.
    pub fn user(&self) -> Option<&str> {
        self.invocation.caller.user()
    }

    /// The app of the caller.
    pub fn app(&self) -> &str {
        &self.invocation.app
    }

    /// The call's data as a type of yours. Several arguments are an array, so a tuple takes them: `call.parse::<(i64, String)>()`.
    ///
    /// # Errors
    /// A [`CallError`] with the code `bad_data`, which says to the client what is wrong; also if the data is bytes.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        self.invocation.argument.parse()
    }

    /// The call's data as JSON text, exactly as the client sent it; `null` if it sent none. Nothing if the data is bytes.
    pub fn json(&self) -> Option<&str> {
        match &self.invocation.argument {
            Argument::Json(json) => Some(json.get()),
            Argument::Bytes(_) => None,
        }
    }

    /// The call's data if it is bytes, which came in a binary message.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.invocation.argument {
            Argument::Json(_) => None,
            Argument::Bytes(bytes) => Some(bytes),
        }
    }

    /// A handle to the server that speaks for the caller's app, to send events. Holding it keeps the server running.
    ///
    /// # Errors
    /// A [`CallError`] if the server has ended.
    pub fn server(&self) -> Result<Server, CallError> {
        let inner = self.server.upgrade();
        let inner = inner.ok_or_else(|| CallError::new("internal", "the server has ended"))?;
        Ok(Server {
            inner,
            app: self.invocation.caller.app,
        })
    }
}

/// The functions that a server is built with.
#[derive(Default)]
pub(super) struct Registered {
    functions: Functions,
    /// The server, once there is one. Functions do not keep it alive.
    server: Arc<OnceLock<Weak<Inner>>>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.functions.fmt(f)
    }
}

impl Registered {
    /// Adds a function; false if there is one of that name.
    pub(super) fn add<F, R, T>(&mut self, name: &str, function: F) -> bool
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, CallError>> + Send + 'static,
        T: Serialize,
    {
        let server = self.server.clone();
        let run = move |invocation| {
            let server = server.get().cloned().unwrap_or_default();
            let answer = function(Call { invocation, server });
            let answer = async move { written(&answer.await?) };
            Box::pin(answer) as _
        };
        self.functions.add(name, Arc::new(run))
    }
}

impl Registered {
    /// Lets clients of `node` call the functions. Returns the runtime that they run on, unless there are none; what is called
    /// before its thread runs waits in it.
    pub(super) fn serve(&mut self, node: &Node) -> Result<Option<Runtime>, StartError> {
        let functions = mem::take(&mut self.functions);
        if functions.is_empty() {
            return Ok(None);
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let handle = runtime.handle().clone();
        let apps = node.apps.len();
        node.calls
            .serve(functions, handle, apps, &node.config.limits);
        Ok(Some(runtime))
    }
}

fn written(value: &impl Serialize) -> Result<Box<RawValue>, CallError> {
    to_raw_value(value).map_err(|error| {
        tracing::error!(%error, "a function's answer cannot be written as JSON");
        CallError::new(
            "internal",
            "the function's answer cannot be written as JSON",
        )
    })
}

impl Server {
    /// Starts the thread of functions, which knows this server. It ends with the server, and nothing waits for it: a function
    /// may block it.
    pub(super) fn run_functions(
        &self,
        registered: &Registered,
        runtime: Runtime,
        mut stop: watch::Receiver<Stop>,
    ) -> Result<(), StartError> {
        // Nobody else sets it.
        let _ = registered.server.set(Arc::downgrade(&self.inner));
        let run = self.inner.node.supervisor.run("functions", async move {
            // It fails if the server is gone, which ends the functions as well.
            let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        });
        spawn("fanfare-calls".to_owned(), move || {
            runtime.block_on(run);
            // Without waiting for what functions have passed to `spawn_blocking`.
            runtime.shutdown_background();
        })?;
        Ok(())
    }
}
