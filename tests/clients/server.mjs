// The server itself, on a free port of loopback, for tests with the clients of other systems. FANFARE_BIN names its program.
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { launch } from "../../sdk/typescript/test/real-server.mjs";
export { program, startRedis } from "../../sdk/typescript/test/real-server.mjs";

export const apiKey = "api-key-of-the-tests-with-other-clients";
export const tokenSecret = "token-secret-of-the-tests-with-other-clients";

/**
 * Starts a server with `flags`, and with `config` (TOML) as its file.
 * Without keys among them it is as in development: everyone may do everything.
 */
export async function start({ flags = [], config } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "fanfare-clients-"));
  const all = ["--drain-delay", "0s", ...flags];
  if (config !== undefined) {
    const file = join(folder, "fanfare.toml");
    writeFileSync(file, config);
    all.push("--config", file);
  }
  const { child, address, log } = await launch(all);

  const end = async (signal) => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill(signal);
      await ended;
    }
    rmSync(folder, { recursive: true, force: true });
  };
  // Before a node has reached Redis, its clients may miss what happens on other nodes.
  await until("the server is ready", async () => (await fetch(`http://${address}/readyz`)).ok);
  return {
    url: `http://${address}`,
    address,
    port: Number(address.split(":")[1]),
    child,
    log,
    /** Ends the server at once. */
    stop: () => end("SIGKILL"),
    /** Has the server drain, and waits until it has ended. */
    drain: () => end("SIGTERM"),
    /** Calls the HTTP API: `post("/v1/send", { … })`. With a key among the flags, name it. */
    async post(path, body, key) {
      const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
      const response = await fetch(`http://${address}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
      const text = await response.text();
      if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
      return text ? JSON.parse(text) : undefined;
    },
    async get(path, key) {
      const headers = key ? { authorization: `Bearer ${key}` } : {};
      const response = await fetch(`http://${address}${path}`, { headers });
      const text = await response.text();
      if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
      return JSON.parse(text);
    },
  };
}

/** Waits for `what` for as long as it takes, up to half a minute, and says what it was that did not come. */
export async function within(what, promise, ms = 30_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms / 1000} s for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until `holds` returns something true, and returns that. */
export async function until(what, holds, ms = 30_000) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await holds();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${ms / 1000} s until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/**
 * A client of the native protocol, over `WebSocket` (that of `ws`, or the runtime's own).
 * `call` sends an op and waits for its ack; `next` is the next message for which `matches` is true.
 */
export async function native(WebSocket, server, query = "") {
  const socket = new WebSocket(`ws://${server.address}/v1/connect${query && `?${query}`}`, "fanfare.v1");
  socket.binaryType = "arraybuffer";
  const inbox = [];
  const waiting = [];
  const look = () => {
    for (const waiter of [...waiting]) {
      const at = inbox.findIndex(waiter.matches);
      if (at < 0) continue;
      waiting.splice(waiting.indexOf(waiter), 1);
      waiter.resolve(inbox.splice(at, 1)[0]);
    }
  };
  socket.addEventListener("message", ({ data }) => {
    inbox.push(typeof data === "string" ? JSON.parse(data) : binary(Buffer.from(data)));
    look();
  });
  const closed = new Promise((resolve) => socket.addEventListener("close", resolve));

  const next = (matches = () => true, what = "a message to a native client") =>
    within(what, new Promise((resolve) => (waiting.push({ matches, resolve }), look())));
  let ids = 0;
  const client = {
    socket,
    inbox,
    closed,
    next,
    event: (name) => next(({ event }) => event === name, `the event ${name}`),
    async call(op, fields = {}, bytes) {
      const id = ++ids;
      const message = JSON.stringify({ op, id, ...fields });
      if (bytes === undefined) {
        socket.send(message);
      } else {
        const head = Buffer.from(message);
        socket.send(Buffer.concat([Buffer.from([1, head.length >> 8, head.length & 0xff]), head, bytes]));
      }
      const reply = await next((message) => message.id === id && "op" in message, `the answer to ${op}`);
      if (reply.op === "error") throw Object.assign(new Error(reply.message), { code: reply.code });
      return reply;
    },
    async close() {
      socket.close();
      await closed;
    },
  };
  client.welcome = await next(({ op }) => op === "welcome", "a native client's welcome");
  return client;
}

/** A binary frame: its header, with the bytes as `data`. */
function binary(bytes) {
  const length = bytes.readUInt16BE(1);
  return { ...JSON.parse(bytes.subarray(3, 3 + length)), data: bytes.subarray(3 + length) };
}
