// Measures whole clients as a page would ship them: every export, bundled and minified by esbuild, as ES modules.
// `npm ci && npm start` in this folder, after `npm ci && npm run build` in the one above.
import { brotliCompressSync, gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const rows = [
  ["fanfare", "../dist/index.js"],
  ["fanfare/react", "../dist/react.js"],
  ["fanfare/server", "../dist/server.js"],
  ["fanfare/dispatcher", "../dist/dispatcher.js"],
  ...Object.keys(JSON.parse(readFileSync("package.json", "utf8")).dependencies).map((name) => [name, name]),
];

const table = [];
for (const [name, entry] of rows) {
  const { outputFiles } = await build({
    stdin: { contents: `export * from "${entry}";`, resolveDir: "." },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    external: ["react", "redis"],
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
    write: false,
  });
  const { contents } = outputFiles[0];
  const version = entry.startsWith(".") ? "../package.json" : `node_modules/${name}/package.json`;
  table.push({
    name: `${name} ${JSON.parse(readFileSync(version, "utf8")).version}`,
    minified: contents.length,
    gzip: gzipSync(contents, { level: 9 }).length,
    brotli: brotliCompressSync(contents).length,
  });
}

console.log("| package | minified | gzip | brotli |\n| --- | ---: | ---: | ---: |");
for (const { name, minified, gzip, brotli } of table.sort((a, b) => a.gzip - b.gzip))
  console.log(
    `| ${name} | ${minified.toLocaleString("en")} | ${gzip.toLocaleString("en")} | ${brotli.toLocaleString("en")} |`,
  );
