// docs/client-protocol.schema.json against what is real: every frame of the whole table of assertions in both directions,
// and the examples of the documentation. What the table does not bring about is brought about here.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { after, test } from "node:test";
import { Ajv } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import { Fanfare, signToken, where } from "../dist/server.js";
import { key, secret, startRedis, startServer } from "./real-server.mjs";
import { line, until, WebSocket } from "./support.mjs";
import { table } from "./table.mjs";

const docs = new URL("../../../docs/", import.meta.url);
const read = (name) => readFileSync(new URL(name, docs), "utf8");
const schema = JSON.parse(read("client-protocol.schema.json"));
const page = read("reference/protocol.md");

const ajv = new Ajv2020({ allErrors: true });
ajv.addSchema(schema);
const validator = (kind) => ajv.getSchema(`${schema.$id}#/$defs/${kind}`);

// The same for tools that read AsyncAPI: in draft 7, without what is inherited.
const asyncapi = JSON.parse(read("asyncapi.json"));
const older = new Ajv({ strict: false, validateFormats: false });
older.addSchema(asyncapi, "asyncapi");
const olderValidator = (kind) => older.getSchema(`asyncapi#/components/schemas/${kind}`);

const kinds = (group) => schema.$defs[group].anyOf.map(({ $ref }) => $ref.split("/").at(-1));
const fieldsOf = ({ allOf = [], properties }) => [
  ...allOf.flatMap(({ $ref }) => fieldsOf(schema.$defs[$ref.split("/").at(-1)])),
  ...Object.keys(properties ?? {}),
];

// --- Recording ---

/** The fields that were seen, by kind of message. */
const seen = new Map();
const wrong = [];
let frames = 0;

/** Notes a message. Returns what the schema has against it. */
function note(kind, message) {
  frames += 1;
  if (!seen.has(kind)) seen.set(kind, new Set());
  for (const field of Object.keys(message)) seen.get(kind).add(field);

  const validate = validator(kind);
  assert.equal(olderValidator(kind)(message), validate(message), `asyncapi.json says something else of ${kind}`);
  if (!validate(message)) return `${kind} ${JSON.stringify(message)}: ${ajv.errorsText(validate.errors)}`;
}

/** The message of a frame, without the bytes of a binary one. */
function parse(data) {
  if (typeof data === "string") return JSON.parse(data);
  const bytes = Buffer.from(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
  assert.equal(bytes[0], 1, "the version byte");
  return JSON.parse(bytes.subarray(3, 3 + bytes.readUInt16BE(1)));
}

const clientKinds = Object.fromEntries(kinds("ClientMessage").map((kind) => [kind.toLowerCase(), kind]));
const serverKinds = {
  welcome: "Welcome",
  member: "MemberChanged",
  members: "MembersChanged",
  joined: "Joined",
  left: "Left",
  error: "Refusal",
  pong: "Pong",
  bye: "Bye",
};
const ackKinds = { auth: "AuthAck", join: "JoinAck", members: "MembersAck", send: "SendAck" };

/** A WebSocket that notes every message that it sends and gets. */
class Recorded extends WebSocket {
  /** The messages that were sent, by the id that their answer carries. */
  #asked = new Map();

  constructor(url, protocol) {
    super(url, protocol);
    this.addEventListener("message", ({ data }) => this.#take(parse(data), typeof data !== "string"));
  }

  send(data) {
    const message = parse(data);
    this.#asked.set(message.id, { op: message.op, fault: note(clientKinds[message.op], message) });
    super.send(data);
  }

  /** Sends what is no message of the protocol. */
  sendAnything(text) {
    super.send(text);
  }

  #take(message, isBinary) {
    const { op, id } = message;
    const asked = this.#asked.get(id);
    let kind = serverKinds[op];
    if (op === undefined) kind = isBinary ? "BinaryEvent" : "Event";
    if (op === "ack") kind = ackKinds[asked.op] ?? "Ack";
    // The server takes what the schema allows, and nothing else.
    if (op === "ack" && asked.fault) wrong.push(asked.fault);

    const fault = kind ? note(kind, message) : `the schema has no ${op}`;
    if (fault) wrong.push(fault);
  }
}

const server = await startServer();
after(() => server.stop());
const fanfare = new Fanfare({ url: server.url, key });
const can = { join: ["*"], send: ["*"], members: ["*"], call: ["*"], broadcast: true, publish: true, update: true };

/** A connection without the client, for what the client does not send. */
async function open(t, query = {}, { user = "raw", url = server.url } = {}) {
  const token = await signToken(secret, user, { can });
  const search = new URLSearchParams({ token, ...query });
  const socket = new Recorded(`${url.replace("http", "ws")}/v1/connect?${search}`, "fanfare.v1");
  t.after(() => socket.close());
  socket.binaryType = "arraybuffer";
  socket.onerror = () => {};

  const got = [];
  socket.addEventListener("message", ({ data }) => got.push(parse(data)));
  const connection = {
    socket,
    got,
    send: (message) => socket.send(JSON.stringify(message)),
    sendBytes(header, bytes) {
      const head = Buffer.from(JSON.stringify(header));
      socket.send(Buffer.concat([Buffer.from([1, head.length >> 8, head.length & 255]), head, Buffer.from(bytes)]));
    },
    /** Waits for a message with these fields. */
    async next(fields) {
      const fits = (message) => Object.entries(fields).every(([name, value]) => message[name] === value);
      await until(() => got.some(fits), JSON.stringify(fields));
      return got.find(fits);
    },
  };
  const { connection: id } = await connection.next({ op: "welcome" });
  return Object.assign(connection, { id });
}

// --- The frames ---

for (const { name, run } of table({ url: server.url, key, secret, WebSocket: Recorded }))
  test(`every frame fits: ${name}`, { timeout: 30_000 }, run);

test("every frame fits: bytes in every message that takes them", async (t) => {
  const ann = await open(t, { device: "d", channel: "bytes" }, { user: "bytes" });
  const except = { users: ["x"], connections: ["y"], devices: ["z"] };
  ann.sendBytes({ op: "send", id: "s", channel: "bytes", event: "e", echo: true, except }, [1, 2]);
  ann.sendBytes({ op: "broadcast", id: 1.5, event: "e", echo: true, except }, []);
  ann.sendBytes({ op: "publish", event: "e", users: ["bytes"], echo: true, except }, [3]);
  await until(() => ann.got.filter(({ event }) => event === "e").length === 3);
  await ann.next({ op: "ack", id: 1.5 });
});

test("every frame fits: pings, and messages that cannot be read", async (t) => {
  const ann = await open(t);
  ann.send({ op: "ping" });
  await ann.next({ op: "pong" });
  ann.send({ op: "ping", id: 1 });
  await ann.next({ op: "ack", id: 1 });
  for (const bad of ["", "ping", "{}", '{"op":"news"}', '{"op":"join","id":2,"channel":"a b"}', "[1]"])
    ann.socket.sendAnything(bad);
  await until(() => ann.got.filter(({ op }) => op === "error").length === 6);
});

test("every frame fits: channels of the handshake, resuming, and being taken out", async (t) => {
  const cut = await line(() => server.port);
  t.after(() => cut.stop());
  const bob = await open(t, {}, { user: "bob" });
  bob.send({ op: "join", id: 1, channel: "room-resume", members: true });
  await bob.next({ op: "ack", id: 1 });
  await fanfare.send("room-resume", "n", new Uint8Array([1]));

  const user = { user: "ann", url: cut.url };
  const ann = await open(t, { device: "d", channel: "room-resume" }, user);
  await ann.next({ op: "joined" });
  ann.send({ op: "update", id: 1, data: { status: "here" } });
  await ann.next({ op: "ack", id: 1 });
  cut.reset();
  await until(() =>
    fanfare.connection(ann.id).then(
      () => false,
      ({ code }) => code === "unknown_connection",
    ),
  );

  const again = await open(t, { device: "d", resume: ann.id }, user);
  assert.equal(again.got[0].resumed, true);
  await bob.next({ op: "member", kind: "updated", previous: ann.id });
  again.send({ op: "join", id: 1, channel: "room-resume", since: { offset: 0 } });
  await again.next({ event: "n", offset: 1 });
  again.send({ op: "update", id: 2, data: null });
  await again.next({ op: "ack", id: 2 });

  await fanfare.leave("room-resume", { to: { users: ["ann"] } });
  await again.next({ op: "left" });
  await bob.next({ op: "member", kind: "left" });
});

test("every frame fits: a crowd", { timeout: 60_000 }, async (t) => {
  const watcher = await open(t, {}, { user: "watcher" });
  watcher.send({ op: "join", id: 1, channel: "crowd", members: true });
  await watcher.next({ op: "ack", id: 1 });

  await Promise.all(Array.from({ length: 120 }, (_, n) => open(t, {}, { user: `crowd-${n}` })));
  // More than 20 changes a second are told together, however slowly the clients came.
  assert.equal((await fanfare.join("crowd", where`user.startsWith("crowd-")`)).joined, 120);
  await watcher.next({ op: "members", channel: "crowd" });

  const late = await open(t, {}, { user: "late" });
  late.send({ op: "join", id: 1, channel: "crowd", members: true });
  const { cursor } = await late.next({ op: "ack", id: 1 });
  late.send({ op: "members", id: 2, channel: "crowd", cursor, limit: 5 });
  assert.equal((await late.next({ op: "ack", id: 2 })).members.length, 5);
});

test("every frame fits: events that were stored for a user", async (t) => {
  await fanfare.publish("away", "later", new Uint8Array([1]));
  const away = await open(t, {}, { user: "away" });
  assert.match((await away.next({ event: "later" })).id, /^[0-9a-f-]{36}$/);
});

test("every frame fits: Redis forgets, and the history begins another epoch", { timeout: 60_000 }, async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const node = await startServer(["--redis", redis.url]);
  t.after(() => node.stop());

  const ann = await open(t, { channel: "room-1" }, { url: node.url });
  const { epoch } = await ann.next({ op: "joined" });
  ann.send({ op: "send", id: 1, channel: "room-1", event: "n" });
  await ann.next({ op: "ack", id: 1 });

  await redis.stop();
  ann.send({ op: "members", id: 2, channel: "room-1" });
  const fresh = await startRedis(redis.port);
  t.after(() => fresh.stop());
  const api = new Fanfare({ url: node.url, key, retries: 20 });
  await api.send("room-1", "n", 2);
  await until(
    () => ann.got.some((message) => message.op === "joined" && message.epoch !== epoch),
    "another epoch",
    30_000,
  );
});

test("every frame fits: a node that drains", async (t) => {
  const node = await startServer();
  t.after(() => node.stop());
  const ann = await open(t, {}, { url: node.url });
  node.child.kill("SIGTERM");
  await ann.next({ op: "bye", code: 4200 });
});

// --- What was seen ---

test("every frame was as the schema says", () => assert.deepEqual(wrong, []));

// Only a program that embeds the server has functions; its own tests hold what they answer.
const ofPrograms = ["CallAck"];

for (const group of ["ClientMessage", "ServerMessage"])
  for (const kind of kinds(group).filter((kind) => !ofPrograms.includes(kind)))
    test(`${kind} was seen, with each of its fields`, () => {
      assert.ok(seen.has(kind), `no ${kind} among ${frames} frames`);
      const missing = fieldsOf(schema.$defs[kind]).filter((field) => !seen.get(kind).has(field));
      assert.deepEqual(missing, []);
    });

// --- The schema itself ---

test("docs/asyncapi.json is a document of AsyncAPI 3.0", () => {
  const specification = JSON.parse(
    readFileSync(new URL("../node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json", import.meta.url), "utf8"),
  );
  const validate = new Ajv({ strict: false, validateFormats: false }).compile(specification);
  assert.ok(validate(asyncapi), JSON.stringify(validate.errors));
  assert.ok(!validate({ ...asyncapi, channels: { connect: { messages: 1 } } }));
});

test("the schema is strict", () => {
  const validate = ajv.getSchema(schema.$id);
  const good = { op: "join", id: 1, channel: "room-1", members: true };
  assert.ok(validate(good));
  for (const change of [
    { op: "joins" },
    { channel: "a b" },
    { channel: null },
    { member: true },
    { id: {} },
    { since: 1 },
  ])
    assert.ok(!validate({ ...good, ...change }), JSON.stringify(change));
  assert.ok(!validate({ event: "fanfare:x", data: 1 }));
  assert.ok(!validate({ op: "ack" }));
  assert.ok(!validate({ op: "error", code: 5, message: "" }));
  assert.ok(!validate({ op: "error", code: "busy" }));
});

test("the error codes are those of docs/reference/errors.md", () => {
  const errors = read("reference/errors.md");
  const section = errors.slice(errors.indexOf("## Client messages"));
  const codes = [...section.matchAll(/^\| `(\w+)` \|/gm)].map(([, code]) => code);
  assert.deepEqual(codes, schema.$defs.ErrorCode.enum);
});

test("every example of docs/reference/protocol.md fits", () => {
  const examples = [...page.matchAll(/^```json\n(.*?)^```/gms)].flatMap(([, block]) => block.trim().split("\n"));
  assert.ok(examples.length > 20);
  const isMessage = ajv.getSchema(schema.$id);
  const isRights = ajv.compile(JSON.parse(read("openapi.json")).components.schemas.Rights);
  for (const example of examples) {
    const value = JSON.parse(example);
    const validate = value.op || value.event ? isMessage : isRights;
    assert.ok(validate(value), `${example}: ${ajv.errorsText(validate.errors)}`);
  }
});

test("every whole message that another page shows fits", () => {
  const isMessage = ajv.getSchema(schema.$id);
  let found = 0;
  for (const name of readdirSync(docs, { recursive: true }).filter(
    (file) => file.endsWith(".md") && !file.includes("node_modules"),
  ))
    for (const [, text] of read(name).matchAll(/`(\{"op":"[^`\n]*\})`/g)) {
      // Something is left out.
      if (/[^"]…|…[^"]/.test(text)) continue;
      found += 1;
      assert.ok(isMessage(JSON.parse(text)), `${name}: ${text}: ${ajv.errorsText(isMessage.errors)}`);
    }
  assert.ok(found > 0);
});
