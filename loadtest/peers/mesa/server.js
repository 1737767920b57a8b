// A Mesa server for the load tests.
//
// Connections authenticate by a token whose `sub` is their user; nobody checks it. POST /emit sends its body, JSON, as
// the message `load` to every connection; POST /emit?user=NAME to those of that user. Listens on 127.0.0.1 and the port
// that is its first argument. With the address of a Redis and a namespace as further ones, messages are stored for those who are
// away.
"use strict";

const { createServer } = require("node:http");
const { default: Server, Message } = require("@cryb/mesa");

const web = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const user = new URL(request.url, "http://localhost").searchParams.get("user");
    const message = new Message(0, JSON.parse(Buffer.concat(parts)), "load");
    mesa.send(message, user === null ? undefined : [user]);
    response.writeHead(200, { "Content-Length": 2 }).end("{}");
  });
});
// Callers wait for slow events, longer than a kept connection may idle by default.
web.keepAliveTimeout = 0;

// Its own handler of SIGTERM gives Node an exit code that Node refuses.
const [port, redis, namespace] = process.argv.slice(2);
const sync = redis && { redis, namespace, sync: { enabled: true } };
const mesa = new Server({ server: web, path: "/mesa", gracefullyExit: false, ...sync });
mesa.on("connection", (client) => {
  client.authenticate(({ token }, done) => {
    const id = JSON.parse(Buffer.from(token.split(".")[1], "base64url")).sub;
    done(null, { id, user: { id } });
  });
});

web.listen(Number(port), "127.0.0.1");
