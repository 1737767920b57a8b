// Clients and programs of Mesa as they come from npm, and the nodes that serve them.
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";

import { start, startRedis, tokenSecret, until, within } from "../server.mjs";

const require = createRequire(import.meta.url);
export const { Client, Dispatcher, DispatchEvent, Message, Portal } = require("@cryb/mesa");
export const WebSocket = require("ws");
export const Redis = require("ioredis");
// It takes the browser's WebSocket when it is loaded.
globalThis.WebSocket ??= WebSocket;
export const BrowserClient = require("mesa-js-client");

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A client token (HS256) of `user`. */
export function token(user, claims = {}) {
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const body = `${base64({ alg: "HS256", typ: "JWT" })}.${base64({ sub: user, exp, ...claims })}`;
  return `${body}.${createHmac("sha256", tokenSecret).update(body).digest("base64url")}`;
}

/** Starts one Redis and `count` nodes that share it, with the table of Mesa's settings. They end with the test. */
export async function startNodes(t, { count = 1, mesa = "", flags = [], more = "" } = {}) {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const nodes = await Promise.all(
    Array.from({ length: count }, () => startNode(t, { mesa, more, flags: ["--redis", redis.url, ...flags] })),
  );
  return { redis, nodes };
}

/** Starts a node without Redis, or with what `flags` say. */
export async function startNode(t, { mesa = "", flags = [], more = "", auth = "optional" } = {}) {
  const node = await start({
    flags: ["--token-secret", tokenSecret, "--client-auth", auth, "--channel-history", "room-*=100", ...flags],
    config: `[apps.default.protocols.mesa]\n${mesa}\n${more}`,
  });
  t.after(() => node.stop());
  return node;
}

/** A client of Mesa that is connected and has had its hello. `messages` are those that it has emitted. */
export async function connect(t, node, path = "/mesa") {
  const client = new Client(`ws://${node.address}${path}`, { autoConnect: false });
  // It has no other way to be told apart from one that was closed by the server.
  client.on("error", () => {});
  const messages = [];
  const frames = [];
  client.on("message", (message) => messages.push(message));
  const closed = new Promise((resolve) =>
    client.on("disconnected", (code, reason, more) => resolve({ code, reason: `${reason}`, ...more })),
  );
  const connected = client.connect();
  client.ws.on("message", (data) => frames.push(JSON.parse(data)));
  t.after(() => {
    clearInterval(client.reconnectionInterval);
    client.reconnectionIntervalTime = undefined;
    client.ws?.terminate();
  });
  await within("the connection", connected);
  await until("the hello", () => frames.some(({ op }) => op === 10));
  let read = 0;
  return {
    client,
    messages,
    frames,
    closed,
    /** The next message that it emits. */
    async next(what = "a message") {
      return until(what, () => messages[read]).then((message) => (read += 1, message));
    },
    /** All that are there, once `last` has come. */
    async upTo(last) {
      await until(`the message ${last}`, () => messages.slice(read).some(({ type }) => type === last));
      const end = messages.findIndex(({ type }, at) => at >= read && type === last);
      const all = messages.slice(read, end);
      read = end + 1;
      return all;
    },
    async authenticate(user, claims, config) {
      return within(`${user} to be authenticated`, client.authenticate({ token: token(user, claims) }, config));
    },
    async leave() {
      client.disconnect();
      await closed;
      clearInterval(client.reconnectionInterval);
    },
  };
}

/** A connected client that has authenticated as `user`. */
export async function user(t, node, id, config) {
  const connected = await connect(t, node);
  await connected.authenticate(id, {}, config);
  return connected;
}

/** A dispatcher of Mesa. */
export function dispatcher(t, redis, config) {
  const dispatcher = new Dispatcher(redis.url, config);
  t.after(() => [dispatcher.redis, dispatcher.publisher].forEach((connection) => connection.disconnect()));
  return dispatcher;
}

/** A connection to Redis, to look at what is there. */
export function lookAt(t, redis) {
  const connection = new Redis(redis.url);
  t.after(() => connection.disconnect());
  return connection;
}

/** What a message says. */
export const said = ({ data, type, sequence }) => ({ data, type, sequence });
