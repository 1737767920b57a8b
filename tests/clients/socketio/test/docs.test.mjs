// The programs of docs/protocols/socketio.md run as they stand there. Only the server's address is another.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { apiKey, start, tokenSecret, until } from "../../server.mjs";

const page = readFileSync(new URL("../../../../docs/protocols/socketio.md", import.meta.url), "utf8");
const programs = [...page.matchAll(/^```js\n([\s\S]*?)^```/gm)].map(([, text]) => text);

/** Runs a program in Node, in which the client is installed. */
function run(t, server, text) {
  const source = text.replaceAll("http://127.0.0.1:7070", server.url);
  const child = spawn(process.execPath, ["--input-type=module", "--eval", source], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill());
  const output = { printed: "", said: "" };
  child.stdout.on("data", (data) => (output.printed += data));
  child.stderr.on("data", (data) => (output.said += data));
  return output;
}

test("the client at the beginning joins, sends, and gets what it sent", async (t) => {
  const server = await start({ flags: ["--protocol", "socketio"] });
  t.after(() => server.stop());
  const output = run(t, server, programs[0]);
  await until("it gets its event", () => output.printed.includes("room-1 { text: 'hi' }"));
});

test("a client with a bad token says why it cannot connect", async (t) => {
  const flags = ["--protocol", "socketio", "--api-key", apiKey, "--token-secret", tokenSecret];
  const server = await start({ flags });
  t.after(() => server.stop());
  const output = run(t, server, programs[1]);
  await until("it is refused", () => output.said.includes("4001"));
});

test("an event has its place as the second argument", async (t) => {
  const server = await start({ flags: ["--protocol", "socketio"] });
  t.after(() => server.stop());
  assert.equal(programs.length, 3);
  const listening = programs[2].replace(/\/\/ about: .*/, "console.log(data, about);");
  const output = run(t, server, programs[0].replace(/socket\.on\("chat".*/, listening));
  await until("it gets its event", () => /\{ text: 'hi' \} \{[^}]*channel: 'room-1'/s.test(output.printed));
});
