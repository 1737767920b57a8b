// Clients of two versions, over each of the transports.
import { createRequire } from "node:module";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { after } from "node:test";

import { WebSocket } from "ws";

import { native as nativeOver, start as startServer, until, within } from "../../server.mjs";

export { startRedis, until, within } from "../../server.mjs";

const require = createRequire(import.meta.url);

export const newest = require("socket.io-client").io;
export const oldest = require("socket.io-client-4.0").io;

/** Each version over each way to connect. */
export const ways = [
  ["4.0", oldest],
  ["4.8", newest],
].flatMap(([version, io]) =>
  [["websocket"], ["polling"], ["polling", "websocket"]].map((transports) => ({
    name: `socket.io-client ${version} over ${transports.length === 2 ? "both" : transports[0]}`,
    io,
    transports,
  })),
);

const ends = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});

/** A server that ends with the test file; two shards, so that requests come in on any thread. */
export async function serve(table = "", flags = []) {
  const config = `[apps.default.protocols.socketio]\n${table}\n`;
  const server = await startServer({ config, flags: ["--shards", "2", "--channel-history", "kept*=100", ...flags] });
  ends.push(() => server.stop());
  const idle = unixSockets(server.child.pid);
  server.pairs = () => (unixSockets(server.child.pid) - idle) / 2;
  return server;
}

export async function native(server, query) {
  const client = await nativeOver(WebSocket, server, query);
  ends.push(() => client.close());
  return client;
}

/** A client that keeps what it is sent, and is there once it is connected (and upgraded, if it is to be). */
export async function connect({ io, transports }, server, options = {}, namespace = "") {
  const socket = io(`${server.url}${namespace}`, { transports, forceNew: true, ...options });
  ends.push(() => socket.close());
  keep(socket);
  await within("a connect", new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  }));
  await settled(socket, transports);
  return socket;
}

/** Waits until a client has gone over to the last of its transports. */
export const settled = (socket, transports) =>
  until("the client is upgraded", () => socket.io.engine?.transport?.name === transports.at(-1));

/** Gives a socket an inbox, and `next(name)` for the arguments of the next event of that name. */
export function keep(socket) {
  const waiting = [];
  socket.inbox = [];
  const look = () => {
    for (const waiter of [...waiting]) {
      const at = socket.inbox.findIndex(([name]) => name === waiter.name);
      if (at < 0) continue;
      waiting.splice(waiting.indexOf(waiter), 1);
      waiter.resolve(socket.inbox.splice(at, 1)[0].slice(1));
    }
  };
  socket.onAny((...event) => {
    socket.inbox.push(event);
    look();
  });
  socket.next = (name) =>
    within(`the event ${name}`, new Promise((resolve) => (waiting.push({ name, resolve }), look())));
}

/** Emits with an ack, as every version can. */
export const ask = (socket, ...event) =>
  within(`the ack of ${event[0]}`, new Promise((resolve) => socket.emit(...event, resolve)));

/** How many Unix sockets a process has open: each client that polls has a pair. Its threads have copies of one more. */
function unixSockets(pid) {
  const lines = readFileSync(`/proc/${pid}/net/unix`, "utf8").split("\n").slice(1);
  const inodes = new Set(lines.map((line) => line.trim().split(/\s+/)[6]));
  const open = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
    } catch {
      return undefined;
    }
  });
  return new Set(open.filter((inode) => inodes.has(inode))).size;
}
