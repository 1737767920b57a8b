//! Clients that stop reading: they are closed for it, and nobody else notices.

use std::{
    io::{ErrorKind, Read, Write},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{kept::Caller, support::*};
use serde_json::{Value, json};

/// How many bytes the publisher may be ahead of the slowest good reader; well within one outbox.
const AHEAD: usize = 256 * 1024;

/// Upgraded sockets of clients that have had their welcome.
fn connect(server: &TestServer, count: usize) -> Vec<Client> {
    (0..count).map(|_| server.connect("")).collect()
}

/// A small receive buffer, so that a client that does not read makes its socket refuse soon.
fn shrink(client: &Client) {
    socket2::SockRef::from(&client.socket)
        .set_recv_buffer_size(4096)
        .unwrap();
}

/// The bytes that every client gets: `count` numbered events of about 1 KiB, each a frame of its own.
fn stream(count: usize) -> (Vec<u8>, Vec<Value>) {
    let padding = "x".repeat(1000);
    let mut bytes = Vec::new();
    let mut bodies = Vec::new();
    for n in 0..count {
        let data = json!({"n": n, "padding": padding});
        let payload = format!("{{\"event\":\"e\",\"data\":{data}}}");
        bytes.extend([0x81, 126]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload.as_bytes());
        bodies.push(json!({"event": "e", "data": data}));
    }
    (bytes, bodies)
}

/// Reads until every client has had exactly `expected`, byte for byte; `slowest` says how far all have come.
fn read_all(clients: &[Client], expected: &[u8], slowest: &AtomicUsize) -> Result<(), String> {
    let mut offsets = vec![0; clients.len()];
    let mut buffer = vec![0; 1 << 16];
    let mut last_progress = Instant::now();
    for client in clients {
        client.socket.set_nonblocking(true).unwrap();
    }
    while offsets.iter().any(|&at| at < expected.len()) {
        for (n, (client, at)) in clients.iter().zip(&mut offsets).enumerate() {
            match (&client.socket).read(&mut buffer) {
                Ok(0) => return Err(format!("client {n} was cut off after {at} bytes")),
                Ok(read) if expected.get(*at..*at + read) == Some(&buffer[..read]) => *at += read,
                Ok(_) => return Err(format!("client {n} got something else after {at} bytes")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(format!("client {n} after {at} bytes: {error}")),
            }
            last_progress = Instant::now();
        }
        slowest.store(offsets.iter().copied().min().unwrap_or(0), SeqCst);
        if last_progress.elapsed() > PATIENCE {
            return Err(format!(
                "no progress; the slowest has {} bytes",
                slowest.load(SeqCst)
            ));
        }
    }
    Ok(())
}

/// Broadcasts `bodies`, never far ahead of the slowest of those who do read: how fast this machine's readers are is
/// not what is tested.
fn broadcast(server: &TestServer, bodies: &[Value], slowest: &AtomicUsize, stop: &AtomicBool) {
    for (n, body) in bodies.iter().enumerate() {
        while n * 1024 > slowest.load(SeqCst) + AHEAD && !stop.load(SeqCst) {
            thread::yield_now();
        }
        let answer = server.post("/v1/broadcast", body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Runs `broadcast` against readers of `good`.
fn serve_good(server: &TestServer, good: &[Client], events: usize) -> Result<(), String> {
    let (expected, bodies) = stream(events);
    let (slowest, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let result = read_all(good, &expected, &slowest);
            stop.store(true, SeqCst);
            result
        });
        broadcast(server, &bodies, &slowest, &stop);
        reading.join().unwrap()
    })
}

/// A server that sends nothing by itself, so that a client's bytes can be foretold.
fn quiet_server() -> TestServer {
    server_with(|config| config.limits.heartbeat = Duration::from_hours(1))
}

/// What this process logs from now on.
fn logged() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines(Arc::default());
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone());
    let _ = subscriber.try_init();
    lines.0
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn one_stalled_client_is_closed_and_a_thousand_others_miss_nothing() {
    // The memory and the log of this process are also those of the tests beside this one.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("slow_consumers::what_one_stalled_client_costs")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "another test runs it, as a process of its own"]
fn what_one_stalled_client_costs() {
    const GOOD: usize = 1000;
    let log = logged();
    let server = quiet_server();
    let good = connect(&server, GOOD);
    let stalled = server.client("stalled", &json!({}));
    shrink(&stalled);
    let before = resident_bytes();
    assert_eq!(serve_good(&server, &good, 10_000), Ok(()));
    let grown = resident_bytes().saturating_sub(before);
    eventually("the stalled client is closed for it", || {
        server.metric("fanfare_closes_total", "4101") >= 1.0
    });
    assert_eq!(
        server.metric("fanfare_closes_total", "4101"),
        1.0,
        "nobody else was taken for slow"
    );
    assert_eq!(server.metric("fanfare_connections", ""), GOOD as f64);
    assert!(server.metric("fanfare_drops_total", "slow_consumer") > 0.0);
    assert_eq!(
        server.metric("fanfare_bulk_in_flight", ""),
        0.0,
        "nothing holds the gate"
    );
    let mut line = None;
    eventually("a line says who", || {
        let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        let found = log.lines().find(|line| line.contains(&stalled.id));
        line = found.map(ToOwned::to_owned);
        line.is_some()
    });
    let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
    let fields = &line["fields"];
    assert_eq!(
        (&fields["user"], &fields["code"]),
        (&json!("stalled"), &json!(4101)),
        "{line}"
    );
    assert!(
        fields["waiting_bytes"].as_u64() > Some(0) && fields["stalled_ms"].is_u64(),
        "{line}"
    );
    // One outbox of 1 MiB and the frames that the gate admits, beside 20 MiB of this test's own.
    assert!(grown < 64 << 20, "memory grew by {} MiB", grown >> 20);
}

#[test]
fn two_thousand_slow_readers_do_not_touch_two_thousand_good_ones() {
    const EACH: usize = 2000;
    let server = quiet_server();
    let (mut good, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        good.push(server.connect(""));
        slow.push(server.connect(""));
        shrink(&slow[slow.len() - 1]);
    }
    assert_eq!(serve_good(&server, &good, 3000), Ok(()));
    eventually("the slow ones are gone", || {
        server.metric("fanfare_connections", "") <= EACH as f64
    });
    assert_eq!(server.metric("fanfare_closes_total", "4101"), EACH as f64);
    // What a slow one can still read is a beginning of the same stream, then the close frame or the end.
    let (expected, _) = stream(3000);
    for client in slow.iter_mut().step_by(97) {
        let mut bytes = Vec::new();
        let _ = client.socket.read_to_end(&mut bytes);
        let same = bytes
            .iter()
            .zip(&expected)
            .take_while(|(a, b)| a == b)
            .count();
        let rest = &bytes[same..];
        assert!(
            rest.is_empty() || rest.starts_with(&[0x88, 10, 0x10, 0x05]),
            "after {same} bytes: {rest:?}"
        );
    }
    assert_eq!(
        server.metric("fanfare_bulk_in_flight", ""),
        0.0,
        "nothing holds the gate"
    );
    assert_eq!(
        server.metric("fanfare_refused_bytes", ""),
        0.0,
        "what was refused is let go"
    );
}

/// As many as a second of a flood brings while the client's machine is busy with something else.
#[test]
fn a_client_that_reads_nothing_for_a_moment_gets_a_flood_of_small_events() {
    const EVENTS: u64 = 5000;
    let server = server();
    let mut client = server.connect("");
    shrink(&client);
    let event = |n| json!({"call": "emit", "event": "e", "data": {"n": n, "text": "x".repeat(60)}});
    let events: Vec<Value> = (0..EVENTS).map(event).collect();
    Caller::new(server.address()).batches(&events);
    for n in 0..EVENTS {
        assert_eq!(client.json()["data"]["n"], n);
    }
}
