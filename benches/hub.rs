//! An emit without sockets: finding who is meant, and placing.

use std::{env, fs, hint::black_box, process::Command};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use fanfare::{
    bench::SocketlessHub,
    protocol::{
        event::{Data, Event},
        frame::Frame,
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names the case whose memory a process of its own is to measure.
const MEASURE: &str = "FANFARE_BENCH_MEMORY";

/// One in a hundred connections has any one tenant.
fn hub(connections: usize, index: &[&str]) -> SocketlessHub {
    let hub = SocketlessHub::new(index);
    for n in 0..connections {
        let claims = format!(
            r#"{{"tenant":"t{}","plan":"{}","n":{n}}}"#,
            n % (connections / 100).max(1),
            n % 3
        );
        hub.connect(&format!("user-{n}"), &claims);
    }
    hub
}

fn frame() -> Frame {
    Frame::event_text(&[&[b'x'; 128]])
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("emit_to_100_of");
    for connections in [1_000, 10_000, 100_000, 1_000_000] {
        for (name, index) in [("index", &["auth.tenant"][..]), ("scan", &[])] {
            let mut hub = hub(connections, index);
            let frame = frame();
            group.bench_function(BenchmarkId::new(name, connections), |b| {
                b.iter(|| {
                    let placed = hub.emit(&frame, Some("auth.tenant == 't7'"));
                    assert_eq!((placed, hub.flush()), (100, 100));
                });
            });
        }
    }
    group.finish();
}

/// A connection with three claims, one of them indexed, comes and goes among others.
fn arrival(c: &mut Criterion) {
    let mut group = c.benchmark_group("connect_and_leave_among");
    for connections in [1_000, 1_000_000] {
        let hub = hub(connections, &["auth.tenant"]);
        group.bench_function(BenchmarkId::from_parameter(connections), |b| {
            b.iter(|| {
                let at = hub.connect("somebody", r#"{"tenant":"t7","plan":"1","n":1}"#);
                assert!(hub.disconnect(at));
            });
        });
    }
    group.finish();
}

fn target(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish_to_one_user_of");
    for connections in [1_000, 100_000] {
        let mut hub = hub(connections, &[]);
        let frame = frame();
        group.bench_function(BenchmarkId::from_parameter(connections), |b| {
            b.iter(|| {
                assert_eq!(hub.publish(&frame, "user-77"), 1);
                hub.flush()
            });
        });
    }
    group.finish();
}

fn broadcast(c: &mut Criterion) {
    let mut group = c.benchmark_group("broadcast");
    for connections in [1_000usize, 10_000, 100_000] {
        group.throughput(Throughput::Elements(connections as u64));
        for depth in [1usize, 16] {
            let mut hub = hub(connections, &[]);
            let frames: Vec<Frame> = (0..depth).map(|_| frame()).collect();
            group.bench_function(
                BenchmarkId::new(format!("{depth}_deep"), connections),
                |b| {
                    b.iter_batched(
                        || (),
                        |()| {
                            for frame in &frames {
                                black_box(hub.emit(frame, None));
                            }
                            assert_eq!(hub.flush(), connections * depth);
                        },
                        BatchSize::PerIteration,
                    );
                },
            );
        }
    }
    group.finish();
}

/// Ten members of one channel among many connections, each of which is in one channel of ten.
fn channel(c: &mut Criterion) {
    let mut group = c.benchmark_group("send_to_10_members_among");
    for connections in [1_000, 1_000_000] {
        let mut hub = SocketlessHub::new(&[]);
        for n in 0..connections {
            let at = hub.connect(&format!("user-{n}"), "{}");
            assert!(hub.join(at, &format!("room-{}", n / 10)));
        }
        let frame = frame();

        // Another room each time, as in life: the same one would stay in the cache.
        let mut room = 0;
        group.bench_function(BenchmarkId::from_parameter(connections), |b| {
            b.iter(|| {
                room = (room + 7919) % (connections / 10);
                assert_eq!(hub.send(&frame, &format!("room-{room}")), 10);
                hub.flush()
            });
        });

        group.bench_function(BenchmarkId::new("the_same_room", connections), |b| {
            b.iter(|| {
                assert_eq!(hub.send(&frame, "room-7"), 10);
                hub.flush()
            });
        });
    }
    group.finish();
}

fn membership(c: &mut Criterion) {
    let mut group = c.benchmark_group("membership");
    for others in [0, 99] {
        let hub = hub(10_000, &["profile.status"]);
        let at = hub.connect("ann", "{}");
        for n in 0..others {
            hub.join(at, &format!("room-{n}"));
        }

        group.bench_function(BenchmarkId::new("join_and_leave_beside", others), |b| {
            b.iter(|| assert!(hub.join(at, "lobby") && hub.leave(at, "lobby")));
        });

        // In turn, so that each update changes the index.
        let mut here = false;
        group.bench_function(BenchmarkId::new("update_in_channels", others), |b| {
            b.iter(|| {
                here = !here;
                hub.update(
                    at,
                    if here {
                        r#"{"status":"here"}"#
                    } else {
                        r#"{"status":"away"}"#
                    },
                );
            });
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let hub = SocketlessHub::new(&[]);
    let at = hub.connect("ann", "{}");
    let data = serde_json::value::to_raw_value(&"x".repeat(128)).expect("a string is JSON");
    hub.store(
        "ann",
        &Event::new("e", Data::Json(&data)).expect("a good event"),
        1000,
    );

    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000_stored_events", |b| {
        b.iter(|| assert_eq!(hub.replay(at, "ann"), 1000));
    });
    group.finish();
}

/// Bytes of this process's own memory that are in use by the system's count.
fn anonymous() -> f64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel counts memory");
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok())
        .expect("a number of KiB")
        * 1024.0
}

/// No times: what a membership and what a connection take. Each is measured in a process of its own, since an allocator
/// keeps some of what was freed before.
fn memory(_: &mut Criterion) {
    for case in [
        "members 10",
        "members 1000",
        "connections",
        "connections indexed",
    ] {
        let own = env::current_exe().expect("this program's path");
        let done = Command::new(own).env(MEASURE, case).status();
        assert!(done.is_ok_and(|status| status.success()), "{case}");
    }
}

fn measure(case: &str) {
    match case.split_once(' ') {
        Some(("members", size)) => {
            let size: usize = size.parse().expect("a number");
            let hub = SocketlessHub::new(&[]);
            let at: Vec<_> = (0..20_000)
                .map(|n| hub.connect(&format!("user-{n}"), "{}"))
                .collect();

            let before = anonymous();
            for round in 0..10 {
                for (n, at) in at.iter().enumerate() {
                    assert!(hub.join(*at, &format!("room-{round}-{}", n / size)));
                }
            }

            let grown = (anonymous() - before) / (at.len() * 10) as f64;
            println!("memory per membership, channels of {size}: {grown:.0} B");
        }
        indexed => {
            let index: &[&str] = if indexed.is_some() {
                &["auth.tenant"]
            } else {
                &[]
            };

            let before = anonymous();
            let hub = hub(1_000_000, index);
            let grown = (anonymous() - before) / 1e6;
            println!(
                "memory per connection among 1,000,000, three claims, indexes {index:?}: {grown:.0} B"
            );
            drop(hub);
        }
    }
}

criterion_group!(
    benches, find, arrival, target, broadcast, channel, membership, replay, memory
);

fn main() {
    if let Some(case) = env::var_os(MEASURE) {
        measure(&case.to_string_lossy());
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
