// The table in this Node, against the real server.
import { after, test } from "node:test";
import { key, secret, startServer } from "./real-server.mjs";
import { WebSocket } from "./support.mjs";
import { table } from "./table.mjs";

const server = await startServer();
after(() => server.stop());

for (const { name, run } of table({ url: server.url, key, secret, WebSocket })) test(name, { timeout: 20_000 }, run);
