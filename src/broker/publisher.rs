//! The task that carries a [`Line`]'s queue to Redis: in pipelines, several under way, on one connection.
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
    board::Part,
    line::{Answer, Item, Line},
    link::Address,
    primary::Primaries,
};
use crate::limits;

/// Pipelines in a row without an answer after which the connection is given up. One may be a slow script of someone else.
const STRIKES: u32 = 2;

/// What a pipeline brings.
type Replies = Result<Vec<Value>, RedisError>;

/// Carries `line` to its server until the task is aborted.
pub(super) async fn run(line: Arc<Line>, cx: Arc<Context>) {
    let part = Part::Publisher(line.address.clone());
    let mut backoff = Backoff::default();
    let (told, mut pushed) = mpsc::channel(1);
    let pool = match cx.setup.pool(&line.address, told) {
        Ok(pool) => pool,
        Err(reason) => {
            line.shut(&reason);
            return cx.board.fault(part, &reason);
        }
    };
    let mut primaries = Primaries::new(&cx);
    loop {
        let mut connected = None;
        let reason = match connect(&pool, &line, &cx, &mut primaries).await {
            Ok(connection) => {
                connected = Some(Moment::now());
                // The end of the last connection may have been told late.
                while pushed.try_recv().is_ok() {}
                line.open();
                cx.board.clear(&part);
                let reason = serve(&line, &connection, &cx, (&mut pushed, &mut primaries)).await;
                drop(Connection::take(connection));
                pool.retain(|_, _| false);
                reason
            }
            Err(reason) => reason,
        };
        line.shut(&reason);
        cx.board.fault(part.clone(), &reason);
        cx.trouble.notify_one();
        sleep(backoff.next(connected)).await;
    }
}

/// A connection to a primary, which is noted wherever it was asked for something before.
async fn connect(
    pool: &Pool,
    line: &Line,
    cx: &Context,
    primaries: &mut Primaries,
) -> Result<Connection, String> {
    let address = &line.address;
    let mut connection = pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) if !error.is_timeout() => {
            format!("cannot connect to Redis at {address}: {error}")
        }
        _ => format!(
            "Redis at {address} does not answer: nothing came within {:?}",
            limits::BUS_CONNECT
        ),
    })?;
    let mut name = Cmd::new();
    name.arg("CLIENT")
        .arg("SETNAME")
        .arg(format!("{}:publisher", cx.setup.client_name));
    let mut pipe = redis::pipe();
    // A user may lack the right to have a name. HELLO tells the role, as ROLE does, and needs no right.
    pipe.add_command(name).cmd("HELLO").ignore_errors();
    let replies = timeout(
        limits::BUS_CONNECT,
        pipe.query_async::<Vec<Value>>(&mut connection),
    )
    .await;
    let problem = match replies {
        Ok(Ok(replies)) => match replies.get(1).and_then(|reply| role(reply)) {
            Some(b"master") => match primaries.begin(cx, address, connection.clone()).await {
                Ok(()) => return Ok(connection),
                Err(reason) => reason,
            },
            Some(b"sentinel") => {
                format!(
                    "Redis at {address} is a Sentinel; write its address as redis+sentinel://…/name"
                )
            }
            Some(_) => format!("Redis at {address} is a replica; only a primary can join nodes"),
            None => format!("Redis at {address} does not tell its role; is it Redis 7 or later?"),
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

/// Carries the queue until the connection is of no use any more; says why.
async fn serve(
    line: &Arc<Line>,
    connection: &MultiplexedConnection,
    cx: &Arc<Context>,
    (pushed, primaries): (&mut mpsc::Receiver<()>, &mut Primaries),
) -> String {
    let permits = Arc::new(Semaphore::new(limits::BUS_PIPELINES));
    let (broken, mut is_broken) = mpsc::channel(1);
    let strikes = Arc::new(AtomicU32::new(0));
    let mut loaded = HashSet::new();
    let ended = || format!("Redis at {} has closed the connection", line.address);
    let doubted = || format!("looking whether Redis at {} is still primary", line.address);
    loop {
        let Some(deadline) = line.next_deadline() else {
            tokio::select! {
                biased;
                Some(reason) = is_broken.recv() => return reason,
                Some(()) = pushed.recv() => return ended(),
                () = line.doubted.notified() => return doubted(),
                () = line.wake.notified() => continue,
            }
        };
        let permit = tokio::select! {
            biased;
            Some(reason) = is_broken.recv() => return reason,
            Some(()) = pushed.recv() => return ended(),
            () = line.doubted.notified() => return doubted(),
            Ok(permit) = permits.clone().acquire_owned() => permit,
            () = sleep_until(deadline) => {
                line.expire(Instant::now());
                continue;
            }
        };
        let items = line.take(Instant::now());
        if let Err(reason) = primaries.enter(cx, &line.address, connection, &items).await {
            let unsent = BusError::away(&reason);
            line.settle(items.into_iter().map(|item| (item, Err(unsent.clone()))));
            return reason;
        }
        if !items.is_empty() {
            let flight = Flight {
                line: line.clone(),
                cx: cx.clone(),
                broken: broken.clone(),
                strikes: strikes.clone(),
                doubted: primaries.doubted.clone(),
            };
            flight
                .start(items, connection.clone(), &mut loaded, permit)
                .await;
        }
    }
}

/// One pipeline under way.
struct Flight {
    line: Arc<Line>,
    cx: Arc<Context>,
    /// The first reason counts.
    broken: mpsc::Sender<String>,
    /// Pipelines in a row without an answer.
    strikes: Arc<AtomicU32>,
    /// The server may not be the primary that it was.
    doubted: Arc<AtomicBool>,
}

impl Flight {
    /// Hands the pipeline to the connection, so that the next one comes after it, and leaves its end to a task.
    async fn start(
        self,
        items: Vec<Item>,
        mut connection: MultiplexedConnection,
        loaded: &mut HashSet<&'static str>,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(deadline) = items.first().map(|item| item.deadline) else {
            return;
        };
        let mut pipe = redis::Pipeline::with_capacity(items.len() + 2);
        let mut items = items;
        // Which answers are those of items; the others are of scripts that are loaded on the way.
        let mut places = Vec::with_capacity(items.len());
        for item in &mut items {
            if let Some(script) = item.script
                && (loaded.insert(script.get_hash()) || item.again)
            {
                pipe.load_script(script);
            }
            if item.is_asking {
                pipe.cmd("ASKING");
            }
            places.push(pipe.len());
            let keep = item.script.is_some() && !item.again || self.may_be_sent_on(item);
            let command = if keep {
                item.command.clone()
            } else {
                std::mem::take(&mut item.command)
            };
            pipe.add_command(command);
        }
        pipe.ignore_errors();
        // Polled without a budget: a poll that ends before the pipeline is queued would let the next one pass it.
        let mut query = Box::pin(unconstrained(async move {
            pipe.query_async::<Vec<Value>>(&mut connection).await
        }));
        let flight = match first_poll(query.as_mut()).await {
            Poll::Ready(replies) => {
                self.end(items, &places, Some(replies));
                return drop(permit);
            }
            Poll::Pending => self,
        };
        tokio::spawn(async move {
            let replies = timeout_at(deadline, query).await.ok();
            flight.end(items, &places, replies);
            drop(permit);
        });
    }

    /// Answers the items. No replies: there were none in time.
    fn end(&self, items: Vec<Item>, places: &[usize], replies: Option<Replies>) {
        let mut replies = match replies {
            Some(Ok(replies)) => replies,
            Some(Err(error)) => {
                self.settle_all(items);
                if error.is_unrecoverable_error() || error.is_io_error() {
                    let address = &self.line.address;
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
                        "Redis at {} has stopped to answer",
                        self.line.address
                    ));
                }
                return;
            }
        };
        self.strikes.store(0, Ordering::Relaxed);
        let (mut forgotten, mut moving) = (Vec::new(), Vec::new());
        let answers = items.into_iter().zip(places).filter_map(|(item, place)| {
            let reply = replies.get_mut(*place).map_or(Value::Nil, std::mem::take);
            if item.script.is_some() && !item.again && is_no_script(&reply) {
                forgotten.push(item);
                return None;
            }
            if self.may_be_sent_on(&item)
                && let Some(line) = self.asked_for(&reply)
            {
                moving.push((item, line));
                return None;
            }
            Some((item, self.judge(reply)))
        });
        self.line.settle(answers.collect::<Vec<_>>());
        self.line.put_back(forgotten);
        for (item, line) in moving {
            line.take_over(item, &self.line);
        }
    }

    /// Whether Redis may answer it with ASK: while a slot moves, what is about its keys, and not what is published.
    fn may_be_sent_on(&self, item: &Item) -> bool {
        let word = item.command.args_iter().next();
        let is_published = matches!(word, Some(redis::Arg::Simple(b"PUBLISH" | b"SPUBLISH")));
        self.cx.names.is_tagged() && !item.is_asking && word.is_some() && !is_published
    }

    /// The line of the server that ASK names: the slot is about to move there, and the key is there already. Nothing was
    /// done, so that to send it on is no repetition.
    fn asked_for(&self, reply: &Value) -> Option<Arc<Line>> {
        let Value::ServerError(error) = reply else {
            return None;
        };
        let (_, place) = error
            .details()
            .filter(|_| error.code() == "ASK")?
            .split_once(' ')?;
        let (host, port) = place.rsplit_once(':')?;
        let host = if host.is_empty() {
            &*self.line.address.host
        } else {
            host
        };
        let address = Address::new(host, port.parse().ok()?);
        self.cx
            .routes
            .read()
            .iter()
            .flatten()
            .find(|line| line.address == address)
            .cloned()
    }

    fn settle_all(&self, items: Vec<Item>) {
        self.line.settle(
            items
                .into_iter()
                .map(|item| (item, Err(BusError::Unanswered))),
        );
    }

    fn judge(&self, reply: Value) -> Answer {
        let Value::ServerError(error) = reply else {
            return Ok(reply);
        };
        let (code, message) = (
            error.code().to_owned(),
            error.details().unwrap_or_default().to_owned(),
        );
        match &*code {
            // The server refused before it did anything.
            "MOVED" | "ASK" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "LOADING"
            | "READONLY" => {
                let reason = format!(
                    "Redis at {} refuses for now: {code} {message}",
                    self.line.address
                );
                if code == "READONLY" {
                    // It has become a replica: nobody hears what is published there.
                    self.line.doubt(&reason);
                }
                self.doubted.store(true, Ordering::Relaxed);
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
