//! Leaving well.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::Duration,
};

use crate::support::*;
use fanfare::Server;
use serde_json::json;

fn shutdown(server: &Server) -> thread::JoinHandle<()> {
    let server = server.clone();
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(server.shutdown());
    })
}

#[test]
fn readiness_fails_first_while_all_else_goes_on_then_clients_get_their_goodbye() {
    let server = server_with(|config| {
        config.drain_delay = Some(Duration::from_secs(5));
        config.drain_timeout = Duration::from_secs(20);
    });
    let mut client = server.connect("");
    assert_eq!(server.get("/readyz").status, 200);
    let leaving = shutdown(&server.0);
    eventually("readiness fails", || server.get("/readyz").status == 503);
    let alone = server.get("/readyz?scope=node");
    assert_eq!(
        (alone.status, &alone.json()["ready"]),
        (503, &json!(false)),
        "{alone:?}"
    );
    for path in ["/healthz", "/livez"] {
        assert_eq!(
            server.get(path).status,
            200,
            "{path}: a node that leaves works"
        );
    }
    let mut late = server.connect("");
    server.call("/v1/broadcast", &json!({"event": "still", "data": 1}));
    for client in [&mut client, &mut late] {
        assert_eq!(client.json()["event"], "still");
        let bye = client.json();
        assert_eq!(
            (&bye["op"], &bye["code"], &bye["reason"]),
            (&json!("bye"), &json!(4200), &json!("draining"))
        );
        assert!(bye["reconnect_in_ms"].as_u64().unwrap() <= 3000);
        assert_eq!(client.next(), Received::Close(4200, "draining".into()));
    }
    // Clients are still there, as far as the server knows: HTTP is served, upgrades are not.
    let refused = Client::open(server.address(), "/v1/connect", &[])
        .err()
        .expect("refused");
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    assert!(refused.header("retry-after").is_some());
    let answer = server.get("/healthz");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    drop((client, late));
    leaving.join().unwrap();
    assert!(
        std::net::TcpStream::connect(server.address()).is_err(),
        "nothing listens any more"
    );
}

#[test]
fn every_client_is_sent_away() {
    let server = server_with(|config| config.drain_timeout = Duration::from_secs(30));
    let clients: Vec<Client> = (0..400).map(|_| server.connect("")).collect();
    let leaving = shutdown(&server.0);
    for mut client in clients {
        assert_eq!(client.closed(), 4200);
    }
    leaving.join().unwrap();
}

#[test]
fn what_was_accepted_is_written_or_counted_and_a_client_that_does_not_answer_holds_nothing_up() {
    let server = server_with(|config| config.drain_timeout = Duration::from_secs(10));
    let mut reader = server.connect("");
    let silent = server.connect("");
    socket2::SockRef::from(&silent.socket)
        .set_recv_buffer_size(4096)
        .unwrap();
    let mut queued = 0;
    for n in 0..300 {
        let receipt = server.call(
            "/v1/broadcast",
            &json!({"event": "e", "data": {"n": n, "p": "x".repeat(2000)}}),
        );
        queued += receipt["queued"].as_u64().unwrap();
    }
    let leaving = shutdown(&server.0);
    let mut read = 0;
    loop {
        match reader.next() {
            Received::Text(text) if text.contains("\"bye\"") => {}
            Received::Text(_) => read += 1,
            Received::Close(code, _) => break assert_eq!(code, 4200),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, 300);
    // The silent one is reset when its time is over.
    leaving.join().unwrap();
    let numbers = server.0.metrics();
    let delivered = sum(&numbers, "fanfare_deliveries_total", "");
    let dropped = sum(&numbers, "fanfare_drops_total", "");
    assert_eq!(
        (delivered + dropped) as u64,
        queued,
        "delivered {delivered}, dropped {dropped}"
    );
    assert!(dropped > 0.0 && sum(&numbers, "fanfare_connections", "") as u64 == 0);
    drop((reader, silent));
}

/// One call after another, each on a connection of its own, until nobody listens; how many were cut off unanswered.
fn calls_until_refused(address: std::net::SocketAddr) -> usize {
    let call = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut cut_off = 0;
    loop {
        match std::net::TcpStream::connect(address) {
            Ok(mut socket) => {
                let mut answer = Vec::new();
                let _ = socket.write_all(call.as_bytes());
                let _ = socket.read_to_end(&mut answer);
                cut_off += usize::from(!answer.starts_with(b"HTTP/1.1 200 "));
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return cut_off,
            Err(_) => cut_off += 1,
        }
    }
}

#[test]
fn whoever_was_let_in_is_answered_and_the_next_one_is_refused() {
    let mut cut_off = 0;
    for _ in 0..5 {
        let server = server();
        let address = server.address();
        let callers: Vec<_> = (0..6)
            .map(|_| thread::spawn(move || calls_until_refused(address)))
            .collect();
        eventually("callers are answered", || {
            server.metric("fanfare_http_request_seconds_count", "") > 100.0
        });
        shutdown(&server.0).join().unwrap();
        cut_off += callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .sum::<usize>();
    }
    // Between its last look at the queue and its end the kernel may let one in: once in 30 ends, when this was measured. Where
    // the queue is not looked at, it is six or seven in each.
    assert!(cut_off <= 10, "{cut_off} were cut off");
}
