// The frames of Agnost's client and of its server library, against the server, in one room with a native client.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { apiKey, within } from "../server.mjs";
import {
  closeAll,
  connected,
  getMembers,
  nativeClient,
  serve,
  serverSocket,
  settled,
  socket,
  tokenOf,
} from "./support.mjs";

let server;
before(async () => {
  server = await serve();
});
afterEach(closeAll);
after(() => server.stop());

async function member(channel, options) {
  const client = await connected(socket(server, options));
  client.emit("join", { channel });
  await client.next("channel:join");
  return client;
}

describe("the client", () => {
  it("sends, broadcasts and hears, with an echo unless a frame says otherwise", async () => {
    const [one, two] = [await member("chat"), await member("chat")];
    const plain = await nativeClient(server);
    await plain.call("join", { channel: "chat" });
    one.emit("message", { channel: "chat", eventName: "hi", message: { a: 1 } });
    for (const client of [one, two]) assert.deepEqual(await client.next("hi"), { channel: "chat", message: { a: 1 } });
    assert.deepEqual((await plain.event("hi")).data, { a: 1 });
    one.emit("message", { eventName: "all", message: [1], echo: false });
    assert.deepEqual(await two.next("all"), { channel: null, message: [1] });
    await settled(server, one);
    assert.equal(one.heard.some(([name]) => name === "all"), false);
  });

  it("is told of members by join, update and leave, each with its own echo", async () => {
    const one = await member("lobby");
    const two = await connected(socket(server, { echoMessages: false }));
    two.emit("update", { data: { name: "Leia" }, echo: false });
    two.emit("join", { channel: "lobby", echo: true });
    const joined = { channel: "lobby", message: { id: two.id, data: { name: "Leia" } } };
    assert.deepEqual(await one.next("channel:join"), joined);
    assert.deepEqual(await two.next("channel:join"), joined);
    two.emit("update", { data: null, echo: true });
    assert.deepEqual(await one.next("channel:update"), { channel: "lobby", message: { id: two.id } });
    assert.deepEqual(await two.next("channel:update"), { channel: "lobby", message: { id: two.id } });
    two.emit("leave", { channel: "lobby" });
    assert.deepEqual((await one.next("channel:leave")).message, { id: two.id });
    await settled(server, two);
    assert.deepEqual(two.heard, []);
  });

  it("lists members over HTTP", async () => {
    const one = await member("a room");
    one.emit("update", { data: "x" });
    await one.next("channel:update");
    assert.deepEqual(await getMembers(server, "a room"), { status: 200, body: [{ id: one.id, data: "x" }] });
    assert.deepEqual(await getMembers(server, "empty"), { status: 200, body: [] });
    const refused = async (options, channel = "a room") => {
      const { status, body } = await getMembers(server, channel, options);
      assert.equal(body.errors[0].origin, "client_error");
      return [status, body.errors[0].code];
    };
    assert.deepEqual(await refused({ apiKey: "pk_nobody" }), [401, "invalid_api_key"]);
    assert.deepEqual(await refused({ apiKey: "" }), [401, "missing_api_key"]);
    assert.deepEqual(await refused({ apiKey: "pk_members" }), [401, "missing_session_token"]);
    assert.deepEqual(await refused({ apiKey: "pk_members", session: "x" }), [401, "invalid_session_token"]);
    assert.deepEqual(await refused({}, ""), [400, "invalid_request_body"]);
    const session = await tokenOf(server, "ann");
    assert.equal((await getMembers(server, "a room", { apiKey: "pk_members", session })).status, 200);
  });

  it("a page may ask for members, if its origin may connect", async () => {
    const url = `${server.url}/env-1/agnost/realtime/get-members`;
    const origin = "https://app.example.com";
    const preflight = await fetch(url, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,session,x-client",
      },
    });
    assert.equal(preflight.status, 204);
    assert.equal(preflight.headers.get("access-control-allow-origin"), origin);
    assert.equal(preflight.headers.get("access-control-allow-credentials"), "true");
    const ask = (session) =>
      fetch(url, {
        method: "POST",
        headers: { origin, "content-type": "application/json", authorization: "pk_everyone", ...session },
        body: '{"channel":"x"}',
      });
    // Without `origins` in the configuration a page needs a session, as it does to connect.
    const refused = await ask({});
    assert.deepEqual([refused.status, (await refused.json()).errors[0].code], [403, "domain_not_authorized"]);
    assert.equal((await ask({ session: await tokenOf(server, "ann") })).status, 200);
  });

  it("is refused by connect_error", async () => {
    const refused = (options) => {
      const made = socket(server, options);
      return within("connect_error", new Promise((resolve) => made.on("connect_error", resolve)));
    };
    for (const [options, code] of [
      [{ apiKey: "pk_nobody" }, "invalid_api_key"],
      [{ apiKey: "" }, "missing_api_key"],
      [{ apiKey: "pk_members" }, "missing_session_token"],
      [{ apiKey: "pk_members", session: "x.y.z" }, "invalid_session_token"],
    ]) {
      const { data } = await refused(options);
      assert.deepEqual([data.origin, data.code], ["client_error", code]);
      assert.equal(typeof data.message, "string");
    }
  });

  it("hears of its user", async () => {
    const session = await tokenOf(server, "ann");
    const own = await connected(socket(server, { session }));
    const data = { session: { token: "t" }, user: { _id: "ann" } };
    await server.post("/v1/publish", { user: "ann", event: "user:signin", data }, apiKey);
    assert.deepEqual(await own.all("user:signin"), ["user:signin", { token: "t" }, { _id: "ann" }]);
  });
});

describe("the server library", () => {
  it("sends to a channel and to everyone, as nobody in particular", async () => {
    const [inside, outside] = [await member("news"), await connected(socket(server))];
    const plain = await nativeClient(server);
    await plain.call("join", { channel: "news" });
    const library = await connected(serverSocket(server));
    library.emit("send_message", { channelName: "news", eventName: "hi", envId: "env-1", message: { n: 1 } });
    assert.deepEqual(await inside.next("hi"), { channel: "news", message: { n: 1 } });
    const { data, from } = await plain.event("hi");
    assert.deepEqual([data, from], [{ n: 1 }, undefined]);
    library.emit("broadcast_message", { eventName: "all", envId: "env-1", message: "x" });
    for (const client of [inside, outside]) assert.deepEqual(await client.next("all"), { channel: null, message: "x" });
    await settled(server, outside);
    assert.equal(outside.heard.some(([name]) => name === "hi"), false);
  });

  it("sends bytes", async () => {
    const inside = await member("bytes");
    const library = await connected(serverSocket(server));
    library.emit("send_message", { channelName: "bytes", eventName: "b", envId: "e", message: Buffer.from([0, 255]) });
    assert.deepEqual((await inside.next("b")).message, Buffer.from([0, 255]));
  });

  it("lists members by an ack", async () => {
    const inside = await member("the list");
    inside.emit("update", { data: { a: 1 } });
    await inside.next("channel:update");
    const library = await connected(serverSocket(server));
    const list = (channel) => library.timeout(20_000).emitWithAck("get_members", { envId: "env-1", channel });
    assert.deepEqual(await list("the list"), [{ id: inside.id, data: { a: 1 } }]);
    assert.deepEqual(await list("nobody"), []);
  });

  it("tells of a user's session", async () => {
    const session = await tokenOf(server, "ben");
    const own = await connected(socket(server, { session }));
    const library = await connected(serverSocket(server));
    const event = { envId: "e", userId: "ben", eventName: "user:signout", session: { token: "t" }, user: { _id: "ben" } };
    library.emit("user_event", event);
    assert.deepEqual(await own.all("user:signout"), ["user:signout", { token: "t" }, { _id: "ben" }]);
  });

  it("is not held to a client's rate", async () => {
    const inside = await member("many");
    const library = await connected(serverSocket(server));
    for (let n = 0; n < 500; n++) {
      library.emit("send_message", { channelName: "many", eventName: "n", envId: "e", message: n });
    }
    for (let n = 0; n < 500; n++) assert.equal((await inside.next("n")).message, n);
  });

  it("needs a good API key, with the scope for what it does", async () => {
    const made = serverSocket(server, "no-key-of-this-server");
    const error = await within("connect_error", new Promise((resolve) => made.on("connect_error", resolve)));
    assert.equal(error.data.code, "invalid_access_token");
    const reader = await connected(serverSocket(server, `${apiKey}-that-only-inspects`));
    assert.deepEqual(
      await reader.timeout(20_000).emitWithAck("get_members", { envId: "env-1", channel: "nobody" }),
      [],
    );
    reader.emit("send_message", { channelName: "x", eventName: "hi", envId: "env-1", message: 1 });
    assert.equal((await reader.next("error")).code, "forbidden");
  });

  it("its events are not for clients", async () => {
    const client = await connected(socket(server));
    client.emit("send_message", { channelName: "x", eventName: "hi", envId: "env-1", message: 1 });
    const error = await client.next("error");
    assert.equal(error.code, "bad_message");
    assert.match(error.message, /accessToken/);
  });
});

describe("long polling", () => {
  for (const transports of [["polling"], ["polling", "websocket"]]) {
    it(`${transports.join(", then ")}: the same events, bytes and refusals`, async () => {
      const polls = await connected(socket(server, { transports }));
      // The clients of the test before may still be about to leave their channel.
      const channel = `polled-${transports.length}`;
      const other = await member(channel);
      polls.emit("join", { channel });
      assert.equal((await polls.next("channel:join")).message.id, polls.id);
      assert.equal((await other.next("channel:join")).message.id, polls.id);
      other.emit("message", { channel, eventName: "b", message: Buffer.from([0, 255]) });
      assert.deepEqual((await polls.next("b")).message, Buffer.from([0, 255]));
      polls.emit("message", { channel, eventName: "b", message: Buffer.from([7]) });
      await other.next("b");
      assert.deepEqual((await other.next("b")).message, Buffer.from([7]));
      const { id } = polls;
      polls.close();
      assert.equal((await other.next("channel:leave")).message.id, id);
      const refused = socket(server, { transports, apiKey: "pk_nobody" });
      const error = await within("connect_error", new Promise((resolve) => refused.on("connect_error", resolve)));
      assert.equal(error.data.code, "invalid_api_key");
    });
  }
});

describe("what is malformed", () => {
  it("ends its own connection and no other, or is told", async () => {
    const client = await connected(socket(server));
    const bystander = await connected(socket(server));
    client.emit("join", { channel: 5 });
    client.emit("join");
    client.emit("message", { channel: "x" });
    client.emit("dance", {});
    for (const what of [/string/, /one object/, /eventName/, /dance/]) {
      assert.match((await client.next("error")).message, what);
    }
    client.emit("message", { channel: "x".repeat(300), eventName: "e" });
    assert.equal((await client.next("error")).code, "bad_channel");
    const gone = new Promise((resolve) => client.once("disconnect", resolve));
    client.io.engine.write('2["a"');
    assert.equal(await within("disconnect", gone), "io server disconnect");
    assert.equal(bystander.connected, true);
  });
});
