// Serves the page, the client and tokens. Run it with the FANFARE_URL and FANFARE_TOKEN_SECRET of the Fanfare server.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { signToken } from "fanfare/server";

const {
  FANFARE_URL = "http://127.0.0.1:7070",
  FANFARE_TOKEN_SECRET,
  PORT = "8090",
} = process.env;

const own = (type, name) => [type, new URL(name, import.meta.url)];
const files = {
  "/": own("text/html", "index.html"),
  "/cursors.js": own("text/javascript", "cursors.js"),
  "/newest.js": own("text/javascript", "newest.js"),
  "/fanfare.js": [
    "text/javascript",
    new URL("fanfare.js", import.meta.resolve("fanfare")),
  ],
};

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  try {
    if (pathname === "/session") {
      // A real application takes the user from its session. Here visitors choose a name.
      const user = searchParams.get("name")?.slice(0, 30) || "anonymous";
      const can = {
        join: ["cursors"],
        send: ["cursors"],
        members: ["cursors"],
        update: true,
      };
      const token = await signToken(FANFARE_TOKEN_SECRET, user, {
        can,
        ttl: 600,
      });
      response.setHeader("Content-Type", "application/json");
      return response.end(JSON.stringify({ url: FANFARE_URL, token }));
    }

    const [type, file] = files[pathname] ?? [];
    if (!file) return response.writeHead(404).end();
    response.setHeader("Content-Type", `${type}; charset=utf-8`);
    response.end(await readFile(fileURLToPath(file)));
  } catch (error) {
    console.error(error);
    response.writeHead(500).end();
  }
}).listen(Number(PORT), "127.0.0.1", function () {
  console.log(`the page is on http://localhost:${this.address().port}`);
});
