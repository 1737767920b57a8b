//! The connection that messages of one Redis server take, and what keeps it honest.
//!
//! That a socket is open and answers proves little: behind it may be a replica that gets nothing any more, or a proxy that
//! lost the other side. So a *canary* flies twice a second: a message published as all others are, to a channel that only this
//! connection has. When it does not come back, or the server says that it is no primary, the connection is given up.

use std::{collections::VecDeque, io, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use redis::Cmd;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{Notify, oneshot},
    time::{MissedTickBehavior, interval_at, sleep},
};

use super::{
    Context, Topic,
    backoff::Backoff,
    board::Part,
    echo::Echo,
    interest::Change,
    line::{Answer, Line},
    link::{Address, Fault, Greeting, Link, Stream},
    name::Names,
    resp::{self, Frame, Reply},
};
use crate::limits;

/// What a subscriber serves.
pub(super) struct Duty {
    pub(super) address: Address,
    /// Never empty.
    pub(super) partitions: Vec<u16>,
    /// The way to the same server for canaries.
    pub(super) line: Arc<Line>,
}

/// Keeps the partitions of `duty` subscribed until the task is aborted.
pub(super) async fn run(duty: Duty, cx: Arc<Context>) {
    let part = Part::Subscriber(duty.address.clone());
    let mut backoff = Backoff::default();
    loop {
        let mut connected = None;
        let fault = match Link::connect(&cx.setup, &duty.address, "subscriber").await {
            Ok((link, greeting)) => {
                match super::topology::is_fit(&cx.setup, &duty.address, greeting) {
                    Ok(()) => {
                        connected = Some(Instant::now());
                        Session::begin(link, &duty, &cx).serve().await
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
            duty.line.doubt(&fault.to_string());
        }
        cx.board.fault(part.clone(), &fault.to_string());
        cx.trouble.notify_one();
        sleep(backoff.next(connected)).await;
    }
}

/// One connection's life.
struct Session<'a> {
    cx: &'a Context,
    duty: &'a Duty,
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
    /// The same for what programs publish, where that goes another way.
    echo: Option<Echo>,
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
    answer: Option<oneshot::Receiver<Answer>>,
    /// Whether one has come back on this connection.
    came_back: bool,
}

impl<'a> Session<'a> {
    fn begin(link: Link, duty: &'a Duty, cx: &'a Context) -> Self {
        let generation = cx.next_generation();
        let wake = Arc::new(Notify::new());
        let mut is_return = false;
        for partition in &duty.partitions {
            is_return |= cx.interest.attach(*partition, generation, wake.clone());
        }
        if is_return {
            cx.inbox.gap();
        }
        let (reader, writer) = tokio::io::split(link.stream);
        let home = duty.partitions.first().copied().unwrap_or_default();
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
        let listens =
            cx.names.is_tagged() && duty.partitions.iter().any(|n| Names::is_of_programs(*n));
        let echo = listens.then(|| Echo::new(format!("{channel}:echo")));
        if let Some(echo) = &echo {
            resp::command(
                &mut output,
                &[Change::Subscribe.word(false), echo.channel.as_bytes()],
            );
        }
        Self {
            cx,
            duty,
            generation,
            wake,
            reader,
            writer,
            input: link.input,
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
            echo,
            is_return,
            is_up: false,
        }
    }

    /// Serves until the connection is of no use any more; says why.
    async fn serve(mut self) -> Fault {
        let mut beat = interval_at(
            tokio::time::Instant::now() + limits::BUS_CANARY,
            limits::BUS_CANARY,
        );
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                () = self.duty.line.opened.notified() => {
                    self.fly();
                    Ok(())
                }
                _ = beat.tick() => self.beat(),
            };
            if let Err(fault) = done {
                return fault;
            }
            if !self.is_up
                && self.canary.came_back
                && self.goal.is_some_and(|goal| self.confirmed >= goal)
            {
                self.is_up = true;
                if self.is_return {
                    self.cx.inbox.gap();
                }
                self.cx
                    .board
                    .clear(&Part::Subscriber(self.duty.address.clone()));
            }
        }
    }

    /// Puts changes of the register into the output, as far as that is not full.
    fn fill(&mut self) {
        let mut changes = Vec::new();
        while self.output.len() < limits::BUS_SUBSCRIBE_BYTES {
            for partition in &self.duty.partitions {
                let most = limits::BUS_SUBSCRIBE_CHANNELS;
                self.cx
                    .interest
                    .drain(*partition, self.generation, most, &mut changes);
            }
            if changes.is_empty() {
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
        loop {
            match resp::decode(&mut self.input) {
                Ok(Some(Frame::Message { channel, payload })) => self.on_message(&channel, payload),
                Ok(Some(frame)) => self.on_frame(frame)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(Fault::Malformed(self.duty.address.clone(), error)),
            }
        }
    }

    fn on_message(&mut self, channel: &[u8], payload: Bytes) {
        if let Some(topic) = self.cx.names.topic(channel) {
            self.cx.metrics.bus.received.inc();
            self.cx.inbox.push(topic, payload);
        } else if channel == self.canary.channel.as_bytes()
            && *payload == self.canary.nonce.to_be_bytes()
        {
            self.canary.came_back = true;
            if let Some(since) = self.canary.since.take() {
                self.cx
                    .metrics
                    .bus
                    .canary
                    .observe(since.elapsed().as_secs_f64());
            }
        } else if let Some(echo) = self
            .echo
            .as_mut()
            .filter(|echo| channel == echo.channel.as_bytes())
        {
            echo.on_message(&payload);
        }
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Fault> {
        let address = || self.duty.address.clone();
        let (channel, change) = match frame {
            Frame::Reply(Reply::Error(text)) => return Err(Fault::Refused(address(), text)),
            Frame::Reply(reply) => {
                self.asked.pop_front();
                let greeting = Greeting::read(&reply).ok_or_else(|| Fault::Strange(address()))?;
                return super::topology::is_fit(&self.cx.setup, &self.duty.address, greeting);
            }
            Frame::Subscribed(channel) => (channel, Change::Subscribe),
            Frame::Unsubscribed(channel) => (channel, Change::Unsubscribe),
            Frame::Message { .. } | Frame::Other => return Ok(()),
        };
        if let Some(topic) = self.cx.names.topic(&channel) {
            self.confirmed += 1;
            let is_expected = self.cx.interest.confirm(&topic, self.generation, change);
            return if is_expected {
                Ok(())
            } else {
                Err(Fault::Moved(address()))
            };
        }
        if change == Change::Unsubscribe {
            return Err(Fault::Moved(address()));
        }
        if channel == self.canary.channel.as_bytes() {
            self.canary.is_subscribed = true;
            self.fly();
        }
        Ok(())
    }

    /// Twice a second: is this still a primary that brings back what is published?
    fn beat(&mut self) -> Result<(), Fault> {
        let patience = self.cx.limits.bus_canary_timeout;
        if self
            .asked
            .front()
            .is_some_and(|since| since.elapsed() >= patience)
        {
            return Err(Fault::Frozen(self.duty.address.clone()));
        }
        if self
            .canary
            .since
            .is_some_and(|since| since.elapsed() >= patience)
        {
            return Err(Fault::Deaf(self.duty.address.clone()));
        }
        resp::command(&mut self.output, &[b"HELLO"]);
        self.asked.push_back(Instant::now());
        self.fly();
        if let Some(echo) = &mut self.echo {
            echo.beat(self.cx, &self.duty.address);
        }
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
            .duty
            .line
            .send(command, canary.channel.len() + 32, None)
            .ok();
        canary.since = canary.answer.is_some().then(Instant::now);
    }

    fn on_answer(&mut self, answer: Option<&Answer>) -> Result<(), Fault> {
        self.canary.answer = None;
        match answer {
            // Nobody got it: what is published goes to another server than the one this connection is with.
            Some(Ok(redis::Value::Int(0))) => Err(Fault::Deaf(self.duty.address.clone())),
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => {
                self.canary.since = None;
                Ok(())
            }
        }
    }

    fn broken(&self, error: io::Error) -> Fault {
        Fault::Broken(self.duty.address.clone(), error)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for partition in &self.duty.partitions {
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

async fn answered(answer: &mut Option<oneshot::Receiver<Answer>>) -> Option<Answer> {
    match answer {
        Some(answer) => answer.await.ok(),
        None => None,
    }
}
