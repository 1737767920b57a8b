// One room with clients of every system that speaks Socket.IO, and native ones.
import assert from "node:assert/strict";
import { after, afterEach, before, it } from "node:test";
import { io } from "socket.io-client";
import { start, until, within } from "../server.mjs";
import { closeAll, config, connected, nativeClient } from "./support.mjs";

let server;
before(async () => {
  const others = `
[apps.default.protocols.agnost]

[apps.default.protocols.socketio]
path = "/io/"
`;
  server = await start({ config: config() + others });
});
const sockets = [];
afterEach(() => {
  closeAll();
  for (const socket of sockets.splice(0)) socket.close();
});
after(() => server.stop());

/** A client of Socket.IO, connected, that notes what it hears. */
async function socket(path, auth) {
  const made = io(server.url, { path, auth, transports: ["websocket"], forceNew: true });
  sockets.push(made);
  const heard = [];
  made.onAny((name, ...rest) => heard.push([name, ...rest]));
  await within("a connection", new Promise((resolve) => made.once("connect", resolve)));
  const next = (name) =>
    until(`${name} comes`, () => {
      const at = heard.findIndex(([known]) => known === name);
      return at < 0 ? undefined : heard.splice(at, 1)[0].slice(1);
    });
  return Object.assign(made, { next });
}

it("what one sends, the others receive, and each hears of the others", async () => {
  const channel = "every one";
  const name = "every=20one";
  const altogic = await connected(server);
  altogic.realtime.join(channel);
  await altogic.next("channel:join");

  const agnost = await socket("/realtime/realtime/", { echoMessages: true, envId: "e", apiKey: "pk_everyone" });
  agnost.emit("join", { channel });
  await agnost.next("channel:join");
  assert.deepEqual((await altogic.next("channel:join")).message, { id: agnost.id });

  const plain = await nativeClient(server);
  await plain.call("join", { channel: name, members: true });
  assert.deepEqual((await altogic.next("channel:join")).message, { id: plain.welcome.connection });
  assert.deepEqual((await agnost.next("channel:join"))[0].message, { id: plain.welcome.connection });

  const socketio = await socket("/io/", { key: "pk_everyone" });
  await socketio.emitWithAck("join", { channel: name });
  assert.deepEqual((await altogic.next("channel:join")).message, { id: socketio.id });
  assert.deepEqual((await agnost.next("channel:join"))[0].message, { id: socketio.id });

  const said = [
    ["by altogic", () => altogic.realtime.send(channel, "by altogic", { n: 1 })],
    ["by agnost", () => agnost.emit("message", { channel, eventName: "by agnost", message: { n: 1 } })],
    ["by native", () => plain.call("send", { channel: name, event: "by native", data: { n: 1 } })],
    ["by socketio", () => socketio.emitWithAck("send", { channel: name, event: "by socketio", data: { n: 1 } })],
  ];
  for (const [event, say] of said) {
    await say();
    assert.deepEqual(await altogic.next(event), { channel, message: { n: 1 } });
    assert.deepEqual((await agnost.next(event))[0], { channel, message: { n: 1 } });
    assert.deepEqual((await plain.event(event)).data, { n: 1 });
    assert.deepEqual((await socketio.next(event))[0], { n: 1 });
  }

  const { data } = await altogic.realtime.getMembers(channel);
  const ids = [altogic.id, agnost.id, plain.welcome.connection, socketio.id];
  assert.deepEqual(data.map(({ id }) => id).sort(), ids.sort());
});
