// An app with keys, for the clients of Altogic and Agnost: two client keys, of which one is for users with a session.
import { apiKey, tokenSecret } from "./server.mjs";

export const everything = '{ join = ["*"], send = ["*"], members = ["*"], broadcast = true, update = true }';

/** The configuration of one that serves `protocol`: `before` stands before its table, and `tables` are further ones of it. */
export const keyed = (protocol, { before = "", tables = "" } = {}) => `
${before}
[apps.default]
default_can = ${everything}

[[apps.default.keys]]
name = "test"
key = "${apiKey}"

[[apps.default.tokens]]
alg = "HS256"
secret = "${tokenSecret}"

[[apps.default.client_keys]]
name = "everyone"
key = "pk_everyone"
client_auth = "optional"

[[apps.default.client_keys]]
name = "members"
key = "pk_members"
client_auth = "required"

${tables}
[apps.default.protocols.${protocol}]
`;

/** A token of Fanfare's, which is a session's. */
export async function tokenOf(server, user, more = {}) {
  return (await server.post("/v1/tokens", { user, ...more }, apiKey)).token;
}

/** What a test has opened. */
export const open = new Set();

/** Closes all that a test has left. */
export function closeAll() {
  for (const client of open) client.close();
  open.clear();
}
