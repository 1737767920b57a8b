// The function side: filters, repeats, errors, tokens. The server is a `fetch` of the test.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ApiError, Fanfare, FanfareError, fromEnv, signToken, where } from "../dist/server.js";

const openapi = JSON.parse(readFileSync(new URL("../../../docs/openapi.json", import.meta.url), "utf8"));
const secret = "x".repeat(32);

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

test("where takes its text as it is written", () => {
  assert.equal(where`user.matches("^\\d+$")`.filter, String.raw`user.matches("^\\d+$")`);
  assert.equal(where`user.matches(r"^\d+$")`.filter, String.raw`user.matches(r"^\d+$")`);
});

test("where refuses a value that is empty by mistake", () => {
  assert.throws(() => where`auth.tenant == ${undefined}`, /value 1 of the filter is undefined/);
  assert.throws(() => where`user == ${"a"} && auth.tenant == ${null}`, /value 2 of the filter is null/);
});

test("where refuses a value in quotes or in a comment", () => {
  const plan = "pro";
  for (const make of [
    () => where`auth.plan == '${plan}'`,
    () => where`auth.plan == "a ${plan} b"`,
    () => where`auth.plan == "\" ${plan}"`,
    () => where`auth.plan == r"\" || auth.plan == "${plan}"`,
    () => where`auth.plan == """a "quoted" ${plan}"""`,
    () => where`auth.plan == "pro" // ${plan}`,
  ])
    assert.throws(make, /value 1 of the filter is in quotes or in a comment: write \$\{…\} without quotes/);
  assert.throws(() => where("auth.plan == 'pro'"), { name: "TypeError", message: /where is a tag/ });
  assert.throws(() => where(undefined), /where is a tag/);
  assert.throws(() => where`user == ${"ann"} && auth.plan == '${plan}'`, /value 2 of the filter is in quotes/);

  for (const { filter } of [
    where`auth.plan in ["", "it's"] && user == ${plan} && auth.x == ''`,
    where`auth.plan == r"\" || user == ${plan} || auth.x == "y"`,
    where`user == "a" // a comment with a "quote
          || user == ${plan}`,
  ])
    assert.match(filter, /user == params\.p0/);
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
  const waited = performance.now() - began;
  assert.ok(waited >= 1000, `it waited ${waited} ms`);
});

test("a pause of more than 30 s is not waited for", async () => {
  const { fanfare, requests } = fake([problem(503, "busy", {}, { "retry-after": "31" })]);
  await assert.rejects(fanfare.emit("a", 1), { code: "busy", status: 503, retryAfter: 31 });
  assert.equal(requests.length, 1);
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
  const { fanfare: busy, requests } = fake([problem(503, "busy", {}, { "retry-after": "20" })]);
  const second = busy.emit("a", 1, { signal: waiting.signal });
  setTimeout(() => waiting.abort(new Error("enough")), 30);
  await assert.rejects(second, /enough/);
  assert.equal(requests.length, 1);
});

test("a text in place of options is refused before the request", async () => {
  const { fanfare, requests } = fake([json(200, receipt)]);
  const says = {
    name: "TypeError",
    message: /options are an object, not a string: write a filter as \{ filter: "…" \}/,
  };
  await assert.rejects(fanfare.emit("a", 1, "auth.plan == 'pro'"), says);
  await assert.rejects(fanfare.join("room-1", "user == 'ann'"), says);
  await assert.rejects(fanfare.connections("user == 'ann'").next(), says);
  assert.equal(requests.length, 0);
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

test("names that fetch would resolve are refused before the request", async () => {
  const { fanfare, requests } = fake([json(200, {})]);
  for (const name of [".", ".."]) {
    const says = {
      name: "FanfareError",
      code: "bad_path",
      message: new RegExp(`the name "${name.replaceAll(".", "\\.")}"`),
    };
    await assert.rejects(fanfare.user(name), says);
    await assert.rejects(fanfare.channel(name), says);
    await assert.rejects(fanfare.connection(name), says);
    await assert.rejects(fanfare.members(name).next(), says);
    await assert.rejects(fanfare.history(name).next(), says);
  }
  await assert.rejects(fanfare.request("GET", "/v1/users/%2E%2e?x"), { code: "bad_path" });
  assert.equal(requests.length, 0);

  // What only looks like them is a name.
  for (const name of ["...", ".a", "a..", "%2E"]) await fanfare.user(name);
  assert.equal(new URL(requests[0].url).pathname, "/v1/users/...");
  await fanfare.request("GET", "/v1/channels?prefix=/..");
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

test("fromEnv uses the first of several keys, and takes an empty variable for unset", async () => {
  let asked;
  const send = async (url, { headers }) => ((asked = [url, headers.Authorization]), json(200, receipt));
  await fromEnv({ FANFARE_URL: "", FANFARE_API_KEY: " one-key , another-key" }, { fetch: send }).emit("a");
  assert.deepEqual(asked, ["http://127.0.0.1:7070/v1/emit", "Bearer one-key"]);
  await fromEnv({ FANFARE_API_KEY: "" }, { fetch: send }).emit("a");
  assert.equal(asked[1], undefined);
});

test("an address without http:// or https:// is refused, and shown once", async () => {
  for (const url of ["events.example.com", "127.0.0.1:7070", "wss://events.example.com"]) {
    const { code, message } = await fromEnv({ FANFARE_URL: url })
      .emit("a")
      .catch((error) => error);
    assert.equal(code, "bad_url");
    assert.match(message, /must begin with http:\/\/ or https:\/\//);
    assert.equal(message.split(url).length, 2, message);
  }
});

test("a key that cannot be a header is refused, and not shown", async () => {
  const error = await new Fanfare({ key: "secret\nkey" }).emit("a").catch((reason) => reason);
  assert.equal(error.code, "bad_key");
  assert.doesNotMatch(error.message, /secret/);
});

test("a failure does not show the query, which has the params of a filter", async () => {
  const { fanfare } = fake([new TypeError("fetch failed")], { retries: 0 });
  const error = await fanfare
    .connections(where`auth.email == ${"ann@example.com"}`)
    .next()
    .catch((reason) => reason);
  assert.match(
    error.message,
    /no answer from https:\/\/events\.example\.com\/v1\/connections: TypeError: fetch failed/,
  );
});

test("signToken makes what a library for JSON Web Tokens makes", async () => {
  const token = await signToken(secret, "änn", { claims: { plan: "pro" }, can: { join: ["room-*"] }, ttl: 60 });
  const [header, payload, signature] = token.split(".");
  assert.equal(signature, createHmac("sha256", secret).update(`${header}.${payload}`).digest("base64url"));

  const claims = JSON.parse(Buffer.from(payload, "base64url"));
  assert.equal(claims.exp - claims.iat, 60);
  assert.deepEqual(
    { ...claims, exp: 0, iat: 0 },
    { plan: "pro", can: { join: ["room-*"] }, sub: "änn", iat: 0, exp: 0 },
  );
  assert.deepEqual(JSON.parse(Buffer.from(header, "base64url")), { alg: "HS256", typ: "JWT" });
});

test("signToken refuses what cannot be meant", async () => {
  const refused = (options, code, message) => assert.rejects(signToken(secret, "ann", options), { code, message });

  await assert.rejects(signToken("short", "ann"), { code: "bad_secret", message: /at least 32 bytes/ });
  const unset = "the secret is undefined: is FANFARE_TOKEN_SECRET set?";
  await assert.rejects(signToken(undefined, "ann"), { code: "bad_secret", message: unset });
  await assert.rejects(signToken(new Uint8Array(32), "ann"), { code: "bad_secret", message: /must be a string/ });
  for (const user of ["", undefined, 7, "ä".repeat(129)])
    await assert.rejects(signToken(secret, user), { code: "bad_user", message: /a string of 1 to 256 bytes/ });

  await refused({ ttl: "10m" }, "bad_ttl", 'ttl is a whole number of seconds, such as 600, not "10m"');
  for (const ttl of [1.5, NaN, Infinity, null]) await refused({ ttl }, "bad_ttl", /a whole number of seconds/);

  for (const name of ["sub", "iat", "exp", "can"])
    await refused({ claims: { [name]: 1 } }, "bad_claims", `"${name}" cannot be among the claims: signToken sets it`);
  await refused({ claims: "plan" }, "bad_claims", /claims are an object, not a string/);
  await refused({ plan: "pro" }, "bad_claims", 'unknown option "plan"; claims are { claims: { plan: … } }');
  await refused({ claim: {} }, "bad_claims", 'unknown option "claim"; did you mean "claims"?');
  await refused("pro", "bad_claims", /options are an object, not "pro"/);

  await refused({ can: { jion: ["*"] } }, "bad_can", 'unknown right "jion"; did you mean "join"?');
  await refused({ can: { brodcast: true } }, "bad_can", 'unknown right "brodcast"; did you mean "broadcast"?');
  await refused({ can: { read: ["*"] } }, "bad_can", /unknown right "read"; rights are join, send, members/);
  await refused({ can: { join: "room-1" } }, "bad_can", 'the right "join" must be a list of strings');
  await refused({ can: { publish: ["ann"] } }, "bad_can", 'the right "publish" must be true or false');
  await refused({ can: null }, "bad_can", /can is an object/);
});

test("signToken knows every right, and takes what is left undefined", async () => {
  const { properties } = openapi.components.schemas.Rights;
  const can = Object.fromEntries(
    Object.entries(properties).map(([name, { type }]) => [name, type === "array" ? ["*"] : true]),
  );
  await signToken(secret, "ann", { can: { ...can, call: undefined } });
  await signToken(secret, "ann", { can });
});

/** What each method asks for. */
const calls = {
  emit: (f) => f.emit("a"),
  publish: (f) => f.publish("ann", "a"),
  send: (f) => f.send("room-1", "a"),
  broadcast: (f) => f.broadcast("a"),
  dispatch: (f) => f.dispatch(["ann"], "a"),
  batch: (f) => f.batch([]),
  explain: (f) => f.explain("true"),
  connections: (f) => f.connections().next(),
  connection: (f) => f.connection("x"),
  user: (f) => f.user("x"),
  channels: (f) => f.channels().next(),
  channel: (f) => f.channel("x"),
  members: (f) => f.members("x").next(),
  history: (f) => f.history("x").next(),
  join: (f) => f.join("room-1", {}),
  leave: (f) => f.leave("room-1", {}),
  disconnect: (f) => f.disconnect({}),
  revoke: (f) => f.revoke("ann", { before: 1 }),
  auth: (f) => f.auth("ann", { plan: "pro" }, { can: {} }),
  token: (f) => f.token("ann"),
  healthz: (f) => f.healthz(),
  livez: (f) => f.livez(),
  readyz: (f) => f.readyz({ scope: "node" }),
  openapi: (f) => f.openapi(),
};

/** Operations that have no method, and why. */
const leftOut = {
  connect: "is the WebSocket of clients",
  client: "is a file for pages",
  metrics: "is text for Prometheus",
  page: "is a page for people",
};

test("every operation of the API has a method, and every method asks for its own operation", async () => {
  const asked = {};
  for (const [name, call] of Object.entries(calls)) {
    const body = { results: [], connections: [], channels: [], members: [], events: [] };
    const { fanfare, requests } = fake([json(200, body)]);
    await call(fanfare);
    assert.equal(requests.length, 1, name);
    const [{ method, url }] = requests;
    asked[name] = `${method} ${new URL(url).pathname}`;
  }

  const described = {};
  for (const [path, methods] of Object.entries(openapi.paths))
    for (const [method, { operationId }] of Object.entries(methods)) {
      if (leftOut[operationId]) continue;
      const name = operationId === "tokens" ? "token" : operationId;
      described[name] = `${method.toUpperCase()} ${path.replace(/\{.*?\}/, "x")}`;
    }
  assert.deepEqual(asked, described);

  const methods = Object.getOwnPropertyNames(Fanfare.prototype).filter((name) => name !== "constructor");
  assert.deepEqual(methods.sort(), [...Object.keys(calls), "request"].sort());
});

test("a node that is not ready is no failure, and a refusal is one", async () => {
  const ready = { ready: false, reasons: ["draining: this node is leaving"] };
  const isJson = { "content-type": "application/json" };
  const { fanfare, requests } = fake([json(503, ready, isJson)]);
  assert.deepEqual(await fanfare.readyz(), ready);
  assert.equal(requests.length, 1);

  const stuck = fake([json(503, { status: "stuck" }, isJson)]);
  assert.deepEqual(await stuck.fanfare.livez(), { status: "stuck" });
  await assert.rejects(stuck.fanfare.healthz({ retries: 0 }), { status: 503 });

  const busy = fake([problem(503, "busy", {}, { "content-type": "application/problem+json" })], { retries: 0 });
  await assert.rejects(busy.fanfare.readyz(), { code: "busy" });
});

test("neither import nor construction needs anything", () => {
  new Fanfare();
  fromEnv({});
});
