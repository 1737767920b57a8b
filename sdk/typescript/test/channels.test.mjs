// Channels: joining again, recovery without gaps and duplicates, and lists of members.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clientOf, serve, sleep, stateOf, until } from "./support.mjs";

/** A connected client in `room`, with what it heard there. */
async function inRoom(t, { ack = {}, options, server: settings } = {}) {
  const server = await serve(t, settings);
  server.onMessage = (c, m) => m.op === "join" && (c.ack(m, ack), true);
  const all = clientOf(t, server);
  await all.client.connect();

  const room = all.client.join("room", options);
  const heard = [];
  const states = [];
  room.onAny(({ data }) => heard.push(data));
  room.onState((state) => states.push(state));
  await room.joined;
  return { ...all, server, connection: server.connections[0], room, heard, states };
}

const event = (offset, more) => ({ event: "n", channel: "room", data: offset, offset, ...more });

test("a channel delivers its own events, and the client those of all", async (t) => {
  const { client, connection, room, heard } = await inRoom(t);
  const all = [];
  client.on("n", (data) => all.push(data));
  const only = [];
  room.on("n", (data) => only.push(data));
  connection.send({ event: "n", channel: "other", data: 1 });
  connection.send({ event: "n", channel: "room", data: 2 });
  connection.send({ event: "n", data: 3 });
  await until(() => all.length === 3);
  assert.deepEqual([heard, only, all], [[2], [2], [1, 2, 3]]);
});

test("join returns one object until the channel is left", async (t) => {
  const { client, room, connection, states } = await inRoom(t);
  assert.equal(client.join("room"), room);
  await room.leave();
  await connection.next("leave");
  assert.deepEqual(states.at(-1), { status: "left" });
  assert.notEqual(client.join("room"), room);
});

test("channels are joined again after a reconnect, left ones are not", async (t) => {
  const { client, server, connection, states } = await inRoom(t);
  client.join("second");
  await client.leave("second");
  connection.close(4200);
  const second = await server.connection(2);
  await second.next("join");
  await until(() => states.length === 3);
  assert.deepEqual(
    second.messages.map(({ op, channel }) => [op, channel]),
    [["join", "room"]],
  );
  // Nothing is stored for this channel, so events may have been missed.
  assert.deepEqual(states, [
    { status: "joined", recovered: true },
    { status: "waiting" },
    { status: "joined", recovered: false },
  ]);
});

test("recovers from the last offset, without gap and without repeat", async (t) => {
  const { server, connection, room, heard, states } = await inRoom(t, { ack: { epoch: "e", offset: 5 } });
  for (const offset of [6, 7, 7, 6, 9]) connection.send(event(offset));
  await until(() => heard.length === 3);
  assert.deepEqual(room.position, { epoch: "e", offset: 9 });

  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    assert.deepEqual(m.since, { epoch: "e", offset: 9 });
    c.ack(m, { epoch: "e", offset: 12, recovered: true });
    for (const offset of [10, 11, 12, 13]) c.send(event(offset));
    return true;
  };
  connection.reset();
  await until(() => heard.length === 7);
  assert.deepEqual(heard, [6, 7, 9, 10, 11, 12, 13]);
  assert.deepEqual(states.at(-1), { status: "joined", recovered: true });
});

test("after resuming, live events before the ack wait for the replay", async (t) => {
  const { server, connection, heard } = await inRoom(t, { ack: { epoch: "e", offset: 0 } });
  connection.send(event(1));
  await until(() => heard.length === 1);

  server.onOpen = (c) => {
    c.welcome({ resumed: true });
    c.send({ op: "joined", channel: "room", epoch: "e", offset: 4 });
    c.send(event(5));
  };
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    c.send(event(6));
    c.ack(m, { epoch: "e", offset: 6, recovered: true });
    for (const offset of [2, 3, 4, 5, 6]) c.send(event(offset));
    c.send(event(7));
    return true;
  };
  connection.reset();
  await until(() => heard.length === 7);
  assert.deepEqual(heard, [1, 2, 3, 4, 5, 6, 7]);
});

test("a rejoin that is refused for a moment leaves no gap", async (t) => {
  const { server, connection, heard } = await inRoom(t, { ack: { epoch: "e", offset: 0 } });
  connection.send(event(1));
  await until(() => heard.length === 1);

  let refused = 0;
  server.onOpen = (c) => c.welcome({ resumed: true });
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    assert.deepEqual(m.since, { epoch: "e", offset: 1 });
    if (refused++) {
      c.ack(m, { epoch: "e", offset: 4, recovered: true });
      for (const offset of [2, 3, 4]) c.send(event(offset));
    } else {
      c.refuse(m, "rate_limited");
      c.send(event(4));
    }
    return true;
  };
  connection.reset();
  await until(() => heard.length === 4);
  assert.deepEqual(heard, [1, 2, 3, 4]);
});

test("a rejoin that is refused while the members change is made again", async (t) => {
  const { server, connection, room, heard } = await inRoom(t, {
    ack: { epoch: "e", offset: 0, members: [], count: 0 },
    options: { members: true },
  });
  connection.send(event(1));
  await until(() => heard.length === 1);

  let refused = 0;
  server.onOpen = (c) => c.welcome({ resumed: true });
  server.onMessage = (c, m) => {
    if (m.op === "members") c.ack(m, { members: [], count: 0 });
    else if (m.op !== "join") return false;
    else if (refused++) {
      c.ack(m, { epoch: "e", offset: 2, recovered: true, members: [], count: 0 });
      c.send(event(2));
    } else {
      c.send({ op: "members", channel: "room", joined: 1, left: 1, updated: 0, count: 0, users: 0 });
      c.refuse(m, "rate_limited");
    }
    return true;
  };
  connection.reset();
  await until(() => heard.length === 2);
  assert.equal(room.state.status, "joined");
});

test("what a listener sends when the connection ends waits for the next one", async (t) => {
  const { client, server, connection, room } = await inRoom(t);
  let sent;
  room.onState(({ status }) => status === "waiting" && (sent ??= room.send("n", "from a listener")));
  client.onState(({ status }) => status === "waiting" && client.send("room", "n", "from another"));
  connection.reset();
  const second = await server.connection(2);
  assert.equal((await second.next("send")).data, "from another");
  assert.equal((await second.next("send")).data, "from a listener");
  await sent;
});

test("frames that arrive in one packet with the ack are not lost", async (t) => {
  const { server, connection, heard } = await inRoom(t, { ack: { epoch: "e", offset: 0 } });
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    c.raw.cork();
    c.ack(m, { epoch: "e", offset: 50, recovered: true });
    for (let offset = 1; offset <= 50; offset++) c.send(event(offset));
    c.raw.uncork();
    return true;
  };
  connection.reset();
  await until(() => heard.length === 50);
  assert.deepEqual(
    heard,
    Array.from({ length: 50 }, (_, n) => n + 1),
  );
});

test("a connection that ends in the middle of a replay goes on where it stopped", async (t) => {
  const { server, connection, heard } = await inRoom(t, { ack: { epoch: "e", offset: 0 } });
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    const from = m.since.offset;
    c.ack(m, { epoch: "e", offset: 9, recovered: true });
    for (const offset of [1, 2, 3].map((n) => n + from)) if (offset <= 9) c.send(event(offset));
    if (from < 6) setTimeout(() => c.reset(), 20);
    return true;
  };
  connection.reset();
  await until(() => heard.length === 9);
  assert.deepEqual(heard, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test("another epoch is reported, and its offsets count anew", async (t) => {
  const { server, connection, heard, room, states } = await inRoom(t, { ack: { epoch: "old", offset: 90 } });
  connection.send(event(91));
  await until(() => heard.length);
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    c.ack(m, { epoch: "new", offset: 2, recovered: false });
    for (const offset of [1, 2, 3]) c.send(event(offset));
    return true;
  };
  connection.reset();
  await until(() => heard.length === 4);
  assert.deepEqual(heard, [91, 1, 2, 3]);
  assert.deepEqual(states.at(-1), { status: "joined", recovered: false });
  assert.deepEqual(room.position, { epoch: "new", offset: 3 });
});

test("a history that recovered into another epoch keeps its offsets", async (t) => {
  const { server, connection, heard, room } = await inRoom(t, { ack: { epoch: "old", offset: 4 } });
  server.onMessage = (c, m) => {
    if (m.op !== "join") return false;
    c.ack(m, { epoch: "new", offset: 6, recovered: true });
    for (const offset of [4, 5, 6]) c.send(event(offset));
    return true;
  };
  connection.reset();
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [5, 6]);
  assert.equal(room.position.epoch, "new");
});

test("a new life of the history in the middle of a connection is reported", async (t) => {
  const { connection, heard, room, states } = await inRoom(t, { ack: { epoch: "a", offset: 7 } });
  connection.send({ op: "joined", channel: "room", epoch: "b", offset: 2 });
  connection.send(event(3));
  await until(() => heard.length);
  assert.deepEqual(states.at(-1), { status: "joined", recovered: false });
  assert.deepEqual(room.position, { epoch: "b", offset: 3 });

  connection.send({ op: "joined", channel: "room", epoch: "c", offset: 3, recovered: true });
  connection.send(event(4));
  await until(() => heard.length === 2);
  assert.equal(states.length, 2);
  assert.deepEqual(room.position, { epoch: "c", offset: 4 });
});

test("an epoch that begins with the first event is learnt from later acks", async (t) => {
  const { server, connection, heard, room } = await inRoom(t);
  connection.send(event(1));
  await until(() => heard.length);
  assert.deepEqual(room.position, { epoch: undefined, offset: 1 });

  server.onMessage = (c, m) => m.op === "join" && (c.ack(m, { epoch: "e", offset: 1, recovered: true }), true);
  connection.reset();
  await until(() => room.position.epoch === "e");
});

test("since replays what a program stored", async (t) => {
  const { connection, room } = await inRoom(t, {
    ack: { epoch: "e", offset: 3, recovered: true },
    options: { since: { epoch: "e", offset: 1 } },
  });
  assert.deepEqual(connection.messages[0].since, { epoch: "e", offset: 1 });
  assert.equal(room.state.recovered, true);
});

test("a refusal ends a channel, and joining again asks again", async (t) => {
  const server = await serve(t);
  server.onMessage = (c, m) => m.op === "join" && (c.refuse(m, "forbidden"), true);
  const { client, errors } = clientOf(t, server);
  await client.connect();
  const room = client.join("room");
  await assert.rejects(room.joined, { code: "forbidden" });
  assert.equal(room.state.status, "refused");
  assert.equal(room.state.error.code, "forbidden");

  server.onMessage = () => false;
  await client.join("room").joined;
  assert.deepEqual(errors, []);
});

test("a refusal that passes is tried again", async (t) => {
  const server = await serve(t);
  const codes = ["rate_limited", "busy"];
  server.onMessage = (c, m) => m.op === "join" && codes.length > 0 && (c.refuse(m, codes.shift()), true);
  const { client } = clientOf(t, server);
  await client.connect();
  await client.join("room").joined;
  assert.equal(codes.length, 0);
});

test("a slow ack of a join is waited for", async (t) => {
  const server = await serve(t);
  server.onMessage = (c, m) => m.op === "join" && (setTimeout(() => c.ack(m), 150), true);
  const { client } = clientOf(t, server, { timeout: 50 });
  await client.connect();
  await client.join("room").joined;
});

test("who is taken out does not come back by itself", async (t) => {
  const { server, connection, room, states } = await inRoom(t);
  connection.send({ op: "left", channel: "room" });
  await until(() => states.at(-1).status === "left");
  connection.reset();
  const second = await server.connection(2);
  await sleep(30);
  assert.deepEqual(second.messages, []);
  assert.equal(room.state.status, "left");
});

test("a signal leaves the channel", async (t) => {
  const controller = new AbortController();
  const { connection, room } = await inRoom(t, { options: { signal: controller.signal } });
  controller.abort();
  await connection.next("leave");
  assert.equal(room.state.status, "left");
});

test("channels survive close and connect", async (t) => {
  const { client, server, room, states } = await inRoom(t, { ack: { epoch: "e", offset: 3 } });
  client.close();
  assert.equal(room.state.status, "waiting");
  await client.connect();
  const join = await server.connections[1].next("join");
  assert.deepEqual(join.since, { epoch: "e", offset: 3 });
  await until(() => states.at(-1).status === "joined");
});

// --- Members ---

const member = (id, data) => ({ id, user: `user ${id}`, ...(data && { data }) });
const ids = (room) => room.members.map(({ id }) => id).sort();

/** A server whose channel has `pages` of members. Notices of a page go out right before it. */
async function withMembers(t, pages, before = {}) {
  const server = await serve(t);
  server.onMessage = (c, m) => {
    if (m.op !== "join" && m.op !== "members") return false;
    const at = Number(m.cursor ?? 0);
    for (const notice of before[at] ?? []) c.send(notice);
    const cursor = at + 1 < pages.length ? { cursor: `${at + 1}` } : {};
    c.ack(m, { members: pages[at], count: pages.flat().length, users: pages.flat().length, ...cursor });
    return true;
  };
  const all = clientOf(t, server);
  await all.client.connect();
  const room = all.client.join("room", { members: true });
  const lists = [];
  room.onMembers((list) => lists.push(list.map(({ id }) => id).join("")));
  await room.joined;
  return { ...all, server, connection: server.connections[0], room, lists };
}

const notice = (kind, who, more) => ({
  op: "member",
  kind,
  channel: "room",
  member: who,
  user_connections: 1,
  ...more,
});

test("a list of one page is there with the join", async (t) => {
  const { room } = await withMembers(t, [[member("a"), member("b")]]);
  assert.deepEqual(ids(room), ["a", "b"]);
  assert.equal(room.count, 2);
});

test("notices change the list, and each change makes another array", async (t) => {
  const { room, connection } = await withMembers(t, [[member("a")]]);
  const first = room.members;
  connection.send(notice("joined", member("b")));
  connection.send(notice("joined", member("b")));
  connection.send(notice("updated", member("a", { n: 1 })));
  await until(() => room.members.find(({ id }) => id === "a").data);
  assert.deepEqual(ids(room), ["a", "b"]);
  assert.notEqual(room.members, first);
  assert.deepEqual(first, [member("a")]);

  connection.send(notice("left", member("b")));
  await until(() => ids(room).join() === "a");
  assert.equal(room.count, 1);
});

test("a member that resumed keeps its place under another id", async (t) => {
  const { room, connection } = await withMembers(t, [[member("a"), member("b")]]);
  connection.send(notice("updated", member("z"), { previous: "a" }));
  await until(() => ids(room).includes("z"));
  assert.deepEqual(ids(room), ["b", "z"]);
});

test("pages and notices between them merge", async (t) => {
  const { room, lists } = await withMembers(t, [[member("a"), member("b")], [member("c")], [member("d")]], {
    // `a` left after its page, `x` joined, `c` joined before its page is there, `y` came and went.
    1: [
      notice("left", member("a")),
      notice("joined", member("x")),
      notice("joined", member("c")),
      notice("joined", member("y")),
    ],
    2: [notice("left", member("y")), notice("updated", member("c", { n: 2 }))],
  });
  await until(() => ids(room).includes("d"));
  assert.deepEqual(ids(room), ["b", "c", "d", "x"]);
  assert.deepEqual(room.members.find(({ id }) => id === "c").data, { n: 2 });
  assert.ok(lists.length >= 1);
});

test("a reconnect fetches the list again", async (t) => {
  const pages = [[member("a"), member("b")]];
  const { room, connection, client } = await withMembers(t, pages);
  pages[0] = [member("b"), member("c")];
  connection.reset();
  await stateOf(client, "waiting");
  assert.deepEqual(ids(room), ["a", "b"], "the last list is shown meanwhile");
  await until(() => ids(room).join() === "b,c");
});

test("a summary shows the count, and fetches the list a moment later", async (t) => {
  const pages = [[member("a")]];
  const { room, connection } = await withMembers(t, pages);
  pages[0] = [member("a"), member("b"), member("c")];
  for (let n = 0; n < 5; n++)
    connection.send({ op: "members", channel: "room", joined: 2, left: 0, updated: 0, count: 3, users: 3 });
  await until(() => room.count === 3);
  await until(() => ids(room).length === 3);
  assert.equal(connection.messages.filter(({ op }) => op === "members").length, 1);
});

test("asking for members later fetches them", async (t) => {
  const { client, server, room, connection } = await inRoom(t);
  server.onMessage = (c, m) => m.op === "join" && (c.ack(m, { members: [member("a")], count: 1 }), true);
  assert.deepEqual(room.members, []);
  client.join("room", { members: true });
  await until(() => room.members.length === 1);
  assert.equal(connection.messages.filter(({ op }) => op === "join").length, 2);
});
