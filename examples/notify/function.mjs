// The functions: from a Request to a Response, as Workers, Deno, Bun, Next.js and Netlify take them.
import { fromEnv, signToken } from "fanfare/server";

// A real application takes the user from its session.
const signedIn = (request) =>
  /user=(\w+)/.exec(request.headers.get("cookie") ?? "")?.[1];

/** `POST /notify` with `{"user", "text"}`: all pages of the user show it. One who is away sees it later. */
async function notify(request, env) {
  const { user, text } = await request.json();
  const receipt = await fromEnv(env).publish(user, "notification", {
    text,
    at: Date.now(),
  });
  return Response.json({ delivered: receipt.queued, stored: receipt.stored });
}

/** `GET /session`: where to connect, and a token for the user of the session. */
async function session(request, env) {
  const user = signedIn(request);
  if (!user) return new Response(null, { status: 401 });
  const token = await signToken(env.FANFARE_TOKEN_SECRET, user, { ttl: 600 });
  return Response.json({
    url: env.FANFARE_URL ?? "http://127.0.0.1:7070",
    token,
  });
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (request.method === "POST" && pathname === "/notify")
      return notify(request, env);
    if (pathname === "/session") return session(request, env);
    return new Response(null, { status: 404 });
  },
};
