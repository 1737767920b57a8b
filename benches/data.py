#!/usr/bin/env python3
"""What it costs to store events in a data directory, beside memory and Redis.

    cargo build --release --locked
    python3 benches/data.py target/release/fanfare

Starts one node after another, and a redis-server where one is needed, on free ports. Eight clients post batches of a hundred
events of 100 bytes, each to a channel of its own. Prints events a second and CPU time per event, of the node and of Redis; what a node does
to the disk while nothing happens; memory per channel; and how long a start takes with 1 GB of events. Takes about five
minutes and 3 GB below DIR (--dir, default: the system's directory for temporary files).
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

BATCH = 100
CLIENTS = 8
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu(pid):
    """CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def counters(pid, file):
    """The numbers of /proc/PID/FILE."""
    with open(f"/proc/{pid}/{file}") as lines:
        words = [line.split() for line in lines]
    return {name[:-1]: int(number) for name, number, *_ in (w for w in words if len(w) > 1 and w[1].isdigit())}


def resident(pid):
    """KiB of memory that are the process's own."""
    return counters(pid, "status")["RssAnon"]


class Server:
    """A process that listens on `port`."""

    running = []

    def __init__(self, words, port, is_ready):
        began = time.monotonic()
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.port, self.pid = port, self.process.pid
        Server.running.append(self.process)
        while not is_ready(port):
            if self.process.poll() is not None:
                sys.exit(f"{words[0]} has ended: {self.process.returncode}")
            if time.monotonic() - began > 60:
                sys.exit(f"{words[0]} is not ready after a minute")
            time.sleep(0.005)
        self.start = time.monotonic() - began

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def answers(port):
    """Whether a node on this port is ready."""
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/readyz")
        is_ready = client.getresponse().status == 200
        client.close()
        return is_ready
    except OSError:
        return False


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def node(program, *flags):
    port = free_port()
    words = [program, "serve", "--listen", f"127.0.0.1:{port}", "--log", "warn", "--shards", "1"]
    # What is kept in memory may be as much as on disk.
    words += ["--channel-history", "room-*=1000,big-*=10000", "--limit", "history_bytes=4GiB"]
    return Server([*words, *flags], port, answers)


def redis(folder, *flags):
    port = free_port()
    words = ["redis-server", "--port", str(port), "--save", "", "--dir", folder, "--loglevel", "warning"]
    return Server([*words, *flags], port, listens)


def body(channels, size):
    items = [{"call": "send", "channel": c, "event": "e", "data": "x" * size} for c in channels]
    return json.dumps({"items": items})


def post(port, bodies):
    """Posts batches over one connection, each after the answer to the one before."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for each in bodies:
        client.request("POST", "/v1/batch", each, {"Content-Type": "application/json"})
        answer = client.getresponse()
        text = answer.read()
        if answer.status != 200 or b'"problem"' in text:
            raise RuntimeError(f"{answer.status}: {text[:300]}")
    client.close()


def post_together(port, bodies):
    """The same with all clients; seconds that it took."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda at: post(port, bodies[at::CLIENTS]), range(CLIENTS)))
    return time.monotonic() - began


def rates(server, store, batches, rounds):
    """Events a second, and CPU time per event in microseconds of the node and of Redis: medians of some rounds."""
    # No two clients send to the same channel, so that none waits for another.
    bodies = [body([f"room-{at % CLIENTS}-{n}" for n in range(BATCH)], 100) for at in range(batches)]
    post_together(server.port, bodies)
    found = []
    for _ in range(rounds):
        processes = [server.pid] + ([store.pid] if store else [])
        before = [cpu(pid) for pid in processes]
        took = post_together(server.port, bodies)
        costs = [(cpu(pid) - was) / (batches * BATCH) * 1e6 for pid, was in zip(processes, before)]
        found.append([batches * BATCH / took, *costs])
    return [statistics.median(of) for of in zip(*found)]


def at_rest(server):
    """What a node does in ten seconds in which nothing happens, in words."""
    written = None
    while written != (written := counters(server.pid, "io")["write_bytes"]):
        time.sleep(3)
    before, worked = counters(server.pid, "io"), cpu(server.pid)
    time.sleep(10)
    after, worked = counters(server.pid, "io"), cpu(server.pid) - worked
    done = {name: after[name] - before[name] for name in ["read_bytes", "write_bytes", "syscw"]}
    return f"{done['read_bytes']} bytes read, {done['write_bytes']} written, {worked * 1000:.0f} ms of CPU"


def size_of(folder):
    """Bytes on disk."""
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return sum(os.stat(file).st_blocks * 512 for file in files)


def compare(program, folder):
    print("| store | events/s | CPU µs per event, node | of Redis |\n| --- | --- | --- | --- |")

    def row(name, server, store=None, batches=800, rounds=5):
        rate, *costs = rates(server, store, batches, rounds)
        of_redis = f"{costs[1]:.1f}" if store else ""
        print(f"| {name} | {rate:,.0f} | {costs[0]:.1f} | {of_redis} |", flush=True)

    server = node(program)
    row("memory", server)
    server.stop()
    rest = []
    for sync in ["never", "interval", "always"]:
        server = node(program, "--data", f"{folder}/{sync}", "--data-sync", sync)
        row(f"data, `{sync}`", server, batches=200 if sync == "always" else 800)
        rest.append(f"{sync}: {at_rest(server)}")
        server.stop()
    for name, flags in [("no file", ["--appendonly", "no"]),
                        ("AOF, `everysec`", ["--appendonly", "yes", "--appendfsync", "everysec"]),
                        ("AOF, `always`", ["--appendonly", "yes", "--appendfsync", "always"])]:
        store = redis(folder, *flags)
        server = node(program, "--redis", f"redis://127.0.0.1:{store.port}")
        row(f"Redis, {name}", server, store, batches=200 if "always" in name else 800)
        server.stop()
        store.stop()
        shutil.rmtree(f"{folder}/appendonlydir", ignore_errors=True)
    print("\nten seconds at rest, with data and")
    print("\n".join(rest), flush=True)


def channels(program, folder):
    print()
    for name, flags in [("memory", []), ("data", ["--data", f"{folder}/many"])]:
        server = node(program, *flags)
        post(server.port, [body([f"room-{n}" for n in range(BATCH)], 20)])
        before = resident(server.pid)
        found = []
        for step in range(3):
            first = step * 100_000
            bodies = [body([f"room-{at + n}" for n in range(BATCH)], 20) for at in range(first, first + 100_000, BATCH)]
            post_together(server.port, bodies)
            time.sleep(2)
            found.append(f"{(resident(server.pid) - before) / 1024:.0f} MiB")
        print(f"{name}: 100,000, 200,000 and 300,000 quiet channels with one event each add {', '.join(found)}", flush=True)
        server.stop()


def start(program, folder):
    print()
    server = node(program, "--data", f"{folder}/big")
    bodies = [body([f"big-{at % 8 * BATCH + n}" for n in range(BATCH)], 1_900) for at in range(50)]
    for _ in range(110):
        post_together(server.port, bodies)
    server.process.kill()
    server.process.wait()
    for ended in ["a SIGKILL", "a proper end"]:
        size = size_of(f"{folder}/big") / 2**30
        server = node(program, "--data", f"{folder}/big")
        print(f"550,000 events of 1.9 kB, {size:.2f} GiB, after {ended}: ready {server.start:.2f} s after the start, "
              f"{resident(server.pid) // 1024} MiB", flush=True)
        server.stop()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program", nargs="?", default="target/release/fanfare")
    arguments.add_argument("--dir")
    arguments.add_argument("--only", choices=["compare", "channels", "start"])
    arguments = arguments.parse_args()
    folder = tempfile.mkdtemp(prefix="fanfare-bench-data-", dir=arguments.dir)
    try:
        for part in [compare, channels, start]:
            if arguments.only in (None, part.__name__):
                part(arguments.program, folder)
    finally:
        for process in Server.running:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
