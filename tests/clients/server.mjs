// The server itself, on a free port of loopback, for tests with the clients of other systems. FANFARE_BIN names its program.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const apiKey = "api-key-of-the-tests-with-other-clients";
export const tokenSecret = "token-secret-of-the-tests-with-other-clients";

const candidates = ["release", "debug"].map((profile) =>
  fileURLToPath(new URL(`../../target/${profile}/fanfare`, import.meta.url)),
);
export const program = process.env.FANFARE_BIN ?? candidates.find(existsSync);

/**
 * Starts a server with `flags`, and with `config` (TOML) as its file.
 * Without keys among them it is as in development: everyone may do everything.
 */
export async function start({ flags = [], config } = {}) {
  if (!program) throw new Error("build the server, or name its program in FANFARE_BIN");
  const folder = mkdtempSync(join(tmpdir(), "fanfare-clients-"));
  const all = ["serve", "--listen", "127.0.0.1:0", "--log", "info", "--drain-delay", "0s", ...flags];
  if (config !== undefined) {
    const file = join(folder, "fanfare.toml");
    writeFileSync(file, config);
    all.push("--config", file);
  }
  // The server refuses variables of its prefix that it does not know.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("FANFARE_")));
  const child = spawn(program, all, { env, stdio: ["ignore", "pipe", "pipe"] });

  let log = "";
  const address = await new Promise((resolve, reject) => {
    const read = (chunk) => {
      log += chunk;
      const found = /serving address=(127\.0\.0\.1:\d+)/.exec(log);
      if (found) resolve(found[1]);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
    child.once("error", reject);
  });

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
    log: () => log,
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

/** The first port that is tried, and how many. All are below those that the system gives to outgoing connections. */
const PORTS = [11_000, 20_000];

/** A port on which nobody listens, though somebody else may be about to. */
async function freePort() {
  for (;;) {
    const port = PORTS[0] + Math.floor(Math.random() * PORTS[1]);
    const probe = createServer();
    const isFree = await new Promise((resolve) => {
      probe.once("error", () => resolve(false));
      probe.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!isFree) continue;
    probe.close();
    await once(probe, "close");
    return port;
  }
}

/** Starts a Redis server that keeps nothing, on a free port. If something else takes that meanwhile, it tries another. */
export async function startRedis() {
  for (let tries = 5; ; tries -= 1) {
    try {
      return await startRedisOn(await freePort());
    } catch (error) {
      if (tries === 1) throw error;
    }
  }
}

async function startRedisOn(port) {
  const flags = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", tmpdir()];
  const program = process.env.REDIS_SERVER || "redis-server";
  const child = spawn(program, flags, { stdio: ["ignore", "pipe", "ignore"] });
  const ended = once(child, "exit");
  await new Promise((resolve, reject) => {
    child.stdout.on("data", (chunk) => /Ready to accept/.test(chunk) && resolve());
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${program} ended with ${code}`)));
  });
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    async stop() {
      child.kill("SIGKILL");
      await ended;
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
