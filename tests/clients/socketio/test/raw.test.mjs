// Plain HTTP and plain frames: what no good client sends, and what breaks off.
import assert from "node:assert/strict";
import { request } from "node:http";
import { connect as connectTcp } from "node:net";
import { before, test } from "node:test";

import { WebSocket } from "ws";

import { ask, connect, newest, serve, startRedis, until, ways, within } from "./support.mjs";

let server;
before(async () => {
  server = await serve();
});

const path = "/socket.io/";
const poll = (query, options = {}, to = server) => fetch(`${to.url}${path}?EIO=4&transport=polling&${query}`, options);
const post = (sid, body, to = server) => poll(`sid=${sid}`, { method: "POST", body }, to);

const begun = [];

/** The sid of a polling session that has just begun. */
function sidOf(text) {
  assert.equal(text[0], "0");
  const { sid } = JSON.parse(text.slice(1));
  begun.push(sid);
  return sid;
}

/** Opens a polling session, and returns its sid. */
const begin = async (to = server) => sidOf(await (await poll("", {}, to)).text());

/** A polling session in the namespace /. */
async function enter() {
  const sid = await begin();
  assert.equal(await (await post(sid, "40")).text(), "ok");
  assert.match(await (await poll(`sid=${sid}`)).text(), /^40\{"sid":"[a-z0-9]{26}","pid":/);
  return sid;
}

async function refused(response, code, message) {
  assert.equal(response.status, 400);
  assert.deepEqual(await response.json(), { code, message });
}

const gone = (sid) => until(`${sid} is gone`, async () => (await post(sid, "3")).status === 400);

test("a polling client is told what Engine.IO tells it", async () => {
  const response = await poll("");
  assert.equal(response.headers.get("content-type"), "text/plain; charset=UTF-8");
  assert.equal(response.headers.get("cache-control"), "no-store");
  const open = JSON.parse((await response.text()).slice(1));
  assert.deepEqual(Object.keys(open), ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]);
  assert.deepEqual(open.upgrades, ["websocket"]);
  assert.equal(open.pingInterval, 25_000);
  assert.equal(open.maxPayload, 65_536);
});

test("requests that fit nothing are refused in Engine.IO's form", async () => {
  await refused(await poll("sid=nobody"), 1, "Session ID unknown");
  await refused(await post("nobody", "3"), 1, "Session ID unknown");
  await refused(await fetch(`${server.url}${path}?EIO=4`), 0, "Transport unknown");
  await refused(await fetch(`${server.url}${path}?EIO=4&transport=carrier`), 0, "Transport unknown");
  await refused(await fetch(`${server.url}${path}?EIO=3&transport=polling`), 5, "Unsupported protocol version");
  await refused(await poll("", { method: "POST", body: "40" }), 2, "Bad handshake method");
  const sid = await begin();
  await refused(await poll(`sid=${sid}`, { method: "DELETE" }), 3, "Bad request");
});

test("two polls at the same time end the client", async () => {
  const sid = await enter();
  const first = poll(`sid=${sid}`);
  // The first is under way once the second is refused.
  await until("a second poll is refused", async () => {
    const second = await Promise.race([poll(`sid=${sid}`), first]);
    return second.status === 400 || (await second.text()) === "1";
  });
  await first;
  await gone(sid);
});

test("malformed packets of every kind end at most their own connection", async () => {
  const witness = await connect(ways.find(({ io }) => io === newest), server);
  const bad = [
    "", "x", "0{}", "9", "\u001e", "4", "49", "42", "42{}", "42[", "42[1]", "42[]", "43{}", "44{}", "45", "450-[]", "451-",
    '451-["a"]\u001e42["a"]', '451-["a"]\u001ebAAAA', '451-["a",{"_placeholder":true,"num":7}]\u001ebAAAA', "bAAAA", "b!",
    '4511-["a"]', `42${"[".repeat(50_000)}`, "40[]", "2\u001ex",
  ];
  for (const body of bad) {
    const sid = await enter();
    await post(sid, body);
    const rest = await poll(`sid=${sid}`);
    const said = await rest.text();
    assert.ok(rest.status === 400 || said === "1" || said.startsWith("42[\"fanfare:error") || said.startsWith("41"), `${JSON.stringify(body)}: ${rest.status} ${said}`);
    await poll(`sid=${sid}`);
    await gone(sid);
  }
  assert.deepEqual(await ask(witness, "join", "still"), {});
  witness.close();
});

test("what is too long is refused, and the client stays", async () => {
  const sid = await enter();
  assert.equal((await post(sid, "4".repeat(65_537))).status, 413);
  assert.equal(await (await post(sid, '421["join","a"]')).text(), "ok");
  assert.equal(await (await poll(`sid=${sid}`)).text(), "431[{}]");
});

test("a body that is not UTF-8 ends the client", async () => {
  const sid = await enter();
  assert.equal((await post(sid, Buffer.from([0x34, 0xff]))).status, 400);
  await gone(sid);
});

test("a post that breaks off ends the client", async () => {
  const sid = await enter();
  const socket = connectTcp(server.port, "127.0.0.1");
  const head = `POST ${path}?EIO=4&transport=polling&sid=${sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n42["a`;
  await new Promise((resolve) => socket.write(head, resolve));
  socket.end();
  await gone(sid);
});

test("a poll that breaks off loses the client no later than its heartbeat", async () => {
  const quick = await serve("", ["--limit", "heartbeat=2s", "--limit", "heartbeat_wait=1s"]);
  const sid = await begin(quick);
  await post(sid, "40", quick);
  const request_ = request(`${quick.url}${path}?EIO=4&transport=polling&sid=${sid}`);
  request_.on("error", () => {});
  request_.end();
  await within("the poll is out", new Promise((resolve) => request_.once("socket", (socket) => socket.once("connect", resolve))));
  request_.destroy();
  await until("its connection is gone", async () => (await quick.get("/v1/connections")).connections.length === 0);
});

test("an upgrade that breaks off leaves the client polling", async () => {
  const sid = await enter();
  for (const say of [[], ["2probe"], ["2probe", "4nonsense"], ["5"], ["x"]]) {
    const socket = new WebSocket(`ws://${server.address}${path}?EIO=4&transport=websocket&sid=${sid}`);
    const open = await within("an answer", new Promise((resolve) => {
      socket.once("open", () => resolve(true));
      socket.once("error", () => resolve(false));
    }));
    if (open) {
      for (const text of say) socket.send(text);
      if (say[0] === "2probe") await within("the probe's answer", new Promise((resolve) => socket.once("message", resolve)));
      socket.terminate();
    }
    await until("it polls on", async () => {
      assert.equal(await (await post(sid, '427["leave","a"]')).text(), "ok");
      for (;;) {
        const text = await (await poll(`sid=${sid}`)).text();
        if (text === "6") continue;
        assert.equal(text, "437[{}]");
        return true;
      }
    });
  }
});

test("a WebSocket that upgrades nobody's session is refused", async () => {
  const socket = new WebSocket(`ws://${server.address}${path}?EIO=4&transport=websocket&sid=nobody`);
  const error = await within("an error", new Promise((resolve) => socket.once("error", resolve)));
  assert.match(error.message, /400/);
});

test("nothing is lost or changes its place while clients upgrade under load", async () => {
  const room = "upgrading";
  let sent = 0;
  const send = () => server.post("/v1/send", { channel: room, event: "n", data: sent++ });
  const clients = [];
  const joined = [];
  for (let n = 0; n < 10; n++) {
    const client = newest(server.url, { forceNew: true, auth: { channels: [room] } });
    client.on("n", (number) => client.got.push(number));
    client.got = [];
    clients.push(client);
    joined.push(new Promise((resolve) => client.once("fanfare:joined", resolve)));
    for (let m = 0; m < 4; m++) await send();
  }
  await within("all to join", Promise.all(joined));
  const upgraded = () => clients.every((client) => client.io.engine.transport.name === "websocket");
  await until("all have upgraded", async () => {
    await send();
    return upgraded();
  });
  for (const client of clients) {
    await until("everything is there", () => client.got.at(-1) === sent - 1);
    const [first] = client.got;
    assert.deepEqual(client.got, Array.from({ length: sent - first }, (_, n) => first + n));
    client.close();
  }
});

test("a flood of polls reaches nobody else", async () => {
  const witness = await connect(ways[0], server);
  const flood = Array.from({ length: 300 }, async (_, n) => {
    const response = await poll(n % 3 ? `sid=none-${n}` : "");
    const text = await response.text();
    if (response.status === 200) sidOf(text);
    return response.status;
  });
  assert.deepEqual(await ask(witness, "join", "calm"), {});
  const statuses = new Set(await Promise.all(flood));
  assert.ok([...statuses].every((status) => [200, 400, 503].includes(status)), [...statuses].join());
  assert.deepEqual(await ask(witness, "leave", "calm"), {});
  witness.close();
});

test("polls that wait make room for other requests", async () => {
  const crowded = await serve("", ["--limit", "http_sockets=64"]);
  const sids = [];
  for (let n = 0; n < 80; n++) sids.push(await begin(crowded));
  const polls = sids.map((sid) => poll(`sid=${sid}`, {}, crowded).then((response) => response.text(), () => "ended"));
  // More than fit: some of the polls that wait are ended for the others, and for these. Each has a connection of its own: one
  // that rests may be ended in the moment in which a request is sent on it.
  const status = () =>
    new Promise((resolve, reject) => {
      const asked = request(`${crowded.url}/v1/channels`, { agent: false }, (answer) => {
        answer.resume().once("end", () => resolve(answer.statusCode));
      });
      asked.once("error", reject).end();
    });
  for (let n = 0; n < 10; n++) {
    const answers = await Promise.all(Array.from({ length: 8 }, status));
    assert.deepEqual(answers, Array(8).fill(200));
  }
  await crowded.stop();
  assert.ok((await Promise.all(polls)).includes("ended"));
});

test("pages of allowed origins may poll, and others may not", async () => {
  const origin = "http://localhost:3000";
  const allowed = await poll("", { headers: { origin } });
  assert.equal(allowed.status, 200);
  assert.equal(allowed.headers.get("access-control-allow-origin"), origin);
  const preflight = await poll("", {
    method: "OPTIONS",
    headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type" },
  });
  assert.equal(preflight.status, 204);
  assert.match(preflight.headers.get("access-control-allow-headers"), /content-type/);

  const strict = await serve("", ["--api-key", "key-of-the-strict-server", "--origin", "https://app.example"]);
  const refusedPage = await poll("", { headers: { origin: "https://evil.example" } }, strict);
  assert.equal(refusedPage.status, 403);
  assert.equal(refusedPage.headers.get("access-control-allow-origin"), null);
  const message = 'the Origin "https://evil.example" is not in origins of app "default"';
  assert.deepEqual(await refusedPage.json(), { code: 4, message });
  const page = await poll("", { headers: { origin: "https://app.example" } }, strict);
  assert.equal(page.headers.get("access-control-allow-origin"), "https://app.example");
});

test("a poll that comes to another node is told to begin again", async () => {
  const redis = await startRedis();
  const [one, two] = await Promise.all([1, 2].map(() => serve("", ["--redis", redis.url])));
  const sid = await begin(one);
  await refused(await poll(`sid=${sid}`, {}, two), 1, "Session ID unknown");

  // And clients of both nodes are in one room.
  const [ann, bob] = await Promise.all([connect(ways[3], one), connect(ways[4], two)]);
  await ask(ann, "join", "room");
  await ask(bob, "join", "room");
  await until("the nodes know each other", async () => {
    await ask(ann, "send", { channel: "room", event: "e", data: 1 });
    return bob.inbox.length > 0;
  });
  ann.close();
  bob.close();
  await Promise.all([one.stop(), two.stop()]);
  await redis.stop();
});

test("nothing is left of clients that have said goodbye", async () => {
  for (const sid of begun) await post(sid, "1");
  await until("no pair of sockets is left", () => server.pairs() === 0);
});
