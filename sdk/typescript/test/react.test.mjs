// The hooks: on a server, and under StrictMode in Chromium. CHROMIUM names another program than /usr/bin/chromium.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { build } from "esbuild";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { createClient } from "../dist/index.js";
import { useChannel, useConnection, useEvent, useMembers } from "../dist/react.js";
import { Fanfare, signToken } from "../dist/server.js";
import { key, secret, startServer } from "./real-server.mjs";
import { serve, sleep, until } from "./support.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(chromium) ? false : `there is no ${chromium}`;

test("rendering on a server connects nothing", () => {
  const client = createClient("wss://nowhere.invalid");
  function Page({ client: given }) {
    const { status } = useConnection(given);
    const { status: channel } = useChannel(given, "room");
    const members = useMembers(given, "room");
    useEvent(given, "n", () => {});
    return createElement("p", null, `${status} ${channel} ${members.length}`);
  }
  for (const given of [client, null])
    assert.equal(renderToString(createElement(Page, { client: given })), "<p>idle waiting 0</p>");
  assert.equal(client.state.status, "idle");
});

/** A fault server, and a page with the components that is connected to it. */
async function open(t) {
  const server = await serve(t);
  server.onMessage = (c, m) => m.op === "join" && (c.ack(m, { members: [{ id: c.id, user: "ann" }], count: 1 }), true);
  return { server, ...(await openPage(t, server.url, "ann")) };
}

/** A page with the components, what it sent, and what went wrong in it. */
async function openPage(t, url, token) {
  const { chromium: browserType } = await import("playwright-core");
  const { outputFiles } = await build({
    entryPoints: [new URL("react-page.jsx", import.meta.url).pathname],
    bundle: true,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
    write: false,
  });
  const http = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(
      isScript ? outputFiles[0].text : '<!doctype html><body><script type="module" src="/page.js"></script>',
    );
  });
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  t.after(() => (http.closeAllConnections(), http.close()));

  const browser = await browserType.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--js-flags=--expose-gc"],
  });
  t.after(() => browser.close());
  const page = await browser.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(`${error}`));
  page.on(
    "console",
    (message) => message.type() === "error" && !/favicon/.test(message.text()) && errors.push(message.text()),
  );
  const sockets = [];
  page.on("websocket", (socket) => {
    const sent = [];
    sockets.push(sent);
    socket.on("framesent", ({ payload }) => sent.push(JSON.parse(payload).op));
  });
  await page.goto(`http://127.0.0.1:${http.address().port}/?${new URLSearchParams({ server: url, token })}`);
  await page.waitForFunction("window.probe");
  await page.evaluate("probe.mount()");
  const text = () => page.evaluate(() => [...document.querySelectorAll("#room")].map((node) => node.textContent));
  return { page, sockets, errors, text };
}

const ops = (connection) => connection.messages.map(({ op }) => op);

test("under StrictMode there is one socket and one join", { skip, timeout: 60_000 }, async (t) => {
  const { server, page, errors, text } = await open(t);
  await page.evaluate('probe.show(["room", "room"])');
  await until(async () => (await text())[1] === "connected joined c1 0 room");
  assert.equal(server.connections.length, 1);

  const [connection] = server.connections;
  connection.send({ event: "n", channel: "room", data: 1 });
  connection.send({ event: "n", channel: "room", data: 2 });
  connection.send({ event: "all", data: 3 });
  await until(async () => (await text())[0] === "connected joined c1 2 room");
  assert.equal(
    await page.evaluate("probe.heard.filter(([who]) => who === 'room').length"),
    4,
    "each component, each event",
  );
  assert.equal(ops(connection).filter((op) => op === "join").length, 1);

  await page.evaluate('probe.show(["room"])');
  await sleep(50);
  assert.ok(!ops(connection).includes("leave"));
  await page.evaluate("probe.show([])");
  await until(
    () => connection.messages.some(({ op }) => op === "leave") || server.connections[0].socket.readyState > 1,
  );
  await until(async () => (await page.evaluate("probe.client.state.status")) === "closed");
  assert.equal(server.handshakes, 1);
  assert.deepEqual(errors, []);
});

test("under StrictMode a real server sees one socket and one join", { skip, timeout: 60_000 }, async (t) => {
  const server = await startServer();
  t.after(() => server.stop());
  const token = await signToken(secret, "ann", { can: { join: ["*"], members: ["*"] } });
  const { page, sockets, errors, text } = await openPage(t, server.url, token);
  await page.evaluate('probe.show(["room-1", "room-1", "room-1"])');
  await until(async () => /^connected joined \w+ 0 room-1$/.test((await text())[2] ?? ""));

  const fanfare = new Fanfare({ url: server.url, key });
  assert.equal((await fanfare.send("room-1", "n", 1)).matched, 1);
  await until(async () => (await text()).every((each) => each.endsWith(" 1 room-1")));
  await page.evaluate("probe.show([])");
  await until(async () => !(await fanfare.user("ann")).online);
  // The browser tells what it sent a moment later.
  await until(() => sockets[0].includes("leave"));
  assert.deepEqual(sockets, [["join", "leave"]]);
  assert.deepEqual(errors, []);
});

test("a component that changes its channel leaves the old one", { skip, timeout: 60_000 }, async (t) => {
  const { server, page, text } = await open(t);
  await page.evaluate('probe.show(["one"])');
  await until(async () => (await text())[0]?.startsWith("connected joined"));
  await page.evaluate('probe.show(["two"])');
  await until(async () => (await text())[0] === "connected joined c1 0 two");
  await until(() => server.connections[0].messages.some(({ op, channel }) => op === "leave" && channel === "one"));
  assert.equal(server.handshakes, 1);
});

test("1,000 mounts leave nothing behind", { skip, timeout: 120_000 }, async (t) => {
  const { server, page } = await open(t);
  const used = () => page.evaluate(() => (gc(), performance.memory.usedJSHeapSize));
  const churn = (times) =>
    page.evaluate(async (often) => {
      for (let n = 0; n < often; n++) {
        probe.show(n % 2 ? ["room"] : []);
        await new Promise((resolve) => setTimeout(resolve));
      }
      probe.show([]);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }, times);

  await churn(200);
  const before = await used();
  await churn(2000);
  const grown = (await used()) - before;
  assert.equal(await page.evaluate("probe.listeners()"), 0);
  assert.equal(await page.evaluate("probe.client.state.status"), "closed");
  assert.ok(grown < 1_000_000, `the heap grew by ${grown} bytes`);
  assert.ok(server.connections.filter(({ socket }) => socket.readyState === 1).length <= 1);
});
