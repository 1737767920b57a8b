// What socket.io-client alone can do, over each transport, in one room with a native client.
import assert from "node:assert/strict";
import { before, test } from "node:test";

import { ask, connect, native, serve, until, ways } from "./support.mjs";

let server;
before(async () => {
  server = await serve();
});

for (const way of ways) {
  test(`${way.name}: join, send, leave`, async () => {
    const ann = await connect(way, server);
    const bob = await connect(way, server);
    const nat = await native(server);
    const room = `room-${ann.id}`;

    assert.deepEqual(await ask(ann, "join", room), {});
    assert.deepEqual(await ask(bob, "join", { channel: room }), {});
    await nat.call("join", { channel: room });

    const data = { text: "hi", list: [1, 2.5, "ü"] };
    assert.deepEqual(await ask(ann, "send", { channel: room, event: "chat", data, echo: false }), {});
    const about = { channel: room, from: { connection: ann.id, user: null } };
    assert.deepEqual(await bob.next("chat"), [data, about]);
    assert.deepEqual(await nat.event("chat"), { event: "chat", ...about, data });

    await nat.call("send", { channel: room, event: "chat", data: null });
    assert.equal((await ann.next("chat"))[0], null);
    assert.equal((await bob.next("chat"))[0], null);

    assert.deepEqual(await ask(bob, "leave", room), {});
    await ask(ann, "send", { channel: room, event: "late", data: 1 });
    await ask(bob, "send", { channel: room, event: "last", data: 2 });
    assert.deepEqual((await ann.next("late"))[0], 1);
    await ann.next("last");
    assert.ok(!bob.inbox.some(([name]) => name === "late" || name === "last"));
    ann.close();
    bob.close();
  });

  test(`${way.name}: a hundred events arrive in their order`, async () => {
    const ann = await connect(way, server);
    const nat = await native(server);
    const room = `order-${ann.id}`;
    await ask(ann, "join", room);
    for (let n = 0; n < 60; n++) await server.post("/v1/send", { channel: room, event: "n", data: n });
    for (let n = 0; n < 20; n++) ann.emit("send", { channel: room, event: "n", data: 60 + n });
    for (let n = 0; n < 80; n++) assert.equal((await ann.next("n"))[0], n);
    ann.close();
    await nat.close();
  });

  test(`${way.name}: bytes alone, and among other data`, async () => {
    const ann = await connect(way, server);
    const nat = await native(server);
    const room = `bytes-${ann.id}`;
    await ask(ann, "join", room);
    await nat.call("join", { channel: room });

    await ask(ann, "send", { channel: room, event: "alone", data: Buffer.from([0, 255]) });
    assert.deepEqual(Buffer.from((await ann.next("alone"))[0]), Buffer.from([0, 255]));
    assert.deepEqual((await nat.event("alone")).data, Buffer.from([0, 255]));

    const data = { name: "a", parts: [Buffer.from("one"), Buffer.from("")], last: Buffer.alloc(30_000, 7) };
    await ask(ann, "send", { channel: room, event: "mixed", data });
    const [got] = await ann.next("mixed");
    assert.deepEqual({ ...got, parts: got.parts.map((part) => Buffer.from(part)), last: Buffer.from(got.last) }, data);
    const inline = (await nat.event("mixed")).data;
    assert.deepEqual(inline.parts, [{ $bytes: "b25l" }, { $bytes: "" }]);

    await nat.call("send", { channel: room, event: "native" }, Buffer.from("raw"));
    assert.equal(Buffer.from((await ann.next("native"))[0]).toString(), "raw");
    ann.close();
  });

  test(`${way.name}: broadcast, members, update`, async () => {
    const ann = await connect(way, server);
    const bob = await connect(way, server);
    const room = `members-${ann.id}`;
    const first = await ask(ann, "join", { channel: room, members: true });
    assert.deepEqual(first, { members: [{ id: ann.id, user: null }], count: 1, users: 0 });
    await ask(bob, "join", room);
    const joined = { kind: "joined", channel: room, member: { id: bob.id, user: null }, user_connections: 1 };
    assert.deepEqual(await ann.next("fanfare:member"), [joined]);

    await ask(bob, "update", { data: { status: "here" } });
    const [updated] = await ann.next("fanfare:member");
    assert.equal(updated.kind, "updated");
    assert.deepEqual(updated.member, { id: bob.id, user: null, data: { status: "here" } });
    const page = await ask(ann, "members", room);
    assert.deepEqual(page.members.find(({ id }) => id === bob.id).data, { status: "here" });

    await ask(bob, "broadcast", { event: "all", data: room });
    for (let got; got !== room; ) [got] = await ann.next("all");

    bob.close();
    const [left] = await ann.next("fanfare:member");
    assert.equal(left.kind, "left");
    ann.close();
  });

  test(`${way.name}: refusals are acks with an error, or an event`, async () => {
    const ann = await connect(way, server);
    const refused = async (...event) => (await ask(ann, ...event)).error.code;
    assert.equal(await refused("join", "a b"), "bad_channel");
    assert.equal(await refused("join", { chanel: "a" }), "bad_message");
    assert.equal(await refused("send", "x"), "bad_message");
    assert.equal(await refused("update", { data: 5 }), "bad_message");
    assert.equal(await refused("order", { sku: 1 }), "no_functions");
    assert.equal(await refused("order", 1, Buffer.from("x")), "no_functions");
    ann.emit("join", "a b");
    assert.equal((await ann.next("fanfare:error"))[0].code, "bad_channel");
    ann.close();
  });

  test(`${way.name}: history with since`, async () => {
    const ann = await connect(way, server);
    const room = `kept-${ann.id}`;
    for (const data of ["a", "b", "c"]) await server.post("/v1/send", { channel: room, event: "e", data });
    const joined = await ask(ann, "join", { channel: room, since: { offset: 1 } });
    assert.equal(joined.offset, 3);
    assert.equal(joined.recovered, true);
    assert.deepEqual(await ann.next("e"), ["b", { channel: room, offset: 2 }, `2@${room}`]);
    assert.deepEqual(await ann.next("e"), ["c", { channel: room, offset: 3 }, `3@${room}`]);
    ann.close();
  });
}

test("a client that has upgraded holds one socket, as one that began with WebSocket", async () => {
  const both = ways.find(({ transports }) => transports.length === 2);
  await until("nobody polls", () => server.pairs() === 0);
  const polling = await connect(ways.find(({ transports }) => transports[0] === "polling" && transports.length === 1), server);
  assert.equal(server.pairs(), 1);
  polling.close();
  const clients = await Promise.all(Array.from({ length: 20 }, () => connect(both, server)));
  await until("their pairs of sockets are closed", () => server.pairs() === 0);
  for (const client of clients) assert.deepEqual(await ask(client, "join", "upgraded"), {});
  await server.post("/v1/send", { channel: "upgraded", event: "e", data: 1 });
  for (const client of clients) await client.next("e");
  clients.forEach((client) => client.close());
});

test("an event whose name is the client's own comes under another one", async () => {
  for (const way of ways) {
    const ann = await connect(way, server);
    await server.post("/v1/broadcast", { event: "disconnect", data: { a: 1 } });
    assert.deepEqual(await ann.next("fanfare:event"), [{ a: 1 }, { event: "disconnect" }]);
    ann.close();
  }
});
