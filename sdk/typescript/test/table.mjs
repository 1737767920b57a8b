// What a client and the function side do with a real server. Every runtime runs the same table: it needs neither Node nor
// a test framework.
import { createClient, FanfareError } from "../dist/index.js";
import { ApiError, Fanfare, signToken, where } from "../dist/server.js";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(is) {
  for (let waited = 0; !(await is()); waited += 10) {
    if (waited > 20_000) throw new Error(`waited too long for: ${is}`);
    await sleep(10);
  }
}

function equal(actual, expected) {
  // The order of keys is part of the comparison, which is what the server promises for data.
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`expected ${e}, not ${a}`);
}

async function rejects(promise, code) {
  const error = await promise.then(
    () => undefined,
    (reason) => reason,
  );
  if (!(error instanceof FanfareError) || error.code !== code) throw new Error(`expected ${code}, not ${error}`);
  return error;
}

const everything = {
  join: ["*"],
  send: ["*"],
  members: ["*"],
  call: ["*"],
  broadcast: true,
  publish: true,
  update: true,
};
let names = 0;
const name = (what) => `${what}-${Date.now().toString(36)}-${names++}`;

/**
 * The rows, for a server at `url`. `api` is where its HTTP API can be called from this runtime, `WebSocket` what the
 * runtime does not have by itself.
 */
export function table({ url, api = url, key, secret, WebSocket }) {
  const fanfare = new Fanfare({ url: api, key });
  const open = [];

  /** A connected client of `user`. */
  async function client(user, { claims, can = everything, ...options } = {}) {
    const token = () => signToken(secret, user, { claims, can, ttl: 600 });
    const made = createClient(url, { token, ...(WebSocket && { WebSocket }), ...options });
    open.push(made);
    await made.connect();
    return made;
  }

  const rows = {
    async "a client with a token is its user"() {
      const ann = await client("ann");
      equal(ann.state.status, "connected");
      equal(ann.state.user, "ann");
    },

    async "an event with a filter reaches those who match, as it was sent"() {
      const tenant = name("tenant");
      const ann = await client(name("ann"), { claims: { tenant } });
      const bob = await client(name("bob"), { claims: { tenant: "other" } });
      const heard = [];
      ann.on("alert", (data, message) => heard.push(["ann", data, message.from ?? null]));
      bob.on("alert", (data) => heard.push(["bob", data]));

      const data = { b: 1, a: [null, true, "ü 😀"], c: { nested: 1.5 } };
      const receipt = await fanfare.emit("alert", data, where`auth.tenant == ${tenant}`);
      equal(receipt.matched, 1);
      await until(() => heard.length);
      equal(heard, [["ann", data, null]]);
    },

    async "publish, dispatch and broadcast reach whom they should"() {
      const [first, second] = [name("ann"), name("bob")];
      const [ann, bob] = [await client(first), await client(second)];
      const heard = [];
      ann.onAny(({ event, data }) => heard.push(`ann ${event} ${data}`));
      bob.onAny(({ event, data }) => heard.push(`bob ${event} ${data}`));

      await fanfare.publish(first, "p", 1, { store: false });
      await fanfare.publish([first, second], "p", 2, { store: false, except: { users: [first] } });
      await fanfare.dispatch([first, second], "d", 3, { store: false, except: [second] });
      await fanfare.broadcast("b", 4);
      await until(() => heard.length === 5);
      equal(heard.sort(), ["ann b 4", "ann d 3", "ann p 1", "bob b 4", "bob p 2"]);
    },

    async "clients send, broadcast and publish to each other"() {
      const [first, second] = [name("ann"), name("bob")];
      const [ann, bob] = [await client(first), await client(second)];
      const channel = name("chat");
      const [room, other] = [ann.join(channel), bob.join(channel)];
      await Promise.all([room.joined, other.joined]);
      const heard = [];
      ann.onAny(({ event, data, channel: at }) => heard.push(["ann", event, data, !!at]));
      bob.onAny(({ event, data, channel: at, from }) => heard.push(["bob", event, data, !!at, from.user === first]));

      await room.send("message", "hi", { n: 2 });
      await ann.with({ echo: false }).send(channel, "typing");
      await ann.publish(second, "direct", "psst");
      await ann.with({ echo: false }).broadcast("all", 1);
      await until(() => heard.length >= 5);
      await sleep(50);
      equal(
        heard.filter(([who]) => who === "ann"),
        [["ann", "message", ["hi", { n: 2 }], true]],
      );
      equal(
        heard.filter(([who]) => who === "bob"),
        [
          ["bob", "message", ["hi", { n: 2 }], true, true],
          ["bob", "typing", null, true, true],
          ["bob", "direct", "psst", false, true],
          ["bob", "all", 1, false, true],
        ],
      );
    },

    async "bytes arrive as they were sent, from a function and from a client"() {
      const channel = name("bytes");
      const ann = await client(name("ann"));
      const room = ann.join(channel);
      await room.joined;
      const heard = [];
      room.on("raw", (data) => heard.push(data instanceof Uint8Array && [...data]));

      await fanfare.send(channel, "raw", new Uint8Array([0, 255, 128, 10]));
      await room.send("raw", new Uint8Array([1, 2, 3]).subarray(1));
      await room.send("raw", new Uint8Array(0).buffer);
      await until(() => heard.length === 3);
      equal(heard, [[0, 255, 128, 10], [2, 3], []]);
    },

    async "a list of members follows who comes, changes and goes"() {
      const channel = name("lobby");
      const ann = await client("ann");
      await ann.update({ status: "here" });
      const room = ann.join(channel, { members: true });
      await room.joined;
      equal(
        room.members.map(({ user, data }) => [user, data]),
        [["ann", { status: "here" }]],
      );

      const bob = await client("bob");
      await bob.join(channel).joined;
      await until(() => room.members.length === 2);
      await bob.update({ status: "away" });
      await until(() => room.members.find(({ user }) => user === "bob")?.data?.status === "away");
      equal((await bob.members(channel)).length, 2);
      await bob.leave(channel);
      await until(() => room.members.length === 1);
      equal(room.count, 1);
    },

    async "a list of members over several pages is whole"() {
      const channel = name("crowd");
      const users = await Promise.all(Array.from({ length: 12 }, (_, n) => client(`member-${n}`)));
      await Promise.all(users.map((user) => user.join(channel).joined));
      const found = [];
      for await (const { user } of fanfare.members(channel, { limit: 5 })) found.push(user);
      equal(found.length, 12);
      equal((await users[0].members(channel)).length, 12);
    },

    async "a channel with history loses nothing over a reconnect, and repeats nothing"() {
      const channel = name("room");
      const user = name("ann");
      const ann = await client(user);
      const room = ann.join(channel);
      const heard = [];
      const states = [];
      room.on("n", (data) => heard.push(data));
      room.onState(({ status, recovered }) => states.push(recovered === undefined ? status : `${status} ${recovered}`));
      await room.joined;

      for (let n = 0; n < 30; n++) {
        await fanfare.send(channel, "n", n);
        if (n % 10 === 5) await fanfare.disconnect({ to: { users: [user] }, code: 4200, reason: "test" });
      }
      await until(() => heard.length >= 30);
      equal(
        heard,
        Array.from({ length: 30 }, (_, n) => n),
      );
      equal(room.position.offset, 30);
      if (states.some((state) => state === "joined false")) throw new Error(`not recovered: ${states}`);
    },

    async "60 channels are joined again after a reconnect, at a pace that the server allows"() {
      const user = name("ann");
      const ann = await client(user);
      const prefix = name("room");
      const rooms = Array.from({ length: 60 }, (_, n) => ann.join(`${prefix}-${n}`));
      await Promise.all(rooms.map((room) => room.joined));
      let waiting = 0;
      for (const room of rooms) room.onState(({ status }) => (waiting += status === "waiting"));
      await fanfare.disconnect({ to: { users: [user] }, code: 4200 });
      await until(() => waiting >= 60);
      await until(() => rooms.every((room) => room.state.status === "joined"));
      equal(rooms.filter((room) => !room.state.recovered).length, 0);
    },

    async "a loop that sends faster than the rate is slowed down, and nothing is refused"() {
      const ann = await client(name("ann"));
      const channel = name("hall");
      const room = ann.join(channel);
      await room.joined;
      const heard = [];
      room.on("n", (data) => heard.push(data));
      await Promise.all(Array.from({ length: 130 }, (_, n) => room.send("n", n)));
      await until(() => heard.length === 130);
      equal(
        heard,
        Array.from({ length: 130 }, (_, n) => n),
      );
    },

    async "the tabs of one user share a rate, and all of them get into their channels"() {
      const user = name("ann");
      const prefix = name("hall");
      const tabs = await Promise.all(Array.from({ length: 4 }, () => client(user)));
      // 240 messages, of which the server takes 100 immediately and 50 a second after that.
      const rooms = tabs.flatMap((tab) => Array.from({ length: 60 }, (_, n) => tab.join(`${prefix}-${n}`)));
      await Promise.all(rooms.map((room) => room.joined));
      equal((await fanfare.channel(`${prefix}-59`)).connections, 4);
      equal(tabs.map(({ state }) => state.status).join(), "connected,connected,connected,connected");
    },

    async "what costs more than the rate allows is refused, and the connection stays"() {
      const [ann, bob] = [await client(name("ann")), await client(name("bob"))];
      const prefix = name("hall");
      // An update counts once more for each channel in which somebody hears of it.
      const rooms = Array.from({ length: 30 }, (_, n) => `${prefix}-${n}`).flatMap((channel) => [
        ann.join(channel),
        bob.join(channel, { members: true }),
      ]);
      await Promise.all(rooms.map((room) => room.joined));

      // One after another, since an update replaces one that waits.
      const update = async () => {
        for (let n = 0; n < 10; n++) await ann.update({ n });
      };
      await rejects(update(), "rate_limited");
      equal(ann.state.status, "connected");

      await sleep(2000);
      await ann.update({ n: 10 });
    },

    async "history can be read from a position, and by a function"() {
      const channel = name("room");
      for (const n of [1, 2, 3]) await fanfare.send(channel, "n", n);
      const ann = await client(name("ann"));
      const heard = [];
      ann.on("n", (data) => heard.push(data));
      await ann.join(channel, { since: { offset: 1 } }).joined;
      await until(() => heard.length === 2);
      equal(heard, [2, 3]);

      const stored = [];
      for await (const event of fanfare.history(channel, { limit: 2 })) stored.push([event.offset, event.data]);
      equal(stored, [
        [1, 1],
        [2, 2],
        [3, 3],
      ]);
    },

    async "an event for a user who is away waits for the next connection"() {
      const user = name("ann");
      equal((await fanfare.publish(user, "later", "kept")).stored, 1);
      const heard = [];
      const ann = createClient(url, { token: () => signToken(secret, user), ...(WebSocket && { WebSocket }) });
      open.push(ann);
      ann.on("later", (data, { id }) => heard.push([data, typeof id]));
      await ann.connect();
      await until(() => heard.length);
      equal(heard, [["kept", "string"]]);
    },

    async "for await brings the events of a client"() {
      const user = name("ann");
      const ann = await client(user);
      const events = ann.events("n");
      for (const n of [1, 2, 3]) await fanfare.publish(user, "n", n, { store: false });
      const heard = [];
      for await (const { data } of events) if (heard.push(data) === 3) break;
      equal(heard, [1, 2, 3]);
    },

    async "a right that is missing rejects with the server's code"() {
      const ann = await client(name("ann"), { can: { join: ["room-*"] } });
      await rejects(ann.join("secret").joined, "forbidden");
      await rejects(ann.send("room-1", "a"), "forbidden");
      await rejects(ann.join("not a name").joined, "bad_channel");
      equal(ann.state.status, "connected");
    },

    async "a function call is refused while there are none"() {
      const ann = await client(name("ann"));
      await rejects(ann.call("nothing", 1), "no_functions");
    },

    async "renewing changes what filters see, on the same connection"() {
      let plan = "free";
      const user = name("ann");
      const token = () => signToken(secret, user, { claims: { plan } });
      const ann = createClient(url, { token, ...(WebSocket && { WebSocket }) });
      open.push(ann);
      await ann.connect();
      const { connection } = ann.state;
      plan = "pro";
      await ann.renew();
      equal((await fanfare.emit("a", 1, where`user == ${user} && auth.plan == "pro"`)).matched, 1);
      equal(ann.state.connection, connection);
    },

    async "a short token is renewed in time, without a reconnect"() {
      const user = name("ann");
      let calls = 0;
      const token = () => (calls++, signToken(secret, user, { ttl: 5 }));
      const ann = createClient(url, { token, ...(WebSocket && { WebSocket }) });
      open.push(ann);
      const states = [];
      ann.onState(({ status }) => states.push(status));
      await ann.connect();
      // It is renewed after four fifths of its life, so the first has ended by the third.
      await until(() => calls === 3);
      await ann.renew();
      equal(states, ["connecting", "connected"]);
    },

    async "a token function may fail, hang, and be needed twice at the same time"() {
      const user = name("ann");
      let calls = 0;
      const token = () => {
        calls++;
        if (calls === 1) throw new Error("the backend is away");
        if (calls === 2) return new Promise(() => {});
        return signToken(secret, user);
      };
      const ann = createClient(url, { token, timeout: 2000, ...(WebSocket && { WebSocket }) });
      open.push(ann);
      const errors = [];
      ann.onState(({ reason, error }) => reason === "token_failed" && errors.push(error.code ?? error.message));
      await ann.connect();
      // A slow connection is another attempt, and so another call.
      if (calls < 3) throw new Error(`the token was fetched ${calls} times`);
      equal(errors, ["the backend is away", "timeout"]);

      const before = calls;
      await Promise.all([ann.renew(), ann.renew()]);
      equal(calls, before + 1);
    },

    async "a bad token ends the client with 4001"() {
      const ann = createClient(url, { token: "bad", ...(WebSocket && { WebSocket }) });
      await rejects(ann.connect(), "closed");
      equal([ann.state.status, ann.state.reason, ann.state.code], ["closed", "refused", 4001]);
    },

    async "an expired token is fetched again"() {
      let calls = 0;
      const token = () => signToken(secret, "ann", { ttl: calls++ ? 600 : -60 });
      const ann = createClient(url, { token, ...(WebSocket && { WebSocket }) });
      open.push(ann);
      await ann.connect();
      equal(calls, 2);
    },

    async "disconnecting by the API ends a client, or lets it come back"() {
      const user = name("ann");
      const ann = await client(user);
      const states = [];
      ann.onState(({ status }) => states.push(status));
      await fanfare.disconnect({ to: { users: [user] }, code: 4200 });
      await until(() => states.includes("waiting") && ann.state.status === "connected");
      equal((await fanfare.disconnect({ to: { users: [user] }, reason: "signed out" })).disconnected, 1);
      await until(() => ann.state.status === "closed");
      equal([ann.state.code, ann.state.detail], [4010, "signed out"]);
    },

    async "a function puts clients into channels and takes them out"() {
      const user = name("ann");
      const channel = name("made");
      const ann = await client(user);
      equal((await fanfare.join(channel, where`user == ${user}`)).joined, 1);
      const heard = [];
      ann.on("n", (_, message) => heard.push(message.channel));
      await fanfare.send(channel, "n", 1);
      await until(() => heard.length);
      equal((await fanfare.leave(channel, { to: { users: [user] } })).left, 1);
    },

    async "a mistake in a filter is shown with a caret"() {
      const error = await rejects(fanfare.emit("a", 1, { filter: "atuh.email == 'x'" }), "undeclared_name");
      if (!(error instanceof ApiError)) throw new Error("expected an ApiError");
      equal([error.status, error.offset, error.length, error.excerpt], [400, 0, 4, "atuh.email == 'x'\n^^^^"]);
      if (!error.message.endsWith("\n^^^^")) throw new Error(error.message);
    },

    async "an idempotency key makes a repeat harmless"() {
      const user = name("ann");
      const ann = await client(user);
      let count = 0;
      ann.on("paid", () => count++);
      const call = () => fanfare.publish(user, "paid", 1, { idempotencyKey: `${user}-paid`, store: false });
      const [first, second] = [await call(), await call()];
      equal(first.id, second.id);
      let last;
      ann.on("last", () => (last = true));
      await fanfare.publish(user, "last", 1, { store: false });
      await until(() => last);
      equal(count, 1);
      await rejects(
        fanfare.publish(user, "paid", 2, { idempotencyKey: `${user}-paid`, store: false }),
        "idempotency_key_reused",
      );
    },

    async "a batch reports each item by itself"() {
      const results = await fanfare.batch([
        { call: "broadcast", event: "x" },
        { call: "emit", event: "x", ...where`user == ${"nobody"}` },
        { call: "emit", event: "", filter: "true" },
      ]);
      equal(
        results.map(({ status }) => status),
        [200, 200, 400],
      );
      equal([results[1].result.matched, results[2].error.code], [0, "event_name_length"]);
    },

    async "looking: explain, connections, users and channels"() {
      const user = name("ann");
      const channel = name("looked");
      const ann = await client(user);
      await ann.join(channel).joined;
      equal((await fanfare.explain(where`user == ${user}`)).matched, 1);
      const found = [];
      for await (const connection of fanfare.connections(where`user == ${user}`)) found.push(connection);
      equal(
        found.map(({ id, channels }) => [id, channels]),
        [[ann.state.connection, [channel]]],
      );
      equal((await fanfare.connection(found[0].id)).user, user);
      const { online, connections } = await fanfare.user(user);
      equal([online, connections], [true, 1]);
      equal((await fanfare.channel(channel)).connections, 1);
      const channels = [];
      for await (const { channel: each } of fanfare.channels({ prefix: channel })) channels.push(each);
      equal(channels, [channel]);
      await rejects(fanfare.connection("nothing"), "unknown_connection");
    },

    async "the server signs tokens as well"() {
      const { token } = await fanfare.token("ann", { claims: { plan: "pro" }, ttl: 60 });
      const ann = createClient(url, { token, ...(WebSocket && { WebSocket }) });
      open.push(ann);
      await ann.connect();
      equal(ann.state.user, "ann");
    },
  };

  return Object.entries(rows).map(([row, run]) => ({
    name: row,
    async run() {
      try {
        await run();
      } finally {
        for (const each of open.splice(0)) each.close();
      }
    },
  }));
}

/** Runs the whole table, for runtimes without a test framework. */
export async function runAll(settings) {
  const failures = [];
  const rows = table(settings);
  for (const { name: row, run } of rows)
    await run().catch((error) => failures.push(`${row}: ${error?.stack ?? error}`));
  return { passed: rows.length - failures.length, failures };
}
