// A call of each kind, with types made from docs/openapi.json. tests/it/openapi.rs compiles this file, and runs it against
// a server whose address and API key are its arguments.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];
type Emit = components["schemas"]["Emit"];
type Rights = components["schemas"]["Rights"];

declare const process: { argv: string[] };

const [, , baseUrl = "", key = ""] = process.argv;
const fanfare = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });

/** The body of a call that succeeded. */
async function good<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await call;
  if (data === undefined) throw new Error(`${response.url}: ${JSON.stringify(error)}`);
  return data;
}

/** Types of a refused call hold as well. */
async function refused(
  code: Problem["code"],
  call: Promise<{ error?: Problem; response: Response }>,
): Promise<string> {
  const { error, response } = await call;
  if (error?.code !== code || error.status !== response.status) throw new Error(`not ${code}: ${JSON.stringify(error)}`);
  return error.detail;
}

function expect(what: string, holds: boolean): void {
  if (!holds) throw new Error(what);
}

// Publishing

const emitted = await good(
  fanfare.POST("/v1/emit", {
    params: { header: { "Idempotency-Key": "once" } },
    body: {
      event: "alert",
      data: { text: "Hello", at: [1, null] },
      filter: "auth.tenant == params.t && !(user in params.muted)",
      params: { t: "acme", muted: ["bob"], deep: { n: 1.5 } },
      to: { users: ["ann"], channels: ["room-1"], connections: [] },
      except: { devices: ["laptop"] },
      scope: "node",
      receipt: "cluster",
      store: false,
    },
  }),
);
expect("nobody is connected", emitted.matched === 0 && emitted.missing_nodes.length === 0);

const published = await good(fanfare.POST("/v1/publish", { body: { user: "ann", event: "alert", data: null } }));
expect("the id is a text", published.id.length === 36);
await good(fanfare.POST("/v1/publish", { body: { users: ["ann", "bob"], event: "bytes", data_base64: "AP8=" } }));
const sent = await good(fanfare.POST("/v1/send", { body: { channel: "room-1", event: "message", data: "Hello" } }));
expect("the channel stored it", sent.publications?.[0]?.offset === 1);
await good(fanfare.POST("/v1/send", { body: { channels: ["room-1", "room-2"], event: "message" } }));
await good(fanfare.POST("/v1/broadcast", { body: { event: "news" } }));
await good(fanfare.POST("/v1/dispatch", { body: { recipients: ["*"], except: ["ann"], event: "typing" } }));
await good(fanfare.POST("/v1/dispatch", { body: { recipients: ["bob"], except: { users: ["ann"] }, event: "typing" } }));

const { results } = await good(
  fanfare.POST("/v1/batch", {
    body: {
      items: [
        { call: "emit", event: "a", filter: "user == params.u", params: { u: "ann" } },
        { call: "publish", user: "ann", event: "b" },
        { call: "send", channel: "no room", event: "c" },
      ],
    },
  }),
);
const outcomes = results.map((result) => ("result" in result ? result.result.matched : result.error.code));
expect(`each item has its result: ${outcomes}`, outcomes.join() === "0,0,bad_channel");

// Inspecting

const explained = await good(
  fanfare.POST("/v1/explain", { body: { filter: "auth.plan in params.plans", params: { plans: ["pro"] } } }),
);
expect("a plan says how", explained.plan.access === "scan" && explained.warnings.length === 0);

const connections = await good(
  fanfare.GET("/v1/connections", {
    params: { query: { filter: "auth.tenant == params.t", params: JSON.stringify({ t: "acme" }), limit: 10 } },
  }),
);
for (const { user, auth, profile, channels } of connections.connections) {
  const tenant: unknown = auth !== null && typeof auth === "object" ? auth.tenant : undefined;
  console.log(user?.length, tenant, profile, channels.length);
}
await refused("unknown_connection", fanfare.GET("/v1/connections/{id}", { params: { path: { id: "gone" } } }));
const ann = await good(fanfare.GET("/v1/users/{user}", { params: { path: { user: "ann/smith" } } }));
expect("she is away", !ann.online && ann.connections === 0);
await good(fanfare.GET("/v1/channels", { params: { query: { prefix: "room-", limit: 5 } } }));
const channel = await good(fanfare.GET("/v1/channels/{channel}", { params: { path: { channel: "room-1" } } }));
const members = await good(
  fanfare.GET("/v1/channels/{channel}/members", { params: { path: { channel: "room-1" }, query: { limit: 2 } } }),
);
expect("nobody is in it", channel.connections === 0 && members.members.length === 0 && members.cursor === undefined);
const history = await good(
  fanfare.GET("/v1/channels/{channel}/history", { params: { path: { channel: "room-1" }, query: { after: 0 } } }),
);
expect("it has what was sent", history.events[0]?.data === "Hello" && history.offset === 2);

// Control and tokens

const to = { users: ["ann"] };
const joined = await good(fanfare.POST("/v1/join", { body: { channel: "room-1", to } }));
const filter = "user == params.u";
const left = await good(fanfare.POST("/v1/leave", { body: { channel: "room-1", filter, params: { u: "ann" } } }));
const closed = await good(fanfare.POST("/v1/disconnect", { body: { to, filter: "true", code: 4010, reason: "signed out" } }));
await good(fanfare.POST("/v1/disconnect", { body: { to } }));
expect("nobody was there", joined.joined + left.left + closed.disconnected === 0);

const signed = await good(
  fanfare.POST("/v1/tokens", {
    body: { user: "ann", claims: { tenant: "acme", roles: ["admin"], age: 20 }, can: { join: ["room-*"], update: true }, ttl: 60.0 },
  }),
);
expect("a token has three parts", signed.token.split(".").length === 3 && signed.expires_at > 0);
await good(fanfare.POST("/v1/tokens", { body: { user: "ann" } }));
const replaced = await good(fanfare.POST("/v1/auth", { body: { user: "ann", claims: { plan: "pro" }, can: { update: true } } }));
const revoked = await good(fanfare.POST("/v1/revoke", { body: { users: ["ann"], before: "2026-01-01T00:00:00Z" } }));
await good(fanfare.POST("/v1/revoke", { body: { user: "ann", before: revoked.before } }));
expect("she was not there", replaced.connections + revoked.disconnected === 0 && revoked.kept_until > revoked.before);

// Operation

expect("running", (await good(fanfare.GET("/healthz"))).status === "ok");
expect("alive", (await good(fanfare.GET("/livez"))).status === "ok");
expect("ready", (await good(fanfare.GET("/readyz", { params: { query: { scope: "node" } } }))).ready);
expect("described", "openapi" in (await good(fanfare.GET("/v1/openapi.json"))));

// The types refuse what the server refuses.

// @ts-expect-error: an event has a name
await refused("missing_field", fanfare.POST("/v1/emit", { body: { data: 1 } }));
// @ts-expect-error: null is not "no filter"
await refused("bad_field", fanfare.POST("/v1/emit", { body: { event: "e", filter: null } }));
// @ts-expect-error: a misspelt field
const misspelt: Emit = { event: "e", filtre: "true" };
await refused("unknown_field", fanfare.POST("/v1/emit", { body: misspelt }));
// @ts-expect-error: whom?
const detail = await refused("missing_field", fanfare.POST("/v1/publish", { body: { event: "e" } }));
expect(detail, detail === '"user" or "users" is required');
// @ts-expect-error: a user's id is a text
await refused("bad_field", fanfare.POST("/v1/publish", { body: { user: 5, event: "e" } }));
// @ts-expect-error: there is no such call
await good(fanfare.POST("/v1/batch", { body: { items: [{ call: "shout", event: "e" }] } }));
// @ts-expect-error: whom?
await refused("missing_field", fanfare.POST("/v1/join", { body: { channel: "room-1" } }));
// @ts-expect-error: a misspelt right
const can: Rights = { brodcast: true };
await refused("bad_token_request", fanfare.POST("/v1/tokens", { body: { user: "ann", can } }));
// @ts-expect-error: seconds are a number
await refused("bad_field", fanfare.POST("/v1/tokens", { body: { user: "ann", ttl: "1h" } }));

console.log("every call was made");
