// A Socket.IO server for the load tests.
//
// Connections name their user in ?user=NAME. POST /emit sends its body, JSON, as the event `load` to every connection;
// POST /emit?user=NAME to those of that name. Listens on 127.0.0.1 and the port that is its one argument.
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");

const web = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const user = new URL(request.url, "http://localhost").searchParams.get("user");
    const recipients = user === null ? io : io.to(user);
    recipients.emit("load", JSON.parse(Buffer.concat(parts)));
    response.writeHead(200, { "Content-Length": 2 }).end("{}");
  });
});
// Callers wait for slow events, longer than a kept connection may idle by default.
web.keepAliveTimeout = 0;

const io = new Server(web, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });
io.on("connection", (socket) => socket.join(socket.handshake.query.user));

web.listen(Number(process.argv[2]), "127.0.0.1");
