//! An emit without sockets: finding who is meant, and placing.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::{bench::SocketlessHub, protocol::frame::Frame};

/// One in a hundred connections has any one tenant.
fn hub(connections: usize, index: &[&str]) -> SocketlessHub {
    let hub = SocketlessHub::new(index);
    for n in 0..connections {
        let claims =
            format!(r#"{{"tenant":"t{}","plan":"{}","n":{n}}}"#, n % (connections / 100).max(1), n % 3);
        hub.connect(&format!("user-{n}"), &claims);
    }
    hub
}

fn frame() -> Frame {
    Frame::event_text(&[&[b'x'; 128]])
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("emit_to_100_of");
    for connections in [1_000, 10_000, 100_000] {
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
            group.bench_function(BenchmarkId::new(format!("{depth}_deep"), connections), |b| {
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
            });
        }
    }
    group.finish();
}

criterion_group!(benches, find, target, broadcast);
criterion_main!(benches);
