// Runs the table of assertions in other runtimes, against one real server:
//   node test/runtimes/run.mjs [deno] [bun] [workerd] [edge] [chromium]
// Without names it runs in all of them. Chromium is that of the system; CHROMIUM names another.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { freePort, key, secret, startServer } from "../real-server.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const limit = 90_000;

/** The table and its settings as one module. `last` says what to do with the result of `run()`. */
async function bundle(folder, settings, last, format = "esm") {
  const outfile = join(folder, "table.js");
  await build({
    stdin: {
      contents: `import { runAll } from "./table.mjs"; const run = () => runAll(${JSON.stringify(settings)}); ${last}`,
      resolveDir: join(here, ".."),
    },
    bundle: true,
    format,
    target: "es2022",
    outfile,
  });
  return outfile;
}

/** Runs a program, and returns what it printed. */
function output(program, args, options) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], ...options });
    const timer = setTimeout(() => child.kill("SIGKILL"), limit);
    let text = "";
    child.stdout.on("data", (chunk) => (text += chunk));
    child.once("error", reject);
    child.once("exit", (code) => {
      clearTimeout(timer);
      if (code === 0) resolve(text);
      else reject(new Error(`${program} ended with ${code}: ${text}`));
    });
  });
}

/** Runs a program that serves, and returns what it answers. */
async function fetched(program, args, port) {
  const child = spawn(program, args, { stdio: "inherit" });
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        return await (await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(limit) })).json();
      } catch (error) {
        if (attempt === 50 || error.name === "TimeoutError") throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  } finally {
    child.kill("SIGKILL");
  }
}

const bin = (name) => join(here, "node_modules", ".bin", name);
const print = "console.log(JSON.stringify(await run()));";

const runtimes = {
  async deno(folder, settings) {
    const file = await bundle(folder, settings, print);
    return JSON.parse(await output(bin("deno"), ["run", "--no-config", "--no-remote", "--allow-net=127.0.0.1", file]));
  },

  async bun(folder, settings) {
    return JSON.parse(await output(bin("bun"), ["run", await bundle(folder, settings, print)]));
  },

  async workerd(folder, settings) {
    await bundle(folder, settings, "export default { fetch: async () => Response.json(await run()) };");
    const port = await freePort();
    await writeFile(
      join(folder, "config.capnp"),
      `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "internet", network = (allow = ["public", "private"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "table.js")],
  compatibilityDate = "2026-11-01",
  globalOutbound = "internet",
);
`,
    );
    return fetched(bin("workerd"), ["serve", join(folder, "config.capnp")], port);
  },

  // What edge functions of several vendors have: fetch and WebCrypto, and no AbortSignal.any.
  async edge(folder, settings) {
    const answer = "addEventListener('fetch', (event) => event.respondWith(run().then((all) => Response.json(all))));";
    const file = await bundle(folder, settings, answer, "iife");
    const port = await freePort();
    return fetched(bin("edge-runtime"), ["--listen", "--host", "127.0.0.1", "--port", `${port}`, file], port);
  },

  async chromium(folder, settings) {
    const { chromium } = await import("playwright-core");
    // A page cannot call the HTTP API of another origin, so its own one passes the calls on.
    const server = createServer(async (incoming, response) => {
      if (incoming.url === "/") return response.setHeader("content-type", "text/html").end("<!doctype html>");
      if (incoming.url === "/table.js") {
        const text = await readFile(join(folder, "table.js"));
        return response.setHeader("content-type", "text/javascript").end(text);
      }
      const { origin, referer, host, ...headers } = incoming.headers;
      const passed = request(`${settings.url}${incoming.url}`, { method: incoming.method, headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      incoming.pipe(passed);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const page_ = `http://127.0.0.1:${server.address().port}`;
    await bundle(folder, { ...settings, api: page_ }, "export { run };");

    const browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox"],
    });
    try {
      const page = await browser.newPage();
      page.on("pageerror", (error) => console.error(error));
      await page.goto(page_);
      return await page.evaluate(async () => (await import("/table.js")).run());
    } finally {
      await browser.close();
      server.closeAllConnections();
      server.close();
    }
  },
};

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(runtimes);
const server = await startServer();
let failed = false;
try {
  for (const name of names) {
    const folder = await mkdtemp(join(tmpdir(), "fanfare-"));
    try {
      const { passed, failures } = await runtimes[name](folder, { url: server.url, key, secret });
      console.log(`${name}: ${passed} passed, ${failures.length} failed`);
      for (const failure of failures) console.log(`  ${failure}`);
      failed ||= failures.length > 0;
    } catch (error) {
      console.log(`${name}: ${error.stack}`);
      failed = true;
    } finally {
      await rm(folder, { recursive: true });
    }
  }
} finally {
  await server.stop();
}
process.exit(failed ? 1 : 0);
