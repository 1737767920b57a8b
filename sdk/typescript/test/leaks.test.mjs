// 20 clients in one process come, join, send, lose their connections and go, again and again.
// FANFARE_CHURN_SECONDS says for how long, 10 by default. Run Node with --expose-gc to measure the heap.
import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { createClient } from "../dist/index.js";
import { serve, sleep, WebSocket } from "./support.mjs";

const seconds = Number(process.env.FANFARE_CHURN_SECONDS ?? 10);
setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc");

test(`20 clients churn for ${seconds} s and leave nothing behind`, { timeout: (seconds + 60) * 1000 }, async (t) => {
  const server = await serve(t);
  server.onMessage = (c, m) => {
    c.messages.length = 0;
    if (m.op !== "join") return false;
    c.ack(m, { epoch: "e", offset: 0, recovered: true, members: [{ id: c.id, user: null }], count: 1 });
    c.send({ event: "n", channel: m.channel, data: "x".repeat(1000), id: `${rounds % 100}` });
    return true;
  };
  let rounds = 0;
  const clients = Array.from({ length: 20 }, () =>
    createClient(server.url, { WebSocket, token: () => "ann", timeout: 1000 }),
  );
  // Signals that live as long as the program.
  const signals = new Map(clients.map((client) => [client, new AbortController().signal]));

  async function round(client) {
    const signal = signals.get(client);
    await client.connect();
    const room = client.join("room", { members: true });
    const stop = [client.on("n", () => {}), room.on("n", () => {}), client.onState(() => {}), room.onMembers(() => {})];
    client.once("never", () => {}, { signal });
    const events = client.events("n", { signal });
    client.with({ signal }).send("room", "a", 1);
    await room.joined;
    server.connections.at(-1)?.reset();
    await Promise.race([client.send("room", "b", 2), sleep(20)]).catch(() => {});
    await events.return();
    for (const each of stop) each();
    client.off("never");
    await room.leave().catch(() => {});
    if (rounds++ % 3 === 0) client.close();
    server.connections.splice(0, server.connections.length - 40);
  }
  const churn = async (until) => {
    await Promise.all(
      clients.map(async (client) => {
        while (performance.now() < until) await round(client).catch(() => {});
      }),
    );
    for (const client of clients) client.close();
    server.connections.length = 0;
    // Sockets end a moment later, and what watches over them is freed by the collection after that of the sockets.
    for (let n = 0; n < 5; n++) {
      await sleep(100);
      gc();
    }
    return process.memoryUsage().heapUsed;
  };

  // What grows without end grows in every part.
  const heaps = [];
  for (let part = 0; part < 5; part++) heaps.push(await churn(performance.now() + seconds * 200));
  const grown = heaps.slice(2).map((heap, n) => heap - heaps[n + 1]);
  t.diagnostic(`${rounds} rounds; bytes of the heap after each fifth: ${heaps}`);
  // One closure that a round leaves behind takes more than this.
  const least = (rounds / heaps.length) * 200;
  assert.ok(Math.min(...grown) < Math.max(least, 50_000), `the heap grew by ${grown} bytes`);
  for (const client of clients) assert.deepEqual(client.listeners(), []);
});
