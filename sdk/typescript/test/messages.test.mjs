// Listeners, iterators, and what a client sends.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clientOf, serve, sleep, stateOf, until } from "./support.mjs";

async function connected(t, options) {
  const server = await serve(t);
  const all = clientOf(t, server, options);
  await all.client.connect();
  return { server, connection: server.connections[0], ...all };
}

// Named after the features of the systems whose users Fanfare wants to serve.

test("Subscribe: several arguments arrive as one array", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  const unsubscribe = client.subscribe("alert", (data) => heard.push(data));
  connection.send({ event: "alert", data: ["Hello", 2] });
  await until(() => heard.length);
  assert.equal(heard[0][0], "Hello");

  unsubscribe();
  assert.deepEqual(client.listeners("alert"), []);
});

test("on: the listener gets the data and the message", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  client.on("chat-message", (data, message) => heard.push([data, message.channel, message.from.user]));
  connection.send({
    event: "chat-message",
    channel: "technology-chat",
    data: { n: 1 },
    from: { connection: "c", user: "bob" },
  });
  await until(() => heard.length);
  assert.deepEqual(heard, [[{ n: 1 }, "technology-chat", "bob"]]);
});

test("once: the listener is removed before its only call", async (t) => {
  const { client, connection } = await connected(t);
  let calls = 0;
  client.once("a", () => {
    calls++;
    assert.deepEqual(client.listeners("a"), []);
  });
  let last;
  client.on("last", () => (last = true));
  for (const event of ["a", "a", "last"]) connection.send({ event, data: null });
  await until(() => last);
  assert.equal(calls, 1);
});

test("onAny: the listener gets every event", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  client.onAny(({ event, channel, data }) => heard.push([event, channel, data]));
  connection.send({ event: "a", data: 1 });
  connection.send({ event: "b", channel: "room", data: 2 });
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [
    ["a", undefined, 1],
    ["b", "room", 2],
  ]);
});

test("off: one listener, all of an event, or all of all events", async (t) => {
  const { client } = clientOf(t, await serve(t));
  const [one, two, any] = [() => 1, () => 2, () => 3];
  client.on("a", one);
  client.on("a", two);
  client.on("b", one);
  client.onAny(any);

  client.off("a", one);
  assert.deepEqual(client.listeners("a"), [two]);
  client.off("a");
  assert.deepEqual(client.listeners(), [one]);
  client.on("a", two);
  client.off();
  assert.deepEqual(client.listeners(), []);
});

test("offAny: one catch-all listener, or all of them", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  const one = () => heard.push("one");
  client.onAny(one);
  client.onAny(() => heard.push("two"));
  client.onAny(() => heard.push("three"));
  client.offAny(one);
  connection.send({ event: "a", data: null });
  await until(() => heard.length === 2);
  client.offAny();
  connection.send({ event: "a", data: null });
  await sleep(30);
  assert.deepEqual(heard, ["two", "three"]);
});

test("getListeners: `listeners` returns those of one event, or of all", async (t) => {
  const { client } = clientOf(t, await serve(t));
  const [one, two] = [() => 1, () => 2];
  client.on("a", one);
  client.once("b", two);
  assert.deepEqual(client.listeners("a"), [one]);
  assert.deepEqual(client.listeners(), [one, two]);
  assert.deepEqual(client.listeners("toString"), []);
});

test("getMembers: `members` fetches every page", async (t) => {
  const { client, server } = await connected(t);
  server.onMessage = (c, m) => {
    if (m.op !== "members") return false;
    const page = { [undefined]: ["a", "b"], 2: ["c"] }[m.cursor];
    c.ack(m, {
      members: page.map((id) => ({ id, user: null })),
      count: 3,
      users: 3,
      ...(m.cursor ? {} : { cursor: "2" }),
    });
    return true;
  };
  const found = await client.members("room");
  assert.deepEqual(
    found.map(({ id }) => id),
    ["a", "b", "c"],
  );
});

test("spread: the listener gets the arguments one by one", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  client.on("a", (...args) => heard.push(args), { spread: true });
  connection.send({ event: "a", data: [1, 2] });
  connection.send({ event: "a", data: "x" });
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [[1, 2], ["x"]]);
});

test("a signal removes a listener", async (t) => {
  const { client } = clientOf(t, await serve(t));
  const controller = new AbortController();
  client.on("a", () => {}, { signal: controller.signal });
  controller.abort();
  client.on("a", () => {}, { signal: controller.signal });
  assert.deepEqual(client.listeners(), []);
});

test("a listener that throws stops no other, and is reported", async (t) => {
  const { client, connection, errors } = await connected(t);
  let called = false;
  client.on("a", () => {
    throw new Error("mine");
  });
  client.on("a", () => (called = true));
  connection.send({ event: "a", data: null });
  await until(() => called);
  assert.equal(errors[0].message, "mine");
});

test("an onError that throws itself goes to the console", async (t) => {
  const own = console.error;
  const printed = [];
  console.error = (error) => printed.push(error.message);
  t.after(() => (console.error = own));

  const { client, connection } = await connected(t);
  client.onError(() => {
    throw new Error("worse");
  });
  connection.send("{");
  await until(() => printed.length);
  assert.deepEqual(printed, ["worse"]);
});

test("for await: events arrive in order, and break ends it", async (t) => {
  const { client, connection } = await connected(t);
  const events = client.events("n");
  for (let n = 0; n < 5; n++) connection.send({ event: n === 2 ? "other" : "n", data: n });
  const heard = [];
  for await (const { data } of events) {
    heard.push(data);
    if (data === 4) break;
  }
  assert.deepEqual(heard, [0, 1, 3, 4]);
  assert.deepEqual(client.listeners(), []);
});

test("for await: closing the client or aborting the signal ends it", async (t) => {
  const { client, connection } = await connected(t);
  const controller = new AbortController();
  const drain = async (events) => {
    let count = 0;
    for await (const _ of events) count++;
    return count;
  };
  const aborted = drain(client.events("a", { signal: controller.signal }));
  const closed = drain(client.events());
  let heard;
  client.on("a", () => (heard = true));
  connection.send({ event: "a", data: null });
  await until(() => heard);
  controller.abort();
  assert.equal(await aborted, 1);
  client.close();
  assert.equal(await closed, 1);
  assert.equal(await drain(client.events("a", { signal: controller.signal })), 0);
});

test("for await: an iterator that was never started can be ended, and one that waits", async (t) => {
  const { client } = await connected(t);
  const unused = client.events("n");
  await unused.return();
  const waiting = client.events("n");
  const next = waiting.next();
  await waiting.return();
  assert.deepEqual(await next, { done: true, value: undefined });
  assert.deepEqual(client.listeners(), []);
});

test("for await: a full buffer is an error, or drops the oldest", async (t) => {
  const { client, connection } = await connected(t);
  const strict = client.events("n", { buffer: 2 });
  const loose = client.events("n", { buffer: 2, overflow: "drop-oldest" });
  const heard = [];
  client.on("n", (data) => heard.push(data));
  for (let n = 0; n < 4; n++) connection.send({ event: "n", data: n });
  await until(() => heard.length === 4);

  assert.equal((await strict.next()).value.data, 0);
  assert.equal((await strict.next()).value.data, 1);
  await assert.rejects(strict.next(), { code: "overflow" });
  assert.equal((await loose.next()).value.data, 2);
  assert.equal((await loose.next()).value.data, 3);
});

test("send, broadcast, publish, update and call, with no, one and several arguments", async (t) => {
  const { client, server, connection } = await connected(t);
  server.onMessage = (c, m) => m.op === "call" && (c.ack(m, { data: "result" }), true);

  await client.send("room", "a");
  await client.send("room", "a", { n: 1 });
  await client.send("room", "a", 1, [2]);
  await client.broadcast("b", null);
  await client.publish("ann", "c", 1);
  await client.publish(["ann", "bob"], "c", 1);
  await client.update({ status: "here" });
  await client.update(null);
  assert.equal(await client.call("f", 1), "result");
  await client
    .with({ echo: false, except: { users: ["x"] } })
    .with({ timeout: 20_000 })
    .send("room", "d");

  const sent = connection.messages.map(({ id, ...rest }) => (assert.equal(typeof id, "number"), rest));
  assert.deepEqual(sent, [
    { op: "send", channel: "room", event: "a" },
    { op: "send", channel: "room", event: "a", data: { n: 1 } },
    { op: "send", channel: "room", event: "a", data: [1, [2]] },
    { op: "broadcast", event: "b", data: null },
    { op: "publish", users: ["ann"], event: "c", data: 1 },
    { op: "publish", users: ["ann", "bob"], event: "c", data: 1 },
    { op: "update", data: { status: "here" } },
    { op: "update", data: null },
    { op: "call", name: "f", data: 1 },
    { op: "send", channel: "room", event: "d", echo: false, except: { users: ["x"] } },
  ]);
});

test("bytes go and come as they are", async (t) => {
  const { client, connection } = await connected(t);
  const bytes = new Uint8Array([0, 255, 1, 2]);
  await client.send("room", "b", bytes.subarray(1, 3));
  await client.send("room", "b", bytes.buffer);
  assert.deepEqual(
    connection.messages.map(({ data }) => [...data]),
    [
      [255, 1],
      [0, 255, 1, 2],
    ],
  );

  const heard = [];
  client.on("b", (data, message) => heard.push([...data], message.channel));
  const header = JSON.stringify({ event: "b", channel: "röom".replace("ö", "o") + "x".repeat(190) });
  connection.send(
    Buffer.concat([Buffer.from([1, header.length >> 8, header.length & 255]), Buffer.from(header), bytes]),
  );
  await until(() => heard.length);
  assert.deepEqual(heard[0], [0, 255, 1, 2]);
});

test("a refusal rejects with the code of the server", async (t) => {
  const { client, server } = await connected(t);
  server.onMessage = (c, m) => (c.refuse(m, "forbidden", 'this needs the right "send"'), true);
  await assert.rejects(client.send("room", "a"), { name: "FanfareError", code: "forbidden", message: /right "send"/ });
});

test("an error that belongs to no call is reported", async (t) => {
  const { connection, errors } = await connected(t);
  connection.send({ op: "error", code: "rate_limited", message: "slow down" });
  await until(() => errors.length);
  assert.equal(errors[0].code, "rate_limited");
});

test("data that cannot be sent reject, and nothing throws", async (t) => {
  const { client } = await connected(t);
  const circle = {};
  circle.self = circle;
  await assert.rejects(client.send("room", "a", circle), TypeError);
  await assert.rejects(client.send("room", "a", 1n), TypeError);
});

test("a slow ack is a timeout, and does no harm when it comes", async (t) => {
  const { client, server, errors } = await connected(t);
  server.onMessage = (c, m) => m.event === "slow" && (setTimeout(() => c.ack(m), 80), true);
  await assert.rejects(client.with({ timeout: 30 }).send("room", "slow"), { code: "timeout" });
  await sleep(80);
  await client.send("room", "fast");
  assert.deepEqual(errors, []);
});

test("a signal stops waiting, and takes back what was not sent yet", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  const controller = new AbortController();
  const first = client.with({ signal: controller.signal }).send("room", "a");
  const second = client.send("room", "b");
  controller.abort(new Error("changed my mind"));
  await assert.rejects(first, /changed my mind/);
  await assert.rejects(client.with({ signal: controller.signal }).send("room", "c"), /changed my mind/);

  await client.connect();
  await second;
  assert.deepEqual(
    server.connections[0].messages.map(({ event }) => event),
    ["b"],
  );
});

test("messages wait for a connection, in order, up to the bound of the queue", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server, { queue: 3 });
  const sent = [1, 2, 3].map((n) => client.send("room", "n", n));
  await assert.rejects(client.send("room", "n", 4), { code: "queue_full" });
  await client.connect();
  await Promise.all(sent);
  assert.deepEqual(
    server.connections[0].messages.map(({ data }) => data),
    [1, 2, 3],
  );
});

test("a backlog is sent at a pace that the server allows, after the joins", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server, { queue: 45 });
  const sent = Array.from({ length: 45 }, (_, n) => client.send("room", "n", n));
  client.join("room");
  client.update({ name: "x" });
  const began = performance.now();
  await client.connect();
  await Promise.all(sent);
  assert.ok(performance.now() - began > 350);

  const ops = server.connections[0].messages.map(({ op }) => op);
  assert.deepEqual(ops.slice(0, 3), ["update", "join", "send"]);
  const data = server.connections[0].messages.filter(({ op }) => op === "send").map(({ data }) => data);
  assert.deepEqual(data, [...Array(45).keys()]);
});

test("after a refusal for the rate the client pauses", async (t) => {
  const { client, server } = await connected(t);
  server.onMessage = (c, m) => m.data === 1 && (c.refuse(m, "rate_limited"), true);
  const began = performance.now();
  await assert.rejects(client.send("room", "n", 1), { code: "rate_limited" });
  await client.send("room", "n", 2);
  assert.ok(performance.now() - began > 900);
});

test("what was sent and not acknowledged is not sent again", async (t) => {
  const { client, server } = await connected(t);
  server.onMessage = (c, m) => m.op === "send" && (c.reset(), true);
  await assert.rejects(client.send("room", "a"), { code: "connection_lost" });
  server.onMessage = () => false;
  await stateOf(client, "connected");
  await client.send("room", "b");
  assert.deepEqual(
    server.connections[1].messages.map(({ event }) => event),
    ["b"],
  );
});

test("a closed client refuses everything at the same time", async (t) => {
  const { client, server } = await connected(t);
  server.onMessage = () => true;
  const waiting = client.send("room", "a");
  client.close();
  await assert.rejects(waiting, { code: "closed" });
  await assert.rejects(client.send("room", "a"), { code: "closed" });
  await assert.rejects(client.members("room"), { code: "closed" });
});

test("a promise that nobody awaits ends no process", async (t) => {
  const rejections = [];
  const count = (error) => rejections.push(error);
  process.on("unhandledRejection", count);
  t.after(() => process.off("unhandledRejection", count));

  const { client, server } = await connected(t);
  server.onMessage = () => true;
  client.send("room", "a");
  client.call("f");
  client.members("room");
  client.join("room");
  client.renew();
  client.connect();
  client.leave("other");
  client.close();
  await sleep(50);
  assert.deepEqual(rejections, []);
});

test("the profile is sent again, unless the connection was resumed", async (t) => {
  const { client, server } = await connected(t);
  await client.update({ name: "ann" });

  server.connections[0].close(4200);
  const second = await server.connection(2);
  assert.deepEqual((await second.next("update")).data, { name: "ann" });

  server.onOpen = (connection) => connection.welcome({ resumed: true });
  second.reset();
  const third = await server.connection(3);
  await sleep(30);
  assert.deepEqual(third.messages, []);
});

test("the profile is told again if the server refused it for the moment", async (t) => {
  const { client, server } = await connected(t);
  await client.update({ name: "ann" });

  const codes = ["rate_limited"];
  server.onMessage = (c, m) => m.op === "update" && codes.length > 0 && (c.refuse(m, codes.pop()), true);
  server.connections[0].close(4200);
  const second = await server.connection(2);
  await second.next("update");
  assert.deepEqual((await second.next("update")).data, { name: "ann" });
});

test("a profile that is set before the connection is sent once, before the joins", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  client.join("room");
  const update = client.update({ n: 1 });
  const sent = client.send("room", "a");
  await client.connect();
  await Promise.all([update, sent]);
  assert.deepEqual(
    server.connections[0].messages.map(({ op, data }) => [op, data]),
    [
      ["update", { n: 1 }],
      ["join", undefined],
      ["send", undefined],
    ],
  );
});

test("a profile takes the place of one that waits, and the answer is for both", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  const updates = [client.update({ n: 1 }), client.update({ n: 2 }), client.update({ n: 3 })];
  server.onMessage = (c, m) => m.op === "update" && (c.ack(m, { offset: m.data.n }), true);
  await client.connect();
  for (const { offset } of await Promise.all(updates)) assert.equal(offset, 3);
  await client.send("room", "a");
  const profiles = () => server.connections[0].messages.filter(({ op }) => op === "update").map(({ data }) => data);
  assert.deepEqual(profiles(), [{ n: 3 }]);

  // It holds for a connection that takes the place of a lost one, too. The server kept the profile.
  server.onOpen = (connection) => connection.welcome({ resumed: true });
  server.onMessage = (c, m) => m.op === "update" && (c.refuse(m, "forbidden"), true);
  const waiting = stateOf(client, "waiting");
  server.connections[0].reset();
  await waiting;
  const refused = [client.update({ n: 4 }), client.update({ n: 5 })];
  for (const update of refused) await assert.rejects(update, { code: "forbidden" });
  await client.send("room", "a");
  assert.deepEqual(
    server.connections[1].messages.filter(({ op }) => op === "update").map(({ data }) => data),
    [{ n: 5 }],
  );
});

test("a profile that waits can be given up, and the one that took its place goes on", async (t) => {
  const server = await serve(t);
  const { client } = clientOf(t, server);
  const controller = new AbortController();
  const first = client.with({ signal: controller.signal }).update({ n: 1 });
  const second = client.update({ n: 2 });
  controller.abort(new Error("enough"));
  await assert.rejects(first, /enough/);
  await client.connect();
  await second;
  assert.deepEqual(
    server.connections[0].messages.map(({ data }) => data),
    [{ n: 2 }],
  );
});

test("a stored event that comes again is dropped", async (t) => {
  const { client, connection } = await connected(t);
  const heard = [];
  client.on("n", (data) => heard.push(data));
  for (const id of ["a", "b", "a", "c", "b"]) connection.send({ event: "n", id, data: id });
  await until(() => heard.includes("c"));
  await sleep(20);
  assert.deepEqual(heard, ["a", "b", "c"]);
});

test("a schema checks data and changes it", async (t) => {
  const schemas = {
    n: {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: (value) =>
          typeof value === "number" ? { value: value * 2 } : { issues: [{ message: "not a number" }] },
      },
    },
  };
  const { client, connection, errors } = await connected(t, { schemas });
  const heard = [];
  client.onAny(({ event, data }) => heard.push([event, data]));
  connection.send({ event: "n", data: "x" });
  connection.send({ event: "toString", data: 1 });
  connection.send({ event: "n", data: 4 });
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [
    ["toString", 1],
    ["n", 8],
  ]);
  assert.equal(errors[0].code, "invalid_data");
  assert.match(errors[0].message, /not a number/);
});
