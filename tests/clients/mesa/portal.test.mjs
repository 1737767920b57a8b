// The portal of npm `@cryb/mesa`, unmodified: a program that hears of clients and of what they say.
import assert from "node:assert/strict";
import { test } from "node:test";

import { until } from "../server.mjs";
import { connect, dispatcher, Message, Portal, startNodes, token, user } from "./support.mjs";

const RIGHTS = { can: { call: ["*"] } };

function portal(t, redis, config) {
  const portal = new Portal(redis.url, config);
  t.after(() => [portal.redis, portal.publisher, portal.subscriber].forEach((connection) => connection.disconnect()));
  const news = [];
  for (const type of ["connection", "authentication", "disconnection"]) {
    portal.on(type, (id) => news.push([type, id]));
  }
  portal.on("message", (message, id) => news.push(["message", id, message]));
  return { portal, news };
}

for (const when of ["before", "after"]) {
  test(`a portal that began ${when} the node hears of a client's whole life`, async (t) => {
    const early = when === "before";
    const { redis, nodes: [node] } = await startNodes(t, { mesa: "portal = true" });
    const { news } = portal(t, redis);
    await until("the portal hears", async () => {
      const { leave } = await connect(t, node);
      await leave();
      return news.some(([type]) => type === "disconnection");
    });
    news.length = 0;

    const client = await connect(t, node);
    await client.authenticate("0", RIGHTS);
    client.client.send(new Message(0, { status: "online" }, "STATUS_UPDATE"));
    await until("the message", () => news.some(([type]) => type === "message"));
    await client.leave();
    await until("the end", () => news.some(([type, id]) => type === "disconnection" && id === "0"));
    const own = news.filter(([type, id]) => id === "0" || type === "connection").slice(-4);
    assert.deepEqual(own.map(([type, id]) => [type, id]), [
      ["connection", undefined], ["authentication", "0"], ["message", "0"], ["disconnection", "0"],
    ]);
    const [, , message] = own[2];
    assert.deepEqual([message.opcode, message.data, message.type], [0, { status: "online" }, "STATUS_UPDATE"]);
  });
}

test("each message goes to one portal, and to those that want all", async (t) => {
  const { redis, nodes: [node] } = await startNodes(t, { mesa: 'portal = true\nnamespace = "chat"' });
  const config = { namespace: "chat" };
  const [one, two, all] = [portal(t, redis, config), portal(t, redis, config), portal(t, redis, { ...config, reportAllEvents: true })];
  const client = await connect(t, node);
  await client.authenticate("0", RIGHTS);
  const count = ({ news }) => news.filter(([type]) => type === "message").length;
  await until("all portals are known", async () => {
    // Well within the rate of a client: none of what is sent below may be refused.
    client.client.send(new Message(0, {}, "PING"));
    await new Promise((resolve) => setTimeout(resolve, 100));
    return [one, two, all].every((portal) => count(portal) > 1);
  });
  const sent = 30;
  const before = [one, two, all].map(count);
  for (let n = 0; n < sent; n += 1) client.client.send(new Message(0, n, "N"));
  await until("all is heard", () => all.news.some(([, , message]) => message?.data === sent - 1));
  // Each portal has a connection to Redis of its own, so one may hear later than another.
  await until("each has had its turns", () => {
    const gained = [one, two, all].map((portal, at) => count(portal) - before[at]);
    return gained[2] >= sent && gained[0] >= sent / 3 && gained[1] >= sent / 3;
  });
});

test("the chat of Mesa's documents works", async (t) => {
  const { redis, nodes } = await startNodes(t, { count: 2, mesa: "portal = true" });
  const members = ["ann", "bob"];
  const { portal: hears } = portal(t, redis);
  const source = dispatcher(t, redis);
  hears.on("message", (message, id) => {
    if (message.type === "CHAT") source.dispatch(new Message(0, { content: message.data.content }, "NEW_MESSAGE"), members, [id]);
  });
  const [ann, bob] = [await connect(t, nodes[0]), await connect(t, nodes[1])];
  await ann.authenticate("ann", RIGHTS);
  await bob.authenticate("bob", RIGHTS);
  const got = () => bob.messages.filter(({ type }) => type === "NEW_MESSAGE");
  await until("bob has it", () => {
    ann.client.send(new Message(0, { content: "Hi" }, "CHAT"));
    return got().length > 0;
  });
  assert.deepEqual(got()[0].data, { content: "Hi" });
  assert.ok(ann.messages.every(({ type }) => type !== "NEW_MESSAGE"));
});
