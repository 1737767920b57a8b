// Recovery with a real server: a client behind a bad line gets each of 10,000 events exactly once and in order.
// FANFARE_CUT_SECONDS says how long the line is bad: 10 by default, and 6 at least, so that each fault happens.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../dist/index.js";
import { Fanfare, signToken } from "../dist/server.js";
import { key, secret, startRedis, startServer } from "./real-server.mjs";
import { line, sleep, until, WebSocket } from "./support.mjs";

const seconds = Math.max(6, Number(process.env.FANFARE_CUT_SECONDS ?? 10));
const total = 10_000;

for (const [fault, period] of [
  ["reset", 200],
  ["silence", 5000],
])
  test(`${fault} every ${period} ms for ${seconds} s`, { timeout: (seconds + 120) * 1000 }, async (t) => {
    const server = await startServer(["--limit", "heartbeat=1s", "--limit", "heartbeat_wait=500ms"]);
    t.after(() => server.stop());
    const cut = await line(() => server.port);
    t.after(() => cut.stop());
    const fanfare = new Fanfare({ url: server.url, key });

    const rights = { join: ["room-*"], members: ["room-*"] };
    const client = createClient(cut.url, {
      WebSocket,
      timeout: 2000,
      token: () => signToken(secret, "ann", { can: rights, ttl: 600 }),
    });
    t.after(() => client.close());
    const channels = ["room-1", "room-2"];
    const heard = { "room-1": [], "room-2": [] };
    const states = [];
    const problems = [];
    client.onState(({ status, reason }) => states.push(`${status} ${reason}`));
    client.onError((error) => problems.push(error));
    const rooms = channels.map((channel) => client.join(channel, { members: true }));
    for (const room of rooms) {
      room.on("n", (data) => heard[room.name].push(data));
      room.onState(({ recovered }) => recovered === false && problems.push(`${room.name} was not recovered`));
    }
    await client.connect();
    await Promise.all(rooms.map((room) => room.joined));

    const end = performance.now() + seconds * 1000;
    const fault_ = setInterval(() => performance.now() < end && cut[fault](), period);
    t.after(() => clearInterval(fault_));

    // The events are spread over the time in which the line is bad.
    const each = total / channels.length;
    for (let n = 0; n < each; n += 50) {
      const items = channels.flatMap((channel) =>
        Array.from({ length: 50 }, (_, m) => ({ call: "send", channel, event: "n", data: n + m })),
      );
      await fanfare.batch(items);
      await sleep((seconds * 1000 * 50) / each);
    }
    clearInterval(fault_);

    await until(() => channels.every((channel) => heard[channel].length >= each), "the rest", 60_000);
    await sleep(300);
    const expected = Array.from({ length: each }, (_, n) => n);
    for (const channel of channels) assert.deepEqual(heard[channel], expected);
    assert.deepEqual(problems, []);
    assert.ok(states.filter((state) => state.startsWith("waiting")).length >= 1);

    // The list of members came through as well: only this client is left.
    await until(() => rooms.every((room) => room.members.length === 1));
    assert.equal(rooms[0].members[0].id, client.state.connection);
  });

test("draining one node of three after another loses nothing", { timeout: (seconds + 120) * 1000 }, async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const nodes = [];
  for (let n = 0; n < 3; n++) nodes.push(await startServer(["--redis", redis.url, "--drain-timeout", "5s"]));
  t.after(() => Promise.all(nodes.map((node) => node.stop())));

  // As a load balancer does: to a node that is not leaving.
  let next = 0;
  const cut = await line(() => nodes[next].port);
  t.after(() => cut.stop());
  const client = createClient(cut.url, {
    WebSocket,
    token: () => signToken(secret, "ann", { can: { join: ["room-*"] }, ttl: 600 }),
  });
  t.after(() => client.close());
  const channels = ["room-1", "room-2"];
  const heard = { "room-1": [], "room-2": [] };
  const states = [];
  const problems = [];
  client.onState(({ reason, code }) => states.push(code ? `${reason} ${code}` : reason));
  client.onError((error) => problems.push(error));
  const rooms = channels.map((channel) => client.join(channel));
  for (const room of rooms) {
    room.on("n", (data) => heard[room.name].push(data));
    room.onState(({ recovered }) => recovered === false && problems.push(`${room.name} was not recovered`));
  }
  await client.connect();
  await Promise.all(rooms.map((room) => room.joined));

  // Each client has a moment of its own to leave, so the second node drains after the client has moved there.
  const fanfare = new Fanfare({ url: nodes[2].url, key });
  const moves = () => states.filter((state) => state === "lost 4200").length;
  const resumed = () => states.filter((state) => state === "resumed").length;
  let n = 0;
  for (; n < total / 2 || moves() < 2; n += 50) {
    if (n === 1500 || (next === 1 && moves() === 1 && client.state.status === "connected")) {
      nodes[next].child.kill("SIGTERM");
      next += 1;
    }
    const items = channels.flatMap((channel) =>
      Array.from({ length: 50 }, (_, m) => ({ call: "send", channel, event: "n", data: n + m })),
    );
    await fanfare.batch(items);
    await sleep((seconds * 1000 * 50) / (total / 2));
  }
  await until(() => channels.every((channel) => heard[channel].length >= n), "the rest", 60_000);
  await sleep(300);
  const expected = Array.from({ length: n }, (_, m) => m);
  for (const channel of channels) assert.deepEqual(heard[channel], expected);
  assert.deepEqual(problems, []);
  assert.equal(resumed(), moves(), "it resumed on each next node");
});

test("a clock that jumps ends no connection", { timeout: 60_000 }, async (t) => {
  const server = await startServer(["--limit", "heartbeat=1s", "--limit", "heartbeat_wait=500ms"]);
  t.after(() => server.stop());
  let pings = 0;
  class Counted extends WebSocket {
    send(data) {
      if (JSON.parse(data).op === "ping") pings++;
      super.send(data);
    }
  }
  const client = createClient(server.url, {
    WebSocket: Counted,
    token: () => signToken(secret, "ann", { can: { send: ["*"] } }),
  });
  t.after(() => client.close());
  const states = [];
  client.onState(({ status, reason }) => states.push(`${status} ${reason}`));
  await client.connect();

  const real = Date.now;
  t.after(() => (Date.now = real));
  for (const jump of [86_400_000, -86_400_000, 0]) {
    Date.now = () => real() + jump;
    const before = pings;
    await until(() => pings > before, "a ping after the jump");
    await client.send("room-1", "n");
  }
  assert.deepEqual(states, ["connecting connect", "connected welcome"]);
});
