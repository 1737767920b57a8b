// Each feature that Altogic's documents have, with the unmodified client, in one room with a native client.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { apiKey, until, within } from "../server.mjs";
import { altogic, closeAll, connected, nativeClient, proxy, serve, tokenOf } from "./support.mjs";

let server;
before(async () => {
  server = await serve();
});
afterEach(closeAll);
after(() => server.stop());

/** Joins, and waits until the client itself is told of it. */
async function joined(client, channel) {
  client.realtime.join(channel);
  const { message } = await client.next("channel:join");
  assert.equal(message.id, client.id);
}

describe("connecting", () => {
  it("calls onConnect, and the socket has an id", async () => {
    const client = await connected(server);
    assert.equal(client.realtime.isConnected(), true);
    assert.match(client.id, /^[0-9a-z]{26}$/i);
  });

  it("closes and opens by hand, with onDisconnect and another id", async () => {
    const client = await connected(server);
    const before = client.id;
    const gone = new Promise((resolve) => client.realtime.onDisconnect(resolve));
    client.realtime.close();
    assert.equal(await within("onDisconnect", gone), "io client disconnect");
    client.realtime.open();
    await until("it is connected again", () => client.realtime.isConnected());
    assert.notEqual(client.id, before);
  });

  it("finds the app by a subdomain, too", async () => {
    const client = await connected(server, { envUrl: `http://sub.app.c1.localhost:${server.port}` });
    assert.equal(client.realtime.isConnected(), true);
  });
});

describe("sending", () => {
  it("send reaches the members of a channel, a native one among them, and no others", async () => {
    const [one, two, other] = await Promise.all([connected(server), connected(server), connected(server)]);
    const plain = await nativeClient(server);
    await joined(one, "technology-chat");
    await joined(two, "technology-chat");
    await plain.call("join", { channel: "technology-chat" });
    const message = { username: "Luke", at: "2021-08-16", nested: { list: [1, null, "x"] } };
    one.realtime.send("technology-chat", "chat-message", message);
    const expected = { channel: "technology-chat", message };
    assert.deepEqual(await one.next("chat-message"), expected);
    assert.deepEqual(await two.next("chat-message"), expected);
    const event = await plain.event("chat-message");
    assert.deepEqual([event.channel, event.data, event.from.connection], ["technology-chat", message, one.id]);
    await other.settled();
    assert.deepEqual(other.heard, []);
  });

  it("a native client's event reaches members", async () => {
    const client = await connected(server);
    const plain = await nativeClient(server);
    await joined(client, "from-native");
    await plain.call("send", { channel: "from-native", event: "hello", data: [1.5] });
    assert.deepEqual(await client.next("hello"), { channel: "from-native", message: [1.5] });
  });

  it("broadcast reaches everyone, with null as the channel", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    const plain = await nativeClient(server);
    one.realtime.broadcast("warning-message", "leave the planet");
    const expected = { channel: null, message: "leave the planet" };
    assert.deepEqual(await one.next("warning-message"), expected);
    assert.deepEqual(await two.next("warning-message"), expected);
    assert.equal((await plain.event("warning-message")).data, "leave the planet");
  });

  it("every kind of data passes as it is", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    for (const message of [null, true, 0, -1.5, "", "ü\u2028\"", [], {}, [[{}]]]) {
      one.realtime.broadcast("any", message);
      assert.deepEqual(await two.next("any"), { channel: null, message });
    }
  });

  it("a Buffer passes as bytes, alone and within an object", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    const plain = await nativeClient(server);
    const bytes = Buffer.from([0, 1, 254, 255]);
    one.realtime.broadcast("bytes", bytes);
    assert.deepEqual((await two.next("bytes")).message, bytes);
    assert.deepEqual((await plain.event("bytes")).data, bytes);
    one.realtime.broadcast("file", { name: "x", parts: [bytes, Buffer.alloc(0)] });
    assert.deepEqual((await two.next("file")).message, { name: "x", parts: [bytes, Buffer.alloc(0)] });
    assert.deepEqual((await plain.event("file")).data.parts[0], { $bytes: bytes.toString("base64") });
  });

  it("native bytes come as a Buffer", async () => {
    const client = await connected(server);
    const plain = await nativeClient(server);
    await plain.call("broadcast", { event: "bytes" }, Buffer.from("xyz"));
    assert.deepEqual((await client.next("bytes")).message, Buffer.from("xyz"));
  });

  it("events of one sender come in order", async () => {
    const session = await tokenOf(server, "fast");
    const [one, two] = await Promise.all([connected(server, { session }), connected(server)]);
    const plain = await nativeClient(server);
    for (const client of [one, two]) await joined(client, "order");
    await plain.call("join", { channel: "order" });
    for (let n = 0; n < 40; n++) one.realtime.send("order", "n", n);
    for (let n = 0; n < 40; n++) {
      assert.equal((await one.next("n")).message, n);
      assert.equal((await two.next("n")).message, n);
      assert.equal((await plain.event("n")).data, n);
    }
  });

  it("names of channels may hold any character", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    const plain = await nativeClient(server);
    for (const channel of ["Room #1", "a/b?c", "naïve ☃", "50%=half", "x=20y"]) {
      await joined(one, channel);
      await joined(two, channel);
      assert.deepEqual(await one.next("channel:join"), { channel, message: { id: two.id } });
      two.realtime.send(channel, "hi", channel);
      assert.deepEqual(await one.next("hi"), { channel, message: channel });
      const { data } = await one.realtime.getMembers(channel);
      assert.deepEqual(data.map(({ id }) => id).sort(), [one.id, two.id].sort());
    }
    await plain.call("join", { channel: "Room=20=231" });
    two.realtime.send("Room #1", "native", 1);
    assert.equal((await plain.event("native")).channel, "Room=20=231");
  });

  it("an event of the HTTP API with a filter has null as its channel, and one to a channel its name", async () => {
    const session = await tokenOf(server, "filtered");
    const client = await connected(server, { session });
    await joined(client, "a b");
    await server.post("/v1/emit", { event: "mine", data: 1, filter: 'user == "filtered"' }, apiKey);
    assert.deepEqual(await client.next("mine"), { channel: null, message: 1 });
    await server.post("/v1/send", { channel: "a=20b", event: "ours", data: 2 }, apiKey);
    assert.deepEqual(await client.next("ours"), { channel: "a b", message: 2 });
    await server.post("/v1/publish", { users: ["filtered"], event: "yours", data: 3 }, apiKey);
    assert.deepEqual(await client.next("yours"), { channel: null, message: 3 });
  });

  it("names that are Socket.IO's own come under another name, and the connection stays", async () => {
    const client = await connected(server);
    const plain = await nativeClient(server);
    for (const event of ["connect", "disconnect", "connect_error"]) {
      await plain.call("broadcast", { event, data: 1 });
      assert.deepEqual(await client.next(`event:${event}`), { channel: null, message: 1 });
    }
    assert.equal(client.realtime.isConnected(), true);
  });
});

describe("echo", () => {
  for (const bufferMessages of [true, false]) {
    const how = bufferMessages ? "with buffering" : "without buffering";

    it(`is on unless echoMessages is false, ${how}`, async () => {
      const loud = await connected(server, { bufferMessages });
      const quiet = await connected(server, { bufferMessages, echoMessages: false });
      const channel = `echo-${bufferMessages}`;
      await joined(loud, channel);
      quiet.realtime.join(channel);
      assert.equal((await loud.next("channel:join")).message.id, quiet.id);
      // Without buffering the client drops what it sends while the packet before is on its way.
      loud.realtime.send(channel, "by-loud", 1);
      await loud.next("by-loud");
      quiet.realtime.send(channel, "by-quiet", 2);
      await loud.next("by-quiet");
      quiet.realtime.broadcast("all-by-quiet", 3);
      await loud.next("all-by-quiet");
      await quiet.settled();
      assert.deepEqual(
        quiet.heard.map(([name]) => name),
        ["by-loud"],
      );
    });
  }

  it("is what a message says, without buffering", async () => {
    const loud = await connected(server, { bufferMessages: false });
    const quiet = await connected(server, { bufferMessages: false, echoMessages: false });
    await joined(loud, "says");
    loud.realtime.send("says", "silent", 1, false);
    await loud.settled();
    loud.realtime.broadcast("silent", 1, false);
    await loud.settled();
    assert.equal(loud.heard.some(([name]) => name === "silent"), false);
    quiet.realtime.broadcast("heard", 2, true);
    assert.deepEqual(await quiet.next("heard"), { channel: null, message: 2 });
  });

  it("is what join, leave and update say", async () => {
    const loud = await connected(server);
    const quiet = await connected(server, { echoMessages: false });
    loud.realtime.join("o", false);
    loud.realtime.updateProfile({ a: 1 }, false);
    loud.realtime.leave("o", false);
    await loud.settled();
    assert.deepEqual(loud.heard, []);
    quiet.realtime.join("o", true);
    assert.equal((await quiet.next("channel:join")).message.id, quiet.id);
    quiet.realtime.updateProfile({ a: 1 }, true);
    assert.deepEqual((await quiet.next("channel:update")).message, { id: quiet.id, data: { a: 1 } });
    quiet.realtime.leave("o", true);
    assert.deepEqual((await quiet.next("channel:leave")).message, { id: quiet.id, data: { a: 1 } });
  });
});

describe("listeners", () => {
  it("on, once, off and getListeners", async () => {
    const client = await connected(server);
    const calls = [];
    const listener = ({ message }) => calls.push(["on", message]);
    client.realtime.on("tick", listener);
    client.realtime.once("tick", ({ message }) => calls.push(["once", message]));
    assert.equal(client.realtime.getListeners("tick").length, 2);
    for (const n of [1, 2]) client.realtime.broadcast("tick", n);
    await until("both ticks came", () => calls.length >= 3);
    assert.deepEqual(calls, [["on", 1], ["once", 1], ["on", 2]]);
    client.realtime.off("tick", listener);
    assert.deepEqual(client.realtime.getListeners("tick"), []);
    client.realtime.broadcast("tick", 3);
    await client.settled();
    assert.equal(calls.length, 3);
  });

  it("off without a listener removes the first of a name: the client passes undefined on", async () => {
    const client = await connected(server);
    const [one, two] = [() => {}, () => {}];
    client.realtime.on("gone", one);
    client.realtime.on("gone", two);
    client.realtime.off("gone");
    assert.deepEqual(client.realtime.getListeners("gone"), [two]);
  });

  it("onAny gets every event with its name; offAny, which the client has as off, leaves it", async () => {
    const client = await connected(server);
    const names = [];
    const any = (name) => names.push(name);
    client.realtime.onAny(any);
    client.realtime.broadcast("a", 1);
    client.realtime.broadcast("b", 2);
    await until("both came", () => names.length === 2);
    assert.deepEqual(names, ["a", "b"]);
    client.realtime.offAny(any);
    client.realtime.broadcast("c", 3);
    await client.next("c");
    assert.deepEqual(names, ["a", "b", "c"]);
  });
});

describe("channels and members", () => {
  it("join, update and leave are told to the others, native ones among them", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    const plain = await nativeClient(server);
    await plain.call("join", { channel: "lobby", members: true });
    const noticed = (kind) => plain.next((said) => said.op === "member" && said.kind === kind, `member ${kind}`);
    await joined(one, "lobby");
    assert.equal((await noticed("joined")).member.id, one.id);
    two.realtime.updateProfile({ name: "Leia" });
    await joined(two, "lobby");
    assert.deepEqual(await one.next("channel:join"), {
      channel: "lobby",
      message: { id: two.id, data: { name: "Leia" } },
    });
    assert.deepEqual((await noticed("joined")).member.data, { name: "Leia" });
    two.realtime.updateProfile({ name: "Leia", busy: true });
    const updated = { channel: "lobby", message: { id: two.id, data: { name: "Leia", busy: true } } };
    assert.deepEqual(await one.next("channel:update"), updated);
    assert.deepEqual(await two.next("channel:update"), updated);
    assert.deepEqual((await noticed("updated")).member.data, { name: "Leia", busy: true });
    two.realtime.leave("lobby");
    const left = { channel: "lobby", message: { id: two.id, data: { name: "Leia", busy: true } } };
    assert.deepEqual(await one.next("channel:leave"), left);
    assert.deepEqual(await two.next("channel:leave"), left);
    assert.equal((await noticed("left")).member.id, two.id);
  });

  it("a native member is told as any", async () => {
    const client = await connected(server);
    await joined(client, "mixed");
    const plain = await nativeClient(server);
    const { connection } = plain.welcome;
    await plain.call("join", { channel: "mixed" });
    assert.deepEqual(await client.next("channel:join"), { channel: "mixed", message: { id: connection } });
    await plain.call("update", { data: { native: true } });
    assert.deepEqual((await client.next("channel:update")).message, { id: connection, data: { native: true } });
    await plain.call("leave", { channel: "mixed" });
    assert.equal((await client.next("channel:leave")).message.id, connection);
  });

  it("onJoin, onUpdate and onLeave are those events", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    const calls = [];
    one.realtime.onJoin(({ message }) => calls.push(["join", message.id]));
    one.realtime.onUpdate(({ message }) => calls.push(["update", message.id]));
    one.realtime.onLeave(({ message }) => calls.push(["leave", message.id]));
    await joined(one, "named");
    two.realtime.join("named");
    two.realtime.updateProfile("here");
    two.realtime.leave("named");
    await until("all were called", () => calls.length === 4);
    assert.deepEqual(calls, [["join", one.id], ["join", two.id], ["update", two.id], ["leave", two.id]]);
  });

  it("a second join, and leaving where one is not, are nothing", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    await joined(one, "twice");
    await joined(two, "twice");
    await one.next("channel:join");
    two.realtime.join("twice");
    two.realtime.leave("never");
    await two.settled();
    await one.settled();
    assert.deepEqual([one.heard, two.heard], [[], []]);
  });

  it("a profile may be any JSON, and null removes it", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    await joined(one, "profiles");
    await joined(two, "profiles");
    for (const data of ["text", [1, 2], 7, { deep: { er: [] } }]) {
      two.realtime.updateProfile(data);
      assert.deepEqual((await one.next("channel:update")).message, { id: two.id, data });
    }
    two.realtime.updateProfile(null);
    assert.deepEqual((await one.next("channel:update")).message, { id: two.id });
  });

  it("getMembers lists ids and profiles", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    assert.deepEqual(await one.realtime.getMembers("listed"), { data: [], errors: null });
    one.realtime.updateProfile({ name: "Ann" });
    await joined(one, "listed");
    await joined(two, "listed");
    const { data, errors } = await one.realtime.getMembers("listed");
    assert.equal(errors, null);
    const byId = Object.fromEntries(data.map((member) => [member.id, member]));
    assert.deepEqual(byId, { [one.id]: { id: one.id, data: { name: "Ann" } }, [two.id]: { id: two.id } });
  });
});

describe("coming back", () => {
  it("joins its channels again with its profile, under another id", async () => {
    const way = await proxy(server);
    const one = await connected(server, { port: way.port });
    const plain = await nativeClient(server);
    one.realtime.updateProfile({ name: "Ann" });
    await joined(one, "again");
    await plain.call("join", { channel: "again", members: true });
    assert.equal((await one.next("channel:join")).message.id, plain.welcome.connection);
    const before = one.id;
    way.cut();
    const left = await plain.next((said) => said.op === "member" && said.kind === "left", "it has left");
    assert.equal(left.member.id, before);
    const back = await plain.next((said) => said.op === "member" && said.kind === "joined", "it is back");
    assert.notEqual(back.member.id, before);
    assert.deepEqual(back.member.data, { name: "Ann" });
    assert.deepEqual((await one.next("channel:join")).message, { id: one.id, data: { name: "Ann" } });
  });

  it("has left for the others when its connection breaks, also with a session", async () => {
    const way = await proxy(server);
    const session = await tokenOf(server, "dropping");
    const one = await connected(server);
    const two = await connected(server, { port: way.port, session, autoJoinChannels: false });
    await joined(one, "drops");
    two.realtime.updateProfile({ name: "Han" });
    await joined(two, "drops");
    await one.next("channel:join");
    const before = two.id;
    way.cut();
    assert.deepEqual((await one.next("channel:leave")).message, { id: before, data: { name: "Han" } });
  });

  it("stays out of its channels if autoJoinChannels is false", async () => {
    const way = await proxy(server);
    const one = await connected(server, { port: way.port, autoJoinChannels: false });
    await joined(one, "once");
    const before = one.id;
    way.cut();
    await until("it is connected again", () => one.realtime.isConnected() && one.id !== before);
    await until("its lost connection has left", async () => {
      const { data } = await one.realtime.getMembers("once");
      assert.ok(data.every(({ id }) => id === before));
      return data.length === 0;
    });
  });

  it("sends what was buffered meanwhile", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    one.realtime.close();
    one.realtime.broadcast("kept", 1);
    one.realtime.open();
    assert.deepEqual(await two.next("kept"), { channel: null, message: 1 });
  });
});

describe("keys and sessions", () => {
  const refused = (options) => {
    const { realtime } = altogic(server, options);
    return within("onError", new Promise((resolve) => realtime.onError(resolve)));
  };

  it("an unknown client key is a connect_error", async () => {
    const error = await refused({ key: "pk_nobody" });
    assert.deepEqual(error.data, {
      origin: "client_error",
      code: "invalid_client_key",
      message: "unknown client key",
    });
    assert.match(error.message, /^Realtime Connection Error/);
  });

  it("a key that enforces sessions needs one, and a good one", async () => {
    assert.equal((await refused({ key: "pk_members" })).data.code, "missing_session_token");
    const bad = await refused({ key: "pk_members", session: "no.good.token" });
    assert.equal(bad.data.code, "invalid_session_token");
    const session = await tokenOf(server, "ann");
    const client = await connected(server, { key: "pk_members", session });
    const { user } = await server.get(`/v1/connections/${client.id}`, apiKey);
    assert.equal(user, "ann");
  });

  it("getMembers needs them as well", async () => {
    const list = async (options) => (await altogic(server, options).realtime.getMembers("x")).errors;
    const unknown = await list({ key: "pk_nobody" });
    assert.deepEqual([unknown.status, unknown.items[0].code], [401, "invalid_client_key"]);
    const missing = await list({ key: "pk_members" });
    assert.deepEqual([missing.status, missing.items[0].code], [401, "missing_session_token"]);
    const bad = await list({ key: "pk_members", session: "no.good.token" });
    assert.deepEqual([bad.status, bad.items[0].code], [401, "invalid_session_token"]);
    const session = await tokenOf(server, "ann");
    assert.equal(await list({ key: "pk_members", session }), null);
    const readers = await list({ key: "pk_readers" });
    assert.deepEqual([readers.status, readers.items[0].code], [403, "forbidden"]);
  });

  it("what a client may not do is an event error, and the connection stays", async () => {
    const reader = await connected(server, { key: "pk_readers" });
    await joined(reader, "read");
    reader.realtime.send("read", "no", 1);
    const error = await reader.next("error");
    assert.deepEqual([error.origin, error.code], ["client_error", "forbidden"]);
    assert.match(error.message, /"send"/);
    // Without the right to see members it joins, and hears of nobody.
    const other = await connected(server);
    await joined(other, "read");
    await reader.settled();
    assert.deepEqual(reader.heard, []);
    assert.equal(reader.realtime.isConnected(), true);
  });

  it("whoever is sent away by the API stays away", async () => {
    const client = await connected(server);
    const gone = new Promise((resolve) => client.realtime.onDisconnect(resolve));
    await server.post("/v1/disconnect", { to: { connections: [client.id] } }, apiKey);
    assert.equal(await within("onDisconnect", gone), "io server disconnect");
  });
});

describe("events about users", () => {
  it("come to the user's own connections with the name, the session and the user", async () => {
    const session = await tokenOf(server, "signed");
    const [own, other] = await Promise.all([connected(server, { session }), connected(server)]);
    const calls = [];
    own.realtime.onUserEvent((...all) => calls.push(all));
    other.realtime.onUserEvent((...all) => calls.push(["other", ...all]));
    for (const name of ["signin", "signout", "update", "delete", "pwdchange", "emailchange", "phonechange"]) {
      const data = { session: { token: name }, user: { _id: "signed" } };
      await server.post("/v1/publish", { user: "signed", event: `user:${name}`, data }, apiKey);
      await until(`user:${name} came`, () => calls.length);
      assert.deepEqual(calls.splice(0), [[`user:${name}`, { token: name }, { _id: "signed" }]]);
    }
  });

  it("are plain events if a client says them", async () => {
    const [one, two] = await Promise.all([connected(server), connected(server)]);
    one.realtime.broadcast("user:signout", { session: 1 });
    assert.deepEqual(await two.next("user:signout"), { channel: null, message: { session: 1 } });
  });
});
