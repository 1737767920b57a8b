// Runs the examples as a user does: the real server, the real runtime, and pages in Chromium.
//
//     node test.mjs                 all of them
//     node test.mjs chat notify     those that are named
//
// FANFARE_BIN names the server, CHROMIUM the browser.
import { readdirSync } from "node:fs";
import { test } from "node:test";

const folder = new URL("test/", import.meta.url);
const all = readdirSync(folder)
  .map((file) => /^([a-z-]+)\.test\.mjs$/.exec(file)?.[1])
  .filter(Boolean)
  .sort();
const names = process.argv.length > 2 ? process.argv.slice(2) : all;

const unknown = names.filter((name) => !all.includes(name));
if (unknown.length) {
  console.error(
    `there is no test of ${unknown.join(", ")}; there are ${all.join(", ")}`,
  );
  process.exit(2);
}

for (const name of names) {
  const { default: run } = await import(
    new URL(`${name}.test.mjs`, folder).href
  );
  test(`examples/${name}`, { timeout: 600_000 }, run);
}
