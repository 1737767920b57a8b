// 20 clients of one process come, join, send, lose their connections and go, against a real server behind a bad line.
// Prints the heap after each collection, and at the end by how much it grew: node test/churn.mjs [SECONDS] [EVERY]
// The defaults are an hour and a minute. It ends with 1 if the heap grows by more than 20 kB a minute.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createClient } from "../dist/index.js";
import { signToken } from "../dist/server.js";
import { secret, startServer } from "./real-server.mjs";
import { line, sleep, WebSocket } from "./support.mjs";

const [seconds = 3600, every = 60] = process.argv.slice(2).map(Number);
setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc");

const server = await startServer();
const cut = await line(() => server.port);
const rights = { join: ["*"], send: ["*"], members: ["*"], update: true };
const clients = Array.from({ length: 20 }, (_, n) =>
  createClient(cut.url, { WebSocket, timeout: 5000, token: () => signToken(secret, `user-${n}`, { can: rights }) }),
);
const counts = { rounds: 0, events: 0, reconnects: 0, failures: {} };
for (const client of clients) {
  client.onError((error) => (counts.failures[error.code] = (counts.failures[error.code] ?? 0) + 1));
  client.onState(({ reason }) => reason === "lost" && counts.reconnects++);
}

/** What one client does from time to time. What it adds, it removes. */
async function round(client, signal) {
  await client.connect();
  const rooms = ["room-1", "lobby"].map((name) => client.join(name, { members: true, signal }));
  const heard = () => counts.events++;
  const stops = rooms.flatMap((room) => [room.on("n", heard), room.onMembers(() => {}), room.onState(() => {})]);
  client.once("never", heard, { signal });
  const events = client.events("n", { buffer: 8, overflow: "drop-oldest", signal });
  await Promise.all(rooms.map((room) => room.joined));

  await client.update({ at: Date.now() });
  await rooms[0].send("n", "x".repeat(1000));
  await events.next();
  await sleep(200 + Math.random() * 200);

  await events.return();
  for (const stop of stops) stop();
  for (const room of rooms) await room.leave();
}

async function churn(client) {
  while (performance.now() < end) {
    const controller = new AbortController();
    // A cut ends what is under way, which is the point. The next round begins with what the client made of it.
    await round(client, controller.signal).catch(() => {});
    controller.abort();
    if (counts.rounds++ % 7 === 0) client.close();
  }
}

const began = performance.now();
const end = began + seconds * 1000;
// A connection of more than 5 s counts as a success, after which the client comes back quickly.
const cutting = setInterval(() => cut.reset(), 8000);
const working = Promise.all(clients.map(churn));

// The first part warms up: caches fill, and functions are compiled.
const heaps = [];
while (performance.now() < end) {
  await Promise.race([sleep(every * 1000), working]);
  gc();
  const minute = (performance.now() - began) / 60_000;
  const heap = process.memoryUsage().heapUsed;
  heaps.push([minute, heap]);
  console.log(`${minute.toFixed(1)} min: ${(heap / 1e6).toFixed(2)} MB, ${JSON.stringify(counts)}`);
}
await working;
clearInterval(cutting);

// The line that fits best through what came after the first fifth.
const steady = heaps.slice(Math.ceil(heaps.length / 5));
const mean = (at) => steady.reduce((sum, each) => sum + each[at], 0) / steady.length;
const [x, y] = [mean(0), mean(1)];
const slope =
  steady.reduce((sum, [minute, heap]) => sum + (minute - x) * (heap - y), 0) /
  steady.reduce((sum, [minute]) => sum + (minute - x) ** 2, 0);
console.log(`the heap grew by ${Math.round(slope)} bytes a minute`);

for (const client of clients) client.close();
cut.stop();
await server.stop();
process.exit(slope > 20_000 || counts.rounds < 20 ? 1 : 0);
