// The load tests' plain dialect, on ws.
//
// GET /ws?user=NAME upgrades. POST /emit sends its body, as one text frame, to every connection; POST /emit?user=NAME
// to the newest of that name. Listens on 127.0.0.1 and the port that is its one argument.
"use strict";

const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");

const users = new Map();

function nameIn(url) {
  return new URL(url, "http://localhost").searchParams.get("user");
}

function emit(user, event) {
  if (user === null) {
    for (const socket of sockets.clients) socket.send(event, { binary: false });
  } else {
    users.get(user)?.send(event, { binary: false });
  }
}

const web = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    emit(nameIn(request.url), Buffer.concat(parts));
    response.writeHead(200, { "Content-Length": 2 }).end("{}");
  });
});
// Callers wait for slow events, longer than a kept connection may idle by default.
web.keepAliveTimeout = 0;

const sockets = new WebSocketServer({ server: web, path: "/ws", perMessageDeflate: false });
sockets.on("connection", (socket, request) => {
  const user = nameIn(request.url);
  users.set(user, socket);
  socket.on("close", () => {
    if (users.get(user) === socket) users.delete(user);
  });
  // A connection that breaks is closed next; without a listener it would end the process.
  socket.on("error", () => {});
});

web.listen(Number(process.argv[2]), "127.0.0.1");
