// Makes the client as one file, for pages without a bundler: `import { connect } from "/fanfare.js"`.
// The server has a copy of it in src/http. `node scripts/bundle.mjs --check` says whether the copy is this file, and
// `--write` makes it so.
import { copyFileSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const made = "dist/fanfare.js";
const copy = new URL("../../../src/http/fanfare.js", import.meta.url);

await build({
  entryPoints: ["dist/index.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outfile: made,
});

if (process.argv.includes("--write")) copyFileSync(made, copy);
if (process.argv.includes("--check")) {
  const bytes = readFileSync(made);
  if (!bytes.equals(readFileSync(copy))) {
    console.error("src/http/fanfare.js is not this client: run npm run bundle, and commit it");
    process.exit(1);
  }
  console.log(`fanfare.js: ${bytes.length} B, ${gzipSync(bytes, { level: 9 }).length} B gzipped, as in src/http`);
}
