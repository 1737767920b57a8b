//! A shard's thread with real sockets.

use std::{
    net::Ipv4Addr,
    num::NonZeroU64,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use super::*;
use crate::{
    config::SlowConsumer,
    filter::{Schema, Value},
    hub::{Connection, Context, State, tests::connect},
    limits::Limits,
    protocol::frame::Frame,
};

fn event_loop(limits: Limits) -> Rc<EventLoop> {
    let schema = Arc::new(Schema::new::<&str>(&[]).unwrap());
    let context = Context::of_one_app(limits, schema, SlowConsumer::Disconnect);
    EventLoop::new(Arc::new(Hub::new(1, Arc::new(context))), 0)
}

async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    (client.unwrap(), listener.accept().await.unwrap().0)
}

async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test]
async fn nothing_stays_of_a_connection_that_has_gone_however_long_its_token_would_have_lived() {
    let (this, listener) = (event_loop(Limits::default()), listener().await);
    for _ in 0..500 {
        let (_client, socket) = pair(&listener).await;
        let at = this.shard.lock(|table| connect(table, "u", Value::Null));
        this.add_socket(socket, at);
        this.expect_expiry(at, now() + 30 * 24 * 3600);
        this.leave(at);
        this.shard.lock(|table| table.remove(at)).unwrap();
    }
    assert_eq!(this.deadlines.borrow().len(), 0);
}

#[tokio::test]
async fn a_client_that_renews_in_a_loop_has_one_deadline() {
    let (this, listener) = (event_loop(Limits::default()), listener().await);
    let (_client, socket) = pair(&listener).await;
    let at = this.shard.lock(|table| connect(table, "u", Value::Null));
    let socket = this.add_socket(socket, at);
    for n in 0..100 {
        this.expect_expiry(at, now() + 5 + n % 3);
    }
    assert_eq!(this.deadlines.borrow().len(), 1);

    // One that ends later is noted when the heartbeat before its end comes.
    this.expect_expiry(at, now() + 40);
    socket.expected.set(NEVER);
    this.note_expiry(&socket);
    assert_eq!(socket.expected.get(), NEVER);
}

#[test]
fn tokens_that_end_in_one_second_are_spread_evenly_over_the_seconds_after_it() {
    let at = |slot| SlotRef {
        slot,
        generation: 0,
    };
    let mut tenths = [0; 10];
    for slot in 0..10_000 {
        let after = spread(at(slot));
        assert!(after <= EXPIRED_SPREAD);
        tenths[(after.as_secs_f64() / EXPIRED_SPREAD.as_secs_f64() * 9.999) as usize] += 1;
    }
    assert!(tenths.iter().all(|n| (900..1100).contains(n)), "{tenths:?}");
}

/// Whether a connection whose client does not read is still held for alive, after the time to answer a ping.
async fn lives_with(bytes: usize, answer_after: Option<Duration>) -> State {
    let limits = Limits {
        heartbeat: Duration::from_secs(3),
        heartbeat_wait: Duration::from_millis(300),
        outbox_age: Duration::from_secs(20),
        ..Limits::default()
    };
    let (this, listener) = (event_loop(limits), listener().await);
    let (mut client, socket) = pair(&listener).await;
    let sockref = socket2::SockRef::from(&socket);
    sockref.set_send_buffer_size(64 * 1024).unwrap();
    socket2::SockRef::from(&client)
        .set_recv_buffer_size(4096)
        .unwrap();

    let at = this.shard.lock(|table| connect(table, "u", Value::Null));
    let socket = this.add_socket(socket, at);
    // The kernel takes them, and can send only a part.
    if bytes > 0 {
        assert_eq!(socket.stream.try_write(&vec![0; bytes]).unwrap(), bytes);
    }
    LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(this.clone().flush());
            this.ping(&[at], &Frame::ping(b""));
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(after) = answer_after {
                tokio::time::sleep(after).await;
                client.write_all(b"x").await.unwrap();
                socket.heard();
            }
            this.miss(at);
            tokio::time::sleep(Duration::from_millis(50)).await;
            while this.fire() {}
        })
        .await;
    this.shard.lock(|table| table.state(at))
}

#[tokio::test]
async fn a_ping_that_has_not_left_the_socket_need_not_be_answered_yet() {
    assert_eq!(lives_with(50_000, None).await, State::Open);
    assert_eq!(lives_with(0, None).await, State::Closing);
    let answered = Some(Duration::from_millis(1));
    assert_eq!(lives_with(0, answered).await, State::Open);
}

#[tokio::test]
async fn a_token_is_over_only_after_its_end() {
    let (this, listener) = (event_loop(Limits::default()), listener().await);
    let (_client, socket) = pair(&listener).await;
    let at = this.shard.lock(|table| connect(table, "u", Value::Null));
    this.add_socket(socket, at);
    let end = now() + 3600;
    this.shard.lock(|table| {
        let mut connection = Connection::clone(&table.connection(at).unwrap());
        connection.expires_at = NonZeroU64::new(end);
        assert!(table.open(at, connection));
    });
    // As if the clock had been set back after the deadline was noted.
    let socket = this.socket_of(at).unwrap();
    socket.expiry.set(end as u32);
    socket.expected.set(7);
    this.expire(at, 7);
    assert_eq!(this.shard.lock(|table| table.state(at)), State::Open);
    assert_eq!(
        this.deadlines.borrow().len(),
        0,
        "the heartbeat looks again"
    );
}

#[tokio::test]
async fn a_connection_whose_socket_fails_is_over_whatever_its_session_waits_for() {
    let limits = Limits {
        outbox_bytes: 64 * 1024 * 1024,
        ..Limits::default()
    };
    let (this, listener) = (event_loop(limits), listener().await);
    let (client, socket) = pair(&listener).await;
    let at = this.shard.lock(|table| connect(table, "u", Value::Null));
    this.add_socket(socket, at);
    let large = Frame::event_text(&[&vec![b'x'; 900_000]]);
    LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(this.clone().flush());
            for _ in 0..8 {
                this.shard
                    .lock_and_wake(|table| table.place_own(at, large.clone()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // It has not read, so the kernel answers what comes with a reset.
            drop(client);
            while this.shard.lock(|table| table.state(at)) == State::Open {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    assert!(!this.shard.lock(|table| table.is_behind(at, 1)));
    let departed = this.shard.lock(|table| table.remove(at)).unwrap();
    assert_eq!((departed.close_code, departed.was_open), (0, true));
}
