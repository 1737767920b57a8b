//! An emit without sockets: finding who is meant, and placing.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::{
    bench::SocketlessHub,
    protocol::{
        event::{Data, Event},
        frame::Frame,
    },
};
use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

/// No times: what a membership and what a connection take, as the allocator counts it.
fn memory(_: &mut Criterion) {
    let allocated = || {
        epoch::advance().expect("the allocator counts");
        stats::allocated::read().expect("the allocator counts") as f64
    };
    for size in [10, 1000] {
        let hub = SocketlessHub::new(&[]);
        let at: Vec<_> = (0..20_000)
            .map(|n| hub.connect(&format!("user-{n}"), "{}"))
            .collect();
        let before = allocated();
        for round in 0..10 {
            for (n, at) in at.iter().enumerate() {
                assert!(hub.join(*at, &format!("room-{round}-{}", n / size)));
            }
        }
        let grown = (allocated() - before) / (at.len() * 10) as f64;
        println!("memory per membership, channels of {size}: {grown:.0} B");
    }
    for (name, index) in [
        ("no index", &[][..]),
        ("an index on a claim", &["auth.tenant"]),
    ] {
        let before = allocated();
        let hub = hub(1_000_000, index);
        let grown = (allocated() - before) / 1e6;
        println!("memory per connection among 1,000,000, three claims, {name}: {grown:.0} B");
        drop(hub);
    }
}

criterion_group!(
    benches, find, arrival, target, broadcast, channel, membership, replay, memory
);
criterion_main!(benches);
