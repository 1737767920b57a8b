// The server itself, on a free port of loopback. FANFARE_BIN names its program.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

export const key = "test-key-of-the-typescript-package";
export const secret = "test-secret-of-the-typescript-package";

const candidates = ["release", "debug"].map((profile) =>
  fileURLToPath(new URL(`../../../target/${profile}/fanfare`, import.meta.url)),
);
export const program = process.env.FANFARE_BIN ?? candidates.find(existsSync);

/** Starts a server with an API key, a token secret, history in `room-*`, and stored events for users. */
export const startServer = (more = []) =>
  start(["--api-key", key, "--token-secret", secret, "--store-user-events", "--drain-delay", "0s", ...more]);

/** Starts a server as in development: without keys, everyone may do everything. */
export async function start(more = []) {
  const { child, address, log } = await launch(["--channel-history", "room-*=10000", ...more]);

  const url = `http://${address}`;
  // Before a node has reached Redis, it lets nobody into a channel with history.
  while (more.includes("--redis") && !(await fetch(`${url}/readyz`)).ok)
    await new Promise((resolve) => setTimeout(resolve, 5));

  return {
    url,
    port: Number(address.split(":")[1]),
    child,
    log,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** Runs the program, and waits until it listens: its process, its address, and what it has logged so far. */
export async function launch(flags) {
  if (!program) throw new Error("build the server, or name its program in FANFARE_BIN");
  const all = ["serve", "--listen", "127.0.0.1:0", "--log", "info", ...flags];
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

  return { child, address, log: () => log };
}

/** The first port that is tried, and how many. All are below those that the system gives to outgoing connections. */
const ports = [11_000, 20_000];

/** A port on which nobody listens, though somebody else may be about to. */
export async function freePort() {
  for (;;) {
    const port = ports[0] + Math.floor(Math.random() * ports[1]);
    const probe = createServer();
    const isFree = await new Promise((resolve) => {
      probe.once("error", () => resolve(false));
      probe.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => probe.close(resolve));
    return port;
  }
}

/** Starts a Redis server that keeps nothing, on a free port or on that of one that ended. */
export async function startRedis(given) {
  if (given !== undefined) return startRedisOn(given);
  for (let tries = 5; ; tries--) {
    try {
      return await startRedisOn(await freePort());
    } catch (error) {
      // Something else may have taken the port meanwhile.
      if (tries === 1) throw error;
    }
  }
}

async function startRedisOn(port) {
  const flags = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", "/"];
  const program = process.env.REDIS_SERVER || "redis-server";
  const child = spawn(program, flags, { stdio: ["ignore", "pipe", "ignore"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  await new Promise((resolve, reject) => {
    child.stdout.on("data", (chunk) => /Ready to accept/.test(chunk) && resolve());
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${program} ended with ${code}`)));
  });
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    stop() {
      child.kill("SIGKILL");
      return ended;
    },
  };
}
