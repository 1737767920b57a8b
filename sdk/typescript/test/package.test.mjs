// The package itself. What is in its archive, and its types, `npm run check` looks at.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { program } from "./real-server.mjs";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const manifest = JSON.parse(read("../package.json"));

test("the package, its lock file, the crate and the program have one version", () => {
  assert.equal(manifest.version, /^version = "(.*)"$/m.exec(read("../../../Cargo.toml"))[1]);
  assert.equal(manifest.version, JSON.parse(read("../package-lock.json")).version);
  assert.equal(manifest.version, /\d+\.\d+\.\d+/.exec(execFileSync(program, ["--version"], { encoding: "utf8" }))[0]);
});

test("there is no dependency at run time", () => assert.equal(manifest.dependencies, undefined));

test("every export is named in the README", () => {
  for (const entry of Object.keys(manifest.exports).filter((name) => name !== "./package.json"))
    assert.match(read("../README.md"), new RegExp(`"fanfare${entry.slice(1)}"`), entry);
});
