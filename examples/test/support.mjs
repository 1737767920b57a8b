// What the tests of the examples share.
import { execFile, spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import {
  key,
  secret,
  startServer,
} from "../../sdk/typescript/test/real-server.mjs";

// How long something may take that happens in milliseconds on an idle machine.
const patience = 60_000;

const examples = new URL("../", import.meta.url);
const sdk = new URL("../sdk/typescript/dist/fanfare.js", examples);

/** Waits until `is` returns something true, and returns that. */
export async function until(is, what = `${is}`) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await is();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited too long for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A Fanfare server that is stopped after the test. */
export async function serve(t, flags = []) {
  const server = await startServer(flags);
  t.after(() => server.stop());
  return server;
}

/** The folder of an example, with what it depends on installed. */
export async function install(name) {
  if (!existsSync(sdk))
    throw new Error(
      "build the package first: npm ci && npm run build in sdk/typescript",
    );
  const folder = new URL(`${name}/`, examples);
  const age = (file) =>
    statSync(new URL(file, folder), { throwIfNoEntry: false })?.mtimeMs ?? 0;

  // Without a lock file the only dependency is the package of this repository.
  const hasLock = existsSync(new URL("package-lock.json", folder));
  const installed = age("node_modules/.package-lock.json");
  const wanted = Math.max(
    age("package-lock.json"),
    age("package.json"),
    statSync(sdk).mtimeMs,
  );
  const args = hasLock ? ["ci", "--prefer-offline"] : ["install", "--offline"];
  if (installed < wanted)
    await command(fileURLToPath(folder), "npm", [
      ...args,
      "--no-audit",
      "--no-fund",
      "--silent",
    ]);
  return fileURLToPath(folder);
}

// An example sees its own settings, and not those of whoever runs the tests.
function environment(more) {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(FANFARE_|PORT$)/.test(name),
  );
  return { ...Object.fromEntries(inherited), ...more };
}

/** The settings by which an example finds its server. */
export const settings = (server) => ({
  FANFARE_URL: server.url,
  FANFARE_API_KEY: key,
  FANFARE_TOKEN_SECRET: secret,
});

/** Runs a command to its end. */
export async function command(folder, program, args, env = {}) {
  const options = { cwd: folder, env: environment(env), maxBuffer: 1e8 };
  try {
    return (await promisify(execFile)(program, args, options)).stdout;
  } catch (error) {
    throw new Error(`${error.message}\n${error.stdout}`);
  }
}

const groups = new Set();
const stop = (group, signal) => {
  try {
    process.kill(-group, signal);
  } catch {
    // It has ended.
  }
};
process.on("exit", () => groups.forEach((group) => stop(group, "SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"])
  process.on(signal, () => process.exit(1));

/**
 * Starts a program, and returns what `pattern` matches in its output. Programs start others, so it has a process group
 * of its own, which is ended after the test.
 */
export async function run(t, folder, [program, ...args], env, pattern) {
  const child = spawn(program, args, {
    cwd: folder,
    env: environment(env),
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  groups.add(child.pid);
  let output = "";
  let ended = false;
  child.on("exit", () => (ended = true));
  t.after(async () => {
    stop(child.pid, "SIGTERM");
    const end = Date.now() + 10_000;
    while (!ended && Date.now() < end)
      await new Promise((resolve) => setTimeout(resolve, 20));
    stop(child.pid, "SIGKILL");
    groups.delete(child.pid);
  });

  return new Promise((resolve, reject) => {
    const read = (chunk) => {
      output += chunk;
      const found = pattern.exec(output);
      if (found) resolve(found);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("error", reject);
    child.once("exit", (code) =>
      reject(new Error(`${program} ended with ${code}:\n${output}`)),
    );
    const late = () => reject(new Error(`${program} is late:\n${output}`));
    setTimeout(late, 2 * patience).unref();
  });
}

/** A browser. `open` opens a page with cookies of its own; what goes wrong in any of them is in `errors`. */
export async function browse(t) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
  t.after(() => browser.close());

  const errors = [];
  async function open(url, options) {
    const page = await (await browser.newContext(options)).newPage();
    page.setDefaultTimeout(patience);
    page.on("pageerror", (error) => errors.push(`${error}`));
    await page.goto(url);
    return page;
  }
  return { open, errors };
}

/** Waits until a page says that it is connected. */
export const connected = (page) =>
  until(async () => (await page.textContent("#state")).startsWith("connected"));

/** The texts of all elements that a selector finds. */
export const texts = (page, selector) =>
  page.$$eval(selector, (all) => all.map((one) => one.textContent.trim()));

/** A relay in front of a server. It can be cut, as where there is no network, and held, as where it is slow. */
export async function relay(t, port) {
  const pairs = new Set();
  let isCut = false;
  const server = net.createServer((near) => {
    if (isCut) return near.destroy();
    const far = net.connect(port, "127.0.0.1");
    const pair = [near, far];
    pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => (pairs.delete(pair), end(pair)));
    }
    near.pipe(far);
    far.pipe(near);
  });
  const end = (pair) => pair.forEach((socket) => socket.destroy());
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    pairs.forEach(end);
    server.close();
  });

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      isCut = true;
      pairs.forEach(end);
    },
    restore: () => (isCut = false),
    /** Lets nothing through in either direction until `release` is called. */
    hold() {
      for (const [near, far] of pairs) {
        near.unpipe(far).pause();
        far.unpipe(near).pause();
      }
    },
    release() {
      for (const [near, far] of pairs) {
        near.pipe(far);
        far.pipe(near);
      }
    },
  };
}
