#!/usr/bin/env python3
"""The CPU time that a durable event over Redis costs the node that takes it, of several builds in turn.

    python3 benches/durable.py PROGRAM [OTHER...]

Each build serves one node with a redis-server of its own. Clients of the HTTP API send events of 100 bytes: for the connections of
the node alone, which is a call without Redis; to channels without a history, which adds a PUBLISH; and to channels with one. One
WebSocket client is in all channels, so that each stored event also comes back from Redis. The builds take turns every few seconds,
as other work on the machine changes what a call costs. Prints medians of five rounds.
"""

import asyncio
import base64
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = 5
# How events come: connections at the same time, events in a request, and how many are measured.
WAYS = [
    ("one event in a call, 64 callers", 64, 1, 5_000),
    ("batches of 10, 16 callers", 16, 10, 10_000),
    ("batches of 100, 8 callers", 8, 100, 20_000),
]
# Whom events are for: this node alone, a channel without a history, and one with a history.
KINDS = ["near", "live", "room"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu(pid):
    """Seconds that all threads of a process have run."""
    ran = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            ran += int(stat.read().split()[0])
    return ran / 1e9


class Rig:
    """A node and its Redis."""

    def __init__(self, program):
        port = free_port()
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.redis = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.port = free_port()
        self.members = {}
        words = [program, "serve", "--listen", f"127.0.0.1:{self.port}", "--log", "warn", "--shards", "1"]
        words += ["--channel-history", "room*=100", "--redis", f"redis://127.0.0.1:{port}"]
        self.node = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                client = http.client.HTTPConnection("127.0.0.1", self.port)
                client.request("GET", "/readyz")
                if client.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        sys.exit(f"{program} does not become ready")

    def times(self):
        return cpu(self.node.pid), cpu(self.redis.pid)

    def stop(self):
        self.node.kill()
        self.redis.kill()
        self.node.wait()
        self.redis.wait()

    def member(self, prefix, channels):
        """A client in all channels that throws away what it gets."""
        client = socket.create_connection(("127.0.0.1", self.port))
        key = base64.b64encode(b"0" * 16).decode()
        client.sendall(
            f"GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: fanfare.v1\r\n\r\n".encode()
        )
        if b" 101 " not in client.recv(4096):
            sys.exit("the client was refused")
        for n in range(channels):
            text = json.dumps({"op": "join", "id": n, "channel": f"{prefix}-{n}"}).encode()
            client.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
            # Below the rate of a client's messages.
            time.sleep(0.03)

        def read():
            try:
                while client.recv(1 << 20):
                    pass
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()
        return client

    async def send(self, name, events, callers, together, scope="cluster"):
        sent = 0

        async def call():
            nonlocal sent
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while sent < events:
                first, sent = sent, sent + together
                items = [{"channel": name(first + n), "event": "e", "data": "x" * 100, "scope": scope} for n in range(together)]
                path, body = "send", items[0]
                if together > 1:
                    path, body = "batch", {"items": [{"call": "send", **item} for item in items]}
                body = json.dumps(body).encode()
                head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                start = head.index(b"content-length:") + 15
                answer = await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
                if not head.startswith(b"http/1.1 200") or b'"error"' in answer:
                    sys.exit(answer[:300].decode())
            writer.close()

        await asyncio.gather(*(call() for _ in range(callers)))

    def measure(self, kind, channels, way):
        _, callers, together, events = way
        prefix, scope = f"{kind}-{channels}", "node" if kind == "near" else "cluster"
        if prefix not in self.members:
            self.members[prefix] = self.member(prefix, channels)

        def name(n):
            return f"{prefix}-{n * 7919 % channels}"

        asyncio.run(self.send(name, 1000, callers, together, scope))
        before = self.times()
        asyncio.run(self.send(name, events, callers, together, scope))
        after = self.times()
        return [(now - was) / events * 1e6 for was, now in zip(before, after)]


def main():
    programs = sys.argv[1:] or ["target/release/fanfare"]
    costs = {}
    rigs = [(program, Rig(program)) for program in programs]
    for _ in range(ROUNDS):
        for way in WAYS:
            for channels in [1, 100]:
                for kind in KINDS:
                    for program, rig in rigs:
                        cost = rig.measure(kind, channels, way)
                        costs.setdefault((way[0], channels, program, kind), []).append(cost)
    for _, rig in rigs:
        rig.stop()

    print("| how events come | channels | build | node, without Redis | node, published | node, stored | Redis, published | Redis, stored |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for way in WAYS:
        for channels in [1, 100]:
            for program in programs:
                of = {}
                for kind in KINDS:
                    rounds = zip(*costs[(way[0], channels, program, kind)])
                    of[kind] = [statistics.median(cost) for cost in rounds]
                cells = [of["near"][0], of["live"][0], of["room"][0], of["live"][1], of["room"][1]]
                print(f"| {way[0]} | {channels} | {program} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


main()
