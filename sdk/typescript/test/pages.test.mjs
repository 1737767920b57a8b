// Pages in Chromium that import the one-file build which the server has, with a real server.
// CHROMIUM names another program than /usr/bin/chromium.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createClient } from "../dist/index.js";
import { Fanfare } from "../dist/server.js";
import { start } from "./real-server.mjs";
import { until, WebSocket } from "./support.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(chromium) ? false : `there is no ${chromium}`;
const script = readFileSync(new URL("../../../src/http/fanfare.js", import.meta.url));

/** A page with a client that keeps its device for the tab, as the README says. */
const page = (url) => `<!doctype html>
<script type="module">
  import * as all from "/fanfare.js";
  sessionStorage.device ??= crypto.randomUUID();
  window.all = Object.keys(all).sort();
  window.client = all.connect("${url}", { device: sessionStorage.device });
  window.states = [];
  client.onState(({ status, code }) => states.push([status, code]));
  window.heard = [];
  window.room = client.join("tab-1", { members: true });
  room.on("n", (data) => heard.push(data));
</script>`;

/** A server, and a browser whose pages it lets in: both are of this machine. */
async function open(t) {
  const folder = mkdtempSync(join(tmpdir(), "fanfare-pages-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const config = join(folder, "fanfare.toml");
  writeFileSync(config, '[[apps.default.channels]]\npattern = "tab-*"\nleave_after = "10s"\n');
  const server = await start(["--config", config]);
  t.after(() => server.stop());

  const http = createServer((request, response) => {
    const isScript = request.url === "/fanfare.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : page(server.url));
  });
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  t.after(() => (http.closeAllConnections(), http.close()));

  const { chromium: browserType } = await import("playwright-core");
  const browser = await browserType.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  t.after(() => browser.close());
  const context = await browser.newContext();
  const url = `http://127.0.0.1:${http.address().port}/`;
  return { server, fanfare: new Fanfare({ url: server.url }), context, url };
}

const joined = (tab) => tab.waitForFunction("window.room?.state.status === 'joined'");

test("a page imports the one-file build as an ES module", { skip, timeout: 90_000 }, async (t) => {
  const { fanfare, context, url } = await open(t);
  const tab = await context.newPage();
  await tab.goto(url);
  await joined(tab);
  assert.deepEqual(await tab.evaluate("all"), ["FanfareError", "connect", "createClient"]);
  assert.equal((await fanfare.send("tab-1", "n", { text: "hi" })).matched, 1);
  await tab.waitForFunction("heard.length === 1");
  assert.deepEqual(await tab.evaluate("heard"), [{ text: "hi" }]);
});

test("a duplicated tab is a connection of its own, and ends nobody's", { skip, timeout: 90_000 }, async (t) => {
  const { fanfare, context, url } = await open(t);
  const tab = await context.newPage();
  await tab.goto(url);
  await joined(tab);
  const first = await tab.evaluate("client.state.connection");

  // A page that opens itself copies its session storage, which is what duplicating a tab does.
  const [copy] = await Promise.all([context.waitForEvent("page"), tab.evaluate("void window.open(location.href)")]);
  await joined(copy);
  assert.equal(await copy.evaluate("sessionStorage.device"), await tab.evaluate("sessionStorage.device"));
  await tab.waitForFunction("room.members.length === 2");

  assert.equal((await fanfare.send("tab-1", "n", 1)).matched, 2);
  for (const each of [tab, copy]) await each.waitForFunction("heard.length === 1");
  assert.equal(await tab.evaluate("client.state.connection"), first);
  assert.notEqual(await copy.evaluate("client.state.connection"), first);
  for (const each of [tab, copy])
    assert.deepEqual(await each.evaluate("states.map(([status]) => status)"), ["connected"]);

  await copy.close();
  assert.equal(await tab.evaluate("client.state.connection"), first);
});

test("a page that is loaded again stays a member", { skip, timeout: 90_000 }, async (t) => {
  const { server, context, url } = await open(t);
  const tab = await context.newPage();
  await tab.goto(url);
  await joined(tab);
  const before = await tab.evaluate("client.state.connection");

  const watcher = createClient(server.url, { WebSocket });
  t.after(() => watcher.close());
  const room = watcher.join("tab-1", { members: true });
  await watcher.connect();
  await room.joined;
  await until(() => room.members.length === 2);
  const sizes = new Set();
  room.onMembers((members) => sizes.add(members.length));

  await tab.reload();
  await joined(tab);
  const after = await tab.evaluate("client.state.connection");
  assert.notEqual(after, before);
  await until(() => room.members.some(({ id }) => id === after));
  assert.ok(!room.members.some(({ id }) => id === before));
  // Others saw one change, and neither a member less nor one more.
  assert.deepEqual([...sizes], [2]);
});
