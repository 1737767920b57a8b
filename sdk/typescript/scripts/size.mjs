// Measures every entry as an application would ship it, and fails if one is over its bound.
import { gzipSync, brotliCompressSync } from "node:zlib";
import { build } from "esbuild";

// Bytes after gzip -9.
const bounds = { index: 5000, server: 4100, react: 1500, dispatcher: 1500 };
let failed = false;

for (const [entry, bound] of Object.entries(bounds)) {
  const { outputFiles } = await build({
    entryPoints: [`dist/${entry}.js`],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    external: ["react", "redis"],
    write: false,
  });
  const [{ contents }] = outputFiles;
  const gzipped = gzipSync(contents, { level: 9 }).length;
  const brotli = brotliCompressSync(contents).length;
  const verdict = gzipped > bound ? `over the bound of ${bound}` : `of ${bound}`;
  console.log(`${entry}: ${contents.length} B minified, ${gzipped} B gzipped ${verdict}, ${brotli} B brotli`);
  failed ||= gzipped > bound;
}

process.exit(failed ? 1 : 0);
