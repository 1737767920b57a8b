//! The task that carries a [`CommandQueue`]'s queue to Redis: in pipelines, several under way, on one connection.
//!
//! The connection comes from a pool and is held: a pool checks a connection by a round trip whenever it hands it out.

use std::{
    collections::HashSet,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
    time::Instant as Moment,
};

use deadpool_redis::{Connection, Pool, PoolError};
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::coop::unconstrained,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    BusError, Context,
    backoff::Backoff,
    batch::{self, Batch, RedisFault, ReplyPlace},
    command_queue::{CommandQueue, CommandResult, Earlier, Payload, QueuedCommand, ScriptAt},
    connection::hint,
    health::Component,
    needs::{self, NEEDED},
    primary::Primaries,
};
use crate::limits;

/// Pipelines in a row without an answer after which the connection is given up. One may be a slow script of someone else.
const STRIKES: u32 = 2;

/// What a pipeline brings.
type Replies = Result<Vec<Value>, RedisError>;

/// Carries `queue` to its server until the task is aborted.
pub(super) async fn run(queue: Arc<CommandQueue>, cx: Arc<Context>) {
    let part = Component::Publisher(queue.address.clone());
    let mut backoff = Backoff::default();
    let (ended, mut pushed) = mpsc::channel(1);

    let pool = match cx.connector.pool(&queue.address, ended) {
        Ok(pool) => pool,
        Err(reason) => {
            queue.shut(&reason);
            return cx.health.fault(part, &reason);
        }
    };

    let mut primaries = Primaries::new(&cx);
    loop {
        let mut connected = None;
        let reason = match connect(&pool, &queue, &cx, &mut primaries).await {
            Ok(connection) => {
                connected = Some(Moment::now());
                // The end of the last connection may be reported late.
                while pushed.try_recv().is_ok() {}
                queue.open();
                cx.health.clear(&part);
                let reason = serve(&queue, &connection, &cx, (&mut pushed, &mut primaries)).await;
                // Taken out of the pool, which would hand it out again.
                drop(Connection::take(connection));
                pool.retain(|_, _| false);
                reason
            }
            Err(reason) => reason,
        };

        queue.shut(&reason);
        cx.health.fault(part.clone(), &reason);
        cx.trouble.notify_one();
        sleep(backoff.next(connected)).await;
    }
}

/// A connection to a primary, which is noted wherever it was asked for something before.
async fn connect(
    pool: &Pool,
    queue: &CommandQueue,
    cx: &Context,
    primaries: &mut Primaries,
) -> Result<Connection, String> {
    let address = &queue.address;
    let mut connection = pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) if !error.is_timeout() => {
            let hint = hint(error.code().unwrap_or_default(), &error.to_string());
            format!("cannot connect to Redis at {address}: {error}{hint}")
        }
        _ => format!(
            "Redis at {address} does not answer: nothing came within {:?}",
            limits::BUS_CONNECT
        ),
    })?;

    let mut name = Cmd::new();
    name.arg("CLIENT")
        .arg("SETNAME")
        .arg(format!("{}:publisher", cx.connector.client_name));
    let mut pipe = redis::pipe();

    // A user may lack the right to have a name. HELLO has the role, as ROLE does, and needs no right.
    pipe.add_command(name).cmd("HELLO").ignore_errors();
    if cx.has_scripts {
        needs::look(&mut pipe, cx.names.is_tagged());
    }

    let replies = timeout(
        limits::BUS_CONNECT,
        pipe.query_async::<Vec<Value>>(&mut connection),
    )
    .await;

    let problem = match replies {
        Ok(Ok(replies)) => match replies.get(1).and_then(|reply| role(reply)) {
            Some(b"master") => {
                let lacks = needs::lacking(&replies);
                let begun = if lacks.is_empty() {
                    primaries.begin(cx, address, connection.clone()).await
                } else {
                    Err(needs::sentence(address, &lacks, &mut connection).await)
                };
                match begun {
                    Ok(()) => return Ok(connection),
                    Err(reason) => reason,
                }
            }
            Some(b"sentinel") => {
                format!(
                    "Redis at {address} is a Sentinel; write its address as redis+sentinel://…/name"
                )
            }
            Some(_) => format!("Redis at {address} is a replica; only a primary can join nodes"),
            None => format!("Redis at {address} does not say its role; {NEEDED}"),
        },
        Ok(Err(error)) => format!("the connection to Redis at {address} broke: {error}"),
        Err(_) => {
            format!(
                "Redis at {address} does not answer: nothing came within {:?}",
                limits::BUS_CONNECT
            )
        }
    };

    drop(Connection::take(connection));
    Err(problem)
}

fn role(hello: &Value) -> Option<&[u8]> {
    hello
        .as_map_iter()?
        .find_map(|(key, value)| match (key, value) {
            (Value::BulkString(key), Value::BulkString(value)) if key == b"role" => {
                Some(&value[..])
            }
            _ => None,
        })
}

fn rechecks(queue: &CommandQueue) -> String {
    let address = &queue.address;
    format!("looking whether Redis at {address} is still primary")
}

/// Carries the queue until the connection is of no more use; returns why.
async fn serve(
    queue: &Arc<CommandQueue>,
    connection: &MultiplexedConnection,
    cx: &Arc<Context>,
    (pushed, primaries): (&mut mpsc::Receiver<()>, &mut Primaries),
) -> String {
    // For this connection alone: what is still under way on the last one ends by its deadline, and
    // delays nothing here.
    let permits = Arc::new(Semaphore::new(limits::BUS_PIPELINES));
    let (broken, mut is_broken) = mpsc::channel(1);
    let strikes = Arc::new(AtomicU32::new(0));
    let mut loaded = HashSet::new();
    let mut earlier = Earlier::MayBeUnderWay;
    let ended = || format!("Redis at {} has closed the connection", queue.address);

    let recheck = || rechecks(queue);

    loop {
        let Some(deadline) = queue.next_deadline() else {
            tokio::select! {
                // Endings go first: a command that is taken out for a dead connection may have
                // happened, one that stays in the queue certainly has not.
                biased;
                Some(reason) = is_broken.recv() => return reason,
                Some(()) = pushed.recv() => return ended(),
                () = queue.recheck.notified() => return recheck(),
                () = queue.wake.notified() => continue,
            }
        };

        // The permit first: what still waits in the queue can expire, and then was certainly not
        // sent.
        let permit = tokio::select! {
            biased;
            Some(reason) = is_broken.recv() => return reason,
            Some(()) = pushed.recv() => return ended(),
            () = queue.recheck.notified() => return recheck(),
            Ok(permit) = permits.clone().acquire_many_owned(earlier.permits()) => permit,
            () = sleep_until(deadline) => {
                queue.expire(Instant::now());
                continue;
            }
        };

        let Some(items) = queue.take(Instant::now(), earlier) else {
            earlier = Earlier::HaveEnded;
            continue;
        };
        earlier = Earlier::MayBeUnderWay;
        if let Err(reason) = primaries
            .enter(cx, &queue.address, connection, &items)
            .await
        {
            let unsent = BusError::away(&reason);
            queue.settle(items.into_iter().map(|item| (item, Err(unsent.clone()))));
            return reason;
        }

        if !items.is_empty() {
            let in_flight = InFlightBatch {
                queue: queue.clone(),
                cx: cx.clone(),
                broken: broken.clone(),
                strikes: strikes.clone(),
                recheck: primaries.recheck.clone(),
            };
            in_flight
                .start(items, connection.clone(), &mut loaded, permit)
                .await;
        }
    }
}

/// One pipeline under way.
struct InFlightBatch {
    queue: Arc<CommandQueue>,
    cx: Arc<Context>,
    /// The first reason counts.
    broken: mpsc::Sender<String>,
    /// Pipelines in a row without an answer.
    strikes: Arc<AtomicU32>,
    /// The server may not be the primary that it was.
    recheck: Arc<AtomicBool>,
}

impl InFlightBatch {
    /// Hands the pipeline to the connection, so that the next one comes after it, and leaves its end to a task.
    async fn start(
        self,
        items: Vec<QueuedCommand>,
        mut connection: MultiplexedConnection,
        loaded: &mut HashSet<&'static str>,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(deadline) = items.first().map(|item| item.deadline) else {
            return;
        };

        let mut items = items;
        let (pipe, places) = self.pipeline(&mut items, loaded);

        // Polled without a budget: a poll that ends before the pipeline is queued would let the next one pass it.
        let mut query = Box::pin(unconstrained(async move {
            pipe.query_async::<Vec<Value>>(&mut connection).await
        }));

        let in_flight = match first_poll(query.as_mut()).await {
            Poll::Ready(replies) => {
                self.end(items, &places, Some(replies));
                return drop(permit);
            }
            Poll::Pending => self,
        };

        tokio::spawn(async move {
            let replies = timeout_at(deadline, query).await.ok();
            in_flight.end(items, &places, replies);
            // After `end`, which may put items back: the one that holds all permits next has to see
            // them in the queue.
            drop(permit);
        });
    }

    /// The pipeline of the items, and where their answers are: others are of scripts that are loaded on the way.
    fn pipeline(
        &self,
        items: &mut [QueuedCommand],
        loaded: &mut HashSet<&'static str>,
    ) -> (redis::Pipeline, Vec<ReplyPlace>) {
        let mut pipe = redis::Pipeline::with_capacity(items.len() + 2);
        let mut places = Vec::with_capacity(items.len());
        let is_tagged = self.cx.names.is_tagged();
        let mut at = 0;

        while let Some(item) = items.get_mut(at) {
            // Once for each connection, and again where Redis has forgotten it.
            if let Some(ScriptAt { script, .. }) = item.script
                && (loaded.insert(script.get_hash()) || item.again)
            {
                pipe.load_script(script);
            }

            if let Payload::Command(command) = &mut item.payload {
                // Redis may have forgotten the script, so a copy of the command stays.
                let command = if item.script.is_some() && !item.again {
                    command.clone()
                } else {
                    std::mem::take(command)
                };

                places.push(ReplyPlace {
                    reply: pipe.len(),
                    run: None,
                });

                pipe.add_command(command);
                at += 1;
                continue;
            }

            let Some(batch) = Batch::of(&items[at..], is_tagged) else {
                // Each call comes with its script.
                break;
            };

            let command = batch.command(pipe.len(), &mut places);
            at += batch.len();
            pipe.add_command(command);
        }

        pipe.ignore_errors();
        (pipe, places)
    }

    /// Answers the items. No replies: there were none in time.
    fn end(&self, items: Vec<QueuedCommand>, places: &[ReplyPlace], replies: Option<Replies>) {
        let mut replies = match replies {
            Some(Ok(replies)) => replies,
            Some(Err(error)) => {
                self.settle_all(items);
                if error.is_unrecoverable_error() || error.is_io_error() {
                    let address = &self.queue.address;
                    let _ = self.broken.try_send(format!(
                        "the connection to Redis at {address} broke: {error}"
                    ));
                }
                return;
            }
            None => {
                self.settle_all(items);
                if self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES {
                    let _ = self.broken.try_send(format!(
                        "Redis at {} has stopped answering",
                        self.queue.address
                    ));
                }
                return;
            }
        };

        self.strikes.store(0, Ordering::Relaxed);
        let mut forgotten = Vec::new();
        let answers = items.into_iter().zip(places).filter_map(|(item, place)| {
            let reply = replies.get_mut(place.reply);
            let reply = match (reply, place.run) {
                (None, _) => Value::Nil,
                (Some(reply), None) => std::mem::take(reply),
                // The batch was refused as a whole, and all its calls share this reply.
                (Some(Value::ServerError(error)), Some(_)) => Value::ServerError(error.clone()),
                (Some(reply), Some(run)) => {
                    let answer = batch::answer(reply, run);
                    return Some((item, answer.or_else(|fault| self.refused(fault))));
                }
            };

            // Once: a server that forgets it again would be asked forever.
            if item.script.is_some() && !item.again && is_no_script(&reply) {
                forgotten.push(item);
                return None;
            }

            Some((item, self.judge(reply)))
        });

        self.queue.settle(answers.collect::<Vec<_>>());
        self.queue.put_back(forgotten);
    }

    fn settle_all(&self, items: Vec<QueuedCommand>) {
        self.queue.settle(
            items
                .into_iter()
                .map(|item| (item, Err(BusError::Unanswered))),
        );
    }

    fn judge(&self, reply: Value) -> CommandResult {
        let Value::ServerError(error) = reply else {
            return Ok(reply);
        };
        self.refused(RedisFault {
            code: error.code().to_owned(),
            text: error.details().unwrap_or_default().to_owned(),
        })
    }

    /// What an error of Redis means.
    fn refused(&self, fault: RedisFault) -> CommandResult {
        let RedisFault {
            code,
            text: message,
        } = fault;
        match &*code {
            // The server refused before it did anything.
            "MOVED" | "ASK" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "LOADING"
            | "READONLY" => {
                let reason = format!(
                    "Redis at {} refuses for now: {code} {message}",
                    self.queue.address
                );
                if code == "READONLY" {
                    // It has become a replica: nobody hears what is published there.
                    self.queue.ask_recheck(&reason);
                }
                self.recheck.store(true, Ordering::Relaxed);
                self.cx.trouble.notify_one();
                Err(BusError::away(&reason))
            }
            _ => Err(BusError::Refused { code, message }),
        }
    }
}

fn is_no_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

async fn first_poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
