// What the tests share. Agnost's client is not on npm: here are its frames, as socket.io-client sends them for it.
import { io } from "socket.io-client";
import WebSocket from "ws";
import { closeAll, keyed, open, tokenOf } from "../keyed.mjs";
import { apiKey, native, start, until, within } from "../server.mjs";

export { closeAll, tokenOf };

const READER = `[[apps.default.keys]]
name = "reader"
key = "${apiKey}-that-only-inspects"
scopes = ["inspect"]
`;

export const config = (before) => keyed("agnost", { before, tables: READER });

export const serve = (before) => start({ config: config(before) });

export async function nativeClient(server) {
  const client = await native(WebSocket, server, "key=pk_everyone");
  open.add(client);
  return client;
}

const TRANSPORTS = ["websocket", "polling"];

/** A socket as the client opens it. */
export function socket(server, { apiKey = "pk_everyone", session, echoMessages = true, ...more } = {}) {
  const made = io(server.url, {
    reconnection: true,
    reconnectionDelay: 50,
    timeout: 20000,
    transports: TRANSPORTS,
    auth: { echoMessages, envId: "env-1", apiKey, session },
    path: "/realtime/realtime/",
    ...more,
  });
  open.add(made);
  return made;
}

/** A socket as the server library opens it. */
export const serverSocket = (server, accessToken = apiKey) =>
  socket(server, { forceNew: true, auth: { accessToken }, path: "/realtime/" });

/** Waits until `socket` is connected, and notes what it gets. */
export async function connected(socket) {
  const heard = [];
  socket.onAny((name, ...rest) => heard.push([name, ...rest]));
  const opened = new Promise((resolve, reject) => {
    socket.on("connect", resolve);
    socket.on("connect_error", reject);
  });
  if (!socket.connected) await within("a client of Agnost to connect", opened);
  return Object.assign(socket, {
    heard,
    /** Waits for the next event of this name, and returns its arguments. */
    all: (name) =>
      until(`${name} comes`, () => {
        const at = heard.findIndex(([known]) => known === name);
        return at < 0 ? undefined : heard.splice(at, 1)[0].slice(1);
      }),
    next: async (name) => (await socket.all(name))[0],
  });
}

/** Waits until everything before this moment has come to `socket`. */
export async function settled(server, socket) {
  const mark = `mark-${Math.random()}`;
  await server.post("/v1/emit", { event: mark, filter: `connection.id == "${socket.id}"` }, apiKey);
  await socket.next(mark);
}

/** The client's only call over HTTP. */
export async function getMembers(server, channel, { apiKey = "pk_everyone", session } = {}) {
  const response = await fetch(`${server.url}/env-1/agnost/realtime/get-members`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "x-client": "agnost-js",
      authorization: apiKey,
      ...(session && { session }),
    },
    body: JSON.stringify({ channel }),
  });
  return { status: response.status, body: await response.json() };
}
