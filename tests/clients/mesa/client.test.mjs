// The client of npm `@cryb/mesa`, unmodified: what its documents describe, against one node.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { test } from "node:test";

import { native, until, within } from "../server.mjs";
import { BrowserClient, Client, connect, Message, startNode, token, user, WebSocket } from "./support.mjs";

test("a client connects and learns what is set", async (t) => {
  const node = await startNode(t, { mesa: 'reconnect = "2s"' });
  const { client, frames } = await connect(t, node);
  assert.deepEqual(client.rules, ["sends_user_object"]);
  assert.equal(client.reconnectionIntervalTime, 2000);
  assert.ok(client.heartbeatIntervalTime > 0 && client.authenticationTimeout > 0);
  assert.equal(frames[0].op, 10);
});

test("any path may be set, and a client without Redis is served", async (t) => {
  const node = await startNode(t, { mesa: 'path = "/live"' });
  const { authenticate } = await connect(t, node, "/live");
  assert.equal((await authenticate("0")).id, "0");
});

test("authenticating answers with the id and the claims of the token", async (t) => {
  const node = await startNode(t);
  const { authenticate, client } = await connect(t, node);
  const { exp, ...found } = await authenticate("0", { name: "Ann" });
  assert.deepEqual(found, { id: "0", sub: "0", name: "Ann" });
  assert.ok(exp > 0 && client.authenticated);
});

test("the user object is left out where that is set", async (t) => {
  const node = await startNode(t, { mesa: "send_user_object = false" });
  const { authenticate, client } = await connect(t, node);
  assert.deepEqual([await authenticate("0"), client.rules], [{}, []]);
});

test("a bad token closes the connection with 1008", async (t) => {
  const node = await startNode(t);
  for (const data of [{ token: "nonsense" }, { token: token("0", { exp: 1 }) }, { session: "x" }, {}]) {
    const { client, closed } = await connect(t, node);
    void client.authenticate(data);
    assert.equal((await within("the close", closed)).code, 1008, JSON.stringify(data));
  }
});

test("who must authenticate and does not is closed with 1008", async (t) => {
  const hasty = await startNode(t, { auth: "required", more: '[limits]\nauth = "1s"' });
  const { closed } = await connect(t, hasty);
  assert.equal((await within("the close", closed)).code, 1008);
  const { authenticate } = await connect(t, await startNode(t, { auth: "required" }));
  assert.equal((await authenticate("0")).id, "0");
});

test("heartbeats are answered, and a client stays", async (t) => {
  const node = await startNode(t, { more: '[limits]\nheartbeat = "3s"\nheartbeat_wait = "2900ms"' });
  const { frames, messages, client } = await connect(t, node);
  await until("two heartbeats", () => frames.filter(({ op }) => op === 1).length >= 2);
  assert.equal(client.ws.readyState, client.ws.OPEN);
  assert.deepEqual(messages, [], "the application hears nothing of it");
});

test("without Mesa's heartbeats there are WebSocket's", async (t) => {
  const node = await startNode(t, { mesa: "heartbeat = false", more: '[limits]\nheartbeat = "3s"\nheartbeat_wait = "2900ms"' });
  const { client, frames } = await connect(t, node);
  let pings = 0;
  client.ws.on("ping", () => (pings += 1));
  await until("two pings", () => pings >= 2);
  assert.ok(!frames.some(({ op }) => op === 1) && client.heartbeatIntervalTime === undefined);
});

test("a client that asks whether the server is there is answered", async (t) => {
  const { client, frames } = await connect(t, await startNode(t));
  client.send(new Message(1, {}));
  await until("the answer", () => frames.some(({ op }) => op === 11));
});

test("events of the native API are messages", async (t) => {
  const node = await startNode(t);
  const ann = await user(t, node, "ann");
  const anyone = await connect(t, node);
  await node.post("/v1/publish", { user: "ann", event: "NEW_MESSAGE", data: { content: "Hey!" } });
  await node.post("/v1/broadcast", { event: "MANIFEST_UPDATE", data: { disabled: true } });
  const first = await ann.next();
  assert.deepEqual([first.opcode, first.data, first.type], [0, { content: "Hey!" }, "NEW_MESSAGE"]);
  assert.equal(first.sequence, undefined);
  assert.equal((await ann.next()).type, "MANIFEST_UPDATE");
  assert.equal((await anyone.next()).type, "MANIFEST_UPDATE", "who has not authenticated gets what everyone gets");
});

test("it is in one room with a native client", async (t) => {
  const node = await startNode(t);
  const mesa = await user(t, node, "ann");
  const bob = await native(WebSocket, node, `token=${token("bob", { can: { join: ["*"], send: ["*"] } })}`);
  t.after(() => bob.close());
  await bob.call("join", { channel: "room-1" });
  await node.post("/v1/join", { channel: "room-1", to: { users: ["ann"] } });
  for (const n of [1, 2, 3]) await bob.call("send", { channel: "room-1", event: "chat", data: n });
  for (const n of [1, 2, 3]) assert.equal((await mesa.next()).data, n);
  // Bytes are what JSON makes of a Buffer.
  await bob.call("send", { channel: "room-1", event: "file" }, Buffer.from([1, 2]));
  assert.deepEqual(Buffer.from((await mesa.next()).data), Buffer.from([1, 2]));
  const { members } = await node.get("/v1/channels/room-1/members");
  assert.deepEqual(members.map((member) => member.user).sort(), ["ann", "bob"]);
});

test("what is refused is told", async (t) => {
  const node = await startNode(t);
  const { client, next } = await user(t, node, "0");
  client.send(new Message(0, { status: "online" }, "STATUS_UPDATE"));
  const refused = await next();
  assert.equal(refused.type, "fanfare:error");
  assert.match(refused.data.code, /no_functions|forbidden/);
  client.ws.send("nonsense");
  assert.equal((await next()).data.code, "bad_message");
  client.send(new Message(22, {}));
  assert.equal((await next()).data.code, "unknown_op");
});

test("several clients have the same id", async (t) => {
  const node = await startNode(t);
  const both = [await user(t, node, "0"), await user(t, node, "0")];
  await node.post("/v1/publish", { user: "0", event: "E" });
  for (const one of both) assert.equal((await one.next()).type, "E");
});

test("a client stores its messages where that is set", async (t) => {
  const node = await startNode(t, { mesa: "store_messages = true" });
  const { client, next } = await user(t, node, "0");
  await node.post("/v1/publish", { user: "0", event: "E" });
  await next();
  assert.deepEqual(client.messages.received.map(({ type }) => type), ["E"]);
});

test("a client comes back by itself where that is set, unless it has left", async (t) => {
  const node = await startNode(t, { mesa: 'reconnect = "1s"' });
  const { client, closed } = await user(t, node, "0");
  const again = new Promise((resolve) => client.once("connected", resolve));
  await node.post("/v1/disconnect", { to: { users: ["0"] } });
  const { code, willAttemptReconnect } = await within("the close", closed);
  assert.deepEqual([code, willAttemptReconnect], [1000, true]);
  const how = await within("the reconnect", again);
  assert.deepEqual([how.isInitialConnection, how.isAutomaticReconnection], [false, true]);
});

test("another version is closed with 1002 where one is enforced", async (t) => {
  // The client reads its version from a path relative to the working directory.
  const library = dirname(createRequire(import.meta.url).resolve("@cryb/mesa"));
  const before = process.cwd();
  process.chdir(join(library, "client"));
  t.after(() => process.chdir(before));
  const same = await startNode(t, { mesa: 'enforce_version = "1.5.8"' });
  const { authenticate, client } = await connect(t, same);
  assert.ok(client.rules.includes("enforce_equal_versions"));
  assert.equal((await authenticate("0")).id, "0");
  const other = await startNode(t, { mesa: 'enforce_version = "1.5.7"' });
  const refused = new Client(`ws://${other.address}/mesa`);
  const code = await within("the close", new Promise((resolve) => refused.on("disconnected", resolve)));
  assert.equal(code, 1002);
});

test("a node that drains says so", async (t) => {
  const node = await startNode(t);
  const { closed } = await user(t, node, "0");
  await node.drain();
  assert.equal((await within("the close", closed)).code, 1001);
});

test("the client for browsers works too", async (t) => {
  const node = await startNode(t, { mesa: 'reconnect = "1s"' });
  const client = new BrowserClient(`ws://${node.address}/mesa`);
  const messages = [];
  client.onMessage = (message) => messages.push(message);
  await within("the connection", new Promise((resolve) => (client.onConnected = resolve)));
  await until("the hello", () => client.rules.length > 0);
  const found = await within("the answer", client.authenticate({ token: token("0", { name: "Ann" }) }));
  assert.deepEqual([found.id, found.name], ["0", "Ann"]);
  await node.post("/v1/publish", { user: "0", event: "E", data: [1] });
  await until("the event", () => messages.length === 1);
  assert.deepEqual(messages[0], { opcode: 0, data: [1], type: "E" });
  const closed = new Promise((resolve) => (client.onDisconnected = (code) => resolve(code)));
  client.disconnect(1000);
  assert.equal(await within("the close", closed), 1000);
});
