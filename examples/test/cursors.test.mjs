// Cursors as binary messages: at most 20 a second, and only the newest one after a bad connection.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  browse,
  connected,
  install,
  relay,
  run,
  serve,
  settings,
  texts,
  until,
} from "./support.mjs";

/** A file that lets every user send five messages a second. */
function configuration(t) {
  const folder = mkdtempSync(join(tmpdir(), "fanfare-cursors-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, "fanfare.toml");
  writeFileSync(
    file,
    "[limits]\nmessages_per_second = 5\nmessage_burst = 10\n",
  );
  return file;
}

export default async function (t) {
  const server = await serve(t);
  const folder = await install("cursors");
  const start = async (url) => {
    const env = { ...settings(server), FANFARE_URL: url, PORT: "0" };
    return (await run(t, folder, ["npm", "start"], env, /http:\S+/))[0];
  };
  // The pages of ann reach the server through a network that can fail.
  const network = await relay(t, server.port);
  const good = await start(server.url);
  const bad = await start(network.url);

  const { open, errors } = await browse(t);
  const enter = async (url, name) => {
    const page = await open(`${url}/?name=${name}`, {
      viewport: { width: 800, height: 600 },
    });
    await connected(page);
    return page;
  };
  const ann = await enter(bad, "ann");
  const bob = await enter(good, "bob");

  // bob counts the binary messages that arrive.
  const binary = [];
  const cdp = await bob.context().newCDPSession(bob);
  await cdp.send("Network.enable");
  cdp.on("Network.webSocketFrameReceived", ({ response }) => {
    if (response.opcode === 2)
      binary.push(Buffer.from(response.payloadData, "base64"));
  });

  // Where bob sees the cursor of somebody, as parts of a thousand of the stage.
  const place = (page, name) =>
    page.evaluate((user) => {
      const all = [...document.querySelectorAll(".cursor:not([hidden])")];
      const one = all.find((each) => each.textContent.trim() === user);
      return (
        one &&
        [one.style.left, one.style.top].map((each) =>
          Math.round(parseFloat(each) * 10),
        )
      );
    }, name);
  const stage = await ann.locator("#stage").boundingBox();
  const move = (x, y, page = ann) =>
    page.mouse.move(
      stage.x + (stage.width * x) / 1000,
      stage.y + (stage.height * y) / 1000,
    );
  const isAt = (page, x, y) =>
    until(async () => {
      const found = await place(page, "ann");
      return (
        found && Math.abs(found[0] - x) <= 3 && Math.abs(found[1] - y) <= 3
      );
    }, `ann to be at ${x}, ${y}`);

  // --- Members, and one place ---
  await until(async () => (await texts(bob, "#here li")).join() === "ann");
  await until(async () => (await texts(ann, "#here li")).join() === "bob");
  await move(500, 250);
  await isAt(bob, 500, 250);
  const [first] = binary;
  const header = JSON.parse(first.subarray(3, 3 + first.readUInt16BE(1)));
  assert.equal(header.event, "cursor");
  assert.equal(first.length - 3 - first.readUInt16BE(1), 4);

  // --- At most 20 a second ---
  binary.length = 0;
  const begin = performance.now();
  for (let step = 0; step <= 200; step += 1) await move(100 + step, 300);
  await isAt(bob, 300, 300);
  const elapsed = performance.now() - begin;
  const most = elapsed / 50 + 2;
  assert.ok(
    binary.length <= most,
    `${binary.length} messages in ${elapsed} ms`,
  );

  // --- A slow network: what is not yet sent is replaced ---
  binary.length = 0;
  network.hold();
  for (let step = 0; step <= 200; step += 1) await move(300 + step, 400);
  network.release();
  await isAt(bob, 500, 400);
  // Four that waited for their acks, and then the newest.
  assert.ok(
    binary.length <= 5,
    `${binary.length} messages after a slow network`,
  );

  // --- No network: only the newest place is sent when it is back ---
  binary.length = 0;
  network.cut();
  await until(
    async () => !(await ann.textContent("#state")).startsWith("connected"),
  );
  for (let step = 0; step <= 200; step += 1) await move(500 + step, 500);
  network.restore();
  await isAt(bob, 700, 500);
  // Her page may have met its members anew, and told them its place once more.
  assert.ok(binary.length <= 2, `${binary.length} messages after no network`);

  // --- A position that got lost on the way is sent again ---
  network.hold();
  const before = await ann.textContent("#sent");
  await move(800, 600);
  await until(async () => (await ann.textContent("#sent")) !== before);
  network.cut();
  network.restore();
  await isAt(bob, 800, 600);

  // --- A server that takes five messages a second ---
  const strict = await serve(t, ["--config", configuration(t)]);
  const slow = await start(strict.url);
  const hasty = await enter(slow, "ann");
  const eve = await enter(slow, "eve");
  await until(async () => (await texts(eve, "#here li")).join() === "ann");
  for (let step = 0; step <= 200; step += 1) await move(600 + step, 700, hasty);
  await isAt(eve, 800, 700);
  assert.ok((await hasty.textContent("#state")).startsWith("connected"));

  // --- Members come and go ---
  const cat = await enter(good, "cat");
  await isAt(cat, 800, 600);
  await ann.mouse.move(stage.x + 10, 2);
  await until(async () => !(await place(bob, "ann")));
  await ann.close();
  await until(async () => (await texts(bob, "#here li")).join() === "cat");
  assert.deepEqual(errors, []);
}
