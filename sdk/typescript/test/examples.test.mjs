// The examples of the repository, with a real server and pages in Chromium.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { key, secret, startServer } from "./real-server.mjs";
import { printed, until } from "./support.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(chromium) ? false : `there is no ${chromium}`;

/** Installs and starts an example. Returns its address, and pages of a browser. */
async function start(t, name, server) {
  const folder = fileURLToPath(new URL(`../../../examples/${name}`, import.meta.url));
  // Its one dependency is this package, so nothing is fetched.
  execFileSync("npm", ["install", "--offline", "--no-audit", "--no-fund", "--silent"], { cwd: folder });

  const env = {
    ...process.env,
    PORT: "0",
    FANFARE_URL: server.url,
    FANFARE_API_KEY: key,
    FANFARE_TOKEN_SECRET: secret,
  };
  const child = spawn(process.execPath, ["server.mjs"], { cwd: folder, env, stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [, url] = await printed(child, /(http:\S+)\n/);

  const { chromium: browserType } = await import("playwright-core");
  const browser = await browserType.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  t.after(() => browser.close());
  const errors = [];
  const open = async (query) => {
    const page = await (await browser.newContext()).newPage();
    page.on("pageerror", (error) => errors.push(`${error}`));
    await page.goto(`${url}/?${query}`);
    await until(async () => (await page.textContent("#state")).startsWith("connected"));
    return page;
  };
  return { url, open, errors };
}

const items = (page, list) =>
  page.evaluate((id) => [...document.querySelectorAll(`${id} li`)].map((li) => li.textContent), list);

test("examples/chat: messages, history, and who is here", { skip, timeout: 60_000 }, async (t) => {
  const server = await startServer();
  t.after(() => server.stop());
  const { open, errors } = await start(t, "chat", server);

  const ann = await open("name=ann");
  await ann.fill("#text", "hello");
  await ann.click("button");
  await until(async () => (await items(ann, "#messages")).join() === "ann: hello");

  const bob = await open("name=bob");
  await until(async () => (await items(bob, "#messages")).join() === "ann: hello");
  await until(async () => (await items(ann, "#here")).sort().join() === "ann,bob");
  await bob.fill("#text", "<b>hi</b>");
  await bob.click("button");
  for (const page of [ann, bob])
    await until(async () => (await items(page, "#messages")).join() === "ann: hello,bob: <b>hi</b>");

  await bob.close();
  await until(async () => (await items(ann, "#here")).join() === "ann");
  assert.deepEqual(errors, []);
});

test("examples/notify: a user on every page, and one who is away", { skip, timeout: 60_000 }, async (t) => {
  const server = await startServer();
  t.after(() => server.stop());
  const { url, open, errors } = await start(t, "notify", server);
  const notify = async (user, text) =>
    (await fetch(`${url}/notify`, { method: "POST", body: JSON.stringify({ user, text }) })).json();

  const pages = [await open("user=ann"), await open("user=ann")];
  assert.deepEqual(await notify("ann", "on its way"), { delivered: 2, stored: 1 });
  for (const page of pages) await until(async () => (await items(page, "#list"))[0]?.endsWith(" on its way"));

  assert.deepEqual(await notify("bob", "welcome"), { delivered: 0, stored: 1 });
  const bob = await open("user=bob");
  await until(async () => (await items(bob, "#list"))[0]?.endsWith(" welcome"));

  await bob.fill("[name=user]", "ann");
  await bob.fill("[name=text]", "from bob");
  await bob.click("button");
  await until(async () => (await items(pages[0], "#list"))[1]?.endsWith(" from bob"));
  assert.deepEqual(errors, []);
});
