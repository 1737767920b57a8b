// Mesa's clients drop at the same time, messages are stored for them, and all come back: what that takes a server.
//
//     node reconnect.js mesa [ROUNDS [USERS]]
//     node reconnect.js path/to/fanfare [ROUNDS [USERS]]
//
// The clients are frames of Mesa over `ws`, and the dispatcher is that of npm `@cryb/mesa`. Prints one line of JSON per round: the
// seconds until all clients have authenticated, and until every user has what was stored, the CPU of the server and of Redis, and
// the commands that Redis had, of scripts too. A Redis server is started for it, and ended.
"use strict";

const { spawn } = require("node:child_process");
const { createHmac } = require("node:crypto");
const { once } = require("node:events");
const { readFileSync } = require("node:fs");
const { createServer } = require("node:net");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { Dispatcher, Message } = require("@cryb/mesa");
const Redis = require("ioredis");
const WebSocket = require("ws");

const CLIENTS_OF_USER = 4;
const MESSAGES = 10;
const NAMESPACE = "load";
const SECRET = "reconnect-secret-0123456789abcdef";

const [kind, rounds = "3", count = "250"] = process.argv.slice(2);
const USERS = Number(count);
const users = Array.from({ length: USERS }, (_, n) => `u${n}`);
const children = [];

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const token = (user) => {
  const body = `${base64({ alg: "HS256", typ: "JWT" })}.${base64({ sub: user, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
};

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  return port;
}

function run(program, args) {
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  children.push(child);
  child.once("error", (error) => (console.error(`${program}: ${error.message}`), end(1)));
  child.once("exit", (code) => (console.error(`${program} ended with ${code}`), end(1)));
  return child.pid;
}

function end(code) {
  for (const child of children) {
    child.removeAllListeners("exit");
    child.kill("SIGKILL");
  }
  process.exit(code);
}

/** Seconds of CPU that a process has used. */
function cpu(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function until(what, holds) {
  const late = Date.now() + 60_000;
  while (!(await holds())) {
    if (Date.now() > late) throw new Error(`waited a minute until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const listening = (port) =>
  new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/mesa`);
    socket.once("open", () => (socket.terminate(), resolve(true)));
    socket.once("error", () => resolve(false));
  });

/** Connects all clients at the same time. */
function connectAll(port) {
  const state = { open: 0, authenticated: 0, got: new Map(users.map((user) => [user, new Set()])), sockets: [] };
  for (const user of users) {
    for (let n = 0; n < CLIENTS_OF_USER; n += 1) {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/mesa`, { perMessageDeflate: false });
      socket.on("message", (bytes) => {
        const { op, d } = JSON.parse(bytes);
        if (op === 10) socket.send(JSON.stringify({ op: 2, d: { token: token(user), shouldSync: true } }));
        if (op === 22) state.authenticated += 1;
        if (op === 1) socket.send('{"op":11,"d":{}}');
        if (op === 0) state.got.get(user).add(d.n);
      });
      socket.on("error", (error) => (console.error(error.message), end(1)));
      state.sockets.push(socket);
    }
  }
  state.all = USERS * CLIENTS_OF_USER;
  return state;
}

async function commands(redis) {
  const text = await redis.info("commandstats");
  const calls = new Map();
  for (const [, name, count] of text.matchAll(/cmdstat_([^:]+):calls=(\d+)/g)) calls.set(name, Number(count));
  for (const name of ["info", "hstrlen", "scard"]) calls.delete(name);
  return calls;
}

const round = (value) => Math.round(value * 1000) / 1000;

async function main() {
  const [redisPort, port] = [await freePort(), await freePort()];
  const url = `redis://127.0.0.1:${redisPort}`;
  const redisPid = run("redis-server", ["--port", `${redisPort}`, "--bind", "127.0.0.1", "--save", "", "--dir", tmpdir()]);
  const redis = new Redis(url, { retryStrategy: () => 20 });
  redis.on("error", () => {});
  await redis.ping();

  const isMesa = kind === "mesa";
  const config = join(__dirname, "reconnect.toml");
  const flags = ["serve", "--listen", `127.0.0.1:${port}`, "--redis", url, "--config", config, "--token-secret", SECRET];
  const pid = isMesa
    ? run(process.execPath, [join(__dirname, "server.js"), `${port}`, url, NAMESPACE])
    : run(kind, [...flags, "--limit", "accepts_per_second=1000000", "--log", "warn"]);
  await until("the server listens", () => listening(port));
  const dispatcher = new Dispatcher(url, { namespace: NAMESPACE, sync: { enabled: true } });

  let state = connectAll(port);
  await until("all are in", () => state.authenticated === state.all);
  for (let nth = 0; nth < Number(rounds); nth += 1) {
    for (const socket of state.sockets) socket.terminate();
    await new Promise((resolve) => setTimeout(resolve, 1500));

    // One after another, since a dispatcher loses what it stores at the same time.
    const stored = async (n) => {
      const keys = await redis.hlen(`undelivered_messages_${NAMESPACE}`);
      if (keys < USERS) return false;
      const last = await redis.hget(`undelivered_messages_${NAMESPACE}`, users.at(-1));
      return JSON.parse(last).length === n + 1;
    };
    for (let n = 0; n < MESSAGES; n += 1) {
      dispatcher.dispatch(new Message(0, { n, text: "x".repeat(100) }, "STORED"), users);
      await until("it is stored", () => stored(n));
    }

    await new Promise((resolve) => setTimeout(resolve, 500));
    const before = { cpu: cpu(pid), redis: cpu(redisPid), commands: await commands(redis), at: performance.now() };
    state = connectAll(port);
    await until("all are in", () => state.authenticated === state.all);
    const authenticated = (performance.now() - before.at) / 1000;
    const complete = () => [...state.got.values()].every((got) => got.size === MESSAGES);
    await until("each user has all", complete);
    const delivered = (performance.now() - before.at) / 1000;
    // What is confirmed and looked after later counts as well.
    await new Promise((resolve) => setTimeout(resolve, 4000));
    const after = await commands(redis);
    const counts = [...after].map(([name, count]) => [name, count - (before.commands.get(name) ?? 0)]);
    const some = counts.filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
    const line = {
      server: isMesa ? "mesa" : "fanfare",
      authenticated: round(authenticated),
      delivered: round(delivered),
      serverCpu: round(cpu(pid) - before.cpu),
      redisCpu: round(cpu(redisPid) - before.redis),
      commands: some.reduce((sum, [, count]) => sum + count, 0),
      ...Object.fromEntries(some),
    };
    console.log(JSON.stringify(line));
  }
  end(0);
}

main().catch((error) => (console.error(error), end(1)));
