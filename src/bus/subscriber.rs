//! The connection that messages of one Redis server take, and what keeps it honest.
//!
//! That a socket is open and answers proves little: at its other end may be a replica that no longer gets anything, or a proxy that
//! lost the other side. So a *canary* flies twice a second: a message published as all others are, to a channel that only this
//! connection has. When it does not come back, or the server says that it is not a primary, the connection is given up.

use std::{collections::VecDeque, io, pin::pin, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use redis::Cmd;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{Notify, oneshot},
    time::{MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    Context, Topic,
    backoff::Backoff,
    command_queue::{CommandQueue, CommandResult, Payload},
    connection::{Address, Fault, Greeting, RedisConnection, Stream},
    health::Component,
    interest::Change,
    resp::{self, Frame, Reply},
};
use crate::limits;

/// What a subscriber serves.
pub(super) struct Assignment {
    pub(super) address: Address,
    /// Never empty.
    pub(super) partitions: Vec<u16>,
    /// The way to the same server for canaries.
    pub(super) queue: Arc<CommandQueue>,
}

/// Keeps the partitions of `assignment` subscribed until the task is aborted.
pub(super) async fn run(assignment: Assignment, cx: Arc<Context>) {
    let part = Component::Subscriber(assignment.address.clone());
    let mut backoff = Backoff::default();
    loop {
        let mut connected = None;
        let fault = match RedisConnection::connect(&cx.connector, &assignment.address, "subscriber")
            .await
        {
            Ok((connection, greeting)) => {
                match super::topology::is_fit(&cx.connector, &assignment.address, greeting) {
                    Ok(()) => {
                        connected = Some(Instant::now());
                        Session::begin(connection, &assignment, &cx).serve().await
                    }
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };

        if connected.is_some() {
            cx.metrics.bus.reconnects.inc();
        }

        if matches!(fault, Fault::Moved(_) | Fault::Replica(_) | Fault::Deaf(_)) {
            // A replica takes publications too, and nobody hears them.
            assignment.queue.ask_recheck(&fault.to_string());
        }

        cx.health.fault(part.clone(), &fault.to_string());
        cx.trouble.notify_one();
        sleep(backoff.next(connected)).await;
    }
}

/// One connection's life.
struct Session<'a> {
    cx: &'a Context,
    assignment: &'a Assignment,
    generation: u64,
    wake: Arc<Notify>,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    /// Whether something written may not have left yet.
    unflushed: bool,
    /// Changes sent and confirmed, and the number of them that makes the register whole.
    sent: u64,
    confirmed: u64,
    goal: Option<u64>,
    /// When the questions for the role were sent that have no answer.
    asked: VecDeque<Instant>,
    canary: Canary,
    /// Whether something was missed before this connection.
    is_return: bool,
    is_up: bool,
}

/// A message to oneself.
struct Canary {
    channel: String,
    is_subscribed: bool,
    nonce: u64,
    since: Option<Instant>,
    /// What Redis says to the publication.
    answer: Option<oneshot::Receiver<CommandResult>>,
    /// Whether one has come back on this connection.
    came_back: bool,
}

impl<'a> Session<'a> {
    fn begin(connection: RedisConnection, assignment: &'a Assignment, cx: &'a Context) -> Self {
        let generation = cx.next_generation();
        let wake = Arc::new(Notify::new());
        let mut is_return = false;
        for partition in &assignment.partitions {
            is_return |= cx.interest.attach(*partition, generation, wake.clone());
        }

        // Before this connection brings anything: what depends on what was missed is in doubt by
        // then.
        if is_return {
            cx.gaps.note_lost(&assignment.partitions);
        }

        let (reader, writer) = tokio::io::split(connection.stream);
        let home = assignment.partitions.first().copied().unwrap_or_default();
        let channel = cx
            .names
            .own(home, &format!("canary:{}:{generation}", cx.node));
        let mut output = BytesMut::new();

        resp::command(
            &mut output,
            &[
                Change::Subscribe.word(cx.names.is_tagged()),
                channel.as_bytes(),
            ],
        );

        Self {
            cx,
            assignment,
            generation,
            wake,
            reader,
            writer,
            input: connection.input,
            output,
            unflushed: false,
            sent: 0,
            confirmed: 0,
            goal: None,
            asked: VecDeque::new(),

            canary: Canary {
                channel,
                is_subscribed: false,
                nonce: 0,
                since: None,
                answer: None,
                came_back: false,
            },

            is_return,
            is_up: false,
        }
    }

    /// Serves until the connection is of no more use; returns why.
    async fn serve(mut self) -> Fault {
        let beat_start = tokio::time::Instant::now() + limits::BUS_CANARY;
        let mut beat = interval_at(beat_start, limits::BUS_CANARY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);

        // Judged between two beats as well, so that a connection is given up when its patience is over, not up to a beat later.
        let mut due = pin!(sleep_until(beat_start));
        let wake = self.wake.clone();
        loop {
            self.fill();
            self.input.reserve(limits::BUS_READ_BYTES);
            let done = tokio::select! {
                read = self.reader.read_buf(&mut self.input) => self.on_read(read),
                written = write(&mut self.writer, &mut self.output, &mut self.unflushed),
                    if self.unflushed || !self.output.is_empty() => written.map_err(|error| self.broken(error)),
                answer = answered(&mut self.canary.answer), if self.canary.answer.is_some() => self.on_answer(answer.as_ref()),
                () = wake.notified() => Ok(()),

                () = self.assignment.queue.opened.notified() => {
                    self.fly();
                    Ok(())
                }

                _ = beat.tick() => self.beat(),
                () = due.as_mut() => {
                    due.as_mut().reset(self.due().into());
                    self.judge()
                }
            };

            if let Err(fault) = done {
                return fault;
            }

            if !self.is_up
                && self.canary.came_back
                && self.goal.is_some_and(|goal| self.confirmed >= goal)
            {
                self.is_up = true;
                // For the first connection too: someone may have come while there was none.
                self.cx
                    .gaps
                    .note_served(&self.assignment.partitions, self.is_return);
                self.cx
                    .health
                    .clear(&Component::Subscriber(self.assignment.address.clone()));
            }
        }
    }

    /// Puts changes of the register into the output, as far as that is not full.
    fn fill(&mut self) {
        let mut changes = Vec::new();
        while self.output.len() < limits::BUS_SUBSCRIBE_BYTES {
            for partition in &self.assignment.partitions {
                let most = limits::BUS_SUBSCRIBE_CHANNELS;
                self.cx
                    .interest
                    .drain(*partition, self.generation, most, &mut changes);
            }

            if changes.is_empty() {
                // The topics that were needed up to now have to be confirmed. Those added later do
                // not delay that.
                self.goal.get_or_insert(self.sent);
                return;
            }

            self.sent += changes.len() as u64;
            for run in changes.chunk_by(|one, next| one.1 == next.1) {
                self.write(run);
            }

            changes.clear();
        }
    }

    fn write(&mut self, run: &[(Topic, Change)]) {
        // A cluster refuses a command whose channels have several slots.
        let most = if self.cx.names.is_tagged() {
            1
        } else {
            limits::BUS_SUBSCRIBE_CHANNELS
        };

        for part in run.chunks(most) {
            let Some((first, change)) = part.first() else {
                continue;
            };
            resp::head(&mut self.output, 1 + part.len());
            resp::word(
                &mut self.output,
                change.word(self.cx.names.is_sharded(first)),
            );
            for (topic, _) in part {
                resp::word(&mut self.output, &self.cx.names.channel(topic));
            }
        }
    }

    fn on_read(&mut self, read: io::Result<usize>) -> Result<(), Fault> {
        match read {
            Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(self.broken(error)),
        }

        let mut may_sleep = false;
        let ended = loop {
            match resp::decode(&mut self.input) {
                Ok(Some(Frame::Message { channel, payload })) => {
                    may_sleep |= self.on_message(&channel, payload);
                }
                Ok(Some(frame)) => {
                    if let Err(fault) = self.on_frame(frame) {
                        break Err(fault);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    break Err(Fault::Malformed(self.assignment.address.clone(), error));
                }
            }
        };

        // Once for all that was read, also if the rest of it is a fault.
        if may_sleep {
            self.cx.inbox.wake();
        }
        ended
    }

    /// Returns whether the reader of the inbox may have to be woken.
    fn on_message(&mut self, channel: &[u8], payload: Bytes) -> bool {
        if let Some(topic) = self.cx.names.topic(channel) {
            self.cx.metrics.bus.received.inc();
            return self.cx.inbox.push(topic, payload);
        }

        if channel == self.canary.channel.as_bytes() && *payload == self.canary.nonce.to_be_bytes()
        {
            self.canary.came_back = true;
            if let Some(since) = self.canary.since.take() {
                self.cx
                    .metrics
                    .bus
                    .canary
                    .observe(since.elapsed().as_secs_f64());
            }
        }
        false
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Fault> {
        let address = || self.assignment.address.clone();
        let (channel, change) = match frame {
            // An error does not name its command, so it may mean any of the subscriptions.
            Frame::Reply(Reply::Error(text)) => return Err(Fault::Refused(address(), text)),
            Frame::Reply(reply) => {
                // This connection asks nothing but HELLO, so the reply is to the oldest of these.
                self.asked.pop_front();
                let greeting = Greeting::read(&reply).ok_or_else(|| Fault::Strange(address()))?;
                return super::topology::is_fit(
                    &self.cx.connector,
                    &self.assignment.address,
                    greeting,
                );
            }
            Frame::Subscribed(channel) => (channel, Change::Subscribe),
            Frame::Unsubscribed(channel) => (channel, Change::Unsubscribe),
            Frame::Message { .. } | Frame::Other => return Ok(()),
        };

        if let Some(topic) = self.cx.names.topic(&channel) {
            self.confirmed += 1;
            let is_expected = self.cx.interest.confirm(&topic, self.generation, change);
            // Redis ends a subscription by itself when its slot has moved.
            return if is_expected {
                Ok(())
            } else {
                Err(Fault::Moved(address()))
            };
        }

        // Only the canary's channel belongs to no topic, and nothing here unsubscribes from it.
        if change == Change::Unsubscribe {
            return Err(Fault::Moved(address()));
        }

        if channel == self.canary.channel.as_bytes() {
            self.canary.is_subscribed = true;
            self.fly();
        }

        Ok(())
    }

    /// When the oldest question is to have been answered.
    fn due(&self) -> Instant {
        let questions = self.asked.front().into_iter().chain(&self.canary.since);
        let oldest = questions.min().copied().unwrap_or_else(Instant::now);
        oldest + self.cx.limits.bus_canary_timeout
    }

    /// Fails if a question has waited for its answer for too long.
    fn judge(&self) -> Result<(), Fault> {
        let patience = self.cx.limits.bus_canary_timeout;
        let is_over = |since: &Instant| since.elapsed() >= patience;
        if self.asked.front().is_some_and(is_over) {
            return Err(Fault::Frozen(self.assignment.address.clone()));
        }
        if self.canary.since.as_ref().is_some_and(is_over) {
            return Err(Fault::Deaf(self.assignment.address.clone()));
        }
        Ok(())
    }

    /// Twice a second: is this still a primary that brings back what is published?
    fn beat(&mut self) -> Result<(), Fault> {
        self.judge()?;
        resp::command(&mut self.output, &[b"HELLO"]);
        self.asked.push_back(Instant::now());
        self.fly();
        Ok(())
    }

    /// Lets a canary fly, unless one does. While nothing can be published, that is the fault, and not that none comes back.
    fn fly(&mut self) {
        let canary = &mut self.canary;
        if !canary.is_subscribed || canary.since.is_some() {
            return;
        }

        canary.nonce += 1;
        let mut command = Cmd::new();
        command
            .arg(self.cx.publish_command())
            .arg(&canary.channel)
            .arg(&canary.nonce.to_be_bytes());

        canary.answer = self
            .assignment
            .queue
            .send(Payload::Command(command), canary.channel.len() + 32, None)
            .ok();

        canary.since = canary.answer.is_some().then(Instant::now);
    }

    fn on_answer(&mut self, answer: Option<&CommandResult>) -> Result<(), Fault> {
        self.canary.answer = None;
        match answer {
            // Nobody got it: what is published goes to another server than the one this connection is with.
            Some(Ok(redis::Value::Int(0))) => Err(Fault::Deaf(self.assignment.address.clone())),
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => {
                // It was not published, which the publisher reports.
                self.canary.since = None;
                Ok(())
            }
        }
    }

    fn broken(&self, error: io::Error) -> Fault {
        Fault::Broken(self.assignment.address.clone(), error)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for partition in &self.assignment.partitions {
            self.cx.interest.detach(*partition, self.generation);
        }
    }
}

/// Writes some of `output`, or flushes what TLS still holds. May be dropped at any time.
async fn write(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    output: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    if output.is_empty() {
        writer.flush().await?;
        *unflushed = false;
    } else {
        writer.write_buf(output).await?;
        *unflushed = true;
    }
    Ok(())
}

async fn answered(answer: &mut Option<oneshot::Receiver<CommandResult>>) -> Option<CommandResult> {
    match answer {
        Some(answer) => answer.await.ok(),
        None => None,
    }
}
