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

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server has to be installed");
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
    let beside = Command::new("redis-benchmark")
        .args([
            "-p",
            &server.port.to_string(),
            "-n",
            "1000000",
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
    if let Ok(beside) = beside {
        println!("redis-benchmark -P 64: {}", String::from_utf8_lossy(&beside.stdout).trim());
    }
    let mut pair = BusPair::new(&format!("redis://127.0.0.1:{}", server.port));
    let mut group = c.benchmark_group("bus");
    group.throughput(Throughput::Elements(COUNT as u64)).sample_size(20);
    for size in [128, 2048] {
        let payload = Bytes::from(vec![b'x'; size]);
        group.bench_function(BenchmarkId::new("publish", size), |b| b.iter(|| pair.publish(COUNT, &payload)));
        group.bench_function(BenchmarkId::new("exchange", size), |b| {
            b.iter(|| pair.exchange(COUNT, &payload));
        });
    }
    group.finish();
}

criterion_group!(benches, bus);
criterion_main!(benches);
