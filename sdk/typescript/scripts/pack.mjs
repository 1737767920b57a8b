// Makes the package and checks what is in it: its files, its types, its entries, and its version, which is the server's.
// The package stays in the folder that is given, if one is: node scripts/pack.mjs FOLDER
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { publint } from "publint";
import { formatMessage } from "publint/utils";

const root = new URL("../../..", import.meta.url).pathname;
const manifest = JSON.parse(readFileSync("package.json", "utf8"));
const server = /^version = "(.*)"$/m.exec(readFileSync(join(root, "Cargo.toml"), "utf8"))[1];
assert.equal(manifest.version, server, "the package has the version of the server");

for (const name of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(join(root, name), name);

const folder = mkdtempSync(join(tmpdir(), "fanfare-pack-"));
const target = resolve(process.argv[2] ?? folder);
const run = (program, args, options) => execFileSync(program, args, { encoding: "utf8", ...options });

try {
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--silent", "--pack-destination", target]));
  const names = packed.files.map(({ path }) => path).sort();
  const sources = readdirSync("src").map((name) => name.replace(/\.ts$/, ""));
  const expected = [
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "package.json",
    "dist/fanfare.js",
    ...sources.flatMap((entry) => [`dist/${entry}.js`, `dist/${entry}.d.ts`]),
  ].sort();
  assert.deepEqual(names, expected);
  assert.ok(packed.size < 60_000, `the package has ${packed.size} bytes`);

  const { messages } = await publint({ pack: false, strict: true });
  for (const message of messages) console.error(formatMessage(message, manifest));
  assert.equal(messages.length, 0, "publint found nothing");

  const archive = join(target, packed.filename);
  run("npx", ["--no-install", "attw", "--profile", "esm-only", archive]);

  // A project that has the package and nothing else.
  writeFileSync(join(folder, "package.json"), '{"private":true,"type":"module"}');
  run("npm", ["install", "--no-audit", "--no-fund", "--omit=peer", "--offline", archive], { cwd: folder });
  const uses = `
    import { createClient, connect, FanfareError } from "fanfare";
    import { Fanfare, where, fromEnv, signToken, ApiError } from "fanfare/server";
    import { Dispatcher, Message } from "fanfare/dispatcher";
    for (const each of [createClient, connect, FanfareError, Fanfare, where, fromEnv, signToken, ApiError, Dispatcher, Message])
      if (typeof each !== "function") throw new Error("something is missing");
    createClient("wss://nowhere.invalid");
  `;
  run(process.execPath, ["--input-type=module", "--eval", uses], { cwd: folder });

  console.log(
    `${packed.filename}: ${names.length} files, ${packed.size} bytes packed, ${packed.unpackedSize} unpacked`,
  );
} finally {
  rmSync(folder, { recursive: true });
}
