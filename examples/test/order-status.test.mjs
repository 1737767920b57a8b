// A change reaches the customers of the order and the staff who watch it, and nobody else.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  browse,
  command,
  connected,
  install,
  relay,
  run,
  serve,
  settings,
  until,
} from "./support.mjs";

export default async function (t) {
  const server = await serve(t, ["--index", "profile.watching"]);
  const network = await relay(t, server.port);
  const folder = await install("order-status");

  // `npm start` with a database of its own, and without a look for newer versions.
  const data = mkdtempSync(join(tmpdir(), "fanfare-orders-"));
  t.after(() => rmSync(data, { recursive: true, force: true }));
  const env = {
    ...settings(server),
    CI: "1",
    CLOUDFLARE_CF_FETCH_ENABLED: "false",
    WRANGLER_SEND_METRICS: "false",
  };
  const own = ["--persist-to", data];
  await command(folder, "npm", ["run", "prestart", "--", ...own], env);
  const flags = [...own, "--ip", "127.0.0.1", "--port", "0"];
  const address = ["--var", `FANFARE_URL:${network.url}`];
  const [, url] = await run(
    t,
    folder,
    ["npx", "wrangler", "dev", ...flags, ...address],
    env,
    /Ready on (http:\S+)/,
  );

  const { open, errors } = await browse(t);
  const enter = async (user) => {
    const page = await open(`${url}/?user=${user}`);
    await connected(page);
    await page.waitForSelector("article");
    return page;
  };
  const status = (page, id) =>
    page.textContent(`#order-${id} [aria-current="step"]`);
  const becomes = (page, id, expected) =>
    until(
      async () => (await status(page, id)) === expected,
      `order ${id} to be ${expected}`,
    );
  const watch = (page, id) => page.check(`#order-${id} input`);
  // Presses a step, and returns how many connections got the event.
  const set = async (page, id, step) => {
    const answered = page.waitForResponse(`**/orders/${id}/status`);
    await page.click(`#order-${id} button:text-is("${step}")`);
    return (await (await answered).json()).reached;
  };
  const [ann, bob] = [await enter("ann"), await enter("bob")];
  const [sam, other] = [await enter("sam"), await enter("sam")];
  assert.equal(await ann.$("#order-1003"), null);
  assert.equal(await bob.$("#order-1001"), null);

  // Of ann and bob both. No staff watches it yet.
  await until(async () => (await set(sam, "1002", "packed")) === 2);
  for (const page of [ann, bob, sam]) await becomes(page, "1002", "packed");
  assert.equal(await status(other, "1002"), "placed");

  // Of ann alone. One page of the staff watches it.
  await watch(other, "1001");
  await until(async () => (await set(sam, "1001", "packed")) === 2);
  for (const page of [ann, other]) await becomes(page, "1001", "packed");

  // bob watches an order that is not his, in his profile. It does not help him.
  await bob.evaluate(async () => {
    const { connect } = await import("/fanfare.js");
    const session = async () => (await fetch("/session")).json();
    const { url } = await session();
    const token = async () => (await session()).token;
    const client = connect(url, { token });
    window.heard = [];
    client.on("order-status", ({ id }) => window.heard.push(id));
    await client.update({ watching: ["1001", "1003"] });
  });
  assert.equal(await set(sam, "1001", "shipped"), 2);
  await becomes(ann, "1001", "shipped");
  // His page, and the connection that he has just made.
  assert.equal(await set(sam, "1003", "packed"), 2);
  await becomes(bob, "1003", "packed");
  await until(() => bob.evaluate(() => window.heard.length > 0));
  assert.deepEqual(await bob.evaluate(() => window.heard), ["1003"]);

  // A customer cannot change an order.
  const post = async (user, id, status) =>
    fetch(`${url}/orders/${id}/status`, {
      method: "POST",
      headers: { cookie: `user=${user}` },
      body: JSON.stringify({ status }),
    });
  assert.equal((await post("ann", "1001", "delivered")).status, 403);

  // What changes while nobody can be reached is fetched afterwards.
  network.cut();
  const stored = await (await post("sam", "1001", "delivered")).json();
  assert.equal(stored.status, "delivered");
  assert.equal(stored.reached, 0);
  assert.equal(await status(ann, "1001"), "shipped");
  network.restore();
  await becomes(ann, "1001", "delivered");
  assert.deepEqual(errors, []);
}
