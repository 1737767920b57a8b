//! The bus with a Redis on this machine, beside what `redis-benchmark` gets from the same one.

#![allow(clippy::unwrap_used, reason = "a bench may end at once")]

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::bench::redis::BusPair;

/// Publications of one measurement.
const COUNT: usize = 20_000;

/// What `redis-benchmark` publishes.
const BESIDE: usize = 1_000_000;

/// Processor time so far, in seconds: of this process, and of its children that have ended.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name may have spaces; what follows its bracket is numbered from 3 on (proc_pid_stat(5)).
    let ticks: Vec<f64> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();

    // Linux has 100 in a second, whatever its own clock does.
    (
        (ticks[11] + ticks[12]) / 100.0,
        (ticks[13] + ticks[14]) / 100.0,
    )
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();

        let named = std::env::var_os("REDIS_SERVER").filter(|named| !named.is_empty());
        let child = Command::new(named.unwrap_or_else(|| "redis-server".into()))
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, or what REDIS_SERVER names, has to be installed");

        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bus(c: &mut Criterion) {
    let server = Server::start();

    // First, so that it has the server for itself.
    let before = cpu();
    let beside = Command::new("redis-benchmark")
        .args([
            "-p",
            &server.port.to_string(),
            "-n",
            &BESIDE.to_string(),
            "-P",
            "64",
            "-d",
            "128",
            "--csv",
            "publish",
            "c",
            "__data__",
        ])
        .output();

    // Without it the rest can be measured all the same.
    if let Ok(beside) = beside {
        println!(
            "redis-benchmark -P 64: {}",
            String::from_utf8_lossy(&beside.stdout).trim()
        );
        println!(
            "its CPU per publish: {:.2} µs",
            (cpu().1 - before.1) * 1e6 / BESIDE as f64
        );
    }

    let mut pair = BusPair::new(&format!("redis://127.0.0.1:{}", server.port));
    let (payload, before) = (Bytes::from(vec![b'x'; 128]), cpu());
    (0..BESIDE / COUNT).for_each(|_| pair.publish(COUNT, &payload));
    println!(
        "a node's CPU per publish: {:.2} µs",
        (cpu().0 - before.0) * 1e6 / BESIDE as f64
    );

    let mut group = c.benchmark_group("bus");
    group
        .throughput(Throughput::Elements(COUNT as u64))
        .sample_size(20);
    for size in [128, 2048] {
        let payload = Bytes::from(vec![b'x'; size]);
        group.bench_function(BenchmarkId::new("publish", size), |b| {
            b.iter(|| pair.publish(COUNT, &payload));
        });
        group.bench_function(BenchmarkId::new("exchange", size), |b| {
            b.iter(|| pair.exchange(COUNT, &payload));
        });
    }
    group.finish();
}

criterion_group!(benches, bus);
criterion_main!(benches);
