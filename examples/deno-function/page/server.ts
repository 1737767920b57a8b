// What surrounds the function on your machine: the page, tokens for it, and a stand-in for the database and its webhook.
import { signToken } from "fanfare/server";

const env = (name: string, otherwise = "") => Deno.env.get(name) ?? otherwise;
const url = env("FANFARE_URL", "http://127.0.0.1:7070");
const hook = env("FUNCTION_URL", "http://127.0.0.1:8000");

const own = (type: string, name: string) =>
  [type, new URL(name, import.meta.url)] as const;
const files: Record<string, readonly [string, URL]> = {
  "/": own("text/html", "index.html"),
  "/page.js": own("text/javascript", "page.js"),
  "/fanfare.js": own(
    "text/javascript",
    "../node_modules/fanfare/dist/fanfare.js",
  ),
};

/** `GET /session`: where to connect, and a token. With Supabase its own tokens do (see README.md). */
async function session(request: Request): Promise<Response> {
  const cookie = request.headers.get("cookie") ?? "";
  const user = /user=(\w+)/.exec(cookie)?.[1];
  if (!user) return new Response(null, { status: 401 });
  const token = await signToken(env("FANFARE_TOKEN_SECRET"), user);
  return Response.json({ url, token });
}

/** `POST /rows`: what the database does when a row changes. */
function change(request: Request): Promise<Response> {
  return fetch(hook, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      Authorization: `Bearer ${env("WEBHOOK_SECRET")}`,
    },
    body: request.body,
  });
}

Deno.serve(
  {
    hostname: "127.0.0.1",
    port: Number(env("PORT", "8090")),
    onListen: ({ port }) =>
      console.log(`the page is on http://localhost:${port}`),
  },
  async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/session") return session(request);
    if (pathname === "/rows" && request.method === "POST")
      return change(request);

    const [type, file] = files[pathname] ?? [];
    if (!type || !file) return new Response(null, { status: 404 });
    const headers = { "Content-Type": `${type}; charset=utf-8` };
    return new Response(await Deno.readFile(file), { headers });
  },
);
