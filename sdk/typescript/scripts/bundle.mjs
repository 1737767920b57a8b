// Makes the client as one file, for pages without a bundler: `import { connect } from "/fanfare.js"`.
import { build } from "esbuild";

await build({
  entryPoints: ["dist/index.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outfile: "dist/fanfare.js",
});
