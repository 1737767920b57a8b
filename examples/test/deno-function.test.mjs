// A webhook reaches the owner of the row, on every page or later, and nobody else.
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

const WEBHOOK_SECRET = "secret-of-the-webhook";

export default async function (t) {
  const server = await serve(t);
  const folder = await install("deno-function");
  const env = { ...settings(server), WEBHOOK_SECRET, NO_COLOR: "1" };

  const [, port] = await run(
    t,
    folder,
    ["npm", "run", "function"],
    { ...env, FUNCTION_PORT: "0" },
    /Listening on http:\/\/127\.0\.0\.1:(\d+)/,
  );
  const hook = `http://127.0.0.1:${port}`;
  const [url] = await run(
    t,
    folder,
    ["npm", "start"],
    { ...env, FUNCTION_URL: hook, PORT: "0" },
    /http:\S+/,
  );

  const { open, errors } = await browse(t);
  const enter = async (user) => {
    const page = await open(`${url}/?user=${user}`);
    await connected(page);
    return page;
  };
  const shows = (page, ...expected) =>
    until(
      async () =>
        (await texts(page, "#list strong")).join() === expected.join(),
      `the list to be ${expected}`,
    );
  // A webhook as Supabase sends it.
  const change = (body, authorization = `Bearer ${WEBHOOK_SECRET}`) =>
    fetch(hook, {
      method: "POST",
      headers: { "Content-Type": "application/json", authorization },
      body: JSON.stringify({ table: "invoices", schema: "public", ...body }),
    });
  const row = (owner, title) => ({ id: 7, owner, title, status: "paid" });
  const insert = (record) => ({ type: "INSERT", record, old_record: null });

  const [ann, again, bob] = [
    await enter("ann"),
    await enter("ann"),
    await enter("bob"),
  ];
  const answer = await change(insert(row("ann", "Website")));
  assert.deepEqual(await answer.json(), { delivered: 2, stored: 1 });
  for (const page of [ann, again]) await shows(page, "Website");
  assert.deepEqual(await texts(ann, ".status"), ["paid"]);

  // The same by the page, for bob. So everything for him has arrived.
  await bob.selectOption("[name=id]", "2");
  await bob.click("button");
  await shows(bob, "Logo");

  // A deleted row has only an old record.
  const old = { record: null, old_record: row("ann", "Photographs") };
  assert.equal((await change({ type: "DELETE", ...old })).status, 200);
  for (const page of [ann, again]) await shows(page, "Photographs", "Website");

  // One who is away.
  const away = await change(insert(row("cat", "Poster")));
  assert.deepEqual(await away.json(), { delivered: 0, stored: 1 });
  await shows(await enter("cat"), "Poster");

  // Others cannot call the function, and rows of nobody reach nobody.
  const forged = insert(row("ann", "Forged"));
  for (const authorization of ["", "Bearer ", `Bearer ${WEBHOOK_SECRET}x`])
    assert.equal((await change(forged, authorization)).status, 401);
  assert.equal((await change(insert(row(null, "Nobody's")))).status, 400);
  await change(insert(row("ann", "Last")));
  await shows(ann, "Last", "Photographs", "Website");
  await shows(bob, "Logo");
  assert.deepEqual(errors, []);
}
