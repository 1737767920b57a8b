// The dispatcher of npm `@cryb/mesa`, unmodified, straight through Redis: clients of both protocols on every node.
import assert from "node:assert/strict";
import { test } from "node:test";

import { native, until, within } from "../server.mjs";
import {
  connect, dispatcher, DispatchEvent, lookAt, Message, said, startNodes, token, user, WebSocket,
} from "./support.mjs";

const message = (type, data, options) => new Message(0, data, type, options);
const types = (messages) => messages.map(({ type }) => type);

for (const count of [1, 2]) {
  const over = `over ${count} node${count > 1 ? "s" : ""}`;
  const last = ({ nodes }) => nodes.at(-1);

  test(`recipients get a message, and nobody else, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const [zero, one, two] = [
      await user(t, all.nodes[0], "0"), await user(t, last(all), "1"), await user(t, last(all), "2"),
    ];
    const source = dispatcher(t, all.redis);
    source.dispatch(message("STATUS_UPDATE", { status: "online" }), ["0", "1"]);
    source.dispatch(message("END"), ["*"]);
    for (const client of [zero, one]) {
      const [got] = await client.upTo("END");
      assert.deepEqual(said(got), { type: "STATUS_UPDATE", data: { status: "online" }, sequence: undefined });
    }
    assert.deepEqual(await two.upTo("END"), []);
  });

  test(`an excluded author gets nothing, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const [author, reader] = [await user(t, all.nodes[0], "a"), await user(t, last(all), "r")];
    const source = dispatcher(t, all.redis);
    source.dispatch(message("NEW_MESSAGE", { content: "Hi" }), ["a", "r"], ["a"]);
    source.dispatch(message("END"));
    assert.deepEqual(await author.upTo("END"), []);
    assert.deepEqual(types(await reader.upTo("END")), ["NEW_MESSAGE"]);
  });

  test(`everyone gets what is for everyone, native clients too, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const anyone = await connect(t, all.nodes[0]);
    const known = await user(t, last(all), "0");
    const bob = await native(WebSocket, last(all), `token=${token("bob")}`);
    t.after(() => bob.close());
    const source = dispatcher(t, all.redis);
    source.dispatch(message("GLOBAL_ALERT", { alert: true, content: "Hello World" }), ["*"]);
    source.dispatch(message("FOR_BOB", [1]), ["bob"]);
    for (const client of [anyone, known]) {
      assert.deepEqual((await client.next()).data, { alert: true, content: "Hello World" });
    }
    assert.deepEqual((await bob.event("GLOBAL_ALERT")).data, { alert: true, content: "Hello World" });
    assert.deepEqual((await bob.event("FOR_BOB")).data, [1]);
  });

  test(`a thousand messages come in order, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const client = await user(t, last(all), "0");
    const source = dispatcher(t, all.redis, { sync: { enabled: true } });
    for (let n = 0; n < 1000; n += 1) source.dispatch(message("N", n), ["0"]);
    source.dispatch(message("END"), ["0"]);
    assert.deepEqual((await client.upTo("END")).map(({ data }) => data), [...Array(1000).keys()]);
  });

  test(`a dispatcher disconnects all clients of an id with 1000, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const gone = [await user(t, all.nodes[0], "5"), await user(t, last(all), "5")];
    const stays = await user(t, last(all), "6");
    const source = dispatcher(t, all.redis);
    source.dispatch(new DispatchEvent("DISCONNECT_CLIENT"), ["5"]);
    for (const { closed } of gone) assert.equal((await within("the close", closed)).code, 1000);
    source.dispatch(message("END"), ["*"]);
    assert.deepEqual(await stays.upTo("END"), []);
  });

  test(`what is sent to a user who is away comes in order, and none is lost, ${over}`, async (t) => {
    const all = await startNodes(t, { count });
    const redis = lookAt(t, all.redis);
    const first = await user(t, all.nodes[0], "0");
    await first.leave();
    const source = dispatcher(t, all.redis, { sync: { enabled: true } });
    // All at the same time: a dispatcher that stored them by itself would keep the last.
    for (let n = 0; n < 100; n += 1) source.dispatch(message("MISSED", { n }), ["0"]);
    source.dispatch(message("TYPING", {}, { sync: false }), ["0"]);
    await until("all is stored", async () => {
      const list = JSON.parse((await redis.hget("undelivered_messages", "0")) ?? "[]");
      return list.length === 100;
    });
    const client = await user(t, last(all), "0");
    source.dispatch(message("END"), ["0"]);
    const got = await client.upTo("END");
    assert.deepEqual(got.map(said), [...Array(100).keys()].map((n) => (
      { type: "MISSED", data: { n }, sequence: n + 1 })));
    await until("nothing is left", async () => !(await redis.hexists("undelivered_messages", "0")));
    const again = await user(t, last(all), "0");
    source.dispatch(message("END"), ["0"]);
    assert.deepEqual(await again.upTo("END"), [], "once");
  });
}

test("what a dispatcher has stored by itself is delivered, oldest first", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const look = lookAt(t, redis);
  const source = dispatcher(t, redis, { sync: { enabled: true } });
  // Nobody knows this user yet, so the dispatcher stores. It needs a moment for each.
  for (let n = 1; n <= 3; n += 1) {
    source.dispatch(message("MISSED", n), ["new"]);
    await until("it is stored", async () => JSON.parse((await look.hget("undelivered_messages", "new")) ?? "[]").length === n);
  }
  const client = await user(t, node, "new");
  for (let n = 1; n <= 3; n += 1) {
    const { data, sequence } = await client.next();
    assert.deepEqual([data, sequence], [n, n]);
  }
});

test("a native client gets what was stored, too", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const look = lookAt(t, redis);
  await look.hset("undelivered_messages", "bob", JSON.stringify([{ op: 0, d: 1, t: "A" }, { op: 0, d: 2, t: "B" }]));
  const bob = await native(WebSocket, node, `token=${token("bob")}`);
  t.after(() => bob.close());
  assert.equal((await bob.event("A")).data, 1);
  assert.equal((await bob.event("B")).data, 2);
});

test("a client that does not sync has what was stored thrown away", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const look = lookAt(t, redis);
  await look.hset("undelivered_messages", "0", JSON.stringify([{ op: 0, d: {}, t: "MISSED" }]));
  const source = dispatcher(t, redis);
  for (const config of [{ shouldSync: false }, undefined]) {
    const client = await user(t, node, "0", config);
    source.dispatch(message("END"), ["0"]);
    assert.deepEqual(await client.upTo("END"), []);
  }
  assert.equal(await look.hexists("undelivered_messages", "0"), 0);
});

test("namespaces are kept apart", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t, { mesa: 'namespace = "api"' });
  const look = lookAt(t, redis);
  const client = await user(t, node, "0");
  assert.equal(await look.sismember("connected_clients_api", "0"), 1);
  dispatcher(t, redis).dispatch(message("ELSEWHERE"), ["0"]);
  const source = dispatcher(t, redis, { namespace: "api", sync: { enabled: true } });
  source.dispatch(message("HERE"), ["0"]);
  source.dispatch(message("END"), ["0"]);
  assert.deepEqual(types(await client.upTo("END")), ["HERE"]);
  await client.leave();
  await until("the user is away", async () => {
    source.dispatch(message("MISSED", 1), ["0"]);
    return look.hexists("undelivered_messages_api", "0");
  });
  const again = await user(t, node, "0");
  assert.equal((await again.next()).type, "MISSED");
});

test("with a dispatcher's own sync the connected are exactly those who are", async (t) => {
  const { redis, nodes } = await startNodes(t, { count: 2, mesa: 'sync = "dispatcher"' });
  const look = lookAt(t, redis);
  const is = async (connected) => (await look.sismember("connected_clients", "0")) === Number(connected);
  const both = [await user(t, nodes[0], "0"), await user(t, nodes[1], "0")];
  assert.ok(await is(true));
  await both[0].leave();
  const source = dispatcher(t, redis, { sync: { enabled: true } });
  source.dispatch(message("STILL"), ["0"]);
  assert.equal((await both[1].next()).type, "STILL");
  assert.ok(await is(true));
  await both[1].leave();
  await until("the user is away", () => is(false));
  source.dispatch(message("MISSED", 1), ["0"]);
  await until("it is stored", () => look.hexists("undelivered_messages", "0"));
  const again = await user(t, nodes[0], "0");
  assert.deepEqual(said(await again.next()), { type: "MISSED", data: 1, sequence: 1 });
});

test("without sync nothing is stored", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t, { mesa: 'sync = "off"' });
  const look = lookAt(t, redis);
  const source = dispatcher(t, redis);
  const client = await user(t, node, "0");
  source.dispatch(message("LIVE"), ["0", "away"]);
  assert.equal((await client.next()).type, "LIVE");
  source.dispatch(message("END"), ["*"]);
  await client.upTo("END");
  assert.equal(await look.hexists("undelivered_messages", "away"), 0);
});

test("what is malformed is counted, and harms nobody", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const look = lookAt(t, redis);
  const client = await user(t, node, "0");
  const bad = ["", "{", "[]", '{"message":{"op":0}}', '{"message":{"op":22},"recipients":["0"]}',
    '{"message":{"op":0,"t":"fanfare:x"},"recipients":["0"]}'];
  for (const one of bad) await look.publish("ws", one);
  await look.hset("undelivered_messages", "odd", "nonsense");
  const odd = await user(t, node, "odd");
  dispatcher(t, redis).dispatch(message("END"), ["*"]);
  assert.deepEqual([await client.upTo("END"), await odd.upTo("END")], [[], []]);
  // A message is counted when it is refused, and those after it do not wait for that.
  await until("each is counted", async () => {
    const metrics = await (await fetch(`${node.url}/metrics`)).text();
    return Number(/^fanfare_dispatch_malformed_total\S* (\d+)/m.exec(metrics)?.[1]) === bad.length + 1;
  });
});
