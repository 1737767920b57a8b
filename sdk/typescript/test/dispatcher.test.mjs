// The dispatcher, against a Redis that the test starts and a real server beside it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Dispatcher, Message } from "../dist/dispatcher.js";
import { createClient } from "../dist/index.js";
import { signToken } from "../dist/server.js";
import { secret, startRedis, startServer } from "./real-server.mjs";
import { until, WebSocket } from "./support.mjs";

const published = [];
const fake = { publish: async (channel, text) => void published.push([channel, JSON.parse(text)]) };

test("a dispatch is one message on the channel of namespace and app", async () => {
  const dispatcher = new Dispatcher(fake, { namespace: "api", app: "shop" });
  await dispatcher.dispatch(new Message(0, { status: "online" }, "STATUS_UPDATE"), ["0", "1"]);
  await dispatcher.dispatch(new Message(0, new Uint8Array([0, 255]), "RAW"), ["*"], ["2"]);
  assert.deepEqual(published, [
    [
      "fanfare:api:shop:dispatch",
      { call: "dispatch", recipients: ["0", "1"], event: "STATUS_UPDATE", data: { status: "online" } },
    ],
    [
      "fanfare:api:shop:dispatch",
      { call: "dispatch", recipients: ["*"], except: ["2"], event: "RAW", data_base64: "AP8=" },
    ],
  ]);
});

test("a Redis that is away is an error of the call", async () => {
  const dispatcher = new Dispatcher({ url: "redis://127.0.0.1:1", socket: { reconnectStrategy: false } });
  await assert.rejects(dispatcher.dispatch(new Message(0, 1, "A"), ["*"]), { code: "redis" });
  await dispatcher.close();
});

test("Dispatcher: messages reach clients through Redis", { timeout: 30_000 }, async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const server = await startServer(["--redis", redis.url]);
  t.after(() => server.stop());

  const clients = {};
  const heard = [];
  for (const user of ["0", "1", "2"]) {
    clients[user] = createClient(server.url, { token: () => signToken(secret, user), WebSocket });
    clients[user].onAny(({ event, data }) => heard.push(`${user} ${event} ${JSON.stringify(data)}`));
    t.after(() => clients[user].close());
    await clients[user].connect();
  }

  await using_(new Dispatcher(redis.url), async (dispatcher) => {
    await dispatcher.dispatch(new Message(0, { status: "online" }, "STATUS_UPDATE"), ["0", "1"]);
    await dispatcher.dispatch(new Message(0, 1, "NEW_MESSAGE"), ["0", "1"], ["0"]);
    await dispatcher.dispatch(new Message(0, 2, "GLOBAL_ALERT"), ["*"]);
    await until(() => heard.length >= 6);
  });
  assert.deepEqual(heard.sort(), [
    "0 GLOBAL_ALERT 2",
    '0 STATUS_UPDATE {"status":"online"}',
    "1 GLOBAL_ALERT 2",
    "1 NEW_MESSAGE 1",
    '1 STATUS_UPDATE {"status":"online"}',
    "2 GLOBAL_ALERT 2",
  ]);
});

// `await using` is younger than Node 20.
async function using_(dispatcher, run) {
  try {
    await run(dispatcher);
  } finally {
    await dispatcher.close();
  }
}
