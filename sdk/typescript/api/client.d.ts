import type { AnyEvents, Client, ClientOptions } from "./types.js";
/** Connects to a server. The same as `createClient` and `connect`. */
export declare function connect<E extends object = AnyEvents>(url: string, options?: ClientOptions<E>): Client<E>;
/**
 * Makes a client of the server at `url`, such as `wss://events.example.com`. It connects when `connect` is called.
 *
 * ```text
 *         connect()              welcome
 *  idle ────────────► connecting ────────► connected
 *                      ▲   │ ▲               │
 *         connect()    │   │ └── delay,      │ the connection ends
 *  closed ─────────────┘   │     wake        ▼
 *    ▲                     └───────────► waiting
 *    └── close(), refused, signed out, unusable: from every state
 * ```
 */
export declare function createClient<E extends object = AnyEvents>(url: string, options?: ClientOptions<E>): Client<E>;
