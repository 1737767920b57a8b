// What the tests share.
import { connect as dial, createServer } from "node:net";
import { WebSocket as Ws } from "ws";
import { createClient } from "../dist/index.js";
import { FaultServer } from "./fault-server.mjs";

/** The WebSocket of this runtime, or that of a package where there is none (Node 20). */
export const WebSocket = globalThis.WebSocket ?? Ws;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A fault server that is stopped after the test. */
export async function serve(t, settings) {
  const server = await FaultServer.start(settings);
  t.after(() => server.stop());
  return server;
}

/** A client that connects to `server`, with what happened to it in `states` and `errors`. */
export function clientOf(t, server, options = {}) {
  const client = createClient(server.url, { WebSocket, ...options });
  const states = [];
  const errors = [];
  client.onState((state) => states.push(state));
  client.onError((error) => errors.push(error));
  t.after(() => client.close());
  return { client, states, errors };
}

/** Waits until `is` returns true. */
export async function until(is, what = `${is}`, patience = 20_000) {
  for (let waited = 0; !(await is()); waited += 5) {
    if (waited > patience) throw new Error(`waited too long for: ${what}`);
    await sleep(5);
  }
}

/** The next state of this status. */
export function stateOf(client, status) {
  return new Promise((resolve) => {
    if (client.state.status === status) return resolve(client.state);
    const stop = client.onState((state) => {
      if (state.status !== status) return;
      stop();
      resolve(state);
    });
  });
}

/** Waits until a program has printed what `pattern` matches, and returns the match. */
export function printed(child, pattern) {
  return new Promise((resolve, reject) => {
    let text = "";
    child.stdout.on("data", (chunk) => {
      text += chunk;
      const found = pattern.exec(text);
      if (found) resolve(found);
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the program ended with ${code}: ${text}`)));
  });
}

/** A line to the server that a test can cut. `port` says where the next connection goes. */
export async function line(port) {
  const pairs = new Set();
  const proxy = createServer((near) => {
    const far = dial(port(), "127.0.0.1");
    const pair = { near, far };
    pairs.add(pair);
    near.pipe(far);
    far.pipe(near);
    for (const socket of [near, far]) {
      socket.on("error", () => {});
      socket.on("close", () => {
        pairs.delete(pair);
        near.destroy();
        far.destroy();
      });
    }
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));

  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    /** Ends what there is, without a close frame. */
    reset() {
      for (const { near, far } of pairs) {
        near.resetAndDestroy();
        far.resetAndDestroy();
      }
    },
    /** Lets nothing through any more, and ends nothing either. */
    silence() {
      for (const { near, far } of pairs) {
        near.unpipe(far);
        far.unpipe(near);
        near.pause();
        far.pause();
      }
    },
    stop() {
      this.reset();
      proxy.close();
    },
  };
}
