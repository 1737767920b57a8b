// What the tests share: a server for clients of Altogic, those clients, and waiting for what they get.
import { once } from "node:events";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import WebSocket from "ws";
import { closeAll, everything, keyed, open, tokenOf } from "../keyed.mjs";
import { apiKey, native, start, until, within } from "../server.mjs";

const { createClient } = createRequire(import.meta.url)("altogic");

export { closeAll, everything, tokenOf };

const READERS = `[[apps.default.client_keys]]
name = "readers"
key = "pk_readers"
client_auth = "optional"
can = { join = ["*"] }
`;

/** An app that has a third client key, for those who only join. */
export const config = (before) => keyed("altogic", { before, tables: READERS });

export const serve = (before) => start({ config: config(before) });

/** A native client in the same app. */
export async function nativeClient(server, query = "key=pk_everyone") {
  const client = await native(WebSocket, server, query);
  open.add(client);
  return client;
}

/** A way to the server that breaks when it is cut, as a network does. */
export async function proxy(server) {
  const sockets = new Set();
  const way = createServer((socket) => {
    const far = connect(server.port, "127.0.0.1");
    for (const end of [socket, far]) {
      sockets.add(end);
      end.on("error", () => {});
      end.on("close", () => {
        sockets.delete(end);
        (end === far ? socket : far).destroy();
      });
    }
    socket.pipe(far).pipe(socket);
  });
  way.listen(0, "127.0.0.1");
  await once(way, "listening");
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  open.add({
    close() {
      way.close();
      cut();
    },
  });
  return { port: way.address().port, cut };
}

/** The unmodified client, with a session if there is a token. It connects with the first use of `realtime`. */
export function altogic(server, { key = "pk_everyone", session, port = server.port, envUrl, ...realtime } = {}) {
  const stored = session && JSON.stringify({ token: session, userId: "u" });
  const client = createClient(envUrl ?? `http://engine.app.localhost:${port}/e:env1`, key, {
    localStorage: {
      getItem: (name) => (name === "session" ? stored : null),
      setItem() {},
      removeItem() {},
    },
    realtime: { reconnectionDelay: 50, ...realtime },
  });
  open.add({
    close() {
      // The client closes only what is connected already.
      client.realtime.onConnect(() => client.realtime.close());
      client.realtime.close();
    },
  });
  return client;
}

/** The same, connected. Everything that it gets is noted in `heard`. */
export async function connected(server, options) {
  const client = altogic(server, options);
  const { realtime } = client;
  const heard = [];
  realtime.onAny((name, payload) => heard.push([name, payload]));
  const opened = new Promise((resolve, reject) => {
    realtime.onConnect(resolve);
    realtime.onError(reject);
  });
  if (!realtime.isConnected()) await within("a client of Altogic to connect", opened);
  Object.defineProperty(client, "id", { get: () => realtime.getSocketId() });
  return Object.assign(client, {
    heard,
    /** Waits for the next event of this name, and takes it out of what was heard. */
    next: (name) =>
      until(`${name} comes`, () => {
        const at = heard.findIndex(([known]) => known === name);
        return at < 0 ? undefined : heard.splice(at, 1)[0][1];
      }),
    /** Waits until everything before this moment has come: an event to oneself comes after it. */
    async settled() {
      const mark = `mark-${Math.random()}`;
      await server.post("/v1/emit", { event: mark, filter: `connection.id == "${realtime.getSocketId()}"` }, apiKey);
      await this.next(mark);
    },
  });
}
