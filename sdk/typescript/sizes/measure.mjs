// Measures whole clients as a page would ship them: every export, bundled and minified by esbuild, as ES modules.
// `npm ci && npm start` in this folder, after `npm ci && npm run build` in the one above, also writes the table into the
// README there.
import { brotliCompressSync, gzipSync } from "node:zlib";
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

// What is measured, and what it is if its name does not say so.
const rows = [
  ["fanfare", "../dist/index.js", "client"],
  ["fanfare/react", "../dist/react.js", "hooks, without the client"],
  ["fanfare/server", "../dist/server.js", "function side"],
  ["fanfare/dispatcher", "../dist/dispatcher.js", "through Redis"],
  ["partysocket", "partysocket/ws", "a socket that reconnects"],
  ["partysocket", "partysocket", "a socket that reconnects, with rooms in its address"],
  ["reconnecting-websocket", "reconnecting-websocket", "a socket that reconnects"],
  ["graphql-ws", "graphql-ws/client", "client of GraphQL subscriptions"],
  ["phoenix", "phoenix"],
  ["socket.io-client", "socket.io-client"],
  ["@azure/web-pubsub-client", "@azure/web-pubsub-client"],
  ["@supabase/realtime-js", "@supabase/realtime-js"],
  ["convex", "convex/browser"],
  ["pusher-js", "pusher-js"],
  ["centrifuge", "centrifuge", "JSON"],
  ["centrifuge", "centrifuge/build/protobuf", "protobuf"],
  ["ably", "ably"],
  ["@nats-io/nats-core", "@nats-io/nats-core"],
  ["@liveblocks/client", "@liveblocks/client"],
  ["@upstash/realtime", "@upstash/realtime/client", "hooks"],
];

// Ably's smallest useful set: its modular client does nothing without plugins.
const parts = `export { BaseRealtime, FetchRequest, WebSocketTransport, RealtimePresence } from "ably/modular";`;

async function measure(name, entry, what, contents) {
  const all = `export * from "${entry}";`;
  // Most have no default export, which `export *` leaves out.
  const { outputFiles } = contents
    ? await bundle(contents)
    : await bundle(`${all} export { default } from "${entry}";`).catch(() => bundle(all));
  const [{ contents: bytes }] = outputFiles;
  const manifest = entry.startsWith(".") ? "../package.json" : `node_modules/${name}/package.json`;
  return {
    name: entry.startsWith(".") ? name : entry,
    version: JSON.parse(readFileSync(manifest, "utf8")).version.replace(/^v/, ""),
    what: what ?? "client",
    sizes: [bytes, gzipSync(bytes, { level: 9 }), brotliCompressSync(bytes)].map(({ length }) => length),
  };
}

function bundle(contents) {
  return build({
    stdin: { contents, resolveDir: "." },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    external: ["react", "react-dom", "redis"],
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "silent",
    write: false,
  });
}

const measured = await Promise.all([
  ...rows.map((row) => measure(...row)),
  measure("ably", "ably/modular", "client, presence and transport only", parts),
]);
const lines = measured
  .sort((a, b) => a.sizes[1] - b.sizes[1])
  .map(({ name, version, what, sizes }) => {
    const label = name.startsWith("fanfare") ? `**${name}**` : name;
    return `| ${label} ${version} | ${what} | ${sizes.map((size) => size.toLocaleString("en")).join(" | ")} |`;
  });
const table = `| package | what | minified | gzip | brotli |\n| --- | --- | ---: | ---: | ---: |\n${lines.join("\n")}\n`;
console.log(table);

const readme = "../README.md";
const [before, after] = [/^[^]*<!-- sizes -->\n/, /<!-- end of sizes -->[^]*$/].map(
  (part) => part.exec(readFileSync(readme, "utf8"))[0],
);
writeFileSync(readme, before + table + after);
