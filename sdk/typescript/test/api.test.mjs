// The function side with a real server: what a developer sees who makes a mistake, and calls that change clients.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { after, test } from "node:test";
import { Fanfare, fromEnv, signToken, where } from "../dist/server.js";
import { key, secret, startServer } from "./real-server.mjs";
import { clientOf, stateOf, until } from "./support.mjs";

const server = await startServer();
after(() => server.stop());
const fanfare = new Fanfare({ url: server.url, key });

test("what the README shows of a refusal is what the server says", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [, shown] = /message shows the mistake:\s+```text\n(.*?)\n```/s.exec(readme);
  const filter = shown.split("\n").at(-2);
  await assert.rejects(fanfare.emit("a", 1, { filter }), { code: "undeclared_name", message: shown });
});

test("a value without quotes matches, as where asks for", async (t) => {
  const token = () => signToken(secret, "ann", { claims: { plan: "pro" } });
  const { client } = clientOf(t, server, { token });
  await client.connect();
  const plan = "pro";
  assert.equal((await fanfare.emit("a", 1, where`auth.plan == ${plan}`)).matched, 1);
  assert.equal((await fanfare.emit("a", 1, { filter: `auth.plan == 'free'` })).matched, 0);
});

test("without a key the variable to set is named", async () => {
  const without = fromEnv({ FANFARE_URL: server.url });
  await assert.rejects(without.emit("a"), { code: "unauthorized", status: 401, message: /set FANFARE_API_KEY/ });
  const wrong = fromEnv({ FANFARE_URL: server.url, FANFARE_API_KEY: "another-key-of-a-caller" });
  const error = await wrong.emit("a").catch((reason) => reason);
  assert.equal(error.message, "the API key is not known");
});

test("a list of keys that the server takes is one for callers, too", async (t) => {
  const keys = "first-key-for-callers,second-key-for-callers";
  const several = await startServer(["--api-key", keys]);
  t.after(() => several.stop());
  assert.equal((await fromEnv({ FANFARE_URL: several.url, FANFARE_API_KEY: keys }).broadcast("a")).matched, 0);
});

test("a server that is down is told apart from one that hangs", async () => {
  const probe = createServer();
  await new Promise((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));

  for (const host of ["127.0.0.1", "localhost"]) {
    const down = new Fanfare({ url: `http://${host}:${port}`, retries: 0 });
    await assert.rejects(down.emit("a"), { code: "network", message: /ECONNREFUSED/ });
  }
});

test("auth replaces the claims of a user, and revoke ends the connections", async (t) => {
  const { client } = clientOf(t, server, { token: await signToken(secret, "bob", { claims: { plan: "free" } }) });
  await client.connect();

  assert.equal((await fanfare.auth("bob", { plan: "pro" })).connections, 1);
  assert.equal((await fanfare.emit("a", 1, where`user == ${"bob"} && auth.plan == ${"pro"}`)).matched, 1);

  // A token of this second is one that was issued by now.
  await until(async () => (await fanfare.revoke(["bob"])).disconnected === 1);
  assert.equal((await stateOf(client, "closed")).code, 4001);
});

test("a node says how it is", async () => {
  assert.deepEqual(await fanfare.healthz(), { status: "ok" });
  assert.deepEqual(await fanfare.livez(), { status: "ok" });
  assert.equal((await fanfare.readyz({ scope: "node" })).ready, true);
  assert.match((await fanfare.openapi()).openapi, /^3\.1/);
});
