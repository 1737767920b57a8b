// A server that speaks fanfare.v1 and misbehaves as a test asks. Everything that it does by itself can be replaced.
import { createServer } from "node:http";
import { once } from "node:events";
import { WebSocketServer } from "ws";

/** One connection of a client, as the server sees it. */
export class Connection {
  /** The messages that arrived, parsed. A binary one has its bytes as `data`. */
  messages = [];
  #waiting = [];

  constructor(server, socket, raw, query) {
    this.server = server;
    this.socket = socket;
    this.raw = raw;
    this.query = query;
    this.id = `c${server.connections.length + 1}`;
    this.ended = new Promise((resolve) =>
      socket.once("close", (code, reason) => resolve({ code, reason: `${reason}` })),
    );
  }

  send(frame) {
    this.socket.send(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  welcome(more = {}) {
    const user = this.query.token ?? null;
    this.send({ op: "welcome", connection: this.id, user, heartbeat: 25, reconnect: this.server.reconnect, ...more });
  }

  ack(message, more = {}) {
    if (message.id !== undefined) this.send({ op: "ack", id: message.id, ...more });
  }

  refuse(message, code, text = code) {
    this.send({ op: "error", id: message.id, code, message: text });
  }

  /** Ends the connection without a close frame. */
  reset() {
    this.raw.resetAndDestroy();
  }

  close(code, reason = "") {
    this.socket.close(code, reason);
  }

  /** Neither reads nor writes any more, and does not end either. */
  stall() {
    this.raw.pause();
    this.socket.send = () => {};
  }

  /** The next message that `is` accepts, among those that arrived already as well. */
  async next(is) {
    const accept = typeof is === "string" ? (message) => message.op === is : is;
    for (;;) {
      const found = this.messages.find((message) => !message.taken && accept(message));
      if (found) {
        found.taken = true;
        return found;
      }
      await new Promise((resolve) => this.#waiting.push(resolve));
    }
  }

  take(data, isBinary) {
    let message;
    if (isBinary) {
      const start = 3 + data.readUInt16BE(1);
      message = { ...JSON.parse(data.subarray(3, start)), data: new Uint8Array(data.subarray(start)) };
    } else message = JSON.parse(data);

    this.messages.push(message);
    for (const resolve of this.#waiting.splice(0)) resolve();
    if (!this.server.onMessage(this, message)) this.#answer(message);
  }

  #answer(message) {
    if (message.op === "ping") this.send({ op: "pong" });
    else if (message.op === "auth") this.ack(message, { user: message.token });
    else if (message.op === "join") this.ack(message, message.members ? { members: [], count: 0, users: 0 } : {});
    else this.ack(message);
  }
}

/** A server on a free port of loopback. */
export class FaultServer {
  connections = [];
  /** How many handshakes came, refused ones included. */
  handshakes = 0;
  /** Advice in the welcome: quick, so that tests are. */
  reconnect = { min_ms: 10, max_ms: 80, resume_ms: 5000 };
  /** Returns an HTTP status to refuse a handshake with. */
  onHandshake = () => undefined;
  /** Called for each connection. The default welcomes it. */
  onOpen = (connection) => connection.welcome();
  /** Returns whether it dealt with the message. */
  onMessage = () => false;
  #waiting = [];

  static async start(settings = {}) {
    const server = Object.assign(new FaultServer(), settings);
    const http = createServer();
    const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "fanfare.v1" });
    server.http = http;

    http.on("upgrade", (request, raw, head) => {
      server.handshakes += 1;
      const status = server.onHandshake(request);
      if (status) return raw.end(`HTTP/1.1 ${status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);

      sockets.handleUpgrade(request, raw, head, (socket) => {
        const query = Object.fromEntries(new URL(request.url, "http://any").searchParams);
        const connection = new Connection(server, socket, raw, query);
        raw.on("error", () => {});
        socket.on("error", () => {});
        socket.on("message", (data, isBinary) => connection.take(data, isBinary));
        server.connections.push(connection);
        server.onOpen(connection);
        for (const resolve of server.#waiting.splice(0)) resolve();
      });
    });

    http.listen(0, "127.0.0.1");
    await once(http, "listening");
    server.url = `http://127.0.0.1:${http.address().port}`;
    return server;
  }

  /** The connection of this number, counted from 1. */
  async connection(number) {
    while (this.connections.length < number) await new Promise((resolve) => this.#waiting.push(resolve));
    return this.connections[number - 1];
  }

  async stop() {
    for (const { raw } of this.connections) raw.destroy();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }
}
