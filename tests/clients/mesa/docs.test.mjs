// Every block of docs/protocols/mesa.md does what the page says.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { program, start, startRedis, tokenSecret, until, within } from "../server.mjs";
import { connect, dispatcher, lookAt, Message, startNodes, token } from "./support.mjs";

const page = readFileSync(new URL("../../../docs/protocols/mesa.md", import.meta.url), "utf8");
const blocks = [...page.matchAll(/^( *)```(\w+)\n([\s\S]*?)^\1```/gm)].map(([, indent, language, text]) => ({
  language,
  text: text.replaceAll(new RegExp(`^${indent}`, "gm"), ""),
}));
const block = (language, contains) => {
  const found = blocks.filter(({ language: of, text }) => of === language && text.includes(contains));
  assert.equal(found.length, 1, `one block with ${contains}`);
  return found[0].text;
};

test("the settings and the client at the beginning", async (t) => {
  const node = await start({ flags: ["--token-secret", tokenSecret, "--client-auth", "optional"], config: block("toml", 'path = "/mesa"') });
  t.after(() => node.stop());
  const script = block("js", "new Client").replace("localhost:7070", node.address);
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
    env: { ...process.env, TOKEN: token("0") },
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill());
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  await until("it says hello", () => output.includes("Hello 0"));
  await node.post("/v1/broadcast", { event: "STATUS_UPDATE", data: { status: "online" } });
  await until("it hears an event", () => output.includes("Received STATUS_UPDATE"));
  assert.ok(!output.includes("fanfare:error"), output);
});

test("the flag does the same", async (t) => {
  const node = await start({ flags: ["--token-secret", tokenSecret, "--client-auth", "optional", "--protocol", "mesa"] });
  t.after(() => node.stop());
  const { authenticate } = await connect(t, node);
  assert.equal((await authenticate("0")).id, "0");
});

test("users are added to those who are taken care of", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const [command, ...words] = block("sh", "SADD").trim().split(" ");
  const added = spawnSync(command, ["-p", redis.port, ...words], { encoding: "utf8" });
  assert.equal(added.stdout.trim(), "3", added.stderr);
  const source = dispatcher(t, redis, { sync: { enabled: true } });
  for (let n = 0; n < 20; n += 1) source.dispatch(new Message(0, n, "N"), ["1"]);
  const look = lookAt(t, redis);
  await until("all is stored", async () => JSON.parse((await look.hget("undelivered_messages", "1")) ?? "[]").length === 20);
  const client = await connect(t, node);
  await client.authenticate("1");
  for (let n = 0; n < 20; n += 1) assert.equal((await client.next()).data, n);
});

test("the access rule is enough for a dispatcher", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t);
  const look = lookAt(t, redis);
  await look.call(...block("text", "ACL SETUSER").trim().split(/\s+/));
  await look.call("ACL", "LOG", "RESET");
  const client = await connect(t, node);
  await client.authenticate("0");
  const source = dispatcher(t, { url: redis.url.replace("//", "//mesa:password@") }, { sync: { enabled: true } });
  source.dispatch(new Message(0, 1, "N"), ["0", "stranger"]);
  assert.equal((await client.next()).data, 1);
  await until("the other is stored", () => look.hexists("undelivered_messages", "stranger"));
  assert.deepEqual(await look.call("ACL", "LOG"), []);
});

test("the migration", async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const command = block("sh", "fanfare token").trim();
  const signed = spawnSync("sh", ["-c", command.replace("fanfare", program)], {
    env: { ...process.env, FANFARE_TOKEN_SECRET: tokenSecret }, encoding: "utf8",
  });
  assert.equal(signed.status, 0, signed.stderr);
  const flags = block("sh", "fanfare serve").trim().split(" ").slice(2);
  assert.deepEqual([flags[0], flags[2]], ["--config", "--redis"]);
  const node = await start({
    flags: ["--redis", redis.url, "--token-secret", tokenSecret],
    config: block("toml", 'namespace = "api"'),
  });
  t.after(() => node.stop());
  const client = await connect(t, node);
  const found = await within("the answer", client.client.authenticate({ token: signed.stdout.trim() }));
  assert.equal(found.name, "Ann");
  dispatcher(t, redis, { namespace: "api" }).dispatch(new Message(0, 1, "N"), ["0"]);
  assert.equal((await client.next()).data, 1);
});

test("there is no other block", () => {
  assert.deepEqual(blocks.map(({ language }) => language), ["toml", "js", "sh", "text", "sh", "toml", "sh"]);
});
