// The function side: filters, repeats, errors, tokens. The server is a `fetch` of the test.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { ApiError, Fanfare, FanfareError, fromEnv, signToken, where } from "../dist/server.js";

const receipt = {
  id: "1",
  matched: 1,
  queued: 1,
  dropped: 0,
  stored: 0,
  filter_errors: 0,
  nodes: 1,
  missing_nodes: [],
};
const json = (status, body, headers) => new Response(JSON.stringify(body), { status, headers });
const problem = (status, code, more, headers) =>
  json(status, { status, code, detail: `it is ${code}`, ...more }, headers);

/** A function side whose server gives these answers, one after another, and the requests that it got. */
function fake(answers, options) {
  const requests = [];
  const send = async (url, init) => {
    requests.push({ url, ...init, body: init.body && JSON.parse(init.body) });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (typeof answer === "function") return answer(init);
    if (answer instanceof Error) throw answer;
    return answer.clone();
  };
  return {
    fanfare: new Fanfare({ url: "https://events.example.com/", key: "secret", fetch: send, ...options }),
    requests,
  };
}

test("where binds values and leaves the text constant", () => {
  const tenant = `" || true || "`;
  const { filter, params } = where`auth.tenant == ${tenant} && user in ${["a", "b"]}`;
  assert.equal(filter, "auth.tenant == params.p0 && user in params.p1");
  assert.deepEqual(params, { p0: tenant, p1: ["a", "b"] });
});

test("where composes, and numbers the params of all parts", () => {
  const mine = where`auth.tenant == ${"acme"}`;
  const all = where`${mine} && !(${where`user == ${"bob"} || user == ${"eve"}`}) && profile.n > ${3}`;
  assert.equal(
    all.filter,
    "(auth.tenant == params.p0) && !((user == params.p1 || user == params.p2)) && profile.n > params.p3",
  );
  assert.deepEqual(all.params, { p0: "acme", p1: "bob", p2: "eve", p3: 3 });
  assert.deepEqual(mine.params, { p0: "acme" });
  assert.equal(where`true`.filter, "true");
});

test("where refuses a value that is empty by mistake", () => {
  assert.throws(() => where`auth.tenant == ${undefined}`, /value 1 of the filter is undefined/);
  assert.throws(() => where`user == ${"a"} && auth.tenant == ${null}`, /value 2 of the filter is null/);
});

test("every publishing call has the body that the API describes", async () => {
  const { fanfare, requests } = fake([json(200, receipt)]);
  assert.deepEqual(await fanfare.emit("a", { n: 1 }, { ...where`user == ${"ann"}`, receipt: "cluster" }), receipt);
  await fanfare.publish("ann", "a");
  await fanfare.publish(["ann", "bob"], "a", null);
  await fanfare.send("room-1", "a", 1, { store: false });
  await fanfare.send(["room-1", "room-2"], "a", new Uint8Array([0, 255]));
  await fanfare.broadcast("a", new Uint8Array([1, 2, 3]).buffer);
  await fanfare.dispatch(["*"], "a", 1, { except: ["ann"] });

  assert.deepEqual(
    requests.map(({ url, body }) => [new URL(url).pathname, body]),
    [
      [
        "/v1/emit",
        { event: "a", data: { n: 1 }, filter: "user == params.p0", params: { p0: "ann" }, receipt: "cluster" },
      ],
      ["/v1/publish", { user: "ann", event: "a" }],
      ["/v1/publish", { users: ["ann", "bob"], event: "a", data: null }],
      ["/v1/send", { channel: "room-1", event: "a", data: 1, store: false }],
      ["/v1/send", { channels: ["room-1", "room-2"], event: "a", data_base64: "AP8=" }],
      ["/v1/broadcast", { event: "a", data_base64: "AQID" }],
      ["/v1/dispatch", { recipients: ["*"], event: "a", data: 1, except: ["ann"] }],
    ],
  );
  for (const { headers } of requests) {
    assert.equal(headers.Authorization, "Bearer secret");
    assert.equal(headers["Content-Type"], "application/json");
    assert.match(headers["Idempotency-Key"], /^[0-9a-f-]{36}$/);
  }
  assert.equal(new Set(requests.map(({ headers }) => headers["Idempotency-Key"])).size, requests.length);
});

test("large bytes do not overflow the stack", async () => {
  const { fanfare, requests } = fake([json(200, receipt)]);
  const bytes = new Uint8Array(150_000).map((_, n) => n);
  await fanfare.broadcast("a", bytes);
  assert.deepEqual(new Uint8Array(Buffer.from(requests[0].body.data_base64, "base64")), bytes);
});

test("a call is repeated with the same key after a network error, a 500 and a 503", async () => {
  const { fanfare, requests } = fake(
    [new TypeError("fetch failed"), problem(500, "internal"), problem(503, "busy"), json(200, receipt)],
    { retries: 3 },
  );
  await fanfare.emit("a", 1);
  assert.equal(requests.length, 4);
  assert.equal(new Set(requests.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
});

test("Retry-After is waited for", async () => {
  const { fanfare } = fake([problem(503, "busy", {}, { "retry-after": "1" }), json(200, receipt)]);
  const began = performance.now();
  await fanfare.emit("a", 1);
  assert.ok(performance.now() - began >= 450);
});

test("a refusal is not repeated, and shows the mistake", async () => {
  const excerpt = "atuh.email == 'x'\n^^^^";
  const { fanfare, requests } = fake([problem(400, "undeclared_name", { offset: 0, length: 4, excerpt })]);
  const error = await fanfare.emit("a", 1, { filter: "atuh.email == 'x'" }).catch((reason) => reason);
  assert.ok(error instanceof ApiError && error instanceof FanfareError);
  assert.deepEqual([error.code, error.status, error.offset, error.length], ["undeclared_name", 400, 0, 4]);
  assert.equal(error.message, `it is undeclared_name\n${excerpt}`);
  assert.equal(requests.length, 1);
});

test("the last failure is what a call rejects with", async () => {
  const busy = fake([problem(503, "busy", {}, { "retry-after": "7" })], { retries: 0 });
  await assert.rejects(busy.fanfare.emit("a", 1), { code: "busy", status: 503, retryAfter: 7 });
  const away = fake([new TypeError("refused")], { retries: 1 });
  await assert.rejects(away.fanfare.emit("a", 1), { code: "network", message: /refused/ });
  assert.equal(away.requests.length, 2);
});

test("an answer of a proxy is an error as well", async () => {
  const { fanfare } = fake([new Response("<h1>Bad Gateway</h1>", { status: 502 })]);
  await assert.rejects(fanfare.emit("a", 1), { code: "unknown", status: 502 });
});

test("an attempt that takes too long is repeated, and then a timeout", async () => {
  const hang = (init) =>
    new Promise((_, reject) => init.signal.addEventListener("abort", () => reject(init.signal.reason)));
  const { fanfare, requests } = fake([hang], { timeout: 20, retries: 1 });
  await assert.rejects(fanfare.emit("a", 1), { code: "timeout" });
  assert.equal(requests.length, 2);
});

test("a signal ends a call, in an attempt and between two", async () => {
  const controller = new AbortController();
  const hang = (init) =>
    new Promise((_, reject) => init.signal.addEventListener("abort", () => reject(init.signal.reason)));
  const { fanfare } = fake([hang]);
  const call = fanfare.emit("a", 1, { signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  await assert.rejects(fanfare.emit("a", 1, { signal: controller.signal }), /enough/);

  const waiting = new AbortController();
  const { fanfare: busy, requests } = fake([problem(503, "busy", {}, { "retry-after": "60" })]);
  const second = busy.emit("a", 1, { signal: waiting.signal });
  setTimeout(() => waiting.abort(new Error("enough")), 30);
  await assert.rejects(second, /enough/);
  assert.equal(requests.length, 1);
});

test("lists go through every page", async () => {
  const pages = [
    json(200, { connections: [{ id: "a" }, { id: "b" }], cursor: "next&page" }),
    json(200, { connections: [{ id: "c" }] }),
  ];
  const { fanfare, requests } = fake(pages);
  const found = [];
  for await (const { id } of fanfare.connections({ ...where`user == ${"ann"}`, limit: 2 })) found.push(id);
  assert.deepEqual(found, ["a", "b", "c"]);
  const [first, second] = requests.map(({ url }) => Object.fromEntries(new URL(url).searchParams));
  assert.deepEqual(first, { filter: "user == params.p0", params: '{"p0":"ann"}', limit: "2" });
  assert.equal(second.cursor, "next&page");
});

test("names in a path are encoded", async () => {
  const { fanfare, requests } = fake([json(200, { online: false, connections: 0 })]);
  await fanfare.user("ann/../x?y");
  assert.equal(requests[0].url, "https://events.example.com/v1/users/ann%2F..%2Fx%3Fy");
});

test("any other call can be made", async () => {
  const { fanfare, requests } = fake([json(200, { revoked: 1 })]);
  assert.deepEqual(await fanfare.request("POST", "/v1/revoke", { user: "ann" }), { revoked: 1 });
  assert.deepEqual(requests[0].body, { user: "ann" });
});

test("fromEnv reads the environment, or that of a worker", async () => {
  process.env.FANFARE_URL = "http://one.example";
  let asked;
  const send = async (url) => ((asked = url), json(200, receipt));
  await fromEnv(undefined, { fetch: send }).emit("a");
  assert.equal(asked, "http://one.example/v1/emit");
  delete process.env.FANFARE_URL;

  await fromEnv({ FANFARE_URL: "http://two.example" }, { fetch: send }).emit("a");
  assert.equal(asked, "http://two.example/v1/emit");
  await fromEnv({}, { fetch: send }).emit("a");
  assert.equal(asked, "http://127.0.0.1:7070/v1/emit");
});

test("signToken makes what a library for JSON Web Tokens makes", async () => {
  const secret = "x".repeat(32);
  const token = await signToken(secret, "änn", {
    claims: { plan: "pro", sub: "eve" },
    can: { join: ["room-*"] },
    ttl: 60,
  });
  const [header, payload, signature] = token.split(".");
  assert.equal(signature, createHmac("sha256", secret).update(`${header}.${payload}`).digest("base64url"));

  const claims = JSON.parse(Buffer.from(payload, "base64url"));
  assert.equal(claims.exp - claims.iat, 60);
  assert.deepEqual(
    { ...claims, exp: 0, iat: 0 },
    { plan: "pro", can: { join: ["room-*"] }, sub: "änn", iat: 0, exp: 0 },
  );
  assert.deepEqual(JSON.parse(Buffer.from(header, "base64url")), { alg: "HS256", typ: "JWT" });

  await assert.rejects(signToken("short", "ann"), { code: "bad_secret" });
  await assert.rejects(signToken(undefined, "ann"), { code: "bad_secret" });
  await assert.rejects(signToken(secret, ""), { code: "bad_user" });
});

test("neither import nor construction needs anything", () => {
  new Fanfare();
  fromEnv({});
});
