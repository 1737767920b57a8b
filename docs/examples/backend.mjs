// A backend with two routes: pages fetch a token from /token, and /notify sends them an event. It needs no package.
import { createServer } from "node:http";
import { createHmac, randomUUID } from "node:crypto";

const fanfare = process.env.FANFARE_URL ?? "http://127.0.0.1:7070";
const apiKey = process.env.FANFARE_API_KEY;
const secret = process.env.FANFARE_TOKEN_SECRET;
const page = process.env.PAGE_ORIGIN ?? "http://localhost:8090";

// Replace this with your own session check: it returns the signed-in user of a request.
const signedIn = (request) => /session=(\w+)/.exec(request.headers.cookie ?? "")?.[1];

// A token is a JSON Web Token (HS256). Libraries such as jose and jsonwebtoken make the same.
function token(user, claims) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const body = `${encode({ alg: "HS256" })}.${encode({ sub: user, iat: now, exp: now + 600, ...claims })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

// One HTTP request reaches every client for which the filter is true.
// The key makes a repeat harmless: it returns the first answer and sends nothing.
async function emit(event, data, filter, params) {
  const headers = {
    "Content-Type": "application/json",
    Authorization: `Bearer ${apiKey}`,
    "Idempotency-Key": randomUUID(),
  };
  const body = JSON.stringify({ event, data, filter, params });

  for (let attempt = 1; ; attempt += 1) {
    const request = { method: "POST", headers, body, signal: AbortSignal.timeout(5000) };
    const response = await fetch(`${fanfare}/v1/emit`, request).catch((error) => ({ error }));
    if (response.ok) return response.json();

    // Worth repeating: no answer at all, 500 and 503.
    const mayRepeat = response.error || response.status >= 500;
    if (attempt === 3 || !mayRepeat) throw response.error ?? new Error(await response.text());
    await new Promise((done) => setTimeout(done, 500 * attempt));
  }
}

createServer(async (request, response) => {
  // The page is on another origin than this backend, and sends its cookie along.
  response.setHeader("Access-Control-Allow-Origin", page);
  response.setHeader("Access-Control-Allow-Credentials", "true");

  const user = signedIn(request);
  if (!user) return response.writeHead(401).end();

  if (request.url === "/token") {
    return response.end(token(user, { plan: "pro", can: { join: ["room-*"], send: ["room-*"], members: ["room-*"] } }));
  }
  if (request.url === "/notify" && request.method === "POST") {
    const receipt = await emit("alert", { text: "Hello" }, "auth.plan == params.plan", { plan: "pro" })
      .catch((error) => console.error("not sent:", error));
    if (!receipt) return response.writeHead(502).end();
    return response.end(`${receipt.matched}\n`);
  }
  response.writeHead(404).end();
}).listen(Number(process.env.PORT ?? 8091), "127.0.0.1");
