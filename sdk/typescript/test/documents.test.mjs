// The programs in the documents run as they stand there, against a real server. Only its address is another.
//
// A block that imports from "fanfare" begins a page, and one that imports from "fanfare/server" a function. Further blocks
// belong to the one before. The page runs first, then the function, and then the page has printed what the `text` block
// after it shows. A block marked `not-run` is for another system.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createClient } from "../dist/index.js";
import { Fanfare } from "../dist/server.js";
import { start } from "./real-server.mjs";
import { until } from "./support.mjs";

const docs = new URL("../../../docs/", import.meta.url);
const own = fileURLToPath(new URL("..", import.meta.url));

// tests/it/blocks.rs looks here for the pages whose programs run in this test.
const pages = [
  "docs/guides/channels.md",
  "docs/guides/filters.md",
  "docs/guides/history.md",
  "docs/migrating/ably.md",
  "docs/migrating/agnost.md",
  "docs/migrating/altogic.md",
  "docs/migrating/mesa.md",
  "docs/migrating/pusher.md",
  "docs/migrating/socketio.md",
  "docs/migrating/supabase.md",
  "docs/migrating/web-pubsub.md",
  "docs/migrating/zexcore.md",
];

/** What a page has in Node: its backend's route for tokens, and a WebSocket. */
const preload = `
  import { WebSocket } from "ws";
  globalThis.WebSocket ??= WebSocket;
  const real = globalThis.fetch;
  globalThis.fetch = async (address, init) => {
    if (address !== "/token") return real(address, init);
    const body = JSON.stringify({ user: "ann", claims: { plan: "pro", tenant: "acme" } });
    const headers = { "Content-Type": "application/json" };
    const response = await real(process.env.FANFARE_URL + "/v1/tokens", { method: "POST", headers, body });
    return new Response((await response.json()).token);
  };
`;

/** The programs of a document, each with its functions and the lines that it prints. */
function programs(text) {
  const found = [];
  let last;
  for (const [, info, code] of text.matchAll(/^\`\`\`(\S*)\n(.*?)^\`\`\`/gms)) {
    const program = found.at(-1);
    if (info === "text" && program && program.prints === undefined) program.prints = code;
    if (info !== "js") continue;
    if (/from "fanfare"/.test(code)) found.push((last = { code: "", functions: [] }));
    else if (/from "fanfare\/server"/.test(code)) {
      // A document may have functions only.
      if (!program) found.push({ code: "", functions: [], prints: "" });
      found.at(-1).functions.push((last = { code: "" }));
    }
    last.code += code;
  }
  return found;
}

for (const page of pages)
  test(page, { timeout: 60_000 }, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "fanfare-documents-"));
    t.after(() => rmSync(folder, { recursive: true }));
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(own, join(folder, "node_modules", "fanfare"));
    symlinkSync(join(own, "node_modules", "ws"), join(folder, "node_modules", "ws"));
    writeFileSync(join(folder, "preload.mjs"), preload);

    const found = programs(readFileSync(new URL(`../${page}`, docs), "utf8"));
    assert.ok(found.length > 0);
    for (const { code, functions, prints } of found) {
      assert.ok(prints !== undefined, `what does this print?\n${code}`);
      const server = await start(["--store-user-events"]);
      t.after(() => server.stop());

      const run = (source) => {
        const file = join(folder, "program.mjs");
        const text = `${source}\nconsole.error("ready");`.replaceAll("http://127.0.0.1:7070", server.url);
        writeFileSync(file, text);
        const env = { ...process.env, FANFARE_URL: server.url, NO_COLOR: "1" };
        const child = spawn(process.execPath, ["--import", "./preload.mjs", file], { cwd: folder, env });
        t.after(() => child.kill("SIGKILL"));
        const output = { printed: "", said: "", code: undefined };
        child.stdout.on("data", (data) => (output.printed += data));
        child.stderr.on("data", (data) => (output.said += data));
        child.once("exit", (code) => (output.code = code));
        const isReady = () => {
          if (output.code > 0) throw new Error(`${output.said}\n${source}`);
          return output.said.includes("ready\n");
        };
        return until(isReady, `the end of\n${source}`).then(() => output);
      };

      const output = await run(code);
      for (const each of functions) await run(each.code);
      await until(
        () => output.printed.length >= prints.length || output.code > 0,
        `\n${prints}\nin\n${output.printed}`,
      ).catch(() => {});
      assert.equal(output.printed, prints, output.said);
      await server.stop();
    }
  });

test("the tables name calls that exist", () => {
  const client = createClient("http://127.0.0.1:7070");
  const objects = { client, fanfare: new Fanfare(), room: client.join("room-1") };
  let found = 0;
  for (const page of pages.filter((name) => name.startsWith("docs/migrating/"))) {
    const rows = readFileSync(new URL(`../${page}`, docs), "utf8").match(/^\| .* \|$/gm);
    // The last column is ours.
    for (const cell of rows.map((row) => row.split(/(?<!\\)\|/).at(-2)))
      for (const [call, object, name] of cell.matchAll(/\b(client|fanfare|room)\.(\w+)/g)) {
        assert.ok(name in objects[object], `${page}: ${call}`);
        found += 1;
      }
  }
  assert.ok(found > 100, `${found}`);
});
