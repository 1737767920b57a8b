// How a client connects, comes back and ends.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient, connect, FanfareError } from "../dist/index.js";
import { clientOf, serve, sleep, stateOf, until, WebSocket } from "./support.mjs";

const token = (claims) => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
const now = () => Math.floor(Date.now() / 1000);

test("connects, and every change of state is one event with a reason", async (t) => {
  const server = await serve(t);
  const { client, states } = clientOf(t, server, { token: "ann" });
  assert.deepEqual(client.state, { status: "idle", reason: "created" });

  await client.connect();
  client.close();
  client.close();

  assert.deepEqual(
    states.map(({ status, reason }) => `${status}: ${reason}`),
    ["connecting: connect", "connected: welcome", "closed: closed"],
  );
  assert.equal(states[1].user, "ann");
  assert.equal((await server.connections[0].ended).code, 1000);
});

test("connect() makes a client and connects it", async (t) => {
  const server = await serve(t);
  const client = connect(server.url, { WebSocket });
  t.after(() => client.close());
  assert.equal((await stateOf(client, "connected")).reason, "welcome");
});

test("neither the constructor nor connect throws where there is no WebSocket", async (t) => {
  const own = globalThis.WebSocket;
  globalThis.WebSocket = undefined;
  t.after(() => (globalThis.WebSocket = own));

  const client = createClient("wss://nowhere.invalid");
  await assert.rejects(client.connect(), /no WebSocket: pass one/);
  assert.equal(client.state.reason, "unusable");
});

test("an address that cannot be used closes the client with the reason", async () => {
  const client = createClient("not an address", { WebSocket });
  await assert.rejects(client.connect(), { code: "closed" });
  assert.equal(client.state.reason, "unusable");
  assert.ok(client.state.error instanceof Error);
});

test("connects again after it was closed", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  client.close();
  await client.connect();
  assert.equal(server.connections.length, 2);
});

test("comes back after a reset, and asks to resume", async (t) => {
  const server = await serve(t);
  const { client, states } = clientOf(t, server);
  await client.connect();

  server.onOpen = (connection) => connection.welcome({ resumed: true });
  server.connections[0].reset();
  const second = await server.connection(2);
  await stateOf(client, "connected");

  assert.equal(second.query.resume, "c1");
  assert.equal(second.query.device, server.connections[0].query.device);
  assert.deepEqual(states.map(({ status, reason }) => `${status}: ${reason}`).slice(2), [
    "waiting: lost",
    "connecting: retry",
    "connected: resumed",
  ]);
  assert.equal(states[2].code, 1006);
});

test("asks to resume after it was closed for reading too slowly", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  server.connections[0].close(4101, "slow");
  assert.equal((await server.connection(2)).query.resume, "c1");
});

test("asks to resume when a node that leaves sends it away", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  server.connections[0].send({ op: "bye", code: 4200, reason: "draining", reconnect_in_ms: 5 });
  server.connections[0].close(4200, "draining");
  assert.equal((await server.connection(2)).query.resume, "c1");
});

test("keeps the id to resume through attempts that fail", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();

  let refused = 0;
  server.onHandshake = () => (refused++ < 3 ? 503 : undefined);
  server.connections[0].reset();
  assert.equal((await server.connection(2)).query.resume, "c1");
});

test("does not resume into a channel that it has left meanwhile", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  const room = client.join("room");
  await room.joined;
  client.onState(({ status }) => status === "waiting" && void room.leave());
  server.connections[0].reset();
  const second = await server.connection(2);
  assert.equal(second.query.resume, undefined);
  await stateOf(client, "connected");

  // Nor where the server has not answered before the connection was lost.
  const other = client.join("other");
  await other.joined;
  const left = other.leave();
  second.reset();
  await assert.rejects(left, { code: "connection_lost" });
  assert.equal((await server.connection(3)).query.resume, undefined);
});

for (const [code, status] of [
  [4001, "closed"],
  [4003, "closed"],
  [4009, "closed"],
  [4010, "closed"],
  [4011, "closed"],
  [4099, "closed"],
  [1000, "waiting"],
  [1001, "waiting"],
  [1009, "waiting"],
  [1011, "waiting"],
  [3000, "waiting"],
  [4100, "waiting"],
  [4101, "waiting"],
  [4102, "waiting"],
  [4200, "waiting"],
  [4201, "waiting"],
  [4999, "waiting"],
])
  test(`close code ${code}: ${status}`, async (t) => {
    const server = await serve(t);
    const { client, states } = clientOf(t, server);
    await client.connect();
    server.connections[0].close(code, "because");
    await until(() => states.length > 2);

    assert.equal(states[2].status, status);
    assert.equal(states[2].reason, status === "closed" ? "refused" : "lost");
    assert.equal(states[2].code, code);
    assert.equal(states[2].detail, "because");
  });

test("4005 fetches another token, and ends where the token is a constant", async (t) => {
  const server = await serve(t);
  let count = 0;
  const { client } = clientOf(t, server, { token: () => `t${++count}` });
  await client.connect();
  server.connections[0].close(4005, "expired");
  assert.equal((await server.connection(2)).query.token, "t2");

  const { client: fixed } = clientOf(t, server, { token: "t" });
  await fixed.connect();
  server.connections.at(-1).close(4005, "expired");
  assert.equal((await stateOf(fixed, "closed")).code, 4005);
});

test("waits as long as a bye says, even when the page wakes", async (t) => {
  const server = await serve(t);
  fakePage(t);
  const { client } = clientOf(t, server);
  await client.connect();

  const began = performance.now();
  server.connections[0].send({ op: "bye", code: 4200, reason: "draining", reconnect_in_ms: 300 });
  server.connections[0].close(4200, "draining");
  const { delay } = await stateOf(client, "waiting");
  assert.equal(delay, 300);

  dispatchEvent(new Event("online"));
  await stateOf(client, "connected");
  const waited = performance.now() - began;
  assert.ok(waited > 290, `it waited ${waited} ms`);
});

test("takes the code of a bye when the close frame is lost", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  let heard;
  client.on("after the bye", () => (heard = true));
  server.connections[0].send({ op: "bye", code: 4010, reason: "signed out" });
  server.connections[0].send({ event: "after the bye", data: null });
  await until(() => heard);
  server.connections[0].reset();
  assert.equal((await stateOf(client, "closed")).code, 4010);
});

test("backs off with jitter, doubling up to the bound of the server", async (t) => {
  const server = await serve(t, { reconnect: { min_ms: 8, max_ms: 64 } });
  const { client, states } = clientOf(t, server);
  await client.connect();

  let refused = 0;
  server.onHandshake = () => (refused++ < 6 ? 503 : undefined);
  server.connections[0].reset();
  await server.connection(2);

  const delays = states.filter(({ status }) => status === "waiting").map(({ delay }) => delay);
  assert.equal(delays.length, 7);
  delays.forEach((delay, n) => {
    const whole = Math.min(64, 8 * 2 ** n);
    assert.ok(delay >= whole / 2 && delay <= whole, `delay ${n} is ${delay}`);
  });
  assert.equal(client.state.status === "connected" || client.state.status === "connecting", true);
});

test("gives up an attempt that brings no welcome", async (t) => {
  const server = await serve(t, { onOpen: () => {} });
  const { client, states } = clientOf(t, server, { timeout: 50 });
  client.connect();
  await until(() => states.some(({ reason }) => reason === "silent"));
  server.onOpen = (connection) => connection.welcome();
  await stateOf(client, "connected");
});

test("drops in every state, by a reset and by a close frame", async (t) => {
  for (const drop of [(c) => c.reset(), (c) => c.close(4200)]) {
    const server = await serve(t);
    // Before the welcome, right after it, before the ack of a join, after it, in the middle of a replay.
    const faults = [
      (c) => drop(c),
      (c) => (c.welcome(), drop(c)),
      (c) => (c.welcome(), (c.onJoin = () => drop(c))),
      (c) => (c.welcome(), (c.onJoin = (m) => (c.ack(m, { epoch: "e", offset: 9, recovered: true }), drop(c)))),
      (c) => {
        c.welcome();
        c.onJoin = (m) => {
          c.ack(m, { epoch: "e", offset: 9, recovered: true });
          c.send({ event: "n", channel: "room", data: 1, offset: m.since.offset + 1 });
          drop(c);
        };
      },
    ];
    let clean = false;
    server.onOpen = (c) => {
      const fault = faults.shift();
      if (fault) return fault(c);
      clean = true;
      c.welcome();
    };
    server.onMessage = (c, m) => {
      if (m.op !== "join") return false;
      if (c.onJoin) c.onJoin(m);
      else c.ack(m, { epoch: "e", offset: 9, recovered: true });
      return true;
    };

    const { client } = clientOf(t, server);
    const room = client.join("room", { since: { epoch: "e", offset: 0 } });
    await client.connect().catch(() => {});
    await until(() => clean && room.state.status === "joined");
    assert.equal(client.state.status, "connected");
    client.close();
  }
});

test("notices silence, and comes back", async (t) => {
  const server = await serve(t);
  server.onOpen = (connection) => connection.welcome({ heartbeat: 0.1 });
  const { client, states } = clientOf(t, server, { timeout: 100 });
  await client.connect();
  server.connections[0].stall();

  await server.connection(2);
  assert.ok(states.some(({ status, reason }) => status === "waiting" && reason === "silent"));
});

test("stays connected while the server says nothing but pong", async (t) => {
  const server = await serve(t);
  server.onOpen = (connection) => connection.welcome({ heartbeat: 0.05 });
  const { client, states } = clientOf(t, server, { timeout: 200 });
  await client.connect();
  await until(() => server.connections[0].messages.length > 8);
  assert.equal(states.length, 2);
});

test("a clock that jumps leads to a ping and to nothing else", async (t) => {
  const server = await serve(t);
  server.onOpen = (connection) => connection.welcome({ heartbeat: 2 });
  const { client, states } = clientOf(t, server);
  await client.connect();

  const real = Date.now;
  t.after(() => (Date.now = real));
  for (const jump of [3_600_000, -7_200_000]) {
    Date.now = () => real() + jump;
    const before = server.connections[0].messages.length;
    await until(() => server.connections[0].messages.length > before, "a ping after the jump");
    await sleep(450);
  }
  assert.equal(states.length, 2);
});

test("after sleep a dead connection is noticed without waiting for a heartbeat", async (t) => {
  const server = await serve(t);
  server.onOpen = (connection) => connection.welcome({ heartbeat: 1 });
  // The heart beats when the test says so: five times in a heartbeat, here twice in the timeout.
  let beat;
  t.mock.method(globalThis, "setInterval", (run) => void (beat = run));
  const { client, states } = clientOf(t, server, { timeout: 400 });
  await client.connect();
  server.connections[0].stall();

  const real = Date.now;
  t.after(() => (Date.now = real));
  Date.now = () => real() + 60_000;
  for (let beats = 0; beats < 3; beats++) beat();
  assert.equal(states.at(-1).reason, "silent");
  await server.connection(2);
});

test("the page's events cut a wait short, and test a connection", async (t) => {
  const server = await serve(t, { reconnect: { min_ms: 60_000, max_ms: 60_000 } });
  const page = fakePage(t);
  const { client, states } = clientOf(t, server);
  await client.connect();

  for (const event of ["online", "visibilitychange"]) {
    const number = server.connections.length;
    server.connections.at(-1).reset();
    await stateOf(client, "waiting");
    (event === "visibilitychange" ? document : globalThis).dispatchEvent(new Event(event));
    await server.connection(number + 1);
    await stateOf(client, "connected");
  }
  assert.equal(states.filter(({ reason }) => reason === "wake").length, 2);

  dispatchEvent(new Event("online"));
  await server.connections.at(-1).next("ping");

  page.hidden = true;
  server.connections.at(-1).reset();
  await stateOf(client, "waiting");
  document.dispatchEvent(new Event("visibilitychange"));
  await sleep(30);
  assert.equal(client.state.status, "waiting");

  client.close();
  assert.equal(page.count(), 0, "no listener stays behind");
});

test("a runtime whose global object has no addEventListener is no obstacle", async (t) => {
  const server = await serve(t);
  globalThis.document = {};
  t.after(() => delete globalThis.document);
  const { client } = clientOf(t, server);
  await client.connect();
  client.close();
});

test("React Native's global objects are enough", async (t) => {
  const server = await serve(t);
  const missing = () => {
    throw new Error("not implemented");
  };
  for (const name of ["set", "get", "delete"]) t.mock.method(URLSearchParams.prototype, name, missing);
  const own = { addEventListener: globalThis.addEventListener, atob: globalThis.atob };
  globalThis.atob = undefined;
  globalThis.window = globalThis;
  t.after(() => (Object.assign(globalThis, own), delete globalThis.window));

  const { client, errors } = clientOf(t, server, { token: () => token({ exp: now() + 60 }) });
  await client.connect();
  await client.send("room", "a", 1);
  assert.deepEqual(errors, []);
});

test("the token function is called for every connection, one call at a time", async (t) => {
  const server = await serve(t);
  let running = 0;
  let most = 0;
  let calls = 0;
  const fetchToken = async () => {
    most = Math.max(most, ++running);
    await sleep(30);
    running--;
    return token({ sub: "ann", n: ++calls, exp: now() + 600, iat: now() });
  };
  const { client } = clientOf(t, server, { token: fetchToken });
  await client.connect();

  await Promise.all([client.renew(), client.renew(), client.renew()]);
  server.connections[0].reset();
  client.renew();
  await stateOf(client, "waiting");
  await stateOf(client, "connected");
  assert.equal(most, 1);
  assert.ok(calls >= 3);
});

test("a token is renewed before it ends, by a message", async (t) => {
  const server = await serve(t);
  let calls = 0;
  const { client, states } = clientOf(t, server, {
    token: () => token({ sub: "ann", n: ++calls, iat: now(), exp: now() + 2 }),
  });
  await client.connect();
  const renewal = await server.connections[0].next("auth");
  assert.equal(JSON.parse(atob(renewal.token.split(".")[1])).n, 2);
  await server.connections[0].next("auth");
  assert.equal(states.length, 2);
});

test("a wrong clock does not lead to a flood of renewals", async (t) => {
  const server = await serve(t);
  let calls = 0;
  const { client } = clientOf(t, server, {
    token: () => (calls++, token({ sub: "ann", iat: now() - 90_000, exp: now() - 86_400 })),
  });
  await client.connect();
  await sleep(200);
  assert.equal(calls, 1);
});

test("a token function that fails is retried with backoff", async (t) => {
  const server = await serve(t);
  let calls = 0;
  const { client, states } = clientOf(t, server, {
    token: async () => {
      if (++calls < 3) throw new Error("backend away");
      return "ann";
    },
  });
  // The wait is the default here, since no server gave advice yet.
  await client.connect();
  const failed = states.filter(({ reason }) => reason === "token_failed");
  assert.equal(failed.length, 2);
  assert.equal(failed[0].error.message, "backend away");
  assert.equal(server.handshakes, 1);
});

test("a token function that throws synchronously is a failure like any other", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server, {
    token() {
      throw new Error("no session");
    },
  });
  client.connect();
  assert.equal((await stateOf(client, "waiting")).error.message, "no session");
});

test("a token function that hangs is given up, and called again", async (t) => {
  const server = await serve(t);
  let calls = 0;
  const { client, states } = clientOf(t, server, {
    timeout: 40,
    token: () => (++calls === 1 ? new Promise(() => {}) : "ann"),
  });
  await client.connect();
  // The connection has to be there in the same short time, which may take another attempt.
  assert.ok(calls >= 2);
  assert.equal(states[1].error.code, "timeout");
});

test("a renewal that fails is reported and tried again, and the connection stays", async (t) => {
  const server = await serve(t);
  server.onMessage = (c, m) => m.op === "auth" && (c.refuse(m, "token_expired"), true);
  const { client, errors } = clientOf(t, server, { token: () => "ann" });
  await client.connect();
  await assert.rejects(client.renew(), { code: "token_expired" });
  assert.equal(errors.length, 1);
  assert.equal(client.state.status, "connected");
});

test("a token of another user leads to a new connection", async (t) => {
  const server = await serve(t);
  server.onMessage = (c, m) => m.op === "auth" && (c.refuse(m, "forbidden"), true);
  let user = "ann";
  const { client, states } = clientOf(t, server, { token: () => user });
  await client.connect();
  user = "bob";
  await client.renew();
  assert.equal((await server.connection(2)).query.token, "bob");
  assert.ok(states.some(({ reason }) => reason === "user_changed"));
});

test("nobody signed in closes the client", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server, { token: () => null });
  await assert.rejects(client.connect(), /signed_out/);
  assert.equal(server.handshakes, 0);
});

test("options go into the address", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server, { key: "k", app: "a", device: "d", echo: false, store: false, token: "t" });
  await client.connect();
  assert.deepEqual(server.connections[0].query, {
    token: "t",
    key: "k",
    app: "a",
    device: "d",
    echo: "false",
    store: "false",
  });
});

test("two clients of one page have devices of their own, in memory only", async (t) => {
  const server = await serve(t);
  const { client: one } = clientOf(t, server);
  const { client: two } = clientOf(t, server);
  await Promise.all([one.connect(), two.connect()]);
  assert.notEqual(server.connections[0].query.device, server.connections[1].query.device);
});

test("frames that cannot be read are reported, and the connection stays", async (t) => {
  const server = await serve(t);
  const { client, states, errors } = clientOf(t, server);
  const heard = [];
  client.onAny(({ event }) => heard.push(event));
  await client.connect();

  const [connection] = server.connections;
  for (const bad of ["{", "null", "", new Uint8Array([]), new Uint8Array([1]), new Uint8Array([1, 255, 255, 0])])
    connection.send(bad);
  for (const odd of [
    "7",
    "[]",
    '"text"',
    '{"op":"news"}',
    '{"op":"ack","id":99}',
    '{"op":"member","channel":"x"}',
    "{}",
  ])
    connection.send(odd);
  connection.send({ event: "after", data: null });

  await until(() => heard.length);
  assert.deepEqual(
    errors.map((error) => error.code),
    Array(6).fill("bad_frame"),
  );
  assert.ok(errors.every((error) => error instanceof FanfareError));
  assert.equal(states.length, 2);
});

test("a client that was disposed is closed", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  await client.connect();
  await client[Symbol.asyncDispose]();
  assert.equal(client.state.status, "closed");
});

/** What a page has and Node has not: `document`, and events of the global object. */
function fakePage(t) {
  // A target ignores what it already has.
  const added = new Set();
  const counted = (target, prefix) => ({
    addEventListener: (name, listener) => (added.add(prefix + name), target.addEventListener(name, listener)),
    removeEventListener: (name, listener) => (added.delete(prefix + name), target.removeEventListener(name, listener)),
    dispatchEvent: (event) => target.dispatchEvent(event),
  });

  const page = { hidden: false, ...counted(new EventTarget(), "document ") };
  globalThis.document = page;
  Object.assign(globalThis, counted(new EventTarget(), "window "));
  t.after(() => {
    for (const name of ["document", "addEventListener", "removeEventListener", "dispatchEvent"])
      delete globalThis[name];
  });
  return Object.assign(page, { count: () => added.size });
}
