// A production build: a route handler reaches the pages of a team, and the hooks show who is there.
import assert from "node:assert/strict";
import {
  browse,
  command,
  connected,
  install,
  relay,
  run,
  serve,
  settings,
  texts,
  until,
} from "./support.mjs";

export default async function (t) {
  const server = await serve(t);
  const network = await relay(t, server.port);
  const folder = await install("nextjs");
  await command(folder, "npm", ["run", "build"]);
  const [url] = await run(
    t,
    folder,
    ["npm", "start", "--", "--hostname", "127.0.0.1", "--port", "0"],
    { ...settings(server), FANFARE_URL: network.url },
    /http:\/\/127\S+(?=[^]*Ready)/,
  );

  const { open, errors } = await browse(t);
  const enter = async (user) => {
    const page = await open(url);
    await page.selectOption("[name=user]", user);
    await page.click("button");
    await page.waitForSelector("#state");
    await connected(page);
    return page;
  };
  const shows = (page, selector, ...expected) =>
    until(
      async () =>
        (await texts(page, selector)).sort().join() === expected.sort().join(),
      `${selector} to be ${expected}`,
    );
  const add = async (page, text) => {
    await page.fill("input", text);
    await page.click("button:text-is('Add')");
  };

  const anonymous = await fetch(`${url}/api/token`);
  assert.equal(anonymous.status, 401);

  // useMembers: each team sees its own.
  const ann = await enter("ann");
  const [bob, cat] = [await enter("bob"), await enter("cat")];
  for (const page of [ann, bob]) await shows(page, "#here li", "ann", "bob");
  await shows(cat, "#here li", "cat");

  // useChannel: from page to page.
  await bob.fill("input", "hel");
  await shows(ann, "#typing", "bob is typing…");

  // useEvent: the route handler reaches the pages of the team.
  await add(bob, "hello");
  for (const page of [ann, bob]) await shows(page, "#notes li", "bob hello");
  await shows(bob, "#result", "sent to 2 pages");
  await shows(ann, "#typing", "");

  // The other team. So everything for its page has arrived.
  await add(cat, "meow");
  await shows(cat, "#notes li", "cat meow");
  await shows(cat, "#result", "sent to 1 page");

  // A page that comes later has what the server rendered.
  const late = await enter("ann");
  await shows(late, "#notes li", "bob hello");

  // useConnection: what is added without a connection is fetched when it is back.
  network.cut();
  for (const page of [ann, bob])
    await until(async () => (await page.textContent("#state")) !== "connected");
  await add(ann, "offline");
  await shows(ann, "#result", "sent to 0 pages");
  network.restore();
  await shows(bob, "#notes li", "bob hello", "ann offline");

  await late.close();
  await bob.close();
  await shows(ann, "#here li", "ann");
  await shows(cat, "#notes li", "cat meow");
  assert.deepEqual(errors, []);
}
