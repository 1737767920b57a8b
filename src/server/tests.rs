use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use super::*;
use crate::{EmitError, block_on, config::JwksUrl, limits::READY_SILENCE};

/// A server with everything: two shards, an admin thread, and a Redis that is not there.
fn start() -> Server {
    Server::builder()
        .listen("127.0.0.1:0")
        .admin_listen("127.0.0.1:0")
        .shards(2)
        .redis("redis://127.0.0.1:1")
        .configure(|config| {
            let url = JwksUrl::try_from("http://127.0.0.1:1/keys.json".to_owned()).unwrap();
            let app = config.apps.get_mut("default").unwrap();
            app.jwks_url = Some(url);
            app.audience = Some("test".to_owned());
        })
        .start()
        .unwrap()
}

fn status(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

#[test]
fn whichever_task_fails_the_server_stops_and_says_which() {
    let server = start();
    let supervisor = server.inner.node.supervisor.clone();
    let expected = [
        "accept",
        "accept of the admin thread",
        "admin thread",
        "bus",
        "clients of shard 0",
        "clients of shard 1",
        "counts for the log",
        "counts of other nodes",
        "expired answers",
        "flush of shard 0",
        "flush of shard 1",
        "gaps",
        "hearing other nodes",
        "keys of http://127.0.0.1:1/keys.json",
        "leaving of shard 0",
        "leaving of shard 1",
        "lease",
        "list of members",
        "missed events",
        "missed stored events of shard 0",
        "missed stored events of shard 1",
        "notices of other nodes",
        "notices that are owed",
        "notices to members",
        "programs",
        "shard 0",
        "shard 1",
        "watch of shard 0",
        "watch of shard 1",
        "what is over its time",
        "HTTP watch of shard 0",
        "HTTP watch of shard 1",
        "HTTP watch of admin thread",
        "publisher for 127.0.0.1:1",
        "subscriber at 127.0.0.1:1",
    ];
    let expected: BTreeSet<Arc<str>> = expected.map(Into::into).into();
    let tasks = || supervisor.tasks().into_iter().collect::<BTreeSet<_>>();
    while !tasks().is_superset(&expected) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(server);
    assert_eq!(tasks(), expected);

    for task in expected {
        let server = start();
        assert_eq!(
            status(server.admin_address().unwrap(), "/livez"),
            "HTTP/1.1 200 OK"
        );
        server.inner.node.supervisor.make_panic(&task);
        let failed = block_on(server.wait()).unwrap_err();
        assert_eq!(failed.task(), &*task);
        assert_eq!(
            failed.to_string(),
            format!("{task} has panicked: made to panic by a test; the server has stopped")
        );

        // Nothing is left that would take clients or events.
        block_on(server.shutdown());
        assert!(TcpStream::connect(server.address()).is_err(), "{task}");
        let emitted = block_on(server.broadcast("e", 1));
        assert!(matches!(emitted, Err(EmitError::Stopped)), "{emitted:?}");
        assert_eq!(block_on(server.wait()), Err(failed));
    }
}

#[test]
fn a_server_that_is_shut_down_has_not_failed() {
    let server = start();
    block_on(server.shutdown());
    assert_eq!(block_on(server.wait()), Ok(()));
    let server = start();
    let supervisor = server.inner.node.supervisor.clone();
    drop(server);
    assert_eq!(supervisor.failure(), None);
}

#[test]
fn a_shard_whose_writer_hangs_is_silent_although_its_watch_goes_on() {
    let server = start();
    let node = &server.inner.node;
    node.supervisor.make_hang("flush of shard 1");
    while node.hub.shard(1).silence() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.supervisor.failure(), None, "it has not ended");
    assert_eq!(status(server.address(), "/livez"), "HTTP/1.1 200 OK");
    while node.hub.shard(1).silence() <= READY_SILENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    let admin = server.admin_address().unwrap();
    assert_eq!(
        status(admin, "/readyz?scope=node"),
        "HTTP/1.1 503 Service Unavailable"
    );
    assert_eq!(status(admin, "/livez"), "HTTP/1.1 200 OK", "it may recover");
}

#[test]
fn a_core_is_left_free_where_there_is_more_than_one() {
    assert_eq!([1, 2, 8, 1000].map(shards_for), [1, 1, 7, 255]);
}
