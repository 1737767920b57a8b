#!/usr/bin/env python3
"""The CPU time that an append costs Redis, beside a bare script with XADD and PUBLISH.

    python3 benches/append.py

Starts a redis-server on a free port, sends the scripts of src/history/redis to it as nodes do (up to 512 commands in a
pipeline), and prints what INFO says of its CPU time: for one busy channel, and for events that come to many channels at
random, where so many wait for Redis that they go as one script. Histories keep 100 events of 150 bytes, and are full; 330
bytes are published for each. "counted" is of an app with max_stored_bytes.
"""

import pathlib
import random
import socket
import struct
import subprocess
import time

SCRIPTS = pathlib.Path(__file__).parent.parent / "src" / "history" / "redis"
BARE = """redis.call('XADD', KEYS[1], '*', 't', '1', 'x', '1', 'n', '100', 'r', ARGV[1])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1"""
RECORD, TAIL = b"R" * 150, b"T" * 330
BOUNDS = struct.pack(">QQQ", 100, 1 << 20, 300_000)
EVENTS = 30_000
# Channels, and events that wait.
CASES = [(1, 64), (100, 256), (100, 64), (1000, 256), (1000, 64), (10000, 64), (1000, 1)]


class Redis:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        self.lines = self.socket.makefile("rb")

    def call(self, *words):
        self.socket.sendall(command(*words))
        return self.answer()

    def answer(self):
        line = self.lines.readline()
        kind, text = line[:1], line[1:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(text))]
        if kind == b"$":
            return None if text == b"-1" else self.lines.read(int(text) + 2)[:-2]
        if kind == b"-":
            raise RuntimeError(text)
        return int(text) if kind == b":" else text

    def cpu(self):
        lines = self.call("INFO", "cpu").decode().split()
        return sum(float(line.split(":")[1]) for line in lines if line.startswith(("used_cpu_user:", "used_cpu_sys:")))

    def time(self, commands):
        """CPU time of Redis for an event, in microseconds."""
        before, waiting = self.cpu(), []
        for at, one in enumerate(commands):
            waiting.append(one)
            if len(waiting) == 512 or sum(map(len, waiting)) > 400_000 or at == len(commands) - 1:
                self.socket.sendall(b"".join(waiting))
                for _ in waiting:
                    self.answer()
                waiting = []
        return (self.cpu() - before) / EVENTS * 1e6


def command(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def keys(channel):
    return [f"fanfare:bench:default:channel.{part}:room-{channel}" for part in ("state", "events")]


def topic(channel):
    return f"fanfare:bench:default:channel:room-{channel}"


def bare(script, channel):
    return command("EVALSHA", script, 2, "bare:" + keys(channel)[1], topic(channel), RECORD, TAIL)


def append(script, channels, epochs, is_counted):
    runs = {}
    for channel in channels:
        runs[channel] = runs.get(channel, 0) + 1
    names, args = ["primary"], [b"F" * 8, 3_600_000, "PUBLISH"]
    for channel, count in runs.items():
        names += keys(channel) + ["kept"] * is_counted
        seen = struct.pack(">BQQ", 2 * is_counted, 0, 0)
        args += [epochs.get(channel, b""), seen, topic(channel), BOUNDS, count, *["100", RECORD, b"", TAIL] * count]
    return command("EVALSHA", script, len(names), *names, *args)


def main():
    redis = Redis()
    try:
        parts = ("base", "quick", "topic", "append")
        script = redis.call("SCRIPT", "LOAD", "".join((SCRIPTS / f"{part}.lua").read_text() for part in parts))
        script_bare = redis.call("SCRIPT", "LOAD", BARE)
        print("channels | wait | bare | append | times | counted")
        for channels, waiting in CASES:
            redis.call("FLUSHALL")
            redis.call("SET", "primary", "p" * 16)
            which = [random.randrange(channels) for _ in range(EVENTS)]
            batches = [which[at : at + waiting] for at in range(0, EVENTS, waiting)]
            epochs = {}

            def appended(is_counted=False):
                return redis.time([append(script, batch, epochs, is_counted) for batch in batches])

            # Histories fill up, and the caller learns the numberings.
            for _ in range(4 if channels == 1000 else 1):
                appended()
            epochs = {one: redis.call("HGET", keys(one)[0], "e") for one in set(which)}
            beside = redis.time([bare(script_bare, channel) for channel in which])
            now = appended()
            beside = (beside + redis.time([bare(script_bare, channel) for channel in which])) / 2
            counted = appended(True)
            print(f"{channels} | {waiting} | {beside:.1f} | {now:.1f} | {now / beside:.1f} | {counted:.1f}", flush=True)
    finally:
        redis.server.terminate()


if __name__ == "__main__":
    random.seed(1)
    main()
