// Serves the page, and signs in whoever opens it. It needs no packages: the page takes the client from the Fanfare server.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const {
  FANFARE_URL = "http://127.0.0.1:7070",
  FANFARE_API_KEY,
  PORT = "8090",
} = process.env;

const files = {
  "/": ["index.html", "text/html"],
  "/chat.js": ["chat.js", "text/javascript"],
};

// A Fanfare server without API keys signs tokens for everyone on its machine. With keys it asks for one.
async function signToken(user) {
  const headers = { "Content-Type": "application/json" };
  // A server takes several keys, separated by commas. Any of them is good.
  const key = FANFARE_API_KEY?.split(",")[0].trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const can = {
    join: ["room-*"],
    send: ["room-*"],
    members: ["room-*"],
    update: true,
  };
  const response = await fetch(new URL("/v1/tokens", FANFARE_URL), {
    method: "POST",
    headers,
    body: JSON.stringify({ user, can, ttl: 600 }),
  });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()).token;
}

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  try {
    if (pathname === "/session") {
      // A real application takes the user from its session. Here visitors choose a name.
      const user = searchParams.get("name")?.slice(0, 30) || "anonymous";
      const session = { url: FANFARE_URL, token: await signToken(user) };
      response.setHeader("Content-Type", "application/json");
      return response.end(JSON.stringify(session));
    }

    const [file, type] = files[pathname] ?? [];
    if (!file) return response.writeHead(404).end();
    response.setHeader("Content-Type", `${type}; charset=utf-8`);
    response.end(await readFile(new URL(file, import.meta.url)));
  } catch (error) {
    console.error(error);
    response.writeHead(502);
    response.end(`no token from ${FANFARE_URL}: ${error.message}`);
  }
}).listen(Number(PORT), "127.0.0.1", function () {
  console.log(`the chat is on http://localhost:${this.address().port}`);
});
