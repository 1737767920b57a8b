//! How long a shard's lock is held at most by each operation, among a million connections.
//!
//! The times are of the processor of the thread that holds the lock, so that other work on the machine does not count.

#![allow(clippy::print_stdout, reason = "a bench prints what it has measured")]

use std::{env, time::Duration};

use fanfare::{
    bench::{SocketlessHub, take_longest_hold},
    protocol::frame::Frame,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A claim that no one operation may hold the lock for longer.
const BOUND: Duration = Duration::from_micros(500);

/// Runs `work`, and prints the longest hold in it.
fn report<T>(what: &str, work: impl FnOnce() -> T) -> T {
    take_longest_hold();
    let result = work();
    let longest = take_longest_hold();
    let verdict = if longest <= BOUND {
        ""
    } else {
        "  over 500 us"
    };
    println!(
        "{what:<64} {:>9.1} us{verdict}",
        longest.as_secs_f64() * 1e6
    );
    result
}

fn main() {
    let connections: usize = env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(1_000_000);
    let some = connections / 10;

    println!(
        "{connections} connections on one shard; the longest hold of its lock, in time of its thread\n"
    );

    let mut hub = SocketlessHub::new(&["auth.tenant", "auth.groups", "auth.teams"]);
    let handles: Vec<_> = report("all connect (the tables grow)", || {
        let connect = |n: usize| {
            let claims = format!(r#"{{"tenant":"t{}","n":{n}}}"#, n % 10);
            hub.connect(&format!("user-{n}"), &claims)
        };
        (0..connections).map(connect).collect()
    });

    report("all join one channel (the index grows)", || {
        assert!(handles.iter().all(|at| hub.join(*at, "all")));
    });
    report("a tenth joins another and watches it", || {
        assert!(handles[..some].iter().all(|at| hub.watch(*at, "some")));
    });

    let frame = Frame::event_text(&[&[b'x'; 128]]);
    events(&mut hub, &frame);

    report("20 notices and a count to those who watch", || {
        hub.notify("some", &vec![frame.clone(); 21]);
    });
    report("writing them", || hub.flush());

    report("a gap: stored events are in doubt for all", || {
        hub.suspect_stored();
    });
    report("looking for all clients, to drain", || {
        assert_eq!(hub.tenants(), connections);
    });

    report("a tenth refuses", || hub.block(&handles[..some], &frame));
    report("shedding, over the bound of refused bytes", || {
        hub.shed(some * 20);
    });

    report("10,000 events are replayed", || {
        hub.replay_many(handles[connections - 1], &frame, 10_000);
    });
    report("the channel of all is left by all", || {
        assert!(hub.leave_all("all") > 0);
    });
    report("all are disconnected", || {
        assert!(handles.iter().all(|at| hub.disconnect(*at)));
    });

    connections_with_much(&hub);
}

/// An event to some of the connections, which are found in another way each time.
fn events(hub: &mut SocketlessHub, frame: &Frame) {
    report("an event to everyone", || hub.emit(frame, None));
    report("writing it", || hub.flush());

    report("an event to the channel of all", || hub.send(frame, "all"));
    report("writing it", || hub.flush());

    report("an event to the channel of a tenth", || {
        hub.send(frame, "some")
    });
    report("writing it", || hub.flush());

    report("an event to a tenth, by an index", || {
        hub.emit(frame, Some("auth.tenant == 't7'"))
    });
    report("writing it", || hub.flush());

    report("an event to a tenth, by a scan", || {
        hub.emit(frame, Some("auth.n % 10 == 7"))
    });
    report("writing it", || hub.flush());

    report("an event to 10,000 users by name", || {
        let names: Vec<String> = (0..10_000).map(|n| format!("user-{}", n * 7)).collect();
        hub.publish_to(frame, &names)
    });
    report("writing it", || hub.flush());
}

/// What is done to a thousand connections at a time, each of which takes long: they are in 100 channels, or have 500 entries in
/// indexes.
fn connections_with_much(hub: &SocketlessHub) {
    let connect = |claims: &str| -> Vec<_> {
        let one = |n| hub.connect(&format!("much-{n}"), claims);
        (0..1000).map(one).collect()
    };

    let in_channels = connect("{}");
    report("1,000 join 100 channels each", || {
        for channel in 0..100 {
            let name = format!("much-{channel}");
            assert!(in_channels.iter().all(|at| hub.join(*at, &name)));
        }
    });
    report("they are closed", || {
        assert_eq!(hub.close_all("much-0"), 1000);
    });

    let indexed = connect(&many_entries("a"));
    assert!(indexed.iter().all(|at| hub.join(*at, "indexed")));
    report("claims with 500 index entries are replaced", || {
        assert_eq!(hub.replace_claims("indexed", &many_entries("b")), 1000);
    });
    report("they are closed", || {
        assert_eq!(hub.close_all("indexed"), 1000);
    });
}

/// Claims of which two declared indexes have 250 entries each.
fn many_entries(of: &str) -> String {
    let names: Vec<String> = (0..250).map(|n| format!("\"{of}{n}\"")).collect();
    let names = names.join(",");
    format!("{{\"groups\":[{names}],\"teams\":[{names}]}}")
}
