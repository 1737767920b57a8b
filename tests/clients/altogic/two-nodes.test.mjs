// The same room over two nodes, which share a Redis.
import assert from "node:assert/strict";
import { after, afterEach, before, it } from "node:test";
import { apiKey, startRedis, until } from "../server.mjs";
import { closeAll, connected, nativeClient, serve, tokenOf } from "./support.mjs";

let redis;
let nodes;
before(async () => {
  redis = await startRedis();
  const server = () => serve(`[redis]\nurl = "${redis.url}"\n`);
  nodes = await Promise.all([server(), server()]);
});
afterEach(closeAll);
after(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  await redis.stop();
});

/** A client on each node, and a native one on each, in `channel`, which native ones call `name`. */
async function room(channel, name = channel) {
  const session = await tokenOf(nodes[0], channel.replace(/[^a-z]/g, ""));
  const [one, two] = await Promise.all(nodes.map((node) => connected(node, { session })));
  const natives = await Promise.all(nodes.map((node) => nativeClient(node)));
  one.realtime.join(channel);
  await one.next("channel:join");
  two.realtime.join(channel);
  assert.equal((await one.next("channel:join")).message.id, two.id);
  await two.next("channel:join");
  for (const plain of natives) {
    await plain.call("join", { channel: name });
    for (const client of [one, two]) {
      assert.equal((await client.next("channel:join")).message.id, plain.welcome.connection);
    }
  }
  return { one, two, natives };
}

it("what one sends, all others receive, in order", async () => {
  const channel = "Room #1/a";
  const { one, two, natives } = await room(channel, "Room=20=231=2Fa");
  for (let n = 0; n < 30; n++) one.realtime.send(channel, "n", n);
  for (const client of [one, two]) {
    for (let n = 0; n < 30; n++) assert.deepEqual(await client.next("n"), { channel, message: n });
  }
  for (const plain of natives) {
    for (let n = 0; n < 30; n++) assert.equal((await plain.event("n")).data, n);
  }
});

it("natives and these clients hear of each other's events, members and broadcasts", async () => {
  const { one, two, natives } = await room("mixed");
  two.realtime.send("mixed", "hi", { from: "two" });
  for (const plain of natives) assert.deepEqual((await plain.event("hi")).data, { from: "two" });
  assert.deepEqual((await one.next("hi")).message, { from: "two" });
  await natives[1].call("broadcast", { event: "all", data: 1 });
  for (const client of [one, two]) assert.deepEqual(await client.next("all"), { channel: null, message: 1 });
  two.realtime.updateProfile({ name: "Two" });
  assert.deepEqual((await one.next("channel:update")).message, { id: two.id, data: { name: "Two" } });
  two.realtime.leave("mixed");
  assert.deepEqual((await one.next("channel:leave")).message, { id: two.id, data: { name: "Two" } });
});

it("getMembers lists the members of both nodes, whichever is asked", async () => {
  const { one, two, natives } = await room("listed");
  const ids = [one.id, two.id, ...natives.map((plain) => plain.welcome.connection)].sort();
  for (const client of [one, two]) {
    await until("all are listed", async () => {
      const { data } = await client.realtime.getMembers("listed");
      return JSON.stringify(data.map(({ id }) => id).sort()) === JSON.stringify(ids);
    });
  }
});

it("an event with a filter reaches clients of both nodes", async () => {
  const [node] = nodes;
  const session = await tokenOf(node, "both");
  const clients = await Promise.all(nodes.map((node) => connected(node, { session })));
  await node.post("/v1/emit", { event: "mine", data: 1, filter: 'user == "both"' }, apiKey);
  for (const client of clients) assert.deepEqual(await client.next("mine"), { channel: null, message: 1 });
});

it("a client that moves to the other node leaves on the one, and joins on the other", async () => {
  const { one, two } = await room("moving");
  const before = one.id;
  one.realtime.close();
  assert.equal((await two.next("channel:leave")).message.id, before);
  const again = await connected(nodes[1]);
  again.realtime.join("moving");
  assert.equal((await two.next("channel:join")).message.id, again.id);
});
