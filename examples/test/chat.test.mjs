// Messages, history, and who is here.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  browse,
  connected,
  run,
  serve,
  settings,
  texts,
  until,
} from "./support.mjs";

export default async function (t) {
  const server = await serve(t);
  const folder = fileURLToPath(new URL("../chat/", import.meta.url));
  const env = { ...settings(server), PORT: "0" };
  const [url] = await run(t, folder, ["node", "server.mjs"], env, /http:\S+/);

  const { open, errors } = await browse(t);
  const enter = async (name) => {
    const page = await open(`${url}/?name=${name}`);
    await connected(page);
    return page;
  };
  const say = async (page, text) => {
    await page.fill("#text", text);
    await page.click("button");
  };
  const shows = (page, selector, expected) =>
    until(
      async () => (await texts(page, selector)).join() === expected,
      `${selector} to be ${expected}`,
    );

  const ann = await enter("ann");
  await say(ann, "hello");
  await shows(ann, "#messages li", "ann: hello");

  const bob = await enter("bob");
  await shows(bob, "#messages li", "ann: hello");
  await until(
    async () => (await texts(ann, "#here li")).sort().join() === "ann,bob",
  );
  await say(bob, "<b>hi</b>");
  for (const page of [ann, bob])
    await shows(page, "#messages li", "ann: hello,bob: <b>hi</b>");

  await bob.close();
  await shows(ann, "#here li", "ann");
  assert.deepEqual(errors, []);
}
