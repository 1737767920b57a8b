// Namespaces, credentials, recovery, and how a connection ends.
import assert from "node:assert/strict";
import { once } from "node:events";
import { before, test } from "node:test";

import { apiKey, tokenSecret } from "../../server.mjs";
import { ask, connect, keep, native, newest, oldest, serve, settled, until, ways, within } from "./support.mjs";

let open, closed;
before(async () => {
  open = await serve('namespaces = ["/", "/chat"]');
  closed = await serve("", ["--api-key", apiKey, "--token-secret", tokenSecret, "--store-user-events"]);
});

const token = async (user, more = {}) => (await closed.post("/v1/tokens", { user, ...more }, apiKey)).token;
const refusal = (socket) => within("a connect_error", once(socket, "connect_error").then(([error]) => error));

for (const way of ways) {
  test(`${way.name}: namespaces over one connection`, async () => {
    const root = await connect(way, open, { forceNew: false, multiplex: true });
    const chat = root.io.socket("/chat");
    keep(chat);
    chat.connect();
    await until("the namespace is there", () => chat.connected);
    assert.equal(chat.id, root.id);
    await settled(root, way.transports);

    assert.deepEqual(await ask(chat, "join", "a"), {});
    await open.post("/v1/send", { channel: "chat:a", event: "inside", data: 1 });
    assert.deepEqual(await chat.next("inside"), [1, { channel: "a" }]);
    await ask(root, "join", "a");
    await ask(chat, "send", { channel: "a", event: "again", data: 2 });
    assert.equal((await chat.next("again"))[0], 2);
    await ask(root, "send", { channel: "a", event: "outside", data: 3 });
    assert.deepEqual((await root.next("outside"))[1].channel, "a");
    await open.post("/v1/broadcast", { event: "all", data: root.id });
    for (const socket of [root, chat]) for (let got; got !== root.id; ) [got] = await socket.next("all");
    assert.ok(!root.inbox.some(([name]) => name === "inside" || name === "again"));
    assert.ok(!chat.inbox.some(([name]) => name === "outside"));

    chat.disconnect();
    await until("its channels are left", async () => {
      const { channels } = await open.get(`/v1/connections/${root.id}`);
      return channels.length === 1 && channels[0] === "a";
    });
    assert.deepEqual(await ask(root, "leave", "a"), {});
    root.close();
  });

  test(`${way.name}: an unknown namespace`, async () => {
    const nope = way.io(`${open.url}/nope`, { transports: way.transports, forceNew: true });
    assert.equal((await refusal(nope)).message, "Invalid namespace");
    nope.close();
  });

  test(`${way.name}: a token in auth makes a user, and a bad one a connect_error`, async () => {
    const can = { join: ["*"], send: ["*"] };
    const ann = await connect(way, closed, { auth: { token: await token("ann", { can }) } });
    assert.equal((await closed.get(`/v1/users/ann`, apiKey)).connections, 1);
    assert.deepEqual(await ask(ann, "join", "room"), {});
    assert.equal((await ask(ann, "broadcast", { event: "e" })).error.code, "forbidden");
    assert.deepEqual(Object.keys(await ask(ann, "auth", { token: await token("ann", { can }) })).sort(), ["expires_at", "user"]);
    ann.close();

    for (const auth of [{ token: "no token" }, {}]) {
      const nobody = way.io(closed.url, { transports: way.transports, forceNew: true, auth });
      const error = await refusal(nobody);
      assert.equal(error.data.code, 4001);
      nobody.close();
    }
    await until("ann is gone", async () => (await closed.get(`/v1/users/ann`, apiKey)).connections === 0);
  });

  test(`${way.name}: an event to a user`, async () => {
    const name = `user-${way.name.replaceAll(" ", "-")}`;
    await closed.post("/v1/publish", { users: [name], event: "waits", data: 1 }, apiKey);
    const ann = await connect(way, closed, { auth: { token: await token(name) } });
    const [data, about] = await ann.next("waits");
    assert.equal(data, 1);
    assert.ok(about.id);
    await closed.post("/v1/publish", { users: [name], event: "comes", data: 2 }, apiKey);
    assert.equal((await ann.next("comes"))[0], 2);
    // It has confirmed both by the time a second request is answered: a poll confirms what the one before it brought.
    await ask(ann, "leave", "nowhere");
    await ask(ann, "leave", "nowhere");
    ann.close();
    const again = await connect(way, closed, { auth: { token: await token(name) } });
    await closed.post("/v1/publish", { users: [name], event: "third", data: 3 }, apiKey);
    await again.next("third");
    assert.deepEqual(again.inbox.filter(([event]) => event === "waits" || event === "comes"), []);
    again.close();
  });

  test(`${way.name}: told to go, a client stays away`, async () => {
    const ann = await connect(way, open);
    const gone = once(ann, "disconnect");
    await open.post("/v1/disconnect", { filter: "connection.id == params.id", params: { id: ann.id } });
    assert.equal((await within("a disconnect", gone))[0], "io server disconnect");
    assert.equal(ann.active, false);
    ann.close();
  });
}

for (const way of ways.filter(({ io }) => io === newest)) {
  test(`${way.name}: a lost connection is recovered with what it missed, again and again`, async () => {
    const ann = await connect(way, open);
    const bob = await native(open);
    const room = `kept-${ann.id}`;
    await ask(ann, "join", room);
    await ask(ann, "update", { data: { status: "here" } });
    await bob.call("send", { channel: room, event: "n", data: 0 });
    await ann.next("n");

    for (let round = 1; round <= 3; round++) {
      // The client's library takes a string that is an event's last argument for its place in the history.
      await open.post("/v1/broadcast", { event: "note", data: `0@${room}` });
      assert.deepEqual(await ann.next("note"), [`0@${room}`, {}]);
      const before = ann.id;
      const back = once(ann, "connect");
      ann.io.engine.close();
      await bob.call("send", { channel: room, event: "n", data: round });
      await within("a connect", back);
      assert.equal(ann.recovered, true, `round ${round}`);
      assert.notEqual(ann.id, before);
      // What came when the client had just ended its connection comes again: it had not noted that it has it.
      for (let got = round - 1; got !== round; ) {
        assert.equal(got, round - 1);
        [got] = await ann.next("n");
      }
      await until("it is a member", async () => {
        const { members } = await open.get(`/v1/channels/${room}/members`);
        return members.length === 1 && members[0].id === ann.id && members[0].data.status === "here";
      });
    }
    ann.close();
  });
}

test("a client that cannot know what it missed is told so, and is in its channels", async () => {
  const ann = await connect(ways.find(({ io }) => io === newest), open);
  await ask(ann, "join", "kept-1");
  await ask(ann, "join", "kept-2");
  for (const channel of ["kept-1", "kept-2"]) await ask(ann, "send", { channel, event: "e", data: 1 });
  await ann.next("e");
  await ann.next("e");
  const back = once(ann, "connect");
  ann.io.engine.close();
  await within("a connect", back);
  assert.equal(ann.recovered, false);
  const joined = [(await ann.next("fanfare:joined"))[0].channel, (await ann.next("fanfare:joined"))[0].channel];
  assert.deepEqual(joined.sort(), ["kept-1", "kept-2"]);
  ann.close();
});

test("a server that drains tells its clients, and they come back", async () => {
  const server = await serve();
  const clients = await Promise.all(ways.map((way) => connect(way, server)));
  const reasons = clients.map((client) => once(client, "disconnect"));
  const ended = server.drain();
  for (const reason of reasons) {
    const [why] = await within("a disconnect", reason);
    assert.ok(["transport close", "transport error", "ping timeout"].includes(why), why);
  }
  for (const client of clients) {
    assert.equal(client.active ?? true, true);
    client.close();
  }
  await ended;
});

test("the heartbeat keeps clients, and one that never answers it is let go", async () => {
  const server = await serve("", ["--limit", "heartbeat=4s", "--limit", "heartbeat_wait=3s"]);
  const clients = await Promise.all(ways.map((way) => connect(way, server)));
  const silent = await Promise.all(ways.map((way) => connect(way, server)));
  const gone = silent.map((client) => once(client, "disconnect"));
  for (const client of silent) {
    const { engine } = client.io;
    const send = engine.sendPacket ?? engine._sendPacket;
    const mute = (type, ...rest) => type !== "pong" && send.call(engine, type, ...rest);
    if (engine.sendPacket) engine.sendPacket = mute;
    if (engine._sendPacket) engine._sendPacket = mute;
  }
  for (const reason of gone) await within("a disconnect", reason);
  for (const client of clients) assert.deepEqual(await ask(client, "join", "alive"), {});
  assert.ok(clients.every((client) => client.connected));
  [...clients, ...silent].forEach((client) => client.close());
});
