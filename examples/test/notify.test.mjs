// A user on every page, and one who is away.
import assert from "node:assert/strict";
import {
  browse,
  connected,
  install,
  run,
  serve,
  settings,
  texts,
  until,
} from "./support.mjs";

export default async function (t) {
  const server = await serve(t);
  const folder = await install("notify");
  const env = { ...settings(server), PORT: "0" };
  const [url] = await run(t, folder, ["npm", "start"], env, /http:\S+/);

  const { open, errors } = await browse(t);
  const enter = async (user) => {
    const page = await open(`${url}/?user=${user}`);
    await connected(page);
    return page;
  };
  const notify = async (user, text) => {
    const body = JSON.stringify({ user, text });
    return (await fetch(`${url}/notify`, { method: "POST", body })).json();
  };
  const shows = (page, expected) =>
    until(
      async () =>
        (await texts(page, "#list li"))
          .map((text) => /\d (\D+)$/.exec(text)?.[1].replace(/^[AP]M /, ""))
          .join() === expected,
      `the list to be ${expected}`,
    );

  const pages = [await enter("ann"), await enter("ann")];
  assert.deepEqual(await notify("ann", "on its way"), {
    delivered: 2,
    stored: 1,
  });
  for (const page of pages) await shows(page, "on its way");

  assert.deepEqual(await notify("bob", "welcome"), { delivered: 0, stored: 1 });
  const bob = await enter("bob");
  await shows(bob, "welcome");

  await bob.fill("[name=user]", "ann");
  await bob.fill("[name=text]", "from bob");
  await bob.click("button");
  for (const page of pages) await shows(page, "on its way,from bob");
  await shows(bob, "welcome");
  assert.deepEqual(errors, []);
}
