// Serves the page, and runs the functions of function.mjs in Node.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import functions from "./function.mjs";

const files = {
  "/": ["text/html", new URL("index.html", import.meta.url)],
  "/page.js": ["text/javascript", new URL("page.js", import.meta.url)],
  "/fanfare.js": [
    "text/javascript",
    new URL("fanfare.js", import.meta.resolve("fanfare")),
  ],
};

createServer(async (incoming, outgoing) => {
  try {
    const [type, file] =
      files[new URL(incoming.url, "http://localhost").pathname] ?? [];
    if (file) {
      outgoing.setHeader("Content-Type", `${type}; charset=utf-8`);
      return outgoing.end(await readFile(fileURLToPath(file)));
    }

    const { method, headers } = incoming;
    const chunks = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const body = method === "POST" ? Buffer.concat(chunks) : undefined;
    const request = new Request(`http://localhost${incoming.url}`, {
      method,
      headers,
      body,
    });

    const response = await functions.fetch(request, process.env);
    outgoing.writeHead(response.status, Object.fromEntries(response.headers));
    outgoing.end(await response.text());
  } catch (error) {
    console.error(error);
    outgoing.writeHead(500).end();
  }
}).listen(Number(process.env.PORT ?? 8090), "127.0.0.1", function () {
  console.log(`the page is on http://localhost:${this.address().port}`);
});
